"""The spectral library that training scenes are mixed from, and random pixels drawn from it.

It is split into a training and a test side so that no test spectrum has a near copy in training.
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from satfuse.arrays import FloatArray, IntArray
from satfuse.errors import ConfigError
from satfuse.sensors.quality import HIGHEST_REFLECTANCE
from satfuse.simulate import spectra
from satfuse.simulate.scenes import parametric
from satfuse.simulate.scenes.measured import (
    ATTRIBUTION,
    WAVELENGTH_NM,
    Table,
    read_measured,
    reflectance_at,
)

log = logging.getLogger(__name__)

MATERIALS = ("vegetation", "soil", "artificial", "water", "snow", "mixed")
Split = Literal["train", "test", "all"]
_TEST_SHARE = 0.2
_BLOCK = 8  # neighbours in a file that stay on one side
_NEAR_COPY_DEG = 0.3  # spectral angle
_SCENES = {"jasper": "train", "sjer": "train", "harv": "test"}  # side of whole airborne scenes

# kinds of pixels: share of all pixels, and how likely each material is a member of such a pixel
KINDS = {
    "mixed": (0.34, {"vegetation": 0.40, "soil": 0.30, "artificial": 0.20, "mixed": 0.10}),
    "canopy": (0.22, {"vegetation": 0.85, "mixed": 0.15}),
    "ground": (0.14, {"soil": 0.85, "vegetation": 0.15}),
    "built": (0.08, {"artificial": 0.75, "soil": 0.10, "vegetation": 0.15}),
    "water": (0.12, {"water": 1.0}),
    "snow": (0.06, {"snow": 1.0}),
    "thin snow": (0.04, {"vegetation": 0.5, "soil": 0.5}),
}
_MOST_MEMBERS = 4
_SHADED = 0.12  # share of land pixels
_FILM_M = 1.75e-4  # thickness of the water on the wettest soil


@dataclass(frozen=True, eq=False)
class Library:
    """Spectra of surfaces.

    Parameters
    ----------
    wavelength_nm : (425,) 380 to 2500 nm in steps of 5.
    reflectance : (m, 425) float32, 0 to 1.
    material : (m,) str, one of `MATERIALS`.
    source, name : (m,) str, origin of each spectrum.
    measured : True = mostly measured spectra, False = parametric spectra only.
    attribution : one sentence per source, for the card of a model that is trained on it.
    """

    wavelength_nm: IntArray
    reflectance: FloatArray
    material: npt.NDArray[np.str_]
    source: npt.NDArray[np.str_]
    name: npt.NDArray[np.str_]
    measured: bool
    attribution: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.reflectance)


def sample_folder() -> Path:
    """$SATFUSE_SAMPLE_DATA, by default `../shared/data` next to the repository."""
    repository = Path(__file__).parents[3]
    return (repository / os.environ.get("SATFUSE_SAMPLE_DATA", "../shared/data")).resolve()


def load_library(folder: Path | None = None, *, split: Split = "train") -> Library:
    """Load the measured spectra of a sample folder, or parametric ones where it has none.

    Both include parametric water and snow, of which libraries measure few. The split is by source
    and entry: blocks of eight neighbours, or whole airborne scenes, go to one side, about a fifth
    to the test side. Training spectra within 0.3 degrees of a test spectrum are dropped.

    Parameters
    ----------
    folder : holds `spectra/` and `airborne/`; `sample_folder()` by default.
    split : "train", "test", or "all" for the two together.

    Raises
    ------
    ConfigError
        An unknown split, or a `folder` that does not exist.
    ReadError
        A file of the folder is missing.
    """
    if split not in ("train", "test", "all"):
        raise ConfigError(f"unknown {split=}; known: train, test, all")
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(
            f"no folder {folder}; give none for ${{SATFUSE_SAMPLE_DATA}} or the parametric spectra"
        )
    root = Path(folder) if folder is not None else sample_folder()
    measured = (root / "spectra").is_dir()
    log.info("spectra: %s", root if measured else f"parametric, as there are none at {root}")
    table = parametric.parametric_table(("water", "snow") if measured else MATERIALS)
    if measured:
        table = {k: np.concatenate([v, table[k]]) for k, v in read_measured(root).items()}
    side = _sides(table)
    keep = (side != "") if split == "all" else (side == split)
    table = {k: v[keep] for k, v in table.items()}
    texts = ATTRIBUTION | {parametric.SOURCE: parametric.ATTRIBUTION}
    attribution = tuple(text for source, text in texts.items() if (table["source"] == source).any())
    return Library(wavelength_nm=WAVELENGTH_NM, measured=measured, attribution=attribution, **table)


def draw_spectra(
    library: Library, rng: np.random.Generator, count: int, *, kind: str | None = None
) -> FloatArray:
    """Random pixels: mixtures of one to four spectra of balanced materials, in random conditions.

    The conditions are the moisture of soil, the depth of water, snow cover, shade and brightness.

    Parameters
    ----------
    library : see `load_library`.
    count : number of pixels.
    kind : one of `KINDS`; by default each pixel draws its own.

    Returns
    -------
    (count, 425) float32 reflectance on `library.wavelength_nm`, 0 to 1.6.
    """
    if kind is None:
        kinds = rng.choice(len(KINDS), count, p=[share for share, _ in KINDS.values()])
    else:
        kinds = np.full(count, list(KINDS).index(kind))
    out = np.empty((count, library.reflectance.shape[1]), np.float32)
    for i, name in enumerate(KINDS):
        rows = np.flatnonzero(kinds == i)
        if len(rows):
            out[rows] = _draw_kind(library, rng, name, len(rows))
    return np.clip(out, 0, HIGHEST_REFLECTANCE)


def draw_places(library: Library, rng: np.random.Generator, places: int, pixels: int) -> FloatArray:
    """Random pixels of small regions, mixtures of the four to thirteen surfaces of their region.

    Parameters
    ----------
    places : number of regions.
    pixels : number of pixels per region.

    Returns
    -------
    (places, pixels, 425) float32 reflectance.
    """
    out = np.empty((places, pixels, library.reflectance.shape[1]), np.float32)
    for place in out:
        surfaces = draw_spectra(library, rng, int(rng.integers(4, 14)))
        shares = rng.dirichlet(np.full(len(surfaces), 0.5), pixels)
        place[:] = shares @ surfaces * np.exp(rng.normal(0, 0.2, pixels))[:, None]
    return out


def draw_members(
    library: Library, rng: np.random.Generator, count: int, shares: Mapping[str, float]
) -> IntArray:
    """Rows (count,) of the library: a material by its share, then a source, then an entry of it.

    A source of a material is as likely as the square root of its number of entries, so that the
    4000 soils of one library do not crowd out the others. Materials that the library lacks are
    passed over.

    Parameters
    ----------
    shares : probability of each material.
    """
    weight = np.zeros(len(library))
    for material, share in shares.items():
        is_material = library.material == material
        sources, size = np.unique(library.source[is_material], return_counts=True)
        for source, n in zip(sources, size, strict=True):
            entries = is_material & (library.source == source)
            weight[entries] = share * np.sqrt(n) / np.sqrt(size).sum() / n
    return rng.choice(len(library), count, p=weight / weight.sum())


def moisten(reflectance: FloatArray, moisture: FloatArray) -> FloatArray:
    """Wet soil: darker by up to half, with a film of liquid water.

    The film absorbs as `exp(-2 a d)` (Bach & Mauser 1994); the darkening is that of Lobell & Asner
    (2002), SSSAJ 66, about half when saturated.

    Parameters
    ----------
    reflectance : (m, 425) of dry soil.
    moisture : (m,) 0 (dry) to 1 (saturated).
    """
    depth = _water_absorption_per_m()[None] * (2 * _FILM_M)
    film = np.exp(-depth * moisture[:, None])
    return reflectance * ((1 - 0.5 * moisture[:, None]) * film).astype(np.float32)


def shade(reflectance: FloatArray, sunlit: FloatArray) -> FloatArray:
    """Spectra (m, 425) of which a share `sunlit` (m,) has direct sun, the rest `sky_light` only."""
    sky = sky_light()
    return reflectance * (sunlit[:, None] * (1 - sky) + sky).astype(np.float32)


def sky_light() -> FloatArray:
    """(425,) share of the light that comes from clear sky.

    0.25 at 450 nm, falling as wavelength to the power -2.5.
    """
    return 0.25 * (WAVELENGTH_NM / 450) ** -2.5


def _sides(table: Table) -> npt.NDArray[np.str_]:
    """(m,) "train", "test", or "" for training spectra that are near copies of a test spectrum."""
    side = np.full(len(table["source"]), "train", dtype="<U5")
    pairs = zip(table["source"], table["material"], strict=True)
    groups = np.array([f"{source}/{material}" for source, material in pairs])
    for group in np.unique(groups):
        _split_group(group, np.flatnonzero(groups == group), table["reflectance"], side)
    for material in MATERIALS:
        is_material = table["material"] == material
        train = np.flatnonzero(is_material & (side == "train"))
        test = np.flatnonzero(is_material & (side == "test"))
        if len(train) and len(test):
            cosine = _unit(table["reflectance"][train]) @ _unit(table["reflectance"][test]).T
            side[train[cosine.max(1) > np.cos(np.radians(_NEAR_COPY_DEG))]] = ""
    return side


def _split_group(
    group: str, rows: IntArray, reflectance: FloatArray, side: npt.NDArray[np.str_]
) -> None:
    """Write the sides of a group "source/material", given its rows in the table, into `side`."""
    if group.endswith("/snow"):  # neighbours are those of similar grain size
        rows = rows[np.argsort(_ice_depth(reflectance[rows]), kind="stable")]
    source = group.split("/")[0]
    if source in _SCENES:
        side[rows] = _SCENES[source]
    elif source == parametric.SOURCE:  # independent draws: no neighbours
        side[rows[:: round(1 / _TEST_SHARE)]] = "test"
    else:
        for start in range(0, len(rows), _BLOCK):
            test = _hash_to_unit(f"{group}/{start}") < _TEST_SHARE
            side[rows[start : start + _BLOCK]] = "test" if test else "train"


def _hash_to_unit(text: str) -> float:
    """A number in 0 to 1 that depends on the text only."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _unit(rows: FloatArray) -> FloatArray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _ice_depth(spectra: FloatArray) -> FloatArray:
    """Depth (m,) of the ice band at 1030 nm against its shoulder at 950 nm."""
    return 1 - reflectance_at(spectra, 1030) / np.maximum(reflectance_at(spectra, 950), 1e-3)


