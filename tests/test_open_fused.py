import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401
import xarray as xr
from rasterio.crs import CRS

from satfuse import open_fused
from satfuse.errors import BandError, ConfigError, GridError, ProductError, StoreError
from satfuse.geometry.grids import lonlat_bbox, snap_geobox
from satfuse.product.store import Store
from satfuse.sensors.quality import Quality
from tests.product_store import publish_flat

WEST = snap_geobox("EPSG:32631", 388800, 3394500, 388800 + 9000, 3394500 + 7200)
EAST = snap_geobox("EPSG:32631", 394800, 3394500, 394800 + 9000, 3394500 + 7200)
BOTH = snap_geobox("EPSG:32631", 388800, 3394500, 403800, 3394500 + 7200)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two fields that overlap on one day, the western one again a week later."""
    store = Store(tmp_path_factory.mktemp("store"))
    publish_flat(store, "west", WEST, value=0.1, provenance={"gap_s": -100.0})
    publish_flat(
        store, "east", EAST, value=0.2, provenance={"gap_s": 50.0}, time="2024-06-01T10:00:20+00:00"
    )
    publish_flat(store, "later", WEST, value=0.3, time="2024-06-08T10:00:00+00:00")
    return store


def test_opens_lazily_and_clips(store):
    data = open_fused((1.85, 30.69, 1.87, 30.70), "2024-06-08", store=store.url)
    assert data.reflectance.dims == ("time", "band", "y", "x")
    assert data.reflectance.dtype == "float32"
    assert data.reflectance.chunks is not None
    assert data.sizes["band"] == 21
    assert 190 < data.sizes["x"] < 200
    assert 105 < data.sizes["y"] < 120
    box = data.odc.geobox
    west, south, east, north = lonlat_bbox(box)
    assert west <= 1.85
    assert south <= 30.69
    assert east >= 1.87
    assert north >= 30.70
    assert (box.affine.c - WEST.affine.c) % 10 == 0, "no resampling: the product's own pixels"
    np.testing.assert_allclose(data.reflectance, 0.3, atol=1e-6)
    assert data.attrs["items"] == ["later"]
    assert data.wavelength_nm.sel(band="Oa01") == 400


def test_one_overpass_is_mosaicked_the_smaller_gap_wins(store):
    data = open_fused(lonlat_bbox(BOTH), "2024-06-01", store=store.url)
    assert data.sizes["time"] == 1
    assert data.odc.geobox == BOTH
    row = data.reflectance[0, 5, 300].values
    np.testing.assert_allclose(row[:600], 0.1, atol=1e-6)
    np.testing.assert_allclose(row[600:], 0.2, atol=1e-6)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """As `store`, but only the eastern product has an uncertainty, and it has the larger gap."""
    store = Store(tmp_path_factory.mktemp("mixed"))
    publish_flat(store, "west", WEST, value=0.1, provenance={"gap_s": 50.0})
    east = {"provenance": {"gap_s": -100.0}, "time": "2024-06-01T10:00:20+00:00"}
    publish_flat(store, "east", EAST, value=0.2, uncertainty=0.004, **east)
    publish_flat(
        store, "later", WEST, value=0.3, uncertainty=0.008, time="2024-06-08T10:00:00+00:00"
    )
    return store


def test_uncertainty_is_opened_lazily_with_reflectance(mixed):
    data = open_fused(
        (1.85, 30.69, 1.87, 30.70), "2024-06-08", store=mixed.url, bands=["S6N", "Oa02"]
    )
    assert data.uncertainty.dims == data.reflectance.dims
    assert data.uncertainty.chunks == data.reflectance.chunks
    assert data.uncertainty.dtype == "float32"
    assert list(data.data_vars) == [
        "reflectance",
        "quality",
        "uncertainty",
    ]
    np.testing.assert_allclose(data.uncertainty.sel(band="Oa02"), 0.008, rtol=0.032)
    assert data.uncertainty.sel(band="S6N").isnull().all()
    assert data.reflectance.attrs["ancillary_variables"] == "quality uncertainty"
    alone = open_fused((1.85, 30.69, 1.87, 30.70), "2024-06-01", store=mixed.url)
    assert list(alone.data_vars) == ["reflectance", "quality"], (
        "west has none, and east is elsewhere"
    )
    assert alone.reflectance.attrs["ancillary_variables"] == "quality"


def test_in_a_mosaic_the_uncertainty_is_that_of_the_value(mixed):
    """Where west wins there is none, even where east has one; the other date is not affected."""
    data = open_fused(lonlat_bbox(BOTH), "2024-06-01/2024-06-10", store=mixed.url)
    assert data.uncertainty.chunks is not None
    first, later = data.uncertainty[:, 5, 300].values
    np.testing.assert_allclose(data.reflectance[0, 5, 300, [899, 900]], [0.1, 0.2], atol=1e-6)
    assert np.isnan(first[:900]).all()
    assert np.isnan(later[900:]).all()
    np.testing.assert_allclose(first[900:], 0.004, rtol=0.032)
    np.testing.assert_allclose(later[:900], 0.008, rtol=0.032)


@pytest.mark.parametrize("options", [{"resolution": 100}, {"crs": "EPSG:32632"}])
def test_uncertainty_is_resampled_with_reflectance(mixed, options):
    data = open_fused(
        lonlat_bbox(EAST), "2024-06-01", store=mixed.url, bands=["Oa05"], **options
    ).isel(band=0, time=0)
    east, west = (np.isclose(data.reflectance, value) for value in (0.2, 0.1))
    assert min(east.mean(), west.mean()) > 0.3
    np.testing.assert_allclose(data.uncertainty.values[east], 0.004, rtol=0.032)
    assert np.isnan(data.uncertainty.values[west]).all()


def test_an_interval_stacks_dates(store):
    data = open_fused(
        lonlat_bbox(BOTH), "2024-06-01/2024-06-10", store=store.url, bands=["S5N", "Oa01"]
    )
    assert data.sizes["time"] == 2
    assert list(data.band.values) == ["S5N", "Oa01"]
    values = data.reflectance[1, 0, 300].values
    np.testing.assert_allclose(values[:900], 0.3, atol=1e-6)
    assert np.isnan(values[900:]).all()
    assert (data.quality[1, 300, 900:] == int(Quality.GUIDE_MISSING)).all()


def test_other_crs_and_resolution(store):
    box = lonlat_bbox(BOTH)
    data = open_fused(box, "2024-06-01", store=store.url, crs="EPSG:32632", bands=["Oa01"])
    assert data.rio.crs == CRS.from_epsg(32632)
    assert data.odc.geobox.resolution.x == 10
    values = data.reflectance.values
    assert np.isclose(values, 0.1, atol=2e-4).sum() > 300_000
    assert np.isclose(values, 0.2, atol=2e-4).sum() > 500_000
    np.testing.assert_array_equal(
        np.isnan(values[:, 0]), (data.quality.values & Quality.GUIDE_MISSING) > 0
    )
    coarse = open_fused(box, "2024-06-01", store=store.url, resolution=100)
    assert coarse.odc.geobox.affine.a == 100
    assert coarse.sizes["x"] == 150
    degrees = open_fused(box, "2024-06-01", store=store.url, crs="EPSG:4326", bands="Oa01")
    assert degrees.reflectance.dims == ("time", "band", "y", "x")
    assert degrees.x[0] > box[0] - 1e-4
    assert np.nanmedian(degrees.reflectance) == pytest.approx(0.2, abs=1e-3)


def test_without_dask(store):
    data = open_fused(lonlat_bbox(WEST), "2024-06-08", store=store.url, bands=["Oa01"], chunks=None)
    assert data.reflectance.chunks is None


@pytest.mark.parametrize(
    ("bbox", "when", "error", "match"),
    [
        (
            (1.85, 30.69, 1.87, 30.70),
            "2024-07-01",
            ProductError,
            r"nearest dates: 2024-06-08 \(later\)",
        ),
        ((50, 50, 51, 51), "2024-06-01", ProductError, "the store covers"),
        ((1.9, 30.69, 1.8, 30.7), "2024-06-01", GridError, "reversed"),
        ((1.85, 30.69, 1.87, 30.70), "2124-06-01", ConfigError, "future"),
        ((1.85, 30.69, 1.87, 30.70), "June", ConfigError, "is not a date"),
        ((1.85, 30.69, 1.87, 30.70), "2024-06-02/2024-06-01", ConfigError, "reversed"),
        ((1.85, 30.69, 1.87, 30.70), 5, ConfigError, "is not a date"),
    ],
)
def test_nothing_there_and_bad_input(store, bbox, when, error, match):
    with pytest.raises(error, match=match):
        open_fused(bbox, when, store=store.url)


def test_unknown_band_and_empty_store(store, tmp_path):
    with pytest.raises(BandError, match="Oa99"):
        open_fused(lonlat_bbox(WEST), "2024-06-01", store=store.url, bands=["Oa99"])
    with pytest.raises(ProductError, match="is empty"):
        open_fused((0, 0, 1, 1), "2024-06-01", store=tmp_path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"crs": "EPSG:999999"}, "EPSG:999999.*is unknown"),
        ({"resolution": 0}, "resolution 0 must be a positive number"),
        ({"resolution": (10, 20)}, "must be a positive number"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(store, options, match):
    with pytest.raises(GridError, match=match):
        open_fused(lonlat_bbox(WEST), "2024-06-08", store=store.url, **options)


def test_a_box_that_reaches_outside_gives_what_is_there(store):
    west, south, _, _ = lonlat_bbox(WEST)
    data = open_fused(
        (west - 1, south - 1, west + 0.03, south + 0.03), "2024-06-08", store=store.url
    )
    box = data.odc.geobox.boundingbox
    assert (box.left, box.bottom) == (388800, 3394500)
    assert box.right < 397800
    assert box.top < 3401700


def test_what_is_opened_can_be_chunked_and_kept(store, tmp_path):
    data = open_fused(
        lonlat_bbox(WEST), "2024-06-08", store=store.url, bands=["Oa08", "Oa04"], chunks="auto"
    )
    assert data.reflectance.chunks[2] == (720,)
    data.isel(y=slice(0, 40), x=slice(0, 50)).to_netcdf(tmp_path / "cut.nc")
    with xr.open_dataset(tmp_path / "cut.nc", decode_coords="all") as again:
        assert again.rio.crs.to_epsg() == 32631
        assert list(again.band.values) == ["Oa08", "Oa04"]
        np.testing.assert_allclose(again.reflectance, 0.3, atol=1e-6)
        assert json.loads(again.attrs["provenance"])["later"]["run"] == "r1"


def test_store_from_the_environment(store, monkeypatch):
    monkeypatch.setenv("SATFUSE_STORE", store.url)
    assert open_fused(lonlat_bbox(WEST), date(2024, 6, 8)).sizes["time"] == 1


def test_a_broken_item_is_named(store, tmp_path):
    shutil.copytree(store.url, tmp_path / "s")
    (tmp_path / "s/items/west.json").write_text("{")
    with pytest.raises(StoreError, match=r"items/west\.json is not JSON"):
        open_fused(lonlat_bbox(WEST), "2024-06-01", store=tmp_path / "s")


def test_100_products_open_fast_and_no_pixel_is_read(store, tmp_path):
    """The pixels of all products are deleted first: whoever reads one fails."""
    text = store.read("items/later.json").decode()
    for number in range(100):
        product = f"p{number:03d}"
        day = f"2024-{1 + number // 28:02d}-{1 + number % 28:02d}"
        target = tmp_path / "data" / product
        shutil.copytree(
            f"{store.url}/data/later",
            target,
            ignore=lambda f, _: ["c"] if f.endswith(("reflectance", "quality")) else [],
        )
        Store(tmp_path).write(
            f"items/{product}.json",
            text.replace("later", product).replace("2024-06-08", day).encode(),
        )
    assert not list(tmp_path.glob("data/*/*/reflectance/c"))
    began = time.perf_counter()
    data = open_fused(lonlat_bbox(WEST), "2024-01-05", store=tmp_path)
    print(f"one of 100 products: {time.perf_counter() - began:.2f} s")
    assert data.sizes["time"] == 1
    began = time.perf_counter()
    data = open_fused(lonlat_bbox(WEST), "2024-01-01/2024-06-30", store=tmp_path)
    print(f"100 of 100 products: {time.perf_counter() - began:.2f} s")
    assert data.sizes["time"] == 100
    code = f"""
import satfuse, sys
satfuse.open_fused({lonlat_bbox(WEST)}, '2024-01-05', store={str(tmp_path)!r})
assert 'torch' not in sys.modules
"""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    print(f"whole process on 100 products: {time.perf_counter() - began:.2f} s")


class _RangeHandler(http.server.SimpleHTTPRequestHandler):
    """A file server that knows byte ranges, as every object store does."""

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        body = path.read_bytes()
        status = 200
        if requested := self.headers.get("Range"):
            first, last = requested.removeprefix("bytes=").split("-")
            body = (
                body[int(first) : int(last) + 1 if last else None] if first else body[-int(last) :]
            )
            status = 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_over_http(store):
    handler = functools.partial(_RangeHandler, directory=store.url)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        data = open_fused(lonlat_bbox(BOTH), "2024-06-01", store=url, bands=["Oa01"])
        assert float(data.reflectance[0, 0, 100, 100]) == pytest.approx(0.1)
        with pytest.raises(StoreError, match="cannot read"):
            open_fused(lonlat_bbox(BOTH), "2024-06-01", store=url + "/nowhere")
    finally:
        server.shutdown()
