"""The hallucination check: where two products of one scene differ by more than the inputs allow.

The inputs support, at a fine pixel, the guide's bands mixed linearly into the coarse bands plus the
upsampled residual of that mix against the coarse image. How far a faithful product may be from it
follows from the scene's residual: the misfit of the mix at coarse scale, carried to fine pixels by
how much more the guide varies there. A deviation is a difference in these units, root mean square
over the bands; above `LIMIT` the inputs cannot explain it. A product may have any share of the
supported detail: between the supported and the upsampled coarse image it is blurred, not invented.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import find_objects, label

from satfuse import metrics
from satfuse.arrays import BoolArray, FloatArray
from satfuse.errors import BandError, GridError
from satfuse.geometry.resample import fill_nearest
from satfuse.validate.checks import by_band
from satfuse.validate.drawing import FieldMap
from satfuse.validate.upsample import bicubic_matrix, upsample
from satfuse.validate.views import Views, all_finite

LIMIT = 3.0  # deviation, in units of the scene's residual, beyond which a difference counts
NOISE = 0.002  # reflectance: the sensors' noise alone causes a difference of this size
REGIONS = 10  # largest disputed regions that are reported


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Deviations of the sampled pixels (y, x) in scene residuals, NaN where undefined.

    `between` the two products; `first` and `other`: of each product from what the inputs support.
    """

    between: FloatArray
    first: FloatArray
    other: FloatArray

    @property
    def disputed(self) -> BoolArray:
        """(y, x) bool: the products differ beyond the limit, and at least one is not supported."""
        return (self.between > LIMIT) & (np.maximum(self.first, self.other) > LIMIT)


def residual(views: Views) -> FloatArray:
    """The scene's residual (band,) in reflectance at fine pixels; no product enters."""
    misfit = views.coarse - views.images["regression"].degraded
    at_coarse = np.sqrt(np.mean(misfit[:, views.compare] ** 2, axis=1))
    # how much more the guide varies at fine than at coarse pixels: the median over its bands,
    # and not below 1, since fine pixels are the less averaged ones
    fine = np.nanstd(views.guide.sample, axis=(1, 2), dtype=float)
    coarse = views.guide.degraded[:, views.compare].std(axis=1)
    varying = coarse > 0
    spread = np.median(fine[varying] / coarse[varying]) if varying.any() else 1.0
    # misfit and sensor noise add as independent errors
    return np.hypot(at_coarse * max(spread, 1.0), NOISE)


def supported(views: Views) -> FloatArray:
    """Reflectance (band, y, x) of the sampled pixels that the inputs support.

    The mixed guide plus the upsampled residual of the mix against the coarse input.
    """
    mixed = views.images["regression"]
    # also NaN where the mix is: without the guide there is no residual
    misfit: FloatArray = views.coarse - mixed.degraded
    misfit = fill_nearest(misfit, ~all_finite(misfit))
    by_row, by_column = (bicubic_matrix(n, views.ratio) for n in misfit.shape[1:])
    return mixed.sample + upsample(misfit, by_row[views.rows], by_column[views.columns])


def difference(first: Views, other: Views) -> Difference:
    """Deviations of two products on one grid, over the bands that both have.

    Raises
    ------
    GridError
        Different grids.
    BandError
        No band in common.
    """
    if first.ratio != other.ratio or first.coarse.shape[1:] != other.coarse.shape[1:]:
        raise GridError(
            f"the products have ratios {first.ratio} and {other.ratio} on {first.coarse.shape[1:]} "
            f"and {other.coarse.shape[1:]} coarse pixels; compare products of one field and one "
            "pixel size"
        )
    _, a, b = common_bands(first, other)
    # everything in units of the residual from here on, so that bands count alike
    unit = residual(first)[a][:, None, None]
    detailed = supported(first)[a] / unit
    blurred = first.images["bicubic"].sample[a] / unit
    first_image = first.images["fused"].sample[a] / unit
    other_image = other.images["fused"].sample[b] / unit
    return Difference(
        between=_deviation(other_image - first_image),
        first=_unsupported(first_image, detailed, blurred),
        other=_unsupported(other_image, detailed, blurred),
    )


def _deviation(image: FloatArray) -> FloatArray:
    """Root mean square (y, x) over the bands of (band, y, x)."""
    return np.sqrt(np.mean(image**2, axis=0))


def _unsupported(image: FloatArray, detailed: FloatArray, blurred: FloatArray) -> FloatArray:
    """Distance (y, x) of each spectrum from the line between its detailed and blurred versions."""
    line = blurred - detailed
    offset = image - detailed
    length = (line**2).sum(0)
    # 0 = all of the supported detail, 1 = none; beyond both ends the distance is to the end point
    blur = np.divide((line * offset).sum(0), length, out=np.zeros_like(length), where=length > 0)
    return _deviation(offset - np.clip(blur, 0, 1) * line)


