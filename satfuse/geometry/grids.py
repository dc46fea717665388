"""Grids on odc-geo's GeoBox: bounding boxes, the 300 m lattice, nesting of coarse in fine."""

import math
from collections.abc import Iterable

from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError

from satfuse.errors import GridError

UTM_DEG = 6  # width of a UTM zone; a wider box belongs to no single zone
UTM_LATITUDES = (-80, 84)  # UTM is defined between them
# Multiples of 300 m of UTM easting and northing also lie on Sentinel-2's 10, 20 and 60 m grids.
LATTICE_M = 300
# Tolerances of `nesting_ratio`: grids read from files carry rounding errors.
_RATIO_TOLERANCE = 1e-6
_CORNER_TOLERANCE_PX = 1e-3  # fine pixels


def parse_bbox(bbox: str | Iterable[float]) -> tuple[float, float, float, float]:
    """Check a lon/lat bounding box and return it as (west, south, east, north) in degrees.

    Parameters
    ----------
    bbox : four numbers, or text "W,S,E,N".

    Raises
    ------
    GridError
        Malformed, reversed, outside the world, or across the antimeridian (not supported: split
        the box there).
    """
    numbers = bbox.split(",") if isinstance(bbox, str) else bbox
    try:
        west, south, east, north = (float(v) for v in numbers)
    except (ValueError, TypeError) as error:
        raise GridError(f"bbox {bbox!r} is not four numbers W,S,E,N in degrees") from error
    if not all(map(math.isfinite, (west, south, east, north))):
        raise GridError(f"bbox {bbox!r} contains a number that is not finite")
    if max(abs(west), abs(east)) > 180 or max(abs(south), abs(north)) > 90:
        raise GridError(
            f"bbox {bbox!r} is outside the world: lon -180..180, lat -90..90, order W,S,E,N"
        )
    if south >= north:
        raise GridError(
            f"bbox {bbox!r} is reversed or empty: south {south} must be below north {north}"
        )
    if west >= east:
        raise GridError(
            f"bbox {bbox!r} is reversed, empty or crosses the antimeridian: west {west} must be "
            f"below east {east}; split a box across 180 degrees into two"
        )
    return west, south, east, north


