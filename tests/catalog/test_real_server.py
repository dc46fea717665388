"""Search against a real STAC API server on loopback: `rustac serve` with a few invented items."""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from satfuse.catalog import access
from satfuse.catalog.search import search
from satfuse.catalog.specs import local_catalog
from tests.catalog import own_items as own
from tests.ports import free_port

BBOX = (26.3, 58.2, 26.6, 58.5)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A folder with one file per asset of the SYN frames, and a server of all items."""
    program = shutil.which("rustac", path=str(Path(sys.executable).parent)) or shutil.which(
        "rustac"
    )
    if program is None:
        pytest.skip("rustac is not installed; it comes with: pip install 'satfuse[server]'")
    root = tmp_path_factory.mktemp("archive")
    features = [
        own.cdse_s2(),
        own.cdse_s2(baseline="02.14"),
        own.cdse_s2("35VLG", cloud=95.0),
        own.cdse_syn(),
        own.cdse_syn(kind="stc"),
        own.cdse_syn("2024-06-01T09:04:00.5"),
        own.cdse_syn("2024-06-02T09:04:00.5"),
        own.dlr_enmap(),
    ]
    for feature in features:
        for key, asset in feature["assets"].items():
            asset["href"] = str(root / f"{feature['id']}-{key}.nc")
    (root / "items.json").write_text(
        json.dumps({"type": "FeatureCollection", "features": features})
    )
    (root / f"{features[3]['id']}-flags.nc").write_bytes(b"\x89HDF\r\n\x1a\n")
    address = f"127.0.0.1:{free_port()}"
    command = [
        program,
        "serve",
        "--addr",
        address,
        "--create-collections",
        str(root / "items.json"),
    ]
    with (root / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_for(f"http://{address}/", server, root / "log")
            yield local_catalog(f"http://{address}", root)
        finally:
            server.terminate()
            server.wait()


def _wait_for(url, server, log):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"rustac does not serve {url}: {log.read_text()[-500:]}")


def test_guide_tiles_with_the_best_baseline(archive):
    items = search(archive, "sentinel2", bbox=BBOX, start="2024-06-01", end="2024-06-01")
    assert [(i.properties["grid:code"], i.properties["processing:version"]) for i in items] == [
        ("MGRS-35VLF", "05.10"),
        ("MGRS-35VLG", "05.10"),
    ]


def test_cloud_is_filtered_here_because_the_server_cannot(archive):
    items = search(
        archive, "sentinel2", bbox=BBOX, start="2024-06-01", end="2024-06-01", max_cloud=20
    )
    assert [i.properties["grid:code"] for i in items] == ["MGRS-35VLF"]


def test_frames_of_one_day_with_ntc_before_stc(archive):
    items = search(archive, "sentinel3_syn", bbox=BBOX, start="2024-06-01", end="2024-06-01")
    assert [i.collection_id for i in items] == ["sentinel-3-syn-2-syn-ntc"] * 2
    assert [str(i.properties["start_datetime"])[11:19] for i in items] == ["09:01:00", "09:04:00"]


def test_strings_of_enmap_arrive_as_numbers(archive):
    (item,) = search(archive, "enmap", bbox=BBOX, start="2024-06-01", end="2024-06-01", max_cloud=5)
    assert item.properties["eo:cloud_cover"] == 4


def test_nothing_there(archive):
    assert (
        search(archive, "sentinel2", bbox=(3, 30, 4, 31), start="2024-06-01", end="2024-06-01")
        == []
    )
    assert search(archive, "sentinel2", bbox=BBOX, start="2023-06-01", end="2023-06-01") == []


def test_pages_of_two(archive):
    from dataclasses import replace

    small = replace(archive, page_limit=2)
    assert len(search(small, "sentinel3_syn", bbox=BBOX, start="2024-06-01", end="2024-06-02")) == 3


def test_files_of_found_items_are_reached(archive):
    first = search(archive, "sentinel3_syn", bbox=BBOX, start="2024-06-01", end="2024-06-01")[0]
    path = access.fetch(archive, first, "sentinel3_syn", "flags")
    assert path.parent == Path(archive.root)
    assert path.name.endswith("-flags.nc")
