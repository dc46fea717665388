"""Whole readers through signed and password-protected HTTP, and what GDAL does with redirects."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio

from satfuse.catalog import access, credentials, download
from satfuse.catalog.specs import load_catalog
from satfuse.errors import AccessError
from satfuse.readers.enmap import open_enmap
from satfuse.readers.loaders import ItemAsset
from satfuse.readers.sentinel2 import open_sentinel2
from satfuse.readers.sentinel3_syn import open_syn
from tests.catalog import own_items as own
from tests.file_server import FileServer

LOCAL = load_catalog("local")
PLANETARY = load_catalog("planetary-computer")
SIGNATURE = "sv=2024-01-01&sig=SENTINELSAS%3D"
BANDS = ("B01", "B02", "B05", "B12")


@pytest.fixture(autouse=True)
def own_world(tmp_path, monkeypatch):
    monkeypatch.setenv("SATFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    monkeypatch.setattr(download, "BACKOFF_S", 0.01)
    monkeypatch.setattr(credentials, "_tokens", {})


@pytest.fixture(scope="module")
def blobs(small_archive, tmp_path_factory):
    """Planetary Computer's containers as folders, and an item of each sensor with its keys."""
    root = tmp_path_factory.mktemp("blobs")
    items = {}
    for sensor, collection in (
        ("sentinel2", "sentinel-2-l2a"),
        ("sentinel3_syn", "sentinel-3-syn-2-syn-ntc"),
    ):
        account, container = PLANETARY.containers[sensor].split("/")
        item = small_archive.items[collection][0].clone()
        files = {
            service: item.assets[LOCAL.assets[sensor][key]]
            for key, service in PLANETARY.assets[sensor].items()
        }
        item.assets = {}
        item.collection_id = PLANETARY.collections[sensor][0]
        (root / container).mkdir()
        for service, asset in files.items():
            path = root / container / asset.href.rsplit("/")[-1].replace(".jp2", ".tif")
            if path.suffix == ".tif":
                rasterio.shutil.copy(asset.href, path, driver="COG")
            else:
                path.write_bytes(Path(asset.href).read_bytes())
            href = f"https://{account}.blob.core.windows.net/{container}/{path.name}"
            item.add_asset(service, pystac.Asset(href, media_type=asset.media_type))
        items[sensor] = item
    return root, items


def token(signature=SIGNATURE):
    expiry = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps({"msft:expiry": expiry, "token": signature}).encode()


@pytest.fixture
def planetary(blobs):
    """The service on loopback: a token for who asks, blobs for who shows it."""
    tokens = {f"/token/{container}": token() for container in PLANETARY.containers.values()}
    with FileServer(blobs[0], query=SIGNATURE, answers=tokens) as server:
        server.spec = replace(
            PLANETARY,
            endpoint=server.url,
            token_url=f"{server.url}/token/{{account}}/{{container}}",
            timeout_s=5.0,
        )
        yield server


def test_sentinel2_cogs_and_metadata_are_read_with_the_token(
    planetary, blobs, small_archive, small_recipe
):
    spec = replace(LOCAL, root=str(small_archive.root))
    box = small_recipe.geobox[:120, :120]
    far = open_sentinel2(blobs[1]["sentinel2"], box, spec=planetary.spec, bands=BANDS).compute()
    near = open_sentinel2(
        small_archive.items["sentinel-2-l2a"][0], box, spec=spec, bands=BANDS
    ).compute()
    for name in ("reflectance", "valid", "quality", "scl"):
        np.testing.assert_array_equal(far[name].values, near[name].values)
    assert near.valid.mean() > 0.5
    assert far.attrs["offsets"] == [dict.fromkeys(BANDS, -1000)]
    kinds = {
        path.rsplit(".")[-1] for _, path, _ in planetary.seen if path.startswith("/sentinel2-l2/")
    }
    assert kinds == {"tif", "xml"}
    assert sum(path.startswith("/token/") for _, path, _ in planetary.seen) == 1
    assert "SENTINELSAS" not in json.dumps(far.attrs, default=str)


