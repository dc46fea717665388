"""The Bayesian model: a prior of the spectral map, adapted to the scene with its observation.

`fit` estimates how the coarse image was observed (shift, PSF width, gain and noise per band) and
the scene's own linear map from guide to coarse bands. `forward` applies the map to the guide's
pixels, adds the residual field, and states the standard deviation of the result. The package's
docstring defines the symbols.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.nn import functional as F

from satfuse.arrays import FloatArray
from satfuse.errors import ConfigError
from satfuse.models.bayesian.frames import (
    Frame,
    ScenePosterior,
    fit_frames,
    reference_frame,
    register_frames,
)
from satfuse.models.bayesian.guide import SceneGuide, restore, restore_scene
from satfuse.models.bayesian.native_blur import detail_error
from satfuse.models.bayesian.plausible import check_clouds, correlation, doubt, misfit
from satfuse.models.bayesian.residual_field import add_residual_field, translate, with_margin
from satfuse.models.bayesian.spectral_prior import CONSTANT, MapPrior, map_prior
from satfuse.models.bayesian.uncertainty import (
    TERMS,
    pixel_features,
    scene_terms,
    standard_deviation,
    whitening,
)
from satfuse.models.interface import (
    Fused,
    FusionModel,
    Observation,
    State,
    first_frame,
    input_ratio,
)
from satfuse.models.summary import Summary
from satfuse.sensors.bands import COARSE_M

SAMPLES = 425  # of the shipped spectra: 380 to 2500 nm in steps of 5 nm


class Bayesian(FusionModel):
    """Linear in the guide per scene; any bands of a known response, any ratio, any frames.

    Parameters
    ----------
    places, pixels, basis : numbers of training scenes, of pixels of each, and of spectra of the
        basis; see `spectral_prior.map_prior`.

    Attributes
    ----------
    places : (places, pixels, basis) coefficients of the training scenes, divided by `scale`.
    uncertainty_scale : (11,) factors of the terms of the variance, see `uncertainty`.
    """

    name = "bayesian"
    uses_coarse_frames = True
    any_bands = True
    estimates_observation = True
    gives_uncertainty = True

    places: torch.Tensor
    scale: torch.Tensor
    basis: torch.Tensor
    centre: torch.Tensor
    wavelength_nm: torch.Tensor
    uncertainty_scale: torch.Tensor

    def __init__(
        self,
        *,
        guide_bands: int | Iterable[str],
        coarse_bands: int | Iterable[str],
        ratio: int,
        places: int = 900,
        pixels: int = 36,
        basis: int = 28,
    ) -> None:
        super().__init__(guide_bands=guide_bands, coarse_bands=coarse_bands, ratio=ratio)
        # names of the buffers are keys of the shipped weights
        self.register_buffer("places", torch.zeros(places, pixels, basis, dtype=torch.float16))
        self.register_buffer("scale", torch.ones(basis))
        self.register_buffer("basis", torch.zeros(basis, SAMPLES))
        self.register_buffer("centre", torch.zeros(SAMPLES))
        self.register_buffer("wavelength_nm", torch.arange(380.0, 2501.0, 5.0))
        self.register_buffer("uncertainty_scale", torch.ones(len(TERMS)))

    def reach(self, ratio: int) -> int:
        return 1  # of `add_detail`; the residual field has its own margin

    @cached_property
    def prior(self) -> MapPrior:
        """Prior of the map between this model's bands."""
        scale = self.scale.double().cpu().numpy()
        return map_prior(
            self.places.double().cpu().numpy() * scale,
            self.basis.double().cpu().numpy(),
            self.centre.double().cpu().numpy(),
            self.wavelength_nm.double().cpu().numpy(),
            self.guide_bands,
            self.coarse_bands,
        )

    # the matrices are small: threads of BLAS would wait for each other
    @threadpool_limits.wrap(limits=1, user_api="blas")
    @torch.no_grad()
    def fit(self, summary: Summary) -> State:
        """Map, observation and residual field of a scene.

        Returns
        -------
        State with the tensors
            weight (c, g), bias (c,) : spectral map.
            shift, shift_sigma (t, 2) : coarse pixels, x and y, see `degradation.psf_kernel`.
            psf_sigma (c,) : coarse pixels.
            gain (t, c) : coarse reflectance over that of an exact sensor, 1 where unknown.
            noise (t, c) : standard deviation at the coarse scale.
            shared () : variance of the correlated noise over that of the white.
            misfit (c,), correlation () : of the first frame with data, see `plausible`; else NaN.
            terms (10, c), beside (k, c), whitener (g, g), whitened (g,) : of the variance, see
                `uncertainty`: terms, variance of mask-edge pixels by class, matrix and offset.
            grid.field (c, h + 2 m, w + 2 m), field_shift (2,) : kriging weights with a margin, and
                the shift of their grid, see `residual_field`.
            detail20, detail60, edge_matrix, edge_offset : restoration of the guide, see `guide`.
        """
        scene_guide = restore_scene(summary, self.guide_bands)
        check_clouds(scene_guide.spectra, self.guide_bands, "guide")
        for frame, valid in zip(summary.frames, summary.frames_valid, strict=True):
            check_clouds(frame[:, valid].numpy(), self.coarse_bands, "coarse image")
        frames = register_frames(summary, scene_guide, self.prior, self.coarse_bands)
        reference = reference_frame(frames)
        checks = {
            "misfit": misfit(reference.channels, self.prior, self.guide_bands, self.coarse_bands),
            "correlation": correlation(reference.channels, self.prior),
            "registered": np.array(summary.registered),
        }
        height, width = summary.coarse.shape[1:]
        posterior = fit_frames(frames, scene_guide, self.prior, self.coarse_bands, (height, width))
        state = (
            self._map_state(posterior, scene_guide)
            | _observation_state(frames, reference, posterior)
            | checks
            | {name: parameter.numpy() for name, parameter in scene_guide.maps.items()}
        )
        return {
            name: torch.from_numpy(np.ascontiguousarray(value)).to(summary.frames)
            for name, value in state.items()
        }

    def _map_state(self, posterior: ScenePosterior, scene_guide: SceneGuide) -> dict[str, Any]:
        """Spectral map and the parts of its variance."""
        weight = _denoised(posterior.map.weight, scene_guide.spectra, scene_guide.noise)
        of_guide = weight[:, :-1]
        detail_errors = detail_error(
            of_guide, scene_guide.maps, scene_guide.detail_errors, self.guide_bands
        )
        matrix, offset = whitening(scene_guide.spectra)
        return {
            "weight": of_guide,
            "bias": CONSTANT * weight[:, -1],
            "whitener": matrix,
            "whitened": offset,
            "terms": scene_terms(posterior, self.prior, scene_guide, detail_errors),
            "beside": np.einsum("cg,kgh,ch->kc", of_guide, scene_guide.edge_covariance, of_guide),
        }

    def observation(self, state: State) -> Observation:
        shift_sigma = state["shift_sigma"][0].cpu().numpy()
        return Observation(
            shift=state["shift"][0].cpu().numpy(),
            shift_sigma=shift_sigma,
            psf_sigma=state["psf_sigma"].cpu().numpy(),
            gain=state["gain"][0].cpu().numpy(),
            doubt=doubt(
                float(state["correlation"]),
                float(shift_sigma.max()),
                registered=bool(state["registered"]),
            ),
        )

    def forward(
        self,
        guide: torch.Tensor,
        coarse: torch.Tensor,
        *,
        state: State | None = None,
        guide_valid: torch.Tensor | None = None,
        coarse_valid: torch.Tensor | None = None,
    ) -> Fused:
        if not state:
            raise ConfigError(
                "the bayesian model needs the state that its fit returned for this field"
            )
        ratio = input_ratio(guide, first_frame(coarse))
        pixel_m = COARSE_M / ratio
        restored = restore(guide, guide_valid, self.guide_bands, pixel_m, state)
        image = F.conv2d(restored.image, state["weight"][..., None, None], state["bias"])
        weights = state["grid.field"]
        if weights.any():
            shift = state["field_shift"].tolist()
            add_residual_field(image, weights, ratio, state["psf_sigma"], shift)
        pixels = pixel_features(
            guide,
            restored,
            state["whitener"],
            state["whitened"],
            guide_valid,
            self.guide_bands,
            pixel_m,
        )
        sigma = standard_deviation(
            self.uncertainty_scale, state["terms"], pixels, restored.classes, state["beside"]
        )
        return Fused(image, sigma)


