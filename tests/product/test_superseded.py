"""Superseded runs are listed with their size and deleted only when nobody can need them."""

import json
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from satfuse.geometry.grids import snap_geobox
from satfuse.info import describe
from satfuse.product.open import open_fused
from satfuse.product.store import Store
from satfuse.product.superseded import remove_superseded, superseded
from tests.product_store import publish_flat

BOX = snap_geobox("EPSG:32635", 466200, 6461400, 467100, 6462300)
AREA = (26.42, 58.29, 26.43, 58.295)


def backdate(folder, hours):
    then = time.time() - 3600 * hours
    for path in Path(folder).rglob("*"):
        os.utime(path, (then, then))


def names(runs):
    return [(r.product_id, r.run) for r in runs]


@pytest.fixture
def store(tmp_path):
    """Product a, published as r1 and again as r2; product b as r1; c, which was begun only."""
    store = Store(tmp_path)
    for product_id, run, value in (("a", "r1", 0.1), ("a", "r2", 0.2), ("b", "r1", 0.1)):
        publish_flat(store, product_id, BOX, run=run, value=value)
        store.write(f"data/{product_id}/{run}.plan/plan.json", b"{}")
        store.write(f"data/{product_id}/{run}.run.json", b"{}")
    store.write("data/c/r3.plan/scene.npz", bytes(1000))
    return store


def test_they_are_listed_with_their_sizes(store, tmp_path):
    runs = superseded(store)
    assert names(runs) == [("a", "r1"), ("c", "r3")]
    assert runs[1].size == 1000
    on_disk = sum(
        p.stat().st_size for p in (tmp_path / "data/a").rglob("*") if p.is_file() and "r1" in str(p)
    )
    assert runs[0].size == on_disk > 2000
    facts = describe(str(tmp_path))
    assert [row["run"] for row in facts["superseded runs"]] == ["r1", "r3"]
    assert facts["count"] == 2


def test_only_old_ones_are_removed(store, tmp_path):
    assert remove_superseded(store) == []
    backdate(tmp_path / "data", hours=30)
    # the item of `a` says that r1 was replaced a moment ago: somebody may still read it
    assert names(remove_superseded(store)) == [("c", "r3")]
    assert names(remove_superseded(store, older_than=timedelta(0))) == [("a", "r1")]
    kept = {p.name for p in (tmp_path / "data/a").iterdir()}
    assert kept == {"r2.zarr", "r2.plan", "r2.run.json"}
    assert superseded(store) == []
    assert "superseded runs" not in describe(str(tmp_path))
    for product in json.loads((tmp_path / "collection.json").read_text())["links"][2:]:
        assert (tmp_path / product["href"]).is_file()
    (tmp_path / "items/b.json").unlink()  # of the same place
    opened = open_fused(AREA, "2024-06-01", store=store)
    assert float(opened.reflectance.mean()) == pytest.approx(0.2)


def test_a_run_that_becomes_visible_meanwhile_stays(store, tmp_path, monkeypatch):
    backdate(tmp_path, hours=30)
    before = superseded(store)
    publish_flat(store, "a", BOX, run="r1")
    monkeypatch.setattr("satfuse.product.superseded.superseded", lambda _: before)
    assert names(remove_superseded(store)) == [("c", "r3")]
    assert (tmp_path / "data/a/r1.zarr").is_dir()


def test_in_a_bucket(s3_url, monkeypatch):
    import s3fs

    for name, value in {"ENDPOINT_URL": s3_url, "ACCESS_KEY": "a", "SECRET_KEY": "b"}.items():
        monkeypatch.setenv(f"SATFUSE_STORE_{name}", value)
    s3fs.S3FileSystem(endpoint_url=s3_url, key="a", secret="b").mkdir("superseded")
    store = Store("s3://superseded/fused")
    for run in ("r1", "r2"):
        publish_flat(store, "a", BOX, run=run)
    (found,) = superseded(store)
    assert (found.product_id, found.run) == ("a", "r1")
    assert found.size > 1000
    assert remove_superseded(store) == []
    assert remove_superseded(store, older_than=timedelta(0)) == [found]
    assert superseded(store) == []
    assert store.exists("data/a/r2.zarr/zarr.json")
    assert not store.exists("data/a/r1.zarr")
