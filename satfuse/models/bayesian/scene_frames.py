"""The coarse frames of a scene: how each of them saw it, and what they say of its map, of their gains and noise."""

from dataclasses import dataclass, replace

import numpy as np

from satfuse.models.bayesian.coarse_edge import Expected, beside_masks, without_sky
from satfuse.models.bayesian.scene_guide import SceneGuide
from satfuse.models.bayesian.scene_observation import (
    LEAST_SHARE,
    Observation,
    find_observation,
    trust,
    unknown,
)
from satfuse.models.bayesian.scene_regression import Adapted, adapt
from satfuse.models.bayesian.scene_sums import Channel, usable_features
from satfuse.models.bayesian.shared_error import field_weights
from satfuse.models.bayesian.spectral_prior import MapPrior, features
from satfuse.models.summary import Summary
from satfuse.sensors.bands import S3_BANDS

WIDE = {b.name for b in S3_BANDS if b.gsd_m > 300}
MISPLACED = 0.5  # of the scene's variance, where the shift is unknown by a coarse pixel
BESIDE_MASKS = 0.2  # coarse pixels: error of a shift that is found beside masks alone
# Scale of the prior's covariance for the error of its own map and of the scene's, and the noise
# before it is known.
OF_PRIOR, OF_SCENE, FIRST_NOISE = 0.3, 0.05, 0.002


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A coarse frame.

    Parameters
    ----------
    seen : how.
    channels : its bands with the guide as it saw it, all of the same n pixels.
    near : (n,) bool, True = beside a mask.
    """

    seen: Observation
    channels: list[Channel]
    near: np.ndarray

    @property
    def unsure(self) -> np.ndarray:
        """(n,) variance of the ground that the guide does not show where this frame looked, over the scene's."""
        return (1 - self.channels[0].share) ** 2 + MISPLACED * min(
            self.seen.shift_sigma.max(), 1
        ) ** 2


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What all frames say.

    Parameters
    ----------
    map : of the scene; its gains and noise are those of the channels in their order.
    gain, noise : (t, c) gain and variance of the noise; 1 and NaN for bands that a frame lacks.
    field : (c, h, w) weights of the residual field, see `shared_error`.
    """

    map: Adapted
    gain: np.ndarray
    noise: np.ndarray
    field: np.ndarray


def view_frames(scene: Summary, guide: SceneGuide, prior: MapPrior, coarse_bands) -> list[Frame]:
    """The frames of a scene."""
    wide, out = np.array([b in WIDE for b in coarse_bands]), []
    for t, (frame, valid) in enumerate(
        zip(scene.frames.double().numpy(), scene.frames_valid.numpy(), strict=True)
    ):
        present = (
            np.flatnonzero(np.ptp(frame[:, valid], axis=1)) if valid.any() else np.array([], int)
        )
        registered = scene.registered and t == 0
        seen = _observation(guide.fine, frame, valid, present, prior, wide, registered)
        channels = _channels(guide.fine, frame, valid, present, seen)
        near = np.zeros(0, bool)
        if channels:
            near = beside_masks(valid, guide.fine.valid > 0)[tuple(channels[0].at.T)]
            beside = BESIDE_MASKS * near.mean() / np.sqrt(1 + (~near).sum())
            seen = replace(seen, shift_sigma=np.hypot(seen.shift_sigma, beside))
        out.append(Frame(seen=seen, channels=channels, near=near))
    return out


def lead(frames: list[Frame]) -> Frame:
    """The first frame that tells anything: the residual field lies on its grid."""
    return next((f for f in frames if f.channels), frames[0])


def adapt_frames(
    frames: list[Frame], guide: SceneGuide, prior: MapPrior, coarse_bands, shape
) -> Findings:
    """What the frames say of a scene of `shape (h, w)` coarse pixels.

    Sky beside masks is told by what the prior's map lacks, and where there is any, again by what the scene's own lacks.
    """
    of_guide, together = (
        np.cov(features(guide.spectra.T).T),
        prior.together.reshape(prior.mean.shape * 2),
    )
    weight, scale, variance, gain = (
        prior.mean,
        OF_PRIOR,
        FIRST_NOISE**2,
        np.ones((len(frames), len(coarse_bands))),
    )
    for _ in range(2 if any(f.near.any() for f in frames) else 1):
        expected = Expected.of(weight, scale * together, variance, of_guide, coarse_bands)
        channels = [
            _cleared(f, expected, g) if f.channels else []
            for f, g in zip(frames, gain, strict=True)
        ]
        found = adapt([c for of_frame in channels for c in of_frame], prior)
        gain, noise = _per_frame(channels, found, len(coarse_bands))
        weight, scale, variance = (
            found.weight,
            OF_SCENE,
            np.nanmean(noise) if any(channels) else variance,
        )
    field = _field(
        channels, found, gain, noise, (len(coarse_bands), *shape), lead(frames).seen.psf_sigma
    )
    return Findings(map=found, gain=gain, noise=noise, field=field)


def _observation(fine, frame, valid, present, prior, wide, registered) -> Observation:
    """Of one frame, from the bands that it has."""
    if len(present) == 0:
        return unknown(len(frame), registered)
    chosen = prior.of_bands(present)
    seen = find_observation(
        fine, frame[present], valid, chosen, wide=wide[present], registered=registered
    )
    widths = np.full(len(frame), seen.psf_sigma[0])
    widths[present] = seen.psf_sigma
    return replace(seen, psf_sigma=widths)


def _channels(fine, frame, valid, present, seen) -> list[Channel]:
    views = {width: fine.degrade(width, seen.shift) for width in np.unique(seen.psf_sigma[present])}
    usable = np.logical_and.reduce([valid, *(share > LEAST_SHARE for _, share in views.values())])
    at = np.argwhere(usable)
    views = {
        width: (usable_features(z, usable), share[usable].clip(max=1))
        for width, (z, share) in views.items()
    }
    return [
        Channel(
            band=band,
            z=views[width][0],
            y=frame[band][usable],
            share=views[width][1],
            at=at,
            psf_sigma=width,
        )
        for band, width in zip(present, seen.psf_sigma[present], strict=True)
        if len(at)
    ]


def _cleared(frame, expected, gain) -> list[Channel]:
    """The channels without sky, which weigh the less, the further their brightness is off."""
    gain = gain[[c.band for c in frame.channels]]
    channels = without_sky(
        frame.channels, expected, gain=gain, near=frame.near, unsure=frame.unsure
    )
    y, x = (
        np.stack(v, 1)
        for v in zip(*((c.y, c.z @ expected.weight[c.band]) for c in channels), strict=True)
    )
    return [replace(c, share=c.share * np.sqrt(trust(y, x))) for c in channels]


def _per_frame(channels, found, count):
    """(t, c) gain and variance of the noise."""
    gain, noise = np.ones((len(channels), count)), np.full((len(channels), count), np.nan)
    values = iter(zip(found.gain, found.noise, strict=True))
    for t, frame in enumerate(channels):
        for channel in frame:
            error, variance = next(values)
            gain[t, channel.band], noise[t, channel.band] = 1 + error, variance
    return gain, noise


def _field(channels, found, gain, noise, shape, psf_sigma):
    """Weights of the residual field on the coarse grid, from all frames by their precision."""
    total, precision = np.zeros(shape), np.zeros(shape)
    for t, frame in enumerate(channels):
        for c in frame:
            band, (rows, columns) = c.band, c.at.T
            left = c.y / gain[t, band] - c.z @ found.weight[band]
            total[band, rows, columns] += left * c.share**2 / noise[t, band]
            precision[band, rows, columns] += c.share**2 / noise[t, band]
    known = precision > 0
    residual = total / np.where(known, precision, 1)
    own = (
        np.where(known, precision, np.nan)
        * np.nan_to_num(np.fmin.reduce(noise), nan=1.0)[:, None, None]
    )
    return field_weights(
        residual, known.any(0), found.shared * np.nanmedian(own) if known.any() else 0.0, psf_sigma
    )
