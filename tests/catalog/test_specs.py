import gzip
import json
import pickle
from dataclasses import replace

import pystac
import pytest

from satfuse.catalog import access
from satfuse.catalog.specs import (
    ASSET_KEYS,
    CatalogSpec,
    catalog_names,
    load_catalog,
    local_catalog,
)
from satfuse.errors import ConfigError, ReadError
from tests.catalog import own_items as own

# recorded item -> catalogue, sensor, canonical assets that the service does not ship
RECORDED = {
    "cdse_s2_l2a_item_N0511_2024-11-07": ("cdse", "sentinel2", set()),
    "cdse_s2_l2a_item_N0500_2020-03-01": ("cdse", "sentinel2", set()),
    "cdse_syn_ntc_item_2025-07-06": ("cdse", "sentinel3_syn", set()),
    "e84_s2_l2a_item_seq0_N0214": ("earth-search", "sentinel2", {"product_metadata"}),
    "e84_s2_l2a_item_seq1_N0500": ("earth-search", "sentinel2", {"product_metadata"}),
    "pc_s2_l2a_item_2020-07-05": ("planetary-computer", "sentinel2", set()),
    "dlr_enmap_l2a_item_2024-06-30": ("dlr", "enmap", set()),
}


SHIPPED = ("cdse", "dlr", "earth-search", "earth-search-c1", "planetary-computer", "local")


def test_the_shipped_catalogues_are_there():
    assert set(catalog_names()) >= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_round_trips(name):
    spec = load_catalog(name)
    assert spec.name == name
    assert CatalogSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.fixture(scope="session")
def recorded(samples):
    folder = samples.parent / "stac_examples"
    if not folder.is_dir():
        pytest.skip(f"no recorded items at {folder}")
    return folder


@pytest.mark.samples
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_items_have_every_canonical_asset_where_the_catalogue_allows(name, recorded):
    catalog, sensor, absent = RECORDED[name]
    spec = load_catalog(catalog)
    item = pystac.Item.from_dict(json.loads((recorded / f"{name}.json").read_text()))
    assert item.collection_id in spec.collections[sensor]
    for key in set(ASSET_KEYS[sensor]) - absent:
        assert access.gdal_href(spec, item, sensor, key).startswith(
            ("/vsis3/eodata/", "/vsicurl/https://", "/vsiaz/")
        )
    for key in absent:
        with pytest.raises(ReadError, match=key):
            access.gdal_href(spec, item, sensor, key)


@pytest.mark.samples
def test_planetary_computer_syn_keys(recorded):
    """The recorded item is a template with relative hrefs: its keys count."""
    item = json.loads((recorded / "stactools_syn_item_2021-03-25.json").read_text())
    assert set(load_catalog("planetary-computer").assets["sentinel3_syn"].values()) <= set(
        item["assets"]
    )


@pytest.mark.samples
def test_bands_are_taken_at_their_native_resolution(recorded):
    item = json.loads((recorded / "cdse_s2_l2a_item_N0511_2024-11-07.json").read_text())
    spec = load_catalog("cdse")
    for key in ASSET_KEYS["sentinel2"][:13]:
        assert "sampling:original" in item["assets"][spec.assets["sentinel2"][key]]["roles"]


@pytest.mark.samples
def test_recorded_datetimes_mean_what_the_catalogues_say(recorded):
    """CDSE gives the datatake start: by its MTD_TL the tile was sensed 6 min 38.9 s later."""
    item = json.loads((recorded / "cdse_s2_l2a_item_N0500_2020-03-01.json").read_text())
    tile = gzip.decompress(
        (recorded / "cdse_s2_MTD_TL_S2A_T35UPU_20200301.xml.gz").read_bytes()
    ).decode()
    assert load_catalog("cdse").datetime["sentinel2"] == "datatake_start"
    assert item["properties"]["datetime"] == "2020-03-01T09:09:01.024Z"
    assert "09:15:39.88" in tile
    earth = json.loads((recorded / "e84_s2_l2a_item_seq1_N0500.json").read_text())["properties"]
    assert load_catalog("earth-search").datetime["sentinel2"] == "sensing"
    assert earth["datetime"][11:16] == "10:37"
    assert "T103021" in earth["s2:product_uri"]


def write(folder, text, name="mine.toml"):
    path = folder / name
    path.write_text(text)
    return path


