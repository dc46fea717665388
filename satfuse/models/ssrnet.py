"""SSR-NET (Zhang et al. 2021, IEEE TGRS): three 3 x 3 convolutions that never leave the space of the coarse bands.

Written from the description of its architecture. What that leaves open is chosen here: leaky ReLU after each
convolution, so that a stage may also lower a value, and edges that replicate the image's border.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from satfuse.models.interface import Fused, FusionModel, first_frame, input_ratio
from satfuse.models.observation import upsample
from satfuse.sensors.bands import wavelengths_nm

STAGES = 3


class SSRNet(FusionModel):
    """The upsampled coarse image takes over the guide's bands, then passes a fusion, a spatial and a spectral stage.

    Each stage adds to its input what one convolution from all coarse bands to all coarse bands makes of it. A guide
    band replaces the coarse band that is nearest in wavelength; of several guide bands with the same nearest coarse
    band, the nearest one does. Needs bands of known wavelength.

    Attributes
    ----------
    replaced : coarse band index to the index of the guide band that replaces it.
    """

    name = "ssrnet"

    def __init__(self, *, guide_bands, coarse_bands, ratio):
        super().__init__(guide_bands=guide_bands, coarse_bands=coarse_bands, ratio=ratio)
        count = len(self.coarse_bands)
        self.replaced = nearest_bands(
            wavelengths_nm(self.guide_bands), wavelengths_nm(self.coarse_bands)
        )
        self.convolutions = nn.ModuleList(
            nn.Conv2d(count, count, 3, padding=1, padding_mode="replicate") for _ in range(STAGES)
        )

    def reach(self, ratio):
        return 2 + math.ceil(STAGES / ratio)  # interpolation, then one fine pixel per convolution

    def forward(self, guide, coarse, *, state=None, guide_valid=None, coarse_valid=None):
        return Fused(self.stages(guide, coarse)[-1])

    def stages(self, guide: torch.Tensor, coarse: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The merged image and what it is after the fusion, the spatial and the spectral stage, each (b, c, H, W)."""
        coarse = first_frame(coarse)
        merged = upsample(coarse, input_ratio(guide, coarse))
        if self.replaced:
            merged[:, list(self.replaced)] = guide[:, list(self.replaced.values())]
        images = [merged]
        for convolution in self.convolutions:
            images.append(images[-1] + F.leaky_relu(convolution(images[-1]), 0.1))
        return tuple(images)

    def extra_loss(self, guide, coarse, target, valid):
        """Errors of edges: in space after the spatial stage, along the spectrum after the spectral stage.

        Mean squares of the error's differences between neighbouring rows, columns and bands, over valid pixels.
        """
        spatial, spectral = (image - target for image in self.stages(guide, coarse)[-2:])
        rows = _mean_square(spatial.diff(dim=2), valid[:, :, 1:] & valid[:, :, :-1])
        columns = _mean_square(spatial.diff(dim=3), valid[..., 1:] & valid[..., :-1])
        return rows + columns + _mean_square(spectral.diff(dim=1), valid)


def _mean_square(error, valid):
    return (error.square().mean(1, keepdim=True) * valid).sum() / valid.sum().clamp(min=1)


def nearest_bands(guide_nm: list[float], coarse_nm: list[float]) -> dict[int, int]:
    """Coarse band index to guide band index: pairs in which the coarse band is the guide band's nearest.

    Where several guide bands have one nearest coarse band, it goes to the nearest of them; so each band occurs once.
    """
    nearest: dict[int, int] = {}
    for g, wavelength in enumerate(guide_nm):
        c = min(range(len(coarse_nm)), key=lambda i: abs(coarse_nm[i] - wavelength))
        if c not in nearest or abs(coarse_nm[c] - wavelength) < abs(
            coarse_nm[c] - guide_nm[nearest[c]]
        ):
            nearest[c] = g
    return dict(sorted(nearest.items()))
