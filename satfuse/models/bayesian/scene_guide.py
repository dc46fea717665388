"""The guide of a scene as our model uses it: with the detail of its blurred bands, and filtered beside masks."""

from dataclasses import dataclass

import numpy as np
import torch

from satfuse.models.bayesian.mask_edge import edge_classes, filter_edges, fit_edges
from satfuse.models.bayesian.native_blur import add_detail, detail_power, fit_detail
from satfuse.models.bayesian.scene_observation import Fine
from satfuse.models.summary import Summary
from satfuse.sensors.bands import COARSE_M

LEAST_SPECTRA = 100  # pixels at full resolution that stand for the scene; with fewer its cells do
LEAST_BANDS, NOISE_BANDS = (
    8,
    3,
)  # of so many bands, the smallest eigenvalues of differences that are taken for noise


@dataclass(frozen=True, kw_only=True)
class SceneGuide:
    """What a scene says of its guide.

    Parameters
    ----------
    fine : the guide on cells.
    spectra : (g, n) pixels that stand for the scene.
    noise : variance of the guide's noise.
    maps : for `restore`.
    power : (2,) mean over the scene of `native_blur.detail_power`; errors : of that detail, see `fit_detail`.
    edge_error : (k, g, g) covariance of what is unknown beside masks, by class.
    """

    fine: Fine
    spectra: np.ndarray
    noise: float
    maps: dict[str, torch.Tensor]
    power: np.ndarray
    errors: dict
    edge_error: np.ndarray


def study(scene: Summary, guide_bands) -> SceneGuide:
    """All that the fit needs of the guide."""
    parts = scene.patches.double(), scene.patches_valid, COARSE_M / scene.ratio
    cells = (
        scene.guide_cells.double()[None],
        scene.cells_valid[None, None],
        COARSE_M / scene.cells_per_pixel,
    )
    seen, valid, pixel_m = parts if parts[1].sum() > LEAST_SPECTRA else cells
    maps, errors = fit_detail(*parts[:2], guide_bands, parts[2])
    sharp = add_detail(seen, valid, guide_bands, pixel_m, maps)
    power = (detail_power(seen, sharp, guide_bands) * valid).sum((0, 2, 3)) / valid.sum().clamp(
        min=1
    )
    classes = edge_classes(valid, guide_bands, pixel_m)
    edges = fit_edges(_pixels(sharp, valid), _pixels(classes[:, None], valid)[0], guide_bands, maps)
    maps |= {
        "edge_matrix": torch.from_numpy(edges.matrix),
        "edge_offset": torch.from_numpy(edges.offset),
    }
    sharp = filter_edges(sharp, classes, maps)
    image = restore(*cells[:2], guide_bands, cells[2], maps).image[0]
    fine = Fine(
        image=(image * scene.cells_valid).numpy(),
        valid=scene.cells_valid.double().numpy(),
        cells=scene.cells_per_pixel,
        ratio=scene.ratio,
    )
    clear = valid & (classes == 0)[:, None]
    return SceneGuide(
        fine=fine,
        spectra=_pixels(sharp, valid),
        noise=_noise(sharp, clear if clear.sum() > LEAST_SPECTRA else valid),
        maps=maps,
        power=power.numpy(),
        errors=errors,
        edge_error=edges.error,
    )


@dataclass(frozen=True)
class Restored:
    """`image (n, g, y, x)`; `detailed` is the same before the filter, `classes` are the filter's, None = no masks."""

    image: torch.Tensor
    detailed: torch.Tensor
    classes: torch.Tensor | None


def restore(guide, valid, guide_bands, pixel_m, maps) -> Restored:
    """The guide (n, g, y, x) as its bands would show it at this pixel size, without what masks leave.

    Parameters
    ----------
    valid : (n, 1, y, x) bool, True = usable; None = all.
    maps : of `study`.
    """
    detailed = add_detail(guide, valid, guide_bands, pixel_m, maps)
    if valid is None or valid.all():
        return Restored(detailed, detailed, None)
    classes = edge_classes(valid, guide_bands, pixel_m)
    return Restored(filter_edges(detailed, classes, maps), detailed, classes)


def _noise(image, valid) -> float:
    """Variance of the guide's noise: what its bands' differences between neighbours hold in no common direction."""
    both = (valid[..., 1:] & valid[..., :-1])[:, 0]
    difference = (image[..., 1:] - image[..., :-1]).movedim(1, 0)[:, both]
    if difference.shape[1] < 100 or len(difference) < LEAST_BANDS:
        return 0.0
    values = torch.linalg.eigvalsh(difference @ difference.T / difference.shape[1])
    return max(float(values[:NOISE_BANDS].mean() / 2), 0.0)


def _pixels(image, valid) -> np.ndarray:
    """(c, k) of (n, c, y, x) where valid (n, 1, y, x)."""
    return image.movedim(1, 0)[:, valid[:, 0]].numpy()
