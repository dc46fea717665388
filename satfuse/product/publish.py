"""Publishing: check a run, then make it visible by one atomic write of its STAC item.

`items/<id>.json` is the truth and names the published run. `catalog.json`, `collection.json` and
`index.parquet` are derived from the items and can be rebuilt at any time.
"""

import io
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from satfuse.errors import ProductError, StoreError
from satfuse.geometry.grids import lonlat_bbox
from satfuse.geometry.tiling import Window
from satfuse.product.layout import ATTRS, PIXEL_DIMS, SCALES, Layout, consolidate, crs_of
from satfuse.product.store import Store
from satfuse.product.write import missing_shards
from satfuse.sensors.bands import bands as band_table
from satfuse.sensors.encoding import FILL

log = logging.getLogger(__name__)

COLLECTION = "satfuse-fused"
ZARR_TYPE = "application/vnd.zarr; version=3; profile=multiscales"
GEOJSON = "application/geo+json"
STAC_VERSION = "1.1.0"
_EXTENSIONS = {"datacube": "v2.3.0", "projection": "v2.0.0", "processing": "v1.2.0", "eo": "v2.0.0"}


def group_path(product_id: str, run: str) -> str:
    """Path of a run's Zarr group in its store."""
    return f"data/{product_id}/{run}.zarr"


def item_path(product_id: str) -> str:
    """Path of a product's STAC item in its store."""
    return f"items/{product_id}.json"


def publish(
    store: Store,
    product_id: str,
    run: str,
    layout: Layout,
    *,
    cores: list[Window],
    counts: Sequence[Mapping[str, int]],
    provenance: Mapping[str, Any],
) -> str:
    """Check a finished run and make it the product's visible one.

    Parameters
    ----------
    cores : of all tiles.
    counts : per tile `pixels`, `finite` (pixels with a value) and `inconsistent` (pixels whose
        value, quality and uncertainty contradict each other).
    provenance : see `satfuse.infer`; JSON values.

    Returns
    -------
    Address of the item.

    Raises
    ------
    ProductError
        The run is not complete or fails a check; nothing becomes visible.
    StoreError
        The store cannot be written.
    """
    path = group_path(product_id, run)
    finite_share = check_run(store, path, layout, cores, counts)
    consolidate(store, path, layout)
    item = make_item(product_id, run, layout, finite_share, provenance)
    store.write_json(item_path(product_id), item)
    rebuild_index(store)
    percent = 100 * finite_share
    log.info("published %s: run %s, %.1f %% of the pixels have a value", product_id, run, percent)
    return store.uri(item_path(product_id))


def check_run(
    store: Store,
    path: str,
    layout: Layout,
    cores: list[Window],
    counts: Sequence[Mapping[str, int]],
) -> float:
    """Share of pixels with a value, 0 to 1, of a run that is complete and free of contradictions.

    Raises
    ------
    ProductError
        Missing shards, no value at all, or a quality flag or an uncertainty that contradicts the
        value.
    """
    if missing := missing_shards(store, path, layout, cores):
        shown = ", ".join(missing[:3])
        raise ProductError(
            f"{path} lacks {len(missing)} shards ({shown} ...); "
            "run the same command again to fill them"
        )
    if len(counts) != len(cores):
        raise ProductError(
            f"{path}: {len(counts)} of {len(cores)} tiles are done; run the same command again"
        )
    if inconsistent := sum(c["inconsistent"] for c in counts):
        raise ProductError(
            f"{path}: value, quality and uncertainty contradict each other in {inconsistent} pixels"
        )
    finite = sum(c["finite"] for c in counts)
    if not finite:
        raise ProductError(
            f"{path} has no pixel with a value: the guide is missing or clouded everywhere"
        )
    return finite / sum(c["pixels"] for c in counts)


