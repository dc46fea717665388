import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from satfuse import checkpoint, pipeline
from satfuse.errors import ConfigError
from satfuse.job import train_config
from satfuse.models.bayesian import uncertainty
from satfuse.models.bayesian.scene_guide import Restored
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.train.uncertainty import SHARES, _fitted

TINY = {"model": "bayesian", "options": {"places": 24, "pixels": 20, "basis": 10}, "scenes": 1}


@pytest.fixture
def parametric(monkeypatch, tmp_path):
    """No measured spectra, and small scenes to calibrate on."""
    monkeypatch.setenv("SATFUSE_SAMPLE_DATA", str(tmp_path / "none"))
    monkeypatch.setattr(pipeline, "CALIBRATION_PX", {10: 6, 15: 6, 30: 4})
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(parametric, tmp_path):
    heard = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        settings = TINY | {"seed": seed}
        pipeline.train(
            "spectra", tmp_path / name, settings, lambda _, n, share: heard.append((n, share))
        )
    a, b, c = ((tmp_path / name / checkpoint.WEIGHTS).read_bytes() for name in "abc")
    assert a == b != c
    assert [n for n, _ in heard] == [1] * 3 and all(0 < share < 1 for _, share in heard)
    model, card = checkpoint.load(tmp_path / "a")
    assert model.places.shape == (24, 20, 10) and card.options == TINY["options"]
    assert (
        card.data["spectra"] == "parametric"
        and card.data["split"] == "train"
        and card.data["seed"] == 3
    )
    assert (
        all("parametric" in text for text in card.data["attribution"])
        and sum(card.data["entries"].values()) > 10
    )
    assert (
        set(card.metrics) == {"coverage", "coverage_before"} and "all" in card.metrics["coverage"]
    )
    assert (model.uncertainty_scale != 1).all() and (model.uncertainty_scale > 0).all()


def test_the_log_says_which_spectra(parametric, tmp_path, caplog):
    with caplog.at_level("INFO", logger="satfuse"):
        pipeline.train(
            "spectra",
            tmp_path / "l",
            {"model": "library_regression", "options": {"back_projections": 1}},
        )
    assert "parametric" in caplog.text
    model, card = checkpoint.load(tmp_path / "l")
    assert model.back_projections == 1 and card.metrics["rmse"] < 0.02 and card.data["entries"]


@pytest.mark.samples
def test_measured_spectra_are_credited(samples, monkeypatch, tmp_path):
    monkeypatch.setenv("SATFUSE_SAMPLE_DATA", str(samples))
    pipeline.train("spectra", tmp_path / "l", {"model": "library_regression"})
    data = checkpoint.read_card(tmp_path / "l").data
    assert data["spectra"] == "measured"
    assert {"ECOSTRESS", "ISRIC"} <= {
        w for text in data["attribution"] for w in text.replace("-", " ").split()
    }
    assert "otsdam" not in json.dumps(data)


@pytest.mark.parametrize(
    ("data", "values", "text"),
    [
        ("spectra", {"model": "spectral"}, "trained on a cube"),
        ("cube.zarr", {"model": "bayesian"}, "trained on spectra"),
        ("cube.zarr", {"model": "library_regression"}, "trained on spectra"),
        ("spectra", {"model": "bicubic"}, "no weights"),
        ("spectra", {"model": "bayesian", "scenes": 0}, "scenes"),
    ],
)
def test_wrong_combinations_are_refused(data, values, text):
    with pytest.raises(ConfigError, match=text):
        train_config(values, data)


def test_unknown_options_are_refused(parametric, tmp_path):
    with pytest.raises(ConfigError, match="width"):
        pipeline.train("spectra", tmp_path / "x", {"model": "bayesian", "options": {"width": 3}})


def test_calibration_finds_known_factors():
    rng = np.random.default_rng(0)
    truth = torch.tensor([0.3, 2.0, 0.5])
    terms = torch.from_numpy(10 ** rng.uniform(-8, -5, (30, 3, 4, 100)))
    sigma = torch.einsum("k,skcn->scn", truth.double(), terms).sqrt()
    errors = (sigma * torch.from_numpy(rng.standard_normal(sigma.shape))).abs()
    scale = _fitted(terms, errors.log())
    narrower = 0.917**2  # of a normal distribution, whose shares are 0.683 and 0.954
    assert (scale / truth / narrower).log().abs().max() < 0.25
    fitted = torch.einsum("k,skcn->scn", scale, terms).sqrt()
    assert (errors < fitted).double().mean() == pytest.approx(SHARES[0][1], abs=0.02)
    assert (errors < 2 * fitted).double().mean() == pytest.approx(SHARES[1][1], abs=0.015)


