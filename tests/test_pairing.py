"""Pairing: true gaps, rules, grouping, frames, messages, the table. Acquisitions are faked."""

from datetime import UTC, datetime, timedelta

import geopandas
import numpy as np
import pystac
import pytest
import shapely
import xarray as xr

from satfuse import pairing
from satfuse.catalog.fields import Field
from satfuse.catalog.specs import local_catalog
from satfuse.errors import ConfigError, NoPairError, ReadError
from satfuse.geometry.grids import coarse_geobox, lonlat_bbox, snap_geobox
from satfuse.geometry.swath import ANGLES
from satfuse.pair_table import Angles
from satfuse.pairing import (
    Acquisition,
    PairRules,
    candidates,
    find_pairs,
    read_coarse_acquisition,
    read_pairs,
    table,
    write_pairs,
)
from satfuse.sensors.quality import Quality

NOON = datetime(2024, 6, 1, 10, 42, 10, 250_000, tzinfo=UTC)
FIELD = Field(
    name="plain",
    title="a plain",
    geobox=snap_geobox("EPSG:32635", 400_000, 6_450_000, 406_000, 6_453_000),
)
BBOX = lonlat_bbox(FIELD.geobox)


def item(name, time, platform, **properties):
    start = {}
    if "3" in platform:
        start = {"start_datetime": time, "end_datetime": time + timedelta(seconds=180)}
    return pystac.Item(
        name,
        geometry=shapely.geometry.mapping(shapely.box(*BBOX)),
        bbox=list(BBOX),
        datetime=time,
        properties={"platform": platform, **properties},
        **start,
    )


def guide_item(name="g", minutes=0.0, datatake_lead_s=600.0, tile="T35VMF", **properties):
    """An item whose time is the datatake start, `datatake_lead_s` before the tile was observed."""
    time = NOON + timedelta(minutes=minutes) - timedelta(seconds=datatake_lead_s)
    return item(f"{name}_{tile}", time, "sentinel-2a", **properties)


def coarse_item(name="c", minutes=0.0, platform="sentinel-3b", orbit=7, frame_lead_s=90.0):
    time = NOON + timedelta(minutes=minutes) - timedelta(seconds=frame_lead_s)
    return item(name, time, platform, **{"sat:absolute_orbit": orbit})


