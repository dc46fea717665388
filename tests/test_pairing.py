"""Pairing: true gaps, rules, grouping, frames, messages, the table. What lies on the field is played by a fake."""

from datetime import UTC, datetime, timedelta

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
from satfuse.pair_table import Angles
from satfuse.pairing import (
    Observation,
    PairRules,
    candidates,
    find_pairs,
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
    start = (
        {"start_datetime": time, "end_datetime": time + timedelta(seconds=180)}
        if "3" in platform
        else {}
    )
    return pystac.Item(
        name,
        geometry=shapely.geometry.mapping(shapely.box(*BBOX)),
        bbox=list(BBOX),
        datetime=time,
        properties={"platform": platform, **properties},
        **start,
    )


def guide_item(name="g", minutes=0.0, datatake_lead_s=600.0, tile="T35VMF", **properties):
    """An item whose own time is the datatake start, `datatake_lead_s` before the tile was seen."""
    time = NOON + timedelta(minutes=minutes) - timedelta(seconds=datatake_lead_s)
    return item(f"{name}_{tile}", time, "sentinel-2a", **properties)


def coarse_item(name="c", minutes=0.0, platform="sentinel-3b", orbit=7, frame_lead_s=90.0):
    time = NOON + timedelta(minutes=minutes) - timedelta(seconds=frame_lead_s)
    return item(name, time, platform, **{"sat:absolute_orbit": orbit})


def seen(time, cloud=0.0, missing=0.0, platform="S2A", clock="MTD_TL SENSING_TIME", view=5.0):
    shape = (FIELD.geobox.shape[0] // 30, FIELD.geobox.shape[1] // 30)
    share = np.zeros(shape).ravel()
    lost = share.copy()
    lost[: round(missing * lost.size)] = 1
    share[::-1][: round(cloud * share.size)] = 1
    angles = Angles(
        sun_zenith_deg=35.5, sun_azimuth_deg=160.0, view_zenith_deg=view, view_azimuth_deg=100.0
    )
    return Observation(
        platform=platform, time=time, clock=clock, approximate="item" in clock, cloud=share.reshape(shape),
        missing=lost.reshape(shape), angles=angles, maximum_view_zenith_deg=view,
    )  # fmt: skip


@pytest.fixture
def sky(monkeypatch):
    """item id -> Observation (or an error to raise); remembers what was opened."""
    facts, opened = {}, []

    def look(items, field, spec):
        opened.append([i.id for i in items])
        fact = facts[items[0].id]
        if isinstance(fact, Exception):
            raise fact
        return fact

    monkeypatch.setattr(pairing, "observe_guide", look)
    monkeypatch.setattr(pairing, "observe_coarse", look)
    facts["opened"] = opened
    return facts


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    spec = local_catalog("http://127.0.0.1:1/", tmp_path_factory.mktemp("root"))
    return {"guide_spec": spec, "coarse_spec": spec}


def test_gap_is_signed_at_the_field_and_both_clocks_are_kept(sky, specs):
    guide, coarse = guide_item(datatake_lead_s=420), coarse_item(minutes=-4, frame_lead_s=100)
    sky[guide.id] = seen(NOON)
    sky["c"] = seen(NOON - timedelta(minutes=4), platform="S3B", clock="time.nc rows")
    (pair,) = find_pairs([guide], [coarse], FIELD, **specs)
    assert pair.gap_s == -240 and pair.item_gap_s == pytest.approx(-240 - 100 + 420)
    assert pair.gap_clock == "MTD_TL SENSING_TIME, time.nc rows"
    assert pair.item_gap_clock == "item datatake start, item frame start"
    assert not pair.approximate
    assert pair.id == "plain_20240601T104210_S2A_20240601T103810_S3B"


def test_item_times_alone_would_find_a_pair_that_is_none(sky, specs):
    """Datatake start 13 minutes before the tile: items 3 minutes apart, in truth 16."""
    guide, coarse = guide_item(datatake_lead_s=780), coarse_item(minutes=-16, frame_lead_s=0)
    sky[guide.id], sky["c"] = seen(NOON), seen(NOON - timedelta(minutes=16), platform="S3B")
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
def test_each_rule_is_applied_and_named(sky, specs, guide, coarse, rules, words):
    g, c = guide_item(), coarse_item(minutes=1)
    sky[g.id], sky["c"] = (
        seen(NOON, **guide),
        seen(NOON + timedelta(minutes=1), platform="S3B", **coarse),
    )
    with pytest.raises(NoPairError, match=words) as caught:
        find_pairs([g], [c], FIELD, rules=PairRules.from_dict(rules), **specs)
    assert g.id in str(caught.value) and "gap +60 s" in str(caught.value)
    loose = PairRules(maximum_gap_s=60, maximum_cloud=1, minimum_overlap=0)
    assert len(find_pairs([g], [c], FIELD, rules=loose, **specs)) == 1


def test_cloud_is_the_share_of_what_is_covered(sky, specs):
    g, c = guide_item(), coarse_item()
    sky[g.id], sky["c"] = seen(NOON, cloud=0.2, missing=0.5), seen(NOON, platform="S3B")
    (candidate,) = candidates([g], [c], FIELD, **specs)
    assert candidate.pair.guide_cloud == pytest.approx(
        0.4
    ) and candidate.pair.overlap == pytest.approx(0.5)


def test_only_what_item_times_leave_possible_is_opened(sky, specs):
    """A year of items: one guide a day, two coarse orbits each; one day is opened."""
    guides = [guide_item(f"g{d}", minutes=1440 * d) for d in range(40)]
    coarse = [
        coarse_item(f"c{d}", minutes=1440 * d + (1 if d == 17 else 60), orbit=d) for d in range(40)
    ]
    sky[guides[17].id], sky["c17"] = (
        seen(NOON + timedelta(days=17)),
        seen(NOON + timedelta(days=17), platform="S3B"),
    )
    looked_at = candidates(guides, coarse, FIELD, **specs)
    assert sky["opened"] == [[guides[17].id], ["c17"]]
    assert len(looked_at) == 1600 and not looked_at[0].failed
    assert "by item times" in looked_at[1].failed[0]
    assert [abs(c.gap_s) for c in looked_at] == sorted(abs(c.gap_s) for c in looked_at)


def test_tiles_of_a_datatake_and_frames_of_an_orbit_are_one_acquisition(sky, specs):
    guides = [
        guide_item(tile=t, **{"eopf:datatake_id": "GS2A_1"}) for t in ("T35VMF", "T35VMG")
    ] + [guide_item("other", minutes=1, tile="T35VMF", **{"eopf:datatake_id": "GS2A_2"})]
    coarse = [
        coarse_item("c1", minutes=-2),
        coarse_item("c2", minutes=1),
        coarse_item("late", minutes=99),
    ]
    for i in (guides[0], guides[2]):
        sky[i.id] = seen(NOON, cloud=0.0 if i is guides[0] else 1.0)
    sky["c1"] = seen(NOON, platform="S3B")
    (pair,) = find_pairs(guides, coarse, FIELD, **specs)
    assert [i["id"] for i in pair.guide] == ["g_T35VMF", "g_T35VMG"] and [
        i["id"] for i in pair.coarse
    ] == ["c1", "c2"]
    assert [i.id for i in pair.coarse_items] == ["c1", "c2"] and pair.guide_spec == specs[
        "guide_spec"
    ]


def test_tiles_of_one_datatake_in_two_baselines_are_one_acquisition(sky, specs):
    """The ids of CDSE end with the baseline, and one tile may be reprocessed before its neighbour."""
    takes = ("GS2A_20240601T103629_046699_N05.10", "GS2A_20240601T103629_046699_N05.11")
    guides = [
        guide_item(tile=f"T35VM{t}", **{"eopf:datatake_id": d})
        for t, d in zip("FG", takes, strict=True)
    ]
    coarse = coarse_item()
    sky[guides[0].id], sky["c"] = seen(NOON), seen(NOON, platform="S3B")
    (pair,) = find_pairs(guides, [coarse], FIELD, **specs)
    assert len(pair.guide) == 2


def test_cloud_beyond_the_edge_of_the_swath_is_not_counted(monkeypatch, specs):
    """Flags may say cloud where one instrument saw nothing: that is missing, and cloud stays a share of the rest."""
    grid = coarse_geobox(FIELD.geobox, 30)
    quality = np.zeros(grid.shape, "uint16")
    quality[:, :15] = Quality.COARSE_MISSING | Quality.COARSE_CLOUD
    quality[:, 18:] = Quality.COARSE_CLOUD
    plane = {"time": np.full(grid.shape, np.datetime64("2024-06-01T10:40:00")), "quality": quality}
    angles = dict.fromkeys(
        ("sun_zenith", "sun_azimuth", "view_zenith", "view_azimuth"), np.ones(grid.shape)
    )
    swath = xr.Dataset(
        {k: (("y", "x"), v) for k, v in {**plane, **angles}.items()},
        attrs={"clock": "time.nc rows"},
    )
    monkeypatch.setattr(pairing.sentinel3_syn, "open_syn", lambda *_, **__: swath)
    monkeypatch.setattr(pairing, "rectify", lambda swath, _: swath)
    saw = pairing.observe_coarse([coarse_item()], FIELD, specs["coarse_spec"])
    assert saw.cloud.sum() / (1 - saw.missing).sum() == 0.5


def test_approximate_time_is_said_and_widened(sky, specs):
    guide, coarse = guide_item(datatake_lead_s=700), coarse_item()
    sky[guide.id] = seen(guide.datetime, clock="item datatake start")
    sky["c"] = seen(NOON, platform="S3B", clock="time.nc rows")
    (pair,) = find_pairs([guide], [coarse], FIELD, **specs)
    assert pair.approximate and pair.gap_s == 700
    assert "approximate" in table([pair])[0]["gap_clock"]
    sky[guide.id] = seen(guide.datetime, clock="item datatake start")
    with pytest.raises(NoPairError, match=r"beyond 960 s \(widened, approximate\)"):
        far = {"c": seen(NOON + timedelta(minutes=5), platform="S3B")}
        sky.update(far)
        find_pairs([guide], [coarse], FIELD, rules=PairRules(maximum_gap_s=60), **specs)


def test_further_frames_are_the_nearest_that_pass(sky, specs):
    minutes = {"now": 2, "before": -101, "cloudy": 95, "after": 200, "later": 3000}
    coarse = [coarse_item(n, minutes=m, orbit=k) for k, (n, m) in enumerate(minutes.items())]
    g = guide_item()
    sky[g.id] = seen(NOON)
    for name, m in minutes.items():
        sky[name] = seen(
            NOON + timedelta(minutes=m), platform="S3B", cloud=0.9 if name == "cloudy" else 0.0
        )
    (alone,) = find_pairs([g], coarse, FIELD, **specs)
    assert alone.extra_coarse == ()
    (pair,) = find_pairs([g], coarse, FIELD, frames=3, **specs)
    assert [f.items[0]["id"] for f in pair.extra_coarse] == ["before", "after"]
    assert [f.gap_s for f in pair.extra_coarse] == [-6060, 12000]
    (more,) = find_pairs(
        [g], coarse, FIELD, frames=9, **specs
    )  # fewer than asked for: 50 hours are too far
    assert len(more.extra_coarse) == 2


def test_a_damaged_item_is_one_failed_candidate_not_the_end(sky, specs):
    coarse = [coarse_item("broken", orbit=1), coarse_item("good", minutes=1, orbit=2)]
    g = guide_item()
    sky[g.id] = seen(NOON)
    sky["broken"], sky["good"] = (
        ReadError("broken: asset flags truncated"),
        seen(NOON, platform="S3B"),
    )
    assert [p.coarse[0]["id"] for p in find_pairs([g], coarse, FIELD, **specs)] == ["good"]
    with pytest.raises(NoPairError, match="flags truncated"):
        find_pairs([g], coarse[:1], FIELD, **specs)


def test_nothing_to_pair(specs):
    with pytest.raises(NoPairError, match="0 guide and 0 coarse items"):
        find_pairs([], [], FIELD, **specs)


def test_field_sets_its_own_rules(sky, specs):
    field = Field(name="desert", title="", geobox=FIELD.geobox, rules={"maximum_gap_s": 4500})
    g, c = guide_item(), coarse_item(minutes=-30)
    sky[g.id], sky["c"] = seen(NOON), seen(NOON - timedelta(minutes=30), platform="S3B")
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


def test_table_round_trip(sky, specs, tmp_path):
    g = guide_item()
    coarse = [
        coarse_item("a", minutes=1, orbit=1),
        coarse_item("b", minutes=-2, orbit=2, platform="sentinel-3a"),
    ]
    sky[g.id] = seen(NOON, cloud=0.01)
    sky["a"], sky["b"] = (
        seen(NOON + timedelta(seconds=60.5), platform="S3B"),
        seen(NOON, platform="S3A", view=17.25),
    )
    pairs = find_pairs([g], coarse, FIELD, frames=2, **specs)
    assert len(pairs) == 2
    write_pairs(pairs, tmp_path / "sub" / "pairs.parquet")
    back = read_pairs(tmp_path / "sub" / "pairs.parquet")
    assert back == pairs
    assert back[0].geobox == FIELD.geobox and back[0].guide_time == NOON
    assert table(back) == table(pairs) and table(back)[1]["gap_s"] == 60.5

    import geopandas

    frame = geopandas.read_parquet(tmp_path / "sub" / "pairs.parquet")
    assert np.allclose(frame.total_bounds, BBOX) and frame.crs.to_epsg() == 4326
    assert {
        "id",
        "gap_s",
        "item_gap_s",
        "guide_cloud",
        "overlap",
        "coarse_angles.view_zenith_deg",
    } <= set(frame.columns)


def test_a_full_disk_leaves_the_older_table(tmp_path, monkeypatch):
    path = tmp_path / "pairs.parquet"
    write_pairs([], path)

    def full(frame, to, index):
        to.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geopandas.GeoDataFrame.to_parquet", full)
    with pytest.raises(OSError, match="No space"):
        write_pairs([], path)
    assert read_pairs(path) == [] and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_empty_and_wrong_tables(tmp_path):
    write_pairs([], tmp_path / "none.parquet")
    assert read_pairs(tmp_path / "none.parquet") == []
    with pytest.raises(ConfigError, match="no table of pairs"):
        read_pairs(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(ConfigError, match="is not a table of pairs"):
        read_pairs(tmp_path / "text.parquet")
