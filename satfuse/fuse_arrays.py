"""`satfuse.fuse`: fuse two arrays that a user already has."""

from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from affine import Affine
from odc.geo.crs import CRS, CRSError
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from scipy import ndimage

from satfuse import checkpoint, models
from satfuse.errors import BandError, GridError, ProductError, RadiometryError
from satfuse.geometry.grids import nesting_ratio
from satfuse.geometry.shift import ShiftEstimate, estimate_shift
from satfuse.geometry.tiling import Window
from satfuse.models.blocks import Cut, Inputs, fill_holes, fuse_blocks
from satfuse.models.interface import Observation
from satfuse.models.summary import Summary, summarise
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.bands import bands as band_table
from satfuse.sensors.quality import Quality, flag_attrs

BLOCK_PX = 900
HIGHEST_MEDIAN = 2.0  # no surface has a median reflectance above this
# a shift below this many standard deviations is not applied: resampling would only blur
SIGNIFICANT = 2.0


def fuse(guide: xr.DataArray, coarse: xr.DataArray, *, model=None) -> xr.Dataset:
    """Fuse a fine and a coarse image of one moment.

    Parameters
    ----------
    guide : (band, y, x) reflectance with Sentinel-2 band names (any of them); NaN where missing.
    coarse : (band, y, x) reflectance with Sentinel-3 SYN band names (any of them) on a grid that nests in the
        guide's: its pixels are a whole number of guide pixels, its corners coincide. It is registered to the guide
        first, or by the model, unless its `attrs` hold `shift_m`, which says that this was done.
    model : name of a model whose weights are in the package or that needs none, folder of a checkpoint, or a
        `FusionModel`; "bayesian" by default.

    Returns
    -------
    Dataset on the guide's grid: `reflectance (band, y, x)` float32 with the coarse bands in their order, NaN where
    the guide is missing; `quality (y, x)` uint16, see `satfuse.sensors.quality`; from models that give it, `uncertainty
    (band, y, x)`, the standard deviation of the error. `attrs`: `shift_m`, `shift_sigma_m`, `shift_trusted`,
    `shift_reason`, `ratio`, `model`; from models that estimate them `psf_sigma` (coarse pixels) and `gain` per band.

    Raises
    ------
    GridError
        Dimensions, grids or CRS that do not fit together.
    BandError
        Unknown band names.
    RadiometryError
        Values that are digital numbers, not reflectance; bands that show something else than the guide or stand in each
        other's place; nothing but cloud.
    CheckpointError
        A model that does not fit the bands or the ratio.
    ProductError
        No pixel where both images are usable.
    """
    fine = _image(guide, "guide", S2_NAMES)
    small = _image(coarse, "coarse", S3_NAMES)
    fine_box, small_box = _geobox(fine, guide, "guide"), _geobox(small, coarse, "coarse")
    ratio = nesting_ratio(fine_box, small_box)
    network, name = _model(model, fine, small, ratio)
    guide_valid = np.isfinite(fine.values).all(0)
    absent = ~np.isfinite(small.values).any((1, 2))
    coarse_valid = np.isfinite(small.values[~absent]).all(0) & (not absent.all())
    registered = "shift_m" in coarse.attrs
    masked = np.where(guide_valid, fine.values, np.float32(np.nan))
    filled = fill_holes(small.values, coarse_valid)
    summary = summarise(masked, filled, coarse_valid, ratio=ratio, registered=registered)
    if not summary.valid.any():
        raise ProductError(
            f"guide and coarse image share no usable pixel: {_why_none(small, coarse_valid)}"
        )
    shift = _registration(network, coarse, summary, absent, small_box)
    if shift.applied and not registered:
        filled, coarse_valid = _shifted(filled, coarse_valid, shift.estimate, small_box)
        frame, known = torch.from_numpy(filled)[None], torch.from_numpy(coarse_valid)[None]
        summary = replace(summary, frames=frame, frames_valid=known, registered=True)
    with torch.inference_mode():
        state = network.fit(summary)
    seen = network.observation(state)
    if seen:
        shift = _estimated(seen, small_box, shift)
    image, sigma = _run(network, state, masked, guide_valid, summary)
    image[absent] = np.nan
    out = _dataset(image, guide_valid, coarse_valid, fine, small, fine_box, ratio)
    if sigma is not None:
        sigma[~np.isfinite(image)] = np.nan
        attrs = {
            "long_name": "standard deviation of the error",
            "units": "1",
            "grid_mapping": "spatial_ref",
        }
        out["uncertainty"] = (("band", "y", "x"), sigma, attrs)
    if not shift.estimate.trusted:
        out["quality"] = out.quality | np.uint16(Quality.SHIFT_UNTRUSTED)
    out["quality"].attrs = flag_attrs() | {"grid_mapping": "spatial_ref"}
    out.attrs = {
        "shift_m": (shift.estimate.dx_m, shift.estimate.dy_m) if shift.applied else (0.0, 0.0),
        "shift_sigma_m": shift.estimate.sigma_m,
        "shift_trusted": int(shift.estimate.trusted),  # netCDF knows no bool
        "shift_reason": shift.estimate.reason,
        "ratio": ratio,
        "model": name,
        **({"psf_sigma": seen.psf_sigma.tolist(), "gain": seen.gain.tolist()} if seen else {}),
    }
    if guide.y[0] >= guide.y[-1]:
        return out
    out = out.isel(y=slice(None, None, -1))
    out["spatial_ref"].attrs.pop("GeoTransform")  # it says north-up
    return out


