"""The stated uncertainty: its mean, its coverage of known errors, and its part of the report."""

import json

import dask.array as da
import numpy as np
import pytest
from skimage.io import imread

from satfuse.validate import validate_product
from satfuse.validate.drawing import make_field_map
from satfuse.validate.uncertainty import read_uncertainty, uncertainty_figure, uncertainty_scores
from satfuse.validate.views import make_views

SIGMA = np.linspace(0.002, 0.02, 21)
UNKNOWN = "S6N"  # this band has no uncertainty


@pytest.fixture(scope="module")
def uncertain(perfect, truth):
    """The truth with normal errors of known size, larger in the east, and a hole."""
    rng = np.random.default_rng(0)
    growth = np.where(np.arange(truth.sizes["x"]) < 150, 1, 2)
    sigma = SIGMA[:, None, None] * growth * np.ones(truth.shape)
    image = truth.values + sigma * rng.standard_normal(truth.shape)
    image[:, 30:60, 40:90] = sigma[:, 30:60, 40:90] = np.nan
    sigma[-1] = np.nan
    assert truth.band.values[-1] == UNKNOWN
    dims = ("time", "band", "y", "x")
    return perfect.assign(reflectance=(dims, image[None]), uncertainty=(dims, sigma[None]))


def test_mean_and_coverage_of_known_errors(uncertain, scene, truth):
    views = make_views(uncertain, scene)
    scores = uncertainty_scores(read_uncertainty(uncertain, views), views, truth)
    means = np.array([row["mean"] for row in scores["bands"].values()])
    # between 1 and 2 times SIGMA; the hole makes the west smaller
    np.testing.assert_allclose(means[:-1], 1.52 * SIGMA[:-1], rtol=0.02)
    assert np.isnan(means[-1])
    assert np.isnan(scores["bands"][UNKNOWN]["within_1"])
    assert scores["overall"]["mean"] == pytest.approx(np.nanmean(means), rel=1e-6)
    for row in [scores["overall"], *list(scores["bands"].values())[:-1]]:
        assert row["within_1"] == pytest.approx(0.683, abs=0.01)
        assert row["within_2"] == pytest.approx(0.954, abs=0.01)
    assert scores["bands"]["Oa01"]["rmse"] == pytest.approx(SIGMA[0] * np.sqrt(2.55), rel=0.02)
    half = uncertain.assign(uncertainty=uncertain.uncertainty / 2)
    too_small = uncertainty_scores(read_uncertainty(half, views), views, truth)["overall"]
    assert too_small["within_2"] == pytest.approx(0.683, abs=0.01)
    assert too_small["within_1"] < 0.4


def test_without_the_truth_only_the_mean_is_reported(uncertain, scene, truth):
    views = make_views(uncertain, scene)
    sigma = read_uncertainty(uncertain, views)
    alone = uncertainty_scores(sigma, views)
    assert set(alone["overall"]) == set(alone["bands"]["Oa05"]) == {"mean"}
    part = uncertainty_scores(sigma, views, truth.sel(band=["Oa17", "Oa05"]))["bands"]
    assert {band for band, row in part.items() if "rmse" in row} == {"Oa05", "Oa17"}
    whole = uncertainty_scores(sigma, views, truth)["bands"]
    assert part["Oa05"] == whole["Oa05"]
    assert part["Oa17"] == whole["Oa17"]


def test_lazy_input_gives_the_same(uncertain, scene):
    views = make_views(uncertain, scene)
    chunked = da.from_array(uncertain.uncertainty.values, chunks=70)
    lazy = uncertain.assign(uncertainty=uncertain.uncertainty.copy(data=chunked))
    expected = read_uncertainty(uncertain, views)
    sigma = read_uncertainty(lazy, views)
    np.testing.assert_array_equal(sigma.sample, expected.sample)
    np.testing.assert_array_equal(sigma.window, expected.window)


@pytest.mark.parametrize("known", [True, False])
def test_the_report_has_the_uncertainty(uncertain, scene, truth, tmp_path, known):
    result = validate_product(uncertain, scene, tmp_path, truth=truth if known else None)
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["uncertainty"] == result["uncertainty"]
    assert result["uncertainty"]["bands"][UNKNOWN]["mean"] is None
    text = (tmp_path / "metrics.md").read_text().split("## Uncertainty")[1]
    of_truth = " RMSE | errors within 1 sigma | errors within 2 sigma |" if known else ""
    assert text.splitlines()[2] == f"| band | mean |{of_truth}"
    assert f"| Oa01 | {result['uncertainty']['bands']['Oa01']['mean']:.5f}" in text
    assert f"| {UNKNOWN} | - |" in text
    figure = imread(tmp_path / "uncertainty.png")
    assert figure.shape[0] > 300
    assert figure[..., :3].std() > 5


def test_the_map_is_the_mean_of_the_bands_that_have_one(uncertain, scene):
    views = make_views(uncertain, scene)
    sigma = read_uncertainty(uncertain, views)
    field = make_field_map(views, scene)
    figure = uncertainty_figure(sigma, uncertainty_scores(sigma, views), field)
    shown = figure.axes[0].get_images()[0].get_array().filled(np.nan)
    west = SIGMA[:-1].mean()
    np.testing.assert_allclose(shown[:, [10, 250]], [[west, 2 * west]] * len(shown), rtol=1e-5)
    assert np.isnan(shown[40, 50])
    assert len(figure.axes[1].patches) == 21


def test_a_product_without_uncertainty_has_no_such_section(perfect, scene, tmp_path):
    assert read_uncertainty(perfect, make_views(perfect, scene)) is None
    result = validate_product(perfect, scene, tmp_path)
    assert result["uncertainty"] == {}
    assert not (tmp_path / "uncertainty.png").exists()
    assert "Uncertainty" not in (tmp_path / "metrics.md").read_text()
