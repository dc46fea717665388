"""A synthetic field with known truth, in the shapes of scenes and products."""

import numpy as np
import pytest
import rioxarray  # noqa: F401  registers the .rio accessor
import xarray as xr

from satfuse.sensors.bands import S2_NAMES, S3_NAMES, wavelengths_nm
from satfuse.sensors.degradation import degrade

RATIO = 10
HEIGHT, WIDTH = 240, 300


def materials(wavelength_nm):
    """(material, band): vegetation, soil and water as smooth curves."""
    l = np.asarray(wavelength_nm, float)
    vegetation = 0.04 + 0.42 / (1 + np.exp(-(l - 715) / 12)) * np.exp(-((np.maximum(l - 900, 0) / 900) ** 2))
    soil = 0.08 + 0.25 * (1 - np.exp(-(l - 350) / 600))
    water = 0.06 * np.exp(-(l - 400) / 180)
    return np.stack([vegetation, soil, water])


def abundances(height, width, seed=0):
    """(material, y, x): a wavy shore in the south west, square fields, texture. Not symmetric in any way."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    fields = np.kron(rng.random((height // 12 + 1, width // 12 + 1)), np.ones((12, 12)))[:height, :width]
    green = np.clip(fields + 0.08 * rng.standard_normal((height, width)), 0, 1)
    wet = (y - 0.75 * height + 10 * np.sin(x / 17) > 0) & (x < 0.6 * width)
    return np.stack([np.where(wet, 0, green), np.where(wet, 0, 1 - green), wet.astype(float)])


@pytest.fixture(scope="session")
def truth():
    """True reflectance (band, y, x) of the 21 bands on the fine grid."""
    image = np.einsum("mb,myx->byx", materials(wavelengths_nm(S3_NAMES)), abundances(HEIGHT, WIDTH))
    return xr.DataArray(
        image.astype(np.float32), dims=("band", "y", "x"), coords={"band": list(S3_NAMES), **fine_coordinates()}
    )


@pytest.fixture(scope="session")
def scene(truth):
    """A scene without noise: the guide sees the same ground, the coarse image is the degraded truth."""
    guide = np.einsum("mb,myx->byx", materials(wavelengths_nm(S2_NAMES)), abundances(HEIGHT, WIDTH))
    coarse = degrade(truth.values, RATIO)
    x, y = (truth[d].values.reshape(-1, RATIO).mean(1) for d in ("x", "y"))
    dataset = xr.Dataset(
        {
            "guide": (("guide_band", "y", "x"), guide.astype(np.float32)),
            "guide_valid": (("y", "x"), np.ones((HEIGHT, WIDTH), bool)),
            "coarse": (("coarse_band", "y_coarse", "x_coarse"), coarse),
            "coarse_valid": (("y_coarse", "x_coarse"), np.ones(coarse.shape[1:], bool)),
        },
        coords={
            "guide_band": list(S2_NAMES),
            "coarse_band": list(S3_NAMES),
            "y_coarse": y,
            "x_coarse": x,
            **fine_coordinates(),
        },
        attrs={"psf_sigma": 0.5008},
    )
    return dataset.rio.write_crs("EPSG:32635")


@pytest.fixture(scope="session")
def perfect(truth):
    """A product that equals the truth."""
    return product(truth)


def product(image):
    """A product Dataset with one time, as `open_fused` gives it."""
    dataset = image.rename("reflectance").expand_dims(time=[np.datetime64("2024-06-12T09:52:31", "ns")]).to_dataset()
    dataset["quality"] = (("time", "y", "x"), np.zeros((1, image.sizes["y"], image.sizes["x"]), np.uint16))
    return dataset.rio.write_crs("EPSG:32635")


def fine_coordinates():
    return {
        "y": 6480000 - 30.0 * (np.arange(HEIGHT) + 0.5),
        "x": 450000 + 30.0 * (np.arange(WIDTH) + 0.5),
    }
