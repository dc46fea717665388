"""The report of a product: metrics.json, metrics.md, figures and one HTML page."""

import json
import logging
import math
from pathlib import Path

import xarray as xr

from satfuse.validate import checks, figures, page
from satfuse.validate.land_cover.classes import (
    LandCover,
    class_agreement,
    class_spectra,
    vegetation_agreement,
)
from satfuse.validate.land_cover.figures import class_figure, vegetation_figure
from satfuse.validate.look import look_of, save
from satfuse.validate.markup import html, markdown
from satfuse.validate.spectra import mean_spectra, spectra_agreement
from satfuse.validate.uncertainty import (
    Uncertainty,
    read_uncertainty,
    uncertainty_figure,
    uncertainty_scores,
)
from satfuse.validate.views import Views, make_views, single_time

log = logging.getLogger(__name__)


def validate_product(
    fused: xr.Dataset,
    scene: xr.Dataset,
    out_dir: str | Path,
    *,
    truth: xr.DataArray | None = None,
    land_cover: LandCover | None = None,
    tile_edges: tuple = ((), ()),
    run: str | None = None,
) -> dict:
    """Measure a product against its inputs and write the report.

    Parameters
    ----------
    fused : Dataset with `reflectance` (band, y, x) and, where it has one, `uncertainty`, with or without a `time` of
        length 1; may be lazy.
    scene : the Dataset of `satfuse.scene.make_scene` on the same grid.
    out_dir : folder for metrics.json, metrics.md, *.png and index.html; made if absent.
    truth : (band, y, x) true reflectance on the product's grid, where it is known.
    land_cover : classes on the product's grid, see `satfuse.validate.land_cover.read_land_cover`.
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
    views = make_views(fused, scene)
    sigma = read_uncertainty(fused, views)
    reflectance = single_time(fused)["reflectance"].transpose("band", "y", "x")
    result = {
        "title": title_of(fused),
        "run": run,
        **measure(views, land_cover),
        "seam": {
            "fused": checks.seam_statistic(reflectance, *tile_edges),
            "guide": checks.seam_statistic(
                scene["guide"].transpose("guide_band", "y", "x"), *tile_edges
            ),
        },
        "truth": checks.truth_scores(views, truth) if truth is not None else {},
        "uncertainty": uncertainty_scores(sigma, views, truth) if sigma else {},
    }
    result = finite(result)
    out_dir = Path(out_dir)
    drawn = _draw(views, sigma, look_of(views, scene), result, land_cover, out_dir)
    write(result, page.READING, page.blocks(result, drawn), out_dir)
    return result


def measure(views: Views, land_cover: LandCover | None = None) -> dict:
    """All scores that follow from a product's views, by section; those without the needed bands or map are {}."""
    maps = checks.ndvi_maps(views)
    return {
        "bands": list(views.bands),
        "ratio": views.ratio,
        "psf_sigma": views.psf_sigma,
        "coarse_pixels": {"compared": int(views.compare.sum()), "all": int(views.compare.size)},
        "coarse_consistency": checks.coarse_consistency(views),
        "guide_consistency": checks.guide_consistency(views),
        "panchromatic_ssim": checks.panchromatic(views),
        "spectra": spectra_agreement(mean_spectra(views)),
        "ndvi": checks.ndvi_agreement(maps) if maps else {},
        "sharpness": checks.sharpness(views),
        "vegetation": vegetation_agreement(views, maps, land_cover) if maps and land_cover else {},
        "classes": class_agreement(views, land_cover) if land_cover else {},
    }


def title_of(fused: xr.Dataset) -> str:
    """What a product is called in its report."""
    return str(fused.attrs.get("id") or fused.attrs.get("title") or "fused product")


def write(result: dict, introduction: str, blocks: list, out_dir: Path) -> None:
    """Write metrics.json, metrics.md and index.html of a report; pictures are in the blocks already."""
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "metrics.json").write_text(json.dumps(result, indent=1, allow_nan=False))
    (out_dir / "metrics.md").write_text(markdown(result["title"], introduction, blocks))
    (out_dir / "index.html").write_text(
        html(result["title"], introduction, blocks), encoding="utf-8"
    )
    log.info("report in %s", out_dir)


def _draw(views, sigma: Uncertainty | None, look, result, land_cover, out_dir) -> dict[str, Path]:
    drawn = {
        "quicklook": figures.quicklook(look),
        "composites": figures.composites(look),
        "consistency": figures.consistency_bars(
            result["coarse_consistency"], result["guide_consistency"]
        ),
        "spectra": figures.spectra(mean_spectra(views)),
    }
    if result["ndvi"]:
        drawn["ndvi"] = figures.ndvi(checks.ndvi_maps(views), result["ndvi"], look)
    if result["sharpness"]:
        drawn["power"] = figures.power(views)
    if sigma:
        drawn["uncertainty"] = uncertainty_figure(sigma, result["uncertainty"], look)
    if result["vegetation"]:
        fused = checks.ndvi_maps(views)["fused"]
        drawn["vegetation"] = vegetation_figure(fused, result["vegetation"], land_cover, look)
    if result["classes"]:
        drawn["classes"] = class_figure(class_spectra(views, land_cover))
    return {name: save(figure, out_dir / f"{name}.png") for name, figure in drawn.items()}


def finite(value):
    """Plain Python values, with None for numbers that are not finite: what JSON can hold."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, str | int | None):
        return value
    return float(value) if math.isfinite(value) else None
