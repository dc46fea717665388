"""Layout of a product: its arrays, chunks and overviews, and the metadata that other tools read.

The metadata follow CF and the Zarr conventions `proj:`, `spatial:` and `multiscales` (GeoZarr).
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from satfuse.errors import GridError
from satfuse.geometry.tiling import CHUNK_PX, SHARD_PX
from satfuse.product.store import Store
from satfuse.sensors import encoding
from satfuse.sensors.bands import bands as band_table
from satfuse.sensors.encoding import FILL
from satfuse.sensors.quality import flag_attrs

if TYPE_CHECKING:
    import zarr

# Version of the product format. Older products stay readable; asked for again, they are remade.
FORMAT = 2
# Physical value of one digital number. The largest uncertainty that int16 holds is 0.65.
SCALES = {"reflectance": encoding.SCALE, "uncertainty": 2e-5}
SMALLEST_OVERVIEW_PX = 128  # of the longer side
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
        "comment": "five significant bits, within 3 %; the largest number, 0.63488, "
        "stands for that or more",
        "units": "1",
        "grid_mapping": "spatial_ref",
    },
}
PIXEL_DIMS = ("time", "band", "y", "x")
COORDINATES = "wavelength_nm fwhm_nm band_source spatial_ref"


def _convention(uuid: str, name: str, repository: str, description: str) -> dict[str, str]:
    """One entry of the attribute `zarr_conventions`."""
    home = f"zarr-conventions/{repository}"
    return {
        "uuid": uuid,
        "name": name,
        "schema_url": f"https://raw.githubusercontent.com/{home}/refs/tags/v1/schema.json",
        "spec_url": f"https://github.com/{home}/blob/v1/README.md",
        "description": description,
    }


# The identifiers are those that the conventions register for themselves.
CONVENTIONS = [
    _convention(
        "f17cb550-5864-4468-aeb7-f3180cfb622f", "proj:", "geo-proj", "Coordinate reference system"
    ),
    _convention(
        "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "spatial:",
        "spatial",
        "Spatial coordinates and transforms",
    ),
    _convention(
        "d35379db-88df-4056-af3a-620245f8e347",
        "multiscales",
        "multiscales",
        "Multiscale layout of Zarr groups",
    ),
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
    band_source : per band, the model that made it.
    uncertain_bands : bands with an uncertainty; () = the product has none.
    time : ISO time of the guide, UTC.
    shard_px, chunk_px : edges of shard and chunk; a shard consists of whole chunks.

    Raises
    ------
    GridError
        A shard that is not a whole number of chunks.
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

    def __post_init__(self) -> None:
        # JSON gives lists; tuples make a layout that was read equal to the one that was written
        object.__setattr__(self, "transform", tuple(float(v) for v in self.transform)[:6])
        for name in ("bands", "band_source", "uncertain_bands"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.chunk_px < 1 or self.shard_px < 1 or self.shard_px % self.chunk_px:
            raise GridError(
                f"shard_px={self.shard_px} must be a multiple of chunk_px={self.chunk_px}"
            )

    @classmethod
    def of(
        cls,
        geobox: GeoBox,
        *,
        bands: Sequence[str],
        band_source: Sequence[str],
        time: str,
        uncertain_bands: Sequence[str] = (),
        shard_px: int | None = None,
        chunk_px: int = CHUNK_PX,
    ) -> "Layout":
        """Layout on a GeoBox.

        A field smaller than a shard gets a shard of its own size in whole chunks.
        """
        height, width = geobox.shape.yx
        whole_chunks = -(-max(height, width) // chunk_px) * chunk_px
        crs = crs_of(geobox)
        return cls(
            crs=f"EPSG:{crs.epsg}" if crs.epsg else crs.to_wkt(),
            transform=tuple(geobox.affine)[:6],
            height=height,
            width=width,
            bands=tuple(bands),
            band_source=tuple(band_source),
            time=time,
            uncertain_bands=tuple(uncertain_bands),
            shard_px=min(shard_px or SHARD_PX, whole_chunks),
            chunk_px=chunk_px,
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
        factors: list[int] = []
        factor = 2
        longer_side = max(self.height, self.width)
        while self.shard_px % factor == 0 and longer_side / factor >= SMALLEST_OVERVIEW_PX:
            factors.append(factor)
            factor *= 2
        return factors

    def level(self, factor: int) -> GeoBox:
        """GeoBox of the overview with `factor` times larger pixels.

        Its last row and column may reach beyond the full-resolution raster.
        """
        shape = (-(-self.height // factor), -(-self.width // factor))
        return GeoBox(shape, Affine(*self.transform) @ Affine.scale(factor), self.crs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `Layout(**d)` gives the layout back."""
        return asdict(self)