def _image(array, role, known) -> xr.DataArray:
    """The array as (band, y, x) float32 with rows running southward and NaN for what is not finite."""
    if (
        not isinstance(array, xr.DataArray)
        or set(array.dims) != {"band", "y", "x"}
        or array.ndim != 3
    ):
        found = getattr(array, "dims", type(array).__name__)
        raise GridError(f"{role} must be a DataArray with dimensions band, y, x; found {found}")
    if absent := [c for c in ("band", "y", "x") if c not in array.coords]:
        raise GridError(
            f"{role} has no coordinate {', '.join(absent)}; bands are names, y and x pixel centres"
        )
    names = [str(b) for b in array.band.values]
    if wrong := [n for n in names if n not in known]:
        raise BandError(
            f"{role} has unknown band {', '.join(map(repr, wrong))}; known: {', '.join(known)}"
        )
    if len(set(names)) != len(names):
        raise BandError(f"a band occurs twice in the {role}: {', '.join(names)}")
    array = array.transpose("band", "y", "x").astype("float32").assign_coords(band=names)
    if array.y[0] < array.y[-1]:
        array = array.isel(y=slice(None, None, -1))
    array = array.where(np.isfinite(array)).load()
    some = array.values[:, ::4, ::4]
    middle = float(np.median(some[np.isfinite(some)])) if np.isfinite(some).any() else 0.0
    if middle > HIGHEST_MEDIAN:
        raise RadiometryError(
            f"{role} has a median of {middle:.4g}: these are digital numbers, not reflectance; apply scale and offset "
            "first (Sentinel-2: (DN - 1000) / 10000 from baseline 04.00 on, DN / 10000 before)"
        )
    return array


def _geobox(array, given, role) -> GeoBox:
    """GeoBox from pixel centres; evenly spaced."""
    steps = {}
    for axis in ("y", "x"):
        values = array[axis].values.astype("float64")
        if len(values) < 2:
            raise GridError(f"{role} has {len(values)} pixel along {axis}; at least 2 are needed")
        step = (values[-1] - values[0]) / (len(values) - 1)
        if step == 0 or np.abs(np.diff(values) - step).max() > 1e-3 * abs(step):
            raise GridError(f"{role} coordinate {axis} is not evenly spaced")
        steps[axis] = values[0] - step / 2, step
    (top, height), (left, width) = steps["y"], steps["x"]
    return GeoBox(array.shape[1:], Affine(width, 0, left, 0, height, top), _crs(given, role))


def _crs(array, role):
    if array.odc.crs is not None:
        return array.odc.crs
    if "crs" not in array.attrs:
        raise GridError(
            f"{role} has no CRS; write one with {role}.rio.write_crs(...) or {role}.attrs['crs']"
        )
    try:
        return CRS(array.attrs["crs"])
    except CRSError as error:
        raise GridError(f"{role}.attrs['crs'] is no CRS: {error}") from error


def _model(model, fine, small, ratio):
    bands = {"guide_bands": tuple(fine.band.values), "coarse_bands": tuple(small.band.values)}
    if isinstance(model, models.FusionModel):
        if model.guide_bands != bands["guide_bands"]:
            raise BandError(f"model {model.name} needs guide bands {', '.join(model.guide_bands)}")
        if model.any_bands and model.coarse_bands != bands["coarse_bands"]:
            weights = model.state_dict()
            model = models.create(model.name, **bands, ratio=ratio, **model.options)
            model.load_state_dict(weights)
        return models.complete(model, bands["coarse_bands"], ratio).eval(), model.name
    name = str(model or "bayesian")
    return checkpoint.resolve(name, **bands, ratio=ratio)[0], name


def _why_none(small, coarse_valid) -> str:
    """What keeps every coarse pixel from use, and the way out."""
    if coarse_valid.any():
        return "the guide is missing wherever the coarse image is known"
    missing = 1 - np.isfinite(small.values).mean((1, 2))
    if missing.min() == 1:
        return "the coarse image holds nothing but NaN or infinities"
    most = [b for b in np.argsort(-missing) if 0 < missing[b] < 1][:3]
    names = ", ".join(f"{small.band.item(b)} ({missing[b]:.0%})" for b in most)
    return f"every coarse pixel lacks some band; leave out the bands that miss most, or fill their holes: {names}"


@dataclass(frozen=True)
class _Shift:
    """Where the coarse image lies, and whether that was or is to be taken out."""

    estimate: ShiftEstimate
    applied: bool


