"""Every kind of bad input, through the command or the public call: one line that names the culprit, nothing left."""

import errno
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests.command import CLOUDY_DAY, DAY, Service, command, service, tree
from tests.product_store import publish_flat

pytest.importorskip("torch")

import torch
from odc.geo.xr import xr_coords

import satfuse
from satfuse import checkpoint, cluster, models, pipeline
from satfuse.errors import BandError, GridError, SatfuseError
from satfuse.geometry.grids import coarse_geobox, lonlat_bbox, snap_geobox
from satfuse.product.store import Store
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.quality import Quality

pytestmark = pytest.mark.torch

LOGIN = "<!DOCTYPE html><html><body>Please log in</body></html>"
BOX = snap_geobox("EPSG:32635", 466200, 6461400, 467100, 6462300)


@dataclass(frozen=True)
class Place:
    """Where the commands of this module run, and what they may name."""

    folder: Path
    field: str
    stac: Service
    catalog: str
    broken: Path
    scheduler: str

    def fuse(self, text="", **changes) -> list[str]:
        """A `satfuse fuse` that would work, but for the changes and what is added."""
        options = {
            "field": self.field,
            "date": DAY,
            "catalog": self.catalog,
            "store": "store",
        } | changes
        given = [
            word for name, value in options.items() if value for word in (f"--{name}", str(value))
        ]
        return ["fuse", *given, *text.split()]


@pytest.fixture
def place(small_recipe, small_archive, tmp_path, monkeypatch, scheduler):
    """An empty folder, and a service of a copy of the small archive that may be damaged."""
    broken = tmp_path / "archive"
    shutil.copytree(small_archive.root, broken, copy_function=os.link)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "settings"))  # not a trace of the command
    monkeypatch.setenv("SATFUSE_CACHE", str(tmp_path / "cache"))
    for name in (
        "SATFUSE_STORE",
        "SATFUSE_CONFIG",
        "SATFUSE_CATALOGS",
        "AWS_ACCESS_KEY_ID",
        "AWS_PROFILE",
    ):
        monkeypatch.delenv(name, raising=False)
    with service(small_archive.root) as stac:
        stac.move(broken)
        catalog = stac.catalog(tmp_path / "local.toml", broken)
        yield Place(tmp_path / "here", small_recipe.field, stac, str(catalog), broken, scheduler)


def refused(place, arguments, match) -> str:
    """Run a command that must fail with one line, and leave no product, no report and no checkpoint."""
    ended = command(*arguments)
    lines = ended.err.splitlines()
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.startswith("error: ")
    assert re.search(match, ended.err, re.S), ended.err
    assert all(
        line.startswith("  ") for line in lines[1:]
    )  # nearest candidates, where no pair passes
    left = tree(place.folder)
    assert not [
        p for p in left if re.search(r"(^|/)(items|reports|report|checkpoint)(/|$)|partial", p)
    ], left
    return ended.err


# --- refused before anything is asked of a service or written
# ------------------------------------------------------


def settings(text):
    def arguments(place):
        (place.broken.parent / "s.toml").write_text(text)
        return place.fuse(config=place.broken.parent / "s.toml")

    return arguments


def with_checkpoint(damage=None, guide_bands=S2_NAMES):
    def arguments(place):
        folder = place.broken.parent / "weights"
        torch.manual_seed(0)
        model = models.create("spectral", guide_bands=guide_bands, coarse_bands=S3_NAMES, ratio=30)
        checkpoint.save(model, folder, {})
        if damage:
            weights = folder / "model.safetensors"
            weights.write_bytes(damage(weights.read_bytes()))
        return place.fuse(model=folder)

    return arguments


def in_a_file(place):
    (place.broken.parent / "file").write_text("")
    return place.fuse(store=place.broken.parent / "file" / "store")


def train(text):
    def arguments(place):
        (place.broken.parent / "s.toml").write_text(text)
        return ["train", "cube.zarr", "--config", str(place.broken.parent / "s.toml")]

    return arguments


def box(text):
    return lambda place: place.fuse(field=None, bbox=text)


def on(day):
    return lambda place: place.fuse(date=day)


