"""`satfuse.fuse`: fusing two arrays that a user already has."""

from functools import cache

import numpy as np
import pytest
import xarray as xr
from odc.geo.xr import xr_coords

from satfuse.errors import BandError, GridError, ProductError, RadiometryError
from satfuse.geometry.grids import coarse_geobox, snap_geobox
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.degradation import degrade
from satfuse.sensors.quality import Quality
from satfuse.sensors.srf import srf_matrix
from satfuse.simulate.spectra import WAVELENGTH_NM, endmembers
from tests.product_scene import RATIO, truth

pytest.importorskip("torch")

import satfuse

BOX = snap_geobox("EPSG:32631", 388800, 3394500, 388800 + 6300, 3394500 + 5400)
SHAPE = tuple(BOX.shape)
FEW = S3_NAMES[::4]


SURFACES = ("vegetation_dense", "soil_bright", "soil_dark", "water_turbid")


@cache
def textured(shape, platform, names):
    """(band, y, x) mixtures of four surfaces whose shares are rough at every scale."""
    fields = np.random.default_rng(0).normal(size=(4, *shape))
    wave = np.hypot(
        *np.meshgrid(np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1]), indexing="ij")
    )
    fields = np.fft.irfft2(np.fft.rfft2(fields) / np.maximum(wave, 1 / shape[0]) ** 1.5, shape)
    fields = (fields - fields.mean((1, 2), keepdims=True)) / fields.std((1, 2), keepdims=True)
    shares = np.exp(fields) / np.exp(fields).sum(0)
    known, spectra = endmembers()
    weights, _ = srf_matrix(platform, names, WAVELENGTH_NM)
    values = weights @ spectra[[known.index(s) for s in SURFACES]].T
    return np.einsum("bf,fyx->byx", values, shares).astype("float32")


def arrays(shift_m=(0.0, 0.0), guide_bands=S2_NAMES, coarse_bands=FEW):
    guide = textured(SHAPE, "S2A", guide_bands)
    target = textured(SHAPE, "S3A", coarse_bands)
    small = degrade(target, RATIO, shift=(shift_m[0] / 300, -shift_m[1] / 300))
    return (
        image(guide, BOX, guide_bands),
        image(small, coarse_geobox(BOX, RATIO), coarse_bands),
        target,
    )


def image(values, box, bands):
    return xr.DataArray(
        values.astype("float32"),
        dims=("band", "y", "x"),
        coords={**xr_coords(box), "band": list(bands)},
    )


def without_crs(array):
    return xr.DataArray(
        array.values, dims=array.dims, coords={n: array[n].values for n in array.dims}
    )


def rmse(a, b):
    return float(np.sqrt(np.nanmean((np.asarray(a) - b) ** 2)))


def test_recovers_the_truth_that_bicubic_does_not():
    guide, coarse, target = arrays(coarse_bands=S3_NAMES)
    fused = satfuse.fuse(guide, coarse)
    assert fused.reflectance.dims == ("band", "y", "x")
    assert fused.reflectance.dtype == "float32"
    assert list(fused.band.values) == list(S3_NAMES)
    assert fused.odc.geobox == BOX
    plain = satfuse.fuse(guide, coarse, model="bicubic")
    assert rmse(fused.reflectance, target) < 0.1 * rmse(plain.reflectance, target)
    assert not np.isnan(fused.reflectance).any()
    assert (fused.quality == 0).all()
    assert (fused.uncertainty > 0).all()
    assert len(fused.attrs["gain"]) == len(fused.attrs["psf_sigma"]) == 21


@pytest.mark.parametrize("registered", [{}, {"shift_m": (0.0, 0.0)}])
def test_another_place_is_flagged(registered):
    guide, coarse, _ = arrays(coarse_bands=S3_NAMES)
    other = coarse.copy(data=coarse.values[:, ::-1, ::-1]).assign_attrs(registered)
    fused = satfuse.fuse(guide, other)
    assert not fused.attrs["shift_trusted"]
    assert "poorly correlated" in fused.attrs["shift_reason"]
    assert (fused.quality & int(Quality.SHIFT_UNTRUSTED) > 0).all()


