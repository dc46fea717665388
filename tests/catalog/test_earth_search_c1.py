"""Sentinel-2 Collection 1 at earth-search: a collection of its own with radiometry metadata."""

from dataclasses import replace

import numpy as np
import pystac
import pytest

from satfuse.catalog import access
from satfuse.catalog.search import search
from satfuse.catalog.specs import ASSET_KEYS, load_catalog
from satfuse.readers.sentinel2 import open_sentinel2
from tests.catalog import own_items as own
from tests.catalog.dialects import DialectServer

WHERE = {"bbox": (26.3, 58.2, 26.6, 58.5), "start": "2024-06-01", "end": "2024-06-01"}


def test_only_its_collection_is_found_and_of_it_the_newest_processing():
    # the service refuses no collection that it was not asked for; the client must
    old = own.earth_c1_s2(baseline="05.00", made="T100000")
    new = own.earth_c1_s2("35VLF")
    old["id"] += "_again"
    with DialectServer("earth-search", [own.earth_s2(), old, new]) as server:
        items = search(
            replace(own.EARTH_C1, url=server.url, requests_per_s=200.0), "sentinel2", **WHERE
        )
        body = server.searches[0][3]
    assert [i.id for i in items] == [new["id"]]
    assert body["collections"] == ["sentinel-2-c1-l2a"]
    assert body["limit"] <= 267


def test_every_asset_is_reached_in_its_own_bucket_only():
    item = pystac.Item.from_dict(own.earth_c1_s2())
    for key in ASSET_KEYS["sentinel2"]:
        href = access.gdal_href(own.EARTH_C1, item, "sentinel2", key)
        assert href.startswith(
            "/vsicurl/https://e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com/sentinel-2-"
        )
    with pytest.raises(access.AccessError, match="earth-search does not allow"):
        access.gdal_href(own.EARTH, item, "sentinel2", "B02")


def test_the_offset_of_the_product_metadata_is_applied_once(small_archive, small_recipe):
    """The same SAFE reads equally under the asset keys of Collection 1 and of the Data Space.

    The `raster:offset` of the items is ignored.
    """
    here = {"schemes": ("file",), "hosts": (), "root": str(small_archive.root)}
    safe = small_archive.items["sentinel-2-l2a"][0]
    local = load_catalog("local")
    feature = own.earth_c1_s2()
    for key, name in own.EARTH_C1.assets["sentinel2"].items():
        feature["assets"][name]["href"] = safe.assets[local.assets["sentinel2"][key]].href
    box = small_recipe.geobox[:120, :120]
    bands = ("B01", "B04", "B12")
    read, expected = (
        open_sentinel2(item, box, spec=replace(spec, **here), bands=bands).compute()
        for item, spec in ((pystac.Item.from_dict(feature), own.EARTH_C1), (safe, local))
    )
    assert read.attrs["offsets"] == [dict.fromkeys(bands, -1000)]
    assert read.attrs["baselines"] == ["05.11"]
    np.testing.assert_array_equal(read.reflectance.values, expected.reflectance.values)
    np.testing.assert_array_equal(read.scl.values, expected.scl.values)
    assert np.isfinite(expected.reflectance.values).mean() > 0.9
