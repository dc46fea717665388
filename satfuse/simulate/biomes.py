"""Covers as mixtures of pure surfaces, and the biomes that say which cover lies where."""

import math
from dataclasses import dataclass

import numpy as np

from satfuse.simulate.spectra import endmembers

NAMES = endmembers()[0]
NEVER = math.inf


def _mix(**shares):
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
CLEAR, TURBID = _mix(water_clear=1.0), _mix(water_turbid=1.0)
ASPHALT, TRACK = _mix(asphalt=0.85, concrete=0.15), _mix(soil_bright=0.6, vegetation_sparse=0.4)
SNOW = _mix(snow=1.0)
BUILT = np.stack([
    _mix(roof_tile=0.7, vegetation_sparse=0.2, asphalt=0.1), _mix(concrete=0.8, asphalt=0.2),
    _mix(vegetation_dense=0.7, vegetation_sparse=0.3), _mix(roof_tile=0.4, concrete=0.4, vegetation_dense=0.2),
    _mix(asphalt=0.6, concrete=0.4), _mix(metal=0.75, concrete=0.25), _mix(vegetation_sparse=0.7, soil_bright=0.3),
    _mix(roof_tile=0.85, asphalt=0.15),
])  # fmt: skip
CROPS = np.stack([DENSE, GRASS, EMERGING, BARE, STUBBLE, DENSE, PALE, WET])
_DRY_CROPS = np.stack([DENSE, PALE, STUBBLE, RED, EMERGING, STUBBLE, PALE, DENSE])


@dataclass(frozen=True, kw_only=True, slots=True)
class Biome:
    """Thresholds in standard deviations of the field that places a cover; it lies where the field is above."""

    dry_ground: np.ndarray
    wet_ground: np.ndarray
    river_m: float  # half width
    crops: np.ndarray | None = None
    conifers: float = 0.5  # share
    field: float = NEVER
    forest: float = NEVER
    town: float = NEVER
    water: float = NEVER
    snow: float = NEVER
    parcel_m: float = 260.0
    roads: bool = True
    rock: float = NEVER
    dunes: bool = False  # sand sea with dry rivers and irrigated circles
    beach: bool = False


BIOMES = {
    "mixed": Biome(dry_ground=STEPPE, wet_ground=GRASS, crops=CROPS, field=-0.5, forest=0.45, town=1.3, water=1.55,
        river_m=45),
    "desert": Biome(dry_ground=REG, wet_ground=ERG, crops=_DRY_CROPS, field=0.9, town=2.3, river_m=60, rock=0.9,
        parcel_m=420, roads=False, dunes=True),
    "crop": Biome(dry_ground=STUBBLE, wet_ground=GRASS, crops=CROPS, field=-2.5, forest=1.4, town=1.9, water=2.4,
        river_m=25, parcel_m=330),
    "forest": Biome(dry_ground=SHRUB, wet_ground=GRASS, crops=CROPS, field=1.2, forest=-1.0, town=2.4, water=1.2,
        river_m=35, conifers=0.65),
    "city": Biome(dry_ground=SHRUB, wet_ground=GRASS, crops=CROPS, field=-0.2, forest=1.0, town=-0.1, water=1.9,
        river_m=70),
    "coast": Biome(dry_ground=STEPPE, wet_ground=SHRUB, crops=_DRY_CROPS, field=0.0, forest=0.9, town=1.3, water=0.1,
        river_m=25, parcel_m=200, conifers=0.3, beach=True),
    "snow": Biome(dry_ground=ROCK, wet_ground=STEPPE, forest=0.1, water=1.5, snow=-0.3, river_m=25, roads=False,
        conifers=0.9, rock=0.5),
}  # fmt: skip
