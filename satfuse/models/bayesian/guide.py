"""Restoration of a scene's guide: 20 and 60 m bands sharpened, mask-edge pixels filtered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from satfuse.arrays import FloatArray
from satfuse.models.bayesian.mask_edge_filter import edge_classes, filter_edges, fit_edge_filter
from satfuse.models.bayesian.native_blur import add_detail, detail_power, fit_detail
from satfuse.models.bayesian.registration import GuideCells
from satfuse.models.summary import Summary
from satfuse.sensors.bands import COARSE_M

# Valid pixels at full resolution that statistics are taken from; with fewer, cells are used.
MINIMUM_SPECTRA = 100
MINIMUM_BANDS = 8  # fewer have no direction that holds noise only
NOISE_BANDS = 3  # number of smallest eigenvalues that are taken for noise


@dataclass(frozen=True, kw_only=True)
class SceneGuide:
    """The restored guide of a scene and its statistics.

    Parameters
    ----------
    cells : the restored guide on cells.
    spectra : (g, n) restored pixels that represent the scene.
    noise : variance of the guide's noise.
    maps : parameters of `restore`.
    detail_power : (2,) mean of `native_blur.detail_power` over the scene.
    detail_errors : relative error covariance of the detail, see `native_blur.fit_detail`.
    edge_covariance : (k, g, g) error covariance of filtered mask-edge pixels, by class.
    """

    cells: GuideCells
    spectra: FloatArray
    noise: float
    maps: dict[str, torch.Tensor]
    detail_power: FloatArray
    detail_errors: dict[int, torch.Tensor]
    edge_covariance: FloatArray


@dataclass(frozen=True)
class _Pixels:
    """A guide (n, g, y, x), its validity (n, 1, y, x), and its pixel size."""

    image: torch.Tensor
    valid: torch.Tensor
    pixel_m: float

    @classmethod
    def of_patches(cls, summary: Summary) -> "_Pixels":
        return cls(summary.patches.double(), summary.patches_valid, COARSE_M / summary.ratio)

    @classmethod
    def of_cells(cls, summary: Summary) -> "_Pixels":
        image = summary.guide_cells.double()[None]
        valid = summary.cells_valid[None, None]
        return cls(image, valid, COARSE_M / summary.cells_per_pixel)


def restore_scene(summary: Summary, guide_bands: Sequence[str]) -> SceneGuide:
    """Fit the restoration to a scene, and apply it to the scene's cells."""
    patches = _Pixels.of_patches(summary)
    cells = _Pixels.of_cells(summary)
    # The detail of native pixels is only in patches of full resolution, not in means over cells.
    maps, detail_errors = fit_detail(patches.image, patches.valid, guide_bands, patches.pixel_m)
    sample = patches if patches.valid.sum() > MINIMUM_SPECTRA else cells
    valid = sample.valid
    sharpened = add_detail(sample.image, valid, guide_bands, sample.pixel_m, maps)
    power = detail_power(sample.image, sharpened, guide_bands) * valid
    classes = edge_classes(valid, guide_bands, sample.pixel_m)
    edge_filter = fit_edge_filter(
        _at_valid(sharpened, valid), _at_valid(classes[:, None], valid)[0], guide_bands, maps
    )
    maps["edge_matrix"] = torch.from_numpy(edge_filter.matrix)
    maps["edge_offset"] = torch.from_numpy(edge_filter.offset)
    filtered = filter_edges(sharpened, classes, maps)
    clear = valid & (classes == 0)[:, None]
    return SceneGuide(
        cells=_restored_cells(cells, summary, guide_bands, maps),
        spectra=_at_valid(filtered, valid),
        # from unfiltered pixels if there are enough of them
        noise=_noise_variance(filtered, clear if clear.sum() > MINIMUM_SPECTRA else valid),
        maps=maps,
        detail_power=(power.sum((0, 2, 3)) / valid.sum().clamp(min=1)).numpy(),
        detail_errors=detail_errors,
        edge_covariance=edge_filter.covariance,
    )


def _restored_cells(
    cells: _Pixels,
    summary: Summary,
    guide_bands: Sequence[str],
    maps: Mapping[str, torch.Tensor],
) -> GuideCells:
    image = restore(cells.image, cells.valid, guide_bands, cells.pixel_m, maps).image[0]
    return GuideCells(
        image=(image * summary.cells_valid).numpy(),  # zero where not valid
        valid=summary.cells_valid.double().numpy(),
        cells_per_pixel=summary.cells_per_pixel,
        ratio=summary.ratio,
    )


@dataclass(frozen=True)
class RestoredGuide:
    """A restored guide and its intermediate results.

    Parameters
    ----------
    image : (n, g, y, x) sharpened and filtered.
    sharpened : (n, g, y, x) before the filter.
    classes : (n, y, x) `mask_edge_filter.edge_classes`; None = nothing is masked.
    """

    image: torch.Tensor
    sharpened: torch.Tensor
    classes: torch.Tensor | None


def restore(
    guide: torch.Tensor,
    valid: torch.Tensor | None,
    guide_bands: Sequence[str],
    pixel_m: float,
    maps: Mapping[str, torch.Tensor],
) -> RestoredGuide:
    """Sharpen a guide to its pixel size and filter its mask-edge pixels.

    Parameters
    ----------
    guide : (n, g, y, x) reflectance.
    valid : (n, 1, y, x) bool, True = usable; None = all.
    maps : of the scene's `SceneGuide`.
    """
    sharpened = add_detail(guide, valid, guide_bands, pixel_m, maps)
    if valid is None or valid.all():
        return RestoredGuide(sharpened, sharpened, None)
    classes = edge_classes(valid, guide_bands, pixel_m)
    return RestoredGuide(filter_edges(sharpened, classes, maps), sharpened, classes)


def _noise_variance(image: torch.Tensor, valid: torch.Tensor) -> float:
    """Variance of the guide's noise: half the smallest eigenvalues of neighbours' differences.

    Surfaces vary in few spectral directions, noise in all; so the eigenvectors of least variance
    hold noise only, twice in a difference of two pixels. 0.0 with too few pixels or bands.
    """
    both = (valid[..., 1:] & valid[..., :-1])[:, 0]
    difference = (image[..., 1:] - image[..., :-1]).movedim(1, 0)[:, both]
    if difference.shape[1] < MINIMUM_SPECTRA or len(difference) < MINIMUM_BANDS:
        return 0.0
    eigenvalues = torch.linalg.eigvalsh(difference @ difference.T / difference.shape[1])
    return max(float(eigenvalues[:NOISE_BANDS].mean() / 2), 0.0)


def _at_valid(image: torch.Tensor, valid: torch.Tensor) -> np.ndarray:
    """(b, k) values of (n, b, y, x) at the k valid pixels (n, 1, y, x)."""
    return image.movedim(1, 0)[:, valid[:, 0]].numpy()
