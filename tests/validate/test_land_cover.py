"""Land-cover maps are read onto the right pixels; known maps give known scores."""

import numpy as np
import pytest
import rasterio
import xarray as xr
from rasterio.transform import from_origin

from satfuse import metrics
from satfuse.errors import ConfigError, GridError, ReadError
from satfuse.sensors.bands import S3_NAMES, wavelengths_nm
from satfuse.validate import checks
from satfuse.validate.land_cover.classes import (
    LEGENDS,
    LandCover,
    Legend,
    class_agreement,
    class_spectra,
    load_legend,
    read_land_cover,
    vegetation_agreement,
)
from satfuse.validate.views import make_views
from tests.validate.validate_field import HEIGHT, RATIO, WIDTH, abundances, materials

LEGEND = Legend(classes={1: "green", 2: "soil", 3: "water"}, vegetation=(1,))


@pytest.fixture(scope="module")
def views(perfect, scene):
    return make_views(perfect, scene)


@pytest.fixture(scope="module")
def codes():
    """The material that covers most of every fine pixel, as 1, 2, 3."""
    return abundances(HEIGHT, WIDTH).argmax(0) + 1


def write_map(path, values, *, pixel_m=30, left=450000, top=6480000, nodata=None, crs="EPSG:32635"):
    height, width = values.shape
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "crs": crs,
        "dtype": values.dtype,
        "transform": from_origin(left, top, pixel_m, pixel_m),
        "nodata": nodata,
    }
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(values, 1)
    return path


# --- reading ------------------------------------------------------------------------------------


def test_a_map_on_the_grid_is_read_unchanged(codes, scene, tmp_path):
    path = write_map(tmp_path / "map.tif", codes.astype("float32"))
    np.testing.assert_array_equal(read_land_cover(path, scene, LEGEND).codes, codes)


def test_a_south_up_field_gets_the_map_the_right_way_round(codes, scene, tmp_path):
    path = write_map(tmp_path / "map.tif", codes.astype("uint8"))
    south_up = scene.isel(y=slice(None, None, -1))
    np.testing.assert_array_equal(read_land_cover(path, south_up, LEGEND).codes, codes[::-1])


def test_a_finer_map_gives_its_most_common_code(scene, tmp_path):
    rng = np.random.default_rng(0)
    expected = rng.integers(1, 4, (HEIGHT, WIDTH))
    fine = np.kron(expected, np.ones((3, 3), int))
    fine[1::3, 1::3] = rng.integers(1, 4, expected.shape)  # one of nine differs
    path = write_map(tmp_path / "map.tif", fine.astype("uint8"), pixel_m=10)
    np.testing.assert_array_equal(read_land_cover(path, scene, LEGEND).codes, expected)


def test_a_coarser_map_of_a_part_of_the_field(scene, tmp_path):
    blocks = np.random.default_rng(0).integers(1, 4, (20, 30)).astype("uint8")
    blocks[3, 4] = 255
    path = write_map(tmp_path / "map.tif", blocks, pixel_m=90, left=450900, top=6479100, nodata=255)
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[30:90, 30:120] = np.kron(np.where(blocks == 255, 0, blocks), np.ones((3, 3), int))
    np.testing.assert_array_equal(read_land_cover(path, scene, LEGEND).codes, expected)


def test_a_map_in_another_projection_is_read_at_its_place(codes, scene, tmp_path):
    from rasterio.warp import calculate_default_transform, reproject

    source = write_map(tmp_path / "utm.tif", codes.astype("uint8"))
    with rasterio.open(source) as raster:
        transform, width, height = calculate_default_transform(
            raster.crs, "EPSG:4326", WIDTH, HEIGHT, *raster.bounds
        )
        profile = raster.profile | {
            "crs": "EPSG:4326",
            "transform": transform,
            "width": width,
            "height": height,
        }
        with rasterio.open(tmp_path / "degrees.tif", "w", **profile) as target:
            reproject(rasterio.band(raster, 1), rasterio.band(target, 1))
    read = read_land_cover(tmp_path / "degrees.tif", scene, LEGEND).codes
    # water is large and compact: only its rim may change
    water = codes[5:-5, 5:-5] == 3
    read_water = read[5:-5, 5:-5] == 3
    assert metrics.jaccard(water, read_water) > 0.97
    assert metrics.jaccard(water, np.roll(read_water, 3, axis=0)) < 0.97


