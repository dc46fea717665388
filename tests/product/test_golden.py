"""The stored metadata of a product equal checked-in files: a change of format is a diff.

After an intended change: `UPDATE_GOLDEN=1 pytest tests/product/test_golden.py` writes them anew.
"""

import json
import os
from pathlib import Path

import pytest
import zarr

from satfuse.geometry.grids import snap_geobox
from satfuse.product.store import Store
from tests.product_store import publish_flat

GOLDEN = Path(__file__).parent / "golden"
ZARR = "3.1"  # the version that wrote the names of codecs and data types in the golden files
BOX = snap_geobox("EPSG:32631", 388800, 3394500, 388800 + 9000, 3394500 + 7200)
# Fixed values where a real product has versions, times and checksums.
PROVENANCE = {
    "field": "golden",
    "model": "bayesian",
    "model_sha256": "0" * 64,
    "gap_s": 180.0,
    "gap_clock": "MTD_TL SENSING_TIME, time.nc rows",
    "shift_m": [12.0, -30.0],
    "shift_trusted": True,
    "guide_items": [{"id": "S2A_guide", "href": "https://host/items/S2A_guide"}],
    "coarse_items": [{"id": "S3A_coarse", "href": "https://host/items/S3A_coarse"}],
    "versions": {"satfuse": "0.0.0"},
}
# Texts that PROJ writes.
CRS_TEXTS = ("spatial_ref", "crs_wkt", "proj:wkt2")


def stable(value):
    """A JSON value without what depends on PROJ's version: its texts, the last digits of floats."""
    if isinstance(value, list):
        return [stable(v) for v in value]
    if isinstance(value, dict):
        return {
            k: "WKT" if k in CRS_TEXTS and isinstance(v, str) else stable(v)
            for k, v in value.items()
        }
    return round(value, 9) if isinstance(value, float) else value


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """Folder of a store with one product that has an uncertainty."""
    folder = tmp_path_factory.mktemp("golden")
    publish_flat(Store(folder), "golden", BOX, uncertainty=0.004, provenance=PROVENANCE)
    return folder


@pytest.mark.parametrize(
    ("name", "path"),
    [("zarr.json", "data/golden/r1.zarr/zarr.json"), ("item.json", "items/golden.json")],
)
def test_the_metadata_of_a_product_are_the_golden_ones(product, name, path):
    if name == "zarr.json" and not zarr.__version__.startswith(f"{ZARR}."):
        pytest.skip(f"the golden file was written with zarr {ZARR}")
    stored = stable(json.loads((product / path).read_text()))
    if os.environ.get("UPDATE_GOLDEN"):
        text = json.dumps(stored, indent=1, sort_keys=True)
        (GOLDEN / name).write_text(f"{text}\n")
    assert stored == json.loads((GOLDEN / name).read_text())
