"""Writes Sentinel-2 L2A products as SAFE folders: JP2 images, MTD_MSIL2A.xml, MTD_TL.xml, manifest.safe."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp

from satfuse.errors import GridError
from satfuse.sensors.bands import S2_GSD_M
from satfuse.simulate.archive import safe_metadata

NATIVE_20M = ("B05", "B06", "B07", "B8A", "B11", "B12")
# what ESA ships at each pixel size, in the order of MTD_MSIL2A.xml
IMAGES = {
    10: ("B02", "B03", "B04", "B08", "TCI", "AOT", "WVP"),
    20: ("B01", "B02", "B03", "B04", *NATIVE_20M, "TCI", "AOT", "WVP", "SCL"),
    60: (
        "B01",
        "B02",
        "B03",
        "B04",
        "B05",
        "B06",
        "B07",
        "B8A",
        "B09",
        "B11",
        "B12",
        "TCI",
        "AOT",
        "WVP",
        "SCL",
    ),
}
JP2_BLOCK = {10: 1024, 20: 640, 60: 192}
AOT, WATER_VAPOUR_CM = 0.12, 1.5  # a clear atmosphere, the same everywhere


@dataclass(frozen=True, kw_only=True)
class S2Acquisition:
    """What a Sentinel-2 product's metadata says about how it was taken. Times are UTC, naive or aware.

    `sensing_time` is that of the tile, `datatake_start` that of the whole datatake, minutes earlier. Angles in degrees,
    azimuths clockwise from north.
    """

    platform: str
    sensing_time: datetime
    datatake_start: datetime
    tile: str
    relative_orbit: int
    absolute_orbit: int = 48983
    baseline: str = "05.11"
    sun_zenith_deg: float
    sun_azimuth_deg: float
    view_zenith_deg: float
    view_azimuth_deg: float

    @property
    def offset(self) -> int:
        """BOA_ADD_OFFSET: digital number = reflectance * 10000 - offset. Zero below baseline 04.00."""
        return -1000 if self.baseline >= "04.00" else 0

    @property
    def processed(self) -> datetime:
        """When the ground segment made the product: three hours after sensing."""
        return self.sensing_time + timedelta(hours=3)

    @property
    def datastrip_start(self) -> datetime:
        """Start of the datastrip that holds the tile: seconds after the datatake start."""
        return self.datatake_start + timedelta(seconds=3)

    @property
    def name(self) -> str:
        """Product name without `.SAFE`; also the id of its STAC item."""
        start, made = (f"{t:%Y%m%dT%H%M%S}" for t in (self.datatake_start, self.processed))
        number = self.baseline.replace(".", "")
        return f"{self.platform}_MSIL2A_{start}_N{number}_R{self.relative_orbit:03d}_T{self.tile}_{made}"

    @property
    def granule(self) -> str:
        """Name of the folder below GRANULE."""
        return f"L2A_T{self.tile}_A{self.absolute_orbit:06d}_{self.datastrip_start:%Y%m%dT%H%M%S}"

    @property
    def datatake(self) -> str:
        """Identifier of the datatake."""
        return f"G{self.platform}_{self.datatake_start:%Y%m%dT%H%M%S}_{self.absolute_orbit:06d}_N{self.baseline}"

    def identifier(self, kind: str) -> str:
        """Identifier of the tile (`kind` "TL") or the datastrip ("DS")."""
        tile = f"A{self.absolute_orbit:06d}_T{self.tile}"
        middle = tile if kind == "TL" else f"S{self.datastrip_start:%Y%m%dT%H%M%S}"
        made = f"{self.processed:%Y%m%dT%H%M%S}"
        return f"{self.platform}_OPER_MSI_L2A_{kind}_2APS_{made}_{middle}_N{self.baseline}"

    def image(self, name: str, gsd_m: int) -> str:
        """Path of an image inside the product, without suffix."""
        start = f"{self.datatake_start:%Y%m%dT%H%M%S}"
        return f"GRANULE/{self.granule}/IMG_DATA/R{gsd_m}m/T{self.tile}_{start}_{name}_{gsd_m}m"


def write_safe(
    folder: Path, bands: dict, scl: np.ndarray, geobox: GeoBox, acquisition: S2Acquisition
) -> Path:
    """Write one L2A product.

    Parameters
    ----------
    folder : where the `.SAFE` folder is made.
    bands : the 12 band names -> reflectance (y, x) at native pixel size, float, NaN where there is no data.
    scl : scene classification (y, x) at 20 m, uint8.
    geobox : 10 m grid of the tile; its sides are multiples of 60 m.

    Returns
    -------
    Path of the `.SAFE` folder. Digital numbers are uint16 (reflectance * 10000 - offset, rounded, 1..65535; 0 is
    nodata), lossless JPEG 2000.

    Raises
    ------
    GridError
        A tile that is not whole at 60 m, or an array that does not have its band's native size.
    """
    _check_sizes(bands, scl, geobox)
    safe = Path(folder) / f"{acquisition.name}.SAFE"
    for gsd_m in IMAGES:
        (safe / acquisition.image("", gsd_m)).parent.mkdir(parents=True, exist_ok=True)
    jobs = [(name, gsd_m) for gsd_m, names in IMAGES.items() for name in names]
    numbers = {name: digital_numbers(values, acquisition.offset) for name, values in bands.items()}

    def write(job):
        name, gsd_m = job
        grid = geobox.zoom_out(gsd_m // 10)
        _write_jp2(
            safe / f"{acquisition.image(name, gsd_m)}.jp2",
            _image(name, gsd_m, numbers, scl, grid.shape),
            grid,
        )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, jobs))
    paths = [acquisition.image(name, gsd_m) for name, gsd_m in jobs]
    shares = class_percentages(scl)
    safe_metadata.write_product(safe / "MTD_MSIL2A.xml", acquisition, paths, geobox, shares)
    safe_metadata.write_tile(
        safe / "GRANULE" / acquisition.granule / "MTD_TL.xml", acquisition, geobox, shares
    )
    _write_manifest(safe)
    return safe


def digital_numbers(reflectance: np.ndarray, offset: int) -> np.ndarray:
    """Reflectance as uint16 digital numbers: 0 where it is NaN, else 1..65535."""
    numbers = np.clip(np.rint(np.asarray(reflectance, "float64") * 10000) - offset, 1, 65535)
    return np.where(np.isfinite(reflectance), numbers, 0).astype("uint16")


def class_percentages(scl: np.ndarray) -> dict[int, float]:
    """Percentage per scene class: of all pixels for class 0 (nodata), of those with data for the others."""
    counts = np.bincount(scl.ravel(), minlength=12)[:12]
    return {
        value: 100 * n / max(scl.size if value == 0 else scl.size - counts[0], 1)
        for value, n in enumerate(counts)
    }


def _check_sizes(bands, scl, geobox):
    if any(side % 6 for side in geobox.shape):
        raise GridError(
            f"a tile of {geobox.shape} px of 10 m is not whole at 60 m; use multiples of 6 px"
        )
    for name, values in {**bands, "SCL": scl}.items():
        wanted = tuple(side * 10 // S2_GSD_M.get(name, 20) for side in geobox.shape)
        if values.shape != wanted:
            raise GridError(
                f"{name} has shape {values.shape}; on a tile of {geobox.shape} at 10 m it must be {wanted}"
            )
    if missing := set(S2_GSD_M) - set(bands):
        raise GridError(f"bands missing from the tile: {', '.join(sorted(missing))}")


def _image(name, gsd_m, numbers, scl, shape):
    """Array of one image (uint8 or uint16), (y, x) or (band, y, x)."""
    if name == "SCL":
        step = gsd_m // 20
        return scl[step // 2 :: step, step // 2 :: step].astype("uint8")
    if name in ("AOT", "WVP"):
        return np.full(shape, 1000 * (AOT if name == "AOT" else WATER_VAPOUR_CM), "uint16")
    if name == "TCI":
        rgb = np.stack(
            [_resample(numbers[b], gsd_m / 10).astype("float32") for b in ("B04", "B03", "B02")]
        )
        return np.where(rgb > 0, np.clip(rgb / 3550 * 255, 1, 255), 0).astype("uint8")
    return _resample(numbers[name], gsd_m / S2_GSD_M[name])


def _resample(numbers, factor):
    """Mean of whole blocks, 0 where any pixel is nodata; or copies when the factor is below 1."""
    if factor <= 1:
        copies = round(1 / factor)
        return numbers.repeat(copies, 0).repeat(copies, 1)
    step = round(factor)
    blocks = numbers.reshape(numbers.shape[0] // step, step, numbers.shape[1] // step, step)
    return np.where(
        blocks.min((1, 3)) > 0, np.rint(blocks.mean((1, 3), dtype="float32")), 0
    ).astype("uint16")


def _write_jp2(path, values, geobox):
    values = values if values.ndim == 3 else values[None]
    profile = {
        "driver": "JP2OpenJPEG", "count": len(values), "dtype": values.dtype.name, "width": geobox.shape[1],
        "height": geobox.shape[0], "crs": geobox.crs.to_wkt(), "transform": geobox.affine,
        "QUALITY": "100", "REVERSIBLE": "YES", "BLOCKXSIZE": JP2_BLOCK[round(geobox.affine.a)],
        "BLOCKYSIZE": JP2_BLOCK[round(geobox.affine.a)],
    }  # fmt: skip
    if len(values) == 1:
        with rasterio.open(path, "w", **profile) as image:
            image.write(values)
        return
    with rasterio.open(path, "w", photometric="RGB", **profile) as image:
        image.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        image.write(values)


def _write_manifest(safe):
    files = sorted(p for p in safe.rglob("*") if p.is_file() and p.name != "manifest.safe")
    objects = [
        (str(p.relative_to(safe)), p.stat().st_size, hashlib.sha3_256(p.read_bytes()).hexdigest())
        for p in files
    ]
    safe_metadata.write_manifest(safe / "manifest.safe", objects)
