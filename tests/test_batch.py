"""Batches of patches from a cube: reproducible, degraded by the one observation model."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from tests import cube_scenes

torch = pytest.importorskip("torch")
pytest.importorskip("xbatcher")
pytestmark = pytest.mark.torch

from satfuse import cube
from satfuse.batch import BatchConfig, BlockLoader, XbatcherPatches, degrade_batch
from satfuse.errors import ConfigError, CubeError
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.degradation import degrade
from satfuse.sensors.encoding import FILL, SCALE

CONFIG = BatchConfig(patch=40, size=5, coverage=1.0, blocks_mixed=2)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("batch") / "c.zarr"
    scenes = {
        f"s{i}": cube_scenes.enmap_scene(i, size, lon=6 + i, hole=i == 1)
        for i, size in enumerate((200, 160, 150, 150))
    }
    split = {"s0": "train", "s1": "train", "s2": "train", "s3": "val"}
    return cube.build(scenes, path, split=split)


def same(a, b):
    return all(torch.equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in x)


def test_batches_have_the_shapes_that_a_network_takes(built):
    loader = BlockLoader(built, "train", CONFIG)
    batches = list(loader.epoch(0))
    assert len(batches) == len(loader)
    assert sum(len(b["valid"]) for b in batches) == loader.patches_per_epoch
    for batch in batches:
        assert batch["guide"].shape[1:] == (12, 40, 40)
        assert batch["target"].shape[1:] == (19, 40, 40)
        assert batch["coarse"].shape[1:] == (19, 4, 4)
        assert batch["coarse_valid"].shape[1:] == (1, 4, 4)
        for image in (batch["guide"], batch["coarse"], batch["target"]):
            assert image.dtype == torch.float32
            assert image.isfinite().all()


def test_patches_are_cut_where_the_plan_says(built):
    """Every patch equals its part of the scene, aligned to the ratio inside its block."""
    loader = BlockLoader(built, "train", CONFIG)
    plan = loader.plan(3)
    assert (plan[:, 1:] % CONFIG.ratio == 0).all()
    assert len(np.unique(plan[:, 0])) == len(loader.blocks)
    patches = torch.cat([b["target"] for b in loader.patches(3)])
    for (block, y, x), patch in list(zip(plan, patches, strict=True))[::7]:
        stored = loader.blocks[block].load()["target"][:, y : y + 40, x : x + 40]
        expected = np.where(stored == FILL, np.nan, stored * np.float32(SCALE))
        np.testing.assert_array_equal(patch.numpy(), expected)


def test_blocks_are_whole_shards_and_cover_the_scene(built, monkeypatch):
    monkeypatch.setattr("satfuse.cube.store.SHARD", 128)
    scene = {"big": cube_scenes.enmap_scene(5, 300)}
    small = cube.build(scene, built.path + "-shards", split={"big": "train"})
    loader = BlockLoader(small, "train", CONFIG)
    sizes = sorted(b.load()["valid"].shape[1:] for b in loader.blocks)
    assert sizes == sorted([(128, 128)] * 4 + [(128, 44)] * 2 + [(44, 128)] * 2 + [(44, 44)])
    total = sum(int(b.load()["target"].astype(np.int64).sum()) for b in loader.blocks)
    assert total == int(small.open_scene("big").target.values.astype(np.int64).sum())


def test_seed_and_epoch_determine_the_batches_which_resume_anywhere(built):
    loader = BlockLoader(built, "train", CONFIG, seed=4)
    whole = list(loader.epoch(2))
    assert same(whole, BlockLoader(built, "train", CONFIG, seed=4, prefetch=0).epoch(2))
    for start in (1, len(whole) - 1, len(whole)):
        assert same(whole[start:], BlockLoader(built, "train", CONFIG, seed=4).epoch(2, start))
    other_seed = BlockLoader(built, "train", CONFIG)
    for other in (loader.epoch(3), other_seed.epoch(2)):
        assert not torch.equal(next(other)["target"], whole[0]["target"])


def test_coarse_is_the_one_observation_model(built):
    config = replace(CONFIG, psf_sigma=(0.45, 0.45), shift=0.0, gain=0.0, noise=0.0)
    for batch in BlockLoader(built, "train", config).epoch(0):
        for i in range(len(batch["valid"])):
            valid = batch["valid"][i, 0].numpy()
            expected = degrade(batch["target"][i].numpy(), 10, 0.45, valid=valid)
            usable = batch["coarse_valid"][i, 0].numpy()
            coarse = batch["coarse"][i].numpy()
            np.testing.assert_array_equal(np.isfinite(expected).all(0), usable)
            np.testing.assert_allclose(coarse[:, usable], expected[:, usable], atol=1e-5)


def test_holes_of_the_coarse_image_take_the_nearest_value():
    target = torch.linspace(0, 1, 40).repeat(1, 2, 40, 1)  # columns of equal value
    valid = torch.ones(1, 1, 40, 40, dtype=torch.bool)
    valid[..., :10] = False
    patches = {"guide": target, "target": target, "valid": valid}
    batch = degrade_batch(patches, CONFIG.noise_free(), np.random.default_rng(0))
    assert not batch["coarse_valid"][..., 0].any()
    assert torch.equal(batch["coarse"][..., 0], batch["coarse"][..., 1])
    patches["valid"] = torch.zeros_like(valid)
    empty = degrade_batch(patches, CONFIG.noise_free(), np.random.default_rng(0))
    assert (empty["coarse"] == 0).all()


def test_every_disturbance_has_its_effect(built):
    patches = next(BlockLoader(built, "val", CONFIG).patches(0))
    noise_free = CONFIG.noise_free()
    clean = degrade_batch(patches, noise_free, np.random.default_rng(0))
    noisy = degrade_batch(patches, replace(noise_free, noise=0.01), np.random.default_rng(0))
    for image in ("guide", "coarse"):
        assert (noisy[image] - clean[image]).std() == pytest.approx(0.01, rel=0.1)
    gained = degrade_batch(patches, replace(noise_free, gain=0.05), np.random.default_rng(0))
    factor = gained["guide"] / clean["guide"]
    assert factor.std((-1, -2)).max() < 1e-5
    assert factor[:, :, 0, 0].std() == pytest.approx(0.05, rel=0.4)
    assert torch.equal(gained["coarse"], clean["coarse"])
    shifted = degrade_batch(patches, replace(noise_free, shift=0.3), np.random.default_rng(0))
    blurred = degrade_batch(
        patches, replace(noise_free, psf_sigma=(0.8, 0.8)), np.random.default_rng(0)
    )
    for other in (shifted, blurred):
        assert (other["coarse"] - clean["coarse"]).abs().max() > 1e-3
        assert torch.equal(other["target"], clean["target"])


def test_patches_with_holes(built):
    strict = BlockLoader(built, "train", replace(CONFIG, minimum_valid=1.0))
    assert all(b["valid"].all() for b in strict.patches(0))
    loose = BlockLoader(built, "train", replace(CONFIG, minimum_valid=0.3))
    share = torch.cat([b["valid"].float().mean((1, 2, 3)) for b in loose.patches(0)])
    assert 0.3 <= share.min() < 1.0
    for batch in loose.epoch(0):
        holes = ~batch["valid"].expand_as(batch["target"])
        assert batch["target"][holes].abs().max() < 1.0 if holes.any() else True


def test_patches_of_blocks_are_mixed(built):
    loader = BlockLoader(built, "train", replace(CONFIG, coverage=6.0, blocks_mixed=3))
    blocks = loader.plan(0)[:, 0]
    changes = (blocks[1:] != blocks[:-1]).mean()
    assert changes > 0.4  # unmixed blocks would change twice in an epoch
    unmixed = BlockLoader(built, "train", replace(CONFIG, coverage=6.0, blocks_mixed=1))
    assert (np.diff(unmixed.plan(0)[:, 0]) != 0).mean() < changes


def test_the_reading_thread_ends_with_the_consumer(built):
    batches = BlockLoader(built, "train", CONFIG).epoch(0)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("satfuse-blocks")]


def test_plain_xbatcher_gives_the_same_kind_of_batch(built):
    plain = list(XbatcherPatches(built, "val", CONFIG).patches(0))
    assert sum(len(b["valid"]) for b in plain) == 9  # whole patches of 40 in 150 x 150
    assert plain[0].keys() == next(BlockLoader(built, "val", CONFIG).patches(0)).keys()
    scene = built.open_scene("s3", decode=True).target.values[:, :120, :120].astype(np.float32)
    total = torch.cat([b["target"] for b in plain]).sum()
    assert total == pytest.approx(float(scene.sum()), rel=1e-4)


def test_pairs_are_degraded_once_more(tmp_path):
    """Wald protocol on real pairs: the coarse image is the target, the guide is degraded to it."""
    rng = np.random.default_rng(0)
    source = cube_scenes.enmap_scene(9, 300)
    grid = source.coords.to_dataset().drop_dims("band")
    coarse = rng.random((2, 21, 100, 100), np.float32)
    scene = grid.assign_coords(guide_band=list(S2_NAMES), coarse_band=list(S3_NAMES)).assign(
        guide=(("guide_band", "y", "x"), source.reflectance.values[:12]),
        guide_valid=(("y", "x"), np.ones((300, 300), bool)),
        coarse=(("frame", "coarse_band", "y_coarse", "x_coarse"), coarse),
        coarse_valid=(("frame", "y_coarse", "x_coarse"), np.ones((2, 100, 100), bool)),
    )
    pairs = cube.build_pairs({"p": scene}, tmp_path / "p.zarr", split={"p": "train"})
    loader = BlockLoader(pairs, "train", replace(CONFIG, patch=20))
    batch = next(loader.epoch(0))
    assert batch["guide"].shape == (5, 12, 20, 20)
    assert batch["coarse"].shape == (5, 21, 2, 2)
    block = loader.blocks[0].load()
    np.testing.assert_allclose(block["target"] * 1e-4, scene.coarse[0], atol=0.6e-4)
    np.testing.assert_allclose(block["guide"] * 1e-4, degrade(scene.guide.values, 3), atol=1.1e-4)


def test_errors_name_the_cause(built):
    counts = r"\(\{'train': 3, 'val': 1, 'test': 0\}\)"
    with pytest.raises(CubeError, match=f"no scene in split 'test' {counts}"):
        BlockLoader(built, "test", CONFIG)
    with pytest.raises(CubeError, match="no 200 px patch with 50% valid"):
        BlockLoader(built, "val", replace(CONFIG, patch=200))
    with pytest.raises(ConfigError, match="patch 45 must be a multiple of ratio 10"):
        BatchConfig(patch=45)
    with pytest.raises(ConfigError, match="psf_sigma"):
        BatchConfig(psf_sigma=(0.6, 0.4))
