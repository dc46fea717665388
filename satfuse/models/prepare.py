"""The one preparation of a scene for a model: filling, summary, and the verdict on the shift.

`satfuse.fuse`, `fuse_field`, calibration, benchmarks and tests all use it, so one scene and one
model give one result. The rules:

- A coarse pixel is usable where every band that has any data at all has data. Other pixels take
  the value of the nearest usable one and are marked as not valid; absent bands are 0.
- A guide pixel that is missing or masked takes its band's median over the scene.
- A model that estimates the shift decides whether it is trusted; for other models the
  registration before them does.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from affine import Affine

from satfuse.arrays import BoolArray, FloatArray
from satfuse.errors import ProductError
from satfuse.geometry.resample import fill_nearest
from satfuse.geometry.shift import ShiftEstimate
from satfuse.geometry.tiling import Window
from satfuse.models.blocks import Inputs
from satfuse.models.interface import Observation
from satfuse.models.summary import Summary, summarise


@dataclass(frozen=True, kw_only=True)
class Coarse:
    """A coarse image as models take it.

    Parameters
    ----------
    image : (c, h, w) float32, finite.
    valid : (h, w) bool, True = usable in every band that is not absent.
    absent : (c,) bool, True = the band has no data at all; it is 0.
    """

    image: npt.NDArray[np.float32]
    valid: BoolArray
    absent: BoolArray


@dataclass(frozen=True, kw_only=True)
class PreparedScene:
    """A scene in memory.

    Parameters
    ----------
    summary : for `FusionModel.fit`.
    inputs : for `satfuse.models.blocks.fuse_blocks`.
    absent : (c,) bool, True = the coarse band has no data at all.
    """

    summary: Summary
    inputs: Inputs
    absent: BoolArray


def prepare_coarse(image: FloatArray, valid: BoolArray | None = None) -> Coarse:
    """Fill the holes of a coarse image.

    Parameters
    ----------
    image : (c, h, w) reflectance, NaN where missing.
    valid : (h, w) bool, True = usable; None = wherever the image is finite.
    """
    finite = np.isfinite(image)
    if valid is not None:
        finite &= valid
    absent = ~np.any(finite, axis=(1, 2))
    # of no band at all, `np.all` would be True
    usable = np.all(finite[~absent], axis=0) & (not absent.all())
    filled = np.zeros(image.shape, np.float32)
    if usable.any():
        filled[~absent] = fill_nearest(image[~absent], ~usable)
    return Coarse(image=filled, valid=usable, absent=absent)


def guide_fill(summary: Summary) -> FloatArray:
    """Fill values (g,) of unusable guide pixels: each band's median over the valid cells."""
    cells = summary.guide_cells[:, summary.cells_valid].numpy()
    return np.median(cells, axis=1) if cells.size else np.zeros(len(cells), np.float32)


def fill_guide(guide: FloatArray, valid: BoolArray, fill: FloatArray) -> npt.NDArray[np.float32]:
    """Replace the pixels of a guide that are not valid.

    Parameters
    ----------
    guide : (g, y, x) reflectance.
    valid : (y, x) bool, True = usable.
    fill : (g,) replacement, see `guide_fill`.
    """
    filled = np.where(valid, guide, np.asarray(fill)[:, None, None])
    return filled.astype(np.float32, copy=False)


def require_overlap(summary: Summary, absent: BoolArray, *, hint: str = "") -> None:
    """Refuse a scene in which no pixel is usable in both images.

    Parameters
    ----------
    absent : (c,) bool, see `Coarse`.
    hint : advice to the user where every coarse pixel lacks some band; empty = none.

    Raises
    ------
    ProductError
        With the cause: an empty coarse image, an empty guide, or no coarse pixel with every band.
    """
    if summary.valid.any():
        return
    if absent.all():
        cause = "the coarse image is masked, NaN or infinite everywhere"
    elif summary.frames_valid[0].any():
        cause = "the guide is missing wherever the coarse image is usable"
    else:
        cause = "every coarse pixel lacks some band" + (f"; {hint}" if hint else "")
    raise ProductError(f"guide and coarse image share no usable pixel: {cause}")


def prepare_scene(
    guide: FloatArray,
    coarse: FloatArray,
    *,
    ratio: int,
    registered: bool,
    guide_valid: BoolArray | None = None,
    coarse_valid: BoolArray | None = None,
) -> PreparedScene:
    """Prepare a scene that is in memory as a whole.

    Parameters
    ----------
    guide : (g, h * ratio, w * ratio) reflectance, NaN where missing.
    coarse : (c, h, w) or, with frames, (t, c, h, w) reflectance, the nearest in time first; NaN
        where missing.
    ratio : fine pixels per coarse pixel.
    registered : True = the coarse image is aligned with the guide.
    guide_valid, coarse_valid : bool, shaped like the images without their band axis, True =
        usable; None = wherever the image is finite.
    """
    usable = np.all(np.isfinite(guide), axis=0)
    if guide_valid is not None:
        usable &= guide_valid
    frames = prepare_frames(coarse, coarse_valid)
    summary = summarise(
        np.where(usable, guide, np.float32(np.nan)),
        np.stack([frame.image for frame in frames]),
        np.stack([frame.valid for frame in frames]),
        ratio=ratio,
        registered=registered,
    )
    inputs = Inputs(
        window=Window(0, guide.shape[1], 0, guide.shape[2]),
        guide=fill_guide(guide, usable, guide_fill(summary)),
        guide_valid=usable,
        coarse=frames[0].image,
        coarse_valid=frames[0].valid,
    )
    return PreparedScene(summary=summary, inputs=inputs, absent=frames[0].absent)


def prepare_frames(coarse: FloatArray, valid: BoolArray | None = None) -> list[Coarse]:
    """Apply `prepare_coarse` to every frame.

    Parameters
    ----------
    coarse : (c, h, w) or, with frames, (t, c, h, w) reflectance, NaN where missing.
    valid : (h, w) or (t, h, w) bool, True = usable; None = wherever the image is finite.
    """
    if coarse.ndim == 3:
        return [prepare_coarse(coarse, valid)]
    masks = [None] * len(coarse) if valid is None else valid
    return [prepare_coarse(frame, mask) for frame, mask in zip(coarse, masks, strict=True)]


def shift_verdict(
    observation: Observation | None,
    registration: ShiftEstimate,
    *,
    registered: bool,
    transform: Affine,
    in_metres: bool = True,
) -> ShiftEstimate:
    """The shift that a product reports, and whether it is trusted.

    Parameters
    ----------
    observation : of the model; None where it estimates none.
    registration : estimate of the shift before the model was fitted.
    registered : True = the image has been corrected by the registration's shift.
    transform : of the coarse grid, from pixels to map coordinates.
    in_metres : False = the grid is in degrees, and a shift in metres is not defined.
    """
    if observation is None:
        return registration
    trusted = not observation.doubt
    reason = observation.doubt or "estimated with the PSF and gains"
    if registered:
        return registration if trusted else replace(registration, trusted=False, reason=reason)
    if not in_metres:
        reason = f"{reason}; metres are not defined for degrees"
        return ShiftEstimate(0.0, 0.0, np.inf, trusted, reason)
    dx, dy = observation.shift.tolist()
    sigma = float(observation.shift_sigma.max())
    return ShiftEstimate(
        dx_m=dx * transform.a,
        dy_m=dy * transform.e,
        sigma_m=sigma * abs(transform.a),
        trusted=trusted,
        reason=reason,
    )
