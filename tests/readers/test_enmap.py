import shutil
from datetime import UTC, datetime

import dask
import numpy as np
import pytest
import rasterio

from satfuse.errors import ReadError
from satfuse.geometry.grids import snap_geobox
from satfuse.readers.enmap import enmap_item, open_enmap
from satfuse.sensors.quality import Quality
from satfuse.simulate.archive.enmap_files import EnmapScene, dead_bands, enmap_bands, write_enmap

GRID = snap_geobox("EPSG:32632", 600000, 5400000, 603000, 5402400, resolution=30)
WAVELENGTH_NM, FWHM_NM = enmap_bands()
LAYERS = {
    "cloud": (0, Quality.GUIDE_CLOUD),
    "cloud_shadow": (1, Quality.GUIDE_SHADOW),
    "cirrus": (2, Quality.GUIDE_CLOUD),
    "haze": (3, Quality(0)),
    "snow": (4, Quality.SNOW),
    "testflags": (5, Quality(0)),
}


@pytest.fixture(scope="module")
def cube():
    rng = np.random.default_rng(0)
    cube = rng.integers(-200, 8000, (224, *GRID.shape)) / 10000
    cube[:, :, :3] = np.nan
    cube[50, 40, 40] = np.nan
    cube[150] = np.nan  # not marked as dead in METADATA.XML
    return cube


@pytest.fixture(scope="module")
def product(tmp_path_factory, cube):
    quality = {}
    for name, (row, _) in LAYERS.items():
        quality[name] = np.zeros(tuple(GRID.shape), "uint8")
        quality[name][10 + row, 10:] = 1 + row % 3
    scene = EnmapScene(start=datetime(2024, 6, 30, 10, 20, 45, tzinfo=UTC))
    folder = tmp_path_factory.mktemp("enmap")
    with np.errstate(all="ignore"):
        return write_enmap(
            folder, cube, GRID, quality, scene, wavelength_nm=WAVELENGTH_NM, fwhm_nm=FWHM_NM
        )


@pytest.fixture(scope="module")
def opened(product, files_under):
    lazy = open_enmap(enmap_item(product), spec=files_under(product.parent))
    assert all(dask.is_dask_collection(lazy[name].data) for name in lazy.data_vars)
    return lazy.compute()


@pytest.fixture
def copy(product, tmp_path):
    return shutil.copytree(product, tmp_path / product.name)


