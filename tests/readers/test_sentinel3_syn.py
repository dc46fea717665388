import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dask
import h5netcdf
import numpy as np
import pytest

from satfuse.errors import AccessError, BandError, GridError, ReadError
from satfuse.readers.sentinel3_syn import open_syn, sen3_item
from satfuse.sensors.bands import S3_NAMES
from satfuse.sensors.quality import Quality
from satfuse.simulate.archive.sen3 import write_sen3
from satfuse.simulate.archive.sen3_swath import SynFrame, swath_grid

ROWS = 60
COLUMNS = 129
FRAME = SynFrame(
    platform="S3A",
    start=datetime(2024, 6, 1, 10, 21, 7, 250000),
    rows=ROWS,
    relative_orbit=65,
    cycle=113,
    frame=2160,
)
NEXT = replace(FRAME, start=FRAME.stop, frame=2162)


@pytest.fixture(scope="module")
def orbit():
    """120 rows of one orbit: swath, reflectance in whole digital numbers, cloud, land."""
    swath = swath_grid(31.0, 2.2, rows=2 * ROWS, columns=COLUMNS)
    rng = np.random.default_rng(0)
    reflectance = rng.integers(0, 9000, (len(S3_NAMES), 2 * ROWS, COLUMNS)) / 10000
    reflectance[3, 5, 7] = 0.0  # zero is data
    reflectance[4, 6, 8] = np.nan  # one band only
    cloud = np.zeros((2 * ROWS, COLUMNS), bool)
    cloud[30:40, 10:20] = True
    land = np.ones_like(cloud)
    land[:, 120:] = False
    return swath, reflectance, cloud, land


@pytest.fixture(scope="module")
def archive(tmp_path_factory, orbit):
    """Two consecutive frames, and the first once more as STC."""
    folder = tmp_path_factory.mktemp("sen3")
    swath, reflectance, cloud, land = orbit
    for frame, first in ((FRAME, 0), (NEXT, ROWS), (replace(FRAME, timeliness="ST"), 0)):
        rows = slice(first, first + ROWS)
        write_sen3(
            folder,
            reflectance[:, rows],
            swath.rows(first, first + ROWS),
            cloud[rows],
            land[rows],
            frame,
        )
    return folder


@pytest.fixture(scope="module")
def spec(archive, files_under):
    return files_under(archive)


@pytest.fixture
def item(archive):
    return sen3_item(archive / f"{FRAME.name}.SEN3")


@pytest.fixture
def copy(tmp_path, archive):
    """A frame that a test may damage."""
    return shutil.copytree(archive / f"{FRAME.name}.SEN3", tmp_path / f"{FRAME.name}.SEN3")


@pytest.fixture(scope="module")
def opened(archive, spec):
    lazy = open_syn(sen3_item(archive / f"{FRAME.name}.SEN3"), spec=spec)
    assert all(dask.is_dask_collection(lazy[name].data) for name in lazy.data_vars)
    return lazy.compute()


def test_digital_numbers_are_decoded_and_fill_is_nan(opened, orbit):
    _, reflectance, cloud, land = orbit
    clear_land = (land & ~cloud)[:ROWS]
    expected = np.where(clear_land, reflectance[:, :ROWS], np.nan)
    np.testing.assert_allclose(opened.reflectance.values, expected.astype("float32"), rtol=1e-6)
    assert opened.reflectance.dtype == "float32"
    assert tuple(opened.band.values) == S3_NAMES
    assert float(opened.reflectance[3, 5, 7]) == 0.0


def test_valid_is_the_intersection_of_the_bands(opened, spec, item):
    assert not opened.valid.values[6, 8]
    assert opened.quality.values[6, 8] & Quality.COARSE_MISSING
    one = open_syn(item, spec=spec, bands=("Oa01",))
    # this band has data where another one misses
    assert np.isfinite(one.reflectance.values[0, 6, 8])
    assert np.isfinite(opened.reflectance.values).all(0)[opened.valid.values].all()


