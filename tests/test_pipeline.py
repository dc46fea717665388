"""The whole chain as a plain function, on the small archive, against the recipe's values."""

import copy
import json
import os
import pickle
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from tests.command import CLOUDY_DAY, DAY, command, service, tree

pytest.importorskip("torch")

import xarray as xr

import satfuse
from satfuse import pipeline
from satfuse.cube import open_cube
from satfuse.errors import ConfigError, NoPairError
from satfuse.infer.plan import open_context, plan_path
from satfuse.infer.reopen import open_run, run_plan
from satfuse.infer.source import as_source
from satfuse.job import Job, resolve_catalogs, resolve_field
from satfuse.pairing import read_pairs
from satfuse.product.store import Store

pytestmark = pytest.mark.torch

COARSE_M = 300
TRAIN = {"epochs": 20, "threads": 1, "tensorboard": False, "batches": {"size": 4, "coverage": 4.0}}


@pytest.fixture(scope="module")
def job(small_recipe, small_catalog, tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    return Job(
        field=small_recipe.field,
        start=DAY,
        end=CLOUDY_DAY,
        catalog=small_catalog,
        store=str(folder / "store"),
        work=str(folder / "work"),
        model="spectral",
        train_on=small_catalog,
        train_start="2024-01-01",
        train_end="2024-12-31",
        train=TRAIN,
    )


@pytest.fixture(scope="module")
def result(job):
    return pipeline.run(job)


def agreement(image, truth):
    """Correlation with the truth, mean of the bands."""
    inner = (slice(20, -20), slice(20, -20))
    bands = zip(image, truth, strict=True)
    return np.mean([np.corrcoef(a[inner].ravel(), b[inner].ravel())[0, 1] for a, b in bands])


def test_the_chain_ends_in_a_product_that_opens(result, job, small_archive):
    (item,) = result.products
    west, south, east, north = json.loads(Path(item).read_text())["bbox"]
    data = satfuse.open_fused((west, south, east, north), DAY, store=job.store)
    assert data.reflectance.shape == (1, 21, 540, 540)
    fused = data.reflectance[0].values
    truth = xr.open_zarr(small_archive.truth, consolidated=False)["reflectance"].values
    assert np.isfinite(fused).mean() > 0.99
    here = agreement(fused, truth)
    assert here > 0.9
    moved = (
        np.roll(fused, 3, 1),
        np.roll(fused, 3, 2),
        fused[:, ::-1],
        fused[:, :, ::-1],
        fused[::-1],
    )
    assert max(agreement(other, truth) for other in moved) < here - 0.1
    assert {"metrics.json", "index.html", "quicklook.png"} <= tree(result.reports[0])


def test_the_gap_is_the_recipes_not_that_of_the_items(result, small_recipe):
    (pair,) = read_pairs(result.pairs)
    assert pair.gap_s == pytest.approx(small_recipe.gap_s, abs=1)
    assert abs(pair.item_gap_s - small_recipe.gap_s) > 200
    assert not pair.approximate


def test_the_shift_is_the_recipes(result, small_recipe):
    scene = open_run(result.products[0])[1]
    shift_m = np.array(scene.attrs["shift_m"])
    assert shift_m == pytest.approx(small_recipe.shift_m, abs=0.15 * COARSE_M)
    assert np.hypot(*shift_m) > 0.15 * COARSE_M  # so zero would fail


def test_only_the_clear_day_is_paired_and_no_duplicate(result):
    (pair,) = read_pairs(result.pairs)
    assert str(pair.guide_time.date()) == DAY
    coarse = [item["id"] for item in pair.coarse]
    assert len(coarse) == 2  # two frames, without the STC copy of one
    assert all("_O_NT_" in i for i in coarse)
    assert len(pair.guide) == 2  # two tiles


def times_of_change(paths):
    return {path: path.stat().st_mtime_ns for path in paths}


def test_running_again_keeps_the_finished_parts(result, job):
    report = Path(result.reports[0], "metrics.json")
    checkpoint = Path(job.work, "checkpoint/card.json")
    scenes = Path(job.work, "cube.zarr/scenes")
    products = [path for path in Path(job.store).rglob("*") if path.is_file()]
    before = times_of_change([report, checkpoint, scenes, *products])
    assert pipeline.run(job) == result
    products = [path for path in Path(job.store).rglob("*") if path.is_file()]
    assert times_of_change([report, checkpoint, scenes, *products]) == before
    numbers = json.loads(report.read_text())
    assert numbers["run"] in Path(result.products[0]).read_text()
    report.write_text(json.dumps(numbers | {"run": "another"}))
    assert pipeline.run(job) == result
    assert json.loads(report.read_text()) == numbers, "a report of another run is outdated"


def test_the_cloudy_day_alone_names_the_rule(job, tmp_path):
    with pytest.raises(NoPairError, match=r"guide cloud \d+\.\d% is above 5\.0%") as error:
        pipeline.discover(
            job.field, CLOUDY_DAY, CLOUDY_DAY, job.catalog, tmp_path / "pairs.parquet"
        )
    assert "S2B_MSIL2A_20240709" in str(error.value)
    loose = {"maximum_cloud": 1.0}
    path = pipeline.discover(
        job.field, CLOUDY_DAY, CLOUDY_DAY, job.catalog, tmp_path / "pairs.parquet", loose
    )
    assert [str(p.guide_time.date()) for p in read_pairs(path)] == [CLOUDY_DAY]


def test_a_duplicate_that_comes_alone_is_used(small_archive, small_recipe, tmp_path):
    """The STC copy of a frame without an NTC one is paired: the rule is a preference only."""
    with service(small_archive.root) as stac:
        doubled = next(i["id"] for i in stac.items if "_O_ST_" in i["id"])
        start = doubled.split("____")[1][:31]
        stac.items = [i for i in stac.items if not (start in i["id"] and "_O_NT_" in i["id"])]
        catalog = stac.catalog(tmp_path / "c.toml", small_archive.root)
        path = pipeline.discover(
            small_recipe.field, DAY, DAY, str(catalog), tmp_path / "pairs.parquet"
        )
    (pair,) = read_pairs(path)
    assert doubled in [item["id"] for item in pair.coarse]


def test_further_frames_are_asked_for_and_kept(job, tmp_path):
    rules = {"maximum_cloud": 1.0, "maximum_frame_gap_s": 6 * 86400.0}
    path = pipeline.discover(
        job.field, DAY, DAY, job.catalog, tmp_path / "pairs.parquet", rules, frames=2
    )
    (pair,) = read_pairs(path)
    assert [str(frame.time.date()) for frame in pair.extra_coarse] == [CLOUDY_DAY]
    scene = open_cube(pipeline.build_pair_cube(path, tmp_path / "cube.zarr")).open_scene(
        pair.id, decode=True
    )
    assert scene.coarse.dims[0] == "frame"
    assert scene.sizes["frame"] == 2
    valid = scene.coarse_valid.all("frame").values
    first, second = scene.coarse.values[:, :, valid]
    assert valid.sum() > 10
    assert np.abs(first - second).mean() > 1e-3, "two overpasses, not one twice"


def test_pairs_become_a_cube(result, tmp_path):
    cube = open_cube(pipeline.build_pair_cube(result.pairs, tmp_path / "cube.zarr"))
    (pair,) = read_pairs(result.pairs)
    assert (cube.kind, cube.ratio, [s.id for s in cube.scenes]) == ("pairs", 30, [pair.id])
    scene = cube.open_scene(pair.id, decode=True)
    assert scene.guide.shape[1:] == (540, 540)
    assert scene.coarse.shape[-2:] == (18, 18)


def test_a_box_is_named_by_its_grid():
    first, second = (resolve_field(box) for box in ("26.4,58.3,26.5,58.4", "26.4,58.3,26.6,58.4"))
    assert first.name != second.name
    assert resolve_field("26.4,58.3,26.5,58.4").name == first.name
    assert first.geobox.shape[0] % 30 == 0
    assert first.name.startswith("box-32635-")


def test_a_box_of_a_search_may_be_wider_than_a_utm_zone(small_archive, tmp_path):
    year = ("--start", "2024-01-01", "--end", "2024-12-31")
    with service(small_archive.root) as stac:
        catalog = ("--catalog", stac.catalog(tmp_path / "c.toml", small_archive.root))
        europe = ("--bbox", "9,47,40,66", *year, *catalog)
        america = ("--bbox", "-120,10,-100,40", *year, *catalog)
        items = command("search", "enmap", *europe, "--json").json
        cube = command("cube", *europe, "--out", tmp_path / "cube.zarr")
        none = command("cube", *america, "--out", tmp_path / "none.zarr")
        pairs = command("pairs", *europe, "--out", tmp_path / "none.parquet")
    assert cube.code == 0, cube.err
    assert items
    scenes = open_cube(tmp_path / "cube.zarr").scenes
    assert {scene.id for scene in scenes} == {item["id"] for item in items}
    assert "has no EnMAP scene over -120,10,-100,40" in none.err
    assert "fits no UTM zone" in pairs.err


def test_the_same_scene_from_another_server_is_the_same_run(result, job, small_archive, tmp_path):
    """With a copy of the archive in another folder and at another port, nothing is fused again.

    Validation reads the copy.
    """
    moved = tmp_path / "archive"
    shutil.copytree(small_archive.root, moved, copy_function=os.link)
    with service(small_archive.root) as stac:
        stac.move(moved)
        catalog = str(stac.catalog(tmp_path / "c.toml", moved))
        path = pipeline.discover(job.field, DAY, DAY, catalog, tmp_path / "pairs.parquet")
    (here,) = read_pairs(result.pairs)
    (there,) = read_pairs(path)
    assert here.guide != there.guide
    assert here.guide_catalog["url"] != there.guide_catalog["url"]
    chunks = [p for p in Path(job.store, "data").rglob("c/**/*") if p.is_file()]
    before = [p.stat().st_mtime_ns for p in chunks]
    assert pipeline.fuse(path, result.checkpoint, job.store) == list(result.products)
    assert before
    assert [p.stat().st_mtime_ns for p in chunks] == before
    guide = run_plan(result.products[0]).source["pair"]["guide"]
    paths = [Path(item["assets"]["B02_10m"]["href"]) for item in guide]
    assert paths
    assert all(path.is_relative_to(moved) for path in paths)
    assert np.isfinite(open_run(result.products[0])[1].guide[:, 300:310, 300:310].values).any()


def test_a_worker_loads_a_run_once(result, job, tmp_path):
    """Although every task has its own copy of the store; a changed plan is read again."""
    plan = run_plan(result.products[0])
    path = plan_path(plan.product_id, plan.run)
    shutil.copytree(Path(job.store, path), tmp_path / path)
    stores = [pickle.loads(pickle.dumps(Store(tmp_path))) for _ in range(2)]
    first, second = (open_context(store, path) for store in stores)
    assert first is second
    assert first.plan == plan
    Store(tmp_path).write_json(f"{path}/plan.json", asdict(replace(plan, threads=2)))
    assert open_context(Store(tmp_path), path).plan.threads == 2


@pytest.mark.parametrize(
    "changed", ["id", "baseline", "size", "checksum", "coarse id", "grid", "radiometry", "field"]
)
def test_other_content_is_another_run(changed, result):
    (pair,) = read_pairs(result.pairs)
    guide = copy.deepcopy(pair.guide)
    coarse = copy.deepcopy(pair.coarse)
    asset = guide[0]["assets"]["B02_10m"]
    catalog = dict(pair.guide_catalog)
    geobox = pair.geobox
    if changed == "id":
        guide[0]["id"] = guide[0]["id"].replace("N0511", "N0510")
    if changed == "baseline":
        guide[0]["properties"]["processing:version"] = "05.10"
    if changed == "size":
        asset["file:size"] = 7
    if changed == "checksum":
        asset["file:checksum"] = "1220ab"
    if changed == "coarse id":
        coarse[0]["id"] += "_2"
    if changed == "grid":
        geobox = geobox[30:, :]
    if changed == "radiometry":
        catalog["radiometry"] = {"sentinel2": "boa_offset=0"}
    if changed == "field":  # of the item that describes it, but not its content
        asset["title"] = "another"
        guide[0]["properties"]["updated"] = "2024-08-01T00:00:00Z"
    other = replace(pair, guide=guide, coarse=coarse, guide_catalog=catalog, geobox=geobox)
    prints = [as_source(p, missing="raise").fingerprint() for p in (pair, other)]
    assert (prints[0] == prints[1]) == (changed == "field")


def test_a_catalogue_for_each_sensor(job):
    guide, coarse = resolve_catalogs(f"cdse,{job.catalog}")
    assert (guide.name, coarse.name) == ("cdse", "local")
    with pytest.raises(ConfigError, match="catalogue dlr has no sentinel2"):
        resolve_catalogs("dlr,cdse")
    with pytest.raises(ConfigError, match="names 3 catalogues"):
        resolve_catalogs("cdse,cdse,cdse")
