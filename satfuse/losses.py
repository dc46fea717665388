"""What training minimises and what it reports, on torch tensors and valid pixels only."""

import torch
from torch.nn import functional as F


def spectral_angle(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Angle between spectra in radians, (b, 1, H, W), of two (b, c, H, W) images; NaN where a spectrum is zero.

    `2 atan2(|u - v|, |u + v|)` of unit vectors in float64: exact for small angles (Kahan 2006).
    """
    u, v = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (image, target))
    return 2 * torch.atan2((u - v).norm(dim=1, keepdim=True), (u + v).norm(dim=1, keepdim=True))


def fusion_loss(image, target, valid, *, kind: str = "l1", sam_weight: float = 0.0) -> torch.Tensor:
    """Mean error over valid pixels, plus `sam_weight` times the mean of 1 - cos(spectral angle).

    Parameters
    ----------
    image, target : (b, c, H, W).
    valid : (b, 1, H, W) bool, True = counts.
    kind : "l1" (mean absolute) or "mse" (mean square), in reflectance.
    """
    error = (image - target).abs() if kind == "l1" else (image - target).square()
    count = valid.sum().clamp(min=1)
    loss = (error.mean(1, keepdim=True) * valid).sum() / count
    if sam_weight:
        turn = 1 - F.cosine_similarity(image, target, dim=1, eps=1e-4)[:, None]
        loss = loss + sam_weight * (turn * valid).sum() / count
    return loss


class Score:
    """RMSE (reflectance, all bands) and mean spectral angle (degrees) over many batches."""

    def __init__(self):
        self.square = self.values = self.angle = self.angles = 0.0

    def add(self, image, target, valid) -> None:
        """Count the valid pixels of (b, c, H, W) images."""
        error = (image.double() - target.double()).square().sum(1, keepdim=True)[valid]
        self.square += float(error.sum())
        self.values += len(error) * image.shape[1]
        angle = spectral_angle(image, target)[valid]
        angle = angle[angle.isfinite()]
        self.angle += float(angle.sum())
        self.angles += len(angle)

    def result(self) -> dict[str, float]:
        """`sam_deg` and `rmse`."""
        angle = torch.tensor(self.angle / max(self.angles, 1))
        return {
            "sam_deg": float(angle.rad2deg()),
            "rmse": (self.square / max(self.values, 1)) ** 0.5,
        }
