"""Real swaths: Sentinel-3 SYN over Senegal against Sentinel-2, OLCI over Sweden against scipy."""

import numpy as np
import pytest
from pyproj import Transformer
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator

from benchmarks import sample_data
from satfuse.geometry.grids import geobox_of_bbox
from satfuse.geometry.resample import block_mean
from satfuse.geometry.shift import estimate_shift
from satfuse.geometry.swath import locate, rectify

pytestmark = pytest.mark.samples
# classes of SCL
LAND = (4, 5)
WATER = 6
NO_DATA = 0


@pytest.fixture(scope="module")
def senegal(samples, tmp_path_factory):
    return sample_data.senegal(samples, tmp_path_factory.mktemp("sen3"))


@pytest.fixture(scope="module")
def scl(samples):
    return sample_data.senegal_classes(samples)


def test_senegal_has_land_where_sentinel2_has_land(senegal, scl):
    out = rectify(senegal, sample_data.T28PDC)
    land, water, no_data = (
        block_mean(np.isin(scl, classes).astype(float), 15) for classes in (LAND, WATER, NO_DATA)
    )
    compared = np.isfinite(out["reflectance"].values).all(0) & (no_data == 0)
    assert compared.sum() > 30_000
    assert (land[compared] > 0.5).mean() > 0.9
    assert not (water[compared] > 0.5).any()


def test_senegal_shift_against_sentinel2(senegal, scl, samples, tmp_path):
    """Two references with nothing in common but the ground agree, whatever grid the swath is on.

    The guides are poor (8 bits, classes, another day), so their own detail draws the estimate
    towards half a pixel (160 m) unless the estimator treats both images alike: this is why the grid
    is moved.
    """
    preview = sample_data.senegal_preview(samples, tmp_path)
    estimates = []
    for phase in ((0, 0), (160, 160)):
        for estimate in sample_data.senegal_shifts(senegal, preview, scl, phase).values():
            assert estimate.trusted, estimate.reason
            estimates.append((estimate.dx_m + phase[0], estimate.dy_m + phase[1]))
    shifts = np.array(estimates)
    assert np.hypot(*shifts.T).max() < 200  # tie-point geolocation, thin clouds of another day
    assert (np.ptp(shifts, axis=0) < 60).all()


@pytest.fixture(scope="module")
def sweden(samples):
    return sample_data.sweden(samples)


def test_sweden_against_scipy(sweden):
    """Positions and values are compared, because the swath repeats some pixels.

    Its rows and columns are therefore not unique.
    """
    box = geobox_of_bbox((16.8, 58.9, 17.2, 59.1), resolution=300)
    out = rectify(sweden, box)
    assert out["valid"].all()
    to_map = Transformer.from_crs("EPSG:4326", box.crs.proj, always_xy=True)
    x, y = to_map.transform(sweden.longitude, sweden.latitude)
    targets = np.meshgrid(out["x"].values, out["y"].values)
    places = locate(sweden["latitude"].values, sweden["longitude"].values, box)
    back = [ndimage.map_coordinates(values, places, order=1) for values in (x, y)]
    distance_m = np.hypot(back[0] - targets[0], back[1] - targets[1])
    assert distance_m.max() < 5
    left, bottom, right, top = box.boundingbox
    near = (x > left - 2e3) & (x < right + 2e3) & (y > bottom - 2e3) & (y < top + 2e3)
    values = np.moveaxis(sweden["reflectance"].values, 0, -1)[near]
    triangulation = LinearNDInterpolator((x[near], y[near]), values)
    expected = np.moveaxis(triangulation(*targets), -1, 0)
    difference = out["reflectance"].values - expected
    assert difference.std() < 0.1 * expected.std()
    assert abs(difference.mean()) < 1e-4


def test_sweden_shift_of_a_known_move(sweden):
    """Real land texture and swath geometry: the swath sampled elsewhere is registered to itself."""
    box = geobox_of_bbox((16.8, 58.9, 17.2, 59.1), resolution=300)
    guide = rectify(sweden, box)["reflectance"].values
    moved = rectify(sweden, box, (-250.0, 390.0))["reflectance"].values
    # sampled 250 m west and 390 m north, so the content is that much further east and south
    estimate = estimate_shift(guide[[0, 1]], 1.2 * moved[[2]] + 0.01, pixel_m=300)
    assert estimate.trusted
    assert np.hypot(estimate.dx_m - 250, estimate.dy_m + 390) < 30
