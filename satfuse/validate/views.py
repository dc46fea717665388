"""A product and its inputs at the sizes that validation needs, read strip by strip.

Every image has three views: degraded onto the coarse grid (all pixels), a regular sample of the
fine pixels, and a window of adjacent fine pixels. Two baselines have the same views: `bicubic`, the
coarse image without any detail, and `regression`, the guide's bands mixed linearly into the coarse
bands without a residual. Reading in strips lets a whole Sentinel-2 tile pass.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.ndimage import binary_erosion

from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.errors import BandError, GridError, ProductError
from satfuse.geometry.resample import fill_nearest
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, degrade, psf_radius
from satfuse.validate.upsample import bicubic_matrix, upsample

log = logging.getLogger(__name__)

SAMPLE_PX = 1000  # longest side of the sample
WINDOW_PX = 1024  # longest side of the window
STRIP_PX = 1800  # most fine rows in memory at once
RIDGE = 1e-4  # of the inputs' mean variance: neighbouring bands are nearly collinear


@dataclass(frozen=True, kw_only=True)
class View:
    """One image (band, y, x), NaN where invalid: on the coarse grid, sampled, and in the window."""

    degraded: FloatArray
    sample: FloatArray
    window: FloatArray


@dataclass(frozen=True, kw_only=True)
class Views:
    """All images that a product is measured on.

    Parameters
    ----------
    bands, guide_bands : names of the fused and of the guide bands.
    ratio, psf_sigma : the observation model (sigma in coarse pixels, one number or one per band).
    coarse : (band, h, w) the coarse input, NaN where it is not valid.
    compare : (h, w) bool, True = the whole PSF of this coarse pixel falls on valid pixels inside
        the field, so that it is compared.
    rows, columns : fine pixel indices of the sample along y and x.
    window : fine pixels of the window, as slices along y and x.
    guide : the guide's View, all guide bands.
    images : "fused", "bicubic" and "regression" -> View with the fused bands.
    """

    bands: tuple[str, ...]
    guide_bands: tuple[str, ...]
    ratio: int
    psf_sigma: float | list[float]
    coarse: FloatArray
    compare: BoolArray
    rows: IntArray
    columns: IntArray
    window: tuple[slice, slice]
    guide: View
    images: dict[str, View]


@dataclass(frozen=True, kw_only=True)
class _Sampling:
    """Which fine pixels the views of every image take; fields as in `Views`."""

    ratio: int
    rows: IntArray
    columns: IntArray
    window: tuple[slice, slice]


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
        Product and scene have different grids.
    """
    reflectance = single_time(fused)["reflectance"]
    check_grids(reflectance, scene)
    names = _measured_bands(reflectance, scene)
    sigma = _psf_sigma(scene, names)
    sampling = _sampling(scene)
    fused_view = _read_view(reflectance.sel(band=list(names)), None, sampling, sigma)
    guide = scene["guide"].rename(guide_band="band")
    # one PSF for the guide: it is degraded to fit the regression, which serves all coarse bands
    guide_sigma = float(np.median(sigma))
    guide_view = _read_view(guide, scene["guide_valid"].values, sampling, guide_sigma)
    coarse = _coarse_input(scene, names)
    compare = _comparable(coarse, sigma, fused_view, guide_view)
    return Views(
        bands=names,
        guide_bands=tuple(str(b) for b in guide["band"].values),
        psf_sigma=sigma,
        coarse=coarse,
        compare=compare,
        **vars(sampling),
        guide=guide_view,
        images={
            "fused": fused_view,
            "bicubic": _bicubic_view(coarse, sampling, sigma),
            "regression": _regression_view(guide_view, coarse, compare),
        },
    )


def single_time(fused: xr.Dataset) -> xr.Dataset:
    """Return a product without its time axis.

    Raises
    ------
    ProductError
        It has more than one time.
    """
    if "time" not in fused.dims:
        return fused
    if fused.sizes["time"] != 1:
        raise ProductError(
            f"the product holds {fused.sizes['time']} times; select one: fused.isel(time=[0])"
        )
    return fused.isel(time=0)


