"""Fixtures for all tests, and how tests share the cores under `pytest -n 2 --dist loadfile`."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAMPLES = (ROOT / os.environ.get("SATFUSE_SAMPLE_DATA", "../shared/data")).resolve()
# The slowest files start first, so that no worker is left with one of them at the end.
SLOWEST = (
    "flows/test_deploy.py",
    "test_pipeline.py",
    "test_infer.py",
    "test_cli.py",
    "test_arrays_and_fields.py",
    "test_readme.py",
    "models/test_bayesian.py",
    "test_fuse_arrays.py",
    "samples/test_samples_geometry.py",
    "test_train.py",
)
_skipped_on_samples = []

if "PYTEST_XDIST_WORKER" in os.environ:
    # as many threads per worker as there are cores would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    """Begin with the longest files; the order within a file stays."""
    place = {ROOT / "tests" / name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path, len(SLOWEST)))


def pytest_runtest_logreport(report):
    """Remember tests on real samples that were skipped."""
    if report.skipped and "samples" in report.keywords:
        _skipped_on_samples.append(report.nodeid)


def pytest_sessionfinish(session):
    """In CI a test on real samples must not be skipped while the samples are there."""
    if hasattr(session.config, "workerinput"):
        return  # the workers' reports all reach the process that started them
    if os.environ.get("SATFUSE_REQUIRE_SAMPLES") and SAMPLES.is_dir() and _skipped_on_samples:
        print("\nskipped although the samples are there:", *_skipped_on_samples, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of the real sample products; skips the test where it is absent."""
    if not SAMPLES.is_dir():
        pytest.skip(f"no real samples at {SAMPLES}: set SATFUSE_SAMPLE_DATA")
    return SAMPLES


@pytest.fixture(scope="module")
def scheduler():
    """Address of a Dask cluster of threads in this process: a test can break what they run."""
    from distributed import LocalCluster

    with LocalCluster(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None, memory_limit=0
    ) as c:
        yield c.scheduler_address


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A function that locks a named folder which all workers of this run share."""
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    @contextmanager
    def folder(name: str) -> Iterator[Path]:
        path = root / f"shared-{name}"
        path.mkdir(exist_ok=True)
        with (path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield path

    return folder


@pytest.fixture(scope="session")
def small_recipe(shared):
    """Recipe of a small archive: 18 x 18 coarse pixels near Tartu, three EnMAP scenes."""
    from satfuse.simulate.archive import ArchiveRecipe

    properties = {
        "name": "small",
        "title": "a small field",
        "crs": "EPSG:32635",
        "bounds_m": [466200, 6461400, 471600, 6466800],
    }
    with shared("small") as folder:
        field = folder / "small.geojson"
        field.write_text(
            json.dumps({"type": "Feature", "properties": properties, "geometry": None})
        )
    return ArchiveRecipe(field=str(field), frame_rows=60, columns=129, enmap_scenes=3, enmap_px=128)


@pytest.fixture(scope="session")
def small_archive(small_recipe, shared):
    """A complete small archive in the official formats, made once per run."""
    from satfuse.simulate.archive import make_archive

    with shared("small") as folder:
        return make_archive(folder / "archive", small_recipe)


@pytest.fixture(scope="session")
def small_catalog(small_archive, tmp_path_factory):
    """Catalogue file of the small archive, served by a real STAC server during the session."""
    from satfuse.demo import write_catalog
    from satfuse.simulate.archive.server import serve

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
