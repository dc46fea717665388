"""Writes EnMAP L2A products in the files of the DLR Geoservice: COGs and METADATA.XML."""

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox

from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.errors import BandError, GridError
from satfuse.simulate.archive.footprint import CORNERS, corners, crs_of, utm_zone
from satfuse.simulate.archive.xml_tree import Content, grow, write

NODATA = -32768
# between these wavelengths (water-vapour absorption) channels exist, but have no data
DEAD_NM = (1330.0, 1391.0)
DEAD_MEAN = -1000000  # the mean that the metadata state for such a channel
VNIR_BANDS = 91
Curve = tuple[tuple[float, float], ...]
# sampling step and width (nm) at wavelengths (nm): smooth curves through published values
_STEPS: dict[str, Curve] = {
    "vnir": (
        (418, 5.63), (434, 5.1), (454, 4.73), (470, 4.67), (500, 4.77), (550, 5.19), (600, 5.77),
        (650, 6.33), (700, 6.84), (750, 7.29), (800, 7.65), (850, 7.93), (900, 8.1), (993, 8.16),
    ),
    "swir": (
        (902, 9.6), (941, 10.14), (1000, 10.8), (1048, 11.23), (1093, 11.55), (1140, 11.78),
        (1250, 12.0), (1380, 11.9), (1507, 11.47), (1620, 11.02), (1780, 10.33), (1968, 9.42),
        (2445, 7.5),
    ),
}  # fmt: skip
_FWHM: dict[str, Curve] = {
    "vnir": (
        (418, 7.0), (450, 6.0), (490, 5.8), (535, 6.18), (600, 6.9), (673, 7.76), (756, 8.72),
        (896, 10.08), (977, 10.75),
    ),
    "swir": (
        (902, 9.2), (951, 9.83), (983, 10.16), (1026, 10.58), (1093, 11.08), (1163, 11.34),
        (1259, 11.43), (1378, 11.3), (1496, 10.98), (1631, 10.46), (1760, 9.92), (1968, 8.93),
        (2445, 7.16),
    ),
}  # fmt: skip
# the channels that L2A keeps: sensor, first and last centre (nm), count
_RUNS = (
    ("vnir", 418.42, 993.34, VNIR_BANDS),
    ("swir", 901.96, 1390.48, 44),
    ("swir", 1449.43, 1780.22, 31),
    ("swir", 1967.66, 2445.3, 58),
)
# quality layer -> part of the file name
LAYERS = {
    "classes": "QL_QUALITY_CLASSES",
    "cloud": "QL_QUALITY_CLOUD",
    "cloud_shadow": "QL_QUALITY_CLOUDSHADOW",
    "haze": "QL_QUALITY_HAZE",
    "cirrus": "QL_QUALITY_CIRRUS",
    "snow": "QL_QUALITY_SNOW",
    "testflags": "QL_QUALITY_TESTFLAGS",
    "pixel_mask": "QL_PIXELMASK",
}
CLASSES_NODATA = 3  # class "background"

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class EnmapScene:
    """Acquisition of an EnMAP scene, as in its name and metadata. UTC times, angles in degrees."""

    start: datetime
    datatake: int = 80454
    tile: int = 1
    version: str = "010402"
    orbit: int = 12097
    sun_elevation_deg: float = 45.0
    sun_azimuth_deg: float = 150.0
    across_off_nadir_deg: float = 5.0

    @property
    def stop(self) -> datetime:
        """A scene of 30 km takes about 4.4 s."""
        return self.start + timedelta(seconds=4.4)

    @property
    def processed(self) -> datetime:
        """Time of processing by the ground segment: a day later."""
        return self.start + timedelta(days=1)

    @property
    def name(self) -> str:
        """Product name; also the id of its STAC item."""
        start, processed = (f"{t:%Y%m%dT%H%M%S}Z" for t in (self.start, self.processed))
        datatake = f"{self.datatake:010d}_{start}_{self.tile:03d}"
        return f"ENMAP01-____L2A-DT{datatake}_V{self.version}_{processed}"


def enmap_bands() -> tuple[FloatArray, FloatArray]:
    """Centres and widths (FWHM) in nm of the 224 L2A bands, (224,) float64 each.

    91 VNIR bands come first, then 133 SWIR bands, so wavelengths step back from 993 to 902 nm
    between them. There are none from 1391 to 1449 and from 1781 to 1967 nm. Steps and widths
    follow the published sampling of the sensor.
    """
    centres = [_run(*run) for run in _RUNS]
    widths = [
        _interpolate(c, _FWHM[sensor]) for c, (sensor, *_) in zip(centres, _RUNS, strict=True)
    ]
    return np.round(np.concatenate(centres), 3), np.round(np.concatenate(widths), 5)


def dead_bands(wavelength_nm: FloatArray) -> BoolArray:
    """True (n,) for channels without data."""
    return (wavelength_nm > DEAD_NM[0]) & (wavelength_nm < DEAD_NM[1])