def test_maps_that_do_not_fit_are_refused(codes, scene, tmp_path):
    with pytest.raises(ReadError, match=r"nowhere\.tif cannot be read"):
        read_land_cover(tmp_path / "nowhere.tif", scene, LEGEND)
    codes = codes.astype("uint8")
    without_crs = write_map(tmp_path / "bare.tif", codes, crs=None)
    with pytest.raises(ReadError, match="no coordinate reference system"):
        read_land_cover(without_crs, scene, LEGEND)
    elsewhere = write_map(tmp_path / "away.tif", codes, left=600000)
    with pytest.raises(GridError, match="no class inside the product's field"):
        read_land_cover(elsewhere, scene, LEGEND)
    other_codes = write_map(tmp_path / "map.tif", codes)
    message = r"codes \[1, 2, 3\] that the legend lacks; it has \[10, 20"
    with pytest.raises(ConfigError, match=message):
        read_land_cover(other_codes, scene, LEGENDS["worldcover"])


def test_legends_are_loaded_by_name_or_file(tmp_path):
    path = tmp_path / "legend.toml"
    path.write_text('vegetation = [1]\n[classes]\n1 = "green"\n2 = "soil"\n3 = "water"\n')
    assert load_legend(str(path)) == LEGEND
    assert 10 in load_legend("worldcover").vegetation
    assert 80 not in load_legend("worldcover").vegetation
    for text, message in (
        ("vegetation = [4]\n[classes]\n1 = 'green'\n", "must be some of the classes"),
        ("vegetation = [1]\n[classes]\n0 = 'none'\n1 = 'green'\n", "code 0"),
        ("vegetation = [1]\n", "malformed"),
        ("vegetation = [1\n", "malformed"),
        ("vegetation = 1\n[classes]\n1 = 'green'\n", "malformed"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_legend(str(path))
    with pytest.raises(ConfigError, match="no legend corine: No such file"):
        load_legend("corine")


# --- vegetation ---------------------------------------------------------------------------------


def test_jaccard_of_a_known_map(views):
    """The map is the guide's NDVI above 0.5, first exactly, then with some wrong pixels."""
    maps = checks.ndvi_maps(views)
    green = maps["guide"] > 0.5
    codes = np.where(green, 1, 2)
    exact = vegetation_agreement(views, maps, LandCover(codes=codes, legend=LEGEND))
    assert exact["threshold"] == 0.5
    assert exact["images"]["guide"]["jaccard"] == 1
    assert exact["images"]["guide"]["interval"] == [1, 1]
    assert exact["images"]["guide"]["macro"] == 1
    assert exact["pixels"] == HEIGHT * WIDTH
    assert exact["vegetated"] == pytest.approx(green.mean())
    assert exact["blocks"] == (HEIGHT // 20) * (WIDTH // 20)
    assert exact["images"]["fused"]["jaccard"] == metrics.jaccard(maps["fused"] > 0.5, green) > 0.95
    assert exact["images"]["bicubic"]["minus_guide_interval"][1] < 0  # clearly worse

    missed = np.flatnonzero(green)[::4]
    codes.flat[missed] = 2
    images = vegetation_agreement(views, maps, LandCover(codes=codes, legend=LEGEND))["images"]
    wrong = images["guide"]
    assert wrong["curve"]["0.5"] == pytest.approx(1 - len(missed) / green.sum())
    bare = (~green).sum()
    union = HEIGHT * WIDTH - green.sum() + len(missed)
    assert wrong["macro"] == pytest.approx((wrong["jaccard"] + bare / union) / 2)
    assert wrong["interval"][0] < wrong["jaccard"] < wrong["interval"][1]


def test_only_classified_pixels_count_and_black_ones_are_not_green(views):
    maps = checks.ndvi_maps(views)
    codes = np.where(maps["guide"] > 0.5, 1, 2)
    codes[:, 60:] = 0
    maps["fused"] = np.where(maps["guide"] > 0.5, np.nan, maps["guide"])
    agreement = vegetation_agreement(views, maps, LandCover(codes=codes, legend=LEGEND))
    assert agreement["pixels"] == HEIGHT * 60
    assert agreement["images"]["fused"]["jaccard"] == 0
    unclassified = LandCover(codes=np.zeros_like(codes), legend=LEGEND)
    assert vegetation_agreement(views, maps, unclassified) == {}


def test_the_95_percent_interval_is_calibrated():
    """Blocks from a population of known Jaccard index; 95 % of the intervals should include it."""
    from satfuse.validate.land_cover.classes import RESAMPLES, _interval, _jaccard

    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        either = rng.integers(20, 80, 60)
        both = rng.binomial(either, np.clip(0.6 + 0.15 * rng.standard_normal(60), 0, 1))
        counts = np.stack([both, either, both, either]).astype(float)
        draws = rng.multinomial(60, np.full(60, 1 / 60), RESAMPLES)
        low, high = _interval(_jaccard(draws @ counts.T)[0])
        covered += low <= 0.6 <= high
    assert 0.89 <= covered / 200 <= 0.99


# --- classes ------------------------------------------------------------------------------------


def test_class_spectra_are_those_of_the_materials(views, codes):
    spectra = class_spectra(views, LandCover(codes=codes, legend=LEGEND))
    water = materials(wavelengths_nm(S3_NAMES))[2]
    assert list(spectra) == ["green", "soil", "water"]
    np.testing.assert_allclose(spectra["water"]["fused"].mean, water, rtol=1e-5)
    np.testing.assert_allclose(spectra["water"]["fused"].std, 0, atol=1e-6)
    coarse = spectra["water"]["coarse"].mean  # with its shores: at most half is land
    land = materials(wavelengths_nm(S3_NAMES))[:2]
    assert (coarse < 0.5 * water + 0.5 * land.max(0)).all()
    assert (coarse > 0.5 * np.minimum(water, land.min(0))).all()
    assert coarse[-1] < 0.2 * spectra["soil"]["coarse"].mean[-1]


def test_an_error_in_one_class_is_found_there(truth, scene, codes):
    tilt = xr.DataArray(np.linspace(0.7, 1.3, truth.sizes["band"]), dims="band")
    water = xr.DataArray(codes == 3, dims=("y", "x"))
    wrong = xr.where(water, truth * tilt, truth).transpose("band", "y", "x")
    views = make_views(wrong.assign_coords(truth.coords).rename("reflectance").to_dataset(), scene)
    classes = class_agreement(views, LandCover(codes=codes, legend=LEGEND))
    pixels = {name: row["pixels"] for name, row in classes.items()}
    assert pixels == {name: int((codes == code).sum()) for code, name in LEGEND.classes.items()}
    spectrum = truth.values[:, -1, :1, None]
    expected = metrics.sam_deg(spectrum, tilt.values[:, None, None] * spectrum)
    coarse = {name: row["coarse"]["fused"] for name, row in classes.items()}
    assert coarse["water"]["sam_deg"] == pytest.approx(expected, rel=0.25)
    assert coarse["green"]["sam_deg"] < 0.2
    assert classes["water"]["guide"]["fused"]["sam_deg"] > 2
    assert coarse["water"]["jensen_shannon"] > 100 * coarse["green"]["jensen_shannon"]
    share = (codes == 3).reshape(HEIGHT // RATIO, RATIO, WIDTH // RATIO, RATIO).mean((1, 3))
    assert classes["water"]["coarse_pixels"] == int((views.compare & (share >= 0.5)).sum()) > 20
