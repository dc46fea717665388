"""The bayesian model with its shipped weights, from images to image, on scenes of known truth."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models need the models extra")
pytestmark = pytest.mark.torch

from satfuse import checkpoint
from satfuse.errors import ConfigError, RadiometryError
from satfuse.geometry.tiling import Window
from satfuse.models.bayesian.spectral_prior import features
from satfuse.models.blocks import Cut, Inputs, fill_holes, fuse_blocks
from satfuse.models.summary import summarise
from satfuse.sensors.bands import S2_NAMES, S3_ENMAP_NAMES, S3_NAMES, wavelengths_nm
from satfuse.sensors.degradation import degrade
from satfuse.simulate.scenes.factory import biome_scene
from satfuse.simulate.scenes.protocol import Protocol

REALISTIC = Protocol(psf_sigma=0.5, shift=(0.25, 0.25), gain=0.02, noise=0.002)
PX = 120


def load(guide=S2_NAMES, coarse=S3_NAMES):
    return checkpoint.load(checkpoint.SHIPPED / "bayesian", guide_bands=guide, coarse_bands=coarse)[
        0
    ]


@pytest.fixture(scope="module")
def model():
    return load()


def scene_of(biome="crop", ratio=10, protocol=REALISTIC, seed=3, fine_px=PX):
    return biome_scene(biome, ratio=ratio, protocol=protocol, seed=seed, fine_px=fine_px)


def fitted(model, scene, guide=None, coarse=None, registered=False):
    """State and what `forward` takes."""
    guide = scene.guide if guide is None else guide
    coarse = scene.coarse if coarse is None else coarse
    filled = np.stack([fill_holes(c, v) for c, v in zip(coarse, scene.coarse_valid, strict=True)])
    masked = np.where(scene.guide_valid, guide, np.float32(np.nan))
    state = model.fit(
        summarise(masked, filled, scene.coarse_valid, ratio=scene.ratio, registered=registered)
    )
    median = (
        np.nanmedian(masked, (1, 2), keepdims=True)
        if scene.guide_valid.any()
        else np.zeros((len(guide), 1, 1))
    )
    return state, np.where(scene.guide_valid, guide, median).astype(np.float32), filled[0]


def fuse(model, scene, block_px=10_000, **rest):
    """State, image and standard deviation."""
    state, guide, coarse = fitted(model, scene, **rest)
    shape = guide.shape[1:]
    whole = Window(0, shape[0], 0, shape[1])
    valid = {"guide_valid": scene.guide_valid, "coarse_valid": scene.coarse_valid[0]}
    inputs = Inputs(window=whole, guide=guide, coarse=coarse, **valid)
    cut = Cut.of(model, shape, scene.ratio, block_px=block_px)
    image, sigma = (np.full((len(coarse), *shape), np.nan, np.float32) for _ in range(2))
    for part, values, spread in fuse_blocks(model, state, inputs, whole, cut):
        image[:, *part.slices()], sigma[:, *part.slices()] = values, spread
    assert np.isfinite(image).all() and (sigma > 0).all() and np.isfinite(sigma).all()
    return state, image, sigma


def rmse(image, scene, bands=slice(None)):
    return np.sqrt(np.square((image - scene.target[bands])[:, scene.guide_valid]).mean())


def angle(image, scene):
    """Mean spectral angle of the valid pixels of land, degrees."""
    from satfuse import metrics

    land = scene.guide_valid & (np.sqrt(np.square(scene.target).mean(0)) >= 0.03)
    return metrics.sam_deg(image, scene.target, land)


def with_holes(scene, seed=0):
    rng = np.random.default_rng(seed)
    size, r = scene.guide.shape[1] // scene.ratio, scene.ratio
    guide_valid = np.kron(rng.random((size, size)) > 0.15, np.ones((r, r))) > 0
    guide_valid &= rng.random(guide_valid.shape) > 0.03
    coarse_valid = scene.coarse_valid & (rng.random((size, size)) > 0.15)
    return replace(scene, guide_valid=guide_valid, coarse_valid=coarse_valid)


@pytest.mark.parametrize("biome", ["desert", "city", "snow"])
def test_clean_scenes_are_fused_and_degrade_back(model, biome):
    """Bands as sharp as the pixels: the fused image is the truth, and shows S3 again under the observation found."""
    scene = scene_of(biome, protocol=Protocol(equal_blur=True))
    state, image, _ = fuse(model, scene)
    assert rmse(image, scene) < 0.0025
    again = degrade(
        image, 10, state["psf_sigma"].numpy().astype(float), shift=state["shift"][0].tolist()
    )
    assert np.sqrt(np.square(again - scene.coarse[0])[:, scene.coarse_valid[0]].mean()) < 1e-3
    assert (
        np.abs(state["shift"].numpy()).max() < 0.02
        and np.abs(state["psf_sigma"] - 0.5008).max() < 0.03
    )


@pytest.mark.parametrize("ratio", [7, 10, 15, 30])
def test_any_ratio_beats_the_library_alone(model, ratio):
    """S3 makes the library's own prediction better, also as a realistic sensor shows it."""
    scene = scene_of(ratio=ratio, fine_px={7: 168, 10: 120, 15: 180, 30: 240}[ratio])
    blind = replace(scene, coarse_valid=np.zeros_like(scene.coarse_valid))
    state, image, _ = fuse(model, scene)
    assert rmse(image, scene) < rmse(fuse(model, blind)[1], scene)
    np.testing.assert_allclose(state["shift"][0], [0.25, 0.25], atol=0.06)


