"""Image metrics against loops, scikit-image, SciPy and results by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, zoom
from scipy.spatial.distance import jensenshannon
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from satfuse import metrics
from satfuse.errors import GridError
from satfuse.sensors.degradation import degrade


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(3)
    reference = 0.05 + 0.4 * rng.random((5, 64, 70))
    return reference + 0.03 * rng.standard_normal(reference.shape) + 0.01, reference


@pytest.fixture(scope="module")
def valid():
    return np.random.default_rng(4).random((64, 70)) > 0.3


def test_rmse_bias_euclidean_cosine_by_loop(images, valid):
    x, z = images
    places = [(k, i, j) for k in range(5) for i in range(64) for j in range(70) if valid[i, j]]
    a, b = np.array([(x[place], z[place]) for place in places]).T
    assert metrics.rmse(x, z, valid) == pytest.approx(np.mean((a - b) ** 2) ** 0.5, rel=1e-12)
    assert metrics.euclidean(x, z, valid) == pytest.approx(np.linalg.norm(a - b), rel=1e-12)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert metrics.cosine(x, z, valid) == pytest.approx(cosine, rel=1e-12)
    assert metrics.bias(x, z, valid)[2] == pytest.approx((x[2] - z[2])[valid].mean(), rel=1e-12)
    band_rmse = np.sqrt(((x[3] - z[3])[valid] ** 2).mean())
    assert metrics.rmse(x, z, valid, per_band=True)[3] == pytest.approx(band_rmse, rel=1e-12)


def test_psnr_against_scikit_image(images):
    x, z = images
    expected = peak_signal_noise_ratio(z, x, data_range=0.5)
    assert metrics.psnr(x, z, data_range=0.5) == pytest.approx(expected)
    assert metrics.psnr(z, z) == np.inf


def test_ssim_against_scikit_image(images):
    x, z = images
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for k, score in enumerate(metrics.ssim(x, z, data_range=0.5)):
        expected = structural_similarity(x[k], z[k], data_range=0.5, **options)
        assert score == pytest.approx(expected, rel=1e-9)
    assert metrics.ssim(z, z, data_range=0.5) == pytest.approx(1)


def test_ssim_ignores_invalid_pixels(images):
    x, z = (a.copy() for a in images)
    hole = np.zeros(x.shape[1:], bool)
    hole[20:30, 25:40] = True
    with_nan = np.where(hole, np.nan, x)
    bright = np.where(hole, 99.0, x)
    score = metrics.ssim(with_nan, z, data_range=0.5)
    assert score == pytest.approx(metrics.ssim(bright, z, ~hole, data_range=0.5))
    assert np.all(np.abs(score - metrics.ssim(x, z, data_range=0.5)) < 0.02)


def test_ssim_refuses_a_window_larger_than_the_image():
    with pytest.raises(GridError, match="11 x 11"):
        metrics.ssim(np.ones((1, 10, 40)), np.ones((1, 10, 40)), data_range=1.0)


def test_sam_against_arccos_and_known_angle(images, valid):
    x, z = images
    dot = (x * z).sum(0) / np.linalg.norm(x, axis=0) / np.linalg.norm(z, axis=0)
    assert metrics.sam_rad(x, z, valid) == pytest.approx(np.arccos(dot)[valid].mean(), rel=1e-9)
    a = np.array([1, 0]).reshape(2, 1, 1)
    b = np.array([np.cos(0.3), np.sin(0.3)]).reshape(2, 1, 1)
    assert metrics.sam_deg(a, b) == pytest.approx(np.rad2deg(0.3), rel=1e-12)


def test_sam_of_equal_float32_images_is_zero(images):
    z = images[1].astype(np.float32)
    assert metrics.sam_deg(z, z) < 1e-6
    assert metrics.sam_deg(2.5 * z, z) < 1e-4


def test_sam_skips_zero_spectra(images):
    x, z = (a.copy() for a in images)
    x[:, 0, 0] = 0
    others = np.ones(x.shape[1:], bool)
    others[0, 0] = False
    assert metrics.sam_deg(x, z) == metrics.sam_deg(x, z, others)
    assert np.isnan(metrics.sam_deg(np.zeros_like(x), z))


def test_ergas_by_hand():
    z = np.stack([np.full((4, 4), 0.2), np.full((4, 4), 0.4)])
    x = z + np.array([0.02, -0.02])[:, None, None]
    assert metrics.ergas(x, z, 10) == pytest.approx(10 * np.sqrt((0.1**2 + 0.05**2) / 2))
    # a band that is dark in the reference is ignored
    x_and_bright = np.concatenate([x, np.ones((1, 4, 4))])
    z_and_dark = np.concatenate([z, np.zeros((1, 4, 4))])
    assert metrics.ergas(x_and_bright, z_and_dark, 10) == pytest.approx(metrics.ergas(x, z, 10))


def test_uiqi_by_block_loop(images):
    x, z = images
    scores = []
    for i in (0, 32):
        for j in (0, 32):
            a, b = (image[0, i : i + 32, j : j + 32] for image in (x, z))
            s = np.cov(a.ravel(), b.ravel(), ddof=0)
            top = 4 * s[0, 1] * a.mean() * b.mean()
            scores.append(top / ((s[0, 0] + s[1, 1]) * (a.mean() ** 2 + b.mean() ** 2)))
    assert metrics.uiqi(x, z)[0] == pytest.approx(np.mean(scores))
    assert metrics.uiqi(np.ones((1, 32, 32)), np.ones((1, 32, 32)))[0] == 1


def test_q2n_of_one_band_is_uiqi_and_of_two_bands_is_complex(images):
    x, z = images
    assert metrics.q2n(x[:1], z[:1]) == pytest.approx(abs(metrics.uiqi(x[:1], z[:1])[0]))
    a, b = (im[0, :32, :32] + 1j * im[1, :32, :32] for im in (x, z))
    covariance = np.mean((a - a.mean()) * np.conj(b - b.mean()))
    expected = 4 * abs(covariance) * abs(a.mean()) * abs(b.mean())
    expected /= (np.var(a) + np.var(b)) * (abs(a.mean()) ** 2 + abs(b.mean()) ** 2)
    assert metrics.q2n(x[:2, :32, :32], z[:2, :32, :32]) == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 3, 4, 19, 21])
def test_q2n_is_one_on_identity_and_below_otherwise(count):
    z = np.random.default_rng(count).random((count, 32, 64))
    assert metrics.q2n(z, z) == pytest.approx(1)
    assert metrics.q2n(z + 0.1 * np.random.default_rng(0).standard_normal(z.shape), z) < 0.99


def test_quaternion_product_is_associative_and_multiplies_norms():
    a, b, c = np.random.default_rng(0).standard_normal((3, 4, 1))
    product = metrics._hyper
    np.testing.assert_allclose(product(product(a, b), c), product(a, product(b, c)))
    assert np.linalg.norm(product(a, b)) == pytest.approx(np.linalg.norm(a) * np.linalg.norm(b))
    i, j = (np.eye(4)[k][:, None] for k in (1, 2))
    np.testing.assert_allclose(product(i, i), -np.eye(4)[0][:, None])
    np.testing.assert_allclose(product(i, j), -product(j, i))


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=8),
    st.lists(st.floats(0, 1), min_size=8, max_size=8),
)
def test_jensen_shannon_is_the_square_of_scipys(p, q):
    p, q = (np.array(v[: len(p)]) + 1e-3 for v in (p, q))
    divergence = metrics.jensen_shannon(p, q)
    assert divergence == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-12)
    assert divergence == pytest.approx(metrics.jensen_shannon(q, 3 * p), abs=1e-12)
    assert -1e-12 <= divergence <= np.log(2)


def test_jensen_shannon_of_disjoint_spectra_is_ln2():
    assert metrics.jensen_shannon([1, 0], [0, 1]) == pytest.approx(np.log(2))


def test_ndvi_stays_in_its_range():
    np.testing.assert_allclose(
        metrics.ndvi([0.1, 0.2, 0.0, -0.1, np.nan], [0.3, 0.2, 0.0, 0.2, 1]),
        [0.5, 0, np.nan, 1, np.nan],
    )


def test_jaccard():
    a = np.array([1, 1, 0, 0], bool)
    b = np.array([1, 0, 1, 0], bool)
    assert metrics.jaccard(a, b) == pytest.approx(1 / 3)
    assert metrics.jaccard(a, b, np.array([1, 1, 0, 1], bool)) == pytest.approx(1 / 2)
    assert np.isnan(metrics.jaccard(~a & a, ~b & b))


def test_radial_power_finds_a_wave():
    x = np.arange(128)
    frequency, power = metrics.radial_power(np.tile(np.sin(2 * np.pi * 0.125 * x), (128, 1)))
    assert frequency[power.argmax()] == pytest.approx(0.125, abs=1 / 128)


def test_radial_power_ratio_is_gain_squared_and_shows_lost_detail():
    z = np.random.default_rng(0).random((96, 120))
    assert metrics.radial_power_ratio(z, z, 10) == {"low": 1.0, "medium": 1.0, "high": 1.0}
    assert metrics.radial_power_ratio(2 * z, z, 10)["medium"] == pytest.approx(4)
    blurred = metrics.radial_power_ratio(gaussian_filter(z, 3), z, 10)
    assert blurred["low"] > 0.5
    assert blurred["medium"] < 0.1
    assert blurred["high"] < 1e-3


def test_every_score_ignores_nan_and_invalid_pixels(images, valid):
    x, z = images
    with_nan = np.where(valid, x, np.nan)
    bright = np.where(valid, x, 77.0)
    for name in ("rmse", "bias", "sam_deg", "cosine", "psnr", "euclidean"):
        score = getattr(metrics, name)
        np.testing.assert_allclose(score(with_nan, z), score(bright, z, valid), rtol=1e-12)


def test_nothing_valid_is_nan_and_shapes_must_agree(images):
    x, z = images
    none = np.zeros(x.shape[1:], bool)
    assert np.isnan(metrics.rmse(x, z, none))
    assert np.isnan(metrics.sam_deg(x, z, none))
    assert np.isnan(metrics.bias(x, z, none)).all()
    assert np.isnan(metrics.ssim(x, z, none, data_range=1)).all()
    with pytest.raises(GridError, match="one shape"):
        metrics.rmse(x, z[:, :-1])


def test_bicubic_scores_high_against_its_own_input_without_any_detail():
    """Upsampled and degraded again: cosine above 0.999, yet no power where the detail should be."""
    rng = np.random.default_rng(5)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(300), np.fft.fftfreq(300), indexing="ij"))
    radius[0, 0] = 1
    texture = np.fft.ifft2(np.fft.fft2(rng.standard_normal((300, 300))) / radius).real
    truth = (0.25 + 0.05 * texture / texture.std())[None]
    coarse = degrade(truth, 10)
    bicubic = zoom(coarse[0], 10, order=3, mode="nearest", grid_mode=True)[None]
    assert metrics.cosine(degrade(bicubic, 10), coarse) > 0.999
    assert metrics.radial_power_ratio(bicubic[0], truth[0], 10)["high"] < 0.01
