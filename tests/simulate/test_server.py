"""The archive through a real STAC API server."""

import urllib.error
import urllib.request
from datetime import datetime

import pystac_client
import pytest

from satfuse.errors import CatalogError, ConfigError, MissingExtraError
from satfuse.simulate.archive import server
from satfuse.simulate.archive.server import serve

FIELD = [26.42, 58.30, 26.50, 58.33]


@pytest.fixture(scope="module")
def url(small_archive):
    with serve(small_archive.root) as address:
        yield address


def search(url, **query):
    return {item.id: item for item in pystac_client.Client.open(url).search(**query).items()}


def test_collections(url, small_archive):
    collections = pystac_client.Client.open(url).get_collections()
    assert {c.id for c in collections} == set(small_archive.items)


def test_search_by_collection(url, small_archive):
    for name, items in small_archive.items.items():
        assert set(search(url, collections=[name])) == {item.id for item in items}


def test_search_by_place_and_time(url, small_recipe):
    day = f"{small_recipe.day}T00:00:00Z/{small_recipe.day}T23:59:59Z"
    here = search(url, collections=["sentinel-2-l2a"], bbox=FIELD, datetime=day)
    assert len(here) == 2
    assert all(name.startswith("S2A") for name in here)
    assert not search(url, collections=["sentinel-2-l2a"], bbox=[0, 0, 1, 1])
    earlier = "2019-01-01/2019-02-01"
    assert not search(url, collections=["sentinel-2-l2a"], bbox=FIELD, datetime=earlier)


def test_items_arrive_as_they_were_made(url, small_archive):
    for items in small_archive.items.values():
        (item,) = search(url, ids=[items[0].id]).values()
        ours = items[0].to_dict()
        theirs = item.to_dict()
        for properties in (ours["properties"], theirs["properties"]):
            # as times: the server shortens fractions of seconds
            times = {k: v for k, v in properties.items() if k.endswith("datetime")}
            properties.update({k: datetime.fromisoformat(v) for k, v in times.items()})
        for key in ("properties", "assets", "geometry", "bbox"):
            assert theirs[key] == ours[key], key


def test_server_ends_with_the_context(small_archive):
    with serve(small_archive.root) as address, urllib.request.urlopen(address) as response:
        assert response.status == 200
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=2)


def test_missing_server_names_the_extra(small_archive, monkeypatch, tmp_path):
    monkeypatch.setattr(server.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"satfuse\[server\]"), serve(small_archive.root):
        pass


def test_taken_port_is_an_error(url, small_archive):
    port = int(url.rsplit(":", 1)[1])
    with pytest.raises(CatalogError, match="port"), serve(small_archive.root, port):
        pass


def test_no_archive_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no complete archive"), serve(tmp_path):
        pass
