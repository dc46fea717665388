"""The uncertainty that a product states and, where the truth is known, its calibration."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from satfuse.arrays import BoolArray, FloatArray
from satfuse.validate.checks import truth_window
from satfuse.validate.drawing import COLOURS, FieldMap, show_image
from satfuse.validate.views import Views, single_time


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Stated standard deviation (band, y, x) of a product's errors, in reflectance.

    In the sample and in the window of the product's views; NaN where it states none.
    """

    sample: FloatArray
    window: FloatArray


def read_uncertainty(fused: xr.Dataset, views: Views) -> Uncertainty | None:
    """Read the uncertainty of the bands of the views; None for a product without it."""
    if "uncertainty" not in fused:
        return None
    image = single_time(fused)["uncertainty"].sel(band=list(views.bands))
    image = image.transpose("band", "y", "x")
    window_rows, window_columns = views.window
    sample = image.isel(y=views.rows, x=views.columns)
    window = image.isel(y=window_rows, x=window_columns)
    return Uncertainty(
        sample=sample.values.astype(np.float32), window=window.values.astype(np.float32)
    )


def uncertainty_scores(
    sigma: Uncertainty, views: Views, truth: xr.DataArray | None = None
) -> dict[str, Any]:
    """Mean uncertainty and, for the bands of the truth (band, y, x), its calibration.

    Returns
    -------
    {"overall": scores, "bands": {band: scores}}: "mean" of the sampled pixels; with the truth also
    the scores of `coverage` over the window.
    """
    # the mean is of the whole field, coverage of the window, where the truth is compared
    bands = {
        band: {"mean": _mean(values)}
        for band, values in zip(views.bands, sigma.sample, strict=True)
    }
    overall = {"mean": _mean(sigma.sample)}
    if truth is not None:
        index = [k for k, band in enumerate(views.bands) if band in truth["band"].values]
        target = truth_window(views, truth, [views.bands[k] for k in index])
        error = views.images["fused"].window[index] - target
        overall |= coverage(error, sigma.window[index])
        for k, values in zip(index, error, strict=True):
            bands[views.bands[k]] |= coverage(values, sigma.window[k])
    return {"overall": overall, "bands": bands}


def coverage(error: FloatArray, sigma: FloatArray) -> dict[str, float]:
    """RMSE of errors, and how many of them are within one and two stated standard deviations.

    Parameters
    ----------
    error, sigma : arrays of one shape; a value counts where both are finite.

    Returns
    -------
    "rmse", and the shares "within_1" and "within_2": 0.683 and 0.954 for normal errors whose
    uncertainty is well calibrated.
    """
    valid = np.isfinite(error) & np.isfinite(sigma)
    error = np.abs(error[valid])
    sigma = sigma[valid]
    return {
        "rmse": _mean(np.square(error)) ** 0.5,
        "within_1": _mean(error <= sigma),
        "within_2": _mean(error <= 2 * sigma),
    }


def uncertainty_figure(sigma: Uncertainty, scores: dict[str, Any], field: FieldMap) -> Figure:
    """Map of the uncertainty as the mean of the bands, and the mean of each band."""
    figure = Figure(figsize=field.figure_size(2), layout="constrained")
    left, right = figure.subplots(1, 2)
    image = _band_mean(sigma.sample)
    low, high = np.nanpercentile(image, (1, 99))  # or a few pixels would set the colour scale
    drawn = show_image(left, image, field, "mean of the bands", cmap="viridis", vmin=low, vmax=high)
    left.set_ylabel(field.northing_label)
    figure.colorbar(drawn, ax=left, shrink=0.8, label="uncertainty, reflectance")
    _draw_bands(right, scores)
    return figure


def _band_mean(image: FloatArray) -> FloatArray:
    """Mean (y, x) over the bands that are finite; NaN without any."""
    valid = np.isfinite(image)
    return np.where(valid, image, 0).sum(0) / np.where(valid.any(0), valid.sum(0), np.nan)


def _draw_bands(axis: Axes, scores: dict[str, Any]) -> None:
    names = list(scores["bands"])
    rows = scores["bands"].values()
    means = np.array([row["mean"] for row in rows], float)  # None, as in the report, becomes NaN
    axis.bar(names, means, color=COLOURS["fused"], label="mean uncertainty")
    if "rmse" in scores["overall"]:
        errors = np.array([row.get("rmse") for row in rows], float)
        axis.plot(names, errors, "ko", label="RMSE against the truth")
        axis.legend(frameon=False)
    axis.set(title="mean of each band", ylabel="uncertainty, reflectance")
    axis.tick_params(axis="x", rotation=90)
    axis.grid(axis="y", alpha=0.3)


def _mean(values: FloatArray | BoolArray) -> float:
    """Mean of the finite values; NaN without any."""
    finite = values[np.isfinite(values)]
    return float(finite.mean(dtype=float)) if finite.size else np.nan
