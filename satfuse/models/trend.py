"""The scene's linear trend of coarse bands on guide bands, and the coarse image's residual."""

import torch
from torch.nn import functional as F

from satfuse.errors import ConfigError
from satfuse.models.interface import State, first_frame, input_ratio
from satfuse.models.observation import degrade


def required(state: State | None, name: str) -> State:
    """The state of a model that cannot do without one.

    Raises
    ------
    ConfigError
        There is none.
    """
    if not state:
        raise ConfigError(f"the {name} model needs the state that its fit returned for this field")
    return state


def trend(guide: torch.Tensor, state: State) -> torch.Tensor:
    """Synthesise each coarse band from the guide's bands: `A g + b`.

    Parameters
    ----------
    guide : (b, c_guide, H, W) reflectance.
    state : with `weights` A (c_coarse, c_guide) and `bias` b (c_coarse,).

    Returns
    -------
    (b, c_coarse, H, W)
    """
    return F.conv2d(guide, state["weights"].to(guide)[..., None, None], state["bias"].to(guide))


def coarse_parts(
    guide: torch.Tensor,
    coarse: torch.Tensor,
    state: State,
    guide_valid: torch.Tensor | None = None,
    coarse_valid: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Split the coarse image into the degraded trend and the residual.

    Where the coarse image or the degraded guide is missing, the residual is the mean of its valid
    neighbours, or 0 without any, and the missing one of the two images follows from it.

    Parameters
    ----------
    guide, coarse, guide_valid, coarse_valid : see `FusionModel.forward`.
    state : of `Regression.fit`.

    Returns
    -------
    low : (b, c_coarse, h, w) the degraded trend.
    residual : (b, c_coarse, h, w); `low + residual` is the coarse image where that is valid.
    """
    coarse = first_frame(coarse)
    # degrading is linear and keeps constants, so it commutes with the trend: the guide has fewer
    # bands to degrade than the trend
    ratio = input_ratio(guide, coarse)
    degraded = degrade(guide, ratio, float(state["psf_sigma"]), valid=guide_valid)
    low = trend(degraded, state)
    guide_known = low.isfinite()
    valid = guide_known if coarse_valid is None else guide_known & first_frame(coarse_valid)
    residual = fill_from_neighbours(torch.where(valid, coarse - low, 0.0), valid)
    return torch.where(guide_known, low, coarse - residual), residual


def fill_from_neighbours(image: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Replace invalid pixels by the mean of their valid neighbours (3 x 3), if they have any.

    Parameters
    ----------
    image : (b, c, h, w), finite.
    valid : (b, 1, h, w) or (b, c, h, w) bool, True = keep.
    """
    weight = valid.to(image.dtype)
    share = F.avg_pool2d(weight, 3, 1, 1)
    mean = F.avg_pool2d(image * weight, 3, 1, 1) / share.clamp(min=1e-6)
    return torch.where(valid | (share == 0), image, mean)
