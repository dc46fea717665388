"""A fusion model without weights: each coarse band is the nearest guide band, scaled."""

import torch

from satfuse.models.interface import Fused, FusionModel, State, input_ratio
from satfuse.models.summary import Summary
from satfuse.sensors.bands import wavelengths_nm


class NearestBand(FusionModel):
    """Every coarse band is the guide band nearest in wavelength, scaled to the coarse band's mean.

    It shows which functions a model has; it keeps the guide's detail and nothing of the coarse
    image but one factor per band.
    """

    name = "nearest_band"
    needs_weights = False  # usable by its name alone, without training

    def reach(self, ratio: int) -> int:
        """No context: a fused pixel depends on its own guide pixel only."""
        return 0

    def fit(self, summary: Summary) -> State:
        """Estimate `scale` (c_coarse,) once per field, from pixels valid in both images."""
        guide = summary.guide_coarse[self._nearest()][:, summary.valid].mean(1)
        coarse = summary.coarse[:, summary.valid].mean(1)
        return {"scale": coarse / guide.clamp(min=1e-3)}  # 1e-3: water is nearly black in SWIR

    def forward(
        self,
        guide: torch.Tensor,
        coarse: torch.Tensor,
        *,
        state: State | None = None,
        guide_valid: torch.Tensor | None = None,
        coarse_valid: torch.Tensor | None = None,
    ) -> Fused:
        """Scale the guide; see `FusionModel.forward` for the shapes."""
        assert state is not None, "`fit` comes first"
        input_ratio(guide, coarse)  # refuses images whose sizes do not nest
        return Fused(guide[:, self._nearest()] * state["scale"][:, None, None])

    def _nearest(self) -> list[int]:
        """For each coarse band the index of the guide band nearest in wavelength."""
        guide_nm = torch.tensor(wavelengths_nm(self.guide_bands))
        coarse_nm = torch.tensor(wavelengths_nm(self.coarse_bands))
        return (coarse_nm[:, None] - guide_nm).abs().argmin(1).tolist()
