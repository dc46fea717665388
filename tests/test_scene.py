"""Pairs and scenes of a small archive: its gap, clocks, shift and radiometry are recovered."""

import json
from collections import Counter
from dataclasses import replace

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

from satfuse import scene as scene_module
from satfuse.catalog.deduplicate import deduplicate
from satfuse.catalog.fields import load_field
from satfuse.catalog.specs import local_catalog
from satfuse.errors import GridError, RegistrationError
from satfuse.geometry.cells import average, sample_windows
from satfuse.pairing import PairRules, candidates, find_pairs, read_pairs, write_pairs
from satfuse.scene import average_guide, degrade_cells, make_scene, sample_guide
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.degradation import degrade
from satfuse.sensors.quality import COARSE_INVALID, Quality
from satfuse.simulate.archive import ArchiveRecipe, make_archive

SHIFT_M = (110.0, -160.0)
GAP_S = -140.0


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    properties = {"name": "small", "title": "18 coarse pixels", "crs": "EPSG:32635"}
    properties["bounds_m"] = [466_200, 6_461_400, 471_600, 6_466_800]
    path = folder / "small.geojson"
    path.write_text(json.dumps({"type": "Feature", "properties": properties}))
    recipe = ArchiveRecipe(
        field=str(path),
        frame_rows=60,
        columns=65,
        enmap_scenes=0,
        shift_m=SHIFT_M,
        gap_s=GAP_S,
        cloudy_cover=0.5,
    )
    return make_archive(folder / "archive", recipe, workers=1), load_field(str(path))


@pytest.fixture(scope="module")
def inputs(archive):
    made, field = archive
    spec = local_catalog("http://127.0.0.1:1", made.root)
    frames = made.items["sentinel-3-syn-2-syn-ntc"] + made.items["sentinel-3-syn-2-syn-stc"]
    coarse = deduplicate(frames, "sentinel3_syn", spec.collections_of("sentinel3_syn"))
    return made.items["sentinel-2-l2a"], coarse, field, {"guide_spec": spec, "coarse_spec": spec}


@pytest.fixture(scope="module")
def pair(inputs):
    guide, coarse, field, specs = inputs
    (pair,) = find_pairs(guide, coarse, field, **specs)
    return pair


@pytest.fixture(scope="module")
def scene(pair):
    return make_scene(pair, pair.geobox)


def test_true_gap_of_the_archive(pair):
    """Although row times are 18 s ahead and item times 8 minutes early."""
    assert pair.gap_s == pytest.approx(GAP_S, abs=1.0)
    assert pair.gap_clock == "MTD_TL SENSING_TIME, time.nc rows"
    assert not pair.approximate
    assert abs(pair.item_gap_s - GAP_S) > 300
    # two tiles, and two frames that meet on the field
    assert len(pair.guide) == 2
    assert len(pair.coarse) == 2
    assert pair.overlap == 1
    assert pair.guide_cloud < 0.05
    assert pair.coarse_cloud < 0.05
    assert (pair.guide_platform, pair.coarse_platform) == ("S2A", "S3A")
    assert 0 < pair.coarse_angles.view_zenith_deg <= pair.maximum_view_zenith_deg < 60


def test_clouds_on_the_field_fail_the_rule(inputs):
    guide, coarse, field, specs = inputs
    cloudy = [c for c in candidates(guide, coarse, field, **specs) if c.pair and c.failed]
    assert len(cloudy) == 1
    assert any("guide cloud" in f for f in cloudy[0].failed)
    assert any("coarse cloud" in f for f in cloudy[0].failed)
    assert cloudy[0].pair.guide_cloud == pytest.approx(cloudy[0].pair.coarse_cloud, abs=0.2)
    assert len(find_pairs(guide, coarse, field, rules=PairRules(maximum_cloud=1), **specs)) == 2


def test_pair_is_recovered_from_the_table(pair, tmp_path):
    write_pairs([pair], tmp_path / "pairs.parquet")
    assert read_pairs(tmp_path / "pairs.parquet") == [pair]


