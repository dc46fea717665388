"""Metadata of Sentinel-2 L2A products (time, angles, radiometry), and items of SAFE folders."""

import logging
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pystac
from odc.geo.geobox import GeoBox

from satfuse.arrays import FloatArray
from satfuse.catalog import access
from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import ReadError
from satfuse.readers.ledger import Read
from satfuse.readers.sentinel2_angles import AngleGrids, field_nodes, mean_direction
from satfuse.readers.xml_elements import number, text
from satfuse.sensors.bands import S2_NAMES

log = logging.getLogger(__name__)

T = TypeVar("T")

# `band_id` of the XML files counts all 13 bands of the sensor, also B10, which L2A does not ship.
_BAND_IDS = (*S2_NAMES[:10], "B10", *S2_NAMES[10:])
_SAFE_NAME = re.compile(
    r"(S2[A-D])_MSIL2A_(\d{8}T\d{6})_N(\d{2})(\d{2})_R(\d{3})_T(\w{5})_\d{8}T\d{6}"
)
# ESA adds 1000 to every digital number from baseline 04.00 on, Collection-1 included.
OFFSET_SINCE_BASELINE = 4.0
DEFAULT_QUANTIFICATION = 10000.0  # assumed where no product metadata states it


@dataclass(frozen=True, kw_only=True)
class S2Metadata:
    """Metadata of one item.

    Attributes
    ----------
    platform : "S2A", "S2B", "S2C" or "S2D".
    sensing_time : UTC.
    clock : the origin of `sensing_time`: "MTD_TL SENSING_TIME", "item sensing time", or "item
        datatake start", which is up to 12 minutes early.
    baseline : processing baseline, such as "05.11"; "" where unknown.
    offsets, quantification : reflectance = (DN + offset) / quantification. Offsets are in digital
        numbers per band; None where no product metadata states that of every band.
    sun_zenith_deg, sun_azimuth_deg, view_zenith_deg, view_azimuth_deg : means over the tile,
        azimuths from north; NaN where nothing states them. Angles at a field are variables of
        `open_sentinel2`.
    """

    platform: str
    sensing_time: datetime
    clock: str
    baseline: str
    offsets: dict[str, int] | None
    quantification: float
    sun_zenith_deg: float
    sun_azimuth_deg: float
    view_zenith_deg: float
    view_azimuth_deg: float


def metadata(item: pystac.Item, spec: CatalogSpec) -> S2Metadata:
    """Read the metadata of one item.

    Raises
    ------
    ReadError
        A metadata file that the item lists is missing or malformed.
    """
    if _lists(spec, item, "granule_metadata"):
        time, angles = _read_xml(spec, item, "granule_metadata", _tile_facts)
        clock = "MTD_TL SENSING_TIME"
    else:
        time = _item_time(item)
        angles = _item_angles(item.properties)
        clock = _item_clock(spec)
    baseline, offsets, quantification = radiometry(item, spec)
    return S2Metadata(
        platform=platform_of(item),
        sensing_time=time,
        clock=clock,
        baseline=baseline,
        offsets=offsets,
        quantification=quantification,
        **angles,
    )


def radiometry(item: pystac.Item, spec: CatalogSpec) -> tuple[str, dict[str, int] | None, float]:
    """Baseline, offsets and quantification of one item, see `S2Metadata`.

    Raises
    ------
    ReadError
        MTD_MSIL2A.xml, which the item lists, is missing or malformed.
    """
    if not _lists(spec, item, "product_metadata"):
        return item_baseline(item), None, DEFAULT_QUANTIFICATION
    baseline, offsets, quantification = _read_xml(spec, item, "product_metadata", _radiometry)
    complete = set(offsets) >= set(S2_NAMES)
    return baseline, offsets if complete else None, quantification