def test_flags_become_quality(opened, orbit):
    _, _, cloud, land = orbit
    quality = opened.quality.values
    np.testing.assert_array_equal(quality & Quality.COARSE_CLOUD > 0, cloud[:ROWS])
    suspect = quality & Quality.COARSE_SUSPECT > 0
    assert suspect[:, 120:].all()
    assert not suspect[20:30, :100].any()
    usable = (land & ~cloud)[:ROWS].copy()
    usable[6, 8] = False
    np.testing.assert_array_equal(opened.valid.values, usable)


@pytest.mark.parametrize(
    ("variable", "flag", "quality"),
    [
        ("CLOUD_flags", "CLOUD_AMBIGUOUS", Quality.COARSE_CLOUD),
        ("CLOUD_flags", "CLOUD_MARGIN", Quality.COARSE_CLOUD),
        ("CLOUD_flags", "SNOW_ICE", Quality.SNOW),
        ("SYN_flags", "SYN_SDR_OOR", Quality.COARSE_SUSPECT),
        ("SYN_flags", "SYN_no_sln", Quality.COARSE_MISSING),
        ("SYN_flags", "SYN_too_low", Quality.COARSE_SUSPECT),
        ("SYN_flags", "SYN_partly_water", Quality.COARSE_SUSPECT),
        ("SYN_flags", "SYN_no_slo", Quality(0)),
        ("SYN_flags", "SYN_AOT_climato", Quality(0)),
    ],
)
def test_each_flag_is_found_by_its_name(copy, files_under, variable, flag, quality):
    with h5netcdf.File(copy / "flags.nc", "a") as file:
        names = str(file[variable].attrs["flag_meanings"]).split()
        file[variable][25, 50] |= file[variable].attrs["flag_masks"][names.index(flag)]
    got = open_syn(sen3_item(copy), spec=files_under(copy.parent), bands=("Oa08",)).compute()
    assert got.quality.values[25, 50] == quality
    assert bool(got.valid.values[25, 50]) == (quality in (Quality(0), Quality.SNOW))
    assert (got.quality.values[20:30, 40:60] == 0).sum() == 200 - (quality != 0)


def test_flags_of_the_old_layout_are_refused(copy, files_under):
    with h5netcdf.File(copy / "flags.nc", "a") as file:
        file["SYN_flags"].attrs["flag_meanings"] = " ".join(f"bit{i}" for i in range(16))
    with pytest.raises(ReadError, match=r"flags.*no_olc"):
        open_syn(sen3_item(copy), spec=files_under(copy.parent), bands=("Oa08",))