def test_syn_files_are_read_with_the_token(planetary, blobs, small_archive):
    spec = replace(LOCAL, root=str(small_archive.root))
    far = open_syn([blobs[1]["sentinel3_syn"]], spec=planetary.spec, bands=("Oa03", "S6N"))
    near = open_syn(
        [small_archive.items["sentinel-3-syn-2-syn-ntc"][0]], spec=spec, bands=("Oa03", "S6N")
    )
    for name in ("reflectance", "valid", "latitude", "time"):
        np.testing.assert_array_equal(far[name].values, near[name].values)
    assert np.isfinite(near.reflectance.values).any()


def test_a_token_that_is_refused_is_explained_and_asked_for_again(planetary, blobs):
    source = ItemAsset.of(planetary.spec, blobs[1]["sentinel2"], "sentinel2", "B02")
    stale = "/token/" + PLANETARY.containers["sentinel2"]
    planetary.answers[stale] = token("sv=2023&sig=SENTINELSAS-stale")
    with pytest.raises(
        AccessError, match="asset B02: catalogue planetary-computer denied access"
    ) as caught:
        source.probe()
    assert "SENTINELSAS" not in repr(caught.value) + repr(caught.value.__cause__)
    planetary.answers[stale] = token()
    source.probe()


def test_enmap_is_read_with_the_password(small_archive, monkeypatch):
    monkeypatch.setenv("ENMAP_USERNAME", "reader")
    monkeypatch.setenv("ENMAP_PASSWORD", "SENTINELPASSWORD")
    item = small_archive.items["ENMAP_HSI_L2A"][0]
    near = open_enmap(item, spec=replace(LOCAL, root=str(small_archive.root)))
    with FileServer(small_archive.root, password=("reader", "SENTINELPASSWORD")) as server:
        here = {
            "url": server.url,
            "schemes": ("http",),
            "hosts": (server.host,),
            "login_hosts": (),
            "timeout_s": 5.0,
        }
        spec = replace(load_catalog("dlr"), **here)
        moved = item.clone()
        for asset in moved.assets.values():
            asset.href = asset.href.replace(str(small_archive.root), server.url)
        far = open_enmap(moved, spec=spec)
        for name in ("reflectance", "valid", "quality"):
            np.testing.assert_array_equal(
                far[name].isel(y=slice(20)).values, near[name].isel(y=slice(20)).values
            )
        monkeypatch.setenv("ENMAP_PASSWORD", "SENTINELPASSWORD-old")
        with pytest.raises(
            AccessError, match=r"HTTP 401.*ENMAP_USERNAME and ENMAP_PASSWORD"
        ) as caught:
            ItemAsset.of(spec, moved, "enmap", "pixel_mask").probe()
    assert "SENTINELPASSWORD" not in repr(caught.value)


# --- redirects ----------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(blobs):
    """A host that no catalogue allows."""
    with FileServer(blobs[0]) as server:
        yield server


def redirected(server, monkeypatch):
    """An EnMAP item and its catalogue on `server`, with a password that GDAL would send."""
    monkeypatch.setenv("ENMAP_USERNAME", "reader")
    monkeypatch.setenv("ENMAP_PASSWORD", "SENTINELPASSWORD")
    here = {
        "url": server.url,
        "schemes": ("http",),
        "hosts": (server.host,),
        "login_hosts": (),
        "timeout_s": 5.0,
    }
    feature = own.dlr_enmap()
    feature["assets"]["image"]["href"] = f"{server.url}/image.tif"
    return replace(load_catalog("dlr"), **here), pystac.Item.from_dict(feature)


def path_of_b02(blobs):
    return "/sentinel2-l2/" + blobs[1]["sentinel2"].assets["B02"].href.rsplit("/")[-1]


def test_a_redirect_to_another_host_is_refused_before_gdal_asks(blobs, elsewhere, monkeypatch):
    target = elsewhere.url.replace("127.0.0.1", "localhost") + path_of_b02(blobs)
    with FileServer(blobs[0], redirects={"/image.tif": "/second", "/second": target}) as server:
        spec, item = redirected(server, monkeypatch)
        source = (spec, item, "enmap", "image")
        for read in (ItemAsset.of(*source).probe, partial(access.check_remote, *source)):
            with pytest.raises(AccessError, match=r"host 'localhost:.*is not among"):
                read()
        assert server.seen
        assert not elsewhere.seen
        # the reason for all this: GDAL itself follows. Where it stops doing so, `final_address` is
        # not needed
        with rasterio.Env(**access.gdal_env(spec, "enmap")):
            rasterio.open(access.gdal_href(*source)).close()
    assert elsewhere.seen
    assert not any("Authorization" in headers for _, _, headers in elsewhere.seen)


