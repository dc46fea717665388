"""A small archive of simulated products in the official formats, with STAC items and the truth.

One recipe makes one archive: a Sentinel-2 and a Sentinel-3 overpass of a field some minutes apart
(two overlapping tiles, two consecutive frames that meet on the field, one frame both as STC and as
NTC), a second, cloudy date, and EnMAP scenes of other places.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, time, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from satfuse.arrays import BoolArray, FloatArray
from satfuse.catalog.fields import load_field
from satfuse.errors import ConfigError
from satfuse.files import replacing
from satfuse.geometry.grids import lonlat_bbox, utm_crs
from satfuse.sensors.bands import S3_BANDS, S3_NAMES
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA
from satfuse.sensors.encoding import FILL, SCALE
from satfuse.simulate.archive import items as stac
from satfuse.simulate.archive import measurements
from satfuse.simulate.archive.clouds import Clouds
from satfuse.simulate.archive.enmap_files import (
    EnmapScene,
    enmap_bands,
    layer_percentages,
    write_enmap,
)
from satfuse.simulate.archive.footprint import crs_of, utm_zone
from satfuse.simulate.archive.safe import class_percentages, write_safe
from satfuse.simulate.archive.safe_acquisition import S2Acquisition
from satfuse.simulate.archive.sen3 import write_sen3
from satfuse.simulate.archive.sen3_swath import Swath, SynFrame, swath_grid
from satfuse.simulate.archive.sphere import sun_position
from satfuse.simulate.biomes import BIOMES
from satfuse.simulate.surface import Surface

log = logging.getLogger(__name__)

Json = dict[str, Any]
Product = tuple[str, list[Json]]  # name of a product and its STAC items

MARKER = "archive.json"
PARTS = ("products", "items", "collections", "truth.zarr")
LOCAL_TIME = time(10, 40)  # mean solar time at which Sentinel-2 passes
DATATAKE_LEAD = timedelta(minutes=8)  # from the start of the datatake to the tile
MARGIN_PX = 30  # of the tiles around the field
PSF_MARGIN_PX = 90  # of the 10 m surface around the field, for the PSF of pixels at its edge
# places of the EnMAP scenes: longitude, latitude, biome
ENMAP_PLACES = (
    (10.9, 49.1, "mixed"), (-5.2, 37.6, "crop"), (24.9, 61.2, "forest"), (13.3, 52.5, "city"),
    (3.1, 33.2, "desert"), (-1.2, 46.1, "coast"), (8.4, 46.8, "snow"), (20.4, 44.3, "mixed"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ArchiveRecipe:
    """Contents of an archive. Equal recipes give equal pixels.

    Parameters
    ----------
    seed, biome : of the land surface; everything random depends on the seed.
    field : name of a shipped field or path of a field file.
    day, cloudy_day : dates of the clear and of the cloudy overpass.
    gap_s : Sentinel-3 row time at the middle of the field minus Sentinel-2 sensing time.
    shift_m : displacement of Sentinel-3 content against Sentinel-2, metres east and north.
    psf_sigma : of Sentinel-3, in pixels of 300 m.
    gain_sigma : standard deviation of the cross-calibration factors of the 21 bands around 1.
    noise : standard deviation in reflectance.
    cloud_cover, cloudy_cover : share of the area under cloud on the two dates.
    tile_overlap_px : 10 m pixels, a multiple of 12, that the two tiles share.
    frame_rows, columns : size of one SYN frame; with 64 n + 1 columns, tie points are evenly
        spaced.
    enmap_scenes, enmap_px : number of EnMAP scenes, and their side in 30 m pixels.

    Raises
    ------
    ConfigError
        More EnMAP scenes than places, or tiles that would not be whole at 60 m.
    """

    seed: int = 7
    field: str = "tartu"
    biome: str = "mixed"
    day: date = date(2024, 7, 4)
    cloudy_day: date = date(2024, 7, 9)
    gap_s: float = 180.0
    shift_m: tuple[float, float] = (70.0, -55.0)
    psf_sigma: float = DEFAULT_PSF_SIGMA
    gain_sigma: float = 0.01
    noise: float = 0.002
    cloud_cover: float = 0.01
    cloudy_cover: float = 0.7
    tile_overlap_px: int = 60
    frame_rows: int = 150
    columns: int = 321
    enmap_scenes: int = 8
    enmap_px: int = 180

    def __post_init__(self) -> None:
        if self.enmap_scenes > len(ENMAP_PLACES):
            raise ConfigError(
                f"enmap_scenes={self.enmap_scenes}: there are {len(ENMAP_PLACES)} places"
            )
        if self.tile_overlap_px % 12:
            raise ConfigError(
                f"tile_overlap_px={self.tile_overlap_px} must be a multiple of 12 "
                "(60 m on both sides)"
            )

    @cached_property
    def geobox(self) -> GeoBox:
        """The field's 10 m GeoBox."""
        return load_field(self.field).geobox

    @property
    def surface(self) -> Surface:
        """The land surface of the field."""
        return Surface(seed=self.seed, biome=self.biome)

    @property
    def gain(self) -> FloatArray:
        """(21,) cross-calibration factors of the Sentinel-3 bands."""
        return np.random.default_rng([self.seed, 3]).normal(1, self.gain_sigma, len(S3_NAMES))

    @property
    def centre(self) -> tuple[float, float]:
        """Latitude and longitude of the middle of the field."""
        west, south, east, north = lonlat_bbox(self.geobox)
        return (south + north) / 2, (west + east) / 2

    def sensing_time(self, day: date) -> datetime:
        """UTC at which Sentinel-2 senses the field, in whole milliseconds as in the metadata."""
        solar = timedelta(hours=self.centre[1] / 15)  # of local solar time ahead of UTC
        moment = datetime.combine(day, LOCAL_TIME) - solar
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

    def clouds(self, day: date) -> Clouds:
        """Clouds and sun angles of a day, the same for both sensors."""
        azimuth, zenith = sun_position(*self.centre, self.sensing_time(day))
        return Clouds(
            seed=self.seed + day.toordinal(),
            cloud_cover=self.cloudy_cover if day == self.cloudy_day else self.cloud_cover,
            sun_azimuth_deg=azimuth,
            sun_zenith_deg=zenith,
        )

    @property
    def digest(self) -> str:
        """Hash of everything that the archive depends on."""
        content = {**asdict(self), "geobox": repr(self.geobox)}
        text = json.dumps(content, default=str, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A complete archive on disk.

    `truth` is a Zarr store of the 21 Sentinel-3 bands at 10 m on the field; `items` are by
    collection.
    """

    root: Path
    truth: Path
    items: dict[str, list[pystac.Item]]


def make_archive(
    out: str | os.PathLike[str],
    recipe: ArchiveRecipe | None = None,
    *,
    workers: int = 2,
    progress: Callable[[int, int, str], None] | None = None,
) -> Archive:
    """Make an archive, or open an existing complete one of the same recipe.

    Parameters
    ----------
    out : folder; an incomplete archive or one of another recipe in it is replaced.
    workers : processes; 1 works in this process. More need an importable main module.
    progress : called as (products done, all products, name of the product).
    """
    out = Path(out).resolve()
    recipe = recipe or ArchiveRecipe()
    if _digest_of(out) == recipe.digest:
        log.info("archive %s is complete", out)
        return open_archive(out)
    _clear(out)
    items: list[Json] = []
    jobs = _jobs(recipe)
    for done, (name, product_items) in enumerate(_run(jobs, out, recipe, workers), start=1):
        items += product_items
        if progress:
            progress(done, len(jobs), name)
    _write_catalogue(out, items)
    # last: an archive without the marker is incomplete
    _write_json(out / MARKER, {"recipe": asdict(recipe), "digest": recipe.digest})
    return open_archive(out)


def open_archive(root: str | os.PathLike[str]) -> Archive:
    """Open a complete archive.

    Raises
    ------
    ConfigError
        There is no archive, or it is incomplete.
    """
    root = Path(root).resolve()
    if _digest_of(root) is None:
        raise ConfigError(f"no complete archive at {root}; make one with: satfuse simulate")
    by_collection: dict[str, list[pystac.Item]] = {}
    for path in sorted((root / "items").glob("*.json")):
        item = pystac.Item.from_dict(json.loads(path.read_text()))
        by_collection.setdefault(str(item.collection_id), []).append(item)
    return Archive(root=root, truth=root / "truth.zarr", items=by_collection)


def tiles(geobox: GeoBox, overlap_px: int) -> dict[str, GeoBox]:
    """West and east tile of a field, by MGRS name.

    Together they cover the field and a margin, and they share `overlap_px` columns.
    """
    height, width = geobox.shape
    middle = width // 12 * 6  # a multiple of 6 px, so that both tiles are whole at 60 m
    half = overlap_px // 2
    spans = ((-MARGIN_PX, middle + half), (middle - half, width + MARGIN_PX))
    return {
        name: GeoBox(
            (height + 2 * MARGIN_PX, right - left),
            geobox.affine @ Affine.translation(left, -MARGIN_PX),
            geobox.crs,
        )
        for name, (left, right) in zip(_mgrs_names(geobox), spans, strict=True)
    }


def _digest_of(root: Path) -> str | None:
    marker = root / MARKER
    return json.loads(marker.read_text())["digest"] if marker.is_file() else None


def _clear(root: Path) -> None:
    """Remove the products of another or incomplete archive."""
    (root / MARKER).unlink(missing_ok=True)
    for part in PARTS:
        shutil.rmtree(root / part, ignore_errors=True)
        if not part.endswith(".zarr"):
            (root / part).mkdir(parents=True)


def _write_catalogue(root: Path, items: list[Json]) -> None:
    """Write the items and the collections that they belong to."""
    for item in items:
        _write_json(root / "items" / f"{item['id']}.json", item)
    for name in sorted({item["collection"] for item in items}):
        members = [item for item in items if item["collection"] == name]
        _write_json(root / "collections" / f"{name}.json", stac.collection(name, members))


def _write_json(path: Path, content: Json) -> None:
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, default=str))


Job = tuple[Callable[..., Product], tuple[Any, ...]]  # called with folder, recipe and arguments


def _jobs(recipe: ArchiveRecipe) -> list[Job]:
    """One job per product, the longest first."""
    days = (recipe.day, recipe.cloudy_day)
    names = tiles(recipe.geobox, recipe.tile_overlap_px)
    return [
        *((_make_synergy, (day,)) for day in days),
        *((_make_sentinel2, (day, name)) for day in days for name in names),
        (_make_truth, ()),
        *((_make_enmap, (number,)) for number in range(recipe.enmap_scenes)),
    ]


def _run(jobs: list[Job], out: Path, recipe: ArchiveRecipe, workers: int) -> Iterator[Product]:
    """Yield products in the order in which they are finished."""
    if workers == 1:
        yield from (job(out, recipe, *arguments) for job, arguments in jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(job, out, recipe, *arguments) for job, arguments in jobs]
        try:
            yield from (future.result() for future in as_completed(futures))
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure no further job is started


def _make_sentinel2(out: Path, recipe: ArchiveRecipe, day: date, tile: str) -> Product:
    geobox = tiles(recipe.geobox, recipe.tile_overlap_px)[tile]
    clouds = recipe.clouds(day)
    sensing_time = recipe.sensing_time(day)
    acquisition = S2Acquisition(
        platform="S2B" if day == recipe.cloudy_day else "S2A",
        sensing_time=sensing_time,
        datatake_start=sensing_time - DATATAKE_LEAD,
        tile=tile,
        relative_orbit=36,
        sun_zenith_deg=clouds.sun_zenith_deg,
        sun_azimuth_deg=clouds.sun_azimuth_deg,
        view_zenith_deg=5.0,
        view_azimuth_deg=104.0,
    )
    bands, scl = measurements.sentinel2(
        recipe.surface,
        geobox,
        platform=acquisition.platform,
        clouds=clouds,
        # noise differs between days and tiles
        seed=[recipe.seed, day.toordinal(), *map(ord, tile)],
        noise=recipe.noise,
    )
    safe = write_safe(out / "products", bands, scl, geobox, acquisition)
    return safe.name, [stac.sentinel2_item(safe, acquisition, geobox, class_percentages(scl))]


@dataclass(frozen=True, kw_only=True)
class _SynImage:
    """The image of a day that frames are cut from, (..., row, column) on `swath`."""

    swath: Swath
    reflectance: FloatArray
    oblique: FloatArray
    cloud: BoolArray
    water: FloatArray
    sea: BoolArray
    altitude_m: FloatArray


def _make_synergy(out: Path, recipe: ArchiveRecipe, day: date) -> Product:
    """Make the frames of a day.

    The clear day has two frames that meet in the middle of the field, the first also as STC; the
    cloudy day has one.
    """
    clear = day == recipe.day
    clouds = recipe.clouds(day)
    rows = recipe.frame_rows * (2 if clear else 1)
    first = SynFrame(
        platform="S3A" if clear else "S3B",
        start=datetime.min,  # replaced below: it depends on the row step
        rows=recipe.frame_rows,
        relative_orbit=207,
        cycle=114,
        frame=1620,
        sun_zenith_deg=clouds.sun_zenith_deg,
        sun_azimuth_deg=clouds.sun_azimuth_deg,
    )
    lead = timedelta(seconds=recipe.gap_s - rows // 2 * first.row_step_s)
    first = replace(first, start=recipe.sensing_time(day) + lead)
    image = _syn_image(recipe, day, rows, first.platform)
    items = []
    for number, top in enumerate(range(0, rows, recipe.frame_rows)):
        seconds = timedelta(seconds=top * first.row_step_s)
        frame = replace(first, start=first.start + seconds, frame=first.frame + seconds.seconds)
        for timeliness in ("NT", "ST") if clear and number == 0 else ("NT",):
            items.append(_write_frame(out, image, top, replace(frame, timeliness=timeliness)))
    return items[0]["id"], items


def _syn_image(recipe: ArchiveRecipe, day: date, rows: int, platform: str) -> _SynImage:
    swath = swath_grid(*recipe.centre, rows=rows, columns=recipe.columns)
    to_map = Transformer.from_crs("EPSG:4326", crs_of(recipe.geobox).proj, always_xy=True)
    east, north = to_map.transform(swath.longitude, swath.latitude)
    seed = [recipe.seed, day.toordinal()]
    reflectance, cloud, water = measurements.synergy(
        recipe.surface,
        east,
        north,
        platform=platform,
        clouds=recipe.clouds(day),
        seed=seed,
        fine_geobox=recipe.geobox.pad(PSF_MARGIN_PX),
        psf_sigma=recipe.psf_sigma,
        shift_m=recipe.shift_m,
        gain=recipe.gain,
        noise=recipe.noise,
    )
    return _SynImage(
        swath=swath,
        reflectance=reflectance,
        oblique=measurements.oblique(reflectance, seed=[*seed, 1], noise=recipe.noise),
        cloud=cloud,
        water=water,
        sea=(water > 0.5) & BIOMES[recipe.biome].beach,  # elsewhere water is inland
        altitude_m=measurements.altitude_m(recipe.surface, east, north),
    )


def _write_frame(out: Path, image: _SynImage, top: int, frame: SynFrame) -> Json:
    """Write the product of a frame that begins at row `top` of the image; returns its item."""
    cut = slice(top, top + frame.rows)
    swath = image.swath.rows(cut.start, cut.stop)
    cloud = image.cloud[cut]
    sen3 = write_sen3(
        out / "products",
        image.reflectance[:, cut],
        swath,
        cloud,
        ~image.sea[cut],
        frame,
        water=image.water[cut],
        altitude_m=image.altitude_m[cut],
        oblique=image.oblique[:, cut],
    )
    return stac.syn_item(sen3, frame, swath, 100 * float(cloud.mean()))


def _make_enmap(out: Path, recipe: ArchiveRecipe, number: int) -> Product:
    longitude, latitude, biome = ENMAP_PLACES[number]
    geobox = _enmap_grid(longitude, latitude, recipe.enmap_px)
    # scenes are three days apart, each at the same local solar time
    delay = timedelta(days=3 * number, hours=-longitude / 15)
    start = datetime.combine(recipe.day, LOCAL_TIME) + delay
    azimuth, zenith = sun_position(latitude, longitude, start)
    scene = EnmapScene(
        start=start,
        datatake=80454 + number,
        sun_elevation_deg=round(90 - zenith, 6),
        sun_azimuth_deg=round(azimuth, 6),
    )
    wavelength_nm, fwhm_nm = enmap_bands()
    cube, quality = measurements.enmap(
        Surface(seed=recipe.seed + 100 + number, biome=biome),
        geobox,
        wavelength_nm,
        fwhm_nm,
        clouds=Clouds(seed=recipe.seed + number, cloud_cover=recipe.cloud_cover),
        seed=[recipe.seed, number],
        noise=recipe.noise,
    )
    bands = {"wavelength_nm": wavelength_nm, "fwhm_nm": fwhm_nm}
    product = write_enmap(out / "products", cube, geobox, quality, scene, **bands)
    covers = layer_percentages(quality)
    return scene.name, [stac.enmap_item(product, scene, geobox, covers=covers, **bands)]


def _enmap_grid(longitude: float, latitude: float, side: int) -> GeoBox:
    """Square UTM grid of 30 m pixels; EnMAP's are off by half a pixel from multiples of 30 m."""
    crs = utm_crs(longitude, latitude)
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(longitude, latitude)
    corner = Affine(30, 0, x // 30 * 30 + 15, 0, -30, y // 30 * 30 + 15)
    return GeoBox((side, side), corner, crs)


def _make_truth(out: Path, recipe: ArchiveRecipe) -> Product:
    """Write the 21 bands at 10 m as int16, without cloud, noise, shift, gain or PSF."""
    values = measurements.truth(recipe.surface, recipe.geobox, platform="S3A", names=S3_NAMES)
    truth = xr.Dataset(
        {"reflectance": (("band", "y", "x"), values)},
        coords={
            "band": np.array(S3_NAMES, dtype=object),
            "wavelength_nm": ("band", [b.wavelength_nm for b in S3_BANDS]),
            **{name: (name, axis.values) for name, axis in recipe.geobox.coordinates.items()},
        },
        attrs={
            "crs": str(recipe.geobox.crs),
            "shift_m": recipe.shift_m,
            "psf_sigma": recipe.psf_sigma,
            "gap_s": recipe.gap_s,
            "gain": recipe.gain.tolist(),
        },
    )
    encoding = {
        "dtype": "int16",
        "scale_factor": SCALE,
        "_FillValue": FILL,
        "chunks": (len(S3_NAMES), 300, 300),
    }
    truth.to_zarr(out / "truth.zarr", encoding={"reflectance": encoding}, consolidated=False)
    return "truth.zarr", []


def _mgrs_names(geobox: GeoBox) -> list[str]:
    """MGRS names of the 100 km square at the middle of the field and of its eastern neighbour.

    Letters of columns repeat every 3 zones, those of rows every 20 squares, shifted by 5 in even
    zones. On the northern hemisphere only.
    """
    box = geobox.boundingbox
    zone, _ = utm_zone(geobox)
    x = (box.left + box.right) / 2
    y = (box.bottom + box.top) / 2
    _, south, _, north = lonlat_bbox(geobox)
    band = "CDEFGHJKLMNPQRSTUVWXX"[int(((south + north) / 2 + 80) // 8)]
    column = int(x // 1e5) - 1
    row = int(y // 1e5) + (0 if zone % 2 else 5)
    letters = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")[(zone - 1) % 3]
    return [
        f"{zone:02d}{band}{letters[(column + i) % 8]}{'ABCDEFGHJKLMNPQRSTUV'[row % 20]}"
        for i in (0, 1)
    ]
