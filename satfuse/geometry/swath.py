"""From a swath (latitude and longitude per pixel) to a map grid, in one resampling."""

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from pyproj import CRS, Transformer
from scipy.spatial import cKDTree

from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.errors import GridError
from satfuse.geometry.grids import lonlat_bbox
from satfuse.sensors.quality import Quality, flag_attrs

# Degrees of latitude around the field: a few pixels even where OLCI pixels are 1.2 km wide.
MARGIN_DEG = 0.05
MINIMUM_WEIGHT = 0.5  # least share of the bilinear weight on valid pixels
# A target further than this many pixel diagonals from every pixel centre is outside the swath.
NEAREST_DIAGONALS = 0.75
NEWTON_STEPS = 6
ANGLES = ("sun_zenith", "view_zenith", "sun_azimuth", "view_azimuth")
# A cell is the quadrilateral between four neighbouring pixel centres; (row, column) offsets.
_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
# Cells tried around the nearest pixel: the four that touch it, and one more on either side, since
# OLCI repeats some pixels.
_CELLS = tuple((down, right) for right in (0, 1, -1, 2) for down in (0, 1))


def rectify(
    swath: xr.Dataset, geobox: GeoBox, shift_m: tuple[float, float] = (0.0, 0.0)
) -> xr.Dataset:
    """Sample a swath on a map grid.

    The pixel centre p of the grid takes the swath's content at ground position p + shift. Weights
    are bilinear in the swath's rows and columns; those of invalid pixels are dropped and the
    remaining ones renormalised, so values of invalid pixels never enter.

    Parameters
    ----------
    swath : `reflectance (band, row, column)`, `valid` (True = usable), `quality`, `latitude`,
        `longitude` and the angles `(row, column)`, `time (row)`; as returned by
        `readers.sentinel3_syn.open_syn`. Lazy arrays are cut to a window around the grid before
        they are loaded.
    geobox : the coarse grid, in metres.
    shift_m : (dx, dy) displacement of the swath's content from the guide, metres east and north.

    Returns
    -------
    Dataset on `geobox`: `reflectance (band, y, x)` float32, NaN where not valid; `valid (y, x)`
    bool, True where at least half of the weight is valid; `quality (y, x)` uint16, of the valid
    pixel (where not valid, the invalid pixel) with the largest weight; `time (y, x)` and the angles
    of the nearest pixel. Outside the swath: NaN, NaT and COARSE_MISSING.

    Raises
    ------
    GridError
        The swath has fewer than 2 rows or columns, or `geobox` is not in metres.
    """
    _metric_crs(geobox)
    if min(swath.sizes["row"], swath.sizes["column"]) < 2:
        raise GridError(
            f"a swath of {swath.sizes['row']} x {swath.sizes['column']} pixels "
            "has no cells to sample; at least 2 x 2 pixels are needed"
        )
    window = _window(swath, geobox)
    rows, columns = locate(window["latitude"].values, window["longitude"].values, geobox, shift_m)
    bands = swath["reflectance"].drop_vars(["row", "column"], errors="ignore")["band"].coords
    out = xr.Dataset(coords={**bands}).assign_coords(xr_coords(geobox))
    reflectance, valid, quality = _sample(window, rows, columns)
    grid = {"grid_mapping": "spatial_ref"}
    out["reflectance"] = (("band", "y", "x"), reflectance, grid)
    out["valid"] = (("y", "x"), valid, grid)
    out["quality"] = (("y", "x"), quality, {**flag_attrs(), **grid})
    _add_time_and_angles(out, window, rows, columns)
    out.attrs = {**swath.attrs, "shift_m": tuple(float(v) for v in shift_m)}
    return out


def _metric_crs(geobox: GeoBox) -> CRS:
    if geobox.crs is None or not geobox.crs.projected:
        raise GridError(
            f"a swath is rectified onto a projected grid in metres, not {geobox.crs}; "
            "choose a UTM grid"
        )
    return geobox.crs.proj


def _add_time_and_angles(
    out: xr.Dataset, window: xr.Dataset, rows: FloatArray, columns: FloatArray
) -> None:
    """Copy time and angles of the nearest swath pixel; NaT and NaN outside the swath."""
    inside = np.isfinite(rows)
    row = np.where(inside, np.rint(rows), 0).astype(int).clip(0, window.sizes["row"] - 1)
    column = np.where(inside, np.rint(columns), 0).astype(int).clip(0, window.sizes["column"] - 1)
    out["time"] = (("y", "x"), np.where(inside, window["time"].values[row], np.datetime64("NaT")))
    for name in ANGLES:
        if name in window:
            angle = np.where(inside, window[name].values[row, column], np.nan)
            out[name] = (("y", "x"), angle.astype("float32"))


