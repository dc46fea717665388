import threading
from dataclasses import replace

import cube_scenes
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("xbatcher")
pytestmark = pytest.mark.torch

from satfuse import cube
from satfuse.batch import BatchConfig, BlockLoader, XbatcherPatches, observe
from satfuse.errors import ConfigError, CubeError
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.degradation import degrade

CONFIG = BatchConfig(patch=40, size=5, coverage=1.0, blocks_mixed=2)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("batch") / "c.zarr"
    scenes = {
        f"s{i}": cube_scenes.enmap_scene(i, (200, 160, 150, 150)[i], lon=6 + i, hole=i == 1)
        for i in range(4)
    }
    return cube.build(
        scenes, path, split={"s0": "train", "s1": "train", "s2": "train", "s3": "val"}
    )


def same(a, b):
    return all(torch.equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in x)


def test_batches_are_what_a_network_takes(built):
    loader = BlockLoader(built, "train", CONFIG)
    batches = list(loader.epoch(0))
    assert (
        len(batches) == len(loader)
        and sum(len(b["valid"]) for b in batches) == loader.patches_per_epoch
    )
    for batch in batches:
        assert batch["guide"].shape[1:] == (12, 40, 40) and batch["target"].shape[1:] == (
            19,
            40,
            40,
        )
        assert batch["coarse"].shape[1:] == (19, 4, 4) and batch["coarse_valid"].shape[1:] == (
            1,
            4,
            4,
        )
        assert all(
            batch[k].isfinite().all() and batch[k].dtype == torch.float32
            for k in ("guide", "coarse", "target")
        )


def test_patches_are_cut_where_the_plan_says(built, monkeypatch):
    """Every patch is found again in its scene, aligned to the ratio inside its block."""
    loader = BlockLoader(built, "train", CONFIG)
    plan = loader.plan(3)
    assert (plan[:, 1:] % CONFIG.ratio == 0).all() and len(np.unique(plan[:, 0])) == len(
        loader.blocks
    )
    got = torch.cat([b["target"] for b in loader.patches(3)])
    for (block, y, x), patch in list(zip(plan, got, strict=True))[::7]:
        expected = loader.blocks[block].load()["target"][:, y : y + 40, x : x + 40] * np.float32(
            1e-4
        )
        expected = np.where(expected < -3, np.nan, expected)
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


def test_same_by_seed_and_epoch_and_resumable(built):
    whole = list(BlockLoader(built, "train", CONFIG, seed=4).epoch(2))
    assert same(whole, BlockLoader(built, "train", CONFIG, seed=4, prefetch=0).epoch(2))
    for start in (1, len(whole) - 1, len(whole)):
        assert same(whole[start:], BlockLoader(built, "train", CONFIG, seed=4).epoch(2, start))
    for other in (
        BlockLoader(built, "train", CONFIG, seed=4).epoch(3),
        BlockLoader(built, "train", CONFIG).epoch(2),
    ):
        assert not torch.equal(next(other)["target"], whole[0]["target"])


def test_coarse_is_the_one_observation_model(built):
    config = replace(CONFIG, psf_sigma=(0.45, 0.45), shift=0.0, gain=0.0, noise=0.0)
    for batch in BlockLoader(built, "train", config).epoch(0):
        for i in range(len(batch["valid"])):
            valid = batch["valid"][i, 0].numpy()
            expected = degrade(batch["target"][i].numpy(), 10, 0.45, valid=valid)
            known = batch["coarse_valid"][i, 0].numpy()
            np.testing.assert_array_equal(np.isfinite(expected).all(0), known)
            np.testing.assert_allclose(
                batch["coarse"][i].numpy()[:, known], expected[:, known], atol=1e-5
            )


