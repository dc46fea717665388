"""Fusformer (Hu et al. 2022, IEEE GRSL, arXiv 2109.02079): a transformer whose tokens are pixels.

    t_0 = embed([up(y), g])             (N, 48) tokens of the N = H W pixels
    t_i = t_i-1 + block_i(t_i-1)        self-attention over all tokens, or a feed-forward layer
    fused = up(y) + conv(act(conv(t)))  high-pass image from two 3 x 3 convolutions

Every pixel attends to every other one, so a tile's result depends on the whole tile: train and fuse
at one tile size. Values are not clamped to [0, 1] as in the paper, because the reflectance of snow,
cloud and glint exceeds 1.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F

from satfuse.models.interface import Fused, FusionModel, State, first_frame, input_ratio
from satfuse.models.observation import upsample

DIM = 48  # width of a token
HEADS = 3
SLOPE = 0.01  # of the leaky ReLUs below 0
FUSED_ATTENTION = {"cpu", "cuda"}  # devices whose attention kernel does not store the N x N map
ROWS_ELSEWHERE = 1024  # query tokens per pass on other devices


class Fusformer(FusionModel):
    """Two encoder and two decoder blocks of width 48, then two 3 x 3 convolutions.

    Parameters
    ----------
    attention_rows : query tokens per pass of the attention, which stays exact; None = all of them
        where the device has a kernel that does not store the attention map.
    """

    name = "fusformer"

    def __init__(
        self,
        *,
        guide_bands: int | Iterable[str],
        coarse_bands: int | Iterable[str],
        ratio: int,
        attention_rows: int | None = None,
    ) -> None:
        super().__init__(guide_bands=guide_bands, coarse_bands=coarse_bands, ratio=ratio)
        bands_out = len(self.coarse_bands)
        self.embed = nn.Linear(bands_out + len(self.guide_bands), DIM)
        encoder = ["attention", "feed"]
        decoder = ["attention", "attention", "feed"]
        self.blocks = nn.ModuleList(
            _Attention(attention_rows) if kind == "attention" else _Feed()
            for kind in encoder * 2 + decoder * 2
        )
        self.highpass = nn.Sequential(
            nn.Conv2d(DIM, DIM, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(DIM, bands_out, 3, padding=1),
        )

    def reach(self, ratio: int) -> None:
        return None  # attention spans the whole image

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
        tokens = self.transform(torch.cat([up, guide], 1).flatten(2).mT)
        return Fused(up + self.highpass(tokens.mT.unflatten(2, up.shape[-2:])))

    def transform(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tokens (b, N, 48) of pixel spectra (b, N, c_coarse + c_guide).

        Permuting the pixels permutes the tokens.
        """
        tokens = self.embed(pixels)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return tokens


class _Attention(nn.Module):
    """Normalisation and self-attention of tokens (b, N, 48)."""

    def __init__(self, rows: int | None) -> None:
        super().__init__()
        self.rows = rows
        self.norm = nn.LayerNorm(DIM)
        self.qkv = nn.Linear(DIM, 3 * DIM, bias=False)
        self.out = nn.Linear(DIM, DIM)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(self.norm(tokens)).unflatten(-1, (3, HEADS, DIM // HEADS))
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (b, heads, N, 16)
        rows = self.rows or (q.shape[-2] if q.device.type in FUSED_ATTENTION else ROWS_ELSEWHERE)
        return self.out(attention(q, k, v, rows).transpose(1, 2).flatten(2))


class _Feed(nn.Sequential):
    """Normalisation and feed-forward layer of tokens (b, N, 48)."""

    def __init__(self) -> None:
        super().__init__(
            nn.LayerNorm(DIM), nn.Linear(DIM, DIM), nn.LeakyReLU(SLOPE), nn.Linear(DIM, DIM)
        )


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: int) -> torch.Tensor:
    """Exact softmax attention with memory for `rows` x N weights instead of N x N.

    Parameters
    ----------
    q, k, v : (b, heads, N, d) queries, keys and values.
    rows : queries at a time.
    """
    parts = [F.scaled_dot_product_attention(part, k, v) for part in q.split(rows, dim=-2)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -2)
