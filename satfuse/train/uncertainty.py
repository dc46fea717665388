"""Calibration of the Bayesian model's uncertainty on scenes whose truth is known."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from satfuse.models.bayesian.model import Bayesian
from satfuse.models.bayesian.uncertainty import MINIMUM_VARIANCE, TERMS
from satfuse.models.prepare import prepare_scene
from satfuse.simulate.scenes.factory import TrainingScene

log = logging.getLogger(__name__)

PIXELS = 100  # per scene to which the factors are fitted
STEPS = 240  # of Adam
RATE = 0.15  # learning rate; a fifth of it in the last third of the steps
# number of sigmas, target share of absolute errors below it, weight in the loss
QUANTILES = ((1, 0.64, 1.0), (2, 0.935, 2.0))
LEAST_ERROR = 1e-7  # reflectance; keeps the logarithm finite where image and truth are equal

# terms (11, c, k) of the variance and absolute errors (c, k) at k pixels of a scene
Sample = tuple[torch.Tensor, torch.Tensor]


def calibrate(
    model: Bayesian,
    scenes: Iterable[TrainingScene],
    *,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> dict[str, dict[str, list[float]]]:
    """Set `model.uncertainty_scale`; the same for the same scenes and seed.

    The factors minimise the quantile (pinball) loss of log |error| against the logarithm of one and
    of two sigma, at the target shares of errors below these (`QUANTILES`). Every scene and band has
    the same weight.

    Parameters
    ----------
    model : its factors are replaced.
    scenes : of all the model's bands. Clouds that a mask misses are part of the errors.
    seed : of the pixels that are drawn.
    progress : called after each scene with 0, number of the scene, share of errors within one sigma
        before calibration.

    Returns
    -------
    `coverage` and `coverage_before` by structure: share of errors within one and two sigma, mean
    over scenes.
    """
    rng = np.random.default_rng(seed)
    factors: torch.Tensor = model.get_buffer("uncertainty_scale")
    initial = factors.double().clone()
    samples: list[Sample] = []
    names: list[str] = []
    for number, scene in enumerate(scenes, 1):
        sample = _sample(model, scene, rng)
        if sample is None:
            continue
        samples.append(sample)
        names.append(f"{scene.biome}, ratio {scene.ratio}")
        if progress:
            progress(0, number, _coverage(initial, [sample])[0, 0].item())
    terms, errors = (torch.stack(parts) for parts in zip(*samples, strict=True))
    before = _coverage(initial, samples)
    fitted = _fit_factors(terms, errors.clamp(min=LEAST_ERROR).log())
    factors.copy_(fitted)
    after = _coverage(fitted, samples)
    shares = after.mean(0).tolist(), before.mean(0).tolist()
    log.info("errors within one and two sigma: %s, before %s", *shares)
    return {"coverage": _by_name(names, after), "coverage_before": _by_name(names, before)}


@torch.no_grad()
def _sample(model: Bayesian, scene: TrainingScene, rng: np.random.Generator) -> Sample | None:
    """Terms and errors at `PIXELS` random valid pixels; None for scenes with fewer."""
    valid_pixels = np.flatnonzero(scene.guide_valid)
    if len(valid_pixels) < PIXELS or not scene.coarse_valid.any():
        return None
    pixels = torch.from_numpy(np.sort(rng.choice(valid_pixels, PIXELS, replace=False)))
    prepared = prepare_scene(
        scene.guide,
        scene.coarse,
        ratio=scene.ratio,
        registered=False,
        guide_valid=scene.guide_valid,
        coarse_valid=scene.coarse_valid,
    )
    state = model.fit(prepared.summary)
    guide = torch.from_numpy(prepared.inputs.guide)[None]
    coarse = torch.from_numpy(prepared.inputs.coarse)[None]
    valid = torch.from_numpy(prepared.inputs.guide_valid)[None, None]
    factors: torch.Tensor = model.get_buffer("uncertainty_scale")
    terms = []
    for one_term in torch.eye(len(TERMS)):  # with one factor 1 and the others 0
        factors.copy_(one_term)
        fused = model(guide, coarse, state=state, guide_valid=valid)
        terms.append(fused.sigma[0].flatten(1)[:, pixels].double() ** 2 - MINIMUM_VARIANCE)
    error = (fused.image[0] - torch.from_numpy(scene.target)).abs().flatten(1)[:, pixels]
    return torch.stack(terms), error.double()


def _variance(factors: torch.Tensor, terms: torch.Tensor) -> torch.Tensor:
    """(..., c, k) variance for factors (11,) and terms (..., 11, c, k)."""
    return torch.einsum("k,...kcn->...cn", factors, terms) + MINIMUM_VARIANCE


def _fit_factors(terms: torch.Tensor, log_errors: torch.Tensor) -> torch.Tensor:
    """(11,) factors for terms (s, 11, c, k) and the logarithm of absolute errors (s, c, k)."""
    # the logarithm of the factors is fitted, so that they stay positive
    log_factors = torch.full((terms.shape[1],), -1.0, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([log_factors], RATE)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = RATE if step < 2 * STEPS // 3 else RATE / 5
        distance = log_errors - _variance(log_factors.exp(), terms).log() / 2
        loss = torch.zeros((), dtype=torch.float64)
        for sigmas, share, weight in QUANTILES:
            excess = distance - np.log(sigmas)
            loss = loss + weight * torch.maximum(share * excess, (share - 1) * excess).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return log_factors.detach().exp()


def _coverage(factors: torch.Tensor, samples: Sequence[Sample]) -> torch.Tensor:
    """(s, 2) shares of errors within one and two sigma."""
    shares = []
    for terms, error in samples:
        sigma = _variance(factors, terms).sqrt()
        shares.append(torch.stack([(error < n * sigma).double().mean() for n in (1, 2)]))
    return torch.stack(shares)


def _by_name(names: Sequence[str], shares: torch.Tensor) -> dict[str, list[float]]:
    """Mean of the shares (s, 2) over the scenes of each name, and over all, rounded."""
    rows = defaultdict(list)
    for name, share in zip(names, shares.tolist(), strict=True):
        rows[name].append(share)
    rows["all"] = shares.tolist()
    return {name: [round(float(v), 3) for v in np.mean(rows[name], 0)] for name in sorted(rows)}