EARLY = {
    "unknown field": (lambda p: p.fuse(field="atlantis"), r"unknown field 'atlantis'; known: algeria-5"),
    "unknown catalogue": (lambda p: p.fuse(catalog="nasa"), r"unknown catalogue 'nasa'; known: cdse"),
    "catalogue without sensor": (lambda p: p.fuse(catalog="dlr"), "catalogue dlr has no sentinel2"),
    "unknown model": (lambda p: p.fuse(model="unet"), "no checkpoint at unet.*: bayesian .*bicubic, regression"),
    "untrained model": (lambda p: p.fuse(model="fusformer"), "fusformer needs trained weights"),
    "unknown trained model": (train('[train]\nmodel = "unet"'), "'unet' is unknown.*known: .*spectral, fusformer"),
    "unknown config key": (settings('stroe = "x"'), r"s\.toml: unknown key 'stroe'; known: store"),
    "unknown rule": (settings("[rules]\ngap = 5"), r"s\.toml \[rules\]: unknown key 'gap'; known: maximum_"),
    "unknown train key": (train("[train]\nepoch = 5"), "training: unknown key 'epoch'; known: model"),
    "train value of a wrong type": (train('[train]\nepochs = "many"'), "training: epochs = 'many' must be a whole"),
    "train value not finite": (train("[train]\nlearning_rate = nan"), "training: learning_rate = nan must be pos"),
    "batch value of a wrong type": (train('[train.batches]\nsize = "x"'), r"training: batches\.size = 'x' must"),
    "unknown batch key": (train("[train.batches]\nsiez = 5"), r"training: unknown key 'batches\.siez'"),
    "settings file missing": (lambda p: p.fuse(config="none.toml"), r"settings file none\.toml does not exist"),
    "settings not TOML": (settings("store = "), r"s\.toml is not valid TOML"),
    "no area": (lambda p: p.fuse(field=None), "exactly one of --field NAME and --bbox W,S,E,N"),
    "empty area": (lambda p: ["pairs", "--field", "", "--date", DAY], "exactly one of --field NAME and --bbox W,S,E,N"),
    "bbox upside down": (box("26,59,27,58"), r"reversed or empty: south 59\.0 must be below north 58\.0"),
    "bbox reversed": (box("27,58,26,59"), r"west 27\.0 must be below east 26\.0"),
    "bbox outside the world": (box("26,58,27,95"), "outside the world"),
    "bbox across the antimeridian": (box("179,58,-179,59"), "split a box across 180 degrees into two"),
    "bbox not finite": (box("nan,58,27,59"), "not finite"),
    "bbox not numbers": (box("a,b,c"), "not four numbers W,S,E,N"),
    "date in the future": (on("2999-01-01"), "2999-01-01 is in the future"),
    "date malformed": (on("01.06.2024"), "is not a date .*; write 2024-06-01"),
    "dates reversed": (lambda p: p.fuse(f"--start {CLOUDY_DAY} --end {DAY}", date=None), "dates are reversed"),
    "no date": (lambda p: p.fuse(date=None), "name the days by --date"),
    "no S3 keys": (lambda p: p.fuse(catalog="cdse"), "cdse needs S3 keys: set AWS_ACCESS_KEY_ID"),
    "no account": (lambda p: ["cube", "--date", DAY, "--catalog", "dlr"], "dlr needs an account: set ENMAP_USERNAME"),
    "checkpoint of other bands": (with_checkpoint(guide_bands=S2_NAMES[:4]), "guide bands B01, B02, B03, B04; requ"),
    "checkpoint of another hash": (with_checkpoint(lambda w: w[:-1] + bytes([w[-1] ^ 1])), "weights were changed"),
    "checkpoint cut short": (with_checkpoint(lambda w: w[:-9]), "weights were changed or damaged"),
    "no store": (lambda p: p.fuse(store=None), "no store named.*SATFUSE_STORE"),
    "store of unknown kind": (lambda p: p.fuse(store="ftp://host/x"), "ftp://host/x.*give a folder, s3://"),
    "store not writable": (in_a_file, r"cannot write to store .*file/store \(.*or name another"),
    "scheduler unreachable": (
        lambda p: p.fuse(scheduler="tcp://127.0.0.1:9"),
        r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 .*check the address",
    ),
    "scheduler is no address": (lambda p: p.fuse(scheduler="nonsense"), r"'nonsense' is not .*; write tcp://host:port"),
    "no cube": (lambda p: ["train", "none.zarr"], r"no cube at none\.zarr.*satfuse cube"),
    "no pairs": (lambda p: ["cube", "--pairs", "none.parquet"], r"no table of pairs at none\.parquet; .satfuse pairs"),
    "not a product": (lambda p: ["validate", "none.json"], "there is nothing at none.json"),
    "not ours": (lambda p: ["info", p.broken.parent], "is no product, store, cube, checkpoint or table of pairs"),
}  # fmt: skip


