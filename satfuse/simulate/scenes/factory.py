"""Scenes with known truth for training and benchmark: spectra times structure, then observed.

Bands are linear in spectra, so spectra enter as band values and no hyperspectral cube is made.
Training scenes have random structures or that of unmixed Sentinel-2 images; the biomes of the
benchmark have the procedural land of `simulate.surface`, with spectra of the test side only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np

from satfuse.arrays import FloatArray
from satfuse.errors import ConfigError
from satfuse.sensors.bands import COARSE_M, S2_NAMES, S3_NAMES
from satfuse.sensors.quality import HIGHEST_REFLECTANCE
from satfuse.sensors.srf import srf_matrix
from satfuse.simulate import spectra
from satfuse.simulate.scenes import worldstrat
from satfuse.simulate.scenes.library import (
    Library,
    draw_spectra,
    load_library,
    sky_light,
)
from satfuse.simulate.scenes.protocol import (
    SLSTR_WIDER,
    Protocol,
    SimulatedObservation,
    cloud_band_values,
    simulate_observation,
)
from satfuse.simulate.scenes.structure import Shape, fractal_field, make_structure
from satfuse.simulate.surface import Surface

BIOME_NAMES = ("desert", "crop", "forest", "city", "coast", "snow")
_STRUCTURE_SHARES = {  # of the scenes
    "dead leaves": 0.2,
    "fractal": 0.15,
    "fields": 0.2,
    "city": 0.15,
    "water edge": 0.2,
    "snow": 0.1,
}
_WORLDSTRAT_SHARE = 0.2  # of the scenes, if the folder has images
_DICTIONARY = {
    "canopy": 6,
    "ground": 5,
    "mixed": 4,
    "built": 3,
    "water": 2,
}  # spectra to unmix into
_VARIANTS = 3  # spectra per cover, mixed differently at every pixel
_CHANGE_DAYS = 30  # a cover may be fully changed after this date difference
_MATERIALS = {  # of the endmembers by the first word of their name; the others are artificial
    "vegetation": "vegetation",
    "conifer": "vegetation",
    "soil": "soil",
    "sand": "soil",
    "water": "water",
    "snow": "snow",
}


@dataclass(frozen=True, kw_only=True)
class FactoryConfig:
    """Ranges that training scenes are drawn from.

    Parameters
    ----------
    ratios : fine pixels per coarse pixel, one is drawn per scene.
    coarse_px : side of a scene in coarse pixels; even.
    frames : coarse images per scene; the first has the guide's date, the others differ by up to
        `days`.
    days : largest date difference.
    psf_sigma : range of the PSF width (standard deviation), coarse pixels.
    slstr_wide_share : share of scenes whose SLSTR bands have the PSF of a 500 m pixel.
    shift : largest misregistration per axis, coarse pixels.
    gain, offset : standard deviation of the coarse calibration error per frame and band: relative,
        and in reflectance.
    noise : range of the standard deviation of the noise at a reflectance of 0.2.
    equal_blur_share : share of scenes whose guide bands are all as sharp as the pixels.
    cloud_share : share of scenes with clouds and their shadows.
    cloud_cover : range of the share of an image that clouds cover.
    guide_platforms, coarse_platforms : platforms, one of each is drawn per scene.

    Raises
    ------
    ConfigError
        A scene of an odd size or without frames, or a PSF range that is not (low, high).
    """

    ratios: tuple[int, ...] = (10, 15, 30)
    coarse_px: int = 12
    frames: int = 1
    days: float = 30.0
    psf_sigma: tuple[float, float] = (0.35, 0.70)
    slstr_wide_share: float = 0.4
    shift: float = 1.0
    gain: float = 0.02
    offset: float = 0.002
    noise: tuple[float, float] = (0.0005, 0.004)
    equal_blur_share: float = 0.3
    cloud_share: float = 0.3
    cloud_cover: tuple[float, float] = (0.02, 0.4)
    guide_platforms: tuple[str, ...] = ("S2A", "S2B", "S2C")
    coarse_platforms: tuple[str, ...] = ("S3A", "S3B")

    def __post_init__(self) -> None:
        for field in fields(self):  # configuration files give lists
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))
        if self.coarse_px < 2 or self.coarse_px % 2 or self.frames < 1:
            raise ConfigError(f"{self.coarse_px=} must be even and {self.frames=} at least 1")
        if not 0 < self.psf_sigma[0] <= self.psf_sigma[1]:
            raise ConfigError(
                f"psf_sigma {self.psf_sigma} must be a range (low, high) of coarse pixels"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingScene(SimulatedObservation):
    """An observed scene with its truth; see `protocol.SimulatedObservation` for the other fields.

    Parameters
    ----------
    target : (21, H, W) float32 true SYN bands at the fine pixels on the guide's date, without
        clouds, noise, blur or gain.
    ratio : fine pixels per coarse pixel.
    days : (t,) date of each coarse frame minus the guide's.
    biome : name of the biome or structure.
    guide_platform, coarse_platform : platforms whose spectral responses were used.
    """

    target: FloatArray
    ratio: int
    days: FloatArray
    biome: str
    guide_platform: str
    coarse_platform: str


@dataclass(frozen=True, eq=False)
class _Ground:
    """The surface of a scene as mixtures of spectra.

    Parameters
    ----------
    members : (k, 425) spectra on the guide's date.
    weights : (k, y, x) share of each member times brightness.
    shaded : (y, x) share of each pixel without direct sun.
    """

    members: FloatArray
    weights: FloatArray
    shaded: FloatArray

    def band_values(self, srf: FloatArray, members: FloatArray | None = None) -> FloatArray:
        """(b, y, x) float32 reflectance under an SRF matrix (b, 425), also of changed members."""
        members = self.members if members is None else members
        values = (members @ srf.T).T.astype(np.float32)
        sky = (srf @ sky_light())[:, None, None].astype(np.float32)
        count, height, width = self.weights.shape
        sunlit = (values @ self.weights.reshape(count, -1)).reshape(-1, height, width)
        return np.clip(sunlit * (1 - self.shaded * (1 - sky)), 0, HIGHEST_REFLECTANCE)


def make_training_scene(
    library: Library, config: FactoryConfig, seed: int, *, folder: Path | None = None
) -> TrainingScene:
    """Make a random scene; the same for the same arguments.

    Parameters
    ----------
    library : spectra, see `load_library`.
    folder : sample folder with WorldStrat's Sentinel-2 images; None = random structures only.
    """
    rng = np.random.default_rng([seed, 0])
    ratio = int(rng.choice(config.ratios))
    shape = (config.coarse_px * ratio, config.coarse_px * ratio)
    images = worldstrat.revisits(folder) if folder is not None else ()
    if images and rng.random() < _WORLDSTRAT_SHARE:
        name = "worldstrat"
        ground = _unmixed_ground(library, images, shape, rng)
    else:
        name = str(rng.choice(list(_STRUCTURE_SHARES), p=list(_STRUCTURE_SHARES.values())))
        ground = _structured_ground(library, name, shape, COARSE_M / ratio, rng)
    protocol = _draw_protocol(config, rng)
    days = np.concatenate([[0.0], rng.uniform(-config.days, config.days, config.frames - 1)])
    dated = [_change(library, ground.members, day, rng) for day in days]
    return _observe(ground, dated, protocol, ratio=ratio, days=days, biome=name, seed=seed)


def biome_scene(
    name: str,
    *,
    ratio: int,
    protocol: Protocol,
    seed: int,
    fine_px: int = 300,
    library: Library | None = None,
) -> TrainingScene:
    """Make a scene of the benchmark.

    The truth depends on name, ratio, size, library and seed; of the protocol on the platforms only.

    Parameters
    ----------
    name : one of `BIOME_NAMES`.
    ratio : fine pixels per coarse pixel; it divides `fine_px`.
    protocol : how the scene is observed.
    fine_px : side of the scene in fine pixels.
    library : spectra; those of the test side by default.

    Raises
    ------
    ConfigError
        An unknown biome, or a ratio that does not divide the size.
    """
    if name not in BIOME_NAMES:
        raise ConfigError(f"unknown biome {name!r}; known: {', '.join(BIOME_NAMES)}")
    if fine_px % ratio:
        raise ConfigError(f"{ratio=} does not divide {fine_px=}")
    library = _test_library() if library is None else library
    rng = np.random.default_rng([seed, ratio, BIOME_NAMES.index(name)])
    materials, curves = _endmembers()
    abundances = _landscape(Surface(seed, name), fine_px, COARSE_M / ratio, materials, rng)
    pairs = zip(materials, curves, strict=True)
    variants = np.stack([_similar_spectra(library, c[::5], material, rng) for material, c in pairs])
    members, weights = _mix_variants(variants, abundances, rng)
    land = 1 - _water_share(materials, abundances)
    ground = _Ground(members, weights, _draw_shade(rng, land))
    days = np.zeros(len(np.atleast_2d(protocol.shift)))  # frames differ in shift, not in date
    dated = [members] * len(days)
    return _observe(ground, dated, protocol, ratio=ratio, days=days, biome=name, seed=seed)


def _observe(
    ground: _Ground,
    dated: Sequence[FloatArray],
    protocol: Protocol,
    *,
    ratio: int,
    days: FloatArray,
    biome: str,
    seed: int,
) -> TrainingScene:
    """Simulate the sensors over a ground whose members are `dated[t]` on the date of frame t."""
    guide_srf, coarse_srf = (_srf(p) for p in (protocol.guide_platform, protocol.coarse_platform))
    guide = ground.band_values(guide_srf)
    frames = [ground.band_values(coarse_srf, members) for members in dated]
    clouds = (cloud_band_values(guide_srf), cloud_band_values(coarse_srf))
    rng = np.random.default_rng([seed, 1])
    observation = simulate_observation(guide, frames, protocol, clouds, ratio=ratio, rng=rng)
    return TrainingScene(
        **vars(observation),
        target=frames[0],
        ratio=ratio,
        days=days,
        biome=biome,
        guide_platform=protocol.guide_platform,
        coarse_platform=protocol.coarse_platform,
    )


def _structured_ground(
    library: Library, name: str, shape: Shape, pixel_m: float, rng: np.random.Generator
) -> _Ground:
    """A random structure of random spectra, with slopes, texture and shade."""
    structure = make_structure(name, rng, shape, pixel_m)
    kinds = structure.kinds
    variants = np.stack([draw_spectra(library, rng, _VARIANTS, kind=kind) for kind in kinds])
    lit = structure.share * _draw_brightness(rng, shape)
    members, weights = _mix_variants(variants, lit, rng)
    return _Ground(members, weights, _draw_shade(rng, 1 - _water_share(kinds, structure.share)))


def _unmixed_ground(
    library: Library, images: tuple[FloatArray, ...], shape: Shape, rng: np.random.Generator
) -> _Ground:
    """Random spectra in the abundances of a real image, which has its own shade."""
    members = np.concatenate(
        [draw_spectra(library, rng, count, kind=kind) for kind, count in _DICTIONARY.items()]
    )
    image = images[rng.integers(len(images))]
    height, width = (min(n, size) for n, size in zip(shape, image.shape[1:], strict=True))
    window = worldstrat.cut(image, rng, (height, width))
    abundances = worldstrat.fit_abundances(window, members @ _srf("S2A").T)
    weights = worldstrat.cut(abundances, rng, shape)
    return _Ground(members, weights, np.zeros(shape, np.float32))


def _mix_variants(
    variants: FloatArray, share: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Make each cover a mixture of its variants that changes from pixel to pixel.

    Parameters
    ----------
    variants : (k, v, 425) spectra of each cover.
    share : (k, y, x) of the covers.

    Returns
    -------
    members (k v, 425), weights (k v, y, x)
    """
    covers, count, _ = variants.shape
    slope = rng.uniform(0.4, 1.4)
    contrast = rng.uniform(0.5, 3)
    # softmax of fractal fields; the contrast decides between patches and smooth transitions
    mixing_weights = np.exp(
        contrast * np.stack([fractal_field(rng, share.shape[1:], slope) for _ in range(count)])
    )
    mixing_weights /= mixing_weights.sum(0)
    weights = share[:, None] * mixing_weights[None]
    members = variants.reshape(covers * count, -1)
    return members, weights.reshape(covers * count, *share.shape[1:])


