"""How an item's files are reached: a checked href for GDAL, GDAL's options, or a local copy."""

import hashlib
import io
import logging
import os
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from urllib.parse import urlsplit

import pystac
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from satfuse.catalog.credentials import profile_file, s3_keys, sas_token, user_and_password
from satfuse.catalog.download import download, final_address
from satfuse.catalog.policy import check_href
from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import AccessError, ReadError, StoreError

log = logging.getLogger(__name__)

_MAGIC = {
    ".nc": (b"\x89HDF\r\n\x1a\n", b"CDF\x01", b"CDF\x02", b"CDF\x05"),
    ".tif": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    ".jp2": (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"),
    ".xml": (b"<?xml", b"<"),
}
_HEAD = 512  # bytes of a file that tell what it is
_slots: dict[tuple[str, int], threading.BoundedSemaphore] = {}
_slots_lock = threading.Lock()
_file_locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
_followed: dict[
    tuple[str, str], str
] = {}  # catalogue and name for GDAL -> that name with redirects followed
# What no catalogue may take over from another: rasterio sets the options of the main thread for all
# threads.
_NEUTRAL = {
    "GDAL_HTTP_AUTH": "ANY",
    "GDAL_HTTP_USERPWD": "",
}  # ANY: nothing is sent unless a server asks


def gdal_href(spec: CatalogSpec, item: pystac.Item, sensor: str, key: str) -> str:
    """A name that rasterio opens inside `rasterio.Env(**gdal_env(spec, sensor))`; it holds no credentials.

    Parameters
    ----------
    spec : the catalogue that the item came from.
    item, sensor, key : the asset, by its canonical key (`specs.ASSET_KEYS`).

    Returns
    -------
    A local path, or `/vsicurl/…`, `/vsis3/…`, `/vsiaz/…`.

    Raises
    ------
    ReadError
        The item has no such asset.
    AccessError
        The catalogue does not allow its href.
    """
    href = _checked_href(spec, item, sensor, key)
    parts = urlsplit(href)
    if parts.scheme == "s3":
        return f"/vsis3/{parts.netloc}{parts.path}"
    if parts.scheme and spec.auth == "sas":
        return f"/vsiaz{parts.path}"
    return f"/vsicurl/{href}" if parts.scheme else href


def gdal_name(spec: CatalogSpec, item: pystac.Item, sensor: str, key: str) -> str:
    """As `gdal_href`, with the redirects of https already followed, since GDAL follows them to any host.

    Every step is checked against the catalogue, once per process. What is redirected to a signed address is given as it
    was, so that no message holds the signature.

    Raises
    ------
    ReadError, AccessError
        As `fetch`; a redirect may lead only to hosts that the catalogue names.
    """
    name = gdal_href(spec, item, sensor, key)
    if not name.startswith("/vsicurl/"):
        return name
    followed = _followed.get((spec.name, name))
    if followed is None:
        address = final_address(
            spec, name.removeprefix("/vsicurl/"), what=f"{item.id}: asset {key}"
        )
        followed = _followed[spec.name, name] = (
            name if urlsplit(address).query else f"/vsicurl/{address}"
        )
    return followed


def gdal_env(spec: CatalogSpec, sensor: str = "sentinel2") -> dict[str, str]:
    """Options for `rasterio.Env`, with the credentials that GDAL cannot find by itself.

    Ask for it in the process that reads, and neither store nor log it. S3 keys are not in it: GDAL takes them from the
    environment or the AWS profile. Open hrefs of this catalogue only inside it, since a password would travel along.

    GDAL follows a redirect to any host, and has no option against that: open `gdal_name`, which follows it first.

    Raises
    ------
    AccessError
        Credentials are missing; the message names the environment variables.
    """
    env = {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_HTTP_MAX_RETRY": "5",
        "GDAL_HTTP_RETRY_DELAY": "1",
        "GDAL_HTTP_TIMEOUT": f"{spec.timeout_s:.0f}",
        "GDAL_HTTP_CONNECTTIMEOUT": "10",
        "GDAL_HTTP_TCP_KEEPALIVE": "YES",
        **_NEUTRAL,
    }
    if "s3" in spec.schemes:
        env |= _gdal_s3(spec)
    if spec.auth == "basic":
        env |= {"GDAL_HTTP_AUTH": "BASIC", "GDAL_HTTP_USERPWD": ":".join(user_and_password(spec))}
    if spec.auth == "sas":
        container = _container(spec, sensor)
        env |= {
            "AZURE_STORAGE_ACCOUNT": container.split("/")[0],
            "AZURE_STORAGE_SAS_TOKEN": sas_token(spec, container),
            "AZURE_NO_SIGN_REQUEST": "NO",
            **({"CPL_AZURE_ENDPOINT": spec.endpoint} if spec.endpoint else {}),
        }
    return env


def fetch(spec: CatalogSpec, item: pystac.Item, sensor: str, key: str) -> Path:
    """A local copy of an asset, for formats that are read whole (NetCDF, XML).

    Files of a local archive are returned where they lie. Others are copied once into $SATFUSE_CACHE
    (`~/.cache/satfuse`), appear there only when complete, and are found again by later calls.

    Raises
    ------
    ReadError
        The asset is missing, truncated or not what its name says.
    AccessError
        Its href is not allowed, credentials are missing or refused, or a login page came in its place.
    StoreError
        The cache cannot be written.
    """
    href = _checked_href(spec, item, sensor, key)
    what = f"{item.id}: asset {key}"
    if not urlsplit(href).scheme:
        if not Path(href).is_file():
            raise ReadError(f"{what} is missing: there is no file {href}")
        _check_content(Path(href), what)
        return Path(href)
    target = _cache_path(spec, href)
    with _file_locks[target]:
        if not target.is_file():
            size = item.assets[spec.assets[sensor][key]].extra_fields.get("file:size")
            container = _container(spec, sensor) if spec.auth == "sas" else ""
            _fill_cache(spec, href, target, what=what, container=container, size=size)
    return target


def check_remote(spec: CatalogSpec, item: pystac.Item, sensor: str, key: str) -> None:
    """Ask for the first bytes of an asset that GDAL could not read, since GDAL does not tell a refusal from damage.

    GDAL is made to forget the asset, so that the next try reads it with renewed keys or a new token.

    Raises
    ------
    AccessError
        Credentials are missing or refused, or a login page came in its place.
    ReadError
        The asset is missing, cannot be reached, or is not what its name says. Nothing is raised for local files.
    """
    href = _checked_href(spec, item, sensor, key)
    if not urlsplit(href).scheme:
        return
    name = gdal_href(spec, item, sensor, key)
    if opened := _followed.pop((spec.name, name), "" if name.startswith("/vsicurl/") else name):
        _make_gdal_forget(opened, gdal_env(spec, sensor))
    what, head = f"{item.id}: asset {key}", _Head()
    try:
        download(
            spec,
            href,
            head,
            what=what,
            container=_container(spec, sensor) if spec.auth == "sas" else "",
        )
    except _Enough:
        log.debug("%s answers", what)
    _check_head(head.getvalue()[:_HEAD], what, Path(urlsplit(href).path))


def _make_gdal_forget(name, env):
    """GDAL keeps a refusal as long as the process lives; an open of which it may keep nothing drops that too."""
    with (
        suppress(RasterioError, CPLE_BaseError),
        rasterio.Env(**env, CPL_VSIL_CURL_NON_CACHED=name),
    ):
        rasterio.open(name).close()


class _Enough(Exception):
    """The first bytes have come."""


class _Head(io.BytesIO):
    """A file that ends a download after its first bytes."""

    def write(self, data) -> int:
        written = super().write(data)
        if self.tell() >= _HEAD:
            raise _Enough
        return written


@contextmanager
def connection_slot(spec: CatalogSpec) -> Iterator[None]:
    """Hold one of the catalogue's `max_connections`: of this process, or of the whole cluster inside a Dask worker."""
    with _slots_lock:
        slots = _slots.setdefault(
            (spec.name, spec.max_connections), threading.BoundedSemaphore(spec.max_connections)
        )
    with slots:
        shared = _cluster_slots(spec)
        if shared is None:
            yield
        else:
            with shared:
                yield


def _cluster_slots(spec):
    """Dask's semaphore when this code runs in one of its tasks; `distributed` is never imported for that alone."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        distributed.get_worker()
    except ValueError:  # not inside a task
        return None
    return distributed.Semaphore(max_leases=spec.max_connections, name=f"satfuse-{spec.name}")


def _checked_href(spec, item, sensor, key):
    service_key = spec.assets.get(sensor, {}).get(key)
    if service_key is None:
        raise ReadError(f"{item.id}: catalogue {spec.name} offers no {sensor} asset {key!r}")
    if service_key not in item.assets:
        raise ReadError(
            f"{item.id}: the item has no asset {service_key!r} ({key}); it has: {', '.join(item.assets) or 'none'}"
        )
    href = check_href(spec, item.assets[service_key].href)
    if spec.auth == "sas":
        account, _, name = _container(spec, sensor).partition("/")
        parts = urlsplit(href)
        if parts.netloc.split(".")[0] != account or not parts.path.startswith(f"/{name}/"):
            raise AccessError(
                f"{item.id}: {href} lies outside {account}/{name}, which catalogue {spec.name} allows"
            )
    return href


def _container(spec, sensor):
    if sensor not in spec.containers:
        raise AccessError(
            f"catalogue {spec.name} names no container for {sensor}; it has {', '.join(spec.containers)}"
        )
    return spec.containers[sensor]


def _gdal_s3(spec):
    endpoint = urlsplit(spec.endpoint or "https://s3.amazonaws.com")
    env = {
        "AWS_DEFAULT_REGION": "default",
        "AWS_S3_ENDPOINT": endpoint.netloc,
        "AWS_HTTPS": "NO" if endpoint.scheme == "http" else "YES",
        "AWS_VIRTUAL_HOSTING": "FALSE",
    }
    if spec.auth != "s3-keys":
        return env | {"AWS_NO_SIGN_REQUEST": "YES"}
    s3_keys(spec)  # raises where GDAL would find none
    return env | {"AWS_NO_SIGN_REQUEST": "NO", "CPL_AWS_CREDENTIALS_FILE": str(profile_file())}


def _cache_path(spec, href):
    root = Path(os.environ.get("SATFUSE_CACHE", "~/.cache/satfuse")).expanduser()
    name = re.sub(r"[^A-Za-z0-9._-]", "_", href.rpartition("/")[2])[-80:]
    return root / spec.name / f"{hashlib.sha256(href.encode()).hexdigest()[:16]}_{name}"


def _fill_cache(spec, href, target, *, what, container, size):
    """Download beside the target, check, then rename: a file in the cache is always whole."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=target.parent, prefix=".part-", delete=False) as part:
            path = Path(part.name)
            try:
                with connection_slot(spec):
                    got = download(spec, href, part, what=what, container=container)
                part.flush()
                _check_content(path, what, suffix=target.suffix)
                if size is not None and int(size) != got:
                    raise ReadError(f"{what} is truncated: {got} bytes of {size} from {href}")
                path.replace(target)
            finally:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(
            f"cache {target.parent} cannot be written ({error}); set SATFUSE_CACHE to another folder"
        ) from error
    log.info("fetched %s, %d bytes", what, got)


def _check_content(path, what, suffix=None):
    with path.open("rb") as file:
        _check_head(file.read(_HEAD), what, path, suffix)


def _check_head(head, what, path, suffix=None):
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise AccessError(
            f"{what}: a login page came instead of the file; check account, password and accepted terms"
        )
    magic = _MAGIC.get((suffix or path.suffix).lower().replace(".safe", ".xml"))
    if magic and not head.startswith(magic) and not (b"<" in magic and start.startswith(b"<")):
        raise ReadError(
            f"{what} is damaged: {path.name} starts with {head[:8]!r}, not as a {path.suffix} file does"
        )
