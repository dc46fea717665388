"""Every score of one fused image: against the truth, back against the coarse image, and without any reference."""

import numpy as np

from benchmarks.quality.scenes import Scene
from satfuse import metrics
from satfuse.sensors.bands import COARSE_M, S2_NAMES, wavelengths_nm
from satfuse.sensors.degradation import degrade
from satfuse.validate.checks import LAND_RMS

CLASSES = ("dark", "snow", "vegetation", "sparse", "bare or built", "without S3")
DIGITS = 5


def score(image, uncertainty, scene: Scene, attrs=None) -> dict:
    """Scores of an image (band, y, x) of a scene; plain values of five digits. `attrs` : of `satfuse.fuse`.

    Returns
    -------
    `all`: `sam_deg`, `sam_rad`, `rmse`, `bias`, `psnr_db` (data range 1), `ergas` (with the scene's ratio), `ssim`
    (11 x 11 Gaussian window, the truth's range; mean of bands), `uiqi`, `q2n` (blocks of 32 px); `land` and `dark`:
    `sam_deg`, `sam_rad`, `rmse` where the truth's rms is at least 0.03 and where it is not; `classes`: the same and the
    `share` of pixels per name of `CLASSES`, see `class_map`; `bands`: lists of `rmse`, `bias`, `ssim`, `uiqi`, in
    order of the bands; `back`: see `degrade_back`; `no_reference`: see `no_reference`; `coverage`: see
    `coverage`, only where there is an uncertainty.
    """
    target, valid = scene.target, np.isfinite(image).all(0) & np.isfinite(scene.guide.values).all(0)
    ssim = metrics.ssim(image, target, valid, data_range=float(np.ptp(target[:, valid])))
    uiqi = metrics.uiqi(image, target, valid)
    classes = class_map(scene)
    dark = classes["dark"]
    rows = {
        "all": _group(image, target, valid)
        | {
            "bias": float(np.mean(metrics.bias(image, target, valid))),
            "psnr_db": float(metrics.psnr(image, target, valid)),
            "ergas": metrics.ergas(image, target, scene.case.ratio, valid),
            "ssim": float(ssim.mean()),
            "uiqi": float(uiqi.mean()),
            "q2n": metrics.q2n(image, target, valid),
        },
        "land": _group(image, target, valid & ~dark),
        "dark": _group(image, target, valid & dark),
        "classes": {
            name: _group(image, target, valid & of) | {"share": float(of.mean())}
            for name, of in classes.items()
        },
        "bands": {
            "rmse": metrics.rmse(image, target, valid, per_band=True),
            "bias": metrics.bias(image, target, valid),
            "ssim": ssim,
            "uiqi": uiqi,
        },
        "back": degrade_back(image, scene, attrs or {}),
        "no_reference": no_reference(image, scene),
    }
    if uncertainty is not None:
        rows["coverage"] = coverage(image, uncertainty, scene)
    return _plain(rows)


def class_map(scene: Scene) -> dict[str, np.ndarray]:
    """Where each class lies, (y, x) bool, by indices of the truth.

    Dark: rms of the spectrum below 0.03 (water, deep shade). Of the others snow has an NDSI (560 against 1610 nm) above
    0.4, vegetation an NDVI of at least 0.5, sparse vegetation one of at least 0.2. The pixels whose coarse pixel is
    masked are a class of their own beside these.
    """
    target = dict(zip(scene.bands, scene.target.astype(float), strict=True))
    dark = np.sqrt(np.mean(list(scene.target.astype(float) ** 2), axis=0)) < LAND_RMS
    ndvi = metrics.ndvi(target["Oa08"], target["Oa17"])
    snow = ~dark & (metrics.ndvi(target["S5N"], target["Oa06"]) > 0.4) & (target["Oa06"] > 0.15)
    rest = ~dark & ~snow
    missing = ~np.isfinite(scene.coarse.values).all(0)
    masks = (
        dark,
        snow,
        rest & (ndvi >= 0.5),
        rest & (ndvi >= 0.2) & (ndvi < 0.5),
        rest & ~(ndvi >= 0.2),
    )
    ratio = scene.case.ratio
    return dict(zip(CLASSES, (*masks, missing.repeat(ratio, 0).repeat(ratio, 1)), strict=True))


def degrade_back(image, scene: Scene, attrs: dict) -> dict:
    """The image degraded as the coarse sensor saw it, against the coarse image where that is valid.

    `rmse` under the true PSF, shift, gain and offset; `rmse_uncalibrated` under the true PSF and shift alone: the
    distance of an image that follows the coarse image's calibration error; `rmse_estimated` under PSF, shift and gain
    as the method estimates them, where it does. `noise` is what the truth itself scores in `rmse`: the noise of the
    coarse image, and what clouds hide.
    """
    seen = np.isfinite(scene.guide.values).all(0) & np.isfinite(image).all(0)
    true = {"psf_sigma": scene.psf_sigma, "shift": tuple(scene.shift)}
    rows = {
        "rmse": _back(image, seen, scene, **true, gain=scene.gain, offset=scene.offset),
        "noise": _back(scene.target, seen, scene, **true, gain=scene.gain, offset=scene.offset),
        "rmse_uncalibrated": _back(image, seen, scene, **true, gain=np.ones(len(image))),
    }
    if "gain" in attrs:
        right, up = np.array(attrs["shift_m"]) / COARSE_M
        found = {
            "psf_sigma": np.array(attrs["psf_sigma"]),
            "shift": (right, -up),
            "gain": np.array(attrs["gain"]),
        }
        rows["rmse_estimated"] = _back(image, seen, scene, **found)
    return rows