def test_observation_and_gains_are_given_back(model):
    scene = scene_of(protocol=replace(REALISTIC, gain=0.03, psf_sigma=0.6), fine_px=180)
    state, _, _ = fuse(model, scene)
    np.testing.assert_allclose(state["shift"], scene.shift, atol=0.02)
    np.testing.assert_allclose(state["psf_sigma"], scene.psf_sigma, atol=0.03)
    error = state["gain"].numpy() - scene.gain
    assert (
        error.std() < 0.7 * scene.gain.std()
    )  # partly the library's spread, which no single scene tells from a gain
    assert state["gain"].shape == state["noise"].shape == (1, 21) and state[
        "shift_sigma"
    ].shape == (1, 2)


@pytest.mark.parametrize("ratio", [10, 15, 30])
def test_tiled_equals_untiled_with_holes(model, ratio):
    """Native blur, residual field, and holes in both."""
    protocol = Protocol(shift=(0.4, -0.3), slstr_factor=5 / 3, gain=0.02, noise=0.002)
    scene = with_holes(
        scene_of(ratio=ratio, fine_px={10: 120, 15: 120, 30: 240}[ratio], protocol=protocol)
    )
    state, whole, spread = fuse(model, scene)
    _, tiled, tiled_spread = fuse(model, scene, block_px=3 * ratio)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    np.testing.assert_allclose(tiled_spread, spread, atol=1e-5)
    assert state["grid.field"].any()


@pytest.mark.parametrize(("biome", "ratio"), [("crop", 15), ("desert", 10), ("snow", 30)])
def test_thin_cloud_that_masks_leave_does_not_mislead(model, biome, ratio):
    """Under three skies S3 helps, although each image has its own clouds."""
    ours, blind = [], []
    for seed in (10, 11, 12):
        scene = scene_of(biome, ratio=ratio, protocol=Protocol(cloud=0.2), seed=seed, fine_px=240)
        without = replace(scene, coarse_valid=np.zeros_like(scene.coarse_valid))
        for found, given in ((ours, scene), (blind, without)):
            image = fuse(model, given)[1]
            found.append((rmse(image, scene), angle(image, scene)))
    assert (np.mean(ours, 0) < np.mean(blind, 0)).all()


@pytest.mark.parametrize(("biome", "ratio"), [("crop", 15), ("desert", 10), ("snow", 30)])
def test_pixels_beside_masks_are_mended_in_tiles_too(model, biome, ratio):
    scene = scene_of(biome, ratio=ratio, protocol=Protocol(cloud=0.2), seed=10, fine_px=240)
    state, image, sigma = fuse(model, scene)
    unfiltered = {
        k: torch.eye(12).expand_as(v) if k == "edge_matrix" else 0 * v
        for k, v in state.items()
        if "edge" in k
    }
    guide, valid = np.where(scene.guide_valid, scene.guide, 0)[None], scene.guide_valid[None, None]
    inputs = {"coarse": torch.from_numpy(scene.coarse), "guide_valid": torch.from_numpy(valid)}
    rough = model(torch.from_numpy(guide), state=state | unfiltered, **inputs)
    assert rmse(image, scene) < 0.85 * rmse(rough.image[0].numpy(), scene)
    _, tiled, tiled_sigma = fuse(model, scene, block_px=3 * ratio)
    np.testing.assert_allclose(tiled, image, atol=1e-5)
    np.testing.assert_allclose(tiled_sigma, sigma, atol=1e-5)


