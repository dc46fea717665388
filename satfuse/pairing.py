"""Pairs of a guide and a coarse acquisition of a field, matched by true acquisition time.

The times that items state may be minutes off, so the metadata is opened where a pair is possible.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import product
from typing import Any, cast

import numpy as np
import pystac
import xarray as xr

from satfuse.arrays import FloatArray, IntArray
from satfuse.catalog.fields import Field
from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import ConfigError, NoPairError, ReadError
from satfuse.geometry.grids import coarse_geobox, lonlat_bbox
from satfuse.geometry.swath import ANGLES, rectify
from satfuse.pair_table import Angles, CoarseFrame, Pair, read_pairs, table, write_pairs
from satfuse.readers import sentinel2, sentinel3_syn
from satfuse.readers.sentinel2_angles import mean_direction
from satfuse.sensors.bands import RATIO
from satfuse.sensors.quality import Quality
from satfuse.strict import from_dict

__all__ = [
    "Candidate",
    "Pair",
    "PairRules",
    "candidates",
    "find_pairs",
    "read_pairs",
    "table",
    "write_pairs",
]

log = logging.getLogger(__name__)

APPROXIMATE_S = 900.0  # added to the largest gap where the guide's time is only an item time
ITEM_TIME_S = 60.0  # possible error of item times that are not datatake starts
FRAME_S = 180.0  # length of a SYN frame whose item states no end
SCL_RATIO = 6  # 10 m pixels per pixel in which SCL is read (60 m)
LISTED = 5  # candidates listed in the error
_SAME_PASS = timedelta(minutes=10)  # consecutive tiles or frames of one overpass start within this
# What the datetime of an item means, see `CatalogSpec.datetime`.
_CLOCKS = {
    "datatake_start": "item datatake start",
    "sensing": "item sensing time",
    "frame_start": "item frame start",
    "frame_middle": "item frame middle",
}


@dataclass(frozen=True, kw_only=True)
class PairRules:
    """Conditions that a pair must meet at the field.

    Attributes
    ----------
    maximum_gap_s : largest |coarse minus guide|; 900 s more where only the item's time is known.
    maximum_cloud : largest share under cloud, of the guide and of the coarse image, 0 to 1.
    minimum_overlap : smallest share of the field that both cover, 0 to 1.
    maximum_view_zenith_deg : largest coarse view zenith angle anywhere on the field.
    maximum_frame_gap_s : largest |gap| of further coarse frames (`find_pairs(..., frames=)`).
    """

    maximum_gap_s: float = 300.0
    maximum_cloud: float = 0.05
    minimum_overlap: float = 0.95
    maximum_view_zenith_deg: float = 60.0
    maximum_frame_gap_s: float = 129_600.0

    def __post_init__(self) -> None:
        for rule in fields(self):
            limit = getattr(self, rule.name)
            if not limit >= 0:  # also NaN
                raise ConfigError(f"{rule.name} = {limit!r} must be at least 0")
        for name in ("maximum_cloud", "minimum_overlap"):
            if getattr(self, name) > 1:
                raise ConfigError(f"{name} = {getattr(self, name)!r} must be a share from 0 to 1")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "PairRules":
        """Check plain data; an unknown key or a wrong value is a `ConfigError` that names it."""
        return from_dict(cls, data, "pair rules")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A combination of a guide and a coarse acquisition, with the rules that it fails.

    `pair` is None where the item times alone ruled it out, or where reading failed.
    """

    guide_id: str
    coarse_id: str
    gap_s: float
    gap_clock: str
    failed: tuple[str, ...]
    pair: Pair | None = None

    def __str__(self) -> str:
        measured = ""
        if self.pair:
            clouds = f"{self.pair.guide_cloud:.0%} and {self.pair.coarse_cloud:.0%}"
            measured = f", cloud {clouds}, overlap {self.pair.overlap:.0%}"
        return (
            f"{self.guide_id} with {self.coarse_id}: gap {self.gap_s:+.0f} s "
            f"({self.gap_clock}){measured}; {'; '.join(self.failed) or 'passes'}"
        )