def test_positions_and_angles(opened, orbit):
    swath = orbit[0].rows(0, ROWS)
    np.testing.assert_allclose(opened.latitude.values, swath.latitude, atol=1e-6)
    np.testing.assert_allclose(opened.longitude.values, swath.longitude, atol=1e-6)
    np.testing.assert_allclose(opened.view_zenith.values, swath.view_zenith, atol=0.05)
    azimuth = (opened.view_azimuth.values - swath.view_azimuth + 180) % 360 - 180
    assert np.abs(azimuth).max() < 0.1
    assert opened.sun_zenith.values[ROWS // 2, COLUMNS // 2] == pytest.approx(45, abs=0.5)
    assert opened.attrs["positions"] == "geolocation.nc"


def test_missing_geolocation_is_replaced_by_tie_points(opened, copy, files_under):
    (copy / "geolocation.nc").unlink()
    got = open_syn(sen3_item(copy), spec=files_under(copy.parent), bands=("Oa08",)).compute()
    metres = 111195
    north = (got.latitude - opened.latitude) * metres
    east = (got.longitude - opened.longitude) * metres * np.cos(np.radians(31))
    # a scan line bends by metres between two tie points
    assert max(np.abs(north).max(), np.abs(east).max()) < 10
    entry = next(r for r in got.attrs["ledger"] if r.asset == "geolocation")
    assert entry.status == "replaced"
    assert "tie points" in entry.cause
    assert got.attrs["positions"] == "OLCI tie points"
    assert (got.quality.values[20:30, :10] == 0).all()


@pytest.mark.parametrize(
    ("longitude", "latitude", "columns"), [(179.95, 10, 129), (20, 89.8, 100), (-170, -60, 66)]
)
def test_tie_points_work_at_the_antimeridian_and_the_pole(
    tmp_path, files_under, longitude, latitude, columns
):
    swath = swath_grid(latitude, longitude, rows=40, columns=columns)
    shape = swath.latitude.shape
    frame = replace(FRAME, rows=40)
    values = np.full((len(S3_NAMES), *shape), 0.1)
    folder = write_sen3(tmp_path, values, swath, np.zeros(shape, bool), np.ones(shape, bool), frame)
    (folder / "geolocation.nc").unlink()
    got = open_syn(sen3_item(folder), spec=files_under(tmp_path), bands=()).compute()

    def unit(lat, lon):
        lat = np.radians(lat)
        lon = np.radians(lon)
        return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])

    apart = unit(got.latitude.values, got.longitude.values) - unit(swath.latitude, swath.longitude)
    assert np.linalg.norm(apart, axis=0).max() * 6371000 < 10


def test_row_times_are_utc(opened):
    """time.nc runs 18 s ahead, as GPS time does."""
    expected = np.datetime64("2024-06-01T10:21:07.250") + np.arange(ROWS) * np.timedelta64(44, "ms")
    np.testing.assert_array_equal(opened.time.values.astype("M8[ms]"), expected)
    assert opened.attrs["clock"] == "time.nc rows"


@pytest.mark.parametrize(
    ("changes", "clock", "start"),
    [
        ({"clock_offset_s": 0.0}, "time.nc rows", "2024-06-01T10:21:07.250"),
        ({"clock_offset_s": 17.0}, "time.nc rows", "2024-06-01T10:21:07.250"),
        ({"clock_offset_s": 300.0}, "frame interval", "2024-06-01T10:21:07.250"),
        (
            {"start": datetime(2019, 5, 30, 10), "clock_offset_s": 18.0},
            "frame interval",
            "2019-05-30T10:00:00.000",
        ),
    ],
)
def test_untrusted_row_times_give_way_to_the_frame(
    tmp_path, files_under, orbit, changes, clock, start
):
    swath, reflectance, cloud, land = orbit
    frame = replace(FRAME, **changes)
    rows = slice(0, ROWS)
    folder = write_sen3(
        tmp_path, reflectance[:, rows], swath.rows(0, ROWS), cloud[rows], land[rows], frame
    )
    got = open_syn(sen3_item(folder), spec=files_under(tmp_path), bands=())
    assert got.attrs["clock"] == clock
    expected = np.datetime64(start) + np.arange(ROWS) * np.timedelta64(44, "ms")
    assert np.abs(got.time.values - expected).max() < np.timedelta64(1100, "ms")
    if clock == "time.nc rows":
        np.testing.assert_array_equal(got.time.values.astype("M8[ms]"), expected)


def test_filled_rows_of_time_are_interpolated(copy, files_under):
    with h5netcdf.File(copy / "time.nc", "a") as file:
        file["Time"][[0, 20]] = -1
    got = open_syn(sen3_item(copy), spec=files_under(copy.parent), bands=())
    assert got.time.values[20].astype("M8[ms]") == np.datetime64("2024-06-01T10:21:08.130")
    assert got.attrs["clock"] == "time.nc rows"


