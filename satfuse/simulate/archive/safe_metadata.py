"""MTD_MSIL2A.xml, MTD_TL.xml and manifest.safe of a Sentinel-2 L2A product.

They contain the elements that carry information, not all of ESA's.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from satfuse.arrays import FloatArray
from satfuse.sensors.bands import S2_GSD_M
from satfuse.sensors.srf import response
from satfuse.simulate.archive.footprint import corners, epsg_of, to_lonlat, utm_zone
from satfuse.simulate.archive.safe_acquisition import S2Acquisition
from satfuse.simulate.archive.sphere import sun_angles
from satfuse.simulate.archive.xml_tree import Content, grow, write

PSD = "https://psd-14.sentinel2.eo.esa.int/PSD/"
# bandId of ESA's metadata counts all 13 bands of the instrument; B10 is measured but not in L2A
INSTRUMENT_BANDS = (
    "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12",
)  # fmt: skip
SCENE_CLASSES = (
    "NODATA", "SATURATED_DEFECTIVE", "DARK_FEATURE_SHADOW", "CLOUD_SHADOW", "VEGETATION",
    "NOT_VEGETATED", "WATER", "UNCLASSIFIED", "CLOUD_MEDIUM_PROBA", "CLOUD_HIGH_PROBA",
    "THIN_CIRRUS", "SNOW_ICE",
)  # fmt: skip
CLASS_PERCENTAGES = (
    "NODATA_PIXEL", "SATURATED_DEFECTIVE_PIXEL", "DARK_FEATURES", "CLOUD_SHADOW", "VEGETATION",
    "NOT_VEGETATED", "WATER", "UNCLASSIFIED", "MEDIUM_PROBA_CLOUDS", "HIGH_PROBA_CLOUDS",
    "THIN_CIRRUS", "SNOW_ICE",
)  # fmt: skip
CLOUD_CLASSES = (8, 9, 10)  # medium and high probability, thin cirrus
ANGLE_STEP_M = 5000
DETECTORS = (5, 6)  # a small tile lies on two neighbours of the 12 detectors
ORBIT_HEIGHT_M = 786000
CIRRUS_NM = (1373.5, 30.0)  # centre and width of B10

Json = dict[str, Any]
Node = tuple[dict[str, Any], Content]  # attributes and content of an element


def stamp(time: datetime) -> str:
    """A time in the format of ESA's metadata: UTC with milliseconds and Z."""
    return f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03d}Z"


def cloud_percentage(shares: dict[int, float]) -> float:
    """Percentage of cloud from those of the scene classes."""
    return sum(shares[i] for i in CLOUD_CLASSES)


def write_product(
    path: Path,
    acquisition: S2Acquisition,
    images: list[str],
    geobox: GeoBox,
    shares: dict[int, float],
) -> None:
    """Write MTD_MSIL2A.xml; `shares` are percentages per scene class."""
    root = ET.Element("n1:Level-2A_User_Product", {"xmlns:n1": f"{PSD}User_Product_Level-2A.xsd"})
    footprint = {"Global_Footprint": {"EXT_POS_LIST": _footprint(geobox)}}
    content = {
        "n1:General_Info": {
            "Product_Info": _product_info(acquisition, images),
            "Product_Image_Characteristics": _image_characteristics(acquisition),
        },
        "n1:Geometric_Info": {
            "Product_Footprint": {"Product_Footprint": footprint},
            "Coordinate_Reference_System": {
                "GEO_TABLES": ({"version": "1"}, "EPSG"),
                "HORIZONTAL_CS_TYPE": "GEOGRAPHIC",
            },
        },
        "n1:Quality_Indicators_Info": {
            "Cloud_Coverage_Assessment": f"{cloud_percentage(shares):.6f}",
            "Image_Content_QI": _content(shares),
        },
    }
    write(path, grow(root, content))


