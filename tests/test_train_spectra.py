"""Training on spectra: the same seed gives the same weights, and the uncertainty is calibrated."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from satfuse import checkpoint, pipeline
from satfuse.errors import ConfigError
from satfuse.job import train_config
from satfuse.models.bayesian import uncertainty
from satfuse.models.bayesian.guide import RestoredGuide
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.train import SpectraConfig, TrainConfig, spectra
from satfuse.train.uncertainty import QUANTILES, _fit_factors

TINY = {"model": "bayesian", "options": {"places": 24, "pixels": 20, "basis": 10}, "scenes": 1}


@pytest.fixture
def _parametric(monkeypatch, tmp_path):
    """No measured spectra, and small scenes to calibrate on."""
    monkeypatch.setenv("SATFUSE_SAMPLE_DATA", str(tmp_path / "none"))
    monkeypatch.setattr(spectra, "CALIBRATION_PX", {10: 6, 15: 6, 30: 4})
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_parametric")
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    calls = []

    def progress(_, scene, share):
        calls.append((scene, share))

    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        pipeline.train("spectra", tmp_path / name, TINY | {"seed": seed}, progress)
    a, b, c = ((tmp_path / name / checkpoint.WEIGHTS).read_bytes() for name in "abc")
    assert a == b != c
    assert [scene for scene, _ in calls] == [1] * 3
    assert all(0 < share < 1 for _, share in calls)
    model, card = checkpoint.load(tmp_path / "a")
    assert model.places.shape == (24, 20, 10)
    assert card.options == TINY["options"]
    assert card.data["spectra"] == "parametric"
    assert card.data["split"] == "train"
    assert card.data["seed"] == 3
    assert all("parametric" in text for text in card.data["attribution"])
    assert sum(card.data["entries"].values()) > 10
    assert set(card.metrics) == {"coverage", "coverage_before"}
    assert "all" in card.metrics["coverage"]
    assert (model.uncertainty_scale != 1).all()
    assert (model.uncertainty_scale > 0).all()


@pytest.mark.usefixtures("_parametric")
def test_the_log_says_which_spectra(tmp_path, caplog):
    with caplog.at_level("INFO", logger="satfuse"):
        options = {"back_projections": 1}
        settings = {"model": "library_regression", "options": options}
        pipeline.train("spectra", tmp_path / "l", settings)
    assert "parametric" in caplog.text
    model, card = checkpoint.load(tmp_path / "l")
    assert model.back_projections == 1
    assert card.metrics["rmse"] < 0.02
    assert card.data["entries"]


@pytest.mark.samples
def test_measured_spectra_are_credited(samples, monkeypatch, tmp_path):
    monkeypatch.setenv("SATFUSE_SAMPLE_DATA", str(samples))
    pipeline.train("spectra", tmp_path / "l", {"model": "library_regression"})
    data = checkpoint.read_card(tmp_path / "l").data
    assert data["spectra"] == "measured"
    words = " ".join(data["attribution"]).replace("-", " ").split()
    assert {"ECOSTRESS", "ISRIC"} <= set(words)
    assert "otsdam" not in json.dumps(data)  # Potsdam is kept for the benchmark


@pytest.mark.parametrize(
    ("data", "values", "text"),
    [
        ("spectra", {"model": "spectral"}, "trained on a cube"),
        ("cube.zarr", {"model": "bayesian"}, "trained on spectra"),
        ("cube.zarr", {"model": "library_regression"}, "trained on spectra"),
        ("spectra", {"model": "bicubic"}, "no weights"),
        ("spectra", {"scenes": 0}, "training on spectra: scenes = 0 must be positive"),
        ("spectra", {"epochs": 3}, "training on spectra: unknown key 'epochs'; known: model"),
        ("cube.zarr", {"scenes": 3}, "training: unknown key 'scenes'; known: model"),
    ],
)
def test_wrong_combinations_are_refused(data, values, text):
    with pytest.raises(ConfigError, match=text):
        train_config(values, data)


def test_spectra_and_cubes_have_settings_and_defaults_of_their_own():
    assert train_config({}, "spectra") == SpectraConfig(model="bayesian")
    assert train_config({}, "cube.zarr") == train_config({}) == TrainConfig(model="spectral")


@pytest.mark.usefixtures("_parametric")
def test_unknown_options_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="width"):
        pipeline.train("spectra", tmp_path / "x", {"model": "bayesian", "options": {"width": 3}})


def test_calibration_finds_known_factors():
    rng = np.random.default_rng(0)
    truth = torch.tensor([0.3, 2.0, 0.5])
    terms = torch.from_numpy(10 ** rng.uniform(-8, -5, (30, 3, 4, 100)))
    sigma = torch.einsum("k,skcn->scn", truth.double(), terms).sqrt()
    errors = (sigma * torch.from_numpy(rng.standard_normal(sigma.shape))).abs()
    scale = _fit_factors(terms, errors.log())
    # the target shares are below those of a normal distribution, 0.683 and 0.954
    narrower = 0.917**2
    assert (scale / truth / narrower).log().abs().max() < 0.25
    fitted = torch.einsum("k,skcn->scn", scale, terms).sqrt()
    assert (errors < fitted).double().mean() == pytest.approx(QUANTILES[0][1], abs=0.02)
    assert (errors < 2 * fitted).double().mean() == pytest.approx(QUANTILES[1][1], abs=0.015)


def restored(image, classes=None):
    pixels = torch.from_numpy(image)
    return RestoredGuide(pixels, pixels, classes)


def test_leverage_is_one_on_average_and_the_same_in_other_units():
    rng = np.random.default_rng(1)
    pixels = rng.standard_normal((4, 4)) @ rng.standard_normal((4, 3000)) + 5
    images = [p.reshape(1, 4, 50, 60) for p in (pixels, np.diag([1, 3, 9, 0.5]) @ pixels)]
    features = []
    for image in images:
        whitener = uncertainty.whitening(image[0].reshape(4, -1))
        scene = *(torch.from_numpy(a) for a in whitener), None, S2_NAMES[:4], 10
        pixels = torch.from_numpy(image)
        features.append(uncertainty.pixel_features(pixels, restored(image), *scene))
    assert features[0].shape == (1, 3, 50, 60)
    assert features[0][0, 0].mean() == pytest.approx(1, abs=1e-3)
    assert not features[0][0, 1:].any()
    torch.testing.assert_close(features[0], features[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("pixel_m", "radius"), [(10, 10), (30, 3), (100, 1)])
def test_the_share_of_masked_pixels_in_the_neighbourhood(pixel_m, radius):
    valid = torch.from_numpy(np.random.default_rng(3).random((1, 1, 40, 50)) > 0.2)
    image = np.zeros((1, 4, 40, 50))
    guide = restored(image, torch.ones(1, 40, 50))
    scene = torch.eye(4).double(), torch.zeros(4).double(), valid, S2_NAMES[:4], pixel_m
    features = uncertainty.pixel_features(torch.from_numpy(image), guide, *scene)
    for y, x in ((0, 0), (20, 30), (39, 20)):
        window = np.s_[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
        share = (~valid[0, 0].numpy())[window].mean()
        assert features[0, 3, y, x] == pytest.approx(share**2, rel=1e-5)


def test_the_standard_deviation_is_the_root_of_the_sum_of_the_terms():
    rng = np.random.default_rng(2)
    scale = rng.random(11)
    terms = rng.random((10, 5))
    pixels = rng.random((1, 4, 3, 4))
    mask_edge = rng.random((7, 5))
    classes = rng.integers(0, 7, (1, 3, 4))
    values = [torch.from_numpy(a) for a in (scale, terms, pixels, classes, mask_edge)]
    sigma = uncertainty.standard_deviation(*values)
    weighted = scale[:10, None] * terms
    for band in range(5):
        s = weighted[:, band]
        leverage, detail_20_m, detail_60_m, masked = pixels[0]
        expected = s[0] + s[1] + leverage * (s[2] + s[3] + s[4])
        expected += detail_20_m * s[5] + detail_60_m * s[6] + s[7] + s[8] + masked * s[9]
        at_edge = classes[0] > 0
        expected += uncertainty.MINIMUM_VARIANCE + at_edge * scale[10] * mask_edge[classes[0], band]
        np.testing.assert_allclose(sigma[0, band], np.sqrt(expected), rtol=1e-12)
    without = uncertainty.standard_deviation(*values[:2], values[2][:, :3], None, values[4])
    assert (without < sigma).all()


def test_the_shipped_weights_are_small_credited_and_calibrated():
    folder = checkpoint.SHIPPED / "bayesian"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    model, card = checkpoint.load(folder)
    assert model.guide_bands == S2_NAMES
    assert model.coarse_bands == S3_NAMES
    assert card.data["spectra"] == "measured"
    assert card.data["split"] == "train"
    assert any("WorldStrat" in text for text in card.data["attribution"])
    assert len(card.data["attribution"]) > 4
    one, two = card.metrics["coverage"]["all"]
    assert 0.6 < one < 0.75
    assert 0.9 < two < 0.97
