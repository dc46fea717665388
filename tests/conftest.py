"""Fixtures that every test may use."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAMPLES = (ROOT / os.environ.get("SATFUSE_SAMPLE_DATA", "../shared/data")).resolve()
_skipped_on_samples = []


def pytest_runtest_logreport(report):
    """Remember tests on real samples that were skipped."""
    if report.skipped and "samples" in report.keywords:
        _skipped_on_samples.append(report.nodeid)


def pytest_sessionfinish(session):
    """In CI a test on real samples must not be skipped while the samples are there."""
    if os.environ.get("SATFUSE_REQUIRE_SAMPLES") and SAMPLES.is_dir() and _skipped_on_samples:
        print("\nskipped although the samples are there:", *_skipped_on_samples, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of the real sample products; skips the test where it is absent."""
    if not SAMPLES.is_dir():
        pytest.skip(f"no real samples at {SAMPLES}: set SATFUSE_SAMPLE_DATA")
    return SAMPLES


@pytest.fixture(scope="session")
def small_recipe(tmp_path_factory):
    """Recipe of a small archive: 24 x 24 coarse pixels near Tartu, three EnMAP scenes."""
    from satfuse.simulate.archive import ArchiveRecipe

    field = tmp_path_factory.mktemp("field") / "small.geojson"
    properties = {
        "name": "small", "title": "a small field", "crs": "EPSG:32635", "bounds_m": [466200, 6461400, 473400, 6468600],
    }  # fmt: skip
    field.write_text(json.dumps({"type": "Feature", "properties": properties, "geometry": None}))
    return ArchiveRecipe(field=str(field), frame_rows=60, columns=129, enmap_scenes=3, enmap_px=128)


@pytest.fixture(scope="session")
def small_archive(small_recipe, tmp_path_factory):
    """A complete small archive in the official formats, made once per session."""
    from satfuse.simulate.archive import make_archive

    return make_archive(tmp_path_factory.mktemp("archive"), small_recipe)


@pytest.fixture(scope="session")
def small_catalog(small_archive, tmp_path_factory):
    """Path of a catalogue file of the small archive, which a real STAC server serves while the session lasts."""
    from satfuse.demo import write_catalog
    from satfuse.simulate.server import serve

    with serve(small_archive.root) as url:
        path = tmp_path_factory.mktemp("catalog") / "local.toml"
        write_catalog(path, url, small_archive.root)
        yield str(path)


@pytest.fixture(scope="session")
def s3_url():
    """An S3-compatible server on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host.replace('0.0.0.0', '127.0.0.1')}:{port}"
    server.stop()
