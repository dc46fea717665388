"""Fourier analyses find a known cutoff, a shared pattern, a displacement."""

import numpy as np
import pytest

from satfuse import metrics
from satfuse.errors import GridError
from satfuse.validate.checks import detail
from satfuse.validate.fourier import coherence_ranges, cutoff, radial_coherence

SIZE = 240


@pytest.fixture(scope="module")
def noise():
    """Two unrelated images of white noise."""
    return np.random.default_rng(0).standard_normal((2, SIZE, SIZE))


def low_pass(image, limit):
    """The image without any frequency above the limit, in cycles per pixel."""
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE), indexing="ij"))
    return np.fft.ifft2(np.where(radius <= limit, np.fft.fft2(image), 0)).real


@pytest.mark.parametrize("limit", [0.05, 0.125, 0.3])
def test_a_low_pass_image_shows_its_cutoff(noise, limit):
    image = low_pass(noise[0], limit)
    ring = 1 / SIZE
    assert cutoff(image, noise[0]) == pytest.approx(limit, abs=2 * ring)
    frequency, power = metrics.radial_power(image)
    expected = metrics.radial_power(noise[0])[1]
    passed = frequency < limit - 2 * ring
    blocked = frequency > limit + 4 * ring
    np.testing.assert_allclose(power[passed], expected[passed], rtol=0.25)
    assert (power[blocked] < 1e-3 * expected[blocked]).all()
    assert detail(image, noise[0], 10)["half_power_px"] == pytest.approx(0.5 / limit, rel=0.1)


def test_a_sharp_image_has_no_cutoff_and_a_flat_one_no_power(noise):
    assert cutoff(1.1 * noise[0], noise[0]) == 0.5
    assert cutoff(np.zeros((SIZE, SIZE)), noise[0]) == 0
    assert np.isnan(detail(np.zeros((SIZE, SIZE)), noise[0], 10)["half_power_px"])


def test_coherence_is_the_share_of_the_common_pattern(noise):
    signal, other = noise
    _, same = radial_coherence(0.3 * signal + 5, signal)
    np.testing.assert_allclose(same, 1, atol=1e-9)
    _, half = radial_coherence(signal + other, signal)  # half of its power is the pattern
    assert np.mean(half[20:]) == pytest.approx(0.5, abs=0.03)
    assert np.mean(radial_coherence(other, signal)[1][20:]) < 0.02
    assert np.isnan(radial_coherence(np.zeros_like(signal), signal)[1]).all()


def test_coherence_falls_with_a_displacement_at_high_frequency_first(noise):
    smooth = low_pass(noise[0], 0.4)
    ranges = coherence_ranges(np.roll(smooth, 1, axis=1), smooth, 10)
    assert ranges["low"] > 0.95 > ranges["medium"] > ranges["high"]


def test_invented_detail_has_power_but_no_coherence(noise):
    """Power alone would call an image sharp whose detail is invented."""
    guide = noise[0]
    scores = detail(low_pass(guide, 0.1) + noise[1] - low_pass(noise[1], 0.1), guide, 10)
    assert scores["high"] == pytest.approx(1, abs=0.1)
    assert scores["coherence_high"] < 0.05
    assert scores["coherence_low"] > 0.99


def test_shapes_must_agree(noise):
    with pytest.raises(GridError, match=r"\(240, 240\) and \(239, 240\)"):
        radial_coherence(noise[0], noise[0][1:])
