"""Real spatial structure: Sentinel-2 revisits of WorldStrat (CC BY 4.0) unmixed onto given spectra.

Only the Sentinel-2 part is read; the SPOT images beside it are under a non-commercial licence.
"""

from functools import cache
from pathlib import Path

import numpy as np
import rasterio
from scipy.ndimage import uniform_filter

from satfuse.sensors.bands import S2_BANDS

ATTRIBUTION = (
    "WorldStrat Sentinel-2 revisits (CC BY 4.0), contains modified Copernicus Sentinel data 2018"
)
_STEPS = 100


@cache
def revisits(folder: Path) -> tuple[np.ndarray, ...]:
    """Sentinel-2 images of `<folder>/worldstrat`, each (12, y, x) float32 reflectance at 10 m; empty where absent."""
    paths = sorted((Path(folder) / "worldstrat" / "lr_dataset").glob("*/L2A/*-L2A_data.tiff"))
    return tuple(_read(path) for path in paths)


def unmix(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Non-negative abundances of an image in given spectra, by accelerated projected gradient (Beck & Teboulle 2009).

    The 20 m bands of the source are nearest copies on the 10 m grid: they are averaged over a pixel of theirs and
    weigh less than the sharp ones. The 60 m bands say nothing at 10 m and are left out.

    Parameters
    ----------
    image : (12, y, x) Sentinel-2 reflectance.
    values : (k, 12) band values of the spectra.

    Returns
    -------
    (k, y, x) float32, not negative; the sum over k is the brightness.
    """
    sharp = np.array([band.gsd_m == 10 for band in S2_BANDS])
    weight = np.array([{10: 1.0, 20: 0.4, 60: 0.0}[band.gsd_m] for band in S2_BANDS], np.float32)
    seen = np.stack(
        [plane if s else uniform_filter(plane, 2) for plane, s in zip(image, sharp, strict=True)]
    )
    target = (seen * weight[:, None, None]).reshape(len(seen), -1)
    design = (values * weight).T.astype(np.float32)
    gram, fit = design.T @ design, design.T @ target
    step = 1 / np.linalg.norm(gram, 2)
    share = previous = np.full_like(fit, 1 / len(values))
    momentum = 1.0
    ahead = share
    for _ in range(_STEPS):
        share = np.maximum(ahead - step * (gram @ ahead - fit), 0)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = share + np.float32((momentum - 1) / following) * (share - previous)
        previous, momentum = share, following
    return share.reshape(len(values), *image.shape[1:])


def cut(image: np.ndarray, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A window of an image (b, y, x), turned and mirrored at random; reflected where the image is smaller."""
    image = np.rot90(image, rng.integers(4), (1, 2))
    image = image[:, :, ::-1] if rng.random() < 0.5 else image
    grown = [
        (0, 0),
        *((0, max(want - have, 0)) for want, have in zip(shape, image.shape[1:], strict=True)),
    ]
    image = np.pad(image, grown, mode="symmetric")
    top, left = (
        rng.integers(have - want + 1) for want, have in zip(shape, image.shape[1:], strict=True)
    )
    return image[:, top : top + shape[0], left : left + shape[1]]


def _read(path):
    with rasterio.open(path) as image:
        return np.clip(image.read(), 0, 1.6)
