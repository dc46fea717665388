"""NDVI of a stored product of real EnMAP spectra against real land-cover labels, Potsdam east."""

import json

import numpy as np
import pytest
import rasterio
import xarray as xr
from rasterio.merge import merge

pytest.importorskip("torch")

from satfuse.catalog.specs import local_catalog
from satfuse.infer import FuseConfig, fuse_field, write_scene
from satfuse.readers.enmap import enmap_item, open_enmap
from satfuse.sensors.bands import S2_NAMES, S3_ENMAP_NAMES
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, degrade
from satfuse.sensors.srf import srf_matrix
from satfuse.validate.product import validate_item

pytestmark = [pytest.mark.samples, pytest.mark.torch]
RATIO = 10
LEGEND = """vegetation = [3, 4]
[classes]
1 = "roof"
2 = "pavement"
3 = "low vegetation"
4 = "tree"
5 = "soil"
6 = "water"
"""


def potsdam_east(samples):
    """A scene of the eastern tiles at 30 m, guide and coarse image simulated from the spectra."""
    spec = local_catalog("http://127.0.0.1", samples)
    tiles = sorted((samples / "enmap_potsdam_block_s/images").glob("*tile_1[69]*.tif"))
    tiles = [t for t in tiles if int(t.stem.split("_")[-2]) >= 160]
    parts = [open_enmap(enmap_item(t), spec=spec, missing="flag") for t in tiles]
    usable = np.all([part["usable"].values for part in parts], axis=0)
    reflectance = [part[["reflectance"]] for part in parts]
    image = xr.combine_by_coords(reflectance, combine_attrs="override")
    image = image.sortby("y", ascending=False).isel(y=slice(4, 124), x=slice(2, 62))
    spectra = image["reflectance"].values
    wavelength = image["wavelength_nm"].values

    def band_images(platform, names):
        weights, _ = srf_matrix(platform, names, wavelength, usable=usable)
        used = (weights != 0).any(0)
        return np.einsum("bk,kyx->byx", weights[:, used], spectra[used]).astype("float32")

    guide = band_images("S2A", S2_NAMES)
    coarse = degrade(band_images("S3A", S3_ENMAP_NAMES), RATIO)
    fine = ("y", "x")
    small = ("y_coarse", "x_coarse")
    attrs = {"grid_mapping": "spatial_ref"}
    layers = {
        "guide": (("guide_band", *fine), guide, attrs),
        "guide_valid": (fine, np.ones(guide.shape[1:], bool), attrs),
        "guide_quality": (fine, np.zeros(guide.shape[1:], "uint16"), attrs),
        "coarse": (("coarse_band", *small), coarse),
        "coarse_valid": (small, np.ones(coarse.shape[1:], bool)),
        "coarse_quality": (small, np.zeros(coarse.shape[1:], "uint16")),
    }
    coords = {
        "guide_band": list(S2_NAMES),
        "coarse_band": list(S3_ENMAP_NAMES),
        "spatial_ref": image["spatial_ref"],
    }
    for dim in ("y", "x"):
        centres = image[dim].values
        coords |= {dim: centres, f"{dim}_coarse": centres.reshape(-1, RATIO).mean(1)}
    attrs = {
        "psf_sigma": DEFAULT_PSF_SIGMA,
        "shift_m": (0.0, 0.0),
        "shift_trusted": True,
        "gap_s": 0.0,
    }
    return xr.Dataset(layers, coords=coords, attrs=attrs)


@pytest.fixture(scope="module")
def report(samples, scheduler, tmp_path_factory):
    folder = tmp_path_factory.mktemp("potsdam")
    labels, transform = merge(sorted((samples / "enmap_potsdam_block_s/labels").glob("*.tif")))
    profile = {
        "driver": "GTiff",
        "dtype": "float32",
        "count": 1,
        "crs": "EPSG:32633",
        "transform": transform,
    }
    with rasterio.open(folder / "labels.tif", "w", height=128, width=128, **profile) as raster:
        raster.write(labels)
    (folder / "legend.toml").write_text(LEGEND)
    time = "2022-07-24T10:45:26+00:00"
    scene = potsdam_east(samples)
    path = write_scene(scene, folder / "scene.zarr", field="potsdam-east", time=time)
    config = FuseConfig(shard_px=60, chunk_px=60, block_px=60)
    item = fuse_field(
        path, "bayesian", folder / "store", ratio=RATIO, scheduler=scheduler, config=config
    )
    legend = str(folder / "legend.toml")
    out = validate_item(item, folder, land_cover=folder / "labels.tif", legend=legend)
    return out, json.loads((out / "metrics.json").read_text())


def test_ndvi_finds_the_labelled_vegetation(report):
    _, result = report
    agreement = result["vegetation"]
    images = agreement["images"]
    assert agreement["pixels"] == 2065
    assert agreement["vegetated"] == pytest.approx(0.599, abs=0.001)
    # as good as Sentinel-2, clearly better than the coarse image and than calling all vegetation
    assert images["guide"]["jaccard"] == pytest.approx(0.82, abs=0.02)
    assert abs(images["fused"]["minus_guide"]) < 0.01
    low, high = images["fused"]["minus_guide_interval"]
    assert low <= 0 <= high
    assert high - low < 0.03
    assert images["bicubic"]["minus_guide_interval"][1] < 0
    assert images["fused"]["jaccard"] > agreement["vegetated"] + 0.15


def test_every_class_is_measured(report):
    out, result = report
    classes = result["classes"]
    assert list(classes) == ["roof", "pavement", "low vegetation", "tree", "soil", "water"]
    for name in ("roof", "pavement", "low vegetation", "tree", "soil"):
        guide = classes[name]["guide"]
        assert guide["fused"]["sam_deg"] < 1.5 < guide["bicubic"]["sam_deg"]
        assert guide["fused"]["jensen_shannon"] < 0.1 * guide["bicubic"]["jensen_shannon"]
    assert classes["tree"]["coarse_pixels"] > 0
    assert {"vegetation.png", "classes.png"} <= {p.name for p in out.glob("*.png")}
    text = (out / "metrics.md").read_text()
    assert "against the vegetation of the land-cover map" in text
    assert "| low vegetation |" in text