def test_the_same_twice(model):
    scene = with_holes(scene_of())
    first, second = fuse(model, scene), fuse(load(), scene)
    for a, b in zip(first[1:], second[1:], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("guide", "coarse"),
    [(S2_NAMES, S3_ENMAP_NAMES), (S2_NAMES[::-1], S3_NAMES), (("B02", "B03", "B04", "B08"), S3_NAMES),
     (("B04", "B8A"), ("Oa08", "Oa17")), (S2_NAMES, ("Oa10",))],
)  # fmt: skip
def test_any_bands(guide, coarse):
    scene = scene_of()
    g, c = [S2_NAMES.index(b) for b in guide], [S3_NAMES.index(b) for b in coarse]
    state, image, _ = fuse(
        load(guide, coarse), scene, guide=scene.guide[g], coarse=scene.coarse[:, c]
    )
    assert rmse(image, scene, c) < (0.005 if len(guide) == 12 else 0.02)
    np.testing.assert_allclose(state["shift"][0], [0.25, 0.25], atol=0.1)


def test_the_order_of_bands_does_not_matter(model):
    scene = scene_of()
    _, image, _ = fuse(model, scene)
    _, turned, _ = fuse(
        load(S2_NAMES[::-1], S3_NAMES[::-1]),
        scene,
        guide=scene.guide[::-1],
        coarse=scene.coarse[:, ::-1],
    )
    np.testing.assert_allclose(turned[::-1], image, atol=2e-4)


def test_an_absent_coarse_band_comes_from_the_guide(model):
    scene = scene_of()
    absent = S3_NAMES.index("Oa10")
    coarse = scene.coarse.copy()
    coarse[:, absent] = np.nan
    state, image, sigma = fuse(model, scene, coarse=coarse)
    assert np.sqrt(np.square(image[absent] - scene.target[absent]).mean()) < 0.006
    assert state["gain"][0, absent] == 1 and state["noise"][0, absent].isnan()
    with_it = fuse(model, scene)
    others = np.arange(21) != absent
    assert np.abs(image - with_it[1])[others].max() < 0.01
    assert (np.abs(image - scene.target)[absent] < 2 * sigma[absent]).mean() > 0.5


def test_several_frames_are_no_worse_than_one(model):
    shifts = ((0.25, 0.25), (-0.4, 0.1), (0.6, -0.7))
    scene = scene_of(protocol=replace(REALISTIC, shift=shifts, noise=0.005))
    cloudy = scene.coarse.copy()
    cloudy[2, :, :6] = 0.7  # under the mask
    scene.coarse_valid[2, :6] = False
    state, image, _ = fuse(model, scene, coarse=cloudy)
    np.testing.assert_allclose(state["shift"], shifts, atol=0.06)
    one = replace(scene, coarse=cloudy[:1], coarse_valid=scene.coarse_valid[:1])
    assert rmse(image, scene) <= 1.02 * rmse(fuse(model, one)[1], scene)
    alone = replace(
        scene, coarse_valid=scene.coarse_valid & np.array([True, False, False])[:, None, None]
    )
    assert np.isfinite(fuse(model, alone, coarse=cloudy)[1]).all()


def test_without_coarse_pixels_the_library_speaks(model):
    scene = scene_of(protocol=replace(REALISTIC, equal_blur=True, noise=0))
    blind = replace(scene, coarse_valid=np.zeros_like(scene.coarse_valid))
    state, image, sigma = fuse(model, blind)
    expected = np.moveaxis(features(np.moveaxis(scene.guide, 0, -1)) @ model.prior.mean.T, -1, 0)
    assert (
        np.sqrt(np.square(image - expected).mean()) < 1e-3
    )  # all but the filter against the guide's noise
    assert (
        (state["shift_sigma"] > 0.5).all()
        and not state["grid.field"].any()
        and (state["gain"] == 1).all()
    )
    assert state["misfit"].isnan().all() and rmse(image, scene) < 0.01
    assert np.median(sigma) > 0.5 * np.median(np.abs(image - scene.target))


def test_noise_of_the_guide_is_not_amplified(model):
    scene = scene_of(protocol=replace(REALISTIC, noise=0.01, equal_blur=True), fine_px=180)
    _, image, _ = fuse(model, scene)
    assert rmse(image, scene) < 0.011


