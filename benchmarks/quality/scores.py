"""All scores of a fused image: against the truth and the coarse image, and without a reference."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality.scenes import Scene
from satfuse import metrics
from satfuse.arrays import BoolArray, FloatArray
from satfuse.sensors.bands import COARSE_M, S2_NAMES, wavelengths_nm
from satfuse.sensors.degradation import degrade
from satfuse.validate.checks import LAND_RMS

Scores = dict[str, Any]  # nested by name; numbers, None or lists of them at the ends

CLASSES = ("dark", "snow", "vegetation", "sparse", "bare or built", "without S3")
SNOW_NDSI = 0.4  # a pixel is snow above this index, and above this reflectance at 560 nm
SNOW_GREEN = 0.15
VEGETATION_NDVI = 0.5  # vegetation is dense from this index on
SPARSE_NDVI = 0.2  # and sparse from this one
DIGITS = 5  # of a score
LEVELS = np.linspace(0.05, 0.95, 19)  # of the quantiles in `coverage`


def score(
    image: FloatArray,
    uncertainty: FloatArray | None,
    scene: Scene,
    attrs: Mapping[str, Any] | None = None,
) -> Scores:
    """Score an image of a scene.

    Parameters
    ----------
    image, uncertainty : (band, y, x) reflectance; NaN where the guide is missing.
    attrs : of `satfuse.fuse`, see `degrade_back`.

    Returns
    -------
    Plain values of five digits:

    `all` : `sam_deg`, `sam_rad`, `rmse`, `bias`, `psnr_db` (data range 1), `ergas` (with the
        scene's ratio), `ssim` (11 x 11 Gaussian window, data range of the truth; mean of bands),
        `uiqi`, `q2n` (blocks of 32 px).
    `land`, `dark` : `sam_deg`, `sam_rad`, `rmse` where the rms of the true spectrum is at least
        0.03, and where it is lower.
    `classes` : the same and the `share` of pixels, per name of `CLASSES`, see `class_map`.
    `bands` : lists of `rmse`, `bias`, `ssim`, `uiqi`, in order of the bands.
    `back` : see `degrade_back`.
    `no_reference` : see `no_reference`.
    `coverage` : see `coverage`; only where there is an uncertainty.
    """
    target = scene.target
    valid = np.isfinite(image).all(0) & np.isfinite(scene.guide.values).all(0)
    ssim = metrics.ssim(image, target, valid, data_range=float(np.ptp(target[:, valid])))
    uiqi = metrics.uiqi(image, target, valid)
    bias = metrics.bias(image, target, valid)
    classes = class_map(scene)
    dark = classes["dark"]
    scores = {
        "all": _group(image, target, valid)
        | {
            "bias": float(np.mean(bias)),
            "psnr_db": float(metrics.psnr(image, target, valid)),
            "ergas": metrics.ergas(image, target, scene.case.ratio, valid),
            "ssim": float(ssim.mean()),
            "uiqi": float(uiqi.mean()),
            "q2n": metrics.q2n(image, target, valid),
        },
        "land": _group(image, target, valid & ~dark),
        "dark": _group(image, target, valid & dark),
        "classes": {
            name: _group(image, target, valid & mask) | {"share": float(mask.mean())}
            for name, mask in classes.items()
        },
        "bands": {
            "rmse": metrics.rmse(image, target, valid, per_band=True),
            "bias": bias,
            "ssim": ssim,
            "uiqi": uiqi,
        },
        "back": degrade_back(image, scene, attrs or {}),
        "no_reference": no_reference(image, scene),
    }
    if uncertainty is not None:
        scores["coverage"] = coverage(image, uncertainty, scene)
    return {key: _plain(value) for key, value in scores.items()}


def class_map(scene: Scene) -> dict[str, BoolArray]:
    """Pixels (y, x) of each class, by spectral indices of the truth.

    Dark: the rms of the spectrum is below 0.03 (water, deep shade). Of the other pixels, snow has
    an NDSI (560 against 1610 nm) above 0.4, vegetation an NDVI of at least 0.5, sparse vegetation
    of at least 0.2; the remaining ones are bare or built. These partition the scene. Pixels whose
    coarse pixel is masked are `without S3`, whatever else they are.
    """
    truth = scene.target.astype(float)
    dark = np.sqrt((truth**2).mean(0)) < LAND_RMS
    target = dict(zip(scene.bands, truth, strict=True))
    green = target["Oa06"]
    ndvi = metrics.ndvi(target["Oa08"], target["Oa17"])
    ndsi = metrics.ndvi(target["S5N"], green)  # the same formula with other bands
    snow = ~dark & (ndsi > SNOW_NDSI) & (green > SNOW_GREEN)
    land = ~dark & ~snow
    missing = ~np.isfinite(scene.coarse.values).all(0)
    ratio = scene.case.ratio
    masks = (
        dark,
        snow,
        land & (ndvi >= VEGETATION_NDVI),
        land & (ndvi >= SPARSE_NDVI) & (ndvi < VEGETATION_NDVI),
        land & ~(ndvi >= SPARSE_NDVI),  # also where NDVI is not defined
        missing.repeat(ratio, 0).repeat(ratio, 1),
    )
    return dict(zip(CLASSES, masks, strict=True))


def degrade_back(image: FloatArray, scene: Scene, attrs: Mapping[str, Any]) -> dict[str, float]:
    """RMSE of the degraded image against the coarse image, where that is valid.

    Parameters
    ----------
    attrs : of `satfuse.fuse`. With `gain`, `psf_sigma` and `shift_m`, the method has estimated the
        observation.

    Returns
    -------
    `rmse` : under the true PSF, shift, gain and offset.
    `noise` : what the truth itself scores there: the noise of the coarse image, and cloud effects.
    `rmse_uncalibrated` : under the true PSF and shift alone, which is low for an image that follows
        the calibration error of the coarse image.
    `rmse_estimated` : under the PSF, shift and gain that the method has estimated, if it has.
    """
    valid = np.isfinite(scene.guide.values).all(0) & np.isfinite(image).all(0)
    psf = {"psf_sigma": scene.psf_sigma, "shift": scene.shift}
    calibration = {"gain": scene.gain, "offset": scene.offset}
    errors = {
        "rmse": _rmse_back(image, valid, scene, **psf, **calibration),
        "noise": _rmse_back(scene.target, valid, scene, **psf, **calibration),
        "rmse_uncalibrated": _rmse_back(image, valid, scene, **psf, gain=np.ones(len(image))),
    }
    if "gain" in attrs:
        right, up = np.array(attrs["shift_m"]) / COARSE_M
        errors["rmse_estimated"] = _rmse_back(
            image,
            valid,
            scene,
            psf_sigma=np.array(attrs["psf_sigma"]),
            shift=np.array([right, -up]),
            gain=np.array(attrs["gain"]),
        )
    return errors


def _rmse_back(
    image: FloatArray,
    valid: BoolArray,
    scene: Scene,
    *,
    psf_sigma: FloatArray,
    shift: FloatArray,
    gain: FloatArray,
    offset: FloatArray | float = 0.0,
) -> float:
    """RMSE against the coarse image after this observation; see `Scene` for the parameters."""
    filled = np.where(valid, image, 0)
    coarse = degrade(filled, scene.case.ratio, psf_sigma, shift=tuple(shift), valid=valid)
    calibrated = coarse * gain[:, None, None] + np.reshape(offset, (-1, 1, 1))
    return metrics.rmse(calibrated, scene.coarse.values)


def no_reference(image: FloatArray, scene: Scene) -> dict[str, float]:
    """Quality without a reference (Alparone et al. 2008, PERS 74(2)), for a guide of several bands.

    Both distortions compare UIQI between bands at both scales. Each image is one block, because
    8 x 8 coarse pixels allow no smaller ones. Detail changes variances, so the truth does not score
    0 either.

    Returns
    -------
    `d_lambda` : mean over pairs of coarse bands of |Q_fused - Q_coarse|.
    `d_s` : mean over bands of |Q(fused, guide) - Q(coarse, degraded guide)|, with the guide band of
        the nearest wavelength, degraded under the true PSF width and shift.
    `qnr` : (1 - d_lambda)(1 - d_s).
    """
    guide = scene.guide.values
    valid = np.isfinite(guide).all(0) & np.isfinite(image).all(0)
    filled = np.where(valid, guide, 0)
    sigma = float(np.median(scene.psf_sigma))
    low = degrade(filled, scene.case.ratio, sigma, shift=tuple(scene.shift), valid=valid)
    coarse_valid = np.isfinite(scene.coarse.values).all(0) & np.isfinite(low).all(0)
    fine_quality = band_quality(np.concatenate([image, guide])[:, valid])
    coarse_quality = band_quality(np.concatenate([scene.coarse.values, low])[:, coarse_valid])
    change = np.abs(fine_quality - coarse_quality)
    # the first `count` rows and columns are the coarse bands, then come those of the guide
    count = len(image)
    d_lambda = float(change[:count, :count].sum() / (count * (count - 1)))
    distance = np.subtract.outer(wavelengths_nm(scene.bands), wavelengths_nm(S2_NAMES))
    nearest = np.abs(distance).argmin(1)
    d_s = float(change[np.arange(count), count + nearest].mean())
    return {"d_lambda": d_lambda, "d_s": d_s, "qnr": (1 - d_lambda) * (1 - d_s)}


def band_quality(pixels: npt.ArrayLike) -> FloatArray:
    """UIQI of every two of n bands (n, pixels), all pixels as one block: (n, n), diagonal 1."""
    values = np.asarray(pixels, float)
    count, size = values.shape
    if size < 2:
        return np.full((count, count), np.nan)
    covariance = np.cov(values, ddof=0)
    mean = values.mean(1)
    variance = covariance.diagonal()
    bottom = (variance[:, None] + variance) * (mean[:, None] ** 2 + mean**2)
    quality = 4 * covariance * np.outer(mean, mean) / np.maximum(bottom, 1e-12)
    np.fill_diagonal(quality, 1.0)
    return quality


def coverage(image: FloatArray, uncertainty: FloatArray, scene: Scene) -> Scores:
    """How the errors compare with their stated standard deviation.

    Returns
    -------
    `within_1`, `within_2` : share of errors within one and two standard deviations.
    `bands_within_1`, `bands_within_2` : the same, (band,).
    `mean` : mean uncertainty, reflectance.
    `quantiles` : (19,) of |error| / uncertainty, at `LEVELS`.
    """
    valid = np.isfinite(image).all(0) & np.isfinite(uncertainty).all(0)
    sigma = uncertainty[:, valid]
    distance = np.abs(image - scene.target)[:, valid] / np.maximum(sigma, 1e-9)
    quantiles = np.quantile(distance, LEVELS) if distance.size else np.full(LEVELS.shape, np.nan)
    within_1 = (distance <= 1).mean(1)
    within_2 = (distance <= 2).mean(1)
    return {
        "within_1": float(within_1.mean()),
        "within_2": float(within_2.mean()),
        "bands_within_1": within_1,
        "bands_within_2": within_2,
        "mean": float(sigma.mean()) if valid.any() else np.nan,
        "quantiles": quantiles,
    }


def _group(image: FloatArray, target: FloatArray, mask: BoolArray) -> dict[str, float]:
    """SAM and RMSE of the pixels of a mask; NaN where it is empty."""
    pixels = image[:, mask][:, None]
    truth = target[:, mask][:, None]
    angle = metrics.sam_rad(pixels, truth)
    return {
        "sam_deg": float(np.rad2deg(angle)),
        "sam_rad": angle,
        "rmse": metrics.rmse(pixels, truth),
    }


def _plain(value: Any) -> Any:
    """Nested plain values of a few digits; NaN becomes None, which JSON knows."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if np.ndim(value):
        return [_plain(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
