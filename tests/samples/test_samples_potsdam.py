"""The main job end to end on real EnMAP spectra; benchmarks/quality/potsdam.py is the full one."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the models extra")
pytest.importorskip("xbatcher", reason="training needs the train extra")
from benchmarks.quality import potsdam as quality

pytestmark = [pytest.mark.samples, pytest.mark.torch]


@pytest.fixture(scope="module")
def cube(samples, tmp_path_factory):
    return quality.build_cube(samples, tmp_path_factory.mktemp("potsdam") / "cube.zarr")


def test_the_cube_names_bands_that_enmap_does_not_reach(cube):
    assert cube.missing_bands == ("Oa01", "Oa02")
    assert len(cube.guide_bands) == 12
    assert len(cube.coarse_bands) == 19
    sizes = {s.id: (s.split, s.height, s.width) for s in cube.scenes}
    assert sizes == {
        "west": ("train", 64, 64),
        "west-again": ("val", 64, 64),
        "east": ("test", 128, 64),
    }


def test_east_is_real_ground_on_nested_grids(cube):
    guide, coarse, target = quality.east(cube)
    assert guide.shape == (12, 120, 60)
    assert target.shape == (19, 120, 60)
    assert coarse.shape == (19, 12, 6)
    assert np.isfinite(target.values).all()
    assert coarse.x.values[0] == target.x.values[:10].mean()
    assert coarse.y.values[0] == target.y.values[:10].mean()
    # July vegetation: the near infrared is far brighter than red, in both sensors' bands
    assert target.sel(band="Oa17").mean() > 3 * target.sel(band="Oa08").mean()
    red = [float(image.mean()) for image in (guide.sel(band="B04"), target.sel(band="Oa08"))]
    assert red[0] == pytest.approx(red[1], rel=0.1)


def test_training_in_the_west_improves_the_east(samples):
    results = {r.method: r for r in quality.run(samples, {"spectral": (12, 60)})}
    trained = results["spectral, trained"]
    for name in ("bicubic", "spectral, untrained"):
        baseline = results[name]
        assert trained.sam_land_deg < 0.6 * baseline.sam_land_deg
        assert trained.rmse < 0.4 * baseline.rmse
        assert trained.ssim > baseline.ssim + 0.3
    assert results["regression"].rmse < 0.4 * results["bicubic"].rmse
    text = quality.table(list(results.values()))
    assert text.count("\n") == 5
    assert f"{trained.rmse:.5f}" in text
