"""What each simulated sensor measures of a surface under clouds, and the truth.

Sentinel-2 on a tile, Sentinel-3 SYN on a swath, EnMAP on a tile. Radiance mixes linearly within a
pixel, so pixel means and point spread functions act on the maps of effective abundances, with an
opaque cloud as one more endmember; band values come in last.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from odc.geo.geobox import GeoBox
from scipy.ndimage import correlate1d, map_coordinates, uniform_filter1d

from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.errors import BandError, GridError
from satfuse.geometry.resample import block_mean
from satfuse.sensors.bands import COARSE_M, S2_NAMES, S3_NAMES, bands
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, TRUNCATE, degrade
from satfuse.sensors.srf import srf_matrix
from satfuse.simulate import spectra
from satfuse.simulate.archive.clouds import Clouds
from satfuse.simulate.biomes import BIOMES
from satfuse.simulate.noise import fractal
from satfuse.simulate.scenes.protocol import SHADE
from satfuse.simulate.surface import Surface

_OBLIQUE_PIXELS = 3  # length along the track of a pixel of the oblique view, in nadir pixels
_OBLIQUE_GAIN = np.float32(1.06)  # brightness of the oblique view over that of the nadir view
_RELIEF_M = 45.0  # height of one standard deviation of the relief
_PLAIN_M = 60.0  # altitude of the lakes
_STEP = 5  # fine pixels that are averaged before the PSF, a third of its sigma
_CLOUDY_SHARE = 0.1  # opacity over a coarse pixel's PSF from which SYN flags cloud
_NAMES = spectra.endmembers()[0]
_REFLECTANCE = np.vstack([spectra.endmembers()[1], spectra.cloud()])  # cloud is the last row


def _endmembers(*prefixes: str) -> list[int]:
    """Indices of the endmembers whose names start so."""
    return [i for i, name in enumerate(_NAMES) if name.startswith(prefixes)]


_WATER = _endmembers("water_")
_SNOW = _endmembers("snow")
_GREEN = _endmembers("vegetation_dense", "vegetation_sparse", "conifer")

Seed = int | Sequence[int]  # of numpy.random.default_rng


def band_values(platform: str, names: Iterable[str]) -> FloatArray:
    """Reflectance of every endmember in every band of a platform: (n_end, b) float64.

    Raises
    ------
    BandError
        An unknown platform or band.
    """
    return _cloudy_band_values(platform, names)[:-1]


def truth(surface: Surface, geobox: GeoBox, *, platform: str, names: Iterable[str]) -> FloatArray:
    """Reflectance without cloud, noise or PSF: (band, y, x) float32 on the pixels of a GeoBox."""
    abundances = surface.abundances(*_centres(geobox), gsd_m=abs(geobox.affine.a))
    return _mix(band_values(platform, names), abundances)


def sentinel2(
    surface: Surface,
    geobox10: GeoBox,
    *,
    platform: str,
    clouds: Clouds,
    seed: Seed,
    noise: float = 0.002,
) -> tuple[dict[str, FloatArray], IntArray]:
    """A Sentinel-2 image: 12 bands on their native grids, and the scene classification.

    Parameters
    ----------
    geobox10 : GeoBox of 10 m pixels; its size is a multiple of 6 both ways.
    platform : "S2A", "S2B" or "S2C".
    seed : of the sensor noise.
    noise : its standard deviation in reflectance.

    Returns
    -------
    reflectance : band name -> (y, x) float32 at 10, 20 or 60 m, upper left corners as `geobox10`.
    scl : (y, x) uint8 at 20 m: 3 shadow, 4 vegetation, 5 bare, 6 water, 8 and 9 cloud, 10 thin
        cirrus, 11 snow.

    Raises
    ------
    GridError
        The GeoBox does not have 10 m pixels in multiples of 6.
    """
    _check_fine(geobox10, multiple=6)
    random = np.random.default_rng(seed)
    values = _cloudy_band_values(platform, S2_NAMES)
    by_gsd = {10: _cloudy_abundances(surface, clouds, *_centres(geobox10), gsd_m=10)}
    by_gsd[20] = block_mean(by_gsd[10], 2)
    by_gsd[60] = block_mean(by_gsd[20], 3)
    out: dict[str, FloatArray] = {}
    for i, band in enumerate(bands(S2_NAMES)):
        image = _mix(values[:, i : i + 1], by_gsd[band.gsd_m])[0]
        out[band.name] = _add_noise(image, noise, random)
    shadow = clouds.shadow(*_centres(geobox10.zoom_out(2)))
    return out, _classify(by_gsd[20], shadow)


def synergy(
    surface: Surface,
    east: FloatArray,
    north: FloatArray,
    *,
    platform: str,
    clouds: Clouds,
    seed: Seed,
    fine_geobox: GeoBox,
    psf_sigma: float = DEFAULT_PSF_SIGMA,
    shift_m: tuple[float, float] = (0.0, 0.0),
    gain: Sequence[float] | FloatArray | None = None,
    noise: float = 0.002,
    slstr_sigma_factor: float = 1.0,
) -> tuple[FloatArray, BoolArray, FloatArray]:
    """A Sentinel-3 SYN image on a swath.

    Where the whole PSF is inside `fine_geobox`, a pixel is the Gaussian mean of the 10 m surface
    around its centre; elsewhere it is the mean of its 300 m square, blurred to the same width.

    Parameters
    ----------
    east, north : (row, col) pixel centres in m, in the CRS of `fine_geobox`.
    platform : "S3A" or "S3B".
    seed, noise : of the sensor noise; standard deviation in reflectance.
    fine_geobox : GeoBox of 10 m pixels; its size is a multiple of 5 both ways.
    psf_sigma : standard deviation of the PSF in pixels of 300 m.
    shift_m : (dx, dy) how far east and north the content is displaced from its true position: the
        value at p shows the ground at p - shift.
    gain : (21,) factor per band, the cross-calibration error; all 1 by default.
    slstr_sigma_factor : how much wider the PSF of the SLSTR bands (S..N) is, for example 500 / 300.

    Returns
    -------
    reflectance : (21, row, col) float32.
    cloud : (row, col) bool, True = cloudy (cloud fills more than a tenth of a band's PSF).
    water : (row, col) float32, share of water in each pixel's square on the ground, 0 to 1.

    Raises
    ------
    BandError
        `gain` does not have one factor per band.
    GridError
        The GeoBox does not have 10 m pixels in multiples of 5.
    """
    _check_fine(fine_geobox, multiple=_STEP)
    gain = _check_gain(np.ones(len(S3_NAMES)) if gain is None else gain)
    east = np.asarray(east, float) - shift_m[0]
    north = np.asarray(north, float) - shift_m[1]
    ground = surface.abundances(east, north, gsd_m=COARSE_M)
    coarse = _add_clouds(clouds, ground, east, north)
    fine = _cloudy_abundances(surface, clouds, *_centres(fine_geobox), gsd_m=10)
    fine = block_mean(fine, _STEP)
    values = _cloudy_band_values(platform, S3_NAMES) * gain
    out = np.empty((len(S3_NAMES), *east.shape), np.float32)
    cloud = np.zeros(east.shape, bool)
    widening = [slstr_sigma_factor if name.startswith("S") else 1 for name in S3_NAMES]
    sigmas = np.array([psf_sigma * factor for factor in widening])
    for sigma in np.unique(sigmas):
        same = sigmas == sigma
        means = _psf_mean(fine, fine_geobox.zoom_out(_STEP), coarse, east, north, sigma)
        out[same] = _mix(values[:, same], means)
        cloud |= means[-1] > _CLOUDY_SHARE
    _add_noise(out, noise, np.random.default_rng(seed))
    return out, cloud, _share(ground, _WATER)


def oblique(reflectance: FloatArray, *, seed: Seed, noise: float = 0.002) -> FloatArray:
    """SLSTR's oblique view, derived from a nadir image.

    Its pixels are longer along the track and brighter, with independent noise. The brightening is a
    stand-in for the anisotropy of the surface, which the simulation does not model.

    Parameters
    ----------
    reflectance : (21, row, col) of `synergy`.

    Returns
    -------
    (5, row, col) float32: S1, S2, S3, S5, S6.
    """
    slstr = reflectance[[name.startswith("S") for name in S3_NAMES]]
    longer = uniform_filter1d(slstr, _OBLIQUE_PIXELS, axis=1, mode="nearest")
    return _add_noise(longer * _OBLIQUE_GAIN, noise, np.random.default_rng(seed))


def altitude_m(surface: Surface, east: FloatArray, north: FloatArray) -> FloatArray:
    """Altitude of the ground in m, (row, col) float32.

    It follows the relief that also decides where lakes are, so lakes are flat and in its lows. The
    sea of the coast is at 0 m.
    """
    biome = BIOMES[surface.biome]
    points = np.ravel(east), np.ravel(north)
    # the layer of the same name, wavelength and octaves in `surface`
    relief = fractal(surface.seed, "relief", *points, longest_m=7000, octaves=6, gsd_m=COARSE_M)
    above_water = np.maximum(relief + biome.water, 0) if np.isfinite(biome.water) else relief + 4
    return (above_water * _RELIEF_M + (0 if biome.beach else _PLAIN_M)).reshape(np.shape(east))


def enmap(
    surface: Surface,
    geobox30: GeoBox,
    wavelength_nm: FloatArray | Sequence[float],
    fwhm_nm: FloatArray | Sequence[float],
    *,
    clouds: Clouds,
    seed: Seed,
    noise: float = 0.002,
) -> tuple[FloatArray, dict[str, IntArray]]:
    """An EnMAP image: Gaussian bands, each pixel the mean of 3 x 3 points.

    Parameters
    ----------
    geobox30 : GeoBox of 30 m pixels.
    wavelength_nm, fwhm_nm : (n,) centres and widths of the bands.
    seed, noise : of the sensor noise; standard deviation in reflectance.

    Returns
    -------
    reflectance : (n, y, x) float32.
    quality : (y, x) uint8 layers: cloud, cloud_shadow, haze, cirrus, snow (1 = yes) and classes
        (1 land, 2 water, 3 background, which does not occur; ground under opaque cloud is land).
    """
    values = _REFLECTANCE @ _gaussian_weights(wavelength_nm, fwhm_nm).T
    points = _centres(geobox30.zoom_out(1 / 3))
    gsd_m = abs(geobox30.affine.a) / 3
    abundances = block_mean(_cloudy_abundances(surface, clouds, *points, gsd_m=gsd_m), 3)
    image = _add_noise(_mix(values, abundances), noise, np.random.default_rng(seed))
    return image, _enmap_quality(abundances, clouds.shadow(*_centres(geobox30)))


def _enmap_quality(abundances: FloatArray, shadow: FloatArray) -> dict[str, IntArray]:
    """The quality layers of `enmap` from abundances (n_end + 1, y, x) and shadow depth (y, x)."""
    opacity = abundances[-1]
    thin = opacity <= 0.3  # of opacity: above is cloud, 0.1 to 0.3 haze, 0.02 to 0.1 cirrus
    layers = {
        "cloud": opacity > 0.3,
        "cloud_shadow": (shadow > 0.3) & thin,
        "haze": (opacity > 0.1) & thin,
        "cirrus": (opacity > 0.02) & (opacity <= 0.1),
        "snow": (_share(abundances, _SNOW) > 0.5) & thin,
    }
    quality = {name: layer.astype(np.uint8) for name, layer in layers.items()}
    water = _share(abundances, _WATER) > 0.5
    return {**quality, "classes": np.where(water, 2, 1).astype(np.uint8)}


def _cloudy_abundances(
    surface: Surface, clouds: Clouds, x: FloatArray, y: FloatArray, *, gsd_m: float
) -> FloatArray:
    """Effective abundances with clouds and shadows, (n_end + 1, *shape) float32; cloud is last."""
    return _add_clouds(clouds, surface.abundances(x, y, gsd_m=gsd_m), x, y)


def _add_clouds(clouds: Clouds, ground: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Append the cloud's abundance to those of the ground, which cloud and shadow reduce."""
    out = np.empty((len(_NAMES) + 1, *x.shape), np.float32)
    out[:-1] = ground
    out[-1] = clouds.opacity(x, y)
    if clouds.cloud_cover:
        out[:-1] *= (1 - out[-1]) * (1 - np.float32(SHADE) * clouds.shadow(x, y))
    return out


def _cloudy_band_values(platform: str, names: Iterable[str]) -> FloatArray:
    """(n_end + 1, b) band values of the endmembers and, last, of cloud."""
    weights, _ = srf_matrix(platform, list(names), spectra.WAVELENGTH_NM)
    return _REFLECTANCE @ weights.T


def _psf_mean(
    fine: FloatArray,
    geobox: GeoBox,
    coarse: FloatArray,
    east: FloatArray,
    north: FloatArray,
    psf_sigma: float,
) -> FloatArray:
    """PSF means (n, row, col) at arbitrary positions.

    They come from the fine maps (n, y, x) on `geobox` where these cover the whole PSF, else from
    the coarse ones (n, row, col). Both sets are means of pixel squares, which have a variance of
    1/12 pixel; the remaining variance of the PSF comes from a Gaussian on the fine maps, then read
    by cubic spline, and from a three-point kernel on the coarse ones.
    """
    side = max(psf_sigma**2 - 1 / 12, 0) / 2  # a kernel (s, 1 - 2 s, s) has the variance 2 s
    kernel = [side, 1 - 2 * side, side]
    out = correlate1d(correlate1d(coarse, kernel, axis=1), kernel, axis=2)
    column, row = ~geobox.affine * (east, north)
    sigma = psf_sigma * COARSE_M / geobox.affine.a
    height, width = geobox.shape
    reach = TRUNCATE * sigma
    inside = (row >= reach) & (row <= height - reach)
    inside &= (column >= reach) & (column <= width - reach)
    at = np.stack([row[inside], column[inside]]) - 0.5  # pixel centres are at whole indices
    for mean, image in zip(out, fine, strict=True):
        blurred = degrade(image, 1, math.sqrt(max(sigma**2 - 1 / 12, 1e-6)))
        mean[inside] = map_coordinates(blurred, at, order=3, mode="nearest")
    return out


def _classify(abundances: FloatArray, shadow: FloatArray) -> IntArray:
    """Scene classification (y, x) uint8 from abundances (n_end + 1, y, x) and shadow depth."""
    opacity = abundances[-1]
    water, snow, green = (_share(abundances, group) for group in (_WATER, _SNOW, _GREEN))
    # the first rule that holds decides: cloud, thin cloud, cirrus, shadow, then the ground
    rules = (
        (opacity > 0.5, 9),
        (opacity > 0.15, 8),
        (opacity > 0.02, 10),
        (shadow > 0.25, 3),
        (water > 0.5, 6),
        (snow > 0.5, 11),
        (green > 0.4, 4),
    )
    conditions, classes = zip(*rules, strict=True)
    return np.select(conditions, np.array(classes, np.uint8), np.uint8(5))


def _share(abundances: FloatArray, group: list[int]) -> FloatArray:
    """Share of a group of endmembers in the ground, also where cloud or shadow covers it."""
    return abundances[group].sum(0) / np.maximum(abundances[: len(_NAMES)].sum(0), 1e-6)


def _mix(values: FloatArray, abundances: FloatArray) -> FloatArray:
    """Linear mixture: (n, b) band values and (n, ...) abundances -> (b, ...) float32."""
    flat = values.T.astype(np.float32) @ abundances.reshape(len(abundances), -1)
    return flat.reshape(values.shape[1], *abundances.shape[1:])


def _add_noise(image: FloatArray, sigma: float, random: np.random.Generator) -> FloatArray:
    """Add white noise in place."""
    for plane in image.reshape(-1, *image.shape[-2:]):
        plane += np.float32(sigma) * random.standard_normal(plane.shape, dtype=np.float32)
    return image


def _centres(geobox: GeoBox) -> tuple[FloatArray, FloatArray]:
    """x, y (row, col) of pixel centres."""
    row, column = np.indices(geobox.shape, dtype=float)
    x, y = geobox.affine * (column + 0.5, row + 0.5)
    return np.asarray(x), np.asarray(y)


def _gaussian_weights(
    wavelength_nm: FloatArray | Sequence[float], fwhm_nm: FloatArray | Sequence[float]
) -> FloatArray:
    """Rows of normalised Gaussian responses on `spectra.WAVELENGTH_NM`."""
    sigma = np.asarray(fwhm_nm, float)[:, None] / (2 * math.sqrt(2 * math.log(2)))
    offset = spectra.WAVELENGTH_NM - np.asarray(wavelength_nm, float)[:, None]
    weights = np.exp(-0.5 * (offset / sigma) ** 2)
    return weights / weights.sum(1, keepdims=True)


def _check_fine(geobox: GeoBox, multiple: int) -> None:
    size = abs(geobox.affine.a), abs(geobox.affine.e)
    if size != (10.0, 10.0) or any(n % multiple for n in geobox.shape):
        raise GridError(
            f"GeoBox of {size} m pixels, {geobox.shape}: "
            f"it must have 10 m pixels in multiples of {multiple}"
        )


def _check_gain(gain: Sequence[float] | FloatArray) -> FloatArray:
    factors = np.asarray(gain, float)
    if factors.shape != (len(S3_NAMES),):
        raise BandError(
            f"gain has shape {factors.shape}; give one factor for each of the {len(S3_NAMES)} bands"
        )
    return factors
