"""A small SAFE tile with known digital numbers, and its place."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from odc.geo.geobox import GeoBox

from satfuse.catalog.specs import CatalogSpec, local_catalog
from satfuse.geometry.grids import snap_geobox
from satfuse.sensors.bands import S2_BANDS
from satfuse.simulate.archive.safe import write_safe
from satfuse.simulate.archive.safe_acquisition import S2Acquisition

SIDE = 360  # 10 m pixels


@dataclass(frozen=True, kw_only=True)
class SafeTile:
    """A SAFE folder and the reflectance that was written into it, at native size."""

    folder: Path
    geobox: GeoBox
    reflectance: dict[str, np.ndarray]
    scl: np.ndarray


@pytest.fixture(scope="session")
def acquisition():
    return S2Acquisition(
        platform="S2B",
        sensing_time=datetime(2024, 6, 1, 10, 51, 12, 345000, tzinfo=UTC),
        datatake_start=datetime(2024, 6, 1, 10, 40, 31, tzinfo=UTC),
        tile="31RDP",
        relative_orbit=108,
        sun_zenith_deg=20.0,
        sun_azimuth_deg=110.0,
        view_zenith_deg=5.0,
        view_azimuth_deg=290.0,
    )


@pytest.fixture(scope="session")
def make_tile(acquisition):
    """Write a tile whose values are whole digital numbers; keywords change the acquisition."""

    def make(folder: Path, *, left=388800, top=3469800, seed=0, **changes) -> SafeTile:
        rng = np.random.default_rng(seed)
        geobox = snap_geobox("EPSG:32631", left, top - SIDE * 10, left + SIDE * 10, top)
        reflectance = {}
        for band in S2_BANDS:
            side = SIDE * 10 // band.gsd_m
            reflectance[band.name] = rng.integers(300, 6000, (side, side)) / 10000
        reflectance["B02"][100, 50] = -0.02
        reflectance["B04"][10:20, :] = np.nan
        # the largest digital number at offset 0, clipped to it at -1000
        reflectance["B08"][200, 200] = 6.5535
        scl = np.full((SIDE // 2, SIDE // 2), 5, "uint8")
        for row, value in enumerate(range(12), start=20):
            scl[row, :] = value
        safe = write_safe(folder, reflectance, scl, geobox, replace(acquisition, **changes))
        return SafeTile(folder=safe, geobox=geobox, reflectance=reflectance, scl=scl)

    return make


@pytest.fixture(scope="session")
def tile(tmp_path_factory, make_tile):
    return make_tile(tmp_path_factory.mktemp("safe"))


@pytest.fixture(scope="session")
def files_under():
    """Catalogue of files on disk below a folder."""

    def spec(root: Path) -> CatalogSpec:
        return local_catalog("http://127.0.0.1:7822", root)

    return spec
