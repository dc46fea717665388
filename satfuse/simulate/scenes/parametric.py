"""Random draws of the package's parametric spectra, for materials without measured ones."""

from collections.abc import Callable, Collection

import numpy as np

from satfuse.arrays import FloatArray
from satfuse.simulate import spectra
from satfuse.simulate.scenes.measured import Table

SOURCE = "parametric"
ATTRIBUTION = "parametric spectra of satfuse, from published equations"
_COUNTS = {"vegetation": 60, "soil": 60, "artificial": 40, "water": 60, "snow": 30}
_SEED = 380


def parametric_table(materials: Collection[str]) -> Table:
    """Draws of the package's parametric curves of some materials; the same ones on every call.

    Returns
    -------
    dict of `reflectance (m, 425)` float32 on 380, 385, ... 2500 nm, and `material`, `source`,
    `name` (m,) str.
    """
    rng = np.random.default_rng(_SEED)
    draws = [(m, _CURVES[m](rng)) for m in _COUNTS if m in materials for _ in range(_COUNTS[m])]
    reflectance = np.clip([curve[::5] for _, curve in draws], 0, 1).astype(np.float32)
    return {
        "reflectance": reflectance,
        "material": np.array([m for m, _ in draws]),
        "source": np.full(len(draws), SOURCE),
        "name": np.array([f"{SOURCE}_{m}_{i:04d}" for i, (m, _) in enumerate(draws)]),
    }


def _vegetation(rng: np.random.Generator) -> FloatArray:
    dry = rng.random() < 0.25
    return spectra.canopy(
        chlorophyll=rng.uniform(0.005, 0.1) if dry else rng.uniform(0.4, 1.6),
        water_mm=rng.uniform(0.03, 0.2) if dry else rng.uniform(0.5, 2.2),
        dry=rng.uniform(0.8, 2.5) if dry else rng.uniform(0.15, 0.8),
        cover=rng.uniform(0.75, 0.99),
        plateau=rng.uniform(0.40, 0.62),
        brown=rng.uniform(0.1, 0.5) if dry else rng.uniform(0, 0.04),
    )


def _soil(rng: np.random.Generator) -> FloatArray:
    return spectra.soil(
        brightness=rng.uniform(0.15, 0.75),
        scale_nm=rng.uniform(300, 1000),
        iron=rng.uniform(0, 0.6),
        clay=rng.uniform(0, 0.2),
        film_mm=rng.uniform(0, 0.15),
    )


def _artificial(rng: np.random.Generator) -> FloatArray:
    """A man-made endmember, tilted along the spectrum and scaled."""
    names, curves = spectra.endmembers()
    curve = curves[names.index(rng.choice(["concrete", "asphalt", "roof_tile", "metal"]))]
    tilt = (spectra.WAVELENGTH_NM / 1000) ** rng.uniform(-0.3, 0.4)
    return curve * tilt * rng.uniform(0.5, 1.6)


def _water(rng: np.random.Generator) -> FloatArray:
    return spectra.water(
        chlorophyll=10 ** rng.uniform(-2, 0.3),
        dissolved=10 ** rng.uniform(-2, 0.5),
        particles=10 ** rng.uniform(-3, 0),
    )


def _snow(rng: np.random.Generator) -> FloatArray:
    """Snow of 0.06 to 2 mm grains, 0 to 15 % darker than clean."""
    return spectra.snow(diameter_m=10 ** rng.uniform(-4.2, -2.7)) * rng.uniform(0.85, 1.0)


_CURVES: dict[str, Callable[[np.random.Generator], FloatArray]] = {
    "vegetation": _vegetation,
    "soil": _soil,
    "artificial": _artificial,
    "water": _water,
    "snow": _snow,
}
