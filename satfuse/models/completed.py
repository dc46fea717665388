"""A model for some of a scene's coarse bands, completed by the scene regression for the others."""

from dataclasses import replace

import torch

from satfuse.errors import BandError
from satfuse.models.interface import Fused, FusionModel
from satfuse.models.regression import Regression


def complete(model: FusionModel, coarse_bands, ratio: int) -> FusionModel:
    """A model that gives `coarse_bands` in that order at a scene's ratio; `model` itself where it already does.

    Raises
    ------
    BandError
        The scene lacks a coarse band that the model needs as input.
    """
    coarse_bands = tuple(coarse_bands)
    if coarse_bands == model.coarse_bands:
        return model
    absent = [b for b in model.coarse_bands if b not in coarse_bands]
    if absent:
        raise BandError(
            f"model {model.name} needs coarse bands {', '.join(absent)}; the scene has {coarse_bands}"
        )
    return Completed(model, coarse_bands, ratio)


class Completed(FusionModel):
    """`model` for the bands it has, `regression` for the rest; `band_source` says which gave which."""

    def __init__(self, model: FusionModel, coarse_bands: tuple[str, ...], ratio: int):
        super().__init__(guide_bands=model.guide_bands, coarse_bands=coarse_bands, ratio=ratio)
        self.model = model
        self.name, self.any_ratio, self.options = model.name, model.any_ratio, model.options
        self.uses_coarse_frames, self.needs_weights = model.uses_coarse_frames, model.needs_weights
        self.gives_uncertainty = model.gives_uncertainty
        missing = tuple(b for b in coarse_bands if b not in model.coarse_bands)
        bands = {"guide_bands": model.guide_bands, "ratio": ratio}
        self.regression = Regression(coarse_bands=missing, **bands) if missing else None
        self._model_index = [coarse_bands.index(b) for b in model.coarse_bands]
        self._missing_index = [coarse_bands.index(b) for b in missing]

    @property
    def band_source(self):
        return tuple(
            self.model.name if b in self.model.coarse_bands else "regression"
            for b in self.coarse_bands
        )

    def reach(self, ratio):
        own = self.model.reach(ratio)
        return (
            own
            if own is None or self.regression is None
            else max(own, self.regression.reach(ratio))
        )

    def fit(self, scene):
        state = self.model.fit(replace(scene, frames=scene.frames[:, self._model_index]))
        state = _named(state, "model")
        if self.regression is not None:
            rest = self.regression.fit(replace(scene, frames=scene.frames[:, self._missing_index]))
            state |= _named(rest, "regression")
        return state

    def forward(self, guide, coarse, *, state=None, guide_valid=None, coarse_valid=None):
        rest = {"guide_valid": guide_valid, "coarse_valid": coarse_valid}
        own = self.model(
            guide, coarse[..., self._model_index, :, :], state=_part(state, "model"), **rest
        )
        if self.regression is None:
            added = None
        else:
            chosen = coarse[..., self._missing_index, :, :]
            added = self.regression(guide, chosen, state=_part(state, "regression"), **rest).image
        image = self._merge(own.image, added)
        if own.sigma is None:
            return Fused(image)
        unknown = None if added is None else torch.full_like(added, torch.nan)
        return Fused(image, self._merge(own.sigma, unknown))

    def _merge(self, own, added):
        out = own.new_empty(own.shape[0], len(self.coarse_bands), *own.shape[-2:])
        out[:, self._model_index] = own
        if added is not None:
            out[:, self._missing_index] = added
        return out


def _named(state, owner):
    """The state under the owner's name; grids stay grids."""
    return {
        f"grid.{owner}.{k[5:]}" if k.startswith("grid.") else f"{owner}.{k}": v
        for k, v in state.items()
    }


def _part(state, owner):
    own = {
        k.removeprefix(f"{owner}."): v
        for k, v in (state or {}).items()
        if k.startswith(f"{owner}.")
    }
    grid = f"grid.{owner}."
    return own | {
        f"grid.{k.removeprefix(grid)}": v for k, v in (state or {}).items() if k.startswith(grid)
    }
