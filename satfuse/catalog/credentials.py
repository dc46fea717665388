"""Credentials for reading: looked up when they are used, never kept in specs, items or messages."""

import configparser
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import requests

from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import AccessError

_TOKEN_MARGIN = timedelta(minutes=5)  # a token is renewed this long before it expires
_tokens: dict[str, tuple[str, datetime]] = {}  # "account/container" -> token and its expiry
_token_lock = threading.Lock()
_KEY_NAMES = ("access_key_id", "secret_access_key", "session_token")
_REQUIRED_KEYS = {"access_key_id", "secret_access_key"}  # temporary keys have a session token too


def s3_keys(spec: CatalogSpec) -> dict[str, str]:
    """Look up the S3 access keys of a catalogue.

    They come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else from the profile $AWS_PROFILE
    of $AWS_SHARED_CREDENTIALS_FILE (`~/.aws/credentials`).

    Returns
    -------
    Options of obstore's S3Store: `access_key_id`, `secret_access_key` and, for temporary keys,
    `session_token`.

    Raises
    ------
    AccessError
        There are no keys.
    """
    keys = {
        n: os.environ[f"AWS_{n.upper()}"] for n in _KEY_NAMES if os.environ.get(f"AWS_{n.upper()}")
    }
    if not set(keys) >= _REQUIRED_KEYS:
        keys = _profile_keys()
    if not set(keys) >= _REQUIRED_KEYS:
        raise AccessError(
            f"catalogue {spec.name} needs S3 keys: set AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile of {profile_file()}"
        )
    return keys


def _profile_keys() -> dict[str, str]:
    profile = os.environ.get("AWS_PROFILE", "default")
    parser = configparser.RawConfigParser()
    parser.read(profile_file())
    section = dict(parser[profile]) if profile in parser else {}
    return {n: section[f"aws_{n}"] for n in _KEY_NAMES if section.get(f"aws_{n}")}


def profile_file() -> Path:
    """Path of the file of AWS profiles."""
    return Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()


def user_and_password(spec: CatalogSpec) -> tuple[str, str]:
    """User and password from the environment variables that the catalogue names.

    Raises
    ------
    AccessError
        One of the two variables is not set.
    """
    user = os.environ.get(spec.user_env, "")
    password = os.environ.get(spec.secret_env, "")
    if not (user and password):
        raise AccessError(
            f"catalogue {spec.name} needs an account: "
            f"set {spec.user_env} and {spec.secret_env} in the environment"
        )
    return user, password


def sas_token(spec: CatalogSpec, container: str) -> str:
    """Return a short-lived read token, cached in memory until shortly before it expires.

    Parameters
    ----------
    spec : the catalogue whose `token_url` issues the token.
    container : "account/container" in Azure's blob storage.

    Raises
    ------
    AccessError
        The service gives no token.
    """
    with _token_lock:
        token, expiry = _tokens.get(container, ("", datetime.min.replace(tzinfo=UTC)))
        if datetime.now(UTC) + _TOKEN_MARGIN > expiry:
            token, expiry = _tokens[container] = _request_token(spec, container)
        return token


def forget_token(container: str) -> None:
    """Drop a token that the service refused, so that the next read requests a new one."""
    with _token_lock:
        _tokens.pop(container, None)


def _request_token(spec: CatalogSpec, container: str) -> tuple[str, datetime]:
    account, name = container.split("/")
    url = spec.token_url.format(account=account, container=name)
    try:
        response = requests.get(url, timeout=spec.timeout_s)
        response.raise_for_status()
        answer = response.json()
        return answer["token"], datetime.fromisoformat(answer["msft:expiry"])
    except (requests.RequestException, KeyError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise AccessError(
            f"catalogue {spec.name}: no read token from {url} ({status or type(error).__name__}); "
            "try again later"
        ) from None  # a chained error could carry the token
