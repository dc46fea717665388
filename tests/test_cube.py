"""Cubes: stored values, layout, statistics, resuming, splits by place, errors."""

import json
from itertools import pairwise

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from satfuse import cube
from satfuse.cube.split import places, split_by_place
from satfuse.cube.statistics import merge_statistics, scene_statistics
from satfuse.errors import CubeError, SchedulerError
from satfuse.sensors.bands import S2_NAMES, S3_ENMAP_NAMES, S3_NAMES
from satfuse.sensors.srf import srf_matrix
from tests import cube_scenes


def scenes(count=3, size=150):
    return {f"s{i}": cube_scenes.enmap_scene(i, size, lon=6 + i, hole=i == 1) for i in range(count)}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("cube") / "c.zarr"
    return cube.build(scenes(), path)


def test_images_are_the_integrated_spectra(built):
    scene = scenes()["s1"]
    for image, platform, names in (("guide", "S2A", S2_NAMES), ("target", "S3A", S3_ENMAP_NAMES)):
        weights, _ = srf_matrix(platform, names, cube_scenes.WAVELENGTH_NM)
        expected = np.einsum("bn,nyx->byx", weights, scene.reflectance.values)
        stored = built.open_scene("s1", decode=True)[image].values
        assert np.nanmax(abs(stored - expected)) < 0.6e-4  # half a step of 1e-4, and float32
        np.testing.assert_array_equal(np.isnan(stored[0]), ~scene.valid.values)
    assert (built.open_scene("s1").guide.values[:, 20, 30] == -32768).all()


def test_missing_bands_are_declared(built):
    assert built.missing_bands == ("Oa01", "Oa02")
    assert built.coarse_bands == S3_ENMAP_NAMES
    assert built.open_scene("s0").band.values.tolist() == list(S3_ENMAP_NAMES)
    with pytest.raises(CubeError, match=r"s0: .*418 to 2446 nm do not cover S3A Oa01 \(0%\), Oa02"):
        cube.build(scenes(1), built.path + "-other", target_bands=S3_NAMES)


def test_chunks_shards_and_grid(built):
    array = zarr.open_array(built.path, path="scenes/s0/target", mode="r")
    assert array.dtype == np.int16
    assert array.chunks == (19, 128, 128)
    assert array.shards == (19, 256, 256)
    assert array.fill_value == -32768
    assert array.compressors[0].to_dict()["configuration"]["shuffle"] == "bitshuffle"
    grid = built.open_scene("s0").odc.geobox
    assert grid == scenes(1)["s0"].odc.geobox


def test_wide_scenes_have_equal_shards_of_at_most_1024():
    from satfuse.cube.store import _shard

    for size in range(1, 5000, 7):
        shard = _shard("y", size)
        assert shard % 128 == 0
        assert shard <= 1024
        assert -(-size // shard) == -(-size // 1024)
    assert _shard("band", 19) == 19


def test_statistics_are_those_of_the_train_split(built):
    train = [built.open_scene(s.id, decode=True) for s in built.of_split("train")]
    for image in ("guide", "target"):
        pixels = np.concatenate([t[image].values[:, t.valid.values] for t in train], axis=1)
        statistics = built.statistics[image]
        assert statistics["count"] == pixels.shape[1]
        np.testing.assert_allclose(statistics["mean"], pixels.mean(1), rtol=1e-9)
        np.testing.assert_allclose(statistics["std"], pixels.std(1), rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 40), max_size=4), seed=st.integers(0, 99))
def test_merged_statistics_equal_those_of_the_whole(cuts, seed):
    values = np.random.default_rng(seed).integers(-50, 9000, (3, 40, 6))
    valid = np.random.default_rng(seed + 1).random((40, 6)) > 0.4
    edges = [0, *sorted(cuts), 40]
    strips = [slice(a, b) for a, b in pairwise(edges) if b > a]
    parts = [scene_statistics(values[:, strip], valid[strip], 1e-4) for strip in strips]
    whole = values[:, valid] * 1e-4
    merged = merge_statistics(parts)
    np.testing.assert_allclose(merged["mean"], whole.mean(1))
    np.testing.assert_allclose(merged["std"], whole.std(1), atol=1e-12)


