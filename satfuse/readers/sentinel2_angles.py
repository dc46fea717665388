"""Sun and view angles of a Sentinel-2 tile: the 5 km grids of MTD_TL.xml, put on a field.

A direction is three planes: the zenith angle and the two horizontal components of the unit vector, so that azimuths
are averaged and interpolated right across north.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import dask.array as da
import numpy as np
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy import ndimage

NODES_M, NODES_DEG = 5000, 0.045  # largest distance of two nodes on a field, as in MTD_TL.xml
_LONG_NAMES = {
    "sun_zenith": "solar_zenith_angle",
    "sun_azimuth": "solar_azimuth_angle",
    "view_zenith": "sensor_zenith_angle",
    "view_azimuth": "sensor_azimuth_angle",
}


@dataclass(frozen=True, kw_only=True)
class AngleGrids:
    """Directions to the sun and to the satellite at the nodes of one tile.

    `planes` is (2, 3, row, column): sun and view; zenith in degrees, northward and eastward component. NaN where no
    detector looks. The first node is the upper left corner of the tile (`left`, `top` in `crs`); `step_m` is between
    rows and between columns.
    """

    crs: str
    left: float
    top: float
    step_m: tuple[float, float]
    planes: np.ndarray

    @classmethod
    def from_xml(cls, root) -> "AngleGrids":
        """From the root of MTD_TL.xml; view directions are means over bands and detectors."""
        corner, sun = root.find(".//Geoposition"), root.find(".//Sun_Angles_Grid")
        directions = _planes(sun)
        views = [_planes(e) for e in root.iter("Viewing_Incidence_Angles_Grids")] or [
            np.full_like(directions, np.nan)
        ]
        return cls(
            crs=root.find(".//HORIZONTAL_CS_CODE").text.strip(),
            left=float(corner.find("ULX").text),
            top=float(corner.find("ULY").text),
            step_m=tuple(float(sun.find(f"Zenith/{axis}_STEP").text) for axis in ("ROW", "COL")),
            planes=np.stack([directions, _mean(np.stack(views))]),
        )

    def at(self, geobox: GeoBox) -> np.ndarray:
        """Angles (4, y, x) in degrees at the nodes of a field, interpolated bilinearly; NaN outside the tile.

        Nodes without a view are left out of the interpolation: the field is covered up to the edge of the swath.
        """
        to_tile = Transformer.from_crs(geobox.crs.proj, self.crs, always_xy=True)
        x, y = to_tile.transform(*np.meshgrid(*field_nodes(geobox)))
        at = np.stack([(self.top - y) / self.step_m[0], (x - self.left) / self.step_m[1]]).round(6)
        flat = self.planes.reshape(-1, *self.planes.shape[2:])
        known = np.isfinite(flat)
        values, weights = (
            np.stack([ndimage.map_coordinates(p, at, order=1, cval=0) for p in planes])
            for planes in (np.where(known, flat, 0), known.astype(float))
        )
        planes = np.divide(values, weights, out=np.full_like(values, np.nan), where=weights > 0)
        return np.concatenate([_angles(planes[:3]), _angles(planes[3:])])


def field_nodes(geobox: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the nodes on a field, from edge to edge, at most 5 km apart; y runs as the rows do."""
    spacing = NODES_DEG if geobox.crs.geographic else NODES_M
    (height, width), affine = geobox.shape, geobox.affine
    ends = ((affine.c, affine.c + affine.a * width), (affine.f, affine.f + affine.e * height))
    return tuple(np.linspace(*e, int(np.ceil(abs(e[1] - e[0]) / spacing)) + 1) for e in ends)


def angle_variables(layers: Sequence[np.ndarray], geobox: GeoBox) -> tuple[dict, dict]:
    """Variables and coordinates of a Dataset from the angles (4, y, x) of each item: the first that knows one."""
    angles = layers[0]
    for layer in layers[1:]:
        angles = np.where(np.isfinite(angles), angles, layer)
    x, y = field_nodes(geobox)
    attrs = {"units": "degree", "grid_mapping": "spatial_ref"}
    variables = {
        name: (
            ("y_angle", "x_angle"),
            da.from_array(plane.astype("float32"), chunks=-1),
            attrs | {"standard_name": standard},
        )
        for (name, standard), plane in zip(_LONG_NAMES.items(), angles, strict=True)
    }
    units = {"units": "degree" if geobox.crs.geographic else "m"}
    return variables, {"y_angle": ("y_angle", y, units), "x_angle": ("x_angle", x, units)}


def mean_direction(zenith, azimuth) -> tuple[float, float]:
    """Mean zenith angle, and azimuth 0 to 360 of the mean horizontal component; degrees, NaN left out."""
    planes = _mean(_directions(np.ravel(zenith), np.ravel(azimuth)).T)
    return tuple(_angles(planes).tolist())


def _planes(grids):
    zenith, azimuth = (
        np.array(
            [row.text.split() for row in grids.findall(f"{kind}/Values_List/VALUES")], dtype=float
        )
        for kind in ("Zenith", "Azimuth")
    )
    return _directions(zenith, azimuth)


def _directions(zenith, azimuth):
    zenith, azimuth = np.asarray(zenith, float), np.radians(np.asarray(azimuth, float))
    across = np.sin(np.radians(zenith))
    return np.stack([zenith, across * np.cos(azimuth), across * np.sin(azimuth)])


def _angles(planes):
    return np.stack([planes[0], np.degrees(np.arctan2(planes[2], planes[1])) % 360])


def _mean(stack):
    """Mean along the first axis without NaN; NaN where there is nothing else."""
    count = np.isfinite(stack).sum(0)
    return np.divide(
        np.nansum(stack, 0), count, out=np.full(stack.shape[1:], np.nan), where=count > 0
    )
