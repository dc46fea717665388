"""Coupled nonnegative matrix factorisation (CNMF).

Yokoya, Yairi and Iwasaki 2012, "Coupled nonnegative matrix factorization unmixing for hyperspectral and multispectral
data fusion", IEEE TGRS 50(2). Both images are mixtures of the same endmembers, with abundances A >= 0 of sum 1: the
guide is `F A`, the coarse image `E degrade(A)`, the fused image `E A`. In turns the guide gives A and F, the coarse
image E. F is fitted on its own, so the responses R in `F = R E` need not be known. Two things differ from the paper:
each factor moves by accelerated projected gradients (multiplicative updates come less far in as many steps), and
endmembers start as the pixels that the successive projection algorithm picks, which needs no random numbers.
"""

import math
from dataclasses import replace

import torch
from torch.nn import functional as F

from satfuse.geometry.cells import cell_psf_sigma
from satfuse.models.interface import Fused, FusionModel, first_frame, input_ratio
from satfuse.models.observation import degrade, upsample
from satfuse.models.summary import Summary
from satfuse.models.trend import fill, required
from satfuse.sensors.degradation import psf_radius

# in reflectance, of the row that asks abundances to sum to 1 (Heinz and Chang 2001)
SUM_WEIGHT = 0.1
ROUND_STEPS = 20  # gradient steps for either factor of the guide in a round
CELLS = 130_000  # of the guide that endmembers are fitted on; the square of the field with the most valid pixels
RANK = 1e-12  # squared reflectance below which a pixel is a mixture of those already chosen
PIXELS = 100_000  # unmixed at a time
TINY = 1e-9


class CNMF(FusionModel):
    """Endmembers from the field, abundances from the guide; needs no weights.

    Parameters
    ----------
    endmembers : number of them; fewer where the scene has fewer valid pixels or bands.
    rounds : alternations between the two images.
    steps : gradient steps for the abundances of a fine pixel, which begin at the interpolated coarse ones, and for the
        coarse image's endmembers in a round.
    """

    name = "cnmf"
    needs_weights = False

    def __init__(
        self,
        *,
        guide_bands,
        coarse_bands,
        ratio,
        endmembers: int = 20,
        rounds: int = 50,
        steps: int = 200,
    ):
        super().__init__(guide_bands=guide_bands, coarse_bands=coarse_bands, ratio=ratio)
        self.endmembers, self.rounds, self.steps = endmembers, rounds, steps

    def reach(self, ratio):
        return 2

    def fit(self, scene):
        """`coarse_endmembers` (c_coarse, p), `guide_endmembers` (c_guide, p), `grid.abundances` (p, h, w)."""
        part = _square(scene)
        # a scene without a valid pixel is black
        pixels = (
            _joint(part)[:, part.valid]
            if part.valid.any()
            else torch.zeros_like(_joint(part)[:, 0, :1])
        )
        spectra = self._couple(part, pixels[:, successive_projection(pixels, self.endmembers)])
        return {
            "coarse_endmembers": spectra[: len(scene.coarse)],
            "guide_endmembers": spectra[len(scene.coarse) :],
            "grid.abundances": self._coarse_shares(scene, spectra),
        }

    def _coarse_shares(self, scene, spectra):
        """(p, h, w) abundances from both images; where one is missing those of the neighbours, or all the same."""
        equal = spectra.new_full((spectra.shape[1], *scene.valid.shape), 1 / spectra.shape[1])
        shares = torch.where(scene.valid, unmix(_joint(scene), spectra, equal, self.steps), equal)
        return fill(shares[None], scene.valid[None, None])[0]

    def _couple(self, scene: Summary, spectra):
        """Better endmembers (c_coarse + c_guide, p): in turns abundances and F from cells, E from coarse pixels."""
        shares = upsample(self._coarse_shares(scene, spectra), scene.cells_per_pixel)
        coarse, guide = spectra[: len(scene.coarse)], spectra[len(scene.coarse) :]
        cells, seen = scene.guide_cells.clamp(min=0), scene.cells_valid
        sigma = cell_psf_sigma(scene.psf_sigma, scene.ratio, scene.cells_per_pixel)
        for _ in range(self.rounds):
            shares = unmix(cells, guide, shares, ROUND_STEPS)
            guide = _endmembers(cells[:, seen], shares[:, seen], guide, ROUND_STEPS)
            low = degrade(shares[None], scene.cells_per_pixel, sigma, valid=seen[None, None])[0]
            coarse = _endmembers(
                scene.coarse[:, scene.valid], low[:, scene.valid], coarse, self.steps
            )
        return torch.cat([coarse, guide])

    def forward(self, guide, coarse, *, state=None, guide_valid=None, coarse_valid=None):
        state = required(state, self.name)
        ratio = input_ratio(guide, first_frame(coarse))
        spectra, fused_spectra = (
            state[f"{image}_endmembers"].to(guide) for image in ("guide", "coarse")
        )
        start = upsample(state["grid.abundances"].to(guide), ratio)
        shares = [unmix(image.clamp(min=0), spectra, start, self.steps) for image in guide]
        return Fused(torch.stack([torch.einsum("cp,phw->chw", fused_spectra, s) for s in shares]))


