"""Means over cells, and degrading from them."""

import numpy as np
import pytest

from satfuse.errors import GridError
from satfuse.geometry.cells import average, cell_psf_sigma, choose_cells_per_pixel, sample_windows
from satfuse.sensors.degradation import degrade


@pytest.mark.parametrize(
    ("ratio", "shape", "expected"),
    [
        (30, (600, 600), 30),
        (30, (2100, 2100), 10),
        (30, (7530, 7530), 5),
        (10, (60, 120), 10),
        (15, (3000, 3000), 5),
        (13, (2600, 2600), 13),
        (4, (4000, 4000), 4),
        (10, (4000, 4000), 5),
    ],
)
def test_cells_divide_the_ratio_and_bound_the_memory(ratio, shape, expected):
    assert choose_cells_per_pixel(ratio, shape) == expected
    assert ratio % expected == 0


def test_means_ignore_invalid_pixels():
    image = np.arange(16.0).reshape(1, 4, 4)
    valid = np.ones((4, 4), bool)
    valid[0, 0] = valid[2:, 2:] = False
    image[:, ~valid] = np.nan
    means, means_valid = average(image, valid, 2)
    np.testing.assert_array_equal(means_valid, [[True, True], [True, False]])
    np.testing.assert_allclose(means[0], [[(1 + 4 + 5) / 3, 4.5], [10.5, 0]])
    with pytest.raises(GridError, match="do not divide"):
        average(image, valid, 3)


@pytest.mark.parametrize("psf_sigma", [0.35, 0.5, 0.8])
@pytest.mark.parametrize("k", [5, 10])
def test_degrading_from_cells_is_degrading_pixels(psf_sigma, k):
    """k x k cells per coarse pixel."""
    image = np.random.default_rng(0).random((1, 360, 360))  # white noise: the worst case
    cells, valid = average(image, np.ones((360, 360), bool), 30 // k)
    shift = (0.3, -0.2)
    from_cells = degrade(cells, k, cell_psf_sigma(psf_sigma, 30, k), shift=shift, valid=valid)
    direct = degrade(image, 30, psf_sigma, shift=shift)
    inner = (0, slice(3, -3), slice(3, -3))
    assert (from_cells - direct)[inner].std() < 0.15 * direct[inner].std()


def test_a_small_field_is_one_window():
    assert sample_windows(10, (60, 120)) == [(slice(0, 60), slice(0, 120))]


@pytest.mark.parametrize(
    ("ratio", "shape"),
    [(30, (6000, 7530)), (10, (5000, 300)), (30, (90, 60000)), (7, (2100, 1400))],
)
def test_sample_windows_start_on_coarse_pixels_all_over_the_field(ratio, shape):
    windows = sample_windows(ratio, shape)
    assert len(windows) == 9
    for axis, size in enumerate(shape):
        spans = [w[axis] for w in windows]
        side = spans[0].stop - spans[0].start
        assert all(s.start % ratio == 0 for s in spans)
        assert all(0 <= s.start < s.stop <= size for s in spans)
        assert all(s.stop - s.start == side for s in spans)
        assert side == min(max(166 // ratio, 4) * ratio, size)
        if size > 10 * side:
            starts = sorted({s.start / size for s in spans})
            assert starts[0] < 0.15
            assert 0.4 < starts[1] < 0.55
            assert starts[2] > 0.75
