"""Training scenes that are not Earth observation: CAVE indoor spectra on the Sentinel range.

Cristille et al. (2024) train a second model on CAVE (Yasuma et al. 2010; 31 bands, 400 to 700 nm)
to show how much training on Earth observation improves the first. The spectra are stretched, not
extrapolated, over the range of all responses; this has no physical meaning, on purpose. The
database may not be redistributed, so it is read from a local copy. Without one, `indoor_scenes`
makes a substitute of the same character: compact, shaded objects of smooth spectra in front of a
dark background.

Both return scenes for `cube.build`: `build(cave_scenes(root), path, target_bands=S3_NAMES)` has all
21 bands. The paper's ratio is 15. The map grid is invented, because a cube's scenes need a place;
no two scenes share one.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from scipy.interpolate import CubicSpline

from satfuse.arrays import FloatArray
from satfuse.errors import ReadError

CAVE_NM = np.arange(400.0, 701.0, 10)  # the 31 bands
STRETCHED_NM = np.arange(390.0, 2321.0)  # 1 nm steps over every response of both sensors
PIXEL_M = 20  # pixel size of the paper's guide in this experiment
CHUNK = 64  # pixels; 31 MB of stretched spectra
SPACING_M = 120_000  # between invented places
# The substitute, in a scene of 512 pixels: number of objects, and their radii in pixels.
OBJECTS = 160
SMALLEST_PX = 6
LARGEST_PX = 120
SMOOTH_NM = 45  # correlation length of the substitute's spectra


def cave_scenes(root: str | os.PathLike[str]) -> dict[str, xr.Dataset]:
    """Open the scenes of a CAVE folder, lazily.

    Parameters
    ----------
    root : folder with one folder per scene, such as `balloons_ms`, that contains the bands as
        `balloons_ms_01.png` to `..._31.png`, directly or in a folder of the same name, as the
        archives unpack it.

    Returns
    -------
    Scene name to Dataset: `reflectance (band, y, x)` float32, 0 to 1, in steps of 1 nm over the
    Sentinel range; `valid (y, x)` all True; `band` 1..n, `wavelength_nm`, `fwhm_nm`,
    `usable (band)`; a map grid.

    Raises
    ------
    ReadError
        No such folder, no scene in it, or a scene that lacks bands. A damaged file is reported when
        it is read.
    """
    # "._*" files are metadata of another system
    folders = sorted({path.parent for path in Path(root).glob("**/[!.]*_ms_01.png")})
    if not folders:
        raise ReadError(
            f"{root} contains no CAVE scene: there is no file named *_ms_01.png; "
            "indoor_scenes needs no files"
        )
    scenes = {}
    for place, folder in enumerate(folders):
        files = sorted(folder.glob("[!.]*_ms_[0-9][0-9].png"))
        if len(files) != len(CAVE_NM):
            raise ReadError(
                f"{folder} has {len(files)} bands; a CAVE scene has {len(CAVE_NM)}: unpack it again"
            )
        shape = (len(files), *_read(files[0]).shape)
        image = da.from_delayed(dask.delayed(_read_bands)(files, shape), shape, "float32")
        scenes[folder.name] = stretched(image, place)
    return scenes


def indoor_scenes(count: int, *, seed: int = 0, size: int = 510) -> dict[str, xr.Dataset]:
    """Make the substitute for CAVE: dead-leaves images of random smooth spectra.

    Parameters
    ----------
    count : number of scenes.
    seed : the same seed gives the same scenes.
    size : side in pixels; CAVE's 512 is no multiple of 15.

    Returns
    -------
    As `cave_scenes`; the names are `indoor-00` and so on.
    """
    streams = np.random.default_rng(seed).spawn(count)
    scenes = {f"indoor-{i:02d}": _indoor(rng, size) for i, rng in enumerate(streams)}
    return {
        name: stretched(da.from_array(image), place)
        for place, (name, image) in enumerate(scenes.items())
    }


def stretched(image: da.Array, place: int) -> xr.Dataset:
    """Stretch the wavelengths of a scene from 400 ... 700 to 390 ... 2320 nm.

    Spectra are interpolated by a cubic spline and clipped to 0 ... 1.

    Parameters
    ----------
    image : (31, y, x) on `CAVE_NM`.
    place : number of its invented place.
    """
    axis = STRETCHED_NM[0] + (CAVE_NM - CAVE_NM[0]) / np.ptp(CAVE_NM) * np.ptp(STRETCHED_NM)
    # a spline is linear in its samples, so it is a matrix: the splines of the unit vectors
    spline = CubicSpline(axis, np.eye(len(axis)))(STRETCHED_NM).astype(np.float32)
    image = image.rechunk((-1, CHUNK, CHUNK))
    count = len(STRETCHED_NM)
    spectra = da.map_blocks(
        _spline_clipped, image, spline, chunks=((count,), *image.chunks[1:]), dtype="float32"
    )
    transform = Affine(PIXEL_M, 0, 400_000, 0, -PIXEL_M, 500_000 + SPACING_M * place)
    box = GeoBox(image.shape[1:], transform, "EPSG:32631")
    grid = {"grid_mapping": "spatial_ref"}
    return xr.Dataset(
        {
            "reflectance": (("band", "y", "x"), spectra, {"units": "1"} | grid),
            "valid": (("y", "x"), np.ones(image.shape[1:], bool), grid),
        },
        coords={
            **xr_coords(box),
            "band": np.arange(1, count + 1),
            "wavelength_nm": ("band", STRETCHED_NM, {"units": "nm"}),
            "fwhm_nm": ("band", np.ones(count), {"units": "nm"}),
            "usable": ("band", np.ones(count, bool)),
        },
    )


def _spline_clipped(block: FloatArray, spline: FloatArray) -> FloatArray:
    """(band, y, x) of a block (31, y, x), with the (band, 31) matrix of the spline."""
    return np.tensordot(spline, block, 1).clip(0, 1)


def _read_bands(files: Sequence[Path], shape: tuple[int, ...]) -> FloatArray:
    """Read the bands of a scene and check that each has the (y, x) of `shape`."""
    bands = [_read(file) for file in files]
    different = [
        f"{file.name} {band.shape}"
        for file, band in zip(files, bands, strict=True)
        if band.shape != shape[1:]
    ]
    if different:
        raise ReadError(
            f"{files[0].parent}: bands differ in size; the first is {shape[1:]}, "
            f"but {', '.join(different)}; unpack it again"
        )
    return np.stack(bands)


def _read(file: Path) -> FloatArray:
    """Read the first band of a file as (y, x) float32; 1 is the full scale of its type."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(file) as raster:
                image = raster.read(1)
    except RasterioIOError as error:
        raise ReadError(f"{file} cannot be read: {error}; unpack it again") from error
    return image / np.float32(np.iinfo(image.dtype).max)


