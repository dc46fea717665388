"""Angles at a field, from grids of a known formula, from simulated products and from real ones."""

import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from benchmarks.sample_data import catalogue, unpack
from satfuse.catalog.fields import Field
from satfuse.catalog.specs import local_catalog
from satfuse.errors import ReadError
from satfuse.geometry.grids import snap_geobox
from satfuse.pairing import read_guide_acquisition
from satfuse.readers.sentinel2 import metadata, open_sentinel2, safe_item
from satfuse.readers.sentinel2_angles import AngleGrids, field_nodes, mean_direction
from satfuse.readers.sentinel2_metadata import field_angles
from satfuse.readers.sentinel3_syn import open_syn, sen3_item
from satfuse.sensors.quality import Quality

NAMES = ("sun_zenith", "sun_azimuth", "view_zenith", "view_azimuth")
LEFT = 399_960
TOP = 1_800_000
CRS = "EPSG:32628"
EDGE_M = 80_000  # no detector looks further east


def truth(x, y):
    """Angles (4, ...) by place: asymmetric, and the sun's azimuth crosses north."""
    east = (x - LEFT) / 1e4
    south = (TOP - y) / 1e4
    return np.stack(
        [
            30 + 0.5 * east - 0.2 * south,
            (357 + east + 0.3 * south) % 360,
            8 - 0.6 * east,
            100 + 2 * south,
        ]
    )


def grid_xml(zenith, azimuth):
    def grid(name, values):
        rows = "".join(
            f"<VALUES>{' '.join(f'{v:.6g}' for v in row)}</VALUES>" for row in values
        ).replace("nan", "NaN")
        steps = '<COL_STEP unit="m">5000</COL_STEP><ROW_STEP unit="m">5000</ROW_STEP>'
        return f"<{name}>{steps}<Values_List>{rows}</Values_List></{name}>"

    return grid("Zenith", zenith) + grid("Azimuth", azimuth)


def tile_xml():
    """MTD_TL.xml of a tile of 110 km with two bands, 1 degree apart, and three detectors.

    The last two detectors overlap.
    """
    x, y = np.meshgrid(LEFT + 5000 * np.arange(23), TOP - 5000 * np.arange(23))
    sun_zenith, sun_azimuth, zenith, azimuth = truth(x, y)
    views = ""
    for band, more in ((0, 0.5), (12, -0.5)):
        for detector, (west, east) in enumerate(
            [(0, 30_000), (30_001, 60_000), (50_000, EDGE_M)], start=4
        ):
            covered = (x - LEFT >= west) & (x - LEFT <= east)
            grids = grid_xml(
                np.where(covered, zenith + more, np.nan), np.where(covered, azimuth, np.nan)
            )
            head = f'<Viewing_Incidence_Angles_Grids bandId="{band}" detectorId="{detector}">'
            views += f"{head}{grids}</Viewing_Incidence_Angles_Grids>"
    return (
        "<T><SENSING_TIME>2024-06-01T11:20:00Z</SENSING_TIME>"
        f"<HORIZONTAL_CS_CODE>{CRS}</HORIZONTAL_CS_CODE>"
        f'<Geoposition resolution="10"><ULX>{LEFT}</ULX><ULY>{TOP}</ULY></Geoposition>'
        f"<Tile_Angles><Sun_Angles_Grid>{grid_xml(sun_zenith, sun_azimuth)}</Sun_Angles_Grid>"
        f"{views}</Tile_Angles></T>"
    )


@pytest.fixture(scope="module")
def grids():
    return AngleGrids.from_xml(ET.fromstring(tile_xml()))


def largest_difference(angles, expected):
    """Largest difference of each angle in degrees, across north too."""
    return np.abs((angles - expected + 180) % 360 - 180).max(axis=(1, 2))


@pytest.mark.parametrize(
    "box",
    [
        (LEFT + 12_340, TOP - 43_210, LEFT + 36_340, TOP - 31_210),
        (LEFT, TOP - 6000, LEFT + 3000, TOP),
    ],
    ids=["inside", "corner"],
)
def test_a_known_grid_comes_back_at_the_field(grids, box):
    field = GeoBox.from_bbox(box, crs=CRS, resolution=10)
    x, y = field_nodes(field)
    assert (x[0], x[-1], y[0], y[-1]) == (box[0], box[2], box[3], box[1])
    assert max(np.abs(np.diff(x)).max(), np.abs(np.diff(y)).max()) <= 5000
    assert largest_difference(grids.at(field), truth(*np.meshgrid(x, y))).max() < 0.01


@pytest.mark.parametrize("crs", ["EPSG:32629", "EPSG:4326"])
def test_a_field_on_another_grid_than_the_tile(grids, crs):
    inside = GeoBox.from_bbox(
        (LEFT + 20_000, TOP - 70_000, LEFT + 60_000, TOP - 30_000), crs=CRS, resolution=100
    )
    field = inside.to_crs(crs)
    x, y = np.meshgrid(*field_nodes(field))
    assert min(x.shape) >= 9  # 40 km in steps of 5 km
    place = Transformer.from_crs(crs, CRS, always_xy=True).transform(x, y)
    assert largest_difference(grids.at(field), truth(*place)).max() < 0.01


