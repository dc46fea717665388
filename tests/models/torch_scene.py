"""The summary of a scene of tensors, for the tests of the models."""

import torch

from satfuse.models.summary import Summary
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA


def summary(guide, coarse, guide_valid=None, coarse_valid=None, psf_sigma=DEFAULT_PSF_SIGMA):
    """Summary of a scene that is small enough for every pixel of the guide to be a cell.

    Parameters
    ----------
    guide : (1, c_guide, H, W) finite.
    coarse : (1, c_coarse, h, w) finite.
    guide_valid : (1, 1, H, W) bool, True = usable; None = all.
    coarse_valid : (1, 1, h, w) bool, True = usable; None = all.
    psf_sigma : in coarse pixels.
    """
    if guide_valid is None:
        guide_valid = torch.ones(1, 1, *guide.shape[-2:], dtype=bool)
    if coarse_valid is None:
        coarse_valid = torch.ones(1, 1, *coarse.shape[-2:], dtype=bool)
    return Summary(
        guide_cells=guide[0],
        cells_valid=guide_valid[0, 0],
        patches=guide,
        patches_valid=guide_valid,
        frames=coarse,
        frames_valid=coarse_valid[0],
        ratio=guide.shape[-1] // coarse.shape[-1],
        psf_sigma=psf_sigma,
    )
