"""From the true images of a scene to what two sensors report of it: one observation for training and benchmark."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.ndimage import shift as move

from satfuse.errors import ConfigError
from satfuse.sensors.bands import COARSE_M, S2_BANDS, S3_NAMES
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, degrade
from satfuse.simulate.scenes.structure import fractal_field
from satfuse.simulate.spectra import cloud

SLSTR = np.array([name.startswith("S") for name in S3_NAMES])
SLSTR_WIDER = 500 / 300  # native pixel of SLSTR against that of OLCI
SHADOW_REACH_M = 1500  # how far clouds throw their shadows along either axis
SHADE = 0.6  # share of the light that a cloud's shadow takes
_GUIDE_OPACITY, _GUIDE_SHADOW = 0.1, 0.3  # above: the guide's mask says cloud or shadow
_COARSE_SHARE = 0.1  # the same for the share of a coarse pixel's PSF


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a scene is observed; the default is clean.

    Parameters
    ----------
    psf_sigma : standard deviation of the coarse PSF, in coarse pixels.
    slstr_factor : how much wider the PSF of the SLSTR bands (S1N to S6N) is; `SLSTR_WIDER` is the ratio of pixels.
    shift : (x, y) coarse pixels, right and down, see `sensors.degradation.psf_kernel`; or one per frame, (t, 2).
    gain, offset : standard deviation of the coarse calibration error per frame and band: relative, reflectance.
    noise : standard deviation of the noise on guide and coarse at a reflectance of 0.2; see `noise_sigma`.
    cloud : share of guide and coarse that clouds cover, 0 to 1; shadows come on top. Each image has its own clouds.
    equal_blur : True = every guide band is as sharp as the pixels; False = 20 and 60 m bands are blurred to theirs.
    guide_platform, coarse_platform : whose spectral responses, "S2A", "S2B", "S2C"; "S3A", "S3B".
    """

    psf_sigma: float = DEFAULT_PSF_SIGMA
    slstr_factor: float = 1.0
    shift: tuple = (0.0, 0.0)
    gain: float = 0.0
    offset: float = 0.0
    noise: float = 0.0
    cloud: float = 0.0
    equal_blur: bool = False
    guide_platform: str = "S2A"
    coarse_platform: str = "S3A"

    def __post_init__(self):
        if not 0 <= self.cloud <= 1:
            raise ConfigError(f"cloud={self.cloud} must be a share, 0 to 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """What the sensors report, and the truth of it. Images are float32 reflectance and finite everywhere.

    Parameters
    ----------
    guide (12, H, W), guide_valid (H, W), coarse (t, 21, h, w), coarse_valid (t, h, w) : True = usable. Where not, the
        guide shows the cloud or the shadow, and so does the coarse image, but for pixels whose PSF lies outside the
        scene: they repeat the nearest.
    shift (t, 2), psf_sigma (21,) : coarse pixels.
    gain (t, 21), offset (t, 21) : coarse = gain x (what an exact sensor reports) + offset + noise.
    """

    guide: np.ndarray
    guide_valid: np.ndarray
    coarse: np.ndarray
    coarse_valid: np.ndarray
    shift: np.ndarray
    psf_sigma: np.ndarray
    gain: np.ndarray
    offset: np.ndarray


def observe(
    guide, frames, protocol: Protocol, cloud_values, *, ratio: int, rng: np.random.Generator
) -> Observed:
    """Clouds, blur, decimation, calibration error and noise, in that order.

    Parameters
    ----------
    guide : (12, H, W) true guide bands at the pixels.
    frames : (t, 21, H, W) true coarse bands at the dates of the coarse images.
    cloud_values : (12,) and (21,) reflectance of cloud, see `cloud_band_values`.
    ratio : fine pixels per coarse pixel; a fine pixel is 300 m / ratio.
    """
    pixel_m = COARSE_M / ratio
    shifts = np.broadcast_to(np.asarray(protocol.shift, float), (len(frames), 2)).copy()
    psf_sigma = protocol.psf_sigma * np.where(SLSTR, protocol.slstr_factor, 1.0)
    gain = 1 + protocol.gain * rng.standard_normal((len(frames), len(SLSTR)))
    offset = protocol.offset * rng.standard_normal((len(frames), len(SLSTR)))
    guide, guide_valid = _under_clouds(guide, cloud_values[0], protocol.cloud, pixel_m, rng)
    if not protocol.equal_blur:
        guide = native_blur(guide, pixel_m)
    coarse, coarse_valid = [], []
    for truth, moved, g, o in zip(frames, shifts, gain, offset, strict=True):
        seen, clear = _under_clouds(truth, cloud_values[1], protocol.cloud, pixel_m, rng)
        image = degrade(seen, ratio, psf_sigma, shift=moved)
        share = degrade(clear.astype(np.float32), ratio, psf_sigma.max(), shift=moved)
        everywhere = np.ones(clear.shape, bool)
        outside = np.isnan(
            degrade(everywhere, ratio, psf_sigma.max(), shift=moved, valid=everywhere)
        )
        coarse.append(_nearest(image, outside) * g[:, None, None] + o[:, None, None])
        coarse_valid.append(~outside & (share > 1 - _COARSE_SHARE))
    return Observed(
        guide=_noisy(guide, protocol.noise, rng), guide_valid=guide_valid,
        coarse=_noisy(np.stack(coarse), protocol.noise, rng), coarse_valid=np.stack(coarse_valid),
        shift=shifts, psf_sigma=psf_sigma, gain=gain, offset=offset,
    )  # fmt: skip


def noise_sigma(reflectance, noise):
    """Standard deviation of the noise: `noise` at a reflectance of 0.2, its square rising linearly with light.

    Half of the variance at 0.2 is the detector's, half the photons'.
    """
    return noise * np.sqrt(0.5 + 0.5 * np.maximum(reflectance, 0) / 0.2)


def native_blur(guide, pixel_m) -> np.ndarray:
    """Guide bands (12, y, x) as a reader gives them: coarser bands are block means, laid bilinearly on the pixels.

    Bands whose native pixel is not at least twice `pixel_m` pass through. y and x are multiples of 60 m.
    """
    out = np.array(guide, np.float32)
    for plane, band in zip(out, S2_BANDS, strict=True):
        step = round(band.gsd_m / pixel_m)
        if step >= 2:
            rows, columns = (_bilinear(count // step, step) for count in plane.shape)
            plane[:] = rows @ block_mean(plane, step) @ columns.T
    return out


def block_mean(image, n) -> np.ndarray:
    """Means of blocks of n x n pixels, (..., y, x) -> (..., y / n, x / n) float32; n divides y and x."""
    return sum(image[..., i::n, j::n] for i in range(n) for j in range(n)) / np.float32(n * n)


def cloud_band_values(weights) -> np.ndarray:
    """Reflectance of an opaque cloud under the rows of an SRF matrix on 380, 385, ... 2500 nm."""
    return (weights @ cloud()[::5]).astype(np.float32)


def cloud_field(rng, shape, cover, pixel_m):
    """Opacity 0 to 1 and shadow depth 0 to 1, (y, x) float32 each; clouds cover about `cover` of the picture.

    Clouds beyond the picture throw shadows into it.
    """
    beyond = round(SHADOW_REACH_M / pixel_m)
    picture = tuple(slice(beyond, beyond + size) for size in shape)
    field = fractal_field(rng, [size + 2 * beyond for size in shape], 1.7, longest=6000 / pixel_m)
    field /= field[picture].std()
    edge = np.quantile(field[picture], 1 - cover)
    opacity = np.clip((field - edge) / 0.35, 0, 1) * rng.uniform(0.5, 1)
    away = rng.uniform(-SHADOW_REACH_M, SHADOW_REACH_M, 2) / pixel_m
    shadow = np.clip(move(gaussian_filter(opacity, 40 / pixel_m), away, order=1)[picture], 0, 1)
    opacity = opacity[picture]
    return opacity.astype(np.float32), (shadow * (1 - opacity)).astype(np.float32)


def _under_clouds(image, cloud_values, cover, pixel_m, rng):
    """Image (b, y, x) under a random sky, and where its mask says that it is clear."""
    if cover == 0:
        return image, np.ones(image.shape[1:], bool)
    opacity, shadow = cloud_field(rng, image.shape[1:], cover, pixel_m)
    seen = image * ((1 - opacity) * (1 - SHADE * shadow)) + cloud_values[:, None, None] * opacity
    return seen, (opacity <= _GUIDE_OPACITY) & (shadow <= _GUIDE_SHADOW)


def _nearest(image, holes):
    """Image (b, y, x) whose holes (y, x) take the value of the nearest other pixel."""
    if not holes.any():
        return image
    y, x = distance_transform_edt(holes, return_distances=False, return_indices=True)
    return image[:, y, x]


def _noisy(image, noise, rng):
    if noise:
        image = image + noise_sigma(image, noise) * rng.standard_normal(
            image.shape, dtype=np.float32
        )
    return np.asarray(image, np.float32)


def _bilinear(count, step):
    """(count * step, count) float32: linear interpolation of pixel centres, constant beyond the outermost."""
    at = np.clip((np.arange(count * step) + 0.5) / step - 0.5, 0, count - 1)
    return np.maximum(1 - abs(at[:, None] - np.arange(count)), 0).astype(np.float32)