def write_enmap(
    folder: Path,
    cube: FloatArray,
    geobox: GeoBox,
    quality: dict[str, IntArray],
    scene: EnmapScene,
    *,
    wavelength_nm: FloatArray,
    fwhm_nm: FloatArray,
) -> Path:
    """Write one product.

    Parameters
    ----------
    folder : parent of the product's own folder.
    cube : (224, y, x) reflectance, float, NaN = no data.
    geobox : its grid, 30 m.
    quality : layer name of `LAYERS` -> (y, x) uint8; missing layers are written as clear land.
    wavelength_nm, fwhm_nm : (224,) of the bands in file order.

    Returns
    -------
    Path of the folder, with `<name>-SPECTRAL_IMAGE_COG.TIF` (int16, reflectance * 10000, nodata
    -32768), `<name>-METADATA.XML` and the quality layers.

    Raises
    ------
    BandError, GridError
        Arrays that do not fit together, an unknown layer.
    """
    _check_sizes(cube, geobox, quality, wavelength_nm, fwhm_nm)
    product = Path(folder) / scene.name
    product.mkdir(parents=True, exist_ok=True)
    dead = dead_bands(np.asarray(wavelength_nm))
    numbers = _digital_numbers(cube, dead)
    _write_cog(product / f"{scene.name}-SPECTRAL_IMAGE_COG.TIF", numbers, geobox, NODATA)
    for layer, stem in LAYERS.items():
        shape = numbers.shape if layer == "pixel_mask" else (1, *geobox.shape)
        # without a layer, class 1 (land) and no flag
        values = np.broadcast_to(quality.get(layer, int(layer == "classes")), shape).astype("uint8")
        nodata = CLASSES_NODATA if layer == "classes" else None
        _write_cog(product / f"{scene.name}-{stem}_COG.TIF", values, geobox, nodata)
    statistics = [
        (DEAD_MEAN, 0) if d else (np.nanmean(b), np.nanstd(b))
        for b, d in zip(cube, dead, strict=True)
    ]
    content = {
        "metadata": {"schema": {"processingLevel": "L2A"}, "name": f"{scene.name}-METADATA.XML"},
        "processing": {
            "productFormat": "GeoTIFF+Metadata",
            "correctionType": "Land_Mode",
            "ozoneValue": 330,
        },
        "base": _base(scene, geobox),
        "specific": _specific(scene, geobox, wavelength_nm, fwhm_nm, layer_percentages(quality)),
        "product": _product(scene, geobox, wavelength_nm, statistics),
    }
    write(product / f"{scene.name}-METADATA.XML", grow(ET.Element("level_X"), content))
    return product


def layer_percentages(quality: dict[str, IntArray]) -> dict[str, int]:
    """Percentage of pixels that each quality layer marks, whole numbers as in the metadata."""
    return {
        layer: round(100 * float(np.mean(np.asarray(quality.get(layer, 0)) > 0)))
        for layer in LAYERS
    }


def _check_sizes(
    cube: FloatArray,
    geobox: GeoBox,
    quality: dict[str, IntArray],
    wavelength_nm: FloatArray,
    fwhm_nm: FloatArray,
) -> None:
    if not len(cube) == len(wavelength_nm) == len(fwhm_nm):
        raise BandError(
            f"{len(cube)} bands with {len(wavelength_nm)} wavelengths and {len(fwhm_nm)} widths"
        )
    if unknown := set(quality) - set(LAYERS):
        raise BandError(f"unknown quality layers {sorted(unknown)}; known: {', '.join(LAYERS)}")
    if cube.shape[1:] != tuple(geobox.shape):
        raise GridError(f"cube {cube.shape[1:]} does not fit a GeoBox of {tuple(geobox.shape)}")


def _digital_numbers(cube: FloatArray, dead: BoolArray) -> IntArray:
    """Reflectance * 10000 as int16, `NODATA` where it is not finite and in dead channels."""
    numbers = np.clip(np.rint(cube * 1e4), NODATA + 1, 2**15 - 1)
    numbers = np.where(np.isfinite(cube), numbers, NODATA).astype("int16")
    numbers[dead] = NODATA
    return numbers


def _run(sensor: str, first: float, last: float, count: int) -> FloatArray:
    """Centres of consecutive channels whose steps follow the sensor's sampling.

    They are stretched by well under a percent to end at `last`.
    """
    centres = [first]
    while len(centres) < count:
        centres.append(centres[-1] + float(_interpolate(centres[-1], _STEPS[sensor])))
    return first + (np.array(centres) - first) * (last - first) / (centres[-1] - first)


def _interpolate(wavelength_nm: FloatArray | float, curve: Curve) -> FloatArray:
    """Values of a curve of (wavelength in nm, value) at other wavelengths."""
    nodes, values = np.array(curve).T
    return np.asarray(np.interp(wavelength_nm, nodes, values))


