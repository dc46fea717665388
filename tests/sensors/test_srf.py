"""Spectral responses: weights, coverage, and agreement with ESA's tables."""

import re
import xml.etree.ElementTree as ET
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satfuse.errors import BandError
from satfuse.sensors.bands import (
    S2_BANDS,
    S2_NAMES,
    S2C_CENTRE_FWHM_NM,
    S3_BANDS,
    S3_ENMAP_NAMES,
    S3_NAMES,
    bands,
    wavelengths_nm,
)
from satfuse.sensors.srf import PLATFORMS, response, srf_matrix

FINE = np.arange(350.0, 2600.0, 1.0)


def names_of(platform):
    return S2_NAMES if platform.startswith("S2") else S3_NAMES


# Centre/FWHM in nm, computed from ESA's published responses (MSI 4.0, OLCI mean, SLSTR).
MEASURED = {
    "S2A": "442.70/19.7 492.72/64.3 559.85/34.8 664.62/30.6 704.11/14.0 740.49/13.6 "
    "782.75/19.0 832.77/104.8 864.70/20.5 945.05/19.5 1613.68/89.7 2202.37/173.6",
    "S2B": "442.25/20.2 492.34/64.9 558.95/35.1 664.95/30.3 703.82/14.2 739.13/13.6 "
    "779.71/19.8 832.95/104.9 863.97/20.7 943.17/19.5 1610.41/93.5 2185.71/183.4",
    "S3A": "400.30/14.0 411.85/9.8 442.96/9.9 490.49/10.0 510.47/10.0 554.09/19.3 560.45/10.0 "
    "620.41/9.9 659.40/19.3 665.27/10.0 674.03/7.5 681.57/7.5 709.11/10.0 754.18/7.5 "
    "779.26/15.0 865.43/20.0 867.79/20.6 884.31/10.0 1015.80/27.0 1613.10/66.7 2255.75/51.4",
    "S3B": "400.59/13.3 411.95/9.9 442.99/9.9 490.40/10.0 510.40/10.0 555.69/19.2 560.37/10.0 "
    "620.28/9.9 659.94/19.6 665.13/10.0 673.87/7.5 681.39/7.5 708.98/10.0 754.03/7.5 "
    "779.08/15.0 865.27/19.9 867.61/20.8 884.13/10.0 1015.73/26.9 1611.63/66.7 2253.11/50.4",
}
COARSELY_STEPPED = ("Oa01", "Oa21")  # an edge, or a peak, narrower than the table's 2.5 nm


