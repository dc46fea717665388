"""Sharpening of guide bands that are natively coarser than the guide's pixels.

A reader resamples bands of 20 and 60 m bilinearly to 10 m. With H the high-pass filter "image minus
its block means, resampled bilinearly", the detail H y that a coarser band y has lost is predicted
from the detail of the finer bands x by a linear map B,

    H y = B H x

that is fitted on the scene one scale coarser (blocks of twice the size), where x is blurred as y is
and the detail of both is observed; the assumption that it holds across scales is that of Wald et
al. (1997). The levels are processed from fine to coarse, so sharpened 20 m bands predict 60 m ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from satfuse.arrays import FloatArray
from satfuse.sensors.bands import S2_GSD_M

RIDGE = 1e-7  # reflectance squared
MINIMUM_CLEAR = 500  # pixels with no masked pixel around, which the map is fitted to
MOSTLY_CLEAR = 0.9  # share of clear pixels around that is enough where there are fewer of those
SAMPLES_PER_FINER_BAND = 4  # pixels; with fewer no map is fitted
# Share of the predicted detail that a band shows, above which it counts as sharp: sharp bands show
# at least 0.2, blurred ones none.
SHARP = 0.15
COARSER_M = tuple(sorted({g for g in S2_GSD_M.values() if g > min(S2_GSD_M.values())}))  # 20, 60


@dataclass(frozen=True)
class ResolutionLevel:
    """Bands of one native pixel size (`coarser`) and all finer ones (`finer`), as indices."""

    native_m: int
    coarser: list[int]
    finer: list[int]


def resolution_levels(guide_bands: Sequence[str]) -> list[ResolutionLevel]:
    """Native sizes of the bands, finest first; bands without a known size count as sharp."""
    size = [S2_GSD_M.get(b, 0) for b in guide_bands]
    levels = []
    for native_m in sorted(set(size)):
        coarser = [i for i, s in enumerate(size) if s == native_m]
        finer = [i for i, s in enumerate(size) if s < native_m]
        if finer and native_m:
            levels.append(ResolutionLevel(native_m, coarser, finer))
    return levels


def fit_detail(
    patches: torch.Tensor, valid: torch.Tensor, guide_bands: Sequence[str], pixel_m: float
) -> tuple[dict[str, torch.Tensor], dict[int, torch.Tensor]]:
    """Linear maps from the detail of finer bands to that of coarser ones, and their errors.

    Parameters
    ----------
    patches : (n, g, y, x) of the guide at full resolution.
    valid : (n, 1, y, x) bool, True = usable.
    pixel_m : guide pixel size.

    Returns
    -------
    maps : B as `detail<native_m>` (coarser, finer), zero for bands that are sharp already.
    errors : by native size, (coarser, coarser) covariance of the map's errors over the mean square
        of the detail that it predicts, both one scale coarser.
    """
    maps: dict[str, torch.Tensor] = {}
    errors: dict[int, torch.Tensor] = {}
    sharpened = patches.clone()
    for level in resolution_levels(guide_bands):
        step = native_step(level, pixel_m)
        if step < 2:
            continue  # not coarser than the pixels
        linear, error = _fit_level(sharpened, valid, level, step)
        maps[f"detail{level.native_m}"] = linear
        if error is not None:
            errors[level.native_m] = error
            sharpened = add_detail(sharpened, valid, guide_bands, pixel_m, maps, only=level)
    return maps, errors


def _fit_level(
    guide: torch.Tensor, valid: torch.Tensor, level: ResolutionLevel, step: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Map of one level and its relative error covariance; zeros and None with too few pixels."""
    finer = guide[:, level.finer]
    coarser = guide[:, level.coarser]
    blurred = blur_to_native(finer, valid, step)  # as blurred as the coarser bands
    clear = _clear(valid, 2 * step)

    def detail(image: torch.Tensor, block: int) -> torch.Tensor:
        """H image at the clear pixels: (bands, pixels)."""
        return _at_pixels(image - blur_to_native(image, valid, block), clear)

    x = detail(blurred, 2 * step)
    y = detail(coarser, 2 * step)
    count = x.shape[1]
    if count < SAMPLES_PER_FINER_BAND * len(level.finer):
        return x.new_zeros(len(level.coarser), len(level.finer)), None
    # ridge regression of y on x
    gram = x @ x.T / count + RIDGE * torch.eye(len(x), dtype=x.dtype)
    linear = torch.linalg.solve(gram, x @ y.T / count).T
    # Projection of a band's detail at native size on what the map predicts: 0 if the band is as
    # blurred as its native pixels, 1 if it is as sharp as the finer bands.
    observed = detail(coarser, step)
    if_blurred = linear @ detail(blurred, step)
    if_sharp = linear @ detail(finer, step)
    difference = if_sharp - if_blurred
    projection = ((observed - if_blurred) * difference).sum(1)
    is_blurred = projection / difference.square().sum(1).clamp(min=1e-12) < SHARP
    linear = linear * is_blurred[:, None]
    predicted = linear @ x
    residual = (y - predicted) * is_blurred[:, None]
    power = predicted.square().mean().clamp(min=1e-12)
    return linear, residual @ residual.T / count / power


