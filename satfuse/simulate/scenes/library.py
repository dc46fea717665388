"""The library of spectra that training scenes are mixed from, split so that no near copy lies on both sides."""

import hashlib
import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from satfuse.errors import ConfigError
from satfuse.simulate import spectra
from satfuse.simulate.scenes import parametric
from satfuse.simulate.scenes.measured import ATTRIBUTION, WAVELENGTH_NM, read_measured

log = logging.getLogger(__name__)

MATERIALS = ("vegetation", "soil", "artificial", "water", "snow", "mixed")
Split = Literal["train", "test", "all"]
_TEST_SHARE = 0.2
_BLOCK = 8  # neighbours in a file that stay on one side
_NEAR_COPY_DEG = 0.3
_SCENES = {"jasper": "train", "sjer": "train", "harv": "test"}

# share of pixels, and how likely each material is a member of such a pixel
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
_FILM_M = 1.75e-4  # of water on the wettest soil


@dataclass(frozen=True, eq=False)
class Library:
    """Spectra of surfaces.

    Parameters
    ----------
    wavelength_nm : (425,) 380 to 2500 nm in steps of 5.
    reflectance : (m, 425) float32, 0 to 1.
    material : (m,) str, one of `MATERIALS`.
    source, name : (m,) str, where each comes from.
    measured : True = made of measured libraries, False = parametric spectra only.
    attribution : one sentence per source, for the card of what is trained on it.
    """

    wavelength_nm: np.ndarray
    reflectance: np.ndarray
    material: np.ndarray
    source: np.ndarray
    name: np.ndarray
    measured: bool
    attribution: tuple[str, ...]

    def __len__(self):
        return len(self.reflectance)


def sample_folder() -> Path:
    """$SATFUSE_SAMPLE_DATA, by default `../shared/data` beside the repository."""
    return (
        Path(__file__).parents[3] / os.environ.get("SATFUSE_SAMPLE_DATA", "../shared/data")
    ).resolve()