def test_a_rebuild_writes_only_what_is_not_done(tmp_path):
    path = tmp_path / "c.zarr"
    sources = scenes()
    first = cube.build(sources, path)
    stamps = {s: (path / f"scenes/{s}/guide/c/0/0/0").stat().st_mtime_ns for s in sources}
    attrs = json.loads((path / "scenes/s2/zarr.json").read_text())
    del attrs["attributes"]["done"]  # as after an interrupted task
    (path / "scenes/s2/zarr.json").write_text(json.dumps(attrs))
    (path / "scenes/s2/target/c/0/0/0").write_bytes(b"half")
    sources["s1"] = cube_scenes.enmap_scene(77, 150, lon=7)  # another input under the old name
    again = cube.build(sources, path)
    new = {s: (path / f"scenes/{s}/guide/c/0/0/0").stat().st_mtime_ns for s in sources}
    assert {s for s in sources if new[s] != stamps[s]} == {"s1", "s2"}
    xr.testing.assert_identical(again.open_scene("s2").load(), first.open_scene("s2").load())
    assert again.open_scene("s1").valid.values.all()


def test_an_unfinished_cube_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "c.zarr"
    calls = []

    def interrupted(image, valid, scale, real=scene_statistics):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(image, valid, scale)

    monkeypatch.setattr("satfuse.cube.store.scene_statistics", interrupted)
    with dask.config.set(scheduler="synchronous"), pytest.raises(KeyboardInterrupt):
        cube.build(scenes(), path)
    with pytest.raises(CubeError, match="unfinished"):
        cube.open_cube(path)
    monkeypatch.undo()
    cube.build(scenes(), path)
    assert len(cube.open_cube(path).scenes) == 3


def test_chunked_and_loaded_sources_give_the_same_values(built, tmp_path):
    with dask.config.set(scheduler="synchronous"):
        other = cube.build({k: v.chunk(y=40) for k, v in scenes().items()}, tmp_path / "c.zarr")
    for s in built.scenes:
        for name in ("guide", "target"):
            a, b = (c.open_scene(s.id)[name].values for c in (built, other))
            # one step: matrix products of other shapes round differently
            assert abs(a.astype(int) - b).max() <= 1


def test_split_is_by_place():
    boxes = {f"s{i}": (i, 50.0, i + 0.4, 50.3) for i in range(30)}
    boxes["twin"] = (3.3, 50.2, 3.6, 50.5)  # overlaps s3
    boxes["near"] = (3.62, 50.2, 3.9, 50.5)  # touches the twin
    place = places(boxes)
    assert place["s3"] == place["twin"] == place["near"]
    assert len(set(place.values())) == 30
    split = split_by_place(place)
    assert split["s3"] == split["twin"] == split["near"]
    shuffled = dict(sorted(place.items(), key=lambda kv: hash(kv[1])))
    assert split_by_place(shuffled) == split
    assert set(split.values()) == {"train", "val", "test"}
    assert sum(s == "train" for s in split.values()) > 15


@pytest.mark.parametrize(
    ("count", "expected"), [(1, ["train"]), (2, ["train", "val"]), (3, ["test", "train", "val"])]
)
def test_every_split_has_a_place_where_there_are_enough(count, expected):
    for offset in range(20):
        split = split_by_place({f"s{i}": f"place {i} {offset}" for i in range(count)})
        assert sorted(split.values()) == expected


def test_a_split_may_be_given(tmp_path):
    sources = scenes(2, 40)
    made = cube.build(sources, tmp_path / "c.zarr", split={"s0": "test", "s1": "train"})
    assert [s.id for s in made.of_split("test")] == ["s0"]
    with pytest.raises(CubeError, match=r"differ in \['s1'\]"):
        cube.build(sources, tmp_path / "c.zarr", split={"s0": "test"})
    with pytest.raises(CubeError, match="unknown split dev"):
        cube.build(sources, tmp_path / "c.zarr", split={"s0": "dev", "s1": "train"})


