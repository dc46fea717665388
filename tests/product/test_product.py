"""Store, layout, writing and publishing."""

import json
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import geopandas
import numpy as np
import pystac
import pytest
import rioxarray  # noqa: F401
import xarray as xr
import zarr

from satfuse.errors import ConfigError, GridError, ProductError, StoreError
from satfuse.geometry.grids import snap_geobox
from satfuse.info import describe
from satfuse.product import publish
from satfuse.product.layout import Layout, create_group
from satfuse.product.store import Store, default_store
from satfuse.product.write import coarsen_numbers, encode_uncertainty, missing_shards, write_tile
from satfuse.sensors.bands import S3_NAMES
from satfuse.sensors.encoding import FILL, encode
from satfuse.sensors.quality import Quality
from tests.product_store import cores as flat_cores
from tests.product_store import publish_flat

ROOT = Path(__file__).parents[2]
BOX = snap_geobox("EPSG:32631", 388800, 3394500, 388800 + 9000, 3394500 + 7200)


def layout(**options):
    options = {
        "bands": S3_NAMES,
        "band_source": ["regression"] * 21,
        "time": "2024-06-01T10:00:00.25+00:00",
    } | options
    return Layout.of(BOX, shard_px=600, **options)


def test_encoding_rounds_and_keeps_what_is_missing():
    number = encode(np.array([0.12344, 0.12346, -0.01, np.nan, np.inf, 9.0]))
    assert number.dtype == "int16"
    np.testing.assert_array_equal(number, [1234, 1235, -100, FILL, FILL, 32767])


def test_uncertainty_keeps_five_bits_is_never_zero_and_fits_its_range():
    sigma = np.geomspace(3.2e-4, 0.63, 5000, dtype="float32")
    number = encode_uncertainty(sigma)
    assert number.dtype == "int16"
    assert np.abs(number * 2e-5 / sigma - 1).max() < 1 / 32 + 1e-4
    assert len(np.unique(number)) < 190, "as many values as five bits have between these limits"
    np.testing.assert_array_equal(encode_uncertainty(number * np.float32(2e-5)), number)
    edges = np.array([0, 1e-9, 2.9e-5, 3.1e-5, 0.6349, 0.65, 7, np.nan, np.inf])
    np.testing.assert_array_equal(
        encode_uncertainty(edges), [1, 1, 1, 2, 31744, 31744, 31744, FILL, FILL]
    )


