"""Properties that every model has, and known results of single models."""

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from satfuse import checkpoint, models
from satfuse.errors import BandError, ConfigError, GridError
from satfuse.models.fusformer import attention
from satfuse.models.observation import degrade, upsample
from satfuse.sensors.bands import S2_NAMES, S3_ENMAP_NAMES, S3_NAMES
from satfuse.simulate.scenes.factory import biome_scene
from satfuse.simulate.scenes.protocol import Protocol
from tests.models.torch_scene import summary

FINITE = ["bicubic", "regression", "spectral"]


def trained_like(name, coarse_bands=21, ratio=10):
    """A model with random weights, so that every part of it has an effect."""
    torch.manual_seed(1)
    model = models.create(name, guide_bands=12, coarse_bands=coarse_bands, ratio=ratio).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.double()


def scene(h=18, w=22, ratio=10, bands=21, seed=0):
    """Guide, coarse image and target, which depends on the guide and on detail beyond it."""
    generator = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    guide = upsample(rand(1, 12, 2 * h, 2 * w), ratio // 2)
    target = torch.einsum("kc,bchw->bkhw", rand(bands, 12) / 12, guide) + 0.1 * upsample(
        rand(1, bands, h, w), ratio
    )
    return guide, degrade(target, ratio), target


def fitted(model, guide, coarse, guide_valid=None, coarse_valid=None):
    return model.fit(summary(guide, coarse, guide_valid, coarse_valid))


def test_create_names_what_it_knows():
    with pytest.raises(
        ConfigError, match=r"known: bayesian, bicubic, regression, .*spectral, fusformer"
    ):
        models.create("srcnn", guide_bands=12, coarse_bands=21, ratio=30)
    with pytest.raises(ConfigError, match="no option dropout; it has: depth, width"):
        models.create("spectral", guide_bands=12, coarse_bands=21, ratio=30, dropout=0.1)
    with pytest.raises(BandError, match="B99"):
        models.create("spectral", guide_bands=("B02", "B99"), coarse_bands=21, ratio=30)


def test_numbers_of_bands_mean_the_known_sets():
    model = models.create("bicubic", guide_bands=12, coarse_bands=19, ratio=30)
    assert model.guide_bands == S2_NAMES
    assert model.coarse_bands == S3_ENMAP_NAMES


# the Bayesian model refuses random spectra
@pytest.mark.parametrize("name", [name for name in models.MODELS if name != "bayesian"])
@pytest.mark.parametrize("ratio", [10, 15, 30])
def test_gives_the_coarse_bands_on_the_guides_grid(name, ratio):
    model = trained_like(name, ratio=ratio)
    generator = torch.Generator().manual_seed(0)
    guide = torch.rand(2, 12, ratio, 2 * ratio, generator=generator, dtype=torch.float64)
    coarse = torch.rand(2, 21, 1, 2, generator=generator, dtype=torch.float64)
    state = fitted(model, guide[:1], coarse[:1])
    with torch.inference_mode():
        image = model(guide, coarse, state=state).image
        frames = model(guide, torch.stack([coarse, coarse + 1], 1), state=state).image
    assert image.shape == (2, 21, ratio, 2 * ratio)
    assert image.isfinite().all()
    assert torch.equal(frames, image)  # frame 0 is taken by models without frames
    with pytest.raises(GridError, match="integer multiple"):
        model(guide[..., :-1], coarse, state=state)


@pytest.mark.parametrize("name", FINITE)
def test_tiled_equals_untiled_within_the_reach(name):
    model = trained_like(name).float()
    ratio = 10
    guide, coarse, _ = (x.float() for x in scene())
    generator = torch.Generator().manual_seed(3)
    guide_valid = upsample(torch.rand(1, 1, 18, 22, generator=generator), ratio) > 0.2
    coarse_valid = torch.rand(1, 1, 18, 22, generator=generator) > 0.2
    state = fitted(model, guide, coarse, guide_valid, coarse_valid)
    kinds = {"state": state}
    with torch.inference_mode():
        whole = model(
            guide, coarse, guide_valid=guide_valid, coarse_valid=coarse_valid, **kinds
        ).image
        # cores of 5 x 5 coarse pixels in a corner, the middle and the opposite corner
        for top, left in ((0, 0), (7, 9), (13, 17)):
            box, inner = _box(top, left, 5, model.reach(ratio), coarse.shape[-2:])
            fine = tuple(slice(s.start * ratio, s.stop * ratio) for s in box)
            valid = {
                "guide_valid": guide_valid[..., *fine],
                "coarse_valid": coarse_valid[..., *box],
            }
            tile = model(guide[..., *fine], coarse[..., *box], **valid, **kinds).image
            core = tuple(slice(s.start * ratio, s.stop * ratio) for s in inner)
            expected = whole[
                ..., top * ratio : (top + 5) * ratio, left * ratio : (left + 5) * ratio
            ]
            torch.testing.assert_close(tile[..., *core], expected, atol=1e-5, rtol=0)


def _box(top, left, side, halo, shape):
    """Coarse slices of the tile with its halo, and of the core inside the tile."""
    box = tuple(
        slice(max(a - halo, 0), min(a + side + halo, n))
        for a, n in zip((top, left), shape, strict=True)
    )
    inner = tuple(
        slice(a - s.start, a - s.start + side) for a, s in zip((top, left), box, strict=True)
    )
    return box, inner


def test_a_halo_smaller_than_the_reach_changes_the_core():
    """The tile test can fail: one coarse pixel less of context changes bicubic's core."""
    guide, coarse, _ = scene()
    model = trained_like("bicubic")
    whole = model(guide, coarse).image[..., 50:100, 50:100]
    tile = model(guide[..., 40:110, 40:110], coarse[..., 4:11, 4:11]).image[..., 10:60, 10:60]
    assert (tile - whole).abs().max() > 1e-3


def test_regression_recovers_a_linear_target():
    """A target that is linear in sharp guide bands comes back, with its edges and its bias."""
    guide = scene(bands=2)[0][:, :4]
    generator = torch.Generator().manual_seed(5)
    weights = torch.rand(21, 4, generator=generator, dtype=torch.float64) / 4
    target = torch.einsum("kc,bchw->bkhw", weights, guide) + 0.05
    model = models.create(
        "regression", guide_bands=("B02", "B03", "B04", "B08"), coarse_bands=21, ratio=10
    )
    coarse = degrade(target, 10)
    state = fitted(model, guide, coarse)
    image = model(guide, coarse, state=state).image
    assert (image - target).square().mean().sqrt() < 1e-4
    assert (upsample(coarse, 10) - target).square().mean().sqrt() > 1e-2


def test_regression_does_not_trade_a_sharp_band_against_its_blurred_twin():
    """B04 and B05 of one surface, B05 natively 20 m.

    Their difference at edges is blur, not spectrum.
    """
    generator = torch.Generator().manual_seed(3)
    surface = (
        torch.rand(1, 1, 540, 540, generator=generator, dtype=torch.float64) > 0.7
    ).double() * 0.3
    noise = 0.002 * torch.randn(1, 2, 540, 540, generator=generator, dtype=torch.float64)
    twin = upsample(torch.nn.functional.avg_pool2d(surface, 2), 2)
    guide = torch.cat([surface, twin], 1) + noise
    coarse = degrade(surface, 30)
    coarse = coarse + 0.002 * torch.randn(coarse.shape, generator=generator, dtype=torch.float64)
    model = models.create(
        "regression", guide_bands=("B04", "B05"), coarse_bands=("Oa08",), ratio=30
    )
    image = model(guide, coarse, state=fitted(model, guide, coarse)).image
    assert (image - surface).square().mean().sqrt() < 0.1 * surface.std()


def test_regression_is_consistent_with_the_coarse_image():
    guide, coarse, _ = scene()
    model = trained_like("regression")
    error = degrade(model(guide, coarse, state=fitted(model, guide, coarse)).image, 10) - coarse
    # with a black coarse image the residual is minus the degraded trend
    trend = model(guide, coarse * 0, state=fitted(model, guide, coarse)).image
    assert error.square().mean() < 0.2 * (degrade(trend, 10) - coarse).square().mean()


def test_regression_ignores_invalid_pixels():
    guide, coarse, _ = scene()
    coarse_valid = torch.ones(1, 1, 18, 22, dtype=bool)
    coarse_valid[..., 5:9, 6:12] = False
    model = trained_like("regression")
    clean = fitted(model, guide, coarse, coarse_valid=coarse_valid)
    wild = torch.where(coarse_valid, coarse, 9.0)
    spoiled = fitted(model, guide, wild, coarse_valid=coarse_valid)
    assert all(torch.equal(clean[k], spoiled[k]) for k in clean)
    images = [model(guide, c, state=clean, coarse_valid=coarse_valid).image for c in (coarse, wild)]
    assert torch.equal(*images)


@pytest.mark.parametrize("pixels", [0, 1, 5])
def test_regression_stays_finite_on_degenerate_scenes(pixels):
    guide, coarse, _ = scene()
    guide[:, 3] = 0.25  # a band without variance
    guide[:, 4] = guide[:, 5]  # two equal bands
    valid = torch.zeros(18, 22, dtype=bool)
    valid.view(-1)[:pixels] = True
    model = trained_like("regression")
    state = model.fit(summary(guide, coarse, coarse_valid=valid[None, None]))
    image = model(guide, coarse, state=state, coarse_valid=valid[None, None]).image
    assert image.isfinite().all()
    assert image.abs().max() < 10
    with pytest.raises(GridError, match="psf_sigma"):
        model.fit(summary(guide, coarse, psf_sigma=1.5))
    with pytest.raises(ConfigError, match="needs the state"):
        model(guide, coarse)


def test_spectral_starts_as_bicubic_and_uses_each_pixel_alone():
    guide, coarse, _ = scene(4, 4)
    fresh = models.create("spectral", guide_bands=12, coarse_bands=21, ratio=10).double()
    torch.testing.assert_close(fresh(guide, coarse).image, upsample(coarse, 10))
    model = trained_like("spectral")
    model.set_statistics(
        *(torch.full((n,), v) for n, v in ((12, 0.3), (12, 0.1), (21, 0.2), (21, 0.2)))
    )
    before = model(guide, coarse).image
    changed = guide.clone()
    changed[..., 7, 9] += 0.1
    difference = (model(changed, coarse).image - before).abs().amax(1)[0]
    assert difference[7, 9] > 1e-4
    assert difference.count_nonzero() == 1
    with torch.inference_mode():  # the pass in strips is the same function
        torch.testing.assert_close(model(guide, coarse).image, before)


@pytest.mark.parametrize(
    ("coarse", "guide", "count"), [(31, 3, 111_247), (21, 12, 106_869), (19, 12, 105_907)]
)
def test_fusformer_has_the_published_parameters(coarse, guide, count):
    model = models.create("fusformer", guide_bands=guide, coarse_bands=coarse, ratio=4)
    assert sum(p.numel() for p in model.parameters()) == count == 481 * coarse + 48 * guide + 96_192


def test_attention_in_rows_and_fused_equal_the_explicit_softmax():
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 150, 16, generator=generator)
    explicit = torch.softmax(q @ k.mT * 0.25, -1) @ v
    for rows in (7, 64, 150):
        torch.testing.assert_close(attention(q, k, v, rows), explicit, atol=1e-5, rtol=0)


