"""Reflectance spectra of pure surfaces, 380 to 2500 nm, as parametric curves.

Every curve is computed here from published equations and rounded published constants; none is a
measured spectrum. The optical constants of water and ice are tables of k, the imaginary part of the
refractive index; the absorption coefficient is `4 pi k / wavelength`.
"""

from functools import cache

import numpy as np
from scipy.interpolate import PchipInterpolator

from satfuse.arrays import FloatArray

WAVELENGTH_NM = np.arange(380, 2501).astype(float)

# nm, k of liquid water: Hale & Querry (1973), Appl. Opt. 12, table I; the peaks near 1200, 1450 and
# 1930 nm and the points next to them rounded from Kou, Labrie & Chylek (1993), Appl. Opt. 32.
_WATER_K = np.array([
    (375, 3.5e-9), (400, 1.86e-9), (425, 1.30e-9), (450, 1.02e-9), (475, 9.35e-10), (500, 1.00e-9),
    (525, 1.32e-9), (550, 1.96e-9), (575, 3.60e-9), (600, 1.09e-8), (625, 1.39e-8), (650, 1.64e-8),
    (675, 2.23e-8), (700, 3.35e-8), (725, 9.15e-8), (750, 1.56e-7), (775, 1.48e-7), (800, 1.25e-7),
    (825, 1.82e-7), (850, 2.93e-7), (875, 3.91e-7), (900, 4.86e-7), (925, 1.06e-6), (950, 2.93e-6),
    (975, 3.48e-6), (1000, 2.89e-6), (1065, 1.2e-6), (1120, 3.0e-6), (1150, 8.5e-6), (1195, 1.2e-5),
    (1260, 9.0e-6), (1320, 1.7e-5), (1380, 7.5e-5), (1400, 1.38e-4), (1450, 3.4e-4), (1500, 2.2e-4),
    (1550, 1.3e-4), (1600, 8.55e-5), (1660, 7.2e-5), (1720, 8.5e-5), (1780, 1.12e-4),
    (1800, 1.15e-4), (1850, 1.3e-4), (1880, 4.0e-4), (1930, 1.85e-3), (1960, 1.6e-3),
    (2000, 1.10e-3), (2100, 4.6e-4), (2200, 2.89e-4), (2300, 4.2e-4), (2400, 9.56e-4),
    (2500, 1.85e-3),
])  # fmt: skip

# nm, k of ice, rounded from Warren & Brandt (2008), J. Geophys. Res. 113, D14220.
_ICE_K = np.array([
    (375, 2.0e-11), (450, 9.2e-11), (500, 5.9e-10), (600, 5.7e-9), (700, 2.9e-8), (800, 1.34e-7),
    (900, 4.2e-7), (1000, 1.6e-6), (1030, 2.3e-6), (1090, 1.6e-6), (1150, 3.0e-6), (1250, 1.3e-5),
    (1300, 1.3e-5), (1370, 1.6e-5), (1430, 6.0e-5), (1490, 5.5e-4), (1550, 4.4e-4), (1650, 2.3e-4),
    (1750, 1.3e-4), (1850, 8.0e-5), (1900, 2.0e-4), (1960, 1.0e-3), (2010, 1.6e-3), (2100, 7.5e-4),
    (2200, 3.0e-4), (2250, 2.1e-4), (2350, 3.6e-4), (2500, 7.5e-4),
])  # fmt: skip


def water_absorption_per_m() -> FloatArray:
    """Absorption coefficient (2121,) of pure liquid water on `WAVELENGTH_NM`, 1/m."""
    return _absorption_per_m(_WATER_K)


def cloud() -> FloatArray:
    """Reflectance (2121,) of an opaque water cloud on `WAVELENGTH_NM`.

    Bright and flat, with the liquid-water bands of 20 um droplets by the diffusion limit
    `exp(-sqrt(13 a d))` of Kokhanovsky & Zege (2004), Appl. Opt. 43.
    """
    return 0.82 * np.exp(-np.sqrt(13 * water_absorption_per_m() * 20e-6))


