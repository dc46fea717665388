"""Random structures: shares sum to one and are mixed at edges; and unmixing of real images."""

import numpy as np
import pytest

from satfuse.errors import ConfigError
from satfuse.simulate.scenes import worldstrat
from satfuse.simulate.scenes.library import KINDS
from satfuse.simulate.scenes.structure import STRUCTURES, fractal_field, make_structure


@pytest.mark.parametrize("pixel_m", [10.0, 30.0])
@pytest.mark.parametrize("name", STRUCTURES)
def test_shares_sum_to_one_and_edges_are_mixed(name, pixel_m):
    one, again, other = (
        make_structure(name, np.random.default_rng(s), (90, 120), pixel_m) for s in (3, 3, 4)
    )
    assert one.share.shape == (len(one.kinds), 90, 120)
    assert one.share.dtype == np.float32
    assert set(one.kinds) <= set(KINDS)
    np.testing.assert_allclose(one.share.sum(0), 1, atol=1e-6)
    highest = one.share.max(0)
    assert 0 < np.mean(highest < 1) < 0.95, "edges are mixed, insides are pure"
    assert len(np.unique(one.share.argmax(0))) >= 3
    assert np.array_equal(one.share, again.share)
    assert one.share.shape != other.share.shape or not np.array_equal(one.share, other.share)


def test_water_and_snow_structures_have_both_sides():
    for name, kind in (("water edge", "water"), ("snow", "snow")):
        for seed in range(4):
            structure = make_structure(name, np.random.default_rng(seed), (100, 100), 20.0)
            share = structure.share[[k == kind for k in structure.kinds]].sum(0).mean()
            assert 0.02 < share < 0.98, (name, seed, share)


def test_streets_have_the_same_width_at_every_pixel_size():
    """In metres: a street is part of a pixel at 30 m, and several pixels at 5 m."""
    fine, coarse = (
        make_structure("city", np.random.default_rng(2), (160, 160), m) for m in (5.0, 30.0)
    )
    assert np.mean(fine.share.max(0) == 1) > np.mean(coarse.share.max(0) == 1) + 0.1


def test_unknown_structures_are_rejected():
    with pytest.raises(ConfigError, match="dead leaves"):
        make_structure("marble", np.random.default_rng(0), (10, 10), 10.0)


@pytest.mark.parametrize("slope", [1.0, 1.8])
def test_fractal_fields_have_the_stated_spectrum(slope):
    power = 0
    for seed in range(6):
        field = fractal_field(np.random.default_rng(seed), (256, 256), slope)
        assert abs(field.mean()) < 1e-3
        assert field.std() == pytest.approx(1, abs=1e-3)
        window = np.hanning(256)[:, None] * np.hanning(256)
        power = power + abs(np.fft.fft2(field * window)) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    bands = [power[(radius > f) & (radius < 1.2 * f)].mean() for f in (0.03, 0.24)]
    assert np.log(bands[0] / bands[1]) / np.log(8) == pytest.approx(2 * slope, abs=0.25)


def test_unmixing_recovers_known_abundances():
    rng = np.random.default_rng(0)
    values = rng.uniform(0.02, 0.6, (5, 12))
    smooth = np.stack([fractal_field(rng, (40, 40), 3.0) for _ in range(5)])
    share = np.exp(smooth) / np.exp(smooth).sum(0)
    image = np.tensordot(values.T, share, 1).astype(np.float32)
    estimate = worldstrat.fit_abundances(image, values)
    assert estimate.shape == (5, 40, 40)
    assert estimate.min() >= 0
    assert np.sqrt(np.mean((estimate - share) ** 2)) < 0.05


def test_windows_keep_their_pixels():
    image = np.arange(2 * 30 * 20, dtype=np.float32).reshape(2, 30, 20)
    small = worldstrat.cut(image, np.random.default_rng(1), (10, 12))
    large = worldstrat.cut(image, np.random.default_rng(1), (50, 70))
    assert small.shape == (2, 10, 12)
    assert large.shape == (2, 50, 70)
    assert np.all(small[1] - small[0] == 600)
    assert set(np.unique(large[0])) == set(range(600))


@pytest.mark.samples
def test_real_imagery_is_reproduced_by_a_few_spectra_and_spot_is_not_read(samples, monkeypatch):
    opened = []
    original = worldstrat.rasterio.open

    def record(path):
        opened.append(str(path))
        return original(path)

    monkeypatch.setattr(worldstrat.rasterio, "open", record)
    worldstrat.revisits.cache_clear()
    images = worldstrat.revisits(samples)
    assert len(images) == 10
    assert all(i.shape[0] == 12 and i.dtype == np.float32 for i in images)
    assert all("lr_dataset" in p and p.endswith("-L2A_data.tiff") for p in opened)
    image = images[4][:, :60, :60]
    members = image.reshape(12, -1)[:, np.random.default_rng(0).choice(3600, 15)].T
    fitted = np.tensordot(members.T, worldstrat.fit_abundances(image, members), 1)
    sharp = [1, 2, 3, 7]  # the 10 m bands
    assert np.sqrt(np.mean((fitted - image)[sharp] ** 2)) < 0.01 < image[sharp].std()


def test_without_the_folder_there_are_no_images(tmp_path):
    assert worldstrat.revisits(tmp_path) == ()
