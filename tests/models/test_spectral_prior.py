"""Prior of the spectral map, from a small library of smooth spectra."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = pytest.mark.torch

from satfuse.errors import BandError
from satfuse.models.bayesian.spectral_prior import (
    CONSTANT,
    features,
    map_prior,
    prior_of_band_values,
)
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.srf import srf_matrix

WAVELENGTH = np.arange(380.0, 2501.0, 5.0)


def library(scenes=60, pixels=24, seed=0):
    """Training scenes of three materials each, in a basis of five smooth curves."""
    rng = np.random.default_rng(seed)
    phase = (WAVELENGTH - 380) / 2120
    basis = np.stack([np.cos(np.pi * k * phase) for k in range(5)])
    materials = rng.uniform(-1, 1, (scenes, 3, 5)) * [0.1, 0.08, 0.05, 0.03, 0.02]
    share = rng.dirichlet(np.ones(3), (scenes, pixels))
    return share @ materials, basis, 0.25 + 0.1 * phase


@pytest.fixture(scope="module")
def prior():
    return map_prior(*library(), WAVELENGTH, S2_NAMES, S3_NAMES)


def test_spectra_of_few_dimensions_are_mapped(prior):
    """Five smooth curves: twelve guide bands determine the spectrum, whatever the platform."""
    coefficients, basis, centre = library(seed=1)
    spectra = coefficients.reshape(-1, 5) @ basis + centre
    guide, coarse = (
        spectra @ srf_matrix(*s, WAVELENGTH)[0].T for s in (("S2A", S2_NAMES), ("S3A", S3_NAMES))
    )
    error = features(guide) @ prior.mean.T - coarse
    assert error.std() < 0.01 * coarse.std()
    assert prior.nonlinear.max() < 1e-5


def test_mean_and_covariance_of_known_maps_are_recovered():
    rng = np.random.default_rng(0)
    guide = rng.uniform(0.1, 0.9, (3000, 12, 3))
    mean = rng.uniform(-0.5, 1, (2, 4))
    spread = np.array([[0.1, 0.05, 0.02, 0.1], [0.08, 0.02, 0.05, 0.02]])
    common = rng.standard_normal((3000, 1, 1))  # the maps of both bands deviate together
    coarse = np.einsum("spf,scf->spc", features(guide), mean + spread * common)
    prior = prior_of_band_values(guide, coarse)
    np.testing.assert_allclose(prior.mean, mean, atol=0.02)
    expected = np.outer(spread.ravel(), spread.ravel())
    np.testing.assert_allclose(prior.covariance, expected, atol=2e-3)
    blocks = prior.within_bands.reshape(2, 4, 2, 4)
    assert (blocks[0, :, 1] == 0).all()
    assert (blocks[1, :, 0] == 0).all()
    np.testing.assert_array_equal(blocks[1, :, 1], prior.covariance.reshape(2, 4, 2, 4)[1, :, 1])
    assert prior.nonlinear.max() < 1e-6
    noisy = prior_of_band_values(guide, coarse + rng.normal(0, 0.01, (3000, 12, 2)))
    brightness = guide.mean(-1) + 0.02
    # 12 pixels minus 4 parameters per scene: 8/12 of the noise variance is in the residuals
    variance = 0.01**2 * (brightness**-2.0).mean() * 8 / 12
    np.testing.assert_allclose(noisy.nonlinear, variance, rtol=0.1)


def test_a_constant_is_learned():
    guide = np.random.default_rng(0).uniform(0.1, 0.9, (20, 12, 2))
    prior = prior_of_band_values(guide, guide[..., :1] + 0.03)
    np.testing.assert_allclose(prior.mean, [[1, 0, 0.03 / CONSTANT]], atol=1e-3)


def test_a_selection_is_the_prior_of_these_bands(prior):
    index = [20, 3, 11]
    part = prior.select(index)
    direct = map_prior(*library(), WAVELENGTH, S2_NAMES, [S3_NAMES[i] for i in index])
    for name in ("mean", "covariance", "within_bands", "nonlinear"):
        np.testing.assert_allclose(
            getattr(part, name), getattr(direct, name), rtol=1e-6, atol=1e-12
        )


def test_covariances_are_positive_semidefinite(prior):
    for matrix in (prior.covariance, prior.within_bands):
        values = np.linalg.eigvalsh(matrix)
        assert values.min() > -1e-9 * values.max()
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-12 * values.max())


@pytest.mark.parametrize(
    ("guide", "coarse"),
    [(("B04", "B8A"), ("Oa08",)), (("B12",), S3_NAMES), (S2_NAMES[::-1], ("S6N", "Oa01"))],
)
def test_any_bands(guide, coarse):
    prior = map_prior(*library(), WAVELENGTH, guide, coarse)
    assert prior.mean.shape == (len(coarse), len(guide) + 1)
    assert np.isfinite(prior.covariance).all()


def test_spectra_that_do_not_cover_a_band_are_rejected():
    coefficients, basis, centre = library()
    keep = WAVELENGTH > 500
    spectra = coefficients, basis[:, keep], centre[keep], WAVELENGTH[keep]
    message = r"do not cover S3A Oa01 \(0%\), Oa02 \(0%\), Oa03 \(0%\), Oa04"
    with pytest.raises(BandError, match=message):
        map_prior(*spectra, ("B04", "B08"), S3_NAMES)
