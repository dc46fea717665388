import json

import dask.array as da
import numpy as np
import pytest
from skimage.io import imread

from satfuse.validate import uncertainty as checks
from satfuse.validate import validate_product
from satfuse.validate.look import look_of
from satfuse.validate.views import make_views

SIGMA = np.linspace(0.002, 0.02, 21)
UNKNOWN = "S6N"  # this band has no uncertainty


@pytest.fixture(scope="module")
def unsure(perfect, truth):
    """The truth with normal errors of known size, larger in the east, and a hole."""
    rng = np.random.default_rng(0)
    sigma = (
        SIGMA[:, None, None]
        * np.where(np.arange(truth.sizes["x"]) < 150, 1, 2)
        * np.ones(truth.shape)
    )
    image = truth.values + sigma * rng.standard_normal(truth.shape)
    image[:, 30:60, 40:90] = sigma[:, 30:60, 40:90] = np.nan
    sigma[-1] = np.nan
    assert truth.band.values[-1] == UNKNOWN
    dims = ("time", "band", "y", "x")
    return perfect.assign(reflectance=(dims, image[None]), uncertainty=(dims, sigma[None]))


def test_mean_and_coverage_are_those_put_in(unsure, scene, truth):
    views = make_views(unsure, scene)
    scores = checks.uncertainty_scores(checks.read_uncertainty(unsure, views), views, truth)
    means = np.array([row["mean"] for row in scores["bands"].values()])
    np.testing.assert_allclose(
        means[:-1], 1.52 * SIGMA[:-1], rtol=0.02
    )  # more of the east is known
    assert np.isnan(means[-1]) and np.isnan(scores["bands"][UNKNOWN]["within_1"])
    assert scores["overall"]["mean"] == pytest.approx(np.nanmean(means), rel=1e-6)
    for row in [scores["overall"], *list(scores["bands"].values())[:-1]]:
        assert row["within_1"] == pytest.approx(0.683, abs=0.01) and row[
            "within_2"
        ] == pytest.approx(0.954, abs=0.01)
    assert scores["bands"]["Oa01"]["rmse"] == pytest.approx(SIGMA[0] * np.sqrt(2.55), rel=0.02)
    half = unsure.assign(uncertainty=unsure.uncertainty / 2)
    claimed = checks.uncertainty_scores(checks.read_uncertainty(half, views), views, truth)[
        "overall"
    ]
    assert claimed["within_2"] == pytest.approx(0.683, abs=0.01) and claimed["within_1"] < 0.4


def test_without_the_truth_only_the_mean_is_told(unsure, scene, truth):
    views = make_views(unsure, scene)
    sigma = checks.read_uncertainty(unsure, views)
    alone = checks.uncertainty_scores(sigma, views)
    assert set(alone["overall"]) == set(alone["bands"]["Oa05"]) == {"mean"}
    part = checks.uncertainty_scores(sigma, views, truth.sel(band=["Oa17", "Oa05"]))["bands"]
    assert {band for band, row in part.items() if "rmse" in row} == {"Oa05", "Oa17"}
    whole = checks.uncertainty_scores(sigma, views, truth)["bands"]
    assert part["Oa05"] == whole["Oa05"] and part["Oa17"] == whole["Oa17"]


def test_lazy_input_gives_the_same(unsure, scene):
    views = make_views(unsure, scene)
    lazy = unsure.assign(
        uncertainty=unsure.uncertainty.copy(
            data=da.from_array(unsure.uncertainty.values, chunks=70)
        )
    )
    eager, found = (checks.read_uncertainty(product, views) for product in (unsure, lazy))
    np.testing.assert_array_equal(found.sample, eager.sample)
    np.testing.assert_array_equal(found.window, eager.window)


@pytest.mark.parametrize("known", [True, False])
def test_the_report_shows_it(unsure, scene, truth, tmp_path, known):
    result = validate_product(unsure, scene, tmp_path, truth=truth if known else None)
    assert (
        json.loads((tmp_path / "metrics.json").read_text())["uncertainty"] == result["uncertainty"]
    )
    assert result["uncertainty"]["bands"][UNKNOWN]["mean"] is None
    text = (tmp_path / "metrics.md").read_text().split("## Uncertainty")[1]
    told = (
        "| mean | RMSE | errors within 1 sigma | errors within 2 sigma |" if known else "| mean |"
    )
    assert text.splitlines()[2] == f"| band {told}"
    assert (
        f"| Oa01 | {result['uncertainty']['bands']['Oa01']['mean']:.5f}" in text
        and f"| {UNKNOWN} | - |" in text
    )
    picture = imread(tmp_path / "uncertainty.png")
    assert picture.shape[0] > 300 and picture[..., :3].std() > 5


def test_the_map_is_the_mean_of_the_bands_that_have_one(unsure, scene):
    views = make_views(unsure, scene)
    sigma = checks.read_uncertainty(unsure, views)
    figure = checks.uncertainty_figure(
        sigma, checks.uncertainty_scores(sigma, views), look_of(views, scene)
    )
    shown = figure.axes[0].get_images()[0].get_array().filled(np.nan)
    west = SIGMA[:-1].mean()
    np.testing.assert_allclose(shown[:, [10, 250]], [[west, 2 * west]] * len(shown), rtol=1e-5)
    assert np.isnan(shown[40, 50]) and len(figure.axes[1].patches) == 21


def test_a_product_without_has_no_part_of_it(perfect, scene, tmp_path):
    assert checks.read_uncertainty(perfect, make_views(perfect, scene)) is None
    result = validate_product(perfect, scene, tmp_path)
    assert result["uncertainty"] == {} and not (tmp_path / "uncertainty.png").exists()
    assert "Uncertainty" not in (tmp_path / "metrics.md").read_text()
