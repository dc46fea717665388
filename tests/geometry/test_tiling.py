"""Tiles, windows and mosaic spans: cores partition the raster, nothing splits a coarse pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satfuse.errors import GridError
from satfuse.geometry.tiling import Window, mosaic_spans, plan_tiles

RATIO = 30


@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    tile=st.integers(1, 8),
    halo=st.integers(0, 3),
)
def test_cores_partition_and_halos_are_clipped(rows, columns, tile, halo):
    shape = rows * RATIO, columns * RATIO
    tile_px = tile * RATIO
    covered = np.zeros(shape, int)
    for t in plan_tiles(shape, tile_px=tile_px, halo_px=halo * RATIO, ratio=RATIO, chunk_px=RATIO):
        covered[t.core.slices()] += 1
        assert t.core.y0 % tile_px == 0  # a core starts on a shard
        assert t.core.x0 % tile_px == 0
        assert all(v % RATIO == 0 for v in (t.halo.y0, t.halo.y1, t.halo.x0, t.halo.x1))
        assert t.halo.y0 == max(t.core.y0 - halo * RATIO, 0)
        assert t.halo.y1 == min(t.core.y1 + halo * RATIO, shape[0])
        assert t.halo.x0 == max(t.core.x0 - halo * RATIO, 0)
        assert t.halo.x1 == min(t.core.x1 + halo * RATIO, shape[1])
    assert (covered == 1).all()


def test_halos_of_blocks_reach_outside_their_tile():
    tile = plan_tiles((3600, 3600), tile_px=1800, halo_px=60, ratio=30)[3]
    blocks = plan_tiles((3600, 3600), tile_px=600, halo_px=60, ratio=30, within=tile.core)
    assert len(blocks) == 9
    assert blocks[0].halo == Window(1740, 2460, 1740, 2460)
    assert blocks[-1].halo == Window(2940, 3600, 2940, 3600)


@pytest.mark.parametrize(
    ("shape", "options", "match"),
    [
        ((610, 600), {}, "image size"),
        ((600, 600), {"tile_px": 310}, "tile_px"),
        ((600, 600), {"tile_px": 450}, "chunk_px"),
        ((600, 600), {"halo_px": 20}, "halo_px"),
    ],
)
def test_sizes_that_split_a_coarse_pixel_or_chunk_are_refused(shape, options, match):
    with pytest.raises(GridError, match=match):
        plan_tiles(shape, **{"tile_px": 300, "halo_px": 0, "ratio": 30, "chunk_px": 300} | options)


@given(length=st.integers(1, 900), size=st.integers(1, 200), overlap=st.integers(0, 50))
def test_mosaic_cores_partition_the_axis(length, size, overlap):
    stride = max(size - overlap, 1)
    spans = mosaic_spans(length, size, stride)
    assert [s for _, _, *core in spans for s in range(*core)] == list(range(length))
    for start, stop, core_start, core_stop in spans:
        assert 0 <= start <= core_start
        assert core_stop <= stop <= length
        assert stop - start == min(size, length)


def test_the_layout_of_the_paper_has_16_windows_in_21_km():
    assert len(mosaic_spans(2100, 150, 130)) == 16
    with pytest.raises(GridError, match="gaps"):
        mosaic_spans(100, 10, 11)
