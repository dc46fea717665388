"""The coarse frames of a scene, from their registration to the posterior of the scene's map."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from satfuse.arrays import BoolArray, FloatArray, IntArray
from satfuse.models.bayesian.empirical_bayes import MapPosterior, fit_map
from satfuse.models.bayesian.guide import SceneGuide
from satfuse.models.bayesian.registration import (
    MINIMUM_COVERAGE,
    FrameObservation,
    GuideCells,
    cauchy_weights,
    estimate_observation,
    uninformed,
)
from satfuse.models.bayesian.residual_cloud import (
    Prediction,
    at_mask_edge,
    remove_residual_cloud,
)
from satfuse.models.bayesian.residual_field import kriging_weights
from satfuse.models.bayesian.spectral_prior import MapPrior, features
from satfuse.models.bayesian.sufficient_statistics import Channel, usable_features
from satfuse.models.summary import Summary
from satfuse.sensors.bands import S3_BANDS

WIDE = {b.name for b in S3_BANDS if b.gsd_m > 300}  # SLSTR: a PSF width of their own
# Variance of the guide's error, over that of the scene's spectra, if the shift is unknown by one
# coarse pixel.
MISREGISTRATION_VARIANCE = 0.5
# Standard deviation, in coarse pixels, that is added to a shift found at mask edges only, where the
# curvature of the evidence is too optimistic.
EDGE_SHIFT_SIGMA = 0.2
# Covariance of the error of the prior's map and of the scene's own map, over the prior's.
PRIOR_SCALE = 0.3
POSTERIOR_SCALE = 0.05
INITIAL_NOISE = 0.002  # reflectance, standard deviation before it is estimated


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A registered coarse frame.

    Parameters
    ----------
    observation : shift and PSF widths.
    channels : its bands, all of the same n pixels; empty without data.
    edge : (n,) bool, True = at a mask edge.
    """

    observation: FrameObservation
    channels: list[Channel]
    edge: BoolArray

    @property
    def unseen_variance(self) -> FloatArray:
        """(n,) variance of ground that the guide does not show, over that of the scene's spectra.

        From hidden parts of the PSF, and from misregistration.
        """
        hidden = (1 - self.channels[0].coverage) ** 2
        misregistration = min(self.observation.shift_sigma.max(), 1)
        return hidden + MISREGISTRATION_VARIANCE * misregistration**2


@dataclass(frozen=True, kw_only=True)
class ScenePosterior:
    """What is estimated from all frames together.

    Parameters
    ----------
    map : posterior of the scene's map.
    gain : (t, c) coarse over exact reflectance; 1 for bands that a frame lacks.
    noise : (t, c) noise variance; NaN for bands that a frame lacks.
    residual_weights : (c, h, w) kriging weights of the residual field.
    """

    map: MapPosterior
    gain: FloatArray
    noise: FloatArray
    residual_weights: FloatArray


def register_frames(
    summary: Summary, scene_guide: SceneGuide, prior: MapPrior, coarse_bands: Sequence[str]
) -> list[Frame]:
    """Register the frames of a scene, one by one."""
    wide = np.array([b in WIDE for b in coarse_bands])
    images = zip(summary.frames.double().numpy(), summary.frames_valid.numpy(), strict=True)
    return [
        # only the first frame may have been registered before
        _register(image, valid, scene_guide.cells, prior, wide, summary.registered and t == 0)
        for t, (image, valid) in enumerate(images)
    ]


def reference_frame(frames: list[Frame]) -> Frame:
    """The first frame with data; the residual field is on its grid."""
    return next((f for f in frames if f.channels), frames[0])


def fit_frames(
    frames: list[Frame],
    scene_guide: SceneGuide,
    prior: MapPrior,
    coarse_bands: Sequence[str],
    shape: tuple[int, int],
) -> ScenePosterior:
    """Posterior of the map, gains, noise and residual field of a scene.

    At mask edges, residual cloud is estimated twice: first from the prior's prediction, then from
    that of the scene's own map.

    Parameters
    ----------
    shape : (h, w) of the coarse image.
    """
    feature_covariance = np.cov(features(scene_guide.spectra.T).T)
    prior_covariance = prior.covariance.reshape(prior.mean.shape * 2)
    weight = prior.mean
    scale = PRIOR_SCALE
    variance = INITIAL_NOISE**2
    gain: FloatArray = np.ones((len(frames), len(coarse_bands)))
    for _ in range(2 if any(f.edge.any() for f in frames) else 1):
        prediction = Prediction.of(
            weight, scale * prior_covariance, variance, feature_covariance, coarse_bands
        )
        channels = [
            _cleaned(frame, prediction, frame_gain) if frame.channels else []
            for frame, frame_gain in zip(frames, gain, strict=True)
        ]
        posterior = fit_map([c for of_frame in channels for c in of_frame], prior)
        gain, noise = _per_frame(channels, posterior, len(coarse_bands))
        weight = posterior.weight
        scale = POSTERIOR_SCALE
        if any(channels):
            variance = float(np.nanmean(noise))
    residual, precision = _mean_residual(
        channels, posterior, gain, noise, (len(coarse_bands), *shape)
    )
    psf_sigma = reference_frame(frames).observation.psf_sigma
    return ScenePosterior(
        map=posterior,
        gain=gain,
        noise=noise,
        residual_weights=_residual_weights(
            residual, precision, noise, posterior.correlated, psf_sigma
        ),
    )