def test_consecutive_frames_join_in_order_and_duplicates_go(archive, spec, orbit):
    names = (NEXT.name, replace(FRAME, timeliness="ST").name, FRAME.name)
    items = [sen3_item(archive / f"{name}.SEN3") for name in names]
    joined = open_syn(items, spec=spec, bands=("Oa08", "S6N")).compute()
    assert joined.attrs["item_ids"] == [FRAME.name, NEXT.name]  # NTC, not STC
    assert joined.sizes["row"] == 2 * ROWS
    swath, reflectance, cloud, land = orbit
    index = [S3_NAMES.index("Oa08"), S3_NAMES.index("S6N")]
    expected = np.where(land & ~cloud, reflectance[index], np.nan)
    np.testing.assert_allclose(joined.reflectance.values, expected.astype("float32"), rtol=1e-6)
    np.testing.assert_allclose(joined.latitude.values, swath.latitude, atol=1e-6)
    steps = np.diff(joined.time.values).astype("timedelta64[ms]").astype(int)
    assert set(steps) == {44}
    assert {r.item for r in joined.attrs["ledger"]} == {FRAME.name, NEXT.name}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sat:absolute_orbit": 99}, "consecutive"),
        ({"platform": "sentinel-3b"}, "consecutive"),
    ],
)
def test_frames_of_other_orbits_do_not_join(archive, spec, change, text):
    items = [sen3_item(archive / f"{name}.SEN3") for name in (FRAME.name, NEXT.name)]
    items[1].properties |= change
    with pytest.raises(ReadError, match=text):
        open_syn(items, spec=spec, bands=())


def test_frames_with_a_pause_between_do_not_join(archive, spec):
    items = [sen3_item(archive / f"{name}.SEN3") for name in (FRAME.name, NEXT.name)]
    later = datetime(2024, 6, 1, 10, 30, tzinfo=UTC)
    items[1].common_metadata.start_datetime = later
    items[1].common_metadata.end_datetime = later + timedelta(seconds=2)
    with pytest.raises(ReadError, match="consecutive"):
        open_syn(items, spec=spec, bands=())


def test_bbox_cuts_to_the_rows_and_columns_around_it(item, spec, opened):
    west, east = np.quantile(opened.longitude.values, [0.45, 0.55])
    south, north = np.quantile(opened.latitude.values, [0.45, 0.55])
    cut = open_syn(item, spec=spec, bands=("Oa08",), bbox=(west, south, east, north)).compute()
    assert 0 < cut.sizes["row"] < ROWS
    assert 0 < cut.sizes["column"] < COLUMNS

    def inside(swath):
        lat = swath.latitude.values
        lon = swath.longitude.values
        return (lat >= south) & (lat <= north) & (lon >= west) & (lon <= east)

    assert inside(cut).sum() == inside(opened).sum() > 0
    hit = np.flatnonzero(inside(cut).any(1))
    assert hit[0] == 4
    assert cut.sizes["row"] - hit[-1] == 5
    whole = opened.reflectance.sel(band="Oa08").values[inside(opened)]
    np.testing.assert_array_equal(cut.reflectance.values[0][inside(cut)], whole)


def test_bbox_elsewhere_is_an_error(item, spec):
    with pytest.raises(ReadError, match=f"{item.id}.*does not cover"):
        open_syn(item, spec=spec, bands=(), bbox=(10, 50, 11, 51))
    with pytest.raises(GridError, match="reversed"):
        open_syn(item, spec=spec, bands=(), bbox=(11, 50, 10, 51))


@pytest.mark.parametrize(
    ("file", "key"), [("Syn_S5N_reflectance.nc", "S5N"), ("flags.nc", "flags"), ("time.nc", "time")]
)
def test_missing_files_are_errors_or_flagged_holes(copy, files_under, file, key):
    (copy / file).unlink()
    item = sen3_item(copy)
    spec = files_under(copy.parent)
    with pytest.raises(ReadError, match=f"{item.id}.*{key}"):
        open_syn(item, spec=spec, bands=("Oa08", "S5N"))
    got = open_syn(item, spec=spec, bands=("Oa08", "S5N"), missing="flag").compute()
    assert (got.quality.values & Quality.ASSET_MISSING).all()
    assert [r.asset for r in got.attrs["ledger"] if r.status == "missing"] == [key]
    finite = np.isfinite(got.reflectance.values)
    assert finite[0].any()
    assert finite[1].any() == (key != "S5N")
    assert finite[0][got.valid.values].all()
    assert got.valid.any()
    assert got.attrs["clock"] == ("frame interval" if key == "time" else "time.nc rows")


