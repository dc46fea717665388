"""STAC items of simulated products, with the structure and the flaws of what the services send.

Sentinel-2 and SYN follow the Copernicus Data Space (STAC 1.1.0), EnMAP follows DLR (STAC 1.0.0,
numbers as text). Items are dictionaries; hrefs are absolute local paths of files that exist.
"""

from pathlib import Path
from typing import Any

from odc.geo.geobox import GeoBox

from satfuse.arrays import FloatArray
from satfuse.sensors.bands import S2_BANDS, S2_GSD_M, S3_BANDS, Band
from satfuse.simulate.archive.enmap_files import LAYERS, EnmapScene
from satfuse.simulate.archive.footprint import corners, epsg_of, outline
from satfuse.simulate.archive.safe import IMAGES
from satfuse.simulate.archive.safe_acquisition import S2Acquisition
from satfuse.simulate.archive.safe_metadata import cloud_percentage, stamp
from satfuse.simulate.archive.sen3_swath import Swath, SynFrame

SENTINEL2 = "sentinel-2-l2a"
SYN = {"NT": "sentinel-3-syn-2-syn-ntc", "ST": "sentinel-3-syn-2-syn-stc"}
ENMAP = "ENMAP_HSI_L2A"
_CDSE = (
    "eo/v2.0.0",
    "sat/v1.1.0",
    "projection/v2.0.0",
    "file/v2.1.0",
    "processing/v1.2.0",
    "product/v0.1.0",
)
EXTENSIONS = {
    "sentinel2": (*_CDSE, "raster/v2.0.0", "grid/v1.1.0", "view/v1.0.0", "timestamps/v1.1.0"),
    "sentinel3_syn": (*_CDSE, "timestamps/v1.1.0"),
    "enmap": ("eo/v1.1.0", "view/v1.0.0", "projection/v1.0.0", "processing/v1.0.0", "sat/v1.0.0"),
}
COMMON_NAMES = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge071",
    "B06": "rededge075", "B07": "rededge078", "B08": "nir", "B8A": "nir08", "B09": "nir09",
    "B11": "swir16", "B12": "swir22",
}  # fmt: skip
SCENE_CLASSES = (
    "nodata", "saturated_defective", "dark_area", "cloud_shadow", "vegetation", "not_vegetated",
    "water", "unclassified", "medium_proba_clouds", "high_proba_clouds", "thin_cirrus", "snow",
)  # fmt: skip
COGTIFF = "image/tiff; application=geotiff; profile=cloud-optimized"
XML = "application/xml"
NETCDF = "application/netcdf"

Json = dict[str, Any]


def sentinel2_item(
    safe: Path, acquisition: S2Acquisition, geobox: GeoBox, shares: dict[int, float]
) -> Json:
    """Item of a SAFE folder; `shares` are percentages per scene class."""
    images = {
        f"{name}_{gsd_m}m": _sentinel2_image(safe, acquisition, geobox, name, gsd_m)
        for gsd_m, names in IMAGES.items()
        for name in names
    }
    texts = {
        "product_metadata": "MTD_MSIL2A.xml",
        "granule_metadata": f"GRANULE/{acquisition.granule}/MTD_TL.xml",
        "safe_manifest": "manifest.safe",
    }
    files = {
        key: _file(safe, path, XML, ["metadata"], Path(path).name) for key, path in texts.items()
    }
    properties = _sentinel2_properties(acquisition, shares)
    ring = corners(geobox)
    return _item(acquisition.name, SENTINEL2, ring, properties, {**images, **files}, "sentinel2")


