"""Gram-Schmidt adaptive component substitution (GSA), for several guide bands.

Aiazzi, Baronti and Selva 2007, "Improving component substitution pansharpening through
multivariate regression of MS + Pan data", IEEE TGRS 45(10). Where the original has one
panchromatic image, each coarse band k has an image P_k of its own, synthesised from the guide's
bands (Selva et al. 2015, "Hyper-sharpening: a first approach on SIM-GA data", IEEE JSTARS 8(6)).
With the guide g, the coarse image y, S degrading and `up` interpolation:

    P_k = a_k g + b_k                   the scene regression's trend
    I_k = v_k y + d_k                   intensity: regression of S P_k on all coarse bands
    gain_k = cov(I_k, y_k) / var(I_k)
    fused_k = up(y_k) + gain_k (P_k - up(I_k))
"""

import torch
from torch.nn import functional as F

from satfuse.models.interface import Fused, State, first_frame, input_ratio
from satfuse.models.observation import upsample
from satfuse.models.regression import NOISE, Regression
from satfuse.models.summary import Summary
from satfuse.models.trend import fill_from_neighbours, required, trend


class GSA(Regression):
    """`up(y) + gain (P - up(I))`: P synthesised from the guide, I its estimate from coarse bands.

    Nothing is degraded in `forward`: the intensity I replaces the blurred P, so the method depends
    on the PSF in the fit alone.
    """

    name = "gsa"

    def reach(self, ratio: int) -> int:
        return 1 + 2  # local mean that fills holes, interpolation

    def fit(self, summary: Summary) -> State:
        """Fit the trend, the intensities and the gains.

        Returns
        -------
        The state of `Regression`; `intensity` v (c_coarse, c_coarse), row k for band k, and
        `intensity_bias` d (c_coarse,) by ridge regression; `gain` (c_coarse,).
        """
        state = super().fit(summary)
        y = summary.coarse[:, summary.valid].double()
        p = trend(summary.guide_coarse[None], state)[0][:, summary.valid].double()
        count = max(y.shape[1], 1)
        y_mean = y.sum(1, keepdim=True) / count
        p_mean = p.sum(1, keepdim=True) / count
        z = y - y_mean
        gram = z @ z.T / count
        noise = NOISE**2 * torch.eye(len(z), dtype=z.dtype, device=z.device)
        weights = torch.linalg.solve(gram + noise, z @ (p - p_mean).T / count).T
        bias = (p_mean - weights @ y_mean)[:, 0]
        variance = ((weights @ gram) * weights).sum(1)
        # the floor only guards against flat images: it is far below the noise variance
        gain = (weights @ gram).diagonal() / variance.clamp(min=NOISE**4)
        return state | {
            "intensity": weights.to(summary.coarse),
            "intensity_bias": bias.to(summary.coarse),
            "gain": gain.to(summary.coarse),
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
        coarse = first_frame(coarse)
        gain = state["gain"].to(guide)[:, None, None]
        weights = state["intensity"].to(guide)[..., None, None]
        intensity = F.conv2d(coarse, weights, state["intensity_bias"].to(guide))
        # up is linear: one interpolation does for up(y) and up(I)
        residual = coarse - gain * intensity
        if coarse_valid is not None:
            valid = first_frame(coarse_valid)
            residual = fill_from_neighbours(torch.where(valid, residual, 0.0), valid)
        detail = trend(guide, state).mul_(gain)
        return Fused(detail.add_(upsample(residual, input_ratio(guide, coarse))))