def _back(image, seen, scene, *, psf_sigma, shift, gain, offset=0.0):
    low = degrade(np.where(seen, image, 0), scene.case.ratio, psf_sigma, shift=shift, valid=seen)
    return metrics.rmse(
        low * gain[:, None, None] + np.reshape(offset, (-1, 1, 1)), scene.coarse.values
    )


def no_reference(image, scene: Scene) -> dict:
    """`d_lambda`, `d_s` and `qnr` of Alparone et al. 2008 (PERS 74(2)), adapted to a guide of several bands.

    Both compare UIQI between bands at both scales, each image being one block, because 8 x 8 coarse pixels allow no
    smaller ones. d_lambda is the mean over pairs of coarse bands of |Q_fused - Q_coarse|; d_s that over bands of
    |Q(fused, guide) - Q(coarse, degraded guide)| with the guide band of the nearest wavelength, degraded under the true
    PSF width and shift. Detail changes variances, so the truth does not score 0 either. qnr = (1 - d_lambda)(1 - d_s).
    """
    guide = scene.guide.values
    seen = np.isfinite(guide).all(0) & np.isfinite(image).all(0)
    sigma = float(np.median(scene.psf_sigma))
    low = degrade(
        np.where(seen, guide, 0), scene.case.ratio, sigma, shift=tuple(scene.shift), valid=seen
    )
    known = np.isfinite(scene.coarse.values).all(0) & np.isfinite(low).all(0)
    fine = band_quality(np.concatenate([image, guide])[:, seen])
    coarse = band_quality(np.concatenate([scene.coarse.values, low])[:, known])
    count = len(image)
    change = np.abs(fine - coarse)
    centres = np.array(wavelengths_nm(scene.bands))[:, None], np.array(wavelengths_nm(S2_NAMES))
    nearest = np.abs(centres[0] - centres[1]).argmin(1)
    d_lambda = float(change[:count, :count].sum() / (count * (count - 1)))
    d_s = float(change[np.arange(count), count + nearest].mean())
    return {"d_lambda": d_lambda, "d_s": d_s, "qnr": (1 - d_lambda) * (1 - d_s)}


def band_quality(pixels) -> np.ndarray:
    """UIQI of every two of n bands (n, pixels), the whole image as one block: (n, n), 1 on the diagonal."""
    pixels = np.asarray(pixels, float)
    if pixels.shape[1] < 2:
        return np.full((len(pixels), len(pixels)), np.nan)
    covariance, mean = np.cov(pixels, ddof=0), pixels.mean(1)
    variance = covariance.diagonal()
    bottom = (variance[:, None] + variance) * (mean[:, None] ** 2 + mean**2)
    quality = 4 * covariance * np.outer(mean, mean) / np.maximum(bottom, 1e-12)
    np.fill_diagonal(quality, 1.0)
    return quality


def coverage(image, uncertainty, scene: Scene) -> dict:
    """Share of errors within one and two standard deviations, of all values and per band; the mean uncertainty."""
    seen = np.isfinite(image).all(0) & np.isfinite(uncertainty).all(0)
    distance = np.abs(image - scene.target)[:, seen] / np.maximum(uncertainty[:, seen], 1e-9)
    within = {sigmas: (distance <= sigmas).mean(1) for sigmas in (1, 2)}
    curve = (
        np.quantile(distance, np.linspace(0.05, 0.95, 19)) if distance.size else np.full(19, np.nan)
    )
    return {
        "within_1": float(within[1].mean()),
        "within_2": float(within[2].mean()),
        "bands_within_1": within[1],
        "bands_within_2": within[2],
        "mean": float(uncertainty[:, seen].mean()) if seen.any() else np.nan,
        "quantiles": curve,  # of |error| / uncertainty at 5, 10, ... 95 %
    }


def _group(image, target, where):
    """SAM and RMSE of the pixels of a mask; NaN of none."""
    x, z = image[:, where][:, None], target[:, where][:, None]
    angle = metrics.sam_rad(x, z)
    return {"sam_deg": float(np.rad2deg(angle)), "sam_rad": angle, "rmse": metrics.rmse(x, z)}


def _plain(value):
    """Nested plain values of a few digits; NaN becomes None, which JSON knows."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if np.ndim(value):
        return [_plain(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
