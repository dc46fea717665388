"""A CUDA GPU gives the image of the CPU and trains in mixed precision; skipped without one."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]

from satfuse import checkpoint, models
from satfuse.models.blocks import Cut, fuse_whole
from satfuse.models.prepare import prepare_scene
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.simulate.scenes.factory import biome_scene
from satfuse.simulate.scenes.protocol import Protocol

BANDS = {"guide_bands": S2_NAMES, "coarse_bands": S3_NAMES}
RATIO = 10
PX = 120


@pytest.fixture(autouse=True)
def full_precision():
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def scene():
    """With clouds, holes, a shift and noise."""
    protocol = Protocol(psf_sigma=0.5, shift=(0.25, -0.2), gain=0.02, noise=0.002, cloud=0.15)
    observed = biome_scene("crop", ratio=RATIO, protocol=protocol, seed=3, fine_px=PX)
    return prepare_scene(
        observed.guide,
        observed.coarse[0],
        ratio=RATIO,
        registered=False,
        guide_valid=observed.guide_valid,
        coarse_valid=observed.coarse_valid[0],
    )


def trained(name):
    """A model with its shipped weights, or with random ones: the arithmetic is compared."""
    if name == "bayesian":
        return checkpoint.resolve(name, **BANDS, ratio=RATIO)[0]
    torch.manual_seed(0)
    model = models.create(name, **BANDS, ratio=RATIO)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def fused(model, state, scene, device):
    """Image and uncertainty of the scene, on a device."""
    on_device = {k: v.to(device) for k, v in state.items()}
    cut = Cut.of(model, (PX, PX), RATIO, block_px=PX, mosaic=(60, 60))
    return fuse_whole(model.to(device), on_device, scene.inputs, cut, device)


@pytest.mark.parametrize("name", models.MODELS)
def test_a_gpu_gives_the_image_of_the_cpu(name, scene):
    model = trained(name)
    with torch.inference_mode():
        state = model.fit(scene.summary)
    image, sigma = fused(model, state, scene, "cpu")
    again, again_sigma = fused(model, state, scene, "cuda")
    np.testing.assert_allclose(again, image, rtol=1e-4, atol=1e-4 if name == "fusformer" else 2e-5)
    assert (sigma is None) == (again_sigma is None)
    if sigma is not None:
        np.testing.assert_allclose(again_sigma, sigma, rtol=1e-3)


@pytest.mark.parametrize(("name", "epochs"), [("spectral", 12), ("fusformer", 1), ("ssrnet", 2)])
def test_training_in_mixed_precision_gives_a_checkpoint_for_any_machine(name, epochs, tmp_path):
    pytest.importorskip("xbatcher", reason="training needs the train extra")
    from satfuse import cube
    from satfuse.train import TrainConfig, fit
    from tests import cube_scenes

    scenes = {f"s{i}": cube_scenes.enmap_scene(i, 120, lon=6 + i) for i in range(3)}
    split = {"s0": "train", "s1": "val", "s2": "test"}
    built = cube.build(scenes, tmp_path / "c.zarr", split=split)
    settings = {
        "model": name,
        "epochs": epochs,
        "tensorboard": False,
        "device": "cuda",
        "mixed_precision": True,
        "batches": {"patch": 40, "size": 4, "coverage": 2.0},
    }
    metrics = fit(built.path, TrainConfig.from_dict(settings), tmp_path / "out")
    assert metrics["val_rmse"] < metrics["val_rmse_untrained"]
    if name == "spectral":
        assert metrics["test_rmse"] < 0.5 * metrics["test_rmse_bicubic"]
    model, card = checkpoint.load(tmp_path / "out", coarse_bands=built.coarse_bands)
    assert next(model.parameters()).device.type == "cpu"
    assert card.metrics == metrics


def test_fuse_field_gives_the_product_of_the_cpu(tmp_path):
    import xarray as xr

    from satfuse.infer import FuseConfig, fuse_field, write_scene
    from satfuse.infer.reopen import open_run
    from tests.product_scene import make_crops

    path = write_scene(
        make_crops()[0], tmp_path / "scene.zarr", field="demo", time="2024-06-01T10:00:00+00:00"
    )
    config = FuseConfig(shard_px=150, chunk_px=150, block_px=90, workers=1, memory_limit="0")
    products = []
    for device in ("cpu", "cuda"):
        item = fuse_field(
            path, "bayesian", tmp_path / device, config=replace(config, device=device)
        )
        products.append(open_run(item)[0].load())
    cpu, cuda = products
    xr.testing.assert_equal(cpu.quality, cuda.quality)
    assert abs(cpu.reflectance - cuda.reflectance).max() < 1.5e-4  # a digital number
    # a step of the encoding, which has five significant bits
    np.testing.assert_allclose(cpu.uncertainty, cuda.uncertainty, rtol=0.07)
