"""Simulated sensors against the observation model, against each other and against their input."""

from functools import cache

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from satfuse.errors import BandError, ConfigError, GridError
from satfuse.sensors.bands import S2_BANDS, S2_NAMES, S3_NAMES
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA, degrade
from satfuse.simulate import spectra
from satfuse.simulate.archive import measurements
from satfuse.simulate.archive.clouds import Clouds
from satfuse.simulate.biomes import NAMES
from satfuse.simulate.surface import Surface

LEFT = 501000.0
TOP = 5001000.0
CLEAR = Clouds(1, 0.0)
SURFACE = Surface(7, "mixed")


def box(rows, columns, gsd_m, left=LEFT, top=TOP):
    return GeoBox((rows, columns), Affine(gsd_m, 0, left, 0, -gsd_m, top), "EPSG:32631")


def centres(geobox):
    row, column = np.indices(geobox.shape) + 0.5
    return geobox.affine * (column, row)


class Blob:
    """A surface of dark soil with one round patch of snow; stands in for `Surface`."""

    def __init__(self, x, y, radius_m=600.0):
        self.x = x
        self.y = y
        self.radius_m = radius_m

    def abundances(self, x, y, **_):
        inside = np.hypot(x - self.x, y - self.y) < self.radius_m
        out = np.zeros((len(NAMES), *x.shape), np.float32)
        out[NAMES.index("snow")] = inside
        out[NAMES.index("soil_dark")] = ~inside
        return out


FINE = box(600, 660, 10)
COARSE = box(20, 22, 300)


def synergy(surface=SURFACE, clouds=CLEAR, where=None, **options):
    east, north = centres(COARSE) if where is None else where
    options = {"platform": "S3A", "seed": 5, "fine_geobox": FINE, "noise": 0.0} | options
    return measurements.synergy(surface, east, north, clouds=clouds, **options)


def sentinel2(geobox, surface=SURFACE, clouds=CLEAR, **options):
    options = {"platform": "S2A", "seed": 1, "noise": 0.0} | options
    return measurements.sentinel2(surface, geobox, clouds=clouds, **options)


@cache
def clear_and_truth():
    """The clear, noise-free swath on `COARSE`, and its surface at 10 m in all 21 bands."""
    return synergy()[0], measurements.truth(SURFACE, FINE, platform="S3A", names=S3_NAMES)


def test_band_values_are_within_the_spectrum_and_platforms_differ():
    values = measurements.band_values("S2A", S2_NAMES)
    assert values.shape == (len(NAMES), 12)
    assert np.isfinite(values).all()
    at_centre = np.stack(
        [
            np.interp([b.wavelength_nm for b in S2_BANDS], spectra.WAVELENGTH_NM, r)
            for r in spectra.endmembers()[1]
        ]
    )
    assert np.abs(values - at_centre).max() < 0.06
    assert 1e-5 < np.abs(values - measurements.band_values("S2B", S2_NAMES)).max() < 0.05
    with pytest.raises(BandError, match="no band"):
        measurements.band_values("S3A", ["B02"])


def test_truth_is_linear_mixing():
    geobox = box(30, 40, 10)
    image = measurements.truth(SURFACE, geobox, platform="S3B", names=S3_NAMES)
    assert image.shape == (21, 30, 40)
    assert image.dtype == np.float32
    abundances = SURFACE.abundances(*centres(geobox), gsd_m=10)
    expected = np.einsum("kyx,kb->byx", abundances, measurements.band_values("S3B", S3_NAMES))
    np.testing.assert_allclose(image, expected, atol=1e-5)


def test_synergy_on_a_grid_is_the_observation_model():
    image, fine = clear_and_truth()
    inner = np.s_[:, 3:-3, 3:-3]
    np.testing.assert_allclose(image[inner], degrade(fine, 30)[inner], atol=1e-3)
    assert image.shape == (21, *COARSE.shape)
    assert image.dtype == np.float32


def test_synergy_shows_the_shifted_ground():
    dx = 110.0
    dy = -70.0
    _, fine = clear_and_truth()
    # rows run south: content displaced to the north has a smaller row
    expected = degrade(fine, 30, shift=(dx / 300, -dy / 300))
    inner = np.s_[:, 3:-3, 3:-3]
    np.testing.assert_allclose(synergy(shift_m=(dx, dy))[0][inner], expected[inner], atol=1.5e-3)


