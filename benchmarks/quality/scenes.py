"""Fixed scenes with known truth, by protocol and seed: EnMAP Potsdam and simulated biomes.

A biome's truth depends on biome, ratio and seed, so all protocols of a seed have the same ground.
Its spectra are the library's test entries, which no training draws; its places are of the
procedural land surface, which no training scene has. Potsdam is real and in no training either.
"""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from benchmarks.quality import potsdam
from satfuse.arrays import BoolArray, FloatArray
from satfuse.sensors.bands import COARSE_M, S2_NAMES, S3_ENMAP_NAMES, S3_NAMES
from satfuse.sensors.srf import srf_matrix
from satfuse.simulate.scenes.factory import BIOME_NAMES, biome_scene
from satfuse.simulate.scenes.library import Library, load_library, sample_folder
from satfuse.simulate.scenes.measured import WAVELENGTH_NM
from satfuse.simulate.scenes.protocol import (
    Protocol,
    SimulatedObservation,
    cloud_band_values,
    simulate_observation,
)

FINE_PX = 240  # side of a biome
RATIOS = (10, 15, 30)
POTSDAM = "potsdam"
POTSDAM_RATIO = 10  # its pixels are of 30 m
PLACES = (POTSDAM, *BIOME_NAMES)
UNSEEN = "unseen spectra"  # clean, with spectra of parametric models; training drew measured ones
# Cloudy scenes get more seeds: under some realisations of the clouds the images share no pixel.
EXTRA_CLOUD_REALISATIONS = 2

# Each changes one thing of the clean one; "realistic" changes everything that real pairs have.
PROTOCOLS = {
    "clean": Protocol(),
    "realistic": Protocol(psf_sigma=0.5, shift=(0.25, 0.25), gain=0.02, noise=0.002),
    "shift 0.25": Protocol(shift=(0.20, -0.15)),
    "shift 0.5": Protocol(shift=(0.40, -0.30)),
    "shift 1": Protocol(shift=(0.80, -0.60)),
    "psf 0.38": Protocol(psf_sigma=0.38),
    "psf 0.65": Protocol(psf_sigma=0.65),
    "cloud 20 %": Protocol(cloud=0.2),
    "cloud 40 %": Protocol(cloud=0.4),
    "other SRF": Protocol(guide_platform="S2B", coarse_platform="S3B"),
    UNSEEN: Protocol(),
}
REGISTERED = "registered"  # realistic, but the true shift is known: only with --full
ALL_PROTOCOLS = PROTOCOLS | {REGISTERED: replace(PROTOCOLS["realistic"], shift=(0.0, 0.0))}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A scene by name.

    Parameters
    ----------
    place : one of `PLACES`.
    ratio : one of `RATIOS`.
    protocol : one of `ALL_PROTOCOLS`.
    seed : of ground, clouds, noise and gain.
    """

    place: str
    ratio: int
    protocol: str
    seed: int

    def __str__(self) -> str:
        return f"{self.place}, ratio {self.ratio}, {self.protocol}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """The inputs of a method, and the truth.

    Parameters
    ----------
    guide, coarse : (band, y, x) for `satfuse.fuse`, NaN where the masks say cloud or shadow.
    target : (band, y, x) float32 truth on the guide's grid, complete.
    psf_sigma : (band,) of the coarse image, in coarse pixels.
    shift : (x, y) of the coarse image in coarse pixels, right and down.
    gain, offset : (band,) of the coarse image.
    """

    case: Case
    guide: xr.DataArray
    coarse: xr.DataArray
    target: FloatArray
    psf_sigma: FloatArray
    shift: FloatArray
    gain: FloatArray
    offset: FloatArray

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the coarse bands."""
        return tuple(map(str, self.coarse["band"].values))


