"""SSRNet, SpectraLift and the library regression against their defining properties."""

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from satfuse import checkpoint, models
from satfuse.errors import BandError, ConfigError
from satfuse.models.library_regression import LibraryRegression
from satfuse.models.observation import degrade, upsample
from satfuse.models.regression import Regression
from satfuse.models.spectralift import SpectraLift
from satfuse.models.ssrnet import SSRNet, nearest_bands
from satfuse.sensors.bands import S2_NAMES, S3_ENMAP_NAMES, S3_NAMES
from satfuse.sensors.srf import srf_matrix
from satfuse.train.library import fit_library
from tests.models import torch_scene

RATIO = 10
FULL = {"guide_bands": 12, "coarse_bands": 21, "ratio": RATIO}


def textured(h, w, seed=0, bands=12):
    """Guide (1, bands, 10 h, 10 w) of fields about one coarse pixel wide, bands correlated."""
    random = torch.Generator().manual_seed(seed)
    cover = torch.softmax(8 * upsample(torch.rand(1, 4, h, w, generator=random), RATIO), 1)
    return torch.einsum("sc,bshw->bchw", torch.rand(4, bands, generator=random) * 0.5, cover)


def summary(guide, coarse, valid=None):
    """Summary at a PSF width of 0.5 coarse pixels; `valid` (h, w) is of the coarse image."""
    coarse_valid = None if valid is None else valid[None, None]
    return torch_scene.summary(guide, coarse, coarse_valid=coarse_valid, psf_sigma=0.5)


def rmse(a, b):
    return float((a - b).detach().square().mean().sqrt())


def initialised(seed=0, **bands):
    torch.manual_seed(seed)
    return SSRNet(**FULL | bands).eval()


# ----- SSRNet


@pytest.mark.parametrize("coarse", [S3_NAMES, S3_ENMAP_NAMES, S3_NAMES[:4]])
def test_ssrnet_has_three_convolutions_of_the_coarse_bands(coarse):
    model = initialised(coarse_bands=coarse)
    count = sum(p.numel() for p in model.parameters())
    assert count == 3 * (9 * len(coarse) ** 2 + len(coarse))
    assert len(coarse) != 21 or count == 11_970  # the published size


def test_ssrnet_puts_guide_bands_in_place_of_the_nearest_coarse_bands():
    model = initialised()
    pairs = {S3_NAMES[c]: S2_NAMES[g] for c, g in model.replaced.items()}
    assert pairs["Oa08"] == "B04"
    assert pairs["Oa06"] == "B03"
    assert pairs["Oa17"] == "B8A"
    assert pairs["S5N"] == "B11"
    assert "B08" not in pairs.values()
    assert "Oa01" not in pairs
    guide = textured(3, 4)
    coarse = torch.rand(1, 21, 3, 4)
    merged = model.stages(guide, coarse)[0]
    up = upsample(coarse, RATIO)
    for c in range(21):
        expected = guide[:, model.replaced[c]] if c in model.replaced else up[:, c]
        assert torch.equal(merged[:, c], expected)


def test_nearest_bands_uses_each_band_once():
    assert nearest_bands([500, 510, 900], [505, 512, 700]) == {0: 0, 1: 1, 2: 2}
    assert nearest_bands([500, 508], [507, 900]) == {0: 1}


def test_ssrnet_stages_are_residual_and_local():
    model = initialised().double()
    guide = textured(3, 4).double()
    coarse = torch.rand(1, 21, 3, 4, dtype=torch.float64)
    for silent in range(3):  # a convolution that gives 0 leaves its stage's input as it is
        with torch.no_grad():
            model.convolutions[silent].weight.zero_()
            model.convolutions[silent].bias.zero_()
        images = model.stages(guide, coarse)
        assert torch.equal(images[silent + 1], images[silent])
    assert torch.equal(model(guide, coarse).image, images[0])
    model = initialised().double()
    changed = guide.clone()
    changed[..., 14, 17] += 0.3
    before = model.stages(guide, coarse)
    after = model.stages(changed, coarse)
    for radius, (a, b) in enumerate(zip(before, after, strict=True)):
        rows, columns = torch.nonzero((a - b).abs().amax((0, 1)) > 1e-12, as_tuple=True)
        assert rows.min() == 14 - radius
        assert rows.max() == 14 + radius
        assert columns.min() == 17 - radius
        assert columns.max() == 17 + radius
    assert model.reach(10) == 3
    assert model.reach(2) == 4