def _draw_brightness(rng: np.random.Generator, shape: Shape) -> FloatArray:
    """Brightness (y, x) of slopes and texture, 0.5 to 1.5."""
    relief = fractal_field(rng, shape, rng.uniform(1.2, 2.2))
    texture = rng.standard_normal(shape, dtype=np.float32)
    return np.clip(1 + rng.uniform(0, 0.12) * relief + rng.uniform(0, 0.05) * texture, 0.5, 1.5)


def _draw_shade(rng: np.random.Generator, land: FloatArray) -> FloatArray:
    """Share of each pixel that trees, houses and slopes shade, mostly 0.

    `land` (y, x) is the share of land, 0 to 1; water is not shaded.
    """
    field = fractal_field(rng, land.shape, rng.uniform(0.3, 1.2))
    shaded = np.clip(rng.uniform(0, 0.4) * (field - rng.uniform(0.5, 2.5)), 0, 0.9)
    return (shaded * np.clip(land, 0, 1)).astype(np.float32)


def _water_share(kinds: Sequence[str], share: FloatArray) -> FloatArray:
    """(y, x) sum of the shares (k, y, x) of the covers that are water."""
    return share[[kind == "water" for kind in kinds]].sum(0)


def _change(
    library: Library, members: FloatArray, days: float, rng: np.random.Generator
) -> FloatArray:
    """Members after a date difference: some of them grow, dry, or become another cover."""
    if days == 0:
        return members
    other = draw_spectra(library, rng, len(members))
    # beta(0.5, 2): most members change little, a few a lot
    step = rng.beta(0.5, 2.0, (len(members), 1)) * min(abs(days) / _CHANGE_DAYS, 1)
    return (members + step * (other - members)).astype(np.float32)


