"""xfdumanifest.xml of a SYN product."""

import hashlib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from satfuse.arrays import BoolArray
from satfuse.sensors.bands import S3_BANDS, Band
from satfuse.simulate.archive.footprint import outline
from satfuse.simulate.archive.sen3_files import OBLIQUE_BANDS, band_source, stamp
from satfuse.simulate.archive.sen3_swath import Swath, SynFrame
from satfuse.simulate.archive.xml_tree import Content, grow, write

PLATFORM_ID = {"S3A": "2016-011A", "S3B": "2018-039A"}  # COSPAR
NAMESPACES = {
    "xfdu": "urn:ccsds:schema:xfdu:1",
    "sentinel-safe": "http://www.esa.int/safe/sentinel/1.1",
    "gml": "http://www.opengis.net/gml",
    "sentinel3": "http://www.esa.int/safe/sentinel/sentinel-3/1.0",
    "syn": "http://www.esa.int/safe/sentinel/sentinel-3/synergy/1.0",
}
# the manifest numbers the OLCI bands before the SLSTR bands, the nadir view before the oblique one
BANDS = (
    *(b for b in S3_BANDS if b.name.startswith("Oa")),
    *(b for b in S3_BANDS if b.name.startswith("S")),
    *OBLIQUE_BANDS,
)
# centre and width (nm) of channels in the manifest where they differ from the bands' table
NOMINAL = {"Oa16": (778.5, 15), "S3": (865, 20)}

_LOW = "Low resolution georeferencing data and Sun and View angles associated with"
# file -> ID of its data object, description; measurements come first, then annotations. The
# spelling ("ATO550") is that of real products.
FILES = {
    **{
        f"Syn_{band.name}_reflectance": (
            f"Syn_{band.name}_reflectance_Data",
            f"Surface directional reflectance {band_source(band)}",
        )
        for band in BANDS
    },
    "Syn_AOT550": ("Syn_ATO550_Data", "Aerosol Optical Thickness Data Set"),
    "Syn_Angstrom_exp550": ("Syn_Angstrom_exp550_Data", "Aerosol Angstrom Exponent Data Set"),
    "Syn_SDR_removed_pixel": (
        "Syn_SDR_removed_pixels_Data",
        "Surface directional reflectance and aerosol parameters associated with removed pixel",
    ),
    "Syn_AMIN": ("Syn_AMIN_Data", "L2 Aerosol model index number data"),
    "flags": (
        "Syn_flags_Data",
        "Classification and quality Flags associated with OLCI, SLSTR and SYNERGY products",
    ),
    "geolocation": ("geolocation_Data", "High resolution georeferencing data"),
    "time": ("time_Data", "Time stamps annotation"),
    "Syn_annot_rem": (
        "annotations_removed_pixels_Data",
        "Annotations parameters associated with removed pixel",
    ),
    "tiepoints_olci": ("tiepoints_olci_Data", f"{_LOW} OLCI products"),
    "tiepoints_slstr_n": ("tiepoints_slstr_n_Data", f"{_LOW} SLSTR nadir view products"),
    "tiepoints_slstr_o": ("tiepoints_slstr_o_Data", f"{_LOW} SLSTR oblique view products"),
    "tiepoints_meteo": ("tiepoints_meteo_Data", "ECMWF meteorology data"),
}
MEASUREMENTS = 29  # the first so many files

Json = dict[str, Any]
Node = tuple[dict[str, Any], Content]  # attributes and content of an element


def write_manifest(sen3: Path, frame: SynFrame, swath: Swath, masks: dict[str, BoolArray]) -> None:
    """Describe the files of a `.SEN3` folder; `masks` are those of `sen3_files.write_flags`."""
    root = ET.Element("xfdu:XFDU", {f"xmlns:{prefix}": uri for prefix, uri in NAMESPACES.items()})
    sections = {
        "acquisitionPeriod": _period(frame),
        "platform": _platform(frame),
        "measurementFrameSet": _footprint(swath),
        "generalProductInformation": _product(frame),
        "synProductInformation": _synergy(masks),
        "measurementOrbitReference": _orbit(frame),
    }
    by_id = sorted(FILES, key=lambda stem: FILES[stem][0])
    objects = [
        ({"ID": FILES[stem][0]}, _byte_stream(sen3 / f"{stem}.nc", FILES[stem][1]))
        for stem in by_id
    ]
    metadata = [_section(name, body) for name, body in sections.items()]
    content = {
        "informationPackageMap": {"xfdu:contentUnit": _package(by_id, sections)},
        "metadataSection": {"metadataObject": metadata},
        "dataObjectSection": {"dataObject": objects},
    }
    write(sen3 / "xfdumanifest.xml", grow(root, content))