def make_item(
    product_id: str,
    run: str,
    layout: Layout,
    finite_share: float,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """The STAC item of a product: a function of its run alone, hrefs relative to the item."""
    geobox = layout.geobox
    inputs = [*provenance.get("guide_items", []), *provenance.get("coarse_items", [])]
    title = f"Zarr group: {', '.join(layout.variables)}, quality, overviews"
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [
            f"https://stac-extensions.github.io/{name}/{version}/schema.json"
            for name, version in _EXTENSIONS.items()
        ],
        "id": product_id,
        "collection": COLLECTION,
        "bbox": list(lonlat_bbox(geobox)),
        "geometry": json.loads(json.dumps(geobox.extent.to_crs("EPSG:4326").json)),
        "properties": {
            "datetime": layout.time,
            **_descriptive_properties(product_id, layout, provenance),
            **_projection(layout),
            "satfuse:run": run,
            "satfuse:finite_share": round(finite_share, 6),
            "satfuse:band_source": list(layout.band_source),
            **_datacube(layout),
            **{f"satfuse:{key}": value for key, value in provenance.items() if key != "versions"},
        },
        "links": [
            _link("root", "../catalog.json"),
            _link("parent", "../collection.json"),
            _link("collection", "../collection.json"),
            *(_link("derived_from", i["href"], GEOJSON, title=i["id"]) for i in inputs),
        ],
        "assets": {
            "data": {
                "href": f"../{group_path(product_id, run)}",
                "type": ZARR_TYPE,
                "title": title,
                "roles": ["data"],
                "bands": _eo_bands(layout),
            }
        },
    }


def _link(rel: str, href: str, media_type: str = "application/json", **more: str) -> dict[str, str]:
    """A STAC link."""
    return {"rel": rel, "href": href, "type": media_type, **more}


