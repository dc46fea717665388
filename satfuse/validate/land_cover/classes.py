"""A land-cover map as reference: spectra of its classes, and how well NDVI finds its vegetation."""

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401  registers the .odc accessor
import rasterio
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import Resampling, calculate_default_transform, reproject

from satfuse import metrics
from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.errors import ConfigError, GridError, ReadError
from satfuse.validate.checks import guide_weights, valid_sample
from satfuse.validate.spectra import Spectrum, spectrum
from satfuse.validate.views import Views, apply_linear

PURE = 0.5  # least share of a coarse pixel that one class covers where its spectrum counts
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(2, 17))  # of NDVI
BLOCK_COARSE_PX = 2  # edge of the blocks of the bootstrap: neighbours are not independent
RESAMPLES = 1000  # of the bootstrap
INTERVAL = (2.5, 97.5)  # percentiles


@dataclass(frozen=True, kw_only=True)
class Legend:
    """Names of the codes of a map, and which codes are vegetation. Code 0 is always "no class"."""

    classes: dict[int, str]
    vegetation: tuple[int, ...]


LEGENDS = {
    "worldcover": Legend(  # ESA WorldCover 2020 and 2021
        classes={
            10: "tree cover",
            20: "shrubland",
            30: "grassland",
            40: "cropland",
            50: "built-up",
            60: "bare, sparse",
            70: "snow and ice",
            80: "water",
            90: "herbaceous wetland",
            95: "mangroves",
            100: "moss and lichen",
        },
        vegetation=(10, 20, 30, 40, 90, 95, 100),
    ),
}


@dataclass(frozen=True, kw_only=True)
class LandCover:
    """Codes (y, x) of a land-cover map on a product's fine grid, 0 = no class, and their legend."""

    codes: IntArray
    legend: Legend


def load_legend(name_or_path: str) -> Legend:
    """Load a legend by name (`LEGENDS`) or from a TOML file.

    The file has `vegetation = [3, 4]`, and a table `[classes]` of `3 = "grass"`.

    Raises
    ------
    ConfigError
        No such legend or file; a file without one of the two; vegetation that is no class.
    """
    if name_or_path in LEGENDS:
        return LEGENDS[name_or_path]
    try:
        record = tomllib.loads(Path(name_or_path).read_text())
        classes = {int(code): str(name) for code, name in record["classes"].items()}
        vegetation = tuple(int(code) for code in record["vegetation"])
    except OSError as error:
        names = ", ".join(LEGENDS)
        raise ConfigError(
            f"no legend {name_or_path}: {error.strerror}; give {names}, or a TOML file"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"legend {name_or_path} is malformed ({error!r}); it needs vegetation = [3, 4] and "
            '[classes] 3 = "grass"'
        ) from error
    if 0 in classes or not vegetation or not set(vegetation) <= set(classes):
        raise ConfigError(
            f"legend {name_or_path}: vegetation {list(vegetation)} must be some of the classes "
            f"{sorted(classes)}, and code 0 is reserved for no class"
        )
    return Legend(classes=classes, vegetation=vegetation)


def read_land_cover(path: str | os.PathLike[str], scene: xr.Dataset, legend: Legend) -> LandCover:
    """Read a map of class codes onto the fine grid of a scene.

    A pixel takes the code that covers most of it, or the nearest one of a map with larger pixels.

    Parameters
    ----------
    path : raster of one band that GDAL can read, in any projection; its nodata value and 0 mean "no
        class".
    scene : Dataset with `y`, `x` and a CRS.
    legend : of the map's codes.

    Raises
    ------
    ReadError
        The file cannot be read.
    GridError
        It does not touch the scene.
    ConfigError
        It has codes that the legend lacks.
    """
    box = scene.odc.geobox
    codes = _warp_codes(path, box)
    if not codes.any():
        raise GridError(
            f"land-cover map {path} has no class inside the product's field, {box.boundingbox} in "
            f"{box.crs}"
        )
    unknown = sorted(set(np.unique(codes).tolist()) - {0} - set(legend.classes))
    if unknown:
        raise ConfigError(
            f"{path} has codes {unknown} that the legend lacks; it has {sorted(legend.classes)}"
        )
    return LandCover(codes=codes, legend=legend)