def test_uncertainty_tells_the_size_of_errors(model):
    inside = []
    for biome in ("crop", "city", "coast"):
        scene = scene_of(biome)
        _, image, sigma = fuse(model, scene)
        error = np.abs(image - scene.target)
        inside.append([(error < sigma).mean(), (error < 2 * sigma).mean()])
    one, two = np.mean(inside, 0)
    assert 0.5 < one < 0.85 and 0.85 < two <= 1


@pytest.mark.parametrize("wrong", ["swapped", "reversed guide", "DN", "half"])
def test_nonsense_is_refused(model, wrong):
    scene = scene_of()
    guide, coarse = scene.guide, scene.coarse.copy()
    if wrong == "swapped":
        a, b = S3_NAMES.index("Oa08"), S3_NAMES.index("Oa17")
        coarse[:, [a, b]] = coarse[:, [b, a]]
    elif wrong == "reversed guide":
        guide = guide[::-1].copy()
    else:
        coarse *= 10_000 if wrong == "DN" else 0.4
    with pytest.raises(RadiometryError, match="not what the guide shows"):
        fitted(model, scene, guide=guide, coarse=coarse)


def test_misfit_is_small_where_all_is_well(model):
    for biome in ("coast", "snow"):
        misfit = fitted(model, scene_of(biome))[0]["misfit"]
        assert misfit.shape == (21,) and misfit.max() < 0.2


def test_frames_without_data_do_no_harm(model):
    """An empty frame before two good ones: they tell as much as they do alone."""
    shifts = ((0.0, 0.0), (0.4, -0.3), (0.4, -0.3))
    scenes = [scene_of(protocol=replace(REALISTIC, shift=shift), fine_px=180) for shift in shifts]
    coarse, valid = (
        np.concatenate([getattr(s, name) for s in scenes]) for name in ("coarse", "coarse_valid")
    )
    valid[0] = False
    (_, image, sigma), (_, alone, _) = (
        fuse(model, replace(scenes[0], coarse=coarse[of], coarse_valid=valid[of]))
        for of in (slice(0, 3), slice(1, 3))
    )
    assert rmse(image, scenes[0]) < 1.05 * rmse(alone, scenes[0])
    assert (np.abs(image - scenes[0].target) < sigma).mean() > 0.6


def test_registration_stands_where_the_scene_says_nothing(model):
    scene = scene_of()
    blind = replace(scene, coarse_valid=np.zeros_like(scene.coarse_valid))
    sigma = fitted(model, blind, registered=True)[0]["shift_sigma"]
    assert (sigma < fitted(model, blind)[0]["shift_sigma"] / 5).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_shift_that_clouds_may_have_moved_is_not_said_to_be_sure(model, seed):
    scene = scene_of("coast", 15, Protocol(cloud=0.4), seed=seed, fine_px=240)
    state = fitted(model, scene)[0]
    assert (np.abs(state["shift"][0].numpy()) < 4 * state["shift_sigma"][0].numpy()).all()


@pytest.mark.parametrize("frame", [0, 1])
def test_a_frame_of_nothing_but_cloud_is_refused(model, frame):
    scene = scene_of(protocol=replace(REALISTIC, shift=(0.0, 0.0)))
    cloud = np.interp(wavelengths_nm(S3_NAMES), [400, 900, 2200], [0.8, 0.8, 0.4])[:, None, None]
    coarse, valid = np.repeat(scene.coarse, 2, 0), np.repeat(scene.coarse_valid, 2, 0)
    coarse[frame] = 0.2 * coarse[frame] + 0.8 * cloud
    with pytest.raises(RadiometryError, match="coarse image shows nothing but cloud"):
        fuse(model, replace(scene, coarse=coarse, coarse_valid=valid))


def test_forward_needs_the_state(model):
    with pytest.raises(ConfigError, match="needs the state"):
        model(torch.zeros(1, 12, 60, 60), torch.zeros(1, 21, 6, 6))