def _descriptive_properties(
    product_id: str, layout: Layout, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Title, pixel size and what the extension `processing` asks for."""
    field = provenance.get("field", product_id)
    model = provenance.get("model", "satfuse")
    return {
        "title": f"Fused Sentinel-2 and Sentinel-3 reflectance, {field}",
        "gsd": abs(layout.transform[0]),
        "processing:level": "L3",
        "processing:software": provenance.get("versions", {}),
        "processing:lineage": f"Sentinel-2 L2A and Sentinel-3 SY_2_SYN fused by {model}",
    }


def _projection(layout: Layout) -> dict[str, Any]:
    """Properties of the extension `projection`; a CRS without EPSG code is given as WKT."""
    box = layout.geobox.boundingbox
    has_code = layout.crs.startswith("EPSG:")
    crs = {"proj:code": layout.crs} if has_code else {"proj:code": None, "proj:wkt2": layout.crs}
    return {
        **crs,
        "proj:shape": [layout.height, layout.width],
        "proj:transform": list(layout.transform),
        "proj:bbox": [box.left, box.bottom, box.right, box.top],
    }


def _eo_bands(layout: Layout) -> list[dict[str, Any]]:
    """Bands by the extension `eo`, whose wavelengths are in micrometres."""
    return [
        {
            "name": band.name,
            "description": f"reflectance[band={band.name}]",
            "eo:center_wavelength": band.wavelength_nm / 1000,
            "eo:full_width_half_max": band.fwhm_nm / 1000,
        }
        for band in band_table(layout.bands)
    ]


def _datacube(layout: Layout) -> dict[str, Any]:
    """Properties of the extension `datacube`: dimensions and variables."""
    box = layout.geobox.boundingbox
    space = {
        "type": "spatial",
        "step": abs(layout.transform[0]),
        "reference_system": crs_of(layout.geobox).epsg or layout.crs,
    }
    moment = [layout.time, layout.time]
    quality = {"type": "auxiliary", "dimensions": ["time", "y", "x"], "data_type": "uint16"}
    return {
        "cube:dimensions": {
            "time": {"type": "temporal", "extent": moment, "values": [layout.time]},
            "band": {"type": "bands", "values": list(layout.bands)},
            "y": {**space, "axis": "y", "extent": [box.bottom, box.top]},
            "x": {**space, "axis": "x", "extent": [box.left, box.right]},
        },
        "cube:variables": {
            **{name: _variable(name) for name in layout.variables},
            "quality": quality,
        },
    }


def _variable(name: str) -> dict[str, Any]:
    """How the extension `datacube` describes `reflectance` or `uncertainty`."""
    return {
        "type": "data" if name == "reflectance" else "auxiliary",
        "dimensions": list(PIXEL_DIMS),
        "unit": "1",
        "nodata": FILL,
        "data_type": "int16",
        "description": f"{ATTRS[name]['long_name']}, int16 times {SCALES[name]}",
    }


def without_query(href: str) -> str:
    """An address without user, query and fragment: signed URLs keep their signature there."""
    parts = urlsplit(href)
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def read_items(store: Store) -> list[dict[str, Any]]:
    """All items of a store in order of time; from `collection.json` where the store is read-only.

    Raises
    ------
    StoreError
        The store cannot be read, or a file among the items is none.
    """
    if store.writable:
        paths = [f"items/{name}" for name in store.names("items") if name.endswith(".json")]
    else:
        links = _json(store.read("collection.json"), "collection.json").get("links", [])
        paths = [link["href"].removeprefix("./") for link in links if link["rel"] == "item"]
    items = [_item(content, path) for path, content in store.read_all(paths).items()]
    return sorted(items, key=lambda item: (item["properties"]["datetime"], item["id"]))


def rebuild_index(store: Store) -> int:
    """Derive `catalog.json`, `collection.json` and `index.parquet` from the items.

    Returns
    -------
    Number of items.
    """
    items = read_items(store)
    while True:
        _write_catalog(store, items)
        if items:
            store.write("index.parquet", _index(items))
        before = items
        items = read_items(store)
        if items == before:  # else another run has published meanwhile
            return len(items)


def _json(content: bytes, path: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise StoreError(
            f"{path} is not JSON ({error}); publish the product again, or delete the file"
        ) from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} is not STAC but a JSON {type(value).__name__}; delete the file")
    return value


def _item(content: bytes, path: str) -> dict[str, Any]:
    item = _json(content, path)
    if item.get("collection") != COLLECTION or "satfuse:run" not in item.get("properties", {}):
        raise StoreError(
            f"{path} is not the item of a fused product; only those belong there: move it elsewhere"
        )
    return item


def _write_catalog(store: Store, items: list[dict[str, Any]]) -> None:
    """Write collection and catalogue of all items; the collection first: the catalogue links it."""
    root = _link("root", "./catalog.json")
    collection = {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "id": COLLECTION,
        "title": "Fused Sentinel-2 and Sentinel-3 SYN",
        "description": "21-band surface reflectance at 10 m, "
        "fused from Sentinel-2 L2A and Sentinel-3 SY_2_SYN.",
        "license": "other",
        "extent": _extent(items),
        "links": [
            root,
            _link("parent", "./catalog.json"),
            *(_link("item", f"./{item_path(i['id'])}", GEOJSON, title=i["id"]) for i in items),
        ],
        "assets": {
            "index": {
                "href": "./index.parquet",
                "type": "application/vnd.apache.parquet",
                "roles": ["index"],
            }
        },
    }
    catalog = {
        "type": "Catalog",
        "stac_version": STAC_VERSION,
        "id": "satfuse",
        "description": "Products of satfuse.",
        "links": [root, _link("child", "./collection.json")],
    }
    store.write_json("collection.json", collection)
    store.write_json("catalog.json", catalog)


def _extent(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Extent of all items, which are in order of time; of an empty store the whole Earth."""
    boxes = [item["bbox"] for item in items] or [[-180, -90, 180, 90]]
    times = [item["properties"]["datetime"] for item in items] or [None]
    west, south, east, north = zip(*boxes, strict=True)
    return {
        "spatial": {"bbox": [[min(west), min(south), max(east), max(north)]]},
        "temporal": {"interval": [[times[0], times[-1]]]},
    }


def _index(items: list[dict[str, Any]]) -> bytes:
    """The items as geoparquet."""
    import geopandas
    import pandas as pd
    from shapely.geometry import shape

    properties = (
        "proj:code",
        "gsd",
        "satfuse:run",
        "satfuse:finite_share",
        "satfuse:gap_s",
        "satfuse:model",
    )
    rows = [
        {
            "id": item["id"],
            "collection": item["collection"],
            "datetime": pd.Timestamp(item["properties"]["datetime"]),
            **{key: item["properties"].get(key) for key in properties},
            "assets": json.dumps(item["assets"]),
            "links": json.dumps(item["links"]),
        }
        for item in items
    ]
    shapes = [shape(i["geometry"]) for i in items]
    buffer = io.BytesIO()
    frame = geopandas.GeoDataFrame(rows, geometry=shapes, crs="EPSG:4326")
    frame.to_parquet(buffer, write_covering_bbox=True)
    return buffer.getvalue()
