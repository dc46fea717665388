"""Sub-pixel shift: known shifts are recovered, sigma fits the error, bad input is not trusted."""

import numpy as np
import pytest
from scipy import ndimage

from satfuse.errors import GridError
from satfuse.geometry.shift import ShiftEstimate, estimate_shift
from satfuse.sensors.degradation import degrade

PIXEL_M = 300.0


def surfaces(rng, height, width, ratio, count=4):
    """Fractal textures and patches with edges, (count, y, x) on the fine grid."""
    size = (height * ratio, width * ratio)
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1])[None])
    frequency[0, 0] = 1
    out = np.fft.ifft2(np.fft.fft2(rng.standard_normal((count, *size))) / frequency**1.3).real
    out = (out - out.mean((1, 2), keepdims=True)) / out.std((1, 2), keepdims=True)
    step = 2 * ratio
    levels = rng.integers(0, 4, (size[0] // step + 2, size[1] // step + 2))
    patches = levels.repeat(step, 0).repeat(step, 1)
    out[0] = np.tanh(2 * out[0]) + 0.5 * patches[: size[0], : size[1]]
    return out


def pair(
    seed,
    height,
    width,
    shift,
    *,
    ratio=6,
    noise=0.01,
    holes=0.3,
    guide_bands=6,
    coarse_bands=8,
    scattered=False,
):
    """A degraded guide, and a coarse image moved by `shift` (right, down) in coarse pixels.

    The coarse image has other bands and gains, noise and holes; `holes` is the share of pixels.
    """
    rng = np.random.default_rng(seed)
    truth = surfaces(rng, height, width, ratio)
    response = 0.05 * rng.normal(size=(guide_bands, len(truth)))
    guide = np.tensordot(response, truth, 1) + 0.2
    # the coarse bands respond to the surface partly as the guide does, partly otherwise
    specific = 0.05 * rng.normal(size=(coarse_bands, len(truth)))
    mixing = 0.3 * rng.normal(size=(coarse_bands, guide_bands))
    fine = np.tensordot(specific + mixing @ response, truth, 1) + 0.25
    with np.errstate(invalid="ignore", divide="ignore"):
        coarse = degrade(fine, ratio, shift=shift)
    gain = rng.uniform(0.8, 1.2, (coarse_bands, 1, 1))
    coarse = coarse * gain + rng.normal(0, 0.02, (coarse_bands, 1, 1))
    coarse += rng.normal(0, noise, coarse.shape)
    if scattered:
        pattern = rng.random((height, width))
    else:
        pattern = ndimage.gaussian_filter(rng.normal(size=(height, width)), 2)
    coarse[:, pattern < np.quantile(pattern, holes)] = np.nan
    return degrade(guide, ratio), coarse


def error_px(estimate, shift):
    return np.array([estimate.dx_m / PIXEL_M - shift[0], -estimate.dy_m / PIXEL_M - shift[1]])


def random_shift(seed, longest=2.0):
    rng = np.random.default_rng([seed, 1])
    angle = rng.uniform(0, 2 * np.pi)
    length = longest * np.sqrt(rng.random())
    return length * np.cos(angle), length * np.sin(angle)


@pytest.mark.parametrize(("right", "down"), [(0.4, 0.0), (0.0, 0.4), (-1.3, 0.7)])
def test_shift_is_the_displacement_of_the_coarse_content_east_and_north(right, down):
    y, x = np.mgrid[:300, :300]
    blobs = np.exp(-(((x - 140) / 45) ** 2) - ((y - 165) / 25) ** 2)
    blobs += 0.6 * np.exp(-(((x - 200) ** 2 + (y - 110) ** 2) / 300))
    moved = degrade(blobs, 10, shift=(right, down))
    estimate = estimate_shift(degrade(blobs, 10)[None], moved[None], pixel_m=PIXEL_M)
    assert estimate.trusted, estimate.reason
    assert estimate.dx_m == pytest.approx(right * PIXEL_M, abs=6)  # right is east
    assert estimate.dy_m == pytest.approx(-down * PIXEL_M, abs=6)  # down is south


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"noise": 0.03},
        {"scattered": True},
        {"guide_bands": 12, "coarse_bands": 21},
        {"guide_bands": 3, "coarse_bands": 5},
        {"holes": 0.0, "noise": 0.0},
    ],
    ids=str,
)
def test_a_known_shift_is_recovered_to_a_tenth_of_a_pixel(setting):
    for seed in range(8):
        shift = random_shift(seed)
        estimate = estimate_shift(*pair(seed, 24, 24, shift, **setting), pixel_m=PIXEL_M)
        assert estimate.trusted, (seed, shift, estimate)
        assert np.hypot(*error_px(estimate, shift)) < 0.1, (seed, shift, estimate)


def test_holes_of_the_guide_are_bridged():
    shift = (1.2, -0.8)
    for seed in range(6):
        guide, coarse = pair(seed, 30, 30, shift, holes=0.15)
        pattern = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(30, 30)), 2)
        guide[:, pattern < np.quantile(pattern, 0.2)] = np.nan
        estimate = estimate_shift(guide, coarse, pixel_m=PIXEL_M)
        assert estimate.trusted, (seed, estimate)
        assert np.hypot(*error_px(estimate, shift)) < 0.1, (seed, estimate)


