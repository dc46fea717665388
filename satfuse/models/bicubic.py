"""Bicubic interpolation of the coarse image: the floor that every other model must beat."""

import torch

from satfuse.models.interface import Fused, FusionModel, State, first_frame, input_ratio
from satfuse.models.observation import upsample


class Bicubic(FusionModel):
    """The coarse image on the guide's grid; of the guide only its size is used."""

    name = "bicubic"
    needs_weights = False

    def reach(self, ratio: int) -> int:
        return 2  # the cubic kernel's

    def forward(
        self,
        guide: torch.Tensor,
        coarse: torch.Tensor,
        *,
        state: State | None = None,
        guide_valid: torch.Tensor | None = None,
        coarse_valid: torch.Tensor | None = None,
    ) -> Fused:
        coarse = first_frame(coarse)
        return Fused(upsample(coarse, input_ratio(guide, coarse)))
