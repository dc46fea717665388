"""Where pixels are: grids, swath rectification, sub-pixel shift, tiles."""