def utm_crs(lon: float, lat: float) -> str:
    """EPSG code of the UTM zone of a point, as "EPSG:326xx" (north) or "EPSG:327xx" (south).

    Parameters
    ----------
    lon, lat : degrees. The irregular zones around Norway and Svalbard are ignored.
    """
    zone = min(int((lon + 180) // 6) + 1, 60)
    return f"EPSG:{(32600 if lat >= 0 else 32700) + zone}"


def snap_geobox(
    crs: str, left: float, bottom: float, right: float, top: float, *, resolution: float = 10
) -> GeoBox:
    """GeoBox of a projected box, snapped outward to the 300 m lattice.

    Parameters
    ----------
    crs : a projected CRS in metres.
    left, bottom, right, top : metres.
    resolution : pixel size in m; must divide 300.

    Raises
    ------
    GridError
        A CRS that is unknown or not projected in metres, a box that is reversed, empty or not
        finite, or a resolution that does not divide the lattice.
    """
    try:
        units = {axis.unit_name for axis in CRS.from_user_input(crs).axis_info}
    except CRSError as error:
        raise GridError(f"CRS {crs!r} is unknown: {error}") from error
    if units != {"metre"}:
        raise GridError(
            f"CRS {crs} is in {' and '.join(sorted(units))}; use a projected CRS in metres"
        )
    if not (-math.inf < left < right < math.inf and -math.inf < bottom < top < math.inf):
        raise GridError(
            f"box {left}, {bottom}, {right}, {top} is reversed, empty or not finite; "
            "order W,S,E,N in m"
        )
    if not resolution > 0 or LATTICE_M % resolution:
        raise GridError(f"{resolution=} m does not divide the lattice of {LATTICE_M} m")
    # 1e-9: a bound on the lattice but for rounding shall not grow by a step
    left, bottom = (math.floor(v / LATTICE_M + 1e-9) * LATTICE_M for v in (left, bottom))
    right, top = (math.ceil(v / LATTICE_M - 1e-9) * LATTICE_M for v in (right, top))
    return GeoBox.from_bbox(
        BoundingBox(left, bottom, right, top, crs), resolution=resolution, tight=True
    )


def geobox_of_bbox(
    bbox: str | Iterable[float], *, crs: str | None = None, resolution: float = 10
) -> GeoBox:
    """GeoBox that covers a lon/lat box, snapped outward to the 300 m lattice.

    Parameters
    ----------
    bbox : see `parse_bbox`.
    crs : a projected CRS in metres; by default the UTM zone of the box's centre.
    resolution : pixel size in m; must divide 300.

    Raises
    ------
    GridError
        An invalid box, or, without `crs`, one that no UTM zone contains.
    """
    west, south, east, north = parse_bbox(bbox)
    if crs is None:
        if east - west > UTM_DEG or south < UTM_LATITUDES[0] or north > UTM_LATITUDES[1]:
            raise GridError(
                f"bbox {bbox!r} fits no UTM zone: at most {UTM_DEG} degrees of longitude, "
                f"latitude {UTM_LATITUDES[0]} to {UTM_LATITUDES[1]}; split it"
            )
        crs = utm_crs((west + east) / 2, (south + north) / 2)
    box = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform_bounds(
        west, south, east, north
    )
    return snap_geobox(crs, *box, resolution=resolution)


def lonlat_bbox(geobox: GeoBox) -> tuple[float, float, float, float]:
    """Lon/lat box (west, south, east, north) in degrees that encloses a GeoBox.

    Raises
    ------
    GridError
        The GeoBox has no CRS.
    """
    if geobox.crs is None:
        raise GridError("the grid has no CRS, so its position is unknown; give it one")
    box = geobox.boundingbox
    to_lonlat = Transformer.from_crs(geobox.crs.proj, "EPSG:4326", always_xy=True)
    return to_lonlat.transform_bounds(box.left, box.bottom, box.right, box.top)


def coarse_geobox(fine: GeoBox, ratio: int) -> GeoBox:
    """Coarse GeoBox that nests in `fine`: same upper left corner, `ratio` times larger pixels.

    Raises
    ------
    GridError
        `ratio` does not divide the size of `fine`.
    """
    height, width = fine.shape
    if ratio not in range(1, min(height, width) + 1) or height % ratio or width % ratio:
        raise GridError(
            f"{ratio=} does not divide image size {height} x {width} into whole coarse pixels"
        )
    return GeoBox((height // ratio, width // ratio), fine.affine @ Affine.scale(ratio), fine.crs)


def nesting_ratio(fine: GeoBox, coarse: GeoBox) -> int:
    """Fine pixels per coarse pixel, after checking that `coarse` nests in `fine` exactly.

    Raises
    ------
    GridError
        The CRSs differ, the ratio is not an integer or differs between axes, or the corners do
        not coincide.
    """
    if fine.crs != coarse.crs:
        raise GridError(f"guide is in {fine.crs} and coarse in {coarse.crs}; reproject one of them")
    rx = coarse.affine.a / fine.affine.a
    ry = coarse.affine.e / fine.affine.e
    ratio = round(rx)
    if ratio < 1 or max(abs(rx - ratio), abs(ry - ratio)) > _RATIO_TOLERANCE:
        raise GridError(
            f"coarse pixels are {rx:.6g} x {ry:.6g} guide pixels; the ratio must be one integer"
        )
    dx = (coarse.affine.c - fine.affine.c) / fine.affine.a
    dy = (coarse.affine.f - fine.affine.f) / fine.affine.e
    if max(abs(dx), abs(dy)) > _CORNER_TOLERANCE_PX:
        raise GridError(
            f"grids do not align: coarse starts {dx:.4g}, {dy:.4g} guide pixels off (x, y)"
        )
    rows, columns = coarse.shape
    if (rows * ratio, columns * ratio) != tuple(fine.shape):
        raise GridError(
            f"{rows} x {columns} coarse pixels at {ratio=} do not cover {tuple(fine.shape)}"
        )
    return ratio
