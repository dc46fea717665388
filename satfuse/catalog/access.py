"""Access to an item's files: a checked name for GDAL, GDAL's options, or a local copy."""

import hashlib
import io
import logging
import os
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

import pystac
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from satfuse.catalog.credentials import profile_file, s3_keys, sas_token, user_and_password
from satfuse.catalog.download import download, final_address
from satfuse.catalog.policy import check_href
from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import AccessError, ReadError, StoreError
from satfuse.files import replacing

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

log = logging.getLogger(__name__)

_MAGIC = {  # the first bytes of a file, by its suffix
    ".nc": (b"\x89HDF\r\n\x1a\n", b"CDF\x01", b"CDF\x02", b"CDF\x05"),  # HDF5, classic NetCDF
    ".tif": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),  # TIFF, BigTIFF; both byte orders
    ".jp2": (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"),  # boxed file, bare code stream
    ".xml": (b"<?xml", b"<"),
}
_HEAD_BYTES = 512  # enough to recognise a format or a login page
_slots: dict[tuple[str, int], threading.BoundedSemaphore] = {}
_slots_lock = threading.Lock()
_file_locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
# (catalogue, name for GDAL) -> that name with redirects followed
_redirect_targets: dict[tuple[str, str], str] = {}
# rasterio sets the options of the main thread for all threads; each catalogue therefore resets
# those that another one may have set. ANY: GDAL sends nothing unless a server asks.
_NO_PASSWORD = {"GDAL_HTTP_AUTH": "ANY", "GDAL_HTTP_USERPWD": ""}


