"""Pairs by true acquisition time: which guide and which coarse acquisition of a field belong together."""

import json
import logging
import re
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pystac

from satfuse.catalog.fields import Field
from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import ConfigError, NoPairError, ReadError
from satfuse.geometry.grids import coarse_geobox, lonlat_bbox
from satfuse.geometry.swath import rectify
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

APPROXIMATE_S = 900.0  # by how much the gap rule is widened where only an item time is known
FRAME_S = 180.0  # length of a SYN frame whose item states no end
SCL_RATIO = 6  # SCL is looked at in pixels of 60 m
LISTED = 5  # candidates named in the error
_SAME_PASS = timedelta(minutes=10)  # consecutive tiles or frames of one overpass start within this
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
    """A combination that was looked at. `pair` is None where the item times alone ruled it out or reading failed."""

    guide_id: str
    coarse_id: str
    gap_s: float
    gap_clock: str
    failed: tuple[str, ...]
    pair: Pair | None = None

    def __str__(self):
        measured = ""
        if self.pair:
            p = self.pair
            measured = (
                f", cloud {p.guide_cloud:.0%} and {p.coarse_cloud:.0%}, overlap {p.overlap:.0%}"
            )
        return (
            f"{self.guide_id} with {self.coarse_id}: gap {self.gap_s:+.0f} s ({self.gap_clock}){measured}; "
            f"{'; '.join(self.failed) or 'passes'}"
        )


def find_pairs(
    guide_items,
    coarse_items,
    field: Field,
    *,
    guide_spec,
    coarse_spec,
    rules: PairRules | None = None,
    frames: int = 1,
) -> list[Pair]:
    """Pairs that pass the rules, by ascending |gap|.

    Parameters
    ----------
    guide_items, coarse_items : lists of pystac.Item, one per acquisition and tile or frame.
    field : where gap, cloud and overlap are measured.
    guide_spec, coarse_spec : the catalogues that the items came from.
    rules : by default the field's own over the defaults.
    frames : coarse acquisitions per pair; further ones (`Pair.extra_coarse`) pass the same rules but for the gap,
        which is `rules.maximum_frame_gap_s`. Where fewer exist, the pair has fewer.

    Raises
    ------
    NoPairError
        Nothing passes; the message lists the nearest candidates and the rules that each fails.
    AccessError
        An item points where its catalogue does not allow, or credentials are missing.
    """
    rules = rules or PairRules.from_dict(field.rules)
    looked_at = candidates(
        guide_items,
        coarse_items,
        field,
        guide_spec=guide_spec,
        coarse_spec=coarse_spec,
        rules=rules,
        frames=frames,
    )
    found = [c.pair for c in looked_at if c.pair and not c.failed]
    if not found:
        nearest = "".join(f"\n  {c}" for c in looked_at[:LISTED])
        raise NoPairError(
            f"no pair over {field.name}: {len(guide_items)} guide and {len(coarse_items)} coarse items, "
            f"{len(looked_at)} combinations, none passes the rules. Widen the dates or a rule."
            + (f" Nearest:{nearest}" if nearest else "")
        )
    log.info("%s: %d pairs of %d combinations", field.name, len(found), len(looked_at))
    return [_with_frames(pair, looked_at, rules, frames) for pair in found]