def check_grids(reflectance: xr.DataArray, scene: xr.Dataset) -> None:
    """Check that product and scene share their pixels, and that the scene has the product's bands.

    Raises
    ------
    GridError
        Different pixel centres along y or x (by more than 1 mm).
    BandError
        Fused bands that the scene's coarse image lacks.
    """
    for dim in ("y", "x"):
        a = reflectance[dim].values
        b = scene[dim].values
        if a.shape != b.shape or not np.allclose(a, b, atol=1e-3):
            raise GridError(
                f"product and scene differ along {dim}: {a.size} pixels from {a[0]:.1f} against "
                f"{b.size} from {b[0]:.1f}; make the scene on the product's GeoBox"
            )
    missing = sorted(set(reflectance["band"].values) - set(scene["coarse_band"].values))
    if missing:
        raise BandError(f"the scene's coarse image lacks the fused bands {', '.join(missing)}")


def all_finite(image: FloatArray) -> BoolArray:
    """Pixels (y, x) of (band, y, x) that are finite in all bands."""
    return np.all(np.isfinite(image), axis=0)


def fit_linear(inputs: FloatArray, outputs: FloatArray) -> FloatArray:
    """Fit an affine map from input to output bands by least squares with a ridge.

    Deliberately not the `regression` model of `satfuse.models`: a reference must stay the same when
    models change, serves both directions (guide to coarse bands and back), and has no residual.

    Parameters
    ----------
    inputs : (p, n) p bands of n pixels.
    outputs : (q, n) q bands of the same pixels.

    Returns
    -------
    (q, p + 1) weights for `apply_linear`; the last column is the constant.
    """
    mean_in = inputs.mean(1, keepdims=True)
    mean_out = outputs.mean(1, keepdims=True)
    x = inputs - mean_in
    y = outputs - mean_out
    gram = x @ x.T
    ridge = RIDGE * np.trace(gram) / len(gram) + 1e-12  # never 0: a flat image has no variance
    slope = np.linalg.solve(gram + ridge * np.eye(len(gram)), x @ y.T).T
    return np.concatenate([slope, mean_out - slope @ mean_in], axis=1)


def apply_linear(weights: FloatArray, image: FloatArray) -> FloatArray:
    """Apply `fit_linear` weights to every pixel of (p, y, x); (q, y, x) in the image's dtype."""
    slope = weights[:, :-1].astype(image.dtype)
    constant = weights[:, -1].astype(image.dtype)
    return np.einsum("qp,pyx->qyx", slope, image) + constant[:, None, None]


