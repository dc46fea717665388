"""Scenes with known truth for training and for the benchmark: real spectra times spatial structure, then observed.

Bands are linear in spectra, so spectra enter as band values and no hyperspectral cube is ever made. Training scenes
lie on random structures or on unmixed Sentinel-2 imagery; the benchmark's biomes on the procedural land surface of
`simulate.surface`, with spectra of the test side only.
"""

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np

from satfuse.errors import ConfigError
from satfuse.sensors.bands import COARSE_M, S2_NAMES, S3_NAMES
from satfuse.sensors.srf import srf_matrix
from satfuse.simulate import spectra
from satfuse.simulate.scenes import worldstrat
from satfuse.simulate.scenes.library import Library, draw_spectra, load_library, sky_light
from satfuse.simulate.scenes.protocol import (
    SLSTR_WIDER,
    Observed,
    Protocol,
    cloud_band_values,
    observe,
)
from satfuse.simulate.scenes.structure import fractal_field, make_structure
from satfuse.simulate.surface import Surface

BIOME_NAMES = ("desert", "crop", "forest", "city", "coast", "snow")
_STRUCTURE_SHARES = {
    "dead leaves": 0.2, "fractal": 0.15, "fields": 0.2, "city": 0.15, "water edge": 0.2, "snow": 0.1,
}  # fmt: skip
_WORLDSTRAT_SHARE = 0.2  # of the scenes, where the folder is there
_DICTIONARY = {"canopy": 6, "ground": 5, "mixed": 4, "built": 3, "water": 2}
_VARIANTS = 3  # spectra per cover, mixed differently at every pixel
_CHANGE_DAYS = 30  # a cover may be wholly another one after so many


@dataclass(frozen=True, kw_only=True)
class FactoryConfig:
    """Ranges that training scenes are drawn from.

    Parameters
    ----------
    ratios : fine pixels per coarse pixel, one is drawn per scene.
    coarse_px : side of a scene in coarse pixels; even.
    frames : coarse images per scene; the first is of the guide's date, the others up to `days` away.
    days : largest date difference.
    psf_sigma : range of the PSF width, coarse pixels.
    slstr_wide_share : share of scenes whose SLSTR bands have the PSF of a 500 m pixel.
    shift : largest misregistration per axis, coarse pixels.
    gain, offset : standard deviation of the coarse calibration error per frame and band: relative, reflectance.
    noise : range of the noise at a reflectance of 0.2.
    equal_blur_share : share of scenes whose guide bands are all as sharp as the pixels.
    cloud_share : share of scenes with clouds and their shadows; cloud_cover : range of what they cover of an image.
    guide_platforms, coarse_platforms : drawn per scene.
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

    def __post_init__(self):
        for field in fields(self):  # lists, as a configuration file gives them
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))
        if self.coarse_px < 2 or self.coarse_px % 2 or self.frames < 1:
            raise ConfigError(f"{self.coarse_px=} must be even and {self.frames=} at least 1")
        if not 0 < self.psf_sigma[0] <= self.psf_sigma[1]:
            raise ConfigError(
                f"psf_sigma {self.psf_sigma} must be a range (low, high) of coarse pixels"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingScene(Observed):
    """An observed scene with its truth. Images are float32 reflectance; see `protocol.Observed` for the other fields.

    Parameters
    ----------
    target : (21, H, W) true SYN bands at the fine pixels on the guide's date: no cloud, noise, blur or gain.
    ratio : fine pixels per coarse pixel.
    days : (t,) date of each coarse frame minus the guide's.
    biome : name of the biome or structure.
    guide_platform, coarse_platform : whose spectral responses were used.
    """

    target: np.ndarray
    ratio: int
    days: np.ndarray
    biome: str
    guide_platform: str
    coarse_platform: str


def make_training_scene(
    library: Library, config: FactoryConfig, seed: int, *, folder: Path | None = None
) -> TrainingScene:
    """One random scene; the same for the same arguments.

    Parameters
    ----------
    library : spectra, see `load_library`.
    folder : of the samples, for WorldStrat's Sentinel-2 images; None = procedural structures only.
    """
    rng = np.random.default_rng([seed, 0])
    ratio = int(rng.choice(config.ratios))
    shape = (config.coarse_px * ratio,) * 2
    images = worldstrat.revisits(folder) if folder is not None else ()
    if images and rng.random() < _WORLDSTRAT_SHARE:
        name, shaded = "worldstrat", np.zeros(shape, np.float32)  # the image has its own shade
        members, weights = _unmixed(library, images, shape, rng)
    else:
        name = str(rng.choice(list(_STRUCTURE_SHARES), p=list(_STRUCTURE_SHARES.values())))
        structure = make_structure(name, rng, shape, COARSE_M / ratio)
        drawn = np.stack(
            [draw_spectra(library, rng, _VARIANTS, kind=kind) for kind in structure.kinds]
        )
        members, weights = _varied(drawn, structure.share * _light(rng, shape), rng)
        shaded = _shaded(rng, 1 - _of_water(structure.kinds, structure.share))
    protocol = _draw_protocol(config, rng)
    days = np.concatenate([[0.0], rng.uniform(-config.days, config.days, config.frames - 1)])
    dated = [_changed(library, members, d, rng) for d in days]
    return _observed(
        dated, weights, shaded, protocol, ratio=ratio, days=days, biome=name, seed=seed
    )


def biome_scene(
    name, *, ratio, protocol: Protocol, seed, fine_px=300, library: Library | None = None
) -> TrainingScene:
    """A scene of the benchmark. The truth depends on name, ratio, size and seed only, whatever the protocol.

    Parameters
    ----------
    name : one of `BIOME_NAMES`.
    ratio : fine pixels per coarse pixel; it divides `fine_px`.
    protocol : how it is observed.
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
    kinds, curves = zip(*_endmembers(), strict=True)
    abundances = _landscape(Surface(seed, name), fine_px, COARSE_M / ratio, kinds, rng)
    drawn = np.stack(
        [_alike(library, c[::5], kind, rng) for kind, c in zip(kinds, curves, strict=True)]
    )
    members, weights = _varied(drawn, abundances, rng)
    shaded = _shaded(rng, 1 - _of_water(kinds, abundances))
    days = np.zeros(len(np.atleast_2d(protocol.shift)))
    return _observed(
        [members] * len(days),
        weights,
        shaded,
        protocol,
        ratio=ratio,
        days=days,
        biome=name,
        seed=seed,
    )