@torch.no_grad()
def test_ssrnet_edge_loss_is_of_edges_in_space_then_along_the_spectrum():
    model = initialised().double()
    guide = textured(2, 3).double()
    coarse = torch.rand(1, 21, 2, 3, dtype=torch.float64)
    _, _, spatial, spectral = model.stages(guide, coarse)
    valid = torch.ones(1, 1, 20, 30, dtype=bool)
    loss = lambda target: float(model.extra_loss(guide, coarse, target, valid))  # noqa: E731
    change = (spectral - spatial)[0].numpy()  # between the two stages
    along = np.square(np.diff(change, axis=0)).mean()
    assert loss(spatial) == pytest.approx(along)
    assert loss(spatial + 0.1) == pytest.approx(along)
    across = sum(np.square(np.diff(change, axis=axis)).mean() for axis in (1, 2))
    assert loss(spectral) == pytest.approx(across)
    assert loss(spectral - 0.1) == pytest.approx(across)
    spoiled = spectral.clone()
    valid = valid.clone()
    spoiled[..., 5, 5] = 9
    valid[..., 5, 5] = False
    assert loss(spoiled) == loss(spectral)


def test_a_gradient_reaches_every_parameter_of_ssrnet_and_training_lowers_the_error():
    model = initialised()
    guide = textured(4, 4)
    target = torch.einsum(
        "kc,bchw->bkhw", torch.rand(21, 12, generator=torch.Generator().manual_seed(1)) / 12, guide
    )
    coarse = degrade(target, RATIO)
    valid = torch.ones(1, 1, 40, 40, dtype=bool)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    errors = []
    for _ in range(60):
        image = model(guide, coarse).image
        loss = (image - target).abs().mean() + model.extra_loss(guide, coarse, target, valid)
        optimiser.zero_grad()
        loss.backward()
        assert errors or all(
            p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters()
        )
        optimiser.step()
        errors.append(float((image - target).abs().mean().detach()))
    assert errors[-1] < 0.3 * errors[0]


def test_ssrnet_needs_wavelengths():
    with pytest.raises(BandError, match="band1"):
        SSRNet(guide_bands=3, coarse_bands=21, ratio=4)


# ----- SpectraLift


def nonlinear(guide):
    """A known map of single pixels onto 21 bands: products, ratios and roots of guide bands."""
    mixed = torch.einsum(
        "kc,bchw->bkhw", torch.rand(21, 12, generator=torch.Generator().manual_seed(7)) / 4, guide
    )
    return 0.1 + mixed**2 + 0.3 * mixed.roll(1, 1).sqrt() * guide[:, :1] / (0.1 + guide[:, 3:4])


def test_spectralift_recovers_a_nonlinear_map_better_than_a_line():
    guide = textured(40, 40, seed=3)
    target = nonlinear(guide)
    # its own assumption: the coarse image is the same map of the degraded guide
    guide_coarse = degrade(guide, RATIO, 0.5)
    scene = summary(guide, nonlinear(guide_coarse))
    images = {}
    for model in (SpectraLift(**FULL), Regression(**FULL)):
        images[model.name] = model(guide, scene.frames, state=model.fit(scene)).image
    assert rmse(images["spectralift"], target) < 0.4 * rmse(images["regression"], target)
    assert rmse(images["spectralift"], target) < 0.05 * float(target.std())


