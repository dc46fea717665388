"""The numbers of a report: pure functions on the views of a product, every one beside its yardsticks.

A product close to its coarse input proves little: bicubic upsampling without any detail scores a cosine above 0.999.
So each table has the rows `fused`, `bicubic` (best on the coarse side, no detail) and `regression` (guide bands mixed
without residual: best on the guide side, biased on the coarse side).
"""

import numpy as np

from satfuse import metrics
from satfuse.validate.fourier import coherence_ranges, cutoff
from satfuse.validate.views import Views, apply_linear, fit_linear

# Bands whose mean is red or near infrared (Cristille et al. 2024, NDVI)
RED, NIR = ("S2N", "Oa08", "Oa09"), ("Oa17", "S3N", "Oa18")
GUIDE_RED, GUIDE_NIR = "B04", "B08"
SHARPNESS_PAIR = ("Oa08", "B04")  # 665 nm in both sensors
NDVI_THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(1, 9))
LAND_RMS = 0.03  # spectra whose root mean square lies below it are water: their angle is noise


def coarse_consistency(views: Views) -> dict:
    """Degrade every image to the coarse grid and compare it with the coarse input.

    Returns
    -------
    {"fused" | "bicubic" | "regression": {"overall": scores, "bands": {band: scores}}}; reflectance units, SAM in
    degrees and radians; SSIM with the data range that stands beside it.
    """
    return {name: _coarse_scores(view.degraded, views) for name, view in views.images.items()}


def _coarse_scores(image, views):
    reference, valid = views.coarse, views.compare
    data_range = float(np.ptp(reference[:, valid]))
    flat = data_range <= 0 or min(valid.shape) < 11
    ssim = (
        np.full(len(reference), np.nan)
        if flat
        else metrics.ssim(image, reference, valid, data_range=data_range)
    )
    columns = {
        "rmse": metrics.rmse(image, reference, valid, per_band=True),
        "bias": metrics.bias(image, reference, valid),
        "euclidean": metrics.euclidean(image, reference, valid, per_band=True),
        "cosine": metrics.cosine(image, reference, valid, per_band=True),
        "ssim": ssim,
    }
    angle = metrics.sam_rad(image, reference, valid)
    overall = {
        "rmse": metrics.rmse(image, reference, valid),
        "bias": float(columns["bias"].mean()),
        "euclidean": float(metrics.euclidean(image, reference, valid)),
        "cosine": float(metrics.cosine(image, reference, valid)),
        "ssim": float(np.mean(ssim)),
        "ssim_data_range": data_range,
        "sam_deg": float(np.rad2deg(angle)),
        "sam_rad": angle,
        "pixels": int(valid.sum()),
    }
    return {"overall": overall, "bands": _by_band(views.bands, columns)}


def guide_consistency(views: Views) -> dict:
    """Predict the guide's bands from every image, by a linear map fitted at coarse scale, and compare with the guide.

    The map coarse -> guide is fitted on the coarse input and the degraded guide; it is approximate for wide bands
    (B08, B12). Scores are of the sampled fine pixels.

    Returns
    -------
    {image: {"overall": {"rmse", "correlation"}, "bands": {guide band: {"rmse", "bias", "correlation"}}}}
    """
    weights = guide_weights(views)
    both = np.isfinite(views.images["fused"].sample).all(0) & np.isfinite(views.guide.sample).all(0)
    guide = views.guide.sample[:, both][:, None]
    result = {}
    for name, view in views.images.items():
        predicted = apply_linear(weights, view.sample[:, both][:, None])
        columns = {
            "rmse": metrics.rmse(predicted, guide, per_band=True),
            "bias": metrics.bias(predicted, guide),
            "correlation": [metrics.pearson(a, b) for a, b in zip(predicted, guide, strict=True)],
        }
        overall = {
            "rmse": metrics.rmse(predicted, guide),
            "correlation": float(np.mean(columns["correlation"])),
        }
        result[name] = {"overall": overall, "bands": _by_band(views.guide_bands, columns)}
    return result


def guide_weights(views: Views) -> np.ndarray:
    """The linear map from the coarse bands to the guide's, fitted at coarse scale; for `views.apply_linear`."""
    return fit_linear(views.coarse[:, views.compare], views.guide.degraded[:, views.compare])


def panchromatic(views: Views) -> dict:
    """SSIM of band means, every image against the guide, in the window of adjacent fine pixels; a copy scores 1."""
    guide = views.guide.window
    if min(guide.shape[1:]) < 11:
        return {}
    return {
        name: metrics.panchromatic_ssim(view.window, guide) for name, view in views.images.items()
    }


def ndvi_maps(views: Views) -> dict[str, np.ndarray]:
    """NDVI of the sampled pixels (y, x), of the guide and of every image; {} where a band is lacking."""
    if not {*RED, *NIR} <= set(views.bands) or not {GUIDE_RED, GUIDE_NIR} <= set(views.guide_bands):
        return {}
    maps = {
        "guide": metrics.ndvi(
            *(views.guide.sample[views.guide_bands.index(b)] for b in (GUIDE_RED, GUIDE_NIR))
        )
    }
    for name, view in views.images.items():
        red, nir = (
            view.sample[[views.bands.index(b) for b in group]].mean(axis=0) for group in (RED, NIR)
        )
        maps[name] = metrics.ndvi(red, nir)
    return maps