def find_pairs(
    guide_items: Sequence[pystac.Item],
    coarse_items: Sequence[pystac.Item],
    field: Field,
    *,
    guide_spec: CatalogSpec,
    coarse_spec: CatalogSpec,
    rules: PairRules | None = None,
    frames: int = 1,
) -> list[Pair]:
    """Find the pairs that pass the rules, by ascending |gap|.

    Parameters
    ----------
    guide_items, coarse_items : one item per acquisition and tile or frame.
    field : where gap, cloud and overlap are measured.
    guide_spec, coarse_spec : the catalogues that the items came from.
    rules : by default the defaults, overridden by the field's rules.
    frames : coarse acquisitions per pair. Further ones (`Pair.extra_coarse`) pass the same rules,
        except that their gap may be `rules.maximum_frame_gap_s`. A pair has fewer where fewer
        exist.

    Raises
    ------
    NoPairError
        Nothing passes; the message lists the nearest candidates and the rules that each fails.
    AccessError
        An item points where its catalogue does not allow, or credentials are missing.
    """
    rules = rules or PairRules.from_dict(field.rules)
    examined = candidates(
        guide_items,
        coarse_items,
        field,
        guide_spec=guide_spec,
        coarse_spec=coarse_spec,
        rules=rules,
        frames=frames,
    )
    pairs = [c.pair for c in examined if c.pair and not c.failed]
    if not pairs:
        nearest = "".join(f"\n  {c}" for c in examined[:LISTED])
        raise NoPairError(
            f"no pair over {field.name}: {len(guide_items)} guide and {len(coarse_items)} coarse "
            f"items, {len(examined)} combinations, none passes the rules. "
            "Widen the dates or a rule." + (f" Nearest:{nearest}" if nearest else "")
        )
    log.info("%s: %d pairs of %d combinations", field.name, len(pairs), len(examined))
    return [_with_frames(pair, examined, rules, frames) for pair in pairs]


def candidates(
    guide_items: Sequence[pystac.Item],
    coarse_items: Sequence[pystac.Item],
    field: Field,
    *,
    guide_spec: CatalogSpec,
    coarse_spec: CatalogSpec,
    rules: PairRules | None = None,
    frames: int = 1,
) -> list[Candidate]:
    """Examine every combination of a guide and a coarse acquisition, by ascending |gap|.

    Files are opened only for combinations that could satisfy the gap rule by their item times.
    Parameters are those of `find_pairs`.
    """
    rules = rules or PairRules.from_dict(field.rules)
    guides = _passes(guide_items, _datatake)
    coarse = _passes(coarse_items, _orbit)
    # an acquisition is part of many combinations, but read once
    read_guide = cache(lambda i: read_guide_acquisition(guides[i], field, guide_spec))
    read_coarse = cache(lambda i: read_coarse_acquisition(coarse[i], field, coarse_spec))
    largest_gap_s = rules.maximum_gap_s
    if frames > 1:
        largest_gap_s = max(largest_gap_s, rules.maximum_frame_gap_s)
    examined = []
    for i, j in product(range(len(guides)), range(len(coarse))):
        least, gap = _item_gap(guides[i], coarse[j], guide_spec, coarse_spec)
        by_items = Candidate(
            guide_id=guides[i][0].id, coarse_id=coarse[j][0].id, failed=(), **asdict(gap)
        )
        if least > largest_gap_s:
            failed = (
                f"gap of at least {least:.0f} s by item times is above {rules.maximum_gap_s:.0f} s"
            )
            examined.append(replace(by_items, failed=(failed,)))
            continue
        try:
            acquisitions = (read_guide(i), read_coarse(j))
        except ReadError as error:
            log.warning("%s", error)
            examined.append(replace(by_items, failed=(f"cannot be read: {error}",)))
            continue
        pair = _combine(field, (guides[i], coarse[j]), (guide_spec, coarse_spec), acquisitions, gap)
        failed_rules = tuple(_failed(pair, rules))
        examined.append(
            replace(
                by_items, gap_s=pair.gap_s, gap_clock=pair.gap_clock, failed=failed_rules, pair=pair
            )
        )
    return sorted(examined, key=lambda c: (abs(c.gap_s), c.guide_id, c.coarse_id))


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """One acquisition, measured at the field.

    Attributes
    ----------
    platform : "S2A", "S3B", ...
    time, clock : when the field was observed, UTC, and where that time comes from.
    approximate : True where the time is only the item's.
    cloud, missing : (y, x) share of each coarse pixel, 0 to 1.
    angles : sun and view.
    maximum_view_zenith_deg : largest on the field.
    """

    platform: str
    time: datetime
    clock: str
    approximate: bool
    cloud: FloatArray
    missing: FloatArray
    angles: Angles
    maximum_view_zenith_deg: float


