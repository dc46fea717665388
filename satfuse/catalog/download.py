"""Moving the bytes of one remote file: S3 and Azure through obstore, plain https with guarded redirects."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import obstore
import requests
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, S3Store

from satfuse.catalog.credentials import forget_token, s3_keys, sas_token, user_and_password
from satfuse.catalog.policy import check_redirect
from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import AccessError, ReadError

TRIES = 3
BACKOFF_S = 1.0
_MAX_REDIRECTS = 6
_RETRY_STATUS = (429, 500, 502, 503, 504)


class _Interrupted(Exception):
    """A transfer that may succeed when tried again; its text is free of secrets."""


def download(
    spec: CatalogSpec, href: str, file: BinaryIO, *, what: str, container: str = ""
) -> int:
    """Copy a checked href into an open file, again from the start when the connection breaks.

    Parameters
    ----------
    spec : the catalogue; its credentials are looked up here.
    href : passed by `policy.check_href`.
    file : opened for writing.
    what : item and asset, for messages.
    container : "account/container" for a catalogue with SAS tokens.

    Returns
    -------
    The number of bytes.

    Raises
    ------
    ReadError
        There is no such file, or it does not arrive whole.
    AccessError
        Credentials are missing, wrong or expired, or a redirect leads out of the catalogue.
    """

    def copy():
        file.seek(0)
        file.truncate()
        if urlsplit(href).scheme == "s3" or spec.auth == "sas":
            return _from_object_store(spec, href, file, what, container)
        with _answer(spec, href, what) as response:
            return sum(file.write(chunk) for chunk in response.iter_content(1 << 20))

    return _tried(copy, href, what)


def final_address(spec: CatalogSpec, href: str, *, what: str) -> str:
    """Where the redirects of a checked https href end, asked with one byte; the catalogue allows every step.

    Parameters, errors: as `download`.
    """

    def ask():
        with _answer(spec, href, what, {"Range": "bytes=0-0"}) as response:
            return response.url

    return _tried(ask, href, what)


def _tried(call: Callable, href: str, what: str):
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except _Interrupted as error:
            cause = str(error)
        if attempt < TRIES:
            time.sleep(BACKOFF_S * attempt)
    raise ReadError(f"{what} could not be read from {href} in {TRIES} tries: {cause}")


def _from_object_store(spec, href, file, what, container):
    cause = None
    try:
        store, path = _store(spec, href, container)
        result = obstore.get(store, path)
        got = sum(file.write(chunk) for chunk in result.stream())
        if got != result.meta["size"]:
            cause = f"{got} of {result.meta['size']} bytes came"
    except (NotFoundError, FileNotFoundError):
        cause = "missing"
    except (PermissionDeniedError, UnauthenticatedError, PermissionError):
        cause = "denied"
    except BaseError as error:
        cause = type(error).__name__  # its text may hold a signed URL
    if cause == "missing":
        raise ReadError(f"{what} is missing: there is nothing at {href}")
    if cause == "denied":
        forget_token(container)
        raise _denied(spec, what, "refused")
    if cause:
        raise _Interrupted(cause)
    return got


def _store(spec, href, container):
    parts = urlsplit(href)
    options = {
        "client_options": {
            "timeout": timedelta(seconds=spec.timeout_s),
            "allow_http": spec.endpoint.startswith("http:"),
        },
        "retry_config": {"max_retries": 2, "retry_timeout": timedelta(seconds=spec.timeout_s)},
    }
    place = {"endpoint": spec.endpoint} if spec.endpoint else {}
    if spec.auth == "sas":
        account, name = container.split("/")
        config = {"account_name": account, "sas_token": sas_token(spec, container), **place}
        return AzureStore(name, config=config, **options), parts.path.removeprefix(f"/{name}/")
    keys = s3_keys(spec) if spec.auth == "s3-keys" else {"skip_signature": True}
    config = {"region": "default", "virtual_hosted_style_request": False, **place, **keys}
    return S3Store(parts.netloc, config=config, **options), parts.path.lstrip("/")


@contextmanager
def _answer(spec, href, what, headers=None) -> Iterator[requests.Response]:
    """GET with the password sent to the catalogue's own hosts only; login cookies live as long as this call."""
    cause = None
    with requests.Session() as session:
        # with an auth of its own, even one that adds nothing, requests does not look into .netrc
        session.auth = user_and_password(spec) if spec.auth == "basic" else lambda request: request
        session.headers.update({"Accept-Encoding": "identity", **(headers or {})})
        try:
            with _last_response(session, spec, href, what) as response:
                _check_status(spec, response.status_code, href, what, partial=bool(headers))
                yield response
        except requests.RequestException as error:
            cause = type(error).__name__  # its text may hold a signed URL
    if cause:
        raise _Interrupted(cause)


def _last_response(session, spec, href, what):
    url = href
    for _ in range(_MAX_REDIRECTS):
        response = session.get(url, stream=True, allow_redirects=False, timeout=spec.timeout_s)
        if not response.is_redirect:
            return response
        response.close()
        url = check_redirect(spec, urljoin(url, response.headers["Location"]))
    raise AccessError(
        f"{what}: more than {_MAX_REDIRECTS} redirects from {href}; the login does not end"
    )


def _check_status(spec, status, href, what, partial):
    if status in (401, 403):
        raise _denied(spec, what, f"HTTP {status}")
    if status in (404, 410):
        raise ReadError(f"{what} is missing: HTTP {status} at {href}")
    if status in _RETRY_STATUS:
        raise _Interrupted(f"HTTP {status}")
    if status != 200 and not (status == 206 and partial):
        raise ReadError(f"{what} cannot be read: HTTP {status} at {href}")


def _denied(spec, what, answer):
    names = {
        "s3-keys": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the AWS profile)",
        "basic": f"{spec.user_env} and {spec.secret_env}",
        "sas": "the clock of this machine (tokens are short-lived)",
        "none": "whether the service still gives open access",
    }
    return AccessError(
        f"{what}: catalogue {spec.name} denied access ({answer}): credentials are wrong or expired; "
        f"check {names[spec.auth]}"
    )
