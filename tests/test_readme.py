"""Every command of README.md is run, word for word, against imitations of the named services."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest

from tests.command import DAY, command, service
from tests.file_server import FileServer

pytest.importorskip("torch")

import satfuse
from satfuse import pipeline
from satfuse.catalog.fields import catalogs_dir, load_field
from satfuse.geometry.grids import lonlat_bbox
from satfuse.infer import fuse_field
from satfuse.pairing import read_pairs

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What the simulated archive cannot have: fields of 75 and 18 km, an overpass on that day, many
# EnMAP scenes in one box; and the id of a product, which is not known before.
SUBSTITUTED = {
    "algeria-5": "{field}",
    "tartu": "{field}",
    "--date 2024-06-01": f"--date {DAY}",
    "--bbox 9,47,14,52": "",
    "ID": "{id}",
}
# Commands that other tests or CI run for real: the file, and the words to find in it.
RUN_ELSEWHERE = {
    "git clone https://example.org/satfuse && cd satfuse": (".ci/run", "fresh clone"),
    "make demo": (".ci/run", "make demo"),
    "make test": (".ci/run", "make test"),
    "pip install '.[models]'": ("Makefile", "pip install", "'.[all,server,dev]'"),
    "pip install -c constraints.txt '.[all]'": ("Makefile", "-c constraints.txt", "pip install"),
    "prefect server start &": ("tests/flows/conftest.py", '"server", "start"'),
    "bash deploy/deploy.sh": ("tests/flows/test_deploy.py", '"bash", "deploy/deploy.sh"'),
    "prefect worker start --pool satfuse": (
        "tests/flows/test_deploy.py",
        "prefect worker start --pool satfuse",
    ),
}
SETTINGS = """
scheduler = "{scheduler}"
[train]
epochs = 2
threads = 1
tensorboard = false
[train.batches]
patch = 60
size = 4
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", README)


