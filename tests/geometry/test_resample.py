"""Nearest fill, block means and the cubic kernel, against independent computations."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from satfuse.geometry.resample import block_mean, cubic_kernel, fill_nearest


def test_holes_take_the_value_of_a_nearest_pixel():
    rng = np.random.default_rng(0)
    image = rng.random((2, 9, 12), dtype=np.float32)
    holes = rng.random((9, 12)) < 0.6
    filled = fill_nearest(image, holes)
    positions = np.argwhere(~holes)
    tree = cKDTree(positions)
    for row, column in np.argwhere(holes):
        distance = tree.query((row, column))[0]
        nearest = positions[np.isclose(np.hypot(*(positions - (row, column)).T), distance)]
        candidates = [tuple(image[:, y, x]) for y, x in nearest]
        assert tuple(filled[:, row, column]) in candidates
    np.testing.assert_array_equal(filled[:, ~holes], image[:, ~holes])


@pytest.mark.parametrize("everything", [True, False])
def test_nothing_is_filled_where_there_is_no_hole_or_nothing_to_fill_from(everything):
    image = np.arange(6.0).reshape(1, 2, 3)
    assert fill_nearest(image, np.full((2, 3), everything)) is image


def test_block_mean_keeps_type_and_spreads_nan():
    image = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
    image[0, 0, 1] = np.nan
    means = block_mean(image, 2)
    assert means.dtype == np.float32
    np.testing.assert_array_equal(means[1], image[1].reshape(2, 2, 2, 2).mean((1, 3)))
    np.testing.assert_array_equal(np.isnan(means[0]), [[True, False], [False, False]])


def test_cubic_kernel_interpolates_and_keeps_constants():
    assert cubic_kernel(np.array([0.0, 1.0, 2.0, 3.0])).tolist() == [1, 0, 0, 0]
    offsets = np.arange(-1, 3)
    for position in (0.1, 0.25, 0.5, 0.9):
        weights = cubic_kernel(offsets - position)
        assert weights.sum() == pytest.approx(1, abs=1e-12)