def _registration(network, coarse, summary, absent, box) -> _Shift:
    """What is known or estimated before the model sees the scene."""
    if "shift_m" in coarse.attrs:
        try:
            dx_m, dy_m = map(float, coarse.attrs["shift_m"])
        except (TypeError, ValueError) as error:
            found = coarse.attrs["shift_m"]
            raise GridError(
                f"coarse.attrs['shift_m'] is {found!r}; give (east, north) in m, or drop it"
            ) from error
        if not np.isfinite([dx_m, dy_m]).all():
            raise GridError(
                f"coarse.attrs['shift_m'] is ({dx_m}, {dy_m}); give finite metres, or drop it"
            )
        return _Shift(ShiftEstimate(dx_m, dy_m, 0.0, True, "given: the image is registered"), True)
    if network.estimates_observation:
        return _Shift(ShiftEstimate(0.0, 0.0, np.inf, False, "left to the model"), False)
    if box.crs.geographic:
        reason = "pixels in degrees: a shift in metres is not defined"
        return _Shift(ShiftEstimate(0.0, 0.0, np.inf, False, reason), False)
    degraded = np.where(summary.guide_known.numpy(), summary.guide_coarse.numpy(), np.nan)
    values, valid = summary.coarse.numpy()[~absent], summary.frames_valid[0].numpy()
    shift = estimate_shift(degraded, values, pixel_m=abs(box.affine.a), valid=valid)
    return _Shift(
        shift, shift.trusted and np.hypot(shift.dx_m, shift.dy_m) > SIGNIFICANT * shift.sigma_m
    )


def _estimated(seen: Observation, box, given: _Shift) -> _Shift:
    """What the model found; a given shift stays, and is trusted as far as the model trusts it."""
    trusted = not seen.doubt
    reason = seen.doubt or "estimated with the PSF and gains"
    if given.applied and trusted:
        return given
    if given.applied:
        return replace(given, estimate=replace(given.estimate, trusted=False, reason=reason))
    if box.crs.geographic:
        reason = f"{reason}; metres are not defined for degrees"
        return _Shift(ShiftEstimate(0.0, 0.0, np.inf, trusted, reason), True)
    dx, dy = map(float, seen.shift)
    sigma_m = float(seen.shift_sigma.max()) * abs(box.affine.a)
    where = ShiftEstimate(dx * box.affine.a, dy * box.affine.e, sigma_m, trusted, reason)
    return _Shift(where, True)


def _shifted(image, valid, shift, box):
    """The coarse image sampled where its content lies: at each pixel's place plus the shift (cubic spline)."""
    offset = shift.dy_m / box.affine.e, shift.dx_m / box.affine.a  # rows, columns
    move = {"shift": [-o for o in offset], "mode": "nearest"}
    out = np.stack([ndimage.shift(band, order=3, **move) for band in image])
    return out, ndimage.shift(valid.astype("float32"), order=1, **move) > 0.99


def _run(
    network, state, guide, guide_valid, summary: Summary
) -> tuple[np.ndarray, np.ndarray | None]:
    """Image and, where the model gives it, uncertainty; holes of `guide` get the band's median, in place."""
    medians = [np.nanmedian(b) if np.isfinite(b).any() else 0.0 for b in guide]
    for band, value in zip(guide, medians, strict=True):
        band[~guide_valid] = value
    whole = Window(0, guide.shape[1], 0, guide.shape[2])
    cut = Cut.of(network, guide.shape[1:], summary.ratio, block_px=BLOCK_PX)
    coarse, coarse_valid = summary.coarse.numpy(), summary.frames_valid[0].numpy()
    inputs = Inputs(
        window=whole, guide=guide, guide_valid=guide_valid, coarse=coarse, coarse_valid=coarse_valid
    )
    size = (len(coarse), *guide.shape[1:])
    out, sigma = np.empty(size, "float32"), None
    for window, image, spread in fuse_blocks(network, state, inputs, whole, cut):
        out[:, *window.slices()] = image
        if spread is not None:
            sigma = np.empty(size, "float32") if sigma is None else sigma
            sigma[:, *window.slices()] = spread
    out[:, ~guide_valid] = np.nan
    return out, sigma


def _dataset(image, guide_valid, coarse_valid, fine, small, box, ratio) -> xr.Dataset:
    missing = ~coarse_valid.repeat(ratio, 0).repeat(ratio, 1)
    quality = np.where(guide_valid, 0, int(Quality.GUIDE_MISSING)) | np.where(
        missing, int(Quality.COARSE_MISSING), 0
    )
    quality |= np.where(((image < 0) | (image > 1.6)).any(0), int(Quality.OUT_OF_RANGE), 0)
    table = band_table(small.band.values)
    coords = {
        **xr_coords(box, dims=("y", "x")),
        "y": fine.y,
        "x": fine.x,
        "band": small.band.values,
        "wavelength_nm": ("band", [b.wavelength_nm for b in table]),
        "fwhm_nm": ("band", [b.fwhm_nm for b in table]),
    }
    plane = {"grid_mapping": "spatial_ref"}
    reflectance = {"standard_name": "surface_bidirectional_reflectance", "units": "1", **plane}
    return xr.Dataset(
        {
            "reflectance": (("band", "y", "x"), image, reflectance),
            "quality": (("y", "x"), quality.astype("uint16"), plane),
        },
        coords=coords,
    )
