"""One linear map from guide to coarse bands for all scenes, learned from library spectra, never from the scene."""

import torch
from torch import nn
from torch.nn import functional as F

from satfuse.geometry.cells import cell_psf_sigma
from satfuse.models.interface import Fused, FusionModel, first_frame, input_ratio
from satfuse.models.observation import degrade, upsample


class LibraryRegression(FusionModel):
    """`A g + b`, and by back-projection a correction that takes it closer to the coarse image.

    The weights come from `satfuse.train.fit_library`.

    Parameters
    ----------
    back_projections : how often the difference between the coarse image and the degraded result is interpolated and
        added (Irani and Peleg 1991), at the scene's nominal PSF; 0 = the map alone, the coarse image is not used.
    """

    name = "library_regression"

    def __init__(self, *, guide_bands, coarse_bands, ratio, back_projections: int = 3):
        super().__init__(guide_bands=guide_bands, coarse_bands=coarse_bands, ratio=ratio)
        self.back_projections = back_projections
        self.weight = nn.Parameter(torch.zeros(len(self.coarse_bands), len(self.guide_bands)))
        self.bias = nn.Parameter(torch.zeros(len(self.coarse_bands)))

    def reach(self, ratio):
        return 2

    @torch.no_grad()
    def fit(self, scene):
        """`grid.correction` (c_coarse, h, w): the sum of all back-projected differences; 0 where not `scene.valid`.

        Degrading and interpolating are linear, so the differences of all rounds follow from the first on the coarse
        grid alone, whatever the fine image looks like.
        """
        if not self.back_projections:
            return {}
        first = (
            scene.coarse
            - torch.einsum("kc,chw->khw", self.weight, scene.guide_coarse)
            - self.bias[:, None, None]
        )
        first = torch.where(scene.valid, first, 0.0)
        sigma = cell_psf_sigma(scene.psf_sigma, scene.ratio, scene.cells_per_pixel)
        correction = torch.zeros_like(first)
        for _ in range(self.back_projections):
            seen = [
                degrade(
                    upsample(band[None, None], scene.cells_per_pixel), scene.cells_per_pixel, sigma
                )[0, 0]
                for band in correction
            ]
            correction += torch.where(scene.valid, first - torch.stack(seen), 0.0)
        return {"grid.correction": correction}

    def forward(self, guide, coarse, *, state=None, guide_valid=None, coarse_valid=None):
        ratio = input_ratio(guide, first_frame(coarse))
        image = F.conv2d(guide, self.weight[..., None, None], self.bias)
        return Fused(
            image + upsample(state["grid.correction"].to(image), ratio) if state else image
        )
