"""A synthetic field with known truth: its materials and where they are."""

import numpy as np

RATIO = 10
HEIGHT = 240
WIDTH = 300


def materials(wavelength_nm):
    """(material, band): vegetation, soil and water as smooth curves."""
    l = np.asarray(wavelength_nm, float)
    red_edge = 0.42 / (1 + np.exp(-(l - 715) / 12))
    vegetation = 0.04 + red_edge * np.exp(-((np.maximum(l - 900, 0) / 900) ** 2))
    soil = 0.08 + 0.25 * (1 - np.exp(-(l - 350) / 600))
    water = 0.06 * np.exp(-(l - 400) / 180)
    return np.stack([vegetation, soil, water])


def abundances(height, width, seed=0):
    """(material, y, x): a wavy shore in the south west, square fields, texture; no symmetry."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    fields = np.kron(rng.random((height // 12 + 1, width // 12 + 1)), np.ones((12, 12)))
    green = np.clip(fields[:height, :width] + 0.08 * rng.standard_normal((height, width)), 0, 1)
    wet = (y - 0.75 * height + 10 * np.sin(x / 17) > 0) & (x < 0.6 * width)
    return np.stack([np.where(wet, 0, green), np.where(wet, 0, 1 - green), wet.astype(float)])


def fine_coordinates():
    """Pixel centres in metres; pixels of 30 m, rows from north to south."""
    return {
        "y": 6480000 - 30.0 * (np.arange(HEIGHT) + 0.5),
        "x": 450000 + 30.0 * (np.arange(WIDTH) + 0.5),
    }