def locate(
    latitude: FloatArray,
    longitude: FloatArray,
    geobox: GeoBox,
    shift_m: tuple[float, float] = (0.0, 0.0),
) -> tuple[FloatArray, FloatArray]:
    """Fractional swath row and column of every pixel centre of a map grid, moved by `shift_m`.

    For each target the nearest swath pixel is looked up, and the bilinear map of each cell around
    it is inverted by Newton's method; the solution deepest inside its cell is used. Exact for any
    smoothly curved swath, and across the small jump where two frames join.

    Parameters
    ----------
    latitude, longitude : (row, column) in degrees; pixels with NaN are ignored.
    geobox : the map grid, in metres.
    shift_m : (dx, dy) in metres east and north, added to the pixel centres.

    Returns
    -------
    rows, columns : (y, x) float64, NaN outside the swath (over half a pixel beyond its edge).
    """
    project = Transformer.from_crs("EPSG:4326", _metric_crs(geobox), always_xy=True)
    ground = np.stack(project.transform(longitude, latitude), axis=-1).astype(np.float64)
    ground[~np.isfinite(ground).all(-1)] = np.nan
    height, width = geobox.shape
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    target = np.stack(geobox.affine * (x.ravel(), y.ravel()), axis=-1) + np.asarray(shift_m, float)
    position = np.full((2, len(target)), np.nan)
    located = np.flatnonzero(np.isfinite(ground[..., 0]))  # swath pixels with a geolocation
    if located.size:
        distance, nearest = cKDTree(ground.reshape(-1, 2)[located]).query(target, workers=-1)
        diagonal = np.nanmedian(np.linalg.norm(ground[1:, 1:] - ground[:-1, :-1], axis=-1))
        near = distance <= NEAREST_DIAGONALS * diagonal
        row, column = np.unravel_index(located[nearest[near]], ground.shape[:2])
        position[:, near] = _invert(ground, target[near], row, column)
    return position[0].reshape(height, width), position[1].reshape(height, width)


def _invert(ground: FloatArray, target: FloatArray, row: IntArray, column: IntArray) -> FloatArray:
    """Invert the bilinear map of the cells around each target.

    Parameters
    ----------
    ground : (row, column, 2) easting and northing of the swath's pixel centres.
    target : (n, 2) easting and northing.
    row, column : (n,) of the swath pixel nearest to each target.

    Returns
    -------
    (2, n) fractional row and column, NaN where no cell contains the target.
    """
    best = np.full((2, len(target)), np.nan)
    least = np.full(len(target), 0.5)  # how far outside its cell a solution may be, in cells
    for down, right in _CELLS:
        r = (row - down).clip(0, ground.shape[0] - 2)
        c = (column - right).clip(0, ground.shape[1] - 2)
        p00, p01, p10, p11 = (ground[r + i, c + j] for i, j in _CORNERS)
        u = np.full((2, len(target)), 0.5)  # position in the cell, 0 to 1; start in its middle
        with np.errstate(all="ignore"):  # a cell without area gives NaN, which is never better
            for _ in range(NEWTON_STEPS):
                (f_x, f_y), jacobian = _cell(p00, p01, p10, p11, u)
                u = u - _solve2(jacobian, f_x - target[:, 0], f_y - target[:, 1])
        outside = np.abs(u - 0.5).max(0) - 0.5
        better = outside < least
        least[better] = outside[better]
        best[:, better] = (np.stack([r, c]) + u)[:, better]
    return best


def _cell(
    p00: FloatArray, p01: FloatArray, p10: FloatArray, p11: FloatArray, u: FloatArray
) -> tuple[FloatArray, tuple[FloatArray, FloatArray]]:
    """Bilinear map of n cells.

    Parameters
    ----------
    p00, p01, p10, p11 : (n, 2) easting and northing of the corners, see `_CORNERS`.
    u : (2, n) position (row, column) in the cell, 0 to 1.

    Returns
    -------
    position : (2, n) easting and northing.
    jacobian : d position / d row and d position / d column, each (2, n).
    """
    row = u[0][:, None]
    column = u[1][:, None]
    twist = p11 - p10 - p01 + p00
    position = p00 + row * (p10 - p00) + column * (p01 - p00) + row * column * twist
    return position.T, ((p10 - p00 + column * twist).T, (p01 - p00 + row * twist).T)


