"""Writes Sentinel-3 SY_2_SYN products as SEN3 folders."""

from pathlib import Path

import numpy as np

from satfuse.arrays import BoolArray, FloatArray
from satfuse.errors import BandError, GridError
from satfuse.sensors.bands import S3_BANDS, S3_NAMES
from satfuse.simulate.archive import sen3_files, sen3_tie_points
from satfuse.simulate.archive.sen3_files import OBLIQUE_BANDS
from satfuse.simulate.archive.sen3_manifest import write_manifest
from satfuse.simulate.archive.sen3_swath import Swath, SynFrame

SHORE = 0.05  # share of water, or of land, from which a pixel counts as coastline


def write_sen3(
    folder: Path,
    reflectance: FloatArray,
    swath: Swath,
    cloud: BoolArray,
    land: BoolArray,
    frame: SynFrame,
    *,
    water: FloatArray | None = None,
    altitude_m: FloatArray | None = None,
    oblique: FloatArray | None = None,
) -> Path:
    """Write one SYN frame with all 38 files of a product.

    Parameters
    ----------
    folder : parent of the new `.SEN3` folder.
    reflectance : (21, row, column) float in the order of `S3_NAMES`, NaN = no data.
    cloud, land : (row, column) bool. Reflectance is written where it is land and not cloud, as in
        real products. What is not land is sea; inland water is land.
    water : (row, column) share of water, 0 to 1; by default land is dry and sea is all water.
    altitude_m : (row, column) altitude of the ground; 0 by default.
    oblique : (5, row, column) reflectance of S1, S2, S3, S5, S6 in the oblique view, which covers
        the eastern half of a swath; pixels west of it are not written. By default the oblique
        files are empty.

    Returns
    -------
    Path of the `.SEN3` folder.

    Raises
    ------
    BandError, GridError
        Arrays that do not fit together.
    """
    _check_sizes(reflectance, swath, cloud, land, frame)
    shape = cloud.shape
    water = np.where(land, 0.0, 1.0) if water is None else water
    altitude_m = np.zeros(shape) if altitude_m is None else altitude_m
    oblique = np.full((len(OBLIQUE_BANDS), *shape), np.nan) if oblique is None else oblique
    sen3 = Path(folder) / f"{frame.name}.SEN3"
    sen3.mkdir(parents=True, exist_ok=True)
    clear = land & ~cloud
    in_oblique = np.isfinite(oblique).all(0) & (np.arange(shape[1]) >= shape[1] // 2)
    for band, values in zip(S3_BANDS, reflectance, strict=True):
        sen3_files.write_band(sen3, frame, band, np.where(clear, values, np.nan))
    for band, values in zip(OBLIQUE_BANDS, oblique, strict=True):
        sen3_files.write_band(sen3, frame, band, np.where(clear & in_oblique, values, np.nan))
    masks = {
        "cloud": cloud,
        "land": land,
        "inland_water": land & (water > 0.5),
        "ok": clear & np.isfinite(reflectance).all(0),
        "oblique": in_oblique,
        "shore": (water > SHORE) & (water < 1 - SHORE),
    }
    _write_annotations(sen3, frame, swath, altitude_m, masks)
    write_manifest(sen3, frame, swath, masks)  # last: it has the checksums of the other files
    return sen3


def _write_annotations(
    sen3: Path, frame: SynFrame, swath: Swath, altitude_m: FloatArray, masks: dict[str, BoolArray]
) -> None:
    """Write all files other than those of the bands and the manifest."""
    sen3_files.write_flags(sen3, frame, masks)
    sen3_files.write_aerosol(sen3, frame, swath, masks["ok"])
    sen3_files.write_removed_pixels(sen3, frame, altitude_m.shape)
    sen3_files.write_geolocation(sen3, frame, swath, altitude_m)
    sen3_files.write_time(sen3, frame)
    sen3_tie_points.write_olci(sen3, frame, swath)
    sen3_tie_points.write_meteo(sen3, frame, swath, altitude_m)
    sen3_tie_points.write_slstr(sen3, frame, swath)


def _check_sizes(
    reflectance: FloatArray, swath: Swath, cloud: BoolArray, land: BoolArray, frame: SynFrame
) -> None:
    if len(reflectance) != len(S3_NAMES):
        raise BandError(
            f"{len(reflectance)} bands; a SYN frame has {len(S3_NAMES)}: {', '.join(S3_NAMES)}"
        )
    shape = swath.latitude.shape
    if not shape == reflectance.shape[1:] == cloud.shape == land.shape or shape[0] != frame.rows:
        raise GridError(
            f"swath {shape}, reflectance {reflectance.shape[1:]}, cloud {cloud.shape}, "
            f"land {land.shape} and {frame.rows} rows of the frame must agree"
        )
