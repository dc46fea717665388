"""The uncertainty of a field: as the model gives it, in every tile and in its bands alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.product_scene import RATIO, make_crops

pytest.importorskip("torch")

import zarr

import satfuse
from satfuse import checkpoint, models
from satfuse.errors import ProductError
from satfuse.geometry.grids import lonlat_bbox
from satfuse.infer import FuseConfig, fuse_field, write_scene
from satfuse.infer.plan import make_plan, open_context, plan_path
from satfuse.infer.source import as_source
from satfuse.infer.tiles import compute_tile, count
from satfuse.models.bayesian import model as bayesian
from satfuse.product.layout import Layout
from satfuse.product.store import Store
from satfuse.sensors.bands import S2_NAMES, S3_ENMAP_NAMES, S3_NAMES
from satfuse.sensors.encoding import FILL
from satfuse.sensors.quality import Quality

pytestmark = pytest.mark.torch

CONFIG = FuseConfig(shard_px=150, chunk_px=150, block_px=90)
DAY = "2024-06-01"
TIME = f"{DAY}T10:00:00+00:00"


@pytest.fixture(scope="module")
def crops():
    return make_crops()


@pytest.fixture(scope="module")
def scene(crops):
    return crops[0]


@pytest.fixture(scope="module")
def scene_path(scene, tmp_path_factory):
    return write_scene(
        scene, tmp_path_factory.mktemp("scene") / "scene.zarr", field="crops", time=TIME
    )


@pytest.fixture(scope="module")
def store(scene_path, scheduler, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    fuse_field(scene_path, "bayesian", store, scheduler=scheduler, config=CONFIG)
    return store


def group(store):
    (path,) = Path(store).glob("data/*/*.zarr")
    return path


def chunk_bytes(store):
    return {
        str(p.relative_to(group(store))): p.read_bytes()
        for p in group(store).rglob("c/**/*")
        if p.is_file()
    }


def test_the_product_equals_the_field_in_one_piece(scene, store, scene_path):
    """Every tile, read with its own halo, against the whole field in one piece."""
    data = satfuse.open_fused(lonlat_bbox(scene.guide.odc.geobox), DAY, store=store).isel(time=0)
    values = data.reflectance.values
    sigma = data.uncertainty.values
    valid = scene.guide_valid.values
    has = np.array([name == "bayesian" for name in data.band_source.values])
    assert (~has).sum() == 1
    assert data.band_source.values[S3_NAMES.index("Oa05")] == "none"
    np.testing.assert_array_equal(np.isfinite(sigma), np.isfinite(values))
    np.testing.assert_array_equal(np.isfinite(sigma[has]), np.broadcast_to(valid, sigma[has].shape))
    assert sigma[has][:, valid].min() > 0
    assert not valid.all()
    whole = FuseConfig(shard_px=450, chunk_px=450, block_px=450)
    alone = store.parent / "one-tile"
    source = as_source(scene_path, missing="raise")
    model, card = checkpoint.resolve(
        "bayesian", guide_bands=S2_NAMES, coarse_bands=S3_NAMES, ratio=RATIO
    )
    plan = make_plan(Store(alone), "r", source, model, card, "bayesian", RATIO, whole)
    context = open_context(Store(alone), plan_path(plan.product_id, "r"))
    (tile,) = plan.tiles()
    uncertainty = compute_tile(context, tile)[2]
    here = uncertainty != FILL
    np.testing.assert_array_equal(here, np.isfinite(sigma))
    # one step of five significant bits
    np.testing.assert_allclose(sigma[here], uncertainty[here] * np.float32(2e-5), rtol=0.07)
    assert (sigma[here] == uncertainty[here] * np.float32(2e-5)).mean() > 0.99


def test_errors_agree_with_the_stated_uncertainty(crops, store):
    scene, truth = crops
    data = satfuse.open_fused(lonlat_bbox(scene.guide.odc.geobox), DAY, store=store).isel(time=0)
    error = np.abs(data.reflectance.values - truth) / data.uncertainty.values
    error = error[np.isfinite(error)]
    assert 0.4 < (error < 1).mean() < 0.95
    assert (error < 2).mean() > 0.75


def test_images_of_two_places_are_flagged(scene, scheduler, tmp_path):
    other = scene.assign(coarse=scene.coarse.copy(data=scene.coarse.values[:, ::-1, ::-1]))
    other["coarse_valid"] = scene.coarse_valid.copy(data=scene.coarse_valid.values[::-1, ::-1])
    path = write_scene(other, tmp_path / "scene.zarr", field="crops", time=TIME)
    fuse_field(path, "bayesian", tmp_path / "store", scheduler=scheduler, config=CONFIG)
    data = satfuse.open_fused(lonlat_bbox(scene.guide.odc.geobox), DAY, store=tmp_path / "store")
    assert (data.quality & int(Quality.SHIFT_UNTRUSTED) > 0).all()


def test_a_lost_shard_is_computed_again_with_the_same_bytes(scene_path, store, scheduler, tmp_path):
    before = chunk_bytes(store)
    assert sum(name.startswith("uncertainty/") for name in before) == 9
    uri = Path(fuse_field(scene_path, "bayesian", tmp_path, scheduler=scheduler, config=CONFIG))
    uri.unlink()
    (group(tmp_path) / "uncertainty/c/0/0/1/2").unlink()
    steps = []
    fuse_field(
        scene_path,
        "bayesian",
        tmp_path,
        scheduler=scheduler,
        config=CONFIG,
        progress=lambda *n: steps.append(n),
    )
    assert steps == [(8, 9), (9, 9)]
    assert chunk_bytes(tmp_path) == before


def test_a_model_without_uncertainty_makes_a_product_without(scene_path, scheduler, tmp_path):
    uri = fuse_field(scene_path, "regression", tmp_path, scheduler=scheduler, config=CONFIG)
    assert set(json.loads(Path(uri).read_text())["properties"]["cube:variables"]) == {
        "reflectance",
        "quality",
    }
    assert "uncertainty" not in zarr.open_group(group(tmp_path))
    assert "uncertainty" not in satfuse.open_fused((1.8, 30.6, 2, 31), DAY, store=tmp_path)


def test_bands_that_the_regression_completes_have_no_uncertainty(scene_path, tmp_path):
    small, card = checkpoint.load(checkpoint.SHIPPED / "bayesian", coarse_bands=S3_ENMAP_NAMES)
    model = models.complete(small, S3_NAMES, RATIO)
    source = as_source(scene_path, missing="raise")
    store = Store(tmp_path)
    plan = make_plan(store, "r", source, model, card, "bayesian", RATIO, CONFIG)
    assert plan.layout.uncertain_bands == tuple(b for b in S3_ENMAP_NAMES if b != "Oa05")
    context = replace(open_context(store, plan_path(plan.product_id, "r")), model=model)
    number, quality, uncertainty = compute_tile(context, plan.tiles()[0])
    has = np.isin(S3_NAMES, plan.layout.uncertain_bands)
    assert (uncertainty[~has] == FILL).all()
    assert (number[:2] != FILL).any()
    assert has.sum() == 18
    np.testing.assert_array_equal(uncertainty[has] != FILL, number[has] != FILL)
    assert count(plan.layout, number, quality, uncertainty)["inconsistent"] == 0


def test_contradictions_are_counted_once_a_pixel():
    layout = Layout(
        crs="EPSG:32631",
        transform=(10, 0, 0, 0, -10, 0),
        height=2,
        width=3,
        time=TIME,
        bands=("Oa01", "Oa03"),
        band_source=("regression", "bayesian"),
        uncertain_bands=("Oa03",),
    )
    number = np.full((2, 2, 3), 1000, "int16")
    quality = np.zeros((2, 3), "uint16")
    number[:, 0, 0] = FILL
    quality[0, 0] = 1
    uncertainty = np.where(number == FILL, FILL, 50).astype("int16")
    uncertainty[0] = FILL
    assert count(layout, number, quality, uncertainty) == {
        "pixels": 6,
        "finite": 5,
        "inconsistent": 0,
    }
    uncertainty[1, 0, :2] = 50, FILL  # without a value; a value without
    uncertainty[0, 1, 0] = 50  # in a band that has none
    quality[0, 1] = quality[1, 2] = 1  # a value where the guide is missing
    assert count(layout, number, quality, uncertainty)["inconsistent"] == 4
    assert count(layout, number, quality, None)["inconsistent"] == 2


def test_a_hole_in_the_uncertainty_is_not_published(scene_path, scheduler, tmp_path, monkeypatch):
    right = bayesian.standard_deviation

    def holed(*arguments):
        sigma = right(*arguments)
        sigma[..., 50, 50] = np.nan
        return sigma

    monkeypatch.setattr(bayesian, "standard_deviation", holed)
    with pytest.raises(
        ProductError, match="value, quality and uncertainty contradict each other in"
    ):
        fuse_field(scene_path, "bayesian", tmp_path, scheduler=scheduler, config=CONFIG)
    assert not list(tmp_path.glob("items/*"))
