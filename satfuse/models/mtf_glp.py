"""Generalised Laplacian pyramid with a filter that matches the coarse sensor: MTF-GLP and -HPM.

Aiazzi, Alparone, Baronti, Garzelli and Selva 2006, "MTF-tailored multiscale fusion of
high-resolution MS and Pan imagery", PERS 72(5); gains and the multiplicative form (high-pass
modulation, HPM) as in Vivone et al. 2015, "A critical comparison among pansharpening algorithms",
IEEE TGRS 53(5), section on multiresolution analysis. The sharpening image P_k of each coarse band k
is synthesised from the guide's bands by regression on the coarse grid (Selva et al. 2015,
"Hyper-sharpening: a first approach on SIM-GA data", IEEE JSTARS 8(6)). With the guide g, the coarse
image y, S degrading and `up` interpolation:

    P_k = a_k g + b_k                   the scene regression's trend
    gain_k = cov(y_k, S P_k) / var(S P_k)
    fused_k = up(y_k) + gain_k (P_k - up(S P_k))        MTF-GLP
    fused_k = up(y_k) P_k / up(S P_k)                   MTF-GLP-HPM
"""

import torch

from satfuse.models.interface import Fused, State, input_ratio
from satfuse.models.observation import upsample
from satfuse.models.regression import NOISE, Regression
from satfuse.models.summary import Summary
from satfuse.models.trend import coarse_parts, required, trend

LEAST = 0.001  # reflectance; numerator and denominator of the HPM factor stay above it


class MtfGlp(Regression):
    """`up(y) + gain (P - up(S P))`.

    With a synthesised P the gain is 1 but for the penalty of the fit: apart from that gain the
    method is the scene regression with its residual.
    """

    name = "mtf_glp"

    def fit(self, summary: Summary) -> State:
        """The state of `Regression`, and `gain` (c_coarse,)."""
        state = super().fit(summary)
        y = summary.coarse[:, summary.valid].double()
        p = trend(summary.guide_coarse[None], state)[0][:, summary.valid].double()
        count = max(y.shape[1], 1)
        y, p = (x - x.sum(1, keepdim=True) / count for x in (y, p))
        variance = p.square().sum(1) / count
        # the floor only guards against flat images: it is far below the noise variance
        gain = (y * p).sum(1) / count / variance.clamp(min=NOISE**4)
        return state | {"gain": gain.to(summary.coarse)}

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
        low, residual = coarse_parts(guide, coarse, state, guide_valid, coarse_valid)
        gain = state["gain"].to(guide)[:, None, None]
        # up is linear: one interpolation does for up(y) and up(S P)
        smooth = upsample(low + residual - gain * low, input_ratio(guide, coarse))
        return Fused(trend(guide, state).mul_(gain).add_(smooth))


class MtfGlpHpm(Regression):
    """`up(y) P / up(S P)`: the detail as a factor, which keeps a spectrum's band ratios."""

    name = "mtf_glp_hpm"

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
        ratio = input_ratio(guide, coarse)
        low, residual = coarse_parts(guide, coarse, state, guide_valid, coarse_valid)
        blurred = upsample(low, ratio).clamp_(min=LEAST)
        detail = trend(guide, state).clamp_(min=LEAST).div_(blurred)
        return Fused(detail.mul_(upsample(low + residual, ratio)))
