"""The classical baselines against their defining properties."""

import numpy as np
import pytest
from scipy import optimize

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from satfuse.errors import ConfigError, GridError
from satfuse.geometry.tiling import Window
from satfuse.models.atprk import ATPRK, krige, kriging_weights, regularised, semivariogram
from satfuse.models.blocks import Cut, Inputs, fuse_blocks
from satfuse.models.cnmf import CNMF, nonnegative, successive_projection
from satfuse.models.gsa import GSA
from satfuse.models.mtf_glp import MtfGlp, MtfGlpHpm
from satfuse.models.observation import degrade, upsample
from satfuse.models.regression import Regression
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA
from tests.models.torch_scene import summary

CLASSICAL = [ATPRK, GSA, MtfGlp, MtfGlpHpm, CNMF]
GUIDE = ("B02", "B03", "B04", "B08")  # all natively 10 m: the regression's penalty is small
COARSE = ("Oa04", "Oa06", "Oa08", "Oa12", "Oa17")
SIGMA = DEFAULT_PSF_SIGMA


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scene(h=18, w=22, ratio=10, beyond=0.05):
    """Guide, coarse image and target: linear in the guide, with detail that only `coarse` has.

    Parameters
    ----------
    beyond : reflectance of that detail.
    """
    guide = 0.05 + 0.4 * upsample(rand(1, 4, 2 * h, 2 * w), ratio)[..., ::2, ::2].clamp(0, 1)
    target = torch.einsum("kc,bchw->bkhw", rand(5, 4, seed=1) / 3, guide) + 0.02
    target = target + beyond * upsample(rand(1, 5, h, w, seed=2), ratio)
    return guide, degrade(target, ratio, SIGMA), target


def make(cls, ratio=10, **options):
    if cls is CNMF:  # few steps where values do not matter
        options = {"rounds": 10, "steps": 40} | options
    return cls(guide_bands=GUIDE, coarse_bands=COARSE, ratio=ratio, **options).eval()


