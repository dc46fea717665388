"""Coordinate systems of grids, and footprints of grids and swaths in longitude and latitude."""

from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from satfuse.simulate.archive.sen3_swath import Swath

CORNERS = ("upper_left", "upper_right", "lower_right", "lower_left")


def crs_of(geobox: GeoBox) -> CRS:
    """The CRS, which every GeoBox of an archive has."""
    assert geobox.crs is not None
    return geobox.crs


def epsg_of(geobox: GeoBox) -> int:
    """EPSG code of a UTM grid: 326 and the zone on the northern, 327 on the southern hemisphere."""
    code = crs_of(geobox).epsg
    assert code is not None
    return code


def utm_zone(geobox: GeoBox) -> tuple[int, bool]:
    """Number of the UTM zone, and True on the northern hemisphere."""
    code = epsg_of(geobox)
    return code % 100, code < 32700


def to_lonlat(geobox: GeoBox) -> Transformer:
    """Transformer from the grid's x, y to longitude, latitude."""
    return Transformer.from_crs(crs_of(geobox).proj, "EPSG:4326", always_xy=True)


def corners(geobox: GeoBox) -> list[tuple[float, float]]:
    """(lon, lat) in degrees of the outer corners, in the order of `CORNERS`."""
    box = geobox.boundingbox
    x = [box.left, box.right, box.right, box.left]
    y = [box.top, box.top, box.bottom, box.bottom]
    points = zip(*to_lonlat(geobox).transform(x, y), strict=True)
    return [(round(lon, 7), round(lat, 7)) for lon, lat in points]


def outline(swath: Swath) -> list[tuple[float, float]]:
    """(lon, lat) in degrees of a swath's corner pixels, counter-clockwise from the first pixel."""
    at = [(0, 0), (-1, 0), (-1, -1), (0, -1)]
    return [(round(float(swath.longitude[i]), 6), round(float(swath.latitude[i]), 6)) for i in at]
