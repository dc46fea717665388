"""The hallucination check finds an added pattern: where, how large, and in which product."""

import numpy as np
import pytest

from satfuse.errors import BandError, GridError
from satfuse.validate.comparison.difference import NOISE, difference, difference_scores, residual
from satfuse.validate.drawing import make_field_map
from satfuse.validate.upsample import bicubic_matrix, upsample
from satfuse.validate.views import make_views
from tests.validate.validate_field import HEIGHT, WIDTH

# of the added pattern
ROWS = slice(60, 72)
COLUMNS = slice(150, 170)


def as_product(image):
    """A product Dataset without a time axis."""
    return image.rename("reflectance").to_dataset()


@pytest.fixture(scope="module")
def first(perfect, scene):
    return make_views(perfect, scene)


@pytest.fixture(scope="module")
def invented(truth, scene):
    """A product with a pattern that no input shows: every second band up, the others down."""
    image = truth.copy(deep=True)
    image[::2, ROWS, COLUMNS] += 0.06
    image[1::2, ROWS, COLUMNS] -= 0.06
    return make_views(as_product(image), scene)


def test_an_injected_pattern_is_found_at_its_place_and_size(first, invented, scene):
    field = make_field_map(first, scene)
    for a, b, unsupported in ((first, invented, "other"), (invented, first, "first")):
        scores = difference_scores(a, b, difference(a, b), field)
        (region,) = scores["regions"]
        assert region["unsupported"] == unsupported
        assert region["easting_km"] == pytest.approx(450 + 0.03 * 160, abs=1e-6)
        assert region["northing_km"] == pytest.approx(6480 - 0.03 * 66, abs=1e-6)
        assert (region["width_m"], region["height_m"]) == pytest.approx((600, 360))
        assert region["area_m2"] == pytest.approx(600 * 360)
        share = 12 * 20 / (HEIGHT * WIDTH)
        assert scores["share_beyond"] == scores["share_unsupported"] == pytest.approx(share)
        assert scores[f"unsupported_{unsupported}"] == pytest.approx(share)
        assert scores["same_inputs"]
        assert scores["rmse"] == pytest.approx(0.06 * np.sqrt(share), rel=1e-3)
        assert region["peak"] == pytest.approx(0.06 / residual(first).mean(), rel=0.05)


def test_place_and_size_hold_for_sampled_and_south_up_fields(truth, scene, monkeypatch):
    from satfuse.validate import views as module

    monkeypatch.setattr(module, "SAMPLE_PX", 150)  # every second pixel
    image = truth.copy(deep=True)
    image[::2, ROWS, COLUMNS] += 0.1
    flip = slice(None, None, -1)
    south_up = scene.isel(y=flip, y_coarse=flip)
    a, b = (make_views(as_product(i.isel(y=flip)), south_up) for i in (truth, image))
    field = make_field_map(a, south_up)
    (region,) = difference_scores(a, b, difference(a, b), field)["regions"]
    assert region["northing_km"] == pytest.approx(6480 - 0.03 * 66, abs=0.03)
    assert region["easting_km"] == pytest.approx(450 + 0.03 * 160, abs=0.03)
    assert region["area_m2"] == pytest.approx(600 * 360)


def test_missing_detail_differs_but_is_not_invented(first, scene, truth):
    coarse = scene["coarse"].values
    blurred = truth.copy(data=upsample(coarse, *(bicubic_matrix(n, 10) for n in coarse.shape[1:])))
    half = (truth + blurred) / 2
    field = make_field_map(first, scene)
    for image in (blurred, half):
        other = make_views(as_product(image), scene)
        scores = difference_scores(first, other, difference(first, other), field)
        assert scores["share_beyond"] > 0.3
        assert scores["unsupported_other"] < 1e-3
        assert scores["regions"] == []


def test_equal_products_do_not_differ(first, scene):
    field = make_field_map(first, scene)
    scores = difference_scores(first, first, difference(first, first), field)
    assert scores["share_beyond"] == 0 == scores["rmse"]
    assert scores["regions"] == []


def test_the_residual_follows_from_the_scene_alone(truth, scene, first):
    """Noise that the guide cannot explain raises it, times the guide's spread at fine pixels.

    The content of the product does not matter.
    """
    clean = residual(first)
    assert (clean >= NOISE).all()
    assert clean.max() < 1.6 * NOISE
    noisy = scene.copy(deep=True)
    noisy["coarse"][:] += 0.01 * np.random.default_rng(0).standard_normal(noisy["coarse"].shape)
    fine = np.std(scene["guide"].values, axis=(1, 2))
    spread = np.median(fine / first.guide.degraded[:, first.compare].std(axis=1))
    assert spread > 1.05
    shuffled = truth[::-1].assign_coords(band=truth.band)
    for product in (truth, shuffled):
        raised = residual(make_views(as_product(product), noisy))
        assert np.mean(raised) == pytest.approx(0.01 * spread, rel=0.06)


def test_products_of_19_and_21_bands_are_compared_over_their_common_bands(truth, scene):
    image = truth.copy(deep=True)
    image[:2] += 0.5  # Oa01 and Oa02, which the other one lacks
    wide = make_views(as_product(image), scene)
    narrow = make_views(as_product(truth[2:]), scene)
    field = make_field_map(narrow, scene)
    scores = difference_scores(narrow, wide, difference(narrow, wide), field)
    assert scores["share_beyond"] == 0
    assert list(scores["bands"]) == list(narrow.bands)


def test_different_inputs_are_reported(first, scene, truth):
    later = scene.copy(deep=True)
    later["coarse"][:] *= 1.02
    other = make_views(as_product(truth), later)
    field = make_field_map(first, scene)
    assert not difference_scores(first, other, difference(first, other), field)["same_inputs"]


def test_products_that_cannot_be_compared_are_refused(first, truth, scene):
    north = slice(0, 200)
    scene_north = scene.isel(y=north, y_coarse=slice(0, 20))
    smaller = make_views(as_product(truth.isel(y=north)), scene_north)
    with pytest.raises(GridError, match=r"\(24, 30\) and \(20, 30\) coarse pixels"):
        difference(first, smaller)
    a, b = (make_views(as_product(bands), scene) for bands in (truth[:3], truth[3:6]))
    with pytest.raises(BandError, match="share no band"):
        difference(a, b)