COMMANDS = [line.split(" #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
VERBS = [line for line in COMMANDS if line.startswith("satfuse ")]


@pytest.fixture(scope="module")
def cdse(small_archive, tmp_path_factory):
    """What changes in the catalogue of the Data Space.

    It is a STAC API, and a bucket that requires signed requests.
    """
    buckets = tmp_path_factory.mktemp("s3")
    (buckets / "eodata").symlink_to(small_archive.root)
    with service(small_archive.root) as server, FileServer(buckets, key="key") as files:
        server.move("s3://eodata")
        yield {"url": f"http://{server.host}", "endpoint": files.url}


@pytest.fixture(scope="module")
def dlr(small_archive):
    """What changes in the catalogue of DLR: a STAC API, and a file server with a password."""
    with (
        service(small_archive.root) as server,
        FileServer(small_archive.root, password=("user", "pw")) as files,
    ):
        server.move(files.url)
        yield {"url": f"http://{server.host}", "schemes": ["http"], "hosts": [files.host]}


@pytest.fixture(scope="module")
def world(cdse, dlr, tmp_path_factory):
    """A folder to work in, with changed catalogues `cdse` and `dlr` and settings for short runs."""
    from distributed import LocalCluster

    folder = tmp_path_factory.mktemp("readme")
    (folder / "catalogs").mkdir()
    for name, changes in (("cdse", cdse), ("dlr", dlr)):
        text = (catalogs_dir() / f"{name}.toml").read_text()
        for key, value in {**changes, "requests_per_s": 100}.items():
            text, found = re.subn(rf"(?m)^{key} = .*$", f"{key} = {json.dumps(value)}", text)
            assert found == 1
        (folder / "catalogs" / f"{name}.toml").write_text(text)
    with (
        LocalCluster(
            processes=False,
            n_workers=1,
            threads_per_worker=2,
            dashboard_address=None,
            memory_limit=0,
        ) as dask,
        pytest.MonkeyPatch.context() as patch,
    ):
        (folder / "settings.toml").write_text(SETTINGS.format(scheduler=dask.scheduler_address))
        patch.chdir(folder)
        for name, value in {
            "SATFUSE_CATALOGS": folder / "catalogs",
            "SATFUSE_CONFIG": folder / "settings.toml",
            "SATFUSE_CACHE": folder / "cache",
        }.items():
            patch.setenv(name, str(value))
        patch.delenv("SATFUSE_STORE", raising=False)
        for line in COMMANDS:
            for name, value in re.findall(r"(\w+(?:_KEY|_ID|_USERNAME|_PASSWORD))=(\S+)", line):
                assert value == "..."
                patch.setenv(
                    name, {"ENMAP_USERNAME": "user", "ENMAP_PASSWORD": "pw"}.get(name, "key")
                )
        yield folder


@pytest.fixture(scope="module")
def ran(world, small_recipe):
    """How each verb ended, run in the order of the page; reports are left to `satfuse validate`."""
    ended = {}
    for line in VERBS:
        text = line
        (product,) = [path.stem for path in (world / "fused/items").glob("*.json")] or [""]
        for printed, value in SUBSTITUTED.items():
            text = re.sub(
                rf"(?<!\w){printed}\b", value.format(field=small_recipe.field, id=product), text
            )
        with pytest.MonkeyPatch.context() as patch:
            if line.startswith("satfuse fuse"):
                patch.setattr(pipeline, "validate", lambda _, out, **__: str(out))
            ended[line] = command(*shlex.split(text)[1:])
    return ended


def test_every_command_is_run_here_or_where_it_is_named():
    assert len(VERBS) == 9
    assert not [
        line
        for line in COMMANDS
        if line and line not in VERBS and line not in RUN_ELSEWHERE and "export " not in line
    ]
    for file, *words in RUN_ELSEWHERE.values():
        assert all(word in (ROOT / file).read_text() for word in words), (file, words)


def test_what_is_installed_exported_and_named_is_known():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    named = re.findall(r"'\.\[(.*?)\]'", "\n".join(COMMANDS))
    assert named
    assert set(",".join(named).split(",")) <= set(extras)
    assert (ROOT / "constraints.txt").is_file()
    sources = [
        p
        for kind in ("satfuse/**/*.py", "catalogs/*.toml", "deploy/*.yaml")
        for p in ROOT.glob(kind)
    ]
    code = "\n".join(p.read_text() for p in sources)
    exported = re.findall(
        r"\b(\w+)=", "\n".join(line for line in COMMANDS if line.startswith("export "))
    )
    assert len(exported) == 7
    assert not [name for name in exported if name not in code]
    services = {path.stem for path in (ROOT / "catalogs").glob("*.toml")} - {"local"}
    assert services == set(
        re.findall(r"`([\w-]+)`", README.split("Services are")[1].split("--catalog")[0])
    )


@pytest.mark.parametrize("line", VERBS)
def test_command(line, ran):
    assert (ran[line].code, ran[line].out != "") == (0, True), ran[line].err


@pytest.mark.parametrize(
    "line", [line for line in VERBS if line.split()[1] in ("pairs", "cube", "train", "fuse")]
)
@pytest.mark.usefixtures("ran")
def test_what_was_substituted_is_right_too(line):
    """The line as it is printed, up to the first request: its own field, box and day."""
    ended = command(*shlex.split(line)[1:], "--dry-run")
    assert ended.code == 0, ended.err
    assert "would write" in ended.out


def test_the_commands_wrote_what_they_say(ran, world):
    assert (world / "pairs.parquet").is_file()
    assert (world / "cube.zarr/scenes").is_dir()
    card = json.loads((world / "checkpoint/card.json").read_text())
    (item,) = [json.loads(p.read_text()) for p in (world / "fused/items").glob("*.json")]
    assert card["model"] == "spectral"
    assert item["properties"]["satfuse:model"].startswith("spectral")
    assert (world / "report" / item["id"] / "index.html").is_file()
    search = next(ended.out for line, ended in ran.items() if line.startswith("satfuse search"))
    assert search.count("S3A_SY_2_SYN") + search.count("S3B_SY_2_SYN") == 3


@pytest.mark.usefixtures("ran", "world")
def test_the_python_of_the_page():
    """Both examples run; the product of `make demo` is replaced by one of the pair found above."""
    (pair,) = read_pairs("pairs.parquet")
    fuse_field(
        pair,
        store="demo-out/store",
        scheduler=tomllib.loads(Path("settings.toml").read_text())["scheduler"],
    )
    opened, fused = blocks("python")
    names = {}
    exec(compile(opened, "README.md", "exec"), names)
    assert names["fused"].reflectance.dims == ("time", "band", "y", "x")
    assert names["fused"].sizes["band"] == 21
    shown = names["fused"].reflectance.sel(band="Oa12")
    assert shown.dims == ("time", "y", "x")
    assert shown.chunks
    assert float(shown.wavelength_nm) == 753.75
    assert names["fused"].uncertainty.sel(band="Oa12").dims == shown.dims
    guide, coarse = arrays()
    names |= {"satfuse": satfuse, "guide": guide, "coarse": coarse}
    exec(compile(fused, "README.md", "exec"), names)
    assert names["fused"].reflectance.dims == ("band", "y", "x")
    assert names["fused"].reflectance.shape == (2, 120, 120)
    assert np.isfinite(names["fused"].reflectance).all()


def arrays():
    """Two images that a user could have."""
    import xarray as xr

    rng = np.random.default_rng(0)

    def image(bands, step):
        axis = np.arange(600000 + step / 2, 601200, step)
        values = rng.uniform(0.02, 0.4, (len(bands), len(axis), len(axis)))
        coords = {"band": bands, "y": axis[::-1] + 5e6, "x": axis}
        return xr.DataArray(
            values, dims=("band", "y", "x"), coords=coords, attrs={"crs": "EPSG:32631"}
        )

    return image(["B02", "B04", "B08"], 10), image(["Oa04", "Oa17"], 300)


def test_the_box_of_the_page_is_the_one_that_the_demo_prints():
    west, south, east, north = lonlat_bbox(load_field("tartu").geobox)
    box = ", ".join(f"{v:.3f}" for v in (west + 0.01, south + 0.01, east - 0.01, north - 0.01))
    assert f"({box})" in README


def test_the_product_is_shown_before_it_is_explained():
    """Image and code come before the first heading, and the page links only to what exists."""
    top = README.split("\n## ")[0]
    assert "](docs/img/demo.png)" in top
    assert "open_fused" in top
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 5
    assert not [link for link in links if not (ROOT / link).exists()]