def _register(
    image: FloatArray,
    valid: BoolArray,
    cells: GuideCells,
    prior: MapPrior,
    wide: BoolArray,
    registered: bool,
) -> Frame:
    """Register one frame (c, h, w) and gather its channels."""
    present = np.zeros(0, int)
    if valid.any():
        present = np.flatnonzero(np.ptp(image[:, valid], axis=1))  # constant bands have no data
    observation = _observation(image, valid, cells, present, prior, wide, registered)
    channels = _channels(image, valid, cells, present, observation)
    if not channels:
        return Frame(observation=observation, channels=channels, edge=np.zeros(0, bool))
    edge = at_mask_edge(valid, cells.valid > 0)[tuple(channels[0].position.T)]
    # in full for a frame of edge pixels only, less the more pixels are away from masks
    edge_sigma = EDGE_SHIFT_SIGMA * edge.mean() / np.sqrt(1 + (~edge).sum())
    shift_sigma = np.hypot(observation.shift_sigma, edge_sigma)
    observation = replace(observation, shift_sigma=shift_sigma)
    return Frame(observation=observation, channels=channels, edge=edge)


def _observation(
    image: FloatArray,
    valid: BoolArray,
    cells: GuideCells,
    present: IntArray,
    prior: MapPrior,
    wide: BoolArray,
    registered: bool,
) -> FrameObservation:
    """Observation from the bands that are present; the others get the width of the first."""
    if len(present) == 0:
        return uninformed(len(image), registered)
    observation = estimate_observation(
        cells,
        image[present],
        valid,
        prior.select(present),
        wide=wide[present],
        registered=registered,
    )
    psf_sigma = np.full(len(image), observation.psf_sigma[0])
    psf_sigma[present] = observation.psf_sigma
    return replace(observation, psf_sigma=psf_sigma)


def _channels(
    image: FloatArray,
    valid: BoolArray,
    cells: GuideCells,
    present: IntArray,
    observation: FrameObservation,
) -> list[Channel]:
    """Channels of the bands that are present; bands of one PSF width share their arrays."""
    widths = observation.psf_sigma[present]
    degraded = {width: cells.degrade(width, observation.shift) for width in np.unique(widths)}
    covered = [coverage > MINIMUM_COVERAGE for _, coverage in degraded.values()]
    usable = np.logical_and.reduce([valid, *covered])
    position = np.argwhere(usable)
    if len(position) == 0:
        return []
    z = {width: usable_features(guide, usable) for width, (guide, _) in degraded.items()}
    coverage = {width: c[usable].clip(max=1) for width, (_, c) in degraded.items()}
    return [
        Channel(
            band=band,
            z=z[width],
            y=image[band][usable],
            coverage=coverage[width],
            position=position,
            psf_sigma=width,
        )
        for band, width in zip(present, widths, strict=True)
    ]


def _cleaned(frame: Frame, prediction: Prediction, gain: FloatArray) -> list[Channel]:
    """Channels without residual cloud, outliers of brightness down-weighted by coverage."""
    bands = [c.band for c in frame.channels]
    channels = remove_residual_cloud(
        frame.channels, prediction, gain=gain[bands], edge=frame.edge, unseen=frame.unseen_variance
    )
    y = np.stack([c.y for c in channels], 1)
    predicted = np.stack([c.z @ prediction.weight[c.band] for c in channels], 1)
    # the noise variance is proportional to 1 / coverage^2
    factor = np.sqrt(cauchy_weights(y, predicted))
    return [replace(c, coverage=c.coverage * factor) for c in channels]


def _per_frame(
    channels: list[list[Channel]], posterior: MapPosterior, bands: int
) -> tuple[FloatArray, FloatArray]:
    """Gain and noise variance by frame and band (t, c)."""
    gain = np.ones((len(channels), bands))
    noise = np.full((len(channels), bands), np.nan)
    values = iter(zip(posterior.gain, posterior.noise, strict=True))
    for t, of_frame in enumerate(channels):
        for channel in of_frame:
            error, variance = next(values)
            gain[t, channel.band] = 1 + error
            noise[t, channel.band] = variance
    return gain, noise


def _mean_residual(
    channels: list[list[Channel]],
    posterior: MapPosterior,
    gain: FloatArray,
    noise: FloatArray,
    shape: tuple[int, int, int],
) -> tuple[FloatArray, FloatArray]:
    """Residuals of all frames, averaged by precision, and their summed precision (c, h, w)."""
    total = np.zeros(shape)
    precision = np.zeros(shape)
    for t, of_frame in enumerate(channels):
        for c in of_frame:
            rows, columns = c.position.T
            residual = c.y / gain[t, c.band] - c.z @ posterior.weight[c.band]
            total[c.band, rows, columns] += residual * c.coverage**2 / noise[t, c.band]
            precision[c.band, rows, columns] += c.coverage**2 / noise[t, c.band]
    return total / np.where(precision > 0, precision, 1), precision


def _residual_weights(
    residual: FloatArray,
    precision: FloatArray,
    noise: FloatArray,
    correlated: float,
    psf_sigma: FloatArray,
) -> FloatArray:
    """Kriging weights of the averaged residual."""
    known = precision > 0
    if not known.any():
        return np.zeros_like(residual)
    # Averaging lowers the white noise but not the field: s grows by the precision of the average
    # over that of the band's best frame.
    best = np.nan_to_num(np.fmin.reduce(noise), nan=1.0)
    gained = np.nanmedian(np.where(known, precision, np.nan) * best[:, None, None])
    anywhere = np.logical_or.reduce(known)  # (h, w), in any band
    return kriging_weights(residual, anywhere, correlated * gained, psf_sigma)
