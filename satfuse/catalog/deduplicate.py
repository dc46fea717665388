"""One item per acquisition, of several baselines, tile sequences, or SYN's STC and NTC.

STC (short time critical) and NTC (non time critical) are the two timeliness categories of SYN.
"""

import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby

import pystac

# Services round the time of one acquisition differently, by milliseconds.
_SAME_ACQUISITION = timedelta(seconds=2)
_S2_TILE = re.compile(r"_T?(\d{2}[C-X][A-Z]{2})_")
_ENMAP_ID = re.compile(r"^(.*_\d{8}T\d{6}Z_\d+)_V(\d+)_(\d{8}T\d{6})Z")


def deduplicate(
    items: list[pystac.Item], sensor: str, collections: tuple[str, ...]
) -> list[pystac.Item]:
    """Keep the best item of each acquisition, in order of time.

    - `sentinel2`: per platform, tile and time (to 2 s) the highest processing baseline, and of that
      the newest processing. Datastrips of one datatake complement each other: all are kept.
    - `sentinel3_syn`: per platform, orbit and frame start (to 2 s) the collection that comes first
      in `collections` (NTC before STC), and of that the newest processing.
    - `enmap`: per datatake and tile the highest version, and of that the newest processing.

    An item whose acquisition cannot be identified is kept.

    Parameters
    ----------
    items : items of one sensor.
    sensor : "sentinel2", "sentinel3_syn" or "enmap".
    collections : collection ids in order of preference.
    """
    rules = {"sentinel2": _best_sentinel2, "sentinel3_syn": _best_syn, "enmap": _best_enmap}
    unique = {(item.collection_id, item.id): item for item in items}.values()
    kept = rules[sensor](unique, collections)
    return sorted(kept, key=lambda item: (start_of(item), item.id))


def start_of(item: pystac.Item) -> datetime:
    """Start of an item's time interval, UTC; its `datetime` where it has no interval."""
    time = item.common_metadata.start_datetime or item.datetime
    if time is None:
        raise ValueError(f"{item.id} states neither datetime nor start_datetime")
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def baseline_of(item: pystac.Item) -> str:
    """Processing baseline of a Sentinel-2 item, such as "05.11"; "" where the item states none."""
    for key in ("s2:processing_baseline", "processing:version"):
        if value := item.properties.get(key):
            return str(value)
    name = re.search(r"_N(\d{2})(\d{2})_", str(item.properties.get("s2:product_uri") or item.id))
    return f"{name[1]}.{name[2]}" if name else ""


def _best_sentinel2(items: Iterable[pystac.Item], _: tuple[str, ...]) -> list[pystac.Item]:
    kept: list[pystac.Item] = []
    for group in _acquisitions(items, _sentinel2_key):
        newest_baseline = max(map(baseline_of, group))
        candidates = [item for item in group if baseline_of(item) == newest_baseline]
        # the newest processing of a datastrip comes last and replaces older ones
        strips = {_datastrip(item): item for item in sorted(candidates, key=_processed)}
        kept += strips.values()
    return kept


def _best_syn(items: Iterable[pystac.Item], collections: tuple[str, ...]) -> list[pystac.Item]:
    preference = {collection: -order for order, collection in enumerate(collections)}

    def rank(item: pystac.Item) -> tuple[int, tuple[str, str]]:
        return preference.get(item.collection_id or "", -len(collections)), _processed(item)

    return [max(group, key=rank) for group in _acquisitions(items, _syn_key)]


def _best_enmap(items: Iterable[pystac.Item], _: tuple[str, ...]) -> list[pystac.Item]:
    def key(item: pystac.Item) -> str:
        name = _ENMAP_ID.match(item.id)
        return name[1] if name else item.id

    def rank(item: pystac.Item) -> tuple[int, str]:
        name = _ENMAP_ID.match(item.id)
        return (int(name[2]), name[3]) if name else (0, "")

    return [max(group, key=rank) for group in _acquisitions(items, key)]


def _acquisitions(
    items: Iterable[pystac.Item], key: Callable[[pystac.Item], Hashable]
) -> Iterator[list[pystac.Item]]:
    """Group the items of each acquisition: equal keys, and each starts within 2 s of the last."""
    ordered = sorted(items, key=lambda item: (str(key(item)), start_of(item)))
    for _, same in groupby(ordered, key=lambda item: str(key(item))):
        group: list[pystac.Item] = []
        for item in same:
            if group and start_of(item) - start_of(group[-1]) > _SAME_ACQUISITION:
                yield group
                group = []
            group.append(item)
        yield group


def _sentinel2_key(item: pystac.Item) -> Hashable:
    """Platform and MGRS tile, else the id."""
    properties = item.properties
    tile = str(properties.get("grid:code") or "").removeprefix("MGRS-")
    tile = tile or str(properties.get("s2:mgrs_tile") or "")
    if not tile and (name := _S2_TILE.search(item.id)):
        tile = name[1]
    if not tile or not properties.get("platform"):
        return item.id
    return str(properties["platform"]).lower(), tile


def _syn_key(item: pystac.Item) -> Hashable:
    """Platform and orbit, else the id."""
    properties = item.properties
    orbit = properties.get("sat:absolute_orbit", properties.get("sat:relative_orbit"))
    if not properties.get("platform") or orbit is None:
        return item.id
    return str(properties["platform"]).lower(), str(orbit)


def _datastrip(item: pystac.Item) -> str:
    """Start of the item's datastrip, from the datastrip's id; "" where the item names none."""
    properties = item.properties
    strip = properties.get("eopf:datastrip_id") or properties.get("s2:datastrip_id") or ""
    name = re.search(r"_S(\d{8}T\d{6})", str(strip))
    return name[1] if name else ""


def _processed(item: pystac.Item) -> tuple[str, str]:
    """Sort key: time of processing, then id."""
    properties = item.properties
    keys = ("processing:datetime", "s2:generation_time", "created")
    times = [properties[key] for key in keys if properties.get(key)]
    return str(times[0] if times else ""), item.id