def load_library(folder: Path | None = None, *, split: Split = "train") -> Library:
    """The measured libraries under a sample folder, or parametric spectra where the folder is absent.

    Both hold parametric water and snow, of which libraries measure few. The split is by source and entry: blocks of
    eight neighbours, or whole airborne scenes, go to one side, about a fifth to the test side. Training spectra within
    0.3 degrees of a test spectrum are dropped.

    Parameters
    ----------
    folder : holds `spectra/` and `airborne/`; `sample_folder()` by default.
    split : "train", "test", or "all", which is the two together.

    Raises
    ------
    ConfigError
        An unknown split, or a folder that is given and absent.
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
    log.info("spectra: %s", root if measured else f"parametric ones; there are none at {root}")
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
) -> np.ndarray:
    """Random pixels: one to four members of balanced materials, wet soil, depth of water, snow, shade, brightness.

    Parameters
    ----------
    library : see `load_library`.
    count : pixels.
    kind : one of `KINDS`; by default each pixel draws its own.

    Returns
    -------
    (count, 425) float32 reflectance on `library.wavelength_nm`, 0 to 1.6.
    """
    shares = np.array([share for share, _ in KINDS.values()])
    kinds = (
        rng.choice(len(KINDS), count, p=shares)
        if kind is None
        else np.full(count, list(KINDS).index(kind))
    )
    out = np.empty((count, library.reflectance.shape[1]), np.float32)
    for i, (name, (_, members)) in enumerate(KINDS.items()):
        rows = np.flatnonzero(kinds == i)
        if len(rows):
            out[rows] = _of_kind(library, rng, name, members, len(rows))
    return np.clip(out, 0, 1.6)


def draw_places(library: Library, rng: np.random.Generator, places: int, pixels: int) -> np.ndarray:
    """Random pixels of places, each of which has four to thirteen surfaces of its own, mixed and lit in its own way.

    Returns
    -------
    (places, pixels, 425) float32 reflectance.
    """
    out = np.empty((places, pixels, library.reflectance.shape[1]), np.float32)
    for place in out:
        surfaces = draw_spectra(library, rng, rng.integers(4, 14))
        shares = rng.dirichlet(np.full(len(surfaces), 0.5), pixels)
        place[:] = shares @ surfaces * np.exp(rng.normal(0, 0.2, pixels))[:, None]
    return out


def draw_members(library, rng, count, shares) -> np.ndarray:
    """(count,) rows of the library: a material by its share, a source, then an entry of it.

    A source of a material is as likely as the square root of its number of entries, so 4000 soils of one library do
    not crowd out the others. Materials that the library lacks are passed over.
    """
    weight = np.zeros(len(library))
    for material, share in shares.items():
        of = library.material == material
        sources, size = np.unique(library.source[of], return_counts=True)
        for source, n in zip(sources, size, strict=True):
            weight[of & (library.source == source)] = share * np.sqrt(n) / np.sqrt(size).sum() / n
    return rng.choice(len(library), count, p=weight / weight.sum())


def moisten(reflectance, moisture) -> np.ndarray:
    """Soil spectra (m, n) under a moisture (m,) of 0 (dry) to 1: darker by up to half, with a film of liquid water.

    The film absorbs as `exp(-2 a d)` (Bach & Mauser 1994); the darkening is that of Lobell & Asner (2002), SSSAJ 66,
    about half when saturated.
    """
    absorption = _water_absorption()[None] * (2 * _FILM_M)
    return reflectance * (
        (1 - 0.5 * moisture[:, None]) * np.exp(-absorption * moisture[:, None])
    ).astype(np.float32)


def shade(reflectance, sunlit) -> np.ndarray:
    """Spectra (m, n) of which a share `sunlit` (m,) has direct sun; the rest has `sky_light` only."""
    sky = sky_light()
    return reflectance * (sunlit[:, None] * (1 - sky) + sky).astype(np.float32)


def sky_light() -> np.ndarray:
    """(425,) share of the light that comes from clear sky: 0.25 at 450 nm, falling as wavelength to the power -2.5."""
    return 0.25 * (WAVELENGTH_NM / 450) ** -2.5


def _sides(table):
    """(m,) str: "train", "test", or "" for training spectra that are near copies of a test spectrum."""
    side = np.full(len(table["source"]), "train", dtype="<U5")
    group = [f"{s}/{m}" for s, m in zip(table["source"], table["material"], strict=True)]
    for one in sorted(set(group)):
        rows = np.flatnonzero(np.array(group) == one)
        if one.endswith("/snow"):  # neighbours are those of similar grain size
            rows = rows[np.argsort(_ice_depth(table["reflectance"][rows]), kind="stable")]
        source = one.split("/")[0]
        if source in _SCENES:
            side[rows] = _SCENES[source]
        elif source == parametric.SOURCE:  # independent draws: no neighbours
            side[rows[:: round(1 / _TEST_SHARE)]] = "test"
        else:
            for start in range(0, len(rows), _BLOCK):
                side[rows[start : start + _BLOCK]] = (
                    "test" if _draw(f"{one}/{start}") < _TEST_SHARE else "train"
                )
    for material in MATERIALS:
        of = table["material"] == material
        train, test = np.flatnonzero(of & (side == "train")), np.flatnonzero(of & (side == "test"))
        if len(train) and len(test):
            cosine = _unit(table["reflectance"][train]) @ _unit(table["reflectance"][test]).T
            side[train[cosine.max(1) > np.cos(np.radians(_NEAR_COPY_DEG))]] = ""
    return side


def _draw(text):
    """A number in 0 to 1 that the text decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _ice_depth(rows):
    """Depth of the ice band at 1030 nm against its shoulder at 950 nm."""
    return 1 - rows[:, (1030 - 380) // 5] / np.maximum(rows[:, (950 - 380) // 5], 1e-3)


def _of_kind(library, rng, kind, members, count):
    number = rng.integers(1, _MOST_MEMBERS + 1, count)
    share = rng.dirichlet(np.full(_MOST_MEMBERS, 0.9), count) * (
        np.arange(_MOST_MEMBERS) < number[:, None]
    )
    share /= np.maximum(share.sum(1, keepdims=True), 1e-9)
    out = np.zeros((count, library.reflectance.shape[1]), np.float32)
    for k in range(_MOST_MEMBERS):
        row = draw_members(library, rng, count, members)
        part = library.reflectance[row]
        soil = library.material[row] == "soil"
        part[soil] = moisten(part[soil], rng.beta(0.8, 1.2, soil.sum()))
        out += share[:, k : k + 1].astype(np.float32) * part
    if kind == "water":
        depth = 10 ** rng.uniform(-1.2, 0, (count, 1))
        glint = 0.01 * rng.exponential(1, (count, 1)) * (rng.random((count, 1)) < 0.5)
        return (out * depth + glint).astype(np.float32)
    if kind == "thin snow":
        snow = library.reflectance[draw_members(library, rng, count, {"snow": 1.0})]
        cover = rng.beta(0.8, 1.2, (count, 1)).astype(np.float32)
        out = cover * snow + (1 - cover) * out
    spread = 0.05 if "snow" in kind else 0.18
    out *= np.exp(np.clip(rng.normal(-0.08, spread, (count, 1)), -0.45, 0.2)).astype(np.float32)
    shaded = rng.random(count) < _SHADED
    out[shaded] = shade(out[shaded], rng.uniform(0, 0.7, shaded.sum()))
    return out


@cache
def _water_absorption():
    return spectra.water_absorption_per_m()[::5]