@pytest.mark.parametrize("shift_m", [(210.0, -150.0), (-90.0, 330.0)])
def test_a_shift_is_estimated_and_applied_once(shift_m):
    guide, coarse, target = arrays(shift_m)
    fused = satfuse.fuse(guide, coarse)
    assert fused.attrs["shift_m"] == pytest.approx(shift_m, abs=15)
    inner = slice(60, -60)
    unshifted = satfuse.fuse(guide, coarse.assign_attrs(shift_m=(0.0, 0.0)))
    assert unshifted.attrs["shift_m"] == (0.0, 0.0)
    assert rmse(fused.reflectance[:, inner, inner], target[:, inner, inner]) < 0.5 * rmse(
        unshifted.reflectance[:, inner, inner], target[:, inner, inner]
    )


def test_any_subset_and_order_of_bands():
    guide, coarse, target = arrays(
        guide_bands=("B11", "B04", "B03", "B8A"), coarse_bands=("S5N", "Oa08", "Oa17")
    )
    fused = satfuse.fuse(guide, coarse)
    assert list(fused.band.values) == ["S5N", "Oa08", "Oa17"]
    assert list(fused.wavelength_nm.values) == [1610, 665, 865]
    assert rmse(fused.reflectance, target) < 0.006


def test_orientation_and_dimension_order_of_the_inputs_do_not_matter():
    guide, coarse, _ = arrays()
    expected = satfuse.fuse(guide, coarse)
    flipped = satfuse.fuse(guide.isel(y=slice(None, None, -1)), coarse.transpose("y", "x", "band"))
    assert flipped.y.values[0] < flipped.y.values[-1]
    xr.testing.assert_allclose(
        flipped.reflectance.sortby("y", ascending=False), expected.reflectance, atol=1e-6
    )


def test_holes_stay_where_they_are():
    guide, coarse, target = arrays()
    guide[3, 100:140, 200:260] = np.nan
    guide[0, 5, 5] = np.inf
    coarse[2, 10:12, 7] = np.nan
    fused = satfuse.fuse(guide, coarse)
    hole = np.zeros(BOX.shape, bool)
    hole[100:140, 200:260] = hole[5, 5] = True
    np.testing.assert_array_equal(np.isnan(fused.reflectance).all("band"), hole)
    np.testing.assert_array_equal(np.isnan(fused.reflectance).any("band"), hole)
    np.testing.assert_array_equal((fused.quality.values & Quality.GUIDE_MISSING) > 0, hole)
    missing = (fused.quality.values & Quality.COARSE_MISSING) > 0
    assert missing[300:360, 210:240].all()
    assert missing.sum() == 60 * 30
    assert rmse(fused.reflectance, target) < 0.006


def test_the_result_can_be_written_to_netcdf(tmp_path):
    guide, coarse, _ = arrays()
    fused = satfuse.fuse(guide.chunk(y=100), coarse.chunk())  # lazy inputs are read
    fused.to_netcdf(tmp_path / "fused.nc")
    with xr.open_dataset(tmp_path / "fused.nc", decode_coords="all") as again:
        np.testing.assert_array_equal(again.reflectance, fused.reflectance)
        assert again.odc.crs.to_epsg() == 32631
        assert again.attrs["shift_trusted"] == fused.attrs["shift_trusted"]