@dataclass(frozen=True, kw_only=True)
class _Gap:
    """Coarse minus guide in seconds, and the clocks of both times."""

    gap_s: float
    gap_clock: str


def read_guide_acquisition(
    items: Sequence[pystac.Item], field: Field, spec: CatalogSpec
) -> Acquisition:
    """Measure a guide acquisition at the field.

    The time is that of the tile nearest to the field's centre, cloud and coverage are from SCL at
    60 m, the angles are means over the field.

    Parameters
    ----------
    items : the tiles of one datatake.
    """
    metadata = sentinel2.metadata(_nearest_tile(items, field), spec)
    data = sentinel2.open_sentinel2(
        items, coarse_geobox(field.geobox, SCL_RATIO), spec=spec, bands=()
    )
    quality = data["quality"].values
    return Acquisition(
        platform=metadata.platform,
        time=_utc(metadata.sensing_time),
        clock=metadata.clock,
        approximate=metadata.clock == _CLOCKS["datatake_start"],
        cloud=_coarse_share(quality, Quality.GUIDE_CLOUD),
        missing=_coarse_share(quality, Quality.GUIDE_MISSING),
        angles=_mean_angles(data),
        maximum_view_zenith_deg=float(data["view_zenith"].max()),
    )


def _nearest_tile(items: Sequence[pystac.Item], field: Field) -> pystac.Item:
    west, south, east, north = lonlat_bbox(field.geobox)

    def distance(item: pystac.Item) -> float:
        """Twice the distance between the centres of tile and field, in degrees of latitude."""
        w, s, e, n = cast(list[float], item.bbox)  # STAC requires it with a geometry
        return np.hypot((w + e - west - east) * np.cos(np.deg2rad(south)), s + n - south - north)

    return min(items, key=distance)


