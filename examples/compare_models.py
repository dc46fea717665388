"""Errors of the example models next to those of shipped ones, on one simulated scene.

python -m examples.compare_models
"""

import numpy as np

import satfuse
from benchmarks.quality.scenes import UNSEEN, Case, make_scene
from examples.my_model import NearestBand
from satfuse.models import FusionModel
from satfuse.sensors.bands import S2_NAMES, S3_NAMES

RATIO = 10
# spectra of parametric models, so that the scene is the same with and without the real samples
CASE = Case(place="city", ratio=RATIO, protocol=UNSEEN, seed=0)


def main() -> None:
    """Print one line per model."""
    own = NearestBand(guide_bands=S2_NAMES, coarse_bands=S3_NAMES, ratio=RATIO)
    models: dict[str, FusionModel | str] = {
        "bicubic": "bicubic",
        own.name: own,
        "bayesian": "bayesian",
    }
    for name, model in models.items():
        print(f"{name:12} RMSE {rmse(model):.3f}")


def rmse(model: FusionModel | str) -> float:
    """Root mean square error of the fused reflectance over all bands and pixels."""
    scene = make_scene(CASE)
    fused = satfuse.fuse(scene.guide, scene.coarse, model=model)
    return float(np.sqrt(np.mean((fused.reflectance.values - scene.target) ** 2)))


if __name__ == "__main__":
    main()
