"""Fixed scenes with known truth: EnMAP Potsdam and simulated biomes, seen under named protocols, by seed.

A biome's truth depends on biome, ratio and seed, so all protocols of a seed see the same ground. Its spectra are
the library's test entries, which no training draws; its places are of the procedural land surface, which no training
scene has. Potsdam is real and belongs to no training either.
"""

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from benchmarks.quality import potsdam
from satfuse.sensors.bands import COARSE_M, S2_NAMES, S3_NAMES
from satfuse.sensors.srf import srf_matrix
from satfuse.simulate.scenes.factory import BIOME_NAMES, biome_scene
from satfuse.simulate.scenes.library import load_library, sample_folder
from satfuse.simulate.scenes.measured import WAVELENGTH_NM
from satfuse.simulate.scenes.protocol import Protocol, cloud_band_values, simulate_observation

FINE_PX = 240
# more seeds of cloudy scenes: under some skies no pixel of the two images is shared
SPARE_SKIES = 2
RATIOS = (10, 15, 30)
POTSDAM = "potsdam"
PLACES = (POTSDAM, *BIOME_NAMES)
UNSEEN = "unseen spectra"  # clean, but every spectrum is a parametric model's; training drew measured ones
OTHER = {"guide_platform": "S2B", "coarse_platform": "S3B"}

# Each changes one thing of the clean one; "realistic" changes all that real pairs have.
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
    "other SRF": Protocol(**OTHER),
    UNSEEN: Protocol(),
}
REGISTERED = "registered"  # realistic, but the true shift is known: only with --full
_ALL = PROTOCOLS | {REGISTERED: Protocol(psf_sigma=0.5, gain=0.02, noise=0.002)}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Which scene: a name of `PLACES`, a ratio of `RATIOS`, a name of `PROTOCOLS` or `REGISTERED`, a seed."""

    place: str
    ratio: int
    protocol: str
    seed: int

    def __str__(self):
        return f"{self.place}, ratio {self.ratio}, {self.protocol}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """What a method gets, and the truth.

    Parameters
    ----------
    guide, coarse : (band, y, x) for `satfuse.fuse`, NaN where the masks say cloud or shadow.
    target : (band, y, x) float32 truth on the guide's grid, complete.
    psf_sigma, gain, offset : (band,) of the coarse image; shift : (x, y) in coarse pixels, right and down.
    """

    case: Case
    guide: xr.DataArray
    coarse: xr.DataArray
    target: np.ndarray
    psf_sigma: np.ndarray
    shift: np.ndarray
    gain: np.ndarray
    offset: np.ndarray

    @property
    def bands(self) -> tuple[str, ...]:
        return tuple(map(str, self.coarse["band"].values))


def default_cases(seeds: int = 3) -> list[Case]:
    """Potsdam under every protocol. Biomes: realistic at every ratio, clean at one, the others three of six at one."""
    chosen = []
    for number, protocol in enumerate(PROTOCOLS):
        for i, biome in enumerate(BIOME_NAMES):
            ratios = (RATIOS[(i // 2 + number) % 3],)
            if protocol == "realistic":
                ratios = RATIOS
            elif protocol != "clean" and i % 2 != number % 2:
                ratios = ()
            chosen += [(biome, ratio, protocol) for ratio in ratios]
    return _with_seeds([(POTSDAM, 10, p) for p in PROTOCOLS if p != UNSEEN] + chosen, seeds)


def all_cases(seeds: int = 3) -> list[Case]:
    """Every place at every ratio under every protocol; Potsdam has 30 m pixels and therefore ratio 10 alone."""
    names = (*PROTOCOLS, REGISTERED)
    potsdam_cases = [(POTSDAM, 10, p) for p in names if p != UNSEEN]
    return _with_seeds(
        potsdam_cases + [(b, r, p) for b in BIOME_NAMES for r in RATIOS for p in names], seeds
    )


def make_scene(case: Case, fine_px: int = FINE_PX) -> Scene:
    """The scene of a case; the same for the same case. `fine_px` is the side of a biome."""
    protocol = _ALL[case.protocol]
    if case.place == POTSDAM:
        observed, target = _potsdam(protocol, case.seed)
        bands = S3_NAMES[2:]
    else:
        library = _parametric() if case.protocol == UNSEEN else None
        rest = {"seed": case.seed, "fine_px": fine_px, "library": library}
        observed = biome_scene(case.place, ratio=case.ratio, protocol=protocol, **rest)
        target, bands = observed.target, S3_NAMES
    keep = slice(len(S3_NAMES) - len(bands), None)
    coarse = _array(observed.coarse[0, keep], observed.coarse_valid[0], bands, COARSE_M)
    if case.protocol == REGISTERED:
        coarse.attrs["shift_m"] = (0.0, 0.0)
    return Scene(
        case=case,
        guide=_array(observed.guide, observed.guide_valid, S2_NAMES, COARSE_M / case.ratio),
        coarse=coarse,
        target=np.asarray(target[keep] if len(target) > len(bands) else target, np.float32),
        psf_sigma=observed.psf_sigma[keep],
        shift=observed.shift[0],
        gain=observed.gain[0, keep],
        offset=observed.offset[0, keep],
    )


def _with_seeds(chosen, seeds):
    return [
        Case(place=place, ratio=ratio, protocol=protocol, seed=seed)
        for place, ratio, protocol in chosen
        for seed in range(_count(place, protocol, seeds))
    ]


def _count(place, protocol, seeds):
    """Of seeds. Potsdam's truth is one: where nothing is random, more seeds would give the same scene again."""
    seen = _ALL[protocol]
    if place == POTSDAM and not (seen.noise or seen.gain or seen.cloud):
        return 1
    return seeds + SPARE_SKIES if seen.cloud else seeds


def _potsdam(protocol, seed):
    """The eastern rectangle under a protocol; guide bands all at 30 m, as EnMAP gives them."""
    guide, target = _potsdam_truth(protocol.guide_platform, protocol.coarse_platform)
    frames = np.concatenate([target[:1], target[:1], target])[
        None
    ]  # EnMAP has no Oa01 and Oa02: dropped again
    clouds = [
        cloud_band_values(srf_matrix(platform, names, WAVELENGTH_NM)[0])
        for platform, names in (
            (protocol.guide_platform, S2_NAMES),
            (protocol.coarse_platform, S3_NAMES),
        )
    ]
    sharp = Protocol(**vars(protocol) | {"equal_blur": True})
    return simulate_observation(
        guide, frames, sharp, clouds, ratio=10, rng=np.random.default_rng([seed, 1])
    ), target


@cache
def _potsdam_truth(*platforms):
    with tempfile.TemporaryDirectory() as work:
        cube = potsdam.build_cube(sample_folder(), Path(work) / "cube.zarr", platforms=platforms)
        guide, _, target = potsdam.east(cube)
    return guide.values, target.values


@cache
def _parametric():
    """Test spectra of the parametric models, which stand in for measured ones where there is no sample folder."""
    with tempfile.TemporaryDirectory() as empty:
        return load_library(Path(empty), split="test")


def _array(image, valid, bands, pixel_m) -> xr.DataArray:
    height, width = valid.shape
    box = GeoBox((height, width), Affine(pixel_m, 0, 400_000, 0, -pixel_m, 5_000_000), "EPSG:32633")
    coords = xr_coords(box, dims=("y", "x")) | {"band": list(bands)}
    array = xr.DataArray(
        np.where(valid, image, np.float32(np.nan)), dims=("band", "y", "x"), coords=coords
    )
    return array.assign_attrs(grid_mapping="spatial_ref")
