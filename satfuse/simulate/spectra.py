"""Reflectance spectra of pure surfaces, 380 to 2500 nm, as parametric curves.

Every curve is computed here from published equations and rounded published constants; none is a measured
spectrum. Optical constants of water and ice are tables of the refractive index's imaginary part k, the absorption
coefficient is `4 pi k / wavelength`.
"""

from functools import cache

import numpy as np
from scipy.interpolate import PchipInterpolator

WAVELENGTH_NM = np.arange(380, 2501).astype(float)

# nm, k of liquid water: Hale & Querry (1973), Appl. Opt. 12, table I; the peaks near 1200, 1450 and
# 1930 nm and the
# points beside them rounded from Kou, Labrie & Chylek (1993), Appl. Opt. 32.
_WATER_K = np.array([
    (375, 3.5e-9), (400, 1.86e-9), (425, 1.30e-9), (450, 1.02e-9), (475, 9.35e-10), (500, 1.00e-9), (525, 1.32e-9),
    (550, 1.96e-9), (575, 3.60e-9), (600, 1.09e-8), (625, 1.39e-8), (650, 1.64e-8), (675, 2.23e-8), (700, 3.35e-8),
    (725, 9.15e-8), (750, 1.56e-7), (775, 1.48e-7), (800, 1.25e-7), (825, 1.82e-7), (850, 2.93e-7), (875, 3.91e-7),
    (900, 4.86e-7), (925, 1.06e-6), (950, 2.93e-6), (975, 3.48e-6), (1000, 2.89e-6), (1065, 1.2e-6), (1120, 3.0e-6),
    (1150, 8.5e-6), (1195, 1.2e-5), (1260, 9.0e-6), (1320, 1.7e-5), (1380, 7.5e-5), (1400, 1.38e-4), (1450, 3.4e-4),
    (1500, 2.2e-4), (1550, 1.3e-4), (1600, 8.55e-5), (1660, 7.2e-5), (1720, 8.5e-5), (1780, 1.12e-4), (1800, 1.15e-4),
    (1850, 1.3e-4), (1880, 4.0e-4), (1930, 1.85e-3), (1960, 1.6e-3), (2000, 1.10e-3), (2100, 4.6e-4), (2200, 2.89e-4),
    (2300, 4.2e-4), (2400, 9.56e-4), (2500, 1.85e-3),
])  # fmt: skip

# nm, k of ice, rounded from Warren & Brandt (2008), J. Geophys. Res. 113, D14220.
_ICE_K = np.array([
    (375, 2.0e-11), (450, 9.2e-11), (500, 5.9e-10), (600, 5.7e-9), (700, 2.9e-8), (800, 1.34e-7), (900, 4.2e-7),
    (1000, 1.6e-6), (1030, 2.3e-6), (1090, 1.6e-6), (1150, 3.0e-6), (1250, 1.3e-5), (1300, 1.3e-5), (1370, 1.6e-5),
    (1430, 6.0e-5), (1490, 5.5e-4), (1550, 4.4e-4), (1650, 2.3e-4), (1750, 1.3e-4), (1850, 8.0e-5), (1900, 2.0e-4),
    (1960, 1.0e-3), (2010, 1.6e-3), (2100, 7.5e-4), (2200, 3.0e-4), (2250, 2.1e-4), (2350, 3.6e-4), (2500, 7.5e-4),
])  # fmt: skip


def water_absorption_per_m() -> np.ndarray:
    """Absorption coefficient of pure liquid water on `WAVELENGTH_NM`, 1/m."""
    return _absorption_per_m(_WATER_K)


def cloud() -> np.ndarray:
    """Reflectance of an opaque water cloud on `WAVELENGTH_NM`.

    Bright and flat, with the droplets' liquid-water bands by the diffusion limit `exp(-sqrt(13 a d))` of
    Kokhanovsky & Zege (2004), Appl. Opt. 43, for 20 um droplets.
    """
    return 0.82 * np.exp(-np.sqrt(13 * water_absorption_per_m() * 20e-6))


@cache
def endmembers() -> tuple[tuple[str, ...], np.ndarray]:
    """Pure surfaces.

    Returns
    -------
    names : n names.
    reflectance : (n, 2121) float64 on `WAVELENGTH_NM`, 0 to 1, read-only.
    """
    curves = {
        "vegetation_dense": canopy(
            chlorophyll=1.0, water_mm=1.3, dry=0.25, cover=0.97, plateau=0.56
        ),
        "vegetation_sparse": canopy(
            chlorophyll=0.75, water_mm=0.8, dry=0.5, cover=0.72, plateau=0.50
        ),
        "vegetation_dry": canopy(
            chlorophyll=0.006, water_mm=0.06, dry=2.2, cover=0.85, plateau=0.55, brown=0.35
        ),
        "conifer": 0.55 * canopy(chlorophyll=1.5, water_mm=1.8, dry=0.6, cover=0.97, plateau=0.50),
        "soil_dark": soil(0.28, 900, iron=0.08, clay=0.05, film_mm=0.025),
        "soil_bright": soil(0.50, 480, iron=0.10, clay=0.10, film_mm=0.0125),
        "soil_red": soil(0.46, 420, iron=0.55, clay=0.12, film_mm=0.015),
        "soil_moist": 0.62 * soil(0.30, 800, iron=0.08, clay=0.03, film_mm=0.175),
        "sand_bright": soil(0.70, 330, iron=0.30, clay=0.03, film_mm=0.00375),
        "sand_dark": soil(0.50, 430, iron=0.40, clay=0.06, film_mm=0.0075),
        "water_clear": water(chlorophyll=0.02, dissolved=0.04, particles=0.006),
        "water_turbid": water(chlorophyll=0.25, dissolved=0.7, particles=0.16),
        "snow": snow(diameter_m=4e-4),
        "concrete": 0.33 * _rise(290, 250) - 0.03 * _gauss(2330, 60) - 0.02 * _gauss(1930, 50),
        "asphalt": 0.055 + 0.085 * _rise(380, 700) - 0.008 * _gauss(2310, 50),
        "roof_tile": soil(0.40, 350, iron=0.75, clay=0.02, film_mm=0.005),
        "metal": 0.52 + 0.08 * _rise(380, 900) - 0.05 * _gauss(850, 180),
    }
    reflectance = np.clip(np.stack(list(curves.values())), 0.0, 1.0)
    reflectance.flags.writeable = False
    return tuple(curves), reflectance