def _draw_kind(library: Library, rng: np.random.Generator, kind: str, count: int) -> FloatArray:
    """Pixels (count, 425) of one of `KINDS`."""
    out = _mix_members(library, rng, KINDS[kind][1], count)
    if kind == "water":
        depth = 10 ** rng.uniform(-1.2, 0, (count, 1))  # dims the water-leaving light
        glint = 0.01 * rng.exponential(1, (count, 1)) * (rng.random((count, 1)) < 0.5)
        return (out * depth + glint).astype(np.float32)
    if kind == "thin snow":
        snow = library.reflectance[draw_members(library, rng, count, {"snow": 1.0})]
        cover = rng.beta(0.8, 1.2, (count, 1)).astype(np.float32)
        out = cover * snow + (1 - cover) * out
    # brightness of slopes; snow varies less
    spread = 0.05 if "snow" in kind else 0.18
    out *= np.exp(np.clip(rng.normal(-0.08, spread, (count, 1)), -0.45, 0.2)).astype(np.float32)
    shaded = rng.random(count) < _SHADED
    out[shaded] = shade(out[shaded], rng.uniform(0, 0.7, shaded.sum()))
    return out


def _mix_members(
    library: Library, rng: np.random.Generator, shares: Mapping[str, float], count: int
) -> FloatArray:
    """Mixtures (count, 425) of one to four spectra, soils among them wet at random."""
    number = rng.integers(1, _MOST_MEMBERS + 1, count)
    share = rng.dirichlet(np.full(_MOST_MEMBERS, 0.9), count)
    share = share * (np.arange(_MOST_MEMBERS) < number[:, None])
    # shares of the first `number` members sum to 1
    share /= np.maximum(share.sum(1, keepdims=True), 1e-9)
    out = np.zeros((count, library.reflectance.shape[1]), np.float32)
    for k in range(_MOST_MEMBERS):
        row = draw_members(library, rng, count, shares)
        member = library.reflectance[row]
        soil = library.material[row] == "soil"
        member[soil] = moisten(member[soil], rng.beta(0.8, 1.2, soil.sum()))
        out += share[:, k : k + 1].astype(np.float32) * member
    return out


@cache
def _water_absorption_per_m() -> FloatArray:
    """(425,) on `WAVELENGTH_NM`."""
    return spectra.water_absorption_per_m()[::5]