def _observed(dated, weights, shaded, protocol, *, ratio, days, biome, seed):
    """Band values of the members at each date times their weights, shade, and the sensors."""
    guide_srf, coarse_srf = (_srf(p) for p in (protocol.guide_platform, protocol.coarse_platform))
    guide = _mix(dated[0] @ guide_srf.T, weights, shaded, guide_srf @ sky_light())
    frames = [
        _mix(members @ coarse_srf.T, weights, shaded, coarse_srf @ sky_light()) for members in dated
    ]
    clouds = cloud_band_values(guide_srf), cloud_band_values(coarse_srf)
    observed = observe(
        guide, frames, protocol, clouds, ratio=ratio, rng=np.random.default_rng([seed, 1])
    )
    return TrainingScene(
        **{f.name: getattr(observed, f.name) for f in fields(Observed)}, target=frames[0], ratio=ratio, days=days,
        biome=biome, guide_platform=protocol.guide_platform, coarse_platform=protocol.coarse_platform,
    )  # fmt: skip


def _mix(values, weights, shaded, sky):
    """(k, b) band values, (k, y, x) weights, share without sun (y, x), sky light (b,) -> (b, y, x) float32."""
    sunny = (values.T.astype(np.float32) @ weights.reshape(len(weights), -1)).reshape(
        -1, *weights.shape[1:]
    )
    return np.clip(sunny * (1 - shaded * (1 - sky[:, None, None].astype(np.float32))), 0, 1.6)


def _varied(drawn, share, rng):
    """Each cover (k, v, n) is a mixture of its variants that changes from pixel to pixel: (k v, n), (k v, y, x)."""
    count, variants, _ = drawn.shape
    slope, contrast = rng.uniform(0.4, 1.4), rng.uniform(0.5, 3)
    mood = np.exp(
        contrast * np.stack([fractal_field(rng, share.shape[1:], slope) for _ in range(variants)])
    )
    mood /= mood.sum(0)
    weights = share[:, None] * mood[None]
    return drawn.reshape(count * variants, -1), weights.reshape(count * variants, *share.shape[1:])


