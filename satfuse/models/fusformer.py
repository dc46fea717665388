"""Fusformer (Hu et al. 2022, IEEE GRSL, arXiv 2109.02079): a transformer whose tokens are pixels.

It adds a high-pass image to the upsampled coarse image. Every pixel attends to every other one, so a tile's
result depends on the whole tile: train and fuse at one tile size. Values are not clamped to [0, 1] as in the
paper, because reflectance of snow, cloud and glint exceeds 1.
"""

import torch
from torch import nn
from torch.nn import functional as F

from satfuse.models.interface import Fused, FusionModel, first_frame, input_ratio
from satfuse.models.observation import upsample

DIM, HEADS = 48, 3
FUSED_ATTENTION = {"cpu", "cuda"}  # devices whose attention kernel does not store the N x N map
ROWS_ELSEWHERE = 1024


class Fusformer(FusionModel):
    """Two encoder and two decoder blocks of width 48, then two 3 x 3 convolutions.

    Parameters
    ----------
    attention_rows : query tokens per pass of the attention, which stays exact; None = all of them where the
        device has a kernel that does not store the attention map.
    """

    name = "fusformer"

    def __init__(self, *, guide_bands, coarse_bands, ratio, attention_rows: int | None = None):
        super().__init__(guide_bands=guide_bands, coarse_bands=coarse_bands, ratio=ratio)
        bands_out = len(self.coarse_bands)
        self.embed = nn.Linear(bands_out + len(self.guide_bands), DIM)
        blocks = ["attention", "feed"] * 2 + ["attention", "attention", "feed"] * 2
        self.blocks = nn.ModuleList(
            _Attention(attention_rows) if b == "attention" else _Feed() for b in blocks
        )
        self.highpass = nn.Sequential(
            nn.Conv2d(DIM, DIM, 3, padding=1),
            nn.LeakyReLU(0.01),
            nn.Conv2d(DIM, bands_out, 3, padding=1),
        )

    def reach(self, ratio):
        return None

    def forward(self, guide, coarse, *, state=None, guide_valid=None, coarse_valid=None):
        coarse = first_frame(coarse)
        up = upsample(coarse, input_ratio(guide, coarse))
        tokens = self.transform(torch.cat([up, guide], 1).flatten(2).mT)
        return Fused(up + self.highpass(tokens.mT.unflatten(2, up.shape[-2:])))

    def transform(self, pixels: torch.Tensor) -> torch.Tensor:
        """(b, N, C + c) pixel spectra to (b, N, 48) tokens; permuting pixels permutes tokens."""
        tokens = self.embed(pixels)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return tokens


class _Attention(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        self.norm = nn.LayerNorm(DIM)
        self.qkv = nn.Linear(DIM, 3 * DIM, bias=False)
        self.out = nn.Linear(DIM, DIM)

    def forward(self, tokens):
        q, k, v = (
            self.qkv(self.norm(tokens))
            .unflatten(-1, (3, HEADS, DIM // HEADS))
            .permute(2, 0, 3, 1, 4)
        )
        rows = self.rows or (q.shape[-2] if q.device.type in FUSED_ATTENTION else ROWS_ELSEWHERE)
        return self.out(attention(q, k, v, rows).transpose(1, 2).flatten(2))


class _Feed(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.LayerNorm(DIM), nn.Linear(DIM, DIM), nn.LeakyReLU(0.01), nn.Linear(DIM, DIM)
        )


def attention(q, k, v, rows: int) -> torch.Tensor:
    """Exact softmax attention of (b, heads, N, d) tensors, `rows` queries at a time: memory `rows` x N, not N x N."""
    parts = [F.scaled_dot_product_attention(part, k, v) for part in q.split(rows, dim=-2)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -2)
