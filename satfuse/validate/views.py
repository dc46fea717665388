"""A product and its inputs at the sizes that validation needs; a whole Sentinel-2 tile passes in strips.

Three views of every image: degraded onto the coarse grid (all pixels), a regular sample of fine pixels, and a window
of adjacent fine pixels. The same views are made of two yardsticks: `bicubic`, the coarse image without any detail,
and `regression`, the guide's bands mixed linearly into the coarse bands without residual.
"""

import logging
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import xarray as xr
from scipy.ndimage import binary_erosion

from satfuse.errors import BandError, GridError, ProductError
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, degrade, psf_radius
from satfuse.validate.upsample import bicubic_matrix, fill_nearest, upsample

log = logging.getLogger(__name__)

SAMPLE_PX = 1000  # longest side of the sample
WINDOW_PX = 1024  # longest side of the window
STRIP_PX = 1800  # most fine rows in memory at once


@dataclass(frozen=True, kw_only=True)
class View:
    """One image (band, y, x), NaN where invalid: on the coarse grid, sampled, and in the window."""

    degraded: np.ndarray
    sample: np.ndarray
    window: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Views:
    """What a product is measured on.

    Parameters
    ----------
    bands, guide_bands : names of the fused and of the guide bands.
    ratio, psf_sigma : the observation model (sigma in coarse pixels, one number or one per band).
    coarse : (band, h, w) the coarse input, NaN where it is not valid.
    compare : (h, w) bool, True = the whole PSF of this coarse pixel lies on valid pixels inside the field.
    rows, columns : fine pixel indices of the sample along y and x.
    window : fine pixels of the window, as slices along y and x.
    guide : the guide's View, all guide bands.
    images : "fused", "bicubic" and "regression" -> View with the fused bands.
    """

    bands: tuple[str, ...]
    guide_bands: tuple[str, ...]
    ratio: int
    psf_sigma: float | list[float]
    coarse: np.ndarray
    compare: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    window: tuple[slice, slice]
    guide: View
    images: dict[str, View]


def make_views(fused: xr.Dataset, scene: xr.Dataset) -> Views:
    """Read a product and its scene once, strip by strip.

    Parameters
    ----------
    fused : Dataset with `reflectance` (band, y, x), with or without a `time` of length 1.
    scene : the Dataset of `satfuse.scene.make_scene` on the same grid.

    Raises
    ------
    ProductError
        Several times, or no valid pixel to compare.
    BandError
        A fused band that the scene's coarse image lacks.
    GridError
        Product and scene lie on different grids.
    """
    reflectance = single_time(fused)["reflectance"]
    check_grids(reflectance, scene)
    names = _measured_bands(reflectance, scene)
    reflectance = reflectance.sel(band=list(names))
    ratio = scene.sizes["y"] // scene.sizes["y_coarse"]
    sigma = _psf_sigma(scene, names)
    coarse_valid = scene["coarse_valid"].values.astype(bool)
    coarse = scene["coarse"].sel(coarse_band=list(names)).values.astype(float)
    coarse = np.where(coarse_valid, coarse, np.nan)
    rows, columns = (_sampled(scene.sizes[d], scene.sizes) for d in ("y", "x"))
    window = tuple(_centre(scene.sizes[d]) for d in ("y", "x"))

    fused_view = _view(reflectance, None, ratio, sigma, rows, columns, window)
    guide = scene["guide"].rename(guide_band="band")
    guide_view = _view(
        guide, scene["guide_valid"].values, ratio, _guide_sigma(sigma), rows, columns, window
    )
    compare = _comparable(coarse, ratio, sigma)
    compare &= np.isfinite(fused_view.degraded).all(0) & np.isfinite(guide_view.degraded).all(0)
    if not compare.any():
        raise ProductError(
            f"nothing to validate: of {compare.size} coarse pixels {int(coarse_valid.sum())} are valid, and none of "
            "them lies a whole PSF away from invalid pixels and from the rim; choose a larger or clearer field"
        )
    log.info(
        "validating %d of %d coarse pixels, sample of %d x %d",
        compare.sum(),
        compare.size,
        len(rows),
        len(columns),
    )
    return Views(
        bands=names,
        guide_bands=tuple(str(b) for b in guide["band"].values),
        ratio=ratio,
        psf_sigma=sigma,
        coarse=coarse,
        compare=compare,
        rows=rows,
        columns=columns,
        window=window,
        guide=guide_view,
        images={
            "fused": fused_view,
            "bicubic": _bicubic_view(coarse, ratio, sigma, rows, columns, window),
            "regression": _regression_view(guide_view, coarse, compare),
        },
    )


