"""The report on several products of one place: all of them, and pairs with the first one.

Products with the pixels of the first are checked for hallucination (`difference`); products with
other pixels are averaged to the larger ones (`sizes`).
"""

import logging
import os
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from satfuse.arrays import FloatArray
from satfuse.errors import ConfigError, GridError
from satfuse.infer.reopen import load_run
from satfuse.validate.checks import SHARPNESS_PAIR
from satfuse.validate.comparison import figures, page
from satfuse.validate.comparison.difference import difference, difference_scores
from satfuse.validate.comparison.sizes import read_sizes, size_bands, size_scores, size_spectra
from satfuse.validate.drawing import FieldMap, make_field_map, save_figure
from satfuse.validate.land_cover.classes import load_legend, read_land_cover
from satfuse.validate.report import finite, measure, title_of, write_report
from satfuse.validate.spectra import mean_spectra
from satfuse.validate.views import Views, make_views

log = logging.getLogger(__name__)

LETTERS = string.ascii_uppercase[: len(figures.PALETTE)]

PairReport = tuple[dict[str, Any], dict[str, Figure]]  # scores, figures by name


@dataclass(frozen=True, kw_only=True)
class Product:
    """One of the compared products, with its views and its images on the map."""

    letter: str
    fused: xr.Dataset
    scene: xr.Dataset
    views: Views
    field: FieldMap


def compare_items(
    items: Sequence[str],
    out: str | os.PathLike[str],
    *,
    land_cover: str | os.PathLike[str] | None = None,
    legend: str = "worldcover",
) -> Path:
    """Compare products of one place and write the report.

    Parameters
    ----------
    items : addresses of the products' STAC items; the others are compared with the first one.
    out : folder for metrics.json, metrics.md, *.png and index.html; made if absent.
    land_cover, legend : of a land-cover map, see `satfuse.validate.product.validate_item`.

    Returns
    -------
    The folder.

    Raises
    ------
    ConfigError
        No product, or more than there are letters.
    GridError
        Products of different places, or pixels that do not nest.
    ProductError, ReadError, BandError
        See `validate_item`.
    """
    if not 2 <= len(items) <= len(LETTERS):
        raise ConfigError(
            f"a report compares 2 to {len(LETTERS)} products, {len(items)} given; "
            "for one: satfuse validate"
        )
    out = Path(out)
    classes = load_legend(legend) if land_cover is not None else None
    records = []
    pairs = []
    fields = {}
    spectra = {}
    figure_files: dict[str, Path] = {}
    first = None
    for letter, item in zip(LETTERS, items, strict=False):
        product = _read(letter, item)
        _check_place(first or product, product)  # before the scores, which take long
        cover = None  # read anew for every product: its pixels may differ
        if land_cover is not None and classes is not None:
            cover = read_land_cover(land_cover, product.scene, classes)
        records.append(finite({**_record(product, item), **measure(product.views, cover)}))
        fields[letter] = product.field
        spectra[letter] = mean_spectra(product.views)
        if first is None:
            first = product
            continue
        scores, pair_figures = _compare_pair(first, product)
        pairs.append(finite(scores))
        figure_files |= _save(pair_figures, out)
    shared = {"gallery": figures.gallery(fields), "spectra": figures.spectra(spectra)}
    figure_files |= _save(shared, out)
    title = f"{len(items)} products of {records[0]['id']}"
    result = {"title": title, "products": records, "pairs": pairs}
    write_report(result, page.READING, page.page_sections(result, figure_files), out)
    return out


def _save(drawn: dict[str, Figure], out: Path) -> dict[str, Path]:
    return {name: save_figure(figure, out / f"{name}.png") for name, figure in drawn.items()}


def _read(letter: str, item: str) -> Product:
    fused, scene = load_run(item)
    views = make_views(fused, scene)
    field = make_field_map(views, scene)
    return Product(letter=letter, fused=fused, scene=scene, views=views, field=field)


def _record(product: Product, item: str) -> dict[str, Any]:
    """Identity of a product and of the model that made it."""
    provenance = product.fused.attrs["satfuse"]
    return {
        "letter": product.letter,
        "id": title_of(product.fused),
        "item": str(item),
        "model": provenance["model"],
        "model_sha256": provenance["model_sha256"],
        "run": provenance["run"],
        "pixel_m": product.field.pixel_m,
    }


def _check_place(first: Product, other: Product) -> None:
    """Raise GridError unless both products have the same map extent (to 1 m)."""
    a = first.field
    b = other.field
    if a.crs != b.crs or not np.allclose(a.extent_km, b.extent_km, atol=1e-3):
        raise GridError(
            f"the products are of different places, {_place(a)} and {_place(b)}; "
            "make them over one field"
        )


def _place(field: FieldMap) -> str:
    return f"{[round(float(v), 2) for v in field.extent_km]} km in {field.crs}"


def _compare_pair(first: Product, other: Product) -> PairReport:
    """Scores and figures of two products."""
    same_size = first.field.pixel_m == other.field.pixel_m
    scores, drawn = (_compare_pixels if same_size else _compare_sizes)(first, other)
    return {"first": first.letter, "other": other.letter, **scores}, drawn


def _compare_pixels(first: Product, other: Product) -> PairReport:
    """Check two products of one pixel size for hallucination."""
    letters = first.letter + other.letter
    deviation = difference(first.views, other.views)
    scores = difference_scores(first.views, other.views, deviation, first.field)
    regions = scores["regions"]
    drawn = {f"difference_{letters}": figures.differences(deviation, regions, first.field, letters)}
    bands = _window_bands(first, other)
    if bands:
        drawn[f"power_{letters}"] = figures.power(bands, first.views.ratio, letters)
    return {"kind": "one pixel size", **scores}, drawn


def _compare_sizes(first: Product, other: Product) -> PairReport:
    """Average the product with smaller pixels to those of the other."""
    letters = first.letter + other.letter
    # by pixel size, not by letter: the comparison is always on the larger pixels
    large, small = sorted((first, other), key=lambda p: -p.field.pixel_m)
    sizes = read_sizes((large.fused, large.scene), (small.fused, small.scene))
    scores = size_scores(sizes)
    titles = {
        size: f"{p.letter}, {p.field.pixel_m:g} m"
        for size, p in (("large", large), ("small", small))
    }
    drawn = {f"sizes_{letters}": figures.sizes(size_spectra(sizes), scores, titles)}
    bands = size_bands(sizes)
    if bands:
        drawn[f"power_{letters}"] = figures.size_power(bands, sizes.ratio, titles)
    kind = {"kind": "two pixel sizes", "large": large.letter, "small": small.letter}
    return {**kind, **scores}, drawn


def _window_bands(first: Product, other: Product) -> dict[str, FloatArray]:
    """Bands (y, x) of the guide and of both products at 665 nm in the window of adjacent pixels.

    "guide" and the letters; {} where one lacks the band.
    """
    band, guide_band = SHARPNESS_PAIR
    products = (first, other)
    guide_bands = first.views.guide_bands
    if guide_band not in guide_bands or any(band not in p.views.bands for p in products):
        return {}
    bands = {"guide": first.views.guide.window[guide_bands.index(guide_band)]}
    for p in products:
        bands[p.letter] = p.views.images["fused"].window[p.views.bands.index(band)]
    return bands
