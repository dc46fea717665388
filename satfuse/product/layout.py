"""Layout of a product: arrays, chunks, overviews, and the metadata that other tools read (CF and GeoZarr)."""

import json
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from satfuse.errors import GridError
from satfuse.geometry.tiling import CHUNK_PX, SHARD_PX
from satfuse.product.store import Store
from satfuse.sensors.bands import bands as band_table
from satfuse.sensors.quality import flag_attrs

FORMAT = 2  # of a product; products of an older one stay readable, and are made anew when asked for
SCALE = {"reflectance": 1e-4, "uncertainty": 2e-5}
FILL = -32768
SMALLEST_OVERVIEW_PX = 128
ATTRS = {
    "reflectance": {
        "standard_name": "surface_bidirectional_reflectance",
        "long_name": "fused surface reflectance",
        "units": "1",
        "grid_mapping": "spatial_ref",
    },
    "uncertainty": {
        "standard_name": "surface_bidirectional_reflectance standard_error",
        "long_name": "standard deviation of the error of reflectance",
        "comment": "five significant bits, within 3 %; the largest number, 0.63488, stands for that or more",
        "units": "1",
        "grid_mapping": "spatial_ref",
    },
}

_RAW = "https://raw.githubusercontent.com/zarr-conventions"
_SPEC = "https://github.com/zarr-conventions"
CONVENTIONS = [
    {
        "uuid": uuid,
        "name": name,
        "schema_url": f"{_RAW}/{repository}/refs/tags/v1/schema.json",
        "spec_url": f"{_SPEC}/{repository}/blob/v1/README.md",
        "description": description,
    }
    for uuid, name, repository, description in (
        (
            "f17cb550-5864-4468-aeb7-f3180cfb622f",
            "proj:",
            "geo-proj",
            "Coordinate reference system",
        ),
        (
            "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
            "spatial:",
            "spatial",
            "Spatial coordinates and transforms",
        ),
        (
            "d35379db-88df-4056-af3a-620245f8e347",
            "multiscales",
            "multiscales",
            "Multiscale layout of Zarr groups",
        ),
    )
]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Shape of one product; plain values, so that a plan can keep it as JSON.

    Parameters
    ----------
    crs : as "EPSG:32631" or WKT.
    transform : the six numbers a, b, c, d, e, f of the affine from pixel corners to metres.
    height, width : of the raster in pixels.
    bands : names of the coarse bands.
    band_source : per band, which model made it.
    uncertain_bands : those with an uncertainty; () = the product holds none.
    time : ISO time of the guide, UTC.
    shard_px, chunk_px : edges of shard and chunk; a shard is whole chunks.
    """

    crs: str
    transform: tuple[float, ...]
    height: int
    width: int
    bands: tuple[str, ...]
    band_source: tuple[str, ...]
    time: str
    uncertain_bands: tuple[str, ...] = ()
    shard_px: int = SHARD_PX
    chunk_px: int = CHUNK_PX

    def __post_init__(self):
        object.__setattr__(self, "transform", tuple(float(v) for v in self.transform)[:6])
        for name in ("bands", "band_source", "uncertain_bands"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.chunk_px < 1 or self.shard_px < 1 or self.shard_px % self.chunk_px:
            raise GridError(
                f"shard_px={self.shard_px} must be a multiple of chunk_px={self.chunk_px}"
            )

    @classmethod
    def of(cls, geobox: GeoBox, **options) -> "Layout":
        """Layout on a GeoBox; a field smaller than a shard gets a shard of its own size in whole chunks."""
        height, width = geobox.shape
        chunk = options.setdefault("chunk_px", CHUNK_PX)
        whole = -(-max(height, width) // chunk) * chunk
        options["shard_px"] = min(options.get("shard_px") or SHARD_PX, whole)
        crs = f"EPSG:{geobox.crs.epsg}" if geobox.crs.epsg else geobox.crs.to_wkt()
        return cls(
            crs=crs, transform=tuple(geobox.affine)[:6], height=height, width=width, **options
        )

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the arrays (time, band, y, x) at full resolution."""
        return ("reflectance", "uncertainty") if self.uncertain_bands else ("reflectance",)

    @property
    def geobox(self) -> GeoBox:
        """The GeoBox of the full-resolution raster."""
        return GeoBox((self.height, self.width), Affine(*self.transform), self.crs)

    @property
    def overviews(self) -> list[int]:
        """Factors of the overviews: powers of 2 that divide the shard, down to about 128 px."""
        factors, factor = [], 2
        while (
            self.shard_px % factor == 0
            and max(self.height, self.width) / factor >= SMALLEST_OVERVIEW_PX
        ):
            factors.append(factor)
            factor *= 2
        return factors

    def level(self, factor: int) -> GeoBox:
        """GeoBox of the overview with `factor` times larger pixels; its last row and column may reach outside."""
        shape = -(-self.height // factor), -(-self.width // factor)
        return GeoBox(shape, Affine(*self.transform) @ Affine.scale(factor), self.crs)

    def to_dict(self) -> dict:
        """Plain values for JSON; `Layout(**d)` gives the layout back."""
        return asdict(self)


def create(store: Store, path: str, layout: Layout, attrs: dict) -> None:
    """Make the empty group of a product, or leave it as it is where it was made before.

    Parameters
    ----------
    path : of the group in the store.
    attrs : provenance, JSON values; the same for every attempt of one run.
    """
    with store.guard(f"create {path}"):
        group = _group(store, path)
        _put_attrs(group, {**_group_attrs(layout, layout.geobox), **_multiscales(layout), **attrs})
        _create_level(group, layout, layout.geobox, layout.shard_px, full=True)
        for factor in layout.overviews:
            level = _group(store, f"{path}/overview_{factor}")
            _put_attrs(level, _group_attrs(layout, layout.level(factor)))
            _create_level(
                level, layout, layout.level(factor), layout.shard_px // factor, full=False
            )


def _group(store: Store, path: str):
    """The group at `path`; another attempt of the same run may be making it at this moment."""
    import zarr
    from zarr.errors import ContainsGroupError

    options = {
        "store": store.zarr(path, read_only=False),
        "zarr_format": 3,
        "use_consolidated": False,
    }
    try:
        return zarr.open_group(**options, mode="a")
    except ContainsGroupError:
        return zarr.open_group(**options, mode="r+")


def consolidate(store: Store, path: str, layout: Layout) -> None:
    """Write the consolidated metadata of the overviews and of the product; the last write into its group."""
    import zarr

    with store.guard(f"consolidate {path}"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        for group in (*(f"{path}/overview_{f}" for f in layout.overviews), path):
            zarr.consolidate_metadata(store.zarr(group, read_only=False))


def _create_level(group, layout: Layout, geobox: GeoBox, shard: int, *, full: bool) -> None:
    """Arrays of a group; an overview, which is not `full`, holds reflectance alone."""
    chunk = layout.chunk_px if shard % layout.chunk_px == 0 else shard
    count = len(layout.bands)
    sizes = {
        "shape": (1, count, *geobox.shape),
        "chunks": (1, count, chunk, chunk),
        "shards": (1, count, shard, shard),
    }
    for name in layout.variables if full else ("reflectance",):
        attrs = {
            **ATTRS[name],
            "scale_factor": SCALE[name],
            "_FillValue": FILL,
            "coordinates": "wavelength_nm fwhm_nm band_source spatial_ref",
        }
        if full and name == "reflectance":
            attrs["ancillary_variables"] = " ".join(("quality", *layout.variables[1:]))
        _array(group, name, "int16", ("time", "band", "y", "x"), attrs, fill_value=FILL, **sizes)
    if full:
        attrs = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in flag_attrs().items()}
        attrs |= {"grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}
        flat = {key: (value[0], *value[2:]) for key, value in sizes.items()}
        _array(group, "quality", "uint16", ("time", "y", "x"), attrs, **flat)
    _coordinates(group, layout, geobox)


def _put_attrs(group, attrs) -> None:
    attrs = json.loads(json.dumps(attrs))
    if group.attrs.asdict() != attrs:
        group.attrs.put(attrs)


def _array(group, name, dtype, dims, attrs, *, shape, chunks, shards=None, fill_value=0):
    """The array `name`; another attempt of the same run may have made it, or be making it at this moment."""
    from zarr.codecs import BloscCodec
    from zarr.errors import ContainsArrayError

    codec = (
        BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=2) if shards else "auto"
    )
    if name not in group:
        with suppress(ContainsArrayError):
            return group.create_array(
                name,
                shape=shape,
                dtype=dtype,
                chunks=chunks,
                shards=shards,
                fill_value=fill_value,
                dimension_names=dims,
                attributes=attrs,
                compressors=codec,
            )
    return group[name]


def _coordinates(group, layout: Layout, geobox: GeoBox) -> None:
    table = band_table(layout.bands)
    a, _, c, _, e, f = tuple(geobox.affine)[:6]
    height, width = geobox.shape
    time = np.datetime64(datetime.fromisoformat(layout.time).replace(tzinfo=None), "us").astype(
        "int64"
    )
    wavelength = {
        "standard_name": "radiation_wavelength",
        "units": "nm",
        "long_name": "nominal centre wavelength",
    }
    values = {
        "time": (("time",), [time], {"units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian",
                                      "standard_name": "time", "long_name": "sensing time of the guide (UTC)"}),
        "band": (("band",), np.array(layout.bands, dtype=np.dtypes.StringDType()), {"long_name": "band name"}),
        "wavelength_nm": (("band",), np.array([b.wavelength_nm for b in table]), wavelength),
        "fwhm_nm": (("band",), np.array([b.fwhm_nm for b in table]), {"units": "nm", "long_name": "band width, FWHM"}),
        "band_source": (
            ("band",),
            np.array(layout.band_source, dtype=np.dtypes.StringDType()),
            {"long_name": "model that made the band"},
        ),
        "y": (("y",), f + e * (np.arange(height) + 0.5), {"standard_name": "projection_y_coordinate", "units": "m"}),
        "x": (("x",), c + a * (np.arange(width) + 0.5), {"standard_name": "projection_x_coordinate", "units": "m"}),
        "spatial_ref": ((), np.int64(0), _crs_attrs(geobox)),
    }  # fmt: skip
    for name, (dims, data, attrs) in values.items():
        data = np.asarray(data)
        options = {"shape": data.shape, "chunks": data.shape or (), "fill_value": None}
        _array(group, name, data.dtype, dims, attrs, **options)[...] = data


def _crs_attrs(geobox: GeoBox) -> dict:
    a, b, c, d, e, f = tuple(geobox.affine)[:6]
    return {
        **geobox.crs.proj.to_cf(),
        "spatial_ref": geobox.crs.to_wkt(),
        "GeoTransform": f"{c} {a} {b} {f} {d} {e}",
    }


def _group_attrs(layout: Layout, geobox: GeoBox) -> dict:
    box = geobox.boundingbox
    crs = {"proj:code": layout.crs} if layout.crs.startswith("EPSG:") else {"proj:wkt2": layout.crs}
    return {
        "Conventions": "CF-1.11",
        "zarr_conventions": CONVENTIONS,
        **crs,
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": list(geobox.affine)[:6],
        "spatial:bbox": [box.left, box.bottom, box.right, box.top],
        "spatial:shape": list(geobox.shape),
        "spatial:registration": "pixel",
    }


def _multiscales(layout: Layout) -> dict:
    levels = [{"asset": ".", "transform": {"scale": [1.0, 1.0], "translation": [0.0, 0.0]}}]
    for factor in layout.overviews:
        geobox = layout.level(factor)
        levels.append(
            {
                "asset": f"overview_{factor}",
                "derived_from": ".",
                "transform": {"scale": [float(factor)] * 2, "translation": [0.0, 0.0]},
                "resampling_method": "average",
                "spatial:shape": list(geobox.shape),
                "spatial:transform": list(geobox.affine)[:6],
            }
        )
    return {"multiscales": {"layout": levels, "resampling_method": "average"}}
