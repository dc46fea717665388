"""The same weights at two pixel sizes: a fine product averaged to larger pixels against the product made there."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from satfuse import metrics
from satfuse.errors import BandError, GridError
from satfuse.validate.checks import GUIDE_RED, SHARPNESS_PAIR, detail
from satfuse.validate.spectra import Spectrum, spectrum
from satfuse.validate.views import WINDOW_PX, single_time


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The middle of one field at two pixel sizes, (band, y, x), NaN where invalid.

    `large` and `large_guide` have the larger pixels, `small` and `small_guide` the smaller ones; `averaged` and
    `averaged_guide` are the small ones averaged over the large pixels, `factor` small pixels per large one.
    """

    bands: tuple[str, ...]
    guide_bands: tuple[str, ...]
    factor: int
    ratio: int
    large: np.ndarray
    small: np.ndarray
    averaged: np.ndarray
    large_guide: np.ndarray
    small_guide: np.ndarray
    averaged_guide: np.ndarray


def read_sizes(large: tuple[xr.Dataset, xr.Dataset], small: tuple[xr.Dataset, xr.Dataset]) -> Sizes:
    """Read the middle of two products, each a pair (fused, scene) as from `validate.product.open_run`.

    Raises
    ------
    GridError
        Not one field, or pixels that do not nest.
    BandError
        No common band.
    """
    scenes = large[1], small[1]
    ratios = [s.sizes["y"] // s.sizes["y_coarse"] for s in scenes]
    coarse = [(s.sizes["y_coarse"], s.sizes["x_coarse"]) for s in scenes]
    if coarse[0] != coarse[1] or ratios[1] % ratios[0]:
        raise GridError(
            f"the products have {coarse[0]} and {coarse[1]} coarse pixels and ratios {ratios[0]} and {ratios[1]}; "
            "make both over one field, at pixel sizes of which one divides the other"
        )
    factor = ratios[1] // ratios[0]
    names = [str(b) for b in large[0]["band"].values if b in small[0]["band"].values]
    guide_names = [
        str(b) for b in scenes[0]["guide_band"].values if b in scenes[1]["guide_band"].values
    ]
    if not names or not guide_names:
        raise BandError("the products share no band, or their guides do not")
    parts = [
        _middle(*product, names, guide_names, ratio, ratios[1])
        for product, ratio in zip((large, small), ratios, strict=True)
    ]
    return Sizes(
        bands=tuple(names),
        guide_bands=tuple(guide_names),
        factor=factor,
        ratio=ratios[0],
        large=parts[0][0],
        small=parts[1][0],
        averaged=_average(parts[1][0], factor),
        large_guide=parts[0][1],
        small_guide=parts[1][1],
        averaged_guide=_average(parts[1][1], factor),
    )


def size_scores(sizes: Sizes) -> dict:
    """How far the averaged fine product lies from the product at the larger pixels; the guides likewise, as a measure.

    Returns
    -------
    "factor"; "rmse", "bias" (averaged minus large), "sam_deg", "jensen_shannon" (of the mean spectra); "guide_rmse":
    the same of the guides, which no model has touched; "bands": {band: {"rmse", "bias", "correlation"}};
    "panchromatic_ssim": {"large", "small"}, each against its own guide; "detail": see `checks.sharpness`, of the
    averaged against the large product (at 665 nm, {} without that band).
    """
    x, z = sizes.averaged, sizes.large
    columns = zip(
        metrics.rmse(x, z, per_band=True),
        metrics.bias(x, z),
        map(metrics.pearson, x, z),
        strict=True,
    )
    spectra = size_spectra(sizes)
    return {
        "factor": sizes.factor,
        "rmse": metrics.rmse(x, z),
        "bias": float(metrics.bias(x, z).mean()),
        "sam_deg": metrics.sam_deg(x, z),
        "jensen_shannon": metrics.jensen_shannon(spectra["small"].mean, spectra["large"].mean),
        "guide_rmse": metrics.rmse(sizes.averaged_guide, sizes.large_guide),
        "bands": {
            name: dict(zip(("rmse", "bias", "correlation"), map(float, c), strict=True))
            for name, c in zip(sizes.bands, columns, strict=True)
        },
        "panchromatic_ssim": {
            "large": metrics.panchromatic_ssim(sizes.large, sizes.large_guide),
            "small": metrics.panchromatic_ssim(sizes.small, sizes.small_guide),
        },
        "detail": detail(
            *(image[sizes.bands.index(SHARPNESS_PAIR[0])] for image in (x, z)), sizes.ratio
        )
        if SHARPNESS_PAIR[0] in sizes.bands
        else {},
    }


def size_spectra(sizes: Sizes) -> dict[str, Spectrum]:
    """Mean spectra with standard deviation of the "large" and of the "small" product."""
    return {name: spectrum(sizes.bands, getattr(sizes, name)) for name in ("large", "small")}


def size_bands(sizes: Sizes) -> dict[str, np.ndarray]:
    """Bands at 665 nm on the larger pixels for Fourier spectra: "guide", "large", "averaged"; {} without them."""
    band, guide_band = SHARPNESS_PAIR
    if band not in sizes.bands or guide_band not in sizes.guide_bands:
        return {}
    index = sizes.bands.index(band)
    guide = sizes.large_guide[sizes.guide_bands.index(GUIDE_RED)]
    return {"guide": guide, "large": sizes.large[index], "averaged": sizes.averaged[index]}


def _middle(fused, scene, names, guide_names, ratio, largest_ratio):
    """Product and guide over the same whole coarse pixels in the middle, at most WINDOW_PX of the smaller pixels."""
    window = {}
    for dim in ("y", "x"):
        count = min(WINDOW_PX // largest_ratio, scene.sizes[f"{dim}_coarse"])
        start = (scene.sizes[f"{dim}_coarse"] - count) // 2
        window[dim] = slice(start * ratio, (start + count) * ratio)
    product = (
        single_time(fused)["reflectance"].sel(band=names).isel(window).transpose("band", "y", "x")
    )
    guide = scene["guide"].where(scene["guide_valid"]).sel(guide_band=guide_names).isel(window)
    return product.values, guide.transpose("guide_band", "y", "x").values


def _average(image, factor):
    """Mean over blocks of pixels; NaN where one of them is."""
    bands, height, width = image.shape
    return image.reshape(bands, height // factor, factor, width // factor, factor).mean((2, 4))
