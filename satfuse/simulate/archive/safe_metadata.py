"""MTD_MSIL2A.xml, MTD_TL.xml and manifest.safe of a Sentinel-2 L2A product: the elements that carry meaning."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from satfuse.sensors.bands import S2_GSD_M
from satfuse.sensors.srf import response
from satfuse.simulate.archive.footprint import corners, to_lonlat
from satfuse.simulate.archive.sphere import sun_angles
from satfuse.simulate.archive.xml_tree import grow, write

PSD = "https://psd-14.sentinel2.eo.esa.int/PSD/"
# bandId of ESA's metadata counts all 13 bands of the instrument; B10 is measured but not in L2A
INSTRUMENT_BANDS = (
    "B01",
    "B02",
    "B03",
    "B04",
    "B05",
    "B06",
    "B07",
    "B08",
    "B8A",
    "B09",
    "B10",
    "B11",
    "B12",
)
SCENE_CLASSES = (
    "NODATA", "SATURATED_DEFECTIVE", "DARK_FEATURE_SHADOW", "CLOUD_SHADOW", "VEGETATION", "NOT_VEGETATED", "WATER",
    "UNCLASSIFIED", "CLOUD_MEDIUM_PROBA", "CLOUD_HIGH_PROBA", "THIN_CIRRUS", "SNOW_ICE",
)  # fmt: skip
CLASS_PERCENTAGES = (
    "NODATA_PIXEL", "SATURATED_DEFECTIVE_PIXEL", "DARK_FEATURES", "CLOUD_SHADOW", "VEGETATION", "NOT_VEGETATED",
    "WATER", "UNCLASSIFIED", "MEDIUM_PROBA_CLOUDS", "HIGH_PROBA_CLOUDS", "THIN_CIRRUS", "SNOW_ICE",
)  # fmt: skip
ANGLE_STEP_M = 5000
DETECTORS = (5, 6)  # a small tile is seen by two neighbours of the 12 detectors
CIRRUS_NM = (1373.5, 30.0)  # centre and width of B10


def stamp(time) -> str:
    """A time as ESA writes it: UTC with milliseconds and Z."""
    return f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03d}Z"


def write_product(
    path: Path, acquisition, images: list[str], geobox: GeoBox, shares: dict[int, float]
) -> None:
    """Write MTD_MSIL2A.xml; `shares` is the percentage of each scene class."""
    root = ET.Element("n1:Level-2A_User_Product", {"xmlns:n1": f"{PSD}User_Product_Level-2A.xsd"})
    grow(
        root,
        {
            "n1:General_Info": {
                "Product_Info": _product_info(acquisition, images),
                "Product_Image_Characteristics": _image_characteristics(acquisition),
            },
            "n1:Geometric_Info": {
                "Product_Footprint": {
                    "Product_Footprint": {"Global_Footprint": {"EXT_POS_LIST": _footprint(geobox)}}
                },
                "Coordinate_Reference_System": {
                    "GEO_TABLES": ({"version": "1"}, "EPSG"),
                    "HORIZONTAL_CS_TYPE": "GEOGRAPHIC",
                },
            },
            "n1:Quality_Indicators_Info": {
                "Cloud_Coverage_Assessment": f"{_cloud_percentage(shares):.6f}",
                "Image_Content_QI": _content(shares),
            },
        },
    )
    write(path, root)


def write_tile(path: Path, acquisition, geobox: GeoBox, shares: dict[int, float]) -> None:
    """Write MTD_TL.xml with the sensing time and the angle grids of the tile."""
    root = ET.Element(
        "n1:Level-2A_Tile_ID", {"xmlns:n1": f"{PSD}S2_PDI_Level-2A_Tile_Metadata.xsd"}
    )
    sensed = f"{acquisition.sensing_time:%Y-%m-%dT%H:%M:%S.%f}Z"
    grow(
        root,
        {
            "n1:General_Info": {
                "TILE_ID": _standard(acquisition.identifier("TL"), "Brief"),
                "DATASTRIP_ID": _standard(acquisition.identifier("DS")),
                "DOWNLINK_PRIORITY": _standard("NOMINAL"),
                "SENSING_TIME": _standard(sensed),
            },
            "n1:Geometric_Info": {
                "Tile_Geocoding": _standard(_geocoding(geobox), "Brief"),
                "Tile_Angles": _standard(_angles(acquisition, geobox)),
            },
            "n1:Quality_Indicators_Info": _standard(
                {"Image_Content_QI": _content(shares, tile=True)}
            ),
        },
    )
    write(path, root)


def write_manifest(path: Path, objects: list[tuple[str, int, str]]) -> None:
    """Write manifest.safe from (relative path, bytes, SHA3-256) of each file."""
    root = ET.Element("xfdu:XFDU", {"xmlns:xfdu": "urn:ccsds:schema:xfdu:1"})
    kinds = {".xml": "text/xml", ".jp2": "application/octet-stream"}
    data = [
        (
            {"ID": f"{Path(name).stem}_Data"},
            {
                "byteStream": (
                    {"mimeType": kinds[Path(name).suffix], "size": size},
                    {
                        "fileLocation": ({"href": f"./{name}", "locatorType": "URL"}, None),
                        "checksum": ({"checksumName": "SHA3-256"}, digest),
                    },
                )
            },
        )
        for name, size, digest in objects
    ]
    write(path, grow(root, {"dataObjectSection": {"dataObject": data}}))


def _standard(content, level="Standard"):
    return {"metadataLevel": level}, content


def _product_info(acquisition, images):
    start = stamp(acquisition.datatake_start)
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
        "Datatake": (
            {"datatakeIdentifier": acquisition.datatake},
            {
                "SPACECRAFT_NAME": f"Sentinel-{acquisition.platform[1:]}",
                "DATATAKE_TYPE": "INS-NOBS",
                "DATATAKE_SENSING_START": start,
                "SENSING_ORBIT_NUMBER": acquisition.relative_orbit,
                "SENSING_ORBIT_DIRECTION": "DESCENDING",
            },
        ),
        "Query_Options": ({"completeSingleTile": "true"}, {"PRODUCT_FORMAT": "SAFE_COMPACT"}),
        "Product_Organisation": {"Granule_List": {"Granule": (granule, {"IMAGE_FILE": images})}},
    }


def _image_characteristics(acquisition):
    offsets = {
        "BOA_ADD_OFFSET_VALUES_LIST": {
            "BOA_ADD_OFFSET": [
                ({"band_id": i}, acquisition.offset) for i in range(len(INSTRUMENT_BANDS))
            ]
        }
    }
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
        **(offsets if acquisition.offset else {}),
        "Spectral_Information_List": {
            "Spectral_Information": [
                _spectral(acquisition.platform, i) for i in range(len(INSTRUMENT_BANDS))
            ]
        },
        "Scene_Classification_List": {
            "Scene_Classification_ID": [
                {"SCENE_CLASSIFICATION_TEXT": f"SC_{text}", "SCENE_CLASSIFICATION_INDEX": index}
                for index, text in enumerate(SCENE_CLASSES)
            ]
        },
    }


def _spectral(platform, band_id):
    name = INSTRUMENT_BANDS[band_id]
    if name == "B10":
        centre, fwhm = CIRRUS_NM
        wavelength = np.arange(centre - 1.25 * fwhm, centre + 1.25 * fwhm)
        values = 0.5 ** ((wavelength - centre) / (fwhm / 2)) ** 2
    else:
        wavelength, values = response(platform, name)
        keep = values > 0.001
        wavelength, values = wavelength[keep], values[keep]
        centre = np.average(wavelength, weights=values)
    grid = np.arange(np.ceil(wavelength[0]), wavelength[-1] + 0.5)
    gsd_m = S2_GSD_M.get(name, 60)
    nanometres = {"unit": "nm"}
    return (
        {"bandId": band_id, "physicalBand": "B" + name[1:].lstrip("0")},
        {
            "RESOLUTION": gsd_m,
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


def _footprint(geobox):
    ring = corners(geobox)
    return " ".join(f"{lat:.9f} {lon:.9f}" for lon, lat in (*ring, ring[0]))


def _cloud_percentage(shares):
    return shares[8] + shares[9] + shares[10]


def _content(shares, tile=False):
    cloud = {"CLOUDY_PIXEL_PERCENTAGE": f"{_cloud_percentage(shares):.6f}"} if tile else {}
    classes = {f"{text}_PERCENTAGE": f"{shares[i]:.6f}" for i, text in enumerate(CLASS_PERCENTAGES)}
    return {
        **cloud,
        "CLOUDY_PIXEL_OVER_LAND_PERCENTAGE": f"{_cloud_percentage(shares):.6f}",
        **classes,
    }


def _geocoding(geobox):
    box, code = geobox.boundingbox, geobox.crs.epsg
    zone = f"{code % 100}{'N' if code < 32700 else 'S'}"
    grids = {
        gsd_m: (geobox.shape[0] * 10 // gsd_m, geobox.shape[1] * 10 // gsd_m)
        for gsd_m in (10, 20, 60)
    }
    return {
        "HORIZONTAL_CS_NAME": f"WGS84 / UTM zone {zone}",
        "HORIZONTAL_CS_CODE": f"EPSG:{code}",
        "Size": [
            ({"resolution": g}, {"NROWS": rows, "NCOLS": columns})
            for g, (rows, columns) in grids.items()
        ],
        "Geoposition": [
            (
                {"resolution": g},
                {"ULX": round(box.left), "ULY": round(box.top), "XDIM": g, "YDIM": -g},
            )
            for g in grids
        ],
    }


def _angles(acquisition, geobox):
    """Sun angles from the sphere; view angles linear across track, each detector NaN outside its own columns."""
    rows, columns = (-(-side * 10 // ANGLE_STEP_M) + 1 for side in geobox.shape)
    box = geobox.boundingbox
    x, y = np.meshgrid(
        box.left + ANGLE_STEP_M * np.arange(columns), box.top - ANGLE_STEP_M * np.arange(rows)
    )
    lonlat = to_lonlat(geobox)
    lon, lat = lonlat.transform(x, y)
    centre = lonlat.transform((box.left + box.right) / 2, (box.top + box.bottom) / 2)[::-1]
    azimuth, zenith = sun_angles(
        lat, lon, centre, acquisition.sun_zenith_deg, acquisition.sun_azimuth_deg
    )
    across = np.degrees(np.arctan((x - x.mean()) / 786000))  # from the height of the orbit
    # towards the satellite the zenith angle falls
    view = acquisition.view_zenith_deg - across * np.sign(
        np.sin(np.radians(acquisition.view_azimuth_deg))
    )
    half = columns // 2
    seen = {DETECTORS[0]: np.arange(columns) <= half, DETECTORS[1]: np.arange(columns) >= half}
    mean_view = _mean(acquisition.view_zenith_deg, acquisition.view_azimuth_deg)
    return {
        "Sun_Angles_Grid": {"Zenith": _grid(zenith), "Azimuth": _grid(azimuth % 360)},
        "Mean_Sun_Angle": _mean(acquisition.sun_zenith_deg, acquisition.sun_azimuth_deg),
        "Viewing_Incidence_Angles_Grids": [
            (
                {"bandId": band, "detectorId": detector},
                {
                    "Zenith": _grid(np.where(columns_seen, np.abs(view), np.nan)),
                    "Azimuth": _grid(
                        np.where(
                            columns_seen, np.full_like(view, acquisition.view_azimuth_deg), np.nan
                        )
                    ),
                },
            )
            for band in range(len(INSTRUMENT_BANDS))
            for detector, columns_seen in seen.items()
        ],
        "Mean_Viewing_Incidence_Angle_List": {
            "Mean_Viewing_Incidence_Angle": [
                ({"bandId": band}, mean_view) for band in range(len(INSTRUMENT_BANDS))
            ]
        },
    }


def _mean(zenith, azimuth):
    degrees = {"unit": "deg"}
    return {"ZENITH_ANGLE": (degrees, zenith), "AZIMUTH_ANGLE": (degrees, azimuth)}


def _grid(values):
    step = ({"unit": "m"}, ANGLE_STEP_M)
    rows = [" ".join("NaN" if np.isnan(v) else f"{v:.6g}" for v in row) for row in values]
    return {"COL_STEP": step, "ROW_STEP": step, "Values_List": {"VALUES": rows}}
