"""The record of one pair, and its table (geoparquet)."""

import json
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import geopandas
import pystac
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.geometry import box

from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import ConfigError
from satfuse.files import replacing
from satfuse.geometry.grids import lonlat_bbox

# Columns of the table with JSON inside; attributes that are spread over several columns; times.
_JSON = ("guide", "coarse", "guide_catalog", "coarse_catalog", "extra_coarse")
_ANGLES = ("guide_angles", "coarse_angles")
_TIMES = ("guide_time", "coarse_time")


@dataclass(frozen=True, kw_only=True)
class Angles:
    """Sun and view angles at the field, in degrees; NaN where the product does not state them."""

    sun_zenith_deg: float
    sun_azimuth_deg: float
    view_zenith_deg: float
    view_azimuth_deg: float


@dataclass(frozen=True, kw_only=True)
class CoarseFrame:
    """A further coarse acquisition of the same guide, for models that use several."""

    items: tuple[dict[str, Any], ...]
    platform: str
    time: datetime
    gap_s: float


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A guide acquisition and a coarse acquisition of one field.

    Attributes
    ----------
    field, geobox : name of the field and its 10 m grid.
    guide, coarse : item JSON; several tiles of one datatake, several frames of one orbit.
    guide_catalog, coarse_catalog : `CatalogSpec` as dict.
    guide_platform, coarse_platform : "S2A", "S3B", ...
    guide_time, coarse_time : true acquisition at the field, UTC.
    gap_s, gap_clock : coarse minus guide at the field in seconds, and the clocks of both times.
    item_gap_s, item_gap_clock : the same from the items' times, which may be 12 minutes off.
    approximate : True where the guide's true time is unknown and `gap_s` is from the item's time.
    guide_cloud, coarse_cloud : share of the covered field under cloud, 0 to 1.
    overlap : share of the field that both cover, 0 to 1.
    maximum_view_zenith_deg : largest coarse view zenith angle on the field.
    guide_angles : means over the field.
    coarse_angles : at the field's centre.
    extra_coarse : the next nearest coarse acquisitions, if requested.
    """

    field: str
    geobox: GeoBox
    guide: tuple[dict[str, Any], ...]
    coarse: tuple[dict[str, Any], ...]
    guide_catalog: dict[str, Any]
    coarse_catalog: dict[str, Any]
    guide_platform: str
    coarse_platform: str
    guide_time: datetime
    coarse_time: datetime
    gap_s: float
    gap_clock: str
    item_gap_s: float
    item_gap_clock: str
    approximate: bool
    guide_cloud: float
    coarse_cloud: float
    overlap: float
    maximum_view_zenith_deg: float
    guide_angles: Angles
    coarse_angles: Angles
    extra_coarse: tuple[CoarseFrame, ...] = ()

    @property
    def id(self) -> str:
        """Field, guide time and platform, coarse time and platform."""
        guide, coarse = (f"{t:%Y%m%dT%H%M%S}" for t in (self.guide_time, self.coarse_time))
        return f"{self.field}_{guide}_{self.guide_platform}_{coarse}_{self.coarse_platform}"

    @property
    def guide_items(self) -> list[pystac.Item]:
        """`guide` as items."""
        return [pystac.Item.from_dict(item) for item in self.guide]

    @property
    def coarse_items(self) -> list[pystac.Item]:
        """`coarse` as items."""
        return [pystac.Item.from_dict(item) for item in self.coarse]

    @property
    def guide_spec(self) -> CatalogSpec:
        """Catalogue of the guide items."""
        return CatalogSpec.from_dict(self.guide_catalog)

    @property
    def coarse_spec(self) -> CatalogSpec:
        """Catalogue of the coarse items."""
        return CatalogSpec.from_dict(self.coarse_catalog)

    def to_dict(self) -> dict[str, Any]:
        """Convert the pair to values that JSON can represent; `from_dict` reads them back."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["geobox"] = {
            "crs": str(self.geobox.crs),
            "transform": list(self.geobox.affine)[:6],
            "shape": list(self.geobox.shape),
        }
        for name in _TIMES:
            values[name] = values[name].isoformat()
        for name in _ANGLES:
            values[name] = asdict(values[name])
        values["extra_coarse"] = [
            asdict(frame) | {"time": frame.time.isoformat()} for frame in self.extra_coarse
        ]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Pair":
        """Make a pair from the values of `to_dict`, also after a round trip through JSON."""
        grid = values["geobox"]
        height, width = (int(size) for size in grid["shape"])
        converted: dict[str, Any] = {
            "geobox": GeoBox((height, width), Affine(*grid["transform"]), grid["crs"]),
            "guide": tuple(values["guide"]),
            "coarse": tuple(values["coarse"]),
        }
        converted |= {name: datetime.fromisoformat(values[name]) for name in _TIMES}
        converted |= {name: Angles(**values[name]) for name in _ANGLES}
        converted["extra_coarse"] = tuple(
            CoarseFrame(
                items=tuple(frame["items"]),
                platform=frame["platform"],
                time=datetime.fromisoformat(frame["time"]),
                gap_s=frame["gap_s"],
            )
            for frame in values["extra_coarse"]
        )
        return cls(**values | converted)