def _sentinel2_properties(acquisition: S2Acquisition, shares: dict[int, float]) -> Json:
    """The properties; as in the service, `datetime` is the datatake start, not sensing time."""
    datatake = stamp(acquisition.datatake_start)
    return {
        "gsd": 10,
        "created": stamp(acquisition.processed),
        "updated": stamp(acquisition.processed),
        "datetime": datatake,
        "start_datetime": datatake,
        "end_datetime": datatake,
        "platform": f"sentinel-{acquisition.platform[1:].lower()}",
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "grid:code": f"MGRS-{acquisition.tile}",
        "statistics": {name: shares[i] for i, name in enumerate(SCENE_CLASSES[:-1])},
        "eo:cloud_cover": round(cloud_percentage(shares), 2),
        "eo:snow_cover": round(shares[11], 2),
        "product:type": "S2MSI2A",
        "product:timeliness": "PT24H",
        "product:timeliness_category": "NRT",
        "processing:level": "L2",
        "processing:version": acquisition.baseline,
        "processing:datetime": stamp(acquisition.processed),
        "processing:facility": "ESA",
        "sat:orbit_state": "descending",
        "sat:absolute_orbit": acquisition.absolute_orbit,
        "sat:relative_orbit": acquisition.relative_orbit,
        "view:azimuth": acquisition.view_azimuth_deg,
        "view:incidence_angle": acquisition.view_zenith_deg,
        "view:sun_azimuth": acquisition.sun_azimuth_deg,
        "view:sun_elevation": 90 - acquisition.sun_zenith_deg,
        "eopf:datastrip_id": acquisition.identifier("DS"),
        "eopf:datatake_id": acquisition.datatake,
        "eopf:instrument_mode": "INS-NOBS",
    }


def syn_item(sen3: Path, frame: SynFrame, swath: Swath, cloud_cover: float) -> Json:
    """Item of a SEN3 folder, without projection and scale; `cloud_cover` is in percent."""
    assets = {
        key: _file(sen3, f"{key}.nc", NETCDF, ["data"], key)
        for key in ("flags", "geolocation", "time", "tiepoints_olci")
    }
    manifest = sen3 / "xfdumanifest.xml"
    assets["xfdumanifest"] = _asset(manifest, XML, ["metadata"], "Product manifest")
    assets |= {f"syn_{band.name}_reflectance": _syn_band(sen3, band) for band in S3_BANDS}
    properties = _syn_properties(frame, cloud_cover)
    name = SYN[frame.timeliness]
    return _item(frame.name, name, outline(swath), properties, assets, "sentinel3_syn")


def _syn_properties(frame: SynFrame, cloud_cover: float) -> Json:
    start, stop = (f"{t:%Y-%m-%dT%H:%M:%S.%f}Z" for t in (frame.start, frame.stop))
    processed = stamp(frame.processed)
    return {
        "gsd": 300,
        "created": processed,
        "updated": processed,
        "datetime": start,
        "start_datetime": start,
        "end_datetime": stop,
        "platform": f"sentinel-{frame.platform[1:].lower()}",
        "constellation": "sentinel-3",
        "instruments": ["olci", "slstr"],
        "proj:code": None,
        "eo:cloud_cover": round(cloud_cover, 6),
        "product:type": "SY_2_SYN___",
        "product:timeliness": "P1M" if frame.timeliness == "NT" else "PT48H",
        "product:timeliness_category": frame.timeliness,
        "processing:level": "L2",
        "processing:version": "03.50",
        "processing:datetime": processed,
        "sat:orbit_state": "descending",
        "sat:orbit_cycle": frame.cycle,
        "sat:absolute_orbit": frame.absolute_orbit,
        "sat:relative_orbit": frame.relative_orbit,
    }


def _syn_band(sen3: Path, band: Band) -> Json:
    name = f"Syn_{band.name}_reflectance.nc"
    title = f"Surface directional reflectance {band.name}"
    description = {
        "name": _syn_name(band.name),
        "eo:center_wavelength": band.wavelength_nm / 1000,
        "eo:full_width_half_max": band.fwhm_nm / 1000,
    }
    return {**_file(sen3, name, NETCDF, ["data"], title), "bands": [description]}


