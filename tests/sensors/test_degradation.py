"""The observation model: means, ramps, shifts and holes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from satfuse.errors import GridError
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, degrade, psf_kernel, psf_radius

ratios = st.integers(1, 31)
sigmas = st.floats(0.05, 1.5)
shifts = st.floats(-2, 2)


@given(ratios, sigmas, shifts)
def test_kernel_is_a_weighted_mean_around_its_centre(ratio, sigma, shift):
    kernel = psf_kernel(ratio, sigma, shift)
    position = kernel.first + np.arange(len(kernel.weights))
    assert kernel.weights.sum() == pytest.approx(1)
    assert (kernel.weights >= 0).all()
    centre = (ratio - 1) / 2 - shift * ratio
    assert abs((kernel.weights * position).sum() - centre) <= 0.5


@settings(max_examples=40, deadline=None)
@given(
    st.integers(4, 7),
    st.integers(4, 7),
    st.sampled_from([1, 2, 5, 10]),
    sigmas,
    st.floats(-0.5, 0.5),
    st.floats(-5, 5),
)
def test_constants_stay_constant_with_holes_and_at_edges(rows, columns, ratio, sigma, shift, value):
    image = np.full((2, rows * ratio, columns * ratio), value)
    valid = np.random.default_rng(0).random(image.shape[1:]) > 0.3
    image[:, ~valid] = np.nan
    out = degrade(image, ratio, sigma, shift=(shift, -shift), valid=valid)
    assert np.allclose(out[np.isfinite(out)], value, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([2, 5, 10, 30]), st.floats(0.3, 1.0), st.floats(-0.4, 0.4), st.floats(-0.4, 0.4)
)
def test_ramp_is_sampled_at_coarse_centres_minus_the_shift(ratio, sigma, right, down):
    """Content moved by (right, down) coarse pixels: a ramp reads lower by slope times shift."""
    size = 12
    y, x = np.mgrid[: size * ratio, : size * ratio] / ratio  # in coarse pixels
    out = degrade(3 * x - 2 * y, ratio, sigma, shift=(right, down))
    centre = np.arange(size) + 0.5 - 0.5 / ratio
    expected = 3 * (centre[None] - right) - 2 * (centre[:, None] - down)
    inner = slice(4, -4)
    # the truncated kernel's centre of mass is off by less than a hundredth of a coarse pixel
    assert np.abs(out - expected)[inner, inner].max() < 5 * 0.02


def test_content_moves_right_and_down_with_the_shift():
    image = np.zeros((200, 200))
    image[95:105, 85:95] = 1.0  # centre of mass (y, x) = (99.5, 89.5)

    def centre(shift):
        out = degrade(image, 10, shift=shift)
        return np.array([(out * i).sum() / out.sum() for i in np.indices(out.shape)])

    moved = centre((0.4, 0.0)) - centre((0.0, 0.0))
    assert moved == pytest.approx([0, 0.4], abs=0.02)
    assert centre((0.0, 0.4)) - centre((0.0, 0.0)) == pytest.approx([0.4, 0], abs=0.02)


def test_mean_of_the_inside_is_kept():
    rng = np.random.default_rng(0)
    image = gaussian_filter(rng.random((300, 300)), 3)
    mean = image[30:-30, 30:-30].mean()
    assert degrade(image, 10)[3:-3, 3:-3].mean() == pytest.approx(mean, abs=2e-3)


def test_agrees_with_scipy_gaussian_blur():
    image = np.random.default_rng(1).random((330, 330))
    ratio = 11  # odd: coarse centres are centres of fine pixels
    sigma = 0.6
    reference = gaussian_filter(image, sigma * ratio, truncate=3.0)[5::11, 5::11]
    assert np.abs(degrade(image, ratio, sigma) - reference)[3:-3, 3:-3].max() < 1e-3


def test_mtf_at_the_coarse_nyquist_frequency():
    """A wave of 2 coarse pixels keeps 0.29 of its amplitude, from which the PSF width follows."""
    ratio = 30
    x = (np.arange(20 * ratio) - (ratio - 1) / 2) / ratio
    wave = np.broadcast_to(np.cos(np.pi * x), (10 * ratio, 20 * ratio))
    amplitude = np.abs(degrade(wave, ratio)[5, 5:-5])
    assert amplitude == pytest.approx(0.29, abs=0.01)


def test_holes_do_not_leak():
    image = np.random.default_rng(2).random((60, 60))
    valid = np.ones((60, 60), bool)
    valid[20:45, 15:40] = False
    bright = np.where(valid, image, 1e6)
    coarse = degrade(image, 5, valid=valid)
    assert np.array_equal(coarse, degrade(bright, 5, valid=valid), equal_nan=True)
    assert np.isnan(coarse[5:8, 4:7]).all()
    assert np.isnan(degrade(image, 5, valid=np.zeros_like(valid))).all()


def test_ratio_one_with_a_narrow_psf_is_identity():
    image = np.random.default_rng(3).random((3, 9, 8))
    assert np.allclose(degrade(image, 1, 0.05), image)


def test_one_width_per_band_and_types():
    image = np.random.default_rng(4).random((3, 40, 40)).astype("float32")
    out = degrade(image, 10, [0.4, 0.5, 0.8])
    assert out.dtype == np.float32
    for band, sigma in enumerate([0.4, 0.5, 0.8]):
        assert np.array_equal(out[band], degrade(image[band], 10, sigma))
    assert degrade(image.astype(float), 10).dtype == np.float64


def test_the_kernel_is_within_the_radius():
    for sigma in (0.2, DEFAULT_PSF_SIGMA, 1.1):
        kernel = psf_kernel(10, sigma)
        reach = psf_radius(sigma) * 10
        assert kernel.first >= -reach
        assert kernel.first + len(kernel.weights) <= 10 + reach


def test_impossible_settings_are_refused():
    image = np.zeros((20, 20))
    for call, words in [
        (lambda: degrade(image, 7), "does not divide"),
        (lambda: psf_kernel(2.5), "integer"),
        (lambda: psf_kernel(0), "integer"),
        (lambda: psf_kernel(3, 0.0), "positive"),
        (lambda: psf_kernel(3, float("nan")), "positive"),
        (lambda: degrade(image, 2, [0.5, 0.5]), "one per band"),
    ]:
        with pytest.raises(GridError, match=words):
            call()
