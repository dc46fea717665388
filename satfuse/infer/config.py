"""Settings of a run: those that shape the result, and those that only shape the work."""

from dataclasses import asdict, dataclass
from typing import Any

from satfuse.errors import ConfigError
from satfuse.geometry.tiling import CHUNK_PX, SHARD_PX
from satfuse.models.blocks import NESTED


@dataclass(frozen=True, kw_only=True)
class FuseConfig:
    """Settings of `fuse_field`.

    Parameters
    ----------
    shard_px, chunk_px : of the product; a tile is one shard.
    block_px : edge of the blocks that one forward pass fuses inside a tile; bounds memory. At most
        `models.blocks.MOST_PX` for models of finite reach.
    mosaic : (size, stride) in pixels of the windows of models whose reach is the whole image.
    threads : of torch in one worker; part of the plan, because sums depend on it in the last
        digits.
    device : of torch in the workers, "cpu" or "cuda".
    missing : "raise" or "flag": treatment of an asset of the pair that cannot be read.
    workers : processes of the local cluster.
    memory_limit : of one local worker, such as "2GiB"; "auto" shares the machine's memory.
    """

    shard_px: int = SHARD_PX
    chunk_px: int = CHUNK_PX
    block_px: int = 900
    mosaic: tuple[int, int] = NESTED
    threads: int = 1
    device: str = "cpu"
    missing: str = "raise"
    workers: int = 2
    memory_limit: str = "auto"

    def __post_init__(self) -> None:
        for name in ("shard_px", "chunk_px", "block_px", "threads", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.missing not in ("raise", "flag"):
            raise ConfigError(f"missing={self.missing!r}; known: 'raise', 'flag'")

    def shaping(self) -> dict[str, Any]:
        """Settings that can change a digit of the result; they enter the run key."""
        work_only = ("workers", "memory_limit")
        return {name: value for name, value in asdict(self).items() if name not in work_only}