MINE = """
name = "mine"
title = "My own service"
url = "https://stac.example.org"
filter = "none"
schemes = ["https"]
hosts = ["data.example.org"]
datetime = {sentinel2 = "sensing"}
[collections]
sentinel2 = ["s2"]
[assets.sentinel2]
B02 = "blue"
"""


def test_own_catalogue_by_path_and_by_folder(tmp_path, monkeypatch):
    path = write(tmp_path, MINE)
    assert load_catalog(path) == load_catalog(str(path))
    with pytest.raises(ConfigError, match="unknown catalogue 'mine'; known: cdse, dlr"):
        load_catalog("mine")
    monkeypatch.setenv("SATFUSE_CATALOGS", str(tmp_path))
    assert load_catalog("mine").assets == {"sentinel2": {"B02": "blue"}}
    assert {"mine", "cdse"} <= set(catalog_names())
    write(tmp_path, MINE.replace("mine", "cdse"), "cdse.toml")
    assert load_catalog("cdse").title == "My own service", (
        "an own file takes the place of a shipped one"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'filter = "none"',
            'filter = "none"\nfliter = "query"',
            "unknown key 'fliter'; known: name,",
        ),
        ('url = "https://stac.example.org"', "", "missing key 'url'"),
        ('filter = "none"', 'filter = "cql"', "filter = 'cql' must be 'query' or"),
        ('"https"', '"ftp"', "schemes[0] = 'ftp' must be 'https' or"),
        ('"sensing"', '"midnight"', "datetime.sentinel2 = 'midnight' must be"),
        ("B02 =", "B2 =", "unknown sentinel2 asset 'B2'"),
        ("[assets.sentinel2]", "[assets.sentinel1]", "unknown sensor in assets 'sentinel1'"),
        ("https://stac", "ftp://stac", "must start with http"),
        (
            'filter = "none"',
            'filter = "none"\npage_limit = "many"',
            "page_limit = 'many' must be a whole number",
        ),
        ('filter = "none"', 'filter = "none"\ntimeout_s = 0', "timeout_s = 0.0 must be above 0"),
        ('filter = "none"', 'filter = "none"\nauth = "basic"', "needs user_env, secret_env"),
        ('name = "mine"', "name = mine", "not valid TOML"),
        (
            'filter = "none"',
            'filter = "none"\ncontainers = {sentinel2 = "s2"}',
            "container 's2' must be account/container",
        ),
        ("https://stac", "https://me:hidden@stac", "url may hold no user name"),
        (
            "stac.example.org",
            "stac.example.org/?token=hidden",
            "url may hold no user name and no query",
        ),
    ],
)
def test_malformed_catalogues_name_key_and_file(tmp_path, old, new, message):
    with pytest.raises(ConfigError) as caught:
        load_catalog(write(tmp_path, MINE.replace(old, new)))
    assert message in str(caught.value)
    assert "mine.toml" in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_local_catalogue_reads_files_below_its_root_only(tmp_path):
    spec = local_catalog("http://127.0.0.1:9999", tmp_path)
    assert (spec.url, spec.root, spec.schemes) == (
        "http://127.0.0.1:9999",
        str(tmp_path.resolve()),
        ("file",),
    )
    assert spec.collections["sentinel3_syn"] == load_catalog("cdse").collections["sentinel3_syn"]
    assert spec.assets["enmap"] == load_catalog("dlr").assets["enmap"]


def test_own_items_have_the_assets_of_their_services():
    """The fixtures stand for the services in all other tests."""
    for spec, sensor, make in (
        (own.CDSE, "sentinel2", own.cdse_s2),
        (own.CDSE, "sentinel3_syn", own.cdse_syn),
        (own.DLR, "enmap", own.dlr_enmap),
        (own.EARTH, "sentinel2", own.earth_s2),
        (own.EARTH_C1, "sentinel2", own.earth_c1_s2),
    ):
        item = pystac.Item.from_dict(make())
        assert set(spec.assets[sensor].values()) == set(item.assets)
        assert access.gdal_href(spec, item, sensor, next(iter(spec.assets[sensor]))).startswith(
            "/vsi"
        )


def test_every_limit_can_be_changed_on_a_spec():
    spec = replace(load_catalog("cdse"), max_connections=1)
    assert CatalogSpec.from_dict(spec.to_dict()).max_connections == 1