def unmix(image, spectra, start, steps: int) -> torch.Tensor:
    """Nonnegative abundances (p, h, w) with a sum near 1.

    Parameters
    ----------
    image : (c, h, w) reflectance.
    spectra : (c, p) endmembers.
    start : (p, h, w) abundances to begin with: they decide where endmembers outnumber bands.
    steps : of `nonnegative`.
    """
    gram = spectra.T @ spectra + SUM_WEIGHT**2
    parts = zip(image.flatten(1).split(PIXELS, 1), start.flatten(1).split(PIXELS, 1), strict=True)
    shares = [
        nonnegative(gram, spectra.T @ pixels + SUM_WEIGHT**2, begin, steps)
        for pixels, begin in parts
    ]
    return torch.cat(shares, 1).unflatten(1, image.shape[1:])


def _endmembers(pixels, shares, start, steps):
    return nonnegative(shares @ shares.T, shares @ pixels.T, start.T, steps).T


def nonnegative(gram, data, start, steps: int) -> torch.Tensor:
    """x >= 0 (p, n) that makes x' gram x / 2 - data' x small in each column: accelerated projected gradient.

    FISTA of Beck and Teboulle 2009 (SIAM J. Imaging Sciences 2(1), eq. 4.1 to 4.3). Its number of steps is fixed, so a
    pixel's value depends on that pixel alone.
    """
    step = 1 / torch.linalg.matrix_norm(gram, 2).clamp(min=TINY)
    keep, push = torch.eye(len(gram)).to(gram) - step * gram, step * data
    x = ahead = start
    pace = 1.0
    for _ in range(steps):
        moved = torch.addmm(push, keep, ahead).clamp_(min=0)
        faster = (1 + math.sqrt(1 + 4 * pace**2)) / 2
        ahead = torch.lerp(x, moved, 1 + (pace - 1) / faster)
        x, pace = moved, faster
    return x


def successive_projection(pixels: torch.Tensor, count: int) -> list[int]:
    """Columns of (c, n) `pixels` to begin with: each is the longest once the earlier ones are projected out of all.

    Araujo et al. 2001, Chemometrics and Intelligent Laboratory Systems 57. A row of ones beside the bands tells
    multiples of one spectrum apart.
    """
    pixels = torch.cat([pixels, torch.ones_like(pixels[:1])])
    chosen = []
    for _ in range(min(count, *pixels.shape)):
        length = pixels.square().sum(0)
        if length.max() < RANK:
            break
        chosen.append(int(length.argmax()))
        axis = pixels[:, chosen[-1]] / length.max().sqrt()
        pixels = pixels - axis[:, None] * (axis @ pixels)
    return chosen


def _joint(scene):
    """(c_coarse + c_guide, h, w): both images on the coarse grid."""
    return torch.cat([scene.coarse, scene.guide_coarse]).clamp(min=0)


def _square(scene: Summary) -> Summary:
    """The part of a large field with the most valid pixels, `CELLS` cells or fewer; all of a small one."""
    side = [min(math.isqrt(CELLS) // scene.cells_per_pixel, n) for n in scene.valid.shape]
    share = F.avg_pool2d(scene.valid[None].float(), side, 1)[0]
    corner = divmod(int(share.argmax()), share.shape[1])
    part = tuple(slice(a, a + n) for a, n in zip(corner, side, strict=True))
    fine = tuple(
        slice(s.start * scene.cells_per_pixel, s.stop * scene.cells_per_pixel) for s in part
    )
    # degrading needs a margin, but for the field's own edges
    radius = psf_radius(scene.psf_sigma)
    whole = [
        slice(s.start + radius * (s.start > 0), s.stop - radius * (s.stop < n))
        for s, n in zip(part, scene.valid.shape, strict=True)
    ]
    known = torch.zeros_like(scene.frames_valid)
    known[:, *whole] = scene.frames_valid[:, *whole]
    return replace(
        scene,
        guide_cells=scene.guide_cells[:, *fine],
        cells_valid=scene.cells_valid[*fine],
        frames=scene.frames[:, :, *part],
        frames_valid=known[:, *part],
    )
