"""The report of a product: metrics.json, metrics.md, figures and one HTML page."""

import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from satfuse.validate import checks, figures, page
from satfuse.validate.drawing import FieldMap, make_field_map, save_figure
from satfuse.validate.land_cover.classes import (
    LandCover,
    class_agreement,
    class_spectra,
    vegetation_agreement,
)
from satfuse.validate.land_cover.figures import class_figure, vegetation_figure
from satfuse.validate.markup import Section, html, markdown
from satfuse.validate.spectra import mean_spectra, spectra_agreement
from satfuse.validate.uncertainty import (
    read_uncertainty,
    uncertainty_figure,
    uncertainty_scores,
)
from satfuse.validate.views import Views, make_views, single_time

log = logging.getLogger(__name__)

Edges = tuple[Sequence[int], Sequence[int]]


def validate_product(
    fused: xr.Dataset,
    scene: xr.Dataset,
    out_dir: str | os.PathLike[str],
    *,
    truth: xr.DataArray | None = None,
    land_cover: LandCover | None = None,
    tile_edges: Edges = ((), ()),
    run: str | None = None,
) -> dict[str, Any]:
    """Measure a product against its inputs and write the report.

    Parameters
    ----------
    fused : Dataset with `reflectance` (band, y, x) and, where it has one, `uncertainty`, with or
        without a `time` of length 1; may be lazy.
    scene : the Dataset of `satfuse.scene.make_scene` on the same grid.
    out_dir : folder for metrics.json, metrics.md, *.png and index.html; made if absent.
    truth : (band, y, x) true reflectance on the product's grid, where it is known.
    land_cover : classes on the product's grid, see
        `satfuse.validate.land_cover.classes.read_land_cover`.
    tile_edges : (y, x) indices of the first fine pixel after each tile edge.
    run : key of the product's run, for the report.

    Returns
    -------
    The content of metrics.json; a score that is undefined is None.

    Raises
    ------
    ProductError, BandError, GridError
        See `satfuse.validate.views.make_views`.
    """
    views = make_views(fused, scene)
    sigma = read_uncertainty(fused, views)
    result = finite(
        {
            "title": title_of(fused),
            "run": run,
            **measure(views, land_cover),
            "seam": _seams(fused, scene, tile_edges),
            "truth": checks.truth_scores(views, truth) if truth is not None else {},
            "uncertainty": uncertainty_scores(sigma, views, truth) if sigma else {},
        }
    )
    field = make_field_map(views, scene)
    drawn = _figures(views, field, result)
    if sigma:
        drawn["uncertainty"] = uncertainty_figure(sigma, result["uncertainty"], field)
    if land_cover:
        drawn |= _land_cover_figures(views, field, result, land_cover)
    out_dir = Path(out_dir)
    paths = {name: save_figure(figure, out_dir / f"{name}.png") for name, figure in drawn.items()}
    write_report(result, page.READING, page.page_sections(result, paths), out_dir)
    return result


def measure(views: Views, land_cover: LandCover | None = None) -> dict[str, Any]:
    """All scores that follow from a product's views, by section.

    Sections without the needed bands or the map are {}.
    """
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
    """Name of a product in its report: its id, else its title."""
    return str(fused.attrs.get("id") or fused.attrs.get("title") or "fused product")


def write_report(
    result: dict[str, Any], introduction: str, sections: Sequence[Section], out_dir: Path
) -> None:
    """Write metrics.json, metrics.md and index.html of a report; the figures exist already."""
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "metrics.json").write_text(json.dumps(result, indent=1, allow_nan=False))
    title = result["title"]
    (out_dir / "metrics.md").write_text(markdown(title, introduction, sections))
    (out_dir / "index.html").write_text(html(title, introduction, sections), encoding="utf-8")
    log.info("report in %s", out_dir)


def finite(value: Any) -> Any:
    """Plain Python values that JSON can store: numbers that are not finite become None."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, str | int | None):  # bool is an int
        return value
    return float(value) if math.isfinite(value) else None


def _seams(fused: xr.Dataset, scene: xr.Dataset, edges: Edges) -> dict[str, dict[str, float]]:
    """Steps across tile edges, in the product and at the same places in the guide."""
    reflectance = single_time(fused)["reflectance"].transpose("band", "y", "x")
    guide = scene["guide"].transpose("guide_band", "y", "x")
    return {
        "fused": checks.seam_statistic(reflectance, *edges),
        "guide": checks.seam_statistic(guide, *edges),
    }


def _figures(views: Views, field: FieldMap, result: dict[str, Any]) -> dict[str, Figure]:
    """Figures of a report by name, but those of the uncertainty and the land cover."""
    consistency = result["coarse_consistency"], result["guide_consistency"]
    drawn = {
        "quicklook": figures.quicklook(field),
        "composites": figures.composites(field),
        "consistency": figures.consistency_bars(*consistency),
        "spectra": figures.spectra(mean_spectra(views)),
    }
    if result["ndvi"]:
        drawn["ndvi"] = figures.ndvi(checks.ndvi_maps(views), result["ndvi"], field)
    if result["sharpness"]:
        drawn["power"] = figures.power(views)
    return drawn


def _land_cover_figures(
    views: Views, field: FieldMap, result: dict[str, Any], land_cover: LandCover
) -> dict[str, Figure]:
    drawn = {}
    if result["vegetation"]:
        fused = checks.ndvi_maps(views)["fused"]
        drawn["vegetation"] = vegetation_figure(fused, result["vegetation"], land_cover, field)
    if result["classes"]:
        drawn["classes"] = class_figure(class_spectra(views, land_cover))
    return drawn