def acquired(time, cloud=0.0, missing=0.0, platform="S2A", clock="MTD_TL SENSING_TIME", view=5.0):
    shape = (FIELD.geobox.shape[0] // 30, FIELD.geobox.shape[1] // 30)
    missing_share = np.zeros(shape)
    missing_share.ravel()[: round(missing * missing_share.size)] = 1
    cloud_share = np.zeros(shape)
    cloud_share.ravel()[::-1][: round(cloud * cloud_share.size)] = 1
    angles = Angles(
        sun_zenith_deg=35.5, sun_azimuth_deg=160.0, view_zenith_deg=view, view_azimuth_deg=100.0
    )
    return Acquisition(
        platform=platform,
        time=time,
        clock=clock,
        approximate="item" in clock,
        cloud=cloud_share,
        missing=missing_share,
        angles=angles,
        maximum_view_zenith_deg=view,
    )


@pytest.fixture
def archive(monkeypatch):
    """Map item id to Acquisition, or to an error to raise; "opened" lists the items read."""
    acquisitions = {"opened": []}

    def read(items, _field, _spec):
        acquisitions["opened"].append([i.id for i in items])
        acquisition = acquisitions[items[0].id]
        if isinstance(acquisition, Exception):
            raise acquisition
        return acquisition

    monkeypatch.setattr(pairing, "read_guide_acquisition", read)
    monkeypatch.setattr(pairing, "read_coarse_acquisition", read)
    return acquisitions


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    spec = local_catalog("http://127.0.0.1:1/", tmp_path_factory.mktemp("root"))
    return {"guide_spec": spec, "coarse_spec": spec}


def test_gap_is_signed_at_the_field_and_both_clocks_are_kept(archive, specs):
    guide = guide_item(datatake_lead_s=420)
    coarse = coarse_item(minutes=-4, frame_lead_s=100)
    archive[guide.id] = acquired(NOON)
    archive["c"] = acquired(NOON - timedelta(minutes=4), platform="S3B", clock="time.nc rows")
    (pair,) = find_pairs([guide], [coarse], FIELD, **specs)
    assert pair.gap_s == -240
    assert pair.item_gap_s == pytest.approx(-240 - 100 + 420)
    assert pair.gap_clock == "MTD_TL SENSING_TIME, time.nc rows"
    assert pair.item_gap_clock == "item datatake start, item frame start"
    assert not pair.approximate
    assert pair.id == "plain_20240601T104210_S2A_20240601T103810_S3B"


def test_a_pair_by_item_times_that_are_wrong_is_refused(archive, specs):
    """The datatake starts 13 minutes before the tile: 3 minutes by items are 16 in truth."""
    guide = guide_item(datatake_lead_s=780)
    coarse = coarse_item(minutes=-16, frame_lead_s=0)
    archive[guide.id] = acquired(NOON)
    archive["c"] = acquired(NOON - timedelta(minutes=16), platform="S3B")
    with pytest.raises(NoPairError, match=r"gap -960 s is beyond 300 s"):
        find_pairs([guide], [coarse], FIELD, **specs)


@pytest.mark.parametrize(
    ("guide", "coarse", "rules", "words"),
    [
        ({}, {"cloud": 0.3}, {}, r"coarse cloud 30.0% is above 5.0%"),
        ({"cloud": 0.5}, {}, {}, r"guide cloud 50.0% is above 5.0%"),
        ({"missing": 0.25}, {}, {}, r"overlap 75.2% is below 95.0%"),
        (
            {},
            {"view": 55.0},
            {"maximum_view_zenith_deg": 45},
            r"view zenith 55 is above 45 degrees",
        ),
        ({}, {}, {"maximum_gap_s": 30}, r"gap \+60 s is beyond 30 s"),
    ],
)
def test_each_rule_is_applied_and_named(archive, specs, guide, coarse, rules, words):
    g = guide_item()
    c = coarse_item(minutes=1)
    archive[g.id] = acquired(NOON, **guide)
    archive["c"] = acquired(NOON + timedelta(minutes=1), platform="S3B", **coarse)
    with pytest.raises(NoPairError, match=words) as caught:
        find_pairs([g], [c], FIELD, rules=PairRules.from_dict(rules), **specs)
    assert g.id in str(caught.value)
    assert "gap +60 s" in str(caught.value)
    loose = PairRules(maximum_gap_s=60, maximum_cloud=1, minimum_overlap=0)
    assert len(find_pairs([g], [c], FIELD, rules=loose, **specs)) == 1


def test_cloud_is_a_share_of_the_covered_field(archive, specs):
    g = guide_item()
    c = coarse_item()
    archive[g.id] = acquired(NOON, cloud=0.2, missing=0.5)
    archive["c"] = acquired(NOON, platform="S3B")
    (candidate,) = candidates([g], [c], FIELD, **specs)
    assert candidate.pair.guide_cloud == pytest.approx(0.4)
    assert candidate.pair.overlap == pytest.approx(0.5)


def test_only_items_that_could_satisfy_the_gap_rule_are_opened(archive, specs):
    """Of 40 days with a guide and a coarse acquisition each, one day is opened."""
    guides = [guide_item(f"g{d}", minutes=1440 * d) for d in range(40)]
    coarse = [
        coarse_item(f"c{d}", minutes=1440 * d + (1 if d == 17 else 60), orbit=d) for d in range(40)
    ]
    archive[guides[17].id] = acquired(NOON + timedelta(days=17))
    archive["c17"] = acquired(NOON + timedelta(days=17), platform="S3B")
    examined = candidates(guides, coarse, FIELD, **specs)
    assert archive["opened"] == [[guides[17].id], ["c17"]]
    assert len(examined) == 1600
    assert not examined[0].failed
    assert "by item times" in examined[1].failed[0]
    assert [abs(c.gap_s) for c in examined] == sorted(abs(c.gap_s) for c in examined)


def test_tiles_of_a_datatake_and_frames_of_an_orbit_are_one_acquisition(archive, specs):
    guides = [
        guide_item(tile=t, **{"eopf:datatake_id": "GS2A_1"}) for t in ("T35VMF", "T35VMG")
    ] + [guide_item("other", minutes=1, tile="T35VMF", **{"eopf:datatake_id": "GS2A_2"})]
    coarse = [coarse_item(n, minutes=m) for n, m in (("c1", -2), ("c2", 1), ("late", 99))]
    for i in (guides[0], guides[2]):
        archive[i.id] = acquired(NOON, cloud=0.0 if i is guides[0] else 1.0)
    archive["c1"] = acquired(NOON, platform="S3B")
    (pair,) = find_pairs(guides, coarse, FIELD, **specs)
    assert [i["id"] for i in pair.guide] == ["g_T35VMF", "g_T35VMG"]
    assert [i["id"] for i in pair.coarse] == ["c1", "c2"]
    assert [i.id for i in pair.coarse_items] == ["c1", "c2"]
    assert pair.guide_spec == specs["guide_spec"]


def test_tiles_of_one_datatake_in_two_baselines_are_one_acquisition(archive, specs):
    """Ids of CDSE end with the baseline; one tile may be reprocessed before its neighbour."""
    takes = ("GS2A_20240601T103629_046699_N05.10", "GS2A_20240601T103629_046699_N05.11")
    guides = [
        guide_item(tile=f"T35VM{t}", **{"eopf:datatake_id": d})
        for t, d in zip("FG", takes, strict=True)
    ]
    coarse = coarse_item()
    archive[guides[0].id] = acquired(NOON)
    archive["c"] = acquired(NOON, platform="S3B")
    (pair,) = find_pairs(guides, [coarse], FIELD, **specs)
    assert len(pair.guide) == 2


def test_cloud_beyond_the_edge_of_the_swath_is_not_counted(monkeypatch, specs):
    """Flags may say cloud where one instrument has no data; these pixels count as missing."""
    grid = coarse_geobox(FIELD.geobox, 30)
    quality = np.zeros(grid.shape, "uint16")
    quality[:, :15] = Quality.COARSE_MISSING | Quality.COARSE_CLOUD
    quality[:, 18:] = Quality.COARSE_CLOUD
    plane = {"time": np.full(grid.shape, np.datetime64("2024-06-01T10:40:00")), "quality": quality}
    angles = dict.fromkeys(ANGLES, np.ones(grid.shape))
    variables = {name: (("y", "x"), values) for name, values in {**plane, **angles}.items()}
    swath = xr.Dataset(variables, attrs={"clock": "time.nc rows"})
    monkeypatch.setattr(pairing.sentinel3_syn, "open_syn", lambda *_, **__: swath)
    monkeypatch.setattr(pairing, "rectify", lambda swath, _: swath)
    acquisition = read_coarse_acquisition([coarse_item()], FIELD, specs["coarse_spec"])
    assert acquisition.cloud.sum() / (1 - acquisition.missing).sum() == 0.5


def test_an_approximate_time_is_reported_and_widens_the_gap_rule(archive, specs):
    guide = guide_item(datatake_lead_s=700)
    coarse = coarse_item()
    archive[guide.id] = acquired(guide.datetime, clock="item datatake start")
    archive["c"] = acquired(NOON, platform="S3B", clock="time.nc rows")
    (pair,) = find_pairs([guide], [coarse], FIELD, **specs)
    assert pair.approximate
    assert pair.gap_s == 700
    assert "approximate" in table([pair])[0]["gap_clock"]
    archive["c"] = acquired(NOON + timedelta(minutes=5), platform="S3B")
    with pytest.raises(NoPairError, match=r"beyond 960 s \(widened, approximate\)"):
        find_pairs([guide], [coarse], FIELD, rules=PairRules(maximum_gap_s=60), **specs)


def test_further_frames_are_the_nearest_that_pass(archive, specs):
    minutes = {"now": 2, "before": -101, "cloudy": 95, "after": 200, "later": 3000}
    coarse = [coarse_item(n, minutes=m, orbit=k) for k, (n, m) in enumerate(minutes.items())]
    g = guide_item()
    archive[g.id] = acquired(NOON)
    for name, m in minutes.items():
        cloud = 0.9 if name == "cloudy" else 0.0
        archive[name] = acquired(NOON + timedelta(minutes=m), platform="S3B", cloud=cloud)
    (alone,) = find_pairs([g], coarse, FIELD, **specs)
    assert alone.extra_coarse == ()
    (pair,) = find_pairs([g], coarse, FIELD, frames=3, **specs)
    assert [f.items[0]["id"] for f in pair.extra_coarse] == ["before", "after"]
    assert [f.gap_s for f in pair.extra_coarse] == [-6060, 12000]
    (more,) = find_pairs([g], coarse, FIELD, frames=9, **specs)
    assert len(more.extra_coarse) == 2  # fewer than requested: "later" is 50 hours away


def test_a_damaged_item_is_only_one_failed_candidate(archive, specs):
    coarse = [coarse_item("broken", orbit=1), coarse_item("good", minutes=1, orbit=2)]
    g = guide_item()
    archive[g.id] = acquired(NOON)
    archive["broken"] = ReadError("broken: asset flags truncated")
    archive["good"] = acquired(NOON, platform="S3B")
    assert [p.coarse[0]["id"] for p in find_pairs([g], coarse, FIELD, **specs)] == ["good"]
    with pytest.raises(NoPairError, match="flags truncated"):
        find_pairs([g], coarse[:1], FIELD, **specs)


def test_an_empty_search_has_no_pair(specs):
    with pytest.raises(NoPairError, match="0 guide and 0 coarse items"):
        find_pairs([], [], FIELD, **specs)


def test_field_sets_its_own_rules(archive, specs):
    field = Field(name="desert", title="", geobox=FIELD.geobox, rules={"maximum_gap_s": 4500})
    g = guide_item()
    c = coarse_item(minutes=-30)
    archive[g.id] = acquired(NOON)
    archive["c"] = acquired(NOON - timedelta(minutes=30), platform="S3B")
    assert find_pairs([g], [c], field, **specs)[0].gap_s == -1800
    with pytest.raises(NoPairError):
        find_pairs([g], [c], field, rules=PairRules(), **specs)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"max_gap": 3}, "pair rules: unknown key 'max_gap'; known: maximum_gap_s"),
        ({"maximum_cloud": 5}, "share from 0 to 1"),
        ({"maximum_gap_s": -1}, "at least 0"),
        ({"maximum_gap_s": float("nan")}, "at least 0"),
        ({"maximum_gap_s": "300"}, "must be a number"),
    ],
)
def test_rules_are_strict(rules, words):
    with pytest.raises(ConfigError, match=words):
        PairRules.from_dict(rules)


