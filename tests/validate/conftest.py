"""The synthetic field as a scene and as products."""

import numpy as np
import pytest
import rioxarray  # noqa: F401  registers the .rio accessor
import xarray as xr

from satfuse.sensors.bands import S2_NAMES, S3_NAMES, wavelengths_nm
from satfuse.sensors.degradation import degrade
from tests.validate.validate_field import (
    HEIGHT,
    RATIO,
    WIDTH,
    abundances,
    fine_coordinates,
    materials,
)


@pytest.fixture(scope="session")
def truth():
    """True reflectance (band, y, x) of the 21 bands on the fine grid."""
    image = np.einsum("mb,myx->byx", materials(wavelengths_nm(S3_NAMES)), abundances(HEIGHT, WIDTH))
    return xr.DataArray(
        image.astype(np.float32),
        dims=("band", "y", "x"),
        coords={"band": list(S3_NAMES), **fine_coordinates()},
    )


@pytest.fixture(scope="session")
def scene(truth):
    """Without noise: the guide shows the same field, the coarse image is the degraded truth."""
    guide = np.einsum("mb,myx->byx", materials(wavelengths_nm(S2_NAMES)), abundances(HEIGHT, WIDTH))
    coarse = degrade(truth.values, RATIO)
    x, y = (truth[dim].values.reshape(-1, RATIO).mean(1) for dim in ("x", "y"))
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
    """A product Dataset with one time, as `open_fused` returns it."""
    time = np.datetime64("2024-06-12T09:52:31", "ns")
    dataset = image.rename("reflectance").expand_dims(time=[time]).to_dataset()
    quality = np.zeros((1, image.sizes["y"], image.sizes["x"]), np.uint16)
    dataset["quality"] = (("time", "y", "x"), quality)
    return dataset.rio.write_crs("EPSG:32635")