def test_a_redirect_within_the_catalogue_is_followed_once(blobs, monkeypatch):
    with FileServer(blobs[0]) as server:
        server.redirects = {"/image.tif": path_of_b02(blobs)}
        spec, item = redirected(server, monkeypatch)
        source = ItemAsset.of(spec, item, "enmap", "image")
        source.probe()
        source.probe()
        assert [path for _, path, _ in server.seen].count("/image.tif") == 1
        server.redirects = {"/image.tif": path_of_b02(blobs) + "?signature=SENTINELSAS"}
        access.check_remote(spec, item, "enmap", "image")  # forgets where it led
        assert access.gdal_name(spec, item, "enmap", "image") == f"/vsicurl/{server.url}/image.tif"
        source.probe()


def test_no_redirect_leads_gdal_to_a_file_of_this_machine(blobs, monkeypatch):
    path = next(blobs[0].rglob("*.tif"))
    with FileServer(blobs[0], redirects={"/image.tif": f"file://{path}"}) as server:
        spec, item = redirected(server, monkeypatch)
        with (
            rasterio.Env(**access.gdal_env(spec, "enmap")),
            pytest.raises(rasterio.RasterioIOError),
        ):
            rasterio.open(access.gdal_href(spec, item, "enmap", "image"))
    assert rasterio.open(path).count == 1


# --- threads ------------------------------------------------------------------------------------


def test_a_password_in_use_goes_to_no_other_catalogue(blobs, monkeypatch):
    """rasterio sets the options of the main thread for every thread of the process."""
    path = path_of_b02(blobs)
    with (
        FileServer(blobs[0], redirects={"/image.tif": path}) as guarded,
        FileServer(blobs[0]) as public,
    ):
        spec, item = redirected(guarded, monkeypatch)
        here = {"url": public.url, "schemes": ("http",), "hosts": (public.host,), "timeout_s": 5.0}
        free = replace(load_catalog("earth-search"), **here)
        feature = own.dlr_enmap()
        feature["assets"] = {free.assets["sentinel2"]["B02"]: {"href": public.url + path}}
        other = ItemAsset.of(free, pystac.Item.from_dict(feature), "sentinel2", "B02")
        with (
            ItemAsset.of(spec, item, "enmap", "image").opened() as name,
            ThreadPoolExecutor(1) as pool,
        ):
            pool.submit(other.probe).result()
            rasterio.open(name).close()
    assert all(
        headers.get("Authorization", "").startswith("Basic ") for _, _, headers in guarded.seen
    )
    assert public.seen
    assert not any("Authorization" in headers for _, _, headers in public.seen)


def test_threads_read_each_with_its_own_token(planetary, blobs):
    """Two services at once, main thread included: a foreign token would be answered with 403."""
    other = "sv=2024-01-01&sig=SENTINELSAS-other"
    with FileServer(blobs[0], query=other, answers={"/token": token(other)}) as second:
        spec = replace(
            planetary.spec,
            name="second",
            endpoint=second.url,
            token_url=f"{second.url}/token",
            containers={"sentinel2": "second/sentinel2-l2"},
            hosts=("second.blob.core.windows.net",),
        )
        far = blobs[1]["sentinel2"].clone()
        for asset in far.assets.values():
            asset.href = asset.href.replace("sentinel2l2a01.", "second.")
        pairs = [(planetary.spec, blobs[1]["sentinel2"]), (spec, far)] * 6
        sources = [ItemAsset.of(s, i, "sentinel2", band) for band in BANDS[:2] for s, i in pairs]
        with sources[1].opened() as name, ThreadPoolExecutor(6) as pool:
            list(pool.map(ItemAsset.probe, sources))
            rasterio.open(name).close()
    assert {path for _, path, _ in second.seen} > {"/token"}
