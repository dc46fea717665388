"""Gram-Schmidt adaptive component substitution (GSA), for several guide bands.

Aiazzi, Baronti and Selva 2007, "Improving component substitution pansharpening through multivariate regression of
MS + Pan data", IEEE TGRS 45(10): the intensity is the regression of the degraded panchromatic image on the coarse
bands, a band's gain is its covariance with the intensity over the intensity's variance. Where the original has one
panchromatic image, each coarse band has an image of its own, synthesised from the guide's bands (Selva et al. 2015,
"Hyper-sharpening: a first approach on SIM-GA data", IEEE JSTARS 8(6)).
"""

import torch
from torch.nn import functional as F

from satfuse.models.interface import Fused, first_frame, input_ratio
from satfuse.models.observation import upsample
from satfuse.models.regression import NOISE, Regression
from satfuse.models.trend import fill, required, trend


class GSA(Regression):
    """`up(y) + gain (P - up(I))`: P synthesised from the guide, I its best likeness in the coarse bands.

    Nothing is degraded in `forward`: the intensity I takes the place of the blurred P, so the method does not
    depend on the PSF beyond the fit.
    """

    name = "gsa"

    def reach(self, ratio):
        return 1 + 2  # local mean of what holes leave, interpolation

    def fit(self, scene):
        """The state of `Regression`, `intensity` (c_coarse, c_coarse), `intensity_bias` and `gain` (c_coarse,).

        Row k of `intensity` is the ridge regression of the degraded P of band k on all coarse bands, gain
        `cov(I, y) / var(I)`.
        """
        state = super().fit(scene)
        y = scene.coarse[:, scene.valid].double()
        p = trend(scene.guide_coarse[None], state)[0][:, scene.valid].double()
        count = max(y.shape[1], 1)
        y_mean, p_mean = y.sum(1, keepdim=True) / count, p.sum(1, keepdim=True) / count
        z = y - y_mean
        gram = z @ z.T / count
        noise = NOISE**2 * torch.eye(len(z), dtype=z.dtype, device=z.device)
        weights = torch.linalg.solve(gram + noise, z @ (p - p_mean).T / count).T
        bias = (p_mean - weights @ y_mean)[:, 0]
        variance = ((weights @ gram) * weights).sum(1)
        gain = (weights @ gram).diagonal() / variance.clamp(min=NOISE**4)
        return state | {
            "intensity": weights.to(scene.coarse),
            "intensity_bias": bias.to(scene.coarse),
            "gain": gain.to(scene.coarse),
        }

    def forward(self, guide, coarse, *, state=None, guide_valid=None, coarse_valid=None):
        state = required(state, self.name)
        coarse = first_frame(coarse)
        gain = state["gain"].to(guide)[:, None, None]
        intensity = F.conv2d(
            coarse, state["intensity"].to(guide)[..., None, None], state["intensity_bias"].to(guide)
        )
        rest = coarse - gain * intensity
        if coarse_valid is not None:
            known = first_frame(coarse_valid)
            rest = fill(torch.where(known, rest, 0.0), known)
        return Fused(
            trend(guide, state).mul_(gain).add_(upsample(rest, input_ratio(guide, coarse)))
        )
