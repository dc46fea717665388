"""Train the models that are made from spectra: on the library, without a cube."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from satfuse import checkpoint
from satfuse.models import create
from satfuse.sensors.bands import RATIO, S2_NAMES, S3_NAMES
from satfuse.simulate.scenes import worldstrat
from satfuse.simulate.scenes.factory import FactoryConfig, TrainingScene, make_training_scene
from satfuse.simulate.scenes.library import (
    Library,
    draw_places,
    draw_spectra,
    load_library,
    sample_folder,
)
from satfuse.train.config import SpectraConfig
from satfuse.train.library import fit_library
from satfuse.train.spectral_prior import fit_prior
from satfuse.train.uncertainty import calibrate

FROM_SPECTRA = ("bayesian", "library_regression")  # models that are trained here

LIBRARY_SPECTRA = 20_000  # random mixtures for the library regression
CALIBRATION_PX = {10: 24, 15: 16, 30: 10}  # side of a scene in coarse pixels, by ratio

Progress = Callable[[int, int, float], None]


def fit_spectra(
    config: SpectraConfig, out: checkpoint.PathLike, *, progress: Progress | None = None
) -> checkpoint.Card:
    """Train on the library of spectra and write the checkpoint.

    The library is what is measured at $SATFUSE_SAMPLE_DATA, parametric where that is absent; only
    its training side is used. The same seed gives the same weights on the same machine.

    Parameters
    ----------
    config : see `SpectraConfig`; its model is one of `FROM_SPECTRA`.
    out : checkpoint folder to write.
    progress : called after each calibration scene with 0, number of the scene, and share of errors
        within one sigma before calibration.

    Returns
    -------
    The checkpoint's card.

    Raises
    ------
    ConfigError
        An unknown model or option.
    """
    empty = create(
        config.model, guide_bands=S2_NAMES, coarse_bands=S3_NAMES, ratio=RATIO, **config.options
    )
    library = load_library()
    rng = np.random.default_rng(config.seed)
    data = _origin(library, config)
    if config.model == "library_regression":
        spectra = draw_spectra(library, rng, LIBRARY_SPECTRA)
        return fit_library(library.wavelength_nm, spectra, out, data=data, **config.options)
    count, pixels, basis = empty.get_buffer("places").shape
    places = draw_places(library, rng, count, pixels)
    model = fit_prior(library.wavelength_nm, places, basis=basis)
    folder = _worldstrat_folder(library)
    scenes = _calibration_scenes(library, config, folder)
    metrics = calibrate(model, scenes, seed=config.seed, progress=progress)
    data["calibration_scenes"] = config.scenes
    if folder is not None:
        data["attribution"].append(worldstrat.ATTRIBUTION)
    return checkpoint.save(model, out, {"data": data, "metrics": metrics})


def _origin(library: Library, config: SpectraConfig) -> dict[str, Any]:
    """Origin of the spectra, for the card."""
    entries = Counter(f"{s}/{m}" for s, m in zip(library.source, library.material, strict=True))
    return {
        "spectra": "measured" if library.measured else "parametric",
        "split": "train",
        "seed": config.seed,
        "entries": dict(sorted(entries.items())),
        "attribution": list(library.attribution),
    }


def _worldstrat_folder(library: Library) -> Path | None:
    """The sample folder where it also has WorldStrat's images, else None."""
    folder = sample_folder()
    return folder if library.measured and worldstrat.revisits(folder) else None


def _calibration_scenes(
    library: Library, config: SpectraConfig, folder: Path | None
) -> Iterator[TrainingScene]:
    """Scenes of all ratios, each in turn clean, noisy, clean, noisy and cloudy.

    There are no additive offsets of the radiometry: nothing in a scene shows them.
    """
    for number in range(config.scenes):
        ratio = (10, 15, 30)[number % 3]
        kind = number // 3 % 5
        clean = kind in (0, 2)
        degraded: dict[str, Any] = (
            {"noise": (0.0, 0.0), "gain": 0.0} if clean else {"noise": (0.0002, 0.003)}
        )
        factory = FactoryConfig(
            ratios=(ratio,),
            coarse_px=CALIBRATION_PX[ratio],
            offset=0.0,
            shift=0.4,
            equal_blur_share=0.4,
            cloud_share=1.0 if kind == 4 else 0.0,
            **degraded,
        )
        # a million seeds for each seed of the training, so that no two share a scene
        seed = config.seed * 1_000_000 + number
        yield make_training_scene(library, factory, seed, folder=folder)