def test_spectralift_is_deterministic_and_leaves_random_numbers_alone():
    guide = textured(12, 6)
    scene = summary(guide, degrade(nonlinear(guide), RATIO, 0.5))
    model = SpectraLift(**FULL)
    random = torch.get_rng_state()
    with torch.inference_mode():  # as the callers do
        first = model.fit(scene)
    torch.manual_seed(123)
    second = model.fit(scene)
    assert all(
        torch.equal(first[k], second[k]) and first[k].dtype == torch.float32 for k in first | second
    )
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model.fit(scene)
    assert torch.equal(before, torch.get_rng_state())
    assert not any(True for _ in model.parameters())
    torch.set_rng_state(random)


def test_spectralift_is_a_function_of_the_guide_pixel_alone():
    guide = textured(12, 12)
    scene = summary(guide, degrade(nonlinear(guide), RATIO, 0.5))
    model = SpectraLift(**FULL)
    state = model.fit(scene)
    whole = model(guide, scene.frames, state=state).image
    part = model(guide[..., 30:60, 50:60], scene.frames[..., 3:6, 5:6] + 1, state=state).image
    torch.testing.assert_close(part, whole[..., 30:60, 50:60], atol=1e-6, rtol=0)
    assert model.reach(RATIO) == 0
    with pytest.raises(ConfigError, match="needs the state"):
        model(guide, scene.frames)


@pytest.mark.parametrize("pixels", [0, 1, 5])
def test_spectralift_stays_finite_on_degenerate_scenes_and_ignores_invalid_pixels(pixels):
    guide = textured(6, 9)
    guide[:, 3] = 0.25
    guide[:, 4] = guide[:, 5]
    coarse = degrade(nonlinear(guide), RATIO, 0.5)
    valid = torch.zeros(6, 9, dtype=bool)
    valid.view(-1)[:pixels] = True
    model = SpectraLift(**FULL)
    state = model.fit(summary(guide, coarse, valid))
    image = model(guide, coarse, state=state).image
    assert image.isfinite().all()
    assert image.abs().max() < 10
    spoiled = model.fit(summary(guide, torch.where(valid, coarse, 9.0), valid))
    assert all(torch.equal(state[k], spoiled[k]) for k in state)


def test_spectralift_fits_a_large_scene_in_seconds():
    guide = torch.rand(1, 12, 700, 700, generator=torch.Generator().manual_seed(0))
    scene = summary(guide, torch.rand(1, 21, 70, 70))
    assert scene.valid.all()
    start = time.process_time()
    SpectraLift(**FULL).fit(scene)
    assert time.process_time() - start < 10 * torch.get_num_threads()


# ----- library regression


def spectra(count=3000, seed=0):
    """Smooth random spectra on 380 ... 2500 nm."""
    rng = np.random.default_rng(seed)
    nm = np.arange(380.0, 2501, 5)
    bumps = np.exp(-0.5 * ((nm - np.linspace(350, 2550, 12)[:, None]) / 150) ** 2)
    return nm, (0.3 * rng.random((count, 12)) @ bumps).clip(0, 1)


def test_fit_library_recovers_a_known_map(monkeypatch, tmp_path):
    """Spectra that are straight lines: two guide bands determine all others."""
    monkeypatch.setitem(models.MODELS, "library_regression", LibraryRegression)
    rng = np.random.default_rng(0)
    nm = np.arange(380.0, 2501, 5)
    level, slope = rng.random((2, 2000, 1))
    card = fit_library(
        nm,
        0.1 + 0.2 * level + 0.3 * slope * (nm - 380) / 2120,
        tmp_path / "c",
        data={"licence": "own"},
    )
    assert card.metrics["rmse"] < 1e-3
    assert card.data == {
        "platforms": ["S2A", "S3A"],
        "licence": "own",
    }
    model, _ = checkpoint.load(tmp_path / "c")
    assert model.coarse_bands == S3_NAMES
    assert model.back_projections == 3
    assert model.ratio == 30
    fresh = 0.1 + 0.2 * 0.37 + 0.3 * 0.81 * (nm - 380) / 2120
    guide = torch.tensor(srf_matrix("S2A", S2_NAMES, nm)[0] @ fresh).float()
    expected = torch.tensor(srf_matrix("S3A", S3_NAMES, nm)[0] @ fresh).float()
    image = model(guide[None, :, None, None].expand(1, 12, 30, 30), torch.zeros(1, 21, 1, 1)).image
    torch.testing.assert_close(image[0, :, 7, 9], expected, atol=5e-4, rtol=0)