def test_ratio_comes_from_the_coordinates():
    guide, _, target = arrays()
    coarse = image(degrade(target, 10), coarse_geobox(BOX, 10), FEW)
    fused = satfuse.fuse(guide, coarse)
    assert fused.attrs["ratio"] == 10
    assert rmse(fused.reflectance, target) < 0.006


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda g, c: (g * 10000, c), RadiometryError, "digital numbers"),
        (lambda g, c: (g, c * 10), RadiometryError, "not what the guide shows"),
        (
            lambda g, c: (g, c.assign_coords(band=c.band.values[::-1])),
            RadiometryError,
            "order and names of the bands",
        ),
        (
            lambda g, c: (g.assign_coords(band=g.band.values[::-1]), c),
            RadiometryError,
            "order and names of the bands",
        ),
        (lambda g, c: (g, c * np.nan), ProductError, "share no usable pixel"),
        (
            lambda g, c: (g.assign_coords(band=[f"x{i}" for i in range(12)]), c),
            BandError,
            "unknown band 'x0'",
        ),
        (lambda g, c: (g.rename(band="wavelength"), c), GridError, "dimensions band, y, x"),
        (lambda g, c: (g, c.assign_coords(x=c.x + 100)), GridError, "do not align"),
        (lambda g, c: (g.isel(x=slice(0, 300)), c), GridError, "do not cover"),
        (lambda g, c: (g.isel(x=[0, 1, 5, 6]), c), GridError, "not evenly spaced"),
        (lambda g, c: (without_crs(g), c), GridError, "no CRS"),
        (
            lambda g, c: (g, c.isel(x=slice(0, None, 2), y=slice(0, None, 3))),
            GridError,
            "one integer",
        ),
        (lambda g, c: (g.values, c), GridError, "must be a DataArray"),
        (
            lambda g, c: (without_crs(g).assign_attrs(crs="nonsense"), c),
            GridError,
            "guide.*is no CRS",
        ),
        (lambda g, c: (g, c.assign_attrs(shift_m=None)), GridError, "shift_m.*is None"),
    ],
)
def test_bad_input_is_refused_with_the_cause(change, error, match):
    guide, coarse, _ = arrays()
    with pytest.raises(error, match=match):
        satfuse.fuse(*change(guide, coarse))


def test_the_truth_of_the_tiling_tests_has_an_edge():
    """The tiling tests depend on `product_scene.truth`: it must not be smooth."""
    assert np.abs(np.diff(truth((60, 450), 3), axis=2)).max() > 0.01


def test_a_shift_that_is_no_number_is_refused():
    guide, coarse, _ = arrays()
    with pytest.raises(GridError, match="give finite metres"):
        satfuse.fuse(guide, coarse.assign_attrs(shift_m=(np.nan, 0.0)))


def test_a_large_hole_in_the_guide_does_not_mislead_the_shift():
    guide, coarse, target = arrays((150.0, 0.0))
    guide[:, : 30 * 12, : 30 * 12] = np.nan
    fused = satfuse.fuse(guide, coarse)
    assert fused.attrs["shift_m"] == pytest.approx((150.0, 0.0), abs=15)
    assert rmse(fused.reflectance, target) < 0.006


def test_equal_guide_bands_do_no_harm():
    """Their differences have no noise at all: an eigenvalue may be computed as below zero."""
    guide, coarse, target = arrays(coarse_bands=("Oa08", "Oa17"))
    guide[5] = guide[4]
    guide[6] = guide[4]
    assert rmse(satfuse.fuse(guide, coarse).reflectance, target) < 0.02


def test_the_cause_of_no_usable_pixel_is_named():
    guide, coarse, _ = arrays()
    middle = float(coarse.x.mean())
    holes = coarse.copy()
    holes[1] = holes[1].where(coarse.x > middle + 1000)
    holes[3] = holes[3].where(coarse.x < middle)
    with pytest.raises(
        ProductError, match=r"every coarse pixel lacks some band.*: Oa05 \(\d\d%\), Oa11 \(\d\d%\)$"
    ):
        satfuse.fuse(guide, holes)  # every band has data, but no pixel has every band
    with pytest.raises(ProductError, match="NaN or infinite everywhere"):
        satfuse.fuse(guide, coarse * np.nan)
    with pytest.raises(ProductError, match="guide is missing wherever the coarse image is usable"):
        satfuse.fuse(guide.where(guide.x > middle + 600), coarse.where(coarse.x < middle - 600))
