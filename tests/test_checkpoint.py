import json

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from satfuse import checkpoint, models
from satfuse.errors import CheckpointError
from satfuse.sensors.bands import S2_NAMES, S3_ENMAP_NAMES, S3_NAMES


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = models.create("spectral", guide_bands=12, coarse_bands=19, ratio=10, width=8)
    torch.nn.init.normal_(model.linear.weight)
    model.set_statistics(
        *(torch.full((n,), v) for n, v in ((12, 0.3), (12, 0.1), (19, 0.2), (19, 0.05)))
    )
    checkpoint.save(
        model, tmp_path / "checkpoint", {"data": {"scenes": 3}, "metrics": {"test_rmse": 0.01}}
    )
    return tmp_path / "checkpoint", model


def edit(folder, **changes):
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(saved):
    folder, model = saved
    loaded, card = checkpoint.load(folder, guide_bands=S2_NAMES, coarse_bands=S3_ENMAP_NAMES)
    guide, coarse = torch.rand(1, 12, 20, 20), torch.rand(1, 19, 2, 2)
    assert (
        torch.equal(loaded(guide, coarse).image, model(guide, coarse).image) and not loaded.training
    )
    assert card.options == {"width": 8} and card.reach == 2 and card.ratio == 10
    assert card.data == {"scenes": 3} and card.metrics == {"test_rmse": 0.01}
    assert card.coarse_wavelengths_nm[0] == 442.5 and card.normalisation["spread"][
        :2
    ] == pytest.approx([0.1, 0.1])
    assert sorted(p.name for p in folder.iterdir()) == ["card.json", "model.safetensors"]


def test_a_save_replaces_the_folder_whole(saved, monkeypatch):
    folder, model = saved
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    monkeypatch.setattr(
        "satfuse.checkpoint.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoint.save(model, folder, {})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]  # nothing half-written beside it
    monkeypatch.undo()
    checkpoint.save(model, folder, {"metrics": {"test_rmse": 0.5}})
    assert checkpoint.load(folder)[1].metrics == {"test_rmse": 0.5}


def test_changed_weights_are_refused(saved):
    path = saved[0] / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        checkpoint.load(saved[0])


def test_other_bands_are_named(saved):
    with pytest.raises(CheckpointError, match=r"has coarse bands Oa03, .*asked: Oa01, Oa02"):
        checkpoint.load(saved[0], coarse_bands=S3_NAMES)
    with pytest.raises(CheckpointError, match=r"has guide bands B01, .*asked: B02"):
        checkpoint.load(saved[0], guide_bands=("B02",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "srcnn"}, "unknown model 'srcnn'"),
        ({"options": {"width": 16}}, "size mismatch"),
        ({"options": {"layers": 16}}, "no option layers"),
        ({"extra": 1}, "unknown .*extra"),
        ({"format": "other/2"}, "format 'other/2'"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(saved, changes, message):
    edit(saved[0], **changes)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(saved[0])


def test_damaged_or_absent(saved, tmp_path):
    (saved[0] / "card.json").write_text("<html>login</html>")
    with pytest.raises(CheckpointError, match="not JSON"):
        checkpoint.load(saved[0])
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*bicubic, regression"):
        checkpoint.load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="keys"):
        checkpoint.save(saved[1], tmp_path / "other", {"weights": 1})


def test_models_without_bands_names_come_back(tmp_path):
    model = models.create("fusformer", guide_bands=3, coarse_bands=31, ratio=4)
    checkpoint.save(model, tmp_path / "c", {})
    loaded, card = checkpoint.load(tmp_path / "c")
    assert card.coarse_wavelengths_nm is None and card.reach is None and card.parameters == 111_247
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True)
    )


def test_resolve(saved):
    asked = {"guide_bands": S2_NAMES, "coarse_bands": S3_NAMES, "ratio": 30}
    model, card = checkpoint.resolve("regression", **asked)
    assert (
        model.name == card.model == "regression"
        and card.sha256 == ""
        and model.coarse_bands == S3_NAMES
    )
    model, card = checkpoint.resolve(saved[0], **asked)
    assert model.coarse_bands == S3_NAMES and model.band_source[:3] == (
        "regression",
        "regression",
        "spectral",
    )
    with pytest.raises(CheckpointError, match="spectral needs trained weights"):
        checkpoint.resolve("spectral", **asked)
    with pytest.raises(CheckpointError, match="needs coarse bands"):
        checkpoint.resolve(saved[0], **asked | {"coarse_bands": S3_NAMES[:5]})
    with pytest.raises(CheckpointError, match="guide bands"):
        checkpoint.resolve(saved[0], **asked | {"guide_bands": S2_NAMES[:4]})