def crs_of(geobox: GeoBox) -> CRS:
    """The CRS of a GeoBox, which every grid of a product has."""
    if geobox.crs is None:
        raise GridError("the grid of a product needs a CRS")
    return geobox.crs


def create_group(store: Store, path: str, layout: Layout, attrs: Mapping[str, Any]) -> None:
    """Make the empty group of a product, or leave it as it is where it was made before.

    Parameters
    ----------
    path : of the group in the store.
    attrs : provenance, JSON values; the same for every attempt of one run.
    """
    with store.guard(f"create {path}"):
        group = _open_group(store, path)
        _put_attrs(group, {**_group_attrs(layout, layout.geobox), **_multiscales(layout), **attrs})
        _create_arrays(group, layout, layout.geobox, layout.shard_px, full=True)
        for factor in layout.overviews:
            overview = _open_group(store, f"{path}/overview_{factor}")
            geobox = layout.level(factor)
            _put_attrs(overview, _group_attrs(layout, geobox))
            _create_arrays(overview, layout, geobox, layout.shard_px // factor, full=False)


def _open_group(store: Store, path: str) -> "zarr.Group":
    """The group at `path`; another attempt of the same run may be making it at this moment."""
    import zarr
    from zarr.errors import ContainsGroupError

    location = store.zarr(path, read_only=False)
    try:
        return zarr.open_group(location, mode="a", zarr_format=3, use_consolidated=False)
    except ContainsGroupError:
        return zarr.open_group(location, mode="r+", zarr_format=3, use_consolidated=False)


def consolidate(store: Store, path: str, layout: Layout) -> None:
    """Write the consolidated metadata of overviews and product: the last write into the group."""
    import zarr

    with store.guard(f"consolidate {path}"), warnings.catch_warnings():
        # zarr warns that version 3 of the format does not specify consolidated metadata yet
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        for group in (*(f"{path}/overview_{f}" for f in layout.overviews), path):
            zarr.consolidate_metadata(store.zarr(group, read_only=False))


def _create_arrays(
    group: "zarr.Group", layout: Layout, geobox: GeoBox, shard: int, *, full: bool
) -> None:
    """Make the arrays of a group; an overview, which is not `full`, has reflectance alone."""
    # the shards of small overviews are no whole chunks: there one chunk is the shard
    chunk = layout.chunk_px if shard % layout.chunk_px == 0 else shard
    shapes = (geobox.shape.yx, (chunk, chunk), (shard, shard))
    for name in layout.variables if full else ("reflectance",):
        attrs = _pixel_attrs(name, layout, full=full)
        sizes = ((1, len(layout.bands), *shape) for shape in shapes)
        _array(group, name, "int16", PIXEL_DIMS, attrs, *sizes, fill_value=FILL)
    if full:
        flat_sizes = ((1, *shape) for shape in shapes)
        _array(group, "quality", "uint16", ("time", "y", "x"), _quality_attrs(), *flat_sizes)
    _write_coordinates(group, layout, geobox)


def _pixel_attrs(name: str, layout: Layout, *, full: bool) -> dict[str, Any]:
    """Attributes of `reflectance` or `uncertainty`."""
    attrs = {
        **ATTRS[name],
        "scale_factor": SCALES[name],
        "_FillValue": FILL,
        "coordinates": COORDINATES,
    }
    if full and name == "reflectance":
        attrs["ancillary_variables"] = " ".join(("quality", *layout.variables[1:]))
    return attrs


def _quality_attrs() -> dict[str, Any]:
    """Attributes of `quality`, with lists in place of arrays: they go into JSON."""
    flags = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in flag_attrs().items()}
    return flags | {"grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}


def _put_attrs(group: "zarr.Group", attrs: Mapping[str, Any]) -> None:
    """Set the attributes, unless they are the same already: another attempt may read them now."""
    plain = json.loads(json.dumps(attrs))
    if group.attrs.asdict() != plain:
        group.attrs.put(plain)


def _array(
    group: "zarr.Group",
    name: str,
    dtype: npt.DTypeLike,
    dims: tuple[str, ...],
    attrs: dict[str, Any],
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None = None,
    *,
    fill_value: int | None = 0,
) -> "zarr.Array[Any]":
    """The array `name`; another attempt of the same run may have made it, or be making it now."""
    import zarr
    from zarr.codecs import BloscCodec
    from zarr.errors import ContainsArrayError

    # bit shuffle suits digital numbers whose high bits hardly change
    pixels = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=2)
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
                compressors=pixels if shards else "auto",
            )
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _write_coordinates(group: "zarr.Group", layout: Layout, geobox: GeoBox) -> None:
    """Write the coordinates of bands, pixels and time, and the CRS."""
    coordinates = {
        "time": _time_coordinate(layout),
        **_band_coordinates(layout),
        **_pixel_coordinates(geobox),
        "spatial_ref": ((), np.int64(0), _crs_attrs(geobox)),
    }
    for name, (dims, values, attrs) in coordinates.items():
        data = np.asarray(values)
        chunks = data.shape or ()
        array = _array(
            group, name, data.dtype, dims, attrs, shape=data.shape, chunks=chunks, fill_value=None
        )
        array[...] = data


