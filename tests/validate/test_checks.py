"""The scores find errors of known size, and tell real detail from bicubic upsampling."""

import numpy as np
import pytest
import xarray as xr

from satfuse.validate import checks
from satfuse.validate.spectra import mean_spectra, spectra_agreement
from satfuse.validate.upsample import bicubic_matrix, upsample
from satfuse.validate.views import make_views


@pytest.fixture(scope="module")
def views(perfect, scene):
    return make_views(perfect, scene)


def bicubic_product(scene):
    """A product without any detail."""
    coarse = scene["coarse"]
    image = upsample(coarse.values, *(bicubic_matrix(n, 10) for n in coarse.shape[1:]))
    coords = {"band": coarse["coarse_band"].values, "y": scene["y"].values, "x": scene["x"].values}
    return xr.Dataset({"reflectance": (("band", "y", "x"), image)}, coords=coords)


def test_the_truth_is_consistent_with_both_inputs(views):
    coarse = checks.coarse_consistency(views)
    guide = checks.guide_consistency(views)
    assert coarse["fused"]["overall"]["rmse"] < 1e-6
    assert coarse["fused"]["overall"]["sam_deg"] < 1e-3
    assert coarse["fused"]["overall"]["ssim"] == pytest.approx(1, abs=1e-6)
    assert guide["fused"]["overall"]["rmse"] < 1e-3 < 0.01 < guide["bicubic"]["overall"]["rmse"]
    assert set(coarse["fused"]["bands"]) == set(views.bands)
    assert set(guide["fused"]["bands"]) == set(views.guide_bands)


def test_added_bias_and_noise_are_found(truth, scene):
    rng = np.random.default_rng(0)
    offset = xr.DataArray(np.linspace(-0.02, 0.02, truth.sizes["band"]), dims="band")
    noisy = (truth + offset + 0.01 * rng.standard_normal(truth.shape)).astype(np.float32)
    views = make_views(noisy.rename("reflectance").to_dataset(), scene)
    bands = checks.coarse_consistency(views)["fused"]["bands"]
    np.testing.assert_allclose([b["bias"] for b in bands.values()], offset, atol=3e-4)
    assert bands["Oa01"]["rmse"] == pytest.approx(0.02, rel=0.05)
    expected = np.sqrt(0.01**2 + (offset.values**2).mean())
    assert checks.truth_scores(views, truth)["fused"]["rmse"] == pytest.approx(expected, rel=0.02)


def test_a_bicubic_product_is_exposed(scene, truth):
    """Its cosine is above 0.999 on the coarse side; guide, power and truth show missing detail."""
    views = make_views(bicubic_product(scene), scene)
    coarse = {name: s["overall"] for name, s in checks.coarse_consistency(views).items()}
    assert coarse["fused"]["cosine"] > 0.999
    assert coarse["fused"]["rmse"] == pytest.approx(coarse["bicubic"]["rmse"], rel=1e-4)
    power = {name: s["medium"] for name, s in checks.sharpness(views).items()}
    assert power["fused"] < 0.05
    assert power["regression"] > 0.9
    guide = checks.guide_consistency(views)
    assert guide["fused"]["overall"]["rmse"] > 10 * guide["regression"]["overall"]["rmse"]
    scores = checks.truth_scores(views, truth)
    assert scores["fused"]["sam_deg"] == pytest.approx(scores["bicubic"]["sam_deg"], rel=1e-3)
    assert scores["regression"]["sam_deg"] < 0.1 * scores["bicubic"]["sam_deg"]


def test_sharpness_and_ndvi_of_the_truth(views):
    assert all(abs(v - 1) < 0.05 for v in checks.sharpness(views)["fused"].values())
    agreement = checks.ndvi_agreement(checks.ndvi_maps(views))
    assert list(agreement) == ["fused", "bicubic", "regression"]
    assert agreement["fused"]["correlation"] > 0.998 > agreement["bicubic"]["correlation"]
    assert agreement["fused"]["jaccard"]["0.5"] > 0.95 > agreement["bicubic"]["jaccard"]["0.5"]


def test_panchromatic_ssim_of_a_copy_is_one(perfect, scene):
    mean = perfect["reflectance"].isel(time=0, drop=True).mean("band").values
    copied = scene.copy()
    guide = np.repeat(mean[None], scene.sizes["guide_band"], axis=0)
    copied["guide"] = (scene["guide"].dims, guide)
    ssim = checks.panchromatic(make_views(perfect, copied))
    assert ssim["fused"] == pytest.approx(1, abs=1e-4)
    assert ssim["bicubic"] < 0.95


def test_a_check_without_its_bands_is_left_out(perfect, scene):
    few = make_views(perfect.sel(band=["Oa01", "Oa04", "Oa11"]), scene)
    assert checks.ndvi_maps(few) == {}
    assert checks.sharpness(few) == {}
    assert set(checks.coarse_consistency(few)["fused"]["bands"]) == {"Oa01", "Oa04", "Oa11"}


def test_seam_statistic_finds_a_seam_of_known_size():
    rng = np.random.default_rng(0)
    image = 0.3 + 0.01 * rng.standard_normal((4, 200, 240))
    clean = checks.seam_statistic(image, (60, 120), (100,))
    assert clean["edges"] == 3
    assert clean["ratio"] == pytest.approx(1, abs=0.1)
    image[:, :, 100:] += 0.05
    seam = checks.seam_statistic(image, (), (100,))
    noise = 0.01 * 2 / np.sqrt(np.pi)  # mean difference of two normal numbers
    assert seam["across"] == pytest.approx(0.05, rel=0.05)
    assert seam["inside"] == pytest.approx(noise, rel=0.05)
    assert seam["ratio"] == pytest.approx(0.05 / noise, rel=0.1)
    assert checks.seam_statistic(image, (), (99,))["ratio"] < 1.1  # the seam is one pixel further
    assert checks.seam_statistic(image, (100,), ())["ratio"] == pytest.approx(1, abs=0.1)
    lazy = xr.DataArray(image, dims=("band", "y", "x")).chunk(y=50, x=60)
    assert checks.seam_statistic(lazy, (60,), (100,)) == checks.seam_statistic(image, (60,), (100,))
    outside = checks.seam_statistic(image, (0, 200), (240,))
    assert outside["edges"] == 0
    assert np.isnan(outside["ratio"])


def test_land_score_excludes_water(truth):
    image = truth.values.astype(float)
    water = np.sqrt((image**2).mean(0)) < checks.LAND_RMS
    assert 0.05 < water.mean() < 0.5
    wrong = np.where(water, image[::-1], image)
    scores = checks.scores(wrong, image, 10)
    assert scores["sam_land_deg"] < 1e-6
    assert scores["sam_deg"] > 1


def test_mean_spectra_and_their_agreement(views, truth):
    spectra = mean_spectra(views)
    np.testing.assert_allclose(spectra["fused"].mean, truth.values.mean((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(spectra["fused"].std, truth.values.std((1, 2)), rtol=1e-4)
    agreement = spectra_agreement(spectra)
    assert agreement["jensen_shannon"] < 1e-5
    assert abs(agreement["bias"]) < 2e-3
    assert agreement["sam_deg"] < 0.5
    assert list(agreement["bands"]) == list(views.bands)
