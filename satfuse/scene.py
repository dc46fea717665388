"""A scene: one pair on one GeoBox, masked and co-registered."""

import logging
from dataclasses import asdict, replace

import dask
import dask.array as da
import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from satfuse.errors import RegistrationError
from satfuse.geometry.cells import average, cell_psf_sigma, cells_per_pixel, sample_windows
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
SWATH_PX = 0.03  # standard deviation that the sampling of the swath adds to the shift


def make_scene(
    pair: Pair, geobox: GeoBox, *, ratio: int = RATIO, shift="estimate", missing: str = "raise"
) -> xr.Dataset:
    """Read a pair onto a GeoBox and put the coarse image where the guide is, in one resampling from the swath.

    The swath is rectified as its geolocation says, the shift against the degraded guide estimated (`register`), and the
    swath rectified again with both mappings composed. A shift that cannot be trusted is not applied; every coarse pixel
    then has `Quality.SHIFT_UNTRUSTED`. A scene that has `shift_m` in its `attrs` (so has its `coarse`) is registered:
    it must not be registered again.

    Parameters
    ----------
    pair : see `satfuse.pairing`; further frames (`extra_coarse`) are not read.
    geobox : the guide's grid; `ratio` divides its size.
    ratio : guide pixels per coarse pixel.
    shift : "estimate", "none", or (dx, dy) in metres east and north.
    missing : "raise" or "flag", see the readers.

    Returns
    -------
    Dataset with `guide (guide_band, y, x)`, `guide_valid` and `guide_quality (y, x)`, lazy; `coarse (coarse_band,
    y_coarse, x_coarse)`, `coarse_valid`, `coarse_quality`, in memory; with shift="estimate" also `guide_cells
    (guide_band, y_cell, x_cell)`, see `average_guide`. Reflectance is float32, NaN where missing; valid: True =
    usable. `attrs`: `shift_m`, `shift_sigma_m`, `shift_trusted`, `shift_reason`, `gap_s`, `gap_clock`,
    `guide_angles`, `coarse_angles`, `item_ids`, `baselines`, `psf_sigma`, `ledger`.

    Raises
    ------
    GridError, ReadError, AccessError
        A size that `ratio` does not divide; items that cannot be read.
    RegistrationError
        `shift` is none of the above.
    """
    coarse_box = coarse_geobox(geobox, ratio)
    given = _given(shift)
    guide = sentinel2.open_sentinel2(
        pair.guide_items, geobox, spec=pair.guide_spec, missing=missing
    )
    swath = sentinel3_syn.open_syn(
        pair.coarse_items, spec=pair.coarse_spec, missing=missing, bbox=lonlat_bbox(geobox)
    )
    swath = swath.load()
    cells = None
    if given is None:
        cells = average_guide(guide["reflectance"], guide["valid"], ratio)
        degraded = degrade_cells(cells, ratio, cells.shape[-1] // coarse_box.width)
        coarse, estimate = register(swath, degraded, coarse_box)
        log.log(logging.INFO if estimate.trusted else logging.WARNING, "%s: %s", pair.id, estimate)
    else:
        estimate = ShiftEstimate(*given, 0.0, True, "given")
        coarse = rectify(swath, coarse_box, given)
    return _assemble(pair, guide, coarse, cells, estimate)


def register(
    swath: xr.Dataset, guide_coarse, coarse_box: GeoBox
) -> tuple[xr.Dataset, ShiftEstimate]:
    """Rectify a swath where the degraded guide has its content.

    The bilinear weights of a swath sampled between its pixels move the content by some hundredths of a pixel,
    differently for every shift. So what is left is estimated again on the swath sampled with the first estimate.

    Parameters
    ----------
    swath : see `geometry.swath.rectify`.
    guide_coarse : (g, y, x), the guide degraded onto `coarse_box`.

    Returns
    -------
    The rectified Dataset, with the shift applied where it is trusted, and the estimate.
    """
    pixel_m = abs(coarse_box.affine.a)
    coarse, dx, dy = rectify(swath, coarse_box), 0.0, 0.0
    for _ in range(ROUNDS):
        left = estimate_shift(
            guide_coarse,
            coarse["reflectance"].values,
            pixel_m=pixel_m,
            valid=coarse["valid"].values,
        )
        if not left.trusted:
            return rectify(swath, coarse_box), left
        dx, dy = dx + left.dx_m, dy + left.dy_m
        coarse = rectify(swath, coarse_box, (dx, dy))
    return coarse, replace(
        left, dx_m=dx, dy_m=dy, sigma_m=float(np.hypot(left.sigma_m, SWATH_PX * pixel_m))
    )


def average_guide(guide, valid, ratio: int) -> np.ndarray:
    """`geometry.cells.average` of a lazy guide; every pixel is read once, and only a few chunks are held at a time.

    Parameters
    ----------
    guide : (band, y, x) DataArray or array, lazy or not; anything where not valid.
    valid : (y, x) bool, True = usable.
    ratio : divides the size of the guide.

    Returns
    -------
    (band, y / ratio * k, x / ratio * k) float32, k of `cells_per_pixel`; NaN where less than half of a cell is valid.
    """
    guide, valid = da.asarray(guide), da.asarray(valid)
    block = ratio // cells_per_pixel(ratio, valid.shape)
    sides = [
        _multiples(c[0], size, block) for c, size in zip(guide.chunks[1:], valid.shape, strict=True)
    ]
    guide, valid = guide.rechunk((-1, *sides)), valid.rechunk(tuple(sides))
    smaller = [tuple(s // block for s in side) for side in sides]
    chunks = ((guide.shape[0],), *smaller)
    return da.map_blocks(
        _cells, guide, valid[None], block, chunks=chunks, dtype=np.float32
    ).compute()


def sample_guide(guide: xr.DataArray, valid: xr.DataArray, ratio: int) -> np.ndarray:
    """(n, band, p, q) float32 parts of the guide at full resolution, NaN where missing; see `sample_windows`."""
    windows = [{"y": y, "x": x} for y, x in sample_windows(ratio, valid.shape)]
    parts = dask.compute(*(guide.isel(w).where(valid.isel(w)).data for w in windows))
    return np.stack(parts).astype(np.float32)


def _cells(guide, valid, block):
    means, known = average(guide, valid[0], block)
    return np.where(known, means, np.float32(np.nan))


def _multiples(chunk, size, block):
    """Chunk sizes along an axis that are whole blocks."""
    step = max(chunk // block, 1) * block
    return (step,) * (size // step) + ((size % step,) if size % step else ())


def degrade_cells(
    cells: np.ndarray, ratio: int, k: int, psf_sigma: float = DEFAULT_PSF_SIGMA
) -> np.ndarray:
    """The guide at the coarse scale from its means over k x k cells per coarse pixel, NaN where it is missing."""
    return degrade(cells, k, cell_psf_sigma(psf_sigma, ratio, k), valid=np.isfinite(cells).all(0))


def _given(shift):
    """None where the shift shall be estimated, else (dx, dy) in m."""
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
        raise RegistrationError(f"{shift=} must be finite")
    return dx, dy


def _assemble(pair, guide, coarse, cells, estimate):
    applied = coarse.attrs["shift_m"]
    flags = np.uint16(0 if estimate.trusted else Quality.SHIFT_UNTRUSTED)
    flags |= np.uint16(Quality.TIME_APPROXIMATE if pair.approximate else 0)
    out = xr.merge(
        [_named(guide, "guide"), _named(coarse, "coarse", y="y_coarse", x="x_coarse")],
        compat="override",
    )
    out["coarse_quality"] = (out["coarse_quality"] | flags).assign_attrs(
        out["coarse_quality"].attrs
    )
    if cells is not None:
        out["guide_cells"] = (("guide_band", "y_cell", "x_cell"), cells)
    out["coarse"].attrs["shift_m"] = applied
    out.attrs = {
        "shift_m": applied,
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
    return out


def _named(data, role, **dims):
    """reflectance -> role, valid -> role_valid, quality -> role_quality, band -> role_band."""
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
