"""SEN3 folders: a swath curved like an orbit; values, clocks and attributes of real products."""

import xml.etree.ElementTree as ET
from datetime import datetime

import numpy as np
import pytest
import xarray as xr
from pyproj import Geod

from satfuse.errors import BandError, GridError
from satfuse.sensors.bands import S3_NAMES
from satfuse.simulate.archive.sen3 import write_sen3
from satfuse.simulate.archive.sen3_swath import SynFrame, swath_grid
from satfuse.simulate.archive.sen3_tie_points import tie_columns
from satfuse.simulate.archive.sphere import sun_angles
from tests.simulate.xml_paths import assert_known

ROWS = 80
COLUMNS = 193
FRAME = SynFrame(
    platform="S3B",
    start=datetime(2023, 9, 12, 11, 20, 23, 277373),
    rows=ROWS,
    relative_orbit=37,
    cycle=84,
    frame=2700,
)
SPHERE = Geod(a=6371008.8, b=6371008.8)


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    random = np.random.default_rng(0)
    swath = swath_grid(58.4, 26.6, rows=ROWS, columns=COLUMNS)
    reflectance = random.uniform(0, 0.7, (21, ROWS, COLUMNS)).astype("float32")
    reflectance[4, 3, 5] = np.nan
    cloud, land = random.random((2, ROWS, COLUMNS)) < [[[0.1]], [[0.9]]]
    sen3 = write_sen3(tmp_path_factory.mktemp("sen3"), reflectance, swath, cloud, land, FRAME)
    return sen3, reflectance, swath, cloud, land


def raw(sen3, name):
    with xr.open_dataset(sen3 / name, decode_cf=False) as dataset:
        return dataset.load()


def test_given_pixel_is_at_the_given_position():
    for west in (-300e3, 0.0, 250e3):
        swath = swath_grid(15.0, -20.0, rows=11, columns=21, row=2, column=17, nadir_west_m=west)
        assert swath.latitude[2, 17] == pytest.approx(15.0)
        assert swath.longitude[2, 17] == pytest.approx(-20.0)


def test_rows_go_south_columns_go_east_at_real_spacing():
    swath = swath_grid(58.4, 26.6, rows=60, columns=600)
    lat = swath.latitude
    lon = swath.longitude
    assert (np.diff(lat, axis=0) < 0).all()
    assert (np.diff(lon, axis=1) > 0).all()
    heading, _, along = SPHERE.inv(lon[:-1], lat[:-1], lon[1:], lat[1:])
    _, _, across = SPHERE.inv(lon[:, :-1], lat[:, :-1], lon[:, 1:], lat[:, 1:])
    assert np.abs(across - 270).max() < 0.01
    assert 294 < along.min() < along.max() < 295.01
    assert (heading % 360).min() > 190
    assert (heading % 360).max() < 200


def test_swath_is_curved():
    swath = swath_grid(58.4, 26.6, rows=150, columns=321)
    lat = swath.latitude
    lon = swath.longitude
    assert np.ptp(lat, axis=1).min() > 0.1
    assert np.ptp(lon, axis=0).min() > 0.1
    twist = (lon - lon[:, :1] - lon[:1] + lon[0, 0]) * 111e3 * np.cos(np.radians(58.4))
    # metres: the error of any sum of a row term and a column term
    assert np.abs(twist).max() > 100
    bend = lat - np.linspace(lat[:, 0], lat[:, -1], 321, axis=1)
    assert np.abs(bend).max() * 111e3 > 100


def test_view_angles_follow_from_the_orbit():
    swath = swath_grid(0.0, 10.0, rows=3, columns=101, nadir_west_m=0.0)
    assert swath.view_zenith[1, 50] == pytest.approx(0)
    # west of nadir the satellite is in the east
    assert (np.sign(swath.view_azimuth[1, [10, 90]]) == [1, -1]).all()
    far = swath_grid(0.0, 10.0, rows=3, columns=3, nadir_west_m=1e6).view_zenith[1, 1]
    x, z = 7185508.8 * np.array([np.sin(1e6 / 6371008.8), np.cos(1e6 / 6371008.8)])
    assert far == pytest.approx(np.degrees(np.arctan2(x, z - 6371008.8)), abs=1e-3)


