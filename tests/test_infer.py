"""Fusing a field: tiles and interruptions change no byte, and no partial product is visible."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.product_scene import RATIO, make_scene

pytest.importorskip("torch")

import torch
from distributed import Client, LocalCluster

import satfuse
from satfuse import cluster as cluster_module
from satfuse import models
from satfuse.errors import ConfigError, ProductError, SchedulerError, StoreError
from satfuse.geometry.grids import lonlat_bbox
from satfuse.geometry.tiling import Window, mosaic_spans
from satfuse.infer import FuseConfig, fuse_field, write_scene
from satfuse.infer import run as infer_run
from satfuse.infer.source import as_source, from_record
from satfuse.infer.tiles import tile_bytes
from satfuse.models.blocks import Cut, Inputs, fuse_blocks
from satfuse.models.prepare import prepare_scene
from satfuse.product.publish import rebuild_index
from satfuse.product.store import Store
from satfuse.scene import average_guide, sample_guide
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.quality import GUIDE_INVALID, Quality
from satfuse.validate.checks import seam_statistic

TIME = "2024-06-01T10:00:00+00:00"
CONFIG = FuseConfig(shard_px=150, chunk_px=150, block_px=90)
BANDS = {"guide_bands": S2_NAMES, "coarse_bands": S3_NAMES}


@pytest.fixture(scope="module")
def scene_path(tmp_path_factory):
    scene, _ = make_scene()
    path = tmp_path_factory.mktemp("scene") / "scene.zarr"
    return write_scene(scene, path, field="demo", time=TIME)


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def undisturbed(scene_path, cluster, tmp_path_factory):
    """A store with one finished regression run, and the bytes of its chunks."""
    store = tmp_path_factory.mktemp("undisturbed")
    fuse_field(scene_path, "regression", store, scheduler=cluster, config=CONFIG)
    return store, chunk_bytes(store)


def chunk_bytes(store, run="*"):
    """Content of every chunk file of the one run, by its path inside the group."""
    (group,) = Path(store).glob(f"data/*/{run}.zarr")
    return {str(p.relative_to(group)): p.read_bytes() for p in group.rglob("c/**/*") if p.is_file()}


def network(name, ratio=RATIO, **options):
    torch.manual_seed(0)
    model = models.create(name, **BANDS, ratio=ratio, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def prepared(scene):
    return prepare_scene(
        scene.guide.values,
        scene.coarse.values,
        ratio=RATIO,
        registered=True,
        guide_valid=scene.guide_valid.values,
        coarse_valid=scene.coarse_valid.values,
    )


def untiled(model, state, inputs):
    with torch.inference_mode():
        fused = model(
            torch.from_numpy(inputs.guide)[None],
            torch.from_numpy(inputs.coarse)[None],
            state=state,
            guide_valid=torch.from_numpy(inputs.guide_valid)[None, None],
            coarse_valid=torch.from_numpy(inputs.coarse_valid)[None, None],
        )
    return fused.image[0].numpy()


@pytest.mark.torch
@pytest.mark.parametrize("name", ["bicubic", "regression", "spectral"])
@pytest.mark.parametrize("block_px", [120, 210])
def test_tiled_equals_untiled_at_edges_and_around_holes(name, block_px):
    scene, _ = make_scene(3600, 3000)
    model = network(name)
    ready = prepared(scene)
    inputs = ready.inputs
    state = model.fit(ready.summary)
    out = np.full((21, *scene.guide.shape[1:]), np.nan, "float32")
    cut = Cut.of(model, out.shape[1:], RATIO, block_px=block_px)
    for window, image, _ in fuse_blocks(model, state, inputs, inputs.window, cut):
        out[:, *window.slices()] = image
    np.testing.assert_allclose(out, untiled(model, state, inputs), atol=1e-5)


@pytest.mark.torch
def test_the_product_is_the_untiled_image(undisturbed):
    scene, target = make_scene()
    model = network("regression")
    ready = prepared(scene)
    expected = untiled(model, model.fit(ready.summary), ready.inputs)
    data = satfuse.open_fused(
        lonlat_bbox(scene.guide.odc.geobox), "2024-06-01", store=undisturbed[0]
    )
    values = data.reflectance.values[0]
    valid = scene.guide_valid.values
    np.testing.assert_array_equal(np.isfinite(values).all(0), valid)
    np.testing.assert_array_equal(np.isfinite(values).any(0), valid)
    # half a digital number
    np.testing.assert_allclose(values[:, valid], expected[:, valid], atol=6.5e-5)
    assert np.sqrt(np.mean((values[:, valid] - target[:, valid]) ** 2)) < 0.1 * target.std()
    quality = data.quality.values[0]
    np.testing.assert_array_equal((quality & int(GUIDE_INVALID)) > 0, ~valid)
    coarse_valid = scene.coarse_valid.values.repeat(RATIO, 0).repeat(RATIO, 1)
    np.testing.assert_array_equal((quality & int(Quality.COARSE_CLOUD)) > 0, ~coarse_valid)


@pytest.mark.torch
def test_a_mosaic_does_not_depend_on_tiles_and_its_seam_is_measured():
    ratio = 10
    mosaic = (30, 20)
    shape = (70, 80)
    model = network("fusformer", ratio)
    rng = np.random.default_rng(0)
    inputs = Inputs(
        window=Window(0, shape[0], 0, shape[1]),
        guide=rng.random((12, *shape), "float32"),
        guide_valid=np.ones(shape, bool),
        coarse=rng.random((21, 7, 8), "float32"),
        coarse_valid=np.ones((7, 8), bool),
    )
    images = []
    for block_px in (30, 100):
        out = np.full((21, *shape), np.nan, "float32")
        cut = Cut.of(model, shape, ratio, block_px=block_px, mosaic=mosaic)
        for window, image, _ in fuse_blocks(model, {}, inputs, inputs.window, cut):
            out[:, *window.slices()] = image
        images.append(out)
    np.testing.assert_allclose(*images, atol=1e-5)
    one = model(
        torch.from_numpy(inputs.guide[None, :, :30, :30]),
        torch.from_numpy(inputs.coarse[None, :, :3, :3]),
    )
    np.testing.assert_allclose(
        images[0][:, :25, :25], one.image[0, :, :25, :25].detach(), atol=1e-5
    )
    edges = [span[2] for span in mosaic_spans(80, *mosaic)][1:]
    assert 0.5 < seam_statistic(images[0], (), edges)["ratio"] < 5


def test_a_cut_knows_its_seams():
    cut = Cut(shape=(2100, 2100), ratio=30, halo_px=150, block_px=900)
    assert cut.edges(2100, 1800) == (900, 1800)
    mosaic = Cut(shape=(300, 300), ratio=30, halo_px=150, block_px=900, mosaic=(150, 120))
    assert (
        mosaic.edges(300, 1800)
        == tuple(core for _, _, core, _ in mosaic_spans(300, 150, 120))[1:]
        == (135, 210)
    )


@pytest.mark.torch
def test_the_papers_layout_reads_coarse_pixels_at_its_own_phase():
    """A coarse ramp stays a ramp although windows start between coarse pixels.

    A wrong phase would move it by 10 px.
    """
    model = models.create("bicubic", **BANDS, ratio=30)
    ramp = np.broadcast_to(np.arange(10, dtype="float32") * 30 + 14.5, (21, 10, 10))
    inputs = Inputs(
        window=Window(0, 300, 0, 300),
        guide=np.zeros((12, 300, 300), "float32"),
        guide_valid=np.ones((300, 300), bool),
        coarse=np.ascontiguousarray(ramp),
        coarse_valid=np.ones((10, 10), bool),
    )
    cut = Cut(shape=(300, 300), ratio=30, halo_px=150, block_px=300, mosaic=(150, 130))
    ((_, image, _),) = fuse_blocks(model, {}, inputs, inputs.window, cut)
    second = image[0, 150, 190:220]  # well inside the window that starts at column 130
    np.testing.assert_allclose(second, np.arange(190, 220), atol=2)  # this cubic is no exact ramp


@pytest.mark.torch
def test_running_again_returns_at_once_and_overwrite_does_not(scene_path, undisturbed, cluster):
    store, before = undisturbed
    began = time.perf_counter()
    uri = fuse_field(scene_path, "regression", store, scheduler="tcp://127.0.0.1:1", config=CONFIG)
    assert time.perf_counter() - began < 2
    assert uri == f"{store}/items/demo_20240601T100000.json"
    run = json.loads(Path(uri).read_text())["properties"]["satfuse:run"]
    fuse_field(scene_path, "regression", store, scheduler=cluster, config=CONFIG, overwrite=True)
    again = json.loads(Path(uri).read_text())["properties"]["satfuse:run"]
    assert again != run
    assert chunk_bytes(store, again) == before
    # the older run stays replaced
    same = fuse_field(scene_path, "regression", store, scheduler="tcp://127.0.0.1:1", config=CONFIG)
    assert same == uri
    assert json.loads(Path(uri).read_text())["properties"]["satfuse:run"] == again
    record = json.loads((store / f"data/demo_20240601T100000/{again}.run.json").read_text())
    assert record["tiles"] == 16
    assert record["host"]


SCRIPT = """
    from satfuse.infer import FuseConfig, fuse_field
    if __name__ == "__main__":
        config = FuseConfig(shard_px=150, chunk_px=150, block_px=90)
        fuse_field({scene!r}, "regression", {store!r}, config=config)
