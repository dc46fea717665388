"""A fusion model that is trained: learned weights decide how much guide detail each band gets."""

import torch
from torch import nn
from torch.nn import functional as F

from satfuse.models.interface import Fused, FusionModel, State, first_frame, input_ratio
from satfuse.models.observation import upsample


class LinearDetail(FusionModel):
    """Bicubic interpolation plus a linear map of the guide's detail finer than a coarse pixel.

    The map starts at zero, so the untrained model is bicubic interpolation.
    """

    name = "linear_detail"  # `needs_weights` is True by default

    def __init__(
        self, *, guide_bands: int | tuple[str, ...], coarse_bands: int | tuple[str, ...], ratio: int
    ) -> None:
        super().__init__(guide_bands=guide_bands, coarse_bands=coarse_bands, ratio=ratio)
        self.map = nn.Conv2d(len(self.guide_bands), len(self.coarse_bands), 1, bias=False)
        nn.init.zeros_(self.map.weight)

    def reach(self, ratio: int) -> int:
        """Bicubic interpolation reads two coarse pixels on each side."""
        return 2

    def forward(
        self,
        guide: torch.Tensor,
        coarse: torch.Tensor,
        *,
        state: State | None = None,
        guide_valid: torch.Tensor | None = None,
        coarse_valid: torch.Tensor | None = None,
    ) -> Fused:
        """Fuse; see `FusionModel.forward` for the shapes."""
        ratio = input_ratio(guide, coarse)
        detail = guide - upsample(F.avg_pool2d(guide, ratio), ratio)
        return Fused(upsample(first_frame(coarse), ratio) + self.map(detail))
