"""Publishing: check a run, then make it visible by one atomic write of its STAC item.

`items/<id>.json` is the truth and names the winning run. `catalog.json`, `collection.json` and `index.parquet`
are derived from the items and can be rebuilt at any time.
"""

import io
import json
import logging
from urllib.parse import urlsplit, urlunsplit

from satfuse.errors import ProductError, StoreError
from satfuse.geometry.grids import lonlat_bbox
from satfuse.geometry.tiling import Window
from satfuse.product.layout import ATTRS, FILL, SCALE, Layout, consolidate
from satfuse.product.store import Store
from satfuse.product.write import missing_shards
from satfuse.sensors.bands import bands as band_table

log = logging.getLogger(__name__)

COLLECTION = "satfuse-fused"
ZARR_TYPE = "application/vnd.zarr; version=3; profile=multiscales"
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
    counts,
    provenance,
) -> str:
    """Check a finished run and make it the product's visible one.

    Parameters
    ----------
    cores : of all tiles.
    counts : per tile a dict with `pixels`, `finite` (pixels with a value) and `inconsistent` (pixels whose value,
        quality and uncertainty contradict each other).
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
    finite_share = check(store, path, layout, cores, counts)
    consolidate(store, path, layout)
    store.write_json(
        item_path(product_id), make_item(product_id, run, layout, finite_share, provenance)
    )
    rebuild_index(store)
    log.info(
        "published %s: run %s, %.1f %% of the pixels have a value",
        product_id,
        run,
        100 * finite_share,
    )
    return store.uri(item_path(product_id))


def check(store: Store, path: str, layout: Layout, cores, counts) -> float:
    """Share of pixels with a value, after checking that every shard is there and agrees with the values.

    Raises
    ------
    ProductError
        Missing shards, no value at all, or a quality flag or an uncertainty that contradicts the value.
    """
    if missing := missing_shards(store, path, layout, cores):
        shown = ", ".join(missing[:3])
        raise ProductError(
            f"{path} lacks {len(missing)} shards ({shown} ...); run the same command again to fill them"
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
    product_id: str, run: str, layout: Layout, finite_share: float, provenance: dict
) -> dict:
    """The STAC item of a product: a function of its run alone, hrefs relative to the item."""
    geobox = layout.geobox
    box = geobox.boundingbox
    west, south, east, north = lonlat_bbox(geobox)
    polygon = geobox.extent.to_crs("EPSG:4326")
    properties = {
        "datetime": layout.time,
        "title": f"Fused Sentinel-2 and Sentinel-3 reflectance, {provenance.get('field', product_id)}",
        "gsd": abs(layout.transform[0]),
        **(
            {"proj:code": layout.crs}
            if layout.crs.startswith("EPSG:")
            else {"proj:code": None, "proj:wkt2": layout.crs}
        ),
        "proj:shape": [layout.height, layout.width],
        "proj:transform": list(layout.transform),
        "proj:bbox": [box.left, box.bottom, box.right, box.top],
        "processing:level": "L3",
        "processing:software": provenance.get("versions", {}),
        "processing:lineage": f"Sentinel-2 L2A and Sentinel-3 SY_2_SYN fused by {provenance.get('model', 'satfuse')}",
        "satfuse:run": run,
        "satfuse:finite_share": round(finite_share, 6),
        "satfuse:band_source": list(layout.band_source),
        **_datacube(layout, (box.left, box.right), (box.bottom, box.top)),
        **{f"satfuse:{key}": value for key, value in provenance.items() if key != "versions"},
    }
    inputs = [*provenance.get("guide_items", []), *provenance.get("coarse_items", [])]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [
            f"https://stac-extensions.github.io/{name}/{version}/schema.json"
            for name, version in _EXTENSIONS.items()
        ],
        "id": product_id,
        "collection": COLLECTION,
        "bbox": [west, south, east, north],
        "geometry": json.loads(json.dumps(polygon.json)),
        "properties": properties,
        "links": [
            {"rel": "root", "href": "../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../collection.json", "type": "application/json"},
            {"rel": "collection", "href": "../collection.json", "type": "application/json"},
            *(
                {
                    "rel": "derived_from",
                    "href": i["href"],
                    "title": i["id"],
                    "type": "application/geo+json",
                }
                for i in inputs
            ),
        ],
        "assets": {
            "data": {
                "href": f"../{group_path(product_id, run)}",
                "type": ZARR_TYPE,
                "title": f"Zarr group: {', '.join(layout.variables)}, quality, overviews",
                "roles": ["data"],
                "bands": [
                    {
                        "name": b.name,
                        "description": f"reflectance[band={b.name}]",
                        "eo:center_wavelength": b.wavelength_nm / 1000,
                        "eo:full_width_half_max": b.fwhm_nm / 1000,
                    }
                    for b in band_table(layout.bands)
                ],
            }
        },
    }


def _datacube(layout: Layout, x: tuple, y: tuple) -> dict:
    step = abs(layout.transform[0])
    system = layout.geobox.crs.epsg or layout.crs
    space = {"type": "spatial", "step": step, "reference_system": system}
    return {
        "cube:dimensions": {
            "time": {
                "type": "temporal",
                "extent": [layout.time, layout.time],
                "values": [layout.time],
            },
            "band": {"type": "bands", "values": list(layout.bands)},
            "y": {**space, "axis": "y", "extent": list(y)},
            "x": {**space, "axis": "x", "extent": list(x)},
        },
        "cube:variables": {
            **{
                name: {
                    "type": "data" if name == "reflectance" else "auxiliary",
                    "dimensions": ["time", "band", "y", "x"],
                    "unit": "1",
                    "nodata": FILL,
                    "data_type": "int16",
                    "description": f"{ATTRS[name]['long_name']}, int16 times {SCALE[name]}",
                }
                for name in layout.variables
            },
            "quality": {
                "type": "auxiliary",
                "dimensions": ["time", "y", "x"],
                "data_type": "uint16",
            },
        },
    }


def without_query(href: str) -> str:
    """An address without user, query and fragment: signed URLs keep their signature there."""
    parts = urlsplit(href)
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def read_items(store: Store) -> list[dict]:
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
        before, items = items, read_items(store)
        if items == before:  # else another run has published meanwhile
            return len(items)


def _json(content: bytes, path: str) -> dict:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise StoreError(
            f"{path} is not JSON ({error}); publish the product again, or delete the file"
        ) from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} is not STAC but a JSON {type(value).__name__}; delete the file")
    return value


def _item(content: bytes, path: str) -> dict:
    item = _json(content, path)
    if item.get("collection") != COLLECTION or "satfuse:run" not in item.get("properties", {}):
        raise StoreError(
            f"{path} is not the item of a fused product; only those belong there: move it elsewhere"
        )
    return item


def _write_catalog(store: Store, items: list[dict]) -> None:
    boxes = [item["bbox"] for item in items] or [[-180, -90, 180, 90]]
    times = [item["properties"]["datetime"] for item in items] or [None]
    extent = [
        min(b[0] for b in boxes),
        min(b[1] for b in boxes),
        max(b[2] for b in boxes),
        max(b[3] for b in boxes),
    ]
    root = {"rel": "root", "href": "./catalog.json", "type": "application/json"}
    collection = {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": COLLECTION,
        "title": "Fused Sentinel-2 and Sentinel-3 SYN",
        "description": "21-band surface reflectance at 10 m, fused from Sentinel-2 L2A and Sentinel-3 SY_2_SYN.",
        "license": "other",
        "extent": {
            "spatial": {"bbox": [extent]},
            "temporal": {"interval": [[times[0], times[-1]]]},
        },
        "links": [
            root,
            {"rel": "parent", "href": "./catalog.json", "type": "application/json"},
            *(
                {
                    "rel": "item",
                    "href": f"./{item_path(i['id'])}",
                    "type": "application/geo+json",
                    "title": i["id"],
                }
                for i in items
            ),
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
        "stac_version": "1.1.0",
        "id": "satfuse",
        "description": "Products of satfuse.",
        "links": [root, {"rel": "child", "href": "./collection.json", "type": "application/json"}],
    }
    store.write_json("collection.json", collection)
    store.write_json("catalog.json", catalog)


def _index(items: list[dict]) -> bytes:
    import geopandas
    import pandas as pd
    from shapely.geometry import shape

    flat = (
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
            **{key: item["properties"].get(key) for key in flat},
            "assets": json.dumps(item["assets"]),
            "links": json.dumps(item["links"]),
        }
        for item in items
    ]
    frame = geopandas.GeoDataFrame(
        rows, geometry=[shape(i["geometry"]) for i in items], crs="EPSG:4326"
    )
    buffer = io.BytesIO()
    frame.to_parquet(buffer, write_covering_bbox=True)
    return buffer.getvalue()
