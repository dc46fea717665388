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
    statistics = ((12, 0.3), (12, 0.1), (19, 0.2), (19, 0.05))  # bands and value
    model.set_statistics(*(torch.full((bands,), value) for bands, value in statistics))
    facts = {"data": {"scenes": 3}, "metrics": {"test_rmse": 0.01}}
    checkpoint.save(model, tmp_path / "checkpoint", facts)
    return tmp_path / "checkpoint", model


def edit(folder, **changes):
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(saved):
    folder, model = saved
    loaded, card = checkpoint.load(folder, guide_bands=S2_NAMES, coarse_bands=S3_ENMAP_NAMES)
    guide = torch.rand(1, 12, 20, 20)
    coarse = torch.rand(1, 19, 2, 2)
    assert torch.equal(loaded(guide, coarse).image, model(guide, coarse).image)
    assert not loaded.training
    assert card.options == {"width": 8}
    assert card.reach == 2
    assert card.ratio == 10
    assert card.data == {"scenes": 3}
    assert card.metrics == {"test_rmse": 0.01}
    assert card.coarse_wavelengths_nm[0] == 442.5
    assert card.normalisation["spread"][:2] == pytest.approx([0.1, 0.1])
    assert sorted(p.name for p in folder.iterdir()) == ["card.json", "model.safetensors"]


def full_disk(_):
    raise OSError(28, "No space left")


def test_a_save_replaces_the_folder_whole(saved, monkeypatch):
    folder, model = saved
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    monkeypatch.setattr("satfuse.files.os.fsync", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoint.save(model, folder, {})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]  # no draft remains
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
    with pytest.raises(CheckpointError, match=r"has coarse bands Oa03, .*requested: Oa01, Oa02"):
        checkpoint.load(saved[0], coarse_bands=S3_NAMES)
    with pytest.raises(CheckpointError, match=r"has guide bands B01, .*requested: B02"):
        checkpoint.load(saved[0], guide_bands=("B02",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "srcnn"}, "unknown model 'srcnn'"),
        ({"options": {"width": 16}}, "size mismatch"),
        ({"options": {"layers": 16}}, "no option layers"),
        ({"extra": 1}, r"no checkpoint card: .*card\.json: unknown key 'extra'; known: format"),
        ({"ratio": "10"}, "ratio = '10' must be a whole number"),
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
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nothing .* or a model"):
        checkpoint.load(tmp_path / "nothing")
    (saved[0] / "card.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no checkpoint card but a list"):
        checkpoint.load(saved[0])
    with pytest.raises(CheckpointError, match="keys"):
        checkpoint.save(saved[1], tmp_path / "other", {"weights": 1})


def test_models_without_bands_names_come_back(tmp_path):
    model = models.create("fusformer", guide_bands=3, coarse_bands=31, ratio=4)
    checkpoint.save(model, tmp_path / "c", {})
    loaded, card = checkpoint.load(tmp_path / "c")
    assert card.coarse_wavelengths_nm is None
    assert card.reach is None
    assert card.parameters == 111_247
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True)
    )


def test_a_name_or_a_folder_gives_the_model(saved):
    scene = {"guide_bands": S2_NAMES, "coarse_bands": S3_NAMES, "ratio": 30}
    model, card = checkpoint.resolve("regression", **scene)
    assert model.name == card.model == "regression"
    assert card.sha256 == ""
    assert model.coarse_bands == S3_NAMES
    model, card = checkpoint.resolve(saved[0], **scene)
    assert model.coarse_bands == S3_NAMES
    assert model.band_source[:3] == ("regression", "regression", "spectral")
    with pytest.raises(CheckpointError, match="spectral needs trained weights"):
        checkpoint.resolve("spectral", **scene)
    with pytest.raises(CheckpointError, match="needs coarse bands"):
        checkpoint.resolve(saved[0], **scene | {"coarse_bands": S3_NAMES[:5]})
    with pytest.raises(CheckpointError, match="guide bands"):
        checkpoint.resolve(saved[0], **scene | {"guide_bands": S2_NAMES[:4]})


def test_an_unknown_name_lists_every_model_the_default_first(tmp_path):
    scene = {"guide_bands": S2_NAMES, "coarse_bands": S3_NAMES, "ratio": 30}
    with pytest.raises(CheckpointError, match=r"a model: bayesian \(the default\), ") as refusal:
        checkpoint.resolve(tmp_path / "unet", **scene)
    assert all(name in str(refusal.value) for name in models.MODELS)
