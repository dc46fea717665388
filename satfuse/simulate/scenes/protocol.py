"""From the true images of a scene to those of two sensors, for training and benchmark alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from satfuse.arrays import BoolArray, FloatArray
from satfuse.errors import ConfigError
from satfuse.geometry.resample import block_mean, fill_nearest
from satfuse.sensors.bands import COARSE_M, S2_BANDS, S3_NAMES
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, degrade
from satfuse.simulate.scenes.structure import fractal_field
from satfuse.simulate.spectra import cloud

SLSTR = np.array([name.startswith("S") for name in S3_NAMES])
SLSTR_WIDER = 500 / 300  # native pixel of SLSTR over that of OLCI
SHADOW_REACH_M = 1500  # longest distance of a shadow from its cloud along either axis
SHADE = 0.6  # share of the light that an opaque cloud's shadow takes
_LONGEST_CLOUD_M = 6000  # longest wavelength of the cloud field
_SOFT_EDGE = 0.35  # rise of the cloud field from clear to opaque, standard deviations
_SHADOW_BLUR_M = 40  # standard deviation of a shadow's edge
# a pixel is masked where cloud opacity or shadow depth exceed these
_MASKED_OPACITY = 0.1
_MASKED_SHADOW = 0.3
_MASKED_COARSE_SHARE = 0.1  # and a coarse pixel where this share of its PSF is masked


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a scene is observed; by default without any disturbance.

    Parameters
    ----------
    psf_sigma : standard deviation of the coarse PSF, in coarse pixels.
    slstr_factor : how much wider the PSF of the SLSTR bands (S1N to S6N) is; `SLSTR_WIDER` is the
        ratio of the native pixels.
    shift : (x, y) in coarse pixels, right and down, see `sensors.degradation.psf_kernel`; or one
        per frame, (t, 2).
    gain, offset : standard deviation of the coarse calibration error per frame and band: relative,
        and in reflectance.
    noise : standard deviation of the noise of guide and coarse images at a reflectance of 0.2; see
        `noise_sigma`.
    cloud : share of guide and coarse images that clouds cover, 0 to 1; shadows come in addition.
        Each image has its own clouds.
    equal_blur : True = every guide band is as sharp as the pixels; False = the 20 and 60 m bands
        are blurred to their native pixels.
    guide_platform, coarse_platform : platforms whose spectral responses apply: "S2A", "S2B" or
        "S2C"; "S3A" or "S3B".

    Raises
    ------
    ConfigError
        `cloud` is not a share.
    """

    psf_sigma: float = DEFAULT_PSF_SIGMA
    slstr_factor: float = 1.0
    shift: npt.ArrayLike = (0.0, 0.0)
    gain: float = 0.0
    offset: float = 0.0
    noise: float = 0.0
    cloud: float = 0.0
    equal_blur: bool = False
    guide_platform: str = "S2A"
    coarse_platform: str = "S3A"

    def __post_init__(self) -> None:
        if not 0 <= self.cloud <= 1:
            raise ConfigError(f"cloud={self.cloud} must be a share, 0 to 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedObservation:
    """Images of the two sensors, and the true parameters of the observation.

    Images are float32 reflectance and finite everywhere. Where they are not valid they show cloud
    or shadow; coarse pixels whose PSF is mostly outside the scene repeat the nearest other pixel.

    Parameters
    ----------
    guide : (12, H, W).
    guide_valid : (H, W) bool, True = usable.
    coarse : (t, 21, h, w).
    coarse_valid : (t, h, w) bool, True = usable.
    shift : (t, 2) coarse pixels.
    psf_sigma : (21,) coarse pixels.
    gain, offset : (t, 21); coarse = gain x (image of an exact sensor) + offset + noise.
    """

    guide: FloatArray
    guide_valid: BoolArray
    coarse: FloatArray
    coarse_valid: BoolArray
    shift: FloatArray
    psf_sigma: FloatArray
    gain: FloatArray
    offset: FloatArray


def simulate_observation(
    guide: FloatArray,
    frames: Sequence[FloatArray] | FloatArray,
    protocol: Protocol,
    cloud_values: Sequence[FloatArray | None],
    *,
    ratio: int,
    rng: np.random.Generator,
) -> SimulatedObservation:
    """Simulate guide and coarse images: clouds, blur, decimation, calibration error, noise.

    Parameters
    ----------
    guide : (12, H, W) true guide bands at the fine pixels.
    frames : (t, 21, H, W) true coarse bands at the fine pixels, on the dates of the coarse images.
    cloud_values : reflectance of cloud in the guide bands (12,) and in the coarse bands (21,), see
        `cloud_band_values`; None where the protocol has no clouds.
    ratio : fine pixels per coarse pixel; a fine pixel is 300 m / ratio.
    """
    pixel_m = COARSE_M / ratio
    shifts = np.broadcast_to(np.asarray(protocol.shift, float), (len(frames), 2)).copy()
    psf_sigma = protocol.psf_sigma * np.where(SLSTR, protocol.slstr_factor, 1.0)
    gain = 1 + protocol.gain * rng.standard_normal((len(frames), len(SLSTR)))
    offset = protocol.offset * rng.standard_normal((len(frames), len(SLSTR)))
    guide, guide_valid = _add_clouds(guide, cloud_values[0], protocol.cloud, pixel_m, rng)
    if not protocol.equal_blur:
        guide = native_blur(guide, pixel_m)
    images = []
    valid = []
    # every frame has its own clouds, shift and calibration error
    for truth, shift, g, o in zip(frames, shifts, gain, offset, strict=True):
        cloudy, clear = _add_clouds(truth, cloud_values[1], protocol.cloud, pixel_m, rng)
        image, usable = _degrade_frame(cloudy, clear, ratio, psf_sigma, shift)
        images.append(image * g[:, None, None] + o[:, None, None])
        valid.append(usable)
    return SimulatedObservation(
        guide=_add_noise(guide, protocol.noise, rng),
        guide_valid=guide_valid,
        coarse=_add_noise(np.stack(images), protocol.noise, rng),
        coarse_valid=np.stack(valid),
        shift=shifts,
        psf_sigma=psf_sigma,
        gain=gain,
        offset=offset,
    )


def noise_sigma(reflectance: npt.ArrayLike, noise: float) -> FloatArray:
    """Standard deviation of the noise, whose variance rises linearly with reflectance.

    Half of the variance at a reflectance of 0.2 is the detector's, half the photons'.

    Parameters
    ----------
    noise : standard deviation at a reflectance of 0.2.
    """
    return noise * np.sqrt(0.5 + 0.5 * np.maximum(reflectance, 0) / 0.2)


def native_blur(guide: FloatArray, pixel_m: float) -> FloatArray:
    """Guide bands as the reader gives them: coarser bands are block means, resampled bilinearly.

    Bands whose native pixel is not at least twice `pixel_m` pass through unchanged.

    Parameters
    ----------
    guide : (12, y, x); y and x are multiples of 60 m.
    """
    out = np.array(guide, np.float32)
    for plane, band in zip(out, S2_BANDS, strict=True):
        step = round(band.gsd_m / pixel_m)
        if step >= 2:
            rows, columns = (_bilinear_matrix(count // step, step) for count in plane.shape)
            plane[:] = rows @ block_mean(plane, step) @ columns.T
    return out


def cloud_band_values(weights: FloatArray) -> FloatArray:
    """Reflectance (b,) of an opaque cloud under the rows of an SRF matrix (b, 425).

    The columns of the matrix are 380, 385, ... 2500 nm.
    """
    return (weights @ cloud()[::5]).astype(np.float32)


def cloud_field(
    rng: np.random.Generator, shape: tuple[int, ...], cover: float, pixel_m: float
) -> tuple[FloatArray, FloatArray]:
    """Random clouds that cover about `cover` of an image, and their shadows.

    Clouds beyond the image cast shadows into it.

    Returns
    -------
    opacity, shadow depth : (y, x) float32, 0 to 1.
    """
    margin = round(SHADOW_REACH_M / pixel_m)
    inside = tuple(slice(margin, margin + size) for size in shape)
    grown = [size + 2 * margin for size in shape]
    field = fractal_field(rng, grown, 1.7, longest=_LONGEST_CLOUD_M / pixel_m)
    # standardised inside the image, so that cover and edges refer to what is visible
    field /= field[inside].std()
    threshold = np.quantile(field[inside], 1 - cover)
    opacity = np.clip((field - threshold) / _SOFT_EDGE, 0, 1) * rng.uniform(0.5, 1)
    displacement = rng.uniform(-SHADOW_REACH_M, SHADOW_REACH_M, 2) / pixel_m
    shadow = ndimage.gaussian_filter(opacity, _SHADOW_BLUR_M / pixel_m)
    shadow = np.clip(ndimage.shift(shadow, displacement, order=1)[inside], 0, 1)
    opacity = opacity[inside]
    return opacity.astype(np.float32), (shadow * (1 - opacity)).astype(np.float32)


def _add_clouds(
    image: FloatArray,
    cloud_values: FloatArray | None,
    cover: float,
    pixel_m: float,
    rng: np.random.Generator,
) -> tuple[FloatArray, BoolArray]:
    """Image (b, y, x) under random clouds and shadows, and where it is clear (y, x)."""
    if cover == 0:
        return image, np.ones(image.shape[1:], bool)
    assert cloud_values is not None, "clouds need their reflectance"
    opacity, shadow = cloud_field(rng, image.shape[1:], cover, pixel_m)
    ground = image * ((1 - opacity) * (1 - SHADE * shadow))
    clear = (opacity <= _MASKED_OPACITY) & (shadow <= _MASKED_SHADOW)
    return ground + cloud_values[:, None, None] * opacity, clear


def _degrade_frame(
    image: FloatArray, clear: BoolArray, ratio: int, psf_sigma: FloatArray, shift: FloatArray
) -> tuple[FloatArray, BoolArray]:
    """Coarse image (b, h, w) and its usable pixels (h, w): inside the scene and mostly clear."""
    coarse = degrade(image, ratio, psf_sigma, shift=shift)
    widest = psf_sigma.max()
    clear_share = degrade(clear.astype(np.float32), ratio, widest, shift=shift)
    everywhere = np.ones(clear.shape, bool)
    outside = np.isnan(degrade(everywhere, ratio, widest, shift=shift, valid=everywhere))
    usable = ~outside & (clear_share > 1 - _MASKED_COARSE_SHARE)
    return fill_nearest(coarse, outside), usable


def _add_noise(image: FloatArray, noise: float, rng: np.random.Generator) -> FloatArray:
    if noise:
        unit = rng.standard_normal(image.shape, dtype=np.float32)
        image = image + noise_sigma(image, noise) * unit
    return np.asarray(image, np.float32)


def _bilinear_matrix(count: int, step: int) -> FloatArray:
    """Weights (count * step, count) float32 of linear interpolation onto `step` times finer pixels.

    Pixel centres are aligned; values are constant beyond the outermost.
    """
    position = np.clip((np.arange(count * step) + 0.5) / step - 0.5, 0, count - 1)
    return np.maximum(1 - abs(position[:, None] - np.arange(count)), 0).astype(np.float32)