def ndvi_agreement(maps: dict[str, np.ndarray]) -> dict:
    """NDVI of every image against the guide's: correlation, RMSE, bias, and the Jaccard index at each threshold."""
    result = {}
    for name in (n for n in maps if n != "guide"):
        difference = maps[name] - maps["guide"]
        valid = np.isfinite(difference)
        result[name] = {
            "correlation": metrics.pearson(maps[name], maps["guide"]),
            "rmse": float(np.sqrt(np.mean(difference[valid] ** 2))) if valid.any() else np.nan,
            "bias": float(np.mean(difference[valid])) if valid.any() else np.nan,
            "jaccard": {
                str(t): metrics.jaccard(maps[name] > t, maps["guide"] > t, valid)
                for t in NDVI_THRESHOLDS
            },
        }
    return result


def sharpness(views: Views) -> dict:
    """How much of the guide's detail at 665 nm every image holds; {} where a band is lacking.

    Returns
    -------
    {image: {"low" | "medium" | "high": power over the guide's, see `metrics.radial_power_ratio` (1 = as sharp as the
    guide); "coherence_low" and so on: share of the image's power in this range that is the guide's pattern;
    "half_power_px": half of the shortest period, in fine pixels, down to which it holds half of the guide's power}}
    """
    band, guide_band = SHARPNESS_PAIR
    if band not in views.bands or guide_band not in views.guide_bands:
        return {}
    guide = views.guide.window[views.guide_bands.index(guide_band)]
    index = views.bands.index(band)
    return {
        name: detail(view.window[index], guide, views.ratio) for name, view in views.images.items()
    }


def detail(band, reference, ratio: int) -> dict:
    """Power, coherence and cutoff of one band (y, x) against a reference, as in `sharpness`."""
    held = cutoff(band, reference)
    return {
        **metrics.radial_power_ratio(band, reference, ratio),
        **{
            f"coherence_{name}": value
            for name, value in coherence_ranges(band, reference, ratio).items()
        },
        "half_power_px": 0.5 / held if held else np.nan,
    }


def seam_statistic(image, edges_y=(), edges_x=(), *, reach=8) -> dict:
    """How much larger steps across tile edges are than steps beside them; 1 = no seam.

    Parameters
    ----------
    image : (band, y, x) array or lazy DataArray with these dims.
    edges_y, edges_x : index of the first pixel after each edge, along y and along x.
    reach : pixels on either side that give the ordinary step.

    Returns
    -------
    {"ratio", "across", "inside", "edges"}: mean absolute steps in reflectance, their ratio, the number of edges used.
    """
    across, inside = [], []
    for axis, edges in ((1, edges_y), (2, edges_x)):
        size = image.shape[axis]
        for edge in (e for e in edges if 1 < e < size - 1):
            first, last = max(edge - reach, 0), min(edge + reach, size)
            near = np.moveaxis(
                np.asarray(image[(slice(None),) * axis + (slice(first, last),)], float), axis, 0
            )
            step = np.abs(np.diff(near, axis=0))
            at = edge - first - 1
            across.append(np.nanmean(step[at]))
            inside.append(np.nanmean(np.delete(step, at, axis=0)))
    if not across:
        return {"ratio": np.nan, "across": np.nan, "inside": np.nan, "edges": 0}
    across_mean, inside_mean = float(np.nanmean(across)), float(np.nanmean(inside))
    return {
        "ratio": across_mean / inside_mean if inside_mean > 0 else np.nan,
        "across": across_mean,
        "inside": inside_mean,
        "edges": len(across),
    }


def scores(image, target, ratio, valid=None) -> dict:
    """An image against the target it should be, both (band, y, x) on the fine grid.

    SAM in degrees over all pixels and over land (root mean square of the target's spectrum at least 0.03; below it,
    over water, angles are noise), RMSE in reflectance, PSNR in dB at data range 1, ERGAS at `ratio`, SSIM as the mean
    of bands with the target's range as data range.
    """
    target = np.asarray(target, float)
    land = np.sqrt((target**2).mean(axis=0)) >= LAND_RMS
    land &= True if valid is None else valid
    good = np.isfinite(target).all(0) & (True if valid is None else valid)
    data_range = float(np.ptp(target[:, good])) if good.any() else np.nan
    small = min(target.shape[1:]) < 11 or not data_range > 0
    return {
        "sam_deg": metrics.sam_deg(image, target, valid),
        "sam_land_deg": metrics.sam_deg(image, target, land),
        "rmse": metrics.rmse(image, target, valid),
        "psnr_db": float(metrics.psnr(image, target, valid)),
        "ergas": metrics.ergas(image, target, ratio, valid),
        "ssim": np.nan
        if small
        else float(metrics.ssim(image, target, valid, data_range=data_range).mean()),
    }


def truth_scores(views: Views, truth) -> dict:
    """Scores of every image in the window, where the product is valid, against the true fine reflectance.

    `truth` is a DataArray (band, y, x) on the product's grid; bands that it lacks are left out.
    """
    names = [b for b in views.bands if b in truth["band"].values]
    index = [views.bands.index(b) for b in names]
    target = (
        truth.sel(band=names)
        .transpose("band", "y", "x")[:, views.window[0], views.window[1]]
        .values
    )
    valid = np.isfinite(views.images["fused"].window).all(axis=0)
    return {
        name: scores(view.window[index], target, views.ratio, valid)
        for name, view in views.images.items()
    }


def _by_band(names, columns):
    return {
        name: {key: float(column[i]) for key, column in columns.items()}
        for i, name in enumerate(names)
    }
