"""Random draws of the package's parametric spectra: a library where no measured one is at hand."""

import numpy as np

from satfuse.simulate import spectra

SOURCE = "parametric"
ATTRIBUTION = "parametric spectra of satfuse, from published equations"
_COUNTS = {"vegetation": 60, "soil": 60, "artificial": 40, "water": 60, "snow": 30}


def parametric_table(materials) -> dict[str, np.ndarray]:
    """Draws of the package's parametric curves of some materials; the same ones on every call.

    Returns
    -------
    dict of `reflectance (m, 425)` float32 on 380, 385, ... 2500 nm, and `material`, `source`, `name` (m,) str.
    """
    rng = np.random.default_rng(380)
    draws = [(m, _PARAMETRIC[m](rng)) for m in _COUNTS if m in materials for _ in range(_COUNTS[m])]
    reflectance = np.clip([curve[::5] for _, curve in draws], 0, 1).astype(np.float32)
    return {
        "reflectance": reflectance,
        "material": np.array([m for m, _ in draws]),
        "source": np.full(len(draws), SOURCE),
        "name": np.array([f"{SOURCE}_{m}_{i:04d}" for i, (m, _) in enumerate(draws)]),
    }


def _vegetation(rng):
    dry = rng.random() < 0.25
    return spectra.canopy(
        chlorophyll=rng.uniform(0.005, 0.1) if dry else rng.uniform(0.4, 1.6),
        water_mm=rng.uniform(0.03, 0.2) if dry else rng.uniform(0.5, 2.2),
        dry=rng.uniform(0.8, 2.5) if dry else rng.uniform(0.15, 0.8),
        cover=rng.uniform(0.75, 0.99),
        plateau=rng.uniform(0.40, 0.62),
        brown=rng.uniform(0.1, 0.5) if dry else rng.uniform(0, 0.04),
    )  # fmt: skip


def _soil(rng):
    return spectra.soil(
        rng.uniform(0.15, 0.75), rng.uniform(300, 1000), iron=rng.uniform(0, 0.6), clay=rng.uniform(0, 0.2),
        film_mm=rng.uniform(0, 0.15),
    )  # fmt: skip


def _artificial(rng):
    names, curves = spectra.endmembers()
    one = curves[names.index(rng.choice(["concrete", "asphalt", "roof_tile", "metal"]))]
    tilt = (spectra.WAVELENGTH_NM / 1000) ** rng.uniform(-0.3, 0.4)
    return one * tilt * rng.uniform(0.5, 1.6)


def _water(rng):
    return spectra.water(
        chlorophyll=10 ** rng.uniform(-2, 0.3),
        dissolved=10 ** rng.uniform(-2, 0.5),
        particles=10 ** rng.uniform(-3, 0),
    )


def _snow(rng):
    return spectra.snow(diameter_m=10 ** rng.uniform(-4.2, -2.7)) * rng.uniform(0.85, 1.0)


_PARAMETRIC = {
    "vegetation": _vegetation,
    "soil": _soil,
    "artificial": _artificial,
    "water": _water,
    "snow": _snow,
}
