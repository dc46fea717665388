"""What the XML files of a Sentinel-2 L2A product say: time, angles, baseline, radiometry; items for SAFE folders."""

import logging
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
from odc.geo.geobox import GeoBox

from satfuse.catalog import access
from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import ReadError
from satfuse.readers.ledger import Read
from satfuse.readers.sentinel2_angles import AngleGrids, field_nodes, mean_direction
from satfuse.sensors.bands import S2_NAMES

log = logging.getLogger(__name__)

# `band_id` of the XML files counts all 13 bands, B10 too.
_BAND_IDS = (
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
_SAFE_NAME = re.compile(
    r"(S2[A-D])_MSIL2A_(\d{8}T\d{6})_N(\d{2})(\d{2})_R(\d{3})_T(\w{5})_\d{8}T\d{6}"
)
# ESA adds 1000 to every digital number from baseline 04.00 on, Collection-1 included
OFFSET_SINCE_BASELINE = 4.0


@dataclass(frozen=True, kw_only=True)
class S2Metadata:
    """Facts of one item.

    `clock` names where `sensing_time` (UTC) came from: "MTD_TL SENSING_TIME", "item sensing time", or "item datatake
    start", which is up to 12 minutes early. `offsets` (band -> digital numbers) and `quantification` turn digital
    numbers into reflectance, (DN + offset) / quantification; `offsets` is None where no product metadata states that of
    every band. Angles are means over the tile in degrees, azimuths from north; NaN where nothing states them. Those at
    a field are variables of `open_sentinel2`.
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
    time, clock, angles = _item_time(item), _item_clock(spec), _item_angles(item.properties)
    if _lists(spec, item, "granule_metadata"):
        time, angles = _read_xml(spec, item, "granule_metadata", _tile_facts)
        clock = "MTD_TL SENSING_TIME"
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
    """Baseline, offsets (None where not every band's is stated) and quantification of one item, see `S2Metadata`."""
    if not _lists(spec, item, "product_metadata"):
        return item_baseline(item), None, 10000.0
    baseline, offsets, quantification = _read_xml(spec, item, "product_metadata", _radiometry)
    return baseline, offsets if set(S2_NAMES) <= set(offsets) else None, quantification


def field_angles(
    item: pystac.Item, spec: CatalogSpec, geobox: GeoBox, *, holes: bool
) -> tuple[np.ndarray, str, list[Read]]:
    """Sun zenith and azimuth, view zenith and azimuth at the nodes of a field (`sentinel2_angles.field_nodes`).

    Parameters
    ----------
    holes : where MTD_TL.xml cannot be read, go on with what the item states.

    Returns
    -------
    angles : (4, y, x) in degrees, azimuths from north; NaN where unknown.
    source : "MTD_TL grids"; "item properties", the same numbers all over the field; or "none".
    ledger : what became of MTD_TL.xml; empty where the item does not list it.

    Raises
    ------
    ReadError
        MTD_TL.xml is missing or malformed, and `holes` is False.
    """
    key, ledger = "granule_metadata", []
    if _lists(spec, item, key):
        try:
            grids = _read_xml(spec, item, key, AngleGrids.from_xml)
            return grids.at(geobox), "MTD_TL grids", [Read(item=item.id, asset=key, status="read")]
        except ReadError as error:
            if not holes:
                raise
            ledger = [Read(item=item.id, asset=key, status="missing", cause=str(error))]
    stated = np.array(list(_item_angles(item.properties).values()))
    source = "item properties" if np.isfinite(stated).any() else "none"
    if ledger and source != "none":
        ledger = [
            replace(
                ledger[0], status="replaced", cause=f"angles come from the item; {ledger[0].cause}"
            )
        ]
    x, y = field_nodes(geobox)
    return np.broadcast_to(stated[:, None, None], (4, len(y), len(x))), source, ledger


def platform_of(item: pystac.Item) -> str:
    """ "S2A", "S2B", "S2C" or "S2D", from the item's id or its `platform`."""
    match = re.match(r"S2[A-D]", item.id) or re.search(
        r"2[a-d]$", item.properties.get("platform", "").lower()
    )
    if not match:
        raise ReadError(
            f"{item.id}: neither the id nor platform={item.properties.get('platform')!r} names a Sentinel-2"
        )
    return match[0] if match[0].startswith("S2") else f"S{match[0].upper()}"


def item_baseline(item: pystac.Item) -> str:
    """Processing baseline such as "05.11" as the item states it, in a property or in a product name; "" if nowhere."""
    properties = item.properties
    stated = properties.get("s2:processing_baseline") or properties.get("processing:version")
    if stated:
        return str(stated)
    for name in (item.id, properties.get("s2:product_uri", "")):
        if match := _SAFE_NAME.match(name):
            return f"{match[3]}.{match[4]}"
    return ""


def safe_item(path: str | Path) -> pystac.Item:
    """An item for a SAFE folder on disk, with the asset keys and properties of the Copernicus Data Space.

    Open it with `catalog.specs.local_catalog(url, root)`, `root` being a folder above the SAFE folder.

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
    product, tiles = path / "MTD_MSIL2A.xml", sorted(path.glob("GRANULE/*/MTD_TL.xml"))
    if not name or not product.is_file() or len(tiles) != 1:
        raise ReadError(
            f"{path} is no Sentinel-2 L2A SAFE folder: its name, MTD_MSIL2A.xml or GRANULE/*/MTD_TL.xml"
        )
    west_south_east_north, ring = _footprint(product)
    item = pystac.Item(
        path.name.removesuffix(".SAFE"),
        geometry={"type": "Polygon", "coordinates": [ring]},
        bbox=west_south_east_north,
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
    item.add_asset(
        "product_metadata",
        pystac.Asset(str(product), media_type="application/xml", roles=["metadata"]),
    )
    item.add_asset(
        "granule_metadata",
        pystac.Asset(str(tiles[0]), media_type="application/xml", roles=["metadata"]),
    )
    for image in sorted(tiles[0].parent.glob("IMG_DATA/R*/*.jp2")):
        key = "_".join(image.stem.split("_")[-2:])  # T29UNU_20221005T115411_B02_10m -> B02_10m
        item.add_asset(key, pystac.Asset(str(image), media_type="image/jp2", roles=["data"]))
    return item


def _lists(spec, item, key):
    return spec.assets["sentinel2"].get(key) in item.assets


def _read_xml(spec, item, key, parse):
    path = access.fetch(spec, item, "sentinel2", key)
    try:
        return parse(ET.parse(path).getroot())
    except (ET.ParseError, AttributeError, ValueError, TypeError, IndexError) as error:
        raise ReadError(
            f"{item.id}: asset {key} ({path.name}) is damaged or of another format: {error}"
        ) from error


def _radiometry(root) -> tuple[str, dict[str, int], float]:
    """Baseline, offset per band and quantification value of MTD_MSIL2A.xml."""
    baseline = root.find(".//PROCESSING_BASELINE").text.strip()
    quantification = float(root.find(".//BOA_QUANTIFICATION_VALUE").text)
    listed = {
        _BAND_IDS[int(e.get("band_id"))]: int(float(e.text)) for e in root.iter("BOA_ADD_OFFSET")
    }
    # 99.99 marks reprocessed data without the offset
    if not listed and (float(baseline) < OFFSET_SINCE_BASELINE or baseline == "99.99"):
        listed = dict.fromkeys(_BAND_IDS, 0)
    return baseline, listed, quantification


def _tile_facts(root) -> tuple[datetime, dict[str, float]]:
    """Sensing time and mean angles of MTD_TL.xml."""
    time = datetime.fromisoformat(root.find(".//SENSING_TIME").text.strip().replace("Z", "+00:00"))
    sun = _mean_angles(root.iter("Mean_Sun_Angle"))
    view = _mean_angles(root.iter("Mean_Viewing_Incidence_Angle"))
    return time, _named(*sun, *view)


def _mean_angles(elements) -> tuple[float, float]:
    """Mean direction of elements that hold ZENITH_ANGLE and AZIMUTH_ANGLE: zenith, azimuth in degrees."""
    pairs = [
        (float(e.find("ZENITH_ANGLE").text), float(e.find("AZIMUTH_ANGLE").text)) for e in elements
    ]
    return mean_direction(*np.array(pairs, dtype=float).reshape(-1, 2).T)


def _item_angles(properties) -> dict[str, float]:
    def first(*keys):
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


def _named(sun_zenith, sun_azimuth, view_zenith, view_azimuth):
    return {
        "sun_zenith_deg": sun_zenith,
        "sun_azimuth_deg": sun_azimuth,
        "view_zenith_deg": view_zenith,
        "view_azimuth_deg": view_azimuth,
    }


def _item_time(item):
    time = item.datetime or item.common_metadata.start_datetime
    if time is None:
        raise ReadError(f"{item.id} states no datetime")
    return time.astimezone(UTC)


def _item_clock(spec):
    return "item sensing time" if spec.datetime["sentinel2"] == "sensing" else "item datatake start"


def _footprint(product):
    """bbox and outer ring (lon, lat) from EXT_POS_LIST of MTD_MSIL2A.xml, which counts lat lon lat lon …"""
    try:
        numbers = np.array(
            ET.parse(product).getroot().find(".//EXT_POS_LIST").text.split(), dtype=float
        )
    except (ET.ParseError, AttributeError, ValueError) as error:
        raise ReadError(f"{product} is damaged or of another format: {error}") from error
    ring = numbers.reshape(-1, 2)[:, ::-1]
    return [*ring.min(axis=0).tolist(), *ring.max(axis=0).tolist()], ring.tolist()