def _draw_protocol(config: FactoryConfig, rng: np.random.Generator) -> Protocol:
    cloudy = rng.random() < config.cloud_share
    return Protocol(
        psf_sigma=rng.uniform(*config.psf_sigma),
        slstr_factor=SLSTR_WIDER if rng.random() < config.slstr_wide_share else 1.0,
        shift=rng.uniform(-config.shift, config.shift, (config.frames, 2)),
        gain=config.gain,
        offset=config.offset,
        noise=rng.uniform(*config.noise),
        cloud=rng.uniform(*config.cloud_cover) if cloudy else 0.0,
        equal_blur=rng.random() < config.equal_blur_share,
        guide_platform=str(rng.choice(config.guide_platforms)),
        coarse_platform=str(rng.choice(config.coarse_platforms)),
    )


def _landscape(
    surface: Surface, size: int, pixel_m: float, materials: Sequence[str], rng: np.random.Generator
) -> FloatArray:
    """Abundances (17, y, x) of the endmembers at the most diverse of eight random places.

    The most diverse place has the highest entropy of the shares of materials.
    """
    corners = rng.uniform(0, 200_000, (8, 2))
    y, x = np.mgrid[:size, :size] * pixel_m
    step = max(size // 24, 1)  # about 24 x 24 samples are enough for the shares
    coarse_x = x[::step, ::step]
    coarse_y = y[::step, ::step]
    entropy = []
    for left, top in corners:
        sample = surface.abundances(coarse_x + left, coarse_y + top, gsd_m=pixel_m)
        entropy.append(_entropy(sample.mean((1, 2)), materials))
    left, top = corners[np.argmax(entropy)]
    return surface.abundances(x + left, y + top, gsd_m=pixel_m)


def _entropy(abundance: FloatArray, materials: Sequence[str]) -> float:
    """Entropy of the shares of materials, from the mean abundance of each endmember."""
    unique = sorted(set(materials))
    sums = np.array([abundance[[m == material for m in materials]].sum() for material in unique])
    share = sums / abundance.sum()
    return -(share * np.log(share + 1e-9)).sum()


def _endmembers() -> tuple[tuple[str, ...], FloatArray]:
    """Material (17,) and parametric curve (17, 2121) of the surfaces of the procedural land."""
    names, curves = spectra.endmembers()
    return tuple(_MATERIALS.get(name.split("_")[0], "artificial") for name in names), curves


def _similar_spectra(
    library: Library, curve: FloatArray, material: str, rng: np.random.Generator
) -> FloatArray:
    """(_VARIANTS, 425) spectra of a material with the shape and about the brightness of a curve.

    Drawn from the dozen with the smallest spectral angle.
    """
    candidates = library.reflectance[library.material == material]
    norms = np.linalg.norm(candidates, axis=1) * np.linalg.norm(curve)
    cosine = candidates @ curve / np.maximum(norms, 1e-9)
    chosen = candidates[rng.choice(np.argsort(-cosine)[:12], _VARIANTS)]
    scale = np.clip(curve.mean() / np.maximum(chosen.mean(1, keepdims=True), 1e-3), 0.4, 1.6)
    scaled = chosen * scale * rng.uniform(0.9, 1.1, (_VARIANTS, 1))
    return np.clip(scaled, 0, 1.2).astype(np.float32)


@cache
def _srf(platform: str) -> FloatArray:
    """(b, 425) float64 SRF matrix of a platform's bands."""
    names = S2_NAMES if platform.startswith("S2") else S3_NAMES
    return srf_matrix(platform, names, spectra.WAVELENGTH_NM[::5])[0]


@cache
def _test_library() -> Library:
    return load_library(split="test")
