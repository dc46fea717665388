"""The readers on real products; the expected values were measured on the files."""

import zipfile
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pystac
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from scipy import ndimage

from benchmarks import sample_data
from benchmarks.sample_data import SENEGAL_BANDS, catalogue, unpack
from benchmarks.samples import correlations
from satfuse import cube as cubes
from satfuse.errors import RadiometryError, ReadError
from satfuse.geometry.resample import block_mean
from satfuse.geometry.shift import estimate_shift
from satfuse.readers.enmap import enmap_item, open_enmap
from satfuse.readers.sentinel2 import metadata, open_sentinel2, safe_item
from satfuse.readers.sentinel3_syn import open_syn, sen3_item
from satfuse.sensors.encoding import SCALE
from satfuse.sensors.quality import Quality

pytestmark = pytest.mark.samples


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
    # the file says 18 s later
    assert swath.time.values[0] == np.datetime64("2023-09-12T11:20:23.277373")
    assert swath.attrs["clock"] == "time.nc rows"
    assert swath.attrs["platform"] == "S3B"
    status = {r.asset: r.status for r in swath.attrs["ledger"]}
    assert status["geolocation"] == "replaced"
    assert status["flags"] == "missing"
    valid = swath.valid.compute()
    assert 0.032 < float(valid.mean()) < 0.033
    assert (swath.quality[2000:2100, 2000:2100].values & Quality.ASSET_MISSING).all()


def test_senegal_box_of_the_sentinel2_tile(senegal):
    item, spec = senegal
    box = (-16.08, 12.56, -15.06, 13.57)
    swath = open_syn(item, spec=spec, bands=SENEGAL_BANDS, missing="flag", bbox=box)
    cut = swath.compute()
    assert 300 < cut.sizes["row"] < 600
    assert 300 < cut.sizes["column"] < 600
    assert np.isfinite(cut.reflectance.values[:, cut.valid.values]).all()
    near_infrared, red = (
        cut.reflectance.sel(band=b).where(cut.valid).median().item() for b in ("Oa17", "Oa08")
    )
    # green land, brightened by thin cloud, which only flags.nc would mask
    assert 0.02 < red < 0.2 < near_infrared < 0.5
    assert 15 < float(cut.sun_zenith.mean()) < 35
    assert 10 < float(cut.view_zenith.mean()) < 30
    # 11:20 UTC at 15.5 W: the sun is high in the east
    assert 95 < float(cut.sun_azimuth.mean()) < 130
    # east of the track: the satellite is in the west
    assert 270 < float(cut.view_azimuth.mean()) < 300


def test_senegal_sentinel2_metadata(samples, tmp_path):
    item = safe_item(unpack(samples, "s3_syn_senegal/S2A*20230911*.SAFE.zip", tmp_path))
    facts = metadata(item, catalogue(tmp_path))
    assert facts.baseline == "05.09"
    assert set(facts.offsets.values()) == {-1000}
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
        stored = image.read(1)
        grid = GeoBox((1830, 1830), image.transform, image.crs)
    got = open_sentinel2(item, grid, spec=spec, bands=()).compute()
    np.testing.assert_array_equal(got.scl.values, stored)
    assert float((got.scl == 0).mean()) == pytest.approx(0.404, abs=1e-3)
    cloud = (got.quality.values & Quality.GUIDE_CLOUD) > 0
    assert float(cloud.mean()) == pytest.approx(0.36, abs=0.02)
    assert not got.valid.values[(got.scl.values == 0) | cloud].any()


THAILAND_BOX = GeoBox(
    (600, 600), rasterio.transform.from_origin(364800, 1984800, 10, 10), "EPSG:32648"
)


@pytest.mark.parametrize(
    ("corners", "best"),
    [(sample_data.THAILAND, (0, 0)), (sample_data.THAILAND_STORED, (10, -10))],
    ids=["true", "stored"],
)
def test_thailand_bands_fit_each_other_on_their_true_grids_only(samples, tmp_path, corners, best):
    """The stored transform is nominal: it puts the 20 m bands half a pixel off in both axes."""
    names = ("B08", "B8A")
    item = sample_data.thailand(samples, tmp_path, corners=corners, names=names)
    got = open_sentinel2(item, THAILAND_BOX, spec=catalogue(tmp_path), bands=names, boa_offset=0)
    fits = correlations(*got.reflectance.values.astype(float))
    assert max(fits, key=fits.get) == best


def test_thailand_60_m_band_fits_on_its_true_grid(samples, tmp_path):
    """B01 against B02, degraded in the same way.

    The 60 m grid begins 30 m east and 10 m south of the 10 m grid.
    """
    item = sample_data.thailand(samples, tmp_path, names=("B01", "B02"))
    got = open_sentinel2(
        item, THAILAND_BOX, spec=catalogue(tmp_path), bands=("B01", "B02"), boa_offset=0
    )
    b01, b02 = got.reflectance.values.astype(float)
    fits = correlations(ndimage.gaussian_filter(b02, 3), b01)
    assert max(fits, key=fits.get) == (0, 0)


