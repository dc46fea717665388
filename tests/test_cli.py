"""Every verb of the command line, end to end on the small archive."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import typer

from tests.command import CLOUDY_DAY, DAY, ENTRY_POINT, command, tree

pytest.importorskip("torch")

import satfuse
from satfuse import model_names, models, pipeline
from satfuse.checkpoint import SHIPPED
from satfuse.cli import app
from satfuse.config import Settings
from satfuse.geometry.grids import snap_geobox
from satfuse.pairing import read_pairs
from satfuse.product.store import Store
from satfuse.sensors.bands import S3_NAMES
from satfuse.simulate import archive as archive_module
from tests.product_store import publish_flat

pytestmark = pytest.mark.torch

VERBS = (
    "demo",
    "simulate",
    "search",
    "pairs",
    "cube",
    "train",
    "fuse",
    "validate",
    "report",
    "info",
    "clean",
)
DAYS = ("--start", DAY, "--end", CLOUDY_DAY)
# Environment of a program that runs elsewhere, with the package of this folder.
PACKAGE = os.environ | {"PYTHONPATH": str(Path(satfuse.__file__).parents[1])}
TRAIN = (
    "[train]\nepochs = 1\nthreads = 1\ntensorboard = false\n[train.batches]\npatch = 60\nsize = 4\n"
)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Run commands in an empty folder, without the settings of the user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("SATFUSE_STORE", "SATFUSE_CONFIG", "SATFUSE_CATALOGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def job(small_recipe, small_catalog):
    """Options of a search over the small archive."""
    return ("--field", small_recipe.field, *DAYS, "--catalog", small_catalog)


@pytest.fixture(scope="module")
def checkpoint(small_catalog, tmp_path_factory):
    """Folder of the cube and checkpoint that the verbs `cube` and `train` made; their output."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "settings.toml").write_text(TRAIN)
    year = ("--start", "2024-01-01", "--end", "2024-12-31")
    made = command(
        "cube", *year, "--catalog", small_catalog, "--out", folder / "cube.zarr", "--json"
    )
    assert (made.code, made.err) == (0, "")
    options = ("--config", folder / "settings.toml", "--out", folder / "checkpoint", "--json")
    trained = command("train", folder / "cube.zarr", *options)
    assert (trained.code, trained.err) == (0, "")
    return folder, made.json, trained.json


@pytest.fixture(scope="module")
def product(small_recipe, small_catalog, scheduler, checkpoint, tmp_path_factory):
    """Folder of what `satfuse fuse` made with the trained network, and its output; no report."""
    folder = tmp_path_factory.mktemp("product")
    validated = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "validate", lambda item, *_, **__: validated.append(item) or "none")
        area = ("--field", small_recipe.field, "--date", DAY, "--catalog", small_catalog)
        paths = ("--store", folder / "store", "--work", folder / "work")
        model = ("--model", checkpoint[0] / "checkpoint", "--scheduler", scheduler)
        ended = command("fuse", *area, *paths, *model, "--json")
    assert (ended.code, ended.err) == (0, "")
    assert validated == ended.json["products"]
    return folder, ended.json


# --- help ---------------------------------------------------------------------------------------


