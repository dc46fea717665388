"""Files of a SEN3 folder other than the nadir bands.

Oblique view, aerosol, water flags, altitude, weather and tie points.
"""

import xml.etree.ElementTree as ET
from datetime import datetime

import numpy as np
import pytest
import xarray as xr
from pyproj import Geod

from satfuse.catalog.specs import local_catalog
from satfuse.readers.sentinel3_syn import open_syn, sen3_item
from satfuse.simulate.archive.sen3 import write_sen3
from satfuse.simulate.archive.sen3_swath import SynFrame, swath_grid

ROWS = 60
COLUMNS = 130
FRAME = SynFrame(
    platform="S3A",
    start=datetime(2024, 7, 4, 9, 0, 0, 123456),
    rows=ROWS,
    relative_orbit=37,
    cycle=84,
    frame=2700,
)
SWATH = swath_grid(58.4, 26.6, rows=ROWS, columns=COLUMNS)
OBLIQUE = ("S1O", "S2O", "S3O", "S5O", "S6O")
RETRIEVED = (
    ("Syn_AOT550", "T550"),
    ("Syn_AOT550", "T550_err"),
    ("Syn_Angstrom_exp550", "A550"),
    ("Syn_AMIN", "AMIN"),
)


class Scene:
    """A sea in the first rows, a lake, a mountain, a few clouds."""

    random = np.random.default_rng(0)
    reflectance = random.uniform(0, 0.7, (21, ROWS, COLUMNS)).astype("float32")
    oblique = random.uniform(0, 0.7, (5, ROWS, COLUMNS)).astype("float32")
    cloud = random.random((ROWS, COLUMNS)) < 0.1
    water = np.zeros((ROWS, COLUMNS))
    water[:10] = 1
    water[10] = 0.4
    water[30:40, 20:40] = 0.9
    land = np.ones((ROWS, COLUMNS), bool)
    land[:10] = False
    altitude_m = np.linspace(0, 2500, ROWS)[:, None] + np.zeros(COLUMNS)


@pytest.fixture(scope="module")
def sen3(tmp_path_factory):
    return write_sen3(
        tmp_path_factory.mktemp("sen3"),
        Scene.reflectance,
        SWATH,
        Scene.cloud,
        Scene.land,
        FRAME,
        water=Scene.water,
        altitude_m=Scene.altitude_m,
        oblique=Scene.oblique,
    )


def raw(sen3, stem):
    with xr.open_dataset(sen3 / f"{stem}.nc", decode_cf=False) as dataset:
        return dataset.load()


def objects(manifest):
    """ID of every data object -> file and description."""
    elements = ET.parse(manifest).getroot().iter("dataObject")
    locations = {e.get("ID"): e.find("byteStream/fileLocation") for e in elements}
    return {key: (e.get("href"), e.get("textInfo")) for key, e in locations.items()}


def units(manifest):
    """Content units in their order: number, kind, text, and the object that each refers to."""
    elements = [e for e in ET.parse(manifest).getroot().iter() if e.tag.endswith("contentUnit")]
    pointers = [(e, e.find("dataObjectPointer")) for e in elements]
    return [
        (e.get("ID"), e.get("unitType"), e.get("textInfo"), pointer.get("dataObjectID"))
        for e, pointer in pointers
        if pointer is not None
    ]


def bands(manifest):
    """Every band description: name, centre, width, and the channels of the three instruments."""
    elements = [e for e in ET.parse(manifest).getroot().iter() if e.tag.endswith("}band")]
    return [
        (e.get("name"), *(child.text for child in e))
        for e in elements
        if e.get("name", "").startswith("SYN")
    ]


@pytest.mark.samples
def test_objects_units_and_bands_of_the_manifest_are_those_of_the_real_product(sen3, unzipped):
    real = next(unzipped("s3_syn_senegal/S3B*.zip").glob("*.SEN3")) / "xfdumanifest.xml"
    ours = sen3 / "xfdumanifest.xml"
    assert list(objects(ours).items()) == list(objects(real).items())
    assert len(objects(real)) == 38
    assert units(ours) == units(real)
    assert len(units(real)) == 38
    assert bands(ours) == bands(real)
    assert len(bands(real)) == 26


def test_oblique_bands_fill_the_eastern_half(sen3):
    half = np.arange(COLUMNS) >= COLUMNS // 2
    for i, band in enumerate(OBLIQUE):
        with xr.open_dataset(sen3 / f"Syn_{band}_reflectance.nc") as dataset:
            values = dataset[f"SDR_{band}"].values
            assert np.isnan(dataset[f"SDR_{band}_err"]).all()
        expected = Scene.land & ~Scene.cloud & half
        np.testing.assert_array_equal(np.isfinite(values), expected)
        assert np.abs(values - Scene.oblique[i])[expected].max() < 0.51e-4
    oblique = raw(sen3, "Syn_S5O_reflectance").SDR_S5O
    nadir = raw(sen3, "Syn_S5N_reflectance").SDR_S5N
    differing = {k for k in nadir.attrs if nadir.attrs[k] != oblique.attrs[k]}
    assert oblique.dtype == nadir.dtype
    assert differing == {"ancillary_variables", "long_name"}
    assert oblique.long_name.endswith("SLSTR channel 05 acquired in oblique view")


