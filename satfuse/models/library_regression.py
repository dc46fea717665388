"""One linear map from guide to coarse bands for all scenes, learned from library spectra.

With the guide g, the coarse image y, S degrading and `up` interpolation:

    x_0 = A g + b                       A (c_coarse, c_guide), b (c_coarse,) of the library
    x_i = x_i-1 + up(y - S x_i-1)       back-projection, a few times
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F

from satfuse.geometry.cells import cell_psf_sigma
from satfuse.models.interface import Fused, FusionModel, State, first_frame, input_ratio
from satfuse.models.observation import degrade, upsample
from satfuse.models.summary import Summary


class LibraryRegression(FusionModel):
    """`A g + b`, and by back-projection a correction that takes it closer to the coarse image.

    The weights come from `satfuse.train.library.fit_library`.

    Parameters
    ----------
    back_projections : how often the difference between the coarse image and the degraded result is
        interpolated and added (Irani and Peleg 1991), at the scene's nominal PSF; 0 = the map
        alone, the coarse image is not used.
    """

    name = "library_regression"

    def __init__(
        self,
        *,
        guide_bands: int | Iterable[str],
        coarse_bands: int | Iterable[str],
        ratio: int,
        back_projections: int = 3,
    ) -> None:
        super().__init__(guide_bands=guide_bands, coarse_bands=coarse_bands, ratio=ratio)
        self.back_projections = back_projections
        self.weight = nn.Parameter(torch.zeros(len(self.coarse_bands), len(self.guide_bands)))
        self.bias = nn.Parameter(torch.zeros(len(self.coarse_bands)))

    def reach(self, ratio: int) -> int:
        return 2  # of the interpolated correction

    @torch.no_grad()
    def fit(self, summary: Summary) -> State:
        """Sum of all back-projected differences, on the coarse grid.

        Degrading and interpolating are linear, so the differences of all rounds follow from the
        first one alone, whatever the fine image looks like.

        Returns
        -------
        `grid.correction` (c_coarse, h, w), 0 where not `summary.valid`; empty without
        back-projections.
        """
        if not self.back_projections:
            return {}
        mapped = torch.einsum("kc,chw->khw", self.weight, summary.guide_coarse)
        difference = summary.coarse - mapped - self.bias[:, None, None]
        difference = torch.where(summary.valid, difference, 0.0)
        k = summary.cells_per_pixel
        sigma = cell_psf_sigma(summary.psf_sigma, summary.ratio, k)
        correction = torch.zeros_like(difference)
        for _ in range(self.back_projections):
            # one band at a time bounds memory
            applied = [
                degrade(upsample(band[None, None], k), k, sigma)[0, 0] for band in correction
            ]
            correction += torch.where(summary.valid, difference - torch.stack(applied), 0.0)
        return {"grid.correction": correction}

    def forward(
        self,
        guide: torch.Tensor,
        coarse: torch.Tensor,
        *,
        state: State | None = None,
        guide_valid: torch.Tensor | None = None,
        coarse_valid: torch.Tensor | None = None,
    ) -> Fused:
        ratio = input_ratio(guide, first_frame(coarse))
        image = F.conv2d(guide, self.weight[..., None, None], self.bias)
        if not state:
            return Fused(image)
        return Fused(image + upsample(state["grid.correction"].to(image), ratio))