def common_bands(first: Views, other: Views) -> tuple[list[str], list[int], list[int]]:
    """Names of the bands that both have, and their indices in each.

    Raises
    ------
    BandError
        There are none.
    """
    names = [b for b in first.bands if b in other.bands]
    if not names:
        raise BandError(
            f"the products share no band: {', '.join(first.bands)} against {', '.join(other.bands)}"
        )
    return names, [first.bands.index(n) for n in names], [other.bands.index(n) for n in names]


def difference_scores(
    first: Views, other: Views, deviation: Difference, field: FieldMap
) -> dict[str, Any]:
    """Difference of two products, and which of them the inputs do not support.

    Returns
    -------
    "rmse", "bias" (other minus first), "sam_deg" between them; "bands": {band: {"rmse", "bias",
    "residual"}}; "same_inputs": whether both were made from one coarse image; "limit";
    "share_beyond" of the valid pixels where they differ by more than the limit;
    "share_unsupported": share of the disputed pixels, where moreover at least one of them deviates
    from what the inputs support by more than the limit; "unsupported_first", "unsupported_other":
    share where each one does, whatever the other shows; "regions": see `regions`.
    """
    names, a, b = common_bands(first, other)
    x = other.images["fused"].sample[b]
    z = first.images["fused"].sample[a]
    columns = {
        "rmse": metrics.rmse(x, z, per_band=True),
        "bias": metrics.bias(x, z),
        "residual": residual(first)[a],
    }
    # NaN as 0: the same holes are the same input
    coarse = np.nan_to_num(first.coarse[a]), np.nan_to_num(other.coarse[b])
    valid = np.isfinite(deviation.between)

    def share(mask: BoolArray) -> float:
        return float(mask[valid].mean()) if valid.any() else np.nan

    return {
        "rmse": metrics.rmse(x, z),
        "bias": float(columns["bias"].mean()),
        "sam_deg": metrics.sam_deg(x, z),
        "bands": by_band(names, columns),
        "same_inputs": bool(np.allclose(*coarse, atol=1e-4)),  # to one digital number
        "limit": LIMIT,
        "share_beyond": share(deviation.between > LIMIT),
        "share_unsupported": share(deviation.disputed),
        "unsupported_first": share(deviation.first > LIMIT),
        "unsupported_other": share(deviation.other > LIMIT),
        "regions": regions(deviation, field),
    }


def regions(deviation: Difference, field: FieldMap) -> list[dict[str, Any]]:
    """The largest connected regions of disputed pixels, largest first.

    Returns
    -------
    [{"easting_km", "northing_km" (of the centroid), "area_m2", "width_m", "height_m" (of the
    bounding box), "peak" (largest deviation between the products), "unsupported" ("first" or
    "other": which the inputs support less)}]
    """
    # regions are counted in sampled pixels, which are `stride` fine pixels apart
    stride = field.rows[1] - field.rows[0] if len(field.rows) > 1 else 1
    step_m = field.pixel_m * stride
    return [
        _region(deviation, field, rows, columns, inside, step_m)
        for rows, columns, inside in _largest(deviation.disputed)
    ]


def _largest(mask: BoolArray) -> Iterator[tuple[slice, slice, BoolArray]]:
    """Yield rows and columns of the largest connected regions, and their pixels inside of these."""
    numbered, count = label(mask, structure=np.ones((3, 3)))  # diagonal neighbours are connected
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]  # without the background, 0
    boxes = find_objects(numbered)
    for k in np.argsort(-sizes, kind="stable")[:REGIONS]:
        rows, columns = boxes[k]
        yield rows, columns, numbered[rows, columns] == k + 1


def _region(
    deviation: Difference,
    field: FieldMap,
    rows: slice,
    columns: slice,
    inside: BoolArray,
    step_m: float,
) -> dict[str, Any]:
    """Place, size and deviations of a region, see `regions`; `step_m` between sampled pixels."""
    i, j = np.nonzero(inside)
    x, y = field.position_km(i.mean() + rows.start, j.mean() + columns.start)
    first = deviation.first[rows, columns][inside].mean()
    other = deviation.other[rows, columns][inside].mean()
    return {
        "easting_km": float(x),
        "northing_km": float(y),
        "area_m2": float(inside.sum() * step_m**2),
        "width_m": float((columns.stop - columns.start) * step_m),
        "height_m": float((rows.stop - rows.start) * step_m),
        "peak": float(deviation.between[rows, columns][inside].max()),
        "unsupported": "other" if other > first else "first",
    }
