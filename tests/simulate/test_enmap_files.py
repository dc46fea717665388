"""EnMAP folders: the band list is the sensor's, pixels and metadata survive."""

import csv
import xml.etree.ElementTree as ET
from datetime import datetime

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from satfuse.errors import BandError, GridError
from satfuse.simulate.archive.enmap_files import (
    EnmapScene,
    dead_bands,
    enmap_bands,
    layer_percentages,
    write_enmap,
)
from tests.simulate.xml_paths import assert_known

GEOBOX = GeoBox((50, 40), Affine(30, 0, 454245, 0, -30, 7246185), "EPSG:32736")
SCENE = EnmapScene(
    start=datetime(2024, 6, 30, 8, 20, 45, 211167), sun_elevation_deg=36.9, sun_azimuth_deg=26.67
)


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    random = np.random.default_rng(0)
    cube = random.uniform(0, 0.6, (224, *GEOBOX.shape)).astype("float32")
    cube[:, :5, :7] = np.nan
    quality = {"cloud": (random.random(GEOBOX.shape) < 0.25).astype("uint8")}
    wavelength_nm, fwhm_nm = enmap_bands()
    folder = tmp_path_factory.mktemp("enmap")
    path = write_enmap(
        folder, cube, GEOBOX, quality, SCENE, wavelength_nm=wavelength_nm, fwhm_nm=fwhm_nm
    )
    return path, cube, quality


def test_band_list_has_the_overlap_the_gaps_and_the_dead_channels():
    wavelength_nm, fwhm_nm = enmap_bands()
    assert len(wavelength_nm) == len(fwhm_nm) == 224
    assert np.flatnonzero(np.diff(wavelength_nm) < 0).tolist() == [90]
    assert (wavelength_nm[90], wavelength_nm[91]) == (993.34, 901.96)
    for low, high in ((1390.6, 1449.3), (1780.3, 1967.5)):
        assert not ((wavelength_nm > low) & (wavelength_nm < high)).any()
    assert np.flatnonzero(dead_bands(wavelength_nm)).tolist() == list(range(129, 135))


@pytest.mark.samples
def test_band_list_is_that_of_the_sensor(samples):
    with (samples / "srf" / "enmap.csv").open() as file:
        real = np.array([[float(v) for v in row] for row in list(csv.reader(file))[1:]])
    wavelength_nm, fwhm_nm = enmap_bands()
    # up to the first gap, which other versions of the product cut elsewhere
    first = np.argsort(wavelength_nm)[:135]
    assert np.abs(wavelength_nm[first] - real[:135, 0]).max() < 1
    alone = (real[:135, 0] < 890) | (real[:135, 0] > 1000)  # where the detectors do not alternate
    assert np.abs(fwhm_nm[first] - real[:135, 1])[alone].max() < 0.3


def test_pixels_survive(product):
    path, cube, quality = product
    with rasterio.open(path / f"{path.name}-SPECTRAL_IMAGE_COG.TIF") as image:
        numbers = image.read()
        assert image.nodata == -32768
        assert image.dtypes[0] == "int16"
        assert image.transform == GEOBOX.affine
        assert image.crs.to_epsg() == 32736
        assert image.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    dead = dead_bands(enmap_bands()[0])
    assert (numbers[dead] == -32768).all()
    assert (numbers[:, :5, :7] == -32768).all()
    alive = numbers[~dead] != -32768
    assert np.abs(numbers[~dead] * 1e-4 - cube[~dead])[alive].max() < 0.51e-4
    with rasterio.open(path / f"{path.name}-QL_QUALITY_CLOUD_COG.TIF") as image:
        np.testing.assert_array_equal(image.read(1), quality["cloud"])
    with rasterio.open(path / f"{path.name}-QL_QUALITY_CLASSES_COG.TIF") as image:
        assert (image.read(1) == 1).all()
        assert image.nodata == 3
    with rasterio.open(path / f"{path.name}-QL_PIXELMASK_COG.TIF") as image:
        assert image.count == 224
        assert image.dtypes[0] == "uint8"