def _section(name: str, body: Content) -> Node:
    wrapping = {"mimeType": "text/xml", "vocabularyName": "Sentinel-SAFE"}
    return (
        {"ID": name, "classification": "DESCRIPTION", "category": "DMD"},
        {"metadataWrap": (wrapping, {"xmlData": body})},
    )


def _package(by_id: list[str], sections: Json) -> Node:
    package = {
        "ID": "packageUnit",
        "unitType": "Information Package",
        "textInfo": "SENTINEL-3 Synergy Level 2 package",
        "dmdID": " ".join(sections),
    }
    return package, {"xfdu:contentUnit": [_unit(stem) for stem in by_id]}


def _unit(stem: str) -> Node:
    number = list(FILES).index(stem) + 1
    object_id, description = FILES[stem]
    kind = "Measurement" if number <= MEASUREMENTS else "Annotation"
    attributes = {
        "ID": f"SYNERGY_{number:03d}_Unit",
        "unitType": f"{kind} Data Unit",
        "textInfo": description,
    }
    return attributes, {"dataObjectPointer": ({"dataObjectID": object_id}, None)}


def _period(frame: SynFrame) -> Json:
    times = {
        "sentinel-safe:startTime": stamp(frame.start),
        "sentinel-safe:stopTime": stamp(frame.stop),
    }
    return {"sentinel-safe:acquisitionPeriod": times}


def _platform(frame: SynFrame) -> Json:
    return {
        "sentinel-safe:platform": {
            "sentinel-safe:nssdcIdentifier": PLATFORM_ID[frame.platform],
            "sentinel-safe:familyName": "Sentinel-3",
            "sentinel-safe:number": frame.platform[-1],
        }
    }


def _footprint(swath: Swath) -> Json:
    ring = outline(swath)
    text = " ".join(f"{lat:.6g} {lon:.6g}" for lon, lat in (*ring, ring[0]))
    srs = {"srsName": "http://www.opengis.net/def/crs/EPSG/0/4326"}
    return {"sentinel-safe:frameSet": {"sentinel-safe:footPrint": (srs, {"gml:posList": text})}}


def _product(frame: SynFrame) -> Json:
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


def _synergy(masks: dict[str, BoolArray]) -> Json:
    shares = {
        "salineWater": ~masks["land"],
        "coastal": masks["shore"],
        "freshInlandWater": masks["inland_water"],
        "land": masks["land"],
        "cloudy": masks["cloud"],
    }
    summary = {
        f"sentinel3:{n}Pixels": ({"percentage": f"{100 * v.mean():.6f}"}, None)
        for n, v in shares.items()
    }
    bands = [({"name": f"SYN{i:02d}"}, _band(band)) for i, band in enumerate(BANDS, start=1)]
    return {
        "syn:synProductInformation": {
            "syn:classificationSummary": summary,
            "syn:bandDescriptions": ({"bands": len(bands)}, {"sentinel3:band": bands}),
        }
    }


def _band(band: Band) -> Json:
    is_olci = band.name.startswith("Oa")
    channel = band.name if is_olci else band.name[:2]
    view = "olci" if is_olci else band.name[2]  # N nadir, O oblique
    centre, width = NOMINAL.get(channel, (band.wavelength_nm, band.fwhm_nm))
    return {
        "sentinel3:centralWavelength": f"{centre:g}",
        "sentinel3:bandwidth": f"{width:g}",
        "sentinel3:olciChannels": channel if is_olci else "-",
        "sentinel3:slstrNadirChannels": channel if view == "N" else "-",
        "sentinel3:slstrObliqueChannels": channel if view == "O" else "-",
    }


def _orbit(frame: SynFrame) -> Json:
    start = {"type": "start", "groundTrackDirection": "descending"}
    return {
        "sentinel-safe:orbitReference": {
            "sentinel-safe:orbitNumber": (start, frame.absolute_orbit),
            "sentinel-safe:relativeOrbitNumber": (start, frame.relative_orbit),
            "sentinel-safe:cycleNumber": frame.cycle,
        }
    }


def _byte_stream(path: Path, text: str) -> Json:
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    place = {"locatorType": "URL", "textInfo": text, "href": f"./{path.name}"}
    content = {"fileLocation": (place, None), "checksum": ({"checksumName": "MD5"}, digest)}
    return {
        "byteStream": ({"mimeType": "application/x-netcdf", "size": path.stat().st_size}, content)
    }
