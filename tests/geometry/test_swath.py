"""Swath rectification: a curved swath of known geometry, holes, edges, frame joins, shifts."""

import time as clock

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from pyproj import Transformer
from scipy.interpolate import griddata
from scipy.ndimage import gaussian_filter

from satfuse.errors import GridError
from satfuse.geometry.grids import coarse_geobox, snap_geobox
from satfuse.geometry.swath import ANGLES, locate, rectify
from satfuse.sensors.quality import COARSE_INVALID, Quality

CRS = "EPSG:32631"
# 90 rows x 80 columns of 300 m
FIELD = coarse_geobox(snap_geobox(CRS, 388_800, 3_394_500, 412_800, 3_421_500), 30)
CENTRE = (400_800.0, 3_408_000.0)
TO_LONLAT = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)


def position(row, column, shape, *, step=(300.0, 330.0), heading_deg=12.0, curve=4e-7, jump=0.0):
    """Easting and northing of fractional swath positions: rotated, stretched and bent.

    From half of the height on, the rows are displaced by `jump` rows, as between two frames.
    """
    along = (row - shape[0] / 2 + np.where(row >= shape[0] / 2, jump, 0.0)) * step[0]
    across = (column - shape[1] / 2) * step[1]
    along = along + curve * across**2
    across = across * (1 + curve * np.abs(across))
    turn = np.deg2rad(heading_deg)
    x = CENTRE[0] + across * np.cos(turn) - along * np.sin(turn)
    return x, CENTRE[1] - along * np.cos(turn) - across * np.sin(turn)


def ground(x, y):
    """Two smooth 'bands' of the ground, linear in 3 km and with a gentle wave."""
    u = (x - CENTRE[0]) / 3e4
    v = (y - CENTRE[1]) / 3e4
    bands = [0.3 + 0.1 * u - 0.2 * v, 0.3 + 0.05 * np.sin(3 * u) * np.cos(2 * v)]
    return np.stack(bands).astype("float32")


def swath_of(shape=(160, 150), lazy=False, **geometry):
    x, y = position(*np.indices(shape, dtype=float), shape, **geometry)
    lon, lat = TO_LONLAT.transform(x, y)
    angle = np.broadcast_to(np.linspace(5, 40, shape[1]), shape)
    row_time = (np.arange(shape[0]) * 44_000_000).astype("timedelta64[ns]")  # 44 ms per row
    time = np.datetime64("2024-06-01T10:00:00", "ns") + row_time

    def wrap(array):
        return da.from_array(array, chunks=(2, 64, 64)[-array.ndim :]) if lazy else array

    plane = ("row", "column")
    return xr.Dataset(
        {
            "reflectance": (("band", *plane), wrap(ground(x, y))),
            "valid": (plane, wrap(np.ones(shape, bool))),
            "quality": (plane, wrap(np.zeros(shape, "uint16"))),
            "latitude": (plane, wrap(lat)),
            "longitude": (plane, wrap(lon)),
            "time": ("row", time),
            **{name: (plane, angle) for name in ANGLES},
        },
        coords={"band": ["Oa08", "Oa17"], "wavelength_nm": ("band", [665.0, 865.0])},
        attrs={"clock": "time.nc rows"},
    )


def centres(geobox=FIELD):
    rows, columns = geobox.shape
    return np.meshgrid(
        geobox.affine.c + 300 * (np.arange(columns) + 0.5),
        geobox.affine.f - 300 * (np.arange(rows) + 0.5),
    )


@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"step": (300.0, 1100.0)},  # the western edge of OLCI
        {"heading_deg": 195.0},
        {"curve": 2e-6},
        {"jump": 0.3},
        {"jump": -0.4},
    ],
    ids=str,
)
def test_positions_are_exact_to_metres_on_a_curved_swath(geometry):
    shape = (160, 150)
    lon, lat = TO_LONLAT.transform(*position(*np.indices(shape, dtype=float), shape, **geometry))
    rows, columns = locate(lat, lon, FIELD)
    assert np.isfinite(rows).all()
    x, y = position(rows, columns, shape, **geometry)
    error = np.hypot(x - centres()[0], y - centres()[1])
    # where two frames join, the mapping is bilinear instead of `position`
    join = np.abs(rows - shape[0] / 2 + 0.5) <= 0.5
    assert error[~join].max() < 5
    assert geometry.get("jump") or not join.any() or error[join].max() < 5