def test_a_known_shift_is_estimated_and_applied(scene):
    dx, dy = scene.attrs["shift_m"]
    assert scene.attrs["shift_trusted"]
    assert np.hypot(dx - SHIFT_M[0], dy - SHIFT_M[1]) < 30  # a tenth of a pixel
    assert 0 < scene.attrs["shift_sigma_m"] < 30
    assert scene["coarse"].attrs["shift_m"] == scene.attrs["shift_m"]
    assert scene["coarse"].attrs["shift_trusted"] == 1


def test_coarse_is_the_degraded_truth(scene, archive, pair):
    truth = degrade(xr.open_zarr(archive[0].truth, consolidated=False)["reflectance"].values, 30)
    valid = scene["coarse_valid"].values

    def error(coarse):
        difference = (coarse["coarse"].values - truth)[:, valid & coarse["coarse_valid"].values]
        return np.sqrt(np.nanmean(difference**2))

    assert error(scene) < 0.015 < truth[:, valid].std() / 4
    assert error(make_scene(pair, pair.geobox, shift="none")) > 1.5 * error(scene)
    with_known_shift = make_scene(pair, pair.geobox, shift=SHIFT_M)
    assert error(with_known_shift) == pytest.approx(error(scene), rel=0.1)


def test_contract_of_a_scene(scene, pair):
    assert scene["guide"].dims == ("guide_band", "y", "x")
    assert list(scene.guide_band.values) == list(S2_NAMES)
    assert scene["coarse"].dims == ("coarse_band", "y_coarse", "x_coarse")
    assert list(scene.coarse_band.values) == list(S3_NAMES)
    assert scene["guide"].odc.geobox == pair.geobox
    assert np.allclose(scene.x_coarse, pair.geobox.affine.c + 300 * (np.arange(18) + 0.5))
    assert np.allclose(scene.y_coarse, pair.geobox.affine.f - 300 * (np.arange(18) + 0.5))
    assert scene["guide"].chunks is not None
    assert isinstance(scene["coarse"].data, np.ndarray)
    assert scene["guide"].dtype == scene["coarse"].dtype == np.float32
    assert scene["guide_quality"].dtype == scene["coarse_quality"].dtype == np.uint16
    bad = (scene["coarse_quality"].values & np.uint16(COARSE_INVALID)) > 0
    assert (bad == ~scene["coarse_valid"].values).all()
    assert np.isfinite(scene["coarse"].values[:, ~bad]).all()
    assert np.isnan(scene["coarse"].values[:, bad]).all()
    assert scene.attrs["gap_s"] == pair.gap_s
    assert len(scene.attrs["item_ids"]) == 4
    assert scene.attrs["baselines"] == ["05.11", "05.11"]
    assert scene.attrs["guide_angles"]["sun_zenith_deg"] < 60


@pytest.mark.parametrize("shift", ["estimate", "none"])
def test_a_scene_has_cells_and_patches_of_its_guide_in_memory(pair, scene, shift):
    if shift == "none":
        scene = make_scene(pair, pair.geobox, shift=shift)
    assert scene["guide_cells"].dims == ("guide_band", "y_cell", "x_cell")
    assert scene["guide_patches"].dims == ("patch", "guide_band", "y_patch", "x_patch")
    direct = degrade(scene["guide"].values, 30, valid=scene["guide_valid"].values)
    degraded = degrade_cells(scene["guide_cells"].values, 30, 30)
    np.testing.assert_allclose(degraded, direct, atol=1e-6)
    masked = scene["guide"].where(scene["guide_valid"]).values
    windows = sample_windows(30, pair.geobox.shape)
    patches = np.stack([masked[:, *window] for window in windows])
    np.testing.assert_array_equal(scene["guide_patches"].values, patches)