def field_angles(
    item: pystac.Item, spec: CatalogSpec, geobox: GeoBox, *, holes: bool
) -> tuple[FloatArray, str, list[Read]]:
    """Sun and view angles at the nodes of a field (`sentinel2_angles.field_nodes`).

    Parameters
    ----------
    item : one tile.
    spec : the catalogue of the item.
    geobox : the field.
    holes : True = where MTD_TL.xml cannot be read, use the angles that the item states.

    Returns
    -------
    angles : (4, y, x) in degrees: sun zenith and azimuth, view zenith and azimuth, azimuths from
        north; NaN where unknown.
    origin : "MTD_TL grids"; "item properties", one number per angle for the whole field; or "none".
    ledger : the read of MTD_TL.xml; empty where the item does not list the file.

    Raises
    ------
    ReadError
        MTD_TL.xml is missing or malformed, and `holes` is False.
    """
    key = "granule_metadata"
    failure = ""
    if _lists(spec, item, key):
        try:
            grids = _read_xml(spec, item, key, AngleGrids.from_xml)
            return grids.at(geobox), "MTD_TL grids", [Read(item=item.id, asset=key, status="read")]
        except ReadError as error:
            if not holes:
                raise
            failure = str(error)
    stated = np.array(list(_item_angles(item.properties).values()))
    origin = "item properties" if np.isfinite(stated).any() else "none"
    ledger = []
    if failure and origin == "none":
        ledger = [Read(item=item.id, asset=key, status="missing", cause=failure)]
    elif failure:
        cause = f"angles come from the item; {failure}"
        ledger = [Read(item=item.id, asset=key, status="replaced", cause=cause)]
    x, y = field_nodes(geobox)
    return np.broadcast_to(stated[:, None, None], (4, len(y), len(x))), origin, ledger


def platform_of(item: pystac.Item) -> str:
    """Return "S2A", "S2B", "S2C" or "S2D", from the item's id or its `platform`.

    Raises
    ------
    ReadError
        Neither names a Sentinel-2.
    """
    if name := re.match(r"S2[A-D]", item.id):
        return name[0]
    platform = item.properties.get("platform", "")
    if name := re.search(r"2[a-d]$", platform.lower()):
        return f"S{name[0].upper()}"
    raise ReadError(f"{item.id}: neither the id nor platform={platform!r} names a Sentinel-2")


def item_baseline(item: pystac.Item) -> str:
    """Processing baseline, such as "05.11", from a property or a product name; "" where unknown."""
    properties = item.properties
    stated = properties.get("s2:processing_baseline") or properties.get("processing:version")
    if stated:
        return str(stated)
    for name in (item.id, properties.get("s2:product_uri", "")):
        if match := _SAFE_NAME.match(name):
            return f"{match[3]}.{match[4]}"
    return ""


def safe_item(path: str | Path) -> pystac.Item:
    """Make an item for a SAFE folder on disk, with the keys of the Copernicus Data Space.

    Open it with `catalog.specs.local_catalog(url, root)`, `root` being a folder above the SAFE
    folder.

    Parameters
    ----------
    path : the `S2?_MSIL2A_….SAFE` folder.

    Raises
    ------
    ReadError
        The name is not that of an L2A product, or it has no MTD_MSIL2A.xml or MTD_TL.xml.
    """
    path = Path(path).resolve()
    name = _SAFE_NAME.match(path.name)
    product = path / "MTD_MSIL2A.xml"
    tiles = sorted(path.glob("GRANULE/*/MTD_TL.xml"))
    if not name or not product.is_file() or len(tiles) != 1:
        raise ReadError(
            f"{path} is no Sentinel-2 L2A SAFE folder: it needs a name S2?_MSIL2A_….SAFE, "
            "MTD_MSIL2A.xml and one GRANULE/*/MTD_TL.xml"
        )
    bbox, ring = _footprint(product)
    item = pystac.Item(
        path.name.removesuffix(".SAFE"),
        geometry={"type": "Polygon", "coordinates": [ring]},
        bbox=bbox,
        datetime=datetime.strptime(name[2], "%Y%m%dT%H%M%S").replace(tzinfo=UTC),
        properties={
            "platform": f"sentinel-{name[1][1:].lower()}",
            "constellation": "sentinel-2",
            "processing:version": f"{name[3]}.{name[4]}",
            "sat:relative_orbit": int(name[5]),
            "grid:code": f"MGRS-{name[6]}",
        },
        collection="sentinel-2-l2a",
    )
    for key, file in (("product_metadata", product), ("granule_metadata", tiles[0])):
        asset = pystac.Asset(str(file), media_type="application/xml", roles=["metadata"])
        item.add_asset(key, asset)
    for image in sorted(tiles[0].parent.glob("IMG_DATA/R*/*.jp2")):
        key = "_".join(image.stem.split("_")[-2:])  # T29UNU_20221005T115411_B02_10m -> B02_10m
        item.add_asset(key, pystac.Asset(str(image), media_type="image/jp2", roles=["data"]))
    return item


