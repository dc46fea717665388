"""Real spatial structure: Sentinel-2 images of WorldStrat (CC BY 4.0), unmixed into given spectra.

Only the Sentinel-2 part is read; the SPOT images next to it are under a non-commercial licence.
"""

from functools import cache
from pathlib import Path

import numpy as np
import rasterio
from scipy.ndimage import uniform_filter

from satfuse.arrays import FloatArray
from satfuse.sensors.bands import S2_BANDS
from satfuse.sensors.quality import HIGHEST_REFLECTANCE

ATTRIBUTION = (
    "WorldStrat Sentinel-2 revisits (CC BY 4.0), contains modified Copernicus Sentinel data 2018"
)
_STEPS = 100  # of the projected gradient
_WEIGHT_BY_GSD_M = {10: 1.0, 20: 0.4, 60: 0.0}  # of a band in the fit


@cache
def revisits(folder: Path) -> tuple[FloatArray, ...]:
    """Sentinel-2 images of `<folder>/worldstrat`; empty where the folder is absent.

    Returns
    -------
    (12, y, x) float32 reflectance at 10 m, per image.
    """
    paths = sorted((Path(folder) / "worldstrat" / "lr_dataset").glob("*/L2A/*-L2A_data.tiff"))
    return tuple(_read(path) for path in paths)


def fit_abundances(image: FloatArray, values: FloatArray) -> FloatArray:
    """Non-negative abundances of spectra in an image, by least squares.

    Solved by accelerated projected gradient (Beck & Teboulle 2009). The 20 m bands of the source
    are nearest-neighbour copies on the 10 m grid: they are averaged over one of their own pixels
    and weigh less than the 10 m bands. The 60 m bands hold no detail at 10 m and are left out.

    Parameters
    ----------
    image : (12, y, x) Sentinel-2 reflectance.
    values : (k, 12) band values of the spectra.

    Returns
    -------
    (k, y, x) float32, not negative; the sum over k is the brightness.
    """
    weight = np.array([_WEIGHT_BY_GSD_M[band.gsd_m] for band in S2_BANDS], np.float32)
    planes = zip(image, S2_BANDS, strict=True)
    smooth = np.stack([p if band.gsd_m == 10 else uniform_filter(p, 2) for p, band in planes])
    target = (smooth * weight[:, None, None]).reshape(len(smooth), -1)
    design = (values * weight).T.astype(np.float32)
    gram = design.T @ design
    fit = design.T @ target
    step = 1 / np.linalg.norm(gram, 2)  # 1 / Lipschitz constant of the gradient
    share = np.full_like(fit, 1 / len(values))
    ahead = share
    momentum = 1.0
    for _ in range(_STEPS):
        previous = share
        share = np.maximum(ahead - step * (gram @ ahead - fit), 0)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = share + np.float32((momentum - 1) / following) * (share - previous)
        momentum = following
    return share.reshape(len(values), *image.shape[1:])


def cut(image: FloatArray, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    """Random window (b, y, x) of an image, turned and mirrored at random.

    Reflected at its edges where the image is smaller than `shape`.
    """
    image = np.rot90(image, int(rng.integers(4)), (1, 2))
    image = image[:, :, ::-1] if rng.random() < 0.5 else image
    height, width = shape
    missing_rows = max(height - image.shape[1], 0)
    missing_columns = max(width - image.shape[2], 0)
    image = np.pad(image, [(0, 0), (0, missing_rows), (0, missing_columns)], mode="symmetric")
    top = int(rng.integers(image.shape[1] - height + 1))
    left = int(rng.integers(image.shape[2] - width + 1))
    return image[:, top : top + height, left : left + width]


def _read(path: Path) -> FloatArray:
    with rasterio.open(path) as image:
        return np.clip(image.read(), 0, HIGHEST_REFLECTANCE)
