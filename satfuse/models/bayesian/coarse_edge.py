"""Coarse pixels beside masked ones: thin cloud, shadow and hidden ground, taken out before the scene's map is learned.

There the coarse image is the map's prediction x plus h (cloud - x) + q x + u: cloud and shadow that the masks of both
images leave, and ground that the guide does not show. With N the covariance of these three and S that of the errors of
map and sensor, N (S + N)^-1 (y - x) is what they are expected to add to the prediction.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_dilation

from satfuse.models.bayesian.mask_edge import cloud_spectra
from satfuse.models.bayesian.scene_sums import Channel

SKY = 0.05  # standard deviation of h and q to start from
ROUNDS = 3
LEAST_PIXELS, ENOUGH = 4, 2000  # fewer do not tell how strong the sky is, more tell it no better
CHUNK = 2000  # pixels that are worked on at once


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is expected of a scene's coarse bands.

    Parameters
    ----------
    weight : (c, f) map from the guide's features, covariance : (c, f, c, f) of its error.
    noise : variance of the coarse noise.
    ground : (c, c) covariance of the scene's spectra.
    clouds : (k, c) spectra of cloud.
    """

    weight: np.ndarray
    covariance: np.ndarray
    noise: float
    ground: np.ndarray
    clouds: np.ndarray

    @classmethod
    def of(cls, weight, covariance, noise, guide_features, bands) -> "Expected":
        """`guide_features` (f, f) : covariance of the guide's; `bands` : names of the coarse bands."""
        ground = weight @ guide_features @ weight.T
        return cls(
            weight=weight,
            covariance=covariance,
            noise=noise,
            ground=ground,
            clouds=cloud_spectra(bands),
        )

    def of_bands(self, index) -> "Expected":
        """The same of some of the bands."""
        return replace(
            self,
            weight=self.weight[index],
            covariance=self.covariance[index][:, :, index],
            ground=self.ground[index][:, index],
            clouds=self.clouds[:, index],
        )


def beside_masks(valid, guide_valid) -> np.ndarray:
    """(h, w) bool of pixels that are masked, or whose guide is in part, and of their neighbours.

    Parameters
    ----------
    valid : (h, w), guide_valid : (h * k, w * k); bool, True = usable.
    """
    (h, w), k = valid.shape, len(guide_valid) // len(valid)
    whole = valid & guide_valid.reshape(h, k, w, k).all((1, 3))
    return binary_dilation(~whole, np.ones((3, 3)))


def without_sky(
    channels: list[Channel], expected: Expected, *, gain, near, unsure
) -> list[Channel]:
    """The channels of a frame, all of the same pixels, with their values beside masks corrected.

    Parameters
    ----------
    gain : (j,) of the channels. The errors that are left lower their `share` and raise their `least` variance.
    near : (n,) bool, True = beside a mask.
    unsure : (n,) variance of the ground that the guide does not show, over the scene's.
    """
    pixels = np.flatnonzero(near)
    if len(pixels) == 0:
        return channels
    expected = expected.of_bands([c.band for c in channels])

    def sky(some, spread):
        z, y = (
            np.stack(v, 1) for v in zip(*((c.z[some], c.y[some]) for c in channels), strict=True)
        )
        return _sky(expected, spread, z, y / gain, unsure[some])

    spread, some = np.full(2, SKY), pixels[:: -(-len(pixels) // ENOUGH)]
    for _ in range(ROUNDS if len(pixels) >= LEAST_PIXELS else 0):  # expectation maximisation
        spread = spread * np.sqrt(sky(some, spread)[0] / len(some))
    taken, left = np.zeros((2, len(near), len(channels)))
    for part in np.array_split(pixels, -(-len(pixels) // CHUNK)):
        _, taken[part], left[part] = sky(part, spread)
    usual = np.median(left, 0)
    certain = np.sqrt(np.minimum((expected.noise + usual) / (expected.noise + left), 1)).mean(1)
    return [
        replace(c, y=c.y - g * t, share=c.share * certain, least=max(v, c.least))
        for c, g, t, v in zip(channels, gain, taken.T, usual, strict=True)
    ]


def _sky(expected, spread, z, y, unsure):
    """Of pixels (n, c, f) and (n, c): summed power of cloud and shadow over `spread` squared (2,), what they and hidden
    ground are expected to add (n, c), and its variance (n, c)."""
    x = np.einsum("ncf,cf->nc", z, expected.weight)
    clouds = (expected.clouds - x[:, None]) / len(expected.clouds) ** 0.5
    sky = np.concatenate([spread[0] * clouds, spread[1] * x[:, None]], 1)  # (n, k, c)
    added = sky.transpose(0, 2, 1) @ sky + unsure[:, None, None] * expected.ground
    error = np.einsum("ncf,cfdg,ndg->ncd", z, expected.covariance, z, optimize=True)
    inverse = np.linalg.inv(error + expected.noise * np.eye(x.shape[1]) + added)
    left = np.einsum("ncd,nd->nc", inverse, y - x)
    power = np.einsum("nkc,nc->nk", sky, left) ** 2 + 1
    power = (power - np.einsum("nkc,ncd,nkd->nk", sky, inverse, sky, optimize=True)).sum(0)
    variance = np.einsum("ncc->nc", added) - np.einsum(
        "nce,nef,nfc->nc", added, inverse, added, optimize=True
    )
    return np.array([power[:-1].mean(), power[-1]]), np.einsum("ncd,nd->nc", added, left), variance