def test_where_no_detector_looks_there_is_no_view_and_outside_the_tile_nothing(grids):
    field = GeoBox.from_bbox(
        (LEFT + 71_000, TOP - 5000, LEFT + 121_000, TOP), crs=CRS, resolution=10
    )
    x, _ = field_nodes(field)
    angles = grids.at(field)
    np.testing.assert_array_equal(
        np.isfinite(angles[2:]).all(axis=(0, 1)), x < LEFT + EDGE_M + 5000
    )
    np.testing.assert_array_equal(np.isfinite(angles[:2]).all(axis=(0, 1)), x <= LEFT + 110_000)
    last_seen = truth(np.full((2, 1), LEFT + EDGE_M), np.array([[TOP], [TOP - 5000]]))
    # the field's node between the last node with a view and the next
    assert largest_difference(angles[:, :, 2:3], last_seen)[2:].max() < 0.01


def test_mean_direction():
    # the more oblique direction has the larger horizontal component
    assert mean_direction([10, 20], [350, 10]) == pytest.approx((15, 3.295), abs=0.001)
    assert mean_direction([10, np.nan, 10], [350, 90, 30])[1] == pytest.approx(10)
    assert np.isnan(mean_direction([np.nan], [np.nan])).all()
    assert np.isnan(mean_direction([], [])).all()


def test_dataset_has_the_angles_of_a_simulated_product(tile, files_under):
    """Zenith angles decrease towards the sun (east-south-east) and the satellite."""
    inside = tile.geobox[60:300, 60:300]
    got = open_sentinel2(
        safe_item(tile.folder), inside, spec=files_under(tile.folder.parent), bands=("B02",)
    )
    assert got.attrs["angles"] == ["MTD_TL grids"]
    assert got.odc.geobox == inside
    middle = got[list(NAMES)].mean().compute()
    assert [float(middle[n]) for n in NAMES] == pytest.approx([20, 110, 5, 290], abs=0.1)
    assert got.sun_zenith[0, -1] < got.sun_zenith[0, 0] - 0.01
    assert got.view_zenith[0, 0] < got.view_zenith[0, -1] - 0.1
    at_pixels = got[list(NAMES)].interp(x_angle=got.x, y_angle=got.y)
    assert at_pixels.sun_zenith.shape == (240, 240)
    assert all(np.isfinite(at_pixels[n]).all() for n in NAMES)


def test_two_tiles_complete_each_other(tmp_path, make_tile, files_under):
    """The grids of a tile of 3.6 km reach 5 km: the field is on both, with different views."""
    first = make_tile(tmp_path, view_zenith_deg=3.0)
    second = make_tile(tmp_path, left=388800 + 4800, tile="31REP", view_zenith_deg=9.0)
    both = snap_geobox("EPSG:32631", 388800, 3466200, 388800 + 9600, 3469800)
    items = [safe_item(first.folder), safe_item(second.folder)]
    spec = files_under(tmp_path)
    alone = open_sentinel2(items[0], both, spec=spec, bands=()).view_zenith.values
    got = open_sentinel2(items, both, spec=spec, bands=()).view_zenith.values
    known = np.isfinite(alone)
    assert 0 < known.sum() < known.size
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(got[known], alone[known])
    assert (got[~known] > 8).all()


@pytest.mark.parametrize(
    ("properties", "source", "expected"),
    [
        (
            {"view:sun_elevation": 70.0, "view:sun_azimuth": 373.1},
            "item properties",
            [20, 13.1, np.nan, np.nan],
        ),
        ({}, "none", [np.nan] * 4),
    ],
)
@pytest.mark.parametrize("metadata_is", ["not listed", "damaged"])
def test_without_tile_metadata_angles_are_the_items(
    tmp_path, tile, files_under, properties, source, expected, metadata_is
):
    item = safe_item(tile.folder)
    spec = files_under(tmp_path.parent.parent)
    item.properties |= properties
    if metadata_is == "damaged":
        path = tmp_path / "cut.xml"
        path.write_bytes(Path(item.assets["granule_metadata"].href).read_bytes()[:700])
        item.assets["granule_metadata"].href = str(path)
        with pytest.raises(ReadError, match=f"{item.id}.*granule_metadata"):
            open_sentinel2(item, tile.geobox, spec=spec, bands=())
    else:
        del item.assets["granule_metadata"]
    got = open_sentinel2(item, tile.geobox, spec=spec, bands=("B02",), missing="flag").compute()
    assert got.attrs["angles"] == [source]
    for name, value in zip(NAMES, expected, strict=True):
        np.testing.assert_allclose(got[name].values, value, atol=1e-4)
    reads = {r.asset: r for r in got.attrs["ledger"]}
    assert np.isfinite(got.reflectance).any()
    assert got.valid.any()
    if metadata_is == "damaged":
        status = "replaced" if properties else "missing"
        assert reads["granule_metadata"].status == status
        assert item.id in reads["granule_metadata"].cause
        assert ((got.quality.values & Quality.ASSET_MISSING) > 0).all() == (status == "missing")
    else:
        assert "granule_metadata" not in reads


