import dask.array as da
import numpy as np
import pytest

from satfuse.errors import BandError, GridError, ProductError
from satfuse.sensors.degradation import degrade
from satfuse.validate.upsample import bicubic_matrix, fill_nearest, upsample
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
    rows, columns = np.arange(3, 200, 7), np.arange(1, 90, 4)
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
    ours = upsample(image, bicubic_matrix(9, 6), bicubic_matrix(7, 6))
    theirs = torch.nn.functional.interpolate(
        torch.tensor(image)[None], scale_factor=6, mode="bicubic"
    )[0]
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)


def test_fill_nearest_takes_the_nearest_whole_pixel():
    image = np.arange(24.0).reshape(2, 3, 4)
    image[1, 1, 1] = np.nan
    filled = fill_nearest(image)
    assert np.isfinite(filled).all()
    assert filled[0, 1, 1] in {1.0, 4.0, 6.0, 9.0} and filled[1, 1, 1] == filled[0, 1, 1] + 12
    assert fill_nearest(filled) is filled


def test_fit_linear_recovers_a_map():
    rng = np.random.default_rng(0)
    x, slope = rng.random((4, 500)), rng.standard_normal((6, 4))
    weights = fit_linear(x, slope @ x + 0.3)
    np.testing.assert_allclose(weights[:, :-1], slope, rtol=2e-3)
    np.testing.assert_allclose(weights[:, -1], 0.3, atol=2e-3)


def test_lazy_input_gives_the_same_views(perfect, scene):
    eager = make_views(perfect, scene)
    lazy_scene = scene.copy()
    lazy_scene["guide"] = scene["guide"].copy(
        data=da.from_array(scene["guide"].values, chunks=(1, 80, 300))
    )
    lazy = make_views(perfect.chunk(band=21, y=70, x=100), lazy_scene)
    for name in ("fused", "bicubic", "regression"):
        np.testing.assert_allclose(
            lazy.images[name].degraded, eager.images[name].degraded, atol=1e-7
        )
        np.testing.assert_array_equal(lazy.images[name].window, eager.images[name].window)
    np.testing.assert_allclose(lazy.guide.degraded, eager.guide.degraded, atol=1e-12)


def test_holes_take_their_surroundings_out_of_the_comparison(perfect, scene):
    holed = scene.copy(deep=True)
    holed["coarse_valid"][10, 12] = False
    before, after = make_views(perfect, scene).compare, make_views(perfect, holed).compare
    lost = np.argwhere(before & ~after)
    assert lost.min(0).tolist() == [8, 10] and lost.max(0).tolist() == [12, 14] and len(lost) == 25


def test_rim_is_not_compared(perfect, scene):
    compare = make_views(perfect, scene).compare
    assert compare[2:-2, 2:-2].all() and compare.sum() == (24 - 4) * (30 - 4)


def test_bad_input_is_named(perfect, scene):
    with pytest.raises(GridError, match="differ along y: 230 pixels"):
        make_views(perfect.isel(y=slice(10, None)), scene)
    with pytest.raises(GridError, match="differ along x"):
        make_views(perfect.assign_coords(x=perfect.x + 10), scene)
    with pytest.raises(BandError, match="Oa17"):
        make_views(
            perfect, scene.sel(coarse_band=[b for b in scene.coarse_band.values if b != "Oa17"])
        )
    empty = scene.copy(deep=True)
    empty["coarse_valid"][:] = False
    with pytest.raises(ProductError, match="nothing to validate: of 720 coarse pixels 0 are valid"):
        make_views(perfect, empty)


def test_several_times_are_refused(perfect, scene):
    import xarray as xr

    twice = xr.concat([perfect, perfect], dim="time")
    with pytest.raises(ProductError, match="2 times"):
        make_views(twice, scene)


def test_bicubic_view_is_the_upsampled_image_degraded_again(perfect, scene):
    wide = scene.assign_attrs(
        psf_sigma=[0.5008 if b.startswith("Oa") else 0.83 for b in scene.coarse_band.values]
    )
    views = make_views(perfect, wide)
    fine = upsample(views.coarse, *(bicubic_matrix(n, 10) for n in views.coarse.shape[1:]))
    np.testing.assert_allclose(
        views.images["bicubic"].degraded, degrade(fine, 10, wide.psf_sigma), atol=1e-6
    )
    np.testing.assert_array_equal(views.images["bicubic"].sample, fine)


def test_a_band_that_the_coarse_input_lacks_is_left_out(perfect, scene):
    holed = scene.copy(deep=True)
    holed["coarse"].loc[{"coarse_band": "Oa01"}] = np.nan
    views = make_views(perfect, holed)
    assert (
        views.bands == tuple(perfect.band.values[1:])
        and views.images["fused"].degraded.shape[0] == 20
    )
    np.testing.assert_array_equal(views.compare, make_views(perfect, scene).compare)
