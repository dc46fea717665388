"""Every verb of the command line, end to end on the small archive."""

import json
import os
import re
import shlex
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
import typer
from command import CLOUDY_DAY, DAY, ENTRY_POINT, command, tree

pytest.importorskip("torch")

import satfuse
from satfuse import pipeline
from satfuse.cli import app
from satfuse.pairing import read_pairs
from satfuse.sensors.bands import S3_NAMES
from satfuse.simulate import archive as archive_module

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
)
DAYS = ("--start", DAY, "--end", CLOUDY_DAY)
TRAIN = (
    "[train]\nepochs = 1\nthreads = 1\ntensorboard = false\n[train.batches]\npatch = 60\nsize = 4\n"
)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Commands run in an empty folder and see no settings but their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("SATFUSE_STORE", "SATFUSE_CONFIG", "SATFUSE_CATALOGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def job(small_recipe, small_catalog):
    """Options of a search over the small archive."""
    return ("--field", small_recipe.field, *DAYS, "--catalog", small_catalog)


@pytest.fixture(scope="module")
def checkpoint(small_recipe, small_catalog, tmp_path_factory):
    """Cube and checkpoint that the verbs `cube` and `train` made, and what they said."""
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
    """What `satfuse fuse` of the trained network said, without its report."""
    folder = tmp_path_factory.mktemp("product")
    validated = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pipeline, "validate", lambda item, out, again: validated.append(item) or str(out)
        )
        ended = command(
            "fuse", "--field", small_recipe.field, "--date", DAY, "--catalog", small_catalog, "--store",
            folder / "store", "--model", checkpoint[0] / "checkpoint", "--scheduler", scheduler, "--work",
            folder / "work", "--json",
        )  # fmt: skip
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
    assert ended.code == 0 and example
    arguments = shlex.split(example[1])[2:]
    assert arguments
    parser = typer.main.get_command(app).commands[verb]
    parsed = parser.make_context(verb, arguments).params
    given = {p.name for p in parser.params for a in arguments if a in p.opts}
    assert all(parsed[name] is not None for name in given)


def test_options_that_verbs_share_keep_one_name():
    verbs = typer.main.get_command(app).commands
    named = {
        verb: {o for p in c.params if p.param_type_name == "option" for o in p.opts}
        for verb, c in verbs.items()
    }
    places = {
        "--field",
        "--bbox",
        "--date",
        "--start",
        "--end",
        "--catalog",
        "--config",
        "-v",
        "--json",
    }
    assert all(places <= named[verb] for verb in ("search", "pairs", "cube", "fuse"))
    assert named["fuse"] >= {"--store", "--model", "--scheduler", "--dry-run"}
    assert all({"--json", "-v"} <= options for options in named.values())
    assert all("--dry-run" in named[verb] for verb in VERBS if verb not in ("search", "info"))


