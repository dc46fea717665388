"""The report on several published products, from their items to the page."""

import json
import re

import pytest
from product_scene import make_scene

pytest.importorskip("torch")

from satfuse.errors import ConfigError, GridError
from satfuse.infer import FuseConfig, fuse_field, write_scene
from satfuse.infer.larger_pixels import fuse_larger
from satfuse.validate.comparison import compare_items

pytestmark = pytest.mark.torch
TIME = "2024-06-01T10:00:00+00:00"


@pytest.fixture(scope="module")
def products(scheduler, tmp_path_factory):
    """Items of one field by regression and by bicubic, of the first one at 30 m, and of another field."""
    folder = tmp_path_factory.mktemp("products")
    config = FuseConfig(shard_px=150, chunk_px=150, block_px=150)
    items = {}
    for name, left in (("here", 388800), ("away", 400800)):
        scene, _ = make_scene(3000, 2400, holes=False, left=left)
        path = write_scene(scene, folder / f"{name}.zarr", field=name, time=TIME)
        for model in ("regression", "bicubic"):
            store = folder / f"{name}-{model}"
            items[name, model] = fuse_field(path, model, store, scheduler=scheduler, config=config)
    items["larger"] = fuse_larger(
        items["here", "regression"], 30, folder / "30m", scheduler=scheduler
    )
    return items


@pytest.fixture(scope="module")
def report(products, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "comparison"
    items = [products["here", "regression"], products["here", "bicubic"], products["larger"]]
    assert compare_items(items, out) == out
    return out, json.loads((out / "metrics.json").read_text())


def test_products_stand_beside_each_other(report):
    _, found = report
    told = [(p["letter"], p["model"], p["pixel_m"], p["ratio"]) for p in found["products"]]
    assert told == [
        ("A", "regression", 10, 30),
        ("B", "bicubic", 10, 30),
        ("C", "regression", 30, 10),
    ]
    first, second, _ = found["products"]
    assert second["sharpness"]["fused"]["medium"] < 0.5 * first["sharpness"]["fused"]["medium"]
    rmse = second["coarse_consistency"]
    assert rmse["fused"]["overall"]["rmse"] == pytest.approx(
        rmse["bicubic"]["overall"]["rmse"], rel=0.05
    )


def test_pairs_are_with_the_first(report):
    _, found = report
    same, sizes = found["pairs"]
    assert (same["first"], same["other"], same["kind"]) == ("A", "B", "one pixel size")
    assert same["same_inputs"] and same["share_beyond"] > 0.2 and same["unsupported_other"] < 1e-3
    assert (sizes["large"], sizes["small"], sizes["factor"]) == ("C", "A", 3)
    assert 0 < sizes["rmse"] < 0.02 and sizes["guide_rmse"] < 1e-6


def test_page_is_self_contained_and_holds_every_picture(report):
    out, _ = report
    html = (out / "index.html").read_text()
    drawn = {p.name for p in out.glob("*.png")}
    assert drawn == {
        "gallery.png", "spectra.png", "difference_AB.png", "power_AB.png", "sizes_AC.png", "power_AC.png",
    }  # fmt: skip
    assert html.count("data:image/png;base64,") == len(drawn)
    assert not re.search(r"<script|<link|https?://", html)
    text = (out / "metrics.md").read_text()
    assert "Hallucination check, A and B" in text and "Two pixel sizes, C and A" in text
    header = next(line for line in text.splitlines() if line.startswith("| score"))
    assert header == "| score | A | B | C | bicubic S3 of A |"


def test_the_order_of_sizes_does_not_matter(report, products, tmp_path):
    compare_items([products["larger"], products["here", "regression"]], tmp_path)
    (pair,) = json.loads((tmp_path / "metrics.json").read_text())["pairs"]
    assert (pair["large"], pair["small"]) == ("A", "B")
    assert pair["bands"] == report[1]["pairs"][1]["bands"]


def test_a_larger_product_is_made_once(products, scheduler, tmp_path):
    item = products["larger"]
    folder = item.split("/store/")[0]
    assert (
        fuse_larger(products["here", "regression"], 30, folder, scheduler="tcp://127.0.0.1:1")
        == item
    )


def test_what_cannot_be_compared_is_refused(products, tmp_path):
    with pytest.raises(GridError, match="different places"):
        compare_items([products["here", "regression"], products["away", "regression"]], tmp_path)
    with pytest.raises(ConfigError, match="2 to 6 products, 1 given"):
        compare_items([products["larger"]], tmp_path)
    for pixel_m in (10, 20.5, 300, 70):
        with pytest.raises(
            GridError, match=f"{pixel_m:g} m do not nest.*allowed: 20, 30, 50, 60, 100, 150"
        ):
            fuse_larger(products["here", "regression"], pixel_m, tmp_path)
