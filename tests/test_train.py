"""Training on a cube learns, resumes bit-identically, and refuses what cannot be trained."""

import csv
import json

import pytest

from tests import cube_scenes

torch = pytest.importorskip("torch")
pytest.importorskip("xbatcher")
pytestmark = pytest.mark.torch

from satfuse import checkpoint, cube
from satfuse.batch import BatchConfig
from satfuse.errors import CheckpointError, ConfigError, CubeError, TrainError
from satfuse.losses import Score, fusion_loss, spectral_angle
from satfuse.models import FusionModel
from satfuse.models.ssrnet import SSRNet
from satfuse.train import TrainConfig, fit, loop
from satfuse.train.config import learning_rate

SMALL = {"epochs": 3, "state_every": 4, "tensorboard": False, "batches": {"patch": 40, "size": 4}}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("train") / "c.zarr"
    scenes = {f"s{i}": cube_scenes.enmap_scene(i, 120, lon=6 + i, hole=i == 0) for i in range(4)}
    return cube.build(scenes, path, split={"s0": "train", "s1": "train", "s2": "val", "s3": "test"})


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(**changes):
    return TrainConfig.from_dict(SMALL | changes)


def test_spectral_learns_and_beats_bicubic_on_held_out_places(built, tmp_path):
    batches = {"patch": 40, "size": 4, "coverage": 2.0}
    settings = config(epochs=12, tensorboard=True, batches=batches)
    metrics = fit(built.path, settings, tmp_path / "out")
    for split in ("val", "test"):
        for name in ("sam_deg", "rmse"):
            trained = metrics[f"{split}_{name}"]
            assert trained < 0.5 * metrics[f"{split}_{name}_bicubic"]
            assert trained < 0.5 * metrics[f"{split}_{name}_untrained"]
    _, card = checkpoint.load(tmp_path / "out", coarse_bands=built.coarse_bands)
    assert card.metrics == metrics
    assert card.data["scenes"]["test"] == ["s3"]
    assert card.normalisation["mean"][:12] == pytest.approx(built.statistics["guide"]["mean"])
    rows = list(csv.DictReader((tmp_path / "out-run/metrics.csv").open()))
    assert [int(r["epoch"]) for r in rows] == list(range(12))
    # the weights of the best epoch are kept
    assert min(float(r["val_rmse"]) for r in rows) == metrics["val_rmse"]
    assert list((tmp_path / "out-run/tensorboard").iterdir())
    assert not (tmp_path / "out-run/state").exists()
    assert fit(built.path, settings, tmp_path / "out", progress=_fail) == metrics


def _fail(*_):
    raise AssertionError("a finished training must not step")


FUSFORMER = {"model": "fusformer", "epochs": 1, "state_every": 2}


@pytest.mark.parametrize(
    ("changes", "deadlines"),
    [
        # between two states, before the first state after resuming, after the end of an epoch
        ({}, (6, 3, 9)),
        (FUSFORMER | {"batches": {"patch": 20, "size": 4, "coverage": 0.2}}, (3,)),
    ],
)
def test_an_interrupted_run_resumes_and_is_bit_identical(built, tmp_path, changes, deadlines):
    settings = config(**changes)
    uninterrupted = fit(built.path, settings, tmp_path / "a")
    for deadline in deadlines:
        with pytest.raises(KeyboardInterrupt):
            fit(built.path, settings, tmp_path / "b", progress=_Deadline(deadline))
        assert not (tmp_path / "b").exists()
    assert fit(built.path, settings, tmp_path / "b") == uninterrupted
    assert_same_weights_and_logs(tmp_path)


def assert_same_weights_and_logs(folder):
    """Of the runs `a` and `b` in a folder."""
    weights = [(folder / run / "model.safetensors").read_bytes() for run in "ab"]
    assert weights[0] == weights[1]
    logs = [(folder / f"{run}-run/metrics.csv").read_text() for run in "ab"]
    assert logs[0] == logs[1]


def test_an_interruption_while_an_epoch_is_scored_repeats_no_step(built, tmp_path, monkeypatch):
    """With a state saved after the last batch of that epoch."""
    batches = len(loop.BlockLoader(built, "train", config().batches))
    settings = config(state_every=batches)
    uninterrupted = fit(built.path, settings, tmp_path / "a")
    score = loop.score
    calls = []

    def interrupted_score(*args):
        calls.append(args)
        if len(calls) == 2:  # the first is that of bicubic interpolation
            raise KeyboardInterrupt
        return score(*args)

    monkeypatch.setattr(loop, "score", interrupted_score)
    with pytest.raises(KeyboardInterrupt):
        fit(built.path, settings, tmp_path / "b")
    monkeypatch.undo()
    steps = []
    resumed = fit(built.path, settings, tmp_path / "b", progress=lambda *step: steps.append(step))
    assert resumed == uninterrupted
    assert steps[0][:2] == (1, 1)  # the first batch of the second epoch
    assert_same_weights_and_logs(tmp_path)


def test_an_interruption_while_the_state_is_saved_costs_only_that_state(
    built, tmp_path, monkeypatch
):
    """Between the tensors and the JSON that names them."""
    uninterrupted = fit(built.path, config(), tmp_path / "a")
    write = checkpoint.write_file
    records = []

    def interrupted_write(path, content):
        if path.suffix == ".json":
            records.append(path)
            if len(records) == 2:
                raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_file", interrupted_write)
    with pytest.raises(KeyboardInterrupt):
        fit(built.path, config(), tmp_path / "b")
    monkeypatch.undo()
    state = tmp_path / "b-run/state"
    assert json.loads((state / "state.json").read_text())["tensors"] == "0-4.safetensors"
    assert len(list(state.glob("*.safetensors"))) == 2
    assert fit(built.path, config(), tmp_path / "b") == uninterrupted
    assert_same_weights_and_logs(tmp_path)


