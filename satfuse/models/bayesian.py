"""Our own model: the library's prior of the spectral map, adapted to the scene, with the observation estimated.

`fit` estimates how the coarse image was seen (shift, PSF width, gain and noise per band) and the scene's own linear
map, by the evidence of the coarse image under a prior learned from spectra (docs/adr/0005-bayesian-model.md);
`forward` is that map on the guide's pixels plus a smooth field for what the map leaves, and its uncertainty.
"""

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.nn import functional as F

from satfuse.errors import ConfigError, RadiometryError
from satfuse.models.interface import Fused, FusionModel, first_frame, input_ratio
from satfuse.models.native_blur import COARSE_PIXEL_M, add_detail, detail_error, detail_power, fit_detail
from satfuse.models.scene_observation import LEAST_SHARE, Fine, Observation, find_observation, trust
from satfuse.models.scene_regression import adapt
from satfuse.models.scene_sums import Channel, usable_features
from satfuse.models.shared_error import add_field, field_weights, margin, move
from satfuse.models.spectral_prior import CONSTANT, DARK, MapPrior, map_prior
from satfuse.models.uncertainty import TERMS, pixel_features, scene_terms, standard_deviation, whitener
from satfuse.sensors.bands import S3_BANDS
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA

WIDE = {b.name for b in S3_BANDS if b.gsd_m > 300}
LEAST_SPECTRA = 100  # of the guide at full resolution that stand for the scene
MOST_MISFIT = 0.5  # median error over brightness
LEAST_BANDS, NOISE_BANDS = 8, 3  # of so many bands, the smallest eigenvalues of differences that are taken for noise