"""


@pytest.mark.torch
def test_a_killed_process_continues_with_the_same_bytes(scene_path, undisturbed, cluster, tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(SCRIPT).format(scene=scene_path, store=str(tmp_path / "store"))
    )
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(
            [sys.executable, script], start_new_session=True, stdout=log, stderr=log
        )
    wait_for(lambda: len(done_markers(tmp_path)) >= 2, job, tmp_path / "log")
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    finished = len(done_markers(tmp_path))
    assert 2 <= finished < 16, "killed in the middle"
    assert not list((tmp_path / "store").glob("items/*")), "nothing is visible yet"
    with pytest.raises(ProductError, match="is empty"):
        satfuse.open_fused((1.8, 30.6, 2, 31), "2024-06-01", store=tmp_path / "store")
    fuse_field(scene_path, "regression", tmp_path / "store", scheduler=cluster, config=CONFIG)
    assert chunk_bytes(tmp_path / "store") == undisturbed[1]


KILLED_AT = """
    import os, signal
    from satfuse.infer import FuseConfig, fuse_field, run
    from satfuse.product import publish

    {place} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    fuse_field({scene!r}, "regression", {store!r}, scheduler={scheduler!r},
               config=FuseConfig(shard_px=150, chunk_px=150, block_px=90))
"""


@pytest.mark.torch
def test_a_kill_before_or_after_the_item_does_no_harm(scene_path, undisturbed, cluster, tmp_path):
    """Before the item nothing is visible; after it, even without the index, all of it is."""
    store = tmp_path / "store"
    for place, visible in (("run.publish", 0), ("publish.rebuild_index", 1)):
        names = {"place": place, "scene": scene_path, "store": str(store), "scheduler": cluster}
        job = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(KILLED_AT).format(**names)], capture_output=True
        )
        assert job.returncode == -signal.SIGKILL, job.stderr.decode()
        assert len(done_markers(tmp_path)) == 16
        assert not (store / "index.parquet").exists()
        assert len(list(store.glob("items/*"))) == visible
    box = lonlat_bbox(make_scene()[0].guide.odc.geobox)
    assert np.isfinite(satfuse.open_fused(box, "2024-06-01", store=store).reflectance).any()
    assert chunk_bytes(store) == undisturbed[1]
    assert rebuild_index(Store(store)) == 1
    assert (store / "index.parquet").exists()


@pytest.mark.torch
def test_a_lost_shard_is_computed_again(scene_path, undisturbed, cluster, tmp_path):
    """A machine that loses its power may keep a tile's marker and lose its data."""
    uri = Path(fuse_field(scene_path, "regression", tmp_path, scheduler=cluster, config=CONFIG))
    uri.unlink()
    next(tmp_path.glob("data/*/*.zarr/quality/c/0/1/1")).unlink()
    steps = []
    fuse_field(
        scene_path,
        "regression",
        tmp_path,
        scheduler=cluster,
        config=CONFIG,
        progress=lambda *n: steps.append(n),
    )
    assert steps == [(15, 16), (16, 16)]
    assert chunk_bytes(tmp_path) == undisturbed[1]