def enmap_item(
    product: Path,
    scene: EnmapScene,
    geobox: GeoBox,
    *,
    wavelength_nm: FloatArray,
    fwhm_nm: FloatArray,
    covers: dict[str, int],
) -> Json:
    """Item of an EnMAP folder; `covers` are percentages per quality layer."""
    image = _enmap_file(product, "SPECTRAL_IMAGE_COG.TIF", "Spectral Image", ["data"], geobox)
    image["eo:bands"] = _enmap_bands(wavelength_nm, fwhm_nm)
    metadata = product / f"{product.name}-METADATA.XML"
    assets = {"metadata": _asset(metadata, XML, ["metadata"], "Metadata"), "image": image}
    for layer, stem in LAYERS.items():
        key = "defective_pixel_mask" if layer == "pixel_mask" else f"quality_{layer}"
        title = key.replace("_", " ").capitalize()
        assets[key] = _enmap_file(product, f"{stem}_COG.TIF", title, ["quality"], geobox)
    properties = _enmap_properties(scene, covers)
    return _item(scene.name, ENMAP, corners(geobox), properties, assets, "enmap")


def _enmap_properties(scene: EnmapScene, covers: dict[str, int]) -> Json:
    """The properties as DLR has them: text for numbers, the sun azimuth off by 180 degrees."""
    processed = f"{scene.processed:%Y-%m-%dT%H:%M:%S}.000+00:00"
    start, stop = (f"{t:%Y-%m-%dT%H:%M:%S.%f}Z" for t in (scene.start, scene.stop))
    return {
        "version": ".".join(scene.version[i : i + 2] for i in (0, 2, 4)),
        "created": processed,
        "updated": processed,
        "datetime": f"{scene.start:%Y-%m-%dT%H:%M:%S}Z",
        "start_datetime": start,
        "end_datetime": stop,
        "platform": "enmap",
        "proj:epsg": None,
        "sat:relative_orbit": str(scene.orbit),
        "sat:orbit_state": "DESCENDING",
        "eo:cloud_cover": str(covers["cloud"]),
        "eo:snow_cover": str(covers["snow"]),
        "eo:instrument": "HSI",
        "view:sun_azimuth": scene.sun_azimuth_deg + 180,
        "view:sun_elevation": scene.sun_elevation_deg,
        "processing:level": "L2A",
        "enmap:sunAzimuthAngle": str(scene.sun_azimuth_deg),
        "enmap:sunElevationAngle": str(scene.sun_elevation_deg),
        "enmap:acrossOffNadirAngle": str(scene.across_off_nadir_deg),
        "enmap:cirrus_cover": str(covers["cirrus"]),
        "enmap:cloud_shadow": str(covers["cloud_shadow"]),
        "enmap:haze_cover": str(covers["haze"]),
        "enmap:datatakeID": f"{scene.datatake:010d}",
        "enmap:nodata": "-32768",
        "enmap:orbitNo": str(scene.orbit),
        "enmap:overallQuality": "0",
        "enmap:tileID": f"{scene.tile:02d}",
    }


def _enmap_bands(wavelength_nm: FloatArray, fwhm_nm: FloatArray) -> list[Json]:
    return [
        {
            "name": number,
            "center_wavelength": float(centre),
            "full_width_half_max": float(width),
            "enmap:gain_of_band": 0.0001,
            "enmap:offset_of_band": 0,
        }
        for number, (centre, width) in enumerate(zip(wavelength_nm, fwhm_nm, strict=True), start=1)
    ]


def collection(collection_id: str, items: list[Json]) -> Json:
    """Collection whose extent encloses its items."""
    west, south, east, north = zip(*(item["bbox"] for item in items), strict=True)
    starts = [item["properties"]["start_datetime"] for item in items]
    stops = [item["properties"]["end_datetime"] for item in items]
    return {
        "type": "Collection",
        "id": collection_id,
        "stac_version": "1.1.0",
        "description": f"Simulated products in the shape of {collection_id}",
        "license": "Apache-2.0",
        "extent": {
            "spatial": {"bbox": [[min(west), min(south), max(east), max(north)]]},
            "temporal": {"interval": [[min(starts), max(stops)]]},
        },
        "links": [],
    }


