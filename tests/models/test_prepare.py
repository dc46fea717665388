"""The preparation of a scene: how holes are filled, and who decides whether a shift is trusted."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = pytest.mark.torch

from affine import Affine

from satfuse.errors import ProductError
from satfuse.geometry.shift import ShiftEstimate
from satfuse.models.blocks import Cut, fuse_blocks
from satfuse.models.interface import Fused, FusionModel, Observation
from satfuse.models.prepare import (
    guide_fill,
    prepare_coarse,
    prepare_scene,
    require_overlap,
    shift_verdict,
)

RATIO = 5
GRID = Affine(300, 0, 0, 0, -300, 0)


def images(seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((3, 40, 30), np.float32), rng.random((4, 8, 6), np.float32)


def test_a_hole_of_the_coarse_image_takes_the_nearest_pixel_and_an_absent_band_is_zero():
    _, coarse = images()
    coarse[2] = np.nan
    coarse[0, 3, 3] = np.nan
    prepared = prepare_coarse(coarse)
    assert prepared.absent.tolist() == [False, False, True, False]
    assert not prepared.valid[3, 3]
    assert prepared.valid.sum() == 47
    assert (prepared.image[2] == 0).all()
    neighbours = [coarse[0, y, x] for y, x in ((2, 3), (4, 3), (3, 2), (3, 4))]
    assert prepared.image[0, 3, 3] in neighbours
    np.testing.assert_array_equal(prepared.image[1][prepared.valid], coarse[1][prepared.valid])


def test_masked_coarse_pixels_are_not_used_even_where_they_have_values():
    _, coarse = images()
    valid = np.ones((8, 6), bool)
    valid[:, :2] = False
    coarse[:, :, :2] = 9.0
    prepared = prepare_coarse(coarse, valid)
    np.testing.assert_array_equal(prepared.valid, valid)
    assert prepared.image.max() < 1


def test_a_masked_guide_pixel_takes_its_bands_median_over_the_usable_ones():
    guide, coarse = images()
    valid = np.ones((40, 30), bool)
    valid[5:9, 5:9] = False
    guide[:, ~valid] = 7.0  # a bright cloud
    scene = prepare_scene(guide, coarse, ratio=RATIO, registered=True, guide_valid=valid)
    median = np.median(guide[:, valid], axis=1)
    np.testing.assert_array_equal(guide_fill(scene.summary), median)
    np.testing.assert_array_equal(scene.inputs.guide[:, 6, 6], median)
    np.testing.assert_array_equal(scene.inputs.guide[:, valid], guide[:, valid])


@pytest.mark.parametrize(
    ("holes", "cause"),
    [
        ((slice(None), slice(None)), "NaN or infinite everywhere"),
        ((slice(0, 2), slice(None)), "guide is missing wherever"),
    ],
)
def test_images_without_a_common_pixel_are_refused_with_the_cause(holes, cause):
    guide, coarse = images()
    coarse[:, *holes] = np.nan
    guide[:, 10:] = np.nan
    scene = prepare_scene(guide, coarse, ratio=RATIO, registered=True)
    with pytest.raises(ProductError, match=cause):
        require_overlap(scene.summary, scene.absent, hint="")


def observation(doubt=""):
    return Observation(
        shift=np.array([0.5, -0.25]),
        shift_sigma=np.array([0.02, 0.03]),
        psf_sigma=np.full(4, 0.5),
        gain=np.ones(4),
        doubt=doubt,
    )


UNTRUSTED = ShiftEstimate(0.0, 0.0, np.inf, False, "too few pixels")
APPLIED = ShiftEstimate(60.0, 30.0, 5.0, True, "estimated")


def test_without_an_observation_the_registration_decides():
    for registration in (UNTRUSTED, APPLIED):
        verdict = shift_verdict(None, registration, registered=True, transform=GRID)
        assert verdict is registration


def test_a_model_that_estimates_the_shift_replaces_an_untrusted_registration():
    verdict = shift_verdict(observation(), UNTRUSTED, registered=False, transform=GRID)
    assert verdict.trusted
    assert (verdict.dx_m, verdict.dy_m) == (150, 75)  # rows run southward
    assert verdict.sigma_m == pytest.approx(9)


def test_a_models_doubt_withdraws_trust_but_keeps_the_shift_that_was_applied():
    verdict = shift_verdict(
        observation("poorly correlated"), APPLIED, registered=True, transform=GRID
    )
    assert not verdict.trusted
    assert verdict.reason == "poorly correlated"
    assert (verdict.dx_m, verdict.dy_m) == (60, 30)


def test_a_guide_of_another_type_is_given_to_models_as_float32():
    guide, coarse = images()
    scene = prepare_scene(guide.astype(np.float64), coarse, ratio=RATIO, registered=True)
    assert scene.inputs.guide.dtype == np.float32


def test_degrees_have_no_shift_in_metres():
    verdict = shift_verdict(
        observation(), UNTRUSTED, registered=False, transform=GRID, in_metres=False
    )
    assert verdict.trusted
    assert (verdict.dx_m, verdict.dy_m, verdict.sigma_m) == (0, 0, np.inf)


@pytest.mark.parametrize("output", ["input", "expanded"])
def test_what_a_caller_writes_into_a_block_changes_nothing_else(output):
    class Echo(FusionModel):
        name = "echo"

        def reach(self, ratio):
            return 0

        def forward(self, guide, coarse, *, state=None, guide_valid=None, coarse_valid=None):
            mean = guide.mean((2, 3), keepdim=True)
            return Fused(guide if output == "input" else mean.expand(guide.shape))

    guide, _ = images()
    _, coarse = images()
    model = Echo(guide_bands=3, coarse_bands=3, ratio=RATIO)
    scene = prepare_scene(guide, coarse[:3], ratio=RATIO, registered=True)
    cut = Cut.of(model, (40, 30), RATIO, block_px=100)
    ((_, image, _),) = fuse_blocks(model, {}, scene.inputs, scene.inputs.window, cut)
    image[:, 3, 4] = np.nan
    assert np.isnan(image).sum() == 3
    assert np.isfinite(scene.inputs.guide).all()
