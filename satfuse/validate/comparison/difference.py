"""The hallucination check: where two products of one scene differ by more than the scene itself leaves open.

What the inputs support at a fine pixel is the guide's bands mixed linearly into the coarse bands, plus what that lacks
of the coarse image, upsampled. How far a faithful product may be from it is the scene's own residual: what the mixing
lacks at coarse scale, carried to fine pixels by how much more the guide varies there. A deviation is a difference in
these units, root mean square over the bands; above `LIMIT` it is more than the inputs can explain. A product may hold
any share of the supported detail: what lies between that and the upsampled coarse image is blurred, not invented.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import find_objects, label

from satfuse import metrics
from satfuse.errors import BandError, GridError
from satfuse.validate.look import Look, position_km
from satfuse.validate.upsample import bicubic_matrix, fill_nearest, upsample
from satfuse.validate.views import Views

LIMIT = 3.0
NOISE = 0.002  # reflectance that the sensors' noise alone puts in a difference
REGIONS = 10  # largest ones that are told


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Deviations of the sampled pixels (y, x) in units of the scene's residual, NaN where undefined.

    `between` the two products; `first` and `other`: what in each of them the inputs do not support.
    """

    between: np.ndarray
    first: np.ndarray
    other: np.ndarray

    @property
    def disputed(self) -> np.ndarray:
        """(y, x) bool: the products differ beyond the limit, and what at least one shows is not supported."""
        return (self.between > LIMIT) & (np.maximum(self.first, self.other) > LIMIT)


def residual(views: Views) -> np.ndarray:
    """The scene's own residual per band, (band,) in reflectance at fine pixels; no product is looked at."""
    lacking = views.coarse - views.images["regression"].degraded
    at_coarse = np.sqrt(np.mean(lacking[:, views.compare] ** 2, axis=1))
    fine = np.nanstd(views.guide.sample, axis=(1, 2), dtype=float)
    coarse = views.guide.degraded[:, views.compare].std(axis=1)
    spread = np.median(fine[coarse > 0] / coarse[coarse > 0]) if (coarse > 0).any() else 1.0
    return np.hypot(at_coarse * max(spread, 1.0), NOISE)


def supported(views: Views) -> np.ndarray:
    """What the inputs support, (band, y, x) at the sampled pixels: the mixed guide plus the upsampled rest of S3."""
    mixed = views.images["regression"]
    rest = fill_nearest(np.where(np.isfinite(views.coarse), views.coarse - mixed.degraded, np.nan))
    by_row, by_column = (bicubic_matrix(n, views.ratio) for n in rest.shape[1:])
    return mixed.sample + upsample(rest, by_row[views.rows], by_column[views.columns])


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
            f"the products have ratios {first.ratio} and {other.ratio} on {first.coarse.shape[1:]} and "
            f"{other.coarse.shape[1:]} coarse pixels; compare products of one field and one pixel size"
        )
    _, a, b = common_bands(first, other)
    unit = residual(first)[a][:, None, None]
    detailed = supported(first)[a] / unit
    blurred = first.images["bicubic"].sample[a] / unit
    images = (first.images["fused"].sample[a] / unit, other.images["fused"].sample[b] / unit)
    return Difference(
        between=_deviation(images[1] - images[0]),
        first=_invented(images[0], detailed, blurred),
        other=_invented(images[1], detailed, blurred),
    )


def _deviation(image):
    return np.sqrt(np.mean(image**2, axis=0))


def _invented(image, detailed, blurred):
    """Distance of every pixel's spectrum from the line between its detailed and its blurred one."""
    along, there = blurred - detailed, image - detailed
    length = (along**2).sum(0)
    share = np.divide((along * there).sum(0), length, out=np.zeros_like(length), where=length > 0)
    return _deviation(there - np.clip(share, 0, 1) * along)


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


def difference_scores(first: Views, other: Views, found: Difference, look: Look) -> dict:
    """What two products differ by, and whose deviation it is.

    Returns
    -------
    "rmse", "bias" (other minus first), "sam_deg" between them; "bands": {band: {"rmse", "bias", "residual"}};
    "same_inputs": whether both were made from one coarse image; "limit"; "share_beyond" of the valid pixels where they
    differ by more than the limit; "share_unsupported": share where they differ and at least one of them shows more than
    the limit that the inputs do not support; "unsupported_first", "unsupported_other": share where each one does,
    whatever the other shows; "regions": the largest ones of "share_unsupported", see `regions`.
    """
    names, a, b = common_bands(first, other)
    x, z = other.images["fused"].sample[b], first.images["fused"].sample[a]
    valid = np.isfinite(found.between)
    columns = zip(
        metrics.rmse(x, z, per_band=True), metrics.bias(x, z), residual(first)[a], strict=True
    )
    coarse = np.nan_to_num(first.coarse[a]), np.nan_to_num(other.coarse[b])

    def share(mask):
        return float(mask[valid].mean()) if valid.any() else np.nan

    return {
        "rmse": metrics.rmse(x, z),
        "bias": float(metrics.bias(x, z).mean()),
        "sam_deg": metrics.sam_deg(x, z),
        "bands": {
            n: dict(zip(("rmse", "bias", "residual"), map(float, c), strict=True))
            for n, c in zip(names, columns, strict=True)
        },
        "same_inputs": bool(np.allclose(*coarse, atol=1e-4)),
        "limit": LIMIT,
        "share_beyond": share(found.between > LIMIT),
        "share_unsupported": share(found.disputed),
        "unsupported_first": share(found.first > LIMIT),
        "unsupported_other": share(found.other > LIMIT),
        "regions": regions(found, look),
    }


def regions(found: Difference, look: Look) -> list[dict]:
    """The largest connected regions of disputed pixels, largest first.

    Returns
    -------
    [{"easting_km", "northing_km" (of the centroid), "area_m2", "width_m", "height_m" (of the bounding box), "peak"
    (largest deviation between the products), "unsupported" ("first" or "other": which the inputs support less)}]
    """
    numbered, count = label(found.disputed, structure=np.ones((3, 3)))
    step_m = look.pixel_m * (look.rows[1] - look.rows[0] if len(look.rows) > 1 else 1)
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    boxes = find_objects(numbered)
    result = []
    for k in np.argsort(-sizes, kind="stable")[:REGIONS]:
        rows, columns = boxes[k]
        inside = numbered[rows, columns] == k + 1
        i, j = (
            v.mean() + box.start for v, box in zip(np.nonzero(inside), (rows, columns), strict=True)
        )
        x, y = position_km(look, i, j)
        first, other = (image[rows, columns][inside].mean() for image in (found.first, found.other))
        result.append(
            {
                "easting_km": float(x),
                "northing_km": float(y),
                "area_m2": float(sizes[k] * step_m**2),
                "width_m": float((columns.stop - columns.start) * step_m),
                "height_m": float((rows.stop - rows.start) * step_m),
                "peak": float(found.between[rows, columns][inside].max()),
                "unsupported": "other" if other > first else "first",
            }
        )
    return result