def gdal_href(spec: CatalogSpec, item: pystac.Item, sensor: str, key: str) -> str:
    """Name of an asset for `rasterio.open` inside `rasterio.Env(**gdal_env(spec, sensor))`.

    Parameters
    ----------
    spec : the catalogue that the item came from.
    item, sensor, key : the asset, by its canonical key (`specs.ASSET_KEYS`).

    Returns
    -------
    A local path, or `/vsicurl/…`, `/vsis3/…`, `/vsiaz/…`, free of credentials.

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
    """As `gdal_href`, with https redirects already followed, since GDAL follows them to any host.

    Every redirect is checked against the catalogue, once per process. An asset that is redirected
    to a signed address keeps its own name, so that no message shows the signature.

    Raises
    ------
    ReadError, AccessError
        As `fetch`; a redirect may lead only to hosts that the catalogue names.
    """
    name = gdal_href(spec, item, sensor, key)
    if not name.startswith("/vsicurl/"):
        return name
    if (spec.name, name) not in _redirect_targets:
        href = name.removeprefix("/vsicurl/")
        address = final_address(spec, href, label=_label(item, key))
        signed = bool(urlsplit(address).query)
        _redirect_targets[spec.name, name] = name if signed else f"/vsicurl/{address}"
    return _redirect_targets[spec.name, name]


def gdal_env(spec: CatalogSpec, sensor: str = "sentinel2") -> dict[str, str]:
    """Options for `rasterio.Env`, with the credentials that GDAL cannot find by itself.

    Call it in the process that reads, and neither store nor log the result. S3 keys are not part of
    it: GDAL takes them from the environment or the AWS profile. Open only hrefs of this catalogue
    with it, since a password would be sent along.

    GDAL follows a redirect to any host, and has no option against that: open `gdal_name`, which
    follows it first.

    Raises
    ------
    AccessError
        Credentials are missing; the message names the environment variables.
    """
    env = {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no listing of the folder around each file
        "GDAL_HTTP_MAX_RETRY": "5",
        "GDAL_HTTP_RETRY_DELAY": "1",  # seconds
        "GDAL_HTTP_TIMEOUT": f"{spec.timeout_s:.0f}",
        "GDAL_HTTP_CONNECTTIMEOUT": "10",  # seconds
        "GDAL_HTTP_TCP_KEEPALIVE": "YES",
        **_NO_PASSWORD,
    }
    if "s3" in spec.schemes:
        env |= _gdal_s3(spec)
    if spec.auth == "basic":
        env |= {"GDAL_HTTP_AUTH": "BASIC", "GDAL_HTTP_USERPWD": ":".join(user_and_password(spec))}
    if spec.auth == "sas":
        env |= _gdal_azure(spec, sensor)
    return env


def fetch(spec: CatalogSpec, item: pystac.Item, sensor: str, key: str) -> Path:
    """Local copy of an asset, for formats that are read whole (NetCDF, XML).

    Files of a local archive are returned in place. Others are downloaded once into $SATFUSE_CACHE
    (`~/.cache/satfuse`), appear there only when complete, and are reused by later calls.

    Raises
    ------
    ReadError
        The asset is missing, truncated or not of the format that its name states.
    AccessError
        Its href is not allowed, credentials are missing or refused, or a login page came instead.
    StoreError
        The cache cannot be written.
    """
    href = _checked_href(spec, item, sensor, key)
    label = _label(item, key)
    if not urlsplit(href).scheme:
        path = Path(href)
        if not path.is_file():
            raise ReadError(f"{label} is missing: there is no file {href}")
        _check_content(path, label, name=path.name)
        return path
    target = _cache_path(spec, href)
    with _file_locks[target]:
        if not target.is_file():
            size = item.assets[spec.assets[sensor][key]].extra_fields.get("file:size")
            container = _sas_container(spec, sensor)
            _fill_cache(spec, href, target, label=label, container=container, size=size)
    return target


def check_remote(spec: CatalogSpec, item: pystac.Item, sensor: str, key: str) -> None:
    """Find out why GDAL could not read an asset by requesting its first bytes.

    GDAL reports a refusal and a damaged file alike. It is also made to forget the asset, so that
    the next try reads it with renewed keys or a new token.

    Raises
    ------
    AccessError
        Credentials are missing or refused, or a login page came instead of the file.
    ReadError
        The asset is missing, cannot be reached, or is not of the format that its name states.
        Nothing is raised for local files.
    """
    href = _checked_href(spec, item, sensor, key)
    if not urlsplit(href).scheme:
        return
    name = gdal_href(spec, item, sensor, key)
    # a /vsicurl/ name that was never followed was never opened, so GDAL has nothing to forget
    unfollowed = "" if name.startswith("/vsicurl/") else name
    if opened := _redirect_targets.pop((spec.name, name), unfollowed):
        _make_gdal_forget(opened, gdal_env(spec, sensor))
    label = _label(item, key)
    head = _Head()
    try:
        download(spec, href, head, label=label, container=_sas_container(spec, sensor))
    except _HeadCompleteError:
        log.debug("%s can be reached", label)
    _check_head(head.getvalue()[:_HEAD_BYTES], label, Path(urlsplit(href).path).name)


def _label(item: pystac.Item, key: str) -> str:
    """Item and asset, for messages."""
    return f"{item.id}: asset {key}"


def _make_gdal_forget(name: str, env: dict[str, str]) -> None:
    """Drop a refusal that GDAL would keep for the life of the process, by an open without cache."""
    with (
        suppress(RasterioError, CPLE_BaseError),
        rasterio.Env(**env, CPL_VSIL_CURL_NON_CACHED=name),
    ):
        rasterio.open(name).close()


class _HeadCompleteError(Exception):
    """Ends a download of which only the first bytes are needed."""


class _Head(io.BytesIO):
    """A file that ends a download after its first bytes."""

    def write(self, data: "ReadableBuffer") -> int:
        written = super().write(data)
        if self.tell() >= _HEAD_BYTES:
            raise _HeadCompleteError
        return written


@contextmanager
def connection_slot(spec: CatalogSpec) -> Iterator[None]:
    """Hold one of the catalogue's `max_connections`, shared by all threads of this process.

    Inside a Dask worker the whole cluster shares them.
    """
    with _slots_lock:
        slots = _slots.setdefault(
            (spec.name, spec.max_connections), threading.BoundedSemaphore(spec.max_connections)
        )
    with slots, _cluster_slots(spec):
        yield


def _cluster_slots(spec: CatalogSpec) -> AbstractContextManager[Any]:
    """Dask's semaphore inside one of its tasks, else a context that does nothing."""
    distributed = sys.modules.get("distributed")  # not imported here: nobody else may need it
    if distributed is None:
        return nullcontext()
    try:
        distributed.get_worker()
    except ValueError:  # not inside a task
        return nullcontext()
    return distributed.Semaphore(max_leases=spec.max_connections, name=f"satfuse-{spec.name}")


def _checked_href(spec: CatalogSpec, item: pystac.Item, sensor: str, key: str) -> str:
    service_key = spec.assets.get(sensor, {}).get(key)
    if service_key is None:
        raise ReadError(f"{item.id}: catalogue {spec.name} offers no {sensor} asset {key!r}")
    if service_key not in item.assets:
        raise ReadError(
            f"{item.id}: the item has no asset {service_key!r} ({key}); "
            f"it has: {', '.join(item.assets) or 'none'}"
        )
    href = check_href(spec, item.assets[service_key].href)
    if spec.auth == "sas":
        _check_container(spec, item, sensor, urlsplit(href))
    return href