def canopy(*, chlorophyll, water_mm, dry, cover, plateau, brown=0.0) -> np.ndarray:
    """Reflectance (2121,) of leaves by Kubelka & Munk (1931), `R = 1 + K/S - sqrt((K/S)^2 + 2 K/S)`, over moist soil.

    Pigment bands are Gaussians at the maxima of chlorophyll a and b (430, 460, 640, 676 nm; Lichtenthaler 1987) and
    carotenoids (480 nm), the red edge a logistic near 715 nm (Horler et al. 1983), dry matter absorbs at 1730, 2100
    and 2310 nm (Curran 1989). `chlorophyll`, `dry` and `brown` (tannins) are relative amounts, `cover` is the leaves'
    share of the ground, `plateau` their reflectance where nothing absorbs, in the near infrared.
    """
    green = (
        0.16
        + 1.0 * _gauss(430, 45)
        + 0.7 * _gauss(480, 25)
        + 0.45 * _gauss(635, 32)
        + 0.95 * _gauss(676, 16)
    )
    green = 19 * green / (1 + np.exp((WAVELENGTH_NM - 708) / 9.0))
    tannin = brown * 8.0 * np.exp(-(WAVELENGTH_NM - 380) / 170)
    cellulose = 0.10 * _gauss(1730, 40) + 0.22 * _gauss(2100, 60) + 0.16 * _gauss(2310, 60) + 0.05
    base = (1 - plateau) ** 2 / (2 * plateau)  # K/S of the plateau
    liquid = 0.45 * water_mm * 1e-3 * water_absorption_per_m()
    ratio = base + chlorophyll * green + tannin + 0.35 * dry * cellulose + liquid
    leaves = 1 + ratio - np.sqrt(ratio**2 + 2 * ratio)
    return cover * leaves + (1 - cover) * 0.5 * soil(0.30, 800, iron=0.1, clay=0.05, film_mm=0.075)


def soil(brightness, scale_nm, *, iron, clay, film_mm) -> np.ndarray:
    """Reflectance (2121,): a convex rise, iron bands (480, 550, 870 nm; Hunt 1980), clay at 2200 nm, adsorbed water.

    `brightness` is where the rise ends and `scale_nm` how soon; `iron` and `clay` are depths of the bands, 0 to 1. The
    water film multiplies by `exp(-2 a d)` (Bach & Mauser 1994).
    """
    rise = brightness * (0.12 + 0.88 * _rise(360, scale_nm))
    bands = 1 - iron * (
        0.75 * _gauss(480, 60)
        + 0.55 * _gauss(545, 28)
        + 0.30 * _gauss(400, 50)
        + 0.16 * _gauss(870, 60)
    )
    film = np.exp(-2 * film_mm * 1e-3 * water_absorption_per_m())
    return rise * bands * film * (1 - clay * _gauss(2205, 28))


def water(*, chlorophyll, dissolved, particles) -> np.ndarray:
    """Reflectance (2121,): water-leaving `0.33 bb / (a + bb)` (Morel & Prieur 1977) x 0.54 (interface), plus residue.

    Scattering of pure water as Smith & Baker (1981), dissolved matter `exp(-0.014 (l - 440))` (Bricaud et al. 1981).
    `chlorophyll` and `dissolved` are absorptions at 440 nm and `particles` backscatter at 550 nm, all in 1/m.
    """
    wavelength = WAVELENGTH_NM
    pigment = chlorophyll * (_gauss(440, 40) + 0.4 * _gauss(675, 12))
    absorption = (
        water_absorption_per_m() + pigment + dissolved * np.exp(-0.014 * (wavelength - 440))
    )
    scatter = 0.5 * 0.00144 * (wavelength / 500) ** -4.32 + particles * (550 / wavelength) ** 0.7
    return 0.54 * 0.33 * scatter / (absorption + scatter) + 0.004 * np.exp(
        -(wavelength - 380) / 900
    )


def snow(*, diameter_m) -> np.ndarray:
    """Albedo (2121,) `exp(-sqrt(13 a d))` of a deep pack of grain size d (Kokhanovsky & Zege 2004), faintly soiled."""
    return 0.97 * np.exp(-np.sqrt(13 * _absorption_per_m(_ICE_K) * diameter_m))


def _absorption_per_m(table):
    nm, k = table.T
    return (
        4 * np.pi * np.exp(PchipInterpolator(nm, np.log(k))(WAVELENGTH_NM)) / (WAVELENGTH_NM * 1e-9)
    )


def _gauss(centre_nm, sigma_nm):
    return np.exp(-0.5 * ((WAVELENGTH_NM - centre_nm) / sigma_nm) ** 2)


def _rise(start_nm, scale_nm):
    return 1 - np.exp(-(WAVELENGTH_NM - start_nm) / scale_nm)