def test_cutting_rows_continues_the_swath():
    swath = swath_grid(58.4, 26.6, rows=20, columns=9)
    parts = (swath.rows(0, 12), swath.rows(12, 20))
    for name in ("longitude", "view_zenith"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(swath, name))


def test_reflectance_survives_where_it_is_clear_land(product):
    sen3, reflectance, _, cloud, land = product
    for i, band in enumerate(S3_NAMES):
        with xr.open_dataset(sen3 / f"Syn_{band}_reflectance.nc") as dataset:
            values = dataset[f"SDR_{band}"].values
        expected = land & ~cloud & np.isfinite(reflectance[i])
        np.testing.assert_array_equal(np.isfinite(values), expected)
        assert np.abs(values - reflectance[i])[expected].max() < 0.51e-4


def test_flags_are_those_of_the_masks(product):
    sen3, reflectance, _, cloud, land = product
    flags = raw(sen3, "flags.nc")

    def is_set(name, meaning):
        masks = dict(zip(flags[name].flag_meanings.split(), flags[name].flag_masks, strict=True))
        return (flags[name].values & masks[meaning]) > 0

    np.testing.assert_array_equal(is_set("CLOUD_flags", "CLOUD"), cloud)
    np.testing.assert_array_equal(is_set("SYN_flags", "SYN_land"), land)
    retrieved = land & ~cloud & np.isfinite(reflectance).all(axis=0)
    np.testing.assert_array_equal(is_set("SYN_flags", "SYN_success"), retrieved)
    assert {n: v.dtype.name for n, v in flags.items()} == {
        "CLOUD_flags": "uint8",
        "SYN_flags": "uint16",
        "OLC_flags": "uint16",
        "SLN_flags": "uint32",
        "SLO_flags": "uint32",
    }


def test_geolocation_is_exact_to_a_tenth_of_a_metre(product):
    sen3, _, swath, _, _ = product
    with xr.open_dataset(sen3 / "geolocation.nc") as geolocation:
        _, _, distance = SPHERE.inv(
            geolocation.lon.values, geolocation.lat.values, swath.longitude, swath.latitude
        )
    assert geolocation.lat.dims == ("rows", "columns")
    assert distance.max() < 1  # m; the float32 scale costs up to 0.5 m
    exact = raw(sen3, "geolocation.nc")
    assert np.abs(exact.lat.values * 1e-6 - swath.latitude).max() < 0.51e-6


def test_tie_points_interpolate_to_the_geolocation(product):
    sen3, _, swath, _, _ = product
    ties = raw(sen3, "tiepoints_olci.nc")
    columns = tie_columns(COLUMNS)
    assert columns.tolist() == [0, 64, 128, 192]
    lat, lon = (ties[f"OLC_TP_{v}"].values.reshape(4, ROWS).T * 1e-6 for v in ("lat", "lon"))
    assert np.abs(lat - swath.latitude[:, columns]).max() < 0.51e-6
    every = np.arange(COLUMNS)
    full = [np.stack([np.interp(every, columns, row) for row in v]) for v in (lon, lat)]
    _, _, distance = SPHERE.inv(*full, swath.longitude, swath.latitude)
    assert 1 < distance.max() < 15  # m; the swath bends between tie points


def test_tie_columns_always_end_with_the_last_column():
    assert tie_columns(100).tolist() == [0, 64, 99]
    assert tie_columns(65).tolist() == [0, 64]


def test_row_times_are_ahead_of_utc_like_gps_time(product):
    sen3 = product[0]
    times = raw(sen3, "time.nc").Time.values
    first = np.datetime64("2000-01-01", "us") + times[0].astype("timedelta64[us]")
    assert first - np.datetime64(FRAME.start, "us") == np.timedelta64(18, "s")
    assert (np.diff(times) == 44000).all()
    root = ET.parse(sen3 / "xfdumanifest.xml").getroot()
    start = next(e.text for e in root.iter() if e.tag.endswith("startTime"))
    assert start == "2023-09-12T11:20:23.277373Z"


