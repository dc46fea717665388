"""A land-cover map as a yardstick: the spectra of its classes, and how well NDVI finds its vegetation."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401  registers the .odc accessor
import rasterio
import xarray as xr
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import Resampling, calculate_default_transform, reproject

from satfuse import metrics
from satfuse.errors import ConfigError, GridError, ReadError
from satfuse.validate.checks import guide_weights
from satfuse.validate.spectra import Spectrum, spectrum
from satfuse.validate.views import Views, apply_linear

PURE = 0.5  # share of a coarse pixel that one class must cover to speak for it
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(2, 17))  # of NDVI
BLOCK_COARSE_PX = 2  # edge of the blocks of the bootstrap: neighbours are not independent
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Legend:
    """Names of the codes of a map, and which codes are vegetation. Code 0 is always "no class"."""

    classes: dict[int, str]
    vegetation: tuple[int, ...]


LEGENDS = {
    "worldcover": Legend(  # ESA WorldCover 2020 and 2021
        classes={
            10: "tree cover", 20: "shrubland", 30: "grassland", 40: "cropland", 50: "built-up", 60: "bare, sparse",
            70: "snow and ice", 80: "water", 90: "herbaceous wetland", 95: "mangroves", 100: "moss and lichen",
        },
        vegetation=(10, 20, 30, 40, 90, 95, 100),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LandCover:
    """Codes (y, x) of a land-cover map on a product's fine grid, 0 = no class, and their legend."""

    codes: np.ndarray
    legend: Legend


def load_legend(name_or_path: str) -> Legend:
    """A legend by name (`LEGENDS`), or of a TOML file: `vegetation = [3, 4]`, and a table `[classes]` of `3 = "grass"`.

    Raises
    ------
    ConfigError
        No such legend or file; a file that does not say both things; vegetation that is no class.
    """
    if name_or_path in LEGENDS:
        return LEGENDS[name_or_path]
    try:
        record = tomllib.loads(Path(name_or_path).read_text())
        classes = {int(code): str(name) for code, name in record["classes"].items()}
        legend = Legend(
            classes=classes, vegetation=tuple(int(code) for code in record["vegetation"])
        )
    except OSError as error:
        known = ", ".join(LEGENDS)
        raise ConfigError(
            f"no legend {name_or_path}: {error.strerror}; give {known}, or a TOML file"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f'legend {name_or_path} is malformed ({error!r}); it needs vegetation = [3, 4] and [classes] 3 = "grass"'
        ) from error
    if 0 in classes or not legend.vegetation or not set(legend.vegetation) <= set(classes):
        raise ConfigError(
            f"legend {name_or_path}: vegetation {list(legend.vegetation)} must be some of the classes "
            f"{sorted(classes)}, and code 0 is kept for no class"
        )
    return legend


def read_land_cover(path: str | Path, scene: xr.Dataset, legend: Legend) -> LandCover:
    """Read a map of class codes onto the fine grid of a scene; a pixel takes the code that covers most of it, or the
    nearest one of a map with larger pixels.

    Parameters
    ----------
    path : raster of one band that GDAL can read, in any projection; its nodata value and 0 mean "no class".
    scene : Dataset with `y`, `x` and a CRS.

    Raises
    ------
    ReadError
        The file cannot be read.
    GridError
        It does not touch the scene.
    ConfigError
        It holds codes that the legend lacks.
    """
    box = scene.odc.geobox
    codes = np.full(box.shape, -1, np.int32)
    try:
        with rasterio.open(path) as source:
            if source.crs is None:
                raise ReadError(f"land-cover map {path} has no coordinate reference system")
            there, _, _ = calculate_default_transform(
                source.crs, box.crs, *source.shape[::-1], *source.bounds
            )
            finer = there.a < abs(box.resolution.x)
            reproject(
                rasterio.band(source, 1), codes, dst_transform=box.affine, dst_crs=box.crs, dst_nodata=-1,
                resampling=Resampling.mode if finer else Resampling.nearest,
            )  # fmt: skip
    except (RasterioError, CRSError) as error:
        raise ReadError(f"land-cover map {path} cannot be read: {error}") from error
    codes[codes < 0] = 0
    if not codes.any():
        raise GridError(
            f"land-cover map {path} has no class inside the product's field, {box.boundingbox} in {box.crs}"
        )
    unknown = sorted(set(np.unique(codes).tolist()) - {0} - set(legend.classes))
    if unknown:
        raise ConfigError(
            f"{path} holds codes {unknown} that the legend lacks; it has {sorted(legend.classes)}"
        )
    return LandCover(codes=codes, legend=legend)


