import pickle
import shutil

import dask
import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from satfuse.errors import BandError, ConfigError, MissingExtraError, ReadError
from satfuse.geometry.grids import coarse_geobox, geobox_of_bbox, lonlat_bbox
from satfuse.readers import loaders
from satfuse.readers.sentinel2 import open_sentinel2, safe_item
from satfuse.sensors.bands import S2_NAMES
from satfuse.sensors.quality import GUIDE_INVALID, Quality

SIDE = 360


@pytest.fixture(scope="module")
def opened(tile, files_under):
    """The whole tile on its own 10 m grid, computed once."""
    lazy = open_sentinel2(safe_item(tile.folder), tile.geobox, spec=files_under(tile.folder.parent))
    assert all(dask.is_dask_collection(lazy[name].data) for name in lazy.data_vars)
    return lazy.compute()


def as_read(reflectance):
    """Reflectance after the way through a digital number with the offset of -1000."""
    numbers = np.clip(np.rint(reflectance * 10000) + 1000, 1, 65535)
    return ((numbers - 1000) / 10000).astype("float32")


@pytest.mark.parametrize("band", ["B02", "B03", "B04", "B08"])
def test_native_10_m_bands_pass_bit_identical(opened, tile, band):
    expected = as_read(tile.reflectance[band])
    np.testing.assert_array_equal(opened.reflectance.sel(band=band).values, expected)


def test_negative_reflectance_is_kept(opened):
    assert float(opened.reflectance.sel(band="B02")[100, 50]) == pytest.approx(-0.02)


@pytest.mark.parametrize(("band", "factor"), [("B05", 2), ("B12", 2), ("B01", 6), ("B09", 6)])
def test_coarser_bands_are_interpolated_between_pixel_centres(opened, tile, band, factor):
    native = as_read(tile.reflectance[band]).astype(float)
    at = (np.arange(SIDE) + 0.5) / factor - 0.5
    centres = np.arange(len(native))
    along_x = np.stack([np.interp(at, centres, row) for row in native])
    expected = np.stack([np.interp(at, centres, column) for column in along_x.T]).T
    np.testing.assert_allclose(opened.reflectance.sel(band=band).values, expected, atol=1e-6)


def test_scl_is_taken_from_the_nearest_pixel(opened, tile):
    np.testing.assert_array_equal(opened.scl.values, tile.scl.repeat(2, 0).repeat(2, 1))


def test_grid_and_band_coordinates(opened, tile):
    assert opened.odc.geobox == tile.geobox
    assert tuple(opened.band.values) == S2_NAMES
    assert float(opened.wavelength_nm.sel(band="B8A")) == 864.7
    assert opened.reflectance.dtype == "float32"
    assert opened.valid.dtype == bool
    assert opened.quality.dtype == "uint16"
    assert opened.scl.dtype == "uint8"


@pytest.mark.parametrize(
    ("scl", "flag"),
    [
        (0, Quality.GUIDE_MISSING),
        (1, Quality.GUIDE_SATURATED),
        (2, Quality(0)),
        (3, Quality.GUIDE_SHADOW),
        (4, Quality(0)),
        (7, Quality(0)),
        (8, Quality.GUIDE_CLOUD),
        (9, Quality.GUIDE_CLOUD),
        (10, Quality.GUIDE_CLOUD),
        (11, Quality.SNOW),
    ],
)
def test_scene_classes_become_quality_flags(opened, scl, flag):
    at = (opened.scl.values == scl) & np.isfinite(opened.reflectance.values).all(0)
    assert at.any()
    assert set(opened.quality.values[at]) == {int(flag)}
    assert opened.valid.values[at].all() == (not flag & GUIDE_INVALID)


def test_missing_and_saturated_pixels_are_not_valid(opened):
    hole = opened.isel(y=slice(10, 20))
    assert np.isnan(hole.reflectance.sel(band="B04")).all()
    assert np.isfinite(hole.reflectance.sel(band="B03")).all()
    assert not hole.valid.any()
    assert (hole.quality.values & Quality.GUIDE_MISSING).all()
    assert opened.quality.values[200, 200] == Quality.GUIDE_SATURATED
    assert not opened.valid.values[200, 200]
    finite = np.isfinite(opened.reflectance.values).all(0)
    assert finite[opened.valid.values].all()


