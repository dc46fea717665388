"""From a source to the stored form of a cube scene: int16 reflectance and validity, lazy."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pystac
import xarray as xr
from odc.geo.xr import ODCExtension  # noqa: F401  registers `Dataset.odc`

from satfuse.arrays import FloatArray
from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import BandError, CubeError
from satfuse.geometry.grids import lonlat_bbox
from satfuse.readers.enmap import open_enmap
from satfuse.sensors.bands import S2_NAMES
from satfuse.sensors.encoding import FILL, SCALE, encode
from satfuse.sensors.srf import covering_matrix


def enmap_scene(
    name: str,
    source: pystac.Item | xr.Dataset,
    spec: CatalogSpec | None,
    missing: str,
    platforms: tuple[str, str],
    target_bands: Sequence[str],
) -> xr.Dataset:
    """Guide and target of an EnMAP scene on its own grid, integrated over the sensors' responses.

    Parameters
    ----------
    name : scene id, for messages.
    source : STAC item, or the Dataset that `readers.enmap.open_enmap` returns.
    spec : catalogue of the item.
    missing : "raise" or "flag" unreadable quality layers, see `open_enmap`.
    platforms : guide and target platform, such as ("S2A", "S3A").
    target_bands : SYN band names.

    Raises
    ------
    CubeError
        A band that the scene's usable spectrum does not cover, or a scene without a map grid.
    """
    if not isinstance(source, xr.Dataset):
        if spec is None:
            raise CubeError(f"scene {name} is an item without a catalogue; give spec")
        source = open_enmap(source, spec=spec, missing=missing)
    weights = _weights(name, source, platforms, target_bands)
    image = _integrate(source.reflectance, weights)
    valid = source.valid & xr.ufuncs.isfinite(image).all("out")
    guide = _bands(image, slice(None, len(S2_NAMES)), "guide_band", S2_NAMES)
    target = _bands(image, slice(len(S2_NAMES), None), "band", target_bands)
    stored = {"guide": _to_int16(guide, valid), "target": _to_int16(target, valid), "valid": valid}
    return _on_grid(xr.Dataset(stored), name, source)


def _integrate(spectra: xr.DataArray, weights: FloatArray) -> xr.DataArray:
    """Integrate spectra (band, y, x) with weights (out, band) to (out, y, x) float32."""
    used = np.flatnonzero((weights != 0).any(0))
    spectra = spectra.isel(band=used).drop_vars("band", errors="ignore")
    if spectra.chunks:
        spectra = spectra.chunk(band=-1)
    return xr.apply_ufunc(
        lambda pixels: pixels @ weights[:, used].T.astype(np.float32),
        spectra.astype(np.float32),
        input_core_dims=[["band"]],
        output_core_dims=[["out"]],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": {"out": len(weights)}},
    ).transpose("out", "y", "x")


def _bands(image: xr.DataArray, part: slice, dim: str, names: Iterable[str]) -> xr.DataArray:
    """Part of the integrated bands, as the dimension `dim` with labels."""
    return image.isel(out=part).rename(out=dim).assign_coords({dim: _labels(names)})


def pair_scene(name: str, source: xr.Dataset) -> xr.Dataset:
    """Guide and coarse frames of a co-registered scene (`scene.make_scene`) in stored form."""
    stored = xr.Dataset(
        {
            "guide": _to_int16(source.guide, source.guide_valid),
            "valid": source.guide_valid.astype(bool),
            "coarse": _to_int16(source.coarse, source.coarse_valid),
            "coarse_valid": source.coarse_valid.astype(bool),
        }
    )
    labels = {d: _labels(stored[d].values) for d in ("guide_band", "coarse_band")}
    return _on_grid(stored.assign_coords(labels), name, source)


def pair_kind(source: xr.Dataset) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Guide bands, coarse bands and ratio of a co-registered scene."""
    guide_bands = tuple(map(str, source.guide_band.values))
    coarse_bands = tuple(map(str, source.coarse_band.values))
    return guide_bands, coarse_bands, source.sizes["y"] // source.sizes["y_coarse"]


def _weights(
    name: str, source: xr.Dataset, platforms: tuple[str, str], target_bands: Sequence[str]
) -> FloatArray:
    """(guide and target bands, spectral bands) weights of the integration."""
    wavelength_nm = source.wavelength_nm.values
    usable = source.usable.values
    try:
        weights = [
            covering_matrix(platform, names, wavelength_nm, usable=usable)
            for platform, names in zip(platforms, (S2_NAMES, target_bands), strict=True)
        ]
    except BandError as error:
        raise CubeError(f"scene {name}: {error}") from error
    return np.concatenate(weights)


def _to_int16(image: xr.DataArray, valid: xr.DataArray) -> xr.DataArray:
    """Digital numbers, `FILL` where not valid or not finite."""
    numbers = xr.apply_ufunc(
        encode, image.where(valid), dask="parallelized", output_dtypes=[np.int16]
    )
    return numbers.assign_attrs(scale_factor=SCALE, _FillValue=FILL)


def _labels(names: Iterable[str]) -> npt.NDArray[np.object_]:
    """Band names as objects: Zarr v3 has no specification for numpy's fixed-width strings."""
    return np.array([str(name) for name in names], dtype=object)


def _on_grid(stored: xr.Dataset, name: str, source: xr.Dataset) -> xr.Dataset:
    geobox = source.odc.geobox
    if geobox is None or "spatial_ref" not in source.coords:
        raise CubeError(
            f"scene {name} has no map grid (no spatial_ref), so its place is unknown; "
            "assign one, for example with odc.geo.xr"
        )
    grid = {"x": source.x, "y": source.y, "spatial_ref": source.spatial_ref}
    return stored.assign_coords(grid).assign_attrs(bbox=list(lonlat_bbox(geobox)))