def test_manifest_lists_the_files_with_their_sizes(product):
    sen3 = product[0]
    root = ET.parse(sen3 / "xfdumanifest.xml").getroot()
    listed = {
        s.find("fileLocation").get("href"): int(s.get("size")) for s in root.iter("byteStream")
    }
    assert listed == {f"./{p.name}": p.stat().st_size for p in sen3.glob("*.nc")}
    assert len(listed) == 38


def test_errors_name_the_invalid_array(tmp_path, product):
    _, reflectance, swath, cloud, land = product
    with pytest.raises(BandError, match="20 bands"):
        write_sen3(tmp_path, reflectance[:20], swath, cloud, land, FRAME)
    with pytest.raises(GridError, match="cloud"):
        write_sen3(tmp_path, reflectance, swath, cloud[1:], land, FRAME)


@pytest.fixture(scope="module")
def senegal(unzipped):
    return next(unzipped("s3_syn_senegal/S3B*.zip").glob("*.SEN3"))


@pytest.mark.samples
@pytest.mark.parametrize(
    "name", ["Syn_Oa04_reflectance.nc", "Syn_Oa17_reflectance.nc", "time.nc", "tiepoints_olci.nc"]
)
def test_variables_are_those_of_the_real_product(product, senegal, name):
    ours = raw(product[0], name)
    real = raw(senegal, name)
    assert set(ours.variables) == set(real.variables)
    assert set(ours.sizes) == set(real.sizes)
    assert set(ours.attrs) <= set(real.attrs)
    assert ours.attrs["start_time"] == real.attrs["start_time"]
    for variable in ours.variables:
        mine = ours[variable]
        theirs = real[variable]
        assert mine.dtype == theirs.dtype
        assert mine.dims == theirs.dims
        assert set(mine.attrs) == set(theirs.attrs)
        for key, value in theirs.attrs.items():
            assert mine.attrs[key] == value, (variable, key)
            assert type(mine.attrs[key]) is type(value), (variable, key)
        for key in ("zlib", "complevel", "shuffle"):
            assert mine.encoding[key] == theirs.encoding[key]


@pytest.mark.samples
def test_name_and_manifest_are_those_of_the_real_product(product, senegal):
    assert len(product[0].name) == len(senegal.name)
    assert product[0].name[:31] == senegal.name[:31] == "S3B_SY_2_SYN____20230912T112023"
    assert_known(product[0] / "xfdumanifest.xml", senegal / "xfdumanifest.xml")


@pytest.mark.samples
def test_orbit_and_sun_geometry_match_the_real_product(senegal):
    ties = raw(senegal, "tiepoints_olci.nc")
    grid = {name: values.values.reshape(77, 4090).T[2000] * 1e-6 for name, values in ties.items()}
    nadir = np.interp(0, -np.sign(grid["OLC_VAA"]) * grid["OLC_VZA"], np.arange(77) * 64)
    middle = (grid["OLC_TP_lat"][38], grid["OLC_TP_lon"][38])
    west = (38 * 64 - nadir) * 269.7
    swath = swath_grid(
        *middle, rows=3, columns=4865, row=1, column=38 * 64, heading_deg=191.7, nadir_west_m=west
    )
    zenith = swath.view_zenith[1, ::64]
    assert np.abs(zenith - grid["OLC_VZA"]).max() < 0.7
    _, _, distance = Geod(ellps="WGS84").inv(
        swath.longitude[1, ::64], swath.latitude[1, ::64], grid["OLC_TP_lon"], grid["OLC_TP_lat"]
    )
    assert distance.max() < 12e3  # of 1300 km: the simulated orbit is a circle over a sphere
    azimuth, sun = sun_angles(
        grid["OLC_TP_lat"], grid["OLC_TP_lon"], middle, grid["SZA"][38], grid["SAA"][38]
    )
    assert np.abs(sun - grid["SZA"]).max() < 0.2
    assert np.abs(azimuth - grid["SAA"]).max() < 0.5