def _coarse_share(quality: IntArray, flag: Quality) -> FloatArray:
    """Share of each coarse pixel that has a flag, from flags (y, x) at the resolution of SCL."""
    block = RATIO // SCL_RATIO
    rows, columns = (size // block for size in quality.shape)
    blocks = quality.reshape(rows, block, columns, block)
    return ((blocks & flag) > 0).mean((1, 3))


def _mean_angles(data: xr.Dataset) -> Angles:
    sun, view = (
        mean_direction(data[f"{to}_zenith"], data[f"{to}_azimuth"]) for to in ("sun", "view")
    )
    return Angles(
        sun_zenith_deg=sun[0],
        sun_azimuth_deg=sun[1],
        view_zenith_deg=view[0],
        view_azimuth_deg=view[1],
    )


def read_coarse_acquisition(
    items: Sequence[pystac.Item], field: Field, spec: CatalogSpec
) -> Acquisition:
    """Measure a coarse acquisition at the field.

    Time and angles are those of the pixel nearest to the field's centre, cloud and coverage are
    from the flags on the coarse grid.

    Parameters
    ----------
    items : the frames of one orbit.

    Raises
    ------
    ReadError
        The swath does not reach the field.
    """
    swath = sentinel3_syn.open_syn(items, spec=spec, bands=(), bbox=lonlat_bbox(field.geobox))
    grid = rectify(swath, coarse_geobox(field.geobox, RATIO))
    quality, time = (grid[name].values for name in ("quality", "time"))
    outside = np.isnat(time)
    if outside.all():
        raise ReadError(
            f"{items[0].id}: the swath does not reach the field {field.name}, "
            "although the item says so; omit this item"
        )
    missing = outside | ((quality & Quality.COARSE_MISSING) > 0)
    distance = np.hypot(*(np.indices(time.shape) - (np.array(time.shape) / 2)[:, None, None]))
    centre = np.unravel_index(np.where(outside, np.inf, distance).argmin(), time.shape)
    return Acquisition(
        platform=_platform(items[0]),
        time=_utc(time[centre]),
        clock=swath.attrs["clock"],
        approximate=False,
        cloud=(((quality & Quality.COARSE_CLOUD) > 0) & ~missing).astype(float),
        missing=missing.astype(float),
        angles=Angles(**{f"{name}_deg": float(grid[name].values[centre]) for name in ANGLES}),
        maximum_view_zenith_deg=float(np.nanmax(grid["view_zenith"].values)),
    )


def _combine(
    field: Field,
    items: tuple[Sequence[pystac.Item], Sequence[pystac.Item]],
    specs: tuple[CatalogSpec, CatalogSpec],
    acquisitions: tuple[Acquisition, Acquisition],
    item_gap: _Gap,
) -> Pair:
    """The pair of a guide and a coarse acquisition; every tuple is (guide, coarse)."""
    guide, coarse = acquisitions
    covered = [1 - a.missing for a in acquisitions]
    # share of the covered field; without any coverage everything counts as cloud
    cloud = [
        float(a.cloud.sum() / c.sum()) if c.sum() else 1.0
        for a, c in zip(acquisitions, covered, strict=True)
    ]
    guide_json, coarse_json = (_item_json(group) for group in items)
    guide_catalog, coarse_catalog = (json.loads(json.dumps(spec.to_dict())) for spec in specs)
    return Pair(
        field=field.name,
        geobox=field.geobox,
        guide=guide_json,
        coarse=coarse_json,
        guide_catalog=guide_catalog,
        coarse_catalog=coarse_catalog,
        guide_platform=guide.platform,
        coarse_platform=coarse.platform,
        guide_time=guide.time,
        coarse_time=coarse.time,
        gap_s=(coarse.time - guide.time).total_seconds(),
        gap_clock=f"{guide.clock}, {coarse.clock}",
        item_gap_s=item_gap.gap_s,
        item_gap_clock=item_gap.gap_clock,
        approximate=guide.approximate or coarse.approximate,
        guide_cloud=cloud[0],
        coarse_cloud=cloud[1],
        overlap=float((covered[0] * covered[1]).mean()),
        maximum_view_zenith_deg=coarse.maximum_view_zenith_deg,
        guide_angles=guide.angles,
        coarse_angles=coarse.angles,
    )


def _item_json(items: Iterable[pystac.Item]) -> tuple[dict[str, Any], ...]:
    """Items as JSON values, with hrefs as they are."""
    return tuple(json.loads(json.dumps(i.to_dict(transform_hrefs=False))) for i in items)


def _failed(pair: Pair, rules: PairRules) -> Iterator[str]:
    """The rules that a pair fails, in words."""
    limit = rules.maximum_gap_s + (APPROXIMATE_S if pair.approximate else 0)
    if abs(pair.gap_s) > limit:
        widened = " (widened, approximate)" if pair.approximate else ""
        yield f"gap {pair.gap_s:+.0f} s is beyond {limit:.0f} s{widened}"
    yield from _failed_except_gap(pair, rules)


def _failed_except_gap(pair: Pair, rules: PairRules) -> Iterator[str]:
    for name, cloud in (("guide", pair.guide_cloud), ("coarse", pair.coarse_cloud)):
        if cloud > rules.maximum_cloud:
            yield f"{name} cloud {cloud:.1%} is above {rules.maximum_cloud:.1%}"
    if pair.overlap < rules.minimum_overlap:
        yield f"overlap {pair.overlap:.1%} is below {rules.minimum_overlap:.1%}"
    zenith = pair.maximum_view_zenith_deg
    if zenith > rules.maximum_view_zenith_deg:
        yield f"view zenith {zenith:.0f} is above {rules.maximum_view_zenith_deg:.0f} degrees"


def _with_frames(pair: Pair, examined: Iterable[Candidate], rules: PairRules, frames: int) -> Pair:
    """The pair with up to `frames - 1` further coarse acquisitions of its guide, nearest first."""
    others = [
        c.pair
        for c in examined
        if c.pair
        and c.pair.guide == pair.guide
        and c.pair.coarse != pair.coarse
        and abs(c.gap_s) <= rules.maximum_frame_gap_s
        and not any(_failed_except_gap(c.pair, rules))
    ]
    extra = (
        CoarseFrame(items=o.coarse, platform=o.coarse_platform, time=o.coarse_time, gap_s=o.gap_s)
        for o in others[: frames - 1]
    )
    return replace(pair, extra_coarse=tuple(extra))


def _passes(
    items: Iterable[pystac.Item], key: Callable[[pystac.Item], str]
) -> list[list[pystac.Item]]:
    """Group the items of one overpass: equal keys, and starts that follow each other closely."""
    groups: list[list[pystac.Item]] = []
    for item in sorted(items, key=lambda i: (key(i), _interval(i)[0], i.id)):
        previous = groups[-1][-1] if groups else None
        if (
            previous is not None
            and key(previous) == key(item)
            and _interval(item)[0] - _interval(previous)[0] <= _SAME_PASS
        ):
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _datatake(item: pystac.Item) -> str:
    """Platform and datatake, without the baseline in which tiles of one datatake may differ."""
    p = item.properties
    datatake = str(p.get("eopf:datatake_id") or p.get("s2:datatake_id") or "")
    return f"{_platform(item)} {re.sub(r'_N[0-9]+[.][0-9]+$', '', datatake)}"


def _orbit(item: pystac.Item) -> str:
    return f"{_platform(item)} {item.properties.get('sat:absolute_orbit', '')}"


def _platform(item: pystac.Item) -> str:
    """Short platform name: "S3B" of "sentinel-3b", else the start of the item's id."""
    platform = str(item.properties.get("platform", ""))
    return platform.lower().replace("sentinel-", "s").upper() or item.id[:3].upper()


def _interval(item: pystac.Item) -> tuple[datetime, datetime]:
    """Start and end of an item, UTC."""
    start = _utc(item.common_metadata.start_datetime or cast(datetime, item.datetime))
    return start, _utc(item.common_metadata.end_datetime or start)


def _item_gap(
    guides: Sequence[pystac.Item],
    coarse: Sequence[pystac.Item],
    guide_spec: CatalogSpec,
    coarse_spec: CatalogSpec,
) -> tuple[float, _Gap]:
    """Least |gap| in seconds that the item times allow, and the gap by item times."""
    guide_meaning = guide_spec.datetime["sentinel2"]
    coarse_meaning = coarse_spec.datetime["sentinel3_syn"]
    guide_start = _interval(guides[0])[0]
    guide_end = _interval(guides[-1])[1]
    coarse_start = _interval(coarse[0])[0]
    last_start, last_end = _interval(coarse[-1])
    coarse_end = max(last_end, last_start + timedelta(seconds=FRAME_S))
    slack = APPROXIMATE_S if guide_meaning == "datatake_start" else ITEM_TIME_S
    earliest = (coarse_start - guide_end).total_seconds() - slack
    latest = (coarse_end - guide_start).total_seconds() + slack
    gap = _utc(coarse[0].datetime or coarse_start) - _utc(guides[0].datetime or guide_start)
    clocks = f"{_CLOCKS[guide_meaning]}, {_CLOCKS[coarse_meaning]}"
    return max(earliest, -latest, 0.0), _Gap(gap_s=gap.total_seconds(), gap_clock=clocks)


def _utc(time: datetime | np.datetime64) -> datetime:
    """Any time as a UTC datetime; without a zone it is UTC."""
    if isinstance(time, np.datetime64):
        time = cast(datetime, time.astype("datetime64[us]").item())
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
