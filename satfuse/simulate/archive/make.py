"""A small archive of simulated products in the official formats, with STAC items and the truth.

One recipe makes one archive: a Sentinel-2 and a Sentinel-3 overpass of a field some minutes apart (two overlapping
tiles, two consecutive frames that meet on the field, one frame twice as STC and NTC), a second, cloudy date, and EnMAP
scenes of other places.
"""

import hashlib
import json
import logging
import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, time, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
import pystac
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from satfuse.catalog.fields import load_field
from satfuse.errors import ConfigError
from satfuse.geometry.grids import lonlat_bbox, utm_crs
from satfuse.sensors.bands import S3_BANDS, S3_NAMES
from satfuse.sensors.degradation import DEFAULT_PSF_SIGMA
from satfuse.simulate.archive import items as stac
from satfuse.simulate.archive import measurements
from satfuse.simulate.archive.clouds import Sky
from satfuse.simulate.archive.enmap_files import (
    EnmapScene,
    enmap_bands,
    layer_percentages,
    write_enmap,
)
from satfuse.simulate.archive.safe import S2Acquisition, class_percentages, write_safe
from satfuse.simulate.archive.sen3 import SynFrame, swath_grid, write_sen3
from satfuse.simulate.archive.sphere import sun_position
from satfuse.simulate.biomes import BIOMES
from satfuse.simulate.surface import Surface

log = logging.getLogger(__name__)

