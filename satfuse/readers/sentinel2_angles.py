"""Sun and view angles of a Sentinel-2 tile: the 5 km grids of MTD_TL.xml, interpolated to a field.

A direction is stored as three planes, the zenith angle and the two horizontal components of the
unit vector, so that azimuths are averaged and interpolated correctly across north.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy import ndimage

from satfuse.arrays import FloatArray
from satfuse.readers.xml_elements import element, number, text

# Largest distance of two nodes on a field, the spacing of MTD_TL.xml: in metres, and in degrees for
# a geographic CRS.
NODES_M = 5000
NODES_DEG = 0.045
_CF_NAMES = {  # standard names of the CF conventions
    "sun_zenith": "solar_zenith_angle",
    "sun_azimuth": "solar_azimuth_angle",
    "view_zenith": "sensor_zenith_angle",
    "view_azimuth": "sensor_azimuth_angle",
}


@dataclass(frozen=True, kw_only=True)
class AngleGrids:
    """Directions to the sun and to the satellite at the nodes of one tile.

    Attributes
    ----------
    crs : the tile's CRS.
    left, top : the first node in `crs`, the upper left corner of the tile.
    step_m : distance between rows and between columns of nodes.
    planes : (2, 3, row, column): sun and view; zenith in degrees, northward and eastward component.
        NaN where no detector looks.
    """

    crs: str
    left: float
    top: float
    step_m: tuple[float, float]
    planes: FloatArray

    @classmethod
    def from_xml(cls, root: ET.Element) -> "AngleGrids":
        """Read the root of MTD_TL.xml; view directions are means over bands and detectors.

        Raises
        ------
        ValueError
            A needed element is missing.
        """
        corner = element(root, ".//Geoposition")
        sun = element(root, ".//Sun_Angles_Grid")
        sun_planes = _planes(sun)
        views = [_planes(e) for e in root.iter("Viewing_Incidence_Angles_Grids")]
        if not views:
            views = [np.full_like(sun_planes, np.nan)]
        return cls(
            crs=text(root, ".//HORIZONTAL_CS_CODE"),
            left=number(corner, "ULX"),
            top=number(corner, "ULY"),
            step_m=(number(sun, "Zenith/ROW_STEP"), number(sun, "Zenith/COL_STEP")),
            planes=np.stack([sun_planes, _mean(np.stack(views))]),
        )

    def at(self, geobox: GeoBox) -> FloatArray:
        """Interpolate bilinearly to the nodes of a field.

        Nodes without a view are left out of the interpolation, so that the field is covered up to
        the edge of the swath.

        Returns
        -------
        (4, y, x) in degrees: sun zenith and azimuth, view zenith and azimuth; NaN outside the tile.
        """
        assert geobox.crs is not None
        to_tile = Transformer.from_crs(geobox.crs.proj, self.crs, always_xy=True)
        x, y = to_tile.transform(*np.meshgrid(*field_nodes(geobox)))
        # rounded, so that the noise of the projection moves no node across the edge of the grid
        at = np.stack([(self.top - y) / self.step_m[0], (x - self.left) / self.step_m[1]]).round(6)
        flat = self.planes.reshape(-1, *self.planes.shape[2:])
        has_view = np.isfinite(flat)
        # normalised interpolation: weighted sum of the nodes with a view over the sum of weights
        values = _interpolate(np.where(has_view, flat, 0), at)
        weights = _interpolate(has_view.astype(float), at)
        planes = np.divide(values, weights, out=np.full_like(values, np.nan), where=weights > 0)
        return np.concatenate([_angles(planes[:3]), _angles(planes[3:])])


def _interpolate(planes: FloatArray, at: FloatArray) -> FloatArray:
    return np.stack([ndimage.map_coordinates(plane, at, order=1, cval=0) for plane in planes])


def field_nodes(geobox: GeoBox) -> tuple[FloatArray, FloatArray]:
    """x and y of the nodes on a field, from edge to edge, at most 5 km apart; y by rows."""
    assert geobox.crs is not None
    spacing = NODES_DEG if geobox.crs.geographic else NODES_M
    height, width = geobox.shape
    affine = geobox.affine
    return (
        _nodes(affine.c, affine.c + affine.a * width, spacing),
        _nodes(affine.f, affine.f + affine.e * height, spacing),
    )


def _nodes(first: float, last: float, spacing: float) -> FloatArray:
    return np.linspace(first, last, int(np.ceil(abs(last - first) / spacing)) + 1)


def angle_variables(
    layers: Sequence[FloatArray], geobox: GeoBox
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables and coordinates of a Dataset from the angles of several items.

    Parameters
    ----------
    layers : angles (4, y, x) of each item at the field's nodes; at each node the first that is
        known is taken.
    geobox : the field.
    """
    angles = layers[0]
    for layer in layers[1:]:
        angles = np.where(np.isfinite(angles), angles, layer)
    assert geobox.crs is not None
    x, y = field_nodes(geobox)
    attrs = {"units": "degree", "grid_mapping": "spatial_ref"}
    variables = {}
    for (name, standard_name), plane in zip(_CF_NAMES.items(), angles, strict=True):
        values = da.from_array(plane.astype("float32"), chunks=-1)
        variables[name] = (("y_angle", "x_angle"), values, attrs | {"standard_name": standard_name})
    units = {"units": "degree" if geobox.crs.geographic else "m"}
    return variables, {"y_angle": ("y_angle", y, units), "x_angle": ("x_angle", x, units)}


def mean_direction(zenith: npt.ArrayLike, azimuth: npt.ArrayLike) -> tuple[float, float]:
    """Mean zenith angle, and azimuth (0 to 360) of the mean horizontal component.

    Parameters
    ----------
    zenith, azimuth : degrees, of any equal shape; NaN is left out.
    """
    planes = _mean(_directions(np.ravel(zenith), np.ravel(azimuth)).T)
    mean_zenith, mean_azimuth = _angles(planes).tolist()
    return mean_zenith, mean_azimuth


def _planes(grids: ET.Element) -> FloatArray:
    """Three planes (3, row, column) of the elements Zenith and Azimuth."""
    return _directions(_values(grids, "Zenith"), _values(grids, "Azimuth"))


def _values(grids: ET.Element, kind: str) -> FloatArray:
    rows = grids.findall(f"{kind}/Values_List/VALUES")
    return np.array([(row.text or "").split() for row in rows], dtype=float)


def _directions(zenith: npt.ArrayLike, azimuth: npt.ArrayLike) -> FloatArray:
    zenith = np.asarray(zenith, float)
    azimuth = np.radians(np.asarray(azimuth, float))
    horizontal = np.sin(np.radians(zenith))
    return np.stack([zenith, horizontal * np.cos(azimuth), horizontal * np.sin(azimuth)])


def _angles(planes: FloatArray) -> FloatArray:
    """Zenith and azimuth (2, ...) in degrees from three planes (3, ...)."""
    return np.stack([planes[0], np.degrees(np.arctan2(planes[2], planes[1])) % 360])


def _mean(stack: FloatArray) -> FloatArray:
    """Mean along the first axis without NaN; NaN where there is nothing else."""
    count = np.isfinite(stack).sum(0)
    total = np.nansum(stack, 0)
    return np.divide(total, count, out=np.full(stack.shape[1:], np.nan), where=count > 0)
