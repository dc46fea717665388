"""Small EnMAP-like scenes with known spectra, for tests of cubes, batches and training."""

import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

WAVELENGTH_NM = np.concatenate([np.linspace(418.2, 993.1, 45), np.linspace(902.3, 2445.5, 70)])


def spectra() -> np.ndarray:
    """(material, wavelength) reflectance of invented vegetation, soil, water and roof."""
    nm = WAVELENGTH_NM
    edge = 1 / (1 + np.exp(-(nm - 715) / 15))
    water_bands = (
        1 - 0.5 * np.exp(-(((nm - 1940) / 80) ** 2)) - 0.3 * np.exp(-(((nm - 1450) / 60) ** 2))
    )
    green = (
        0.04
        + 0.05 * np.exp(-(((nm - 550) / 40) ** 2))
        + 0.42 * edge * np.exp(-(nm - 715).clip(0) / 1400) * water_bands
    )
    soil = (0.08 + 0.28 * (1 - np.exp(-(nm - 380) / 700))) * water_bands
    water = 0.07 * np.exp(-(nm - 400) / 180) + 0.002
    roof = 0.22 + 0.12 * np.sin(nm / 260) ** 2
    return np.stack([green, soil, water, roof])


def smooth_noise(rng, size: int, scale: float) -> np.ndarray:
    """(size, size) Gaussian field of unit variance, its spectrum about 1 / f up to `scale` px."""
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    field = np.fft.ifft2(
        np.fft.fft2(rng.standard_normal((size, size))) / (f + 1 / scale) ** 1.2
    ).real
    return (field - field.mean()) / field.std()


def enmap_scene(seed: int, size: int = 240, *, lon: float = 10.0, hole: bool = False) -> xr.Dataset:
    """A Dataset as from `readers.enmap.open_enmap`: sharp fields, texture and mixed pixels."""
    rng = np.random.default_rng(seed)
    fields = np.stack([smooth_noise(rng, size, 40) for _ in range(4)])
    cover = np.exp(4 * fields)
    cover /= cover.sum(0)
    bright = 1 + 0.15 * smooth_noise(rng, size, 8)
    image = np.einsum("myx,mb->byx", cover * bright, spectra()).clip(0).astype(np.float32)
    valid = np.ones((size, size), bool)
    if hole:
        valid[10:60, 20:90] = False
        image[:, ~valid] = np.nan
    easting = 300000 + 30 * round((lon - 10) * 80000 / 30)
    box = GeoBox((size, size), Affine(30, 0, easting, 0, -30, 5400000), "EPSG:32632")
    variables = {"reflectance": (("band", "y", "x"), image), "valid": (("y", "x"), valid)}
    per_band = {
        "wavelength_nm": ("band", WAVELENGTH_NM),
        "usable": ("band", np.ones(len(WAVELENGTH_NM), bool)),
    }
    return xr.Dataset(
        variables, {"band": np.arange(1, len(WAVELENGTH_NM) + 1), **per_band, **xr_coords(box)}
    )
