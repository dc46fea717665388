"""Coupled nonnegative matrix factorisation (CNMF).

Yokoya, Yairi and Iwasaki 2012, "Coupled nonnegative matrix factorization unmixing for hyperspectral
and multispectral data fusion", IEEE TGRS 50(2). Both images are mixtures of the same p endmembers.
With abundances A (p, H, W) >= 0 whose sum is 1, and S degrading:

    guide  = F A            F (c_guide, p)
    coarse = E S A          E (c_coarse, p)
    fused  = E A

In turns the guide gives A and F, and the coarse image E. F is fitted on its own, so the responses R
in `F = R E` need not be known. Two things differ from the paper: each factor is updated by
accelerated projected gradients (multiplicative updates converge less far in as many steps), and
endmembers start as the pixels that the successive projection algorithm selects, which needs no
random numbers.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch.nn import functional as F

from satfuse.geometry.cells import cell_psf_sigma
from satfuse.models.interface import Fused, FusionModel, State, first_frame, input_ratio
from satfuse.models.observation import degrade, upsample
from satfuse.models.summary import Summary
from satfuse.models.trend import fill_from_neighbours, required
from satfuse.sensors.degradation import psf_radius

# In reflectance: weight of the row that asks abundances to sum to 1 (Heinz and Chang 2001).
SUM_WEIGHT = 0.1
ROUND_STEPS = 20  # gradient steps for either factor of the guide in a round
# Guide cells that endmembers are fitted on: the square of the field with the most valid pixels.
CELLS = 130_000
RANK = 1e-12  # squared reflectance below which a pixel is a mixture of those already selected
PIXELS = 100_000  # unmixed at a time, to bound memory
TINY = 1e-9  # keeps the step finite for a matrix of zeros


class CNMF(FusionModel):
    """Endmembers from the field, abundances from the guide; needs no weights.

    Parameters
    ----------
    endmembers : their number; fewer where the scene has fewer valid pixels or bands.
    rounds : alternations between the two images.
    steps : gradient steps for the abundances of a fine pixel, which start at the interpolated
        coarse ones, and for the coarse image's endmembers in a round.
    """

    name = "cnmf"
    needs_weights = False

    def __init__(
        self,
        *,
        guide_bands: int | Iterable[str],
        coarse_bands: int | Iterable[str],
        ratio: int,
        endmembers: int = 20,
        rounds: int = 50,
        steps: int = 200,
    ) -> None:
        super().__init__(guide_bands=guide_bands, coarse_bands=coarse_bands, ratio=ratio)
        self.endmembers = endmembers
        self.rounds = rounds
        self.steps = steps

    def reach(self, ratio: int) -> int:
        return 2  # of the interpolated abundances

    def fit(self, summary: Summary) -> State:
        """Fit endmembers on part of the field, then the coarse abundances of all of it.

        Returns
        -------
        `coarse_endmembers` E (c_coarse, p), `guide_endmembers` F (c_guide, p), and
        `grid.abundances` (p, h, w).
        """
        part = _square(summary)
        pixels = _joint(part)[:, part.valid]
        if not part.valid.any():
            pixels = torch.zeros_like(_joint(part)[:, 0, :1])  # a black pixel
        start = pixels[:, successive_projection(pixels, self.endmembers)]
        spectra = self._couple(part, start)
        bands = len(summary.coarse)
        return {
            "coarse_endmembers": spectra[:bands],
            "guide_endmembers": spectra[bands:],
            "grid.abundances": self._coarse_abundances(summary, spectra),
        }

    def _coarse_abundances(self, summary: Summary, spectra: torch.Tensor) -> torch.Tensor:
        """(p, h, w) abundances that fit both images on the coarse grid.

        Pixels where one is missing take their neighbours' mean, or equal abundances without any.
        """
        count = spectra.shape[1]
        equal = spectra.new_full((count, *summary.valid.shape), 1 / count)
        unmixed = unmix(_joint(summary), spectra, equal, self.steps)
        abundances = torch.where(summary.valid, unmixed, equal)
        return fill_from_neighbours(abundances[None], summary.valid[None, None])[0]

    def _couple(self, summary: Summary, spectra: torch.Tensor) -> torch.Tensor:
        """Alternate between abundances and F from the guide's cells, and E from coarse pixels.

        Parameters
        ----------
        spectra : (c_coarse + c_guide, p) endmembers to start with.

        Returns
        -------
        Better endmembers of the same shape.
        """
        k = summary.cells_per_pixel
        sigma = cell_psf_sigma(summary.psf_sigma, summary.ratio, k)
        cells = summary.guide_cells.clamp(min=0)
        valid = summary.cells_valid
        coarse_pixels = summary.coarse[:, summary.valid]
        coarse = spectra[: len(summary.coarse)]
        guide = spectra[len(summary.coarse) :]
        abundances = upsample(self._coarse_abundances(summary, spectra), k)
        for _ in range(self.rounds):
            abundances = unmix(cells, guide, abundances, ROUND_STEPS)
            guide = _endmembers(cells[:, valid], abundances[:, valid], guide, ROUND_STEPS)
            low = degrade(abundances[None], k, sigma, valid=valid[None, None])[0]
            coarse = _endmembers(coarse_pixels, low[:, summary.valid], coarse, self.steps)
        return torch.cat([coarse, guide])

    def forward(
        self,
        guide: torch.Tensor,
        coarse: torch.Tensor,
        *,
        state: State | None = None,
        guide_valid: torch.Tensor | None = None,
        coarse_valid: torch.Tensor | None = None,
    ) -> Fused:
        state = required(state, self.name)
        ratio = input_ratio(guide, first_frame(coarse))
        guide_spectra = state["guide_endmembers"].to(guide)
        coarse_spectra = state["coarse_endmembers"].to(guide)
        start = upsample(state["grid.abundances"].to(guide), ratio)
        images = []
        for image in guide:
            abundances = unmix(image.clamp(min=0), guide_spectra, start, self.steps)
            images.append(torch.einsum("cp,phw->chw", coarse_spectra, abundances))
        return Fused(torch.stack(images))


def unmix(
    image: torch.Tensor, spectra: torch.Tensor, start: torch.Tensor, steps: int
) -> torch.Tensor:
    """Nonnegative abundances (p, h, w) with a sum near 1.

    Parameters
    ----------
    image : (c, h, w) reflectance.
    spectra : (c, p) endmembers.
    start : (p, h, w) abundances to start with: they decide where endmembers outnumber bands.
    steps : see `nonnegative`.
    """
    # the row of ones that asks for a sum of 1 adds its square to every product of two endmembers
    gram = spectra.T @ spectra + SUM_WEIGHT**2
    parts = zip(image.flatten(1).split(PIXELS, 1), start.flatten(1).split(PIXELS, 1), strict=True)
    abundances = [
        nonnegative(gram, spectra.T @ pixels + SUM_WEIGHT**2, begin, steps)
        for pixels, begin in parts
    ]
    return torch.cat(abundances, 1).unflatten(1, image.shape[1:])


def _endmembers(
    pixels: torch.Tensor, abundances: torch.Tensor, start: torch.Tensor, steps: int
) -> torch.Tensor:
    """Endmembers (c, p) of pixels (c, n) with known abundances (p, n), from `start` (c, p) on."""
    return nonnegative(abundances @ abundances.T, abundances @ pixels.T, start.T, steps).T


def nonnegative(
    gram: torch.Tensor, data: torch.Tensor, start: torch.Tensor, steps: int
) -> torch.Tensor:
    """Minimise `x' gram x / 2 - data' x` over x >= 0 by accelerated projected gradients.

    FISTA of Beck and Teboulle 2009 (SIAM J. Imaging Sciences 2(1), eq. 4.1 to 4.3). Its number of
    steps is fixed, so a pixel's value depends on that pixel alone.

    Parameters
    ----------
    gram : (p, p) symmetric.
    data : (p, n); each column is a problem of its own.
    start : (p, n) to start with.
    steps : number of gradient steps.

    Returns
    -------
    x (p, n).
    """
    rate = 1 / torch.linalg.matrix_norm(gram, 2).clamp(min=TINY)
    # a gradient step is affine: x - rate (gram x - data) = keep x + push
    keep = torch.eye(len(gram)).to(gram) - rate * gram
    push = rate * data
    x = start
    ahead = start  # x extrapolated along its last step
    momentum = 1.0
    for _ in range(steps):
        following = torch.addmm(push, keep, ahead).clamp_(min=0)
        next_momentum = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = torch.lerp(x, following, 1 + (momentum - 1) / next_momentum)
        x = following
        momentum = next_momentum
    return x


def successive_projection(pixels: torch.Tensor, count: int) -> list[int]:
    """Select the columns of (c, n) `pixels` that endmembers start as, at most `count`.

    Each is the longest once the earlier ones are projected out of all. Araujo et al. 2001,
    Chemometrics and Intelligent Laboratory Systems 57. A row of ones below the bands separates
    multiples of one spectrum.
    """
    pixels = torch.cat([pixels, torch.ones_like(pixels[:1])])
    selected: list[int] = []
    for _ in range(min(count, *pixels.shape)):
        length = pixels.square().sum(0)
        if length.max() < RANK:
            break
        selected.append(int(length.argmax()))
        axis = pixels[:, selected[-1]] / length.max().sqrt()
        pixels = pixels - axis[:, None] * (axis @ pixels)
    return selected


def _joint(summary: Summary) -> torch.Tensor:
    """(c_coarse + c_guide, h, w): both images on the coarse grid."""
    return torch.cat([summary.coarse, summary.guide_coarse]).clamp(min=0)


def _square(summary: Summary) -> Summary:
    """Part of a large field with the most valid pixels, of at most `CELLS` cells.

    A small field is returned as a whole.
    """
    k = summary.cells_per_pixel
    shape = summary.valid.shape
    height, width = (min(math.isqrt(CELLS) // k, size) for size in shape)
    share = F.avg_pool2d(summary.valid[None].float(), (height, width), 1)[0]
    top, left = divmod(int(share.argmax()), share.shape[1])
    rows = slice(top, top + height)
    columns = slice(left, left + width)
    # degrading needs a margin, except at the field's own edges
    radius = psf_radius(summary.psf_sigma)
    inner_rows = _without_margin(rows, radius, shape[0])
    inner_columns = _without_margin(columns, radius, shape[1])
    inner = torch.zeros_like(summary.frames_valid)
    inner[:, inner_rows, inner_columns] = summary.frames_valid[:, inner_rows, inner_columns]
    cells = (slice(top * k, rows.stop * k), slice(left * k, columns.stop * k))
    return replace(
        summary,
        guide_cells=summary.guide_cells[:, *cells],
        cells_valid=summary.cells_valid[*cells],
        frames=summary.frames[:, :, rows, columns],
        frames_valid=inner[:, rows, columns],
    )


def _without_margin(part: slice, margin: int, size: int) -> slice:
    """The slice less a margin at each end that is not an edge of the axis of `size` pixels."""
    start = part.start + margin if part.start > 0 else part.start
    stop = part.stop - margin if part.stop < size else part.stop
    return slice(start, stop)
