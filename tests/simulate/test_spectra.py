"""Endmember spectra have the well-known features of such surfaces."""

import numpy as np
import pytest

from satfuse.simulate import spectra

NAMES, REFLECTANCE = spectra.endmembers()


def at(name, *wavelengths_nm):
    """Reflectance of an endmember at wavelengths."""
    return np.interp(wavelengths_nm, spectra.WAVELENGTH_NM, REFLECTANCE[NAMES.index(name)])


def ndvi(name):
    red, infrared = at(name, 665, 865)
    return (infrared - red) / (infrared + red)


def test_shape_and_range():
    assert REFLECTANCE.shape == (len(NAMES), 2121) == (len(set(NAMES)), len(spectra.WAVELENGTH_NM))
    assert spectra.WAVELENGTH_NM[0] == 380
    assert spectra.WAVELENGTH_NM[-1] == 2500
    assert np.isfinite(REFLECTANCE).all()
    assert REFLECTANCE.min() >= 0
    assert REFLECTANCE.max() < 1
    assert np.abs(np.diff(REFLECTANCE)).max() < 0.02, "spectra of solids are smooth at 1 nm"
    with pytest.raises(ValueError, match="read-only"):
        REFLECTANCE[0, 0] = 0


def test_endmembers_are_linearly_independent():
    assert np.linalg.matrix_rank(REFLECTANCE, tol=0.02) >= len(NAMES) - 3


@pytest.mark.parametrize("name", ["vegetation_dense", "vegetation_sparse", "conifer"])
def test_green_vegetation(name):
    blue, green, red, edge, infrared, dip970, top1080, swir, dip1450, dip1940 = at(
        name, 480, 555, 675, 715, 865, 975, 1080, 1650, 1450, 1940
    )
    assert ndvi(name) > 0.7
    assert green > 1.5 * blue
    assert green > 1.5 * red
    assert red < edge < infrared
    assert dip970 < infrared
    assert dip970 < top1080
    assert dip1940 < dip1450 < swir < infrared


def test_dry_vegetation_has_no_chlorophyll_but_cellulose():
    assert 0.1 < ndvi("vegetation_dry") < 0.4
    assert at("vegetation_dry", 2100) < at("vegetation_dry", 2210)
    assert at("vegetation_dry", 1650) > at("vegetation_dry", 865)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("soil", "sand"))])
def test_soils_rise_and_absorb_clay_and_water(name):
    visible = at(name, 400, 500, 600, 700, 800)
    assert (np.diff(visible) > 0).all()
    assert abs(ndvi(name)) < 0.25
    assert at(name, 1930) < at(name, 1800)
    left, clay, right = at(name, 2140, 2205, 2275)
    assert name == "soil_moist" or clay < (left + right) / 2


def test_soil_and_sand_brightness_order():
    moist, dark, bright = (at(f"soil_{n}", 1650)[0] for n in ("moist", "dark", "bright"))
    assert moist < dark < bright
    assert at("sand_bright", 865) > 0.45
    assert at("sand_bright", 865) > at("sand_dark", 865)
    # iron: red soil and sand rise steeply between 500 and 650 nm
    for name in ("soil_red", "sand_bright", "sand_dark"):
        assert at(name, 650) > 1.8 * at(name, 500)


@pytest.mark.parametrize("name", ["water_clear", "water_turbid"])
def test_water_is_dark_and_decreases(name):
    green, red, infrared, swir = at(name, 560, 665, 865, 1610)
    assert 0.01 < green < 0.12
    assert green > red > infrared > swir
    assert swir < 0.005
    assert ndvi(name) < 0
    assert at("water_turbid", 665) > 3 * at("water_clear", 665)


def test_snow_bright_in_visible_dark_in_swir():
    green, swir = at("snow", 560, 1610)
    assert green > 0.85
    assert swir < 0.15
    assert (green - swir) / (green + swir) > 0.7  # NDSI; snow is above 0.4
    for dip, shoulder in ((1030, 1090), (1250, 1100), (1500, 1850), (2010, 2250)):
        assert at("snow", dip) < at("snow", shoulder)


def test_cloud_is_bright_also_in_swir():
    cloud = spectra.cloud()
    assert cloud[:400].min() > 0.75
    assert np.interp(1610, spectra.WAVELENGTH_NM, cloud) > 3 * at("snow", 1610)


def test_water_absorption_against_published_values():
    # Pope & Fry (1997) at 550 and 650 nm; Kou et al. (1993) at 975 and 1195 nm: 1/m
    nm = [550, 650, 975, 1195, 1600]
    absorption = np.interp(nm, spectra.WAVELENGTH_NM, spectra.water_absorption_per_m())
    np.testing.assert_allclose(absorption, [0.0565, 0.340, 45, 125, 670], rtol=0.25)
