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
    coarse = scene["coarse"]
    image = upsample(coarse.values, *(bicubic_matrix(n, 10) for n in coarse.shape[1:]))
    coords = {"band": coarse["coarse_band"].values, "y": scene["y"].values, "x": scene["x"].values}
    return xr.Dataset({"reflectance": (("band", "y", "x"), image)}, coords=coords)


def test_the_truth_is_consistent_with_both_inputs(views):
    coarse, guide = checks.coarse_consistency(views), checks.guide_consistency(views)
    assert coarse["fused"]["overall"]["rmse"] < 1e-6
    assert coarse["fused"]["overall"]["sam_deg"] < 1e-3
    assert coarse["fused"]["overall"]["ssim"] == pytest.approx(1, abs=1e-6)
    assert guide["fused"]["overall"]["rmse"] < 1e-3 < 0.01 < guide["bicubic"]["overall"]["rmse"]
    assert set(coarse["fused"]["bands"]) == set(views.bands) and set(
        guide["fused"]["bands"]
    ) == set(views.guide_bands)


def test_bias_and_noise_that_were_put_in_are_found(truth, scene, views):
    rng = np.random.default_rng(0)
    offset = xr.DataArray(np.linspace(-0.02, 0.02, truth.sizes["band"]), dims="band")
    noisy = (truth + offset + 0.01 * rng.standard_normal(truth.shape)).astype(np.float32)
    found = make_views(noisy.rename("reflectance").to_dataset(), scene)
    bands = checks.coarse_consistency(found)["fused"]["bands"]
    np.testing.assert_allclose([b["bias"] for b in bands.values()], offset, atol=3e-4)
    assert bands["Oa01"]["rmse"] == pytest.approx(0.02, rel=0.05)
    assert checks.truth_scores(found, truth)["fused"]["rmse"] == pytest.approx(
        np.sqrt(0.01**2 + (offset.values**2).mean()), rel=0.02
    )


def test_the_trap_is_visible(scene, truth):
    """A bicubic product: cosine above 0.999 on the coarse side, exposed by guide, power and truth."""
    found = make_views(bicubic_product(scene), scene)
    coarse = checks.coarse_consistency(found)
    assert coarse["fused"]["overall"]["cosine"] > 0.999
    assert coarse["fused"]["overall"]["rmse"] == pytest.approx(
        coarse["bicubic"]["overall"]["rmse"], rel=1e-4
    )
    assert (
        checks.sharpness(found)["fused"]["medium"]
        < 0.05
        < 0.9
        < checks.sharpness(found)["regression"]["medium"]
    )
    guide = checks.guide_consistency(found)
    assert guide["fused"]["overall"]["rmse"] > 10 * guide["regression"]["overall"]["rmse"]
    scores = checks.truth_scores(found, truth)
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
    copied["guide"] = (
        scene["guide"].dims,
        np.repeat(mean[None], scene.sizes["guide_band"], axis=0),
    )
    found = checks.panchromatic(make_views(perfect, copied))
    assert found["fused"] == pytest.approx(1, abs=1e-4)
    assert found["bicubic"] < 0.95


def test_missing_bands_leave_a_check_out(perfect, scene):
    few = make_views(perfect.sel(band=["Oa01", "Oa04", "Oa11"]), scene)
    assert checks.ndvi_maps(few) == {} and checks.sharpness(few) == {}
    assert set(checks.coarse_consistency(few)["fused"]["bands"]) == {"Oa01", "Oa04", "Oa11"}


def test_seam_statistic_finds_a_seam_of_known_size():
    rng = np.random.default_rng(0)
    image = 0.3 + 0.01 * rng.standard_normal((4, 200, 240))
    clean = checks.seam_statistic(image, (60, 120), (100,))
    assert clean["edges"] == 3 and clean["ratio"] == pytest.approx(1, abs=0.1)
    image[:, :, 100:] += 0.05
    seam = checks.seam_statistic(image, (), (100,))
    noise = 0.01 * 2 / np.sqrt(np.pi)  # mean difference of two normal numbers
    assert seam["across"] == pytest.approx(0.05, rel=0.05) and seam["inside"] == pytest.approx(
        noise, rel=0.05
    )
    assert seam["ratio"] == pytest.approx(0.05 / noise, rel=0.1)
    assert checks.seam_statistic(image, (), (99,))["ratio"] < 1.1  # the seam lies one pixel further
    assert checks.seam_statistic(image, (100,), ())["ratio"] == pytest.approx(1, abs=0.1)
    lazy = xr.DataArray(image, dims=("band", "y", "x")).chunk(y=50, x=60)
    assert checks.seam_statistic(lazy, (60,), (100,)) == checks.seam_statistic(image, (60,), (100,))
    outside = checks.seam_statistic(image, (0, 200), (240,))
    assert outside["edges"] == 0 and np.isnan(outside["ratio"])


def test_land_score_leaves_water_out(truth):
    image = truth.values.astype(float)
    water = np.sqrt((image**2).mean(0)) < checks.LAND_RMS
    assert 0.05 < water.mean() < 0.5
    wrong = np.where(water, image[::-1], image)
    scores = checks.scores(wrong, image, 10)
    assert scores["sam_land_deg"] < 1e-6 and scores["sam_deg"] > 1


def test_mean_spectra_and_their_agreement(views, truth):
    spectra = mean_spectra(views)
    np.testing.assert_allclose(spectra["fused"].mean, truth.values.mean((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(spectra["fused"].std, truth.values.std((1, 2)), rtol=1e-4)
    agreement = spectra_agreement(spectra)
    assert (
        agreement["jensen_shannon"] < 1e-5
        and abs(agreement["bias"]) < 2e-3
        and agreement["sam_deg"] < 0.5
    )
    assert list(agreement["bands"]) == list(views.bands)
