"""What library spectra say about the map, on a small library of smooth spectra."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = pytest.mark.torch

from satfuse.errors import BandError
from satfuse.models.bayesian.spectral_prior import CONSTANT, _of_band_values, features, map_prior
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.srf import srf_matrix

WAVELENGTH = np.arange(380.0, 2501.0, 5.0)


def library(places=60, pixels=24, seed=0):
    """Places of three materials each; a basis of five smooth curves."""
    rng = np.random.default_rng(seed)
    phase = (WAVELENGTH - 380) / 2120
    basis = np.stack([np.cos(np.pi * k * phase) for k in range(5)])
    materials = rng.uniform(-1, 1, (places, 3, 5)) * [0.1, 0.08, 0.05, 0.03, 0.02]
    share = rng.dirichlet(np.ones(3), (places, pixels))
    return share @ materials, basis, 0.25 + 0.1 * phase


@pytest.fixture(scope="module")
def prior():
    return map_prior(*library(), WAVELENGTH, S2_NAMES, S3_NAMES)


def test_spectra_of_few_dimensions_are_mapped(prior):
    """Five smooth curves: twelve guide bands determine the spectrum, whatever the platform."""
    places, basis, centre = library(seed=1)
    spectra = places.reshape(-1, 5) @ basis + centre
    guide, coarse = (
        spectra @ srf_matrix(*s, WAVELENGTH)[0].T for s in (("S2A", S2_NAMES), ("S3A", S3_NAMES))
    )
    error = features(guide) @ prior.mean.T - coarse
    assert error.std() < 0.01 * coarse.std()
    assert prior.remainder.max() < 1e-5


def test_the_mean_is_the_map_of_all_places_and_together_how_they_differ():
    """Places whose maps are known: the mean and the covariance of their maps come back."""
    rng = np.random.default_rng(0)
    guide = rng.uniform(0.1, 0.9, (3000, 12, 3))
    mean, spread = (
        rng.uniform(-0.5, 1, (2, 4)),
        np.array([[0.1, 0.05, 0.02, 0.1], [0.08, 0.02, 0.05, 0.02]]),
    )
    common = rng.standard_normal((3000, 1, 1))  # moves both bands' maps alike
    maps = mean + spread * common
    prior = _of_band_values(guide, np.einsum("spf,scf->spc", features(guide), maps))
    expected = np.outer(spread.ravel(), spread.ravel())
    np.testing.assert_allclose(prior.mean, mean, atol=0.02)
    np.testing.assert_allclose(prior.together, expected, atol=2e-3)
    blocks = prior.apart.reshape(2, 4, 2, 4)
    assert (blocks[0, :, 1] == 0).all() and (blocks[1, :, 0] == 0).all()
    np.testing.assert_array_equal(blocks[1, :, 1], prior.together.reshape(2, 4, 2, 4)[1, :, 1])
    assert prior.remainder.max() < 1e-6
    noisy = _of_band_values(
        guide, np.einsum("spf,scf->spc", features(guide), maps) + rng.normal(0, 0.01, (3000, 12, 2))
    )
    brightness = (
        guide.mean(-1) + 0.02
    )  # 12 pixels and 4 unknowns: 8 of 12 parts of the variance are left
    np.testing.assert_allclose(
        noisy.remainder, 0.01**2 * (brightness**-2.0).mean() * 8 / 12, rtol=0.1
    )


def test_a_constant_is_learned():
    guide = np.random.default_rng(0).uniform(0.1, 0.9, (20, 12, 2))
    prior = _of_band_values(guide, guide[..., :1] + 0.03)
    np.testing.assert_allclose(prior.mean, [[1, 0, 0.03 / CONSTANT]], atol=1e-3)


def test_of_bands_is_the_prior_built_for_them(prior):
    index = [20, 3, 11]
    part, direct = (
        prior.of_bands(index),
        map_prior(*library(), WAVELENGTH, S2_NAMES, [S3_NAMES[i] for i in index]),
    )
    for name in ("mean", "together", "apart", "remainder"):
        np.testing.assert_allclose(
            getattr(part, name), getattr(direct, name), rtol=1e-6, atol=1e-12
        )


def test_covariances_are_positive_semidefinite(prior):
    for matrix in (prior.together, prior.apart):
        values = np.linalg.eigvalsh(matrix)
        assert values.min() > -1e-9 * values.max()
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-12 * values.max())


@pytest.mark.parametrize(
    ("guide", "coarse"),
    [(("B04", "B8A"), ("Oa08",)), (("B12",), S3_NAMES), (S2_NAMES[::-1], ("S6N", "Oa01"))],
)
def test_any_bands(guide, coarse):
    prior = map_prior(*library(), WAVELENGTH, guide, coarse)
    assert prior.mean.shape == (len(coarse), len(guide) + 1) and np.isfinite(prior.together).all()


def test_spectra_that_do_not_reach_a_band_are_refused():
    places, basis, centre = library()
    keep = WAVELENGTH > 500
    with pytest.raises(
        BandError, match=r"do not cover S3A Oa01 \(0%\), Oa02 \(0%\), Oa03 \(0%\), Oa04"
    ):
        map_prior(places, basis[:, keep], centre[keep], WAVELENGTH[keep], ("B04", "B08"), S3_NAMES)
