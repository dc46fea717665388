"""A per-pixel spectral network trained on the scene alone, in the manner of SpectraLift (Shah et al. 2025).

At 300 m both spectra of a pixel are known: the degraded guide's and the coarse image's. A small network learns the
one from the other there and is then applied to every pixel of the guide. No other data is ever seen.

Scenes may have fewer than a hundred coarse pixels, where a network alone does worse than a line. So it learns only
what a ridge regression leaves: on EnMAP Potsdam, 72 coarse pixels, that is 0.7 against 1.8 degrees of spectral angle.
"""

import math
from itertools import pairwise

import torch
from torch import nn

from satfuse.errors import ConfigError
from satfuse.models.interface import Fused, FusionModel, first_frame, input_ratio
from satfuse.models.spectral import PIXELS_AT_ONCE

HIDDEN = (96, 96)
STEPS, BATCH = 1000, 512
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.1
RIDGE = 1e-4  # of standardised guide bands: errors of 1 % of a band's spread
SEED = 0
FLAT = 1e-3  # reflectance; bands that vary less are divided by this


class SpectraLift(FusionModel):
    """Guide spectrum to coarse spectrum by a line plus a multilayer perceptron that `fit` makes; needs no weights."""

    name = "spectralift"
    needs_weights = False

    def reach(self, ratio):
        return 0

    def fit(self, scene):
        """Train on the valid coarse pixels; the same scene gives the same weights, bit by bit on one device and build.

        Returns
        -------
        `linear` (c_coarse, c_guide), and `weight0`, `bias0`, `weight1`, ... of the layers; the normalisation is folded
        into them. With no valid pixel the result is 0 everywhere.
        """
        known = scene.guide_coarse[:, scene.valid], scene.coarse[:, scene.valid]
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
        ):  # callers estimate without gradients, this needs them
            layers = _train(*(spectra.float().T.clone() for spectra in known))
        return {k: v.to(scene.coarse) for k, v in layers.items()}

    def forward(self, guide, coarse, *, state=None, guide_valid=None, coarse_valid=None):
        if not state:
            raise ConfigError(
                "the spectralift model needs the state that its fit returned for this field"
            )
        input_ratio(guide, first_frame(coarse))
        out = guide.new_empty(len(guide), len(self.coarse_bands), *guide.shape[-2:])
        rows = max(PIXELS_AT_ONCE // (guide.shape[0] * guide.shape[-1]), 1)
        for top in range(0, guide.shape[-2], rows):
            strip = (..., slice(top, top + rows), slice(None))
            out[strip] = _apply(guide[strip].flatten(2), state).unflatten(2, out[strip].shape[-2:])
        return Fused(out)


def _apply(spectra, state):
    """(b, c_guide, pixels) to (b, c_coarse, pixels)."""
    hidden, last = spectra, len(HIDDEN)
    for i in range(last + 1):
        weight = state[f"weight{i}"].to(spectra).expand(len(spectra), -1, -1)
        hidden = torch.baddbmm(state[f"bias{i}"].to(spectra)[:, None], weight, hidden)
        hidden = hidden.relu_() if i < last else hidden
    return hidden.baddbmm_(state["linear"].to(spectra).expand(len(spectra), -1, -1), spectra)


def _train(guide, coarse):
    """What maps (n, c_guide) onto (n, c_coarse), named as in the state."""
    (x, g_mean, g_spread), (y, c_mean, c_spread) = _standardised(guide), _standardised(coarse)
    count = max(len(x), 1)
    gram = (x.T @ x).double() / count + RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
    linear = torch.linalg.solve(gram, (x.T @ y).double() / count).float().T
    layers = _learn(x, y - x @ linear.T)
    with torch.no_grad():
        linear = linear * c_spread[:, None] / g_spread
        layers[0].weight /= g_spread
        layers[0].bias -= layers[0].weight @ g_mean
        layers[-1].weight *= c_spread[:, None]
        layers[-1].bias.mul_(c_spread).add_(c_mean - linear @ g_mean)
    return {"linear": linear} | {
        f"{k}{i}": v.detach() for i, one in enumerate(layers) for k, v in one.named_parameters()
    }


def _learn(x, y) -> list[nn.Linear]:
    """The trained layers of a network from (n, c_guide) to (n, c_coarse); the last starts at zero."""
    random = torch.Generator().manual_seed(SEED)
    layers = [
        nn.utils.skip_init(nn.Linear, a, b) for a, b in pairwise((x.shape[1], *HIDDEN, y.shape[1]))
    ]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=random)
        nn.init.zeros_(layer.bias)
    nn.init.zeros_(layers[-1].weight)
    network = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))[:-1]
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for step in range(STEPS if len(x) else 0):
        optimiser.param_groups[0]["lr"] = (
            LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        )
        chosen = (
            torch.randint(len(x), (BATCH,), generator=random) if len(x) > BATCH else slice(None)
        )
        optimiser.zero_grad()
        (network(x[chosen]) - y[chosen]).abs().mean().backward()
        optimiser.step()
    return layers


def _standardised(spectra):
    """Spectra of mean 0 and spread 1, that mean, and that spread."""
    count = max(len(spectra), 1)
    mean = spectra.sum(0) / count
    spread = ((spectra - mean).square().sum(0) / count).sqrt().clamp(min=FLAT)
    return (spectra - mean) / spread, mean, spread