def run(cls, guide, coarse, **options):
    """State and image of a model fitted on the same scene."""
    model = make(cls, guide.shape[-1] // coarse.shape[-1], **options)
    state = model.fit(summary(guide, coarse))
    return state, model(guide, coarse, state=state).image


def holes():
    guide_valid = upsample(rand(1, 1, 18, 22, seed=3), 10) > 0.2
    coarse_valid = rand(1, 1, 18, 22, seed=4) > 0.2
    coarse_valid[..., 4:9, 10:15] = False  # wider than what neighbours can fill
    return guide_valid, coarse_valid


@pytest.mark.parametrize("cls", CLASSICAL)
def test_tiled_equals_untiled_with_holes(cls):
    guide, coarse, _ = (x.float() for x in scene())
    guide_valid, coarse_valid = holes()
    model = make(cls)
    state = model.fit(summary(guide, coarse, guide_valid, coarse_valid))
    valid = {"guide_valid": guide_valid[0, 0].numpy(), "coarse_valid": coarse_valid[0, 0].numpy()}
    whole = Window(0, 180, 0, 220)
    inputs = Inputs(window=whole, guide=guide[0].numpy(), coarse=coarse[0].numpy(), **valid)
    images = []
    for block_px in (10_000, 50):
        blocks = list(
            fuse_blocks(
                model, state, inputs, whole, Cut.of(model, (180, 220), 10, block_px=block_px)
            )
        )
        images.append(np.full((5, 180, 220), np.nan, "float32"))
        for part, values, _ in blocks:
            images[-1][:, *part.slices()] = values
    assert len(blocks) == 20
    np.testing.assert_allclose(images[1], images[0], atol=1e-5)


@pytest.mark.parametrize("cls", CLASSICAL)
def test_values_in_holes_change_nothing(cls):
    """Where both images are missing, the caller's nearest value stays: nothing is known there."""
    guide, coarse, _ = scene()
    guide_valid, coarse_valid = holes()
    valid = {"guide_valid": guide_valid, "coarse_valid": coarse_valid}
    kept = coarse_valid | degrade(guide[:, :1], 10, SIGMA, valid=guide_valid).isnan()
    assert (~kept).sum() > 50
    images = []
    for value in (0.2, 0.9):
        values = torch.where(guide_valid, guide, value), torch.where(kept, coarse, value)
        model = make(cls)
        image = model(*values, state=model.fit(summary(*values, **valid)), **valid).image
        assert image.isfinite().all()
        images.append(torch.where(guide_valid, image, 0.0))
    torch.testing.assert_close(*images, atol=1e-12, rtol=0)


@pytest.mark.parametrize("cls", CLASSICAL)
@pytest.mark.parametrize("pixels", [0, 1, 5])
def test_stays_finite_on_degenerate_scenes(cls, pixels):
    guide, coarse, _ = scene()
    guide[:, 1] = 0.25  # a band without variance
    guide[:, 2] = guide[:, 3]
    coarse[:, 3] = 0.0
    valid = torch.zeros(1, 1, 18, 22, dtype=bool)
    valid.view(-1)[:pixels] = True
    model = make(cls)
    image = model(
        guide,
        coarse,
        state=model.fit(summary(guide, coarse, coarse_valid=valid)),
        coarse_valid=valid,
    ).image
    assert image.isfinite().all()
    assert image.abs().max() < 10


@pytest.mark.parametrize("cls", CLASSICAL)
@pytest.mark.parametrize("ratio", [2, 7, 15])
def test_any_ratio_is_better_than_bicubic(cls, ratio):
    guide, coarse, target = scene(9, 8, ratio, beyond=0.005)
    _, image = run(cls, guide, coarse, **({"rounds": 50, "steps": 200} if cls is CNMF else {}))
    error, bicubic = ((x - target).square().mean().sqrt() for x in (image, upsample(coarse, ratio)))
    assert image.shape == target.shape
    assert error < 0.5 * bicubic
    with pytest.raises(ConfigError, match=f"the {cls.name} model needs the state"):
        make(cls)(guide, coarse)
    with pytest.raises(GridError, match="integer multiple"):
        make(cls)(guide[..., :-1], coarse, state=run(cls, guide, coarse)[0])


@pytest.mark.samples
def test_potsdam_is_far_better_than_bicubic(samples, tmp_path):
    pytest.importorskip("xbatcher", reason="the benchmark needs the train extra")
    import satfuse
    from benchmarks.quality import potsdam
    from satfuse.validate.checks import scores

    guide, coarse, target = potsdam.east(potsdam.build_cube(samples, tmp_path / "cube.zarr"))
    bands = {
        "guide_bands": tuple(guide.band.values),
        "coarse_bands": tuple(coarse.band.values),
        "ratio": 10,
    }
    methods = {"bicubic": "bicubic", "regression": "regression"} | {
        c.name: c(**bands) for c in CLASSICAL
    }
    results = {}
    for name, model in methods.items():
        image = satfuse.fuse(guide, coarse, model=model)["reflectance"].values
        results[name] = scores(image, target.values, 10)
    for cls in CLASSICAL:
        assert results[cls.name]["sam_land_deg"] < 0.2 * results["bicubic"]["sam_land_deg"]
        assert results[cls.name]["rmse"] < 0.1 * results["bicubic"]["rmse"]
        assert results[cls.name]["rmse"] < 1.01 * results["regression"]["rmse"]
    assert results["cnmf"]["sam_land_deg"] < 0.8 * results["regression"]["sam_land_deg"]


# ATPRK


def test_kriging_weights_sum_to_one_and_keep_constants():
    weights = np.stack([kriging_weights(r, SIGMA, 6) for r in (0.2, 1.0, 20.0)])
    np.testing.assert_allclose(weights.sum((-2, -1)), 1, atol=1e-12)
    image = krige(torch.full((1, 3, 4, 5), 0.3, dtype=torch.float64), torch.from_numpy(weights))
    torch.testing.assert_close(image, torch.full((1, 3, 24, 30), 0.3, dtype=torch.float64))


def test_kriging_system_has_the_covariances_of_its_definition():
    """Against the covariances as explicit sums over pairs of points, and the kriging equations."""
    ratio = 3
    extent = 0.7
    steps = range(-3, 4)
    position = np.arange(-15, 17)
    blur = [np.exp(-0.5 * ((position - 1 - ratio * i) / (SIGMA * ratio)) ** 2) for i in steps]
    blur = [
        b * (np.abs(position - 1 - ratio * i) <= 3 * SIGMA * ratio)
        for b, i in zip(blur, steps, strict=True)
    ]
    supports = np.stack([np.outer(a / a.sum(), b / b.sum()).ravel() for a in blur for b in blur])
    y, x = (p.ravel() for p in np.meshgrid(position, position, indexing="ij"))
    to_points = supports @ np.exp(-np.hypot(y[:, None] - y, x[:, None] - x) / (extent * ratio))
    weights = kriging_weights(extent, SIGMA, ratio)
    for i, j in ((0, 0), (2, 1), (1, 1), (0, 2)):
        equations = (
            to_points @ supports.T @ weights[i, j].ravel() - to_points[:, (y == i) & (x == j)][:, 0]
        )
        assert np.ptp(equations) < 1e-10
        assert weights[i, j].sum() == pytest.approx(1)


def test_kriging_without_nugget_interpolates():
    """With points as support a coarse value is a point's value, and comes back at that point."""
    weights = kriging_weights(1.5, 0.01, 5)
    expected = np.zeros((7, 7))
    expected[3, 3] = 1
    np.testing.assert_allclose(weights[2, 2], expected, atol=1e-9)
    assert np.abs(weights[0, 0] - expected).max() > 0.1


@pytest.mark.parametrize("extent", [0.2, 1.0, 10.0])
def test_degrading_a_kriged_image_gives_it_back(extent):
    image = rand(1, 1, 14, 15) - 0.5
    kriged = krige(image, torch.from_numpy(kriging_weights(extent, SIGMA, 10))[None])
    error, bicubic = (
        (degrade(x, 10, SIGMA) - image)[..., 3:-3, 3:-3] for x in (kriged, upsample(image, 10))
    )
    assert error.square().mean().sqrt() < 0.06 * image.std()  # of white noise, the worst case
    assert bicubic.square().mean().sqrt() > 0.4 * image.std()


def test_atprk_gives_the_coarse_image_back():
    guide, coarse, _ = scene()
    images = [run(cls, guide, coarse)[1] for cls in (ATPRK, Regression)]
    errors = [
        (degrade(i, 10, SIGMA) - coarse)[..., 3:-3, 3:-3].square().mean().sqrt() for i in images
    ]

    assert errors[0] < 5e-4
    assert errors[1] > 10 * errors[0]


def test_semivariogram_is_the_mean_over_pairs():
    image = rand(2, 6, 7)
    valid = rand(6, 7, seed=1) > 0.3
    semivariance, pairs = semivariogram(image, valid, 3)
    for dy, dx in ((0, 2), (3, 0), (1, 2)):
        terms = [
            (image[1, i, j] - image[1, i + dy, k]) ** 2 / 2
            for i in range(6 - dy)
            for j in range(7)
            for k in {j - dx, j + dx}
            if 0 <= k < 7 and valid[i, j] and valid[i + dy, k] and not (dy == 0 and k < j)
        ]
        assert pairs[dy, dx] == len(terms)
        assert semivariance[1, dy, dx] == pytest.approx(np.mean(terms))


@pytest.mark.parametrize("extent", [0.5, 2.0])
def test_atprk_finds_the_range_of_the_residual(extent):
    """An exponential field of 60 x 60 coarse pixels, drawn in the Fourier domain of a torus."""
    ratio = 4
    size = 240
    offset = np.minimum(np.arange(2 * size), 2 * size - np.arange(2 * size))
    covariance = np.exp(-np.hypot(offset[:, None], offset) / (extent * ratio))
    noise = np.random.default_rng(1).standard_normal((5, 2 * size, 2 * size))
    field = np.fft.ifft2(np.fft.fft2(noise) * np.sqrt(np.fft.fft2(covariance).real.clip(0))).real[
        :, :size, :size
    ]
    coarse = degrade(0.1 + 0.02 * torch.from_numpy(field)[None], ratio, SIGMA)
    guide = torch.full((1, 4, size, size), 0.2, dtype=torch.float64)
    ranges = make(ATPRK, ratio).fit(summary(guide, coarse))["range"].numpy()
    assert np.abs(np.log(ranges / extent)).mean() < np.log(1.5)


def test_a_regularised_semivariogram_rises_from_zero_below_that_of_points():
    values = regularised(1.0, SIGMA, 8)
    along = values[0]
    assert along[0] == 0
    assert (np.diff(along) > 0).all()
    assert (along < 1 - np.exp(-np.arange(9.0)) + 1e-12).all()
    np.testing.assert_allclose(values, values.T, atol=1e-12)


# GSA


def ols(inputs, outputs):
    """Least squares with a bias by numpy; (outputs, inputs + 1)."""
    x = np.vstack([inputs.flatten(1).numpy(), np.ones(inputs[0].numel())])
    return np.linalg.lstsq(x.T, outputs.flatten(1).numpy().T, rcond=None)[0].T


def apply(weights, image):
    flat = np.vstack([image.flatten(1).numpy(), np.ones(image[0].numel())])
    return torch.from_numpy(weights @ flat).unflatten(1, image.shape[1:])


def test_gsa_injects_what_the_intensity_lacks():
    """Every step by numpy's least squares: synthesis, intensity, gain, injection."""
    guide, coarse, _ = scene()
    _, image = run(GSA, guide, coarse)
    low = degrade(guide, 10, SIGMA)[0]
    synthesis = ols(low, coarse[0])
    p = apply(synthesis, guide[0])
    p_low = apply(synthesis, low)
    intensity = apply(ols(coarse[0], p_low), coarse[0])
    pairs = zip(coarse[0].flatten(1).numpy(), intensity.flatten(1).numpy(), strict=True)
    gain = torch.tensor([np.cov(y, i)[0, 1] / np.var(i, ddof=1) for y, i in pairs])[:, None, None]
    expected = upsample(coarse, 10)[0] + gain * (p - upsample(intensity, 10))
    torch.testing.assert_close(image[0], expected, atol=5e-4, rtol=0)
    assert (image[0] - upsample(coarse, 10)[0]).abs().mean() > 0.01


def test_gsa_keeps_the_mean_and_ignores_the_guides_units():
    guide, coarse, _ = scene()
    _, image = run(GSA, guide, coarse)
    inner = image - upsample(coarse, 10)
    assert inner.mean((-2, -1)).abs().max() < 0.02 * inner.std()
    _, scaled = run(GSA, 3 * guide + 0.2, coarse)
    torch.testing.assert_close(scaled, image, atol=5e-4, rtol=0)


# MTF-GLP


def test_mtf_glp_adds_the_highpass_of_the_synthesised_image():
    guide, coarse, _ = scene()
    state, image = run(MtfGlp, guide, coarse)
    low = degrade(guide, 10, SIGMA)
    synthesis = ols(low[0], coarse[0])
    p = apply(synthesis, guide[0])
    p_low = upsample(apply(synthesis, low[0]), 10)
    torch.testing.assert_close(image[0] - upsample(coarse, 10)[0], p - p_low, atol=5e-4, rtol=0)
    torch.testing.assert_close(state["gain"], torch.ones(5, dtype=torch.float64), atol=1e-3, rtol=0)


def test_mtf_glp_gain_undoes_a_wrong_scale_of_the_synthesised_image():
    guide, coarse, _ = scene()
    state, image = run(MtfGlp, guide, coarse)
    halved = {k: v / 2 if k in ("weights", "bias") else v for k, v in state.items()} | {
        "gain": 2 * state["gain"]
    }
    torch.testing.assert_close(make(MtfGlp)(guide, coarse, state=halved).image, image)


def test_hpm_is_multiplicative_and_stays_positive():
    guide, coarse, _ = scene()
    state, image = run(MtfGlpHpm, guide, coarse)
    p = torch.einsum("kc,bchw->bkhw", state["weights"], guide) + state["bias"][:, None, None]
    factor = p / upsample(degrade(p, 10, SIGMA), 10)
    torch.testing.assert_close(image, upsample(coarse, 10) * factor)
    assert (image > 0).all()
    model = make(MtfGlpHpm)
    # the detail is a factor
    torch.testing.assert_close(model(guide, 3 * coarse, state=state).image, 3 * image)
    dark = state | {"bias": state["bias"] - 0.2}  # a synthesised image that falls below zero
    values = model(guide, coarse, state=dark).image
    assert (values > 0).all()
    assert values.isfinite().all()


# CNMF


def mixtures(ratio=10, pure=True):
    """Four surfaces, mixed within coarse pixels except, if `pure`, in wide fields on the left.

    The guide is the target seen through the responses R.
    """
    draw = {"generator": torch.Generator().manual_seed(7)}
    wide = (
        torch.randint(4, (4, 2), **draw)
        .repeat_interleave(6 * ratio, 0)
        .repeat_interleave(6 * ratio, 1)
    )
    narrow = torch.randint(4, (20, 10), **draw).repeat_interleave(12, 0).repeat_interleave(12, 1)
    fields = torch.cat([wide, narrow], 1) if pure else narrow
    sharp = torch.nn.functional.one_hot(fields, 4).permute(2, 0, 1).double()
    shares = torch.nn.functional.avg_pool2d(sharp[None], 5, 1, 2, count_include_pad=False)
    spectra = 0.05 + 0.4 * rand(5, 4, seed=8)
    response = 0.7 * torch.eye(4, 5).double() + rand(4, 5, seed=9) / 10
    target = torch.einsum("cp,bphw->bchw", spectra, shares)
    return (
        torch.einsum("gc,bchw->bghw", response, target),
        degrade(target, ratio, SIGMA),
        target,
        spectra,
        response,
    )


def test_cnmf_recovers_exact_mixtures():
    guide, coarse, target, spectra, response = mixtures()
    state, image = run(CNMF, guide, coarse, rounds=50, steps=200)
    shares = state["grid.abundances"]
    endmembers = state["coarse_endmembers"]
    assert endmembers.shape == (5, 4)  # as many as the scene has, of the 20 that were allowed
    assert (shares >= 0).all()
    assert (shares.sum(0) - 1).abs().max() < 0.01
    distance = torch.cdist(endmembers.T, spectra.T)
    assert sorted(distance.argmin(1).tolist()) == [0, 1, 2, 3]
    assert distance.min(1).values.max() < 0.02
    torch.testing.assert_close(response @ endmembers, state["guide_endmembers"], atol=1e-4, rtol=0)
    error, bicubic = ((x - target).square().mean().sqrt() for x in (image, upsample(coarse, 10)))
    assert error < 5e-4
    assert bicubic > 100 * error


def test_cnmf_learns_pure_spectra_from_the_guide():
    """If every coarse pixel is mixed, endmembers taken from coarse pixels are mixtures too."""
    guide, coarse, target, *_ = mixtures(pure=False)
    images = [run(CNMF, guide, coarse, rounds=rounds, steps=200)[1] for rounds in (0, 50)]
    errors = [(image - target).square().mean().sqrt() for image in images]
    assert errors[1] < 0.1 * errors[0]


def test_nonnegative_equals_scipys_solution():
    rng = np.random.default_rng(0)
    a = rng.random((12, 6))
    b = rng.standard_normal((12, 30))
    expected = np.stack([optimize.nnls(a, column)[0] for column in b.T], 1)
    gram = torch.from_numpy(a.T @ a)
    data = torch.from_numpy(a.T @ b)
    solution = nonnegative(gram, data, torch.full((6, 30), 0.1, dtype=torch.float64), 3000)
    np.testing.assert_allclose(solution.numpy(), expected, atol=1e-6)
    assert (expected == 0).any()
    assert (expected > 0).any()


def test_successive_projection_chooses_the_pure_pixels():
    spectra = rand(8, 4)
    shares = rand(4, 100, seed=1)
    shares[:, [3, 20, 55, 90]] = torch.eye(4, dtype=torch.float64)
    shares = shares / shares.sum(0)
    assert sorted(successive_projection(spectra @ shares, 10)) == [3, 20, 55, 90]
