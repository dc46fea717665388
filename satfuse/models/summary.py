"""Summary of a field for a model's `fit`: small enough to keep in memory as a whole."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from satfuse.arrays import BoolArray, FloatArray
from satfuse.geometry.cells import average, cell_psf_sigma, choose_cells_per_pixel, sample_windows
from satfuse.models.observation import degrade
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Coarse frames, means of the guide over cells, and a few patches of the guide.

    From the cells the guide can be degraded with any PSF and shift.

    Parameters
    ----------
    guide_cells : (c_guide, h * k, w * k) reflectance, k x k cells per coarse pixel; finite.
    cells_valid : (h * k, w * k) bool, True = usable.
    patches : (n, c_guide, p, q) parts of the guide at full resolution, finite; see
        `geometry.cells.sample_windows`.
    patches_valid : (n, 1, p, q) bool, True = usable.
    frames : (t, c_coarse, h, w) coarse images, the nearest in time first; finite.
    frames_valid : (t, h, w) bool, True = usable.
    ratio : fine pixels per coarse pixel; k divides it.
    psf_sigma : nominal width of the coarse sensor's PSF, in coarse pixels.
    registered : True = frame 0 is aligned with the guide; False = its shift is unknown.
    """

    guide_cells: torch.Tensor
    cells_valid: torch.Tensor
    patches: torch.Tensor
    patches_valid: torch.Tensor
    frames: torch.Tensor
    frames_valid: torch.Tensor
    ratio: int
    psf_sigma: float
    registered: bool = True

    @property
    def cells_per_pixel(self) -> int:
        """k: cells along each side of a coarse pixel."""
        return self.guide_cells.shape[-1] // self.frames.shape[-1]

    @property
    def coarse(self) -> torch.Tensor:
        """(c_coarse, h, w): frame 0."""
        return self.frames[0]

    @cached_property
    def guide_coarse(self) -> torch.Tensor:
        """(c_guide, h, w): the guide degraded with `psf_sigma`; the band's mean where missing."""
        degraded = self._degraded
        valid = self.guide_known
        mean = degraded[:, valid].mean(1) if valid.any() else degraded.new_zeros(len(degraded))
        return torch.where(valid, degraded, mean[:, None, None])

    @property
    def guide_known(self) -> torch.Tensor:
        """(h, w) bool, True = enough of the PSF's weight is on usable guide pixels."""
        return self._degraded.isfinite().all(0)

    @cached_property
    def valid(self) -> torch.Tensor:
        """(h, w) bool, True = frame 0 and the degraded guide are usable."""
        return self.frames_valid[0] & self.guide_known

    @cached_property
    def _degraded(self) -> torch.Tensor:
        """(c_guide, h, w): the degraded guide, NaN where missing."""
        cells = self.cells_per_pixel
        sigma = cell_psf_sigma(self.psf_sigma, self.ratio, cells)
        valid = self.cells_valid[None, None]
        return degrade(self.guide_cells[None], cells, sigma, valid=valid)[0]


def summarise(
    guide: FloatArray,
    coarse: FloatArray,
    valid: BoolArray,
    *,
    ratio: int,
    psf_sigma: float = DEFAULT_PSF_SIGMA,
    registered: bool = True,
) -> Summary:
    """Summarise a field whose images are in memory.

    Parameters
    ----------
    guide : (c_guide, h * ratio, w * ratio) float32, NaN where missing.
    coarse, valid, ratio, psf_sigma, registered : see `summary_of_parts`.
    """
    usable = np.asarray(np.isfinite(guide).all(0))
    cells, enough = average(guide, usable, ratio // choose_cells_per_pixel(ratio, usable.shape))
    cells[:, ~enough] = np.nan
    patches = np.stack([guide[:, *window] for window in sample_windows(ratio, usable.shape)])
    return summary_of_parts(
        cells, patches, coarse, valid, ratio=ratio, psf_sigma=psf_sigma, registered=registered
    )


def summary_of_parts(
    cells: FloatArray,
    patches: FloatArray,
    coarse: FloatArray,
    valid: BoolArray,
    *,
    ratio: int,
    psf_sigma: float = DEFAULT_PSF_SIGMA,
    registered: bool = True,
) -> Summary:
    """Summarise a field whose guide is read in parts.

    Parameters
    ----------
    cells : (c_guide, h * k, w * k) float32, NaN where missing; see `geometry.cells.average`.
    patches : (n, c_guide, p, q) float32, NaN where missing; see `geometry.cells.sample_windows`.
    coarse : (c_coarse, h, w) or, with frames, (t, c_coarse, h, w) float32, finite.
    valid : (h, w) or (t, h, w) bool, True = usable.
    ratio, psf_sigma, registered : see `Summary`.
    """
    cells_valid = np.isfinite(cells).all(0)
    patches_valid = np.isfinite(patches).all(1, keepdims=True)
    zero = np.float32(0)
    return Summary(
        guide_cells=torch.from_numpy(np.where(cells_valid, cells, zero)),
        cells_valid=torch.from_numpy(cells_valid),
        patches=torch.from_numpy(np.where(patches_valid, patches, zero)),
        patches_valid=torch.from_numpy(patches_valid),
        frames=torch.from_numpy(coarse if coarse.ndim == 4 else coarse[None]),
        frames_valid=torch.from_numpy(valid if valid.ndim == 3 else valid[None]),
        ratio=ratio,
        psf_sigma=psf_sigma,
        registered=registered,
    )
