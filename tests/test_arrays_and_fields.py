"""`satfuse.fuse` and `fuse_field` prepare a scene in one way.

The same scene and model give the same product.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from odc.geo.xr import xr_coords

pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = pytest.mark.torch

import torch
from distributed import LocalCluster

import satfuse
from satfuse import checkpoint, models
from satfuse.geometry.grids import coarse_geobox, snap_geobox
from satfuse.infer import FuseConfig, fuse_field, write_scene
from satfuse.infer.reopen import open_run
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.encoding import FILL, encode
from satfuse.sensors.quality import Quality
from satfuse.simulate.scenes.factory import biome_scene
from satfuse.simulate.scenes.protocol import Protocol

RATIO = 10
PX = 180
FUSFORMER_PX = 60  # its attention costs with the fourth power of a window's side
TIME = "2024-06-01T10:00:00+00:00"
# models whose weights are not in the package
UNTRAINED = ("library_regression", "ssrnet", "spectral", "fusformer")


@pytest.fixture(scope="module")
def scheduler():
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False) as cluster:
        yield cluster.scheduler_address


@cache
def simulated(fine_px):
    """Clouds in both images, a shift of 0.4 coarse pixels, noise."""
    protocol = Protocol(shift=(0.4, -0.2), gain=0.02, noise=0.002, cloud=0.15)
    return biome_scene("crop", ratio=RATIO, protocol=protocol, seed=3, fine_px=fine_px)


def make_scene(fine_px, *, trusted):
    """A scene as `satfuse.scene.make_scene` returns it; masked pixels keep their values."""
    geobox = snap_geobox(
        "EPSG:32631", 388800, 3394500, 388800 + 10 * fine_px, 3394500 + 10 * fine_px
    )
    truth = simulated(fine_px)
    guide_valid = truth.guide_valid.copy()
    guide_valid[20:31, 30:55] = False  # a hole that is no cloud
    coarse_valid = truth.coarse_valid[0].copy()
    coarse_valid[4, 5] = False
    coarse = truth.coarse[0].copy()
    coarse[:, ~coarse_valid] = np.nan
    coarse[S3_NAMES.index("Oa05")] = np.nan  # a band without any data
    coarse[3, 2, 4] = np.nan  # a pixel that lacks one band
    small = xr_coords(coarse_geobox(geobox, RATIO))
    fine_dims = ("y", "x")
    coarse_dims = ("y_coarse", "x_coarse")
    plane = {"grid_mapping": "spatial_ref"}
    coords = {
        **xr_coords(geobox),
        "y_coarse": small["y"].values,
        "x_coarse": small["x"].values,
        "guide_band": list(S2_NAMES),
        "coarse_band": list(S3_NAMES),
    }
    guide_quality = np.where(guide_valid, 0, int(Quality.GUIDE_MISSING)).astype("uint16")
    coarse_quality = np.where(coarse_valid, 0, int(Quality.COARSE_MISSING)).astype("uint16")
    if not trusted:
        coarse_quality |= np.uint16(Quality.SHIFT_UNTRUSTED)
    registration = {"shift_m": (0.0, 0.0), "shift_trusted": int(trusted)}
    return xr.Dataset(
        {
            "guide": (("guide_band", *fine_dims), truth.guide, plane),
            "guide_valid": (fine_dims, guide_valid, plane),
            "guide_quality": (fine_dims, guide_quality, plane),
            "coarse": (("coarse_band", *coarse_dims), coarse, registration),
            "coarse_valid": (coarse_dims, coarse_valid),
            "coarse_quality": (coarse_dims, coarse_quality),
        },
        coords=coords,
        attrs=registration,
    )


def arrays(scene):
    """The same scene as the arguments of `satfuse.fuse`."""
    guide = scene.guide.where(scene.guide_valid).rename(guide_band="band")
    coarse = scene.coarse.rename(coarse_band="band", y_coarse="y", x_coarse="x")
    return (
        guide.assign_attrs(crs="EPSG:32631").drop_vars("spatial_ref"),
        coarse.assign_attrs(crs="EPSG:32631").drop_vars("spatial_ref"),
    )


def saved(name, folder):
    """The name of a model, or the folder of a checkpoint with random weights."""
    if name not in UNTRAINED:
        return name
    torch.manual_seed(0)
    model = models.create(name, guide_bands=S2_NAMES, coarse_bands=S3_NAMES, ratio=RATIO)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    checkpoint.save(model, folder, {"data": {}, "metrics": {}})
    return str(folder)


@pytest.mark.parametrize("trusted", [True, False], ids=["registered", "untrusted"])
@pytest.mark.parametrize("name", models.MODELS)
def test_arrays_and_fields_give_the_same_product(name, trusted, scheduler, tmp_path):
    fine_px = FUSFORMER_PX if name == "fusformer" else PX
    scene = make_scene(fine_px, trusted=trusted)
    model = saved(name, tmp_path / "checkpoint")
    fused = satfuse.fuse(*arrays(scene), model=model)

    path = write_scene(scene, tmp_path / "scene.zarr", field="crops", time=TIME)
    config = FuseConfig(shard_px=fine_px // 2, chunk_px=fine_px // 2)  # four tiles
    item = fuse_field(
        path, model, tmp_path / "store", ratio=RATIO, config=config, scheduler=scheduler
    )
    run = json.loads(Path(item).read_text())["properties"]["satfuse:run"]
    group = xr.open_zarr(
        tmp_path / f"store/data/crops_20240601T100000/{run}.zarr",
        consolidated=False,
        mask_and_scale=False,
    ).isel(time=0)

    expected = encode(fused.reflectance.values).astype(int)
    missing = expected == FILL
    np.testing.assert_array_equal(group.reflectance.values == FILL, missing)
    # float32 sums of other blocks differ in the last digits, which may round the other way
    difference = np.abs(group.reflectance.values - expected)[~missing]
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.99
    if "uncertainty" in fused:
        sigma = group.uncertainty.values * 2e-5
        np.testing.assert_array_equal(sigma < 0, np.isnan(fused.uncertainty))
        np.testing.assert_allclose(sigma[sigma > 0], fused.uncertainty.values[sigma > 0], rtol=0.05)
    assert ("uncertainty" in fused) == ("uncertainty" in group)
    np.testing.assert_array_equal(group.quality, fused.quality)
    facts = json.loads(Path(item).read_text())["properties"]
    assert facts["satfuse:shift_trusted"] == bool(fused.attrs["shift_trusted"])
    flagged = (fused.quality.values & int(Quality.SHIFT_UNTRUSTED)) > 0
    assert flagged.all() == (not fused.attrs["shift_trusted"])
    # the Bayesian model estimates the shift; the others cannot replace a failed registration
    assert flagged.any() == (not trusted and name != "bayesian")
    # fused again, for example with larger pixels, the scene is as registered as it was
    assert bool(open_run(item)[1].attrs["shift_trusted"]) == trusted