def _lists(spec: CatalogSpec, item: pystac.Item, key: str) -> bool:
    return spec.assets["sentinel2"].get(key) in item.assets


def _read_xml(
    spec: CatalogSpec, item: pystac.Item, key: str, parse: Callable[[ET.Element], T]
) -> T:
    path = access.fetch(spec, item, "sentinel2", key)
    try:
        return parse(ET.parse(path).getroot())
    except (ET.ParseError, AttributeError, ValueError, TypeError, IndexError) as error:
        raise ReadError(
            f"{item.id}: asset {key} ({path.name}) is damaged or of another format: {error}"
        ) from error


def _radiometry(root: ET.Element) -> tuple[str, dict[str, int], float]:
    """Baseline, offset per band and quantification value of MTD_MSIL2A.xml."""
    baseline = text(root, ".//PROCESSING_BASELINE")
    quantification = number(root, ".//BOA_QUANTIFICATION_VALUE")
    offsets = {
        _BAND_IDS[int(e.get("band_id", ""))]: int(float(e.text or ""))
        for e in root.iter("BOA_ADD_OFFSET")
    }
    # 99.99 marks reprocessed data without the offset
    if not offsets and (float(baseline) < OFFSET_SINCE_BASELINE or baseline == "99.99"):
        offsets = dict.fromkeys(_BAND_IDS, 0)
    return baseline, offsets, quantification


def _tile_facts(root: ET.Element) -> tuple[datetime, dict[str, float]]:
    """Sensing time and mean angles of MTD_TL.xml."""
    time = datetime.fromisoformat(text(root, ".//SENSING_TIME").replace("Z", "+00:00"))
    sun = _mean_angles(root.iter("Mean_Sun_Angle"))
    view = _mean_angles(root.iter("Mean_Viewing_Incidence_Angle"))
    return time, _named(*sun, *view)


def _mean_angles(elements: Iterable[ET.Element]) -> tuple[float, float]:
    """Mean zenith and azimuth in degrees of elements with ZENITH_ANGLE and AZIMUTH_ANGLE."""
    pairs = [(number(e, "ZENITH_ANGLE"), number(e, "AZIMUTH_ANGLE")) for e in elements]
    return mean_direction(*np.array(pairs, dtype=float).reshape(-1, 2).T)


def _item_angles(properties: dict[str, Any]) -> dict[str, float]:
    """Mean angles that the item's properties state; NaN for those they do not."""

    def first(*keys: str) -> float:
        return next((float(properties[k]) for k in keys if properties.get(k) is not None), np.nan)

    sun_zenith = first("s2:mean_solar_zenith")
    if np.isnan(sun_zenith):
        sun_zenith = 90 - first("view:sun_elevation")
    return _named(
        sun_zenith,
        first("s2:mean_solar_azimuth", "view:sun_azimuth") % 360,
        first("view:incidence_angle", "view:off_nadir"),
        first("view:azimuth") % 360,
    )


def _named(
    sun_zenith: float, sun_azimuth: float, view_zenith: float, view_azimuth: float
) -> dict[str, float]:
    return {
        "sun_zenith_deg": sun_zenith,
        "sun_azimuth_deg": sun_azimuth,
        "view_zenith_deg": view_zenith,
        "view_azimuth_deg": view_azimuth,
    }


def _item_time(item: pystac.Item) -> datetime:
    time = item.datetime or item.common_metadata.start_datetime
    if time is None:
        raise ReadError(f"{item.id} states no datetime")
    return time.astimezone(UTC)


def _item_clock(spec: CatalogSpec) -> str:
    return "item sensing time" if spec.datetime["sentinel2"] == "sensing" else "item datatake start"


def _footprint(product: Path) -> tuple[list[float], list[list[float]]]:
    """Box and outer ring (lon, lat) from EXT_POS_LIST of MTD_MSIL2A.xml (lat lon lat lon …)."""
    try:
        positions = text(ET.parse(product).getroot(), ".//EXT_POS_LIST")
        numbers = np.array(positions.split(), dtype=float)
    except (ET.ParseError, ValueError) as error:
        raise ReadError(f"{product} is damaged or of another format: {error}") from error
    ring = numbers.reshape(-1, 2)[:, ::-1]
    return [*ring.min(axis=0).tolist(), *ring.max(axis=0).tolist()], ring.tolist()