def test_every_disturbance_does_its_part(built):
    patches = next(BlockLoader(built, "val", CONFIG).patches(0))
    still = CONFIG.undisturbed()
    quiet = observe(patches, still, np.random.default_rng(0))
    noisy = observe(patches, replace(still, noise=0.01), np.random.default_rng(0))
    for image in ("guide", "coarse"):
        assert (noisy[image] - quiet[image]).std() == pytest.approx(0.01, rel=0.1)
    gained = observe(patches, replace(still, gain=0.05), np.random.default_rng(0))
    factor = gained["guide"] / quiet["guide"]
    assert factor.std((-1, -2)).max() < 1e-5 and factor[:, :, 0, 0].std() == pytest.approx(
        0.05, rel=0.4
    )
    assert torch.equal(gained["coarse"], quiet["coarse"])
    shifted = observe(patches, replace(still, shift=0.3), np.random.default_rng(0))
    blurred = observe(patches, replace(still, psf_sigma=(0.8, 0.8)), np.random.default_rng(0))
    for other in (shifted, blurred):
        assert (other["coarse"] - quiet["coarse"]).abs().max() > 1e-3
        assert torch.equal(other["target"], quiet["target"])


def test_patches_with_holes(built):
    strict = BlockLoader(built, "train", replace(CONFIG, minimum_valid=1.0))
    assert all(b["valid"].all() for b in strict.patches(0))
    loose = BlockLoader(built, "train", replace(CONFIG, minimum_valid=0.3))
    share = torch.cat([b["valid"].float().mean((1, 2, 3)) for b in loose.patches(0)])
    assert 0.3 <= share.min() < 1.0
    for batch in loose.epoch(0):
        holes = ~batch["valid"].expand_as(batch["target"])
        assert batch["target"][holes].abs().max() < 1.0 if holes.any() else True


def test_blocks_are_mixed_but_few_are_held(built):
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
    assert not [
        t for t in threading.enumerate() if t.name.startswith("satfuse-blocks") and t.is_alive()
    ]


def test_plain_xbatcher_gives_the_same_kind_of_batch(built):
    plain = list(XbatcherPatches(built, "val", CONFIG).patches(0))
    assert sum(len(b["valid"]) for b in plain) == 9  # whole patches of 40 in 150 x 150
    assert plain[0].keys() == next(BlockLoader(built, "val", CONFIG).patches(0)).keys()
    scene = built.open_scene("s3", decode=True).target.values[:, :120, :120].astype(np.float32)
    assert torch.cat([b["target"] for b in plain]).sum() == pytest.approx(
        float(scene.sum()), rel=1e-4
    )


def test_pairs_are_degraded_once_more(built, tmp_path):
    """Wald protocol on real pairs: the coarse image is the target, the guide comes down to its grid."""
    rng = np.random.default_rng(0)
    source = cube_scenes.enmap_scene(9, 300)
    scene = source.coords.to_dataset().drop_dims("band").assign_coords(
        guide_band=list(S2_NAMES), coarse_band=list(S3_NAMES)
    ).assign(
        guide=(("guide_band", "y", "x"), source.reflectance.values[:12]),
        guide_valid=(("y", "x"), np.ones((300, 300), bool)),
        coarse=(("frame", "coarse_band", "y_coarse", "x_coarse"), rng.random((2, 21, 100, 100), np.float32)),
        coarse_valid=(("frame", "y_coarse", "x_coarse"), np.ones((2, 100, 100), bool)),
    )  # fmt: skip
    pairs = cube.build_pairs({"p": scene}, tmp_path / "p.zarr", split={"p": "train"})
    loader = BlockLoader(pairs, "train", replace(CONFIG, patch=20))
    batch = next(loader.epoch(0))
    assert batch["guide"].shape == (5, 12, 20, 20) and batch["coarse"].shape == (5, 21, 2, 2)
    block = loader.blocks[0].load()
    np.testing.assert_allclose(block["target"] * 1e-4, scene.coarse[0], atol=0.6e-4)
    np.testing.assert_allclose(block["guide"] * 1e-4, degrade(scene.guide.values, 3), atol=1.1e-4)


def test_errors_name_the_culprit(built):
    with pytest.raises(
        CubeError, match=r"no scene in split 'test' \(\{'train': 3, 'val': 1, 'test': 0\}\)"
    ):
        BlockLoader(built, "test", CONFIG)
    with pytest.raises(CubeError, match="no 200 px patch with 50% valid"):
        BlockLoader(built, "val", replace(CONFIG, patch=200))
    with pytest.raises(ConfigError, match="patch 45 must be a multiple of ratio 10"):
        BatchConfig(patch=45)
    with pytest.raises(ConfigError, match="psf_sigma"):
        BatchConfig(psf_sigma=(0.6, 0.4))
