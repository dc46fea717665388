"""Named areas of interest: `catalogs/fields/*.geojson`, or a lon/lat box."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odc.geo.geobox import GeoBox

from satfuse.errors import ConfigError, GridError
from satfuse.geometry.grids import geobox_of_bbox, snap_geobox


def catalogs_dir() -> Path:
    """Folder of the shipped catalogues: in the installed package, or next to it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "_catalogs"
    return installed if installed.is_dir() else package.parent / "catalogs"


@dataclass(frozen=True, kw_only=True)
class Field:
    """A named area on one GeoBox.

    Attributes
    ----------
    name, title : short name for paths and commands, and a line that describes the area.
    geobox : 10 m pixels, snapped to the 300 m lattice.
    rules : overrides of `satfuse.pairing.PairRules` for this area.
    rules_reason : why the area needs them.
    """

    name: str
    title: str
    geobox: GeoBox
    rules: dict[str, Any] = field(default_factory=dict)
    rules_reason: str = ""


def load_field(name: str) -> Field:
    """Read a field by its name (`algeria-5`) or from the path of a GeoJSON file.

    Raises
    ------
    ConfigError
        No such field (the message lists the known ones) or a malformed file.
    """
    shipped = catalogs_dir() / "fields" / f"{name}.geojson"
    path = Path(name) if name.endswith(".geojson") else shipped
    if not path.is_file():
        raise ConfigError(
            f"unknown field {name!r}; known: {', '.join(field_names())}, "
            "or a path to a .geojson file"
        )
    try:
        properties = json.loads(path.read_text(encoding="utf-8"))["properties"]
        # the name becomes part of paths
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", properties["name"]):
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
            f"field file {path} is malformed ({error!r}); "
            "it needs properties name, title, crs, bounds_m"
        ) from error


def field_names() -> list[str]:
    """Names of the shipped fields."""
    return sorted(p.stem for p in (catalogs_dir() / "fields").glob("*.geojson"))


def field_of_bbox(bbox: str | Sequence[float], name: str = "bbox") -> Field:
    """Make a field from a lon/lat box.

    Parameters
    ----------
    bbox : (west, south, east, north) in degrees, or text "W,S,E,N".
    name : the field's name, part of paths.

    Raises
    ------
    GridError
        A malformed box.
    """
    return Field(name=name, title=f"box {bbox}", geobox=geobox_of_bbox(bbox))