def test_chunks_do_not_change_values(opened, tile, files_under):
    spec = files_under(tile.folder.parent)
    small = open_sentinel2(
        safe_item(tile.folder), tile.geobox, spec=spec, bands=("B02", "B06"), chunks=155
    )
    assert small.reflectance.data.chunksize == (1, 155, 155)
    expected = opened.reflectance.sel(band=["B02", "B06"]).values
    np.testing.assert_array_equal(small.reflectance.values[0], expected[0])
    np.testing.assert_allclose(small.reflectance.values, expected, atol=1e-6)


def test_dataset_travels_to_a_worker(tile, files_under):
    lazy = open_sentinel2(
        safe_item(tile.folder), tile.geobox, spec=files_under(tile.folder.parent), bands=("B02",)
    )
    again = pickle.loads(pickle.dumps(lazy))
    assert again.identical(lazy)
    assert again.reflectance.shape == (1, SIDE, SIDE)


def test_no_bands_means_scl_alone(tile, files_under):
    only = open_sentinel2(
        safe_item(tile.folder), tile.geobox, spec=files_under(tile.folder.parent), bands=()
    )
    assert only.reflectance.shape == (0, SIDE, SIDE)
    assert [r.asset for r in only.attrs["ledger"]] == ["SCL", "granule_metadata"]
    assert int((only.quality.values == Quality.GUIDE_CLOUD).sum()) == 3 * 2 * SIDE


def test_20_m_geobox_takes_20_m_bands_unchanged(tile, files_under):
    grid = coarse_geobox(tile.geobox, 2)
    got = open_sentinel2(
        safe_item(tile.folder), grid, spec=files_under(tile.folder.parent), bands=("B11",)
    )
    np.testing.assert_array_equal(got.reflectance.values[0], as_read(tile.reflectance["B11"]))


def test_tiles_are_scaled_each_by_its_own_metadata_and_mosaicked_in_order(
    tmp_path, make_tile, files_under
):
    left = make_tile(tmp_path, seed=1)
    right = make_tile(tmp_path, seed=2, left=388800 + 2400, tile="31REP", baseline="02.14")
    both = left.geobox | right.geobox
    items = [safe_item(left.folder), safe_item(right.folder)]
    got = open_sentinel2(items, both, spec=files_under(tmp_path), bands=("B03", "B04")).compute()
    assert got.attrs["baselines"] == ["05.11", "02.14"]
    assert [o["B03"] for o in got.attrs["offsets"]] == [-1000, 0]
    b03 = got.reflectance.sel(band="B03").values
    first = as_read(left.reflectance["B03"])
    second = right.reflectance["B03"].astype("float32")
    usable = got.valid.values
    np.testing.assert_array_equal(b03[:, :SIDE][usable[:, :SIDE]], first[usable[:, :SIDE]])
    np.testing.assert_allclose(b03[:, SIDE:], second[:, 120:], atol=1e-7)
    # Order decides in the overlap; a pixel that is unusable in both still comes from the first.
    swapped = open_sentinel2(
        items[::-1], both, spec=files_under(tmp_path), bands=("B03",)
    ).reflectance.values[0]
    np.testing.assert_allclose(swapped[:, 240:SIDE], second[:, :120], atol=1e-7)


def test_second_tile_fills_what_the_first_lacks(tmp_path, make_tile, files_under):
    first = make_tile(tmp_path, seed=1)
    second = make_tile(tmp_path, seed=2, tile="31REP")
    with rasterio.open(next(second.folder.glob("GRANULE/*/IMG_DATA/R10m/*_B04_10m.jp2"))) as image:
        profile = image.profile
        numbers = image.read(1)
    numbers[10:20] = 4321
    path = next(second.folder.glob("GRANULE/*/IMG_DATA/R10m/*_B04_10m.jp2"))
    with rasterio.open(path, "w", **(profile | {"QUALITY": "100", "REVERSIBLE": "YES"})) as image:
        image.write(numbers, 1)
    items = [safe_item(first.folder), safe_item(second.folder)]
    got = open_sentinel2(
        items, first.geobox, spec=files_under(tmp_path), bands=("B03", "B04")
    ).isel(y=slice(10, 20))
    got = got.compute()
    np.testing.assert_allclose(got.reflectance.sel(band="B04").values, 0.3321, atol=1e-7)
    # All bands of a pixel come from one item, B03 too although the first item has it.
    np.testing.assert_array_equal(
        got.reflectance.sel(band="B03").values, as_read(second.reflectance["B03"])[10:20]
    )
    assert got.valid.all()