def _check_container(spec: CatalogSpec, item: pystac.Item, sensor: str, parts: SplitResult) -> None:
    """Refuse an href outside the container for which the catalogue's token is valid."""
    account, _, name = _container(spec, sensor).partition("/")
    if parts.netloc.split(".")[0] != account or not parts.path.startswith(f"/{name}/"):
        raise AccessError(
            f"{item.id}: {parts.geturl()} lies outside {account}/{name}, "
            f"the container that catalogue {spec.name} allows"
        )


def _container(spec: CatalogSpec, sensor: str) -> str:
    if sensor not in spec.containers:
        raise AccessError(
            f"catalogue {spec.name} names no container for {sensor}; "
            f"it has {', '.join(spec.containers)}"
        )
    return spec.containers[sensor]


def _sas_container(spec: CatalogSpec, sensor: str) -> str:
    """ "account/container" of a catalogue with SAS tokens, "" of any other."""
    return _container(spec, sensor) if spec.auth == "sas" else ""


def _gdal_s3(spec: CatalogSpec) -> dict[str, str]:
    endpoint = urlsplit(spec.endpoint or "https://s3.amazonaws.com")
    env = {
        "AWS_DEFAULT_REGION": "default",
        "AWS_S3_ENDPOINT": endpoint.netloc,
        "AWS_HTTPS": "NO" if endpoint.scheme == "http" else "YES",
        "AWS_VIRTUAL_HOSTING": "FALSE",  # the bucket is part of the path, not of the host name
    }
    if spec.auth != "s3-keys":
        return env | {"AWS_NO_SIGN_REQUEST": "YES"}
    s3_keys(spec)  # raises where GDAL would find none
    return env | {"AWS_NO_SIGN_REQUEST": "NO", "CPL_AWS_CREDENTIALS_FILE": str(profile_file())}


def _gdal_azure(spec: CatalogSpec, sensor: str) -> dict[str, str]:
    container = _container(spec, sensor)
    env = {
        "AZURE_STORAGE_ACCOUNT": container.split("/")[0],
        "AZURE_STORAGE_SAS_TOKEN": sas_token(spec, container),
        "AZURE_NO_SIGN_REQUEST": "NO",
    }
    return env | ({"CPL_AZURE_ENDPOINT": spec.endpoint} if spec.endpoint else {})


def _cache_path(spec: CatalogSpec, href: str) -> Path:
    root = Path(os.environ.get("SATFUSE_CACHE", "~/.cache/satfuse")).expanduser()
    name = re.sub(r"[^A-Za-z0-9._-]", "_", href.rpartition("/")[2])[-80:]
    # the hash tells apart files of one name, such as the geolocation.nc of every product
    return root / spec.name / f"{hashlib.sha256(href.encode()).hexdigest()[:16]}_{name}"


def _fill_cache(
    spec: CatalogSpec,
    href: str,
    target: Path,
    *,
    label: str,
    container: str,
    size: int | str | None,
) -> None:
    """Download into a draft, check it, then rename it: a file in the cache is always complete."""
    try:
        with replacing(target) as draft:
            with connection_slot(spec), draft.open("wb") as file:
                received = download(spec, href, file, label=label, container=container)
            _check_content(draft, label, name=target.name)
            if size is not None and int(size) != received:
                raise ReadError(f"{label} is truncated: {received} bytes of {size} from {href}")
    except OSError as error:
        raise StoreError(
            f"cache {target.parent} cannot be written ({error}); "
            "set SATFUSE_CACHE to another folder"
        ) from error
    log.info("fetched %s, %d bytes", label, received)


def _check_content(path: Path, label: str, *, name: str) -> None:
    with path.open("rb") as file:
        _check_head(file.read(_HEAD_BYTES), label, name)


def _check_head(head: bytes, label: str, name: str) -> None:
    """Refuse a login page, and bytes that do not belong to the format that the file name states."""
    # XML may start with a byte order mark and blanks
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise AccessError(
            f"{label}: a login page came instead of the file; "
            "check account, password and accepted terms"
        )
    suffix = Path(name).suffix.lower()
    magic = _MAGIC.get(".xml" if suffix == ".safe" else suffix)  # manifest.safe is XML
    if magic and not head.startswith(magic) and not (b"<" in magic and start.startswith(b"<")):
        raise ReadError(
            f"{label} is damaged: {name} starts with {head[:8]!r}, not as a {suffix} file does"
        )
