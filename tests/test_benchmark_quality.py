"""The scenes, methods, scores and tables of the benchmark.

Its long run is `python -m benchmarks.quality`.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("xbatcher", reason="benchmarks.quality trains")
pytestmark = pytest.mark.torch

from dataclasses import replace
from functools import partial
from itertools import count

from benchmarks.quality import longer, matrix, scenes, tables, training
from benchmarks.quality.methods import LEARNED, METHODS, Budget, Tiled, run, weights_of
from benchmarks.quality.scenes import POTSDAM, RATIOS, Case, make_scene
from benchmarks.quality.scores import CLASSES, band_quality, class_map, coverage, score
from satfuse import metrics, models
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.degradation import degrade
from satfuse.simulate.scenes.factory import BIOME_NAMES

SMALL = Budget(seconds=0.5, scenes=1, side_px=60)


def case(protocol="clean", place="coast", ratio=10, seed=0):
    return Case(place=place, ratio=ratio, protocol=protocol, seed=seed)


@pytest.fixture(scope="module")
def scene():
    return make_scene(case("realistic"), 120)


def test_default_cases_are_those_of_the_document():
    cases = scenes.default_cases(3)
    assert len(set(cases)) == len(cases)
    realistic = [c for c in cases if c.protocol == "realistic" and c.place != POTSDAM]
    every = {(biome, ratio) for biome in BIOME_NAMES for ratio in RATIOS}
    assert {(c.place, c.ratio) for c in realistic} == every
    assert {c.place for c in cases if c.protocol == "clean"} == set(scenes.PLACES)
    for protocol in scenes.PROTOCOLS:
        biomes = [c for c in cases if c.protocol == protocol and c.place != POTSDAM]
        assert len({c.place for c in biomes}) >= 3
        assert {c.ratio for c in biomes} == set(RATIOS)
        cloudy = "cloud" in protocol
        assert {c.seed for c in biomes} == set(range(5 if cloudy else 3))
        potsdam = [c.seed for c in cases if c.protocol == protocol and c.place == POTSDAM]
        assert len(potsdam) == {scenes.UNSEEN: 0, "realistic": 3}.get(protocol, 5 if cloudy else 1)
    assert {c.ratio for c in cases if c.place == POTSDAM} == {10}
    assert set(cases) < set(scenes.all_cases(3))


def test_every_learned_method_also_runs_withheld_and_slow_ones_skip_other_protocols():
    runs = matrix.planned(list(METHODS), case("realistic"), full=False)
    assert {name for name, withheld in runs if withheld} == set(LEARNED)
    assert {name for name, withheld in runs if not withheld} == set(METHODS)
    others = matrix.planned(list(METHODS), case("shift 1"), full=False)
    assert {n for n in METHODS if (n, False) not in others} == {"fusformer", "fusformer-other"}
    assert {n for n, withheld in others if withheld} == {"library_regression", "bayesian"}
    full = matrix.planned(list(METHODS), case("shift 1"), full=True)
    assert len(full) == len(METHODS) + len(LEARNED)


def test_protocols_have_one_truth_and_differ_as_they_state():
    clean, moved, cloudy, other, unseen = (
        make_scene(case(p), 120)
        for p in ("clean", "shift 0.5", "cloud 40 %", "other SRF", scenes.UNSEEN)
    )
    np.testing.assert_array_equal(clean.target, moved.target)
    np.testing.assert_array_equal(clean.target, cloudy.target)
    np.testing.assert_array_equal(clean.guide, moved.guide)
    assert 0 < np.abs(other.target - clean.target).max() < 0.1  # other responses on the same ground
    assert np.abs(unseen.target - clean.target).max() > 0.1  # other ground
    assert clean.guide.notnull().all()
    assert clean.coarse.notnull().all()
    assert cloudy.guide.isnull().mean() > 0.2
    assert cloudy.coarse.isnull().mean() > 0.2
    # independent of the simulation: content moves right by 0.4 and up by 0.3 coarse pixels
    valid = moved.coarse.notnull().all("band").values
    expected = degrade(clean.target, 10, shift=(0.4, -0.3))
    np.testing.assert_allclose(moved.coarse.values[:, valid], expected[:, valid], atol=1e-5)
    assert np.hypot(*moved.shift) == pytest.approx(0.5)


def test_seeds_give_different_ground():
    one, again, other = (make_scene(case(seed=s), 60).target for s in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).mean() > 0.01


@pytest.mark.samples
@pytest.mark.usefixtures("samples")
def test_potsdam_is_observed_as_the_protocol_states():
    clean, real = (make_scene(case(p, POTSDAM)) for p in ("clean", "realistic"))
    assert clean.bands == S3_NAMES[2:]
    assert clean.target.shape == (19, 120, 60)
    np.testing.assert_allclose(clean.coarse.values, degrade(clean.target, 10), atol=1e-6)
    # away from the edges, beyond which the coarse image lacks the ground
    inside = (slice(None), slice(2, -2), slice(2, -2))
    expected = degrade(real.target, 10, 0.5, shift=(0.25, 0.25)) * real.gain[:, None, None]
    assert np.std((real.coarse.values - expected)[inside]) == pytest.approx(0.002, rel=0.2)


def test_the_truth_scores_perfectly_and_known_errors_as_expected(scene):
    truth = score(scene.target, None, scene)
    assert truth["all"]["rmse"] == 0
    assert truth["all"]["sam_deg"] == 0
    assert truth["all"]["psnr_db"] is None
    assert truth["all"]["ssim"] == truth["all"]["q2n"] == 1
    assert truth["back"]["rmse"] == truth["back"]["noise"]
    assert truth["back"]["noise"] == pytest.approx(0.002, rel=0.25)  # of the protocol
    assert truth["back"]["rmse_uncalibrated"] > 1.2 * truth["back"]["noise"]  # a gain error of 2 %
    wrong = score(scene.target + np.float32(0.01), None, scene)
    assert wrong["all"]["rmse"] == pytest.approx(0.01, rel=1e-3)
    assert wrong["all"]["psnr_db"] == pytest.approx(40, abs=0.01)
    assert wrong["bands"]["bias"] == pytest.approx([0.01] * 21, rel=1e-3)
    assert wrong["land"]["sam_rad"] == pytest.approx(np.deg2rad(wrong["land"]["sam_deg"]), rel=1e-4)
    assert wrong["dark"]["sam_deg"] > wrong["land"]["sam_deg"] > 0


def test_the_degraded_image_fits_as_well_as_the_method_estimates_the_observation(scene):
    right, down = scene.shift
    true = {
        "shift_m": (300 * right, -300 * down),
        "psf_sigma": list(scene.psf_sigma),
        "gain": list(scene.gain),
    }
    back = score(scene.target, None, scene, true)["back"]
    assert back["rmse_estimated"] == back["rmse"]
    worse = score(scene.target, None, scene, true | {"gain": list(1.02 * scene.gain)})["back"]
    assert worse["rmse_estimated"] > 1.2 * worse["rmse"] == 1.2 * back["rmse"]
    assert "rmse_estimated" not in score(scene.target, None, scene, {"shift_m": (0, 0)})["back"]


def test_classes_partition_the_scene(scene):
    masks = class_map(scene)
    assert tuple(masks) == CLASSES
    np.testing.assert_array_equal(np.sum([masks[c] for c in CLASSES[:-1]], axis=0), 1)
    dark = np.sqrt((scene.target.astype(float) ** 2).mean(0)) < 0.03
    assert dark.any()
    assert (masks["dark"] == dark).all()


def test_snow_is_classified_where_there_is_snow():
    share = {
        p: class_map(make_scene(case(place=p), 120))["snow"].mean() for p in ("snow", "desert")
    }
    assert share["snow"] > 0.2
    assert share["desert"] < 0.01


def test_coverage_of_normal_errors(scene):
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.001, 0.01, scene.target.shape).astype(np.float32)
    image = scene.target + sigma * rng.standard_normal(scene.target.shape, dtype=np.float32)
    result = coverage(image, sigma, scene)
    assert result["within_1"] == pytest.approx(0.6827, abs=0.005)
    assert result["within_2"] == pytest.approx(0.9545, abs=0.005)
    assert result["quantiles"][9] == pytest.approx(0.6745, abs=0.01)  # the median of |normal|
    assert coverage(image, 2 * sigma, scene)["within_1"] == pytest.approx(0.9545, abs=0.005)


def test_band_quality_is_uiqi_of_one_block():
    rng = np.random.default_rng(1)
    bands = 0.2 + 0.1 * rng.random((4, 32, 32)) + 0.05 * rng.random((32, 32))
    matrix_ = band_quality(bands.reshape(4, -1))
    for i, j in np.ndindex(4, 4):
        expected = metrics.uiqi(bands[[i]], bands[[j]], block=32)[0]
        assert matrix_[i, j] == pytest.approx(expected, rel=1e-9)


def test_patches_of_both_scales_show_the_same_ground():
    rng = np.random.default_rng(2)
    target = torch.from_numpy(rng.random((21, 180, 180), dtype=np.float32))
    coarse = target.unflatten(1, (18, 10)).unflatten(3, (18, 10)).mean((2, 4))
    one = {
        "guide": target[:12],
        "coarse": coarse,
        "target": target,
        "valid": torch.ones(1, 180, 180, dtype=bool),
    }
    batch = training._draw_patches({10: [one]}, Budget(), 16, rng)
    blocks = batch["target"].unflatten(2, (6, 10)).unflatten(4, (6, 10)).mean((3, 5))
    torch.testing.assert_close(blocks, batch["coarse"])
    torch.testing.assert_close(batch["guide"], batch["target"][:, :12])
    corners = {round(float(p[0, 0, 0]), 5) for p in batch["target"]}
    assert len(corners) > 8


@pytest.mark.parametrize("make", [training.factory_scenes, training.other_scenes])
def test_training_scenes_are_complete_and_have_the_requested_bands(make):
    chosen = training.of_bands(make((10, 30), S3_NAMES, SMALL), 19, (10,))
    assert list(chosen) == [10]
    assert len(chosen[10]) == SMALL.scenes
    one = chosen[10][0]
    assert one["guide"].shape == (12, 60, 60)
    assert one["coarse"].shape == (19, 6, 6)
    assert one["target"].shape[0] == 19
    assert all(v.isfinite().all() for v in one.values())
    middle = one["target"].unflatten(1, (6, 10)).unflatten(3, (6, 10)).mean((2, 4))[:, 2:4, 2:4]
    assert (one["coarse"][:, 2:4, 2:4] - middle).abs().mean() < 0.1


def test_a_network_learns_within_its_seconds_and_fuses(tmp_path, monkeypatch):
    # each step takes a second of this clock, however busy the machine is
    monkeypatch.setattr(training.time, "process_time", count().__next__)
    budget = replace(SMALL, seconds=40)
    simulated = training.factory_scenes((10,), S3_NAMES, budget)
    folder = weights_of("spectral", S3_NAMES, tmp_path, budget)
    training.train_network("spectral", simulated, folder, S3_NAMES, budget)
    small = make_scene(case(), 60)
    image = run("spectral", small, tmp_path, budget).image
    assert image.shape == (21, 60, 60)
    assert np.isfinite(image).all()
    bicubic = run("bicubic", small, tmp_path, budget).image
    assert metrics.rmse(image, small.target) < 0.9 * metrics.rmse(bicubic, small.target)


def test_a_withheld_coarse_image_has_no_influence(tmp_path, scene):
    training.train_library(weights_of("library_regression", S3_NAMES, tmp_path, SMALL), S3_NAMES)
    other = replace(scene, coarse=scene.coarse * 0.5 + 0.1)
    without, again = (
        run("library_regression", s, tmp_path, SMALL, withheld=True).image for s in (scene, other)
    )
    np.testing.assert_array_equal(without, again)
    with_coarse = run("library_regression", scene, tmp_path, SMALL).image
    assert np.abs(with_coarse - without).max() > 1e-3


def test_tiles_give_every_pixel_once():
    bands = {"guide_bands": S2_NAMES, "coarse_bands": S3_NAMES}
    model = models.create("library_regression", **bands, ratio=10)
    torch.nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(0))
    guide = torch.rand(1, 12, 120, 90)
    coarse = torch.rand(1, 21, 12, 9)
    tiled = Tiled(model, 60, 50, 10)
    torch.testing.assert_close(tiled(guide, coarse).image, model(guide, coarse).image)


def row(method, seed=0, sam=1.0, withheld=False, **further):
    key = {
        "place": "coast",
        "ratio": 10,
        "protocol": "clean",
        "seed": seed,
        "method": method,
        "withheld": withheld,
    }
    values = {"land": {"sam_deg": sam}, "all": {"rmse": sam / 100}, "bands": {"rmse": [sam, None]}}
    return key | {"scores": values} | further


def failed(method, seed):
    return {k: v for k, v in row(method, seed, failed="GridError: no").items() if k != "scores"}


def test_a_cell_is_the_mean_over_scenes_and_the_spread_over_seeds():
    rows = [
        row("gsa", 0, 1.0),
        row("gsa", 0, 3.0, place="city"),
        row("gsa", 1, 4.0),
        row("gsa", 1, 4.0, place="city"),
    ]
    assert tables.mean_spread(rows, tables.SAM) == (3.0, pytest.approx(2**0.5))  # of 2 and 4
    assert np.isnan(tables.mean_spread(rows[:2], tables.SAM)[1])
    assert np.isnan(tables.value(rows[0], ("bands", "rmse", 1)))
    assert np.isnan(tables.value(rows[0], ("bands", "rmse", 9)))


def test_a_column_counts_only_scenes_that_all_methods_fused():
    rows = [row("gsa", 0, 1.0), row("gsa", 1, 9.0), row("cnmf", 0, 2.0), failed("cnmf", 1)]
    text = tables.pivot(rows, "place", BIOME_NAMES, tables.SAM, 2)
    assert "| gsa | **1.00** |" in text
    assert "| cnmf | 2.00 |" in text
    assert "9" not in text
    assert tables.failures(rows) == "- coast, ratio 10, clean, seed 1, by cnmf: GridError: no"
    refused = [failed("cnmf", 1), failed("gsa", 1), failed("gsa", 1) | {"withheld": True}]
    assert tables.failures(refused).endswith("by every method: GridError: no")


@pytest.mark.parametrize(
    ("sams", "words"),
    [((0.8, 0.9), "| better |"), ((0.2, 1.3), "not better"), ((1.5, 1.5), "not")],
)
def test_the_verdict_needs_a_gain_beyond_the_spread(sams, words):
    rows = [row("gsa", s, sam) for s, sam in enumerate((1.0, 1.2))]
    rows += [row("bicubic", s, 9.0) for s in (0, 1)]
    rows += [row("bayesian", s, sam) for s, sam in enumerate(sams)]
    lines = tables.verdict(rows).splitlines()
    assert len(lines) == 4
    assert all(words in line and "| gsa |" in line for line in lines[2:])


def test_the_verdict_on_the_coarse_image_compares_the_bayesian_model_with_itself():
    rows = [row("gsa", s, 0.1) for s in (0, 1)]  # does not enter
    rows += [
        row("bayesian", s, sam, withheld=w)
        for w, sams in enumerate(((0.5, 0.6), (0.8, 0.95)))
        for s, sam in enumerate(sams)
    ]
    lines = tables.verdict_withheld(rows).splitlines()
    assert len(lines) == 4
    assert all("| without S3 |" in line and line.endswith("| better |") for line in lines[2:])
    assert "| 0.325 ± 0.035 |" in lines[2]


def test_the_verdict_mentions_when_there_is_only_one_seed():
    lines = tables.verdict([row("gsa", 0, 1.0), row("bayesian", 0, 0.5)]).splitlines()
    assert all(line.endswith("| better, one seed |") for line in lines[2:])


def test_scenes_that_the_bayesian_model_wins_are_counted():
    rows = [row("bayesian", 0, 0.5), row("gsa", 0, 0.6), row("cnmf", 0, 0.7)]
    rows += [row("bayesian", 1, 0.5), row("gsa", 1, 0.6), row("cnmf", 1, 0.4)]
    rows += [failed("bayesian", 2), row("gsa", 2, 0.1)]
    rows += [row("bayesian", 0, 0.4, withheld=True), row("gsa", 1, 0.1, withheld=True)]
    lines = tables.wins(rows).splitlines()
    assert len(lines) == 3
    assert lines[2] == "| clean | 1 of 2 | 0 of 1 | 1 of 2 | 0 of 1 |"


def test_results_are_kept_and_replaced_by_case_and_method(tmp_path):
    old = [row("gsa", 0, 1.0), row("gsa", 1, 2.0), row("gsa", 1, 5.0, withheld=True)]
    rows = matrix.merged(old, [row("gsa", 1, 3.0), row("cnmf", 0, 4.0)])
    matrix.write(tmp_path / "r.json", {"memory_mb": {"gsa": 80.5}, "rows": rows})
    assert matrix.read(tmp_path / "r.json") == {"memory_mb": {"gsa": 80.5}, "rows": rows}
    keys = ("method", "seed", "withheld")
    assert sorted((*(r[k] for k in keys), r["scores"]["land"]["sam_deg"]) for r in rows) == [
        ("cnmf", 0, False, 4.0),
        ("gsa", 0, False, 1.0),
        ("gsa", 1, False, 3.0),
        ("gsa", 1, True, 5.0),
    ]
    assert matrix.read(tmp_path / "none.json")["rows"] == []


def test_longer_training_is_compared_with_the_bayesian_model(tmp_path, monkeypatch):
    monkeypatch.setattr(longer, "NETWORKS", ("spectral",))
    monkeypatch.setattr(longer, "SECONDS", (0.5, 1))
    monkeypatch.setattr(longer, "CASES", [case("clean"), case("realistic")])
    monkeypatch.setattr(longer, "JOBS", 1)
    monkeypatch.setattr(longer, "Budget", partial(Budget, scenes=1, side_px=60))
    lines = longer.table(tmp_path).splitlines()
    assert [line.split("|")[1:3] for line in lines[2:]] == [
        [" spectral ", " 0.5 s "],
        [" spectral ", " 1 s "],
        [" bayesian ", " weights of the package "],
    ]
    assert float(lines[-1].split("|")[3]) < float(lines[2].split("|")[3])