def test_a_scene_is_recovered_from_disk(scene, tmp_path):
    pytest.importorskip("torch", reason="satfuse.infer needs the models extra")
    from satfuse.infer.source import as_source, write_scene

    path = write_scene(scene, tmp_path / "scene.zarr", field="small", time="2024-06-01T10:00:00")
    opened = as_source(path, missing="raise").open(30)
    for name in scene.data_vars:
        np.testing.assert_array_equal(opened[name].values, scene[name].values)
    assert opened["coarse"].attrs["shift_trusted"] == 1


def test_untrusted_shift_is_flagged_and_not_applied(pair):
    """A field of 4 x 4 coarse pixels is too small to register."""
    small = pair.geobox[:120, :120]
    scene = make_scene(pair, small)
    assert not scene.attrs["shift_trusted"]
    assert scene.attrs["shift_m"] == (0.0, 0.0)
    assert "needed" in scene.attrs["shift_reason"]
    assert ((scene["coarse_quality"].values & Quality.SHIFT_UNTRUSTED) > 0).all()
    plain = make_scene(replace(pair, approximate=True), small, shift="none")
    assert ((plain["coarse_quality"].values & Quality.TIME_APPROXIMATE) > 0).all()
    assert not (plain["coarse_quality"].values & Quality.SHIFT_UNTRUSTED).any()
    np.testing.assert_array_equal(plain["coarse"], scene["coarse"])


@pytest.mark.parametrize("shift", ["guess", (1.0,), (1.0, float("nan")), ("a", "b"), 3])
def test_an_invalid_shift_is_refused(pair, shift):
    with pytest.raises(RegistrationError, match="shift"):
        make_scene(pair, pair.geobox, shift=shift)


def test_a_ratio_that_does_not_divide_the_grid_is_refused(pair):
    with pytest.raises(GridError, match="does not divide"):
        make_scene(pair, pair.geobox, ratio=7)


@pytest.mark.parametrize(
    "chunks",
    [((3, 1), (70, 100, 10), (40, 140, 30)), ((1, 3), (180,), (9, 201)), ((4,), (60,) * 3, 210)],
)
def test_averaging_by_chunks_is_averaging(chunks, monkeypatch):
    monkeypatch.setattr("satfuse.geometry.cells.EXACT_PIXELS", 1)
    rng = np.random.default_rng(0)
    image = rng.random((4, 180, 210)).astype("float32")
    valid = rng.random((180, 210)) > 0.2
    valid[30:95, 60:130] = False
    image[:, ~valid] = np.nan
    lazy = da.from_array(image, chunks=chunks)
    cells = average_guide(lazy, da.from_array(valid, chunks=50), 30)
    expected, enough = average(image, valid, 6)
    assert cells.dtype == np.float32
    assert cells.shape == (4, 30, 35)
    assert not enough.all()
    np.testing.assert_array_equal(np.isfinite(cells), np.broadcast_to(enough, cells.shape))
    np.testing.assert_allclose(cells[:, enough], expected[:, enough], rtol=1e-6)


def test_cells_and_patches_together_read_the_guide_once(monkeypatch):
    monkeypatch.setattr("satfuse.geometry.cells.SAMPLE_PIXELS", 1)
    reads = Counter()

    def load(block_info=None):
        place = block_info[None]["chunk-location"]
        reads[place] += 1
        return np.full(block_info[None]["chunk-shape"], sum(place), np.float32)

    lazy = da.map_blocks(load, chunks=((4,), (200,) * 3, (200,) * 3), dtype=np.float32)
    guide = xr.DataArray(lazy, dims=("band", "y", "x"))
    valid = xr.ones_like(guide[0], dtype=bool)
    images = [f(guide, valid, 30) for f in (scene_module._lazy_cells, scene_module._lazy_patches)]
    cells, patches = dask.compute(*images)
    assert set(reads.values()) == {1}
    np.testing.assert_array_equal(cells, average_guide(guide, valid, 30))
    np.testing.assert_array_equal(patches, sample_guide(guide, valid, 30))
