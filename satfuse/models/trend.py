"""The scene's linear trend of coarse bands on guide bands, and what the coarse image says beyond it."""

import torch
from torch.nn import functional as F

from satfuse.errors import ConfigError
from satfuse.models.interface import State, first_frame, input_ratio
from satfuse.models.observation import degrade


def required(state: State | None, name: str) -> State:
    """The state, for models that cannot do without.

    Raises
    ------
    ConfigError
        There is none.
    """
    if not state:
        raise ConfigError(f"the {name} model needs the state that its fit returned for this field")
    return state


def trend(guide: torch.Tensor, state: State) -> torch.Tensor:
    """(b, c_coarse, H, W): each coarse band synthesised from the guide's bands with `weights` and `bias`."""
    return F.conv2d(guide, state["weights"].to(guide)[..., None, None], state["bias"].to(guide))


def coarse_parts(guide, coarse, state: State, guide_valid=None, coarse_valid=None):
    """The degraded trend and the residual on the coarse grid; their sum is the coarse image where that is valid.

    Where the coarse image or the degraded guide is missing, the residual is the mean of its known neighbours, or 0; the
    missing one of the two images is completed with it.

    Parameters
    ----------
    guide, coarse, guide_valid, coarse_valid : as `FusionModel.forward` takes them.
    state : with `weights`, `bias` and `psf_sigma` of `Regression.fit`.

    Returns
    -------
    trend, residual : (b, c_coarse, h, w) each.
    """
    coarse = first_frame(coarse)
    # degrading is linear and keeps constants, so the guide's few bands are degraded, not the
    # trend's many
    degraded = degrade(
        guide, input_ratio(guide, coarse), float(state["psf_sigma"]), valid=guide_valid
    )
    low = trend(degraded, state)
    seen = low.isfinite()
    known = seen if coarse_valid is None else seen & first_frame(coarse_valid)
    residual = fill(torch.where(known, coarse - low, 0.0), known)
    return torch.where(seen, low, coarse - residual), residual


def fill(image: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Unknown pixels take the mean of their known neighbours (3 x 3); they stay as they are without any.

    Parameters
    ----------
    image : (b, c, h, w), finite.
    known : (b, 1, h, w) or (b, c, h, w) bool, True = known.
    """
    weight = known.to(image.dtype)
    share = F.avg_pool2d(weight, 3, 1, 1)
    mean = F.avg_pool2d(image * weight, 3, 1, 1) / share.clamp(min=1e-6)
    return torch.where(known | (share == 0), image, mean)