@pytest.mark.parametrize(("band", "damage"), [("S5N", "gone"), ("Oa08", "cut")])
def test_an_unreadable_band_takes_nothing_from_valid(copy, files_under, opened, band, damage):
    path = copy / f"Syn_{band}_reflectance.nc"
    cut = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink() if damage == "gone" else path.write_bytes(cut)
    item = sen3_item(copy)
    got = open_syn(item, spec=files_under(copy.parent), missing="flag").compute()
    np.testing.assert_array_equal(got.valid.values, opened.valid.values)
    assert got.valid.any()
    assert not got.valid.all()
    lost = np.array(S3_NAMES) == band
    assert np.isnan(got.reflectance.values[lost]).all()
    np.testing.assert_array_equal(got.reflectance.values[~lost], opened.reflectance.values[~lost])
    np.testing.assert_array_equal(got.quality.values, opened.quality.values | Quality.ASSET_MISSING)
    (read,) = (r for r in got.attrs["ledger"] if r.status == "missing")
    assert (read.item, read.asset) == (item.id, band)
    assert item.id in read.cause
    assert band in read.cause


def test_without_any_band_nothing_is_valid(copy, files_under):
    for band in ("Oa08", "S5N"):
        (copy / f"Syn_{band}_reflectance.nc").unlink()
    got = open_syn(
        sen3_item(copy), spec=files_under(copy.parent), bands=("Oa08", "S5N"), missing="flag"
    ).compute()
    assert not got.valid.any()
    assert (got.quality.values & Quality.COARSE_MISSING).all()
    assert open_syn(
        sen3_item(copy), spec=files_under(copy.parent), bands=()
    ).valid.any()  # none asked for


def test_damaged_netcdf(copy, files_under):
    item = sen3_item(copy)
    spec = files_under(copy.parent)
    path = copy / "Syn_Oa08_reflectance.nc"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReadError, match=f"{item.id}.*Oa08"):
        open_syn(item, spec=spec, bands=("Oa08",))
    path.write_bytes(b"<!DOCTYPE html><html><body>Please log in</body></html>")
    with pytest.raises(AccessError, match=f"{item.id}.*Oa08.*login"):
        open_syn(item, spec=spec, bands=("Oa08",))
    path.write_bytes(whole)
    lazy = open_syn(item, spec=spec, bands=("Oa08",))
    lenient = open_syn(item, spec=spec, bands=("Oa08",), missing="flag")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReadError, match=f"{item.id}.*Oa08"):
        lazy.reflectance.compute()
    got = lenient.compute()
    assert np.isnan(got.reflectance).all()
    assert (got.quality.values & Quality.ASSET_MISSING).all()
    assert not got.valid.any()


def test_files_of_different_size_are_refused(copy, files_under, orbit, tmp_path):
    swath, reflectance, cloud, land = orbit
    short = replace(FRAME, rows=30)
    rows = slice(0, 30)
    other = write_sen3(
        tmp_path / "o", reflectance[:, rows], swath.rows(0, 30), cloud[rows], land[rows], short
    )
    shutil.copy(other / "Syn_Oa08_reflectance.nc", copy)
    with pytest.raises(ReadError, match="differ in size"):
        open_syn(sen3_item(copy), spec=files_under(copy.parent), bands=("Oa08", "Oa09"))


def test_unknown_band(item, spec):
    with pytest.raises(BandError, match="Oa13"):
        open_syn(item, spec=spec, bands=("Oa13",))
