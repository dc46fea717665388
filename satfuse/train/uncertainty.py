"""Calibration of the Bayesian model's uncertainty on scenes whose truth is known."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np
import torch

from satfuse.models.bayesian.model import Bayesian
from satfuse.models.bayesian.uncertainty import LEAST, TERMS
from satfuse.models.summary import summarise

log = logging.getLogger(__name__)

PIXELS = 100  # of a scene that the factors are fitted to
STEPS, RATE = 240, 0.15
SHARES = ((1, 0.64, 1.0), (2, 0.935, 2.0))  # sigmas, share of errors within so many, weight


def calibrate(
    model: Bayesian, scenes: Iterable, *, seed: int = 0, progress: Callable | None = None
) -> dict:
    """Set `model.uncertainty_scale`; the same for the same scenes and seed.

    The factors minimise the quantile (pinball) loss of log |error| against the logarithm of one and of two sigma, at
    the shares of errors that are wanted there, every scene and band weighing the same.

    Parameters
    ----------
    scenes : with `guide (g, y, x)`, `guide_valid (y, x)`, `coarse (t, c, h, w)`, `coarse_valid (t, h, w)`,
        `target (c, y, x)`, `ratio` and `biome`, such as `simulate.factory.TrainingScene`; of all the model's bands.
        Clouds that a mask misses are part of the errors.
    progress : called with 0, number of the scene, share of errors within one sigma before calibration.

    Returns
    -------
    `coverage` and `coverage_before` by structure: share of errors within one and two sigma, mean over scenes.
    """
    rng, samples, names = np.random.default_rng(seed), [], []
    given = model.uncertainty_scale.double().clone()
    for number, scene in enumerate(scenes):
        sample = _sample(model, scene, rng)
        if sample is None:
            continue
        samples.append(sample)
        names.append(f"{scene.biome}, ratio {scene.ratio}")
        if progress:
            progress(0, number + 1, _coverage(given, [sample])[0, 0].item())
    terms, errors = (torch.stack(parts) for parts in zip(*samples, strict=True))
    before = _coverage(given, samples)
    scale = _fitted(terms, errors.clamp(min=1e-7).log())
    model.uncertainty_scale.copy_(scale)
    after = _coverage(scale, samples)
    log.info(
        "errors within one and two sigma: %s, before %s",
        after.mean(0).tolist(),
        before.mean(0).tolist(),
    )
    return {"coverage": _by_name(names, after), "coverage_before": _by_name(names, before)}


@torch.no_grad()
def _sample(model, scene, rng):
    """Terms (11, c, k) and absolute errors (c, k) at k valid pixels; None for scenes with fewer."""
    guide, coarse = (
        np.where(scene.guide_valid, scene.guide, np.nan).astype(np.float32),
        scene.coarse,
    )
    at = np.flatnonzero(scene.guide_valid)
    if len(at) < PIXELS or not scene.coarse_valid.any():
        return None
    at = torch.from_numpy(np.sort(rng.choice(at, PIXELS, replace=False)))
    state = model.fit(
        summarise(guide, coarse, scene.coarse_valid, ratio=scene.ratio, registered=False)
    )
    inputs = torch.from_numpy(np.nan_to_num(guide))[None], torch.from_numpy(coarse)[None]
    valid = torch.from_numpy(scene.guide_valid)[None, None]
    terms = []
    for alone in torch.eye(len(TERMS)):
        model.uncertainty_scale.copy_(alone)
        fused = model(*inputs, state=state, guide_valid=valid)
        terms.append(fused.sigma[0].flatten(1)[:, at].double() ** 2 - LEAST)
    error = (fused.image[0] - torch.from_numpy(scene.target)).abs().flatten(1)[:, at]
    return torch.stack(terms), error.double()


def _variance(scale, terms):
    return torch.einsum("k,...kcn->...cn", scale, terms) + LEAST


def _fitted(terms, errors):
    """(11,) factors for terms (s, 11, c, k) and the logarithm of errors (s, c, k)."""
    place = torch.full((terms.shape[1],), -1.0, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([place], RATE)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = RATE if step < 2 * STEPS // 3 else RATE / 5
        away = errors - _variance(place.exp(), terms).log() / 2
        loss = 0.0
        for sigmas, share, weight in SHARES:
            beyond = away - np.log(sigmas)
            loss = loss + weight * torch.maximum(share * beyond, (share - 1) * beyond).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return place.detach().exp()


def _coverage(scale, samples):
    """(s, 2) shares of errors within one and two sigma."""
    shares = []
    for terms, error in samples:
        sigma = _variance(scale, terms).sqrt()
        shares.append(torch.stack([(error < n * sigma).double().mean() for n in (1, 2)]))
    return torch.stack(shares)


def _by_name(names, shares):
    """Means per name, plain values."""
    rows = defaultdict(list)
    for name, share in zip(names, shares.tolist(), strict=True):
        rows[name].append(share)
    rows["all"] = shares.tolist()
    return {name: [round(float(v), 3) for v in np.mean(rows[name], 0)] for name in sorted(rows)}