def write_tile(
    path: Path, acquisition: S2Acquisition, geobox: GeoBox, shares: dict[int, float]
) -> None:
    """Write MTD_TL.xml with the sensing time and the angle grids of the tile."""
    schema = f"{PSD}S2_PDI_Level-2A_Tile_Metadata.xsd"
    root = ET.Element("n1:Level-2A_Tile_ID", {"xmlns:n1": schema})
    sensing_time = f"{acquisition.sensing_time:%Y-%m-%dT%H:%M:%S.%f}Z"
    content = {
        "n1:General_Info": {
            "TILE_ID": _with_level(acquisition.identifier("TL"), "Brief"),
            "DATASTRIP_ID": _with_level(acquisition.identifier("DS")),
            "DOWNLINK_PRIORITY": _with_level("NOMINAL"),
            "SENSING_TIME": _with_level(sensing_time),
        },
        "n1:Geometric_Info": {
            "Tile_Geocoding": _with_level(_geocoding(geobox), "Brief"),
            "Tile_Angles": _with_level(_angles(acquisition, geobox)),
        },
        "n1:Quality_Indicators_Info": _with_level(
            {"Image_Content_QI": _content(shares, tile=True)}
        ),
    }
    write(path, grow(root, content))


def write_manifest(path: Path, objects: list[tuple[str, int, str]]) -> None:
    """Write manifest.safe from (relative path, bytes, SHA3-256) of each file."""
    root = ET.Element("xfdu:XFDU", {"xmlns:xfdu": "urn:ccsds:schema:xfdu:1"})
    write(path, grow(root, {"dataObjectSection": {"dataObject": [_file(*o) for o in objects]}}))


def _file(name: str, size: int, digest: str) -> Node:
    suffix = Path(name).suffix
    content = {
        "fileLocation": ({"href": f"./{name}", "locatorType": "URL"}, None),
        "checksum": ({"checksumName": "SHA3-256"}, digest),
    }
    stream = {"mimeType": "text/xml" if suffix == ".xml" else "application/octet-stream"}
    return {"ID": f"{Path(name).stem}_Data"}, {"byteStream": ({**stream, "size": size}, content)}


def _with_level(content: Content, level: str = "Standard") -> Node:
    return {"metadataLevel": level}, content


def _product_info(acquisition: S2Acquisition, images: list[str]) -> Json:
    start = stamp(acquisition.datatake_start)
    datatake = {
        "SPACECRAFT_NAME": f"Sentinel-{acquisition.platform[1:]}",
        "DATATAKE_TYPE": "INS-NOBS",
        "DATATAKE_SENSING_START": start,
        "SENSING_ORBIT_NUMBER": acquisition.relative_orbit,
        "SENSING_ORBIT_DIRECTION": "DESCENDING",
    }
    granule = {
        "datastripIdentifier": acquisition.identifier("DS"),
        "granuleIdentifier": acquisition.identifier("TL"),
        "imageFormat": "JPEG2000",
    }
    return {
        "PRODUCT_START_TIME": start,
        "PRODUCT_STOP_TIME": start,
        "PRODUCT_URI": f"{acquisition.name}.SAFE",
        "PROCESSING_LEVEL": "Level-2A",
        "PRODUCT_TYPE": "S2MSI2A",
        "PROCESSING_BASELINE": acquisition.baseline,
        "GENERATION_TIME": f"{acquisition.processed:%Y-%m-%dT%H:%M:%S.%f}Z",
        "Datatake": ({"datatakeIdentifier": acquisition.datatake}, datatake),
        "Query_Options": ({"completeSingleTile": "true"}, {"PRODUCT_FORMAT": "SAFE_COMPACT"}),
        "Product_Organisation": {"Granule_List": {"Granule": (granule, {"IMAGE_FILE": images})}},
    }


