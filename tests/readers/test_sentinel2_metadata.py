from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio

from satfuse.catalog.specs import load_catalog
from satfuse.errors import ConfigError, RadiometryError, ReadError
from satfuse.geometry.grids import lonlat_bbox, snap_geobox
from satfuse.readers.sentinel2 import metadata, open_sentinel2, safe_item

OVERRIDE = r"boa_offset="


def test_facts_come_from_the_product(tile, files_under):
    facts = metadata(safe_item(tile.folder), files_under(tile.folder.parent))
    assert facts.clock == "MTD_TL SENSING_TIME"
    assert facts.sensing_time == datetime(2024, 6, 1, 10, 51, 12, 345000, tzinfo=UTC)
    assert (facts.platform, facts.baseline, facts.quantification) == ("S2B", "05.11", 10000)
    assert facts.offsets["B8A"] == facts.offsets["B12"] == -1000
    assert facts.sun_zenith_deg == pytest.approx(20, abs=0.2)
    assert facts.sun_azimuth_deg == pytest.approx(110, abs=0.5)
    assert facts.view_zenith_deg == pytest.approx(5, abs=0.5)
    assert facts.view_azimuth_deg == pytest.approx(290, abs=5)


def test_item_of_a_safe_folder_has_the_shape_of_the_data_space(tile):
    item = safe_item(tile.folder)
    assert item.id == tile.folder.name.removesuffix(".SAFE")
    assert item.datetime == datetime(2024, 6, 1, 10, 40, 31, tzinfo=UTC)
    assert {
        "B02_10m",
        "B8A_20m",
        "B01_60m",
        "SCL_20m",
        "product_metadata",
        "granule_metadata",
    } <= set(item.assets)
    assert item.bbox == pytest.approx(lonlat_bbox(tile.geobox), abs=1e-3)


def test_without_tile_metadata_the_clock_says_so(tile, files_under):
    item = safe_item(tile.folder)
    spec = files_under(tile.folder.parent)
    del item.assets["granule_metadata"]
    item.properties |= {
        "view:sun_elevation": 70.0,
        "view:sun_azimuth": 373.1,
        "view:incidence_angle": 4.5,
    }
    facts = metadata(item, spec)
    assert facts.clock == "item datatake start"
    assert facts.sensing_time == item.datetime
    assert (facts.sun_zenith_deg, facts.view_zenith_deg) == (20.0, 4.5)
    assert facts.sun_azimuth_deg == pytest.approx(13.1)
    assert np.isnan(facts.view_azimuth_deg)
    sensing = replace(spec, datetime={**spec.datetime, "sentinel2": "sensing"})
    assert metadata(item, sensing).clock == "item sensing time"


@pytest.mark.parametrize("key", ["product_metadata", "granule_metadata"])
def test_damaged_metadata_is_named(tmp_path, tile, files_under, key):
    item = safe_item(tile.folder)
    path = tmp_path / "cut.xml"
    path.write_bytes(Path(item.assets[key].href).read_bytes()[:700])
    item.assets[key].href = str(path)
    with pytest.raises(ReadError, match=f"{item.id}.*{key}"):
        metadata(item, files_under(tmp_path.parent.parent))


def with_metadata(tmp_path, item, change):
    """The item with a changed MTD_MSIL2A.xml."""
    path = tmp_path / "MTD_MSIL2A.xml"
    path.write_text(change(Path(item.assets["product_metadata"].href).read_text()))
    item.assets["product_metadata"].href = str(path)
    return item


def without_offsets(text):
    lines = text.replace("><", ">\n<").splitlines()
    return "\n".join(line for line in lines if "BOA_ADD_OFFSET" not in line)


def test_metadata_decides_the_offset_and_not_the_date_or_name(tmp_path, tile, files_under):
    item = with_metadata(
        tmp_path,
        safe_item(tile.folder),
        lambda text: without_offsets(text).replace("05.11", "99.99"),
    )
    assert set(metadata(item, files_under(tmp_path.parent.parent)).offsets.values()) == {0}


def test_offset_differs_per_band(tmp_path, tile, files_under):
    item = safe_item(tile.folder)
    old = '<BOA_ADD_OFFSET band_id="3">-1000<'
    item = with_metadata(
        tmp_path, item, lambda text: text.replace(old, old.replace("-1000", "-500"))
    )
    facts = metadata(item, files_under(tmp_path.parent.parent))
    assert facts.offsets["B04"] == -500
    assert facts.offsets["B03"] == -1000


def test_baseline_without_its_offset_is_refused(tmp_path, tile, files_under):
    item = with_metadata(tmp_path, safe_item(tile.folder), without_offsets)
    spec = files_under(tmp_path.parent.parent)
    with pytest.raises(RadiometryError, match=rf"{item.id}.*baseline 05\.11.*{OVERRIDE}"):
        open_sentinel2(item, tile.geobox, spec=spec, bands=("B02",))
    assert metadata(item, spec).clock == "MTD_TL SENSING_TIME"  # pairing needs no offset