def test_shift_moves_a_blob_east_and_north():
    blob = Blob(LEFT + 3200, TOP - 2900)
    east, north = centres(COARSE)

    def centroid(image):
        weight = image - image.min()
        return np.array([(weight * east).sum(), (weight * north).sum()]) / weight.sum()

    before, after = (
        centroid(synergy(blob, shift_m=s)[0][3].astype(float)) for s in ((0, 0), (150.0, 90.0))
    )
    np.testing.assert_allclose(before, [blob.x, blob.y], atol=8)
    np.testing.assert_allclose(after - before, [150, 90], atol=8)


def test_synergy_on_a_rotated_swath_equals_a_direct_psf_sum():
    angle = 0.2
    fine_x, fine_y = centres(FINE)
    row, column = np.indices((6, 5)) * 300.0
    east = LEFT + 2000 + column * np.cos(angle) + row * np.sin(angle)
    north = TOP - 2000 - row * np.cos(angle) + column * np.sin(angle)
    image, *_ = synergy(where=(east, north))
    green = clear_and_truth()[1][S3_NAMES.index("Oa06")]
    sigma = DEFAULT_PSF_SIGMA * 300
    for at in np.ndindex(6, 5):
        weight = np.exp(-((fine_x - east[at]) ** 2 + (fine_y - north[at]) ** 2) / (2 * sigma**2))
        expected = (green * weight).sum() / weight.sum()
        assert image[S3_NAMES.index("Oa06")][at] == pytest.approx(expected, abs=1e-3)


def test_synergy_has_no_seam_at_the_edge_of_the_fine_window():
    small = box(300, 300, 10, LEFT + 1500, TOP - 1500)
    inside = clear_and_truth()[0]
    around = synergy(fine_geobox=small)[0]
    assert np.abs(inside[:, 8:12, 8:12] - around[:, 8:12, 8:12]).max() < 1e-4
    ring = np.s_[:, 3:-3, 3:-3]
    assert np.sqrt(np.mean((inside[ring] - around[ring]) ** 2)) < 0.02
    assert np.corrcoef(inside[11][3:-3, 3:-3].ravel(), around[11][3:-3, 3:-3].ravel())[0, 1] > 0.95


def test_slstr_bands_can_be_blurred_more():
    blob = Blob(LEFT + 3150, TOP - 3150, radius_m=200)
    plain = synergy(blob)[0]
    wide = synergy(blob, slstr_sigma_factor=500 / 300)[0]
    slstr = np.array([n.startswith("S") for n in S3_NAMES])
    np.testing.assert_array_equal(plain[~slstr], wide[~slstr])
    assert wide[S3_NAMES.index("S1N")].max() < 0.7 * plain[S3_NAMES.index("S1N")].max()


def test_gain_and_noise():
    small = {"fine_geobox": box(90, 90, 10)}
    gain = np.linspace(0.95, 1.05, 21)
    noise_free, cloud, _ = synergy(**small)
    assert not cloud.any()
    np.testing.assert_allclose(
        synergy(gain=gain, **small)[0], noise_free * gain[:, None, None], rtol=1e-5
    )
    noisy = synergy(noise=0.01, **small)[0]
    assert np.std(noisy - noise_free) == pytest.approx(0.01, rel=0.05)
    np.testing.assert_array_equal(noisy, synergy(noise=0.01, **small)[0])
    assert np.abs(noisy - synergy(noise=0.01, seed=6, **small)[0]).max() > 0.01
    with pytest.raises(BandError, match="21"):
        synergy(gain=[1.0, 1.0])


def test_clouds_are_flagged_where_thick_and_bright():
    clouds = Clouds(4, 0.4)
    image, cloud, _ = synergy(clouds=clouds)
    clear, _ = clear_and_truth()
    thick = degrade(clouds.opacity(*centres(FINE)), 30) > 0.5
    assert 0.05 < thick.mean() < 0.9
    assert cloud[thick].all()
    blue = S3_NAMES.index("Oa04")
    assert image[blue][thick].min() > 0.3
    disturbance = np.maximum(clouds.opacity(*centres(FINE)), clouds.shadow(*centres(FINE)))
    undisturbed = ~cloud & (degrade(disturbance, 30) < 1e-3)
    np.testing.assert_allclose(image[:, undisturbed], clear[:, undisturbed], atol=2e-3)


