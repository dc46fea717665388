"""One item per acquisition: reprocessed baselines, sequences of one tile, STC beside NTC."""

import re
from datetime import UTC, datetime, timedelta
from itertools import groupby

import pystac

_SAME_S = timedelta(seconds=2)  # services round one acquisition's time differently, by milliseconds
_S2_TILE = re.compile(r"_T?(\d{2}[C-X][A-Z]{2})_")
_ENMAP_ID = re.compile(r"^(.*_\d{8}T\d{6}Z_\d+)_V(\d+)_(\d{8}T\d{6})Z")


def deduplicate(
    items: list[pystac.Item], sensor: str, collections: tuple[str, ...]
) -> list[pystac.Item]:
    """Keep the best item of each acquisition, in order of time.

    - `sentinel2`: per platform, tile and time (to 2 s) the highest processing baseline, of it the newest processing.
      Parts of one datatake that were cut into several datastrips complement each other and are all kept.
    - `sentinel3_syn`: per platform, orbit and frame start (to 2 s) the collection that stands first in `collections`
      (NTC before STC), of it the newest processing.
    - `enmap`: per datatake and tile the highest version, of it the newest processing.

    An item that lacks what its acquisition is known by is kept.
    """
    rules = {"sentinel2": _best_sentinel2, "sentinel3_syn": _best_syn, "enmap": _best_enmap}
    once = {(item.collection_id, item.id): item for item in items}.values()
    kept = rules[sensor](once, collections)
    return sorted(kept, key=lambda item: (start_of(item), item.id))


def start_of(item: pystac.Item) -> datetime:
    """Start of an item's time interval, UTC; its `datetime` where it has no interval."""
    time = item.common_metadata.start_datetime or item.datetime
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def baseline_of(item: pystac.Item) -> str:
    """Processing baseline of a Sentinel-2 item as "05.11"; empty where the item does not say."""
    for key in ("s2:processing_baseline", "processing:version"):
        if value := item.properties.get(key):
            return str(value)
    name = re.search(r"_N(\d{2})(\d{2})_", str(item.properties.get("s2:product_uri") or item.id))
    return f"{name[1]}.{name[2]}" if name else ""


def _best_sentinel2(items, _):
    kept = []
    for group in _groups(items, _sentinel2_key):
        best = max(map(baseline_of, group))
        strips = {}
        for item in sorted((i for i in group if baseline_of(i) == best), key=_processed):
            strips[_datastrip(item)] = item  # the newest processing comes last
        kept += strips.values()
    return kept


def _best_syn(items, collections):
    def rank(item):
        order = (
            collections.index(item.collection_id)
            if item.collection_id in collections
            else len(collections)
        )
        return -order, _processed(item)

    return [max(group, key=rank) for group in _groups(items, _syn_key)]


def _best_enmap(items, _):
    def key(item):
        name = _ENMAP_ID.match(item.id)
        return name[1] if name else item.id

    def rank(item):
        name = _ENMAP_ID.match(item.id)
        return (int(name[2]), name[3]) if name else (0, "")

    return [max(group, key=rank) for group in _groups(items, key)]


def _groups(items, key):
    """Items of one acquisition: equal keys, and starts that follow each other within 2 s."""
    ordered = sorted(items, key=lambda item: (str(key(item)), start_of(item)))
    for _, same in groupby(ordered, key=lambda item: str(key(item))):
        group = []
        for item in same:
            if group and start_of(item) - start_of(group[-1]) > _SAME_S:
                yield group
                group = []
            group.append(item)
        yield group


def _sentinel2_key(item):
    p = item.properties
    tile = str(p.get("grid:code") or "").removeprefix("MGRS-") or p.get("s2:mgrs_tile")
    if not tile and (name := _S2_TILE.search(item.id)):
        tile = name[1]
    return (str(p["platform"]).lower(), tile) if tile and p.get("platform") else item.id


def _syn_key(item):
    p = item.properties
    orbit = p.get("sat:absolute_orbit", p.get("sat:relative_orbit"))
    return (
        (str(p["platform"]).lower(), str(orbit))
        if p.get("platform") and orbit is not None
        else item.id
    )


def _datastrip(item):
    text = str(
        item.properties.get("eopf:datastrip_id") or item.properties.get("s2:datastrip_id") or ""
    )
    name = re.search(r"_S(\d{8}T\d{6})", text)
    return name[1] if name else ""


def _processed(item):
    p = item.properties
    return str(
        p.get("processing:datetime") or p.get("s2:generation_time") or p.get("created") or ""
    ), item.id
