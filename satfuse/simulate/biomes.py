"""Covers as mixtures of pure surfaces, and the biomes: which cover is found where."""

import math
from dataclasses import dataclass

import numpy as np

from satfuse.arrays import FloatArray
from satfuse.simulate.spectra import endmembers

NAMES = endmembers()[0]
NEVER = math.inf  # a threshold that no field exceeds: the biome has no such cover


def _mix(**shares: float) -> FloatArray:
    """Abundance vector (n_end,) of a cover; shares sum to 1."""
    return np.array([shares.get(name, 0.0) for name in NAMES], np.float32)


DENSE = _mix(vegetation_dense=0.93, soil_moist=0.07)
GRASS = _mix(vegetation_sparse=0.75, vegetation_dense=0.2, soil_dark=0.05)
SHRUB = _mix(vegetation_sparse=0.35, vegetation_dry=0.4, soil_bright=0.25)
STEPPE = _mix(vegetation_dry=0.6, vegetation_sparse=0.1, soil_bright=0.3)
STUBBLE = _mix(vegetation_dry=0.75, soil_bright=0.25)
EMERGING = _mix(vegetation_sparse=0.4, soil_dark=0.6)
BARE = _mix(soil_dark=0.85, vegetation_dry=0.15)
PALE = _mix(soil_bright=0.9, vegetation_dry=0.1)
RED = _mix(soil_red=0.9, vegetation_sparse=0.1)
WET = _mix(soil_moist=0.8, vegetation_sparse=0.2)
CONIFER = _mix(conifer=0.95, vegetation_dry=0.05)
BROADLEAF = _mix(vegetation_dense=0.72, conifer=0.25, soil_moist=0.03)
ERG = _mix(sand_bright=1.0)
REG = _mix(sand_dark=0.8, soil_red=0.2)
ROCK = _mix(soil_dark=0.7, soil_bright=0.3)
WADI = _mix(soil_bright=0.5, sand_bright=0.25, vegetation_sparse=0.25)
CLEAR = _mix(water_clear=1.0)
TURBID = _mix(water_turbid=1.0)
ASPHALT = _mix(asphalt=0.85, concrete=0.15)
TRACK = _mix(soil_bright=0.6, vegetation_sparse=0.4)
SNOW = _mix(snow=1.0)
# covers of towns, one is drawn per building or per block
BUILT = np.stack([
    _mix(roof_tile=0.7, vegetation_sparse=0.2, asphalt=0.1),
    _mix(concrete=0.8, asphalt=0.2),
    _mix(vegetation_dense=0.7, vegetation_sparse=0.3),
    _mix(roof_tile=0.4, concrete=0.4, vegetation_dense=0.2),
    _mix(asphalt=0.6, concrete=0.4),
    _mix(metal=0.75, concrete=0.25),
    _mix(vegetation_sparse=0.7, soil_bright=0.3),
    _mix(roof_tile=0.85, asphalt=0.15),
])  # fmt: skip
# covers of parcels, one is drawn per parcel
CROPS = np.stack([DENSE, GRASS, EMERGING, BARE, STUBBLE, DENSE, PALE, WET])
_DRY_CROPS = np.stack([DENSE, PALE, STUBBLE, RED, EMERGING, STUBBLE, PALE, DENSE])


@dataclass(frozen=True, kw_only=True, slots=True)
class Biome:
    """Covers of a biome.

    A cover with a threshold is found where a random field of `simulate.surface` exceeds it;
    `NEVER` excludes it.

    Parameters
    ----------
    dry_ground, wet_ground : abundances (n_end,) of open ground where moisture is low and high.
    river_m : half width of rivers.
    crops : (n, n_end) abundances that parcels draw from; None = no farmland.
    conifers : about the share of conifers in forests, 0 to 1.
    field, forest, town, water, snow, rock : thresholds of the fields, standard deviations.
    parcel_m : size of the parcels.
    roads : True = roads follow the parcels.
    dunes : True = sand sea with dry rivers and irrigated circles.
    beach : True = bare sand along the water.
    """

    dry_ground: FloatArray
    wet_ground: FloatArray
    river_m: float
    crops: FloatArray | None = None
    conifers: float = 0.5
    field: float = NEVER
    forest: float = NEVER
    town: float = NEVER
    water: float = NEVER
    snow: float = NEVER
    parcel_m: float = 260.0
    roads: bool = True
    rock: float = NEVER
    dunes: bool = False
    beach: bool = False


BIOMES = {
    "mixed": Biome(
        dry_ground=STEPPE, wet_ground=GRASS, crops=CROPS, river_m=45,
        field=-0.5, forest=0.45, town=1.3, water=1.55,
    ),
    "desert": Biome(
        dry_ground=REG, wet_ground=ERG, crops=_DRY_CROPS, river_m=60, parcel_m=420,
        field=0.9, town=2.3, rock=0.9, roads=False, dunes=True,
    ),
    "crop": Biome(
        dry_ground=STUBBLE, wet_ground=GRASS, crops=CROPS, river_m=25, parcel_m=330,
        field=-2.5, forest=1.4, town=1.9, water=2.4,
    ),
    "forest": Biome(
        dry_ground=SHRUB, wet_ground=GRASS, crops=CROPS, river_m=35,
        field=1.2, forest=-1.0, town=2.4, water=1.2, conifers=0.65,
    ),
    "city": Biome(
        dry_ground=SHRUB, wet_ground=GRASS, crops=CROPS, river_m=70,
        field=-0.2, forest=1.0, town=-0.1, water=1.9,
    ),
    "coast": Biome(
        dry_ground=STEPPE, wet_ground=SHRUB, crops=_DRY_CROPS, river_m=25, parcel_m=200,
        field=0.0, forest=0.9, town=1.3, water=0.1, conifers=0.3, beach=True,
    ),
    "snow": Biome(
        dry_ground=ROCK, wet_ground=STEPPE, river_m=25,
        forest=0.1, water=1.5, snow=-0.3, rock=0.5, conifers=0.9, roads=False,
    ),
}  # fmt: skip