def test_offset_that_lacks_a_band_is_refused(tmp_path, tile, files_under):
    old = '<BOA_ADD_OFFSET band_id="3">-1000</BOA_ADD_OFFSET>'
    item = with_metadata(tmp_path, safe_item(tile.folder), lambda text: text.replace(old, ""))
    with pytest.raises(RadiometryError, match=OVERRIDE):
        open_sentinel2(item, tile.geobox, spec=files_under(tmp_path.parent.parent), bands=("B04",))


def test_catalogue_can_override_the_offset(tile, files_under):
    """A spec passes the offset through pairs and scenes; one without a rule trusts the metadata."""
    item = safe_item(tile.folder)
    spec = files_under(tile.folder.parent)
    for radiometry, offset in (({"sentinel2": "boa_offset=0"}, 0), ({}, -1000)):
        got = open_sentinel2(
            item, tile.geobox, spec=replace(spec, radiometry=radiometry), bands=("B02",)
        )
        assert got.attrs["offsets"] == [{"B02": offset}]
    with pytest.raises(ConfigError, match="boa_offset=1000"):
        open_sentinel2(item, tile.geobox, spec=spec, bands=("B02",), boa_offset=1000)


def test_no_product_metadata_at_all_needs_the_override(tile, files_under):
    item = safe_item(tile.folder)
    spec = files_under(tile.folder.parent)
    del item.assets["product_metadata"]
    assert metadata(item, spec).offsets is None
    with pytest.raises(RadiometryError, match=OVERRIDE):
        open_sentinel2(item, tile.geobox, spec=spec, bands=("B02",))
    got = open_sentinel2(item, tile.geobox, spec=spec, bands=("B02",), boa_offset=0)
    assert float(got.reflectance[0, 100, 50]) == pytest.approx(0.08)


# What a service without product metadata ships: surfaces as reflectance x 10000 per band, with or
# without 1000 added.
FOREST = {"B02": 250, "B03": 450, "B04": 300, "B12": 600}
DESERT = {"B02": 1100, "B03": 1900, "B04": 2700, "B12": 4200}


@pytest.fixture
def cog_item(tmp_path):
    """An earth-search item (its keys, no MTD_MSIL2A.xml) of a surface, and a local catalogue."""
    spec = load_catalog("earth-search")
    spec = replace(spec, schemes=("file",), root=str(tmp_path), hosts=())
    grid = snap_geobox("EPSG:32631", 388800, 3466800, 391800, 3469800)

    def make(surface, *, baseline, added):
        item = pystac.Item(
            "S2A_31RDP_20240601_0_L2A",
            geometry=None,
            bbox=None,
            datetime=datetime(2024, 6, 1, 10, 51, tzinfo=UTC),
            properties={"s2:processing_baseline": baseline, "platform": "sentinel-2a"},
        )
        rng = np.random.default_rng(0)
        for band in (*surface, "SCL"):
            path = tmp_path / f"{band}.tif"
            values = np.full(tuple(grid.shape), 5)
            if band in surface:
                values = surface[band] * rng.uniform(1, 1.6, tuple(grid.shape)) + added
            dtype = "uint8" if band == "SCL" else "uint16"
            profile = {
                "driver": "COG",
                "dtype": dtype,
                "count": 1,
                "height": grid.shape[0],
                "width": grid.shape[1],
            }
            with rasterio.open(
                path, "w", **profile, nodata=0, crs="EPSG:32631", transform=grid.affine
            ) as image:
                image.write(values.astype(dtype), 1)
            item.add_asset(spec.assets["sentinel2"][band], pystac.Asset(str(path)))
        return item, grid, spec

    return make


@pytest.mark.parametrize(
    ("surface", "baseline", "added", "expected"),
    [
        (FOREST, "05.00", 1000, -1000),
        (FOREST, "02.14", 0, 0),
        (DESERT, "02.14", 0, 0),
    ],
)
def test_baseline_confirmed_by_dark_numbers_decides(cog_item, surface, baseline, added, expected):
    item, grid, spec = cog_item(surface, baseline=baseline, added=added)
    got = open_sentinel2(item, grid, spec=spec, bands=("B03",))
    assert got.attrs["offsets"] == [{"B03": expected}]
    # so the darkest pixel has the reflectance of the surface
    assert float(got.reflectance.min()) == pytest.approx(surface["B03"] / 10000, rel=0.01)


@pytest.mark.parametrize(
    ("surface", "baseline", "added", "why"),
    [
        (FOREST, "05.00", 0, "opposite"),  # the service has taken the offset out
        (FOREST, "02.14", 1000, "opposite"),
        (DESERT, "05.00", 1000, "no dark surface"),
        (DESERT, "05.00", 0, "no dark surface"),
        (FOREST, None, 1000, "states no processing baseline"),
    ],
)
def test_undecidable_radiometry_stops_and_names_the_override(
    cog_item, surface, baseline, added, why
):
    item, grid, spec = cog_item(surface, baseline=baseline, added=added)
    with pytest.raises(RadiometryError, match=f"{item.id}.*{why}.*{OVERRIDE}"):
        open_sentinel2(item, grid, spec=spec, bands=("B03",))
    got = open_sentinel2(item, grid, spec=spec, bands=("B03",), boa_offset=-added)
    assert float(got.reflectance.min()) == pytest.approx(surface["B03"] / 10000, rel=0.01)