def centre_fwhm(wavelength, values):
    grid = np.arange(wavelength[0], wavelength[-1], 0.05)
    values = np.interp(grid, wavelength, values)
    above = grid[values >= values.max() / 2]
    return (grid * values).sum() / values.sum(), above[-1] - above[0]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_rows_sum_to_one_and_constants_are_kept(platform):
    weights, coverage = srf_matrix(platform, names_of(platform), FINE)
    assert np.allclose(weights.sum(1), 1)
    assert np.allclose(coverage, 1)
    assert (weights >= 0).all()
    assert np.allclose(weights @ np.full(len(FINE), 0.37), 0.37)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_ramp_reads_the_centre_of_the_band(platform):
    names = names_of(platform)
    weights, _ = srf_matrix(platform, names, FINE)
    centres = [centre_fwhm(*response(platform, n))[0] for n in names]
    assert np.allclose(weights @ FINE, centres, atol=0.6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_order_of_samples_does_not_matter(seed):
    """EnMAP's detectors overlap: the samples come in any order, some of them unusable."""
    rng = np.random.default_rng(seed)
    wavelength = np.concatenate([np.arange(418.0, 994, 6.5), np.arange(902.0, 2446, 11.5)])
    spectrum = 0.3 + 0.1 * np.sin(wavelength / 150)
    usable = rng.random(len(wavelength)) > 0.1
    order = rng.permutation(len(wavelength))
    straight, covered = srf_matrix("S3A", S3_NAMES, wavelength, usable=usable)
    mixed, covered_mixed = srf_matrix("S3A", S3_NAMES, wavelength[order], usable=usable[order])
    assert np.allclose(covered, covered_mixed)
    assert np.allclose(straight @ spectrum, mixed @ spectrum[order], equal_nan=True)
    assert not np.nan_to_num(straight)[:, ~usable].any()


def test_bands_outside_the_spectrum_are_nan_not_invented():
    """EnMAP starts at 418 nm: Oa01 and Oa02 have no row."""
    wavelength = np.concatenate([np.arange(418.2, 993.2, 6.4), np.arange(902.3, 2446, 11.6)])
    weights, coverage = srf_matrix("S3A", S3_NAMES, wavelength)
    uncovered = [n for n, row in zip(S3_NAMES, weights, strict=True) if np.isnan(row).all()]
    assert uncovered == ["Oa01", "Oa02"]
    assert tuple(n for n in S3_NAMES if n not in uncovered) == S3_ENMAP_NAMES
    assert (coverage[:2] < 0.5).all()
    assert (coverage[2:] > 0.95).all()


def test_a_gap_in_the_samples_is_not_bridged():
    usable = (FINE < 1500) | (FINE > 1700)
    weights, _ = srf_matrix("S2A", ["B11", "B12"], FINE, usable=usable)
    assert np.isnan(weights[0]).all()
    assert np.isfinite(weights[1]).all()


def test_bands_are_ascending_in_nominal_wavelength():
    assert list(wavelengths_nm(S3_NAMES)) == sorted(wavelengths_nm(S3_NAMES))
    assert len(S3_NAMES) == 21
    assert len(S2_NAMES) == 12
    assert [b.gsd_m for b in bands(["B02", "B05", "B09"])] == [10, 20, 60]


def test_unknown_names_are_refused():
    for call in (
        lambda: response("S2D", "B02"),
        lambda: response("S2A", "Oa01"),
        lambda: bands(["B99"]),
    ):
        with pytest.raises(BandError, match=r"unknown|no band"):
            call()


def table_of(path):
    """Band name -> (n, 2) wavelength in nm and response, from ESA's text table."""
    rows = {}
    name = None
    for line in path.read_text().splitlines():
        if title := re.match(r"^[#;]+\s*(?:\S+\s+)?band\s+(\S+)\s*$", line, re.IGNORECASE):
            name = title[1]
            rows[name] = []
        elif name and line.strip() and line[0] not in "#;":
            rows[name].append([float(v) for v in line.split()])
    to_nm = 1000 if "SLSTR" in path.name else 1  # the tables of SLSTR are in micrometres
    return {name: np.array(values) * [to_nm, 1] for name, values in rows.items()}


def key_in(table, band):
    """Name of a band in ESA's table: "B02" is B02, B2 or 02, "S1N" is S1."""
    short = band[1:].lstrip("0") if band.startswith("B") else band.removesuffix("N")
    return next(k for k in (band, short, band[1:]) if k in table)


def assert_like(platform, name, expected_centre, expected_width):
    centre, width = centre_fwhm(*response(platform, name))
    assert centre == pytest.approx(expected_centre, abs=0.5), name
    tolerance = 1.6 if name in COARSELY_STEPPED else 1
    assert width == pytest.approx(expected_width, abs=tolerance), name


@pytest.mark.samples
@pytest.mark.parametrize("platform", PLATFORMS)
def test_centres_and_widths_agree_with_the_published_tables(samples, platform):
    instruments = ["MSI_V4"] if platform.startswith("S2") else ["OLCI", "SLSTR"]
    files = [samples / "srf" / f"{platform}_{instrument}.txt" for instrument in instruments]
    tables = {name: table for file in files for name, table in table_of(file).items()}
    for name in names_of(platform):
        published = tables[key_in(tables, name)]
        assert_like(platform, name, *centre_fwhm(published[:, 0], published[:, 1]))


@pytest.mark.parametrize("platform", MEASURED)
def test_centres_and_widths_are_the_measured_ones(platform):
    for name, measured in zip(names_of(platform), MEASURED[platform].split(), strict=True):
        assert_like(platform, name, *map(float, measured.split("/")))


@pytest.mark.parametrize(("platform", "table"), [("S2A", S2_BANDS), ("S3A", S3_BANDS)])
def test_nominal_bands_agree_with_their_responses(platform, table):
    for band in table:
        centre, width = centre_fwhm(*response(platform, band.name))
        tolerance = 5 if band.wavelength_nm < 1100 else 13
        assert centre == pytest.approx(band.wavelength_nm, abs=tolerance), band.name
        if band.name != "Oa21":  # the detector's sensitivity falls off within it
            assert width == pytest.approx(band.fwhm_nm, rel=0.3, abs=5), band.name


@pytest.mark.samples
def test_centres_agree_with_the_product_metadata(samples):
    """MTD_MSIL2A.xml carries the responses of S2A in steps of 1 nm."""
    (path,) = samples.glob("s3_syn_senegal/S2A*20230911*.SAFE.zip")
    with zipfile.ZipFile(path) as archive:
        member = next(n for n in archive.namelist() if n.endswith("MTD_MSIL2A.xml"))
        root = ET.fromstring(archive.read(member))
    compared = 0
    for information in root.iter("Spectral_Information"):
        name = information.get("physicalBand")
        name = name if name == "B8A" else f"B{int(name[1:]):02d}"
        if name in S2_NAMES:
            values = np.array(information.findtext("Spectral_Response/VALUES").split(), float)
            wavelength = float(information.findtext("Wavelength/MIN")) + np.arange(len(values))
            expected, _ = centre_fwhm(wavelength, values)
            centre, _ = centre_fwhm(*response("S2A", name))
            tolerance = 6 if name > "B1" else 2
            assert centre == pytest.approx(expected, abs=tolerance), name
            compared += 1
    assert compared == 12


def test_s2c_is_built_from_its_measured_numbers():
    for name, (centre, width) in S2C_CENTRE_FWHM_NM.items():
        assert centre_fwhm(*response("S2C", name)) == pytest.approx((centre, width), abs=1.5)