def candidates(
    guide_items,
    coarse_items,
    field: Field,
    *,
    guide_spec,
    coarse_spec,
    rules: PairRules | None = None,
    frames: int = 1,
) -> list[Candidate]:
    """Every combination of a guide and a coarse acquisition with the rules that it fails, by ascending |gap|.

    Files are opened only where the item times leave the gap rule a chance.
    """
    rules = rules or PairRules.from_dict(field.rules)
    look_guide = cache(lambda i: observe_guide(guides[i], field, guide_spec))
    look_coarse = cache(lambda i: observe_coarse(coarse[i], field, coarse_spec))
    guides, coarse = _passes(guide_items, _datatake), _passes(coarse_items, _orbit)
    reach = (
        rules.maximum_gap_s if frames == 1 else max(rules.maximum_gap_s, rules.maximum_frame_gap_s)
    )
    out = []
    for i, j in product(range(len(guides)), range(len(coarse))):
        least, item_gap, clock = _item_gap(guides[i], coarse[j], guide_spec, coarse_spec)
        seen = {
            "guide_id": guides[i][0].id,
            "coarse_id": coarse[j][0].id,
            "gap_s": item_gap,
            "gap_clock": clock,
        }
        if least > reach:
            failed = (
                f"gap of at least {least:.0f} s by item times is above {rules.maximum_gap_s:.0f} s"
            )
            out.append(Candidate(**seen, failed=(failed,)))
            continue
        try:
            pair = _combine(
                field,
                (guides[i], coarse[j]),
                (guide_spec, coarse_spec),
                (look_guide(i), look_coarse(j)),
                seen,
            )
        except ReadError as error:
            log.warning("%s", error)
            out.append(Candidate(**seen, failed=(f"cannot be read: {error}",)))
            continue
        seen |= {"gap_s": pair.gap_s, "gap_clock": pair.gap_clock}
        out.append(Candidate(**seen, failed=tuple(_failed(pair, rules)), pair=pair))
    return sorted(out, key=lambda c: (abs(c.gap_s), c.guide_id, c.coarse_id))


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What one acquisition shows on the field: `cloud` and `missing` are (y, x) shares per coarse pixel."""

    platform: str
    time: datetime
    clock: str
    approximate: bool
    cloud: np.ndarray
    missing: np.ndarray
    angles: Angles
    maximum_view_zenith_deg: float


def observe_guide(items, field: Field, spec: CatalogSpec) -> Observation:
    """Time of the tile nearest to the field's centre, cloud and coverage from SCL at 60 m, mean angles of the field."""
    west, south, east, north = lonlat_bbox(field.geobox)

    def distance(item):
        w, s, e, n = item.bbox
        return np.hypot((w + e - west - east) * np.cos(np.deg2rad(south)), s + n - south - north)

    meta = sentinel2.metadata(min(items, key=distance), spec)
    data = sentinel2.open_sentinel2(
        items, coarse_geobox(field.geobox, SCL_RATIO), spec=spec, bands=()
    )
    quality = data["quality"].values
    block = RATIO // SCL_RATIO
    sun, view = (
        mean_direction(data[f"{to}_zenith"], data[f"{to}_azimuth"]) for to in ("sun", "view")
    )
    quality = quality.reshape(quality.shape[0] // block, block, quality.shape[1] // block, block)
    return Observation(
        platform=meta.platform,
        time=_aware(meta.sensing_time),
        clock=meta.clock,
        approximate=meta.clock == _CLOCKS["datatake_start"],
        cloud=((quality & Quality.GUIDE_CLOUD) > 0).mean((1, 3)),
        missing=((quality & Quality.GUIDE_MISSING) > 0).mean((1, 3)),
        angles=Angles(
            sun_zenith_deg=sun[0],
            sun_azimuth_deg=sun[1],
            view_zenith_deg=view[0],
            view_azimuth_deg=view[1],
        ),
        maximum_view_zenith_deg=float(data["view_zenith"].max()),
    )


def observe_coarse(items, field: Field, spec: CatalogSpec) -> Observation:
    """Row time nearest to the field's centre, cloud and coverage from the flags on the coarse grid."""
    swath = sentinel3_syn.open_syn(items, spec=spec, bands=(), bbox=lonlat_bbox(field.geobox))
    grid = rectify(swath, coarse_geobox(field.geobox, RATIO))
    quality, time = grid["quality"].values, grid["time"].values
    missing = np.isnat(time) | ((quality & Quality.COARSE_MISSING) > 0)
    if np.isnat(time).all():
        raise ReadError(
            f"{items[0].id}: the swath does not reach the field {field.name}, though the item says so"
        )
    centre = np.hypot(*(np.indices(time.shape) - (np.array(time.shape) / 2)[:, None, None]))
    at = np.unravel_index(np.where(np.isnat(time), np.inf, centre).argmin(), time.shape)
    angle = {
        f"{a}_deg": float(grid[a].values[at])
        for a in ("sun_zenith", "sun_azimuth", "view_zenith", "view_azimuth")
    }
    return Observation(
        platform=_short(items[0]),
        time=_aware(time[at]),
        clock=swath.attrs["clock"],
        approximate=False,
        cloud=(((quality & Quality.COARSE_CLOUD) > 0) & ~missing).astype(float),
        missing=missing.astype(float),
        angles=Angles(**angle),
        maximum_view_zenith_deg=float(np.nanmax(grid["view_zenith"].values)),
    )


def _combine(field, items, specs, observed, seen):
    guide, coarse = observed
    covered = [1 - o.missing for o in observed]
    cloud = [
        float(o.cloud.sum() / c.sum()) if c.sum() else 1.0
        for o, c in zip(observed, covered, strict=True)
    ]
    plain = [
        tuple(json.loads(json.dumps(i.to_dict(transform_hrefs=False))) for i in group)
        for group in items
    ]
    return Pair(
        field=field.name,
        geobox=field.geobox,
        guide=plain[0],
        coarse=plain[1],
        guide_catalog=json.loads(json.dumps(specs[0].to_dict())),
        coarse_catalog=json.loads(json.dumps(specs[1].to_dict())),
        guide_platform=guide.platform,
        coarse_platform=coarse.platform,
        guide_time=guide.time,
        coarse_time=coarse.time,
        gap_s=(coarse.time - guide.time).total_seconds(),
        gap_clock=f"{guide.clock}, {coarse.clock}",
        item_gap_s=seen["gap_s"],
        item_gap_clock=seen["gap_clock"],
        approximate=guide.approximate or coarse.approximate,
        guide_cloud=cloud[0],
        coarse_cloud=cloud[1],
        overlap=float((covered[0] * covered[1]).mean()),
        maximum_view_zenith_deg=coarse.maximum_view_zenith_deg,
        guide_angles=guide.angles,
        coarse_angles=coarse.angles,
    )


def _failed(pair, rules):
    """The rules that a pair fails, in words."""
    limit = rules.maximum_gap_s + (APPROXIMATE_S if pair.approximate else 0)
    if abs(pair.gap_s) > limit:
        widened = " (widened, approximate)" if pair.approximate else ""
        yield f"gap {pair.gap_s:+.0f} s is beyond {limit:.0f} s{widened}"
    yield from _failed_but_gap(pair, rules)


def _failed_but_gap(pair, rules):
    for name, cloud in (("guide", pair.guide_cloud), ("coarse", pair.coarse_cloud)):
        if cloud > rules.maximum_cloud:
            yield f"{name} cloud {cloud:.1%} is above {rules.maximum_cloud:.1%}"
    if pair.overlap < rules.minimum_overlap:
        yield f"overlap {pair.overlap:.1%} is below {rules.minimum_overlap:.1%}"
    if pair.maximum_view_zenith_deg > rules.maximum_view_zenith_deg:
        yield f"view zenith {pair.maximum_view_zenith_deg:.0f} is above {rules.maximum_view_zenith_deg:.0f} degrees"


def _with_frames(pair, looked_at, rules, frames):
    others = [
        c.pair
        for c in looked_at
        if c.pair
        and c.pair.guide == pair.guide
        and c.pair.coarse != pair.coarse
        and abs(c.gap_s) <= rules.maximum_frame_gap_s
        and not any(_failed_but_gap(c.pair, rules))
    ]
    extra = (
        CoarseFrame(items=o.coarse, platform=o.coarse_platform, time=o.coarse_time, gap_s=o.gap_s)
        for o in others[: frames - 1]
    )
    return replace(pair, extra_coarse=tuple(extra))


def _passes(items, key):
    """Items of one overpass together: equal keys and starts that follow each other closely."""
    groups = []
    for item in sorted(items, key=lambda i: (key(i), _interval(i)[0], i.id)):
        last = groups[-1][-1] if groups else None
        if (
            last is not None
            and key(last) == key(item)
            and _interval(item)[0] - _interval(last)[0] <= _SAME_PASS
        ):
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _datatake(item: pystac.Item) -> str:
    """Platform and datatake; its id ends with the baseline, in which the tiles of one datatake may differ."""
    p = item.properties
    datatake = str(p.get("eopf:datatake_id") or p.get("s2:datatake_id") or "")
    return f"{_short(item)} {re.sub(r'_N[0-9]+[.][0-9]+$', '', datatake)}"


def _orbit(item: pystac.Item) -> str:
    return f"{_short(item)} {item.properties.get('sat:absolute_orbit', '')}"


def _short(item):
    """ "sentinel-3b" -> "S3B"."""
    return (
        str(item.properties.get("platform", "")).lower().replace("sentinel-", "s").upper()
        or item.id[:3].upper()
    )


def _interval(item):
    """Start and end of an item, UTC."""
    start = _aware(item.common_metadata.start_datetime or item.datetime)
    return start, _aware(item.common_metadata.end_datetime or start)


def _item_gap(guides, coarse, guide_spec, coarse_spec):
    """Least |gap| that the item times allow, the gap by item times, and its clock, signed coarse minus guide."""
    meaning = guide_spec.datetime["sentinel2"], coarse_spec.datetime["sentinel3_syn"]
    g0, g1 = _interval(guides[0])[0], _interval(guides[-1])[1]
    c0, last = _interval(coarse[0])[0], _interval(coarse[-1])
    c1 = max(last[1], last[0] + timedelta(seconds=FRAME_S))
    slack = APPROXIMATE_S if meaning[0] == "datatake_start" else 60.0
    earliest, latest = (c0 - g1).total_seconds() - slack, (c1 - g0).total_seconds() + slack
    least = max(earliest, -latest, 0.0)
    gap = (_aware(coarse[0].datetime or c0) - _aware(guides[0].datetime or g0)).total_seconds()
    return least, gap, f"{_CLOCKS[meaning[0]]}, {_CLOCKS[meaning[1]]}"


def _aware(time) -> datetime:
    """Any time as a UTC datetime; without a zone it is UTC."""
    if isinstance(time, np.datetime64):
        time = time.astype("datetime64[us]").item()
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