def test_a_tile_of_another_utm_zone_lands_in_its_place(tmp_path, files_under, tile):
    path = shutil.copytree(tile.folder, tmp_path / tile.folder.name)
    y = tile.geobox.coords["y"].values
    x = tile.geobox.coords["x"].values
    smooth = 3000 + 500 * np.sin(x / 400)[None, :] + 800 * np.cos(y / 500)[:, None]
    image = next(path.glob("GRANULE/*/IMG_DATA/R10m/*_B03_10m.jp2"))
    with rasterio.open(image) as old:
        profile = old.profile
    with rasterio.open(image, "w", **(profile | {"QUALITY": "100", "REVERSIBLE": "YES"})) as new:
        new.write(np.rint(smooth).astype("uint16"), 1)
    other = geobox_of_bbox(lonlat_bbox(tile.geobox[60:300, 60:300]), crs="EPSG:32632")
    got = open_sentinel2(
        safe_item(path), other, spec=files_under(tmp_path), bands=("B03",)
    ).compute()
    ox, oy = np.meshgrid(got.x.values, got.y.values)
    tx, ty = Transformer.from_crs("EPSG:32632", "EPSG:32631", always_xy=True).transform(ox, oy)
    truth = (2000 + 500 * np.sin(tx / 400) + 800 * np.cos(ty / 500)) / 10000
    covered = np.isfinite(got.reflectance.values[0])
    assert covered.mean() > 0.8
    # 3 digital numbers: GDAL's approximation of an eighth of a pixel on slopes of 2 per pixel, and
    # linear interpolation
    np.testing.assert_allclose(got.reflectance.values[0][covered], truth[covered], atol=3e-4)


def test_missing_asset_is_named(tile, files_under):
    item = safe_item(tile.folder)
    del item.assets["B05_20m"]
    spec = files_under(tile.folder.parent)
    with pytest.raises(ReadError, match=f"{item.id}.*B05"):
        open_sentinel2(item, tile.geobox, spec=spec)


def test_allowed_hole_is_nan_flagged_and_in_the_ledger(tile, files_under):
    item = safe_item(tile.folder)
    del item.assets["B05_20m"]
    spec = files_under(tile.folder.parent)
    got = open_sentinel2(
        item, tile.geobox, spec=spec, bands=("B04", "B05"), missing="flag"
    ).compute()
    assert np.isnan(got.reflectance.sel(band="B05")).all()
    assert not got.valid.any()
    assert (got.quality.values & Quality.ASSET_MISSING).all()
    status = {r.asset: r.status for r in got.attrs["ledger"]}
    assert status == {"B04": "read", "B05": "missing", "SCL": "read", "granule_metadata": "read"}
    cause = next(r.cause for r in got.attrs["ledger"] if r.asset == "B05")
    assert item.id in cause
    assert "B05" in cause


@pytest.mark.parametrize("damage", ["truncated", "html", "empty", "gone"])
def test_damaged_jp2_is_an_error_when_opening(tmp_path, tile, files_under, damage):
    path = shutil.copytree(tile.folder, tmp_path / tile.folder.name)
    item = safe_item(path)
    image = next(path.glob("GRANULE/*/IMG_DATA/R20m/*_B06_20m.jp2"))
    whole = image.read_bytes()
    if damage == "gone":
        image.unlink()
    else:
        page = b"<!DOCTYPE html><html><body>Log in</body></html>"
        image.write_bytes(
            {"truncated": whole[: len(whole) * 7 // 10], "html": page, "empty": b""}[damage]
        )
    with pytest.raises(ReadError, match=f"{item.id}: .*B06"):
        open_sentinel2(item, tile.geobox, spec=files_under(tmp_path), bands=("B04", "B06"))
    got = open_sentinel2(
        item, tile.geobox, spec=files_under(tmp_path), bands=("B04", "B06"), missing="flag"
    ).compute()
    assert np.isnan(got.reflectance.sel(band="B06")).all()
    np.testing.assert_array_equal(got.reflectance.sel(band="B04"), as_read(tile.reflectance["B04"]))


def test_damage_that_appears_after_opening_is_named_when_computing(tmp_path, tile, files_under):
    path = shutil.copytree(tile.folder, tmp_path / tile.folder.name)
    item = safe_item(path)
    spec = files_under(tmp_path)
    strict = open_sentinel2(item, tile.geobox, spec=spec, bands=("B06",))
    lenient = open_sentinel2(item, tile.geobox, spec=spec, bands=("B06",), missing="flag")
    image = next(path.glob("GRANULE/*/IMG_DATA/R20m/*_B06_20m.jp2"))
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    with pytest.raises(ReadError, match=f"{item.id}: asset B06"):
        strict.reflectance.compute()
    got = lenient.compute()
    assert np.isnan(got.reflectance).all()
    assert (got.quality.values & Quality.ASSET_MISSING).all()


def test_truncated_jp2_of_many_tiles_never_gives_numbers(tmp_path, tile, files_under):
    """GDAL with several threads decodes such a file without an error and invents the rest."""
    grid = GeoBox.from_bbox(
        (388800, 3400000, 388800 + 20480, 3400000 + 20480), crs="EPSG:32631", resolution=10
    )
    numbers = np.random.default_rng(0).integers(1, 9000, (2048, 2048), dtype="uint16")
    item = safe_item(tile.folder)
    path = tmp_path / "B02_10m.jp2"
    profile = {
        "driver": "JP2OpenJPEG",
        "count": 1,
        "dtype": "uint16",
        "width": 2048,
        "height": 2048,
    }
    georeference = {
        "crs": "EPSG:32631",
        "transform": grid.affine,
        "QUALITY": "100",
        "REVERSIBLE": "YES",
    }
    with rasterio.open(path, "w", **profile, **georeference) as image:
        image.write(numbers, 1)
    item.assets["B02_10m"].href = str(path)
    source = loaders.ItemAsset.of(files_under(tmp_path), item, "sentinel2", "B02")
    options = {
        "dtype": "float32",
        "resampling": "bilinear",
        "chunks": 2048,
        "loader": loaders.read_with_odc,
    }
    lazy = loaders.lazy_raster(source, grid, holes=False, **options)
    np.testing.assert_array_equal(lazy.compute(), numbers)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    with pytest.raises(ReadError, match="B02"):
        lazy.compute()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"bands": ("B02", "Oa08")}, BandError, "Oa08"),
        ({"loader": "gdal"}, ConfigError, "stackstac"),
        ({"missing": "ignore"}, ConfigError, "ignore"),
    ],
)
def test_wrong_options_are_named(tile, files_under, options, error, text):
    with pytest.raises(error, match=text):
        open_sentinel2(
            safe_item(tile.folder), tile.geobox, spec=files_under(tile.folder.parent), **options
        )


