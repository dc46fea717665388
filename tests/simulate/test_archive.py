"""An archive follows its recipe, its clocks and grids agree, and it is complete or no archive."""

import json
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest
import rasterio
import xarray as xr
from pyproj import Transformer
from scipy.optimize import least_squares

from satfuse.errors import ConfigError
from satfuse.sensors.bands import S3_NAMES
from satfuse.simulate.archive import make as archives
from satfuse.simulate.archive.make import ArchiveRecipe, make_archive, open_archive, tiles

NTC = "sentinel-3-syn-2-syn-ntc"
STC = "sentinel-3-syn-2-syn-stc"


def on_day(archive, recipe, collection, day=None):
    date = f"{day or recipe.day:%Y-%m-%d}"
    items = [i for i in archive.items[collection] if i.properties["datetime"].startswith(date)]
    return sorted(items, key=lambda i: i.id)


def swath(item, band):
    with xr.open_dataset(item.assets[f"syn_{band}_reflectance"].href) as values:
        reflectance = values[f"SDR_{band}"].values
    with xr.open_dataset(item.assets["geolocation"].href, mask_and_scale=False) as geolocation:
        return reflectance, geolocation.lat.values * 1e-6, geolocation.lon.values * 1e-6


def row_times(item):
    with xr.open_dataset(item.assets["time"].href, decode_times=False) as times:
        return np.datetime64("2000-01-01", "us") + times.Time.values.astype("timedelta64[us]")


def test_contents(small_archive):
    counts = {name: len(items) for name, items in small_archive.items.items()}
    assert counts == {"sentinel-2-l2a": 4, NTC: 3, STC: 1, "ENMAP_HSI_L2A": 1}
    collections = {
        json.loads(p.read_text())["id"] for p in (small_archive.root / "collections").glob("*.json")
    }
    assert collections == set(counts)


def test_gap_at_the_middle_of_the_field_is_exact(small_archive, small_recipe):
    second = on_day(small_archive, small_recipe, NTC)[1]
    _, lat, lon = swath(second, "Oa08")
    distance = np.hypot(lat - small_recipe.centre[0], lon - small_recipe.centre[1])
    row, _ = np.unravel_index(distance.argmin(), distance.shape)
    (tile, *_) = small_archive.root.glob("products/S2A*.SAFE/GRANULE/*/MTD_TL.xml")
    text = tile.read_text().split("<SENSING_TIME")[1].split(">")[1].split("Z<")[0]
    gap = row_times(second)[row] - np.timedelta64(18, "s") - np.datetime64(text, "us")
    assert gap == np.timedelta64(180, "s")


def test_frames_meet_on_the_field(small_archive, small_recipe):
    first, second = on_day(small_archive, small_recipe, NTC)
    assert first.properties["end_datetime"] == second.properties["start_datetime"]
    assert first.properties["sat:absolute_orbit"] == second.properties["sat:absolute_orbit"]
    assert row_times(second)[0] - row_times(first)[-1] == np.timedelta64(44, "ms")
    _, lat1, lon1 = swath(first, "Oa08")
    _, lat2, lon2 = swath(second, "Oa08")
    step = np.hypot(lat2[0] - lat1[-1], (lon2[0] - lon1[-1]) * np.cos(np.radians(58.3))) * 111.2e3
    np.testing.assert_allclose(step, 295, atol=2)
    middle = lat1.shape[1] // 2
    assert lat1[-1, middle] > small_recipe.centre[0] - 0.003 > lat2[10, middle]