def _unmixed(library, images, shape, rng):
    drawn = np.concatenate(
        [draw_spectra(library, rng, n, kind=kind) for kind, n in _DICTIONARY.items()]
    )
    image = images[rng.integers(len(images))]
    inner = tuple(min(want, have) for want, have in zip(shape, image.shape[1:], strict=True))
    abundances = worldstrat.unmix(worldstrat.cut(image, rng, inner), drawn @ _srf("S2A").T)
    return drawn, worldstrat.cut(abundances, rng, shape)


def _light(rng, shape):
    """Brightness (y, x) of slopes and texture, 0.5 to 1.5."""
    relief = fractal_field(rng, shape, rng.uniform(1.2, 2.2))
    texture = rng.standard_normal(shape, dtype=np.float32)
    return np.clip(1 + rng.uniform(0, 0.12) * relief + rng.uniform(0, 0.05) * texture, 0.5, 1.5)


def _shaded(rng, land):
    """Share of each pixel that trees, houses and slopes keep from the sun, mostly 0; `land` (y, x) is 0 to 1."""
    field = fractal_field(rng, land.shape, rng.uniform(0.3, 1.2))
    shaded = np.clip(rng.uniform(0, 0.4) * (field - rng.uniform(0.5, 2.5)), 0, 0.9)
    return (shaded * np.clip(land, 0, 1)).astype(np.float32)


def _of_water(kinds, share):
    return share[[kind == "water" for kind in kinds]].sum(0)


def _changed(library, members, days, rng):
    """Members as they are some days away: part of them grow, dry, or become something else."""
    if days == 0:
        return members
    other = draw_spectra(library, rng, len(members))
    step = rng.beta(0.5, 2.0, (len(members), 1)) * min(abs(days) / _CHANGE_DAYS, 1)
    return (members + step * (other - members)).astype(np.float32)


def _draw_protocol(config, rng):
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


def _landscape(surface, size, pixel_m, kinds, rng):
    """Abundances (17, y, x) of the one of eight places whose materials are the most evenly present."""
    corner = rng.uniform(0, 200_000, (8, 2))
    y, x = np.mgrid[:size, :size] * pixel_m
    part = np.s_[:: max(size // 24, 1), :: max(size // 24, 1)]
    entropy = []
    for a, b in corner:
        mean = surface.abundances(x[part] + a, y[part] + b, gsd_m=pixel_m).mean((1, 2))
        share = (
            np.array([mean[[k == kind for k in kinds]].sum() for kind in sorted(set(kinds))])
            / mean.sum()
        )
        entropy.append(-(share * np.log(share + 1e-9)).sum())
    a, b = corner[np.argmax(entropy)]
    return surface.abundances(x + a, y + b, gsd_m=pixel_m)


def _endmembers():
    """Material and parametric curve of every pure surface of the procedural land."""
    sorts = {
        "vegetation": "vegetation", "conifer": "vegetation", "soil": "soil", "sand": "soil", "water": "water",
        "snow": "snow",
    }  # fmt: skip
    names, curves = spectra.endmembers()
    return [
        (sorts.get(n.split("_")[0], "artificial"), curve)
        for n, curve in zip(names, curves, strict=True)
    ]


def _alike(library, curve, material, rng):
    """(_VARIANTS, n) spectra of a material, of the dozen most like a curve in shape, moved towards its brightness."""
    rows = np.flatnonzero(library.material == material)
    candidates = library.reflectance[rows]
    cosine = (
        candidates
        @ curve
        / np.maximum(np.linalg.norm(candidates, axis=1) * np.linalg.norm(curve), 1e-9)
    )
    chosen = candidates[rng.choice(np.argsort(-cosine)[:12], _VARIANTS)]
    scale = np.clip(curve.mean() / np.maximum(chosen.mean(1, keepdims=True), 1e-3), 0.4, 1.6)
    return np.clip(chosen * scale * rng.uniform(0.9, 1.1, (_VARIANTS, 1)), 0, 1.2).astype(
        np.float32
    )


@cache
def _srf(platform):
    """(b, 425) float64 SRF matrix of a platform's bands."""
    names = S2_NAMES if platform.startswith("S2") else S3_NAMES
    return srf_matrix(platform, names, spectra.WAVELENGTH_NM[::5])[0]


@cache
def _test_library():
    return load_library(split="test")
