"""Real swaths: Sentinel-3 SYN over Senegal against Sentinel-2, OLCI over Sweden against scipy."""

import numpy as np
import pytest
from pyproj import Transformer
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator

from benchmarks import sample_data
from satfuse.geometry.grids import geobox_of_bbox
from satfuse.geometry.shift import estimate_shift
from satfuse.geometry.swath import locate, rectify

pytestmark = pytest.mark.samples
LAND, NODATA, WATER = (4, 5), 0, 6


@pytest.fixture(scope="module")
def senegal(samples, tmp_path_factory):
    return sample_data.senegal(samples, tmp_path_factory.mktemp("sen3"))


@pytest.fixture(scope="module")
def scl(samples):
    return sample_data.senegal_classes(samples)


def test_senegal_has_land_where_sentinel2_has_land(senegal, scl):
    out = rectify(senegal, sample_data.T28PDC)
    share = {
        name: np.isin(scl, classes).reshape(366, 15, 366, 15).mean((1, 3))
        for name, classes in {"land": LAND, "nodata": NODATA, "water": WATER}.items()
    }
    seen = np.isfinite(out["reflectance"].values).all(0) & (share["nodata"] == 0)
    agreement = (share["land"][seen] > 0.5).mean()
    print(f"{seen.sum()} SYN pixels over the tile, {agreement:.1%} on land by SCL")
    assert seen.sum() > 30_000 and agreement > 0.9
    assert not (share["water"][seen] > 0.5).any()


def test_senegal_shift_against_sentinel2(senegal, scl, samples, tmp_path):
    """Two references that share nothing but the ground agree, on whatever grid the swath is put before.

    The guides are poor (8 bits, classes, another day), so their own detail draws the estimate towards half a pixel
    (160 m) unless the estimator is even-handed: this is why the grid is moved.
    """
    preview = sample_data.senegal_preview(samples, tmp_path)
    found = []
    for phase in ((0, 0), (160, 160)):
        for name, e in sample_data.senegal_shifts(senegal, preview, scl, phase).items():
            print(
                f"against {name} on {phase}: {e.dx_m:+.0f} m east, {e.dy_m:+.0f} m north, +- {e.sigma_m:.0f} m"
            )
            assert e.trusted, e.reason
            found.append((e.dx_m + phase[0], e.dy_m + phase[1]))
    found = np.array(found)
    assert np.hypot(*found.T).max() < 200  # tie-point geolocation, thin clouds of another day
    assert (np.ptp(found, axis=0) < 60).all()


@pytest.fixture(scope="module")
def sweden(samples):
    return sample_data.sweden(samples)


def test_sweden_against_scipy(sweden):
    """The swath repeats some pixels, so rows and columns are not unique: places and values are compared."""
    box = geobox_of_bbox((16.8, 58.9, 17.2, 59.1), resolution=300)
    out = rectify(sweden, box)
    assert out["valid"].all()
    x, y = Transformer.from_crs("EPSG:4326", box.crs.proj, always_xy=True).transform(
        sweden.longitude, sweden.latitude
    )
    targets = np.meshgrid(out["x"].values, out["y"].values)
    found = locate(sweden["latitude"].values, sweden["longitude"].values, box)
    back = [ndimage.map_coordinates(values, found, order=1) for values in (x, y)]
    apart_m = np.hypot(back[0] - targets[0], back[1] - targets[1])
    left, bottom, right, top = box.boundingbox
    near = (x > left - 2e3) & (x < right + 2e3) & (y > bottom - 2e3) & (y < top + 2e3)
    oracle = LinearNDInterpolator(
        (x[near], y[near]), np.moveaxis(sweden["reflectance"].values, 0, -1)[near]
    )
    truth = np.moveaxis(oracle(*targets), -1, 0)
    difference = out["reflectance"].values - truth
    print(
        f"at most {apart_m.max():.3f} m apart; reflectance rms {difference.std():.5f} of {truth.std():.5f}"
    )
    assert apart_m.max() < 5
    assert difference.std() < 0.1 * truth.std() and abs(difference.mean()) < 1e-4


def test_sweden_shift_of_a_known_move(sweden):
    """Real land texture and swath geometry: the swath sampled elsewhere is registered back onto itself."""
    box = geobox_of_bbox((16.8, 58.9, 17.2, 59.1), resolution=300)
    guide = rectify(sweden, box)["reflectance"].values
    moved = rectify(sweden, box, (-250.0, 390.0))["reflectance"].values
    # sampled 250 m west and 390 m north of the guide's place, the content lies that much east and
    # south
    estimate = estimate_shift(guide[[0, 1]], 1.2 * moved[[2]] + 0.01, pixel_m=300)
    assert estimate.trusted
    assert np.hypot(estimate.dx_m - 250, estimate.dy_m + 390) < 30