def test_random_positions_of_the_swath_are_recovered():
    """To a hundredth of a pixel, where the shift moves a target's centre onto the position."""
    shape = (160, 150)
    lon, lat = TO_LONLAT.transform(*position(*np.indices(shape, dtype=float), shape))
    positions = np.random.default_rng(0).uniform(10, 140, (2, 50))
    for row, column in positions.T:
        x, y = position(np.array(row), np.array(column), shape)
        box = snap_geobox(CRS, x, y, x + 1, y + 1, resolution=300).translate_pix(0, 0)
        shift_m = x - (box.affine.c + 150), y - (box.affine.f - 150)
        rows, columns = locate(lat, lon, box[:1, :1], shift_m)
        assert rows[0, 0] == pytest.approx(row, abs=0.01)
        assert columns[0, 0] == pytest.approx(column, abs=0.01)


def test_reflectance_is_that_of_the_ground():
    out = rectify(swath_of(), FIELD)
    assert np.abs(out["reflectance"].values - ground(*centres())).max() < 2e-4
    assert out["valid"].all()
    assert not out["quality"].any()
    assert out["reflectance"].dtype == np.float32
    assert out["quality"].dtype == np.uint16
    assert out.odc.geobox == FIELD
    assert list(out["band"].values) == ["Oa08", "Oa17"]
    assert out.attrs["clock"] == "time.nc rows"
    assert out.attrs["shift_m"] == (0.0, 0.0)


def test_shift_is_added_to_the_sampling_position():
    """Content that is displaced 120 m east and 210 m south is put back."""
    swath = swath_of()
    x, y = position(*np.indices((160, 150), dtype=float), (160, 150))
    swath["reflectance"] = swath["reflectance"].copy(data=ground(x - 120, y + 210))
    x, y = centres()
    corrected = rectify(swath, FIELD, (120, -210))["reflectance"].values
    uncorrected = rectify(swath, FIELD)["reflectance"].values
    assert np.abs(corrected - ground(x, y)).max() < 2e-4
    assert np.abs(uncorrected - ground(x - 120, y + 210)).max() < 2e-4
    assert np.abs(corrected - uncorrected).max() > 1e-3


def test_agrees_with_scipy_on_scattered_points():
    swath = swath_of()
    noise = np.random.default_rng(1).normal(size=(2, 160, 150))
    rough = gaussian_filter(noise, (0, 1.0, 1.0)).astype("float32")
    swath["reflectance"] = swath["reflectance"].copy(data=rough)
    x, y = position(*np.indices((160, 150), dtype=float), (160, 150))
    box = FIELD[30:60, 20:50]
    targets = centres(box)
    near = (np.abs(x - targets[0].mean()) < 7000) & (np.abs(y - targets[1].mean()) < 7000)
    reference = griddata((x[near], y[near]), rough[0][near], targets, method="linear")
    rectified = rectify(swath, box)["reflectance"].values[0]
    # linear in triangles against bilinear in cells: equal along the edges of cells only
    assert np.corrcoef(rectified.ravel(), reference.ravel())[0, 1] > 0.99
    assert np.abs(rectified - reference).mean() < 0.1 * rough.std()


def test_lazy_and_loaded_swaths_give_the_same():
    xr.testing.assert_identical(rectify(swath_of(lazy=True), FIELD), rectify(swath_of(), FIELD))


def test_invalid_pixels_never_enter_and_half_the_weight_decides():
    swath = swath_of()
    rng = np.random.default_rng(2)
    bad = rng.random((160, 150)) < 0.3
    values = np.where(bad, 50.0, 0.25).astype("float32")
    swath["reflectance"] = swath["reflectance"].copy(data=np.stack([values, values]))
    swath["valid"] = swath["valid"].copy(data=~bad)
    cloud = np.where(bad, int(Quality.COARSE_CLOUD), 0).astype("uint16")
    swath["quality"] = swath["quality"].copy(data=cloud)
    out = rectify(swath, FIELD)
    valid = out["valid"].values
    assert 0.6 < valid.mean() < 0.95
    assert np.allclose(out["reflectance"].values[:, valid], 0.25)
    assert np.isnan(out["reflectance"].values[:, ~valid]).all()
    assert ((out["quality"].values & np.uint16(COARSE_INVALID)) > 0).tolist() == (~valid).tolist()