def _warp_codes(path: str | os.PathLike[str], box: GeoBox) -> IntArray:
    """Codes (y, x) of a raster on a GeoBox, 0 where it has none."""
    codes = np.full(box.shape, -1, np.int32)  # signed, so that -1 can stand for no data
    try:
        with rasterio.open(path) as source:
            if source.crs is None:
                raise ReadError(f"land-cover map {path} has no coordinate reference system")
            height, width = source.shape
            transform, _, _ = calculate_default_transform(
                source.crs, box.crs, width, height, *source.bounds
            )
            finer = transform.a < abs(box.resolution.x)  # than the product, in its projection
            reproject(
                rasterio.band(source, 1),
                codes,
                dst_transform=box.affine,
                dst_crs=box.crs,
                dst_nodata=-1,
                resampling=Resampling.mode if finer else Resampling.nearest,
            )
    except (RasterioError, CRSError) as error:
        raise ReadError(f"land-cover map {path} cannot be read: {error}") from error
    codes[codes < 0] = 0
    return codes


def class_agreement(views: Views, land_cover: LandCover) -> dict[str, Any]:
    """Spectral angle and Jensen-Shannon divergence of every class, on both sides.

    Coarse side: images degraded against the coarse input, over coarse pixels of which one class
    covers at least half. Guide side: images mixed to the guide's bands (see
    `checks.guide_consistency`) against the guide, over sampled pixels.

    Returns
    -------
    {class name: {"pixels": sampled fine pixels, "coarse_pixels", "coarse" | "guide": {image:
    {"sam_deg" (mean over pixels), "jensen_shannon" (of mean spectra, natural log), "rmse"}}}};
    classes without a pixel are left out.
    """
    weights = guide_weights(views)
    mixed = {name: apply_linear(weights, view.sample) for name, view in views.images.items()}
    return {
        name: {
            "pixels": int(fine.sum()),
            "coarse_pixels": int(coarse.sum()),
            "coarse": {
                k: _agreement(v.degraded, views.coarse, coarse) for k, v in views.images.items()
            },
            "guide": {k: _agreement(image, views.guide.sample, fine) for k, image in mixed.items()},
        }
        for name, fine, coarse in _class_masks(views, land_cover)
    }


def class_spectra(views: Views, land_cover: LandCover) -> dict[str, dict[str, Spectrum]]:
    """Spectra of every class by image.

    "guide" and "fused" over sampled pixels; "coarse" where the class covers at least half of some
    coarse pixels.
    """
    result = {}
    for name, fine, coarse in _class_masks(views, land_cover):
        result[name] = {
            "guide": spectrum(views.guide_bands, views.guide.sample[:, fine]),
            "fused": spectrum(views.bands, views.images["fused"].sample[:, fine]),
        }
        if coarse.any():
            result[name]["coarse"] = spectrum(views.bands, views.coarse[:, coarse])
    return result


def sampled_codes(views: Views, land_cover: LandCover) -> IntArray:
    """Codes (y, x) of the sampled pixels."""
    return land_cover.codes[np.ix_(views.rows, views.columns)]


def _class_masks(views: Views, land_cover: LandCover) -> Iterator[tuple[str, BoolArray, BoolArray]]:
    """Yield name, sampled pixels (y, x) and coarse pixels (h, w) of every class in the sample."""
    codes = sampled_codes(views, land_cover)
    valid = valid_sample(views)
    for code, name in land_cover.legend.classes.items():
        fine = valid & (codes == code)
        if fine.any():
            share = _coarse_share(land_cover.codes == code, views.ratio)
            yield name, fine, views.compare & (share >= PURE)


