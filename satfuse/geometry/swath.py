"""From a swath (latitude and longitude per pixel) to a map grid, in one resampling."""

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from pyproj import Transformer
from scipy.spatial import cKDTree

from satfuse.errors import GridError
from satfuse.geometry.grids import lonlat_bbox
from satfuse.sensors.quality import Quality, flag_attrs

# of latitude around the field: a few pixels even where OLCI pixels are 1.2 km wide
MARGIN_DEG = 0.05
MINIMUM_WEIGHT = 0.5  # share of the bilinear weight that must be valid
# a target further from every pixel centre than this many pixel diagonals is outside
NEAREST_DIAGONALS = 0.75
ANGLES = ("sun_zenith", "view_zenith", "sun_azimuth", "view_azimuth")
_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # (row, column) of a cell
# Cells tried around the nearest pixel: its own four, and one more to either side, since OLCI
# repeats some pixels.
_CELLS = tuple((down, right) for right in (0, 1, -1, 2) for down in (0, 1))


def rectify(swath: xr.Dataset, geobox: GeoBox, shift_m=(0.0, 0.0)) -> xr.Dataset:
    """Sample a swath on a map grid; lazy arrays are cut to a window around the grid before they are loaded.

    The pixel centre p of the grid takes the swath's content at ground position p + shift. Weights are bilinear in the
    swath's own rows and columns; those of invalid pixels are dropped and the rest renormalised. Values from pixels
    that are not valid never enter.

    Parameters
    ----------
    swath : `reflectance (band, row, column)`, `valid` (True = usable), `quality`, `latitude`, `longitude` and the
        angles `(row, column)`, `time (row)`; as `readers.sentinel3_syn.open_syn` gives it.
    geobox : the coarse grid, in metres.
    shift_m : (dx, dy), how far in metres east and north the swath's content lies from where the guide has it.

    Returns
    -------
    Dataset on `geobox`: `reflectance (band, y, x)` float32, NaN where not valid; `valid (y, x)` bool, True where at
    least half the weight is valid; `quality (y, x)` uint16, that of the heaviest pixel on the side that decided
    `valid`; `time (y, x)` and the angles of the nearest pixel. Outside the swath: NaN, NaT and COARSE_MISSING.

    Raises
    ------
    GridError
        The swath has fewer than 2 rows or columns, or `geobox` is not in metres.
    """
    if geobox.crs is None or not geobox.crs.projected:
        raise GridError(f"a swath is rectified onto a projected grid in metres, not {geobox.crs}")
    if min(swath.sizes["row"], swath.sizes["column"]) < 2:
        raise GridError(
            f"a swath of {swath.sizes['row']} x {swath.sizes['column']} pixels has no cells to sample"
        )
    window = _window(swath, geobox)
    rows, columns = locate(window["latitude"].values, window["longitude"].values, geobox, shift_m)
    out = xr.Dataset(
        coords={**swath["reflectance"].drop_vars(["row", "column"], errors="ignore")["band"].coords}
    )
    out = out.assign_coords(xr_coords(geobox))
    reflectance, valid, quality = _sample(window, rows, columns)
    out["reflectance"] = (("band", "y", "x"), reflectance, {"grid_mapping": "spatial_ref"})
    out["valid"] = (("y", "x"), valid, {"grid_mapping": "spatial_ref"})
    out["quality"] = (("y", "x"), quality, {**flag_attrs(), "grid_mapping": "spatial_ref"})
    inside = np.isfinite(rows)
    row = np.where(inside, np.rint(rows), 0).astype(int).clip(0, window.sizes["row"] - 1)
    column = np.where(inside, np.rint(columns), 0).astype(int).clip(0, window.sizes["column"] - 1)
    out["time"] = (("y", "x"), np.where(inside, window["time"].values[row], np.datetime64("NaT")))
    for name in ANGLES:
        if name in window:
            out[name] = (
                ("y", "x"),
                np.where(inside, window[name].values[row, column], np.nan).astype("float32"),
            )
    out.attrs = {**swath.attrs, "shift_m": tuple(float(v) for v in shift_m)}
    return out


