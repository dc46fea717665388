"""Fuse Sentinel-2 and Sentinel-3 SYN into one 21-band, 10 m image.

`satfuse.open_fused` opens products, `satfuse.fuse` fuses two arrays. Their dependencies are
imported on first use.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "fuse", "open_fused"]

_LAZY = {"open_fused": "satfuse.product.open", "fuse": "satfuse.fuse_arrays"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'satfuse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