def table(pairs: list[Pair]) -> list[dict[str, Any]]:
    """Summarise each pair in a row of plain values, for display and for JSON."""
    return [
        {
            "id": p.id,
            "guide_time": p.guide_time.isoformat(timespec="seconds"),
            "coarse_time": p.coarse_time.isoformat(timespec="seconds"),
            "gap_s": round(p.gap_s, 1),
            "gap_clock": p.gap_clock + (" (approximate)" if p.approximate else ""),
            "item_gap_s": round(p.item_gap_s, 1),
            "guide_cloud": round(p.guide_cloud, 4),
            "coarse_cloud": round(p.coarse_cloud, 4),
            "overlap": round(p.overlap, 4),
            "guide_view_zenith_deg": round(p.guide_angles.view_zenith_deg, 1),
            "coarse_view_zenith_deg": round(p.coarse_angles.view_zenith_deg, 1),
            "guide_sun_zenith_deg": round(p.guide_angles.sun_zenith_deg, 1),
            "coarse_sun_zenith_deg": round(p.coarse_angles.sun_zenith_deg, 1),
            "frames": 1 + len(p.extra_coarse),
        }
        for p in pairs
    ]


def write_pairs(pairs: list[Pair], path: str | Path) -> None:
    """Write a geoparquet table with one row per pair.

    Items, catalogues and further frames are stored as JSON. The table appears only when it is
    complete; if writing fails, an older one is kept.
    """
    rows = [_row(pair) for pair in pairs]
    outlines = [box(*lonlat_bbox(pair.geobox)) for pair in pairs]
    columns = ["id", *(list(rows[0])[1:] if rows else _columns())]
    frame = geopandas.GeoDataFrame(rows, columns=columns, geometry=outlines, crs="EPSG:4326")
    with replacing(Path(path)) as draft:
        frame.to_parquet(draft, index=False)


def read_pairs(path: str | Path) -> list[Pair]:
    """Read a table that `write_pairs` wrote.

    Raises
    ------
    ConfigError
        No such file, or not a table of pairs.
    """
    if not Path(path).is_file():
        raise ConfigError(f"no table of pairs at {path}; `satfuse pairs` writes one")
    try:
        frame = geopandas.read_parquet(path)
        return [_pair(row) for row in frame.drop(columns="geometry").to_dict("records")]
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise ConfigError(
            f"{path} is not a table of pairs ({error}); `satfuse pairs` writes one"
        ) from error


def _columns() -> list[str]:
    """Columns of an empty table, in the order of `_row`."""
    names = [f.name for f in fields(Pair) if f.name not in ("geobox", *_ANGLES)]
    angles = [f"{a}.{f.name}" for a in _ANGLES for f in fields(Angles)]
    return [*names, "crs", "transform", "shape", *angles]


def _row(pair: Pair) -> dict[str, Any]:
    """Flatten a pair into the columns of the table."""
    row = {"id": pair.id, **pair.to_dict()}
    row |= row.pop("geobox")
    for name in _ANGLES:
        row |= {f"{name}.{key}": value for key, value in row.pop(name).items()}
    times = {name: getattr(pair, name) for name in _TIMES}
    return row | times | {name: json.dumps(row[name]) for name in _JSON}


def _pair(row: dict[str, Any]) -> Pair:
    """Make the pair of a row of the table."""
    del row["id"]
    row["geobox"] = {name: row.pop(name) for name in ("crs", "transform", "shape")}
    for name in _ANGLES:
        row[name] = {f.name: row.pop(f"{name}.{f.name}") for f in fields(Angles)}
    row |= {name: row[name].isoformat() for name in _TIMES}
    return Pair.from_dict(row | {name: json.loads(row[name]) for name in _JSON})