def locate(
    latitude, longitude, geobox: GeoBox, shift_m=(0.0, 0.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Fractional swath row and column of every pixel centre of a map grid, moved by `shift_m`.

    The nearest swath pixel is looked up, and the bilinear map of each cell around it inverted by Newton's method; the
    solution that lies deepest inside its cell wins. Exact for any smoothly curved swath, and across the small
    jump where two frames join.

    Parameters
    ----------
    latitude, longitude : (row, column) in degrees; pixels with NaN are left out.

    Returns
    -------
    rows, columns : (y, x) float64, NaN outside the swath (more than half a pixel beyond its edge).
    """
    project = Transformer.from_crs("EPSG:4326", geobox.crs.proj, always_xy=True)
    ground = np.stack(project.transform(longitude, latitude), axis=-1).astype(np.float64)
    ground[~np.isfinite(ground).all(-1)] = np.nan
    height, width = geobox.shape
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    target = np.stack(geobox.affine * (x.ravel(), y.ravel()), axis=-1) + np.asarray(shift_m, float)
    found = np.full((2, len(target)), np.nan)
    known = np.flatnonzero(np.isfinite(ground[..., 0]))
    if known.size:
        distance, nearest = cKDTree(ground.reshape(-1, 2)[known]).query(target, workers=-1)
        diagonal = np.nanmedian(np.linalg.norm(ground[1:, 1:] - ground[:-1, :-1], axis=-1))
        near = distance <= NEAREST_DIAGONALS * diagonal
        found[:, near] = _invert(
            ground, target[near], *np.unravel_index(known[nearest[near]], ground.shape[:2])
        )
    return found[0].reshape(height, width), found[1].reshape(height, width)


def _invert(ground, target, row, column):
    """Fractional (row, column) of targets whose nearest swath pixels are given; NaN where no cell fits."""
    best = np.full((2, len(target)), np.nan)
    least = np.full(len(target), 0.5)  # how far outside its cell a solution may lie, in cells
    for down, right in _CELLS:
        r = (row - down).clip(0, ground.shape[0] - 2)
        c = (column - right).clip(0, ground.shape[1] - 2)
        p00, p01, p10, p11 = (ground[r + i, c + j] for i, j in _CORNERS)
        u = np.full((2, len(target)), 0.5)
        with np.errstate(all="ignore"):  # a cell without area runs off to NaN and never wins
            for _ in range(6):
                (f_x, f_y), jacobian = _cell(p00, p01, p10, p11, u)
                u = u - _solve2(jacobian, f_x - target[:, 0], f_y - target[:, 1])
        outside = np.abs(u - 0.5).max(0) - 0.5
        better = outside < least
        least[better] = outside[better]
        best[:, better] = (np.stack([r, c]) + u)[:, better]
    return best


def _cell(p00, p01, p10, p11, u):
    """Position and Jacobian columns (d/drow, d/dcolumn) of a bilinear cell at u = (row, column) in 0..1."""
    row, column = u[0][:, None], u[1][:, None]
    twist = p11 - p10 - p01 + p00
    position = p00 + row * (p10 - p00) + column * (p01 - p00) + row * column * twist
    return position.T, ((p10 - p00 + column * twist).T, (p01 - p00 + row * twist).T)


def _solve2(jacobian, x, y):
    (a, c), (b, d) = jacobian
    return np.stack([d * x - b * y, a * y - c * x]) / (a * d - b * c)


def _sample(window, rows, columns):
    """Validity-weighted bilinear reflectance, valid and quality at fractional rows and columns."""
    height, width = window.sizes["row"], window.sizes["column"]
    inside = np.isfinite(rows)
    base_row = np.where(inside, np.floor(rows), 0).astype(int).clip(0, height - 2)
    base_column = np.where(inside, np.floor(columns), 0).astype(int).clip(0, width - 2)
    down = np.where(inside, rows - base_row, 0.0).clip(0, 1)
    right = np.where(inside, columns - base_column, 0.0).clip(0, 1)
    corners = [(base_row + i, base_column + j) for i, j in _CORNERS]
    weights = np.stack([np.abs(1 - i - down) * np.abs(1 - j - right) for i, j in _CORNERS]) * inside
    usable = window["valid"].values
    usable = np.stack([usable[c] for c in corners])
    valid = (weights * usable).sum(0) >= MINIMUM_WEIGHT
    flags = window["quality"].values
    heaviest = np.where(usable == valid, weights, -1).argmax(0)  # on the side that decided
    quality = np.choose(heaviest, [flags[c] for c in corners]).astype(np.uint16)
    quality = np.where(inside, quality, np.uint16(Quality.COARSE_MISSING)).astype(np.uint16)

    reflectance = np.full((window.sizes["band"], *rows.shape), np.nan, np.float32)
    for band, image in zip(reflectance, window["reflectance"].values, strict=True):
        values = np.stack([image[c] for c in corners])
        weight = weights * usable * np.isfinite(values)
        total = weight.sum(0)
        enough = valid & (total >= MINIMUM_WEIGHT)
        band[enough] = (weight * np.nan_to_num(values)).sum(0)[enough] / total[enough]
    return reflectance, valid, quality


def _window(swath, geobox):
    """The rows and columns whose pixels may be needed, loaded into memory."""
    west, south, east, north = lonlat_bbox(geobox)
    half = (east - west) % 360 / 2
    margin_lon = MARGIN_DEG / max(np.cos(np.deg2rad(max(abs(south), abs(north)))), 0.05)
    swath = swath.assign(
        latitude=swath["latitude"].compute(), longitude=swath["longitude"].compute()
    )
    from_middle = (
        swath["longitude"].values - west - half + 180
    ) % 360 - 180  # also right across 180 degrees
    inside = np.abs(from_middle) <= half + margin_lon
    inside &= (swath["latitude"].values >= south - MARGIN_DEG) & (
        swath["latitude"].values <= north + MARGIN_DEG
    )
    keep = []
    for axis in (1, 0):
        index = np.flatnonzero(inside.any(axis))
        first, last = (index[0], index[-1]) if index.size else (0, 1)
        size = inside.shape[1 - axis]
        first = max(min(first - 2, size - 2), 0)
        keep.append(slice(first, max(last + 3, first + 2)))
    return swath.isel(row=keep[0], column=keep[1]).load()