def test_overview_is_the_mean_of_valid_pixels():
    number = np.full((1, 4, 5), 100, "int16")
    number[0, 0, 0] = 400
    number[0, 1, 1] = FILL
    number[0, 2:, 4] = FILL
    np.testing.assert_array_equal(
        coarsen_numbers(number, 2)[0], [[200, 100, 100], [100, 100, FILL]]
    )
    number = np.random.default_rng(0).integers(-300, 32767, (3, 30, 45)).astype("int16")
    number[:, ::3, ::2] = FILL
    number[:, 8:16, 8:16] = FILL
    values = np.where(number == FILL, np.nan, number)
    for i, j in np.ndindex(4, 6):
        block = values[:, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
        expected = [FILL] * 3 if (i, j) == (1, 1) else np.rint(np.nanmean(block, (1, 2)))
        np.testing.assert_array_equal(coarsen_numbers(number, 8)[:, i, j], expected)


def test_layout_and_metadata_are_what_other_tools_read(tmp_path):
    store = Store(tmp_path)
    publish_flat(store, "p", BOX, value=0.25, time="2024-06-01T10:00:00.25+00:00")
    path = f"{tmp_path}/data/p/r1.zarr"
    data = xr.open_zarr(path, consolidated=True)
    assert data.reflectance.dims == ("time", "band", "y", "x")
    assert data.quality.dims == ("time", "y", "x")
    assert float(data.reflectance[0, 3, 100, 100]) == pytest.approx(0.25)
    assert data.time.values[0] == np.datetime64("2024-06-01T10:00:00.250")
    assert data.sel(band="Oa17").wavelength_nm == 865
    assert data.rio.crs.to_epsg() == 32631
    assert tuple(data.rio.transform())[:6] == tuple(BOX.affine)[:6]
    assert data.quality.attrs["flag_meanings"].split()[0] == "guide_missing"
    raw = zarr.open_group(path)
    assert raw["reflectance"].chunks == (1, 21, 300, 300)
    assert raw["reflectance"].shards == (1, 21, 600, 600)
    assert raw["time"].attrs["units"] == "microseconds since 1970-01-01"
    assert raw["time"].dtype == "int64"
    attrs = raw.attrs
    assert attrs["proj:code"] == "EPSG:32631"
    assert attrs["spatial:transform"] == list(BOX.affine)[:6]
    assert {c["name"] for c in attrs["zarr_conventions"]} == {"proj:", "spatial:", "multiscales"}
    levels = [level["asset"] for level in attrs["multiscales"]["layout"]]
    assert levels == [".", "overview_2", "overview_4"]
    small = xr.open_zarr(f"{path}/overview_4", consolidated=True)
    assert small.reflectance.shape == (1, 21, 180, 225)
    assert small.rio.transform().a == 40
    assert float(small.reflectance.min()) == pytest.approx(0.25)


def test_uncertainty_has_the_layout_of_reflectance_at_full_resolution(tmp_path):
    store = Store(tmp_path)
    uri = publish_flat(store, "p", BOX, value=0.25, uncertainty=0.004)
    path = f"{tmp_path}/data/p/r1.zarr"
    raw = zarr.open_group(path)
    uncertainty = raw["uncertainty"]
    reflectance = raw["reflectance"]
    for name in ("shape", "chunks", "shards"):
        assert getattr(uncertainty, name) == getattr(reflectance, name)
    assert uncertainty.metadata.codecs == reflectance.metadata.codecs
    assert uncertainty.dtype == "int16"
    assert "uncertainty" not in raw["overview_2"]
    data = xr.open_zarr(path, consolidated=True)
    assert data.uncertainty.dims == data.reflectance.dims
    assert set(data.uncertainty.coords) == set(data.coords)
    np.testing.assert_allclose(data.uncertainty[0, :-1], 0.004, rtol=0.032)
    assert data.uncertainty[0, -1].isnull().all()
    assert data.reflectance.attrs["units"] == data.uncertainty.attrs["units"]
    assert (
        data.uncertainty.attrs["standard_name"]
        == f"{data.reflectance.attrs['standard_name']} standard_error"
    )
    assert data.reflectance.attrs["ancillary_variables"] == "quality uncertainty"
    item = json.loads(Path(uri).read_text())
    variable = item["properties"]["cube:variables"]["uncertainty"]
    assert variable["type"] == "auxiliary"
    assert variable["nodata"] == FILL
    assert "2e-05" in variable["description"]
    assert "uncertainty" in item["assets"]["data"]["title"]
    assert "uncertainty" in describe(uri)["variables"]
    assert describe(path)["uncertainty"] == "int16 (1, 21, 720, 900)"


def test_a_product_without_uncertainty_does_not_mention_it(tmp_path):
    uri = publish_flat(Store(tmp_path), "p", BOX)
    assert "uncertainty" not in Path(uri).read_text()
    assert describe(uri)["variables"] == ["quality", "reflectance"]
    group = zarr.open_group(f"{tmp_path}/data/p/r1.zarr")
    assert "uncertainty" not in group
    assert group["reflectance"].attrs["ancillary_variables"] == "quality"


def test_a_shard_is_whole_chunks_and_small_fields_get_small_shards():
    with pytest.raises(GridError, match="chunk_px"):
        Layout.of(BOX, bands=S3_NAMES, band_source=[""] * 21, time="2024-06-01", shard_px=700)
    assert Layout.of(BOX, bands=S3_NAMES, band_source=[""] * 21, time="2024-06-01").shard_px == 900
    for made in (layout(), layout(uncertain_bands=["Oa03"])):
        assert made == Layout(**json.loads(json.dumps(made.to_dict())))


def test_item_and_catalogue_are_valid_stac(tmp_path):
    store = Store(tmp_path)
    secret = "https://user:pw@host/items/a?sig=SECRET"
    guide = {"id": "S2_a", "href": publish.without_query(secret), "baseline": "05.11"}
    provenance = {"guide_items": [guide], "gap_s": 12.0, "field": "f"}
    uri = publish_flat(store, "p", BOX, provenance=provenance)
    item = pystac.Item.from_file(uri)
    assert item.properties["proj:code"] == "EPSG:32631"
    assert item.properties["satfuse:run"] == "r1"
    assert item.properties["cube:dimensions"]["band"]["values"] == list(S3_NAMES)
    sources = [link.href for link in item.links if link.rel == "derived_from"]
    assert sources == ["https://host/items/a"]
    assert item.assets["data"].get_absolute_href() == f"{tmp_path}/data/p/r1.zarr"
    catalog = pystac.Catalog.from_file(f"{tmp_path}/catalog.json")
    assert [i.id for i in catalog.get_items(recursive=True)] == ["p"]
    text = "".join(p.read_text() for p in tmp_path.rglob("*.json") if p.is_file())
    assert "SECRET" not in text
    assert "user:pw" not in text


def test_catalogue_and_index_are_rebuilt_from_the_items(tmp_path):
    store = Store(tmp_path)
    for name in ("p", "q"):
        publish_flat(store, name, BOX)
    before = {n: (tmp_path / n).read_bytes() for n in ("catalog.json", "collection.json")}
    for name in (*before, "index.parquet"):
        (tmp_path / name).unlink()
    assert publish.rebuild_index(store) == 2
    assert before == {n: (tmp_path / n).read_bytes() for n in before}
    index = geopandas.read_parquet(tmp_path / "index.parquet")
    assert list(index.id) == ["p", "q"]
    assert index.crs.to_epsg() == 4326


@pytest.mark.parametrize(
    "content", ['{"a": 1}', "[1]", "", '{"collection": "satfuse-fused", "properties": {}}']
)
def test_a_file_that_is_no_item_is_named(tmp_path, content):
    store = Store(tmp_path)
    publish_flat(store, "p", BOX)
    (tmp_path / "items/.hidden.json").write_text(content)
    (tmp_path / "items/notes.txt").write_text(content)
    assert len(publish.read_items(store)) == 1
    (tmp_path / "items/junk.json").write_text(content)
    with pytest.raises(StoreError, match=r"items/junk\.json is not .*(delete|move)"):
        publish.read_items(store)


def test_a_republication_during_a_rebuild_reaches_the_index(tmp_path, monkeypatch):
    """Another process replaces an item after it was read here: the same names, another run."""
    store = Store(tmp_path)
    publish_flat(store, "p", BOX)
    item = tmp_path / "items/p.json"
    write = Store.write
    meanwhile = ["once"]

    def interrupted(self, path, content):
        if path == "collection.json" and meanwhile:
            meanwhile.pop()
            item.write_text(item.read_text().replace('"satfuse:run": "r1"', '"satfuse:run": "r2"'))
        write(self, path, content)

    monkeypatch.setattr(Store, "write", interrupted)
    publish.rebuild_index(store)
    assert list(geopandas.read_parquet(tmp_path / "index.parquet")["satfuse:run"]) == ["r2"]


def test_two_processes_that_publish_at_once_are_both_listed(tmp_path):
    publish_flat(Store(tmp_path), "p0", BOX)
    code = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests.product_store import publish_flat
        from satfuse.geometry.grids import snap_geobox
        from satfuse.product.store import Store
        box = snap_geobox("EPSG:32631", 388800, 3394500, 389700, 3395400)
        for k in range(4):
            publish_flat(Store({str(tmp_path)!r}), sys.argv[1] + str(k), box)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    running = [subprocess.Popen([*command, name]) for name in ("a", "b")]
    assert [process.wait(120) for process in running] == [0, 0]
    expected = sorted(["p0", *(f"{name}{k}" for name in "ab" for k in range(4))])
    assert sorted(geopandas.read_parquet(tmp_path / "index.parquet").id) == expected
    links = json.loads((tmp_path / "collection.json").read_text())["links"]
    assert sorted(link["title"] for link in links if link["rel"] == "item") == expected


def test_an_incomplete_or_contradictory_run_is_not_published(tmp_path):
    store = Store(tmp_path)
    publish_flat(store, "p", BOX)
    cores = flat_cores(BOX)
    path = publish.group_path("p", "r1")
    assert missing_shards(store, path, layout(), cores) == []
    (tmp_path / path / "reflectance/c/0/0/1/1").unlink()
    assert missing_shards(store, path, layout(), cores) == ["reflectance/c/0/0/1/1"]
    counts = [{"pixels": 1, "finite": 1, "inconsistent": 0}] * len(cores)
    with pytest.raises(ProductError, match="lacks 1 shards"):
        publish.publish(
            store, "p", "r1", layout(), cores=cores, counts=counts, provenance={"field": "changed"}
        )
    assert "changed" not in (tmp_path / "items/p.json").read_text()
    reflectance = np.zeros((21, 120, 300), "int16")
    write_tile(store, path, layout(), cores[-1], reflectance, np.zeros((120, 300), "uint16"))
    assert publish.check_run(store, path, layout(), cores, counts) == 1
    with pytest.raises(ProductError, match="3 of 4 tiles"):
        publish.check_run(store, path, layout(), cores, counts[1:])
    wrong = counts[0] | {"inconsistent": 2}
    with pytest.raises(ProductError, match="contradict"):
        publish.check_run(store, path, layout(), cores, [wrong, *counts[1:]])
    with pytest.raises(ProductError, match="no pixel"):
        publish.check_run(store, path, layout(), cores, [counts[0] | {"finite": 0}] * 4)


def test_a_lost_shard_of_uncertainty_is_noticed(tmp_path):
    store = Store(tmp_path)
    publish_flat(store, "p", BOX, uncertainty=0.01)
    path = publish.group_path("p", "r1")
    whole = layout(uncertain_bands=S3_NAMES)
    assert missing_shards(store, path, whole, flat_cores(BOX)) == []
    (tmp_path / path / "uncertainty/c/0/0/1/0").unlink()
    assert missing_shards(store, path, whole, flat_cores(BOX)) == ["uncertainty/c/0/0/1/0"]
    assert missing_shards(store, path, layout(), flat_cores(BOX)) == []


def test_an_empty_tile_differs_from_one_that_was_never_done(tmp_path):
    store = Store(tmp_path)
    cores = flat_cores(BOX)
    create_group(store, "g", layout(), {})
    assert len(missing_shards(store, "g", layout(), cores)) == 16
    for core in cores:
        nothing = np.full((21, *core.shape), FILL, "int16")
        quality = np.full(core.shape, int(Quality.GUIDE_MISSING), "uint16")
        write_tile(store, "g", layout(), core, nothing, quality)
    assert missing_shards(store, "g", layout(), cores) == []


def test_a_store_below_a_file_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot write"):
        Store(tmp_path / "file" / "store").check_writable()
    with pytest.raises(StoreError, match="read-only"):
        Store("https://example.com/store").write("a", b"")
    with pytest.raises(ConfigError, match="s3://"):
        Store("ftp://host/x")
    with pytest.raises(StoreError, match="cannot read nothing"):
        Store(tmp_path).read("nothing")


def test_a_full_disk_is_one_clear_error_and_nothing_half_written(tmp_path):
    code = f"""
        import resource, signal, sys
        import numpy as np
        sys.path.insert(0, {str(ROOT)!r})
        from tests.product.test_product import layout, create_group, write_tile
        from tests.product.test_product import BOX, Store, StoreError, flat_cores
        store, core = Store({str(tmp_path)!r}), flat_cores(BOX)[0]
        create_group(store, "g", layout(), {{}})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        noise = np.random.default_rng(0).integers(0, 9999, (21, 600, 600)).astype("int16")
        try:
            write_tile(store, "g", layout(), core, noise, np.zeros((600, 600), "uint16"))
        except StoreError as error:
            print("StoreError:", error)
    """
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert "StoreError: cannot write tile y 0 x 0 of g" in run.stdout, run.stderr
    assert "File too large" in run.stdout
    assert not list((tmp_path / "g/reflectance").rglob("c/0/0/0/0"))


def test_default_store(monkeypatch, tmp_path):
    settings = tmp_path / "satfuse.toml"
    monkeypatch.setenv("SATFUSE_CONFIG", str(settings))
    monkeypatch.delenv("SATFUSE_STORE", raising=False)
    with pytest.raises(ConfigError, match="SATFUSE_STORE"):
        default_store()
    settings.write_text('store = "/from/settings"')
    assert default_store() == "/from/settings"
    monkeypatch.setenv("SATFUSE_STORE", "/from/environment")
    assert default_store() == "/from/environment"
