"""The spectral library: cleaned, split without near copies, and mixed into physical pixels."""

from pathlib import Path

import numpy as np
import pytest

from satfuse.errors import ConfigError
from satfuse.sensors.bands import S3_NAMES
from satfuse.sensors.srf import srf_matrix
from satfuse.simulate.scenes import measured
from satfuse.simulate.scenes.library import (
    KINDS,
    draw_members,
    draw_spectra,
    load_library,
    moisten,
    shade,
)
from satfuse.simulate.scenes.measured import to_grid


@pytest.fixture
def parametric(monkeypatch):
    monkeypatch.setenv("SATFUSE_SAMPLE_DATA", "/nowhere")
    return load_library()


@pytest.fixture(scope="module")
def sides(samples):
    return load_library(samples), load_library(samples, split="test")


def at(library, spectra, nm):
    return spectra[:, np.argmin(abs(library.wavelength_nm - nm))]


def test_without_samples_the_library_is_parametric_and_covers_every_material(parametric):
    assert not parametric.measured
    assert len(parametric) >= 100
    assert set(parametric.material) == {"vegetation", "soil", "artificial", "water", "snow"}
    assert set(parametric.source) == {"parametric"}
    test = load_library(split="test")
    assert set(test.material) == set(parametric.material)
    assert not set(test.name) & set(parametric.name)


def test_a_missing_folder_and_an_unknown_split_are_rejected():
    with pytest.raises(ConfigError, match="no folder"):
        load_library(Path("/nowhere"))
    with pytest.raises(ConfigError, match="split"):
        load_library(split="validation")


@pytest.mark.samples
def test_measured_spectra_are_clean_and_cover_all_21_bands(sides):
    for library in sides:
        assert library.measured
        assert library.reflectance.dtype == np.float32
        assert library.reflectance.shape == (len(library), 425)
        assert library.reflectance.min() >= 0
        assert library.reflectance.max() <= 1
        _, coverage = srf_matrix("S3A", S3_NAMES, library.wavelength_nm)
        assert (coverage > 0.99).all()
        assert S3_NAMES[:2] == ("Oa01", "Oa02")
        assert len(np.unique(library.name)) == len(library)
        assert "emit_artificial_materials_0117" not in library.name
        assert "ecostress_with_mixtures_0919" not in library.name
        ecostress = [n for n in library.name if n.startswith("ecostress_with_mixtures_")]
        assert all(int(n[-4:]) < 1041 for n in ecostress)


@pytest.mark.samples
def test_the_later_rows_of_ecostress_are_mixtures_of_the_earlier_ones(samples):
    """Why they are left out: each combines entries that may belong to the other side."""
    import xarray as xr
    from scipy.optimize import nnls

    with xr.open_dataset(samples / "spectra" / "ecostress_with_mixtures.nc") as file:
        rows = file.reflectance.values
    for i in range(1041, 2041, 200):
        assert nnls(rows[:1041].T, rows[i])[1] / np.sqrt(rows.shape[1]) < 1e-4


@pytest.mark.samples
def test_no_near_copy_is_on_both_sides(sides):
    train, test = sides
    assert not set(train.name) & set(test.name)
    assert not set(test.source) & {"jasper", "sjer"}
    assert "harv" not in train.source
    for material in np.unique(test.material):
        a, b = (x.reflectance[x.material == material].astype(float) for x in sides)
        cosine = (a @ b.T) / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
        assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).min() > 0.29, material
    for material in ("vegetation", "soil", "artificial", "water", "snow"):
        counts = [(library.material == material).sum() for library in sides]
        assert 0.05 < counts[1] / sum(counts) < 0.4, material
    whole = load_library(split="all")
    assert len(whole) == len(train) + len(test)
    assert np.array_equal(load_library().name, train.name)


