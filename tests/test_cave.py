"""Training scenes from CAVE: its folder layout, the stretched spectra, and the substitute."""

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from satfuse import cube
from satfuse.cube.cave import CAVE_NM, cave_scenes, indoor_scenes
from satfuse.errors import ReadError
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.sensors.srf import response

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{NotGeoreferencedWarning.__module__}.NotGeoreferencedWarning"
)
LEVEL = 65535


def write_cave_scene(root, name, image, dtype="uint16"):
    """Write a scene as the archives unpack it: `name/name/name_01.png` and so on.

    The folder also has a preview and files that are not of the scene.
    """
    folder = root / name / name
    folder.mkdir(parents=True)
    full = np.iinfo(dtype).max
    for number, band in enumerate(np.rint(image * full).astype(dtype), 1):
        write_png(folder / f"{name}_{number:02d}.png", band)
    (folder / "Thumbs.db").write_bytes(b"")
    (folder / f"._{name}_01.png").write_bytes(b"metadata of another system")
    write_png(folder / f"{name.removesuffix('ms')}RGB.png", np.zeros(image.shape[1:], "uint8"))
    return folder


def write_png(path, band):
    height, width = band.shape
    size = {"count": 1, "height": height, "width": width}
    with rasterio.open(path, "w", driver="PNG", dtype=band.dtype, **size) as file:
        file.write(band, 1)


def cubic(nm):
    """A cubic in wavelength between 0 and 1, which a cubic spline reproduces exactly."""
    t = (np.asarray(nm) - 400) / 300
    return 0.2 + 1.2 * t - 2.1 * t**2 + 1.2 * t**3


def unstretched(nm):
    """CAVE's wavelength that is stretched to `nm`."""
    return 400 + (np.asarray(nm) - 390) / (2320 - 390) * 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two scenes: `a_ms` is the cubic times a brightness; `b_ms` a step, with spline overshoot."""
    root = tmp_path_factory.mktemp("cave")
    brightness = np.linspace(0.1, 1, 30 * 45).reshape(30, 45)
    write_cave_scene(root, "a_ms", cubic(CAVE_NM)[:, None, None] * brightness)
    step = np.where(CAVE_NM < 550, 0.0, 1.0)
    write_cave_scene(root, "b_ms", step[:, None, None] * np.ones((30, 30)))
    return root


def test_known_spectra_are_recovered_from_the_stretched_ones(folder):
    scene = cave_scenes(folder)["a_ms"].load()
    nm = scene.wavelength_nm.values
    assert (nm[0], nm[-1], nm[1] - nm[0]) == (390, 2320, 1)
    assert scene.reflectance.dtype == "float32"
    brightness = np.linspace(0.1, 1, 30 * 45).reshape(30, 45)
    expected = cubic(unstretched(nm))[:, None, None] * brightness
    np.testing.assert_allclose(scene.reflectance.values, expected, atol=3 / LEVEL)
    assert scene.valid.all()
    assert scene.usable.all()


def test_overshoot_of_the_spline_is_clipped(folder):
    spectrum = cave_scenes(folder)["b_ms"].reflectance[:, 3, 4].values
    assert spectrum.min() == 0
    assert spectrum.max() == 1


def test_a_cube_of_cave_has_all_bands(folder, tmp_path):
    split = {"a_ms": "train", "b_ms": "val"}
    built = cube.build(cave_scenes(folder), tmp_path / "c.zarr", target_bands=S3_NAMES, split=split)
    assert built.missing_bands == ()
    assert built.coarse_bands == S3_NAMES
    assert len({scene.place for scene in built.scenes}) == 2
    scene = built.open_scene("a_ms", decode=True)
    for image, platform, names in ((scene.guide, "S2A", S2_NAMES), (scene.target, "S3A", S3_NAMES)):
        for band, name in zip(image.values, names, strict=True):
            nm, weight = response(platform, name)
            expected = np.average(cubic(unstretched(nm)), weights=weight)  # brightness 1
            assert band[-1, -1] == pytest.approx(expected, abs=4e-4), name
            assert band[0, 0] == pytest.approx(0.1 * expected, abs=2e-4), name


def test_eight_bits_mean_the_same_reflectance(tmp_path):
    write_cave_scene(tmp_path, "c_ms", np.full((31, 8, 8), 0.6), dtype="uint8")
    np.testing.assert_allclose(cave_scenes(tmp_path)["c_ms"].reflectance.values, 0.6, atol=1e-6)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(ReadError, match=r"no CAVE scene.*\*_ms_01.png"):
        cave_scenes(tmp_path)
    scene = write_cave_scene(tmp_path, "d_ms", np.full((31, 8, 8), 0.5))
    write_png(scene / "d_ms_07.png", np.zeros((8, 9), "uint16"))
    with pytest.raises(ReadError, match=r"differ in size.*d_ms_07.png \(8, 9\)"):
        cave_scenes(tmp_path)["d_ms"].load()
    (scene / "d_ms_07.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    with pytest.raises(ReadError, match=r"d_ms_07.png cannot be read"):
        cave_scenes(tmp_path)["d_ms"].load()
    (scene / "d_ms_07.png").unlink()
    with pytest.raises(ReadError, match="has 30 bands; a CAVE scene has 31"):
        cave_scenes(tmp_path)


def test_the_substitute_is_smooth_in_wavelength_with_edges_in_space_and_deterministic():
    one, again, other = (indoor_scenes(2, seed=seed, size=60) for seed in (0, 0, 1))
    assert list(one) == ["indoor-00", "indoor-01"]
    image = one["indoor-01"].reflectance.values
    np.testing.assert_array_equal(image, again["indoor-01"].reflectance.values)
    assert not np.array_equal(image, other["indoor-01"].reflectance.values)
    assert not np.array_equal(image, one["indoor-00"].reflectance.values)
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.std() > 0.05
    assert np.abs(np.diff(image[::20], axis=0)).mean() < 0.03
    assert np.abs(np.diff(image[0], axis=1)).max() > 0.1
