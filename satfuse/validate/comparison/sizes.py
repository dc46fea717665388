"""The same weights at two pixel sizes: a fine product, averaged, against the coarser product."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr

from satfuse import metrics
from satfuse.arrays import FloatArray
from satfuse.errors import BandError, GridError
from satfuse.geometry.resample import block_mean
from satfuse.validate.checks import SHARPNESS_PAIR, Columns, by_band, detail
from satfuse.validate.spectra import Spectrum, spectrum
from satfuse.validate.views import WINDOW_PX, single_time

Run = tuple[xr.Dataset, xr.Dataset]  # product and scene


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The middle of one field at two pixel sizes, (band, y, x), NaN where invalid.

    Parameters
    ----------
    bands, guide_bands : names of the fused and guide bands that both have.
    factor : small pixels per large pixel along one axis.
    ratio : large pixels per coarse pixel along one axis.
    large, large_guide : product and guide with the larger pixels.
    small, small_guide : product and guide with the smaller pixels.
    averaged, averaged_guide : the small ones, averaged over the large pixels.
    """

    bands: tuple[str, ...]
    guide_bands: tuple[str, ...]
    factor: int
    ratio: int
    large: FloatArray
    small: FloatArray
    averaged: FloatArray
    large_guide: FloatArray
    small_guide: FloatArray
    averaged_guide: FloatArray


def read_sizes(large: Run, small: Run) -> Sizes:
    """Read the middle of two products, each a pair (fused, scene) of one run.

    Raises
    ------
    GridError
        Not one field, or pixels that do not nest.
    BandError
        No common band.
    """
    large_fused, large_scene = large
    small_fused, small_scene = small
    ratio, largest_ratio = _nested_ratios(large_scene, small_scene)
    names = _common(large_fused["band"], small_fused["band"])
    guide_names = _common(large_scene["guide_band"], small_scene["guide_band"])
    if not names or not guide_names:
        raise BandError("the products share no band, or their guides do not")
    factor = largest_ratio // ratio
    # both windows cover the same coarse pixels
    large_window = _middle(large_scene, ratio, largest_ratio)
    small_window = _middle(small_scene, largest_ratio, largest_ratio)
    small_image = _read_product(small_fused, names, small_window)
    small_guide = _read_guide(small_scene, guide_names, small_window)
    return Sizes(
        bands=tuple(names),
        guide_bands=tuple(guide_names),
        factor=factor,
        ratio=ratio,
        large=_read_product(large_fused, names, large_window),
        small=small_image,
        averaged=block_mean(small_image, factor),
        large_guide=_read_guide(large_scene, guide_names, large_window),
        small_guide=small_guide,
        averaged_guide=block_mean(small_guide, factor),
    )


def size_scores(sizes: Sizes) -> dict[str, Any]:
    """Difference of the averaged fine product from the product at the larger pixels.

    Returns
    -------
    "factor"; "rmse", "bias" (averaged minus large), "sam_deg", "jensen_shannon" (of the mean
    spectra); "guide_rmse": RMSE of the guides, which no model has touched, as a reference; "bands":
    {band: {"rmse", "bias", "correlation"}}; "panchromatic_ssim": {"large", "small"}, each against
    its guide; "detail": `checks.detail` of the averaged against the large product at 665 nm, {}
    without that band.
    """
    x = sizes.averaged
    z = sizes.large
    bias = metrics.bias(x, z)
    columns: Columns = {
        "rmse": metrics.rmse(x, z, per_band=True),
        "bias": bias,
        "correlation": [metrics.pearson(a, b) for a, b in zip(x, z, strict=True)],
    }
    spectra = size_spectra(sizes)
    return {
        "factor": sizes.factor,
        "rmse": metrics.rmse(x, z),
        "bias": float(bias.mean()),
        "sam_deg": metrics.sam_deg(x, z),
        "jensen_shannon": metrics.jensen_shannon(spectra["small"].mean, spectra["large"].mean),
        "guide_rmse": metrics.rmse(sizes.averaged_guide, sizes.large_guide),
        "bands": by_band(sizes.bands, columns),
        "panchromatic_ssim": {
            "large": metrics.panchromatic_ssim(sizes.large, sizes.large_guide),
            "small": metrics.panchromatic_ssim(sizes.small, sizes.small_guide),
        },
        "detail": _detail(sizes),
    }


def _detail(sizes: Sizes) -> dict[str, float]:
    band, _ = SHARPNESS_PAIR
    if band not in sizes.bands:
        return {}
    index = sizes.bands.index(band)
    return detail(sizes.averaged[index], sizes.large[index], sizes.ratio)


def size_spectra(sizes: Sizes) -> dict[str, Spectrum]:
    """Mean spectra with standard deviation of the "large" and of the "small" product."""
    return {
        "large": spectrum(sizes.bands, sizes.large),
        "small": spectrum(sizes.bands, sizes.small),
    }


def size_bands(sizes: Sizes) -> dict[str, FloatArray]:
    """Bands (y, x) at 665 nm on the larger pixels, "guide", "large", "averaged"; {} without."""
    band, guide_band = SHARPNESS_PAIR
    if band not in sizes.bands or guide_band not in sizes.guide_bands:
        return {}
    index = sizes.bands.index(band)
    guide = sizes.large_guide[sizes.guide_bands.index(guide_band)]
    return {"guide": guide, "large": sizes.large[index], "averaged": sizes.averaged[index]}


def _nested_ratios(large: xr.Dataset, small: xr.Dataset) -> tuple[int, int]:
    """Ratios of the scenes with larger and smaller pixels; GridError unless the pixels nest."""
    coarse = [(scene.sizes["y_coarse"], scene.sizes["x_coarse"]) for scene in (large, small)]
    ratios = [scene.sizes["y"] // scene.sizes["y_coarse"] for scene in (large, small)]
    if coarse[0] != coarse[1] or ratios[1] % ratios[0]:
        raise GridError(
            f"the products have {coarse[0]} and {coarse[1]} coarse pixels and ratios {ratios[0]} "
            f"and {ratios[1]}; make both over one field, at pixel sizes of which one divides the "
            "other"
        )
    return ratios[0], ratios[1]


def _common(names: xr.DataArray, others: xr.DataArray) -> list[str]:
    """Names that both have, in the order of the first."""
    return [str(name) for name in names.values if name in others.values]


def _middle(scene: xr.Dataset, ratio: int, largest_ratio: int) -> dict[str, slice]:
    """Fine pixels of the whole coarse pixels in the middle, at most WINDOW_PX small pixels.

    Two scenes of one field give the same coarse pixels: `largest_ratio` is that of the smaller
    pixels.
    """
    window = {}
    for dim in ("y", "x"):
        size = scene.sizes[f"{dim}_coarse"]
        count = min(WINDOW_PX // largest_ratio, size)
        start = (size - count) // 2
        # from coarse to this scene's fine pixels
        window[dim] = slice(start * ratio, (start + count) * ratio)
    return window


def _read_product(fused: xr.Dataset, names: Sequence[str], window: dict[str, slice]) -> FloatArray:
    image = single_time(fused)["reflectance"].sel(band=list(names)).isel(window)
    return image.transpose("band", "y", "x").values


def _read_guide(scene: xr.Dataset, names: Sequence[str], window: dict[str, slice]) -> FloatArray:
    guide = scene["guide"].where(scene["guide_valid"]).sel(guide_band=list(names)).isel(window)
    return guide.transpose("guide_band", "y", "x").values