def _indoor(rng: np.random.Generator, size: int) -> FloatArray:
    """Image (31, size, size) float32 of discs and boxes, the large ones behind.

    Each has one spectrum and is shaded.
    """
    row, column = np.mgrid[:size, :size].astype(np.float32)
    image = np.empty((len(CAVE_NM), size, size), np.float32)
    image[:] = 0.1 * _smooth_spectrum(rng)[:, None, None]
    radii = np.sort(_power_law(rng, OBJECTS))[::-1] * size / 512
    for radius in radii:
        y, x = ((axis - rng.uniform(0, size)) / radius for axis in (row, column))
        turn = rng.uniform(0, np.pi)
        u = np.cos(turn) * x + np.sin(turn) * y
        v = np.cos(turn) * y - np.sin(turn) * x
        if rng.random() < 0.6:  # a ball, lit from the side
            inside = np.hypot(u, v) < 1
            light = 0.25 + 0.75 * np.sqrt(np.clip(1 - (u - 0.3) ** 2 - v**2, 0, 1))
        else:  # a box, whose brightness varies linearly
            inside = (np.abs(u) < 1) & (np.abs(v) < rng.uniform(0.3, 1))
            light = np.clip(0.8 + 0.2 * u, 0, 1)
        image[:, inside] = _smooth_spectrum(rng)[:, None] * light[inside]
    return image


def _power_law(rng: np.random.Generator, count: int) -> FloatArray:
    """Radii of density r^-3, the law of scale-invariant dead leaves, by inverting its integral."""
    low = SMALLEST_PX**-2.0
    high = LARGEST_PX**-2.0
    return (low - rng.uniform(size=count) * (low - high)) ** -0.5


def _smooth_spectrum(rng: np.random.Generator) -> FloatArray:
    """(31,) float32, 0 to 1: the logistic function of a Gaussian process in wavelength."""
    distance = (CAVE_NM[:, None] - CAVE_NM) / SMOOTH_NM
    covariance = np.exp(-0.5 * distance**2) + 1e-6 * np.eye(len(CAVE_NM))
    mean = rng.normal(-0.7, 1)
    level = mean + 1.2 * np.linalg.cholesky(covariance) @ rng.standard_normal(len(CAVE_NM))
    return (1 / (1 + np.exp(-level))).astype(np.float32)