def test_the_production_job_is_one_line(monkeypatch):
    """The line of the documentation, up to the credentials that it then asks for."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    line = "fuse --field algeria-5 --date 2024-06-01 --catalog cdse --store s3://bucket/fused"
    assert "AWS_ACCESS_KEY_ID" in command(*line.split()).err
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    ended = command(*line.split(), "--dry-run", "--json")
    assert ended.code == 0 and ended.json["would write"] == "s3://bucket/fused"
    assert Path(ended.json["work"]).name == "algeria-5_2024-06-01_2024-06-01"


# --- verbs --------------------------------------------------------------------------------------


def test_demo_prints_json_alone_on_stdout(monkeypatch, tmp_path):
    def run_demo(out):
        print("tables for people")
        return {"network": {"rmse": 0.01, "out": str(out)}}

    monkeypatch.setattr("satfuse.demo.run_demo", run_demo)
    ended = command("demo", "--out", tmp_path / "demo", "--json")
    assert ended.json == {"network": {"rmse": 0.01, "out": str(tmp_path / "demo")}}
    assert ended.err == "tables for people\n"
    assert command("demo").out == "tables for people\n"


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
    assert ended.code == 0 and ended.json["pixels"] == [120, 120]
    made = json.loads((tmp_path / "archive/archive.json").read_text())["recipe"]
    assert (made["seed"], made["gap_s"]) == (3, 90)
    assert (tmp_path / "archive/truth.zarr/zarr.json").is_file()


def test_search(job):
    found = command("search", "sentinel3_syn", *job, "--json")
    assert found.code == 0 and found.err == ""
    ids = [row["id"] for row in found.json]
    assert len(ids) == 3 and not any("_O_ST_" in i for i in ids)  # the STC duplicate is gone
    people = command("search", "sentinel3_syn", *job)
    assert all(i in people.out for i in ids)
    assert command("search", "sentinel2", *job[:-1], f"{job[-1]},cdse", "--json").code == 0
    assert command("search", "enmap", "--bbox", "-1,0,0,1", *job[2:], "--json").json == []


def test_pairs(job, tmp_path):
    ended = command("pairs", *job, "--json")
    (row,) = ended.json
    assert ended.code == 0 and ended.err == "written: pairs.parquet\n"
    assert row["gap_s"] == pytest.approx(180, abs=1) and abs(row["item_gap_s"] - row["gap_s"]) > 200
    assert {
        "guide_cloud",
        "coarse_cloud",
        "overlap",
        "coarse_view_zenith_deg",
        "guide_sun_zenith_deg",
    } <= set(row)
    assert [p.id for p in read_pairs(tmp_path / "pairs.parquet")] == [row["id"]]
    about = command("info", "pairs.parquet")
    assert "table of pairs" in about.out and "+180.0" in about.out and "gap s" in about.out
    assert command("cube", "--pairs", "pairs.parquet", "--dry-run", "--json").json["pairs"] == [
        row["id"]
    ]


def test_cube_and_train(checkpoint):
    folder, made, trained = checkpoint
    assert made == {"cube": str(folder / "cube.zarr")}
    assert (
        trained["checkpoint"] == str(folder / "checkpoint") and trained["metrics"]["val_rmse"] > 0
    )
    cube = command("info", folder / "cube.zarr", "--json").json
    assert cube["kind"] == "training cube (enmap)" and len(cube["scenes"]) == 3
    assert cube["missing_bands"] == ["Oa01", "Oa02"]
    card = command("info", folder / "checkpoint", "--json").json
    assert (card["kind"], card["model"]) == ("checkpoint", "spectral")
    assert card["coarse_bands"] == cube["coarse_bands"]
    assert "val_rmse: " in command("info", folder / "checkpoint").out


def test_fuse(product, small_archive, small_recipe):
    folder, said = product
    (item,) = said["products"]
    west, south, east, north = json.loads(Path(item).read_text())["bbox"]
    data = satfuse.open_fused((west, south, east, north), DAY, store=folder / "store")
    assert data.reflectance.shape == (1, 21, 540, 540)
    fused = command("info", item, "--json").json
    assert fused["kind"] == "product" and fused["bands"] == list(S3_NAMES)
    assert fused["model"].startswith("spectral") and len(fused["model_sha256"]) == 64
    group = Path(item).parent / fused["data"]
    assert (
        command("info", group.resolve(), "--json").json["reflectance"] == "int16 (1, 21, 540, 540)"
    )
    assert command("info", folder / "store", "--json").json["count"] == 1
    assert (folder / "work").iterdir().__next__().name == f"small_{DAY}_{DAY}"


def test_validate(product, tmp_path):
    item = product[1]["products"][0]
    planned = command("validate", item, "--out", "report", "--dry-run", "--json")
    assert planned.code == 0 and not (tmp_path / "report").exists()
    ended = command("validate", item, "--out", "report", "--json")
    assert ended.json["report"] == planned.json["would write"]
    report = tmp_path / ended.json["report"]
    assert {"metrics.json", "index.html", "quicklook.png"} <= tree(report)


def test_report(product, scheduler, tmp_path):
    """One product and the same weights at 30 m, in one command."""
    item = product[1]["products"][0]
    planned = command("report", item, "--also-at", 30, "--out", "comparison", "--dry-run", "--json")
    assert planned.json["would write"] == "comparison" and not (tmp_path / "comparison").exists()
    line = (
        "report",
        item,
        "--also-at",
        30,
        "--scheduler",
        scheduler,
        "--out",
        "comparison",
        "--json",
    )
    assert command(*line).json == {"report": "comparison"}
    found = json.loads((tmp_path / "comparison/metrics.json").read_text())
    assert [(p["letter"], p["pixel_m"], p["ratio"]) for p in found["products"]] == [
        ("A", 10, 30),
        ("B", 30, 10),
    ]
    first, second = (p["model_sha256"] for p in found["products"])
    assert first == second != ""
    (pair,) = found["pairs"]
    assert (pair["kind"], pair["factor"], pair["large"], pair["small"]) == (
        "two pixel sizes",
        3,
        "B",
        "A",
    )
    assert 0 < pair["rmse"] < 0.05 and pair["guide_rmse"] < 1e-6
    alone = command("report", item)
    assert alone.code == 1 and "for one: satfuse validate" in alone.err
    odd = command("report", item, "--also-at", 25)
    assert odd.code == 1 and "25 m do not nest" in odd.err


@pytest.mark.parametrize(
    "line",
    [
        "demo", "simulate archive --field {field}", "pairs --field {field} --date 2024-07-04 --catalog {catalog}",
        "cube --field {field} --date 2024-07-04 --catalog {catalog}", "train cube.zarr --model fusformer",
        "fuse --field {field} --date 2024-07-04 --catalog {catalog} --store store --model bicubic",
        "fuse --bbox 26.43,58.3,26.5,58.35 --start 2024-07-01 --end 2024-07-04 --catalog {catalog} --store store",
    ],
)  # fmt: skip
def test_dry_run_checks_and_writes_nothing(line, small_recipe, small_catalog, tmp_path):
    ended = command(
        *line.format(field=small_recipe.field, catalog=small_catalog).split(), "--dry-run", "--json"
    )
    assert (ended.code, ended.err) == (0, "")
    assert ended.json["would write"]
    assert tree(tmp_path) == set()


def test_two_boxes_of_one_day_are_two_fields(small_catalog):
    line = (
        "fuse",
        "--date",
        DAY,
        "--catalog",
        small_catalog,
        "--store",
        "store",
        "--dry-run",
        "--json",
    )
    first, second = (
        command(*line, "--bbox", box).json["work"]
        for box in ("26.4,58.3,26.5,58.4", "26.4,58.3,26.6,58.4")
    )
    assert first != second


def test_settings_give_defaults_and_options_win(small_recipe, small_catalog, tmp_path, monkeypatch):
    settings = tmp_path / "settings.toml"
    settings.write_text(f'catalog = "{small_catalog}"\nstore = "from-file"\nmodel = "bicubic"\n')
    line = (
        "fuse",
        "--field",
        small_recipe.field,
        "--date",
        DAY,
        "--dry-run",
        "--json",
        "--config",
        settings,
    )
    said = command(*line).json
    assert (said["would write"], said["model"], said["catalog"]) == (
        "from-file",
        "bicubic",
        small_catalog,
    )
    monkeypatch.setenv("SATFUSE_STORE", "from-environment")
    assert command(*line, "--model", "regression").json["would write"] == "from-environment"
    assert command(*line, "--store", "here").json["would write"] == "here"


# --- the entry point
# -----------------------------------------------------------------------------------------------


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
    assert usage.returncode == 2 and "--nope" in usage.stderr and "Traceback" not in usage.stderr
    assert tree(tmp_path) == set()


def test_interrupt_exits_with_130(job, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "find_items", interrupt)
    assert command("search", "sentinel2", *job).code == 130


def test_log_goes_to_stderr_when_asked_for(small_recipe, small_catalog, tmp_path):
    line = [
        ENTRY_POINT,
        "search",
        "sentinel2",
        "--field",
        small_recipe.field,
        *DAYS,
        "--catalog",
        small_catalog,
    ]
    quiet, told = (
        subprocess.run([*line, "--json", *more], capture_output=True, text=True, cwd=tmp_path)
        for more in ([], ["-v"])
    )
    assert quiet.stderr == "" and "INFO satfuse.catalog.search" in told.stderr
    assert json.loads(quiet.stdout) == json.loads(told.stdout)
