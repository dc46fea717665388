"""A model for some of a scene's coarse bands, completed by the scene regression for the others."""

from collections.abc import Iterable
from dataclasses import replace

import torch

from satfuse.errors import BandError
from satfuse.models.interface import Fused, FusionModel, State
from satfuse.models.regression import Regression
from satfuse.models.summary import Summary


def complete(model: FusionModel, coarse_bands: Iterable[str], ratio: int) -> FusionModel:
    """Make a model for all coarse bands of a scene, in their order.

    Parameters
    ----------
    model : may lack some of the bands.
    coarse_bands : names of the scene's coarse bands.
    ratio : fine pixels per coarse pixel of the scene.

    Returns
    -------
    `model` itself where it has these bands in this order; else a `Completed` one.

    Raises
    ------
    BandError
        The scene lacks a coarse band that the model needs as input.
    """
    coarse_bands = tuple(coarse_bands)
    if coarse_bands == model.coarse_bands:
        return model
    absent = [band for band in model.coarse_bands if band not in coarse_bands]
    if absent:
        raise BandError(
            f"model {model.name} needs coarse bands {', '.join(absent)}; the scene has "
            f"{coarse_bands}"
        )
    return Completed(model, coarse_bands, ratio)


class Completed(FusionModel):
    """`model` for its own coarse bands, `regression` for the others; see `band_source`."""

    def __init__(self, model: FusionModel, coarse_bands: tuple[str, ...], ratio: int) -> None:
        super().__init__(guide_bands=model.guide_bands, coarse_bands=coarse_bands, ratio=ratio)
        self.model = model
        self.name = model.name
        self.any_ratio = model.any_ratio
        self.options = model.options
        self.uses_coarse_frames = model.uses_coarse_frames
        self.needs_weights = model.needs_weights
        self.gives_uncertainty = model.gives_uncertainty
        others = tuple(band for band in coarse_bands if band not in model.coarse_bands)
        self.regression: Regression | None = None
        if others:
            self.regression = Regression(
                guide_bands=model.guide_bands, coarse_bands=others, ratio=ratio
            )
        # places of the bands of `model` and of the regression in the output
        self._model_index = [coarse_bands.index(band) for band in model.coarse_bands]
        self._other_index = [coarse_bands.index(band) for band in others]

    @property
    def band_source(self) -> tuple[str, ...]:
        return tuple(
            self.model.name if band in self.model.coarse_bands else "regression"
            for band in self.coarse_bands
        )

    def reach(self, ratio: int) -> int | None:
        reach = self.model.reach(ratio)
        if reach is None or self.regression is None:
            return reach
        return max(reach, self.regression.reach(ratio))

    def fit(self, summary: Summary) -> State:
        """The states of both models, their keys under `model.` and `regression.`."""
        of_model = replace(summary, frames=summary.frames[:, self._model_index])
        state = _prefixed(self.model.fit(of_model), "model")
        if self.regression is not None:
            of_others = replace(summary, frames=summary.frames[:, self._other_index])
            state |= _prefixed(self.regression.fit(of_others), "regression")
        return state

    def forward(
        self,
        guide: torch.Tensor,
        coarse: torch.Tensor,
        *,
        state: State | None = None,
        guide_valid: torch.Tensor | None = None,
        coarse_valid: torch.Tensor | None = None,
    ) -> Fused:
        valid = {"guide_valid": guide_valid, "coarse_valid": coarse_valid}
        of_model = coarse[..., self._model_index, :, :]
        fused = self.model(guide, of_model, state=_part(state, "model"), **valid)
        others = None
        if self.regression is not None:
            of_others = coarse[..., self._other_index, :, :]
            part = _part(state, "regression")
            others = self.regression(guide, of_others, state=part, **valid).image
        image = self._merge(fused.image, others)
        if fused.sigma is None:
            return Fused(image)
        unknown = None if others is None else torch.full_like(others, torch.nan)
        return Fused(image, self._merge(fused.sigma, unknown))

    def _merge(self, of_model: torch.Tensor, others: torch.Tensor | None) -> torch.Tensor:
        """All coarse bands in their order, from those of `model` and of the regression."""
        batch, _, height, width = of_model.shape
        out = of_model.new_empty(batch, len(self.coarse_bands), height, width)
        out[:, self._model_index] = of_model
        if others is not None:
            out[:, self._other_index] = others
        return out


def _prefixed(state: State, owner: str) -> State:
    """The state with the owner's name in its keys; those of grids still start with `grid.`."""
    return {
        f"grid.{owner}.{key[5:]}" if key.startswith("grid.") else f"{owner}.{key}": value
        for key, value in state.items()
    }


def _part(state: State | None, owner: str) -> State:
    """The owner's part of a state, under the keys that its `fit` gave; undoes `_prefixed`."""
    part: State = {}
    for key, value in (state or {}).items():
        if key.startswith(f"{owner}."):
            part[key.removeprefix(f"{owner}.")] = value
        elif key.startswith(f"grid.{owner}."):
            part[f"grid.{key.removeprefix(f'grid.{owner}.')}"] = value
    return part
