"""Spectral regression fitted on the scene at 300 m, with the coarse residual added back.

The regression and residual steps of Fit-FC (Wang and Atkinson 2018) without its time step: `y ~ A g + b` by
least squares on the coarse grid, then `A g + b + up(y - degrade(A g + b))` on the fine grid.
"""

import math

import torch

from satfuse.errors import GridError
from satfuse.models.interface import Fused, FusionModel, input_ratio
from satfuse.models.observation import upsample
from satfuse.models.trend import coarse_parts, required, trend
from satfuse.sensors.bands import COARSE_M, S2_GSD_M
from satfuse.sensors.degradation import psf_radius

MAX_PSF_SIGMA = 1.0  # coarse pixels; SLSTR's 500 m on a 300 m grid is 0.83
# By how much (standard deviation, reflectance) a guide band at fine scale differs from the mixture
# that the map is
# fitted on: noise, and the native blur of bands coarser than the guide's grid, per octave. Without
# the second term
# least squares trades bands of differing sharpness against each other, and every edge becomes an
# error.
NOISE, BLUR_PER_OCTAVE = 0.001, 0.02


class Regression(FusionModel):
    """One linear map from guide bands to each coarse band per field; needs no weights."""

    name = "regression"
    needs_weights = False

    def reach(self, ratio):
        return psf_radius(MAX_PSF_SIGMA) + 1 + 2  # residual, its local mean, its interpolation

    def guide_sigma(self) -> torch.Tensor:
        """(c_guide,) what a guide band may be off by at fine scale; bands without a known name count as sharp."""
        pixel_m = COARSE_M / self.ratio
        octaves = [math.log2(max(S2_GSD_M.get(name, 0) / pixel_m, 1)) for name in self.guide_bands]
        return torch.tensor([NOISE + BLUR_PER_OCTAVE * o for o in octaves])

    def fit(self, scene):
        """Ridge regression on valid pixels: `weights` (c_coarse, c_guide), `bias` (c_coarse), `psf_sigma` ().

        The penalty of a band is its `guide_sigma` squared, as for inputs with errors of that size; with no valid pixel
        the weights are 0.

        Raises
        ------
        GridError
            `psf_sigma` above 1 coarse pixel, beyond which `reach` would not hold.
        """
        if not 0 < scene.psf_sigma <= MAX_PSF_SIGMA:
            raise GridError(
                f"psf_sigma={scene.psf_sigma} is outside (0, {MAX_PSF_SIGMA}] coarse pixels"
            )
        valid = scene.valid
        g, y = scene.guide_coarse[:, valid].double(), scene.coarse[:, valid].double()
        count = max(int(valid.sum()), 1)
        g_mean, y_mean = g.sum(1, keepdim=True) / count, y.sum(1, keepdim=True) / count
        z = g - g_mean
        gram = z @ z.T / count + self.guide_sigma().to(z).square().diag()
        weights = torch.linalg.solve(gram, z @ (y - y_mean).T / count).T
        bias = (y_mean - weights @ g_mean)[:, 0]
        sigma = torch.tensor(float(scene.psf_sigma), dtype=torch.float64)
        return {
            "weights": weights.to(scene.coarse),
            "bias": bias.to(scene.coarse),
            "psf_sigma": sigma,
        }

    def forward(self, guide, coarse, *, state=None, guide_valid=None, coarse_valid=None):
        state = required(state, self.name)
        _, residual = coarse_parts(guide, coarse, state, guide_valid, coarse_valid)
        return Fused(trend(guide, state).add_(upsample(residual, input_ratio(guide, coarse))))