@pytest.mark.parametrize("row", EARLY)
def test_refused_before_anything_is_asked_or_written(row, place, monkeypatch):
    def search(*_, **__):
        pytest.fail("a service was asked")

    monkeypatch.setattr(pipeline, "search", search)
    monkeypatch.setattr(cluster, "TIMEOUT_S", 0.5)
    for name in ("ENMAP_USERNAME", "ENMAP_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    arguments, match = EARLY[row]
    assert len(refused(place, arguments(place), match).splitlines()) == 1
    assert tree(place.folder) == set()


# --- a service that fails, files that are damaged
# --------------------------------------------------------------------


def no_day(place):
    return place.fuse(date="2024-07-06")


def html_api(place):
    place.stac.search = 200, LOGIN
    return place.fuse()


def refused_search(place):
    place.stac.search = 401, '{"description": "token expired"}'
    return place.fuse()


def behind_http(status, text):
    """The archive's files behind HTTP, each of them answered like this."""

    def arguments(place):
        for item in place.stac.items:
            for key, asset in item["assets"].items():
                asset["href"] = f"http://{place.stac.host}/files/{key}"
        place.stac.files = status, text
        lines = {
            "schemes": 'schemes = ["http"]',
            "hosts": f'hosts = ["{place.stac.host}"]',
            "auth": 'auth = "basic"\nuser_env = "HOME"\nsecret_env = "HOME"',
        }
        return place.fuse(
            catalog=place.stac.catalog(place.broken.parent / "http.toml", place.broken, **lines)
        )

    return arguments


def damaged(pattern, change, verb="fuse"):
    """One file of the archive, replaced by `change` of its content."""

    def arguments(place):
        files = [p for p in sorted(place.broken.rglob(pattern)) if "_O_ST_" not in str(p)]
        content = files[0].read_bytes()
        files[0].unlink()  # it is a link to the archive that other tests use
        files[0].write_bytes(change(content))
        if verb == "cube":
            return [
                "cube",
                "--start",
                "2024-01-01",
                "--end",
                "2024-12-31",
                "--catalog",
                place.catalog,
                "--out",
                "cube",
            ]
        return place.fuse(scheduler=place.scheduler)

    return arguments


def half(content):
    return content[: len(content) // 2]


LATE = {
    "unknown sensor": (
        lambda p: ["search", "landsat", *p.fuse(store=None)[1:]],
        "has no landsat; it has: sentinel2",
    ),
    "no item": (no_day, "no pair over small: 0 guide and 0 coarse items"),
    "no pair": (
        on(CLOUDY_DAY),
        r"no pair over small.*\n  S2B_MSIL2A_20240709.*guide cloud \d+\.\d% is above 5\.0%",
    ),
    "HTML page in place of an API": (html_api, "local returned an HTML page instead of JSON"),
    "search refused": (refused_search, "the search was refused, HTTP 401"),
    "login page in place of a file": (
        behind_http(200, LOGIN),
        "S2A_MSIL2A.*login page came instead.*check account",
    ),
    "expired token": (behind_http(401, ""), "S2A_MSIL2A.*HTTP 401.*wrong or expired"),
    "truncated JP2": (damaged("S2A*VME*/**/*_B03_10m.jp2", half), "S2A_MSIL2A_20240704.*VME.*B03"),
    "login page as JP2": (
        damaged("S2A*VME*/**/*_B03_10m.jp2", lambda _: LOGIN.encode()),
        "S2A_MSIL2A_20240704.*B03",
    ),
    "truncated NetCDF": (
        damaged("S3A*/Syn_Oa08_reflectance.nc", half),
        "S3A_SY_2_SYN____20240704.*Oa08",
    ),
    "truncated flags": (
        damaged("S3A*/flags.nc", half),
        "no pair over small.*cannot be read.*S3A_SY_2_SYN.*flags",
    ),
    "truncated TIFF": (
        damaged("ENMAP*/*SPECTRAL_IMAGE_COG.TIF", half, "cube"),
        "ENMAP01-____L2A-DT0000080454.*image",
    ),
}


@pytest.mark.parametrize("row", LATE)
def test_services_and_files_that_fail_are_named(row, place):
    arguments, match = LATE[row]
    text = refused(place, arguments(place), match)
    assert len(text.splitlines()) == 1 or text.startswith("error: no pair")
    if row == "truncated TIFF":
        assert "not a finished cube" in command("info", "cube").err


def test_disk_full_while_fusing(place, monkeypatch):
    """The disk takes the table of pairs, and then no more."""
    fsync = os.fsync

    def full(descriptor):
        if "scene.npz" in Path(f"/proc/self/fd/{descriptor}").readlink().name:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    refused(
        place,
        place.fuse(scheduler=place.scheduler),
        r"cannot write data/.*scene\.npz in store.*No space left",
    )
    monkeypatch.undo()
    assert satfuse_error(
        lambda: satfuse.open_fused((26, 58, 27, 59), DAY, store=place.folder / "store")
    ).match("is empty")


def test_disk_full_while_writing_pairs(place, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "pairs.parquet")

    monkeypatch.setattr(pipeline, "write_pairs", full)
    refused(
        place,
        ["pairs", *place.fuse(store=None)[1:]],
        "No space left on device: 'pairs.parquet'; check that the path",
    )


# --- public calls -------------------------------------------------------------------------------


def satfuse_error(call, kind=SatfuseError):
    """What a call raises, in one line."""
    with pytest.raises(kind) as error:
        call()
    assert "\n" not in str(error.value)
    return error


def test_unknown_band(tmp_path):
    publish_flat(Store(tmp_path), "a", BOX)
    west, south, east, north = lonlat_bbox(BOX)
    box = west, south, east, north

    def open_with(bands):
        return satfuse.open_fused(box, "2024-06-01", store=tmp_path, bands=bands)

    assert open_with(["Oa08"]).sizes["band"] == 1
    assert satfuse_error(lambda: open_with(["Oa99"]), BandError).match(
        "unknown band 'Oa99'; known: B01"
    )


@pytest.fixture
def images():
    """Guide and coarse image of 90 x 90 and 3 x 3 pixels."""
    random = np.random.default_rng(0)

    def image(geobox, bands):
        values = random.uniform(0.1, 0.4, (len(bands), *geobox.shape)).astype("float32")
        return xr.DataArray(
            values, dims=("band", "y", "x"), coords={**xr_coords(geobox), "band": list(bands)}
        )

    return image(BOX, S2_NAMES), image(coarse_geobox(BOX, 30), S3_NAMES).assign_attrs(
        shift_m=(0.0, 0.0)
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_holes_and_no_numbers_come_of_them(images, bad):
    guide, coarse = images
    guide[3, 10, 20] = bad
    coarse[5, 1, 1] = bad
    fused = satfuse.fuse(guide, coarse)
    flag = fused.quality.values
    assert np.isnan(fused.reflectance.values[:, 10, 20]).all()
    assert flag[10, 20] & Quality.GUIDE_MISSING
    assert (flag[30:60, 30:60] & Quality.COARSE_MISSING).all()
    assert not (flag[:30] & Quality.COARSE_MISSING).any()
    elsewhere = np.ones(BOX.shape, bool)
    elsewhere[10, 20] = elsewhere[30:60, 30:60] = False
    assert np.isfinite(fused.reflectance.values[:, elsewhere]).all()


def test_nothing_but_nan_is_refused(images):
    guide, coarse = images
    assert satfuse_error(lambda: satfuse.fuse(guide * np.nan, coarse)).match("no usable pixel")


def test_ratio_that_is_not_an_integer(images):
    guide, coarse = images
    odd = coarse.assign_coords(
        x=coarse.x.values[0] + 255.0 * np.arange(3), y=coarse.y.values[0] - 255.0 * np.arange(3)
    )
    assert satfuse_error(lambda: satfuse.fuse(guide, odd), GridError).match(
        r"25\.5 x 25\.5 guide pixels; the ratio must"
    )