@pytest.mark.torch
def test_a_killed_worker_changes_nothing(scene_path, undisturbed, cluster, tmp_path):
    with Client(cluster, set_as_default=False) as client, ThreadPoolExecutor() as pool:
        pids = list(client.run(os.getpid).values())
        job = pool.submit(
            fuse_field,
            scene_path,
            "regression",
            tmp_path / "store",
            scheduler=cluster,
            config=CONFIG,
        )
        wait_for(lambda: done_markers(tmp_path))
        os.kill(pids[0], signal.SIGKILL)
        job.result(120)
        client.wait_for_workers(2, timeout=60)
    assert chunk_bytes(tmp_path / "store") == undisturbed[1]


def done_markers(folder):
    return list(folder.glob("store/data/*/*.plan/done/*.json"))


def wait_for(condition, job=None, log=None):
    end = time.monotonic() + 120
    while not condition():
        assert job is None or job.poll() is None, (
            f"the job ended before it was killed: {log.read_text()}"
        )
        assert time.monotonic() < end, "nothing happened for two minutes"
        time.sleep(0.005)


@pytest.mark.torch
def test_two_runs_of_one_field_and_date_do_not_disturb_each_other(
    scene_path, undisturbed, cluster, tmp_path
):
    with ThreadPoolExecutor() as pool:
        names = ("regression", "regression", "bicubic")
        jobs = [
            pool.submit(fuse_field, scene_path, n, tmp_path, scheduler=cluster, config=CONFIG)
            for n in names
        ]
        for job in jobs:
            job.result(120)
    item = json.loads((tmp_path / "items/demo_20240601T100000.json").read_text())
    plans = {
        p.parent.stem: json.loads(p.read_text())["model"]
        for p in tmp_path.glob("data/*/*.plan/plan.json")
    }
    assert sorted(plans.values()) == ["bicubic", "regression"]
    assert item["properties"]["satfuse:run"] in plans
    (regression,) = [run for run, name in plans.items() if name == "regression"]
    assert chunk_bytes(tmp_path, regression) == undisturbed[1]