def class_agreement(views: Views, land_cover: LandCover) -> dict:
    """Spectral angle and Jensen-Shannon divergence of every class, on both sides.

    Coarse side: images degraded against the coarse input, over coarse pixels of which one class covers at least half.
    Guide side: images mixed to the guide's bands (see `checks.guide_consistency`) against the guide, sampled pixels.

    Returns
    -------
    {class name: {"pixels": sampled fine pixels, "coarse_pixels", "coarse" | "guide": {image: {"sam_deg" (mean over
    pixels), "jensen_shannon" (of mean spectra, natural log), "rmse"}}}}; classes without a pixel are left out.
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
    """Spectra of every class: of "guide" and "fused" (sampled pixels), and of "coarse" where a class covers at least
    half of some coarse pixels."""
    result = {}
    for name, fine, coarse in _class_masks(views, land_cover):
        result[name] = {
            "guide": spectrum(views.guide_bands, views.guide.sample[:, fine]),
            "fused": spectrum(views.bands, views.images["fused"].sample[:, fine]),
        }
        if coarse.any():
            result[name]["coarse"] = spectrum(views.bands, views.coarse[:, coarse])
    return result


def _class_masks(views, land_cover):
    """Name, sampled pixels (y, x) and coarse pixels (h, w) of every class that has sampled pixels."""
    sampled = land_cover.codes[np.ix_(views.rows, views.columns)]
    both = _sampled_in_both(views)
    for code, name in land_cover.legend.classes.items():
        fine = both & (sampled == code)
        if fine.any():
            yield (
                name,
                fine,
                views.compare & (_share(land_cover.codes == code, views.ratio) >= PURE),
            )


def _sampled_in_both(views):
    """(y, x) bool of the sample: guide and product have all bands."""
    return np.isfinite(views.images["fused"].sample).all(0) & np.isfinite(views.guide.sample).all(0)


def vegetation_agreement(views: Views, maps: dict[str, np.ndarray], land_cover: LandCover) -> dict:
    """Jaccard index of "NDVI above a threshold" against the map's vegetation, over classified pixels.

    A pixel without NDVI (black in both bands) counts as not vegetated.

    Parameters
    ----------
    maps : NDVI (y, x) of the sampled pixels by image, of `checks.ndvi_maps`; "guide" is one of them.

    Returns
    -------
    "pixels", "vegetated" (share of them; also the score of calling everything vegetation), "blocks", "threshold" (the
    guide's best, used for all), "images": {image: {"jaccard", "interval" (95 %, blocks resampled), "macro" (mean with
    the Jaccard index of the rest), "minus_guide", "minus_guide_interval", "curve": {threshold: Jaccard index}}}. {}
    where no pixel has a class.
    """
    sampled = land_cover.codes[np.ix_(views.rows, views.columns)]
    valid = (sampled > 0) & _sampled_in_both(views)
    if not valid.any():
        return {}
    block = BLOCK_COARSE_PX * views.ratio
    blocks = (views.rows // block)[:, None] * (views.columns[-1] // block + 1) + (
        views.columns // block
    )[None]
    _, blocks = np.unique(blocks[valid], return_inverse=True)
    vegetated = np.isin(sampled[valid], land_cover.legend.vegetation)
    counts = np.array([_counts(m[valid], vegetated, blocks) for m in maps.values()])
    curves, macro = _jaccard(counts.sum(-1))
    names = list(maps)
    guide = names.index("guide")
    best = int(np.nanargmax(curves[guide])) if np.isfinite(curves[guide]).any() else 0
    size = counts.shape[-1]
    draws = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), RESAMPLES)
    drawn, _ = _jaccard(np.einsum("ikb,rb->irk", counts[:, best], draws))
    images = {
        name: {
            "jaccard": curves[i, best],
            "interval": _interval(drawn[i]),
            "macro": macro[i, best],
            "minus_guide": curves[i, best] - curves[guide, best],
            "minus_guide_interval": _interval(drawn[i] - drawn[guide]),
            "curve": dict(zip(map(str, THRESHOLDS), curves[i].tolist(), strict=True)),
        }
        for i, name in enumerate(names)
    }
    return {
        "pixels": int(valid.sum()),
        "vegetated": float(vegetated.mean()),
        "blocks": size,
        "threshold": THRESHOLDS[best],
        "images": images,
    }


def _counts(ndvi, vegetated, blocks):
    """(threshold, 4, block) pixels: vegetation in NDVI and map, in NDVI or map; the same two of the rest."""
    rows = []
    for threshold in THRESHOLDS:
        green = ndvi > threshold
        sets = (green & vegetated, green | vegetated, ~green & ~vegetated, ~green | ~vegetated)
        rows.append([np.bincount(blocks, s, minlength=blocks.max() + 1) for s in sets])
    return np.array(rows)


def _jaccard(counts):
    """Index of vegetation, and mean with that of the rest, of (..., 4) counts; NaN where there is nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        index, rest = counts[..., 0] / counts[..., 1], counts[..., 2] / counts[..., 3]
    return index, (index + rest) / 2


def _interval(values):
    """Bounds of the middle 95 % of the finite values; NaN without any."""
    values = values[np.isfinite(values)]
    return np.percentile(values, (2.5, 97.5)).tolist() if values.size else [np.nan, np.nan]


def _share(mask, ratio):
    height, width = (n // ratio for n in mask.shape)
    return mask.reshape(height, ratio, width, ratio).mean((1, 3))


def _agreement(image, reference, valid):
    """Scores over the valid pixels, NaN without any."""
    a, b = (np.asarray(x, float)[:, valid] for x in (image, reference))
    if not valid.any():
        return {"sam_deg": np.nan, "jensen_shannon": np.nan, "rmse": np.nan}
    return {
        "sam_deg": metrics.sam_deg(a[:, None], b[:, None]),
        "jensen_shannon": metrics.jensen_shannon(a.mean(1), b.mean(1)),
        "rmse": metrics.rmse(a[:, None], b[:, None]),
    }