def add_detail(
    guide: torch.Tensor,
    valid: torch.Tensor | None,
    guide_bands: Sequence[str],
    pixel_m: float,
    maps: Mapping[str, torch.Tensor],
    *,
    only: ResolutionLevel | None = None,
) -> torch.Tensor:
    """Add to the coarser bands of a guide the detail B H x that they lost.

    Parameters
    ----------
    guide : (n, g, y, x); y and x begin at a coarse pixel.
    valid : (n, 1, y, x) bool, True = usable; None = all.
    maps : of `fit_detail`.
    only : one level; None = all.
    """
    out = guide
    for level in [only] if only else resolution_levels(guide_bands):
        linear = maps.get(f"detail{level.native_m}")
        step = native_step(level, pixel_m)
        if linear is None or step < 2 or not linear.any():
            continue
        of_all_bands = linear.new_zeros(len(linear), guide.shape[1])
        of_all_bands[:, level.finer] = linear
        predicted = F.conv2d(out, of_all_bands.to(guide)[..., None, None])
        # B H x = H (B x): a linear map of means is the mean of the linear map
        predicted -= blur_to_native(predicted, valid, step)
        if out is guide:
            out = guide.clone()
        out.index_add_(1, torch.tensor(level.coarser, device=guide.device), predicted)
    return out


def detail_power(
    guide: torch.Tensor, sharpened: torch.Tensor, guide_bands: Sequence[str]
) -> torch.Tensor:
    """(n, 2, y, x) squared detail that was added, averaged over the bands of 20 and of 60 m."""
    average = guide.new_zeros(len(COARSER_M), guide.shape[1])
    if sharpened is guide:
        return guide.new_zeros(len(guide), len(average), *guide.shape[2:])
    for level in resolution_levels(guide_bands):
        average[COARSER_M.index(level.native_m), level.coarser] = 1 / len(level.coarser)
    return F.conv2d((sharpened - guide).square_(), average[..., None, None])


def detail_error(
    weight: FloatArray,
    maps: Mapping[str, torch.Tensor],
    errors: Mapping[int, torch.Tensor],
    guide_bands: Sequence[str],
) -> FloatArray:
    """Variance in coarse bands that errors of the added detail cause, over `detail_power`.

    Parameters
    ----------
    weight : (c, g) spectral map that is applied to the guide.
    maps, errors : of `fit_detail`.

    Returns
    -------
    (2, c) w' E w for the bands of 20 and of 60 m, with E the error covariance.
    """
    variance = np.zeros((len(COARSER_M), len(weight)))
    total = weight.copy()  # including paths through coarser bands
    for level in reversed(resolution_levels(guide_bands)):
        if level.native_m not in errors:
            continue
        linear = maps[f"detail{level.native_m}"].numpy()
        error = errors[level.native_m].numpy()
        part = total[:, level.coarser]
        variance[COARSER_M.index(level.native_m)] = np.einsum("cg,gh,ch->c", part, error, part)
        total[:, level.finer] += part @ linear  # errors of finer bands' detail propagate
    return variance


def native_step(level: ResolutionLevel, pixel_m: float) -> int:
    """Guide pixels along a native pixel; 1 where they do not nest: tiles must agree on blocks."""
    step = level.native_m / pixel_m
    return round(step) if abs(step - round(step)) < 1e-6 else 1


def blur_to_native(image: torch.Tensor, valid: torch.Tensor | None, step: int) -> torch.Tensor:
    """An image as a sensor of `step` times larger pixels gives it, resampled bilinearly.

    Parameters
    ----------
    image : (n, b, y, x).
    valid : (n, 1, y, x) bool, True = part of the block means; None = all.
    step : pixels along a block.
    """
    height, width = image.shape[-2:]
    if valid is None or valid.all():
        return _resample(_block_means(image, step), step, height, width)
    weight = valid.to(image.dtype)
    count = _block_means(weight, step)
    mean = _block_means(image * weight, step) / count.clamp(min=1e-6)
    known = (count > 0).to(image.dtype)  # blocks without valid pixels drop out of the resampling
    share = _resample(known, step, height, width)
    return _resample(mean, step, height, width) / share.clamp(min=1e-6)


def _resample(mean: torch.Tensor, step: int, height: int, width: int) -> torch.Tensor:
    fine = F.interpolate(mean, scale_factor=step, mode="bilinear", align_corners=False)
    return fine[..., :height, :width]


def _block_means(image: torch.Tensor, step: int) -> torch.Tensor:
    """Block means; blocks beyond the image's edge are completed by repeating its last pixels."""
    height, width = image.shape[-2:]
    down = -height % step
    right = -width % step
    if down or right:
        image = F.pad(image, (0, right, 0, down), mode="replicate")
    return F.avg_pool2d(image, step)


def _clear(valid: torch.Tensor, step: int) -> torch.Tensor:
    """(n, y, x) bool, True = no masked pixel around; with too few of these, mostly clear pixels."""
    share = blur_to_native(valid.to(torch.float64), None, step)[:, 0]
    clear = share > 1 - 1e-9
    return clear if clear.sum() >= MINIMUM_CLEAR else (share > MOSTLY_CLEAR) & valid[:, 0]


def _at_pixels(image: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """(b, k) values at the k chosen pixels (n, y, x) of (n, b, y, x)."""
    return image.movedim(1, 0)[:, chosen]
