"""What the sensors see of a surface: Sentinel-2 tiles, Sentinel-3 SYN swaths, EnMAP tiles, and the truth.

Light mixes linearly in pixels, so pixel means and point spread functions act on the maps of effective abundances,
with an opaque cloud as one more pure surface; band values enter last.
"""

import math

import numpy as np
from odc.geo.geobox import GeoBox
from scipy.ndimage import correlate1d, map_coordinates, uniform_filter1d

from satfuse.errors import BandError, GridError
from satfuse.sensors.bands import COARSE_M, S2_NAMES, S3_NAMES, bands
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, TRUNCATE, degrade
from satfuse.sensors.srf import srf_matrix
from satfuse.simulate import spectra
from satfuse.simulate.archive.clouds import Sky
from satfuse.simulate.biomes import BIOMES
from satfuse.simulate.noise import fractal
from satfuse.simulate.scenes.protocol import SHADE, block_mean
from satfuse.simulate.surface import Surface

_OBLIQUE_PIXELS, _OBLIQUE_GAIN = (
    3,
    1.06,
)  # length of an oblique pixel along the track, brightness against nadir
_RELIEF_M, _PLAIN_M = 45.0, 60.0  # height of one standard deviation of the relief, and of the lakes
_STEP = 5  # fine pixels that are averaged before the PSF, a third of its sigma
_NAMES = spectra.endmembers()[0]
_PURE = np.vstack([spectra.endmembers()[1], spectra.cloud()])
_WATER, _SNOW, _GREEN = (
    [i for i, n in enumerate(_NAMES) if n.startswith(prefix)]
    for prefix in ("water_", "snow", ("vegetation_dense", "vegetation_sparse", "conifer"))
)


def band_values(platform: str, names) -> np.ndarray:
    """Reflectance of every endmember in every band of a platform: (n_end, b) float64.

    Raises
    ------
    BandError
        An unknown platform or band.
    """
    return _cloudy_band_values(platform, names)[:-1]


def truth(surface: Surface, geobox: GeoBox, *, platform: str, names) -> np.ndarray:
    """Reflectance without cloud, noise or PSF: (band, y, x) float32 on the pixels of a GeoBox."""
    abundances = surface.abundances(*_centres(geobox), gsd_m=abs(geobox.affine.a))
    return _apply(band_values(platform, names), abundances)


def sentinel2(surface, geobox10, *, platform, sky: Sky, seed, noise=0.002) -> dict[str, np.ndarray]:
    """A Sentinel-2 image: 12 bands on their native grids, and the scene classification.

    Parameters
    ----------
    geobox10 : GeoBox of 10 m pixels; its size is a multiple of 6 both ways.
    platform : "S2A", "S2B" or "S2C".
    seed : of the sensor noise.
    noise : its standard deviation in reflectance.

    Returns
    -------
    dict of band name -> (y, x) float32 at 10, 20 or 60 m, upper left corners as `geobox10`; and "SCL" -> uint8 at
    20 m: 3 shadow, 4 vegetation, 5 bare, 6 water, 8 and 9 cloud, 10 thin cirrus, 11 snow.

    Raises
    ------
    GridError
        The GeoBox does not have 10 m pixels in multiples of 6.
    """
    _check_fine(geobox10, multiple=6)
    random = np.random.default_rng(seed)
    values = _cloudy_band_values(platform, S2_NAMES)
    by_gsd = {10: _scene(surface, sky, *_centres(geobox10), gsd_m=10)}
    by_gsd[20] = block_mean(by_gsd[10], 2)
    by_gsd[60] = block_mean(by_gsd[20], 3)
    out = {}
    for i, band in enumerate(bands(S2_NAMES)):
        image = _apply(values[:, i : i + 1], by_gsd[band.gsd_m])[0]
        out[band.name] = _add_noise(image, noise, random)
    x20, y20 = _centres(geobox10.zoom_out(2))
    out["SCL"] = _classify(by_gsd[20], sky.shadow(x20, y20))
    return out


