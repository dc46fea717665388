"""From a source to the stored form of a cube's scene: int16 reflectance and validity, still lazy."""

import numpy as np
import xarray as xr
from odc.geo.xr import ODCExtension  # noqa: F401  registers `Dataset.odc`

from satfuse.cube.store import FILL, SCALE
from satfuse.errors import BandError, CubeError
from satfuse.geometry.grids import lonlat_bbox
from satfuse.readers.enmap import open_enmap
from satfuse.sensors.bands import S2_NAMES
from satfuse.sensors.srf import covering_matrix


def enmap_scene(name: str, source, spec, missing, platforms, target_bands) -> xr.Dataset:
    """Guide and target of an EnMAP scene on its own grid, by integration over the sensors' responses.

    Parameters
    ----------
    name : scene id, for messages.
    source : STAC item, or the Dataset that `readers.enmap.open_enmap` gives.
    spec, missing : catalogue of the item, and what `open_enmap` does about unreadable quality layers.
    platforms : guide and target platform, such as ("S2A", "S3A").
    target_bands : SYN band names.

    Raises
    ------
    CubeError
        A band that the scene's usable spectrum does not cover, or a scene without a map grid.
    """
    if not isinstance(source, xr.Dataset):
        source = open_enmap(source, spec=spec, missing=missing)
    weights = _weights(name, source, platforms, target_bands)
    used = np.flatnonzero((weights != 0).any(0))
    spectra = source.reflectance.isel(band=used).drop_vars("band", errors="ignore")
    if spectra.chunks:
        spectra = spectra.chunk(band=-1)
    image = xr.apply_ufunc(
        lambda pixels: pixels @ weights[:, used].T.astype(np.float32),
        spectra.astype(np.float32),
        input_core_dims=[["band"]],
        output_core_dims=[["out"]],
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": {"out": len(weights)}},
    ).transpose("out", "y", "x")
    valid = source.valid & np.isfinite(image).all("out")
    count = len(S2_NAMES)
    guide = (
        image.isel(out=slice(None, count))
        .rename(out="guide_band")
        .assign_coords(guide_band=_labels(S2_NAMES))
    )
    target = (
        image.isel(out=slice(count, None))
        .rename(out="band")
        .assign_coords(band=_labels(target_bands))
    )
    stored = {"guide": _to_int16(guide, valid), "target": _to_int16(target, valid), "valid": valid}
    return _on_grid(xr.Dataset(stored), name, source)


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
    names = (tuple(map(str, source[d].values)) for d in ("guide_band", "coarse_band"))
    return *names, source.sizes["y"] // source.sizes["y_coarse"]


def _weights(name, source, platforms, target_bands):
    sampling = {"wavelength_nm": source.wavelength_nm.values, "usable": source.usable.values}
    sides = zip(platforms, (S2_NAMES, target_bands), strict=True)
    try:
        return np.concatenate([covering_matrix(*side, **sampling) for side in sides])
    except BandError as error:
        raise CubeError(f"scene {name}: {error}") from error


def _to_int16(image, valid):
    scaled = np.rint(image / SCALE).clip(FILL + 1, -FILL - 1)
    return (
        scaled.where(valid & np.isfinite(scaled), FILL)
        .astype(np.int16)
        .assign_attrs(scale_factor=SCALE, _FillValue=FILL)
    )


def _labels(names):
    return np.array(
        [str(n) for n in names], dtype=object
    )  # Zarr v3 has no specification for numpy's U strings


def _on_grid(stored, name, source):
    geobox = source.odc.geobox
    if geobox is None or "spatial_ref" not in source.coords:
        raise CubeError(
            f"scene {name} lies on no map grid (no spatial_ref); its place cannot be known"
        )
    grid = {"x": source.x, "y": source.y, "spatial_ref": source.spatial_ref}
    return stored.assign_coords(grid).assign_attrs(bbox=list(lonlat_bbox(geobox)))