class Bayesian(FusionModel):
    """Linear in the guide per scene; all bands whose response is known, any ratio, any number of frames.

    Parameters
    ----------
    places, pixels, basis : size of the library of spectra, see `spectral_prior.map_prior`.

    Attributes
    ----------
    uncertainty_scale : (9,) factors of the terms of the variance, see `uncertainty`.
    """

    name = "bayesian"
    uses_coarse_frames = True
    any_bands = True
    estimates_observation = True

    def __init__(self, *, guide_bands, coarse_bands, ratio, places: int = 900, pixels: int = 36, basis: int = 28):
        super().__init__(guide_bands=guide_bands, coarse_bands=coarse_bands, ratio=ratio)
        samples = 425
        self.register_buffer("places", torch.zeros(places, pixels, basis, dtype=torch.float16))
        self.register_buffer("scale", torch.ones(basis))
        self.register_buffer("basis", torch.zeros(basis, samples))
        self.register_buffer("centre", torch.zeros(samples))
        self.register_buffer("wavelength_nm", torch.arange(380.0, 2501.0, 5.0))
        self.register_buffer("uncertainty_scale", torch.ones(len(TERMS)))

    def reach(self, ratio):
        return 1  # for `add_detail`; the field brings its own margin

    @cached_property
    def prior(self) -> MapPrior:
        """Of this model's bands."""
        places = self.places.double().cpu().numpy() * self.scale.double().cpu().numpy()
        basis, centre, wavelength = (t.double().cpu().numpy() for t in (self.basis, self.centre, self.wavelength_nm))
        return map_prior(places, basis, centre, wavelength, self.guide_bands, self.coarse_bands)

    @threadpool_limits.wrap(limits=1, user_api="blas")  # the matrices are small: threads would wait for each other
    @torch.no_grad()
    def fit(self, scene):
        """Map, observation and residual field of a scene.

        Returns
        -------
        `weight (c, g)`, `bias (c,)` : the map from guide to coarse bands.
        `shift`, `shift_sigma (t, 2)` : coarse pixels, x and y, see `sensors.degradation.psf_kernel`.
        `psf_sigma (c,)` : coarse pixels. `gain (t, c)` : coarse over what an exact sensor shows, 1 where unknown.
        `noise (t, c)` : standard deviation at the coarse scale.
        `terms (9, c)`, `whitener (g, g)`, `whitened (g,)` : of the variance, see `uncertainty`.
        `misfit (c,)` : median error of the library's own prediction of frame 0, over its brightness; NaN without data.
        `grid.field (c, h + 2 m, w + 2 m)`, `field_shift (2,)` : weights of the residual field, with a margin, and where
        their grid lies, see `shared_error`.
        """
        prior = self.prior
        patches, whole = scene.patches.double(), scene.patches_valid
        detail, errors = fit_detail(patches, whole, self.guide_bands, COARSE_PIXEL_M / scene.ratio)
        sharp = add_detail(patches, whole, self.guide_bands, COARSE_PIXEL_M / scene.ratio, detail)
        power = (detail_power(patches, sharp, self.guide_bands) * whole).sum((0, 2, 3)) / whole.sum().clamp(min=1)
        cells = scene.guide_cells.double()[None], scene.cells_valid[None, None]
        image = add_detail(*cells, self.guide_bands, COARSE_PIXEL_M / scene.cells, detail)[0]
        fine = Fine(
            image=(image * scene.cells_valid).cpu().numpy(),
            valid=scene.cells_valid.double().cpu().numpy(),
            cells=scene.cells,
            ratio=scene.ratio,
        )
        clear = sharp.movedim(1, 0)[:, whole[:, 0]]
        spectra = (clear if clear.shape[1] > LEAST_SPECTRA else image[:, scene.cells_valid]).cpu().numpy()
        frames, known = scene.frames.double().cpu().numpy(), scene.frames_valid.cpu().numpy()
        wide = np.array([b in WIDE for b in self.coarse_bands])
        seen, channels = [], []
        for t, (frame, valid) in enumerate(zip(frames, known, strict=True)):
            present = np.flatnonzero(np.ptp(frame[:, valid], axis=1)) if valid.any() else np.array([], int)
            registered = scene.registered and t == 0
            seen.append(_observation(fine, frame, valid, present, prior, wide, registered))
            channels.append(_channels(fine, frame, valid, present, seen[-1], prior))
        found = adapt([c for frame in channels for c in frame], prior)
        gain, noise = _per_frame(channels, found, len(self.coarse_bands))
        field = _field(frames, channels, found, gain, noise, seen[0].psf_sigma)
        whole_pixels = np.round(seen[0].shift)  # moved on the grid, so that `REACH` holds for any shift
        field = margin(move(field, -whole_pixels.astype(int)))
        guide_noise = _guide_noise(sharp, whole)
        weight = _denoised(found.weight, spectra, guide_noise)
        lost = detail_error(weight[:, :-1], detail, errors, self.guide_bands)
        matrix, offset = whitener(spectra)
        state = {
            "weight": weight[:, :-1], "bias": CONSTANT * weight[:, -1], "whitener": matrix, "whitened": offset,
            "terms": scene_terms(found, prior, spectra, guide_noise, noise, lost, power.cpu().numpy()),
            "shift": np.stack([s.shift for s in seen]), "shift_sigma": np.stack([s.shift_sigma for s in seen]),
            "field_shift": seen[0].shift - whole_pixels, "psf_sigma": seen[0].psf_sigma, "gain": gain,
            "noise": np.sqrt(noise), "shared": np.array(found.shared),
            "misfit": _misfit(channels[0], prior, self.coarse_bands), "grid.field": field,
        } | {name: linear.cpu().numpy() for name, linear in detail.items()}  # fmt: skip
        return {name: torch.from_numpy(np.ascontiguousarray(v)).to(scene.frames) for name, v in state.items()}

    def forward(self, guide, coarse, *, state=None, guide_valid=None, coarse_valid=None):
        if not state:
            raise ConfigError("the bayesian model needs the state that its fit returned for this field")
        ratio = input_ratio(guide, first_frame(coarse))
        seen = guide
        guide = add_detail(guide, guide_valid, self.guide_bands, COARSE_PIXEL_M / ratio, state)
        image = F.conv2d(guide, state["weight"][..., None, None], state["bias"])
        if state["grid.field"].any():
            add_field(image, state["grid.field"], ratio, state["psf_sigma"], state["field_shift"].tolist())
        pixels = pixel_features(seen, guide, state["whitener"], state["whitened"], self.guide_bands)
        return Fused(image, standard_deviation(self.uncertainty_scale, state["terms"], pixels))


def _observation(fine, frame, valid, present, prior, wide, registered) -> Observation:
    """Of one frame, from the bands that it has."""
    if len(present) == 0:
        nothing = np.zeros(2)
        return Observation(
            shift=nothing, shift_sigma=nothing + np.inf, psf_sigma=np.full(len(frame), DEFAULT_PSF_SIGMA)
        )
    chosen = prior.of_bands(present)
    seen = find_observation(fine, frame[present], valid, chosen, wide=wide[present], registered=registered)
    widths = np.full(len(frame), seen.psf_sigma[0])
    widths[present] = seen.psf_sigma
    return replace(seen, psf_sigma=widths)