def only(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


def test_reflectance_comes_back(opened, cube):
    expected = cube.astype("float32")
    expected[dead_bands(WAVELENGTH_NM)] = np.nan
    np.testing.assert_allclose(opened.reflectance.values, expected, atol=1e-7)
    assert opened.reflectance.dtype == "float32"
    assert float(opened.reflectance.min()) < -0.019
    assert opened.odc.geobox == GRID


def test_wavelengths_keep_the_order_of_the_file(opened):
    np.testing.assert_allclose(opened.wavelength_nm.values, WAVELENGTH_NM, atol=0.01)
    np.testing.assert_allclose(opened.fwhm_nm.values, FWHM_NM, atol=0.01)
    assert list(opened.band.values) == list(range(1, 225))
    assert opened.attrs["wavelengths_from"] == "METADATA.XML"


def test_dead_and_water_vapour_bands_are_not_usable(opened):
    usable = opened.usable.values
    nm = opened.wavelength_nm.values
    assert not usable[dead_bands(WAVELENGTH_NM)].any()
    assert not usable[150]
    assert not usable[((nm >= 1320) & (nm <= 1410)) | ((nm >= 1790) & (nm <= 1970))].any()
    outside = ~(
        dead_bands(WAVELENGTH_NM) | ((nm >= 1320) & (nm <= 1410)) | ((nm >= 1790) & (nm <= 1970))
    )
    outside[150] = False
    np.testing.assert_array_equal(usable, outside)


@pytest.mark.parametrize("layer", LAYERS)
def test_quality_layers(opened, layer):
    row, flag = LAYERS[layer]
    assert set(opened.quality.values[10 + row, 10:]) == {int(flag)}
    invalid = flag in (Quality.GUIDE_CLOUD, Quality.GUIDE_SHADOW)
    assert opened.valid.values[10 + row, 10:].all() == (not invalid)


def test_valid_needs_every_usable_band(opened):
    assert not opened.valid.values[:, :3].any()
    assert not opened.valid.values[40, 40]
    assert opened.quality.values[40, 40] == Quality.GUIDE_MISSING
    assert opened.valid.values[40, 41]


def test_item_of_a_folder(product):
    item = enmap_item(product)
    assert item.datetime == datetime(2024, 6, 30, 10, 20, 45, tzinfo=UTC)
    assert {
        "image",
        "metadata",
        "quality_cloud",
        "quality_cloud_shadow",
        "defective_pixel_mask",
    } <= set(item.assets)


def test_without_metadata_or_tags_the_error_says_what_is_missing(copy, files_under):
    only(copy, "*METADATA.XML").unlink()
    with pytest.raises(ReadError, match=r"METADATA\.XML.*missing.*wavelength"):
        open_enmap(enmap_item(copy), spec=files_under(copy.parent), missing="flag")


def test_band_tags_stand_in_for_metadata(tmp_path, files_under):
    path = tmp_path / "tile.tif"
    profile = {
        "driver": "GTiff",
        "count": 3,
        "dtype": "float32",
        "height": GRID.shape[0],
        "width": GRID.shape[1],
    }
    with rasterio.open(
        path, "w", **profile, nodata=-32768, crs="EPSG:32632", transform=GRID.affine
    ) as image:
        image.write(np.full((3, *GRID.shape), 2500, "float32"))
        image.scales = [1e-4] * 3
        image.update_tags(start_time="2022-07-24T10:45:26")
        for i, (nm, bbl) in enumerate([("550.5", "1"), ("1939.0", "1"), ("1650.0", "0")], start=1):
            image.update_tags(i, wavelength=nm, fwhm="6.5", bbl=bbl, wavelength_units="Nanometers")
    item = enmap_item(path)
    spec = files_under(tmp_path)
    with pytest.raises(ReadError, match="quality_cloud"):
        open_enmap(item, spec=spec)
    got = open_enmap(item, spec=spec, missing="flag").compute()
    assert list(got.usable.values) == [True, False, False]
    np.testing.assert_allclose(got.reflectance.values, 0.25, rtol=1e-6)
    assert got.attrs["wavelengths_from"] == "band tags"
    assert got.valid.all()
    assert (got.quality.values == Quality.ASSET_MISSING).all()
    assert {r.asset: r.status for r in got.attrs["ledger"]}["metadata"] == "replaced"


@pytest.mark.parametrize("damage", ["truncated", "html"])
def test_damaged_image(copy, files_under, damage):
    item = enmap_item(copy)
    spec = files_under(copy.parent)
    path = only(copy, "*SPECTRAL_IMAGE_COG.TIF")
    whole = path.read_bytes()
    lazy = open_enmap(item, spec=spec)
    path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"<html>Log in</html>")
    with pytest.raises(ReadError, match=f"{item.id}: asset image"):
        open_enmap(item, spec=spec)
    with pytest.raises(ReadError, match=f"{item.id}: asset image"):
        lazy.reflectance.compute()


def test_damaged_metadata_and_foreign_metadata(copy, files_under):
    item = enmap_item(copy)
    spec = files_under(copy.parent)
    path = only(copy, "*METADATA.XML")
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ReadError, match=f"{item.id}: asset metadata"):
        open_enmap(item, spec=spec)
    path.write_text(
        text.replace('<bandID number="224">', '<other number="224">').replace(
            "</bandID>", "</bandID>"
        )
    )
    with pytest.raises(ReadError, match=f"{item.id}"):
        open_enmap(item, spec=spec)


def test_folder_without_an_image(tmp_path):
    with pytest.raises(ReadError, match="SPECTRAL_IMAGE"):
        enmap_item(tmp_path)
