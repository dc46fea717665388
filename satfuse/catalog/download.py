"""Transfer of one remote file: S3 and Azure by obstore, plain https with checked redirects."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast
from urllib.parse import urljoin, urlsplit

import obstore
import requests
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, S3Store

from satfuse.catalog.credentials import forget_token, s3_keys, sas_token, user_and_password
from satfuse.catalog.policy import check_redirect
from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import AccessError, ReadError

if TYPE_CHECKING:  # obstore defines these for type checkers only
    from obstore.store import AzureConfig, ClientConfig, RetryConfig, S3Config

TRIES = 3
BACKOFF_S = 1.0  # wait after the first failed try; after the second twice as long
_MAX_REDIRECTS = 6
_RETRY_STATUS = (429, 500, 502, 503, 504)  # rate limit and failures of the server or a gateway
_CHUNK_BYTES = 1 << 20

T = TypeVar("T")


class _TransferError(Exception):
    """A transfer that may succeed when tried again; its text is free of secrets."""


def download(
    spec: CatalogSpec, href: str, file: BinaryIO, *, label: str, container: str = ""
) -> int:
    """Copy a checked href into an open file; a broken transfer starts again from the beginning.

    Parameters
    ----------
    spec : the catalogue; its credentials are looked up here.
    href : an href that passed `policy.check_href`.
    file : opened for writing.
    label : item and asset, for messages.
    container : "account/container" of a catalogue with SAS tokens.

    Returns
    -------
    The number of bytes.

    Raises
    ------
    ReadError
        The file does not exist, or does not arrive whole.
    AccessError
        Credentials are missing, wrong or expired, or a redirect leads out of the catalogue.
    """

    def copy() -> int:
        file.seek(0)
        file.truncate()  # bytes of a previous try
        if urlsplit(href).scheme == "s3" or spec.auth == "sas":
            return _copy_from_object_store(spec, href, file, label, container)
        with _http_response(spec, href, label) as response:
            return sum(file.write(chunk) for chunk in response.iter_content(_CHUNK_BYTES))

    return _with_retries(copy, href, label)


def final_address(spec: CatalogSpec, href: str, *, label: str) -> str:
    """Follow the redirects of a checked https href, each checked too, by requesting one byte.

    Parameters and errors are those of `download`.

    Returns
    -------
    The address at which the redirects end.
    """

    def request_one_byte() -> str:
        with _http_response(spec, href, label, {"Range": "bytes=0-0"}) as response:
            return response.url

    return _with_retries(request_one_byte, href, label)


def _with_retries(call: Callable[[], T], href: str, label: str) -> T:
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except _TransferError as error:
            cause = str(error)
        if attempt < TRIES:
            time.sleep(BACKOFF_S * attempt)
    raise ReadError(f"{label} could not be read from {href} in {TRIES} tries: {cause}")


def _copy_from_object_store(
    spec: CatalogSpec, href: str, file: BinaryIO, label: str, container: str
) -> int:
    # Errors are raised after the `except` clauses: chained, they would carry obstore's text, which
    # may hold a signed URL.
    cause = ""
    size = 0
    try:
        store, path = _object_store(spec, href, container)
        result = obstore.get(store, path)
        size = sum(file.write(chunk) for chunk in result.stream())
        if size != result.meta["size"]:
            cause = f"{size} of {result.meta['size']} bytes came"
    except (NotFoundError, FileNotFoundError):
        cause = "missing"
    except (PermissionDeniedError, UnauthenticatedError, PermissionError):
        cause = "denied"
    except BaseError as error:
        cause = type(error).__name__
    if cause == "missing":
        raise ReadError(f"{label} is missing: there is nothing at {href}")
    if cause == "denied":
        forget_token(container)
        raise _denied(spec, label, "refused")
    if cause:
        raise _TransferError(cause)
    return size


def _object_store(spec: CatalogSpec, href: str, container: str) -> tuple[AzureStore | S3Store, str]:
    """Return the store of an href and the path in it."""
    parts = urlsplit(href)
    limit = timedelta(seconds=spec.timeout_s)
    client: ClientConfig = {"timeout": limit, "allow_http": spec.endpoint.startswith("http:")}
    retries: RetryConfig = {"max_retries": 2, "retry_timeout": limit}
    if spec.auth == "sas":
        account, name = container.split("/")
        azure: AzureConfig = {"account_name": account, "sas_key": sas_token(spec, container)}
        if spec.endpoint:
            azure["endpoint"] = spec.endpoint
        path = parts.path.removeprefix(f"/{name}/")
        return AzureStore(name, config=azure, client_options=client, retry_config=retries), path
    s3: S3Config = {"region": "default", "virtual_hosted_style_request": False}
    if spec.endpoint:
        s3["endpoint"] = spec.endpoint
    s3 |= cast("S3Config", s3_keys(spec) if spec.auth == "s3-keys" else {"skip_signature": True})
    store = S3Store(parts.netloc, config=s3, client_options=client, retry_config=retries)
    return store, parts.path.lstrip("/")


@contextmanager
def _http_response(
    spec: CatalogSpec, href: str, label: str, headers: dict[str, str] | None = None
) -> Iterator[requests.Response]:
    """Send GET; the password goes to the catalogue's own hosts only, cookies end with this call."""
    cause = ""
    with requests.Session() as session:
        # without an `auth` requests would look for a password in .netrc
        session.auth = user_and_password(spec) if spec.auth == "basic" else lambda request: request
        # no compression: the bytes that arrive are those of the file
        session.headers.update({"Accept-Encoding": "identity", **(headers or {})})
        try:
            with _last_response(session, spec, href, label) as response:
                _check_status(spec, response.status_code, href, label, partial=bool(headers))
                yield response
        except requests.RequestException as error:
            cause = type(error).__name__  # its text may hold a signed URL
    if cause:
        raise _TransferError(cause)


def _last_response(
    session: requests.Session, spec: CatalogSpec, href: str, label: str
) -> requests.Response:
    url = href
    for _ in range(_MAX_REDIRECTS):
        response = session.get(url, stream=True, allow_redirects=False, timeout=spec.timeout_s)
        if not response.is_redirect:
            return response
        response.close()
        url = check_redirect(spec, urljoin(url, response.headers["Location"]))
    raise AccessError(
        f"{label}: more than {_MAX_REDIRECTS} redirects from {href}, the login does not end; "
        "check account and accepted terms"
    )


def _check_status(spec: CatalogSpec, status: int, href: str, label: str, *, partial: bool) -> None:
    if status in (401, 403):
        raise _denied(spec, label, f"HTTP {status}")
    if status in (404, 410):
        raise ReadError(f"{label} is missing: HTTP {status} at {href}")
    if status in _RETRY_STATUS:
        raise _TransferError(f"HTTP {status}")
    if status != 200 and not (status == 206 and partial):
        raise ReadError(f"{label} cannot be read: HTTP {status} at {href}")


def _denied(spec: CatalogSpec, label: str, response: str) -> AccessError:
    advice = {
        "s3-keys": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the AWS profile)",
        "basic": f"{spec.user_env} and {spec.secret_env}",
        "sas": "the clock of this machine (tokens are short-lived)",
        "none": "whether the service still gives open access",
    }
    return AccessError(
        f"{label}: catalogue {spec.name} denied access ({response}): "
        f"credentials are wrong or expired; check {advice[spec.auth]}"
    )
