"""Spectral regression fitted on the scene at 300 m, with the coarse residual added back.

The regression and residual steps of Fit-FC (Wang and Atkinson 2018) without its time step. With
the guide g (c_guide bands), the coarse image y (c_coarse bands), S the degrading of `observation`
and `up` its interpolation:

    y ~ A S g + b                       least squares on the coarse grid
    fused = A g + b + up(y - S (A g + b))

A is (c_coarse, c_guide), b (c_coarse,).
"""

import math

import torch

from satfuse.errors import GridError
from satfuse.models.interface import Fused, FusionModel, State, input_ratio
from satfuse.models.observation import upsample
from satfuse.models.summary import Summary
from satfuse.models.trend import coarse_parts, required, trend
from satfuse.sensors.bands import COARSE_M, S2_GSD_M
from satfuse.sensors.degradation import psf_radius

MAX_PSF_SIGMA = 1.0  # coarse pixels; SLSTR's 500 m on a 300 m grid is 0.83

# A guide band at fine scale differs from the mixture that the map is fitted on. Its standard
# deviation in reflectance is noise, plus the native blur of bands coarser than the guide's grid per
# octave (factor 2 of pixel size). Without the second term least squares trades bands of differing
# sharpness against each other, and every edge becomes an error.
NOISE = 0.001
BLUR_PER_OCTAVE = 0.02


class Regression(FusionModel):
    """One linear map from guide bands to each coarse band per field; needs no weights."""

    name = "regression"
    needs_weights = False

    def reach(self, ratio: int) -> int:
        return psf_radius(MAX_PSF_SIGMA) + 1 + 2  # residual, its local mean, its interpolation

    def guide_sigma(self) -> torch.Tensor:
        """Standard deviation (c_guide,) of guide bands at fine scale; unknown bands are sharp."""
        pixel_m = COARSE_M / self.ratio
        octaves = [math.log2(max(S2_GSD_M.get(name, 0) / pixel_m, 1)) for name in self.guide_bands]
        return torch.tensor([NOISE + BLUR_PER_OCTAVE * octave for octave in octaves])

    def fit(self, summary: Summary) -> State:
        """Ridge regression on valid pixels; the weights are 0 where there is none.

        The penalty of a band is its `guide_sigma` squared, as for inputs with errors of that size.

        Returns
        -------
        `weights` (c_coarse, c_guide), `bias` (c_coarse,), `psf_sigma` () of the summary.

        Raises
        ------
        GridError
            `psf_sigma` above 1 coarse pixel, beyond which `reach` would not hold.
        """
        if not 0 < summary.psf_sigma <= MAX_PSF_SIGMA:
            raise GridError(
                f"psf_sigma={summary.psf_sigma} is outside (0, {MAX_PSF_SIGMA}] coarse pixels"
            )
        valid = summary.valid
        count = max(int(valid.sum()), 1)
        g = summary.guide_coarse[:, valid].double()
        y = summary.coarse[:, valid].double()
        g_mean = g.sum(1, keepdim=True) / count
        y_mean = y.sum(1, keepdim=True) / count
        z = g - g_mean
        gram = z @ z.T / count + self.guide_sigma().to(z).square().diag()
        weights = torch.linalg.solve(gram, z @ (y - y_mean).T / count).T
        bias = (y_mean - weights @ g_mean)[:, 0]
        return {
            "weights": weights.to(summary.coarse),
            "bias": bias.to(summary.coarse),
            "psf_sigma": torch.tensor(float(summary.psf_sigma), dtype=torch.float64),
        }

    def forward(
        self,
        guide: torch.Tensor,
        coarse: torch.Tensor,
        *,
        state: State | None = None,
        guide_valid: torch.Tensor | None = None,
        coarse_valid: torch.Tensor | None = None,
    ) -> Fused:
        state = required(state, self.name)
        _, residual = coarse_parts(guide, coarse, state, guide_valid, coarse_valid)
        return Fused(trend(guide, state).add_(upsample(residual, input_ratio(guide, coarse))))
