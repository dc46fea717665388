"""xfdumanifest.xml of a SYN product, and the meaning of its flag bits."""

import hashlib
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from satfuse.sensors.bands import S3_BANDS
from satfuse.simulate.footprint import outline
from satfuse.simulate.xml_tree import grow, write

FLAGS = {
    "CLOUD_flags": (
        "uint8",
        {"CLOUD": 1, "CLOUD_AMBIGUOUS": 2, "CLOUD_MARGIN": 4, "SNOW_ICE": 8},
    ),
    "SYN_flags": (
        "uint16",
        {
            "SYN_cloud": 1, "SYN_snow_risk": 2, "SYN_SDR_OOR": 4, "SYN_AOT_climato": 8, "SYN_land": 16,
            "SYN_no_olc": 32, "SYN_no_sln": 64, "SYN_no_slo": 128, "SYN_partly_cloudy": 256, "SYN_partly_water": 512,
            "SYN_border": 1024, "SYN_aerosol_filled": 2048, "SYN_success": 4096, "SYN_negative_curvature": 8192,
            "SYN_too_low": 16384, "SYN_high_error": 32768,
        },
    ),
    "OLC_flags": (
        "uint16",
        {
            "OLC_summary_saturated": 1, "OLC_dubious": 2, "OLC_sun_glint_risk": 4, "OLC_cosmetic": 8, "OLC_invalid": 16,
            "OLC_bright": 256, "OLC_tidal": 512, "OLC_fresh_inland_water": 1024, "OLC_coastline": 2048,
            "OLC_land": 4096,
        },
    ),
    "SLN_flags": (
        "uint32",
        {
            "SLN_saturation": 16, "SLN_invalid_radiance": 32, "SLN_no_parameters": 64, "SLN_unfilled": 128,
            "SLN_coastline": 256, "SLN_ocean": 512, "SLN_tidal": 1024, "SLN_land": 2048, "SLN_inland_water": 4096,
            "SLN_cosmetic": 65536, "SLN_day": 262144, "SLN_twilight": 524288, "SLN_sun_glint": 1048576,
            "SLN_snow": 2097152, "SLN_summary_cloud": 4194304, "SLN_pointing": 8388608,
        },
    ),
}  # fmt: skip


PLATFORM_ID = {"S3A": "2016-011A", "S3B": "2018-039A"}  # COSPAR
NAMESPACES = {
    "xfdu": "urn:ccsds:schema:xfdu:1",
    "sentinel-safe": "http://www.esa.int/safe/sentinel/1.1",
    "gml": "http://www.opengis.net/gml",
    "sentinel3": "http://www.esa.int/safe/sentinel/sentinel-3/1.0",
    "syn": "http://www.esa.int/safe/sentinel/sentinel-3/synergy/1.0",
}
# the manifest numbers the OLCI bands before the SLSTR bands
MANIFEST_BANDS = sorted(S3_BANDS, key=lambda b: (not b.name.startswith("Oa"), b.name))


def write_manifest(sen3: Path, frame, swath, cloud: np.ndarray, land: np.ndarray) -> None:
    """Describe the files that lie in a `.SEN3` folder."""
    root = ET.Element("xfdu:XFDU", {f"xmlns:{prefix}": uri for prefix, uri in NAMESPACES.items()})
    sections = {
        "acquisitionPeriod": _period(frame),
        "platform": _platform(frame),
        "measurementFrameSet": _footprint(swath),
        "generalProductInformation": _product(frame),
        "synProductInformation": _synergy(cloud, land),
        "measurementOrbitReference": _orbit(frame),
    }
    objects = [({"ID": f"{path.stem}_Data"}, _byte_stream(path)) for path in sorted(sen3.glob("*.nc"))]
    content = {
        "metadataSection": {
            "metadataObject": [
                (
                    {"ID": name, "classification": "DESCRIPTION", "category": "DMD"},
                    {"metadataWrap": ({"mimeType": "text/xml", "vocabularyName": "Sentinel-SAFE"}, {"xmlData": body})},
                )
                for name, body in sections.items()
            ]
        },
        "dataObjectSection": {"dataObject": objects},
    }
    write(sen3 / "xfdumanifest.xml", grow(root, content))


