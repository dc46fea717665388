"""Views are read strip by strip, and the baselines are what they claim to be."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from satfuse.errors import BandError, GridError, ProductError
from satfuse.sensors.degradation import degrade
from satfuse.validate.upsample import bicubic_matrix, upsample
from satfuse.validate.views import coarsen, fit_linear, make_views


def test_strips_give_what_the_whole_gives():
    rng = np.random.default_rng(0)
    image = rng.random((3, 200, 90))
    image[:, 35:62, 20:44] = np.nan
    image[1, 150:160] = np.nan
    sigmas = [0.5008, 0.4, 0.8]
    whole = np.stack(
        [degrade(b, 10, s, valid=np.isfinite(b)) for b, s in zip(image, sigmas, strict=True)]
    )
    rows = np.arange(3, 200, 7)
    columns = np.arange(1, 90, 4)
    for step in (30, 50, 130, 200):
        calls = []

        def read(first, last, calls=calls):
            calls.append((first, last))
            return image[:, first:last]

        degraded, sample = coarsen(read, 3, 200, 10, sigmas, step=step, rows=rows, columns=columns)
        np.testing.assert_allclose(degraded, whole, rtol=1e-12)
        np.testing.assert_allclose(sample, image[:, rows][:, :, columns], rtol=1e-6)
        assert calls == [(a, min(a + step, 200)) for a in range(0, 200, step)]  # every row once


def test_bicubic_matrix_agrees_with_torch():
    torch = pytest.importorskip("torch", reason="the oracle of bicubic interpolation")
    image = np.random.default_rng(0).random((2, 9, 7))
    upsampled = upsample(image, bicubic_matrix(9, 6), bicubic_matrix(7, 6))
    tensor = torch.tensor(image)[None]
    expected = torch.nn.functional.interpolate(tensor, scale_factor=6, mode="bicubic")[0]
    np.testing.assert_allclose(upsampled, expected.numpy(), atol=1e-6)


def test_fit_linear_recovers_a_map():
    rng = np.random.default_rng(0)
    x = rng.random((4, 500))
    slope = rng.standard_normal((6, 4))
    weights = fit_linear(x, slope @ x + 0.3)
    np.testing.assert_allclose(weights[:, :-1], slope, rtol=2e-3)
    np.testing.assert_allclose(weights[:, -1], 0.3, atol=2e-3)


def test_lazy_input_gives_the_same_views(perfect, scene):
    eager = make_views(perfect, scene)
    lazy_scene = scene.copy()
    chunked = da.from_array(scene["guide"].values, chunks=(1, 80, 300))
    lazy_scene["guide"] = scene["guide"].copy(data=chunked)
    lazy = make_views(perfect.chunk(band=21, y=70, x=100), lazy_scene)
    for name, view in eager.images.items():
        np.testing.assert_allclose(lazy.images[name].degraded, view.degraded, atol=1e-7)
        np.testing.assert_array_equal(lazy.images[name].window, view.window)
    np.testing.assert_allclose(lazy.guide.degraded, eager.guide.degraded, atol=1e-12)


def test_holes_exclude_their_surroundings_from_the_comparison(perfect, scene):
    holed = scene.copy(deep=True)
    holed["coarse_valid"][10, 12] = False
    before = make_views(perfect, scene).compare
    after = make_views(perfect, holed).compare
    lost = np.argwhere(before & ~after)
    assert lost.min(0).tolist() == [8, 10]
    assert lost.max(0).tolist() == [12, 14]
    assert len(lost) == 25


def test_the_rim_is_not_compared(perfect, scene):
    compare = make_views(perfect, scene).compare
    assert compare[2:-2, 2:-2].all()
    assert compare.sum() == (24 - 4) * (30 - 4)


def test_errors_name_the_bad_input(perfect, scene):
    with pytest.raises(GridError, match="differ along y: 230 pixels"):
        make_views(perfect.isel(y=slice(10, None)), scene)
    with pytest.raises(GridError, match="differ along x"):
        make_views(perfect.assign_coords(x=perfect.x + 10), scene)
    with pytest.raises(BandError, match="Oa17"):
        make_views(perfect, scene.drop_sel(coarse_band="Oa17"))
    empty = scene.copy(deep=True)
    empty["coarse_valid"][:] = False
    with pytest.raises(ProductError, match="nothing to validate: of 720 coarse pixels 0 are valid"):
        make_views(perfect, empty)


def test_several_times_are_refused(perfect, scene):
    twice = xr.concat([perfect, perfect], dim="time")
    with pytest.raises(ProductError, match="2 times"):
        make_views(twice, scene)


def test_bicubic_view_is_the_upsampled_image_degraded_again(perfect, scene):
    sigmas = [0.5008 if b.startswith("Oa") else 0.83 for b in scene.coarse_band.values]
    views = make_views(perfect, scene.assign_attrs(psf_sigma=sigmas))
    fine = upsample(views.coarse, *(bicubic_matrix(n, 10) for n in views.coarse.shape[1:]))
    degraded = degrade(fine, 10, sigmas)
    np.testing.assert_allclose(views.images["bicubic"].degraded, degraded, atol=1e-6)
    np.testing.assert_array_equal(views.images["bicubic"].sample, fine)


def test_a_band_that_the_coarse_input_lacks_is_left_out(perfect, scene):
    holed = scene.copy(deep=True)
    holed["coarse"].loc[{"coarse_band": "Oa01"}] = np.nan
    views = make_views(perfect, holed)
    assert views.bands == tuple(perfect.band.values[1:])
    assert views.images["fused"].degraded.shape[0] == 20
    np.testing.assert_array_equal(views.compare, make_views(perfect, scene).compare)