def test_fusformer_chunked_equals_full():
    guide, coarse, _ = (x.float() for x in scene(3, 4))
    full = trained_like("fusformer").float()
    chunked = models.create(
        "fusformer", guide_bands=12, coarse_bands=21, ratio=10, attention_rows=97
    )
    chunked.load_state_dict(full.state_dict())
    torch.testing.assert_close(
        chunked(guide, coarse).image, full(guide, coarse).image, atol=1e-5, rtol=0
    )


def test_fusformer_adds_a_highpass_image_to_the_upsampled_coarse():
    guide, coarse, _ = scene(3, 4)
    model = trained_like("fusformer")
    for parameter in model.highpass[-1].parameters():
        torch.nn.init.zeros_(parameter)
    # values above 1 are not clamped
    torch.testing.assert_close(model(guide, 3 * coarse).image, upsample(3 * coarse, 10))
    assert model.reach(30) is None


def test_fusformer_tokens_have_no_position():
    model = trained_like("fusformer")
    pixels = torch.rand(2, 80, 33, dtype=torch.float64)
    order = torch.randperm(80)
    torch.testing.assert_close(model.transform(pixels[:, order]), model.transform(pixels)[:, order])


@pytest.mark.parametrize("name", ["spectral", "fusformer"])
def test_a_gradient_reaches_every_parameter(name):
    model = trained_like(name)
    guide, coarse, target = scene(2, 2)
    (model(guide, coarse).image - target).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_completed_takes_missing_bands_from_the_regression():
    guide, coarse, _ = scene()
    small = trained_like("spectral", coarse_bands=S3_ENMAP_NAMES)
    order = (*S3_NAMES[5:], *S3_NAMES[:5])
    model = models.complete(small, order, 10)
    index = [S3_NAMES.index(b) for b in order]
    shuffled = coarse[:, index]
    state = fitted(model, guide, shuffled)
    image = model(guide, shuffled, state=state).image
    alone = small(guide, coarse[:, 2:]).image
    regression = trained_like("regression")
    fit = fitted(regression, guide, coarse)
    others = regression(guide, coarse, state=fit).image
    for place, band in enumerate(order):
        has_band = band in S3_ENMAP_NAMES
        expected = (
            alone[:, S3_ENMAP_NAMES.index(band)] if has_band else others[:, S3_NAMES.index(band)]
        )
        torch.testing.assert_close(image[:, place], expected)
        assert model.band_source[place] == ("spectral" if has_band else "regression")
    assert model.reach(10) == 6
    assert models.complete(small, S3_ENMAP_NAMES, 10) is small
    with pytest.raises(BandError, match="needs coarse bands Oa03"):
        models.complete(small, S3_NAMES[:2], 10)


@pytest.mark.parametrize("name", models.MODELS)
def test_gives_uncertainty_is_true_of_exactly_the_models_that_give_sigma(name):
    """Alone and completed: sigma exists where the model says so, in its own bands alone."""
    observed = biome_scene("crop", ratio=10, protocol=Protocol(noise=0.002), seed=3, fine_px=60)
    guide, coarse = (
        torch.from_numpy(image).float() for image in (observed.guide[None], observed.coarse)
    )
    if name == "bayesian":
        small, _ = checkpoint.load(checkpoint.SHIPPED / name, coarse_bands=S3_ENMAP_NAMES)
    else:
        small = trained_like(name, coarse_bands=S3_ENMAP_NAMES).float()
    for model, bands in ((small, coarse[:, 2:]), (models.complete(small, S3_NAMES, 10), coarse)):
        with torch.inference_mode():
            sigma = model(guide, bands, state=fitted(model, guide, bands)).sigma
        assert (sigma is not None) == model.gives_uncertainty == (name == "bayesian")
        if sigma is not None:
            of_model = torch.tensor([source == model.name for source in model.band_source])
            assert (sigma[:, of_model] > 0).all()
            assert sigma[:, ~of_model].isnan().all()
            assert of_model.sum() == 19
