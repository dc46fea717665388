"""Shift, PSF, map, gains, noise and residual field of a scene against known truth and dense algebra."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = pytest.mark.torch

from scipy.linalg import block_diag

from satfuse.models.bayesian.scene_frames import WIDE
from satfuse.models.bayesian.scene_observation import (
    SEARCH,
    SPREAD,
    Fine,
    certainty,
    find_observation,
    trust,
)
from satfuse.models.bayesian.scene_regression import _posterior, adapt
from satfuse.models.bayesian.scene_sums import (
    BLOCK,
    LEAST_VARIANCE,
    Channel,
    Sums,
    rotate,
    shared_variance,
)
from satfuse.models.bayesian.shared_error import REACH, add_field, field_weights, margin
from satfuse.models.bayesian.spectral_prior import MapPrior, features
from satfuse.models.observation import degrade
from satfuse.sensors import degradation
from satfuse.sensors.bands import S3_NAMES
from satfuse.simulate.scenes.factory import biome_scene
from satfuse.simulate.scenes.protocol import Protocol

# --- the regression


def prior_of(mean, spread=0.05, seed=0):
    """A prior with correlated bands."""
    c, f = mean.shape
    half = np.random.default_rng(seed).standard_normal((c * f, c * f)) * spread / np.sqrt(c * f)
    together = half @ half.T + (0.02 * spread) ** 2 * np.eye(c * f)
    apart = together * np.kron(np.eye(c), np.ones((f, f)))
    return MapPrior(mean=mean, together=together, apart=apart, remainder=np.zeros(c))


def channels_of(weight, bands, *, shape=(15, 14), gain=None, noise=0.002, seed=0, partial=False):
    """Channels of known truth on a grid; `bands` may repeat, as with several frames."""
    rng = np.random.default_rng(seed)
    at = np.argwhere(rng.random(shape) < 0.9)
    z = features(rng.uniform(0.05, 0.5, (len(at), weight.shape[1] - 1)))
    share = rng.uniform(0.5, 1, len(at)) if partial else np.ones(len(at))
    gain = np.ones(len(bands)) if gain is None else gain
    return [
        Channel(
            band=b, z=z, share=share, at=at, psf_sigma=0.5,
            y=g * (z @ weight[b]) + noise * rng.standard_normal(len(at)) / share,
        )
        for b, g in zip(bands, gain, strict=True)
    ]  # fmt: skip


MEAN = np.random.default_rng(5).uniform(0.1, 0.6, (3, 4))


def covariance_of(channel, shared):
    """Of a channel's errors, over the noise's variance; blocks of `BLOCK` pixels know nothing of each other."""
    distance = ((channel.at[:, None] - channel.at) ** 2).sum(-1)
    block = channel.at // BLOCK
    together = (block[:, None] == block).all(-1)
    field = np.exp(-0.5 * distance / shared_variance(channel.psf_sigma)) * together
    return shared * field + np.diag(1 / channel.share**2)


@pytest.mark.parametrize("shared", [0.0, 0.3, 30.0])
def test_sums_are_those_of_generalised_least_squares(shared):
    channels = channels_of(MEAN, [2, 0, 1], shape=(30, 5), partial=True)  # two blocks
    channels[1] = replace(
        channels[1], share=channels[1].share[::-1].copy(), least=1e-4
    )  # the others go together
    sums = Sums.of(rotate(channels, MEAN), shared)
    assert sums.band.tolist() == [2, 0, 1] and sums.least.tolist() == [
        LEAST_VARIANCE,
        1e-4,
        LEAST_VARIANCE,
    ]
    for j, c in enumerate(channels):
        inverse = np.linalg.inv(covariance_of(c, shared))
        x = c.z @ MEAN[c.band]
        r = c.y - x
        expected = {"zz": c.z.T @ inverse @ c.z, "zr": c.z.T @ inverse @ r, "zx": c.z.T @ inverse @ x,
                    "rr": r @ inverse @ r, "xr": x @ inverse @ r, "xx": x @ inverse @ x,
                    "log_weight": np.linalg.slogdet(inverse)[1] / 2, "count": len(r)}  # fmt: skip
        for name, value in expected.items():
            np.testing.assert_allclose(getattr(sums, name)[j], value, rtol=1e-8, err_msg=name)


def test_posterior_is_that_of_dense_algebra():
    """Map, gains, their covariance and the evidence of one joint Gaussian over all pixels of all channels."""
    prior, shared, gain = prior_of(MEAN), 1.0, 0.02
    channels = channels_of(
        MEAN + 0.05, [0, 1, 2, 1], shape=(6, 6), gain=[1.02, 1, 0.98, 1.01], partial=True
    )
    root = np.linalg.cholesky(prior.together)
    found = _posterior(
        Sums.of(rotate(channels, prior.mean), shared), prior, root, gain, None, shared
    )
    f, rows, noise = 4, [], []
    for j, (c, variance) in enumerate(zip(channels, found.noise, strict=True)):
        row = np.zeros((len(c.y), 3 * f + len(channels)))
        row[:, c.band * f : (c.band + 1) * f] = c.z
        row[:, 3 * f + j] = c.z @ prior.mean[c.band]
        rows.append(row)
        noise.append(variance * covariance_of(c, shared))
    design, errors = np.concatenate(rows), block_diag(*noise)
    r = np.concatenate([c.y - c.z @ prior.mean[c.band] for c in channels])
    before = block_diag(prior.together, gain**2 * np.eye(len(channels)))
    total = design @ before @ design.T + errors
    link = before @ design.T @ np.linalg.inv(total)
    expected, spread = link @ r, before - link @ design @ before
    np.testing.assert_allclose(
        found.weight - prior.mean, expected[: 3 * f].reshape(3, f), atol=1e-7
    )
    np.testing.assert_allclose(found.gain, expected[3 * f :], atol=1e-7)
    for b in range(3):
        np.testing.assert_allclose(
            found.covariance[b], spread[b * f : (b + 1) * f, b * f : (b + 1) * f], atol=1e-9
        )
    assert found.evidence == pytest.approx(
        -0.5 * (np.linalg.slogdet(total)[1] + r @ np.linalg.solve(total, r))
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_a_scenes_own_map_and_noise_are_found(seed):
    prior = prior_of(MEAN)
    own = np.linalg.cholesky(prior.together) @ np.random.default_rng(seed).standard_normal(12)
    truth = MEAN + own.reshape(3, 4)
    found = adapt(channels_of(truth, [0, 1, 2], seed=seed), prior)
    spread = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    z = channels_of(truth, [0], seed=9)[0].z
    shown = (
        1 + found.gain[:, None]
    ) * found.weight  # one frame cannot tell a gain from a brighter map
    before, after = (np.sqrt(np.square(z @ (w - truth).T).mean()) for w in (MEAN, shown))
    assert after < 0.001 and after < 0.1 * before
    assert np.abs((found.weight - truth) / spread).max() < 4
    np.testing.assert_allclose(np.sqrt(found.noise), 0.002, rtol=0.15)
    assert found.shared <= 0.1


def test_gains_are_found_where_the_map_is_known():
    gain = np.array([1.03, 0.98, 1.0, 0.96, 1.01, 1.02])
    found = adapt(channels_of(MEAN, [0, 1, 2, 0, 1, 2], gain=gain), prior_of(MEAN, spread=1e-4))
    np.testing.assert_allclose(found.gain, gain - 1, atol=2e-3)
    np.testing.assert_allclose(np.sqrt(found.noise), 0.002, rtol=0.15)


def test_an_exact_sensor_gets_no_gain_errors():
    found = adapt(channels_of(MEAN, [0, 1, 2], noise=0.0005), prior_of(MEAN, spread=1e-4))
    assert np.abs(found.gain).max() < 1e-3


def test_noise_of_each_channel_is_its_own():
    quiet, loud = (
        channels_of(MEAN, [0, 1], noise=0.001),
        channels_of(MEAN, [0, 1], noise=0.02, seed=1),
    )
    found = adapt([*quiet, *loud], prior_of(MEAN))
    np.testing.assert_allclose(np.sqrt(found.noise), [0.001, 0.001, 0.02, 0.02], rtol=0.2)


def test_errors_that_neighbours_share_are_told_from_noise():
    rng = np.random.default_rng(0)
    white = channels_of(MEAN, [0, 1, 2])
    half = np.linalg.cholesky(covariance_of(white[0], 10.0))
    smooth = [
        Channel(
            **vars(c) | {"y": c.z @ MEAN[c.band] + 0.001 * half @ rng.standard_normal(len(c.y))}
        )
        for c in white
    ]
    assert adapt(white, prior_of(MEAN)).shared <= 0.1
    assert 3 <= adapt(smooth, prior_of(MEAN)).shared <= 30


def test_without_channels_the_library_speaks():
    prior = prior_of(MEAN)
    found = adapt([], prior)
    np.testing.assert_array_equal(found.weight, MEAN)
    np.testing.assert_array_equal(found.covariance[1], prior.together[4:8, 4:8])


def test_a_band_without_channel_learns_from_the_others():
    """What the prior knows of bands together carries over to a band that was not seen."""
    half = np.repeat(np.random.default_rng(0).standard_normal((1, 4)) * 0.1, 3, 0).reshape(12, 1)
    together = half @ half.T + 1e-8 * np.eye(12)
    prior = MapPrior(mean=MEAN, together=together, apart=1e-8 * np.eye(12), remainder=np.zeros(3))
    truth = MEAN + half.reshape(3, 4)
    found = adapt(channels_of(truth, [0, 1]), prior)
    assert np.abs(found.weight[2] - truth[2]).max() < 0.15 * np.abs(MEAN[2] - truth[2]).max()


def test_one_pixel_moves_little():
    prior = prior_of(MEAN)
    found = adapt(channels_of(MEAN, [0], shape=(1, 2)), prior)
    assert np.isfinite(found.weight).all() and np.isfinite(found.covariance).all()
    assert np.abs(found.weight - MEAN).max() < 0.1


# --- shift and PSF


def observed(prior, scene, crop=None, guide_valid=None, coarse_valid=None, registered=False):
    """The estimate from a scene or its upper left part, and its errors in shift, OLCI and SLSTR width."""
    ratio = scene.ratio
    h, w = crop or scene.coarse.shape[-2:]
    usable = scene.guide_valid if guide_valid is None else guide_valid
    usable = usable[: h * ratio, : w * ratio].astype(float)
    fine = Fine(
        image=scene.guide[:, : h * ratio, : w * ratio].astype(float) * usable,
        valid=usable,
        cells=ratio,
        ratio=ratio,
    )
    valid = scene.coarse_valid[0] if coarse_valid is None else coarse_valid
    wide = np.array([b in WIDE for b in S3_NAMES])
    frame = scene.coarse[0, :, :h, :w].astype(float)
    seen = find_observation(fine, frame, valid[:h, :w], prior, wide=wide, registered=registered)
    width = np.abs(seen.psf_sigma - scene.psf_sigma)
    return seen, np.abs(seen.shift - scene.shift[0]), (width[~wide].max(), width[wide].max())


DIRTY = {"gain": 0.02, "noise": 0.002}


@pytest.mark.parametrize(
    ("biome", "shift", "psf_sigma"),
    [("crop", (1.9, -1.3), 0.6), ("snow", (-0.4, 0.1), 0.4), ("city", (0, 0), 0.5)],
)
def test_shift_and_width_are_found(prior, biome, shift, psf_sigma):
    protocol = Protocol(shift=shift, psf_sigma=psf_sigma, **DIRTY)
    seen, error, widths = observed(
        prior, biome_scene(biome, ratio=10, protocol=protocol, seed=1, fine_px=180)
    )
    assert error.max() < 0.01 and max(widths) < 0.03
    assert (error < 5 * seen.shift_sigma).all() and seen.shift_sigma.max() < 0.02


@pytest.mark.parametrize("ratio", [10, 15])
@pytest.mark.parametrize("biome", ["desert", "crop", "city", "snow"])
def test_six_by_nine_coarse_pixels_are_enough(prior, biome, ratio):
    protocol = Protocol(shift=(0.3, -0.2), psf_sigma=0.45, **DIRTY)
    scene = biome_scene(biome, ratio=ratio, protocol=protocol, seed=1, fine_px=150)
    seen, error, widths = observed(prior, scene, crop=(6, 9))
    assert error.max() < 0.05 and max(widths) < 0.05
    assert (error < 5 * seen.shift_sigma).all()


def test_slstr_bands_have_a_width_of_their_own(prior):
    protocol = Protocol(shift=(-0.4, 0.1), psf_sigma=0.4, slstr_factor=500 / 300, **DIRTY)
    seen, _, widths = observed(
        prior, biome_scene("forest", ratio=10, protocol=protocol, seed=1, fine_px=150)
    )
    assert max(widths) < 0.04
    assert len(np.unique(seen.psf_sigma)) == 2 and seen.psf_sigma[S3_NAMES.index("S5N")] > 0.6


@pytest.mark.parametrize(
    ("biome", "shift"), [("crop", (1.9, -1.3)), ("snow", (-0.4, 0.1)), ("city", (0.3, -0.2))]
)
def test_holes_do_not_matter(prior, biome, shift):
    rng = np.random.default_rng(0)
    protocol = Protocol(shift=shift, psf_sigma=0.45, **DIRTY)
    scene = biome_scene(biome, ratio=10, protocol=protocol, seed=1, fine_px=180)
    guide_valid = np.kron(rng.random((18, 18)) > 0.3, np.ones((10, 10))) > 0
    coarse_valid = scene.coarse_valid[0] & (rng.random((18, 18)) > 0.3)
    _, error, widths = observed(prior, scene, guide_valid=guide_valid, coarse_valid=coarse_valid)
    assert error.max() < 0.1 and widths[0] < 0.05


def test_a_registered_image_is_looked_for_nearby(prior):
    scene = biome_scene(
        "crop", ratio=10, protocol=Protocol(shift=(0.12, -0.08), **DIRTY), seed=1, fine_px=120
    )
    _, error, _ = observed(prior, scene, registered=True)
    assert error.max() < 0.02


def test_what_cannot_be_known_is_said_to_be_unknown(prior):
    scene = biome_scene("crop", ratio=10, protocol=Protocol(noise=0.002), seed=1, fine_px=120)
    flat = np.full_like(scene.guide, 0.2)
    coarse = np.random.default_rng(0).normal(0.2, 0.002, scene.coarse.shape)
    three = np.zeros((12, 12), bool)
    three[4, 4:7] = True
    nowhere = np.zeros((120, 120), bool)
    cases = [
        (type(scene)(**vars(scene) | {"guide": flat, "coarse": coarse}), {}),
        (scene, {"coarse_valid": three}),
        (scene, {"guide_valid": nowhere}),
        (scene, {"coarse_valid": np.zeros((12, 12), bool)}),
    ]
    for changed, rest in cases:
        seen, _, _ = observed(prior, changed, **rest)
        assert np.isfinite(seen.shift).all() and np.isfinite(seen.psf_sigma).all()
        assert (
            np.abs(seen.shift).max() < 0.5
            and 0.5 < seen.shift_sigma.min() <= seen.shift_sigma.max() <= SEARCH
        )


def test_what_little_cannot_move_stays_where_registration_put_it(prior):
    scene = biome_scene("crop", ratio=10, protocol=Protocol(noise=0.002), seed=1, fine_px=120)
    seen, _, _ = observed(prior, scene, coarse_valid=np.zeros((12, 12), bool), registered=True)
    np.testing.assert_array_equal(
        [seen.shift, seen.shift_sigma], [[0, 0], [SPREAD[True], SPREAD[True]]]
    )


def test_certainty_falls_with_the_share_that_is_seen():
    share = np.array([0, 0.35, 0.5, 0.9, 0.99, 1, 1 + 1e-9])
    values = certainty(share)
    assert (np.diff(values) >= 0).all() and values[0] < 1e-5 and values[-1] == values[-2] == 1


def test_trust_finds_the_cloud():
    rng = np.random.default_rng(0)
    predicted = rng.uniform(0.1, 0.3, (200, 5))
    seen = (
        predicted + rng.normal(0, 0.004, (200, 5)) + 0.02
    )  # an offset of all pixels is none of its business
    seen[:10] += 0.1
    weight = trust(seen, predicted)
    assert weight[:10].max() < 0.05 and weight[10:].mean() > 0.9 and weight.max() <= 1


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.7, -2.4)])
def test_degrading_cells_is_the_observation_model(shift):
    rng = np.random.default_rng(0)
    valid = rng.random((80, 60)) > 0.2
    image = rng.random((3, 80, 60)) * valid
    got, share = Fine(image=image, valid=valid.astype(float), cells=10, ratio=10).degrade(
        0.5, shift
    )
    expected = degradation.degrade(image, 10, 0.5, shift=shift, valid=valid, minimum_weight=0.3)
    known = np.isfinite(expected[0])
    np.testing.assert_array_equal(known, share > 0.3 - 1e-5)
    np.testing.assert_allclose(got[:, known], expected[:, known], atol=1e-12)


# --- the field that the map leaves


def residual_field(seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, 9, 11)) * 0.01, rng.random((9, 11)) > 0.2


@pytest.mark.parametrize("shared", [0.1, 1.0, 30.0])
def test_weights_solve_the_dense_system(shared):
    residual, known = residual_field()
    widths = np.array([0.5, 0.8])
    found = field_weights(residual, known, shared, widths)
    at = np.argwhere(known)
    distance = ((at[:, None] - at) ** 2).sum(-1)
    for band, width in enumerate(widths):
        matrix = shared * np.exp(-0.5 * distance / shared_variance(width)) + np.eye(len(at))
        np.testing.assert_allclose(
            found[band][known], shared * np.linalg.solve(matrix, residual[band][known]), atol=1e-4
        )
    assert (found[:, ~known] == 0).all()


def test_without_shared_errors_there_is_no_field():
    residual, known = residual_field()
    assert not field_weights(residual, known, 0.0, np.array([0.5, 0.5])).any()
    assert not field_weights(residual, np.zeros_like(known), 3.0, np.array([0.5, 0.5])).any()


@pytest.mark.parametrize(
    ("ratio", "psf_sigma", "shift"),
    [(10, 0.5, (0.0, 0.0)), (15, 0.4, (0.3, -0.4)), (30, 0.8, (-1.2, 0.6))],
)
def test_the_field_degraded_is_the_smooth_residual(ratio, psf_sigma, shift):
    """Degraded with the PSF and shift, the field is what is expected of the residual: K (K + 1 / shared)^-1 r."""
    y, x = np.mgrid[:16, :16]
    residual = 0.01 * np.sin(x / 2.5)[None] * np.cos(y / 3)[None]
    everywhere = np.ones((16, 16), bool)
    weights = field_weights(residual, everywhere, 30.0, np.array([psf_sigma]))
    fine = torch.zeros(1, 1, 16 * ratio, 16 * ratio, dtype=torch.float64)
    add_field(fine, torch.from_numpy(margin(weights)), ratio, torch.tensor([psf_sigma]), shift)
    again = degrade(fine, ratio, psf_sigma, shift=shift)[0].numpy()
    inner = (0, slice(4, -4), slice(4, -4))
    left = weights / 30.0  # what conjugate gradients leave to noise
    np.testing.assert_allclose((again + left)[inner], residual[inner], atol=2e-4)
    assert np.abs(again - residual)[inner].max() < 0.1 * np.abs(residual).max()


def test_tiles_of_the_field_are_parts_of_the_whole():
    weights = torch.from_numpy(margin(np.random.default_rng(1).random((2, 12, 14))))
    rest = 10, torch.tensor([0.5, 0.8]), (0.3, -0.2)
    whole, tile = (
        torch.ones(2, 2, 120, 140, dtype=torch.float64),
        torch.ones(1, 2, 40, 50, dtype=torch.float64),
    )
    add_field(whole, weights, *rest)
    add_field(tile, weights[:, 5 : 9 + 2 * REACH, 3 : 8 + 2 * REACH], *rest)
    for image in whole:  # every image of a batch
        np.testing.assert_allclose(tile[0], image[:, 50:90, 30:80], atol=1e-12)