def _channels(fine, frame, valid, present, seen, prior) -> list[Channel]:
    """The bands of a frame with the guide as that frame saw it."""
    out = {}
    for width in np.unique(seen.psf_sigma[present]):
        z, share = fine.degrade(width, seen.shift)
        usable = valid & (share > LEAST_SHARE)
        values, at, weight = usable_features(z, usable), np.argwhere(usable), share[usable].clip(max=1)
        weight = weight * np.sqrt(trust(frame[present][:, usable].T, values @ prior.mean[present].T))
        for band in present[seen.psf_sigma[present] == width]:
            out[band] = Channel(band=band, z=values, y=frame[band][usable], share=weight, at=at, psf_sigma=width)
    return [out[band] for band in present if len(out[band].y)]


def _per_frame(channels, found, count):
    """(t, c) gain and noise variance; 1 and NaN for bands that a frame lacks."""
    gain, noise = np.ones((len(channels), count)), np.full((len(channels), count), np.nan)
    values = iter(zip(found.gain, found.noise, strict=True))
    for t, frame in enumerate(channels):
        for channel in frame:
            error, variance = next(values)
            gain[t, channel.band], noise[t, channel.band] = 1 + error, variance
    return gain, noise


def _field(frames, channels, found, gain, noise, psf_sigma):
    """Weights of the residual field on the coarse grid, from all frames by their precision."""
    total, precision = np.zeros(frames.shape[1:]), np.zeros(frames.shape[1:])
    for t, frame in enumerate(channels):
        for c in frame:
            band, (rows, columns) = c.band, c.at.T
            left = c.y / gain[t, band] - c.z @ found.weight[band]
            total[band, rows, columns] += left * c.share**2 / noise[t, band]
            precision[band, rows, columns] += c.share**2 / noise[t, band]
    known = precision > 0
    residual = total / np.where(known, precision, 1)
    own = np.where(known, precision, np.nan) * np.nan_to_num(noise[0], nan=1.0)[:, None, None]
    return field_weights(residual, known.any(0), found.shared * np.nanmedian(own) if known.any() else 0.0, psf_sigma)


def _guide_noise(patches, valid) -> float:
    """Variance of the guide's noise: what its bands' differences between neighbours hold in no common direction."""
    both = (valid[..., 1:] & valid[..., :-1])[:, 0]
    difference = (patches[..., 1:] - patches[..., :-1]).double().movedim(1, 0)[:, both]
    if difference.shape[1] < 100 or len(difference) < LEAST_BANDS:
        return 0.0
    values = torch.linalg.eigvalsh(difference @ difference.T / difference.shape[1])
    return max(float(values[:NOISE_BANDS].mean() / 2), 0.0)


def _denoised(weight, spectra, noise) -> np.ndarray:
    """The map with the Wiener filter of the scene's guide spectra (g, n) before it."""
    if noise == 0:
        return weight
    mean = spectra.mean(1)
    values, vectors = np.linalg.eigh(np.cov(spectra))
    keep = vectors * (1 - noise / values.clip(min=noise)) @ vectors.T
    linear = weight[:, :-1] @ keep
    constant = weight[:, -1] + (weight[:, :-1] - linear) @ mean / CONSTANT
    return np.column_stack([linear, constant])


def _misfit(channels, prior, bands) -> np.ndarray:
    """(c,) median error of the prior's own prediction of a frame, over the frame's rms.

    Raises
    ------
    RadiometryError
        Bands whose error is beyond what any surface explains.
    """
    out = np.full(len(bands), np.nan)
    if channels:
        brightness = np.sqrt(np.mean([np.square(c.y).mean() for c in channels])) + DARK
        for c in channels:
            out[c.band] = np.median(np.abs(c.y - c.z @ prior.mean[c.band])) / brightness
    if (wrong := out > MOST_MISFIT).any():
        names = ", ".join(f"{b} ({m:.0%})" for b, m, bad in zip(bands, out, wrong, strict=True) if bad)
        raise RadiometryError(
            f"the coarse image is not what the guide shows: {names} off from what the guide's spectrum allows; check "
            "the order and names of the bands of both images, their scale and offset, place and time, and mask clouds"
        )
    return out