@pytest.mark.torch
def test_a_failing_tile_is_named_and_the_rest_is_kept(cluster, tmp_path, monkeypatch):
    # so that the plan's samples miss the damaged chunk
    monkeypatch.setattr("satfuse.geometry.cells.SAMPLE_PIXELS", 1)
    monkeypatch.setattr("satfuse.geometry.cells.LEAST_SAMPLE", 1)
    scene, _ = make_scene(holes=False)
    scene["guide_cells"] = (
        ("guide_band", "y_cell", "x_cell"),
        average_guide(scene.guide, scene.guide_valid, RATIO),
    )
    scene["guide_patches"] = (
        ("patch", "guide_band", "y_patch", "x_patch"),
        sample_guide(scene.guide, scene.guide_valid, RATIO),
    )
    path = write_scene(scene, tmp_path / "scene.zarr", field="demo", time=TIME, chunk_px=150)
    chunk = Path(path) / "guide/c/0/1/1"
    good = chunk.read_bytes()
    chunk.write_bytes(b"damaged")
    config = FuseConfig(shard_px=150, chunk_px=150)
    with pytest.raises(ProductError, match=r"tile \d+ \(rows .*\) of demo_20240601T100000 failed"):
        fuse_field(path, "bicubic", tmp_path / "store", scheduler=cluster, config=config)
    assert not list((tmp_path / "store").glob("items/*"))
    chunk.write_bytes(good)
    uri = fuse_field(path, "bicubic", tmp_path / "store", scheduler=cluster, config=config)
    assert json.loads(Path(uri).read_text())["properties"]["satfuse:finite_share"] == 1


@pytest.mark.torch
@pytest.mark.parametrize(
    ("layer", "value"), [("guide", 0.3), ("guide_valid", False), ("coarse_quality", Quality.SNOW)]
)
def test_another_scene_at_the_same_path_is_another_run(layer, value, cluster, tmp_path):
    """Same coarse image, attributes and size: only the guide, a mask or the flags differ."""

    def fuse(scene):
        path = write_scene(scene, tmp_path / "scene.zarr", field="demo", time=TIME)
        item = fuse_field(path, "regression", tmp_path / "store", scheduler=cluster, config=CONFIG)
        return json.loads(Path(item).read_text())["properties"]["satfuse:run"]

    scene, _ = make_scene(3000, 3000)
    first = fuse(scene)
    assert fuse(scene) == first
    changed = scene.copy(deep=True)
    changed[layer][..., -1, -1] = value
    assert fuse(changed) != first


@pytest.mark.torch
def test_a_scene_that_was_not_written_completely_is_refused(tmp_path):
    scene, _ = make_scene(3000, 3000)
    path = Path(write_scene(scene, tmp_path / "scene.zarr", field="demo", time=TIME))
    root = json.loads((path / "zarr.json").read_text())
    del root["attributes"]["sha256"]  # it is written last
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(ProductError, match="lacks the attributes sha256"):
        as_source(path, missing="raise")


@pytest.mark.torch
def test_a_run_that_an_older_version_planned_says_so():
    with pytest.raises(ProductError, match=r"older version of satfuse.*fuse the field again"):
        from_record({"guide": [], "guide_catalog": {}, "missing": "raise"})


@pytest.mark.torch
def test_an_unreachable_scheduler_is_named(scene_path, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "TIMEOUT_S", 1)
    with pytest.raises(SchedulerError, match=r"tcp://127\.0\.0\.1:1 "):
        fuse_field(scene_path, "bicubic", tmp_path, scheduler="tcp://127.0.0.1:1", config=CONFIG)