def test_stackstac_reads_the_same_numbers(opened, tile, files_under):
    pytest.importorskip("stackstac")
    spec = files_under(tile.folder.parent)
    inner = tile.geobox[30:270, 60:330]
    got = open_sentinel2(
        safe_item(tile.folder), inner, spec=spec, bands=("B02", "B08", "B05"), loader="stackstac"
    )
    got = got.compute()
    expected = opened.isel(y=slice(30, 270), x=slice(60, 330))
    for band in ("B02", "B08"):  # native grid: equal
        np.testing.assert_array_equal(
            got.reflectance.sel(band=band), expected.reflectance.sel(band=band)
        )
    np.testing.assert_array_equal(got.scl, expected.scl)
    # stackstac interpolates in the file's integers: half a digital number
    np.testing.assert_allclose(
        got.reflectance.sel(band="B05"), expected.reflectance.sel(band="B05"), atol=0.51e-4
    )


def test_stackstac_absent_names_the_extra(monkeypatch, tile, files_under):
    monkeypatch.setitem(__import__("sys").modules, "stackstac", None)
    spec = files_under(tile.folder.parent)
    lazy = open_sentinel2(
        safe_item(tile.folder), tile.geobox, spec=spec, bands=("B02",), loader="stackstac"
    )
    with pytest.raises(MissingExtraError, match=r"satfuse\[stackstac\]"):
        lazy.reflectance.compute()


@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
def test_zeros_of_a_file_without_nodata_tag_stay_missing_and_do_not_leak(tmp_path, resampling):
    """JPEG 2000 has no nodata tag: zeros must not mix with neighbours nor become small numbers."""
    numbers = np.full((60, 60), 5000, "uint16")
    numbers[:, :30] = 0
    path = tmp_path / "B05.jp2"
    corner = rasterio.transform.from_origin(600000, 5000000, 20, 20)
    profile = {
        "driver": "JP2OpenJPEG",
        "dtype": "uint16",
        "count": 1,
        "QUALITY": "100",
        "REVERSIBLE": "YES",
    }
    with rasterio.open(
        path, "w", width=60, height=60, crs="EPSG:32631", transform=corner, **profile
    ) as file:
        file.write(numbers, 1)
    box = GeoBox((120, 120), corner * Affine.scale(0.5), "EPSG:32631")
    values = loaders.read_with_odc(str(path), box, dtype="float32", resampling=resampling)
    assert set(np.unique(values)) == {0.0, 5000.0}
    assert (values[:, 61:] == 5000).all()
    assert (values[:, :59] == 0).all()
