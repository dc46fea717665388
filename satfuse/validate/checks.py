"""The scores of a report: pure functions on the views of a product, each next to its baselines.

A product close to its coarse input proves little: bicubic upsampling without any detail scores a
cosine above 0.999. So each table has the rows `fused`, `bicubic` (best on the coarse side, without
detail) and `regression` (guide bands mixed without residual: best on the guide side, biased on the
coarse side).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from satfuse import metrics
from satfuse.arrays import BoolArray, FloatArray
from satfuse.validate.fourier import coherence_ranges, cutoff
from satfuse.validate.views import View, Views, all_finite, apply_linear, fit_linear

Scores = dict[str, Any]  # nested by name, plain numbers at the ends
Columns = Mapping[str, Sequence[float] | FloatArray]  # name of a column: a value per band

# Bands whose mean is red or near infrared (Cristille et al. 2024, NDVI)
RED = ("S2N", "Oa08", "Oa09")
NIR = ("Oa17", "S3N", "Oa18")
GUIDE_RED = "B04"
GUIDE_NIR = "B08"
SHARPNESS_PAIR = ("Oa08", "B04")  # 665 nm in both sensors
NDVI_THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(1, 9))
# root mean square reflectance of a spectrum; below it is water, whose spectral angle is noise
LAND_RMS = 0.03
SSIM_PX = 11  # window of SSIM, so the smallest image that has a score


def coarse_consistency(views: Views) -> dict[str, Scores]:
    """Degrade every image to the coarse grid and compare it with the coarse input.

    Returns
    -------
    {"fused" | "bicubic" | "regression": {"overall": scores, "bands": {band: scores}}}; reflectance
    units, SAM in degrees and radians; SSIM at the data range given as "ssim_data_range".
    """
    return {name: _coarse_scores(view.degraded, views) for name, view in views.images.items()}


def _coarse_scores(image: FloatArray, views: Views) -> Scores:
    reference = views.coarse
    valid = views.compare
    data_range = float(np.ptp(reference[:, valid]))  # one for all bands, so that they compare
    ssim = np.full(len(reference), np.nan)
    if data_range > 0 and min(valid.shape) >= SSIM_PX:
        ssim = metrics.ssim(image, reference, valid, data_range=data_range)
    columns = {
        "rmse": metrics.rmse(image, reference, valid, per_band=True),
        "bias": metrics.bias(image, reference, valid),
        "euclidean": metrics.euclidean(image, reference, valid, per_band=True),
        "cosine": metrics.cosine(image, reference, valid, per_band=True),
        "ssim": ssim,
    }
    angle = metrics.sam_rad(image, reference, valid)  # over all bands, so there is none per band
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
    return {"overall": overall, "bands": by_band(views.bands, columns)}


def guide_consistency(views: Views) -> dict[str, Scores]:
    """Predict the guide's bands from every image by a linear map, and compare with the guide.

    The map coarse -> guide is fitted on the coarse input and the degraded guide; it is approximate
    for wide bands (B08, B12). Scores are of the sampled fine pixels.

    Returns
    -------
    {image: {"overall": {"rmse", "correlation"}, "bands": {guide band: {"rmse", "bias",
    "correlation"}}}}
    """
    weights = guide_weights(views)
    valid = valid_sample(views)
    # metrics take (band, y, x): the valid pixels become one row
    guide = views.guide.sample[:, valid][:, None]
    result = {}
    for name, view in views.images.items():
        predicted = apply_linear(weights, view.sample[:, valid][:, None])
        columns: Columns = {
            "rmse": metrics.rmse(predicted, guide, per_band=True),
            "bias": metrics.bias(predicted, guide),
            "correlation": [metrics.pearson(a, b) for a, b in zip(predicted, guide, strict=True)],
        }
        overall = {
            "rmse": metrics.rmse(predicted, guide),
            "correlation": float(np.mean(columns["correlation"])),
        }
        result[name] = {"overall": overall, "bands": by_band(views.guide_bands, columns)}
    return result


def guide_weights(views: Views) -> FloatArray:
    """The linear map from coarse to guide bands, fitted at coarse scale, for `apply_linear`."""
    # on the inputs alone: the same map for every image, whatever the product is
    return fit_linear(views.coarse[:, views.compare], views.guide.degraded[:, views.compare])


def valid_sample(views: Views) -> BoolArray:
    """(y, x) bool of the sample, True = guide and product have all bands."""
    return all_finite(views.images["fused"].sample) & all_finite(views.guide.sample)


def panchromatic(views: Views) -> dict[str, float]:
    """SSIM of band means, every image against the guide, in the window; a copy scores 1."""
    guide = views.guide.window
    if min(guide.shape[1:]) < SSIM_PX:
        return {}
    return {
        name: metrics.panchromatic_ssim(view.window, guide) for name, view in views.images.items()
    }


def ndvi_maps(views: Views) -> dict[str, FloatArray]:
    """NDVI (y, x) of the sampled pixels, of "guide" and every image; {} without the bands."""
    if not {*RED, *NIR} <= set(views.bands) or not {GUIDE_RED, GUIDE_NIR} <= set(views.guide_bands):
        return {}
    maps = {"guide": guide_ndvi(views.guide.sample, views.guide_bands)}
    for name, view in views.images.items():
        maps[name] = metrics.ndvi(_band_mean(view, views, RED), _band_mean(view, views, NIR))
    return maps


def guide_ndvi(guide: FloatArray, guide_bands: Sequence[str]) -> FloatArray:
    """NDVI (y, x) of the guide (band, y, x) from B08 and B04."""
    red, nir = (guide[guide_bands.index(band)] for band in (GUIDE_RED, GUIDE_NIR))
    return metrics.ndvi(red, nir)


def _band_mean(view: View, views: Views, names: Sequence[str]) -> FloatArray:
    """Mean (y, x) of some bands of the sample."""
    return view.sample[[views.bands.index(name) for name in names]].mean(axis=0)


def ndvi_agreement(maps: dict[str, FloatArray]) -> dict[str, Scores]:
    """NDVI of every image against the guide's.

    Parameters
    ----------
    maps : NDVI (y, x) by image, of `ndvi_maps`; "guide" is one of them.

    Returns
    -------
    {image: {"correlation", "rmse", "bias" (image minus guide), "jaccard": {threshold: index of the
    area above it}}}
    """
    return {
        name: _ndvi_scores(image, maps["guide"]) for name, image in maps.items() if name != "guide"
    }


def _ndvi_scores(image: FloatArray, guide: FloatArray) -> Scores:
    difference = image - guide
    valid = np.isfinite(difference)
    return {
        "correlation": metrics.pearson(image, guide),
        "rmse": float(np.sqrt(np.mean(difference[valid] ** 2))) if valid.any() else np.nan,
        "bias": float(np.mean(difference[valid])) if valid.any() else np.nan,
        "jaccard": {str(t): metrics.jaccard(image > t, guide > t, valid) for t in NDVI_THRESHOLDS},
    }


def sharpness(views: Views) -> dict[str, Scores]:
    """Detail of every image at 665 nm in the window, against the guide's; {} without that band.

    Returns
    -------
    {image: scores of `detail`}
    """
    band, guide_band = SHARPNESS_PAIR
    if band not in views.bands or guide_band not in views.guide_bands:
        return {}
    guide = views.guide.window[views.guide_bands.index(guide_band)]
    index = views.bands.index(band)
    return {
        name: detail(view.window[index], guide, views.ratio) for name, view in views.images.items()
    }


def detail(band: FloatArray, reference: FloatArray, ratio: int) -> dict[str, float]:
    """Power, coherence and cutoff of one band (y, x) against a reference (y, x).

    Returns
    -------
    "low", "medium", "high": power over the reference's, see `metrics.radial_power_ratio` (1 = as
    sharp); "coherence_low" and so on: share of the band's power in this range whose pattern is the
    reference's; "half_power_px": half of the shortest period, in fine pixels, down to which the
    band keeps half of the reference's power.
    """
    frequency = cutoff(band, reference)
    coherence = coherence_ranges(band, reference, ratio)
    return {
        **metrics.radial_power_ratio(band, reference, ratio),
        **{f"coherence_{name}": value for name, value in coherence.items()},
        # a detail is half a period, 1 / (2 f); 1 px at the Nyquist frequency of 0.5
        "half_power_px": 0.5 / frequency if frequency else np.nan,
    }


def seam_statistic(
    image: FloatArray | xr.DataArray,
    edges_y: Sequence[int] = (),
    edges_x: Sequence[int] = (),
    *,
    reach: int = 8,
) -> dict[str, float]:
    """Compare steps across tile edges with the steps next to them; ratio 1 = no seam.

    Parameters
    ----------
    image : (band, y, x) array or lazy DataArray with these dims.
    edges_y, edges_x : index of the first pixel after each edge, along y and along x.
    reach : pixels on either side that give the ordinary step.

    Returns
    -------
    "across", "inside": mean absolute steps in reflectance; "ratio" of the two; "edges": how many
    were used.
    """
    steps = [
        *_edge_steps(image, 1, edges_y, reach),
        *_edge_steps(image, 2, edges_x, reach),
    ]
    if not steps:
        return {"ratio": np.nan, "across": np.nan, "inside": np.nan, "edges": 0}
    across, inside = (float(np.nanmean(column)) for column in zip(*steps, strict=True))
    return {
        "ratio": across / inside if inside > 0 else np.nan,
        "across": across,
        "inside": inside,
        "edges": len(steps),
    }


def _edge_steps(
    image: FloatArray | xr.DataArray, axis: int, edges: Sequence[int], reach: int
) -> Iterator[tuple[float, float]]:
    """Yield the mean absolute step across each edge along an axis, and that next to it."""
    size = image.shape[axis]
    for edge in edges:
        if not 1 < edge < size - 1:  # needs an ordinary step on both sides
            continue
        first = max(edge - reach, 0)
        nearby = (slice(None),) * axis + (slice(first, min(edge + reach, size)),)
        step = np.abs(np.diff(np.moveaxis(np.asarray(image[nearby], float), axis, 0), axis=0))
        at = edge - first - 1  # the step from the last pixel before the edge to the first after it
        yield float(np.nanmean(step[at])), float(np.nanmean(np.delete(step, at, axis=0)))


def scores(
    image: FloatArray, target: FloatArray, ratio: int, valid: BoolArray | None = None
) -> dict[str, float]:
    """Score an image against the target it should equal, both (band, y, x) on the fine grid.

    Returns
    -------
    "sam_deg" over all pixels, "sam_land_deg" over land (spectra of the target whose root mean
    square is at least `LAND_RMS`), "rmse" in reflectance, "psnr_db" at data range 1, "ergas" at
    `ratio`, "ssim" as the mean of bands with the target's range as data range.
    """
    target = np.asarray(target, float)
    land = np.sqrt((target**2).mean(axis=0)) >= LAND_RMS  # False where the target is NaN
    finite = all_finite(target)
    if valid is not None:
        land &= valid
        finite &= valid
    data_range = float(np.ptp(target[:, finite])) if finite.any() else np.nan
    ssim = np.nan
    if min(target.shape[1:]) >= SSIM_PX and data_range > 0:
        ssim = float(metrics.ssim(image, target, valid, data_range=data_range).mean())
    return {
        "sam_deg": metrics.sam_deg(image, target, valid),
        "sam_land_deg": metrics.sam_deg(image, target, land),
        "rmse": metrics.rmse(image, target, valid),
        "psnr_db": float(metrics.psnr(image, target, valid)),
        "ergas": metrics.ergas(image, target, ratio, valid),
        "ssim": ssim,
    }


def truth_scores(views: Views, truth: xr.DataArray) -> dict[str, dict[str, float]]:
    """Scores of every image in the window against the true fine reflectance.

    Pixels count where the product is valid. `truth` is a DataArray (band, y, x) on the product's
    grid; bands that it lacks are left out.
    """
    names = [b for b in views.bands if b in truth["band"].values]
    index = [views.bands.index(b) for b in names]
    target = truth_window(views, truth, names)
    valid = all_finite(views.images["fused"].window)  # the baselines on the same pixels
    return {
        name: scores(view.window[index], target, views.ratio, valid)
        for name, view in views.images.items()
    }


def truth_window(views: Views, truth: xr.DataArray, names: Sequence[str]) -> FloatArray:
    """True reflectance (band, y, x) of some bands in the window."""
    rows, columns = views.window
    return truth.sel(band=list(names)).transpose("band", "y", "x")[:, rows, columns].values


def by_band(names: Sequence[str], columns: Columns) -> dict[str, dict[str, float]]:
    """Turn columns (one value per band) into {band: {column: value}}."""
    return {
        name: {key: float(column[i]) for key, column in columns.items()}
        for i, name in enumerate(names)
    }