@pytest.mark.parametrize(
    "case",
    ["bright snow", "all water", "guide nearly all invalid", "loud", "far", "constant", "negative"],
)
def test_extremes_stay_finite_and_sane(model, case):
    """What is odd but possible is fused without NaN and without absurd values; `fuse` checks what is finite."""
    protocol = {
        "loud": replace(REALISTIC, noise=0.05),
        "far": replace(REALISTIC, shift=(2.3, -2.2)),
    }.get(case, REALISTIC)
    scene = scene_of("snow" if case == "bright snow" else "crop", protocol=protocol)
    rng = np.random.default_rng(0)
    if case == "bright snow":
        top = 1.2 / np.quantile(scene.target, 0.99)
        scene = replace(
            scene, guide=scene.guide * top, coarse=scene.coarse * top, target=scene.target * top
        )
    elif case == "all water":
        dark = {
            k: rng.normal(0.01, 0.001, getattr(scene, k).shape).astype("f4")
            for k in ("guide", "coarse", "target")
        }
        scene = replace(scene, **dark)
    elif case == "guide nearly all invalid":
        valid = np.zeros((PX, PX), bool)
        valid[40:67, 40:67] = True
        scene = replace(scene, guide_valid=valid)
    elif case == "constant":
        scene = replace(
            scene,
            **{k: np.full_like(getattr(scene, k), 0.2) for k in ("guide", "coarse", "target")},
        )
    elif case == "negative":
        scene = replace(
            scene, guide=scene.guide - 0.05, coarse=scene.coarse - 0.05, target=scene.target - 0.05
        )
    state, image, _ = fuse(model, scene)
    limit = {"loud": 0.06, "bright snow": 0.03, "negative": 0.03, "far": 0.03}.get(case, 0.02)
    assert rmse(image, scene) < limit
    assert all(
        v.isfinite().all()
        for k, v in state.items()
        if k not in ("noise", "misfit", "correlation", "shift_sigma")
    )
    if case == "far":
        np.testing.assert_allclose(state["shift"][0], [2.3, -2.2], atol=0.1)


# --- scores of docs/quality.md; Potsdam is real, and no weights have seen it or the spectra of the
# other places


@cache
def scores(place, ratio, protocol, seed):
    """SAM over land in degrees, RMSE over all pixels, share of errors within one and two sigma."""
    import satfuse
    from benchmarks.quality.scenes import Case, make_scene
    from benchmarks.quality.scores import score

    scene = make_scene(Case(place=place, ratio=ratio, protocol=protocol, seed=seed))
    fused = satfuse.fuse(scene.guide, scene.coarse)
    row = score(fused["reflectance"].values, fused["uncertainty"].values, scene)
    return (
        row["land"]["sam_deg"],
        row["all"]["rmse"],
        row["coverage"]["within_1"],
        row["coverage"]["within_2"],
    )


@pytest.mark.samples
@pytest.mark.parametrize(
    ("place", "ratio", "protocol", "seeds", "sam_deg", "rmse"),
    [
        ("potsdam", 10, "clean", 1, 0.524, 0.00188),  # asked: 0.60 and 0.0020
        ("potsdam", 10, "realistic", 3, 0.923, 0.00294),  # asked: 1.05 and 0.0034
        ("potsdam", 10, "cloud 20 %", 5, 0.839, 0.00803),
        ("crop", 15, "cloud 20 %", 1, 0.354, 0.00832),
        ("desert", 30, "realistic", 1, 0.628, 0.00450),
        ("city", 30, "realistic", 1, 1.573, 0.00656),
        ("snow", 10, "realistic", 1, 0.495, 0.00183),
    ],
)
def test_the_scores_of_the_table(samples, place, ratio, protocol, seeds, sam_deg, rmse):
    """A regression of 5 % fails."""
    pytest.importorskip("xbatcher", reason="the benchmark needs the train extra")
    found = np.mean([scores(place, ratio, protocol, seed) for seed in range(seeds)], 0)
    np.testing.assert_allclose(found[:2], [sam_deg, rmse], rtol=0.05)


@pytest.mark.samples
@pytest.mark.parametrize(
    ("place", "ratios", "seeds"),
    [
        ("potsdam", (10,), 3),
        ("city", (30,), 1),
        ("city", (10, 15, 30), 1),
        ("desert", (10, 15, 30), 1),
        ("snow", (10, 15, 30), 1),
    ],
)
def test_realistic_errors_are_as_large_as_the_uncertainty_says(samples, place, ratios, seeds):
    pytest.importorskip("xbatcher", reason="the benchmark needs the train extra")
    found = np.mean(
        [scores(place, ratio, "realistic", seed) for ratio in ratios for seed in range(seeds)], 0
    )
    assert 0.6 < found[2] < 0.75 and 0.9 < found[3] < 0.97