def test_a_hole_in_one_band_stays_in_that_band():
    swath = swath_of()
    swath["reflectance"][0, 60:100, 60:90] = np.nan
    out = rectify(swath, FIELD)
    holes = np.isnan(out["reflectance"].values)
    assert holes[0].sum() > 500
    assert not holes[1].any()


def test_targets_outside_the_swath_are_missing():
    out = rectify(swath_of(shape=(40, 150)), FIELD)
    missing = ~out["valid"].values
    assert 0.1 < missing.mean() < 0.9
    assert (out["quality"].values[missing] == Quality.COARSE_MISSING).all()
    assert np.isnan(out["reflectance"].values[:, missing]).all()
    assert np.isnat(out["time"].values[missing]).all()
    far = coarse_geobox(snap_geobox(CRS, 600_000, 3_000_000, 606_000, 3_006_000), 30)
    assert not rectify(swath_of(), far)["valid"].any()


def test_a_gap_between_frames_is_not_bridged():
    swath = swath_of()
    out = rectify(swath.isel(row=np.r_[:70, 90:160]), FIELD)
    missing = (~out["valid"].values).sum()
    assert 15 * 70 < missing < 21 * 90  # about 20 rows of 300 m, over the field's width


def test_repeated_pixels_leave_no_holes():
    """OLCI repeats pixels where its cameras overlap: cells without area.

    Here two columns are repeated, in half of the rows.
    """
    swath = swath_of()
    source = np.tile(np.arange(150), (160, 1))
    source[::2, 41:] -= 1
    source[::2, 81:] -= 1
    for name in ("latitude", "longitude", "reflectance"):
        values = swath[name].values
        index = np.broadcast_to(source, values.shape)
        swath[name] = swath[name].copy(data=np.take_along_axis(values, index, axis=-1))
    out = rectify(swath, FIELD)
    assert out["valid"].all()
    assert np.abs(out["reflectance"].values - ground(*centres())).max() < 2e-3


def test_time_and_angles_come_from_the_nearest_pixel():
    swath = swath_of()
    rows, columns = locate(swath["latitude"].values, swath["longitude"].values, FIELD)
    out = rectify(swath, FIELD)
    assert (out["time"].values == swath["time"].values[np.rint(rows).astype(int)]).all()
    view_zenith = swath["view_zenith"].values[0]
    assert np.allclose(out["view_zenith"], view_zenith[np.rint(columns).astype(int)])


def test_a_field_across_the_antimeridian_is_covered():
    """At 64 degrees north, easting 353,000 of UTM zone 1 is at 180 degrees."""
    box = coarse_geobox(snap_geobox("EPSG:32601", 345_000, 7_100_000, 363_000, 7_118_000), 30)
    x, y = position(*np.indices((120, 120), dtype=float), (120, 120))
    x += 354_000 - CENTRE[0]
    y += 7_109_000 - CENTRE[1]
    lon, lat = Transformer.from_crs("EPSG:32601", "EPSG:4326", always_xy=True).transform(x, y)
    assert lon.min() < -170
    assert lon.max() > 170
    swath = swath_of((120, 120))
    swath["latitude"] = (("row", "column"), lat)
    swath["longitude"] = (("row", "column"), lon)
    assert rectify(swath, box)["valid"].all()


def test_full_width_swath_is_fast():
    shape = (500, 4865)
    swath = swath_of(shape=shape, lazy=True, step=(300.0, 260.0), curve=1e-8)
    start = clock.perf_counter()
    out = rectify(swath, FIELD)
    assert out["valid"].all()
    assert clock.perf_counter() - start < 10


def test_unusable_input_is_refused():
    with pytest.raises(GridError, match="metres"):
        rectify(swath_of(), FIELD.to_crs("EPSG:4326"))
    with pytest.raises(GridError, match="no cells"):
        rectify(swath_of().isel(row=slice(0, 1)), FIELD)