def _image_characteristics(acquisition: S2Acquisition) -> Json:
    band_ids = range(len(INSTRUMENT_BANDS))
    offsets = [({"band_id": i}, acquisition.offset) for i in band_ids]
    offset_list = {"BOA_ADD_OFFSET_VALUES_LIST": {"BOA_ADD_OFFSET": offsets}}
    classes = [
        {"SCENE_CLASSIFICATION_TEXT": f"SC_{text}", "SCENE_CLASSIFICATION_INDEX": index}
        for index, text in enumerate(SCENE_CLASSES)
    ]
    spectral = [_spectral(acquisition.platform, i) for i in band_ids]
    return {
        "Special_Values": [
            {"SPECIAL_VALUE_TEXT": "NODATA", "SPECIAL_VALUE_INDEX": 0},
            {"SPECIAL_VALUE_TEXT": "SATURATED", "SPECIAL_VALUE_INDEX": 65535},
        ],
        "Image_Display_Order": {"RED_CHANNEL": 3, "GREEN_CHANNEL": 2, "BLUE_CHANNEL": 1},
        "QUANTIFICATION_VALUES_LIST": {
            "BOA_QUANTIFICATION_VALUE": ({"unit": "none"}, 10000),
            "AOT_QUANTIFICATION_VALUE": ({"unit": "none"}, 1000.0),
            "WVP_QUANTIFICATION_VALUE": ({"unit": "cm"}, 1000.0),
        },
        **(offset_list if acquisition.offset else {}),
        "Spectral_Information_List": {"Spectral_Information": spectral},
        "Scene_Classification_List": {"Scene_Classification_ID": classes},
    }


def _spectral(platform: str, band_id: int) -> Node:
    name = INSTRUMENT_BANDS[band_id]
    wavelength, values, centre = _response(platform, name)
    grid = np.arange(np.ceil(wavelength[0]), wavelength[-1] + 0.5)  # whole nm
    nanometres = {"unit": "nm"}
    return (
        {"bandId": band_id, "physicalBand": "B" + name[1:].lstrip("0")},
        {
            "RESOLUTION": S2_GSD_M.get(name, 60),
            "Wavelength": {
                "MIN": (nanometres, int(grid[0])),
                "MAX": (nanometres, int(grid[-1])),
                "CENTRAL": (nanometres, f"{centre:.1f}"),
            },
            "Spectral_Response": {
                "STEP": (nanometres, 1),
                "VALUES": " ".join(f"{v:.6f}" for v in np.interp(grid, wavelength, values)),
            },
        },
    )


def _response(platform: str, name: str) -> tuple[FloatArray, FloatArray, float]:
    """Wavelengths in nm and relative response of a band where it is not negligible, its centre."""
    if name == "B10":  # not a band of L2A: a Gaussian
        centre, fwhm = CIRRUS_NM
        wavelength = np.arange(centre - 1.25 * fwhm, centre + 1.25 * fwhm)
        return wavelength, 0.5 ** ((wavelength - centre) / (fwhm / 2)) ** 2, centre
    wavelength, values = response(platform, name)
    keep = values > 0.001
    wavelength = wavelength[keep]
    values = values[keep]
    return wavelength, values, float(np.average(wavelength, weights=values))


def _footprint(geobox: GeoBox) -> str:
    ring = corners(geobox)
    return " ".join(f"{lat:.9f} {lon:.9f}" for lon, lat in (*ring, ring[0]))


def _content(shares: dict[int, float], tile: bool = False) -> dict[str, str]:
    """Percentages of cloud and of each scene class; a tile has one entry more than a product."""
    cloud = f"{cloud_percentage(shares):.6f}"
    classes = {f"{text}_PERCENTAGE": f"{shares[i]:.6f}" for i, text in enumerate(CLASS_PERCENTAGES)}
    return {
        **({"CLOUDY_PIXEL_PERCENTAGE": cloud} if tile else {}),
        "CLOUDY_PIXEL_OVER_LAND_PERCENTAGE": cloud,
        **classes,
    }


