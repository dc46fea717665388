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
    found = {}
    for path in sorted((small_archive.root / "items").glob("*.json")):
        item = json.loads(path.read_text())
        found.setdefault(item["collection"], item)
    return found


@pytest.mark.samples
@pytest.mark.parametrize("name", RECORDED)
def test_fields_are_those_of_the_recorded_item(ours, recorded_items, name):
    item, real = ours[name], json.loads((recorded_items / RECORDED[name]).read_text())
    assert set(item) == set(real) and item["stac_version"] == real["stac_version"]
    assert set(item["stac_extensions"]) <= set(real["stac_extensions"])
    assert set(item["properties"]) <= set(real["properties"])
    for key, value in item["properties"].items():
        theirs = real["properties"][key]
        numbers = isinstance(value, int | float) and isinstance(theirs, int | float)
        assert numbers or type(value) is type(theirs), key
    assert set(item["assets"]) <= set(real["assets"])
    for key, asset in item["assets"].items():
        assert set(asset) <= set(real["assets"][key]), key
        assert (
            asset["type"] == real["assets"][key]["type"]
            and asset["roles"][0] == real["assets"][key]["roles"][0]
        )


@pytest.mark.samples
def test_missing_assets_are_only_those_that_nothing_reads(ours, recorded_items):
    missing = {
        name: set(json.loads((recorded_items / file).read_text())["assets"])
        - set(ours[name]["assets"])
        for name, file in RECORDED.items()
    }
    assert missing["sentinel-2-l2a"] == {
        "Product",
        "thumbnail",
        "inspire_metadata",
        "datastrip_metadata",
    }
    assert missing["ENMAP_HSI_L2A"] == {"vnir", "swir", "thumbnail"}
    assert not {
        m for m in missing["sentinel-3-syn-2-syn-ntc"] if m.endswith("N_reflectance") or "_Oa" in m
    }


@pytest.mark.samples
def test_sentinel2_band_asset_equals_the_recorded_one(ours, recorded_items):
    real = json.loads((recorded_items / RECORDED["sentinel-2-l2a"]).read_text())["assets"]
    for key, asset in ours["sentinel-2-l2a"]["assets"].items():
        for field in ("data_type", "nodata", "roles", "raster:scale", "raster:offset", "type"):
            assert asset.get(field) == real[key].get(field), (key, field)
        for mine, theirs in zip(asset.get("bands", []), real[key].get("bands", []), strict=True):
            assert (
                mine["name"] == theirs["name"]
                and mine["eo:common_name"] == theirs["eo:common_name"]
            )
            assert mine["eo:center_wavelength"] == pytest.approx(
                theirs["eo:center_wavelength"], abs=0.002
            )


@pytest.mark.samples
def test_syn_band_names_collide_as_the_service_lets_them(ours, recorded_items):
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
                assert Path(asset.href).is_absolute() and Path(asset.href).is_file(), (item.id, key)


def test_sentinel2_datetime_is_the_datatake_start(ours, small_recipe):
    properties = ours["sentinel-2-l2a"]["properties"]
    assert properties["datetime"] == properties["start_datetime"] == properties["end_datetime"]
    told = datetime.fromisoformat(properties["datetime"].rstrip("Z"))
    assert (small_recipe.sensing_time(small_recipe.day) - told).total_seconds() == 480
    assert not [key for key in properties if key.startswith("proj:")]


def test_enmap_flaws(ours):
    item = ours["ENMAP_HSI_L2A"]
    properties, image = item["properties"], item["assets"]["image"]
    assert isinstance(properties["eo:cloud_cover"], str) and properties["proj:epsg"] is None
    assert properties["view:sun_azimuth"] == pytest.approx(
        float(properties["enmap:sunAzimuthAngle"]) + 180
    )
    assert len(image["proj:transform"]) == 9 and image["proj:transform"][6:] == [0, 0, 1]
    assert (
        image["eo:bands"][0]["name"] == 1 and 418 < image["eo:bands"][0]["center_wavelength"] < 419
    )


def test_stc_and_ntc_say_so(ours):
    stc, ntc = (ours[f"sentinel-3-syn-2-syn-{t}c"]["properties"] for t in "sn" for t in [f"{t}t"])
    assert (stc["product:timeliness"], stc["product:timeliness_category"]) == ("PT48H", "ST")
    assert (ntc["product:timeliness"], ntc["product:timeliness_category"]) == ("P1M", "NT")


def test_collection_encloses_its_items():
    items = [
        {
            "bbox": [1, 2, 3, 4],
            "properties": {"start_datetime": "2024-07-04", "end_datetime": "2024-07-05"},
        },
        {
            "bbox": [0, 3, 2, 5],
            "properties": {"start_datetime": "2024-07-01", "end_datetime": "2024-07-02"},
        },
    ]
    extent = collection("x", items)["extent"]
    assert extent["spatial"]["bbox"] == [[0, 2, 3, 5]]
    assert extent["temporal"]["interval"] == [["2024-07-01", "2024-07-05"]]
