import numpy as np
import pytest
import rasterio
import xarray as xr

from satfuse import open_fused
from satfuse.errors import BandError, ProductError, StoreError
from satfuse.geometry.grids import lonlat_bbox, snap_geobox
from satfuse.product.export import to_cog
from satfuse.product.store import Store
from tests.product_store import publish_flat

BOX = snap_geobox("EPSG:32631", 388800, 3394500, 388800 + 9000, 3394500 + 7200)


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    publish_flat(store, "p", BOX, value=0.2, uncertainty=0.004)
    data = open_fused(lonlat_bbox(BOX), "2024-06-01", store=store.url).load()
    data.reflectance[0, :, :100, :200] = np.nan
    data.reflectance[0, 3, 300:, :] = 0.05
    return data


def test_a_cog_keeps_values_bands_and_place(product, tmp_path):
    path = to_cog(product, tmp_path / "p.tif", bands=["Oa17", "Oa04"])
    with rasterio.open(path) as file:
        assert file.descriptions == ("Oa17", "Oa04")
        assert file.nodata == -32768
        assert file.scales == (1e-4, 1e-4)
        assert file.crs.to_epsg() == 32631
        assert file.transform == BOX.affine
        assert file.overviews(1)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        values = file.read(masked=True) * 1e-4
    assert values.mask[:, :100, :200].all()
    assert values.mask.sum() == 2 * 100 * 200
    np.testing.assert_allclose(values[1, 300:], 0.05, atol=1e-6)
    np.testing.assert_allclose(values[0, 300:], 0.2, atol=1e-6)


def test_a_cog_of_the_uncertainty(product, tmp_path):
    with rasterio.open(
        to_cog(product, tmp_path / "u.tif", bands=["Oa17", "S6N"], variable="uncertainty")
    ) as file:
        assert file.descriptions == ("Oa17", "S6N")
        assert file.nodata == -32768
        assert file.scales == (2e-5, 2e-5)
        first, last = file.read(masked=True) * 2e-5
    np.testing.assert_allclose(first, product.uncertainty.sel(band="Oa17").squeeze(), rtol=1e-5)
    assert not first.mask.any()
    assert last.mask.all()
    with pytest.raises(ProductError, match="no 'uncertainty' in the product, only reflectance"):
        to_cog(product.drop_vars("uncertainty"), tmp_path / "u.tif", variable="uncertainty")


def test_exports_refuse_what_is_not_there(product, tmp_path):
    with pytest.raises(BandError, match="Oa99"):
        to_cog(product, tmp_path / "p.tif", bands=["Oa99"])
    with pytest.raises(BandError, match="2 dates"):
        to_cog(xr.concat([product, product], "time"), tmp_path / "p.tif")
    with pytest.raises(StoreError, match="cannot write"):
        to_cog(product, tmp_path / "no" / "folder.tif")