def test_the_guides_angles_of_a_pair_are_those_at_the_field(tmp_path, tile):
    """The angles are those of the formula at a field in the north-west, not the tile's mean."""
    item = safe_item(tile.folder)
    x = tile.geobox.boundingbox.left
    y = tile.geobox.boundingbox.top
    text = tile_xml().replace(CRS, "EPSG:32631").replace(f">{LEFT}<", f">{x - 20_000:.0f}<")
    (tmp_path / "MTD_TL.xml").write_text(text.replace(f">{TOP}<", f">{y + 50_000:.0f}<"))
    item.assets["granule_metadata"].href = str(tmp_path / "MTD_TL.xml")
    acquisition = read_guide_acquisition(
        [item],
        Field(name="f", title="f", geobox=tile.geobox),
        local_catalog("http://127.0.0.1:1", "/"),
    )
    expected = truth(LEFT + 20_000 + 1800, TOP - 50_000 - 1800)
    angles = [getattr(acquisition.angles, f"{n}_deg") for n in NAMES]
    assert angles == pytest.approx(expected, abs=0.1)
    assert acquisition.maximum_view_zenith_deg == pytest.approx(8 - 0.6 * 2, abs=0.01)


def almanac(time, longitude, latitude):
    """Zenith and azimuth of the sun in degrees, to 0.01.

    Source: the low-precision formulas of the Astronomical Almanac.
    """
    days = (time - datetime(2000, 1, 1, 12, tzinfo=UTC)).total_seconds() / 86400
    anomaly = np.radians(357.528 + 0.9856003 * days)
    ecliptic = np.radians(
        280.460 + 0.9856474 * days + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly)
    )
    tilt = np.radians(23.439 - 4e-7 * days)
    lat = np.radians(latitude)
    right_ascension = np.degrees(np.arctan2(np.cos(tilt) * np.sin(ecliptic), np.cos(ecliptic)))
    declination = np.arcsin(np.sin(tilt) * np.sin(ecliptic))
    hour = np.radians(280.46062 + 360.98564737 * days + longitude - right_ascension)
    north = np.cos(lat) * np.sin(declination) - np.sin(lat) * np.cos(declination) * np.cos(hour)
    east = -np.sin(hour) * np.cos(declination)
    up = np.sin(lat) * np.sin(declination) + np.cos(lat) * np.cos(declination) * np.cos(hour)
    return np.degrees(np.arccos(up)), np.degrees(np.arctan2(east, north)) % 360


@pytest.mark.samples
@pytest.mark.parametrize(
    ("sample", "crs", "left", "top", "view_azimuth"),
    [
        ("s2_safe_29UNU/*.zip", "EPSG:32629", 499980, 5900040, (270, 300)),
        ("s3_syn_senegal/S2A*20230911*.SAFE.zip", CRS, LEFT, TOP, (85, 120)),
    ],
    ids=["ireland", "senegal"],
)
def test_real_angles_at_a_field_are_the_suns_there(
    samples, tmp_path, sample, crs, left, top, view_azimuth
):
    item = safe_item(unpack(samples, sample, tmp_path))
    spec = catalogue(tmp_path)
    box = (left + 40_000, top - 100_000, left + 52_000, top - 88_000)
    field = GeoBox.from_bbox(box, crs=crs, resolution=10)
    angles, source, _ = field_angles(item, spec, field, holes=False)
    facts = metadata(item, spec)
    place = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(
        *np.meshgrid(*field_nodes(field))
    )
    zenith, azimuth = almanac(facts.sensing_time, *place)
    assert source == "MTD_TL grids"
    assert largest_difference(angles[:2], np.stack([zenith, azimuth])).max() < 0.1
    # the tile's mean would be wrong here
    assert 0.1 < abs(angles[0].mean() - facts.sun_zenith_deg) < 1
    assert (angles[2] > 4).all()
    assert (angles[2] < 12).all()
    assert (angles[3] > view_azimuth[0]).all()
    assert (angles[3] < view_azimuth[1]).all()


@pytest.mark.samples
def test_real_swath_angles_are_the_suns_at_the_pixel(samples, tmp_path):
    item = sen3_item(unpack(samples, "s3_syn_senegal/S3B*.zip", tmp_path))
    bbox = (-15.6, 13.0, -15.4, 13.2)
    cut = open_syn(
        item, spec=catalogue(tmp_path), bands=("Oa08",), missing="flag", bbox=bbox
    ).compute()
    time = cut.time.values[cut.sizes["row"] // 2].astype("M8[us]").item().replace(tzinfo=UTC)
    zenith, azimuth = almanac(time, cut.longitude.values, cut.latitude.values)
    assert (
        largest_difference(
            np.stack([cut.sun_zenith, cut.sun_azimuth]), np.stack([zenith, azimuth])
        ).max()
        < 0.1
    )