def test_clouds_are_a_pure_function_with_the_requested_cover():
    x, y = centres(box(250, 250, 400))
    clouds = Clouds(8, 0.3, sun_azimuth_deg=120, sun_zenith_deg=50)
    cloud = clouds.opacity(x, y)
    assert cloud.dtype == np.float32
    assert cloud.min() == 0
    assert cloud.max() == 1
    assert np.mean(cloud > 0) == pytest.approx(0.3, abs=0.08)
    np.testing.assert_array_equal(clouds.opacity(x[20:40, 5:9], y[20:40, 5:9]), cloud[20:40, 5:9])
    for function in (CLEAR.opacity, CLEAR.shadow):
        assert not function(x, y).any()


def test_shadow_falls_away_from_the_sun():
    clouds = Clouds(8, 0.3, sun_azimuth_deg=150, sun_zenith_deg=45)
    east, north = clouds.shadow_offset_m()
    assert east < 0 < north
    assert np.hypot(east, north) == pytest.approx(1500)
    x, y = centres(box(50, 50, 100))
    np.testing.assert_allclose(clouds.shadow(x + east, y + north), clouds.opacity(x, y), atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"cloud_cover": 1.5}, {"cloud_cover": 0.1, "sun_zenith_deg": 95}]
)
def test_clouds_reject_invalid_values(options):
    with pytest.raises(ConfigError):
        Clouds(1, **options)