def test_pairs_are_recovered_from_the_table(archive, specs, tmp_path):
    g = guide_item()
    coarse = [
        coarse_item("a", minutes=1, orbit=1),
        coarse_item("b", minutes=-2, orbit=2, platform="sentinel-3a"),
    ]
    archive[g.id] = acquired(NOON, cloud=0.01)
    archive["a"] = acquired(NOON + timedelta(seconds=60.5), platform="S3B")
    archive["b"] = acquired(NOON, platform="S3A", view=17.25)
    pairs = find_pairs([g], coarse, FIELD, frames=2, **specs)
    assert len(pairs) == 2
    write_pairs(pairs, tmp_path / "sub" / "pairs.parquet")
    back = read_pairs(tmp_path / "sub" / "pairs.parquet")
    assert back == pairs
    assert back[0].geobox == FIELD.geobox
    assert back[0].guide_time == NOON
    assert table(back) == table(pairs)
    assert table(back)[1]["gap_s"] == 60.5

    frame = geopandas.read_parquet(tmp_path / "sub" / "pairs.parquet")
    assert np.allclose(frame.total_bounds, BBOX)
    assert frame.crs.to_epsg() == 4326
    columns = {"id", "gap_s", "item_gap_s", "guide_cloud", "coarse_angles.view_zenith_deg"}
    assert columns <= set(frame.columns)


def test_a_full_disk_keeps_the_older_table(tmp_path, monkeypatch):
    path = tmp_path / "pairs.parquet"
    write_pairs([], path)

    def full(_frame, to, **_options):
        to.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geopandas.GeoDataFrame.to_parquet", full)
    with pytest.raises(OSError, match="No space"):
        write_pairs([], path)
    assert read_pairs(path) == []
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_empty_table_is_read_and_other_files_are_refused(tmp_path):
    write_pairs([], tmp_path / "none.parquet")
    assert read_pairs(tmp_path / "none.parquet") == []
    with pytest.raises(ConfigError, match="no table of pairs"):
        read_pairs(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(ConfigError, match="is not a table of pairs"):
        read_pairs(tmp_path / "text.parquet")
