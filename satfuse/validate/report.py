"""The report of a product: metrics.json, metrics.md, figures and one HTML page."""

import json
import logging
import math
from pathlib import Path

import xarray as xr

from satfuse.validate import checks, figures, page
from satfuse.validate.spectra import mean_spectra, spectra_agreement
from satfuse.validate.views import Views, make_views, single_time

log = logging.getLogger(__name__)


def validate_product(
    fused: xr.Dataset,
    scene: xr.Dataset,
    out_dir: str | Path,
    *,
    truth: xr.DataArray | None = None,
    tile_edges: tuple = ((), ()),
    run: str | None = None,
) -> dict:
    """Measure a product against its inputs and write the report.

    Parameters
    ----------
    fused : Dataset with `reflectance` (band, y, x), with or without a `time` of length 1; may be lazy.
    scene : the Dataset of `satfuse.scene.make_scene` on the same grid.
    out_dir : folder for metrics.json, metrics.md, *.png and index.html; made if absent.
    truth : (band, y, x) true reflectance on the product's grid, where it is known.
    tile_edges : (y, x) indices of the first fine pixel after each tile edge.
    run : key of the product's run, kept in the report.

    Returns
    -------
    What metrics.json holds; a score that is undefined is None.

    Raises
    ------
    ProductError, BandError, GridError
        See `satfuse.validate.views.make_views`.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    views = make_views(fused, scene)
    spectra = mean_spectra(views)
    maps = checks.ndvi_maps(views)
    reflectance = single_time(fused)["reflectance"].transpose("band", "y", "x")
    result = {
        "title": str(fused.attrs.get("id") or fused.attrs.get("title") or "fused product"),
        "run": run,
        "bands": list(views.bands),
        "ratio": views.ratio,
        "psf_sigma": views.psf_sigma,
        "coarse_pixels": {"compared": int(views.compare.sum()), "all": int(views.compare.size)},
        "coarse_consistency": checks.coarse_consistency(views),
        "guide_consistency": checks.guide_consistency(views),
        "panchromatic_ssim": checks.panchromatic(views),
        "spectra": spectra_agreement(spectra),
        "ndvi": checks.ndvi_agreement(maps) if maps else {},
        "sharpness": checks.sharpness(views),
        "seam": {
            "fused": checks.seam_statistic(reflectance, *tile_edges),
            "guide": checks.seam_statistic(scene["guide"].transpose("guide_band", "y", "x"), *tile_edges),
        },
        "truth": checks.truth_scores(views, truth) if truth is not None else {},
    }
    result = _finite(result)
    drawn = _draw(views, scene, spectra, maps, result, out_dir)
    (out_dir / "metrics.json").write_text(json.dumps(result, indent=1, allow_nan=False))
    (out_dir / "metrics.md").write_text(page.markdown(result))
    (out_dir / "index.html").write_text(page.page(result, drawn), encoding="utf-8")
    log.info("report in %s", out_dir)
    return result


def _draw(views: Views, scene, spectra, maps, result, out_dir) -> dict[str, Path]:
    look = figures.look_of(views, scene)
    drawn = {
        "quicklook": figures.quicklook(look),
        "consistency": figures.consistency_bars(result["coarse_consistency"], result["guide_consistency"]),
        "spectra": figures.spectra(spectra),
    }
    if result["ndvi"]:
        drawn["ndvi"] = figures.ndvi(maps, result["ndvi"], look)
    if result["sharpness"]:
        drawn["power"] = figures.power(views)
    return {name: figures.save(figure, out_dir / f"{name}.png") for name, figure in drawn.items()}


def _finite(value):
    """Plain Python values, with None for numbers that are not finite: what JSON can hold."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, str | int | None):
        return value
    return float(value) if math.isfinite(value) else None
