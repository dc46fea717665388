"""A product averaged to larger pixels against one made there: differences are found by band."""

import numpy as np
import pytest
import xarray as xr

from tests.validate.validate_field import HEIGHT, RATIO, WIDTH

pytest.importorskip("torch")

from satfuse.errors import BandError, GridError
from satfuse.infer.larger_pixels import average_scene
from satfuse.validate.comparison.sizes import read_sizes, size_bands, size_scores, size_spectra

FACTOR = 2


def averaged(image):
    """(..., y, x) averaged over FACTOR x FACTOR pixels."""
    *bands, height, width = image.shape
    return image.reshape(*bands, height // FACTOR, FACTOR, width // FACTOR, FACTOR).mean((-3, -1))


def as_product(image, scene):
    """The averaged image as a product on the grid of a scene."""
    coords = {"band": image.band.values, "y": scene["y"].values, "x": scene["x"].values}
    return xr.Dataset({"reflectance": (("band", "y", "x"), averaged(image.values))}, coords=coords)


@pytest.fixture(scope="module")
def flagged(scene):
    """The scene with quality flags and one invalid fine pixel."""
    quality = np.zeros((HEIGHT, WIDTH), np.uint16)
    quality[40, 60] = 1
    quality[41, 61] = 4  # in the same large pixel
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[41, 61] = False
    coarse_quality = np.zeros(scene["coarse_valid"].shape, np.uint16)
    return scene.assign(
        guide_quality=(("y", "x"), quality),
        guide_valid=(("y", "x"), valid),
        coarse_quality=(scene["coarse_valid"].dims, coarse_quality),
    )


@pytest.fixture(scope="module")
def larger(flagged):
    return average_scene(flagged, FACTOR)


@pytest.mark.parametrize("lazy", [False, True])
def test_average_scene_keeps_means_place_and_flags(flagged, lazy):
    source = flagged.chunk(y=100, x=70) if lazy else flagged
    larger = average_scene(source, FACTOR)
    assert larger.odc.geobox.boundingbox == pytest.approx(flagged.odc.geobox.boundingbox)
    np.testing.assert_allclose(larger["x"], averaged(np.tile(flagged["x"].values, (2, 1)))[0])
    assert larger["guide_quality"].values[20, 30] == 5
    assert int((larger["guide_quality"] > 0).sum()) == 1
    assert not larger["guide_valid"].values[20, 30]
    assert int((~larger["guide_valid"]).sum()) == 1
    expected = averaged(flagged["guide"].values)
    expected[:, 20, 30] = np.nan
    np.testing.assert_allclose(larger["guide"].values, expected, rtol=1e-6)
    np.testing.assert_array_equal(larger["coarse"].values, flagged["coarse"].values)
    assert larger.attrs["psf_sigma"] == flagged.attrs["psf_sigma"]


def test_the_same_image_at_two_sizes_agrees(perfect, truth, flagged, larger):
    sizes = read_sizes((as_product(truth, larger), larger), (perfect, flagged))
    scores = size_scores(sizes)
    assert sizes.factor == FACTOR
    assert sizes.ratio == RATIO // FACTOR
    assert scores["rmse"] < 1e-6
    assert scores["sam_deg"] < 1e-3
    assert scores["guide_rmse"] < 1e-6
    assert scores["detail"]["high"] == pytest.approx(1) == scores["detail"]["coherence_high"]
    spectra = size_spectra(sizes)
    np.testing.assert_allclose(spectra["large"].mean, spectra["small"].mean, rtol=1e-5)
    assert (spectra["small"].std > spectra["large"].std).all()  # small pixels vary more


def test_a_bias_and_a_blur_at_the_larger_size_are_found(perfect, truth, flagged, larger):
    biased = as_product(truth, larger)
    biased["reflectance"].loc[{"band": "Oa04"}] -= 0.02
    scores = size_scores(read_sizes((biased, larger), (perfect, flagged)))
    assert scores["bands"]["Oa04"]["bias"] == pytest.approx(0.02, rel=1e-4)
    assert scores["bands"]["Oa04"]["rmse"] == pytest.approx(0.02, rel=1e-4)
    assert all(row["rmse"] < 1e-6 for name, row in scores["bands"].items() if name != "Oa04")
    blurred = as_product(truth, larger)
    windows = blurred["reflectance"].rolling(y=5, x=5, center=True, min_periods=1)
    blurred["reflectance"][:] = windows.mean()
    scores = size_scores(read_sizes((blurred, larger), (perfect, flagged)))
    assert scores["detail"]["high"] > 10  # the averaged product has more
    assert scores["panchromatic_ssim"]["large"] < scores["panchromatic_ssim"]["small"]


def test_only_common_bands_count(perfect, truth, flagged, larger):
    sizes = read_sizes((as_product(truth[2:5], larger), larger), (perfect, flagged))
    assert sizes.bands == ("Oa03", "Oa04", "Oa05")
    assert size_bands(sizes) == {}
    assert size_scores(sizes)["detail"] == {}
    with pytest.raises(BandError, match="share no band"):
        read_sizes((as_product(truth[2:5], larger), larger), (perfect.sel(band=["Oa01"]), flagged))


def test_pixels_that_do_not_nest_are_refused(perfect, truth, flagged, larger):
    with pytest.raises(GridError, match="ratios 10 and 5"):
        read_sizes((perfect, flagged), (as_product(truth, larger), larger))
    half = larger.isel(y=slice(0, 60), y_coarse=slice(0, 12))
    with pytest.raises(GridError, match=r"\(12, 30\) and \(24, 30\) coarse pixels"):
        read_sizes((as_product(truth, larger), half), (perfect, flagged))