def _write_cog(path: Path, values: IntArray, geobox: GeoBox, nodata: int | None) -> None:
    profile = {
        "driver": "COG", "dtype": values.dtype.name, "count": len(values),
        "height": geobox.shape[0], "width": geobox.shape[1],
        "crs": crs_of(geobox).to_wkt(), "transform": geobox.affine, "nodata": nodata,
        "compress": "DEFLATE", "blocksize": 256,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as image:
        image.write(values)


def _stamp(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%S.%f}Z"


def _degrees(value: float) -> tuple[dict[str, str], str]:
    return {"unit": "DEG"}, f"{value:.7f}"


def _base(scene: EnmapScene, geobox: GeoBox) -> Json:
    points = [
        {"frame": frame, "latitude": _degrees(lat), "longitude": _degrees(lon)}
        for frame, (lon, lat) in zip(CORNERS, corners(geobox), strict=True)
    ]
    return {
        "spatialCoverage": {"boundingPolygon": {"point": points}},
        "temporalCoverage": {"startTime": _stamp(scene.start), "stopTime": _stamp(scene.stop)},
        "format": "ENMAP_L2A",
        "level": "L2A",
        "archivedVersion": scene.version,
    }


def _specific(
    scene: EnmapScene,
    geobox: GeoBox,
    wavelength_nm: FloatArray,
    fwhm_nm: FloatArray,
    covers: dict[str, int],
) -> Json:
    numbers = range(1, len(wavelength_nm) + 1)
    channels = {"vnir": numbers[:VNIR_BANDS], "swir": numbers[VNIR_BANDS:]}
    bands = zip(numbers, wavelength_nm, fwhm_nm, strict=True)
    return {
        "qualityFlag": {
            "overallQuality": 0,
            "cloudCover": covers["cloud"],
            "hazeCover": covers["haze"],
            "cirrusCover": covers["cirrus"],
            "snowCover": covers["snow"],
            "cloudShadow": covers["cloud_shadow"],
        },
        **{f"{sensor}ProductQuality": _channels(sensor, n) for sensor, n in channels.items()},
        "mission": "EnMAP",
        "satelliteID": "01",
        "sensor": "HSI",
        "datatakeID": f"{scene.datatake:010d}",
        "numberOfSWIRBands": len(channels["swir"]),
        "numberOfVNIRBands": len(channels["vnir"]),
        "datatakeStart": _stamp(scene.start),
        "datatakeStop": _stamp(scene.stop),
        "backgroundValue": NODATA,
        "orbitNo": scene.orbit,
        **_angles(scene),
        "orbitDirection": "DESCENDING",
        "bandCharacterisation": {"bandID": [_band(*band) for band in bands]},
        "pixelSizeOfOrthoScene": 30,
        "widthOfOrthoScene": geobox.shape[1],
        "heightOfOrthoScene": geobox.shape[0],
    }


def _channels(sensor: str, numbers: range) -> Json:
    return {
        f"{sensor}ProductStatus": "OK",
        "numChannelsExpected": len(numbers),
        "expectedChannelsList": ",".join(map(str, numbers)),
        "numChannelsMissing": 0,
        "missingChannelsList": None,
    }


def _angles(scene: EnmapScene) -> Json:
    """The angles of a scene, the same at its corners and its centre."""
    angles = {
        "sunElevationAngle": scene.sun_elevation_deg,
        "sunAzimuthAngle": scene.sun_azimuth_deg,
        "acrossOffNadirAngle": scene.across_off_nadir_deg,
        "alongOffNadirAngle": 0.0,
    }
    return {
        tag: {place: _degrees(value) for place in (*CORNERS, "center")}
        for tag, value in angles.items()
    }


def _band(number: int, wavelength_nm: float, fwhm_nm: float) -> Content:
    return (
        {"number": number},
        {
            "wavelengthCenterOfBand": wavelength_nm,
            "FWHMOfBand": fwhm_nm,
            "GainOfBand": 0.0001,
            "OffsetOfBand": 0,
        },
    )


def _product(
    scene: EnmapScene,
    geobox: GeoBox,
    wavelength_nm: FloatArray,
    statistics: list[tuple[float, float]],
) -> Json:
    """Size, projection and band statistics; `statistics` are (mean, standard deviation)."""
    name = f"{scene.name}-SPECTRAL_IMAGE.TIF"
    size = {"columns": geobox.shape[1], "rows": geobox.shape[0]}
    zone, is_north = utm_zone(geobox)
    bands = enumerate(zip(wavelength_nm, statistics, strict=True), start=1)
    return {
        "image": {"merge": {"channels": len(wavelength_nm), "name": name, "dimension": size}},
        "ortho": {
            "projection": f"UTM_Zone{zone}_{'North' if is_north else 'South'}",
            "resolution": 30,
            "resampling": "bilinear",
        },
        "bandStatistics": {
            "bandID": [
                (
                    {"number": number},
                    {"waveLength": w, "mean": f"{mean:.6g}", "stdDeviation": f"{deviation:.6g}"},
                )
                for number, (w, (mean, deviation)) in bands
            ]
        },
    }