def test_thailand_all_bands_without_an_offset(samples, tmp_path):
    """N9999 is processed after 2022 but has no offset: the darkest digital numbers are near 0."""
    item = sample_data.thailand(samples, tmp_path)
    spec = catalogue(tmp_path)
    got = open_sentinel2(item, THAILAND_BOX, spec=spec, boa_offset=0).compute()
    assert got.valid.all()
    assert np.isfinite(got.reflectance).all()
    medians = got.reflectance.median(("y", "x")).values
    assert ((medians > 0.02) & (medians < 0.45)).all()
    vegetation = (got.reflectance.sel(band="B08") - got.reflectance.sel(band="B04")).median()
    assert float(vegetation) > 0.05
    # Without the product's metadata: the baseline 99.99 alone would mean -1000, which the data
    # contradict.
    with pytest.raises(RadiometryError, match="MTD_MSIL2A"):
        open_sentinel2(item, THAILAND_BOX, spec=spec, bands=("B03",))
    spec = replace(spec, radiometry={"sentinel2": "baseline"})
    with pytest.raises(RadiometryError, match="the data show the opposite"):
        open_sentinel2(item, THAILAND_BOX, spec=spec, bands=("B03",))
    item.properties["s2:processing_baseline"] = "02.14"
    ruled = open_sentinel2(item, THAILAND_BOX, spec=spec, bands=("B03",))
    assert ruled.attrs["offsets"] == [{"B03": 0}]


def test_congo_cirrus_needs_its_offset_and_no_mask_shows_the_cloud(samples, tmp_path):
    item = sample_data.congo(samples, tmp_path)
    left, top, crs = sample_data.congo_corner(samples)
    grid = GeoBox((500, 500), rasterio.transform.from_origin(left, top, 10, 10), crs)
    spec = catalogue(tmp_path)
    got = open_sentinel2(item, grid, spec=spec, bands=("B02", "B8A"), boa_offset=-1000).compute()
    assert float(got.reflectance.sel(band="B02").median()) == pytest.approx(0.19, abs=0.01)
    with rasterio.open(next(samples.glob("s2_l2a_congo_cirrus/S2A*/cloud_mask.tif"))) as image:
        assert image.read(1).max() == 0  # cirrus covers the whole cell, and the mask says clear
    assert float((got.reflectance.sel(band="B02") > 0.1).mean()) > 0.95
    # Cirrus is high, so every band shows it at another place: that shift is not one of the ground.
    blue, infrared = block_mean(got.reflectance.values, 2)  # B8A has pixels of 20 m
    shift = estimate_shift(blue[None], infrared[None], pixel_m=20)
    assert not shift.trusted
    assert 30 < np.hypot(shift.dx_m, shift.dy_m) < 80


def test_potsdam_tiles(samples):
    spec = catalogue(samples)
    for path in sorted((samples / "enmap_potsdam_block_s/images").glob("*.tif")):
        got = open_enmap(enmap_item(path), spec=spec, missing="flag")
        assert got.attrs["wavelengths_from"] == "band tags"
        assert list(got.band.values[~got.usable.values]) == [*range(130, 136), *range(164, 168)]
        assert list(np.flatnonzero(np.diff(got.wavelength_nm.values) <= 0)) == [90]
    got = got.compute()
    assert got.sizes == {"band": 224, "y": 32, "x": 32}
    assert got.odc.geobox.crs.epsg == 32633
    assert np.isnan(got.reflectance[129:135]).all()
    assert got.valid.all()
    assert float(got.reflectance.min()) > -0.01
    assert float(got.reflectance.max()) < 1.5
    with rasterio.open(path) as image:
        stored = image.read(51) * SCALE
    np.testing.assert_allclose(got.reflectance.sel(band=51).values, stored, rtol=1e-6)


def test_coast_patch_lacks_its_metadata(samples):
    (folder,) = (samples / "enmap_coast_patch").iterdir()
    with pytest.raises(ReadError, match=r"ENMAP01.*METADATA\.XML"):
        open_enmap(enmap_item(folder), spec=catalogue(samples))


def test_coast_patch_refuses_metadata_of_another_layout(samples, tmp_path):
    """The official METADATA.XML is from before the launch: 218 bands, a background value of 0."""
    (folder,) = (samples / "enmap_coast_patch").iterdir()
    (archive,) = (samples / "enmap_metadata").glob("*.zip")
    item = enmap_item(folder)
    path = tmp_path / "METADATA.XML"
    with zipfile.ZipFile(archive) as file:
        path.write_bytes(file.read(file.namelist()[0]))
    item.add_asset("metadata", pystac.Asset(str(path)))
    with pytest.raises(ReadError, match="describes 218 bands, the image has 224"):
        open_enmap(item, spec=catalogue("/"))


def test_coast_patch_dead_bands_and_negative_water(samples, tmp_path):
    """With wavelengths borrowed from another scene, dead bands are detected.

    Negative values are kept, also in a cube.
    """
    item = enmap_item(sample_data.coast_with_wavelengths(samples, tmp_path))
    got = open_enmap(item, spec=catalogue(tmp_path)).compute()
    assert got.valid.all()
    status = {r.asset: r.status for r in got.attrs["ledger"]}
    assert status["metadata"] == "replaced"
    empty = np.isnan(got.reflectance.values).all((1, 2))
    assert list(np.flatnonzero(empty) + 1) == [*range(127, 142), *range(161, 168)]
    assert not got.usable.values[empty].any()
    assert got.usable.values[~empty].all()
    values = got.reflectance.values[~empty]
    assert (values[np.isfinite(values)] < 0).mean() == pytest.approx(0.4, abs=0.02)
    cube = cubes.build({"coast": got}, tmp_path / "cube.zarr", split={"coast": "train"})
    scene = cube.open_scene("coast", decode=True).load()
    assert scene.valid.all()
    assert np.isfinite(scene.target).all()
    mean = scene.target.mean(("y", "x"))
    assert float(mean.sel(band="Oa06")) == pytest.approx(0.028, abs=0.002)
    assert float(mean.sel(band="Oa17")) < 0
