"""Validate a published product by its STAC item, against the very inputs that it was made from."""

import json
from pathlib import Path

import xarray as xr

from satfuse.infer.reopen import load_run, visible_run
from satfuse.validate.land_cover.classes import load_legend, read_land_cover
from satfuse.validate.report import validate_product


def validate_item(
    item: str,
    out: str | Path,
    *,
    truth: xr.DataArray | None = None,
    land_cover: str | Path | None = None,
    legend: str = "worldcover",
) -> Path:
    """Measure a product against the very inputs that it was made from.

    Parameters
    ----------
    item : address of the product's STAC item, `<store>/items/<id>.json`.
    out : folder; the report goes into a folder named like the product.
    truth : (band, y, x) true reflectance on the product's grid, where it is known.
    land_cover : path of a land-cover map, see `validate.land_cover.classes.read_land_cover`.
    legend : of the map, see `validate.land_cover.classes.load_legend`.

    Returns
    -------
    Folder with `metrics.json`, `metrics.md`, figures, `quicklook.png` and `index.html`.

    Raises
    ------
    ProductError
        The address is not that of a product's item.
    ReadError
        An input is no longer where it was, or the map cannot be read.
    ConfigError, GridError
        The legend does not fit the map; the map does not touch the product.
    """
    # a wrong legend fails before the scene is read
    classes = None if land_cover is None else load_legend(legend)
    fused, scene = load_run(item)
    cover = read_land_cover(land_cover, scene, classes) if land_cover and classes else None
    folder = Path(out) / fused.attrs["id"]
    validate_product(
        fused,
        scene,
        folder,
        truth=truth,
        land_cover=cover,
        tile_edges=scene.attrs["tile_edges"],
        run=fused.attrs["satfuse"]["run"],
    )
    return folder


def reported(item: str, out: str | Path) -> Path | None:
    """Find the report of a product's visible run that `validate_item` has already written.

    Returns
    -------
    Its folder; None where there is none, or it is of an older run.
    """
    product_id, run = visible_run(item)
    folder = Path(out) / product_id
    try:
        metrics = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return None
    return folder if metrics.get("run") == run else None