def synergy(
    surface,
    east,
    north,
    *,
    platform,
    sky,
    seed,
    fine_geobox,
    psf_sigma=DEFAULT_PSF_SIGMA,
    shift_m=(0.0, 0.0),
    gain=None,
    noise=0.002,
    slstr_sigma_factor=1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A Sentinel-3 SYN image on a swath.

    Where the PSF lies inside `fine_geobox` a pixel is the Gaussian mean of the 10 m surface around its centre,
    elsewhere the mean of its 300 m square, blurred as much.

    Parameters
    ----------
    east, north : (row, col) pixel centres in m, in the CRS of `fine_geobox`.
    platform : "S3A" or "S3B".
    seed, noise : of the sensor noise; standard deviation in reflectance.
    fine_geobox : GeoBox of 10 m pixels; its size is a multiple of 5 both ways.
    psf_sigma : standard deviation of the PSF in pixels of 300 m.
    shift_m : (dx, dy) how far east and north the content lies from where the surface has it: the value at p shows
        the ground at p - shift.
    gain : (21,) factor per band, the cross-calibration error; all 1 by default.
    slstr_sigma_factor : how much wider the PSF of the SLSTR bands (S..N) is, for example 500 / 300.

    Returns
    -------
    reflectance : (21, row, col) float32.
    cloud : (row, col) bool, True = cloudy (cloud fills more than a tenth of a band's PSF).
    water : (row, col) float32, share of water in each pixel's square on the ground, 0 to 1.

    Raises
    ------
    GridError
        The GeoBox does not have 10 m pixels in multiples of 5.
    """
    _check_fine(fine_geobox, multiple=_STEP)
    gain = np.ones(len(S3_NAMES)) if gain is None else np.asarray(gain, float)
    if gain.shape != (len(S3_NAMES),):
        raise BandError(
            f"gain has shape {gain.shape}; give one factor for each of the {len(S3_NAMES)} bands"
        )
    east, north = np.asarray(east, float) - shift_m[0], np.asarray(north, float) - shift_m[1]
    ground = surface.abundances(east, north, gsd_m=COARSE_M)
    water, coarse = _share(ground, _WATER), _under(sky, ground, east, north)
    fine = block_mean(_scene(surface, sky, *_centres(fine_geobox), gsd_m=10), _STEP)
    geobox = fine_geobox.zoom_out(_STEP)
    values = _cloudy_band_values(platform, S3_NAMES) * gain
    sigmas = np.array(
        [psf_sigma * (slstr_sigma_factor if name.startswith("S") else 1) for name in S3_NAMES]
    )
    out = np.empty((len(S3_NAMES), *east.shape), np.float32)
    cloud = np.zeros(east.shape, bool)
    for sigma in np.unique(sigmas):
        seen = _psf_mean(fine, geobox, coarse, east, north, sigma)
        out[sigmas == sigma] = _apply(values[:, sigmas == sigma], seen)
        cloud |= seen[-1] > 0.1
    return _add_noise(out, noise, np.random.default_rng(seed)), cloud, water


def oblique(reflectance: np.ndarray, *, seed, noise=0.002) -> np.ndarray:
    """What SLSTR's oblique view makes of a nadir image: longer pixels along the track, brighter, noise of its own.

    The brightening stands for the anisotropy of the surface, which the simulation does not know.

    Parameters
    ----------
    reflectance : (21, row, col) of `synergy`.

    Returns
    -------
    (5, row, col) float32: S1, S2, S3, S5, S6.
    """
    slstr = reflectance[[name.startswith("S") for name in S3_NAMES]]
    seen = uniform_filter1d(slstr, _OBLIQUE_PIXELS, axis=1, mode="nearest") * np.float32(
        _OBLIQUE_GAIN
    )
    return _add_noise(seen, noise, np.random.default_rng(seed))


def altitude_m(surface: Surface, east, north) -> np.ndarray:
    """Height of the ground in m, (row, col) float32: the relief that places the lakes, which lie flat in its lows.

    The sea of the coast is at 0 m.
    """
    biome = BIOMES[surface.biome]
    relief = fractal(
        surface.seed,
        "relief",
        np.ravel(east),
        np.ravel(north),
        longest_m=7000,
        octaves=6,
        gsd_m=COARSE_M,
    )
    above_water = np.maximum(relief + biome.water, 0) if np.isfinite(biome.water) else relief + 4
    return (above_water * _RELIEF_M + (0 if biome.beach else _PLAIN_M)).reshape(np.shape(east))


def enmap(
    surface, geobox30, wavelength_nm, fwhm_nm, *, sky, seed, noise=0.002
) -> tuple[np.ndarray, dict]:
    """An EnMAP image: Gaussian bands, each pixel the mean of 3 x 3 points.

    Parameters
    ----------
    geobox30 : GeoBox of 30 m pixels.
    wavelength_nm, fwhm_nm : (n,) centres and widths of the bands.
    seed, noise : of the sensor noise; standard deviation in reflectance.

    Returns
    -------
    reflectance : (n, y, x) float32.
    quality : (y, x) uint8 layers: cloud, cloud_shadow, haze, cirrus, snow (1 = yes) and classes (1 land, 2 water,
        3 background, which does not occur; what an opaque cloud hides counts as land).
    """
    weights = _gaussian_weights(wavelength_nm, fwhm_nm)
    values = _PURE @ weights.T
    x, y = _centres(geobox30.zoom_out(1 / 3))
    seen = block_mean(_scene(surface, sky, x, y, gsd_m=abs(geobox30.affine.a) / 3), 3)
    image = _add_noise(_apply(values, seen), noise, np.random.default_rng(seed))
    opacity, shadow = seen[-1], sky.shadow(*_centres(geobox30))
    water, snow = (_share(seen, group) for group in (_WATER, _SNOW))
    layers = {
        "cloud": opacity > 0.3,
        "cloud_shadow": (shadow > 0.3) & (opacity <= 0.3),
        "haze": (opacity > 0.1) & (opacity <= 0.3),
        "cirrus": (opacity > 0.02) & (opacity <= 0.1),
        "snow": (snow > 0.5) & (opacity <= 0.3),
    }
    quality = {name: layer.astype(np.uint8) for name, layer in layers.items()}
    quality["classes"] = np.where(water > 0.5, 2, 1).astype(np.uint8)
    return image, quality


def _scene(surface, sky, x, y, *, gsd_m):
    """(n_end + 1, *shape) float32 effective abundances under the sky; the last is cloud."""
    return _under(sky, surface.abundances(x, y, gsd_m=gsd_m), x, y)


def _under(sky, ground, x, y):
    out = np.empty((len(_NAMES) + 1, *x.shape), np.float32)
    out[:-1] = ground
    out[-1] = sky.cloud(x, y)
    if sky.cloud_cover:
        out[:-1] *= (1 - out[-1]) * (1 - np.float32(SHADE) * sky.shadow(x, y))
    return out


def _cloudy_band_values(platform, names):
    """(n_end + 1, b) band values of the endmembers and, last, of cloud."""
    weights, _ = srf_matrix(platform, list(names), spectra.WAVELENGTH_NM)
    return _PURE @ weights.T


def _psf_mean(fine, geobox, coarse, east, north, psf_sigma):
    """(n, row, col) PSF means at any position: of the fine maps where they hold the whole PSF, else of the coarse ones.

    Both sets are means of pixel squares, which have a variance of 1/12 pixel; the rest of the PSF's variance comes
    from a Gaussian on the fine maps, then read by cubic spline, and from a three-point kernel on the coarse ones.
    """
    side = max(psf_sigma**2 - 1 / 12, 0) / 2
    out = correlate1d(
        correlate1d(coarse, [side, 1 - 2 * side, side], axis=1), [side, 1 - 2 * side, side], axis=2
    )
    column, row = ~geobox.affine * (east, north)
    sigma = psf_sigma * COARSE_M / geobox.affine.a
    height, width = geobox.shape
    reach = TRUNCATE * sigma
    inside = (
        (row >= reach) & (row <= height - reach) & (column >= reach) & (column <= width - reach)
    )
    at = np.stack([row[inside], column[inside]]) - 0.5
    for mean, image in zip(out, fine, strict=True):
        blurred = degrade(image, 1, math.sqrt(max(sigma**2 - 1 / 12, 1e-6)))
        mean[inside] = map_coordinates(blurred, at, order=3, mode="nearest")
    return out


def _classify(abundances, shadow):
    """Scene classification (y, x) uint8 from abundances under the sky (n_end + 1, y, x) and shadow depth."""
    opacity = abundances[-1]
    water, snow, green = (_share(abundances, group) for group in (_WATER, _SNOW, _GREEN))
    return np.select(
        [
            opacity > 0.5,
            opacity > 0.15,
            opacity > 0.02,
            shadow > 0.25,
            water > 0.5,
            snow > 0.5,
            green > 0.4,
        ],
        np.array([9, 8, 10, 3, 6, 11, 4], np.uint8),
        np.uint8(5),
    )


def _share(abundances, group):
    """Share of a group of endmembers in the surface, also below the sky."""
    return abundances[group].sum(0) / np.maximum(abundances[: len(_NAMES)].sum(0), 1e-6)


def _apply(values, abundances):
    """(n, b) band values and (n, ...) abundances -> (b, ...) float32."""
    flat = values.T.astype(np.float32) @ abundances.reshape(len(abundances), -1)
    return flat.reshape(values.shape[1], *abundances.shape[1:])


def _add_noise(image, sigma, random):
    """Add white noise in place."""
    for plane in image.reshape(-1, *image.shape[-2:]):
        plane += np.float32(sigma) * random.standard_normal(plane.shape, dtype=np.float32)
    return image


def _centres(geobox):
    """x, y (row, col) of pixel centres."""
    row, column = np.indices(geobox.shape, dtype=float)
    return geobox.affine * (column + 0.5, row + 0.5)


def _gaussian_weights(wavelength_nm, fwhm_nm):
    sigma = np.asarray(fwhm_nm, float)[:, None] / (2 * math.sqrt(2 * math.log(2)))
    weights = np.exp(
        -0.5 * ((spectra.WAVELENGTH_NM - np.asarray(wavelength_nm, float)[:, None]) / sigma) ** 2
    )
    return weights / weights.sum(1, keepdims=True)


def _check_fine(geobox, multiple):
    size = abs(geobox.affine.a), abs(geobox.affine.e)
    if size != (10.0, 10.0) or any(n % multiple for n in geobox.shape):
        raise GridError(
            f"GeoBox of {size} m pixels, {geobox.shape}: it must have 10 m pixels in multiples of {multiple}"
        )
