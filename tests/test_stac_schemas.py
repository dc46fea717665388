"""All STAC that satfuse writes follows the core schemas, which pystac ships; nothing is fetched."""

import json
import urllib.request
from pathlib import Path

import pystac
import pytest
import requests
from pystac.errors import STACValidationError
from pystac.stac_object import STACObjectType
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from satfuse.catalog.specs import load_catalog
from satfuse.geometry.grids import lonlat_bbox, snap_geobox
from satfuse.product import publish
from satfuse.product.store import Store
from tests.product_store import publish_flat

BOX = snap_geobox("EPSG:32631", 388800, 3466800, 391800, 3469800)
KINDS = {
    "Feature": STACObjectType.ITEM,
    "Collection": STACObjectType.COLLECTION,
    "Catalog": STACObjectType.CATALOG,
}
LOCAL = "1.1.0"  # the version whose schemas pystac ships


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(request, **_):
        raise AssertionError(f"asked the network for {request.full_url}")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def check(content: dict) -> None:
    """Validate against the core schema.

    1.1.0 keeps every rule of 1.0.0, so items of that version are validated against it.
    """
    assert content["stac_version"] in ("1.0.0", LOCAL)
    JsonSchemaSTACValidator().validate_core(
        {**content, "stac_version": LOCAL}, KINDS[content["type"]], LOCAL
    )


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize("products", [0, 2])
def test_a_store_is_valid_from_catalogue_to_item(tmp_path, products):
    store = Store(tmp_path)
    inputs = {
        "guide_items": [{"id": "S2", "href": "https://host/items/S2"}],
        "coarse_items": [{"id": "S3", "href": "s3://eodata/S3.json"}],
        "versions": {"satfuse": "0.1.0"},
        "field": "f",
    }
    publish.rebuild_index(store)
    for number in range(products):
        publish_flat(store, f"p{number}", BOX, provenance=inputs, uncertainty=0.01 * number)
    paths = sorted(tmp_path.rglob("*.json"))
    written = [read(p) for p in paths if "data" not in p.relative_to(tmp_path).parts]
    assert sorted(c["type"] for c in written) == ["Catalog", "Collection"] + ["Feature"] * products
    for content in written:
        check(content)


def test_the_extensions_of_a_product_are_understood(tmp_path):
    """Their schemas are not shipped; pystac's readers of datacube, projection and EO are asked."""
    item = pystac.Item.from_file(publish_flat(Store(tmp_path), "p", BOX, uncertainty=0.01))
    assert item.ext.proj.code == "EPSG:32631"
    assert item.ext.proj.shape == list(BOX.shape)
    assert item.ext.proj.transform[:6] == list(BOX.affine)[:6]
    assert item.ext.proj.bbox == list(BOX.boundingbox)
    dimensions = item.ext.cube.dimensions
    kinds = {"time": "temporal", "band": "bands", "y": "spatial", "x": "spatial"}
    assert {name: d.dim_type for name, d in dimensions.items()} == kinds
    variables = item.ext.cube.variables
    kinds = {"reflectance": "data", "uncertainty": "auxiliary", "quality": "auxiliary"}
    assert {name: str(v.var_type) for name, v in variables.items()} == kinds
    assert variables["reflectance"].dimensions == ["time", "band", "y", "x"]
    assert variables["uncertainty"].dimensions == ["time", "band", "y", "x"]
    assert dimensions["x"].extent == [BOX.boundingbox.left, BOX.boundingbox.right]
    names = [band["name"] for band in item.assets["data"].extra_fields["bands"]]
    assert names == dimensions["band"].values
    assert item.bbox == pytest.approx(lonlat_bbox(BOX))


def test_simulated_items_and_collections_are_valid(small_archive):
    root = small_archive.root
    items = [read(p) for p in sorted((root / "items").glob("*.json"))]
    collections = [read(p) for p in sorted((root / "collections").glob("*.json"))]
    assert len({item["collection"] for item in items}) == 4
    for content in [*items, *collections]:
        check(content)


def test_the_collection_link_of_a_simulated_item_leads_to_its_collection(small_archive):
    for path in (small_archive.root / "items").glob("*.json"):
        (link,) = read(path)["links"]
        assert read(path.parent / link["href"])["id"] == read(path)["collection"]


def test_responses_of_the_stac_server_are_valid(small_catalog):
    spec = load_catalog(small_catalog)
    for collection in sorted({c for ids in spec.collections.values() for c in ids}):
        check(requests.get(f"{spec.url}/collections/{collection}", timeout=10).json())
        parameters = {"collections": collection, "limit": 100}
        answer = requests.get(f"{spec.url}/search", params=parameters, timeout=10).json()
        assert answer["features"]
        for item in answer["features"]:
            check(item)


@pytest.mark.parametrize(
    "change", [{"links": []}, {"bbox": [1, 2, 3]}, {"geometry": {"type": "Polygon"}}]
)
def test_the_check_finds_a_fault(small_archive, change):
    item = read(next((small_archive.root / "items").glob("S2*.json")))
    with pytest.raises(STACValidationError):
        check({**item, **change})
