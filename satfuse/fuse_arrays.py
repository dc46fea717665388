"""`satfuse.fuse`: fuse two arrays that a user already has."""

from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from affine import Affine
from odc.geo.crs import CRS, CRSError
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from scipy import ndimage

from satfuse import checkpoint, models
from satfuse.arrays import FloatArray
from satfuse.errors import BandError, GridError, RadiometryError
from satfuse.geometry.grids import nesting_ratio
from satfuse.geometry.shift import ShiftEstimate, estimate_shift
from satfuse.models import FusionModel
from satfuse.models.blocks import Cut, Inputs, fuse_whole
from satfuse.models.prepare import PreparedScene, prepare_scene, require_overlap, shift_verdict
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.bands import bands as band_table
from satfuse.sensors.quality import Quality, flag_attrs, out_of_range

BLOCK_PX = 900
HIGHEST_MEDIAN = 2.0  # no surface has a median reflectance above this
SIGNIFICANT = 2.0  # standard deviations: resampling by a smaller shift would only blur
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
    """Fuse a fine and a coarse image of one moment.

    Parameters
    ----------
    guide : (band, y, x) reflectance with Sentinel-2 band names (any of them); NaN where missing.
    coarse : (band, y, x) reflectance with Sentinel-3 SYN band names (any of them) on a grid that nests
        in the guide's: its pixels are a whole number of guide pixels, its corners coincide. It is
        registered to the guide first, or by the model, unless its `attrs` hold `shift_m`: the shift
        (east, north) that has been taken out. `attrs["shift_trusted"] = 0` says that this registration
        failed: then the model searches for the shift itself where it can, and it is flagged where not.
    model : name of a model whose weights are in the package or that needs none, folder of a checkpoint,
        or a `FusionModel`; "bayesian" by default.

    Returns
    -------
    Dataset on the guide's grid: `reflectance (band, y, x)` float32 with the coarse bands in their order,
    NaN where the guide is missing; `quality (y, x)` uint16, see `satfuse.sensors.quality`; from models
    that give it, `uncertainty (band, y, x)`, the standard deviation of the error. `attrs`: `shift_m`,
    `shift_sigma_m`, `shift_trusted`, `shift_reason`, `ratio`, `model`; from models that estimate them
    `psf_sigma` (coarse pixels) and `gain` per band.

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
    given = _given_shift(coarse)
    registered = given is not None and given.trusted
    scene = prepare_scene(fine.values, small.values, ratio=ratio, registered=registered)
    require_overlap(scene.summary, scene.absent, hint=_fullest_bands(small))
    registration = given or _registration(network, scene, small_box)
    if given is None and _is_significant(registration):
        scene = _moved(scene, registration, small_box)
        registered = True
    with torch.inference_mode():
        state = network.fit(scene.summary)
    observation = network.observation(state)
    shift = shift_verdict(
        observation,
        registration,
        registered=registered,
        transform=small_box.affine,
        in_metres=not small_box.crs.geographic,
    )
    cut = Cut.of(network, scene.inputs.guide_valid.shape, ratio, block_px=BLOCK_PX)
    image, sigma = fuse_whole(network, state, scene.inputs, cut)
    image[scene.absent] = np.nan
    out = _dataset(image, scene.inputs, small, fine_box, ratio)
    out = out.assign_coords(y=fine.y, x=fine.x)
    if sigma is not None:
        sigma[~np.isfinite(out.reflectance.values)] = np.nan
        out["uncertainty"] = (("band", "y", "x"), sigma, UNCERTAINTY_ATTRS)
    if not shift.trusted:
        out["quality"] |= np.uint16(Quality.SHIFT_UNTRUSTED)
    out.attrs = {
        "shift_m": (shift.dx_m, shift.dy_m),
        "shift_sigma_m": shift.sigma_m,
        "shift_trusted": int(shift.trusted),  # netCDF knows no bool
        "shift_reason": shift.reason,
        "ratio": ratio,
        "model": name,
    }
    if observation:
        out.attrs["psf_sigma"] = observation.psf_sigma.tolist()
        out.attrs["gain"] = observation.gain.tolist()
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


def _fullest_bands(small) -> str:
    """The way out where every coarse pixel lacks some band: the bands that lack most pixels."""
    missing = 1 - np.isfinite(small.values).mean((1, 2))
    most = [b for b in np.argsort(-missing) if 0 < missing[b] < 1][:3]
    names = ", ".join(f"{small.band.item(b)} ({missing[b]:.0%})" for b in most)
    return f"leave out the bands that miss most, or fill their holes: {names}"


def _given_shift(coarse: xr.DataArray) -> ShiftEstimate | None:
    """The registration that the coarse image states in its attributes, or None."""
    if "shift_m" not in coarse.attrs:
        return None
    try:
        dx_m, dy_m = map(float, coarse.attrs["shift_m"])
    except (TypeError, ValueError) as error:
        raise GridError(
            f"coarse.attrs['shift_m'] is {coarse.attrs['shift_m']!r}; give (east, north) in m, or "
            "drop it"
        ) from error
    if not np.isfinite([dx_m, dy_m]).all():
        raise GridError(
            f"coarse.attrs['shift_m'] is ({dx_m}, {dy_m}); give finite metres, or drop it"
        )
    if coarse.attrs.get("shift_trusted", 1):
        return ShiftEstimate(dx_m, dy_m, 0.0, True, "given: the image is registered")
    reason = "coarse.attrs['shift_trusted'] is 0: its registration failed"
    return ShiftEstimate(dx_m, dy_m, np.inf, False, reason)


def _registration(network: FusionModel, scene: PreparedScene, box: GeoBox) -> ShiftEstimate:
    """The shift as estimated before the model sees the scene; not trusted where that is left to the model."""
    if network.estimates_observation:
        return ShiftEstimate(0.0, 0.0, np.inf, False, "left to the model")
    if box.crs.geographic:
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


def _moved(scene: PreparedScene, shift: ShiftEstimate, box: GeoBox) -> PreparedScene:
    """The scene with its coarse image sampled where its content lies: each pixel's place plus the shift."""
    rows = shift.dy_m / box.affine.e
    columns = shift.dx_m / box.affine.a
    options = {"shift": (-rows, -columns), "mode": "nearest"}
    image = np.stack([ndimage.shift(band, order=3, **options) for band in scene.inputs.coarse])
    share = ndimage.shift(scene.inputs.coarse_valid.astype("float32"), order=1, **options)
    valid = share > 0.99  # no more than a hundredth of the sample is a hole
    summary = replace(
        scene.summary,
        frames=torch.from_numpy(image)[None],
        frames_valid=torch.from_numpy(valid)[None],
        registered=True,
    )
    inputs = replace(scene.inputs, coarse=image, coarse_valid=valid)
    return replace(scene, summary=summary, inputs=inputs)


def _dataset(
    image: FloatArray, inputs: Inputs, small: xr.DataArray, box: GeoBox, ratio: int
) -> xr.Dataset:
    image[:, ~inputs.guide_valid] = np.nan  # before the range is checked: fills are no result
    missing = ~inputs.coarse_valid.repeat(ratio, 0).repeat(ratio, 1)
    quality = np.where(inputs.guide_valid, 0, np.uint16(Quality.GUIDE_MISSING))
    quality |= np.where(missing, np.uint16(Quality.COARSE_MISSING), 0)
    quality |= np.where(out_of_range(image), np.uint16(Quality.OUT_OF_RANGE), 0)
    table = band_table(small.band.values)
    coords = {
        **xr_coords(box, dims=("y", "x")),
        "band": small.band.values,
        "wavelength_nm": ("band", [b.wavelength_nm for b in table]),
        "fwhm_nm": ("band", [b.fwhm_nm for b in table]),
    }
    return xr.Dataset(
        {
            "reflectance": (("band", "y", "x"), image, REFLECTANCE_ATTRS),
            "quality": (("y", "x"), quality.astype("uint16"), flag_attrs() | PLANE),
        },
        coords=coords,
    )
