"""A field as a model's `fit` sees it: small enough to be held as a whole."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from satfuse.geometry.cells import cell_psf_sigma
from satfuse.models.observation import degrade


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The coarse image and the guide's means over cells, from which the guide is degraded under any PSF and shift.

    Parameters
    ----------
    guide_cells : (c_guide, h * k, w * k) reflectance, k x k cells per coarse pixel; finite.
    cells_valid : (h * k, w * k) bool, True = usable.
    frames : (t, c_coarse, h, w) coarse images, the nearest in time first; finite.
    frames_valid : (t, h, w) bool, True = usable.
    ratio : fine pixels per coarse pixel; k divides it.
    psf_sigma : nominal width of the coarse sensor's PSF, in coarse pixels.
    registered : True = frame 0 has been put where the guide is; False = its shift is unknown.
    """

    guide_cells: torch.Tensor
    cells_valid: torch.Tensor
    frames: torch.Tensor
    frames_valid: torch.Tensor
    ratio: int
    psf_sigma: float
    registered: bool = True

    @property
    def cells(self) -> int:
        """k: cells along each side of a coarse pixel."""
        return self.guide_cells.shape[-1] // self.frames.shape[-1]

    @property
    def coarse(self) -> torch.Tensor:
        """(c_coarse, h, w): frame 0."""
        return self.frames[0]

    @cached_property
    def guide_coarse(self) -> torch.Tensor:
        """(c_guide, h, w): the guide degraded with `psf_sigma`; the band's mean where it has no data."""
        degraded = self._degraded
        known = degraded.isfinite().all(0)
        mean = degraded[:, known].mean(1) if known.any() else degraded.new_zeros(len(degraded))
        return torch.where(known, degraded, mean[:, None, None])

    @cached_property
    def valid(self) -> torch.Tensor:
        """(h, w) bool, True = frame 0 and the degraded guide are usable."""
        return self.frames_valid[0] & self._degraded.isfinite().all(0)

    @cached_property
    def _degraded(self):
        sigma = cell_psf_sigma(self.psf_sigma, self.ratio, self.cells)
        return degrade(self.guide_cells[None], self.cells, sigma, valid=self.cells_valid[None, None])[0]


def summarise(cells, coarse, valid, *, ratio: int, psf_sigma: float, registered: bool = True) -> Summary:
    """A summary from arrays.

    Parameters
    ----------
    cells : (c_guide, h * k, w * k) float32, NaN where missing.
    coarse : (c_coarse, h, w) or, with frames, (t, c_coarse, h, w) float32, finite.
    valid : (h, w) or (t, h, w) bool, True = usable.
    """
    known = np.isfinite(cells).all(0)
    return Summary(
        guide_cells=torch.from_numpy(np.where(known, cells, np.float32(0))),
        cells_valid=torch.from_numpy(known),
        frames=torch.from_numpy(coarse if coarse.ndim == 4 else coarse[None]),
        frames_valid=torch.from_numpy(valid if valid.ndim == 3 else valid[None]),
        ratio=ratio,
        psf_sigma=psf_sigma,
        registered=registered,
    )
