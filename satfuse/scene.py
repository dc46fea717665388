"""A scene: one pair on one GeoBox, masked and co-registered."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import dask
import dask.array as da
import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from satfuse.arrays import BoolArray, FloatArray
from satfuse.errors import RegistrationError
from satfuse.geometry.cells import (
    average,
    cell_psf_sigma,
    choose_cells_per_pixel,
    sample_windows,
)
from satfuse.geometry.grids import coarse_geobox, lonlat_bbox
from satfuse.geometry.shift import ShiftEstimate, estimate_shift
from satfuse.geometry.swath import rectify
from satfuse.pairing import Pair
from satfuse.readers import sentinel2, sentinel3_syn
from satfuse.sensors.bands import RATIO
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, degrade
from satfuse.sensors.quality import Quality

log = logging.getLogger(__name__)

ROUNDS = 2  # of estimating the shift
SWATH_PX = 0.03  # standard deviation that sampling the swath adds to the shift, in coarse pixels
Shift = Literal["estimate", "none"] | tuple[float, float]  # (dx, dy) in metres east and north


def make_scene(
    pair: Pair,
    geobox: GeoBox,
    *,
    ratio: int = RATIO,
    shift: Shift = "estimate",
    missing: str = "raise",
) -> xr.Dataset:
    """Read a pair onto a GeoBox and register the coarse image to the guide.

    The swath is rectified with its geolocation, the shift against the degraded guide is estimated
    (`register`), and the swath is rectified again with both mappings composed, so it is resampled
    only once. A shift that cannot be trusted is not applied; every coarse pixel then has
    `Quality.SHIFT_UNTRUSTED`. A scene with `shift_m` in its `attrs` (`coarse` has it too) must not
    be registered again.

    Parameters
    ----------
    pair : see `satfuse.pairing`; further frames (`extra_coarse`) are not read.
    geobox : the guide's grid; `ratio` divides its size.
    ratio : guide pixels per coarse pixel.
    shift : "estimate", "none", or a known (dx, dy) in metres east and north.
    missing : "raise" or "flag", see the readers.

    Returns
    -------
    Dataset of reflectance (float32, NaN where missing), masks (True = usable) and flags:

    - lazy: `guide (guide_band, y, x)`, `guide_valid` and `guide_quality (y, x)`;
    - in memory: `coarse (coarse_band, y_coarse, x_coarse)`, `coarse_valid`, `coarse_quality`;
    - in memory, as models summarise the guide: `guide_cells (guide_band, y_cell, x_cell)`, see
      `average_guide`, and `guide_patches (patch, guide_band, y_patch, x_patch)`, see
      `sample_guide`.

    `attrs`: `shift_m`, `shift_sigma_m`, `shift_trusted`, `shift_reason`, `gap_s`, `gap_clock`,
    `guide_angles`, `coarse_angles`, `item_ids`, `baselines`, `psf_sigma`, `ledger`. `coarse` has
    `shift_m` and `shift_trusted` (0 or 1, as netCDF has no bool).

    Raises
    ------
    GridError, ReadError, AccessError
        A size that `ratio` does not divide; items that cannot be read.
    RegistrationError
        `shift` is none of the above.
    """
    coarse_box = coarse_geobox(geobox, ratio)
    known_shift = _known_shift(shift)
    guide = sentinel2.open_sentinel2(
        pair.guide_items, geobox, spec=pair.guide_spec, missing=missing
    )
    swath = sentinel3_syn.open_syn(
        pair.coarse_items, spec=pair.coarse_spec, missing=missing, bbox=lonlat_bbox(geobox)
    ).load()
    # one computation for both, so that every chunk of the guide is read once
    cells, patches = dask.compute(
        _lazy_cells(guide["reflectance"], guide["valid"], ratio),
        _lazy_patches(guide["reflectance"], guide["valid"], ratio),
    )
    if known_shift is None:
        degraded = degrade_cells(cells, ratio, cells.shape[-1] // coarse_box.width)
        coarse, estimate = register(swath, degraded, coarse_box)
        log.log(logging.INFO if estimate.trusted else logging.WARNING, "%s: %s", pair.id, estimate)
    else:
        estimate = ShiftEstimate(*known_shift, 0.0, True, "given")
        coarse = rectify(swath, coarse_box, known_shift)
    scene = _merge(guide, coarse, _extra_flags(pair, estimate))
    scene["guide_cells"] = (("guide_band", "y_cell", "x_cell"), cells)
    scene["guide_patches"] = (("patch", "guide_band", "y_patch", "x_patch"), patches)
    scene.attrs = _attrs(pair, guide, coarse, estimate)
    scene["coarse"].attrs.update(
        shift_m=scene.attrs["shift_m"], shift_trusted=int(estimate.trusted)
    )
    return scene


def register(
    swath: xr.Dataset, guide_coarse: FloatArray, coarse_box: GeoBox
) -> tuple[xr.Dataset, ShiftEstimate]:
    """Rectify a swath onto the degraded guide.

    The bilinear weights of a swath sampled between its pixels displace the content by some
    hundredths of a pixel, differently for every shift. So the residual shift is estimated again on
    the swath sampled with the first estimate.

    Parameters
    ----------
    swath : see `geometry.swath.rectify`.
    guide_coarse : (g, y, x), the guide degraded onto `coarse_box`.

    Returns
    -------
    The rectified Dataset, with the shift applied where it is trusted, and the estimate.
    """
    pixel_m = abs(coarse_box.affine.a)
    coarse = rectify(swath, coarse_box)
    dx = dy = 0.0
    for _ in range(ROUNDS):
        residual = estimate_shift(
            guide_coarse,
            coarse["reflectance"].values,
            pixel_m=pixel_m,
            valid=coarse["valid"].values,
        )
        if not residual.trusted:
            return rectify(swath, coarse_box), residual
        dx += residual.dx_m
        dy += residual.dy_m
        coarse = rectify(swath, coarse_box, (dx, dy))
    sigma_m = float(np.hypot(residual.sigma_m, SWATH_PX * pixel_m))
    return coarse, replace(residual, dx_m=dx, dy_m=dy, sigma_m=sigma_m)


def average_guide(guide: xr.DataArray, valid: xr.DataArray, ratio: int) -> FloatArray:
    """Means of a lazy guide over cells (`geometry.cells.average`).

    Every pixel is read once, and only a few chunks are in memory at a time.

    Parameters
    ----------
    guide : (band, y, x) DataArray or array, lazy or not; values where not valid are ignored.
    valid : (y, x) bool, True = usable.
    ratio : divides the size of the guide.

    Returns
    -------
    (band, y / ratio * k, x / ratio * k) float32, k of `choose_cells_per_pixel`; NaN where less than
    half of a cell is valid.
    """
    return _lazy_cells(guide, valid, ratio).compute()


def sample_guide(guide: xr.DataArray, valid: xr.DataArray, ratio: int) -> FloatArray:
    """Patches of the guide at full resolution; see `geometry.cells.sample_windows`.

    Parameters
    ----------
    guide : (band, y, x), lazy or not.
    valid : (y, x) bool, True = usable.
    ratio : divides the size of the guide.

    Returns
    -------
    (patch, band, p, q) float32, NaN where not valid.
    """
    return _lazy_patches(guide, valid, ratio).compute()


def _lazy_cells(guide: xr.DataArray, valid: xr.DataArray, ratio: int) -> da.Array:
    """See `average_guide`."""
    image = da.asarray(guide)
    mask = da.asarray(valid)
    block = ratio // choose_cells_per_pixel(ratio, mask.shape)
    rows, columns = (
        _whole_blocks(chunks[0], size, block)
        for chunks, size in zip(image.chunks[1:], mask.shape, strict=True)
    )
    cells = [tuple(side // block for side in sides) for sides in (rows, columns)]
    return da.map_blocks(
        _nan_average,
        image.rechunk((-1, rows, columns)),
        mask.rechunk((rows, columns))[None],
        block,
        chunks=((image.shape[0],), *cells),
        dtype=np.float32,
    )


def _lazy_patches(guide: xr.DataArray, valid: xr.DataArray, ratio: int) -> da.Array:
    """See `sample_guide`."""
    windows = [{"y": y, "x": x} for y, x in sample_windows(ratio, valid.shape)]
    patches = [guide.isel(window).where(valid.isel(window)).data for window in windows]
    return da.stack(patches).astype(np.float32)


def _nan_average(guide: FloatArray, valid: BoolArray, block: int) -> FloatArray:
    means, enough = average(guide, valid[0], block)
    return np.where(enough, means, np.float32(np.nan))


def _whole_blocks(chunk: int, size: int, block: int) -> tuple[int, ...]:
    """Chunk sizes along an axis of `size` pixels: near `chunk`, each a multiple of `block`."""
    step = max(chunk // block, 1) * block
    return (step,) * (size // step) + ((size % step,) if size % step else ())


def degrade_cells(
    cells: FloatArray, ratio: int, k: int, psf_sigma: float = DEFAULT_PSF_SIGMA
) -> FloatArray:
    """Degrade the guide to coarse pixels from its means over cells.

    Parameters
    ----------
    cells : (band, y * k, x * k), NaN where missing.
    ratio : fine pixels per coarse pixel.
    k : cells per coarse pixel, along each axis.
    psf_sigma : in coarse pixels.

    Returns
    -------
    (band, y, x), NaN where most of the PSF is on missing cells.
    """
    valid = np.asarray(np.isfinite(cells).all(0))
    return degrade(cells, k, cell_psf_sigma(psf_sigma, ratio, k), valid=valid)


def _known_shift(shift: str | Sequence[float]) -> tuple[float, float] | None:
    """(dx, dy) in metres to apply; None = to be estimated."""
    if isinstance(shift, str):
        if shift not in ("estimate", "none"):
            raise RegistrationError(
                f'{shift=} must be "estimate", "none" or (dx, dy) in metres east and north'
            )
        return None if shift == "estimate" else (0.0, 0.0)
    try:
        dx, dy = (float(v) for v in shift)
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"{shift=} must be two numbers, metres east and north") from error
    if not np.isfinite([dx, dy]).all():
        raise RegistrationError(f"{shift=} must be finite, in metres east and north")
    return dx, dy


def _extra_flags(pair: Pair, estimate: ShiftEstimate) -> np.uint16:
    """Flags of every coarse pixel of a scene."""
    flags = Quality(0)
    if not estimate.trusted:
        flags |= Quality.SHIFT_UNTRUSTED
    if pair.approximate:
        flags |= Quality.TIME_APPROXIMATE
    return np.uint16(flags)


def _merge(guide: xr.Dataset, coarse: xr.Dataset, flags: np.uint16) -> xr.Dataset:
    """Guide and coarse image in one Dataset; `flags` are set in every coarse pixel."""
    roles = [_named(guide, "guide"), _named(coarse, "coarse", y="y_coarse", x="x_coarse")]
    scene = xr.merge(roles, compat="override")
    quality = scene["coarse_quality"]
    scene["coarse_quality"] = (quality | flags).assign_attrs(quality.attrs)
    return scene


def _attrs(
    pair: Pair, guide: xr.Dataset, coarse: xr.Dataset, estimate: ShiftEstimate
) -> dict[str, Any]:
    """Attributes of a scene; the shift is the one that was applied."""
    return {
        "shift_m": coarse.attrs["shift_m"],
        "shift_sigma_m": estimate.sigma_m,
        "shift_trusted": estimate.trusted,
        "shift_reason": estimate.reason,
        "gap_s": pair.gap_s,
        "gap_clock": pair.gap_clock,
        "guide_angles": asdict(pair.guide_angles),
        "coarse_angles": asdict(pair.coarse_angles),
        "item_ids": [item["id"] for item in (*pair.guide, *pair.coarse)],
        "baselines": guide.attrs["baselines"],
        "psf_sigma": DEFAULT_PSF_SIGMA,
        "ledger": [*guide.attrs["ledger"], *coarse.attrs["ledger"]],
    }


def _named(data: xr.Dataset, role: str, **dims: str) -> xr.Dataset:
    """Rename the variables and bands of a reader's Dataset to those of a role in the scene.

    reflectance -> role, valid -> role_valid, quality -> role_quality, band -> role_band; `dims`
    renames dimensions.
    """
    data = data[["reflectance", "valid", "quality"]].drop_attrs(deep=False)
    names = {
        "reflectance": role,
        "valid": f"{role}_valid",
        "quality": f"{role}_quality",
        "band": f"{role}_band",
    }
    names |= {n: f"{role}_{n}" for n in ("wavelength_nm", "fwhm_nm") if n in data.coords}
    data = data.rename(names | dims)
    return data.drop_vars("spatial_ref") if dims else data  # one CRS; its transform is the guide's
