"""The readers on real products; what is asserted was measured on the files."""

import zipfile
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pystac
import pytest
import rasterio
from odc.geo.geobox import GeoBox

from satfuse.catalog.specs import local_catalog
from satfuse.errors import ReadError
from satfuse.readers.enmap import enmap_item, open_enmap
from satfuse.readers.sentinel2 import metadata, open_sentinel2, safe_item
from satfuse.readers.sentinel3_syn import open_syn, sen3_item
from satfuse.sensors.bands import S2_BANDS
from satfuse.sensors.quality import Quality

pytestmark = pytest.mark.samples
SENEGAL_BANDS = ("Oa04", "Oa06", "Oa08", "Oa17")


def unpack(samples, pattern, folder):
    (archive,) = samples.glob(pattern)
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return next(path for path in folder.iterdir() if path.suffix in (".SAFE", ".SEN3"))


def catalogue(root):
    return local_catalog("http://127.0.0.1:7822", root)


@pytest.fixture(scope="module")
def senegal(samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("senegal")
    return sen3_item(unpack(samples, "s3_syn_senegal/S3B*.zip", folder)), catalogue(folder)


@pytest.fixture(scope="module")
def ireland(samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ireland")
    return safe_item(unpack(samples, "s2_safe_29UNU/*.zip", folder)), catalogue(folder)


def test_senegal_names_the_files_that_are_missing(senegal):
    item, spec = senegal
    with pytest.raises(ReadError, match=r"S3B_SY_2_SYN____20230912T112023.*Oa01"):
        open_syn(item, spec=spec)
    with pytest.raises(ReadError, match="flags"):
        open_syn(item, spec=spec, bands=SENEGAL_BANDS)


def test_senegal_swath_from_tie_points(senegal):
    item, spec = senegal
    swath = open_syn(item, spec=spec, bands=SENEGAL_BANDS, missing="flag")
    assert swath.sizes == {"band": 4, "row": 4090, "column": 4865}
    assert float(swath.latitude[0, 0]) == pytest.approx(20.932967, abs=1e-6)
    assert float(swath.longitude[-1, -1]) == pytest.approx(-16.443088, abs=1e-6)
    assert swath.time.values[0] == np.datetime64("2023-09-12T11:20:23.277373")  # the file says 18 s later
    assert swath.attrs["clock"] == "time.nc rows" and swath.attrs["platform"] == "S3B"
    status = {r.asset: r.status for r in swath.attrs["ledger"]}
    assert status["geolocation"] == "replaced" and status["flags"] == "missing"
    valid = swath.valid.compute()
    assert 0.032 < float(valid.mean()) < 0.033
    assert (swath.quality[2000:2100, 2000:2100].values & Quality.ASSET_MISSING).all()


def test_senegal_box_of_the_sentinel2_tile(senegal):
    item, spec = senegal
    cut = open_syn(item, spec=spec, bands=SENEGAL_BANDS, missing="flag", bbox=(-16.08, 12.56, -15.06, 13.57))
    cut = cut.compute()
    assert 300 < cut.sizes["row"] < 600 and 300 < cut.sizes["column"] < 600
    assert np.isfinite(cut.reflectance.values[:, cut.valid.values]).all()
    near_infrared, red = (cut.reflectance.sel(band=b).where(cut.valid).median().item() for b in ("Oa17", "Oa08"))
    assert 0.02 < red < 0.2 < near_infrared < 0.5  # green land, brightened by thin cloud that flags.nc would tell
    assert 15 < float(cut.sun_zenith.mean()) < 35 and 10 < float(cut.view_zenith.mean()) < 30
    assert 95 < float(cut.sun_azimuth.mean()) < 130  # 11:20 UTC at 15.5 W: the sun stands high in the east
    assert 270 < float(cut.view_azimuth.mean()) < 300  # east of the track: the satellite is in the west


def test_senegal_sentinel2_metadata(samples, tmp_path):
    item = safe_item(unpack(samples, "s3_syn_senegal/S2A*20230911*.SAFE.zip", tmp_path))
    facts = metadata(item, catalogue(tmp_path))
    assert facts.baseline == "05.09" and set(facts.offsets.values()) == {-1000}
    assert facts.sensing_time - item.datetime > np.timedelta64(10, "m").astype(object)
    assert facts.clock == "MTD_TL SENSING_TIME"


def test_ireland_metadata_and_missing_bands(ireland):
    item, spec = ireland
    facts = metadata(item, spec)
    assert (facts.platform, facts.baseline, facts.offsets["B02"]) == ("S2A", "04.00", -1000)
    assert facts.sensing_time == datetime(2022, 10, 5, 11, 56, 49, 581767, tzinfo=UTC)
    assert facts.sun_zenith_deg == pytest.approx(57.8206, abs=1e-3)
    assert facts.view_zenith_deg == pytest.approx(9.2, abs=0.2)
    assert facts.view_azimuth_deg == pytest.approx(290, abs=2)
    grid = GeoBox.from_bbox((499980, 5890200, 609780, 6000000), crs="EPSG:32629", resolution=60)
    with pytest.raises(ReadError, match=rf"{item.id}.*B02_10m"):
        open_sentinel2(item, grid, spec=spec, bands=("B02",))


def test_ireland_scene_classification(ireland):
    item, spec = ireland
    item = item.clone()
    item.assets["SCL_20m"] = item.assets["SCL_60m"]  # the sample has the 60 m layer only
    with rasterio.open(item.assets["SCL_60m"].href) as image:
        stored, grid = image.read(1), GeoBox((1830, 1830), image.transform, image.crs)
    got = open_sentinel2(item, grid, spec=spec, bands=()).compute()
    np.testing.assert_array_equal(got.scl.values, stored)
    assert float((got.scl == 0).mean()) == pytest.approx(0.404, abs=1e-3)
    cloud = (got.quality.values & Quality.GUIDE_CLOUD) > 0
    assert float(cloud.mean()) == pytest.approx(0.36, abs=0.02)
    assert not got.valid.values[(got.scl.values == 0) | cloud].any()


def cell_item(folder, tmp_path, grids, scl, names):
    """An item for a Major-TOM cell: JP2 on the grids given, SCL made of one class."""
    keys = catalogue("/").assets["sentinel2"]
    item = pystac.Item(folder.name, None, None, datetime(2020, 2, 23, tzinfo=UTC), {"platform": "sentinel-2b"})
    for name in names:
        with rasterio.open(next(folder.glob(f"{name}*.jp2"))) as image:
            numbers, gsd_m = image.read(1), int(image.transform.a)
        path = tmp_path / f"{name}.tif"
        height, width = numbers.shape
        profile = {"driver": "GTiff", "count": 1, "dtype": "uint16", "height": height, "width": width}
        with rasterio.open(path, "w", **profile, nodata=0, crs=grids["crs"], transform=grids[gsd_m]) as image:
            image.write(numbers, 1)
        item.add_asset(keys[name], pystac.Asset(str(path)))
    path = tmp_path / "SCL.tif"
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "height": 534, "width": 534}
    with rasterio.open(path, "w", **profile, nodata=0, crs=grids["crs"], transform=grids[20]) as image:
        image.write(np.full((1, 534, 534), scl, "uint8"))
    item.add_asset(keys["SCL"], pystac.Asset(str(path)))
    return item


def grids_at(origins, crs):
    return {"crs": crs} | {gsd: rasterio.transform.from_origin(*xy, gsd, gsd) for gsd, xy in origins.items()}


THAILAND_10 = (362610, 1987090)
THAILAND = {10: THAILAND_10, 20: (362620, 1987080), 60: (362640, 1987080)}


@pytest.mark.parametrize("origins", ["true", "as stored"])
def test_thailand_bands_fit_each_other_on_their_true_grids_only(samples, tmp_path, origins):
    """The stored transform is nominal: taken at its word, the 20 m bands lie half a pixel off in both axes."""
    (folder,) = (samples / "s2_l2a_thailand").glob("S2B*")
    corners = THAILAND if origins == "true" else dict.fromkeys(THAILAND, THAILAND_10)
    item = cell_item(folder, tmp_path, grids_at(corners, "EPSG:32648"), 5, ("B08", "B8A"))
    inside = GeoBox((1000, 1000), rasterio.transform.from_origin(362700, 1987000, 10, 10), "EPSG:32648")
    got = open_sentinel2(item, inside, spec=catalogue(tmp_path), bands=("B08", "B8A"), boa_offset=0).compute()
    b08, b8a = got.reflectance.values.astype(float)
    # Of two bands so alike, the 10 m one is moved by -10, 0, 10 m: where does it fit best?
    fits = {
        (dx, dy): np.corrcoef(
            b08[10 + dy : 990 + dy, 10 + dx : 990 + dx].ravel(), b8a[10:990, 10:990].ravel()
        )[0, 1]
        for dx in (-1, 0, 1) for dy in (-1, 0, 1)
    }  # fmt: skip
    assert max(fits, key=fits.get) == ((0, 0) if origins == "true" else (1, 1))


def test_thailand_all_bands_without_an_offset(samples, tmp_path):
    """N9999 is processed after 2022 but has no offset: the darkest digital numbers are near 0."""
    (folder,) = (samples / "s2_l2a_thailand").glob("S2B*")
    names = tuple(b.name for b in S2_BANDS)
    item = cell_item(folder, tmp_path, grids_at(THAILAND, "EPSG:32648"), 5, names)
    inside = GeoBox((600, 600), rasterio.transform.from_origin(364800, 1984800, 10, 10), "EPSG:32648")
    got = open_sentinel2(item, inside, spec=catalogue(tmp_path), boa_offset=0).compute()
    assert got.valid.all() and np.isfinite(got.reflectance).all()
    medians = got.reflectance.median(("y", "x")).values
    assert ((medians > 0.02) & (medians < 0.45)).all()
    vegetation = (got.reflectance.sel(band="B08") - got.reflectance.sel(band="B04")).median()
    assert float(vegetation) > 0.05
    # The rule for services that ship no metadata finds the same: an older baseline and dark numbers near 0 agree.
    spec = catalogue(tmp_path)
    spec = replace(spec, radiometry={"sentinel2": "baseline"})
    item.properties["s2:processing_baseline"] = "02.14"
    ruled = open_sentinel2(item, inside, spec=spec, bands=("B03",))
    assert ruled.attrs["offsets"] == [{"B03": 0}]


def test_congo_cirrus_needs_its_offset_and_no_mask_shows_the_cloud(samples, tmp_path):
    (folder,) = (samples / "s2_l2a_congo_cirrus").glob("S2A*")
    with rasterio.open(folder / "B8A.jp2") as image:
        left, top = image.transform.c, image.transform.f
        crs = image.crs
    item = cell_item(folder, tmp_path, grids_at({10: (left, top), 20: (left, top)}, crs), 5, ("B02", "B8A"))
    grid = GeoBox((500, 500), rasterio.transform.from_origin(left, top, 10, 10), crs)
    got = open_sentinel2(item, grid, spec=catalogue(tmp_path), bands=("B02", "B8A"), boa_offset=-1000).compute()
    assert float(got.reflectance.sel(band="B02").median()) == pytest.approx(0.19, abs=0.01)
    with rasterio.open(folder / "cloud_mask.tif") as image:
        assert image.read(1).max() == 0  # the cell is under cirrus throughout, and this mask says clear
    assert float((got.reflectance.sel(band="B02") > 0.1).mean()) > 0.95


def test_potsdam_tiles(samples):
    spec = catalogue(samples)
    for path in sorted((samples / "enmap_potsdam_block_s/images").glob("*.tif")):
        got = open_enmap(enmap_item(path), spec=spec, missing="flag")
        assert got.attrs["wavelengths_from"] == "band tags"
        assert list(got.band.values[~got.usable.values]) == [*range(130, 136), *range(164, 168)]
        assert list(np.flatnonzero(np.diff(got.wavelength_nm.values) <= 0)) == [90]
    got = got.compute()
    assert got.sizes == {"band": 224, "y": 32, "x": 32} and got.odc.geobox.crs.epsg == 32633
    assert np.isnan(got.reflectance[129:135]).all() and got.valid.all()
    assert float(got.reflectance.min()) > -0.01 and float(got.reflectance.max()) < 1.5
    with rasterio.open(path) as image:
        stored = image.read(51) * 1e-4
    np.testing.assert_allclose(got.reflectance.sel(band=51).values, stored, rtol=1e-6)


def test_coast_patch_lacks_its_metadata(samples):
    (folder,) = (samples / "enmap_coast_patch").iterdir()
    with pytest.raises(ReadError, match=r"ENMAP01.*METADATA\.XML"):
        open_enmap(enmap_item(folder), spec=catalogue(samples))


def test_coast_patch_refuses_metadata_of_another_layout(samples, tmp_path):
    """The official METADATA.XML at hand is of before the launch: 218 bands, a background value of 0."""
    (folder,) = (samples / "enmap_coast_patch").iterdir()
    (archive,) = (samples / "enmap_metadata").glob("*.zip")
    item, path = enmap_item(folder), tmp_path / "METADATA.XML"
    with zipfile.ZipFile(archive) as file:
        path.write_bytes(file.read(file.namelist()[0]))
    item.add_asset("metadata", pystac.Asset(str(path)))
    with pytest.raises(ReadError, match="describes 218 bands, the image has 224"):
        open_enmap(item, spec=catalogue("/"))


def test_coast_patch_dead_bands_and_negative_water(samples, tmp_path):
    """With wavelengths lent by another scene: dead bands are found in the data, negative values stay."""
    (source,) = (samples / "enmap_coast_patch").glob("*/*-SPECTRAL_IMAGE.TIF")
    with rasterio.open(source) as image:
        numbers, profile = image.read(), image.profile
    with rasterio.open(next((samples / "enmap_potsdam_block_s/images").glob("*.tif"))) as image:
        wavelengths = [image.tags(i)["wavelength"] for i in image.indexes]
    path = tmp_path / source.name
    with rasterio.open(path, "w", **profile) as image:
        image.write(numbers)
        image.scales = [1e-4] * len(numbers)
        for i, nm in enumerate(wavelengths, start=1):
            image.update_tags(i, wavelength=nm)
    got = open_enmap(enmap_item(path), spec=catalogue(tmp_path), missing="flag").compute()
    empty = np.isnan(got.reflectance.values).all((1, 2))
    assert list(np.flatnonzero(empty) + 1) == [*range(127, 142), *range(161, 168)]
    assert not got.usable.values[empty].any() and got.usable.values[~empty].all()
    values = got.reflectance.values[~empty]
    assert (values[np.isfinite(values)] < 0).mean() == pytest.approx(0.4, abs=0.02)
