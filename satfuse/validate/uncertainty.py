"""How sure a product says it is and, where the truth is known, how many of its errors keep to that."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from satfuse.validate.look import COLOURS, Look, show
from satfuse.validate.views import Views, single_time


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Standard deviation (band, y, x) of a product's errors, sampled and in the window of its views; NaN for none."""

    sample: np.ndarray
    window: np.ndarray


def read_uncertainty(fused: xr.Dataset, views: Views) -> Uncertainty | None:
    """The uncertainty of the bands of the views; None of a product that holds none."""
    if "uncertainty" not in fused:
        return None
    image = (
        single_time(fused)["uncertainty"].sel(band=list(views.bands)).transpose("band", "y", "x")
    )
    places = {"sample": (views.rows, views.columns), "window": views.window}
    return Uncertainty(
        **{k: image.isel(y=y, x=x).values.astype(np.float32) for k, (y, x) in places.items()}
    )


def uncertainty_scores(sigma: Uncertainty, views: Views, truth: xr.DataArray | None = None) -> dict:
    """How large the uncertainty is and, of the bands that the truth (band, y, x) has, whether errors keep to it.

    Returns
    -------
    {"overall": scores, "bands": {band: scores}}: "mean" of the sampled pixels; with the truth what `coverage` gives
    for the window.
    """
    bands = {
        band: {"mean": _mean(values)}
        for band, values in zip(views.bands, sigma.sample, strict=True)
    }
    overall = {"mean": _mean(sigma.sample)}
    if truth is not None:
        index = [k for k, band in enumerate(views.bands) if band in truth["band"].values]
        target = truth.sel(band=[views.bands[k] for k in index]).transpose("band", "y", "x")
        error = (
            views.images["fused"].window[index] - target[:, views.window[0], views.window[1]].values
        )
        overall |= coverage(error, sigma.window[index])
        for k, values in zip(index, error, strict=True):
            bands[views.bands[k]] |= coverage(values, sigma.window[k])
    return {"overall": overall, "bands": bands}


def coverage(error: np.ndarray, sigma: np.ndarray) -> dict:
    """RMSE of errors, "rmse", and the share of them within one and two sigma, "within_1" and "within_2".

    Arrays of one shape; where one of them is NaN, neither counts.
    """
    known = np.isfinite(error) & np.isfinite(sigma)
    error, sigma = np.abs(error[known]), sigma[known]
    values = {"rmse": np.square(error), "within_1": error <= sigma, "within_2": error <= 2 * sigma}
    means = {name: _mean(value) for name, value in values.items()}
    return means | {"rmse": means["rmse"] ** 0.5}


def uncertainty_figure(sigma: Uncertainty, scores: dict, look: Look) -> Figure:
    """Where the product is unsure, as the mean of the bands, and how unsure each band is."""
    known = np.isfinite(sigma.sample)
    image = np.where(known, sigma.sample, 0).sum(0) / np.where(known.any(0), known.sum(0), np.nan)
    figure = Figure(figsize=look.panels(2), layout="constrained")
    left, right = figure.subplots(1, 2)
    low, high = np.nanpercentile(image, (1, 99))
    mesh = show(left, image, look, "mean of the bands", cmap="viridis", vmin=low, vmax=high)
    left.set_ylabel(f"northing, km ({look.crs})")
    figure.colorbar(mesh, ax=left, shrink=0.8, label="uncertainty, reflectance")
    names, rows = list(scores["bands"]), scores["bands"].values()
    right.bar(
        names,
        np.array([row["mean"] for row in rows], float),
        color=COLOURS["fused"],
        label="mean uncertainty",
    )
    if "rmse" in scores["overall"]:
        errors = np.array([row.get("rmse") for row in rows], float)
        right.plot(names, errors, "ko", label="RMSE against the truth")
        right.legend(frameon=False)
    right.set(title="mean of each band", ylabel="uncertainty, reflectance")
    right.tick_params(axis="x", rotation=90)
    right.grid(axis="y", alpha=0.3)
    return figure


def _mean(values) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean(dtype=float)) if known.size else np.nan
