"""`satfuse.fuse`: fuse two arrays that a user already has."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from affine import Affine
from odc.geo.crs import CRS, CRSError
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from scipy import ndimage

from satfuse import checkpoint, models
from satfuse.arrays import FloatArray, IntArray
from satfuse.errors import BandError, GridError, RadiometryError
from satfuse.geometry.grids import nesting_ratio
from satfuse.geometry.shift import ShiftEstimate, estimate_shift
from satfuse.models import FusionModel
from satfuse.models.blocks import Cut, Inputs, fuse_whole
from satfuse.models.interface import Observation
from satfuse.models.prepare import PreparedScene, prepare_scene, require_overlap, shift_verdict
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.bands import bands as band_table
from satfuse.sensors.quality import Quality, flag_attrs, out_of_range

BLOCK_PX = 900  # edge of the blocks of one forward pass; bounds memory
HIGHEST_MEDIAN = 2.0  # no surface has a median reflectance above this
MEDIAN_STEP = 4  # every 4th pixel along each axis is enough for that median
SIGNIFICANT = 2.0  # standard deviations: resampling by a smaller shift would only blur
LEAST_SHARE = 0.99  # of a shifted pixel's sample that must be valid
EVEN_SPACING = 1e-3  # of a pixel that coordinates may deviate from even spacing

PLANE = {"grid_mapping": "spatial_ref"}
REFLECTANCE_ATTRS = {
    "standard_name": "surface_bidirectional_reflectance",
    "units": "1",
    **PLANE,
}
UNCERTAINTY_ATTRS = {"long_name": "standard deviation of the error", "units": "1", **PLANE}


def fuse(
    guide: xr.DataArray, coarse: xr.DataArray, *, model: str | FusionModel | None = None
) -> xr.Dataset:
    """Fuse a fine and a coarse image that were acquired at about the same time.

    Parameters
    ----------
    guide : (band, y, x) reflectance with Sentinel-2 band names (any of them); NaN where missing.
    coarse : (band, y, x) reflectance with Sentinel-3 SYN band names (any of them) on a grid that
        nests in the guide's: its pixels are a whole number of guide pixels, its corners coincide.
        It is registered to the guide first, or by the model, unless its `attrs` contain `shift_m`:
        the shift in metres (east, north) that it has been corrected by. `attrs["shift_trusted"] =
        0` says that this registration failed: then the model estimates the shift itself if it can,
        and else the result is flagged.
    model : name of a model whose weights are in the package or that needs none, folder of a
        checkpoint, or a `FusionModel`; "bayesian" by default.

    Returns
    -------
    Dataset on the guide's grid: `reflectance (band, y, x)` float32 with the coarse bands in their
    order, NaN where the guide is missing; `quality (y, x)` uint16, see `satfuse.sensors.quality`;
    from models that give it, `uncertainty (band, y, x)`, the standard deviation of the error.
    `attrs`: `shift_m`, `shift_sigma_m`, `shift_trusted`, `shift_reason`, `ratio`, `model`; from
    models that estimate them `psf_sigma` (coarse pixels) and `gain` per band.

    Raises
    ------
    GridError
        Dimensions, grids or CRS that do not fit together.
    BandError
        Unknown band names.
    RadiometryError
        Values that are digital numbers, not reflectance; bands that do not match the guide, or are
        swapped; fully cloudy images.
    CheckpointError
        A model that does not fit the bands or the ratio.
    ProductError
        No pixel where both images are usable.
    """
    fine = _image(guide, "guide", S2_NAMES)
    small = _image(coarse, "coarse", S3_NAMES)
    fine_box = _geobox(fine, guide, "guide")
    small_box = _geobox(small, coarse, "coarse")
    ratio = nesting_ratio(fine_box, small_box)
    network, name = _model(model, fine, small, ratio)
    stated = _stated_shift(coarse)
    scene, registration = _registered(network, fine, small, small_box, ratio, stated)
    with torch.inference_mode():
        state = network.fit(scene.summary)
    observation = network.observation(state)
    shift = shift_verdict(
        observation,
        registration,
        registered=scene.summary.registered,
        transform=small_box.affine,
        in_metres=_in_metres(small_box),
    )
    cut = Cut.of(network, scene.inputs.guide_valid.shape, ratio, block_px=BLOCK_PX)
    image, sigma = fuse_whole(network, state, scene.inputs, cut)
    image[scene.absent] = np.nan
    image[:, ~scene.inputs.guide_valid] = np.nan
    out = _dataset(image, sigma, _quality(image, scene.inputs, ratio, shift), small, fine_box)
    out = out.assign_coords(y=fine.y, x=fine.x)
    out.attrs = _attrs(shift, observation, ratio, name)
    return out if guide.y[0] >= guide.y[-1] else _rows_northward(out)


def _image(array: xr.DataArray, role: str, known_bands: tuple[str, ...]) -> xr.DataArray:
    """Check an image and bring it into the form that the rest of this module expects.

    Parameters
    ----------
    array : argument of `fuse`.
    role : "guide" or "coarse", for messages.
    known_bands : names that its bands may have.

    Returns
    -------
    (band, y, x) float32 in memory, rows running southward, NaN for everything that is not finite.
    """
    _check_form(array, role, known_bands)
    names = [str(band) for band in array.band.values]
    array = array.transpose("band", "y", "x").astype("float32").assign_coords(band=names)
    if array.y[0] < array.y[-1]:
        array = array.isel(y=slice(None, None, -1))
    array = array.where(np.isfinite(array)).load()
    sample = array.values[:, ::MEDIAN_STEP, ::MEDIAN_STEP]
    finite = sample[np.isfinite(sample)]
    median = float(np.median(finite)) if finite.size else 0.0
    if median > HIGHEST_MEDIAN:
        raise RadiometryError(
            f"{role} has a median of {median:.4g}: these are digital numbers, not reflectance; "
            "apply scale and offset first (Sentinel-2: (DN - 1000) / 10000 from baseline 04.00 on, "
            "DN / 10000 before)"
        )
    return array


def _check_form(array: xr.DataArray, role: str, known_bands: tuple[str, ...]) -> None:
    """Check dimensions, coordinates and band names; see `_image`."""
    dims = getattr(array, "dims", type(array).__name__)
    if not isinstance(array, xr.DataArray) or sorted(map(str, dims)) != ["band", "x", "y"]:
        raise GridError(f"{role} must be a DataArray with dimensions band, y, x; found {dims}")
    if absent := [axis for axis in ("band", "y", "x") if axis not in array.coords]:
        raise GridError(
            f"{role} has no coordinate {', '.join(absent)}; bands are names, y and x pixel centres"
        )
    names = [str(band) for band in array.band.values]
    if unknown := [name for name in names if name not in known_bands]:
        raise BandError(
            f"{role} has unknown band {', '.join(map(repr, unknown))}; "
            f"known: {', '.join(known_bands)}"
        )
    if len(set(names)) != len(names):
        raise BandError(f"a band occurs twice in the {role}: {', '.join(names)}")


def _geobox(image: xr.DataArray, array: xr.DataArray, role: str) -> GeoBox:
    """GeoBox of evenly spaced pixel centres.

    Parameters
    ----------
    image : as `_image` returns it.
    array : argument of `fuse`, which has the CRS.
    role : "guide" or "coarse", for messages.
    """
    left, width = _axis(image, "x", role)
    top, height = _axis(image, "y", role)
    affine = Affine(width, 0, left, 0, height, top)
    return GeoBox((image.sizes["y"], image.sizes["x"]), affine, _crs(array, role))


def _axis(image: xr.DataArray, axis: str, role: str) -> tuple[float, float]:
    """Outer edge of the first pixel along an axis, and the step from pixel to pixel."""
    centres = image[axis].values.astype("float64")
    if len(centres) < 2:
        raise GridError(f"{role} has {len(centres)} pixel along {axis}; at least 2 are needed")
    step = (centres[-1] - centres[0]) / (len(centres) - 1)
    if step == 0 or np.abs(np.diff(centres) - step).max() > EVEN_SPACING * abs(step):
        raise GridError(f"{role} coordinate {axis} is not evenly spaced")
    return centres[0] - step / 2, step


def _crs(array: xr.DataArray, role: str) -> CRS:
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


def _in_metres(box: GeoBox) -> bool:
    return box.crs is not None and not box.crs.geographic


def _model(
    model: str | FusionModel | None, fine: xr.DataArray, small: xr.DataArray, ratio: int
) -> tuple[FusionModel, str]:
    """Model for the bands of both images, and its name."""
    guide_bands = tuple(fine.band.values)
    coarse_bands = tuple(small.band.values)
    bands = {"guide_bands": guide_bands, "coarse_bands": coarse_bands}
    if not isinstance(model, FusionModel):
        name = str(model or "bayesian")
        return checkpoint.resolve(name, **bands, ratio=ratio)[0], name
    if model.guide_bands != guide_bands:
        raise BandError(f"model {model.name} needs guide bands {', '.join(model.guide_bands)}")
    if model.any_bands and model.coarse_bands != coarse_bands:
        weights = model.state_dict()
        model = models.create(model.name, **bands, ratio=ratio, **model.options)
        model.load_state_dict(weights)
    return models.complete(model, coarse_bands, ratio).eval(), model.name


def _stated_shift(coarse: xr.DataArray) -> ShiftEstimate | None:
    """The registration that the coarse image states in its attributes, or None."""
    if "shift_m" not in coarse.attrs:
        return None
    stated = coarse.attrs["shift_m"]
    try:
        dx_m, dy_m = map(float, stated)
    except (TypeError, ValueError) as error:
        raise GridError(
            f"coarse.attrs['shift_m'] is {stated!r}; give (east, north) in m, or drop it"
        ) from error
    if not np.isfinite([dx_m, dy_m]).all():
        raise GridError(
            f"coarse.attrs['shift_m'] is ({dx_m}, {dy_m}); give finite metres, or drop it"
        )
    if coarse.attrs.get("shift_trusted", 1):
        return ShiftEstimate(dx_m, dy_m, 0.0, True, "given: the image is registered")
    reason = "coarse.attrs['shift_trusted'] is 0: its registration failed"
    return ShiftEstimate(dx_m, dy_m, np.inf, False, reason)


def _registered(
    network: FusionModel,
    fine: xr.DataArray,
    small: xr.DataArray,
    small_box: GeoBox,
    ratio: int,
    stated: ShiftEstimate | None,
) -> tuple[PreparedScene, ShiftEstimate]:
    """Prepare the scene and register its coarse image where neither user nor model does.

    Parameters
    ----------
    stated : registration that the user states, or None.

    Returns
    -------
    scene : its summary is `registered` where the coarse image is aligned with the guide.
    registration : stated or estimated.
    """
    aligned = stated is not None and stated.trusted
    scene = prepare_scene(fine.values, small.values, ratio=ratio, registered=aligned)
    require_overlap(scene.summary, scene.absent, hint=_fullest_bands(small))
    if stated is not None:
        return scene, stated
    registration = _estimate_shift(network, scene, small_box)
    if _is_significant(registration):
        scene = _shifted(scene, registration, small_box)
    return scene, registration


def _fullest_bands(small: xr.DataArray) -> str:
    """Advice where every coarse pixel lacks some band; names the bands that lack most pixels."""
    missing = 1 - np.isfinite(small.values).mean((1, 2))
    worst = [band for band in np.argsort(-missing) if 0 < missing[band] < 1][:3]
    names = ", ".join(f"{small.band.item(band)} ({missing[band]:.0%})" for band in worst)
    return f"leave out the bands that miss most, or fill their holes: {names}"


def _estimate_shift(network: FusionModel, scene: PreparedScene, box: GeoBox) -> ShiftEstimate:
    """Shift before the model is fitted; not trusted where the model estimates it itself."""
    if network.estimates_observation:
        return ShiftEstimate(0.0, 0.0, np.inf, False, "left to the model")
    if not _in_metres(box):
        reason = "pixels in degrees: a shift in metres is not defined"
        return ShiftEstimate(0.0, 0.0, np.inf, False, reason)
    summary = scene.summary
    degraded = np.where(summary.guide_known.numpy(), summary.guide_coarse.numpy(), np.nan)
    values = summary.coarse.numpy()[~scene.absent]
    valid = summary.frames_valid[0].numpy()
    shift = estimate_shift(degraded, values, pixel_m=abs(box.affine.a), valid=valid)
    return shift if _is_significant(shift) else replace(shift, dx_m=0.0, dy_m=0.0)


def _is_significant(shift: ShiftEstimate) -> bool:
    return shift.trusted and np.hypot(shift.dx_m, shift.dy_m) > SIGNIFICANT * shift.sigma_m


def _shifted(scene: PreparedScene, shift: ShiftEstimate, box: GeoBox) -> PreparedScene:
    """Resample the coarse image onto the guide: each pixel is read at its place plus the shift."""
    rows = shift.dy_m / box.affine.e
    columns = shift.dx_m / box.affine.a
    # scipy shifts content, so the sign is the opposite of that of the place to read
    options: dict[str, Any] = {"shift": (-rows, -columns), "mode": "nearest"}
    image = np.stack([ndimage.shift(band, order=3, **options) for band in scene.inputs.coarse])
    share = ndimage.shift(scene.inputs.coarse_valid.astype("float32"), order=1, **options)
    valid = share > LEAST_SHARE
    summary = replace(
        scene.summary,
        frames=torch.from_numpy(image)[None],
        frames_valid=torch.from_numpy(valid)[None],
        registered=True,
    )
    inputs = replace(scene.inputs, coarse=image, coarse_valid=valid)
    return replace(scene, summary=summary, inputs=inputs)


def _quality(image: FloatArray, inputs: Inputs, ratio: int, shift: ShiftEstimate) -> IntArray:
    """Flags (y, x) uint16 of a fused image (c, y, x) that is NaN where the guide is missing."""
    missing = ~inputs.coarse_valid.repeat(ratio, 0).repeat(ratio, 1)
    quality = np.where(inputs.guide_valid, 0, np.uint16(Quality.GUIDE_MISSING))
    quality |= np.where(missing, np.uint16(Quality.COARSE_MISSING), 0)
    quality |= np.where(out_of_range(image), np.uint16(Quality.OUT_OF_RANGE), 0)
    if not shift.trusted:
        quality |= np.uint16(Quality.SHIFT_UNTRUSTED)
    return quality.astype("uint16")


def _dataset(
    image: FloatArray,
    sigma: FloatArray | None,
    quality: IntArray,
    small: xr.DataArray,
    box: GeoBox,
) -> xr.Dataset:
    """Dataset of `fuse` without its attributes; `sigma` counts where `image` is finite."""
    table = band_table(small.band.values)
    coords = {
        **xr_coords(box, dims=("y", "x")),
        "band": small.band.values,
        "wavelength_nm": ("band", [band.wavelength_nm for band in table]),
        "fwhm_nm": ("band", [band.fwhm_nm for band in table]),
    }
    out = xr.Dataset(
        {
            "reflectance": (("band", "y", "x"), image, REFLECTANCE_ATTRS),
            "quality": (("y", "x"), quality, flag_attrs() | PLANE),
        },
        coords=coords,
    )
    if sigma is not None:
        sigma[~np.isfinite(image)] = np.nan
        out["uncertainty"] = (("band", "y", "x"), sigma, UNCERTAINTY_ATTRS)
    return out


def _attrs(
    shift: ShiftEstimate, observation: Observation | None, ratio: int, name: str
) -> dict[str, Any]:
    """Attributes of the dataset that `fuse` returns."""
    attrs = {
        "shift_m": (shift.dx_m, shift.dy_m),
        "shift_sigma_m": shift.sigma_m,
        "shift_trusted": int(shift.trusted),  # netCDF has no bool
        "shift_reason": shift.reason,
        "ratio": ratio,
        "model": name,
    }
    if observation:
        attrs["psf_sigma"] = observation.psf_sigma.tolist()
        attrs["gain"] = observation.gain.tolist()
    return attrs


def _rows_northward(out: xr.Dataset) -> xr.Dataset:
    """The dataset with the order of rows of a guide whose rows run northward."""
    out = out.isel(y=slice(None, None, -1))
    out["spatial_ref"].attrs.pop("GeoTransform")  # it describes rows that run southward
    return out
