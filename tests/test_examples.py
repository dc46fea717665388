"""The recipes of CONTRIBUTING.md: code in examples/, commands, and their output."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tests import cube_scenes
from tests.command import command

torch = pytest.importorskip("torch")
pytest.importorskip("xbatcher", reason="the benchmark and training need the train extra")
pytestmark = pytest.mark.torch

import rasterio
from affine import Affine

from benchmarks.quality.scenes import Case, make_scene
from examples import compare_models, use_my_reader
from examples.my_model import NearestBand
from examples.my_network import LinearDetail
from examples.my_reader import BANDS, MASK, open_landsat
from satfuse import cube, models
from satfuse.catalog.specs import SENSORS, load_catalog
from satfuse.errors import ReadError
from satfuse.models.interface import FusionModel
from satfuse.sensors.bands import S3_NAMES
from satfuse.sensors.quality import Quality

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?ms)^( *)```(\w+)\n(.*?)^\1```$")
BLOCKS = [(m[2], textwrap.dedent(m[3]).rstrip()) for m in BLOCK.finditer(TEXT)]
COMMANDS = [
    line.split(" #")[0].strip()
    for language, text in BLOCKS
    if language == "sh"
    for line in text.splitlines()
]
# Commands that other tests or CI run: the file, and the words to find in it.
RUN_ELSEWHERE = {
    "git clone https://example.org/satfuse && cd satfuse": (".ci/run", "fresh clone"),
    "make install": ("Makefile", "demo: install"),
    ". .venv/bin/activate": ("Makefile", "$(VENV)/bin/python"),
    "make test": (".ci/run", "make test"),
    "pip install pre-commit && pre-commit install": (
        ".github/workflows/ci.yml",
        "pip install pre-commit",
    ),
    "rustac serve --addr 127.0.0.1:7822 archive/collections/*.json archive/items/*.json &": (
        "satfuse/simulate/archive/server.py",
        '"serve", "--addr"',
    ),
}
HERE = ("python -m ", "satfuse ", "export ")
SETTINGS = """
[train]
epochs = 4
threads = 1
tensorboard = false
[train.batches]
patch = 40
size = 4
"""


def blocks(language, containing):
    return [text for kind, text in BLOCKS if kind == language and containing in text]


def printed_after(command_line):
    """The output that the page shows below a command."""
    index = next(i for i, (_, text) in enumerate(BLOCKS) if command_line in text)
    language, text = BLOCKS[index + 1]
    assert language == "text"
    return text


def commands(start):
    lines = [line for line in COMMANDS if line.startswith(start)]
    assert lines, f"CONTRIBUTING.md has no command that starts with {start!r}"
    return lines


def test_every_command_is_run_here_or_where_it_is_named():
    assert len(COMMANDS) > 10
    assert not [c for c in COMMANDS if c not in RUN_ELSEWHERE and not c.startswith(HERE)]
    for file, *words in RUN_ELSEWHERE.values():
        text = (ROOT / file).read_text()
        assert all(word in text for word in words), (file, words)


def test_links_lead_somewhere():
    for page in ("CONTRIBUTING.md", "SECURITY.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())
        assert not [link for link in links if not (ROOT / link).exists()]
    named = re.findall(r"`((?:tests|satfuse|docs|deploy|benchmarks)/[\w./-]+)`", TEXT)
    assert named
    assert not [path for path in named if not (ROOT / path).exists() and "nearest_band" not in path]


# --- recipe 1: a model --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene():
    return make_scene(Case(place="crop", ratio=10, protocol="clean", seed=0), 120)


@pytest.fixture
def registered(monkeypatch):
    """The models under the names that the page gives them."""
    (entry,) = blocks("python", '": NearestBand')
    table = eval("{" + entry + "}", {"NearestBand": NearestBand})
    for name, kind in {**table, LinearDetail.name: LinearDetail}.items():
        assert kind.name == name
        monkeypatch.setitem(models.MODELS, name, kind)


def test_the_model_fuses_two_arrays(scene):
    (code,) = blocks("python", "import satfuse")
    names = {"guide": scene.guide, "coarse": scene.coarse}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    fused = names["fused"]
    assert fused.attrs["model"] == "nearest_band"
    assert tuple(fused.band.values) == S3_NAMES
    assert np.isfinite(fused.reflectance).all()
    # Oa08 at 665 nm is B04, scaled
    ratio = fused.reflectance.sel(band="Oa08") / scene.guide.sel(band="B04")
    assert float(ratio.std()) < 1e-5
    mean = fused.reflectance.mean(("y", "x")) / scene.coarse.mean(("y", "x"))
    np.testing.assert_allclose(mean, 1, atol=0.05)


def test_its_error_is_the_printed_one(capsys):
    assert "python -m examples.compare_models" in COMMANDS
    compare_models.main()
    assert capsys.readouterr().out.rstrip() == printed_after("python -m examples.compare_models")


def test_under_a_name_it_passes_the_tests_of_all_models(tmp_path):
    """Step 3 as it is written, in a copy of the repository."""
    for name in ("satfuse", "tests", "benchmarks", "catalogs", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "examples/my_model.py", tmp_path / "satfuse/models/nearest_band.py")
    (entry,) = blocks("python", '": NearestBand')
    table = tmp_path / "satfuse/models/__init__.py"
    text = table.read_text()
    opening = re.search(r"^MODELS.* = \{\n", text, re.M)[0]
    line = "from satfuse.models.nearest_band import NearestBand\n"
    table.write_text(text.replace(opening, f"{line}\n{opening}    {entry}\n"))
    names = tmp_path / "satfuse/model_names.py"
    names.write_text(
        names.read_text().replace("    DEFAULT,\n", '    DEFAULT,\n    "nearest_band",\n')
    )
    (printed,) = commands("python -m pytest")
    own = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "OMP_"))}
    ended = subprocess.run(
        [sys.executable, *shlex.split(printed)[1:], "-n", "0"],
        cwd=tmp_path,
        env=own | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]
    assert int(re.search(r"(\d+) passed", ended.stdout)[1]) > 4


def test_it_takes_part_in_the_benchmark(registered, monkeypatch, scene, tmp_path):
    from benchmarks.quality import methods

    (entry,) = blocks("python", '": Method(')
    for name, method in eval("{" + entry + "}", {"Method": methods.Method}).items():
        monkeypatch.setitem(methods.METHODS, name, method)
    (printed,) = commands("python -m benchmarks.quality")
    assert "nearest_band" in printed
    outcome = methods.run("nearest_band", scene, tmp_path, methods.Budget())
    assert outcome.image.shape == scene.target.shape
    assert np.sqrt(np.mean((outcome.image - scene.target) ** 2)) < 0.05


def test_the_network_is_trained_on_a_cube(registered, monkeypatch, tmp_path):
    spectra = {f"s{i}": cube_scenes.enmap_scene(i, 120, lon=6 + i) for i in range(4)}
    split = {"s0": "train", "s1": "train", "s2": "val", "s3": "test"}
    cube.build(spectra, tmp_path / "demo-out/work/cube.zarr", split=split)
    (tmp_path / "settings.toml").write_text(SETTINGS)
    monkeypatch.setenv("SATFUSE_CONFIG", str(tmp_path / "settings.toml"))
    monkeypatch.chdir(tmp_path)
    for line in (*commands("satfuse train"), *commands("satfuse info")):
        ended = command(*shlex.split(line)[1:], "--json")
        assert ended.code == 0, ended.err
    assert ended.json["model"] == "linear_detail"
    metrics = ended.json["metrics"]
    assert metrics["test_rmse"] < 0.8 * metrics["test_rmse_bicubic"]
    assert metrics["test_rmse_untrained"] == pytest.approx(metrics["test_rmse_bicubic"])


@pytest.mark.parametrize("kind", [NearestBand, LinearDetail])
def test_examples_define_what_they_must_and_no_more(kind):
    """A template with leftovers would be copied with them."""
    own = {name for name in vars(kind) if not name.startswith("_")} - {"name", "needs_weights"}
    assert own <= set(vars(FusionModel))


# --- recipe 2: a catalogue ----------------------------------------------------------------------


@pytest.fixture
def served(small_archive, small_catalog, tmp_path, monkeypatch):
    """The working directory of the recipe, with its own port instead of 7822."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "archive").symlink_to(small_archive.root)
    path = tmp_path / "examples/my_catalogue.toml"
    url = load_catalog(small_catalog).url
    text, count = re.subn(r"http://127\.0\.0\.1:7822", url, path.read_text())
    assert count == 1
    path.write_text(text)
    monkeypatch.chdir(tmp_path)
    for line in commands("export "):
        name, value = line.removeprefix("export ").split("=")
        monkeypatch.setenv(name, value.replace("$PWD", str(tmp_path)))
    monkeypatch.setenv("SATFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))


def test_the_catalogue_is_found_by_its_name(monkeypatch):
    monkeypatch.setenv("SATFUSE_CATALOGS", str(ROOT / "examples"))
    spec = load_catalog("my_catalogue")
    assert spec.name == "my_catalogue"
    assert spec.root == str(Path("archive").resolve())
    shipped = load_catalog("local")
    for sensor in spec.collections:
        assert spec.collections[sensor] == shipped.collections[sensor]
        assert spec.assets[sensor] == shipped.assets[sensor]


def test_the_catalogue_is_searched_and_its_files_are_paired(served):
    (search,) = commands("satfuse search")
    ended = command(*shlex.split(search)[1:])
    assert ended.code == 0, ended.err
    for tile in re.findall(r"T\d\d\w{3}", TEXT):
        assert f"_{tile}_" in ended.out
    (pairs,) = commands("satfuse pairs")
    ended = command(*shlex.split(pairs)[1:], "--json")
    assert ended.code == 0, ended.err
    (row,) = ended.json["pairs"] if isinstance(ended.json, dict) else ended.json
    assert row["gap_s"] == pytest.approx(180, abs=1)
    assert row["item_gap_s"] > 600
    assert Path("pairs.parquet").is_file()


@pytest.mark.parametrize("verb", ["simulate", "fuse"])
def test_the_long_commands_are_right_up_to_the_first_request(served, verb):
    (line,) = commands(f"satfuse {verb}")
    ended = command(*shlex.split(line)[1:], "--dry-run")
    assert ended.code == 0, ended.err
    assert "would write" in ended.out


# --- recipe 3: a reader -------------------------------------------------------------------------


@pytest.fixture
def product(tmp_path):
    """Three by two pixels of every file; the first is fill, the second under cloud and shadow."""
    numbers = np.array([[0, 10000, 20000], [7000, 9000, 11000]], np.uint16)
    mask = np.array([[1, 1 << 3 | 1 << 4, 1 << 6], [1 << 5, 1 << 1, 1 << 6]], np.uint16)
    for asset in (*BANDS, MASK):
        profile = {"driver": "GTiff", "width": 3, "height": 2, "count": 1, "dtype": "uint16"}
        grid = {"crs": "EPSG:32633", "transform": Affine(30, 0, 4e5, 0, -30, 5e6)}
        with rasterio.open(tmp_path / f"LC08_{asset}.TIF", "w", **profile, **grid) as raster:
            raster.write(mask if asset == MASK else numbers, 1)
    return tmp_path


def test_the_reader_returns_what_every_reader_returns(product):
    data = open_landsat(product)
    assert data.reflectance.dims == ("band", "y", "x")
    assert data.reflectance.dtype == np.float32
    assert data.reflectance.chunks, "lazy"
    assert data.valid.dtype == bool
    assert data.quality.dtype == np.uint16
    assert data.odc.crs == "EPSG:32633"
    assert list(data.band.values) == list(BANDS.values())
    assert [entry.status for entry in data.attrs["ledger"]] == ["read"] * 8
    expected = np.array([[np.nan, 0.075, 0.35], [-0.0075, 0.0475, 0.1025]], np.float32)
    for band in data.band.values:
        np.testing.assert_allclose(data.reflectance.sel(band=band), expected, atol=1e-7)
    np.testing.assert_array_equal(data.valid, [[False, False, True], [True, False, True]])
    cloud_and_shadow = Quality.GUIDE_CLOUD | Quality.GUIDE_SHADOW
    flags = [[Quality.GUIDE_MISSING, cloud_and_shadow, 0], [Quality.SNOW, Quality.GUIDE_CLOUD, 0]]
    np.testing.assert_array_equal(data.quality, np.array(flags, np.uint16))


def test_a_missing_file_is_named_or_flagged(product):
    (product / "LC08_SR_B4.TIF").unlink()
    with pytest.raises(ReadError, match=r"0 files end with _SR_B4\.TIF"):
        open_landsat(product)
    data = open_landsat(product, missing="flag")
    assert data.reflectance.sel(band="B04").isnull().all()
    assert data.reflectance.sel(band="B03").notnull().sum() == 5
    assert (data.quality & np.uint16(Quality.ASSET_MISSING) > 0).all()
    (hole,) = [entry for entry in data.attrs["ledger"] if entry.status == "missing"]
    assert hole.asset == "SR_B4"


def test_a_damaged_file_is_named(product):
    path = product / "LC08_SR_B2.TIF"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ReadError, match="SR_B2"):
        open_landsat(product)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ReadError, match="holds no Landsat product"):
        open_landsat(tmp_path, missing="flag")


def test_the_reader_is_used_as_printed(capsys):
    assert "python -m examples.use_my_reader" in COMMANDS
    use_my_reader.main()
    assert capsys.readouterr().out.rstrip() == printed_after("python -m examples.use_my_reader")


def test_the_table_names_every_file_that_names_a_sensor():
    table = TEXT.split("| file in `satfuse/` |")[1].split("\n\n")[0]
    listed = set(re.findall(r"`([\w/.]+\.\w+)`", table))
    literal = re.compile("|".join(f'"{sensor}"' for sensor in SENSORS))
    found = {
        str(path.relative_to(ROOT / "satfuse"))
        for path in (ROOT / "satfuse").rglob("*.py")
        if literal.search(path.read_text())
    }
    assert {name for name in found if not name.startswith("simulate/")} <= listed
    assert not [name for name in listed if not (ROOT / "satfuse" / name).is_file()]