def test_metadata_names_wavelengths_scale_and_dead_bands(product):
    path, cube, quality = product
    root = ET.parse(path / f"{path.name}-METADATA.XML").getroot()
    wavelength_nm, fwhm_nm = enmap_bands()
    bands = root.findall("specific/bandCharacterisation/bandID")
    assert [float(b.findtext("wavelengthCenterOfBand")) for b in bands] == wavelength_nm.tolist()
    assert [float(b.findtext("FWHMOfBand")) for b in bands] == fwhm_nm.tolist()
    scaling = {(b.findtext("GainOfBand"), b.findtext("OffsetOfBand")) for b in bands}
    assert scaling == {("0.0001", "0")}
    statistics = root.findall("product/bandStatistics/bandID")
    dead = [int(b.get("number")) for b in statistics if float(b.findtext("stdDeviation")) == 0]
    assert dead == list(range(130, 136))
    assert {float(statistics[n - 1].findtext("mean")) for n in dead} == {-1e6}
    assert float(statistics[0].findtext("mean")) == pytest.approx(np.nanmean(cube[0]), rel=1e-4)
    vnir, swir = (
        root.findtext(f"specific/{s}ProductQuality/expectedChannelsList").split(",")
        for s in ("vnir", "swir")
    )
    assert [int(n) for n in vnir + swir] == list(range(1, 225))
    assert len(vnir) == 91
    assert root.findtext("base/temporalCoverage/startTime") == "2024-06-30T08:20:45.211167Z"
    cloud_cover = int(root.findtext("specific/qualityFlag/cloudCover"))
    assert cloud_cover == layer_percentages(quality)["cloud"]


def test_footprint_is_that_of_the_grid(product):
    root = ET.parse(product[0] / f"{product[0].name}-METADATA.XML").getroot()
    points = {p.findtext("frame"): p for p in root.iter("point")}
    top, bottom = (float(points[f].findtext("latitude")) for f in ("upper_left", "lower_left"))
    # 50 px of 30 m, south of the equator; a degree of latitude has 110.8 km there
    assert (top - bottom) * 110.8e3 == pytest.approx(1500, rel=0.01)
    left, right = (float(points[f].findtext("longitude")) for f in ("upper_left", "upper_right"))
    assert right > left


def test_bad_input_is_named(tmp_path):
    wavelength_nm, fwhm_nm = enmap_bands()
    bands = {"wavelength_nm": wavelength_nm, "fwhm_nm": fwhm_nm}
    cube = np.zeros((224, *GEOBOX.shape), "float32")
    with pytest.raises(BandError, match="223 bands"):
        write_enmap(tmp_path, cube[1:], GEOBOX, {}, SCENE, **bands)
    with pytest.raises(BandError, match="smoke"):
        write_enmap(tmp_path, cube, GEOBOX, {"smoke": cube[0]}, SCENE, **bands)
    with pytest.raises(GridError, match="GeoBox"):
        write_enmap(tmp_path, cube[:, 1:], GEOBOX, {}, SCENE, **bands)


@pytest.mark.samples
def test_elements_are_those_of_the_real_metadata(product, unzipped):
    (real,) = unzipped("enmap_metadata/*.zip").glob("*METADATA.XML")
    assert_known(product[0] / f"{product[0].name}-METADATA.XML", real)
    assert len(product[0].name) == len(real.name.removesuffix("-METADATA.XML"))


@pytest.mark.samples
def test_layers_are_those_of_a_real_delivery(product, samples):
    (folder,) = (samples / "enmap_coast_patch").iterdir()
    path = product[0]
    for real in folder.glob("*QL_[QP]*.TIF"):
        simulated = path / f"{path.name}-{real.stem.split('-')[-1]}_COG.TIF"
        with rasterio.open(real) as theirs, rasterio.open(simulated) as ours:
            expected = (theirs.count, theirs.dtypes, theirs.nodata)
            assert (ours.count, ours.dtypes, ours.nodata) == expected, real.name
