"""A small archive that the tests of the simulator share."""

import json
import zipfile
from pathlib import Path

import pytest

from satfuse.simulate.archive import Archive, ArchiveRecipe, make_archive


@pytest.fixture(scope="session")
def small_recipe(shared) -> ArchiveRecipe:
    """A field of 6 km, frames of 60 rows, one EnMAP scene of 1.8 km."""
    properties = {
        "name": "small",
        "title": "6 km",
        "crs": "EPSG:32635",
        "bounds_m": [466200, 6461400, 472200, 6467400],
    }
    with shared("simulated") as folder:
        path = folder / "small.geojson"
        path.write_text(json.dumps({"type": "Feature", "properties": properties}))
    return ArchiveRecipe(
        field=str(path), frame_rows=60, columns=65, enmap_scenes=1, enmap_px=60, noise=0.001
    )


@pytest.fixture(scope="session")
def small_archive(small_recipe, shared) -> Archive:
    """The archive of `small_recipe`, made once per run."""
    with shared("simulated") as folder:
        return make_archive(folder / "archive", small_recipe, workers=1)


@pytest.fixture(scope="session")
def unzipped(samples, tmp_path_factory):
    """Unpacks a zipped sample and returns the folder."""

    def unpack(pattern: str) -> Path:
        (archive,) = samples.glob(pattern)
        folder = tmp_path_factory.mktemp("sample")
        zipfile.ZipFile(archive).extractall(folder)
        return folder

    return unpack


@pytest.fixture(scope="session")
def recorded_items(samples) -> Path:
    """Folder of recorded service responses next to the samples."""
    folder = samples.parent / "stac_examples"
    if not folder.is_dir():
        pytest.skip(f"no recorded responses at {folder}")
    return folder