class _Deadline:
    """Interrupts the training at a step, counted from 1."""

    def __init__(self, steps):
        self.remaining = steps

    def __call__(self, *_):
        self.remaining -= 1
        if self.remaining == 0:
            raise KeyboardInterrupt


def test_the_state_is_plain_and_belongs_to_its_settings(built, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(built.path, config(), tmp_path / "out", progress=_Deadline(5))
    state = tmp_path / "out-run/state"
    assert sorted(p.name for p in state.iterdir()) == ["0-4.safetensors", "state.json"]
    assert json.loads((state / "state.json").read_text())["position"]["batch"] == 4
    with pytest.raises(ConfigError, match=r"another learning_rate: 0\.002, now 0\.5"):
        fit(built.path, config(learning_rate=0.5), tmp_path / "out")
    (state / "0-4.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="damaged"):
        fit(built.path, config(), tmp_path / "out")


def test_training_stops_early_without_a_better_epoch(built, tmp_path):
    settings = config(learning_rate=1e-30, schedule="step", epochs=9, patience=0)
    metrics = fit(built.path, settings, tmp_path / "out")
    assert metrics["epochs"] == 2  # the first is the best, the second is no better


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"learning_rate": 1e-3},
        {"weight_decay": 0.5},
        {"clip": 0.01},
        {"schedule": "step", "step_epochs": 1},
        {"loss": "mse"},
        {"sam_weight": 0.0},
        {"options": {"width": 16}},
        {"batches": {"patch": 40, "size": 4, "gain": 0.2}},
    ],
)
def test_every_setting_changes_the_weights(built, tmp_path, changes):
    for name, settings in (("a", config(epochs=2)), ("b", config(**{"epochs": 2} | changes))):
        fit(built.path, settings, tmp_path / name)
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert a != b


def test_the_loss_that_a_model_adds_counts(built, tmp_path, monkeypatch):
    losses = {"with": [], "without": []}
    settings = config(model="ssrnet", epochs=1)
    for name, values in losses.items():
        if name == "without":
            monkeypatch.setattr(SSRNet, "extra_loss", FusionModel.extra_loss)
        fit(
            built.path,
            settings,
            tmp_path / name,
            progress=lambda *step, values=values: values.append(step[-1]),
        )
    assert losses["with"][0] > losses["without"][0]  # the same weights and the same batch
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in losses)
    assert a != b


def test_a_diverging_run_is_an_error(built, tmp_path):
    with pytest.raises(TrainError, match=r"loss became (nan|inf) at learning rate .*; lower"):
        fit(built.path, config(learning_rate=1e25, clip=1e30, loss="mse"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refuses_what_cannot_be_trained(built, tmp_path):
    with pytest.raises(ConfigError, match="regression has no weights to train"):
        fit(built.path, config(model="regression"), tmp_path / "out")
    with pytest.raises(ConfigError, match="training: unknown key 'epoch'; known: model"):
        TrainConfig.from_dict({"epoch": 3})
    with pytest.raises(ConfigError, match="training: unknown key 'scenes'; known: model"):
        TrainConfig.from_dict({"scenes": 3})
    with pytest.raises(ConfigError, match=r"training: unknown key 'batches\.size_px'"):
        TrainConfig.from_dict({"batches": {"size_px": 3}})
    with pytest.raises(ConfigError, match="schedule 'linear' is unknown; known: cosine, step"):
        TrainConfig(schedule="linear")
    one = cube.build({"s": cube_scenes.enmap_scene(0, 120)}, tmp_path / "one.zarr")
    with pytest.raises(CubeError, match="no scene in split 'val'"):
        fit(one.path, config(), tmp_path / "out")


def test_schedules():
    cosine = TrainConfig(epochs=10, learning_rate=1.0)
    step = config(schedule="step", step_epochs=2, learning_rate=1.0)
    assert [learning_rate(cosine, 0, p) for p in (0, 5, 10)] == pytest.approx([1.0, 0.5, 0.0])
    assert [learning_rate(step, e, e) for e in (0, 1, 2, 4)] == pytest.approx([1.0, 1.0, 0.1, 0.01])


def test_losses_and_scores_against_numpy_metrics():
    from satfuse import metrics

    generator = torch.Generator().manual_seed(0)
    image, target = torch.rand(2, 1, 5, 8, 9, generator=generator)
    valid = torch.rand(1, 1, 8, 9, generator=generator) > 0.3
    score = Score()
    score.add(image[..., :4], target[..., :4], valid[..., :4])
    score.add(image[..., 4:], target[..., 4:], valid[..., 4:])
    arrays = image[0].numpy(), target[0].numpy(), valid[0, 0].numpy()
    assert score.result()["rmse"] == pytest.approx(metrics.rmse(*arrays))
    assert score.result()["sam_deg"] == pytest.approx(metrics.sam_deg(*arrays))
    assert spectral_angle(image, 3 * image).abs().max() < 1e-6
    keep = valid.expand_as(image)
    error = (image - target)[keep]
    absolute = fusion_loss(image, target, valid)
    assert absolute == pytest.approx(float(error.abs().mean()))
    square = fusion_loss(image, target, valid, kind="mse")
    assert square == pytest.approx(float(error.square().mean()))
    with_angle = fusion_loss(image, 2 * image, valid, sam_weight=1.0)
    assert float(with_angle - fusion_loss(image, 2 * image, valid)) == pytest.approx(0.0, abs=1e-6)
    assert fusion_loss(image, target, valid, sam_weight=1.0) > absolute + 0.01


def test_batch_settings_are_part_of_the_config():
    assert TrainConfig.from_dict({"batches": {"patch": 80}}).batches == BatchConfig(patch=80)