@pytest.mark.samples
def test_materials_have_the_expected_spectra(sides):
    library = sides[0]

    def of(material, nm):
        return at(library, library.reflectance[library.material == material], nm)

    def ndvi(material):
        red = of(material, 665)
        near_infrared = of(material, 865)
        return (near_infrared - red) / (near_infrared + red + 1e-6)

    assert np.median(ndvi("vegetation")) > 0.6
    assert abs(np.median(ndvi("soil"))) < 0.3
    assert np.median(of("water", 1610)) < 0.03
    assert np.median(of("snow", 555)) > 0.5
    assert np.median(of("snow", 1610)) < 0.2
    assert np.median(of("soil", 2250) / of("soil", 490)) > 2


@pytest.mark.samples
def test_potsdam_is_never_opened(samples, monkeypatch):
    opened = []

    def spy(module, name):
        original = getattr(module, name)

        def record(path, *args, **kwargs):
            opened.append(str(path))
            return original(path, *args, **kwargs)

        monkeypatch.setattr(module, name, record)

    spy(measured.xr, "open_dataset")
    spy(measured.rasterio, "open")
    spy(measured.h5py, "File")
    load_library(samples, split="all")
    assert len(opened) >= 10
    assert {Path(p).parent.name for p in opened} == {"spectra", "airborne"}


def test_airborne_gaps_are_bridged_and_the_blue_end_is_extrapolated():
    nm = np.arange(390.0, 2500, 10)
    ground = 0.1 + 1e-4 * (nm - 390)
    broken = ground.copy()
    broken[(nm >= 1340) & (nm <= 1440)] = 1.5
    broken[nm < 420] = 0.0
    out = to_grid(nm, broken[None], masked=((1335, 1450),), start_nm=420)[0]
    expected = 0.1 + 1e-4 * (measured.WAVELENGTH_NM - 390)
    np.testing.assert_allclose(out, np.minimum(expected, ground[-1]), atol=1e-6)


def test_draws_are_deterministic_physical_and_span_dark_to_bright(parametric):
    a, b = (draw_spectra(parametric, np.random.default_rng(7), 3000) for _ in range(2))
    assert np.array_equal(a, b)
    assert a.shape == (3000, 425)
    assert a.dtype == np.float32
    assert np.isfinite(a).all()
    assert a.min() >= 0
    assert a.max() <= 1.6
    red, near, swir = (at(parametric, a, nm) for nm in (665, 865, 1610))
    assert np.mean(near < 0.03) > 0.05, "dark water"
    assert np.mean((red > 0.6) & (swir < 0.3)) > 0.02, "snow"
    assert np.mean((near - red) / (near + red + 1e-6) > 0.6) > 0.1, "vegetation"
    assert np.mean((red > 0.25) & (swir > red)) > 0.05, "bright soil"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_drawn_alone(parametric, kind):
    drawn = draw_spectra(parametric, np.random.default_rng(1), 50, kind=kind)
    assert drawn.shape == (50, 425)
    assert drawn.std(0).max() > 0


@pytest.mark.samples
def test_four_thousand_soils_do_not_crowd_out_the_others(sides):
    library = sides[0]
    rows = draw_members(library, np.random.default_rng(0), 20000, {"soil": 0.5, "vegetation": 0.5})
    assert abs(np.mean(library.material[rows] == "soil") - 0.5) < 0.02
    isric = np.mean(library.source[rows] == "isric") / np.mean(library.material[rows] == "soil")
    assert 0.5 < isric < 0.75 < np.mean(library.source[library.material == "soil"] == "isric")


def test_wet_soil_is_darker_especially_in_water_bands():
    dry = np.full((2, 425), 0.4, np.float32)
    wet = moisten(dry, np.array([0.0, 1.0]))
    np.testing.assert_allclose(wet[0], dry[0])
    nm = measured.WAVELENGTH_NM
    assert wet[1, nm == 1930] < 0.5 * wet[1, nm == 1610] < 0.5 * wet[1, nm == 560] < 0.11


def test_shade_is_dark_and_blue():
    out = shade(np.full((2, 425), 0.4, np.float32), np.array([1.0, 0.0]))
    np.testing.assert_allclose(out[0], 0.4, rtol=1e-6)
    assert (np.diff(out[1]) < 0).all()
    assert out[1, 14] == pytest.approx(0.1, rel=0.01)