def test_flags_mark_sea_lake_shore_and_pixels_outside_the_oblique_view(sen3):
    flags = raw(sen3, "flags")

    def is_set(name, meaning):
        masks = dict(zip(flags[name].flag_meanings.split(), flags[name].flag_masks, strict=True))
        return (flags[name].values & masks[f"{name[:3]}_{meaning}"]) > 0

    lake = np.zeros_like(Scene.land)
    lake[30:40, 20:40] = True
    shore = lake.copy()
    shore[10] = True
    for name, fresh in (("OLC_flags", "fresh_inland_water"), ("SLN_flags", "inland_water")):
        np.testing.assert_array_equal(is_set(name, fresh), lake)
        np.testing.assert_array_equal(is_set(name, "coastline"), shore)
        np.testing.assert_array_equal(is_set(name, "land"), Scene.land)
    np.testing.assert_array_equal(is_set("SLN_flags", "ocean"), ~Scene.land)
    outside = np.broadcast_to(np.arange(COLUMNS) < COLUMNS // 2, Scene.land.shape)
    np.testing.assert_array_equal(is_set("SYN_flags", "no_slo"), outside)
    np.testing.assert_array_equal(is_set("SLO_flags", "unfilled"), outside)
    np.testing.assert_array_equal(is_set("SLO_flags", "land"), Scene.land & ~outside)


def test_aerosol_is_where_reflectance_was_retrieved(sen3):
    limits = {"T550": (0.05, 0.2), "T550_err": (0.01, 0.05), "A550": (1.29, 1.31), "AMIN": (1, 1)}
    retrieved = Scene.land & ~Scene.cloud
    for stem, name in RETRIEVED:
        with xr.open_dataset(sen3 / f"{stem}.nc") as dataset:
            values = dataset[name].values
        assert values.shape == retrieved.shape
        np.testing.assert_array_equal(np.isfinite(values), retrieved)
        low, high = limits[name]
        assert values[retrieved].min() >= low
        assert values[retrieved].max() <= high
    types = {name: raw(sen3, stem)[name].dtype.name for stem, name in RETRIEVED}
    assert types == {"T550": "int16", "T550_err": "int16", "A550": "uint8", "AMIN": "uint8"}


def test_removed_pixels_have_every_variable_and_no_value(sen3):
    removed = raw(sen3, "Syn_SDR_removed_pixel")
    flags = raw(sen3, "Syn_annot_rem")
    assert removed.sizes == {"rows": ROWS, "removed_pixels": 3} == flags.sizes
    assert sum(name.startswith("SDR_") for name in removed.variables) == 52
    assert set(flags) == set(raw(sen3, "flags"))
    assert {n for n in removed.variables if not n.startswith("SDR_")} == {n for _, n in RETRIEVED}
    assert all((v == v.attrs["_FillValue"]).all() for v in removed.values())


def test_altitude_and_weather_agree(sen3):
    np.testing.assert_array_equal(raw(sen3, "geolocation").altitude, np.rint(Scene.altitude_m))
    weather = raw(sen3, "tiepoints_meteo")
    assert all(v.dtype == "float32" and v.attrs["_FillValue"] == -1 for v in weather.values())
    assert weather.sizes == raw(sen3, "tiepoints_olci").sizes == {"olc_number_tp": 4 * ROWS}
    pressure = weather.air_pressure.values.reshape(4, ROWS)  # column after column
    assert (pressure == pressure[0]).all()
    assert (np.diff(pressure[0]) < 0).all()
    # ICAO standard atmosphere: 1013.25 hPa at 0 m, 746.8 hPa at 2500 m
    assert pressure[0, [0, -1]] == pytest.approx([1013.25, 746.8], abs=0.3)


def test_slstr_tie_points_cover_both_views(sen3):
    nadir = raw(sen3, "tiepoints_slstr_n")
    oblique = raw(sen3, "tiepoints_slstr_o")
    assert nadir.sizes == {"sln_number_tp": 20 * 44}
    assert oblique.sizes == {"slo_number_tp": 20 * 22}
    for ties, key, first in ((nadir, "SLN", 0), (oblique, "SLO", COLUMNS // 2)):
        assert {n: v.dtype.name for n, v in ties.items()} == {
            f"{key}_TP_lat": "float64",
            f"{key}_TP_lon": "float64",
            f"{key}_VAA": "float32",
            f"{key}_VZA": "float32",
        }
        expected = SWATH.latitude[::3, first::3].T.ravel()  # column after column
        np.testing.assert_array_equal(ties[f"{key}_TP_lat"], expected)
    np.testing.assert_allclose(nadir.SLN_VZA, SWATH.view_zenith[::3, ::3].T.ravel(), atol=1e-4)


def test_the_oblique_view_is_from_the_same_track(sen3):
    """From a point, the satellite is as far to the side of its track in both views."""
    oblique = raw(sen3, "tiepoints_slstr_o")
    view_zenith, view_azimuth = (
        values[::3, COLUMNS // 2 :: 3].T.ravel()
        for values in (SWATH.view_zenith, SWATH.view_azimuth)
    )
    assert len(view_azimuth) == len(oblique.SLO_VAA)
    ends = (SWATH.longitude[[0, -1], 60], SWATH.latitude[[0, -1], 60])
    (lon_0, lon_1), (lat_0, lat_1) = ends
    along, *_ = Geod(a=6371008.8, b=6371008.8).inv(lon_0, lat_0, lon_1, lat_1)
    to_track = np.radians(oblique.SLO_VAA - along)
    aside = np.tan(np.radians(55)) * np.sin(to_track)
    across = np.tan(np.radians(view_zenith)) * np.sin(np.radians(view_azimuth - along))
    np.testing.assert_allclose(aside, across, atol=0.03)
    assert (np.cos(to_track) > 0.9).all()
    assert (oblique.SLO_VZA == 55).all()


def test_the_reader_masks_the_sea_but_not_the_lake(sen3):
    item = sen3_item(sen3)
    assert len(item.assets) == 39
    swath = open_syn(item, spec=local_catalog("http://localhost", sen3.parent))
    np.testing.assert_array_equal(swath["valid"].values, Scene.land & ~Scene.cloud)
