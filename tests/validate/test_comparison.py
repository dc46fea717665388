"""The report on several published products, from their items to the page."""

import json
import re

import pytest

from tests.product_scene import make_scene

pytest.importorskip("torch")

from satfuse.errors import ConfigError, GridError
from satfuse.infer import FuseConfig, fuse_field, write_scene
from satfuse.infer.larger_pixels import fuse_larger
from satfuse.validate.comparison.items import compare_items

pytestmark = pytest.mark.torch
TIME = "2024-06-01T10:00:00+00:00"


@pytest.fixture(scope="module")
def products(scheduler, tmp_path_factory):
    """Items of two fields by regression and by bicubic, and of the first one at 30 m."""
    folder = tmp_path_factory.mktemp("products")
    config = FuseConfig(shard_px=150, chunk_px=150, block_px=150)
    items = {}
    for name, west_m in (("here", 388800), ("away", 400800)):
        scene, _ = make_scene(3000, 2400, holes=False, left=west_m)
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


def test_every_product_is_described_and_scored(report):
    _, result = report
    products = [(p["letter"], p["model"], p["pixel_m"], p["ratio"]) for p in result["products"]]
    assert products == [
        ("A", "regression", 10, 30),
        ("B", "bicubic", 10, 30),
        ("C", "regression", 30, 10),
    ]
    first, second, _ = result["products"]
    assert second["sharpness"]["fused"]["medium"] < 0.5 * first["sharpness"]["fused"]["medium"]
    rmse = {name: s["overall"]["rmse"] for name, s in second["coarse_consistency"].items()}
    assert rmse["fused"] == pytest.approx(rmse["bicubic"], rel=0.05)


def test_pairs_are_with_the_first(report):
    _, result = report
    same, sizes = result["pairs"]
    assert (same["first"], same["other"], same["kind"]) == ("A", "B", "one pixel size")
    assert same["same_inputs"]
    assert same["share_beyond"] > 0.2
    assert same["unsupported_other"] < 1e-3
    assert (sizes["large"], sizes["small"], sizes["factor"]) == ("C", "A", 3)
    assert 0 < sizes["rmse"] < 0.02
    assert sizes["guide_rmse"] < 1e-6


def test_page_is_self_contained_and_has_every_figure(report):
    out, _ = report
    html = (out / "index.html").read_text()
    names = {p.stem for p in out.glob("*.png")}
    pairs = {"difference_AB", "power_AB", "sizes_AC", "power_AC"}
    assert names == {"gallery", "spectra", *pairs}
    assert html.count("data:image/png;base64,") == len(names)
    assert not re.search(r"<script|<link|https?://", html)
    text = (out / "metrics.md").read_text()
    assert "Hallucination check, A and B" in text
    assert "Two pixel sizes, C and A" in text
    header = next(line for line in text.splitlines() if line.startswith("| score"))
    assert header == "| score | A | B | C | bicubic S3 of A |"


def test_the_order_of_sizes_does_not_matter(report, products, tmp_path):
    compare_items([products["larger"], products["here", "regression"]], tmp_path)
    (pair,) = json.loads((tmp_path / "metrics.json").read_text())["pairs"]
    assert (pair["large"], pair["small"]) == ("A", "B")
    assert pair["bands"] == report[1]["pairs"][1]["bands"]


def test_a_larger_product_is_made_once(products):
    """The second time no scheduler is needed: nothing answers at this address."""
    item = products["larger"]
    folder = item.split("/store/")[0]
    again = fuse_larger(products["here", "regression"], 30, folder, scheduler="tcp://127.0.0.1:1")
    assert again == item


def test_products_that_cannot_be_compared_are_refused(products, tmp_path):
    with pytest.raises(GridError, match="different places"):
        compare_items([products["here", "regression"], products["away", "regression"]], tmp_path)
    with pytest.raises(ConfigError, match="2 to 6 products, 1 given"):
        compare_items([products["larger"]], tmp_path)
    for pixel_m in (10, 20.5, 300, 70):
        message = f"{pixel_m:g} m do not nest.*allowed: 20, 30, 50, 60, 100, 150"
        with pytest.raises(GridError, match=message):
            fuse_larger(products["here", "regression"], pixel_m, tmp_path)
