"""Training losses and the scores of a validation split, on torch tensors and valid pixels only."""

import torch
from torch.nn import functional as F


def spectral_angle(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Angle between the spectra of two images, by `2 atan2(|u - v|, |u + v|)` of unit vectors.

    In float64; unlike the arc cosine, the formula is exact for small angles (Kahan 2006).

    Parameters
    ----------
    image, target : (b, c, H, W) reflectance.

    Returns
    -------
    (b, 1, H, W) float64 radians, NaN where one of the spectra is zero.
    """
    u, v = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (image, target))
    return 2 * torch.atan2((u - v).norm(dim=1, keepdim=True), (u + v).norm(dim=1, keepdim=True))


def fusion_loss(
    image: torch.Tensor,
    target: torch.Tensor,
    valid: torch.Tensor,
    *,
    kind: str = "l1",
    sam_weight: float = 0.0,
) -> torch.Tensor:
    """Mean error over valid pixels, plus `sam_weight` times the mean of 1 - cos(spectral angle).

    Parameters
    ----------
    image, target : (b, c, H, W) reflectance.
    valid : (b, 1, H, W) bool, True = the pixel counts.
    kind : "l1" (mean absolute error) or "mse" (mean squared error), of reflectance.
    """
    error = (image - target).abs() if kind == "l1" else (image - target).square()
    count = valid.sum().clamp(min=1)
    loss = (error.mean(1, keepdim=True) * valid).sum() / count
    if sam_weight:
        # eps bounds the division where a spectrum is close to zero
        difference = 1 - F.cosine_similarity(image, target, dim=1, eps=1e-4)[:, None]
        loss = loss + sam_weight * (difference * valid).sum() / count
    return loss


class Score:
    """RMSE (reflectance, all bands) and mean spectral angle (degrees), accumulated over batches."""

    def __init__(self) -> None:
        self._squared_error = 0.0
        self._values = 0
        self._angle_sum = 0.0
        self._angles = 0

    def add(self, image: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        """Add the pixels of (b, c, H, W) images where `valid` (b, 1, H, W) is True."""
        error = (image.double() - target.double()).square().sum(1, keepdim=True)[valid]
        self._squared_error += float(error.sum())
        self._values += len(error) * image.shape[1]
        angle = spectral_angle(image, target)[valid]
        angle = angle[angle.isfinite()]
        self._angle_sum += float(angle.sum())
        self._angles += len(angle)

    def result(self) -> dict[str, float]:
        """Scores of all pixels added so far: `sam_deg` and `rmse`."""
        angle = torch.tensor(self._angle_sum / max(self._angles, 1))
        rmse = (self._squared_error / max(self._values, 1)) ** 0.5
        return {"sam_deg": float(angle.rad2deg()), "rmse": rmse}