def _stamp(time):
    return f"{time:%Y-%m-%dT%H:%M:%S.%f}Z"


def _period(frame):
    times = {"sentinel-safe:startTime": _stamp(frame.start), "sentinel-safe:stopTime": _stamp(frame.stop)}
    return {"sentinel-safe:acquisitionPeriod": times}


def _platform(frame):
    return {
        "sentinel-safe:platform": {
            "sentinel-safe:nssdcIdentifier": PLATFORM_ID[frame.platform],
            "sentinel-safe:familyName": "Sentinel-3",
            "sentinel-safe:number": frame.platform[-1],
        }
    }


def _footprint(swath):
    ring = outline(swath)
    text = " ".join(f"{lat:.6g} {lon:.6g}" for lon, lat in (*ring, ring[0]))
    srs = {"srsName": "http://www.opengis.net/def/crs/EPSG/0/4326"}
    return {"sentinel-safe:frameSet": {"sentinel-safe:footPrint": (srs, {"gml:posList": text})}}


def _product(frame):
    unit = {
        "sentinel3:type": "FRAME",
        "sentinel3:duration": int((frame.stop - frame.start).total_seconds()),
        "sentinel3:alongtrackCoordinate": frame.frame,
    }
    return {
        "sentinel3:generalProductInformation": {
            "sentinel3:productName": f"{frame.name}.SEN3",
            "sentinel3:productType": "SY_2_SYN___",
            "sentinel3:timeliness": frame.timeliness,
            "sentinel3:baselineCollection": "002",
            "sentinel3:processingBaseline": "SYN_L2_.002.18.01",
            "sentinel3:creationTime": f"{frame.processed:%Y%m%dT%H%M%S}",
            "sentinel3:productUnit": unit,
        }
    }


def _synergy(cloud, land):
    shares = {"salineWater": ~land, "land": land, "cloudy": cloud}
    summary = {f"sentinel3:{n}Pixels": ({"percentage": f"{100 * v.mean():.6f}"}, None) for n, v in shares.items()}
    bands = [
        (
            {"name": f"SYN{i:02d}"},
            {
                "sentinel3:centralWavelength": f"{band.wavelength_nm:g}",
                "sentinel3:bandwidth": f"{band.fwhm_nm:g}",
                "sentinel3:olciChannels": band.name if band.name.startswith("Oa") else "-",
                "sentinel3:slstrNadirChannels": "-" if band.name.startswith("Oa") else band.name[:2],
                "sentinel3:slstrObliqueChannels": "-",
            },
        )
        for i, band in enumerate(MANIFEST_BANDS, start=1)
    ]
    return {
        "syn:synProductInformation": {
            "syn:classificationSummary": summary,
            "syn:bandDescriptions": ({"bands": len(bands)}, {"sentinel3:band": bands}),
        }
    }


def _orbit(frame):
    start = {"type": "start", "groundTrackDirection": "descending"}
    return {
        "sentinel-safe:orbitReference": {
            "sentinel-safe:orbitNumber": (start, frame.absolute_orbit),
            "sentinel-safe:relativeOrbitNumber": (start, frame.relative_orbit),
            "sentinel-safe:cycleNumber": frame.cycle,
        }
    }


def _byte_stream(path):
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    place = {"locatorType": "URL", "textInfo": path.stem, "href": f"./{path.name}"}
    content = {"fileLocation": (place, None), "checksum": ({"checksumName": "MD5"}, digest)}
    return {"byteStream": ({"mimeType": "application/x-netcdf", "size": path.stat().st_size}, content)}