def coarsen(
    read: Callable[[int, int], FloatArray],
    count: int,
    height: int,
    ratio: int,
    psf_sigma: float | Sequence[float] | FloatArray,
    *,
    step: int,
    rows: npt.ArrayLike = (),
    columns: npt.ArrayLike = (),
) -> tuple[FloatArray, FloatArray]:
    """Degrade an image that is read in strips, and pick the sample on the way.

    Parameters
    ----------
    read : function (first row, last row + 1) -> (band, n, x) fine pixels, NaN where invalid; each
        row is read once.
    count, height : number of bands and of fine rows.
    ratio, psf_sigma : of `satfuse.sensors.degradation.degrade`; sigma is one number or one per
        band.
    step : fine rows per strip, a multiple of `ratio` that is not smaller than the reach of the PSF.
    rows, columns : fine pixel indices of the sample.

    Returns
    -------
    degraded : (band, height / ratio, x / ratio) float64
    sample : (band, len(rows), len(columns)) float32
    """
    rows = np.asarray(rows, int)
    columns = np.asarray(columns, int)
    sigmas = np.broadcast_to(psf_sigma, count)
    reach = psf_radius(float(sigmas.max())) * ratio
    degraded = []
    sample = []
    for start, strip, above, below in _strips(read, height, step, reach):
        padded = np.concatenate([above, strip, below], axis=1)
        coarse = np.stack(
            [_degrade_band(band, ratio, float(s)) for band, s in zip(padded, sigmas, strict=True)]
        )
        first = above.shape[1] // ratio
        degraded.append(coarse[:, first : first + strip.shape[1] // ratio])
        inside = rows[(rows >= start) & (rows < start + strip.shape[1])] - start
        sample.append(strip[:, inside][:, :, columns].astype(np.float32))
    return np.concatenate(degraded, axis=1), np.concatenate(sample, axis=1)


def _strips(
    read: Callable[[int, int], FloatArray], height: int, step: int, reach: int
) -> Iterator[tuple[int, FloatArray, FloatArray, FloatArray]]:
    """Yield (first row, strip, rows within reach above it, below it); every row is read once."""
    strip = read(0, min(step, height))
    above = strip[:, :0]
    for start in range(0, height, step):
        stop = min(start + step, height)
        following = read(stop, min(stop + step, height)) if stop < height else strip[:, :0]
        yield start, strip, above, following[:, :reach]
        above = strip[:, -reach:]
        strip = following


def _degrade_band(band: FloatArray, ratio: int, sigma: float) -> FloatArray:
    finite = np.isfinite(band)
    return degrade(band.astype(float), ratio, sigma, valid=None if finite.all() else finite)


def _read_view(
    image: xr.DataArray,
    valid: BoolArray | None,
    sampling: _Sampling,
    psf_sigma: float | list[float],
) -> View:
    """View of a lazy (band, y, x) image, read in groups of the bands that share a chunk."""
    image = image.transpose("band", "y", "x")
    ratio = sampling.ratio
    sigmas = np.broadcast_to(psf_sigma, image.sizes["band"])
    step = _strip_rows(image, ratio, psf_radius(float(sigmas.max())) * ratio)

    def read(bands: slice, rows: slice, columns: slice = slice(None)) -> FloatArray:
        values = image[bands, rows, columns].values
        return values if valid is None else np.where(valid[rows, columns], values, np.nan)

    def coarsen_group(bands: slice) -> tuple[FloatArray, FloatArray]:
        return coarsen(
            lambda first, last: read(bands, slice(first, last)),
            bands.stop - bands.start,
            image.sizes["y"],
            ratio,
            sigmas[bands],
            step=step,
            rows=sampling.rows,
            columns=sampling.columns,
        )

    degraded, sample = zip(*map(coarsen_group, _band_groups(image)), strict=True)
    return View(
        degraded=np.concatenate(degraded),
        sample=np.concatenate(sample),
        window=read(slice(None), *sampling.window).astype(np.float32),
    )


def _band_groups(image: xr.DataArray) -> list[slice]:
    """Bands of each chunk of (band, y, x); one group of an image without chunks."""
    sizes = image.chunks[0] if image.chunks else (image.sizes["band"],)
    edges = np.cumsum((0, *sizes)).tolist()
    return [slice(first, last) for first, last in pairwise(edges)]


def _strip_rows(image: xr.DataArray, ratio: int, reach: int) -> int:
    """Fine rows per strip: whole coarse pixels, about a chunk, not less than the PSF's reach."""
    # 10 coarse pixels of an image without chunks: it is in memory, so strips cost nothing
    rows = min(image.chunks[1][0], STRIP_PX) if image.chunks else 10 * ratio
    return max(-(-rows // ratio) * ratio, reach)


def _bicubic_view(coarse: FloatArray, sampling: _Sampling, psf_sigma: float | list[float]) -> View:
    """View of the coarse image (band, h, w), upsampled; holes take the nearest valid pixel."""
    filled = fill_nearest(coarse, ~all_finite(coarse))
    ratio = sampling.ratio
    by_row, by_column = (bicubic_matrix(n, ratio) for n in coarse.shape[1:])
    sigmas = np.broadcast_to(psf_sigma, len(coarse)).tolist()
    # degrading and upsampling are separable and linear: together one small matrix per axis
    both = {s: [_degrade_axis(m, ratio, s) for m in (by_row, by_column)] for s in set(sigmas)}
    degraded = [both[s][0] @ band @ both[s][1].T for s, band in zip(sigmas, filled, strict=True)]
    window_rows, window_columns = sampling.window
    return View(
        degraded=np.stack(degraded),
        sample=upsample(filled, by_row[sampling.rows], by_column[sampling.columns]),
        window=upsample(filled, by_row[window_rows], by_column[window_columns]),
    )


def _degrade_axis(matrix: FloatArray, ratio: int, sigma: float) -> FloatArray:
    """(coarse, coarse) product of the PSF along one axis and a (fine, coarse) matrix."""
    # each column becomes an image that is constant along x; groups of 32 bound the memory
    groups = np.array_split(matrix.T, -(-matrix.shape[1] // 32))
    columns = [
        degrade(np.repeat(group[..., None], ratio, axis=2), ratio, sigma)[..., 0]
        for group in groups
    ]
    return np.concatenate(columns).T


def _regression_view(guide: View, coarse: FloatArray, compare: BoolArray) -> View:
    """View of the guide mixed into the coarse bands, fitted over the compared coarse pixels."""
    weights = fit_linear(guide.degraded[:, compare], coarse[:, compare])
    return View(
        degraded=apply_linear(weights, guide.degraded),
        sample=apply_linear(weights, guide.sample),
        window=apply_linear(weights, guide.window),
    )


def _measured_bands(reflectance: xr.DataArray, scene: xr.Dataset) -> tuple[str, ...]:
    """Names of the fused bands that have any value in the coarse input; all where none has."""
    names = [str(b) for b in reflectance["band"].values]
    coarse = scene["coarse"].sel(coarse_band=names).values
    has_value = np.any(np.isfinite(coarse), axis=(1, 2))
    if not has_value.all():
        absent = ", ".join(np.array(names)[~has_value])
        log.warning("not validated, the coarse input has no value: %s", absent)
    return tuple(np.array(names)[has_value].tolist()) or tuple(names)


def _coarse_input(scene: xr.Dataset, names: Sequence[str]) -> FloatArray:
    """The coarse image (band, h, w) of these bands, float64, NaN where it is not valid."""
    coarse = scene["coarse"].sel(coarse_band=list(names)).values.astype(float)
    return np.where(scene["coarse_valid"].values.astype(bool), coarse, np.nan)


def _comparable(
    coarse: FloatArray, psf_sigma: float | list[float], fused: View, guide: View
) -> BoolArray:
    """Coarse pixels (h, w) that are compared, see `Views`; ProductError where there are none.

    They are a PSF radius away from invalid pixels and from the rim, beyond which the product is
    unknown.
    """
    reach = psf_radius(float(np.max(psf_sigma)))
    valid = all_finite(coarse)
    compare = binary_erosion(valid, np.ones((2 * reach + 1, 2 * reach + 1), bool))
    compare &= all_finite(fused.degraded) & all_finite(guide.degraded)
    if not compare.any():
        raise ProductError(
            f"nothing to validate: of {compare.size} coarse pixels {int(valid.sum())} are valid, "
            "and none of them is a whole PSF away from invalid pixels and from the rim; choose a "
            "larger or clearer field"
        )
    log.info("validating %d of %d coarse pixels", compare.sum(), compare.size)
    return compare


def _psf_sigma(scene: xr.Dataset, names: Sequence[str]) -> float | list[float]:
    """PSF width in coarse pixels: one number, or one per band of `names`."""
    sigma = scene.attrs.get("psf_sigma", DEFAULT_PSF_SIGMA)
    if np.ndim(sigma) == 0:
        return float(sigma)
    by_name = dict(zip(scene["coarse_band"].values, sigma, strict=True))
    return [float(by_name[name]) for name in names]


def _sampling(scene: xr.Dataset) -> _Sampling:
    """The same stride along both axes, and a window in the middle."""
    height = scene.sizes["y"]
    width = scene.sizes["x"]
    stride = -(-max(height, width) // SAMPLE_PX)
    return _Sampling(
        ratio=height // scene.sizes["y_coarse"],
        rows=np.arange(stride // 2, height, stride),
        columns=np.arange(stride // 2, width, stride),
        window=(_centre(height), _centre(width)),
    )


def _centre(size: int) -> slice:
    """The middle of an axis, at most WINDOW_PX long."""
    start = max((size - WINDOW_PX) // 2, 0)
    return slice(start, start + min(size, WINDOW_PX))