def _item(
    item_id: str,
    collection_id: str,
    ring: list[tuple[float, float]],
    properties: Json,
    assets: Json,
    sensor: str,
) -> Json:
    """An item with the footprint `ring`, (lon, lat) corners without the closing one."""
    lon, lat = zip(*ring, strict=True)
    return {
        "type": "Feature",
        "stac_version": "1.0.0" if sensor == "enmap" else "1.1.0",
        "stac_extensions": [
            f"https://stac-extensions.github.io/{e}/schema.json" for e in EXTENSIONS[sensor]
        ],
        "id": item_id,
        "collection": collection_id,
        "geometry": {"type": "Polygon", "coordinates": [[list(p) for p in (*ring, ring[0])]]},
        "bbox": [min(lon), min(lat), max(lon), max(lat)],
        "properties": properties,
        "assets": assets,
        "links": [
            {
                "rel": "collection",
                "href": f"../collections/{collection_id}.json",
                "type": "application/json",
            }
        ],
    }


def _asset(path: Path, kind: str, roles: list[str], title: str) -> Json:
    return {"href": str(path.resolve(strict=True)), "type": kind, "title": title, "roles": roles}


def _file(folder: Path, name: str, kind: str, roles: list[str], title: str) -> Json:
    """An asset of a product folder, with the fields of the file extension."""
    path = folder / name
    size = {"file:size": path.stat().st_size, "file:local_path": f"{folder.name}/{name}"}
    return {**_asset(path, kind, roles, title), **size}


def _sentinel2_image(
    safe: Path, acquisition: S2Acquisition, geobox: GeoBox, name: str, gsd_m: int
) -> Json:
    path = f"{acquisition.image(name, gsd_m)}.jp2"
    grid = geobox.zoom_out(gsd_m // 10)
    box = geobox.boundingbox
    asset = {
        **_file(safe, path, "image/jp2", _sentinel2_roles(name, gsd_m), f"{name} - {gsd_m}m"),
        "gsd": gsd_m,
        "nodata": 0,
        "data_type": "uint8" if name in ("SCL", "TCI") else "uint16",
        "proj:code": f"EPSG:{epsg_of(geobox)}",
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.affine)[:6],
        "proj:bbox": [box.left, box.bottom, box.right, box.top],
    }
    if name not in ("SCL", "TCI"):
        # wrong for AOT, WVP and old baselines, but the service states it for all
        asset |= {"raster:scale": 0.0001, "raster:offset": -0.1}
    if name in S2_GSD_M:
        asset["view:azimuth"] = acquisition.view_azimuth_deg
        asset["view:incidence_angle"] = acquisition.view_zenith_deg
        asset["bands"] = [_sentinel2_band(name)]
    if name == "TCI":
        asset["bands"] = [_sentinel2_band(b) for b in ("B04", "B03", "B02")]
    return asset


def _sentinel2_roles(name: str, gsd_m: int) -> list[str]:
    if name in ("AOT", "WVP"):
        return ["data", f"gsd:{gsd_m}m"]
    kind = {"TCI": ["visual"], "SCL": ["data"]}.get(name, ["data", "reflectance"])
    native = S2_GSD_M.get(name, 20 if name == "SCL" else 10)
    sampling = "original" if gsd_m == native else "downsampled" if gsd_m > native else "upsampled"
    return [*kind, f"sampling:{sampling}", f"gsd:{gsd_m}m"]


def _sentinel2_band(name: str) -> Json:
    band = next(b for b in S2_BANDS if b.name == name)
    return {
        "name": name,
        "eo:common_name": COMMON_NAMES[name],
        "eo:center_wavelength": round(band.wavelength_nm / 1000, 3),
        "eo:full_width_half_max": round(band.fwhm_nm / 1000, 3),
    }


def _enmap_file(product: Path, stem: str, title: str, roles: list[str], geobox: GeoBox) -> Json:
    box = geobox.boundingbox
    return {
        **_asset(product / f"{product.name}-{stem}", COGTIFF, roles, title),
        "proj:epsg": epsg_of(geobox),
        "proj:shape": list(geobox.shape),
        "proj:transform": [*list(geobox.affine)[:6], 0.0, 0.0, 1.0],
        "proj:bbox": [box.left, box.bottom, box.right, box.top],
    }


def _syn_name(band: str) -> str:
    """Name of a band in the service, where they collide: S1N and Oa18 are both SYN18."""
    return f"SYN{int(band[2:]) if band.startswith('Oa') else 17 + int(band[1]):02d}"
