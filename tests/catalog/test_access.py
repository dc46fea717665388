import base64
import logging
import os
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import obstore
import pystac
import pytest
import rasterio
from obstore.store import S3Store

from satfuse.catalog import access, credentials, download
from satfuse.catalog.specs import load_catalog, local_catalog
from satfuse.errors import AccessError, ReadError, StoreError
from satfuse.readers.loaders import ItemAsset
from tests.catalog import own_items as own

LONG_AGO = "Wed, 01 May 2024 00:00:00 GMT"
HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(5000)
SECRETS = ("SENTINELKEYID", "SENTINELSECRET", "SENTINELUSER", "SENTINELPASSWORD", "SENTINELSAS")


@pytest.fixture(autouse=True)
def own_world(tmp_path, monkeypatch, caplog):
    """An empty cache, no credentials of the machine, and no secret in any log or traceback."""
    for name in [n for n in os.environ if n.startswith(("AWS_", "ENMAP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SATFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-profiles"))
    monkeypatch.setattr(download, "BACKOFF_S", 0.01)
    monkeypatch.setattr(credentials, "_tokens", {})
    caplog.set_level(logging.DEBUG, "satfuse")
    yield
    assert not any(
        s in record.getMessage() for record in caplog.get_records("call") for s in SECRETS
    )


def give_keys(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "SENTINELKEYID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SENTINELSECRET")


def give_account(monkeypatch):
    monkeypatch.setenv("ENMAP_USERNAME", "SENTINELUSER")
    monkeypatch.setenv("ENMAP_PASSWORD", "SENTINELPASSWORD")


@contextmanager
def fails(kind, match):
    with pytest.raises(kind, match=match) as caught:
        yield
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert not any(s in shown for s in SECRETS)


def item_with(feature, key, href, **fields):
    feature["assets"][key] = {"href": href, **fields}
    return pystac.Item.from_dict(feature)


# --- S3 -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket(s3_url, tmp_path_factory):
    """`eodata` with a NetCDF-like file, a login page, and a GeoTIFF; path-style, as at CDSE."""
    import urllib.request

    urllib.request.urlopen(urllib.request.Request(f"{s3_url}/eodata", method="PUT"))
    keys = {
        "access_key_id": "a",
        "secret_access_key": "b",
        "region": "us-east-1",
        "endpoint": s3_url,
    }
    store = S3Store("eodata", config=keys, client_options={"allow_http": True})
    path = tmp_path_factory.mktemp("tif") / "x.tif"
    shape = {"width": 64, "height": 64, "count": 1, "dtype": "uint16"}
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    place = {"crs": "EPSG:32635", "transform": rasterio.Affine(10, 0, 0, 0, -10, 0)}
    with rasterio.open(path, "w", driver="GTiff", **shape, **tiles, **place) as f:
        f.write(np.arange(64 * 64, dtype="uint16").reshape(1, 64, 64))
    obstore.put(store, "S3/geo.nc", HDF5)
    obstore.put(store, "S3/login.nc", b"<!DOCTYPE html><html>log in</html>")
    obstore.put(store, "S2/B02.tif", path.read_bytes())
    return store


def at_s3(s3_url, **changes):
    return replace(load_catalog("cdse"), endpoint=s3_url, timeout_s=5.0, **changes)


def syn(href, **fields):
    return item_with(own.cdse_syn(), "geolocation", href, **fields)


@pytest.mark.usefixtures("bucket")
def test_fetch_from_s3_once(s3_url, monkeypatch, tmp_path):
    give_keys(monkeypatch)
    spec = at_s3(s3_url)
    item = syn("s3://eodata/S3/geo.nc", **{"file:size": len(HDF5)})
    path = access.fetch(spec, item, "sentinel3_syn", "geolocation")
    assert path.read_bytes() == HDF5
    assert path.suffix == ".nc"
    assert tmp_path / "cache" in path.parents
    # the second time nothing is asked: the endpoint is gone
    gone = replace(spec, endpoint="http://127.0.0.1:9")
    assert access.fetch(gone, item, "sentinel3_syn", "geolocation") == path
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.usefixtures("bucket")
def test_gdal_reads_a_window_through_vsis3(s3_url, monkeypatch):
    give_keys(monkeypatch)
    spec = at_s3(s3_url)
    item = item_with(own.cdse_s2(), "B02_10m", "s3://eodata/S2/B02.tif")
    href = access.gdal_href(spec, item, "sentinel2", "B02")
    assert href == "/vsis3/eodata/S2/B02.tif"
    with rasterio.Env(**access.gdal_env(spec)), rasterio.open(href) as f:
        window = f.read(1, window=((10, 12), (20, 23)))
    assert window.tolist() == [[660, 661, 662], [724, 725, 726]]


@pytest.mark.usefixtures("bucket")
def test_keys_from_an_aws_profile(s3_url, monkeypatch, tmp_path):
    (tmp_path / "profiles").write_text(
        "[cdse]\naws_access_key_id = SENTINELKEYID\naws_secret_access_key = SENTINELSECRET%1\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "profiles"))
    with fails(AccessError, "AWS_PROFILE"):
        access.gdal_env(at_s3(s3_url))
    monkeypatch.setenv("AWS_PROFILE", "cdse")
    assert access.fetch(
        at_s3(s3_url), syn("s3://eodata/S3/geo.nc"), "sentinel3_syn", "geolocation"
    ).is_file()
    env = access.gdal_env(at_s3(s3_url))
    with rasterio.Env(**env), rasterio.open("/vsis3/eodata/S2/B02.tif") as f:
        assert f.shape == (64, 64)


def test_gdal_env_of_cdse_holds_no_keys_and_no_scheme(monkeypatch):
    give_keys(monkeypatch)
    env = access.gdal_env(load_catalog("cdse"))
    assert not any(s in str(env) for s in SECRETS)
    assert env["AWS_S3_ENDPOINT"] == "eodata.dataspace.copernicus.eu"
    assert (env["AWS_HTTPS"], env["AWS_VIRTUAL_HOSTING"]) == ("YES", "FALSE")
    assert env["GDAL_DISABLE_READDIR_ON_OPEN"] == "EMPTY_DIR"


def test_missing_keys_name_the_variables():
    item = syn("s3://eodata/S3/geo.nc")
    for call in (
        lambda: access.gdal_env(load_catalog("cdse")),
        lambda: access.fetch(load_catalog("cdse"), item, "sentinel3_syn", "geolocation"),
    ):
        with fails(
            AccessError, "cdse needs S3 keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ):
            call()


@pytest.mark.usefixtures("bucket")
def test_missing_object_and_login_page_and_wrong_size(s3_url, monkeypatch, tmp_path):
    give_keys(monkeypatch)
    spec = at_s3(s3_url)
    with fails(
        ReadError,
        r"S3A_SY_2.*asset geolocation is missing: there is nothing at s3://eodata/S3/none.nc",
    ):
        access.fetch(spec, syn("s3://eodata/S3/none.nc"), "sentinel3_syn", "geolocation")
    with fails(AccessError, "login page"):
        access.fetch(spec, syn("s3://eodata/S3/login.nc"), "sentinel3_syn", "geolocation")
    with fails(ReadError, f"truncated: {len(HDF5)} bytes of 999999"):
        access.fetch(
            spec,
            syn("s3://eodata/S3/geo.nc", **{"file:size": 999999}),
            "sentinel3_syn",
            "geolocation",
        )
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


@pytest.mark.usefixtures("bucket")
def test_unwritable_cache_says_how_to_move_it(s3_url, monkeypatch, tmp_path):
    give_keys(monkeypatch)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SATFUSE_CACHE", str(tmp_path / "file"))
    with fails(StoreError, "set SATFUSE_CACHE"):
        access.fetch(at_s3(s3_url), syn("s3://eodata/S3/geo.nc"), "sentinel3_syn", "geolocation")


def test_refused_keys_are_explained(files, monkeypatch):
    give_keys(monkeypatch)
    files.answers["/eodata/S3/geo.nc"] = (
        403,
        {},
        b"<Error><Code>InvalidAccessKeyId</Code></Error>",
    )
    spec = at_s3(f"http://{files.host}")
    with fails(
        AccessError, r"cdse denied access \(refused\).*wrong or expired; check AWS_ACCESS_KEY_ID"
    ):
        access.fetch(spec, syn("s3://eodata/S3/geo.nc"), "sentinel3_syn", "geolocation")


def test_a_failing_object_store_is_tried_again(files, monkeypatch):
    give_keys(monkeypatch)
    files.answers["/eodata/S3/geo.nc"] = [(503, {}, b"")] * 2 + [
        (200, {"ETag": "1", "Last-Modified": LONG_AGO}, HDF5)
    ]
    spec = at_s3(f"http://{files.host}")
    path = access.fetch(spec, syn("s3://eodata/S3/geo.nc"), "sentinel3_syn", "geolocation")
    assert path.read_bytes() == HDF5
    assert len(files.seen) == 3


# --- https --------------------------------------------------------------------------------------


class _Files(BaseHTTPRequestHandler):
    """Serves by path from `server.answers`: (status, headers, body), or a list of them in turn."""

    def do_GET(self):
        self.server.seen.append(
            (self.path, self.headers.get("Authorization"), self.headers.get("Cookie"))
        )
        with self.server.counting:
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
        time.sleep(self.server.wait_s)
        with self.server.counting:
            self.server.now -= 1  # before the client can know that it is done
        answer = self.server.answers[self.path]
        status, headers, body = answer.pop(0) if isinstance(answer, list) else answer
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815  the name that http.server calls

    def log_message(self, *_):
        pass


@pytest.fixture
def files():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    server.answers = {}
    server.seen = []
    server.counting = threading.Lock()
    server.now = 0
    server.most = 0
    server.wait_s = 0.0
    server.host = f"127.0.0.1:{server.server_address[1]}"
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    ).start()
    yield server
    server.shutdown()
    server.server_close()


def at_dlr(files, **changes):
    here = {
        "url": "http://127.0.0.1:1",
        "schemes": ("http",),
        "hosts": (files.host,),
        "login_hosts": (),
    }
    return replace(load_catalog("dlr"), **{**here, "timeout_s": 2.0, **changes})


def enmap(files, path="/m.xml"):
    return item_with(own.dlr_enmap(), "metadata", f"http://{files.host}{path}")


def fetch_metadata(files, path="/m.xml", **changes):
    return access.fetch(at_dlr(files, **changes), enmap(files, path), "enmap", "metadata")


def test_basic_auth_through_a_login_that_sets_a_cookie(files, monkeypatch):
    give_account(monkeypatch)
    files.answers["/m.xml"] = [
        (302, {"Location": "/cas?service=x"}, b""),
        (200, {}, b"<?xml version='1.0'?><a/>"),
    ]
    files.answers["/cas?service=x"] = (302, {"Location": "/m.xml", "Set-Cookie": "ticket=1"}, b"")
    assert fetch_metadata(files).read_text().startswith("<?xml")
    password = "Basic " + base64.b64encode(b"SENTINELUSER:SENTINELPASSWORD").decode()
    assert [(s[0], s[1]) for s in files.seen] == [
        ("/m.xml", password),
        ("/cas?service=x", password),
        ("/m.xml", password),
    ]
    assert files.seen[2][2] == "ticket=1"


def test_the_password_follows_no_redirect_out_of_the_catalogue(files, monkeypatch):
    give_account(monkeypatch)
    files.answers["/m.xml"] = (
        302,
        {"Location": f"http://localhost:{files.server_address[1]}/steal"},
        b"",
    )
    with fails(AccessError, "host 'localhost:.*is not among"):
        fetch_metadata(files)
    assert [s[0] for s in files.seen] == ["/m.xml"]


def test_a_login_that_never_ends(files, monkeypatch):
    give_account(monkeypatch)
    files.answers["/m.xml"] = (302, {"Location": "/m.xml"}, b"")
    with fails(AccessError, "redirects"):
        fetch_metadata(files)


@pytest.mark.parametrize(
    ("answer", "kind", "match", "asked"),
    [
        ((200, {}, b"\n<!DOCTYPE html><html>Log in"), AccessError, "login page came instead", 1),
        (
            (401, {}, b""),
            AccessError,
            "HTTP 401.*expired; check ENMAP_USERNAME and ENMAP_PASSWORD",
            1,
        ),
        ((403, {}, b""), AccessError, "HTTP 403.*expired", 1),
        ((404, {}, b""), ReadError, "ENMAP01.*asset metadata is missing: HTTP 404", 1),
        ((503, {}, b""), ReadError, "could not be read.*in 3 tries: HTTP 503", 3),
        (
            (200, {"Content-Length": 999}, b"<?xml"),
            ReadError,
            "in 3 tries: ChunkedEncodingError",
            3,
        ),
        ((200, {}, b"PK\x03\x04"), ReadError, "damaged", 1),
    ],
)
def test_failures_over_https(files, monkeypatch, tmp_path, answer, kind, match, asked):
    give_account(monkeypatch)
    files.answers["/m.xml"] = answer
    with fails(kind, match):
        fetch_metadata(files)
    assert len(files.seen) == asked
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_a_broken_transfer_is_taken_up_again(files, monkeypatch):
    give_account(monkeypatch)
    files.answers["/m.xml"] = [
        (200, {"Content-Length": 999}, b"<?xml bro"),
        (503, {}, b""),
        (200, {}, b"<?xml?><a/>"),
    ]
    assert fetch_metadata(files).read_bytes() == b"<?xml?><a/>"


def test_missing_account_names_the_variables(files):
    for call in (lambda: fetch_metadata(files), lambda: access.gdal_env(load_catalog("dlr"))):
        with fails(AccessError, "dlr needs an account: set ENMAP_USERNAME and ENMAP_PASSWORD"):
            call()
    assert files.seen == []


def test_gdal_sends_the_password_from_its_options(files, monkeypatch, caplog):
    give_account(monkeypatch)
    files.answers["/x.tif"] = (404, {}, b"")
    item = item_with(own.dlr_enmap(), "image", f"http://{files.host}/x.tif")
    href = access.gdal_href(at_dlr(files), item, "enmap", "image")
    assert href == f"/vsicurl/http://{files.host}/x.tif"
    env = {**access.gdal_env(at_dlr(files)), "GDAL_HTTP_MAX_RETRY": "0"}
    caplog.set_level(logging.DEBUG, "rasterio")
    with rasterio.Env(**env), pytest.raises(rasterio.RasterioIOError) as caught:
        rasterio.open(href)
    assert files.seen
    assert all(s[1].startswith("Basic ") for s in files.seen)
    assert not any(s in str(caught.value) for s in SECRETS)


@pytest.mark.parametrize(
    ("answer", "kind", "match"),
    [
        (
            (200, {}, b"<!DOCTYPE html><html>Log in" + bytes(900)),
            AccessError,
            "login page came instead",
        ),
        ((401, {}, b""), AccessError, "HTTP 401.*expired; check ENMAP_USERNAME and ENMAP_PASSWORD"),
        ((404, {}, b""), ReadError, "ENMAP01.*asset image is missing: HTTP 404"),
        (
            (200, {}, b"II*\x00" + bytes(900)),
            ReadError,
            "ENMAP01.*asset image could not be read.*damaged",
        ),
    ],
)
def test_what_gdal_could_not_read_is_explained(files, monkeypatch, answer, kind, match):
    """GDAL calls all of these unreadable; a hole may stand for damage, never for a refusal."""
    give_account(monkeypatch)
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    files.answers["/x.tif"] = answer
    item = item_with(own.dlr_enmap(), "image", f"http://{files.host}/x.tif")
    with fails(kind, match):
        ItemAsset.of(at_dlr(files), item, "enmap", "image").probe()


def test_keys_that_gdal_is_refused_are_explained(files, monkeypatch):
    give_keys(monkeypatch)
    files.answers["/eodata/S2/B02.jp2"] = (
        403,
        {},
        b"<Error><Code>ExpiredToken</Code><Message>no</Message></Error>",
    )
    item = item_with(own.cdse_s2(), "B02_10m", "s3://eodata/S2/B02.jp2")
    with fails(
        AccessError, r"asset B02: catalogue cdse denied access.*expired; check AWS_ACCESS_KEY_ID"
    ):
        ItemAsset.of(at_s3(f"http://{files.host}"), item, "sentinel2", "B02").probe()


def test_one_download_for_many_threads_and_few_connections(files, monkeypatch):
    give_account(monkeypatch)
    files.wait_s = 0.05
    files.answers = {f"/{i}.xml": (200, {}, b"<?xml?><a/>") for i in range(6)}
    with ThreadPoolExecutor(18) as pool:
        for i in range(18):
            pool.submit(fetch_metadata, files, f"/{i % 6}.xml", max_connections=2)
    assert len(files.seen) == 6
    assert files.most <= 2


# --- SAS ----------------------------------------------------------------------------------------


def planetary(files, minutes=60):
    expiry = (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = f'{{"msft:expiry": "{expiry}", "token": "sig=SENTINELSAS"}}'.encode()
    files.answers["/token/sentinel2l2a01/sentinel2-l2"] = (200, {}, body)
    return replace(
        load_catalog("planetary-computer"),
        token_url=f"http://{files.host}/token/{{account}}/{{container}}",
        timeout_s=2.0,
    )


def s2_blob(href):
    feature = own.cdse_s2()
    feature["assets"] = {"B02": {"href": href}}
    return pystac.Item.from_dict(feature)


def test_sas_token_goes_to_options_and_never_to_the_href(files):
    spec = planetary(files)
    href = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/32/T/B02.tif"
    assert (
        access.gdal_href(spec, s2_blob(href), "sentinel2", "B02")
        == "/vsiaz/sentinel2-l2/32/T/B02.tif"
    )
    env = access.gdal_env(spec, "sentinel2")
    assert (env["AZURE_STORAGE_ACCOUNT"], env["AZURE_STORAGE_SAS_TOKEN"]) == (
        "sentinel2l2a01",
        "sig=SENTINELSAS",
    )
    access.gdal_env(spec, "sentinel2")
    assert len(files.seen) == 1  # cached until it expires
    with fails(AccessError, "lies outside sentinel2l2a01/sentinel2-l2"):
        access.gdal_href(
            spec, s2_blob(href.replace("sentinel2-l2/", "private/")), "sentinel2", "B02"
        )


def test_sas_token_near_its_end_is_renewed_and_a_refusal_is_explained(files):
    spec = planetary(files, minutes=3)
    access.gdal_env(spec)
    access.gdal_env(spec)
    assert len(files.seen) == 2
    files.answers["/token/sentinel2l2a01/sentinel2-l2"] = (503, {}, b"")
    with fails(AccessError, "planetary-computer: no read token from .* \\(503\\)"):
        access.gdal_env(spec)


def test_blobs_are_fetched_with_the_token_and_a_refused_token_is_dropped(files):
    spec = replace(planetary(files), endpoint=f"http://{files.host}")
    blob = "/sentinel2-l2/32/MTD_MSIL2A.xml"
    item = s2_blob(f"https://sentinel2l2a01.blob.core.windows.net{blob}")
    item.assets["product-metadata"] = item.assets["B02"]
    good = (200, {"ETag": "1", "Last-Modified": LONG_AGO}, b"<?xml?><a/>")
    files.answers[f"{blob}?sig=SENTINELSAS"] = [(403, {}, b""), good]
    with fails(AccessError, "planetary-computer denied access"):
        access.fetch(spec, item, "sentinel2", "product_metadata")
    path = access.fetch(spec, item, "sentinel2", "product_metadata")
    assert path.read_bytes() == b"<?xml?><a/>"
    assert "SENTINELSAS" not in str(path)
    asked = [s[0].split("/")[1] for s in files.seen]
    assert asked == ["token", "sentinel2-l2", "token", "sentinel2-l2"]


# --- local --------------------------------------------------------------------------------------


def test_local_files_are_read_in_place(tmp_path):
    spec = local_catalog("http://127.0.0.1:1", tmp_path)
    (tmp_path / "geo.nc").write_bytes(HDF5)
    item = syn(str(tmp_path / "geo.nc"))
    assert access.fetch(spec, item, "sentinel3_syn", "geolocation") == tmp_path / "geo.nc"
    assert access.gdal_href(spec, item, "sentinel3_syn", "geolocation") == str(tmp_path / "geo.nc")
    assert not (tmp_path / "cache").exists()
    (tmp_path / "geo.nc").write_bytes(b"no netcdf")
    with fails(ReadError, "asset geolocation is damaged: geo.nc starts with b'no netcd'"):
        access.fetch(spec, item, "sentinel3_syn", "geolocation")
    (tmp_path / "geo.nc").unlink()
    with fails(ReadError, "there is no file"):
        access.fetch(spec, item, "sentinel3_syn", "geolocation")


def test_missing_assets_name_item_asset_and_cause():
    item = pystac.Item.from_dict(own.cdse_syn())
    del item.assets["syn_Oa01_reflectance"]
    with fails(ReadError, "S3A_SY_2_SYN.*no asset 'syn_Oa01_reflectance' \\(Oa01\\)"):
        access.gdal_href(load_catalog("cdse"), item, "sentinel3_syn", "Oa01")
    with fails(ReadError, "catalogue cdse offers no enmap asset 'image'"):
        access.gdal_href(load_catalog("cdse"), item, "enmap", "image")


def test_remote_items_cannot_point_to_local_files(tmp_path):
    (tmp_path / "secret.nc").write_bytes(HDF5)
    item = syn(str(tmp_path / "secret.nc"))
    for call in (access.gdal_href, access.fetch):
        with fails(AccessError, "cdse does not allow"):
            call(load_catalog("cdse"), item, "sentinel3_syn", "geolocation")


def test_the_guard_against_secrets_in_logs_would_see_one(caplog):
    """Guards the fixture `own_world`: its records are those of the test itself."""
    logging.getLogger("satfuse.catalog").debug("a line")
    assert "a line" in [r.getMessage() for r in caplog.get_records("call")]