def test_detail_that_only_the_guide_has_does_not_attract_the_estimate_to_half_pixels():
    """Interpolation smooths most half-way between pixels, which would hide the guide's noise."""
    errors = []
    for seed in range(8):
        shift = random_shift(seed, 1.0)
        guide, coarse = pair(seed, 48, 48, shift)
        noise = np.random.default_rng([seed, 2]).normal(size=guide.shape)
        noisy = guide + 0.3 * guide.std((1, 2), keepdims=True) * noise
        estimate = estimate_shift(noisy, coarse, pixel_m=PIXEL_M)
        errors.append(error_px(estimate, shift) * PIXEL_M)
    assert np.sqrt(np.mean(np.square(errors))) < 7  # 15 m without smoothing


def test_values_outside_valid_do_not_count():
    guide, coarse = pair(3, 24, 24, (0.5, 0.5), holes=0.0)
    valid = np.ones((24, 24), bool)
    valid[5:12, 8:16] = False
    expected = estimate_shift(guide, np.where(valid, coarse, np.nan), pixel_m=PIXEL_M)
    bright = np.where(valid, coarse, 9.0)
    assert estimate_shift(guide, bright, pixel_m=PIXEL_M, valid=valid) == expected


def test_sigma_is_the_error_one_should_expect():
    """At every noise level and size the error is about one sigma; smaller fields have more."""
    scores = []
    sigma = {}
    for size, noise in [((24, 24), 0.06), ((24, 24), 0.03), ((12, 12), 0.04), ((8, 10), 0.02)]:
        estimates = []
        for seed in range(14):
            shift = random_shift(seed, 1.0)
            images = pair(seed, *size, shift, noise=noise, holes=0.1)
            estimates.append(estimate_shift(*images, pixel_m=PIXEL_M))
            if estimates[-1].trusted:
                error = error_px(estimates[-1], shift) * PIXEL_M
                scores.append(error / estimates[-1].sigma_m)
        sigma[size, noise] = np.median([e.sigma_m for e in estimates])
    assert 0.6 < np.sqrt(np.mean(np.square(scores))) < 1.4
    assert sigma[(24, 24), 0.03] < sigma[(24, 24), 0.06] < sigma[(12, 12), 0.04]


def test_small_fields_are_uncertain_and_never_wrong_with_confidence():
    wrong = trusted = 0
    for seed in range(30):
        shift = random_shift(seed)
        estimate = estimate_shift(*pair(seed, 6, 9, shift, noise=0.03, holes=0.0), pixel_m=PIXEL_M)
        error_m = np.hypot(*error_px(estimate, shift)) * PIXEL_M
        trusted += estimate.trusted
        wrong += estimate.trusted and error_m > 4 * estimate.sigma_m + 30
    assert wrong <= 1
    assert 0 < trusted < 30


@pytest.mark.parametrize("size", [(24, 24), (40, 40)])
def test_images_of_different_places_are_not_trusted(size):
    trusted = 0
    for seed in range(10):
        guide, _ = pair(seed, *size, (0, 0))
        _, coarse = pair(seed + 500, *size, (0, 0))
        trusted += estimate_shift(guide, coarse, pixel_m=PIXEL_M).trusted
    assert trusted <= 1


def test_reasons_for_distrust():
    guide, coarse = pair(0, 24, 24, (0.0, 0.0))
    far = pair(1, 40, 40, (0.0, 0.0), holes=0.0)
    flat = np.full((3, 24, 24), 0.2)
    noise = np.random.default_rng(0).normal(size=(4, 24, 24))
    hidden = np.zeros((24, 24), bool)
    hidden[:4, :5] = True
    cases = {
        "texture": estimate_shift(flat, coarse, pixel_m=PIXEL_M),
        "no texture": estimate_shift(guide, flat, pixel_m=PIXEL_M),
        "valid": estimate_shift(guide, coarse, pixel_m=PIXEL_M, valid=hidden),
        "0 pixels": estimate_shift(guide, coarse * np.nan, pixel_m=PIXEL_M),
        # 3 pixels to the left
        "beyond": estimate_shift(far[0][..., :-3], far[1][..., 3:], pixel_m=PIXEL_M),
        "poorly correlated": estimate_shift(guide, noise, pixel_m=PIXEL_M),
    }
    for text, estimate in cases.items():
        assert isinstance(estimate, ShiftEstimate), text
        assert not estimate.trusted, text
        assert text in estimate.reason or "converge" in estimate.reason, (text, estimate)
    with pytest.raises(GridError, match="degrade the guide"):
        estimate_shift(guide, coarse[:, :-1], pixel_m=PIXEL_M)


def test_a_field_that_varies_in_x_only_is_not_trusted():
    """It has no information about the shift in y."""
    row = surfaces(np.random.default_rng(2), 24, 24, 6)[:, 40:41]
    stripes = np.broadcast_to(row, (4, 144, 144))
    coarse = degrade(stripes, 6, shift=(0.5, 0))
    coarse = coarse + np.random.default_rng(0).normal(0, 0.05, (4, 24, 24))
    assert not estimate_shift(degrade(stripes, 6), coarse, pixel_m=PIXEL_M).trusted