def _observation_state(
    frames: list[Frame], reference: Frame, posterior: ScenePosterior
) -> dict[str, Any]:
    """How the frames were observed, and the residual field on the grid of the reference frame."""
    # Whole pixels of the shift are moved on the grid, so that `REACH` is enough for any shift.
    whole_pixels = np.round(reference.observation.shift)
    weights = translate(posterior.residual_weights, -whole_pixels.astype(int))
    return {
        "shift": np.stack([f.observation.shift for f in frames]),
        "shift_sigma": np.stack([f.observation.shift_sigma for f in frames]),
        "psf_sigma": reference.observation.psf_sigma,
        "gain": posterior.gain,
        "noise": np.sqrt(posterior.noise),
        "shared": posterior.map.correlated,
        "grid.field": with_margin(weights),
        "field_shift": reference.observation.shift - whole_pixels,
    }


def _denoised(weight: FloatArray, spectra: FloatArray, noise: float) -> FloatArray:
    """The map (c, f) applied after a Wiener filter against the guide's noise.

    With the eigenvalues l and eigenvectors U of the covariance of the noisy spectra (g, n), the
    filter is U diag(1 - noise / l) U' about their mean.
    """
    if noise == 0:
        return weight
    mean = spectra.mean(1)
    eigenvalues, vectors = np.linalg.eigh(np.cov(spectra))
    wiener = vectors * (1 - noise / eigenvalues.clip(min=noise)) @ vectors.T
    linear = weight[:, :-1] @ wiener
    # the constant term takes up what the filter takes from the mean
    constant = weight[:, -1] + (weight[:, :-1] - linear) @ mean / CONSTANT
    return np.column_stack([linear, constant])