@pytest.mark.torch
def test_a_store_that_cannot_be_written_stops_before_any_work(scene_path, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        fuse_field(
            scene_path,
            "bicubic",
            tmp_path / "file/store",
            scheduler="tcp://127.0.0.1:1",
            config=CONFIG,
        )


@pytest.mark.torch
def test_too_little_memory_is_refused_before_the_first_read(scene_path):
    class Workers:
        def __init__(self, limit):
            self.workers = {"tcp://w": {"memory_limit": limit, "nthreads": 4}}

        def scheduler_info(self, n_workers):
            return {"workers": self.workers}

    source = as_source(scene_path, missing="raise")
    cut = Cut.of(network("regression"), source.geobox.shape, RATIO, block_px=900)
    plain = network("regression")
    uncertain = network("bayesian")
    infer_run.check_memory(Workers(0), source, cut, plain, FuseConfig())
    infer_run.check_memory(Workers(4 * 2**30), source, cut, plain, FuseConfig())
    with pytest.raises(ConfigError, match="may use 1024 MiB, but 4 tiles of 600 px"):
        infer_run.check_memory(Workers(2**30), source, cut, plain, FuseConfig())
    shard = 4 * 600**2 * 21 * 2
    enough = infer_run.PROCESS_BYTES + 4 * tile_bytes(
        600, cut.halo_px, cut.block_px, 12, 21, uncertainty=False
    )
    infer_run.check_memory(Workers(enough), source, cut, plain, FuseConfig())
    with pytest.raises(ConfigError, match="give it more memory"):
        infer_run.check_memory(Workers(enough + shard - 1), source, cut, uncertain, FuseConfig())
    infer_run.check_memory(Workers(enough + shard), source, cut, uncertain, FuseConfig())


@pytest.mark.torch
def test_run_keys_depend_on_what_shapes_the_result(scene_path, monkeypatch):
    source = as_source(scene_path, missing="raise")
    key = infer_run.run_key(source, "", "regression", 30, FuseConfig())
    assert key == infer_run.run_key(
        source, "", "regression", 30, FuseConfig(workers=7, memory_limit="1GB")
    )
    changes = (
        {"shard_px": 900},
        {"chunk_px": 100},
        {"block_px": 300},
        {"threads": 2},
        {"device": "cuda"},
        {"mosaic": (90, 60)},
    )
    others = {
        infer_run.run_key(source, "", "regression", 30, FuseConfig(**c))
        for c in (*changes, {"missing": "flag"})
    }
    others |= {
        infer_run.run_key(source, "", "bicubic", 30, FuseConfig()),
        infer_run.run_key(source, "", "regression", 15, FuseConfig()),
    }
    monkeypatch.setattr("satfuse.infer.plan.FORMAT", 1)
    others.add(infer_run.run_key(source, "", "regression", 30, FuseConfig()))
    assert len(others) == 10
    assert key not in others
    with pytest.raises(ConfigError, match="missing='drop'"):
        FuseConfig(missing="drop")


def set_environment(values):
    os.environ.update(values)


@pytest.mark.torch
def test_s3_round_trip(scene_path, undisturbed, cluster, s3_url, monkeypatch):
    import s3fs

    access = {
        "AWS_ENDPOINT_URL": s3_url,
        "AWS_ACCESS_KEY_ID": "hidden-key",
        "AWS_SECRET_ACCESS_KEY": "hidden-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in access.items():
        monkeypatch.setenv(name, value)
    files = s3fs.S3FileSystem()
    files.mkdir("products")
    with Client(cluster, set_as_default=False) as client:
        client.run(set_environment, access)
    store = "s3://products/fused"
    uri = fuse_field(scene_path, "regression", store, scheduler=cluster, config=CONFIG)
    assert uri == f"{store}/items/demo_20240601T100000.json"
    data = satfuse.open_fused((1.8, 30.6, 2, 31), "2024-06-01", store=store)
    here = satfuse.open_fused((1.8, 30.6, 2, 31), "2024-06-01", store=undisturbed[0])
    np.testing.assert_array_equal(data.reflectance.values, here.reflectance.values)
    text = b"".join(files.cat([p for p in files.find(store) if p.endswith(".json")]).values())
    assert b"hidden" not in text
    with pytest.raises(StoreError, match="bucket does not exist"):
        fuse_field(scene_path, "regression", "s3://nowhere/x", scheduler=cluster, config=CONFIG)