MARKER = "archive.json"
PARTS = ("products", "items", "collections", "truth.zarr")
LOCAL_TIME = time(10, 40)  # mean solar time at which Sentinel-2 passes
DATATAKE_LEAD = timedelta(minutes=8)  # from the start of the datatake to the tile
MARGIN_PX = 30  # by which the tiles reach beyond the field
PSF_MARGIN_PX = 90  # by which the 10 m surface seen through the PSF reaches beyond the field
# places of the EnMAP scenes: longitude, latitude, biome
ENMAP_PLACES = (
    (10.9, 49.1, "mixed"), (-5.2, 37.6, "crop"), (24.9, 61.2, "forest"), (13.3, 52.5, "city"),
    (3.1, 33.2, "desert"), (-1.2, 46.1, "coast"), (8.4, 46.8, "snow"), (20.4, 44.3, "mixed"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ArchiveRecipe:
    """What an archive holds. Equal recipes give equal pixels.

    Parameters
    ----------
    field : name of a shipped field or path of a field file.
    day, cloudy_day : dates of the clear and of the cloudy overpass.
    gap_s : Sentinel-3 row time at the middle of the field minus Sentinel-2 sensing time.
    shift_m : how far east and north Sentinel-3 content lies from where Sentinel-2 has it.
    psf_sigma : of Sentinel-3, in pixels of 300 m.
    gain_sigma : standard deviation of the cross-calibration factors of the 21 bands around 1.
    noise : standard deviation in reflectance.
    cloud_cover, cloudy_cover : share of the sky on the two dates.
    tile_overlap_px : 10 m pixels, a multiple of 12, that the two tiles share.
    frame_rows, columns : size of one SYN frame; tie points fit best at 64 n + 1 columns.
    enmap_scenes, enmap_px : how many, and their side in 30 m pixels.
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

    def __post_init__(self):
        if self.enmap_scenes > len(ENMAP_PLACES):
            raise ConfigError(
                f"enmap_scenes={self.enmap_scenes}: there are {len(ENMAP_PLACES)} places"
            )
        if self.tile_overlap_px % 12:
            raise ConfigError(
                f"tile_overlap_px={self.tile_overlap_px} must be a multiple of 12 (60 m on both sides)"
            )

    @cached_property
    def geobox(self) -> GeoBox:
        """The field's 10 m GeoBox."""
        return load_field(self.field).geobox

    @property
    def surface(self) -> Surface:
        """The land below the overpasses."""
        return Surface(seed=self.seed, biome=self.biome)

    @property
    def gain(self) -> np.ndarray:
        """(21,) factors by which Sentinel-3 band values are off."""
        return np.random.default_rng([self.seed, 3]).normal(1, self.gain_sigma, len(S3_NAMES))

    @property
    def centre(self) -> tuple[float, float]:
        """Latitude and longitude of the middle of the field."""
        west, south, east, north = lonlat_bbox(self.geobox)
        return (south + north) / 2, (west + east) / 2

    def sensing_time(self, day: date) -> datetime:
        """UTC at which Sentinel-2 sees the field."""
        solar = timedelta(hours=self.centre[1] / 15)
        moment = datetime.combine(day, LOCAL_TIME) - solar
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

    def sky(self, day: date) -> Sky:
        """Clouds of a day, the same for both sensors."""
        azimuth, zenith = sun_position(*self.centre, self.sensing_time(day))
        cover = self.cloudy_cover if day == self.cloudy_day else self.cloud_cover
        return Sky(
            seed=self.seed + day.toordinal(),
            cloud_cover=cover,
            sun_azimuth_deg=azimuth,
            sun_zenith_deg=zenith,
        )

    @property
    def digest(self) -> str:
        """Hash of everything that the archive depends on."""
        text = json.dumps(
            {**asdict(self), "geobox": repr(self.geobox)}, default=str, sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A complete archive on disk. `truth` is a Zarr store of the 21 Sentinel-3 bands at 10 m on the field."""

    root: Path
    truth: Path
    items: dict[str, list[pystac.Item]]


def make_archive(
    out: Path,
    recipe: ArchiveRecipe | None = None,
    *,
    workers: int = 2,
    progress: Callable[[int, int, str], None] | None = None,
) -> Archive:
    """Make an archive, or open it where a complete one of the same recipe already lies.

    Parameters
    ----------
    out : folder; a half-made archive or one of another recipe in it is replaced.
    workers : processes; 1 works in this process. More need an importable main module.
    progress : called as (products done, all products, name of the product).
    """
    out, recipe = Path(out).resolve(), recipe or ArchiveRecipe()
    if _digest_of(out) == recipe.digest:
        log.info("archive %s is complete", out)
        return open_archive(out)
    (out / MARKER).unlink(missing_ok=True)
    for part in PARTS:
        shutil.rmtree(out / part, ignore_errors=True)
        if not part.endswith(".zarr"):
            (out / part).mkdir(parents=True)
    found: list[dict] = []
    jobs = _jobs(recipe)
    for done, (name, made) in enumerate(_run(jobs, out, recipe, workers), start=1):
        found += made
        if progress:
            progress(done, len(jobs), name)
    for item in found:
        _write_json(out / "items" / f"{item['id']}.json", item)
    for name in sorted({item["collection"] for item in found}):
        described = stac.collection(name, [item for item in found if item["collection"] == name])
        _write_json(out / "collections" / f"{name}.json", described)
    _write_json(out / MARKER, {"recipe": asdict(recipe), "digest": recipe.digest})
    return open_archive(out)


def open_archive(root: Path) -> Archive:
    """Open a complete archive.

    Raises
    ------
    ConfigError
        There is none, or it was not finished.
    """
    root = Path(root).resolve()
    if _digest_of(root) is None:
        raise ConfigError(f"no complete archive at {root}; make one with: satfuse simulate")
    by_collection: dict[str, list[pystac.Item]] = {}
    for path in sorted((root / "items").glob("*.json")):
        item = pystac.Item.from_dict(json.loads(path.read_text()))
        by_collection.setdefault(item.collection_id, []).append(item)
    return Archive(root=root, truth=root / "truth.zarr", items=by_collection)


def tiles(geobox: GeoBox, overlap_px: int) -> dict[str, GeoBox]:
    """West and east tile, by MGRS name: together they cover the field and a margin, and share `overlap_px` columns."""
    height, width = geobox.shape
    middle, half = width // 12 * 6, overlap_px // 2
    spans = ((-MARGIN_PX, middle + half), (middle - half, width + MARGIN_PX))
    names = _mgrs_names(geobox)
    return {
        name: GeoBox(
            (height + 2 * MARGIN_PX, right - left),
            geobox.affine @ Affine.translation(left, -MARGIN_PX),
            geobox.crs,
        )
        for name, (left, right) in zip(names, spans, strict=True)
    }


def _digest_of(root):
    marker = root / MARKER
    return json.loads(marker.read_text())["digest"] if marker.is_file() else None


def _write_json(path, content):
    draft = path.with_name(f"{path.name}.part")
    draft.write_text(json.dumps(content, default=str))
    draft.replace(path)


def _jobs(recipe):
    """(function, arguments) per product, the longest first."""
    days = (recipe.day, recipe.cloudy_day)
    names = tiles(recipe.geobox, recipe.tile_overlap_px)
    return [
        *((_make_synergy, (day,)) for day in days),
        *((_make_sentinel2, (day, name)) for day in days for name in names),
        (_make_truth, ()),
        *((_make_enmap, (number,)) for number in range(recipe.enmap_scenes)),
    ]


def _run(jobs, out, recipe, workers):
    """Yield (name, items) as products are finished."""
    if workers == 1:
        yield from (job(out, recipe, *arguments) for job, arguments in jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(job, out, recipe, *arguments) for job, arguments in jobs]
        try:
            yield from (future.result() for future in as_completed(futures))
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure nothing more is started


def _make_sentinel2(out, recipe, day, tile):
    geobox, sky, sensing = (
        tiles(recipe.geobox, recipe.tile_overlap_px)[tile],
        recipe.sky(day),
        recipe.sensing_time(day),
    )
    acquisition = S2Acquisition(
        platform="S2B" if day == recipe.cloudy_day else "S2A",
        sensing_time=sensing,
        datatake_start=sensing - DATATAKE_LEAD,
        tile=tile,
        relative_orbit=36,
        sun_zenith_deg=sky.sun_zenith_deg,
        sun_azimuth_deg=sky.sun_azimuth_deg,
        view_zenith_deg=5.0,
        view_azimuth_deg=104.0,
    )
    seed = [recipe.seed, day.toordinal(), *map(ord, tile)]
    bands = measurements.sentinel2(
        recipe.surface,
        geobox,
        platform=acquisition.platform,
        sky=sky,
        seed=seed,
        noise=recipe.noise,
    )
    scl = bands.pop("SCL")
    safe = write_safe(out / "products", bands, scl, geobox, acquisition)
    return safe.name, [stac.sentinel2_item(safe, acquisition, geobox, class_percentages(scl))]


def _make_synergy(out, recipe, day):
    """The clear day: two frames that meet in the middle of the field, the first also as STC. The cloudy day: one."""
    clear, sky = day == recipe.day, recipe.sky(day)
    rows = recipe.frame_rows * (2 if clear else 1)
    swath = swath_grid(*recipe.centre, rows=rows, columns=recipe.columns)
    to_map = Transformer.from_crs("EPSG:4326", recipe.geobox.crs.proj, always_xy=True)
    first = SynFrame(
        platform="S3A" if clear else "S3B",
        start=datetime.min,
        rows=recipe.frame_rows,
        relative_orbit=207,
        cycle=114,
        frame=1620,
        sun_zenith_deg=sky.sun_zenith_deg,
        sun_azimuth_deg=sky.sun_azimuth_deg,
    )
    lead = timedelta(seconds=recipe.gap_s - rows // 2 * first.row_step_s)
    east, north = to_map.transform(swath.longitude, swath.latitude)
    seed = [recipe.seed, day.toordinal()]
    reflectance, cloud, water = measurements.synergy(
        recipe.surface,
        east,
        north,
        platform=first.platform,
        sky=sky,
        seed=seed,
        fine_geobox=recipe.geobox.pad(PSF_MARGIN_PX),
        psf_sigma=recipe.psf_sigma,
        shift_m=recipe.shift_m,
        gain=recipe.gain,
        noise=recipe.noise,
    )
    oblique = measurements.oblique(reflectance, seed=[*seed, 1], noise=recipe.noise)
    altitude_m = measurements.altitude_m(recipe.surface, east, north)
    sea = (water > 0.5) & BIOMES[recipe.biome].beach  # elsewhere water is inland
    made, start = [], recipe.sensing_time(day) + lead
    for number, top in enumerate(range(0, rows, recipe.frame_rows)):
        cut = slice(top, top + recipe.frame_rows)
        for timeliness in ("NT", "ST") if clear and number == 0 else ("NT",):
            seconds = timedelta(seconds=top * first.row_step_s)
            frame = replace(
                first,
                start=start + seconds,
                frame=first.frame + seconds.seconds,
                timeliness=timeliness,
            )
            part = swath.rows(cut.start, cut.stop)
            sen3 = write_sen3(
                out / "products",
                reflectance[:, cut],
                part,
                cloud[cut],
                ~sea[cut],
                frame,
                water=water[cut],
                altitude_m=altitude_m[cut],
                oblique=oblique[:, cut],
            )
            made.append(stac.syn_item(sen3, frame, part, 100 * float(cloud[cut].mean())))
    return made[0]["id"], made


def _make_enmap(out, recipe, number):
    longitude, latitude, biome = ENMAP_PLACES[number]
    crs = utm_crs(longitude, latitude)
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(longitude, latitude)
    side = recipe.enmap_px
    corner = Affine(
        30, 0, x // 30 * 30 + 15, 0, -30, y // 30 * 30 + 15
    )  # EnMAP grids are off by half a pixel
    geobox = GeoBox((side, side), corner, crs)
    start = datetime.combine(recipe.day, LOCAL_TIME) + timedelta(
        days=3 * number, hours=-longitude / 15
    )
    azimuth, zenith = sun_position(latitude, longitude, start)
    scene = EnmapScene(
        start=start,
        datatake=80454 + number,
        sun_elevation_deg=round(90 - zenith, 6),
        sun_azimuth_deg=round(azimuth, 6),
    )
    wavelength_nm, fwhm_nm = enmap_bands()
    sky = Sky(seed=recipe.seed + number, cloud_cover=recipe.cloud_cover)
    cube, quality = measurements.enmap(
        Surface(seed=recipe.seed + 100 + number, biome=biome),
        geobox,
        wavelength_nm,
        fwhm_nm,
        sky=sky,
        seed=[recipe.seed, number],
        noise=recipe.noise,
    )
    bands = {"wavelength_nm": wavelength_nm, "fwhm_nm": fwhm_nm}
    product = write_enmap(out / "products", cube, geobox, quality, scene, **bands)
    return scene.name, [
        stac.enmap_item(product, scene, geobox, covers=layer_percentages(quality), **bands)
    ]


def _make_truth(out, recipe):
    """The 21 bands of the clear day at 10 m, without cloud, noise, shift, gain or PSF, as int16 * 1e-4."""
    values = measurements.truth(recipe.surface, recipe.geobox, platform="S3A", names=S3_NAMES)
    truth = xr.Dataset(
        {"reflectance": (("band", "y", "x"), values)},
        coords={
            "band": np.array(S3_NAMES, dtype=object),
            "wavelength_nm": ("band", [b.wavelength_nm for b in S3_BANDS]),
            **{name: (name, axis.values) for name, axis in recipe.geobox.coordinates.items()},
        },
        attrs={"crs": str(recipe.geobox.crs), "shift_m": recipe.shift_m, "psf_sigma": recipe.psf_sigma,
               "gap_s": recipe.gap_s, "gain": recipe.gain.tolist()},
    )  # fmt: skip
    encoding = {
        "dtype": "int16",
        "scale_factor": 1e-4,
        "_FillValue": -32768,
        "chunks": (len(S3_NAMES), 300, 300),
    }
    truth.to_zarr(out / "truth.zarr", encoding={"reflectance": encoding}, consolidated=False)
    return "truth.zarr", []


def _mgrs_names(geobox):
    """MGRS names of the 100 km square at the middle of the field and of its eastern neighbour."""
    box, zone = geobox.boundingbox, geobox.crs.epsg % 100
    x, y = (box.left + box.right) / 2, (box.bottom + box.top) / 2
    _, south, _, north = lonlat_bbox(geobox)
    band = "CDEFGHJKLMNPQRSTUVWXX"[int(((south + north) / 2 + 80) // 8)]
    column, row = int(x // 1e5) - 1, int(y // 1e5) + (0 if zone % 2 else 5)
    letters = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")[(zone - 1) % 3]
    return [
        f"{zone:02d}{band}{letters[(column + i) % 8]}{'ABCDEFGHJKLMNPQRSTUV'[row % 20]}"
        for i in (0, 1)
    ]