def test_the_verbs():
    assert tuple(typer.main.get_command(app).commands) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example_that_parses_on_one_line(verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    ended = command(verb, "--help")
    example = re.search(rf"(?m)^ *(satfuse {verb}\b.*)$", ended.out.split("Example:")[1])
    assert ended.code == 0
    assert example
    arguments = shlex.split(example[1])[2:]
    assert arguments
    parser = typer.main.get_command(app).commands[verb]
    parsed = parser.make_context(verb, arguments).params
    given = {p.name for p in parser.params for a in arguments if a in p.opts}
    assert all(parsed[name] is not None for name in given)


def test_help_and_error_name_every_model_the_default_first(job, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    ended = command("fuse", *job, "--store", "store", "--model", "unet", "--dry-run")
    assert ended.code == 1
    for text in (command("fuse", "--help").out, ended.err):
        assert f"{model_names.DEFAULT} (the default), " in text
        assert all(re.search(rf"\b{name}\b", text) for name in models.MODELS)


def test_models_by_name_are_those_that_need_no_training():
    for name, model in models.MODELS.items():
        usable = not model.needs_weights or (SHIPPED / name).is_dir()
        assert usable == (name in model_names.BY_NAME)
    assert Settings().model == model_names.DEFAULT


def test_options_that_verbs_share_keep_one_name():
    verbs = typer.main.get_command(app).commands
    named = {
        verb: {o for p in c.params if p.param_type_name == "option" for o in p.opts}
        for verb, c in verbs.items()
    }
    shared = set(shlex.split("--field --bbox --date --start --end --catalog --config -v --json"))
    assert all(shared <= named[verb] for verb in ("search", "pairs", "cube", "fuse"))
    assert named["fuse"] >= {"--store", "--model", "--scheduler", "--dry-run"}
    assert all({"--json", "-v"} <= options for options in named.values())
    without = ("search", "info", "clean")  # these write nothing, clean unless told to delete
    assert all("--dry-run" in named[verb] for verb in VERBS if verb not in without)


def test_the_production_job_is_one_line(monkeypatch):
    """The line of the documentation, up to the credentials that it then asks for."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    line = "fuse --field algeria-5 --date 2024-06-01 --catalog cdse --store s3://bucket/fused"
    assert "AWS_ACCESS_KEY_ID" in command(*line.split()).err
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    ended = command(*line.split(), "--dry-run", "--json")
    assert ended.code == 0
    assert ended.json["would write"] == "s3://bucket/fused"
    assert Path(ended.json["work"]).name == "algeria-5_2024-06-01_2024-06-01"


# --- verbs --------------------------------------------------------------------------------------


def test_demo_prints_json_alone_on_stdout(monkeypatch, tmp_path):
    def run_demo(out):
        print("human-readable tables")
        return {"network": {"rmse": 0.01, "out": str(out)}}

    monkeypatch.setattr("satfuse.demo.run_demo", run_demo)
    ended = command("demo", "--out", tmp_path / "demo", "--json")
    assert ended.json == {"network": {"rmse": 0.01, "out": str(tmp_path / "demo")}}
    assert ended.err == "human-readable tables\n"
    assert command("demo").out == "human-readable tables\n"


def test_simulate(monkeypatch, tmp_path):
    field = tmp_path / "tiny.geojson"
    properties = {
        "name": "tiny",
        "title": "tiny",
        "crs": "EPSG:32635",
        "bounds_m": [466200, 6461400, 467400, 6462600],
    }
    field.write_text(json.dumps({"type": "Feature", "properties": properties, "geometry": None}))
    small = partial(
        archive_module.ArchiveRecipe, frame_rows=60, columns=129, enmap_scenes=1, enmap_px=32
    )
    monkeypatch.setattr(archive_module, "ArchiveRecipe", small)
    monkeypatch.setattr(
        archive_module, "make_archive", partial(archive_module.make_archive, workers=1)
    )
    ended = command(
        "simulate", tmp_path / "archive", "--field", field, "--seed", 3, "--gap", 90, "--json"
    )
    assert ended.code == 0
    assert ended.json["pixels"] == [120, 120]
    made = json.loads((tmp_path / "archive/archive.json").read_text())["recipe"]
    assert (made["seed"], made["gap_s"]) == (3, 90)
    assert (tmp_path / "archive/truth.zarr/zarr.json").is_file()


def test_search(job):
    ended = command("search", "sentinel3_syn", *job, "--json")
    assert ended.code == 0
    assert ended.err == ""
    ids = [row["id"] for row in ended.json]
    assert len(ids) == 3
    assert not any("_O_ST_" in i for i in ids)
    readable = command("search", "sentinel3_syn", *job)
    assert all(i in readable.out for i in ids)
    assert command("search", "sentinel2", *job[:-1], f"{job[-1]},cdse", "--json").code == 0
    assert command("search", "enmap", "--bbox", "-1,0,0,1", *job[2:], "--json").json == []


def test_pairs(job, tmp_path):
    ended = command("pairs", *job, "--json")
    (row,) = ended.json
    assert ended.code == 0
    assert ended.err == "written: pairs.parquet\n"
    assert row["gap_s"] == pytest.approx(180, abs=1)
    assert abs(row["item_gap_s"] - row["gap_s"]) > 200
    assert {
        "guide_cloud",
        "coarse_cloud",
        "overlap",
        "coarse_view_zenith_deg",
        "guide_sun_zenith_deg",
    } <= set(row)
    assert [p.id for p in read_pairs(tmp_path / "pairs.parquet")] == [row["id"]]
    about = command("info", "pairs.parquet")
    assert "table of pairs" in about.out
    assert "+180.0" in about.out
    assert "gap s" in about.out
    assert command("cube", "--pairs", "pairs.parquet", "--dry-run", "--json").json["pairs"] == [
        row["id"]
    ]


def test_cube_and_train(checkpoint):
    folder, made, trained = checkpoint
    assert made == {"cube": str(folder / "cube.zarr")}
    assert trained["checkpoint"] == str(folder / "checkpoint")
    assert trained["metrics"]["val_rmse"] > 0
    cube = command("info", folder / "cube.zarr", "--json").json
    assert cube["kind"] == "training cube (enmap)"
    assert len(cube["scenes"]) == 3
    assert cube["missing_bands"] == ["Oa01", "Oa02"]
    card = command("info", folder / "checkpoint", "--json").json
    assert (card["kind"], card["model"]) == ("checkpoint", "spectral")
    assert card["coarse_bands"] == cube["coarse_bands"]
    assert "val_rmse: " in command("info", folder / "checkpoint").out


def test_fuse(product):
    folder, output = product
    (item,) = output["products"]
    west, south, east, north = json.loads(Path(item).read_text())["bbox"]
    data = satfuse.open_fused((west, south, east, north), DAY, store=folder / "store")
    assert data.reflectance.shape == (1, 21, 540, 540)
    fused = command("info", item, "--json").json
    assert fused["kind"] == "product"
    assert fused["bands"] == list(S3_NAMES)
    assert fused["model"].startswith("spectral")
    assert len(fused["model_sha256"]) == 64
    group = Path(item).parent / fused["data"]
    assert (
        command("info", group.resolve(), "--json").json["reflectance"] == "int16 (1, 21, 540, 540)"
    )
    assert command("info", folder / "store", "--json").json["count"] == 1
    assert (folder / "work").iterdir().__next__().name == f"small_{DAY}_{DAY}"


def test_validate(product, tmp_path):
    item = product[1]["products"][0]
    planned = command("validate", item, "--out", "report", "--dry-run", "--json")
    assert planned.code == 0
    assert not (tmp_path / "report").exists()
    ended = command("validate", item, "--out", "report", "--json")
    assert ended.json["report"] == planned.json["would write"]
    report = tmp_path / ended.json["report"]
    assert {"metrics.json", "index.html", "quicklook.png"} <= tree(report)


def test_report(product, scheduler, tmp_path):
    """One product and the same weights at 30 m, in one command."""
    item = product[1]["products"][0]
    planned = command("report", item, "--also-at", 30, "--out", "comparison", "--dry-run", "--json")
    assert planned.json["would write"] == "comparison"
    assert not (tmp_path / "comparison").exists()
    line = ("report", item, "--also-at", 30, "--scheduler", scheduler, "--out", "comparison")
    assert command(*line, "--json").json == {"report": "comparison"}
    metrics = json.loads((tmp_path / "comparison/metrics.json").read_text())
    sizes = [(p["letter"], p["pixel_m"], p["ratio"]) for p in metrics["products"]]
    assert sizes == [("A", 10, 30), ("B", 30, 10)]
    first, second = (p["model_sha256"] for p in metrics["products"])
    assert first == second != ""
    (pair,) = metrics["pairs"]
    assert (pair["kind"], pair["factor"]) == ("two pixel sizes", 3)
    assert (pair["large"], pair["small"]) == ("B", "A")
    assert 0 < pair["rmse"] < 0.05
    assert pair["guide_rmse"] < 1e-6
    alone = command("report", item)
    assert alone.code == 1
    assert "for one: satfuse validate" in alone.err
    odd = command("report", item, "--also-at", 25)
    assert odd.code == 1
    assert "25 m do not nest" in odd.err


@pytest.fixture
def store(tmp_path):
    """A store with a run that was replaced two days ago, and one that was begun just now."""
    place = Store(tmp_path / "store")
    box = snap_geobox("EPSG:32635", 466200, 6461400, 467100, 6462300)
    for run in ("old", "new"):
        publish_flat(place, "a", box, run=run)
    two_days_ago = time.time() - 48 * 3600
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (two_days_ago, two_days_ago))
    place.write("data/b/begun.plan/plan.json", b"{}")
    return tmp_path / "store"


def test_clean_lists_superseded_runs_and_deletes_the_old_ones_when_told_to(store):
    before = tree(store)
    listed = command("clean", store, "--json").json
    assert [(r["id"], r["run"]) for r in listed["would delete"]] == [("a", "old")]
    assert [(r["id"], r["run"]) for r in listed["kept"]] == [("b", "begun")]
    assert listed["would delete"][0]["days"] == pytest.approx(2, abs=0.1)
    assert listed["MB"] == listed["would delete"][0]["MB"]
    assert tree(store) == before
    readable = command("clean", store)
    assert "would delete:" in readable.out
    assert "begun" in readable.out
    assert f"satfuse clean {store} --delete" in command("info", store).out

    deleted = command("clean", store, "--delete", "--json").json
    assert [r["run"] for r in deleted["deleted"]] == ["old"]
    assert [r["run"] for r in deleted["kept"]] == ["begun"]
    assert not (store / "data/a/old.zarr").exists()
    assert (store / "data/a/new.zarr").is_dir()
    assert command("clean", store, "--delete", "--json").json["deleted"] == []


@pytest.mark.parametrize(
    ("address", "message"),
    [("nowhere", "no product store at"), ("https://host/store", "is read-only")],
)
def test_clean_needs_a_store_that_it_can_list(address, message):
    ended = command("clean", address)
    assert ended.code == 1
    assert message in ended.err


@pytest.mark.parametrize(
    "line",
    [
        "demo",
        "simulate archive --field {field}",
        "pairs --field {field} {day} --catalog {catalog}",
        "cube --field {field} {day} --catalog {catalog}",
        "train cube.zarr --model fusformer",
        "fuse --field {field} {day} --catalog {catalog} --store store --model bicubic",
        "fuse --bbox 26.43,58.3,26.5,58.35 {days} --catalog {catalog} --store store",
    ],
)
def test_dry_run_checks_and_writes_nothing(line, small_recipe, small_catalog, tmp_path):
    values = {
        "field": small_recipe.field,
        "catalog": small_catalog,
        "day": f"--date {DAY}",
        "days": f"--start 2024-07-01 --end {DAY}",
    }
    ended = command(*line.format(**values).split(), "--dry-run", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.json["would write"]
    assert tree(tmp_path) == set()


def test_two_boxes_of_one_day_are_two_fields(small_catalog):
    options = ("--date", DAY, "--catalog", small_catalog, "--store", "store")
    line = ("fuse", *options, "--dry-run", "--json")
    first, second = (
        command(*line, "--bbox", box).json["work"]
        for box in ("26.4,58.3,26.5,58.4", "26.4,58.3,26.6,58.4")
    )
    assert first != second


def test_settings_give_defaults_and_options_win(small_recipe, small_catalog, tmp_path, monkeypatch):
    settings = tmp_path / "settings.toml"
    settings.write_text(f'catalog = "{small_catalog}"\nstore = "from-file"\nmodel = "bicubic"\n')
    area = ("--field", small_recipe.field, "--date", DAY)
    line = ("fuse", *area, "--dry-run", "--json", "--config", settings)
    plan = command(*line).json
    assert plan["would write"] == "from-file"
    assert (plan["model"], plan["catalog"]) == ("bicubic", small_catalog)
    monkeypatch.setenv("SATFUSE_STORE", "from-environment")
    assert command(*line, "--model", "regression").json["would write"] == "from-environment"
    assert command(*line, "--store", "here").json["would write"] == "here"


# --- the entry point ----------------------------------------------------------------------------


def test_the_installed_command(tmp_path):
    program = ENTRY_POINT if ENTRY_POINT.is_file() else shutil.which("satfuse")
    assert program, "the package is not installed"
    env = {**os.environ, "COLUMNS": "80"}
    wrong = subprocess.run(
        [program, "info", "nothing"], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == "error: there is nothing at nothing\n"
    usage = subprocess.run(
        [program, "info", "--nope"], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert usage.returncode == 2
    assert "--nope" in usage.stderr
    assert "Traceback" not in usage.stderr
    assert tree(tmp_path) == set()


def test_python_m_satfuse_is_the_same_program(tmp_path):
    command_line = [sys.executable, "-m", "satfuse", "info", "nothing"]
    done = subprocess.run(command_line, capture_output=True, text=True, cwd=tmp_path, env=PACKAGE)
    assert done.returncode == 1
    assert done.stderr == "error: there is nothing at nothing\n"


def test_help_loads_neither_torch_nor_xarray(tmp_path):
    code = """
import sys
from satfuse.cli import main
try:
    main(["fuse", "--help"])
except SystemExit:
    pass
assert not {"torch", "xarray", "dask"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=PACKAGE)


def test_the_shell_completes_verbs(tmp_path):
    asked = {"_SATFUSE_COMPLETE": "complete_bash", "COMP_WORDS": "satfuse cl", "COMP_CWORD": "1"}
    command_line = [sys.executable, "-m", "satfuse"]
    done = subprocess.run(
        command_line, capture_output=True, text=True, cwd=tmp_path, env=PACKAGE | asked
    )
    assert done.stdout.split() == ["clean"], done.stderr


def test_interrupt_exits_with_130(job, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "find_items", interrupt)
    assert command("search", "sentinel2", *job).code == 130


def test_log_goes_to_stderr_when_asked_for(small_recipe, small_catalog, tmp_path):
    area = ["--field", small_recipe.field, *DAYS, "--catalog", small_catalog]
    line = [ENTRY_POINT, "search", "sentinel2", *area]
    quiet, verbose = (
        subprocess.run([*line, "--json", *more], capture_output=True, text=True, cwd=tmp_path)
        for more in ([], ["-v"])
    )
    assert quiet.stderr == ""
    assert "INFO satfuse.catalog.search" in verbose.stderr
    assert json.loads(quiet.stdout) == json.loads(verbose.stdout)