def _geocoding(geobox: GeoBox) -> Json:
    box = geobox.boundingbox
    zone, is_north = utm_zone(geobox)
    rows, columns = geobox.shape
    return {
        "HORIZONTAL_CS_NAME": f"WGS84 / UTM zone {zone}{'N' if is_north else 'S'}",
        "HORIZONTAL_CS_CODE": f"EPSG:{epsg_of(geobox)}",
        "Size": [
            ({"resolution": g}, {"NROWS": rows * 10 // g, "NCOLS": columns * 10 // g})
            for g in (10, 20, 60)
        ],
        "Geoposition": [
            (
                {"resolution": g},
                {"ULX": round(box.left), "ULY": round(box.top), "XDIM": g, "YDIM": -g},
            )
            for g in (10, 20, 60)
        ],
    }


def _angles(acquisition: S2Acquisition, geobox: GeoBox) -> Json:
    """Sun and view angles at nodes every 5 km, and their means."""
    x, y = _angle_nodes(geobox)
    lonlat = to_lonlat(geobox)
    lon, lat = lonlat.transform(x, y)
    box = geobox.boundingbox
    centre = lonlat.transform((box.left + box.right) / 2, (box.top + box.bottom) / 2)[::-1]
    sun = acquisition.sun_zenith_deg, acquisition.sun_azimuth_deg
    azimuth, zenith = sun_angles(lat, lon, centre, *sun)
    mean_view = _mean(acquisition.view_zenith_deg, acquisition.view_azimuth_deg)
    return {
        "Sun_Angles_Grid": {"Zenith": _grid(zenith), "Azimuth": _grid(azimuth % 360)},
        "Mean_Sun_Angle": _mean(*sun),
        "Viewing_Incidence_Angles_Grids": list(_view_grids(acquisition, x)),
        "Mean_Viewing_Incidence_Angle_List": {
            "Mean_Viewing_Incidence_Angle": [
                ({"bandId": band}, mean_view) for band in range(len(INSTRUMENT_BANDS))
            ]
        },
    }


def _angle_nodes(geobox: GeoBox) -> tuple[FloatArray, FloatArray]:
    """x, y (row, column) in m of the nodes; the last row and column are at or beyond the edge."""
    rows, columns = (-(-side * 10 // ANGLE_STEP_M) + 1 for side in geobox.shape)
    box = geobox.boundingbox
    x = box.left + ANGLE_STEP_M * np.arange(columns)
    y = box.top - ANGLE_STEP_M * np.arange(rows)
    grid_x, grid_y = np.meshgrid(x, y)
    return grid_x, grid_y


def _view_grids(acquisition: S2Acquisition, x: FloatArray) -> Iterator[Node]:
    """View angles per band and detector, linear across track; NaN outside a detector's columns."""
    across = np.degrees(np.arctan((x - x.mean()) / ORBIT_HEIGHT_M))
    # the zenith angle decreases towards the satellite
    towards = np.sign(np.sin(np.radians(acquisition.view_azimuth_deg)))
    view = acquisition.view_zenith_deg - across * towards
    azimuth = np.full_like(view, acquisition.view_azimuth_deg)
    column = np.arange(x.shape[1])
    half = x.shape[1] // 2
    # both detectors have the middle column
    footprints = dict(zip(DETECTORS, (column <= half, column >= half), strict=True))
    for band in range(len(INSTRUMENT_BANDS)):
        for detector, inside in footprints.items():
            yield (
                {"bandId": band, "detectorId": detector},
                {
                    "Zenith": _grid(np.where(inside, np.abs(view), np.nan)),
                    "Azimuth": _grid(np.where(inside, azimuth, np.nan)),
                },
            )


def _mean(zenith: float, azimuth: float) -> dict[str, Node]:
    degrees = {"unit": "deg"}
    return {"ZENITH_ANGLE": (degrees, zenith), "AZIMUTH_ANGLE": (degrees, azimuth)}


def _grid(values: FloatArray) -> Json:
    step = ({"unit": "m"}, ANGLE_STEP_M)
    rows = [" ".join("NaN" if np.isnan(v) else f"{v:.6g}" for v in row) for row in values]
    return {"COL_STEP": step, "ROW_STEP": step, "Values_List": {"VALUES": rows}}
