"""Items have the fields, types and flaws of the recorded responses of each service."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from satfuse.simulate.archive.items import collection

RECORDED = {
    "sentinel-2-l2a": "cdse_s2_l2a_item_N0511_2024-11-07.json",
    "sentinel-3-syn-2-syn-ntc": "cdse_syn_ntc_item_2025-07-06.json",
    "ENMAP_HSI_L2A": "dlr_enmap_l2a_item_2024-06-30.json",
}


@pytest.fixture(scope="module")
def ours(small_archive):
    """The first item file of each collection."""
    first = {}
    for path in sorted((small_archive.root / "items").glob("*.json")):
        item = json.loads(path.read_text())
        first.setdefault(item["collection"], item)
    return first


@pytest.mark.samples
@pytest.mark.parametrize("name", RECORDED)
def test_fields_are_those_of_the_recorded_item(ours, recorded_items, name):
    item = ours[name]
    real = json.loads((recorded_items / RECORDED[name]).read_text())
    assert set(item) == set(real)
    assert item["stac_version"] == real["stac_version"]
    assert set(item["stac_extensions"]) <= set(real["stac_extensions"])
    assert set(item["properties"]) <= set(real["properties"])
    for key, value in item["properties"].items():
        theirs = real["properties"][key]
        numbers = isinstance(value, int | float) and isinstance(theirs, int | float)
        assert numbers or type(value) is type(theirs), key
    assert set(item["assets"]) <= set(real["assets"])
    for key, asset in item["assets"].items():
        assert set(asset) <= set(real["assets"][key]), key
        assert asset["type"] == real["assets"][key]["type"]
        assert asset["roles"][0] == real["assets"][key]["roles"][0]


@pytest.mark.samples
def test_missing_assets_are_only_those_that_nothing_reads(ours, recorded_items):
    missing = {}
    for name, file in RECORDED.items():
        real = json.loads((recorded_items / file).read_text())["assets"]
        missing[name] = set(real) - set(ours[name]["assets"])
    unread = {"Product", "thumbnail", "inspire_metadata", "datastrip_metadata"}
    assert missing["sentinel-2-l2a"] == unread
    assert missing["ENMAP_HSI_L2A"] == {"vnir", "swir", "thumbnail"}
    syn = missing["sentinel-3-syn-2-syn-ntc"]
    assert not {key for key in syn if key.endswith("N_reflectance") or "_Oa" in key}


@pytest.mark.samples
def test_sentinel2_band_asset_equals_the_recorded_one(ours, recorded_items):
    real = json.loads((recorded_items / RECORDED["sentinel-2-l2a"]).read_text())["assets"]
    for key, asset in ours["sentinel-2-l2a"]["assets"].items():
        for field in ("data_type", "nodata", "roles", "raster:scale", "raster:offset", "type"):
            assert asset.get(field) == real[key].get(field), (key, field)
        for mine, theirs in zip(asset.get("bands", []), real[key].get("bands", []), strict=True):
            assert mine["name"] == theirs["name"]
            assert mine["eo:common_name"] == theirs["eo:common_name"]
            centre = pytest.approx(theirs["eo:center_wavelength"], abs=0.002)
            assert mine["eo:center_wavelength"] == centre


@pytest.mark.samples
def test_syn_band_names_collide_as_in_the_service(ours, recorded_items):
    real = json.loads((recorded_items / RECORDED["sentinel-3-syn-2-syn-ntc"]).read_text())["assets"]
    names = {
        key: asset["bands"][0]["name"]
        for key, asset in ours["sentinel-3-syn-2-syn-ntc"]["assets"].items()
        if "bands" in asset
    }
    assert len(names) == 21
    assert names == {key: real[key]["bands"][0]["name"] for key in names}


def test_every_asset_is_an_absolute_path_of_a_file(small_archive):
    for items in small_archive.items.values():
        for item in items:
            for key, asset in item.assets.items():
                assert Path(asset.href).is_absolute(), (item.id, key)
                assert Path(asset.href).is_file(), (item.id, key)


def test_sentinel2_datetime_is_the_datatake_start(ours, small_recipe):
    properties = ours["sentinel-2-l2a"]["properties"]
    assert properties["datetime"] == properties["start_datetime"] == properties["end_datetime"]
    datatake_start = datetime.fromisoformat(properties["datetime"].rstrip("Z"))
    assert (small_recipe.sensing_time(small_recipe.day) - datatake_start).total_seconds() == 480
    assert not [key for key in properties if key.startswith("proj:")]


def test_enmap_flaws(ours):
    item = ours["ENMAP_HSI_L2A"]
    properties = item["properties"]
    image = item["assets"]["image"]
    assert isinstance(properties["eo:cloud_cover"], str)
    assert properties["proj:epsg"] is None
    sun_azimuth = float(properties["enmap:sunAzimuthAngle"])
    assert properties["view:sun_azimuth"] == pytest.approx(sun_azimuth + 180)
    assert len(image["proj:transform"]) == 9
    assert image["proj:transform"][6:] == [0, 0, 1]
    assert image["eo:bands"][0]["name"] == 1
    assert 418 < image["eo:bands"][0]["center_wavelength"] < 419


def test_stc_and_ntc_have_their_timeliness(ours):
    stc, ntc = (ours[f"sentinel-3-syn-2-syn-{t}"]["properties"] for t in ("stc", "ntc"))
    assert (stc["product:timeliness"], stc["product:timeliness_category"]) == ("PT48H", "ST")
    assert (ntc["product:timeliness"], ntc["product:timeliness_category"]) == ("P1M", "NT")


def test_collection_encloses_its_items():
    def item(bbox, start, stop):
        return {"bbox": bbox, "properties": {"start_datetime": start, "end_datetime": stop}}

    items = [
        item([1, 2, 3, 4], "2024-07-04", "2024-07-05"),
        item([0, 3, 2, 5], "2024-07-01", "2024-07-02"),
    ]
    extent = collection("x", items)["extent"]
    assert extent["spatial"]["bbox"] == [[0, 2, 3, 5]]
    assert extent["temporal"]["interval"] == [["2024-07-01", "2024-07-05"]]