_Coordinate = tuple[tuple[str, ...], Any, dict[str, Any]]  # dims, values, attributes


def _time_coordinate(layout: Layout) -> _Coordinate:
    moment = np.datetime64(datetime.fromisoformat(layout.time).replace(tzinfo=None), "us")
    attrs = {
        "units": "microseconds since 1970-01-01",
        "calendar": "proleptic_gregorian",
        "standard_name": "time",
        "long_name": "sensing time of the guide (UTC)",
    }
    return ("time",), [moment.astype("int64")], attrs


def _band_coordinates(layout: Layout) -> dict[str, _Coordinate]:
    table = band_table(layout.bands)
    text = np.dtypes.StringDType()
    wavelength = {
        "standard_name": "radiation_wavelength",
        "units": "nm",
        "long_name": "nominal centre wavelength",
    }
    width = {"units": "nm", "long_name": "band width, FWHM"}
    source = {"long_name": "model that made the band"}
    return {
        "band": (("band",), np.array(layout.bands, dtype=text), {"long_name": "band name"}),
        "wavelength_nm": (("band",), np.array([b.wavelength_nm for b in table]), wavelength),
        "fwhm_nm": (("band",), np.array([b.fwhm_nm for b in table]), width),
        "band_source": (("band",), np.array(layout.band_source, dtype=text), source),
    }


def _pixel_coordinates(geobox: GeoBox) -> dict[str, _Coordinate]:
    """Coordinates of the pixel centres."""
    a, _, c, _, e, f = tuple(geobox.affine)[:6]
    height, width = geobox.shape.yx
    northing = {"standard_name": "projection_y_coordinate", "units": "m"}
    easting = {"standard_name": "projection_x_coordinate", "units": "m"}
    return {
        "y": (("y",), f + e * (np.arange(height) + 0.5), northing),
        "x": (("x",), c + a * (np.arange(width) + 0.5), easting),
    }


def _crs_attrs(geobox: GeoBox) -> dict[str, Any]:
    """Attributes of the grid mapping: CF, and the two that GDAL reads."""
    a, b, c, d, e, f = tuple(geobox.affine)[:6]
    crs = crs_of(geobox)
    return {
        **crs.proj.to_cf(),
        "spatial_ref": crs.to_wkt(),
        "GeoTransform": f"{c} {a} {b} {f} {d} {e}",
    }


def _group_attrs(layout: Layout, geobox: GeoBox) -> dict[str, Any]:
    """Attributes of a group by the conventions `proj:` and `spatial:`."""
    box = geobox.boundingbox
    crs_key = "proj:code" if layout.crs.startswith("EPSG:") else "proj:wkt2"
    return {
        "Conventions": "CF-1.11",
        "zarr_conventions": CONVENTIONS,
        crs_key: layout.crs,
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": list(geobox.affine)[:6],
        "spatial:bbox": [box.left, box.bottom, box.right, box.top],
        "spatial:shape": list(geobox.shape.yx),
        "spatial:registration": "pixel",
    }


def _multiscales(layout: Layout) -> dict[str, Any]:
    """The attribute `multiscales`, which says where the overviews are."""
    levels: list[dict[str, Any]] = [
        {"asset": ".", "transform": {"scale": [1.0, 1.0], "translation": [0.0, 0.0]}}
    ]
    for factor in layout.overviews:
        geobox = layout.level(factor)
        levels.append(
            {
                "asset": f"overview_{factor}",
                "derived_from": ".",
                "transform": {"scale": [float(factor)] * 2, "translation": [0.0, 0.0]},
                "resampling_method": "average",
                "spatial:shape": list(geobox.shape.yx),
                "spatial:transform": list(geobox.affine)[:6],
            }
        )
    return {"multiscales": {"layout": levels, "resampling_method": "average"}}
