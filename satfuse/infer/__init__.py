"""Fusing a field: plan, tiles on a Dask cluster, checks, publication."""

from satfuse.infer.config import FuseConfig
from satfuse.infer.run import fuse_field
from satfuse.infer.source import write_scene

__all__ = ["FuseConfig", "fuse_field", "write_scene"]