def test_pairs_keep_their_frames(tmp_path):
    rng = np.random.default_rng(0)
    grid = scenes(1, 60)["s0"].coords.to_dataset().drop_dims("band")
    bands = {"guide_band": list(S2_NAMES), "coarse_band": list(S3_NAMES)}
    plane = ("y_coarse", "x_coarse")
    scene = grid.assign_coords(bands).assign(
        guide=(("guide_band", "y", "x"), rng.random((12, 60, 60), np.float32)),
        guide_valid=(("y", "x"), rng.random((60, 60)) > 0.1),
        coarse=(("frame", "coarse_band", *plane), rng.random((4, 21, 6, 6), np.float32)),
        coarse_valid=(("frame", *plane), rng.random((4, 6, 6)) > 0.1),
    )
    made = cube.build_pairs({"p": scene}, tmp_path / "c.zarr", split={"p": "train"})
    stored = made.open_scene("p", decode=True)
    assert made.kind == "pairs"
    assert made.ratio == 10
    assert made.missing_bands == ()
    expected = scene.coarse.where(scene.coarse_valid).transpose(*stored.coarse.dims)
    np.testing.assert_allclose(stored.coarse.values, expected.values, atol=0.6e-4)
    assert made.statistics["coarse"]["count"] == int(scene.coarse_valid.sum())
    with pytest.raises(CubeError, match="differ in guide bands"):
        cube.build_pairs({"p": scene, "q": scene.isel(coarse_band=slice(5))}, tmp_path / "d.zarr")


def test_an_image_that_is_read_whole_is_not_kept_in_memory(built):
    """A loader opens every scene of a cube for as long as it lives."""
    scene = built.open_scene("s0")
    assert scene.guide.values.shape[0] == 12
    assert not scene.guide.variable._in_memory


def test_errors_name_the_cause(tmp_path):
    with pytest.raises(CubeError, match=r"no cube at .*nothing"):
        cube.open_cube(tmp_path / "nothing")
    zarr.create_group(tmp_path / "other")
    with pytest.raises(CubeError, match="another Zarr group"):
        cube.open_cube(tmp_path / "other")
    with pytest.raises(CubeError, match="no scenes"):
        cube.build([], tmp_path / "c.zarr")
    (tmp_path / "file").write_text("")
    with pytest.raises(CubeError, match="cannot write"):
        cube.build(scenes(1, 40), tmp_path / "file")
    with pytest.raises(CubeError, match="s0 has no map grid"):
        cube.build({"s0": scenes(1, 40)["s0"].drop_vars("spatial_ref")}, tmp_path / "c.zarr")
    with pytest.raises(SchedulerError, match="not the address of a Dask scheduler"):
        cube.build(scenes(1, 40), tmp_path / "c.zarr", scheduler="127.0.0.1")


@pytest.mark.samples
def test_a_cube_of_real_enmap_tiles(samples, tmp_path):
    """Four Potsdam tiles of one place: bare images without quality layers."""
    from satfuse.catalog.specs import local_catalog
    from satfuse.readers.enmap import enmap_item, open_enmap

    folder = samples / "enmap_potsdam_block_s" / "images"
    items = [enmap_item(path) for path in sorted(folder.glob("*.tif"))[:4]]
    spec = local_catalog(folder.as_uri(), folder)
    split = dict(zip((i.id for i in items), ("train", "train", "val", "test"), strict=True))
    made = cube.build(items, tmp_path / "c.zarr", spec=spec, split=split, missing="flag")
    assert len({s.place for s in made.scenes}) == 1
    assert made.missing_bands == ("Oa01", "Oa02")
    first = made.open_scene(items[0].id, decode=True)
    source = open_enmap(items[0], spec=spec, missing="flag").load()
    # the EnMAP band at the common centre of B04 and Oa08
    near = source.isel(band=int(abs(source.wavelength_nm.values - 664.6).argmin())).reflectance
    assert abs(first.guide.sel(guide_band="B04") - near).max() < 0.05
    target = first.target.sel(band="Oa08").values
    assert np.corrcoef(target.ravel(), near.values.ravel())[0, 1] > 0.999
    assert first.valid.values.mean() > 0.99
    assert 0.01 < made.statistics["target"]["mean"][0] < 0.3