def test_fit_library_serves_spectra_that_it_never_saw(tmp_path):
    nm, some = spectra()
    weights = {}
    for seed in (0, 1):
        card = fit_library(
            nm, spectra(seed=seed)[1], tmp_path / str(seed), coarse_bands=S3_ENMAP_NAMES
        )
        assert card.coarse_bands == S3_ENMAP_NAMES
        weights[seed] = (
            (tmp_path / str(seed) / "model.safetensors").read_bytes(),
            card.metrics["rmse"],
        )
    fit_library(nm, some, tmp_path / "again", coarse_bands=S3_ENMAP_NAMES)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == weights[0][0] != weights[1][0]
    assert weights[0][1] == pytest.approx(weights[1][1], rel=0.1)
    assert weights[0][1] < 0.2 * some.std()
    with pytest.raises(BandError, match="500 to 2500 nm do not cover S2A B01"):
        fit_library(nm[nm >= 500], some[:, nm >= 500], tmp_path / "short")


MAP = torch.rand(21, 12, generator=torch.Generator().manual_seed(2)) / 6


def exact_map(back_projections, error=0.0):
    """A library model with the weights of `linear`, in every band off by `error`."""
    model = LibraryRegression(**FULL, back_projections=back_projections)
    with torch.no_grad():
        model.weight.copy_(MAP)
        model.bias.fill_(0.05 + error)
    return model


def linear(guide):
    return (
        torch.einsum(
            "kc,bchw->bkhw",
            torch.rand(21, 12, generator=torch.Generator().manual_seed(2)) / 6,
            guide,
        )
        + 0.05
    )


def test_library_regression_is_its_map_and_needs_no_scene():
    guide = textured(6, 5)
    target = linear(guide)
    coarse = degrade(target, RATIO, 0.5)
    torch.testing.assert_close(exact_map(0)(guide, coarse).image, target)
    assert exact_map(0, error=0.1).fit(summary(guide, coarse)) == {}
    state = exact_map(3).fit(summary(guide, coarse))
    torch.testing.assert_close(
        exact_map(3)(guide, coarse, state=state).image, target, atol=1e-5, rtol=0
    )


def test_back_projection_follows_the_coarse_image():
    """The correction on the coarse grid equals the loop on the fine image, and removes a bias."""
    guide = textured(8, 7)
    target = linear(guide) + 0.05 * upsample(torch.rand(1, 21, 8, 7), RATIO)
    scene = summary(guide, degrade(target, RATIO, 0.5))
    model = exact_map(4, error=0.1)
    image = model(guide, scene.frames).image
    start = image.clone()
    for _ in range(4):
        image = image + upsample(scene.frames - degrade(image, RATIO, 0.5), RATIO)
    corrected = model(guide, scene.frames, state=model.fit(scene)).image
    torch.testing.assert_close(corrected, image, atol=1e-5, rtol=0)
    errors = [rmse(degrade(x, RATIO, 0.5), scene.frames) for x in (start, corrected)]
    assert errors[1] < 0.05 * errors[0]
    assert rmse(corrected, target) < 0.3 * rmse(start, target)


def test_back_projection_stays_away_from_holes():
    guide = textured(8, 7)
    coarse = degrade(linear(guide), RATIO, 0.5)
    valid = torch.ones(8, 7, dtype=bool)
    valid[2:6, 2:5] = False
    model = exact_map(3, error=0.1)
    states = [
        model.fit(summary(guide, torch.where(valid, coarse, wild), valid)) for wild in (0.0, 9.0)
    ]
    assert torch.equal(*(s["grid.correction"] for s in states))
    assert (states[0]["grid.correction"][:, ~valid] == 0).all()
    assert (states[0]["grid.correction"][:, 0, 0] + 0.1).abs().max() < 1e-3
