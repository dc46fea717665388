"""The one interface of all fusion models; the reasons stand in docs/adr/0002-model-interface.md."""

from dataclasses import dataclass

import torch

from satfuse.arrays import FloatArray
from satfuse.errors import BandError, GridError
from satfuse.models.summary import Summary
from satfuse.sensors.bands import S2_NAMES, S3_ENMAP_NAMES, S3_NAMES, bands

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Fused:
    """What `forward` returns: `image` (b, c, H, W) and, where the model has one, `sigma` of the same shape."""

    image: torch.Tensor
    sigma: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Observation:
    """How a model found a coarse image to have been observed: `FusionModel.observation` gives it.

    Parameters
    ----------
    shift : (2,) x to the right and y down, in coarse pixels: how far the content lies from the guide's.
    shift_sigma : (2,) its standard deviation along x and y, in coarse pixels.
    psf_sigma : (c_coarse,) width of each band's PSF, in coarse pixels.
    gain : (c_coarse,) coarse reflectance over that of an exact sensor; 1 where unknown.
    doubt : why the shift is not to be trusted, in words for the user; empty = trusted.
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
    guide_bands, coarse_bands : band names; the output has the coarse bands in their order. Wavelengths follow
        from the names; a model made with a number of bands instead of names has names `band1 ...` and no
        wavelengths.
    ratio : fine pixels per coarse pixel that the model was made for. Inputs of another ratio are allowed where
        the model's `any_ratio` is True.

    Attributes
    ----------
    name : the name that `satfuse.models.create` knows.
    any_ratio : True = `forward` takes the ratio from its inputs.
    uses_coarse_frames : True = coarse may be (b, t, c, h, w); others take frame 0.
    needs_weights : True = useless before training; False = can be used by its name alone.
    any_bands : True = weights serve any bands whose response is known.
    estimates_observation : True = `fit` finds shift, PSF width and gains itself, and `observation` tells them from
        the state; the coarse image is not to be resampled before.
    gives_uncertainty : True = `forward` gives `sigma`, finite in the bands whose `band_source` is the model's `name`.
    options : what `satfuse.models.create` was given beside bands and ratio.
    band_source : for each coarse band, the name of the model that makes it.
    """

    name: str
    any_ratio = True
    uses_coarse_frames = False
    needs_weights = True
    any_bands = False
    estimates_observation = False
    gives_uncertainty = False

    def __init__(self, *, guide_bands, coarse_bands, ratio: int):
        super().__init__()
        self.options: dict = {}
        self.guide_bands = band_names(guide_bands, S2_NAMES)
        self.coarse_bands = band_names(coarse_bands, S3_NAMES, S3_ENMAP_NAMES)
        self.ratio = int(ratio)

    @property
    def band_source(self) -> tuple[str, ...]:
        return (self.name,) * len(self.coarse_bands)

    def set_statistics(self, guide_mean, guide_std, coarse_mean, coarse_std) -> None:
        """Take the mean and standard deviation (c,) of the training set; models that normalise keep them as buffers."""

    def reach(self, ratio: int) -> int | None:
        """Coarse pixels of context on each side that make a tile's core exact; None = the whole image."""
        raise NotImplementedError

    def fit(self, scene: Summary) -> State:
        """What the model estimates once per field, at the coarse scale: a pure function; {} for models without.

        The scene lies on the CPU, and so does the state.
        Tensors whose name starts with `grid.` are images (..., h + 2 m, w + 2 m) on the coarse grid with any margin m
        around it: `forward` gets them cut to its tile, margin included.
        """
        return {}

    def observation(self, state: State) -> Observation | None:
        """How `fit` found the nearest coarse frame to have been observed; None = the model does not estimate it."""
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
        """Fuse. Inputs are finite everywhere; validity says which pixels mean something.

        Parameters
        ----------
        guide : (b, c_guide, H, W) reflectance.
        coarse : (b, c_coarse, H / ratio, W / ratio) or (b, t, c_coarse, ...) reflectance.
        state : what `fit` returned for this field, its grids cut like `coarse`.
        guide_valid : (b, 1, H, W) bool or None (all valid).
        coarse_valid : (b, 1, h, w) bool, with frames (b, t, 1, h, w), or None (all valid).
        """
        raise NotImplementedError

    def extra_loss(self, guide, coarse, target, valid) -> torch.Tensor | float:
        """What the model's training adds to the loss of its image; 0 for most models.

        Parameters
        ----------
        guide, coarse : as `forward` takes them.
        target : (b, c_coarse, H, W) reflectance.
        valid : (b, 1, H, W) bool, True = counts.
        """
        return 0.0


def band_names(given, *known: tuple[str, ...]) -> tuple[str, ...]:
    """Names from a number of bands or from names.

    A number that is the size of a known set (12 of Sentinel-2, 21 or 19 of SYN) means that set.
    """
    if isinstance(given, int):
        if given < 1:
            raise BandError(f"{given} bands; a model needs at least one")
        for names in known:
            if len(names) == given:
                return names
        return tuple(f"band{i + 1}" for i in range(given))
    given = tuple(given)
    bands(given)
    if len(set(given)) != len(given):
        raise BandError(f"a band occurs twice in {given}")
    return given


def input_ratio(guide: torch.Tensor, coarse: torch.Tensor) -> int:
    """Fine pixels per coarse pixel of two inputs.

    Raises
    ------
    GridError
        The sizes do not nest in one integer ratio.
    """
    (height, width), (h, w) = guide.shape[-2:], coarse.shape[-2:]
    if height % h or width % w or height // h != width // w:
        raise GridError(f"guide {height} x {width} is not an integer multiple of coarse {h} x {w}")
    return height // h


def first_frame(coarse: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w) of a coarse input that may have frames (b, t, c, h, w)."""
    return coarse[:, 0] if coarse.ndim == 5 else coarse
