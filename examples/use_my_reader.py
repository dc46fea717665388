"""Write a small simulated Landsat product, read it, fuse it with a simulated Sentinel-3 image.

python -m examples.use_my_reader
"""

import tempfile
from pathlib import Path

import numpy as np
import rioxarray  # noqa: F401  # gives DataArrays `.rio`
import xarray as xr

import satfuse
from benchmarks.quality.scenes import UNSEEN, Case, Scene, make_scene
from examples.my_reader import BANDS, FILL, MASK, OFFSET, SCALE, open_landsat

# Ratio 10: Landsat's pixels of 30 m in Sentinel-3's of 300 m. Spectra of parametric models, so that
# the scene is the same with and without the real samples.
CASE = Case(place="crop", ratio=10, protocol=UNSEEN, seed=0)
CLOUD = {"y": slice(0, 120), "x": slice(0, 120)}  # a quarter of the scene, in pixels
CLOUD_BIT = 3


def main() -> None:
    """Print what the reader returns, and the error of the fused image."""
    scene = make_scene(CASE)
    with tempfile.TemporaryDirectory() as folder:
        write_product(under_cloud(scene.guide), Path(folder))
        product = open_landsat(folder).load()
    sizes = ", ".join(f"{name} {size}" for name, size in product.sizes.items())
    print(f"sizes: {sizes}")
    print(f"valid: {float(product.valid.mean()):.0%}")
    print(f"files read: {sum(entry.status == 'read' for entry in product.attrs['ledger'])}")
    fused = fuse(product, scene)
    print(f"fused bands: {fused.sizes['band']}, RMSE {rmse(fused, scene):.3f}")


def fuse(product: xr.Dataset, scene: Scene) -> xr.Dataset:
    """Fuse a product of the reader, its invalid pixels left out.

    The default model assumes Sentinel-2's spectral responses, so a model is named that learns from
    the scene alone.
    """
    guide = product.reflectance.where(product.valid)
    return satfuse.fuse(guide, scene.coarse, model="regression")


def rmse(fused: xr.Dataset, scene: Scene) -> float:
    """Root mean square error of reflectance over the pixels that were fused."""
    return float(np.sqrt(np.nanmean((fused.reflectance.values - scene.target) ** 2)))


def under_cloud(guide: xr.DataArray) -> xr.DataArray:
    """The guide (band, y, x), NaN where the cloud is."""
    guide = guide.copy()
    guide[CLOUD] = np.nan
    return guide


def write_product(guide: xr.DataArray, folder: Path) -> None:
    """Write Sentinel-2 bands (band, y, x) as the files of a Landsat product; NaN becomes cloud."""
    cloud = guide.isnull().any("band")
    layers = {asset: (guide.sel(band=name) - OFFSET) / SCALE for asset, name in BANDS.items()}
    layers = {asset: layer.round().where(~cloud, FILL) for asset, layer in layers.items()}
    layers[MASK] = cloud * (1 << CLOUD_BIT)
    for asset, layer in layers.items():
        raster = layer.drop_vars("band", errors="ignore").astype(np.uint16)
        raster.rio.write_crs(guide.odc.crs).rio.to_raster(folder / f"simulated_{asset}.TIF")


if __name__ == "__main__":
    main()
