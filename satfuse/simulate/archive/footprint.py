"""Footprints of grids and swaths in longitude and latitude."""

from odc.geo.geobox import GeoBox
from pyproj import Transformer

CORNERS = ("upper_left", "upper_right", "lower_right", "lower_left")


def to_lonlat(geobox: GeoBox) -> Transformer:
    """Transformer from the grid's x, y to longitude, latitude."""
    return Transformer.from_crs(geobox.crs.proj, "EPSG:4326", always_xy=True)


def corners(geobox: GeoBox) -> list[tuple[float, float]]:
    """(lon, lat) in degrees of the outer corners, in the order of `CORNERS`."""
    box = geobox.boundingbox
    x, y = [box.left, box.right, box.right, box.left], [box.top, box.top, box.bottom, box.bottom]
    return [
        (round(lon, 7), round(lat, 7))
        for lon, lat in zip(*to_lonlat(geobox).transform(x, y), strict=True)
    ]


def outline(swath) -> list[tuple[float, float]]:
    """(lon, lat) in degrees of the corner pixels of a swath, counter-clockwise from the first pixel."""
    at = [(0, 0), (-1, 0), (-1, -1), (0, -1)]
    return [(round(float(swath.longitude[i]), 6), round(float(swath.latitude[i]), 6)) for i in at]