@cache
def endmembers() -> tuple[tuple[str, ...], FloatArray]:
    """Pure surfaces of the procedural land.

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


def canopy(
    *,
    chlorophyll: float,
    water_mm: float,
    dry: float,
    cover: float,
    plateau: float,
    brown: float = 0.0,
) -> FloatArray:
    """Reflectance (2121,) of a canopy: leaves by Kubelka & Munk (1931) over moist soil.

    `R = 1 + K/S - sqrt((K/S)^2 + 2 K/S)`. Pigment bands are Gaussians at the maxima of chlorophyll
    a and b (430, 460, 640, 676 nm; Lichtenthaler 1987) and of carotenoids (480 nm), the red edge is
    a logistic near 715 nm (Horler et al. 1983), dry matter absorbs at 1730, 2100 and 2310 nm
    (Curran 1989).

    Parameters
    ----------
    chlorophyll, dry, brown : relative amounts of pigment, dry matter and tannins.
    water_mm : thickness of the water in the leaves.
    cover : share of the ground that leaves cover, 0 to 1.
    plateau : reflectance of the leaves where nothing absorbs, in the near infrared.
    """
    green = (
        0.16
        + 1.0 * _gauss(430, 45)
        + 0.7 * _gauss(480, 25)
        + 0.45 * _gauss(635, 32)
        + 0.95 * _gauss(676, 16)
    )
    green = 19 * green / (1 + np.exp((WAVELENGTH_NM - 708) / 9.0))  # ends at the red edge
    tannin = brown * 8.0 * np.exp(-(WAVELENGTH_NM - 380) / 170)
    cellulose = 0.10 * _gauss(1730, 40) + 0.22 * _gauss(2100, 60) + 0.16 * _gauss(2310, 60) + 0.05
    base = (1 - plateau) ** 2 / (2 * plateau)  # K/S of the plateau
    liquid = 0.45 * water_mm * 1e-3 * water_absorption_per_m()
    ratio = base + chlorophyll * green + tannin + 0.35 * dry * cellulose + liquid  # K/S
    leaves = 1 + ratio - np.sqrt(ratio**2 + 2 * ratio)
    ground = 0.5 * soil(0.30, 800, iron=0.1, clay=0.05, film_mm=0.075)
    return cover * leaves + (1 - cover) * ground


def soil(
    brightness: float, scale_nm: float, *, iron: float, clay: float, film_mm: float
) -> FloatArray:
    """Reflectance (2121,) of bare soil: a convex rise with bands of iron, clay and adsorbed water.

    Iron oxides absorb at 480, 550 and 870 nm (Hunt 1980), clay at 2200 nm; the water film
    multiplies by `exp(-2 a d)` (Bach & Mauser 1994).

    Parameters
    ----------
    brightness : reflectance that the rise approaches.
    scale_nm : length of the rise.
    iron, clay : depths of the bands, 0 to 1.
    film_mm : thickness of the water film.
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


def water(*, chlorophyll: float, dissolved: float, particles: float) -> FloatArray:
    """Reflectance (2121,) of deep water, plus a small residue.

    `0.33 bb / (a + bb)` with absorption a and backscatter bb (Morel & Prieur 1977), times 0.54 for
    the water surface. Scattering of pure water as Smith & Baker (1981); dissolved matter absorbs as
    `exp(-0.014 (l - 440))` (Bricaud et al. 1981).

    Parameters
    ----------
    chlorophyll, dissolved : absorption at 440 nm, 1/m.
    particles : backscatter at 550 nm, 1/m.
    """
    nm = WAVELENGTH_NM
    pigment = chlorophyll * (_gauss(440, 40) + 0.4 * _gauss(675, 12))
    yellow_substance = dissolved * np.exp(-0.014 * (nm - 440))
    absorption = water_absorption_per_m() + pigment + yellow_substance
    scatter = 0.5 * 0.00144 * (nm / 500) ** -4.32 + particles * (550 / nm) ** 0.7
    residue = 0.004 * np.exp(-(nm - 380) / 900)
    return 0.54 * 0.33 * scatter / (absorption + scatter) + residue


def snow(*, diameter_m: float) -> FloatArray:
    """Albedo (2121,) of a deep, faintly soiled snow pack of grains of a diameter in metres.

    `exp(-sqrt(13 a d))`, Kokhanovsky & Zege (2004).
    """
    return 0.97 * np.exp(-np.sqrt(13 * _absorption_per_m(_ICE_K) * diameter_m))


def _absorption_per_m(table: FloatArray) -> FloatArray:
    """Absorption coefficient (2121,) from a table (n, 2) of wavelength in nm and k."""
    nm, k = table.T
    k = np.exp(PchipInterpolator(nm, np.log(k))(WAVELENGTH_NM))  # k spans orders of magnitude
    return 4 * np.pi * k / (WAVELENGTH_NM * 1e-9)


def _gauss(centre_nm: float, sigma_nm: float) -> FloatArray:
    """(2121,) Gaussian of height 1."""
    return np.exp(-0.5 * ((WAVELENGTH_NM - centre_nm) / sigma_nm) ** 2)


def _rise(start_nm: float, scale_nm: float) -> FloatArray:
    """(2121,) saturating rise from 0 at `start_nm` towards 1."""
    return 1 - np.exp(-(WAVELENGTH_NM - start_nm) / scale_nm)
