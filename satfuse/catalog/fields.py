"""Named areas of interest: `catalogs/fields/*.geojson`, or a lon/lat box."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from odc.geo.geobox import GeoBox

from satfuse.errors import ConfigError, GridError
from satfuse.geometry.grids import geobox_of_bbox, snap_geobox


def catalogs_dir() -> Path:
    """Folder of the shipped catalogues: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    return (
        package / "_catalogs" if (package / "_catalogs").is_dir() else package.parent / "catalogs"
    )


@dataclass(frozen=True, kw_only=True)
class Field:
    """A named area on one GeoBox of 10 m pixels snapped to the 300 m lattice.

    `rules` overrides `satfuse.pairing.PairRules`; `rules_reason` says why.
    """

    name: str
    title: str
    geobox: GeoBox
    rules: dict = field(default_factory=dict)
    rules_reason: str = ""


def load_field(name: str) -> Field:
    """Read a field by its name (`algeria-5`) or by the path of a GeoJSON file of the same shape.

    Raises
    ------
    ConfigError
        No such field (the message lists the known ones) or a malformed file.
    """
    path = (
        Path(name) if name.endswith(".geojson") else catalogs_dir() / "fields" / f"{name}.geojson"
    )
    if not path.is_file():
        raise ConfigError(
            f"unknown field {name!r}; known: {', '.join(field_names())}, or a path to a .geojson file"
        )
    try:
        properties = json.loads(path.read_text(encoding="utf-8"))["properties"]
        if not re.fullmatch(
            r"[A-Za-z0-9][A-Za-z0-9_-]*", properties["name"]
        ):  # it becomes part of paths
            raise ValueError(f"name {properties['name']!r} may hold only letters, digits, - and _")
        return Field(
            name=properties["name"],
            title=properties["title"],
            geobox=snap_geobox(properties["crs"], *properties["bounds_m"]),
            rules=dict(properties.get("rules", {})),
            rules_reason=properties.get("rules_reason", ""),
        )
    except (KeyError, TypeError, ValueError, GridError) as error:
        raise ConfigError(
            f"field file {path} is malformed ({error!r}); it needs properties name, title, crs, bounds_m"
        ) from error


def field_names() -> list[str]:
    """Names of the shipped fields."""
    return sorted(p.stem for p in (catalogs_dir() / "fields").glob("*.geojson"))


def field_of_bbox(bbox, name: str = "bbox") -> Field:
    """A field made from a lon/lat box, for work that needs no name."""
    return Field(name=name, title=f"box {bbox}", geobox=geobox_of_bbox(bbox))
