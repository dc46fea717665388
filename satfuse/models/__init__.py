"""Fusion models behind one interface.

`create` makes a model by its name; `complete` adds the coarse bands that a model lacks.
"""

import inspect
from collections.abc import Iterable
from typing import Any

from satfuse import model_names
from satfuse.errors import ConfigError, MissingExtraError

try:
    import torch  # noqa: F401  # before the models, so that the error names the extra
except ImportError as error:
    raise MissingExtraError("torch", "models") from error

from satfuse.models.atprk import ATPRK
from satfuse.models.bayesian.model import Bayesian
from satfuse.models.bicubic import Bicubic
from satfuse.models.cnmf import CNMF
from satfuse.models.completed import complete
from satfuse.models.fusformer import Fusformer
from satfuse.models.gsa import GSA
from satfuse.models.interface import Fused, FusionModel, State
from satfuse.models.library_regression import LibraryRegression
from satfuse.models.mtf_glp import MtfGlp, MtfGlpHpm
from satfuse.models.regression import Regression
from satfuse.models.spectral import Spectral
from satfuse.models.spectralift import SpectraLift
from satfuse.models.ssrnet import SSRNet

__all__ = ["MODELS", "Fused", "FusionModel", "State", "complete", "create"]

MODELS: dict[str, type[FusionModel]] = {
    "bayesian": Bayesian,
    "bicubic": Bicubic,
    "regression": Regression,
    "atprk": ATPRK,
    "gsa": GSA,
    "mtf_glp": MtfGlp,
    "mtf_glp_hpm": MtfGlpHpm,
    "cnmf": CNMF,
    "spectralift": SpectraLift,
    "library_regression": LibraryRegression,
    "ssrnet": SSRNet,
    "spectral": Spectral,
    "fusformer": Fusformer,
}
# the command line lists the names without importing this package, which takes torch
assert set(MODELS) == {*model_names.BY_NAME, *model_names.BY_CHECKPOINT}, (
    "MODELS and satfuse/model_names.py must name the same models"
)


def create(
    name: str,
    *,
    guide_bands: int | Iterable[str],
    coarse_bands: int | Iterable[str],
    ratio: int,
    **options: Any,
) -> FusionModel:
    """Make a model by its name, with fresh weights where it has any.

    Parameters
    ----------
    name : key of `MODELS`.
    guide_bands, coarse_bands : band names or numbers of bands; see `FusionModel`.
    ratio : fine pixels per coarse pixel.
    options : of the model's class, such as `width` of `spectral`.

    Raises
    ------
    ConfigError
        An unknown model or an option that it does not have; the message lists the known ones.
    """
    if name not in MODELS:
        raise ConfigError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    parameters = set(inspect.signature(MODELS[name]).parameters)
    allowed = sorted(parameters - {"guide_bands", "coarse_bands", "ratio"})
    if unknown := sorted(set(options) - set(allowed)):
        raise ConfigError(
            f"model {name} has no option {', '.join(unknown)}; it has: "
            f"{', '.join(allowed) or 'none'}"
        )
    model = MODELS[name](guide_bands=guide_bands, coarse_bands=coarse_bands, ratio=ratio, **options)
    model.options = dict(options)
    return model