def test_sentinel2_native_grids_are_means_of_the_10_m_field():
    geobox = box(120, 180, 10)
    image, _ = sentinel2(geobox, platform="S2B")
    assert list(image) == list(S2_NAMES)
    fine = measurements.truth(SURFACE, geobox, platform="S2B", names=S2_NAMES)
    for band, plane in zip(S2_BANDS, fine, strict=True):
        n = band.gsd_m // 10
        mean = plane.reshape(120 // n, n, 180 // n, n).mean((1, 3))
        assert image[band.name].dtype == np.float32
        np.testing.assert_allclose(image[band.name], mean, atol=1e-5)
    noisy, _ = sentinel2(geobox, platform="S2B", noise=0.004)
    assert np.std(noisy["B03"] - image["B03"]) == pytest.approx(0.004, rel=0.05)


@pytest.mark.parametrize("geobox", [box(120, 130, 10), box(120, 120, 20)])
def test_sentinel2_needs_10_m_pixels_that_nest(geobox):
    with pytest.raises(GridError, match="10 m"):
        sentinel2(geobox)


def test_scene_classification_follows_the_surface():
    geobox = box(600, 600, 10)
    masks = {}
    for biome in ("coast", "snow", "mixed", "desert"):
        surface = Surface(3, biome)
        image, scl = sentinel2(geobox, surface)
        assert scl.shape == (300, 300)
        assert scl.dtype == np.uint8
        red, infrared, swir = (image[n] for n in ("B04", "B8A", "B11"))
        red = red.reshape(300, 2, 300, 2).mean((1, 3))
        masks |= {(biome, code): scl == code for code in (4, 5, 6, 11)}
        vegetation, water, snow = (masks[biome, code] for code in (4, 6, 11))
        ndvi = (infrared - red) / (infrared + red)
        assert set(np.unique(scl)) <= {4, 5, 6, 11}
        assert not vegetation.any() or np.median(ndvi[vegetation]) > 0.6
        assert not water.any() or np.percentile(swir[water], 99) < 0.25
        assert not snow.any() or np.percentile(red[snow], 5) > 0.4
    assert masks["coast", 6].mean() > 0.1
    assert masks["snow", 11].mean() > 0.1
    assert masks["mixed", 4].mean() > 0.2
    assert masks["desert", 5].mean() > 0.5


def test_scene_classification_of_cloud_and_shadow():
    geobox = box(600, 600, 10)
    clouds = Clouds(4, 0.35)
    cloudy, scl = sentinel2(geobox, clouds=clouds)
    clear, _ = sentinel2(geobox)
    opacity = clouds.opacity(*centres(geobox)).reshape(300, 2, 300, 2).mean((1, 3))
    assert {3, 8, 9, 10} <= set(np.unique(scl))
    np.testing.assert_array_equal(np.isin(scl, (8, 9, 10)), opacity > 0.02)
    np.testing.assert_array_equal(scl == 9, opacity > 0.5)
    assert cloudy["B05"][scl == 9].min() > 0.35
    darker = cloudy["B8A"][scl == 3] / clear["B8A"][scl == 3]
    assert np.median(darker) < 0.75


def test_enmap_is_the_mean_of_3_by_3_and_gaussian_in_wavelength():
    geobox = box(40, 50, 30)
    centre_nm = np.array([664.6, 560.0, 864.7, 2200.0])
    fwhm_nm = np.array([6.5, 6.6, 8.0, 10.0])
    image, quality = measurements.enmap(
        SURFACE, geobox, centre_nm, fwhm_nm, clouds=CLEAR, seed=1, noise=0.0
    )
    assert image.shape == (4, 40, 50)
    assert image.dtype == np.float32
    fine = SURFACE.abundances(*centres(box(120, 150, 10)), gsd_m=10)
    mean = fine.reshape(len(NAMES), 40, 3, 50, 3).mean((2, 4))
    at_centre = np.stack(
        [np.interp(centre_nm, spectra.WAVELENGTH_NM, r) for r in spectra.endmembers()[1]]
    )
    np.testing.assert_allclose(image, np.einsum("kyx,kb->byx", mean, at_centre), atol=2e-3)
    assert set(quality) == {"cloud", "cloud_shadow", "haze", "cirrus", "snow", "classes"}
    assert all(q.shape == (40, 50) and q.dtype == np.uint8 for q in quality.values())
    assert not quality["cloud"].any()
    assert set(np.unique(quality["classes"])) <= {1, 2}


def test_enmap_quality_layers_follow_clouds_and_water():
    geobox = box(200, 200, 30)
    clouds = Clouds(4, 0.35)
    coast = Surface(3, "coast")
    _, quality = measurements.enmap(coast, geobox, [560.0], [6.0], clouds=clouds, seed=1)
    opacity = clouds.opacity(*centres(geobox))
    assert quality["cloud"][opacity > 0.5].all()
    assert not quality["cloud"][opacity < 0.1].any()
    assert quality["cloud_shadow"].any()
    assert not (quality["cloud_shadow"] & quality["cloud"]).any()
    water = measurements.truth(coast, geobox, platform="S2A", names=["B8A"])[0] < 0.02
    visible = opacity < 0.9
    assert 0.1 < water[visible].mean() < 0.9
    assert np.mean(((quality["classes"] == 2) == water)[visible]) > 0.97


def test_water_shares_are_those_of_the_ground_also_under_cloud():
    coast = Surface(3, "coast")
    small = {"fine_geobox": box(60, 60, 10)}
    water = synergy(coast, **small)[2]
    dark = measurements.truth(coast, FINE, platform="S3A", names=["Oa21"])[0] < 0.02
    on_ground = dark.reshape(20, 30, 22, 30).mean((1, 3))
    assert 0.1 < water.mean() < 0.9
    assert np.abs(water - on_ground).mean() < 0.03
    assert np.mean((water > 0.5) == (on_ground > 0.5)) > 0.95
    np.testing.assert_allclose(synergy(coast, Clouds(4, 1.0), **small)[2], water, atol=1e-4)


def test_oblique_view_is_brighter_and_longer_along_the_track():
    nadir = np.zeros((21, 9, 5), np.float32)
    nadir[S3_NAMES.index("S3N"), 4, 2] = 0.3
    view = measurements.oblique(nadir, seed=1, noise=0.0)
    assert view.shape == (5, 9, 5)
    assert view.sum((1, 2)) == pytest.approx([0, 0, 0.3 * 1.06, 0, 0], abs=1e-6)
    assert np.argwhere(view[2] > 0).tolist() == [[3, 2], [4, 2], [5, 2]]
    noisy = measurements.oblique(nadir, seed=1, noise=0.01)
    assert (noisy - view).std() == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize(("biome", "lowest"), [("mixed", 60.0), ("coast", 0.0)])
def test_water_is_flat_and_in_the_lows(biome, lowest):
    surface = Surface(3, biome)
    where = centres(box(100, 100, 300))
    height = measurements.altitude_m(surface, *where)
    assert height.min() == lowest
    assert 100 < height.max() < 400
    assert np.abs(np.diff(height, axis=0)).max() < 60  # a slope of 20 %
    abundances = surface.abundances(*where, gsd_m=300)
    clear = abundances[NAMES.index("water_clear")] + abundances[NAMES.index("water_turbid")] > 0.9
    assert height[clear].mean() < lowest + 15 < height[~clear].mean()
