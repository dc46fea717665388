"""The hallucination check finds what was put into a product: where, how large, and in which one."""

import numpy as np
import pytest
from validate_field import HEIGHT, WIDTH

from satfuse.errors import BandError, GridError
from satfuse.validate.comparison.difference import NOISE, difference, difference_scores, residual
from satfuse.validate.look import look_of
from satfuse.validate.upsample import bicubic_matrix, upsample
from satfuse.validate.views import make_views

ROWS, COLUMNS = slice(60, 72), slice(150, 170)


def as_product(image):
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


def test_an_injected_pattern_is_found_at_its_place_and_size(first, invented, perfect, scene):
    look = look_of(first, scene)
    for a, b, unsupported in ((first, invented, "other"), (invented, first, "first")):
        scores = difference_scores(a, b, difference(a, b), look)
        (region,) = scores["regions"]
        assert region["unsupported"] == unsupported
        assert region["easting_km"] == pytest.approx(450 + 0.03 * 160, abs=1e-6)
        assert region["northing_km"] == pytest.approx(6480 - 0.03 * 66, abs=1e-6)
        assert (region["width_m"], region["height_m"]) == pytest.approx((600, 360))
        assert region["area_m2"] == pytest.approx(600 * 360)
        share = 12 * 20 / (HEIGHT * WIDTH)
        assert scores["share_beyond"] == scores["share_unsupported"] == pytest.approx(share)
        assert scores[f"unsupported_{unsupported}"] == pytest.approx(share)
        assert scores["same_inputs"] and scores["rmse"] == pytest.approx(
            0.06 * np.sqrt(share), rel=1e-3
        )
        assert region["peak"] == pytest.approx(0.06 / residual(first).mean(), rel=0.05)


def test_place_and_size_hold_for_sampled_and_south_up_fields(truth, scene, monkeypatch):
    from satfuse.validate import views as module

    monkeypatch.setattr(module, "SAMPLE_PX", 150)  # every second pixel
    image = truth.copy(deep=True)
    image[::2, ROWS, COLUMNS] += 0.1
    flip = {"y": slice(None, None, -1)}
    turned = scene.isel(y=flip["y"], y_coarse=flip["y"])
    a, b = (make_views(as_product(i.isel(flip)), turned) for i in (truth, image))
    (region,) = difference_scores(a, b, difference(a, b), look_of(a, turned))["regions"]
    assert region["northing_km"] == pytest.approx(6480 - 0.03 * 66, abs=0.03)
    assert region["easting_km"] == pytest.approx(450 + 0.03 * 160, abs=0.03)
    assert region["area_m2"] == pytest.approx(600 * 360)


def test_missing_detail_differs_but_is_not_invented(first, scene, truth):
    coarse = scene["coarse"].values
    blurred = truth.copy(data=upsample(coarse, *(bicubic_matrix(n, 10) for n in coarse.shape[1:])))
    half = (truth + blurred) / 2
    for image in (blurred, half):
        other = make_views(as_product(image), scene)
        scores = difference_scores(first, other, difference(first, other), look_of(first, scene))
        assert scores["share_beyond"] > 0.3
        assert scores["unsupported_other"] < 1e-3 and scores["regions"] == []


def test_equal_products_do_not_differ(first, scene):
    scores = difference_scores(first, first, difference(first, first), look_of(first, scene))
    assert scores["share_beyond"] == 0 == scores["rmse"] and scores["regions"] == []


def test_the_residual_is_the_scenes_own(truth, scene, first):
    """Noise that the guide cannot explain raises it, by as much as the guide varies more at fine pixels."""
    clean = residual(first)
    assert (clean >= NOISE).all() and clean.max() < 1.6 * NOISE
    noisy = scene.copy(deep=True)
    noisy["coarse"][:] += 0.01 * np.random.default_rng(0).standard_normal(noisy["coarse"].shape)
    fine = np.std(scene["guide"].values, axis=(1, 2))
    spread = np.median(fine / first.guide.degraded[:, first.compare].std(axis=1))
    assert spread > 1.05
    for product in (
        truth,
        truth[::-1].assign_coords(band=truth.band),
    ):  # whatever the product holds
        found = residual(make_views(as_product(product), noisy))
        assert np.mean(found) == pytest.approx(0.01 * spread, rel=0.06)


def test_products_of_19_and_21_bands_are_compared_over_what_they_share(first, truth, scene):
    image = truth.copy(deep=True)
    image[:2] += 0.5  # Oa01 and Oa02, which the other one lacks
    wide = make_views(as_product(image), scene)
    narrow = make_views(as_product(truth[2:]), scene)
    scores = difference_scores(narrow, wide, difference(narrow, wide), look_of(narrow, scene))
    assert scores["share_beyond"] == 0 and list(scores["bands"]) == list(narrow.bands)


def test_other_inputs_are_told(first, scene, truth):
    later = scene.copy(deep=True)
    later["coarse"][:] *= 1.02
    other = make_views(as_product(truth), later)
    assert not difference_scores(first, other, difference(first, other), look_of(first, scene))[
        "same_inputs"
    ]


def test_products_that_cannot_be_compared_are_refused(first, truth, scene):
    smaller = make_views(
        as_product(truth.isel(y=slice(0, 200))), scene.isel(y=slice(0, 200), y_coarse=slice(0, 20))
    )
    with pytest.raises(GridError, match=r"\(24, 30\) and \(20, 30\) coarse pixels"):
        difference(first, smaller)
    with pytest.raises(BandError, match="share no band"):
        difference(
            make_views(as_product(truth[:3]), scene), make_views(as_product(truth[3:6]), scene)
        )
