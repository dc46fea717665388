"""Our own model: the library's prior of the spectral map, adapted to the scene, with the observation estimated.

`fit` estimates how the coarse image was seen (shift, PSF width, gain and noise per band) and the scene's own linear
map, by the evidence of the coarse image under a prior learned from spectra (docs/adr/0005-bayesian-model.md);
`forward` is that map on the guide's pixels plus a smooth field for what the map leaves, and its uncertainty.
"""

from functools import cached_property

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.nn import functional as F

from satfuse.errors import ConfigError
from satfuse.models.bayesian.native_blur import detail_error
from satfuse.models.bayesian.plausible import check_clouds, correlation, doubt, misfit
from satfuse.models.bayesian.scene_frames import adapt_frames, lead, view_frames
from satfuse.models.bayesian.scene_guide import restore, study
from satfuse.models.bayesian.shared_error import add_field, margin, move
from satfuse.models.bayesian.spectral_prior import CONSTANT, MapPrior, map_prior
from satfuse.models.bayesian.uncertainty import (
    TERMS,
    pixel_features,
    scene_terms,
    standard_deviation,
    whitener,
)
from satfuse.models.interface import Fused, FusionModel, Observation, first_frame, input_ratio
from satfuse.sensors.bands import COARSE_M


class Bayesian(FusionModel):
    """Linear in the guide per scene; all bands whose response is known, any ratio, any number of frames.

    Parameters
    ----------
    places, pixels, basis : size of the library of spectra, see `spectral_prior.map_prior`.

    Attributes
    ----------
    uncertainty_scale : (11,) factors of the terms of the variance, see `uncertainty`.
    """

    name = "bayesian"
    uses_coarse_frames = True
    any_bands = True
    estimates_observation = True
    gives_uncertainty = True

    def __init__(
        self,
        *,
        guide_bands,
        coarse_bands,
        ratio,
        places: int = 900,
        pixels: int = 36,
        basis: int = 28,
    ):
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
        basis, centre, wavelength = (
            t.double().cpu().numpy() for t in (self.basis, self.centre, self.wavelength_nm)
        )
        return map_prior(places, basis, centre, wavelength, self.guide_bands, self.coarse_bands)

    @threadpool_limits.wrap(
        limits=1, user_api="blas"
    )  # the matrices are small: threads would wait for each other
    @torch.no_grad()
    def fit(self, scene):
        """Map, observation and residual field of a scene.

        Returns
        -------
        `weight (c, g)`, `bias (c,)` : the map from guide to coarse bands.
        `shift`, `shift_sigma (t, 2)` : coarse pixels, x and y, see `sensors.degradation.psf_kernel`.
        `psf_sigma (c,)` : coarse pixels. `gain (t, c)` : coarse over what an exact sensor shows, 1 where unknown.
        `noise (t, c)` : standard deviation at the coarse scale.
        `terms (10, c)`, `beside (k, c)`, `whitener (g, g)`, `whitened (g,)` : of the variance, see `uncertainty`.
        `misfit (c,)`, `correlation ()` : of the first frame with data, see `plausible`; else NaN.
        `grid.field (c, h + 2 m, w + 2 m)`, `field_shift (2,)` : weights of the residual field, with a margin, and where
        their grid lies, see `shared_error`.
        """
        prior = self.prior
        guide = study(scene, self.guide_bands)
        check_clouds(guide.spectra, self.guide_bands, "guide")
        for frame, valid in zip(scene.frames, scene.frames_valid, strict=True):
            check_clouds(frame[:, valid].numpy(), self.coarse_bands, "coarse image")
        frames = view_frames(scene, guide, prior, self.coarse_bands)
        first = lead(frames)
        off = misfit(first.channels, prior, self.guide_bands, self.coarse_bands)
        found = adapt_frames(frames, guide, prior, self.coarse_bands, scene.coarse.shape[1:])
        whole_pixels = np.round(
            first.seen.shift
        )  # moved on the grid, so that `REACH` holds for any shift
        field = margin(move(found.field, -whole_pixels.astype(int)))
        weight = _denoised(found.map.weight, guide.spectra, guide.noise)
        lost = detail_error(weight[:, :-1], guide.maps, guide.errors, self.guide_bands)
        matrix, offset = whitener(guide.spectra)
        state = {
            "weight": weight[:, :-1], "bias": CONSTANT * weight[:, -1], "whitener": matrix, "whitened": offset,
            "terms": scene_terms(found, prior, guide, lost),
            "beside": np.einsum("cg,kgh,ch->kc", weight[:, :-1], guide.edge_error, weight[:, :-1]),
            "shift": np.stack([f.seen.shift for f in frames]),
            "shift_sigma": np.stack([f.seen.shift_sigma for f in frames]),
            "psf_sigma": first.seen.psf_sigma, "gain": found.gain, "noise": np.sqrt(found.noise),
            "shared": np.array(found.map.shared), "misfit": off,
            "correlation": np.array(correlation(first.channels, prior)),
            "grid.field": field, "field_shift": first.seen.shift - whole_pixels,
        } | {name: linear.numpy() for name, linear in guide.maps.items()}  # fmt: skip
        return {
            name: torch.from_numpy(np.ascontiguousarray(v)).to(scene.frames)
            for name, v in state.items()
        }

    def observation(self, state):
        shift_sigma = state["shift_sigma"][0].cpu().numpy()
        return Observation(
            shift=state["shift"][0].cpu().numpy(),
            shift_sigma=shift_sigma,
            psf_sigma=state["psf_sigma"].cpu().numpy(),
            gain=state["gain"][0].cpu().numpy(),
            doubt=doubt(float(state["correlation"]), float(shift_sigma.max())),
        )

    def forward(self, guide, coarse, *, state=None, guide_valid=None, coarse_valid=None):
        if not state:
            raise ConfigError(
                "the bayesian model needs the state that its fit returned for this field"
            )
        ratio = input_ratio(guide, first_frame(coarse))
        pixel_m = COARSE_M / ratio
        restored = restore(guide, guide_valid, self.guide_bands, pixel_m, state)
        image = F.conv2d(restored.image, state["weight"][..., None, None], state["bias"])
        if state["grid.field"].any():
            add_field(
                image, state["grid.field"], ratio, state["psf_sigma"], state["field_shift"].tolist()
            )
        of_scene = state["whitener"], state["whitened"], guide_valid
        pixels = pixel_features(guide, restored, *of_scene, self.guide_bands, pixel_m)
        variance = state["terms"], pixels, restored.classes, state["beside"]
        return Fused(image, standard_deviation(self.uncertainty_scale, *variance))


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
