"""Detail for guide bands that are natively coarser than the guide's pixels, predicted from the finer ones.

A reader lays 20 and 60 m bands bilinearly on 10 m pixels. What that lost of the finer bands is known; linear maps
that are fitted on the scene, where both are blurred alike, turn it into what the coarser bands lost.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from satfuse.sensors.bands import S2_GSD_M

RIDGE = 1e-7  # reflectance squared
ENOUGH, MOSTLY = (
    500,
    0.9,
)  # pixels without a masked one around that detail is learned from, else with so few of them
SHARP = 0.15  # of the predicted detail, above which a band is sharp: sharp ones show at least 0.2, blurred ones none
COARSER_M = tuple(sorted({g for g in S2_GSD_M.values() if g > min(S2_GSD_M.values())}))  # 20 and 60


@dataclass(frozen=True)
class Level:
    """Bands of one native pixel size (`blurred`) and the finer ones (`finer`), as indices."""

    native_m: int
    blurred: list[int]
    finer: list[int]


def levels(guide_bands) -> list[Level]:
    """The native sizes of the bands, finest first; bands without a known size count as sharp."""
    size = [S2_GSD_M.get(b, 0) for b in guide_bands]
    found = []
    for native in sorted(set(size)):
        blurred = [i for i, s in enumerate(size) if s == native]
        finer = [i for i, s in enumerate(size) if s < native]
        if finer and native:
            found.append(Level(native, blurred, finer))
    return found


def fit_detail(patches, valid, guide_bands, pixel_m: float) -> tuple[dict, dict]:
    """Linear maps from finer bands to the detail that coarser ones lost, and the errors of those maps.

    Parameters
    ----------
    patches : (n, c, y, x) of the guide at full resolution; valid : (n, 1, y, x) bool, True = usable.
    pixel_m : of the guide.

    Returns
    -------
    maps : `detail<native> (blurred, finer)`, zero for bands that are sharp already.
    errors : {native size: (blurred, blurred)} covariance of the map's errors over the mean square of the detail that it
        predicts, both as found one scale coarser, where the detail is seen.
    """
    maps, errors, known = {}, {}, patches.clone()
    for level in levels(guide_bands):
        step = block(level, pixel_m)
        if step < 2:
            continue
        finer, seen = known[:, level.finer], known[:, level.blurred]
        blurred = lay(finer, valid, step)
        clear = _clear(valid, 2 * step)
        x, y = (_pixels(image - lay(image, valid, 2 * step), clear) for image in (blurred, seen))
        if x.shape[1] < 4 * len(level.finer):
            maps[f"detail{level.native_m}"] = x.new_zeros(len(level.blurred), len(level.finer))
            continue
        gram = x @ x.T / x.shape[1] + RIDGE * torch.eye(len(x), dtype=x.dtype)
        linear = torch.linalg.solve(gram, x @ y.T / x.shape[1]).T
        # what the bands show of the predicted detail, from none (blurred) to all of it (sharp)
        own, low, full = (
            _pixels(image - lay(image, valid, step), clear) for image in (seen, blurred, finer)
        )
        low, full = linear @ low, linear @ full
        shown = ((own - low) * (full - low)).sum(1) / (full - low).square().sum(1).clamp(min=1e-12)
        lost = shown < SHARP
        linear = linear * lost[:, None]
        left, predicted = (y - linear @ x) * lost[:, None], linear @ x
        errors[level.native_m] = (
            left @ left.T / x.shape[1] / predicted.square().mean().clamp(min=1e-12)
        )
        maps[f"detail{level.native_m}"] = linear
        known = add_detail(known, valid, guide_bands, pixel_m, maps, only=level)
    return maps, errors


def add_detail(guide, valid, guide_bands, pixel_m, maps, *, only=None):
    """The guide (n, c, y, x) with the detail that its coarser bands lost; y and x begin at a coarse pixel."""
    given = guide
    for level in [only] if only else levels(guide_bands):
        linear, step = maps.get(f"detail{level.native_m}"), block(level, pixel_m)
        if linear is None or step < 2 or not linear.any():
            continue
        every = linear.new_zeros(len(linear), guide.shape[1])
        every[:, level.finer] = linear
        predicted = F.conv2d(guide, every.to(guide)[..., None, None])
        predicted -= lay(
            predicted, valid, step
        )  # a linear map of means is the mean of the linear map
        guide = guide.clone() if guide is given else guide
        guide.index_add_(1, torch.tensor(level.blurred, device=guide.device), predicted)
    return guide


def detail_power(seen, sharp, guide_bands) -> torch.Tensor:
    """(n, 2, y, x) mean square of the detail that `sharp` has over `seen`, over the bands of each of `COARSER_M`."""
    share = seen.new_zeros(len(COARSER_M), seen.shape[1])
    if sharp is seen:
        return seen.new_zeros(len(seen), len(share), *seen.shape[2:])
    for level in levels(guide_bands):
        share[COARSER_M.index(level.native_m), level.blurred] = 1 / len(level.blurred)
    return F.conv2d((sharp - seen).square_(), share[..., None, None])


def detail_error(weight, maps, errors, guide_bands) -> np.ndarray:
    """(2, c) variance that the errors of `fit_detail` cause in a map (c, g) of the guide, over the `detail_power`."""
    out, total = np.zeros((len(COARSER_M), len(weight))), weight.copy()
    for level in reversed(levels(guide_bands)):
        if level.native_m in errors:
            linear, error = (
                m.numpy() for m in (maps[f"detail{level.native_m}"], errors[level.native_m])
            )
            part = total[:, level.blurred]
            out[COARSER_M.index(level.native_m)] = np.einsum("cg,gh,ch->c", part, error, part)
            total[:, level.finer] += part @ linear  # errors of finer bands' detail reach this one's
    return out


def block(level: Level, pixel_m: float) -> int:
    """Guide pixels along a native pixel; 1 where they do not nest in it, so that tiles see the same blocks."""
    step = level.native_m / pixel_m
    return round(step) if abs(step - round(step)) < 1e-6 else 1


def lay(image, valid, step: int):
    """Means of the valid pixels of blocks of `step` pixels, laid bilinearly on the pixels again."""
    height, width = image.shape[-2:]
    if valid is None or valid.all():
        return _laid(_means(image, step), step, height, width)
    weight = valid.to(image.dtype)
    count = _means(weight, step)
    mean, known = _means(image * weight, step) / count.clamp(min=1e-6), (count > 0).to(image.dtype)
    return _laid(mean, step, height, width) / _laid(known, step, height, width).clamp(min=1e-6)


def _laid(mean, step, height, width):
    fine = F.interpolate(mean, scale_factor=step, mode="bilinear", align_corners=False)
    return fine[..., :height, :width]


def _means(image, step):
    """Block means; a block that the image's edge cuts is the mean of what is there and its edge repeated."""
    height, width = image.shape[-2:]
    down, right = -height % step, -width % step
    return F.avg_pool2d(
        F.pad(image, (0, right, 0, down), mode="replicate") if down or right else image, step
    )


def _clear(valid, step):
    """(n, y, x) bool, where nothing around is masked; where masks are everywhere, where little is."""
    share = lay(valid.to(torch.float64), None, step)[:, 0]
    clear = share > 1 - 1e-9
    return clear if clear.sum() >= ENOUGH else (share > MOSTLY) & valid[:, 0]


def _pixels(image, chosen):
    """(c, k) values at the chosen pixels (n, y, x)."""
    return image.movedim(1, 0)[:, chosen]