def _coarse_share(mask: BoolArray, ratio: int) -> FloatArray:
    """Share (h, w) of each coarse pixel that a mask (y, x) of fine pixels covers."""
    height, width = (n // ratio for n in mask.shape)
    return mask.reshape(height, ratio, width, ratio).mean((1, 3))


def _agreement(image: FloatArray, reference: FloatArray, valid: BoolArray) -> dict[str, float]:
    """Scores over the valid pixels, NaN without any."""
    if not valid.any():
        return {"sam_deg": np.nan, "jensen_shannon": np.nan, "rmse": np.nan}
    # metrics take (band, y, x): the valid pixels become one row
    a = np.asarray(image, float)[:, valid][:, None]
    b = np.asarray(reference, float)[:, valid][:, None]
    return {
        "sam_deg": metrics.sam_deg(a, b),
        "jensen_shannon": metrics.jensen_shannon(a.mean((1, 2)), b.mean((1, 2))),
        "rmse": metrics.rmse(a, b),
    }


def vegetation_agreement(
    views: Views, maps: dict[str, FloatArray], land_cover: LandCover
) -> dict[str, Any]:
    """Jaccard index of "NDVI above a threshold" against the map's vegetation.

    Over classified pixels. A pixel without NDVI (black in both bands) counts as not vegetated.

    Parameters
    ----------
    maps : NDVI (y, x) of the sampled pixels by image, of `checks.ndvi_maps`; "guide" is one of
        them.

    Returns
    -------
    "pixels", "vegetated" (share of them; also the score of calling everything vegetation),
    "blocks", "threshold" (the guide's best, used for all), "images": {image: {"jaccard", "interval"
    (95 %, blocks resampled), "macro" (mean with the Jaccard index of no vegetation), "minus_guide",
    "minus_guide_interval", "curve": {threshold: Jaccard index}}}. {} where no pixel has a class.
    """
    codes = sampled_codes(views, land_cover)
    valid = (codes > 0) & valid_sample(views)
    if not valid.any():
        return {}
    blocks = _block_numbers(views, valid)
    vegetated = np.isin(codes[valid], land_cover.legend.vegetation)
    counts = {name: _counts(image[valid], vegetated, blocks) for name, image in maps.items()}
    guide_curve, _ = _jaccard(counts["guide"].sum(-1))
    # the threshold is chosen for the guide, so no image is favoured by its own
    best = int(np.nanargmax(guide_curve)) if np.isfinite(guide_curve).any() else 0
    return {
        "pixels": int(valid.sum()),
        "vegetated": float(vegetated.mean()),
        "blocks": counts["guide"].shape[-1],
        "threshold": THRESHOLDS[best],
        "images": _image_scores(counts, best),
    }


def _block_numbers(views: Views, valid: BoolArray) -> IntArray:
    """Number from 0, without gaps, of the bootstrap block of each valid sampled pixel (n,)."""
    block_px = BLOCK_COARSE_PX * views.ratio
    rows = views.rows // block_px
    columns = views.columns // block_px
    numbers = rows[:, None] * (columns[-1] + 1) + columns[None]
    return np.unique(numbers[valid], return_inverse=True)[1]


def _image_scores(counts: dict[str, FloatArray], best: int) -> dict[str, dict[str, Any]]:
    """Scores of every image, see `vegetation_agreement`, at the threshold of index `best`.

    `counts` are those of `_counts`; all images use the same draws of blocks, so that differences to
    the guide keep what they have in common.
    """
    curves = {name: _jaccard(count.sum(-1)) for name, count in counts.items()}
    drawn = _resample({name: count[best] for name, count in counts.items()})
    guide = curves["guide"][0]
    return {
        name: {
            "jaccard": curve[best],
            "interval": _interval(drawn[name]),
            "macro": macro[best],
            "minus_guide": curve[best] - guide[best],
            "minus_guide_interval": _interval(drawn[name] - drawn["guide"]),
            "curve": dict(zip(map(str, THRESHOLDS), curve.tolist(), strict=True)),
        }
        for name, (curve, macro) in curves.items()
    }


def _resample(counts: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """Jaccard indices (RESAMPLES,) of counts (4, block) over blocks drawn with replacement."""
    size = counts["guide"].shape[-1]
    # how often each block is drawn; a fixed seed, so that a report can be repeated
    draws = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), RESAMPLES)
    return {
        name: _jaccard(np.einsum("kb,rb->rk", count, draws))[0] for name, count in counts.items()
    }


def _counts(ndvi: FloatArray, vegetated: BoolArray, blocks: IntArray) -> FloatArray:
    """Pixels (threshold, 4, block): vegetation in NDVI and map, in NDVI or map; no vegetation so.

    Parameters
    ----------
    ndvi, vegetated, blocks : (n,) NDVI, vegetation of the map and block number of each pixel.
    """
    rows = []
    for threshold in THRESHOLDS:
        green = ndvi > threshold
        sets = (green & vegetated, green | vegetated, ~green & ~vegetated, ~green | ~vegetated)
        rows.append([np.bincount(blocks, s, minlength=blocks.max() + 1) for s in sets])
    return np.array(rows)


def _jaccard(counts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Jaccard index of vegetation, and its mean with that of no vegetation, of (..., 4) counts.

    NaN where both sets are empty.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        vegetation = counts[..., 0] / counts[..., 1]
        bare = counts[..., 2] / counts[..., 3]
    return vegetation, (vegetation + bare) / 2


def _interval(values: FloatArray) -> list[float]:
    """Bounds of the middle 95 % of the finite values; NaN without any."""
    values = values[np.isfinite(values)]
    return np.percentile(values, INTERVAL).tolist() if values.size else [np.nan, np.nan]
