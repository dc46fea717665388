"""A small per-pixel network: guide and upsampled coarse spectrum in, fused spectrum out.

z = ([g, up(y)] - mean) / spread    standardised bands, (c_guide + c_coarse) per pixel
fused = up(y) + spread (L z + MLP(z))
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
from torch import nn

from satfuse.models.interface import Fused, FusionModel, State, first_frame, input_ratio
from satfuse.models.observation import upsample

PIXELS_AT_ONCE = 1 << 13  # of one pass without gradients: bounds memory, fits caches
FLAT = 1e-3  # reflectance; the standard deviation of bands that vary less counts as this


class Spectral(FusionModel):
    """`up(y) + spread (L z + MLP(z))` with z the standardised guide and upsampled coarse bands.

    L and the last layer of the MLP start at zero, so the network starts as bicubic interpolation
    and learns detail only.

    Parameters
    ----------
    width, depth : hidden units and hidden layers of the MLP.
    """

    name = "spectral"
    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(
        self,
        *,
        guide_bands: int | Iterable[str],
        coarse_bands: int | Iterable[str],
        ratio: int,
        width: int = 64,
        depth: int = 2,
    ) -> None:
        super().__init__(guide_bands=guide_bands, coarse_bands=coarse_bands, ratio=ratio)
        bands_out = len(self.coarse_bands)
        bands_in = len(self.guide_bands) + bands_out
        sizes = [bands_in, *[width] * depth]
        hidden = [
            layer for a, b in pairwise(sizes) for layer in (_PerPixel(a, b), nn.ReLU(inplace=True))
        ]
        last = _PerPixel(sizes[-1], bands_out)
        self.mlp = nn.Sequential(*hidden, last)
        self.linear = _PerPixel(bands_in, bands_out, bias=False)
        for parameter in (last.weight, last.bias, self.linear.weight):
            nn.init.zeros_(parameter)
        self.register_buffer("mean", torch.zeros(bands_in, 1))
        self.register_buffer("spread", torch.ones(bands_in, 1))

    def set_statistics(
        self,
        guide_mean: torch.Tensor,
        guide_std: torch.Tensor,
        coarse_mean: torch.Tensor,
        coarse_std: torch.Tensor,
    ) -> None:
        self.mean.copy_(torch.cat([guide_mean, coarse_mean])[:, None])
        self.spread.copy_(torch.cat([guide_std, coarse_std]).clamp(min=FLAT)[:, None])

    def reach(self, ratio: int) -> int:
        return 2  # of the interpolation

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
        up = upsample(coarse, input_ratio(guide, coarse))
        if torch.is_grad_enabled():
            return Fused(self._fuse(guide, up))
        for rows in row_strips(guide):
            up[:, :, rows] = self._fuse(guide[:, :, rows], up[:, :, rows])
        return Fused(up)

    def _fuse(self, guide: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        z = (torch.cat([guide, up], 1).flatten(2) - self.mean) / self.spread
        coarse_spread = self.spread[len(self.guide_bands) :]
        detail = coarse_spread * (self.linear(z) + self.mlp(z))
        return up + detail.unflatten(2, up.shape[-2:])


def row_strips(image: torch.Tensor) -> Iterator[slice]:
    """Slices of rows of (b, c, H, W), each of about `PIXELS_AT_ONCE` pixels of the batch."""
    batch, _, height, width = image.shape
    rows = max(PIXELS_AT_ONCE // (batch * width), 1)
    for top in range(0, height, rows):
        yield slice(top, top + rows)


class _PerPixel(nn.Linear):
    """A linear layer on the channels of (b, c, pixels).

    It takes half the time of a 1 x 1 convolution on CPUs.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.expand(len(x), -1, -1)
        return weight @ x if self.bias is None else torch.baddbmm(self.bias[:, None], weight, x)
