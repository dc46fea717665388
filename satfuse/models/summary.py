"""A field as a model's `fit` sees it: small enough to be held as a whole."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from satfuse.geometry.cells import average, cell_psf_sigma, choose_cells_per_pixel, sample_windows
from satfuse.models.observation import degrade
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The coarse image and the guide's means over cells, from which the guide is degraded under any PSF and shift.

    Parameters
    ----------
    guide_cells : (c_guide, h * k, w * k) reflectance, k x k cells per coarse pixel; finite.
    cells_valid : (h * k, w * k) bool, True = usable.
    patches : (n, c_guide, p, q) parts of the guide at full resolution, finite; see `geometry.cells.sample_windows`.
    patches_valid : (n, 1, p, q) bool, True = usable.
    frames : (t, c_coarse, h, w) coarse images, the nearest in time first; finite.
    frames_valid : (t, h, w) bool, True = usable.
    ratio : fine pixels per coarse pixel; k divides it.
    psf_sigma : nominal width of the coarse sensor's PSF, in coarse pixels.
    registered : True = frame 0 has been put where the guide is; False = its shift is unknown.
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
        """(c_guide, h, w): the guide degraded with `psf_sigma`; the band's mean where it has no data."""
        degraded = self._degraded
        known = self.guide_known
        mean = degraded[:, known].mean(1) if known.any() else degraded.new_zeros(len(degraded))
        return torch.where(known, degraded, mean[:, None, None])

    @property
    def guide_known(self) -> torch.Tensor:
        """(h, w) bool, True = enough of the PSF lies on usable guide."""
        return self._degraded.isfinite().all(0)

    @cached_property
    def valid(self) -> torch.Tensor:
        """(h, w) bool, True = frame 0 and the degraded guide are usable."""
        return self.frames_valid[0] & self.guide_known

    @cached_property
    def _degraded(self):
        sigma = cell_psf_sigma(self.psf_sigma, self.ratio, self.cells_per_pixel)
        return degrade(
            self.guide_cells[None], self.cells_per_pixel, sigma, valid=self.cells_valid[None, None]
        )[0]


def summarise(guide, coarse, valid, *, ratio: int, **rest) -> Summary:
    """A summary from arrays that are all in memory.

    Parameters
    ----------
    guide : (c_guide, h * ratio, w * ratio) float32, NaN where missing.
    coarse, valid, ratio, rest : see `summary_of_parts`.
    """
    known = np.isfinite(guide).all(0)
    cells, enough = average(guide, known, ratio // choose_cells_per_pixel(ratio, known.shape))
    cells[:, ~enough] = np.nan
    patches = np.stack([guide[:, *window] for window in sample_windows(ratio, known.shape)])
    return summary_of_parts(cells, patches, coarse, valid, ratio=ratio, **rest)


def summary_of_parts(
    cells,
    patches,
    coarse,
    valid,
    *,
    ratio: int,
    psf_sigma: float = DEFAULT_PSF_SIGMA,
    registered: bool = True,
) -> Summary:
    """A summary of a field whose guide is only seen in parts.

    Parameters
    ----------
    cells : (c_guide, h * k, w * k) float32, NaN where missing; see `geometry.cells.average`.
    patches : (n, c_guide, p, q) float32, NaN where missing; see `geometry.cells.sample_windows`.
    coarse : (c_coarse, h, w) or, with frames, (t, c_coarse, h, w) float32, finite.
    valid : (h, w) or (t, h, w) bool, True = usable.
    """
    known, whole = np.isfinite(cells).all(0), np.isfinite(patches).all(1, keepdims=True)
    return Summary(
        guide_cells=torch.from_numpy(np.where(known, cells, np.float32(0))),
        cells_valid=torch.from_numpy(known),
        patches=torch.from_numpy(np.where(whole, patches, np.float32(0))),
        patches_valid=torch.from_numpy(whole),
        frames=torch.from_numpy(coarse if coarse.ndim == 4 else coarse[None]),
        frames_valid=torch.from_numpy(valid if valid.ndim == 3 else valid[None]),
        ratio=ratio,
        psf_sigma=psf_sigma,
        registered=registered,
    )
