"""The report on several products of one place: each beside the others, and pairs with the first one.

Products with the pixels of the first are checked for hallucination (`difference`); products with other pixels are
averaged to the larger ones (`sizes`).
"""

import logging
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from satfuse.errors import ConfigError, GridError
from satfuse.infer.reopen import load_run
from satfuse.validate.checks import SHARPNESS_PAIR
from satfuse.validate.comparison import figures, page
from satfuse.validate.comparison.difference import difference, difference_scores
from satfuse.validate.comparison.sizes import read_sizes, size_bands, size_scores, size_spectra
from satfuse.validate.land_cover.classes import load_legend, read_land_cover
from satfuse.validate.look import Look, look_of, save
from satfuse.validate.report import finite, measure, title_of, write
from satfuse.validate.spectra import mean_spectra
from satfuse.validate.views import Views, make_views

log = logging.getLogger(__name__)

LETTERS = string.ascii_uppercase[: len(figures.PALETTE)]


@dataclass(frozen=True, kw_only=True)
class Product:
    """One of the compared products; views and look are those of `satfuse.validate.views` and `look`."""

    letter: str
    fused: xr.Dataset
    scene: xr.Dataset
    views: Views
    look: Look


def compare_items(items: list[str], out, *, land_cover=None, legend: str = "worldcover") -> Path:
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
            f"a report compares 2 to {len(LETTERS)} products, {len(items)} given; for one: satfuse validate"
        )
    wanted = load_legend(legend) if land_cover is not None else None
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    records, pairs, looks, spectra, first, drawn = [], [], {}, {}, None, {}
    for letter, item in zip(LETTERS, items, strict=False):
        product = _read(letter, item)
        if first is not None:
            _check_place(first, product)
        cover = read_land_cover(land_cover, product.scene, wanted) if wanted else None
        records.append(finite({**_record(product, item), **measure(product.views, cover)}))
        looks[letter], spectra[letter] = product.look, mean_spectra(product.views)
        if first is not None:
            scores, pictures = _pair(first, product)
            pairs.append(finite(scores))
            drawn |= {name: save(figure, out / f"{name}.png") for name, figure in pictures.items()}
        first = first or product
    shared = {"gallery": figures.gallery(looks), "spectra": figures.spectra(spectra)}
    drawn = {name: save(figure, out / f"{name}.png") for name, figure in shared.items()} | drawn
    result = {
        "title": f"{len(items)} products of {records[0]['id']}",
        "products": records,
        "pairs": pairs,
    }
    write(result, page.READING, page.blocks(result, drawn), out)
    return out


def _read(letter, item):
    fused, scene = load_run(item)
    views = make_views(fused, scene)
    return Product(letter=letter, fused=fused, scene=scene, views=views, look=look_of(views, scene))


def _record(product, item):
    made = product.fused.attrs["satfuse"]
    return {
        "letter": product.letter,
        "id": title_of(product.fused),
        "item": str(item),
        "model": made["model"],
        "model_sha256": made["model_sha256"],
        "run": made["run"],
        "pixel_m": product.look.pixel_m,
    }


def _check_place(first, other):
    a, b = first.look, other.look
    if a.crs != b.crs or not np.allclose(a.extent_km, b.extent_km, atol=1e-3):
        places = (
            f"{[round(float(v), 2) for v in look.extent_km]} km in {look.crs}" for look in (a, b)
        )
        raise GridError(
            f"the products lie in different places, {' and '.join(places)}; make them over one field"
        )


def _pair(first, other):
    """Scores and pictures of two products."""
    letters = first.letter + other.letter
    if first.look.pixel_m == other.look.pixel_m:
        found = difference(first.views, other.views)
        scores = difference_scores(first.views, other.views, found, first.look)
        pictures = {
            f"difference_{letters}": figures.differences(
                found, scores["regions"], first.look, letters
            )
        }
        curves = _window_bands(first, other)
        if curves:
            pictures[f"power_{letters}"] = figures.power(curves, first.views.ratio, letters)
        return {
            "first": first.letter,
            "other": other.letter,
            "kind": "one pixel size",
            **scores,
        }, pictures
    large, small = sorted((first, other), key=lambda p: -p.look.pixel_m)
    sizes = read_sizes((large.fused, large.scene), (small.fused, small.scene))
    told = {"large": large.letter, "small": small.letter}
    titles = {
        key: f"{p.letter}, {p.look.pixel_m:g} m" for key, p in (("large", large), ("small", small))
    }
    scores = size_scores(sizes)
    pictures = {f"sizes_{letters}": figures.sizes(size_spectra(sizes), scores, titles)}
    bands = size_bands(sizes)
    if bands:
        pictures[f"power_{letters}"] = figures.size_power(bands, sizes.ratio, titles)
    return {
        "first": first.letter,
        "other": other.letter,
        "kind": "two pixel sizes",
        **told,
        **scores,
    }, pictures


def _window_bands(first, other):
    """The guide's and both products' band at 665 nm in the window of adjacent pixels; {} where one lacks it."""
    band, guide_band = SHARPNESS_PAIR
    if guide_band not in first.views.guide_bands or any(
        band not in p.views.bands for p in (first, other)
    ):
        return {}
    images = {
        p.letter: p.views.images["fused"].window[p.views.bands.index(band)] for p in (first, other)
    }
    return {"guide": first.views.guide.window[first.views.guide_bands.index(guide_band)], **images}
