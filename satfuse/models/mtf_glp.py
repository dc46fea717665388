"""Generalised Laplacian pyramid with a filter that matches the coarse sensor (MTF-GLP), additive and multiplicative.

Aiazzi, Alparone, Baronti, Garzelli and Selva 2006, "MTF-tailored multiscale fusion of high-resolution MS and Pan
imagery", PERS 72(5); gains and the multiplicative form as in Vivone et al. 2015, "A critical comparison among
pansharpening algorithms", IEEE TGRS 53(5), section on multiresolution analysis. Hypersharpening: the sharpening image
P of each coarse band is synthesised from the guide's bands by regression on the coarse grid (Selva et al. 2015,
"Hyper-sharpening: a first approach on SIM-GA data", IEEE JSTARS 8(6)).
"""

from satfuse.models.interface import Fused, input_ratio
from satfuse.models.observation import upsample
from satfuse.models.regression import NOISE, Regression
from satfuse.models.trend import coarse_parts, required, trend

LEAST = 0.001  # reflectance that both terms of the factor are kept above


class MtfGlp(Regression):
    """`up(y) + gain (P - P_low)` with `P_low = up(degrade(P))`.

    With a synthesised P the gain is 1 but for the penalty of the fit, and the method is the scene regression with
    its residual, but for that gain.
    """

    name = "mtf_glp"

    def fit(self, scene):
        """The state of `Regression` and `gain` (c_coarse,): `cov(y, P_low) / var(P_low)` on the coarse grid."""
        state = super().fit(scene)
        y = scene.coarse[:, scene.valid].double()
        p = trend(scene.guide_coarse[None], state)[0][:, scene.valid].double()
        count = max(y.shape[1], 1)
        y, p = (x - x.sum(1, keepdim=True) / count for x in (y, p))
        gain = (y * p).sum(1) / count / (p.square().sum(1) / count).clamp(min=NOISE**4)
        return state | {"gain": gain.to(scene.coarse)}

    def forward(self, guide, coarse, *, state=None, guide_valid=None, coarse_valid=None):
        state = required(state, self.name)
        low, residual = coarse_parts(guide, coarse, state, guide_valid, coarse_valid)
        gain = state["gain"].to(guide)[:, None, None]
        # up is linear: one interpolation does for up(y) and P_low
        rest = upsample(low + residual - gain * low, input_ratio(guide, coarse))
        return Fused(trend(guide, state).mul_(gain).add_(rest))


class MtfGlpHpm(Regression):
    """`up(y) P / P_low`: the detail as a factor (high-pass modulation), which keeps a spectrum's ratios."""

    name = "mtf_glp_hpm"

    def forward(self, guide, coarse, *, state=None, guide_valid=None, coarse_valid=None):
        state = required(state, self.name)
        ratio = input_ratio(guide, coarse)
        low, residual = coarse_parts(guide, coarse, state, guide_valid, coarse_valid)
        detail = trend(guide, state).clamp_(min=LEAST).div_(upsample(low, ratio).clamp_(min=LEAST))
        return Fused(detail.mul_(upsample(low + residual, ratio)))