def _solve2(jacobian: tuple[FloatArray, FloatArray], x: FloatArray, y: FloatArray) -> FloatArray:
    """(2, n) solutions of n linear systems of two equations, by Cramer's rule."""
    (a, c), (b, d) = jacobian
    return np.stack([d * x - b * y, a * y - c * x]) / (a * d - b * c)


def _sample(
    window: xr.Dataset, rows: FloatArray, columns: FloatArray
) -> tuple[FloatArray, BoolArray, IntArray]:
    """Validity-weighted bilinear reflectance, valid and quality at fractional rows and columns."""
    corners, weights = _bilinear(rows, columns, (window.sizes["row"], window.sizes["column"]))
    usable = window["valid"].values
    usable = np.stack([usable[c] for c in corners])
    valid = (weights * usable).sum(0) >= MINIMUM_WEIGHT
    flags = window["quality"].values
    heaviest = np.where(usable == valid, weights, -1).argmax(0)  # among pixels as valid as the mean
    quality = np.choose(heaviest, [flags[c] for c in corners]).astype(np.uint16)
    missing = np.uint16(Quality.COARSE_MISSING)
    quality = np.where(np.isfinite(rows), quality, missing).astype(np.uint16)

    reflectance = np.full((window.sizes["band"], *rows.shape), np.nan, np.float32)
    for band, image in zip(reflectance, window["reflectance"].values, strict=True):
        values = np.stack([image[c] for c in corners])
        weight = weights * usable * np.isfinite(values)
        total = weight.sum(0)
        enough = valid & (total >= MINIMUM_WEIGHT)
        band[enough] = (weight * np.nan_to_num(values)).sum(0)[enough] / total[enough]
    return reflectance, valid, quality


def _bilinear(
    rows: FloatArray, columns: FloatArray, shape: tuple[int, int]
) -> tuple[list[tuple[IntArray, IntArray]], FloatArray]:
    """Corners of the cell around each position, and their bilinear weights.

    Parameters
    ----------
    rows, columns : (y, x) fractional positions, NaN outside the swath.
    shape : rows and columns of the swath.

    Returns
    -------
    corners : four indices (row, column), each of shape (y, x), see `_CORNERS`.
    weights : (4, y, x), 0 outside the swath, else with the sum 1.
    """
    inside = np.isfinite(rows)
    base_row = np.where(inside, np.floor(rows), 0).astype(int).clip(0, shape[0] - 2)
    base_column = np.where(inside, np.floor(columns), 0).astype(int).clip(0, shape[1] - 2)
    down = np.where(inside, rows - base_row, 0.0).clip(0, 1)
    right = np.where(inside, columns - base_column, 0.0).clip(0, 1)
    corners = [(base_row + i, base_column + j) for i, j in _CORNERS]
    weights = [np.abs(1 - i - down) * np.abs(1 - j - right) for i, j in _CORNERS]
    return corners, np.stack(weights) * inside


def _window(swath: xr.Dataset, geobox: GeoBox) -> xr.Dataset:
    """The rows and columns whose pixels may be needed, loaded into memory."""
    west, south, east, north = lonlat_bbox(geobox)
    half_width = (east - west) % 360 / 2
    # meridians converge: the same distance is more degrees of longitude; bounded at the poles
    margin_lon = MARGIN_DEG / max(np.cos(np.deg2rad(max(abs(south), abs(north)))), 0.05)
    swath = swath.assign(
        latitude=swath["latitude"].compute(), longitude=swath["longitude"].compute()
    )
    latitude = swath["latitude"].values
    # degrees east of the field's middle, -180 to 180, also for a field across the antimeridian
    offset = (swath["longitude"].values - west - half_width + 180) % 360 - 180
    inside = np.abs(offset) <= half_width + margin_lon
    inside &= (latitude >= south - MARGIN_DEG) & (latitude <= north + MARGIN_DEG)
    rows = _span(inside.any(1))
    columns = _span(inside.any(0))
    return swath.isel(row=rows, column=columns).load()


def _span(needed: BoolArray) -> slice:
    """From the first to the last needed index (n,) and two more on each side; at least two."""
    index = np.flatnonzero(needed)
    first, last = (index[0], index[-1]) if index.size else (0, 1)
    start = max(min(first - 2, needed.size - 2), 0)
    return slice(start, max(last + 3, start + 2))