def test_stc_is_the_same_frame_as_an_ntc(small_archive, small_recipe):
    (stc,) = small_archive.items[STC]
    ntc = on_day(small_archive, small_recipe, NTC)[0]
    assert stc.properties["start_datetime"] == ntc.properties["start_datetime"]
    assert stc.id != ntc.id
    for a, b in zip(swath(stc, "S3N"), swath(ntc, "S3N"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tiles_overlap_and_cover_the_field(small_recipe):
    by_name = tiles(small_recipe.geobox, 60)
    west, east = (g.boundingbox for g in by_name.values())
    field = small_recipe.geobox.boundingbox
    assert list(by_name) == ["35VME", "35VNE"]
    assert west.right - east.left == 600
    assert west.left < field.left
    assert east.right > field.right
    assert min(west.top, east.top) > field.top
    assert max(west.bottom, east.bottom) < field.bottom
    for geobox in by_name.values():
        assert not any(v % 60 for v in (*geobox.boundingbox.bbox, *(10 * n for n in geobox.shape)))


def test_overlapping_tiles_show_the_same_ground(small_archive, small_recipe):
    images = []
    for item in on_day(small_archive, small_recipe, "sentinel-2-l2a"):
        with rasterio.open(item.assets["B08_10m"].href) as image:
            images.append((image.read(1).astype(float), image.bounds))
    (west, west_bounds), (east, east_bounds) = images
    columns = round((west_bounds.right - east_bounds.left) / 10)
    difference = west[:, -columns:] - east[:, :columns]
    assert columns == 60
    assert np.std(difference) < 3 * small_recipe.noise * 1e4
    assert np.std(west[:, -columns:]) > 5 * np.std(difference)


def test_sentinel2_shows_the_truth(small_archive, small_recipe):
    with xr.open_zarr(small_archive.truth, consolidated=False) as truth:
        expected = truth.reflectance.sel(band="Oa17").values[:, :300]
        x = truth.x.values
        y = truth.y.values
    bounds = (x[0] - 5, y[-1] - 5, x[300] - 5, y[0] + 5)
    item = on_day(small_archive, small_recipe, "sentinel-2-l2a")[0]
    with rasterio.open(item.assets["B08_10m"].href) as image:
        reflectance = (image.read(1, window=image.window(*bounds)) - 1000.0) / 1e4
    with rasterio.open(item.assets["SCL_20m"].href) as image:
        scl = image.read(1, window=image.window(*bounds)).repeat(2, 0).repeat(2, 1)
    clear = np.isin(scl, (4, 5, 6))
    assert np.corrcoef(reflectance[clear], expected[clear])[0, 1] > 0.97


def test_sentinel3_pixels_are_psf_means_of_the_truth(small_archive, small_recipe):
    """Position, shift, gain, scale and orientation in one: an explicit Gaussian mean per pixel."""
    with xr.open_zarr(small_archive.truth, consolidated=False) as truth:
        fine = truth.reflectance.sel(band="Oa17").values
        x = truth.x.values
        y = truth.y.values
        gain = truth.attrs["gain"][S3_NAMES.index("Oa17")]
        sigma = truth.attrs["psf_sigma"] * 300
    coarse, lat, lon = swath(on_day(small_archive, small_recipe, NTC)[1], "Oa17")
    east, north = Transformer.from_crs(4326, 32635, always_xy=True).transform(lon, lat)
    inside = (
        (east > x[0] + 800) & (east < x[-1] - 800) & (north < y[0] - 800) & (north > y[-1] + 800)
    )
    inside &= np.isfinite(coarse)
    assert inside.sum() > 80

    def mean(east, north):
        wx, wy = (np.exp(-(((axis - p) / sigma) ** 2) / 2) for axis, p in ((x, east), (y, north)))
        return wy @ fine @ wx / (wx.sum() * wy.sum())

    def residual(shift):
        places = zip(east[inside] - shift[0], north[inside] - shift[1], strict=True)
        return np.array([mean(*place) for place in places]) * gain - coarse[inside]

    fitted = least_squares(
        residual, [0.0, 0.0], loss="soft_l1", f_scale=0.003, x_scale=10, diff_step=1e-3
    ).x
    np.testing.assert_allclose(fitted, small_recipe.shift_m, atol=3)  # metres, of 300 m pixels
    assert np.median(np.abs(residual(small_recipe.shift_m))) < 1.5 * small_recipe.noise


def test_flags_mark_water_where_the_truth_is_water(small_archive, small_recipe):
    with xr.open_zarr(small_archive.truth, consolidated=False) as truth:
        dark = (truth.reflectance.sel(band="Oa21") < 0.02).load()
    to_map = Transformer.from_crs("EPSG:4326", small_recipe.geobox.crs.proj, always_xy=True)
    marked = []
    share = []
    for item in on_day(small_archive, small_recipe, NTC):
        _, lat, lon = swath(item, "Oa08")
        with xr.open_dataset(item.assets["flags"].href) as flags:
            fresh = (flags.OLC_flags.values & 1024) > 0
            assert ((flags.SYN_flags.values & 16) > 0).all()  # no sea here
            np.testing.assert_array_equal(fresh, (flags.SLN_flags.values & 4096) > 0)
        east, north = (
            v - s for v, s in zip(to_map.transform(lon, lat), small_recipe.shift_m, strict=True)
        )
        box = small_recipe.geobox.boundingbox
        inside = abs(east - (box.left + box.right) / 2) < 2850
        inside &= abs(north - (box.bottom + box.top) / 2) < 2850
        for x, y, wet in zip(east[inside], north[inside], fresh[inside], strict=True):
            square = dark.sel(x=slice(x - 150, x + 150), y=slice(y + 150, y - 150))
            share.append(float(square.mean()))
            marked.append(bool(wet))
    marked = np.array(marked)
    share = np.array(share)
    assert len(share) > 300
    assert (share > 0.8).any()
    assert marked[share > 0.8].all()
    assert not marked[share < 0.2].any()


def test_the_second_date_is_cloudy(small_archive, small_recipe):
    clear, cloudy = (
        on_day(small_archive, small_recipe, NTC, day)[0].properties["eo:cloud_cover"]
        for day in (small_recipe.day, small_recipe.cloudy_day)
    )
    assert clear < 5
    assert cloudy > 40


def test_a_complete_archive_is_reused(small_archive, small_recipe):
    before = {p: p.stat().st_mtime_ns for p in small_archive.root.rglob("*") if p.is_file()}
    again = make_archive(small_archive.root, small_recipe, workers=1)
    assert {p: p.stat().st_mtime_ns for p in small_archive.root.rglob("*") if p.is_file()} == before
    assert again.truth == small_archive.truth


def test_an_interrupted_archive_is_no_archive(tmp_path, small_recipe, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "_jobs", lambda _: [(archives._make_enmap, (0,)), (fail, (1,))])
    with pytest.raises(KeyboardInterrupt):
        make_archive(tmp_path, small_recipe, workers=1)
    assert list((tmp_path / "products").iterdir())
    with pytest.raises(ConfigError, match="no complete archive"):
        open_archive(tmp_path)
    monkeypatch.setattr(archives, "_jobs", lambda _: [(archives._make_enmap, (0,))])
    steps = []
    whole = make_archive(
        tmp_path, small_recipe, workers=1, progress=lambda *step: steps.append(step)
    )
    (items,) = whole.items.values()
    assert steps == [(1, 1, items[0].id)]
    assert len(items) == 1


def test_equal_recipes_make_equal_pixels(tmp_path, small_recipe, small_archive):
    (item,) = small_archive.items["ENMAP_HSI_L2A"]
    archives._make_enmap(tmp_path, replace(small_recipe), 0)
    (again,) = tmp_path.glob("products/*/*SPECTRAL_IMAGE_COG.TIF")
    with rasterio.open(item.assets["image"].href) as a, rasterio.open(again) as b:
        np.testing.assert_array_equal(a.read(), b.read())


def test_digest_differs_between_recipes(small_recipe):
    assert replace(small_recipe).digest == small_recipe.digest
    assert replace(small_recipe, gap_s=181.0).digest != small_recipe.digest


def test_invalid_recipes_are_rejected():
    with pytest.raises(ConfigError, match="enmap_scenes=99"):
        ArchiveRecipe(enmap_scenes=99)
    with pytest.raises(ConfigError, match="tile_overlap_px"):
        ArchiveRecipe(tile_overlap_px=50)


def test_default_times_are_those_of_a_summer_morning():
    recipe = ArchiveRecipe()
    after_8 = recipe.sensing_time(recipe.day) - datetime(2024, 7, 4, 8)
    assert timedelta(0) < after_8 < timedelta(hours=2)
    clouds = recipe.clouds(recipe.day)
    assert 30 < clouds.sun_zenith_deg < 45
    assert 130 < clouds.sun_azimuth_deg < 180
