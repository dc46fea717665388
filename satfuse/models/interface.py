"""The interface of all fusion models; docs/adr/0002-model-interface.md gives the reasons."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from satfuse.arrays import FloatArray
from satfuse.errors import BandError, GridError
from satfuse.models.summary import Summary
from satfuse.sensors.bands import S2_NAMES, S3_ENMAP_NAMES, S3_NAMES, bands

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Fused:
    """Result of `forward`.

    Parameters
    ----------
    image : (b, c_coarse, H, W) reflectance.
    sigma : standard deviation of its error, of the same shape; None where the model gives none.
    """

    image: torch.Tensor
    sigma: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Observation:
    """Shift, PSF and gains with which a coarse image was observed, as a model estimated them.

    Parameters
    ----------
    shift : (2,) x to the right and y down, in coarse pixels: position of the content in the coarse
        image less its position in the guide.
    shift_sigma : (2,) its standard deviation along x and y, in coarse pixels.
    psf_sigma : (c_coarse,) width of each band's PSF, in coarse pixels.
    gain : (c_coarse,) coarse reflectance over that of an exact sensor; 1 where unknown.
    doubt : reason not to trust the shift, in words for the user; empty = trusted.
    """

    shift: FloatArray
    shift_sigma: FloatArray
    psf_sigma: FloatArray
    gain: FloatArray
    doubt: str


class FusionModel(torch.nn.Module):
    """Base of every model: bands, ratio, reach, and two pure functions, `fit` and `forward`.

    Parameters
    ----------
    guide_bands, coarse_bands : band names; the output has the coarse bands in their order.
        Wavelengths follow from the names. A number of bands is allowed, see `band_names`; names
        made up for it have no wavelengths.
    ratio : fine pixels per coarse pixel that the model was made for. Inputs of another ratio are
        allowed where the model's `any_ratio` is True.

    Attributes
    ----------
    name : key of the model in `satfuse.models.MODELS`.
    any_ratio : True = `forward` takes the ratio from its inputs.
    uses_coarse_frames : True = coarse may be (b, t, c, h, w); other models take frame 0.
    needs_weights : True = the model must be trained; False = its name alone makes it usable.
    any_bands : True = the weights serve any bands whose response is known.
    estimates_observation : True = `fit` estimates shift, PSF width and gains, and `observation`
        returns them; the coarse image must not be resampled before.
    gives_uncertainty : True = `forward` gives `sigma`, finite in the bands whose `band_source` is
        the model's `name`.
    options : further arguments that `satfuse.models.create` made the model with.
    """

    name: str
    any_ratio = True
    uses_coarse_frames = False
    needs_weights = True
    any_bands = False
    estimates_observation = False
    gives_uncertainty = False

    def __init__(
        self, *, guide_bands: int | Iterable[str], coarse_bands: int | Iterable[str], ratio: int
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {}
        self.guide_bands = band_names(guide_bands, S2_NAMES)
        self.coarse_bands = band_names(coarse_bands, S3_NAMES, S3_ENMAP_NAMES)
        self.ratio = int(ratio)

    @property
    def band_source(self) -> tuple[str, ...]:
        """For each coarse band, the name of the model that makes it."""
        return (self.name,) * len(self.coarse_bands)

    def set_statistics(
        self,
        guide_mean: torch.Tensor,
        guide_std: torch.Tensor,
        coarse_mean: torch.Tensor,
        coarse_std: torch.Tensor,
    ) -> None:
        """Take means and standard deviations (c,) of the training set.

        Models that normalise their inputs keep them as buffers.
        """

    def reach(self, ratio: int) -> int | None:
        """Coarse pixels of context on each side that make a tile's core exact.

        None = the whole image.
        """
        raise NotImplementedError

    def fit(self, summary: Summary) -> State:
        """Estimate once per field, at the coarse scale, what `forward` needs; a pure function.

        Returns
        -------
        State on the CPU, like the summary; empty for models that estimate nothing. Tensors whose
        name starts with `grid.` are images (..., h + 2 m, w + 2 m) on the coarse grid with any
        margin m around it: `forward` gets them cut to its tile, margin included.
        """
        return {}

    def observation(self, state: State) -> Observation | None:
        """Observation of the nearest coarse frame from a state of `fit`; None = not estimated."""
        return None

    def forward(
        self,
        guide: torch.Tensor,
        coarse: torch.Tensor,
        *,
        state: State | None = None,
        guide_valid: torch.Tensor | None = None,
        coarse_valid: torch.Tensor | None = None,
    ) -> Fused:
        """Fuse a tile or patch. Inputs are finite everywhere; validity says which pixels are data.

        Parameters
        ----------
        guide : (b, c_guide, H, W) reflectance.
        coarse : (b, c_coarse, H / ratio, W / ratio) or (b, t, c_coarse, ...) reflectance.
        state : of `fit` for this field, its grids cut like `coarse`.
        guide_valid : (b, 1, H, W) bool, True = usable; None = all.
        coarse_valid : (b, 1, h, w) bool, with frames (b, t, 1, h, w), True = usable; None = all.
        """
        raise NotImplementedError

    def extra_loss(
        self, guide: torch.Tensor, coarse: torch.Tensor, target: torch.Tensor, valid: torch.Tensor
    ) -> torch.Tensor | float:
        """Term that the model adds to the training loss of its image; 0 for most models.

        Parameters
        ----------
        guide, coarse : see `forward`.
        target : (b, c_coarse, H, W) reflectance.
        valid : (b, 1, H, W) bool, True = counts.
        """
        return 0.0


def band_names(requested: int | Iterable[str], *standard_sets: tuple[str, ...]) -> tuple[str, ...]:
    """Band names from names or from a number of bands.

    A number that is the size of a standard set (12 of Sentinel-2, 21 or 19 of SYN) means that set;
    any other number gives `band1`, `band2`, ...

    Raises
    ------
    BandError
        An unknown name, a name that occurs twice, or no band at all.
    """
    if isinstance(requested, int):
        if requested < 1:
            raise BandError(f"{requested} bands; a model needs at least one")
        for names in standard_sets:
            if len(names) == requested:
                return names
        return tuple(f"band{i + 1}" for i in range(requested))
    names = tuple(requested)
    bands(names)
    if len(set(names)) != len(names):
        raise BandError(f"a band occurs twice in {names}")
    return names


def input_ratio(guide: torch.Tensor, coarse: torch.Tensor) -> int:
    """Fine pixels per coarse pixel of two inputs.

    Raises
    ------
    GridError
        The sizes do not nest in one integer ratio.
    """
    height, width = guide.shape[-2:]
    h, w = coarse.shape[-2:]
    if height % h or width % w or height // h != width // w:
        raise GridError(f"guide {height} x {width} is not an integer multiple of coarse {h} x {w}")
    return height // h


def first_frame(coarse: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w) of a coarse input that may have frames (b, t, c, h, w)."""
    return coarse[:, 0] if coarse.ndim == 5 else coarse