def restored(image, classes=None):
    pixels = torch.from_numpy(image)
    return Restored(pixels, pixels, classes)


def test_leverage_is_one_on_average_and_the_same_in_other_units():
    rng = np.random.default_rng(1)
    spectra = rng.standard_normal((4, 4)) @ rng.standard_normal((4, 3000)) + 5
    images = [s.reshape(1, 4, 50, 60) for s in (spectra, np.diag([1, 3, 9, 0.5]) @ spectra)]
    found = []
    for image in images:
        matrix, offset = (
            torch.from_numpy(a) for a in uncertainty.whitener(image[0].reshape(4, -1))
        )
        of_scene = matrix, offset, None, S2_NAMES[:4], 10
        found.append(
            uncertainty.pixel_features(torch.from_numpy(image), restored(image), *of_scene)
        )
    assert found[0].shape == (1, 3, 50, 60)
    assert found[0][0, 0].mean() == pytest.approx(1, abs=1e-3) and not found[0][0, 1:].any()
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("pixel_m", "radius"), [(10, 10), (30, 3), (100, 1)])
def test_the_share_of_masked_pixels_around(pixel_m, radius):
    valid = torch.from_numpy(np.random.default_rng(3).random((1, 1, 40, 50)) > 0.2)
    image = np.zeros((1, 4, 40, 50))
    classes, of_scene = (
        torch.ones(1, 40, 50),
        (torch.eye(4).double(), torch.zeros(4).double(), valid, S2_NAMES[:4]),
    )
    found = uncertainty.pixel_features(
        torch.from_numpy(image), restored(image, classes), *of_scene, pixel_m
    )
    for y, x in ((0, 0), (20, 30), (39, 20)):
        window = np.s_[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
        share = (~valid[0, 0].numpy())[window].mean()
        assert found[0, 3, y, x] == pytest.approx(share**2, rel=1e-5)


def test_the_standard_deviation_is_the_root_of_the_sum_of_terms():
    rng = np.random.default_rng(2)
    scale, terms, pixels, beside = (
        rng.random(11),
        rng.random((10, 5)),
        rng.random((1, 4, 3, 4)),
        rng.random((7, 5)),
    )
    classes = rng.integers(0, 7, (1, 3, 4))
    values = [torch.from_numpy(a) for a in (scale, terms, pixels, classes, beside)]
    sigma = uncertainty.standard_deviation(*values)
    weighted = scale[:10, None] * terms
    for band in range(5):
        s1, s2, s3, s4, s5, s6, s7, s8, s9, s10 = weighted[:, band]
        leverage, of_20_m, of_60_m, around = pixels[0]
        expected = (
            s1
            + s2
            + leverage * (s3 + s4 + s5)
            + of_20_m * s6
            + of_60_m * s7
            + s8
            + s9
            + around * s10
        )
        expected += uncertainty.LEAST + np.where(
            classes[0] > 0, scale[10] * beside[classes[0], band], 0
        )
        np.testing.assert_allclose(sigma[0, band], np.sqrt(expected), rtol=1e-12)
    without = uncertainty.standard_deviation(*values[:2], values[2][:, :3], None, values[4])
    assert (without < sigma).all()


def test_the_shipped_weights_are_small_credited_and_calibrated():
    folder = checkpoint.SHIPPED / "bayesian"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    model, card = checkpoint.load(folder)
    assert model.guide_bands == S2_NAMES and model.coarse_bands == S3_NAMES
    assert card.data["spectra"] == "measured" and card.data["split"] == "train"
    assert (
        any("WorldStrat" in text for text in card.data["attribution"])
        and len(card.data["attribution"]) > 4
    )
    one, two = card.metrics["coverage"]["all"]
    assert 0.6 < one < 0.75 and 0.9 < two < 0.97
