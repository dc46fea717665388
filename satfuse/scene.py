"""A scene: one pair on one GeoBox, masked and co-registered."""

import logging
from dataclasses import asdict, replace

import dask
import dask.array as da
import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from satfuse.errors import RegistrationError
from satfuse.geometry.grids import coarse_geobox, lonlat_bbox
from satfuse.geometry.shift import ShiftEstimate, estimate_shift
from satfuse.geometry.swath import rectify
from satfuse.pairing import Pair
from satfuse.readers import sentinel2, sentinel3_syn
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, TIE, psf_kernel
from satfuse.sensors.quality import Quality

log = logging.getLogger(__name__)

ROUNDS = 2  # of estimating the shift
SWATH_PX = 0.03  # standard deviation that the sampling of the swath adds to the shift


def make_scene(pair: Pair, geobox: GeoBox, *, ratio: int = 30, shift="estimate", missing: str = "raise") -> xr.Dataset:
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
    y_coarse, x_coarse)`, `coarse_valid`, `coarse_quality`, in memory; with shift="estimate" also `guide_coarse
    (guide_band, y_coarse, x_coarse)`, the degraded guide. Reflectance is float32, NaN where missing; valid: True =
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
    guide = sentinel2.open_sentinel2(pair.guide_items, geobox, spec=pair.guide_spec, missing=missing)
    swath = sentinel3_syn.open_syn(pair.coarse_items, spec=pair.coarse_spec, missing=missing, bbox=lonlat_bbox(geobox))
    swath = swath.load()
    degraded = None
    if given is None:
        degraded = degrade_guide(guide["reflectance"], guide["valid"], ratio)
        coarse, estimate = register(swath, degraded, coarse_box)
        log.log(logging.INFO if estimate.trusted else logging.WARNING, "%s: %s", pair.id, estimate)
    else:
        estimate = ShiftEstimate(*given, 0.0, True, "given")
        coarse = rectify(swath, coarse_box, given)
    return _assemble(pair, guide, coarse, degraded, estimate)


def register(swath: xr.Dataset, guide_coarse, coarse_box: GeoBox) -> tuple[xr.Dataset, ShiftEstimate]:
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
        left = estimate_shift(guide_coarse, coarse["reflectance"].values, pixel_m=pixel_m, valid=coarse["valid"].values)
        if not left.trusted:
            return rectify(swath, coarse_box), left
        dx, dy = dx + left.dx_m, dy + left.dy_m
        coarse = rectify(swath, coarse_box, (dx, dy))
    return coarse, replace(left, dx_m=dx, dy_m=dy, sigma_m=float(np.hypot(left.sigma_m, SWATH_PX * pixel_m)))


def degrade_guide(guide, valid, ratio: int, psf_sigma: float = DEFAULT_PSF_SIGMA) -> np.ndarray:
    """`sensors.degradation.degrade` for a lazy guide: every chunk is read once, and only a few are held at a time.

    Parameters
    ----------
    guide : (band, y, x) DataArray or array, lazy or not; NaN allowed where not valid.
    valid : (y, x) bool, True = usable.
    ratio : divides the size of the guide.
    psf_sigma : in coarse pixels.

    Returns
    -------
    (band, y / ratio, x / ratio) float32, NaN where less than half of the PSF's weight is valid.
    """
    guide = da.asarray(guide).rechunk({0: -1})
    valid = da.asarray(valid).rechunk(guide.chunks[1:])
    kernel = psf_kernel(ratio, psf_sigma)
    sums = np.zeros((guide.shape[0] + 1, guide.shape[1] // ratio, guide.shape[2] // ratio))
    starts = [np.cumsum((0, *sizes[:-1])) for sizes in guide.chunks[1:]]
    blocks = zip(guide.to_delayed().ravel(), valid.to_delayed().ravel(), strict=True)
    places = [(int(y), int(x)) for y in starts[0] for x in starts[1]]
    part = dask.delayed(_partial_sums)
    parts = [part(g, v, place, kernel, sums.shape[1:]) for (g, v), place in zip(blocks, places, strict=True)]
    for (rows, columns), values in dask.compute(*parts):
        sums[:, rows, columns] += values
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[-1] > 0.5 - TIE, sums[:-1] / sums[-1], np.nan).astype(np.float32)


def _partial_sums(guide, valid, place, kernel, size):
    """What one block adds to the weighted sums of the coarse pixels in its reach; the weights come last."""
    (rows, from_rows), (columns, from_columns) = (
        _axis(start, count, kernel, limit) for start, count, limit in zip(place, valid.shape, size, strict=True)
    )
    layers = [np.where(valid, band, 0.0) for band in guide] + [valid]
    return (rows, columns), np.stack([from_rows @ layer.astype(np.float64) @ from_columns.T for layer in layers])


def _axis(start, count, kernel, limit):
    """Coarse pixels that `count` fine pixels from `start` reach, and the (coarse, fine) PSF weights."""
    width = len(kernel.weights)
    first = max((start - kernel.first - width) // kernel.ratio, 0)
    last = min((start + count - kernel.first) // kernel.ratio + 1, limit)
    index = np.arange(start, start + count) - (np.arange(first, last) * kernel.ratio + kernel.first)[:, None]
    inside = (index >= 0) & (index < width)
    return slice(first, last), np.where(inside, kernel.weights[index.clip(0, width - 1)], 0.0)


def _given(shift):
    """None where the shift shall be estimated, else (dx, dy) in m."""
    if isinstance(shift, str):
        if shift not in ("estimate", "none"):
            raise RegistrationError(f'{shift=} must be "estimate", "none" or (dx, dy) in metres east and north')
        return None if shift == "estimate" else (0.0, 0.0)
    try:
        dx, dy = (float(v) for v in shift)
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"{shift=} must be two numbers, metres east and north") from error
    if not np.isfinite([dx, dy]).all():
        raise RegistrationError(f"{shift=} must be finite")
    return dx, dy


def _assemble(pair, guide, coarse, degraded, estimate):
    applied = coarse.attrs["shift_m"]
    flags = np.uint16(0 if estimate.trusted else Quality.SHIFT_UNTRUSTED)
    flags |= np.uint16(Quality.TIME_APPROXIMATE if pair.approximate else 0)
    out = xr.merge([_named(guide, "guide"), _named(coarse, "coarse", y="y_coarse", x="x_coarse")], compat="override")
    out["coarse_quality"] = (out["coarse_quality"] | flags).assign_attrs(out["coarse_quality"].attrs)
    if degraded is not None:
        out["guide_coarse"] = (("guide_band", "y_coarse", "x_coarse"), degraded)
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
    names = {"reflectance": role, "valid": f"{role}_valid", "quality": f"{role}_quality", "band": f"{role}_band"}
    names |= {n: f"{role}_{n}" for n in ("wavelength_nm", "fwhm_nm") if n in data.coords}
    data = data.rename(names | dims)
    return data.drop_vars("spatial_ref") if dims else data  # one CRS; its transform is the guide's
