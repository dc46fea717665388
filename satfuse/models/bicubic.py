"""Bicubic interpolation of the coarse image: the floor that every other model must beat."""

from satfuse.models.interface import Fused, FusionModel, first_frame, input_ratio
from satfuse.models.observation import upsample


class Bicubic(FusionModel):
    """The coarse image on the guide's grid; the guide gives nothing but its size."""

    name = "bicubic"
    needs_weights = False

    def reach(self, ratio):
        return 2

    def forward(self, guide, coarse, *, state=None, guide_valid=None, coarse_valid=None):
        coarse = first_frame(coarse)
        return Fused(upsample(coarse, input_ratio(guide, coarse)))
