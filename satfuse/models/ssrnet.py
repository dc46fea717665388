"""SSR-NET (Zhang et al. 2021, IEEE TGRS): three 3 x 3 convolutions between the coarse bands.

    x_0 = up(y), bands of the guide in place of the nearest coarse bands
    x_i = x_i-1 + act(conv_i(x_i-1))    i = 1 fusion, 2 spatial, 3 spectral stage; fused = x_3

Each convolution maps all c_coarse bands to all of them. Written from the description of the
architecture. Details that it does not fix are chosen here: leaky ReLU (slope 0.1) as `act`, so that
a stage may also lower a value, and edges that replicate the image's border.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from satfuse.models.interface import Fused, FusionModel, State, first_frame, input_ratio
from satfuse.models.observation import upsample
from satfuse.sensors.bands import wavelengths_nm

STAGES = 3
SLOPE = 0.1  # of the leaky ReLU below 0


class SSRNet(FusionModel):
    """Upsampled coarse image with guide bands in it, then a fusion, a spatial and a spectral stage.

    A guide band replaces the coarse band that is nearest in wavelength; of several guide bands with
    the same nearest coarse band, the nearest one does. Needs bands of known wavelength.

    Attributes
    ----------
    replaced : coarse band index to the index of the guide band that replaces it.
    """

    name = "ssrnet"

    def __init__(
        self, *, guide_bands: int | Iterable[str], coarse_bands: int | Iterable[str], ratio: int
    ) -> None:
        super().__init__(guide_bands=guide_bands, coarse_bands=coarse_bands, ratio=ratio)
        count = len(self.coarse_bands)
        self.replaced = nearest_bands(
            wavelengths_nm(self.guide_bands), wavelengths_nm(self.coarse_bands)
        )
        self.convolutions = nn.ModuleList(
            nn.Conv2d(count, count, 3, padding=1, padding_mode="replicate") for _ in range(STAGES)
        )

    def reach(self, ratio: int) -> int:
        return 2 + math.ceil(STAGES / ratio)  # interpolation, then one fine pixel per convolution

    def forward(
        self,
        guide: torch.Tensor,
        coarse: torch.Tensor,
        *,
        state: State | None = None,
        guide_valid: torch.Tensor | None = None,
        coarse_valid: torch.Tensor | None = None,
    ) -> Fused:
        return Fused(self.stages(guide, coarse)[-1])

    def stages(self, guide: torch.Tensor, coarse: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The merged image, and the image after the fusion, spatial and spectral stage.

        Parameters
        ----------
        guide, coarse : see `forward`.

        Returns
        -------
        Four tensors (b, c_coarse, H, W).
        """
        coarse = first_frame(coarse)
        merged = upsample(coarse, input_ratio(guide, coarse))
        if self.replaced:
            merged[:, list(self.replaced)] = guide[:, list(self.replaced.values())]
        images = [merged]
        for convolution in self.convolutions:
            images.append(images[-1] + F.leaky_relu(convolution(images[-1]), SLOPE))
        return tuple(images)

    def extra_loss(
        self, guide: torch.Tensor, coarse: torch.Tensor, target: torch.Tensor, valid: torch.Tensor
    ) -> torch.Tensor:
        """Edge errors: in space after the spatial stage, along the spectrum after the spectral one.

        Mean squares of the error's differences between neighbouring rows, columns and bands, over
        valid pixels; see `FusionModel.extra_loss`.
        """
        spatial, spectral = (image - target for image in self.stages(guide, coarse)[-2:])
        rows = _mean_square(spatial.diff(dim=2), valid[:, :, 1:] & valid[:, :, :-1])
        columns = _mean_square(spatial.diff(dim=3), valid[..., 1:] & valid[..., :-1])
        return rows + columns + _mean_square(spectral.diff(dim=1), valid)


def _mean_square(error: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean over bands and valid pixels; 0 without any."""
    return (error.square().mean(1, keepdim=True) * valid).sum() / valid.sum().clamp(min=1)


def nearest_bands(guide_nm: Sequence[float], coarse_nm: Sequence[float]) -> dict[int, int]:
    """Pairs of bands in which the coarse band is the nearest to the guide band in wavelength.

    Where several guide bands have one nearest coarse band, it goes to the nearest of them; so each
    band occurs at most once.

    Returns
    -------
    Coarse band index to guide band index, by ascending coarse index.
    """
    nearest: dict[int, int] = {}
    for g, wavelength in enumerate(guide_nm):
        distances = [abs(coarse - wavelength) for coarse in coarse_nm]
        c = distances.index(min(distances))
        if c not in nearest or distances[c] < abs(coarse_nm[c] - guide_nm[nearest[c]]):
            nearest[c] = g
    return dict(sorted(nearest.items()))
