"""The procedural surface: the same at every window and resolution, with plausible structure."""

import numpy as np
import pytest

from satfuse.errors import ConfigError
from satfuse.geometry.resample import block_mean
from satfuse.simulate.biomes import BIOMES, NAMES
from satfuse.simulate.noise import fractal, hashed, uniform
from satfuse.simulate.surface import Surface

LEFT = 503400.0
TOP = 5003100.0


def grid(rows, columns, gsd_m, left=LEFT, top=TOP):
    x = left + gsd_m * (np.arange(columns) + 0.5)
    y = top - gsd_m * (np.arange(rows) + 0.5)
    return np.meshgrid(x, y)


def share(abundances, *prefixes):
    return sum(abundances[i] for i, n in enumerate(NAMES) if n.startswith(prefixes))


@pytest.mark.parametrize("biome", BIOMES)
def test_window_equals_part_of_larger_window(biome):
    surface = Surface(4, biome)
    x, y = grid(210, 230, 10)
    whole = surface.abundances(x, y, gsd_m=10)
    assert whole.shape == (len(NAMES), 210, 230)
    assert whole.dtype == np.float32
    part = surface.abundances(x[37:90, 61:150], y[37:90, 61:150], gsd_m=10)
    np.testing.assert_array_equal(part, whole[:, 37:90, 61:150])
    scattered = np.random.default_rng(0).integers(0, x.size, 500)
    np.testing.assert_array_equal(
        surface.abundances(x.ravel()[scattered], y.ravel()[scattered], gsd_m=10),
        whole.reshape(len(NAMES), -1)[:, scattered],
    )


@pytest.mark.parametrize("biome", BIOMES)
def test_abundances_are_fractions_times_brightness(biome):
    abundances = Surface(1, biome).abundances(*grid(150, 150, 10), gsd_m=10)
    total = abundances.sum(0)
    assert abundances.min() >= -1e-6
    assert total.min() >= 0.749
    assert total.max() <= 1.251
    assert abs(total.mean() - 1) < 0.12


def test_seeds_and_biomes_differ():
    x, y = grid(60, 60, 10)
    maps = [Surface(seed, biome).abundances(x, y, gsd_m=10) for seed in (1, 2) for biome in BIOMES]
    for i, one in enumerate(maps):
        assert all(np.abs(one - other).mean() > 1e-3 for other in maps[:i])


def test_unknown_biome_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"'moon'.*desert"):
        Surface(1, "moon")


@pytest.mark.parametrize("biome", BIOMES)
def test_coarse_evaluation_is_the_mean_of_the_fine_one(biome):
    surface = Surface(9, biome)
    mean = block_mean(surface.abundances(*grid(360, 360, 10), gsd_m=10), 30)
    coarse = surface.abundances(*grid(12, 12, 300), gsd_m=300)
    assert np.sqrt(np.mean((coarse - mean) ** 2)) < 0.05
    assert np.abs(coarse.mean((1, 2)) - mean.mean((1, 2))).max() < 0.025
    # the place is right: one three pixels away agrees much less
    assert np.std(coarse - mean) < 0.6 * np.std(coarse - np.roll(mean, 3, axis=1))


@pytest.mark.parametrize(
    ("biome", "prefixes", "low", "high"),
    [
        ("desert", ("sand", "soil"), 0.6, 1.0),
        ("forest", ("conifer", "vegetation_dense"), 0.5, 1.0),
        ("city", ("concrete", "asphalt", "roof", "metal"), 0.15, 0.8),
        ("coast", ("water",), 0.15, 0.8),
        ("snow", ("snow",), 0.3, 0.95),
        ("crop", ("water", "snow", "metal"), 0.0, 0.1),
        ("mixed", ("vegetation", "conifer"), 0.3, 0.9),
    ],
)
def test_biomes_have_the_covers_of_their_name(biome, prefixes, low, high):
    abundances = Surface(3, biome).abundances(*grid(150, 150, 200), gsd_m=70)
    assert low <= share(abundances, *prefixes).mean() <= high


def test_parcels_have_sharp_edges_and_flat_insides():
    green = share(Surface(2, "crop").abundances(*grid(300, 300, 10), gsd_m=10), "vegetation_dense")
    step = np.abs(np.diff(green, axis=1))
    assert np.mean(step < 0.02) > 0.7, "insides of parcels are flat"
    assert np.mean(step > 0.3) > 0.01, "borders of parcels are steps from one pixel to the next"


def test_texture_at_10_m_fades_in_large_pixels():
    x, y = grid(200, 200, 10)
    surface = Surface(2, "forest")
    fine, smooth = (surface.abundances(x, y, gsd_m=g).sum(0) for g in (10, 70))
    rough = [np.abs(np.diff(np.diff(m, axis=1), axis=1)).mean() for m in (fine, smooth)]
    assert rough[0] > 3 * rough[1]


def test_noise_is_standard_and_hashes_uniform():
    x, y = np.random.default_rng(0).uniform(0, 2e6, (2, 50000))
    field = fractal(1, "a", x, y, longest_m=5000, octaves=5)
    assert abs(field.mean()) < 0.05
    assert abs(field.std() - 1) < 0.05
    other = fractal(1, "b", x, y, longest_m=5000, octaves=5)
    assert abs(np.corrcoef(field, other)[0, 1]) < 0.03
    cells = hashed(1, *np.divmod(np.arange(60000), 300))
    counts = np.histogram(uniform(cells), 20, (0, 1))[0]
    assert counts.min() > 2700
    assert counts.max() < 3300
    assert abs(np.corrcoef(uniform(cells, 1), uniform(cells, 2))[0, 1]) < 0.02
    by_row = uniform(cells).reshape(200, 300)
    assert abs(np.corrcoef(by_row[:, 1:].ravel(), by_row[:, :-1].ravel())[0, 1]) < 0.02
