"""Real swaths: Sentinel-3 SYN over Senegal against Sentinel-2, OLCI over Sweden against scipy."""

import zipfile

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator

from satfuse.catalog.specs import local_catalog
from satfuse.geometry.grids import geobox_of_bbox, lonlat_bbox
from satfuse.geometry.shift import estimate_shift
from satfuse.geometry.swath import locate, rectify
from satfuse.readers.sentinel3_syn import open_syn, sen3_item
from satfuse.sensors.degradation import degrade

pytestmark = pytest.mark.samples
CLEAR, LAND, NODATA = (2, 4, 5, 6, 7), (4, 5), 0
# the grid of the tile's preview; 343 of its pixels cover 5488 of the 5490 pixels of SCL
PREVIEW = GeoBox((343, 343), Affine(320, 0, 399_960, 0, -320, 1_800_000), "EPSG:32628")
TILE = GeoBox((366, 366), Affine(300, 0, 399_960, 0, -300, 1_800_000), "EPSG:32628")


def unzip(samples, pattern, folder):
    (path,) = samples.glob(pattern)
    zipfile.ZipFile(path).extractall(folder)
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def senegal(samples, tmp_path_factory):
    """SYN of 2023-09-12 around tile T28PDC; positions come from the tie points, flags and 17 bands are absent."""
    folder = unzip(samples, "s3_syn_senegal/S3B*.zip", tmp_path_factory.mktemp("sen3"))
    spec = local_catalog("http://127.0.0.1:1", folder.parent)
    bands = ("Oa04", "Oa06", "Oa08", "Oa17")
    return open_syn([sen3_item(folder)], spec=spec, bands=bands, missing="flag", bbox=lonlat_bbox(TILE)).load()


@pytest.fixture(scope="module")
def scl(samples):
    """Scene classification of 2023-09-11 at 20 m."""
    (path,) = samples.glob("s3_syn_senegal/*SCL_20m.tif")
    with rasterio.open(path) as raster:
        assert raster.transform == Affine(20, 0, 399_960, 0, -20, 1_800_000)
        return raster.read(1)


def test_senegal_has_land_where_sentinel2_has_land(senegal, scl):
    out = rectify(senegal, TILE)
    share = {
        name: np.isin(scl, classes).reshape(366, 15, 366, 15).mean((1, 3))
        for name, classes in {"land": LAND, "nodata": NODATA, "water": 6}.items()
    }
    seen = np.isfinite(out["reflectance"].values).all(0) & (share["nodata"] == 0)
    agreement = (share["land"][seen] > 0.5).mean()
    print(f"{seen.sum()} SYN pixels over the tile, {agreement:.1%} on land by SCL")
    assert seen.sum() > 30_000 and agreement > 0.9
    assert not (share["water"][seen] > 0.5).any()


def test_senegal_shift_against_sentinel2(senegal, scl, samples, tmp_path):
    """Two references that share nothing but the ground: the preview's colours, and the scene classification."""
    safe = unzip(samples, "s3_syn_senegal/S2A*20230911*.SAFE.zip", tmp_path)
    with rasterio.open(next(safe.glob("GRANULE/*/QI_DATA/*PVI.jp2"))) as raster:
        assert raster.transform == PREVIEW.affine
        preview = raster.read().astype(float)
    coarse = rectify(senegal, PREVIEW)["reflectance"].values
    clear = np.isin(scl[:5488, :5488], CLEAR).reshape(343, 16, 343, 16).mean((1, 3)) > 0.95
    colours = np.where(clear, ndimage.gaussian_filter(preview, (0, 0.5, 0.5)), np.nan)
    classes = degrade(np.stack([scl[:5488, :5488] == c for c in (3, 4, 5)]).astype("float32"), 16)
    part = (..., slice(60, 320), slice(150, 343))  # where most of SYN is clear
    by_colour = estimate_shift(colours[part], coarse[part], pixel_m=320)
    by_class = estimate_shift(np.where(clear, classes, np.nan)[part], coarse[part], pixel_m=320)
    for name, e in (("preview", by_colour), ("SCL", by_class)):
        print(f"against the {name}: {e.dx_m:+.0f} m east, {e.dy_m:+.0f} m north, +- {e.sigma_m:.0f} m")
        assert e.trusted, e.reason
        assert np.hypot(e.dx_m, e.dy_m) < 200  # tie-point geolocation, clouds of another day
    assert np.hypot(by_colour.dx_m - by_class.dx_m, by_colour.dy_m - by_class.dy_m) < 80


@pytest.fixture(scope="module")
def sweden(samples):
    (path,) = samples.glob("s3_olci_sweden/*.nc")
    with xr.open_dataset(path) as data:
        data = data.load().rename(y="row", x="column")
    plane = ("row", "column")
    names = ["rtoa_3", "rtoa_6", "rtoa_8"]
    shape = data["lat"].shape
    return xr.Dataset(
        {
            "reflectance": (("band", *plane), np.stack([data[n].values for n in names])),
            "valid": (plane, np.ones(shape, bool)),
            "quality": (plane, np.zeros(shape, "uint16")),
            "latitude": (plane, data["lat"].values.astype(float)),
            "longitude": (plane, data["lon"].values.astype(float)),
            "time": (
                "row",
                np.datetime64("2018-07-04T09:21:55", "ns") + np.arange(shape[0]) * np.timedelta64(44, "ms"),
            ),
        },
        coords={"band": ["Oa03", "Oa06", "Oa08"]},
    )


def test_sweden_against_scipy(sweden):
    """The swath repeats some pixels, so rows and columns are not unique: places and values are compared."""
    box = geobox_of_bbox((16.8, 58.9, 17.2, 59.1), resolution=300)
    out = rectify(sweden, box)
    assert out["valid"].all()
    x, y = Transformer.from_crs("EPSG:4326", box.crs.proj, always_xy=True).transform(sweden.longitude, sweden.latitude)
    targets = np.meshgrid(out["x"].values, out["y"].values)
    found = locate(sweden["latitude"].values, sweden["longitude"].values, box)
    back = [ndimage.map_coordinates(values, found, order=1) for values in (x, y)]
    apart_m = np.hypot(back[0] - targets[0], back[1] - targets[1])
    left, bottom, right, top = box.boundingbox
    near = (x > left - 2e3) & (x < right + 2e3) & (y > bottom - 2e3) & (y < top + 2e3)
    oracle = LinearNDInterpolator((x[near], y[near]), np.moveaxis(sweden["reflectance"].values, 0, -1)[near])
    truth = np.moveaxis(oracle(*targets), -1, 0)
    difference = out["reflectance"].values - truth
    print(f"at most {apart_m.max():.3f} m apart; reflectance rms {difference.std():.5f} of {truth.std():.5f}")
    assert apart_m.max() < 5
    assert difference.std() < 0.1 * truth.std() and abs(difference.mean()) < 1e-4


def test_sweden_shift_of_a_known_move(sweden):
    """Real land texture and swath geometry: the swath sampled elsewhere is registered back onto itself."""
    box = geobox_of_bbox((16.8, 58.9, 17.2, 59.1), resolution=300)
    guide = rectify(sweden, box)["reflectance"].values
    moved = rectify(sweden, box, (-250.0, 390.0))["reflectance"].values
    # sampled 250 m west and 390 m north of the guide's place, the content lies that much east and south
    estimate = estimate_shift(guide[[0, 1]], 1.2 * moved[[2]] + 0.01, pixel_m=300)
    assert estimate.trusted
    assert np.hypot(estimate.dx_m - 250, estimate.dy_m + 390) < 30