def single_time(fused: xr.Dataset) -> xr.Dataset:
    """A product without its time axis.

    Raises
    ------
    ProductError
        It holds more than one time.
    """
    if "time" not in fused.dims:
        return fused
    if fused.sizes["time"] != 1:
        raise ProductError(
            f"the product holds {fused.sizes['time']} times; select one: fused.isel(time=[0])"
        )
    return fused.isel(time=0)


def check_grids(reflectance: xr.DataArray, scene: xr.Dataset) -> None:
    """Raise GridError unless product and scene share their pixels, BandError unless the scene has the bands."""
    for dim in ("y", "x"):
        a, b = reflectance[dim].values, scene[dim].values
        if a.shape != b.shape or not np.allclose(a, b, atol=1e-3):
            raise GridError(
                f"product and scene differ along {dim}: {a.size} pixels from {a[0]:.1f} against {b.size} from "
                f"{b[0]:.1f}; make the scene on the product's GeoBox"
            )
    missing = sorted(set(reflectance["band"].values) - set(scene["coarse_band"].values))
    if missing:
        raise BandError(f"the scene's coarse image lacks the fused bands {', '.join(missing)}")


def fit_linear(inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Weights (q, p + 1) of the affine map from inputs (p, n) to outputs (q, n); the last column is the constant.

    Least squares with a ridge of 1e-4 of the inputs' mean variance: neighbouring bands are nearly collinear.
    """
    mean_in, mean_out = inputs.mean(1, keepdims=True), outputs.mean(1, keepdims=True)
    x, y = inputs - mean_in, outputs - mean_out
    gram = x @ x.T
    ridge = 1e-4 * np.trace(gram) / len(gram) + 1e-12
    slope = np.linalg.solve(gram + ridge * np.eye(len(gram)), x @ y.T).T
    return np.concatenate([slope, mean_out - slope @ mean_in], axis=1)


def apply_linear(weights: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Apply `fit_linear` weights to every pixel of (p, y, x); gives (q, y, x) in the image's dtype."""
    slope, constant = weights[:, :-1].astype(image.dtype), weights[:, -1].astype(image.dtype)
    return np.einsum("qp,pyx->qyx", slope, image) + constant[:, None, None]


def coarsen(read, count, height, ratio, psf_sigma, *, step, rows=(), columns=()):
    """Degrade an image that is read in strips, and pick the sample on the way.

    Parameters
    ----------
    read : function (first row, last row + 1) -> (band, n, x) fine pixels, NaN where invalid; each row is read once.
    count, height : number of bands and of fine rows.
    ratio, psf_sigma : of `satfuse.sensors.degradation.degrade`; sigma is one number or one per band.
    step : fine rows per strip, a multiple of `ratio` that is not smaller than the reach of the PSF.
    rows, columns : fine pixel indices to keep.

    Returns
    -------
    degraded : (band, height / ratio, x / ratio) float64
    sample : (band, len(rows), len(columns)) float32
    """
    rows, columns = np.asarray(rows, int), np.asarray(columns, int)
    sigmas = np.broadcast_to(psf_sigma, count)
    reach = psf_radius(float(sigmas.max())) * ratio
    degraded, sample = [], []
    before, here = None, read(0, min(step, height))
    for start in range(0, height, step):
        stop = min(start + step, height)
        after = read(stop, min(stop + step, height)) if stop < height else None
        above = 0 if before is None else min(reach, before.shape[1])
        parts = [before[:, before.shape[1] - above :]] if above else []
        parts += [here] + ([after[:, :reach]] if after is not None else [])
        strip = np.concatenate(parts, axis=1)
        strip_coarse = np.stack(
            [_degrade_band(band, ratio, float(s)) for band, s in zip(strip, sigmas, strict=True)]
        )
        degraded.append(strip_coarse[:, above // ratio : (above + stop - start) // ratio])
        kept = rows[(rows >= start) & (rows < stop)] - start
        sample.append(here[:, kept][:, :, columns].astype(np.float32))
        before, here = here, after
    return np.concatenate(degraded, axis=1), np.concatenate(sample, axis=1)


def _degrade_band(band, ratio, sigma):
    finite = np.isfinite(band)
    return degrade(band.astype(float), ratio, sigma, valid=None if finite.all() else finite)


def _view(image, valid, ratio, sigma, rows, columns, window):
    """View of a lazy (band, y, x) DataArray, read in groups of the bands that its chunks hold together."""
    image = image.transpose("band", "y", "x")
    groups = np.cumsum((0, *(image.chunks[0] if image.chunks else (image.sizes["band"],))))
    sigmas = np.broadcast_to(sigma, image.sizes["band"])
    reach = psf_radius(float(sigmas.max())) * ratio
    chunk = min(image.chunks[1][0], STRIP_PX) if image.chunks else 10 * ratio
    step = max(-(-chunk // ratio) * ratio, reach)
    parts = []
    for a, b in pairwise(groups):

        def read(first, last, a=a, b=b):
            values = image[a:b, first:last].values
            return values if valid is None else np.where(valid[first:last], values, np.nan)

        parts.append(
            coarsen(
                read,
                b - a,
                image.sizes["y"],
                ratio,
                sigmas[a:b],
                step=step,
                rows=rows,
                columns=columns,
            )
        )
    full = image[:, window[0], window[1]].values.astype(np.float32)
    if valid is not None:
        full = np.where(valid[window], full, np.nan)
    degraded, sample = (np.concatenate(p) for p in zip(*parts, strict=True))
    return View(degraded=degraded, sample=sample, window=full)


def _bicubic_view(coarse, ratio, sigma, rows, columns, window):
    filled = fill_nearest(coarse)
    by_row, by_column = (bicubic_matrix(n, ratio) for n in coarse.shape[1:])
    sigmas = np.broadcast_to(sigma, len(coarse))
    # degrading and upsampling are separable and linear, so both together are one small matrix per
    # axis
    both = {
        s: [_degrade_axis(matrix, ratio, s) for matrix in (by_row, by_column)]
        for s in set(sigmas.tolist())
    }
    return View(
        degraded=np.stack(
            [
                both[s][0] @ band @ both[s][1].T
                for s, band in zip(sigmas.tolist(), filled, strict=True)
            ]
        ),
        sample=upsample(filled, by_row[rows], by_column[columns]),
        window=upsample(filled, by_row[window[0]], by_column[window[1]]),
    )


def _degrade_axis(matrix, ratio, sigma):
    """(coarse, coarse) product of the PSF along one axis and a (fine, coarse) matrix."""
    groups = np.array_split(matrix.T, -(-matrix.shape[1] // 32))
    columns = [
        degrade(np.repeat(group[..., None], ratio, axis=2), ratio, sigma)[..., 0]
        for group in groups
    ]
    return np.concatenate(columns).T


def _regression_view(guide, coarse, compare):
    weights = fit_linear(guide.degraded[:, compare], coarse[:, compare])
    return View(
        **{
            part: apply_linear(weights, getattr(guide, part))
            for part in ("degraded", "sample", "window")
        }
    )


def _measured_bands(reflectance, scene):
    """Names of the fused bands, without those that the coarse input does not hold at all."""
    names = [str(b) for b in reflectance["band"].values]
    held = np.isfinite(scene["coarse"].sel(coarse_band=names)).any(("y_coarse", "x_coarse")).values
    if not held.all():
        log.warning(
            "not validated, the coarse input has no value: %s", ", ".join(np.array(names)[~held])
        )
    return tuple(name for name, has in zip(names, held, strict=True) if has) or tuple(names)


def _comparable(coarse, ratio, sigma):
    """Coarse pixels a PSF radius away from invalid ones and from the rim, beyond which the product is unknown."""
    reach = psf_radius(float(np.max(sigma)))
    return binary_erosion(np.isfinite(coarse).all(0), np.ones((2 * reach + 1,) * 2, bool))


def _psf_sigma(scene, names):
    sigma = scene.attrs.get("psf_sigma", DEFAULT_PSF_SIGMA)
    if np.ndim(sigma) == 0:
        return float(sigma)
    by_name = dict(zip(scene["coarse_band"].values, sigma, strict=True))
    return [float(by_name[name]) for name in names]


def _guide_sigma(sigma):
    return float(np.median(sigma))


def _sampled(size, sizes):
    stride = -(-max(sizes["y"], sizes["x"]) // SAMPLE_PX)
    return np.arange(stride // 2, size, stride)


def _centre(size):
    start = max((size - WINDOW_PX) // 2, 0)
    return slice(start, start + min(size, WINDOW_PX))
