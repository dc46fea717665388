"""A per-pixel spectral network trained on the scene alone, after SpectraLift (Shah et al. 2025).

At 300 m both spectra of a pixel are known: the degraded guide's and the coarse image's. A small
network learns the coarse spectrum from the guide's there and is then applied to every pixel of the
guide. It is trained on no other data:

    fused(x) = L g(x) + f(g(x))         L (c_coarse, c_guide); f: c_guide -> 96 -> 96 -> c_coarse

Scenes may have fewer than a hundred coarse pixels, where a network alone does worse than a linear
map. So L is a ridge regression and f learns only its residual: on EnMAP Potsdam, 72 coarse pixels,
the spectral angle is 0.7 instead of 1.8 degrees.
"""

import math
from itertools import pairwise

import torch
from torch import nn

from satfuse.models.interface import Fused, FusionModel, State, first_frame, input_ratio
from satfuse.models.spectral import row_strips
from satfuse.models.summary import Summary
from satfuse.models.trend import required

HIDDEN = (96, 96)  # units of the hidden layers
STEPS = 1000  # of training
BATCH = 512  # coarse pixels per step, where the scene has more
LEARNING_RATE = 2e-3  # at the start of its cosine decay
WEIGHT_DECAY = 0.1
RIDGE = 1e-4  # of standardised guide bands: errors of 1 % of a band's standard deviation
SEED = 0
FLAT = 1e-3  # reflectance; the standard deviation of bands that vary less counts as this


class SpectraLift(FusionModel):
    """Guide spectrum to coarse spectrum by a linear map plus a perceptron, both made by `fit`."""

    name = "spectralift"
    needs_weights = False

    def reach(self, ratio: int) -> int:
        return 0  # the guide's pixel alone

    def fit(self, summary: Summary) -> State:
        """Train on the valid coarse pixels.

        The same scene gives bit-identical weights on one device and build.

        Returns
        -------
        `linear` (c_coarse, c_guide), and `weight0`, `bias0`, `weight1`, ... of the layers; the
        normalisation is folded into them. With no valid pixel the result is 0 everywhere.
        """
        guide = summary.guide_coarse[:, summary.valid]
        coarse = summary.coarse[:, summary.valid]
        # callers run `fit` without gradients, training needs them
        with torch.inference_mode(False), torch.enable_grad():
            layers = _train(guide.float().T.clone(), coarse.float().T.clone())
        return {name: value.to(summary.coarse) for name, value in layers.items()}

    def forward(
        self,
        guide: torch.Tensor,
        coarse: torch.Tensor,
        *,
        state: State | None = None,
        guide_valid: torch.Tensor | None = None,
        coarse_valid: torch.Tensor | None = None,
    ) -> Fused:
        state = required(state, self.name)
        input_ratio(guide, first_frame(coarse))  # refuses sizes that do not nest
        batch, _, height, width = guide.shape
        out = guide.new_empty(batch, len(self.coarse_bands), height, width)
        for rows in row_strips(guide):
            strip = guide[:, :, rows]
            out[:, :, rows] = _apply(strip.flatten(2), state).unflatten(2, strip.shape[-2:])
        return Fused(out)


def _apply(spectra: torch.Tensor, state: State) -> torch.Tensor:
    """Map (b, c_guide, pixels) to (b, c_coarse, pixels)."""
    batch = len(spectra)
    last = len(HIDDEN)
    hidden = spectra
    for i in range(last + 1):
        weight = state[f"weight{i}"].to(spectra).expand(batch, -1, -1)
        hidden = torch.baddbmm(state[f"bias{i}"].to(spectra)[:, None], weight, hidden)
        if i < last:
            hidden = hidden.relu_()
    return hidden.baddbmm_(state["linear"].to(spectra).expand(batch, -1, -1), spectra)


def _train(guide: torch.Tensor, coarse: torch.Tensor) -> State:
    """The map from guide spectra (n, c_guide) to coarse ones (n, c_coarse), named as in a state."""
    x, guide_mean, guide_spread = _standardised(guide)
    y, coarse_mean, coarse_spread = _standardised(coarse)
    count = max(len(x), 1)
    gram = (x.T @ x).double() / count + RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
    linear = torch.linalg.solve(gram, (x.T @ y).double() / count).float().T
    layers = _learn(x, y - x @ linear.T)
    with torch.no_grad():  # from standardised spectra to reflectance
        linear = linear * coarse_spread[:, None] / guide_spread
        layers[0].weight.div_(guide_spread)
        layers[0].bias.sub_(layers[0].weight @ guide_mean)
        layers[-1].weight.mul_(coarse_spread[:, None])
        layers[-1].bias.mul_(coarse_spread).add_(coarse_mean - linear @ guide_mean)
    return {"linear": linear} | {
        f"{name}{i}": parameter.detach()
        for i, layer in enumerate(layers)
        for name, parameter in layer.named_parameters()
    }


def _learn(x: torch.Tensor, y: torch.Tensor) -> list[nn.Linear]:
    """Layers of a perceptron trained to map x (n, c_guide) to y (n, c_coarse)."""
    random = torch.Generator().manual_seed(SEED)
    layers = _initial_layers((x.shape[1], *HIDDEN, y.shape[1]), random)
    network = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))[:-1]
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for step in range(STEPS if len(x) else 0):
        decay = 0.5 * (1 + math.cos(math.pi * step / STEPS))
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * decay
        if len(x) > BATCH:
            chosen = torch.randint(len(x), (BATCH,), generator=random)
            loss = (network(x[chosen]) - y[chosen]).abs().mean()
        else:
            loss = (network(x) - y).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return layers


def _initial_layers(sizes: tuple[int, ...], random: torch.Generator) -> list[nn.Linear]:
    """Layers with random weights; the last is zero, so that training starts at the linear map."""
    layers = [nn.utils.skip_init(nn.Linear, a, b) for a, b in pairwise(sizes)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=random)
        nn.init.zeros_(layer.bias)
    nn.init.zeros_(layers[-1].weight)
    return layers


def _standardised(spectra: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Spectra (n, c) with mean 0 and standard deviation 1, that mean, and that deviation (c,)."""
    count = max(len(spectra), 1)
    mean = spectra.sum(0) / count
    spread = ((spectra - mean).square().sum(0) / count).sqrt().clamp(min=FLAT)
    return (spectra - mean) / spread, mean, spread
