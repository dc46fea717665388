"""Training cubes in one sharded Zarr v3 store.

They contain EnMAP scenes simulated as Sentinel-2 and Sentinel-3, or real pairs.
"""

from satfuse.cube.build import build, build_pairs
from satfuse.cube.store import Cube, CubeScene, open_cube

__all__ = ["Cube", "CubeScene", "build", "build_pairs", "open_cube"]