def default_cases(seeds: int = 3) -> list[Case]:
    """The default subset: Potsdam under every protocol, biomes under each at some ratios.

    Biomes are realistic at every ratio and clean at one; under the other protocols there are three
    of the six, each at one ratio.
    """
    chosen = [(POTSDAM, POTSDAM_RATIO, name) for name in PROTOCOLS if name != UNSEEN]
    for number, protocol in enumerate(PROTOCOLS):
        for i, biome in enumerate(BIOME_NAMES):
            # biomes and ratios rotate from protocol to protocol
            ratios: tuple[int, ...] = (RATIOS[(i // 2 + number) % 3],)
            if protocol == "realistic":
                ratios = RATIOS
            elif protocol != "clean" and i % 2 != number % 2:
                ratios = ()
            chosen += [(biome, ratio, protocol) for ratio in ratios]
    return _with_seeds(chosen, seeds)


def all_cases(seeds: int = 3) -> list[Case]:
    """Every place at every ratio under every protocol; Potsdam has one ratio."""
    chosen = [(POTSDAM, POTSDAM_RATIO, name) for name in ALL_PROTOCOLS if name != UNSEEN]
    biomes = [(b, r, name) for b in BIOME_NAMES for r in RATIOS for name in ALL_PROTOCOLS]
    return _with_seeds(chosen + biomes, seeds)


def _with_seeds(chosen: Iterable[tuple[str, int, str]], seeds: int) -> list[Case]:
    return [
        Case(place=place, ratio=ratio, protocol=protocol, seed=seed)
        for place, ratio, protocol in chosen
        for seed in range(_seed_count(place, protocol, seeds))
    ]


def _seed_count(place: str, name: str, seeds: int) -> int:
    """Potsdam's ground is always the same: where nothing is random, it has one seed."""
    protocol = ALL_PROTOCOLS[name]
    if place == POTSDAM and not (protocol.noise or protocol.gain or protocol.cloud):
        return 1
    return seeds + EXTRA_CLOUD_REALISATIONS if protocol.cloud else seeds


def make_scene(case: Case, fine_px: int = FINE_PX) -> Scene:
    """The scene of a case; the same for the same case.

    Parameters
    ----------
    fine_px : side of a biome in fine pixels.
    """
    protocol = ALL_PROTOCOLS[case.protocol]
    if case.place == POTSDAM:
        bands = S3_ENMAP_NAMES
        observed, target = _observe_potsdam(protocol, case.seed)
    else:
        bands = S3_NAMES
        biome = biome_scene(
            case.place,
            ratio=case.ratio,
            protocol=protocol,
            seed=case.seed,
            fine_px=fine_px,
            library=_parametric_library() if case.protocol == UNSEEN else None,
        )
        observed = biome
        target = biome.target
    keep = slice(-len(bands), None)  # simulated observations have all 21 coarse bands
    coarse = _to_array(observed.coarse[0, keep], observed.coarse_valid[0], bands, COARSE_M)
    if case.protocol == REGISTERED:
        coarse.attrs["shift_m"] = (0.0, 0.0)
    return Scene(
        case=case,
        guide=_to_array(observed.guide, observed.guide_valid, S2_NAMES, COARSE_M / case.ratio),
        coarse=coarse,
        target=np.asarray(target, np.float32),
        psf_sigma=observed.psf_sigma[keep],
        shift=observed.shift[0],
        gain=observed.gain[0, keep],
        offset=observed.offset[0, keep],
    )


def _observe_potsdam(protocol: Protocol, seed: int) -> tuple[SimulatedObservation, FloatArray]:
    """The eastern rectangle under a protocol, and its truth (19, y, x).

    All guide bands are as sharp as EnMAP's 30 m.
    """
    guide, target = _potsdam_truth(protocol.guide_platform, protocol.coarse_platform)
    # EnMAP has no Oa01 and Oa02: copies of Oa03 stand in for them and are dropped afterwards
    frames = np.concatenate([target[:1], target[:1], target])[None]
    sensors = ((protocol.guide_platform, S2_NAMES), (protocol.coarse_platform, S3_NAMES))
    clouds = [
        cloud_band_values(srf_matrix(platform, names, WAVELENGTH_NM)[0])
        for platform, names in sensors
    ]
    sharp = replace(protocol, equal_blur=True)
    rng = np.random.default_rng([seed, 1])
    observed = simulate_observation(guide, frames, sharp, clouds, ratio=POTSDAM_RATIO, rng=rng)
    return observed, target


@cache
def _potsdam_truth(guide_platform: str, coarse_platform: str) -> tuple[FloatArray, FloatArray]:
    platforms = (guide_platform, coarse_platform)
    with tempfile.TemporaryDirectory() as work:
        cube = potsdam.build_cube(sample_folder(), Path(work) / "cube.zarr", platforms=platforms)
        guide, _, target = potsdam.east(cube)
    return guide.values, target.values


@cache
def _parametric_library() -> Library:
    """Test spectra of the parametric models, as where no sample folder has measured ones."""
    with tempfile.TemporaryDirectory() as empty:
        return load_library(Path(empty), split="test")


def _to_array(
    image: FloatArray, valid: BoolArray, bands: Sequence[str], pixel_m: float
) -> xr.DataArray:
    """(band, y, x) on a map grid somewhere, NaN where not `valid` (y, x)."""
    corner = Affine(pixel_m, 0, 400_000, 0, -pixel_m, 5_000_000)
    box = GeoBox(valid.shape, corner, "EPSG:32633")
    coords = xr_coords(box, dims=("y", "x")) | {"band": list(bands)}
    values = np.where(valid, image, np.float32(np.nan))
    array = xr.DataArray(values, dims=("band", "y", "x"), coords=coords)
    return array.assign_attrs(grid_mapping="spatial_ref")
