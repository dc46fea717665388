"""Credentials for reading: taken from the environment when used, kept out of specs, items and messages."""

import configparser
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import requests

from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import AccessError

_TOKEN_MARGIN = timedelta(minutes=5)
_tokens: dict[str, tuple[str, datetime]] = {}
_token_lock = threading.Lock()


def s3_keys(spec: CatalogSpec) -> dict[str, str]:
    """Access keys for obstore's S3Store: `access_key_id`, `secret_access_key` and, where there is one, `session_token`.

    From AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else from the profile $AWS_PROFILE of $AWS_SHARED_CREDENTIALS_FILE
    (`~/.aws/credentials`). AccessError where there are none.
    """
    names = ("access_key_id", "secret_access_key", "session_token")
    found = {n: os.environ[f"AWS_{n.upper()}"] for n in names if os.environ.get(f"AWS_{n.upper()}")}
    if not {"access_key_id", "secret_access_key"} <= set(found):
        profile = os.environ.get("AWS_PROFILE", "default")
        parser = configparser.RawConfigParser()
        parser.read(profile_file())
        section = dict(parser[profile]) if profile in parser else {}
        found = {n: section[f"aws_{n}"] for n in names if section.get(f"aws_{n}")}
    if not {"access_key_id", "secret_access_key"} <= set(found):
        raise AccessError(
            f"catalogue {spec.name} needs S3 keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            f"or AWS_PROFILE to a profile of {profile_file()}"
        )
    return found


def profile_file() -> Path:
    """The file of AWS profiles."""
    return Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()


def user_and_password(spec: CatalogSpec) -> tuple[str, str]:
    """User and password from the variables that the catalogue names; AccessError where one is missing."""
    values = os.environ.get(spec.user_env, ""), os.environ.get(spec.secret_env, "")
    if not all(values):
        raise AccessError(
            f"catalogue {spec.name} needs an account: set {spec.user_env} and {spec.secret_env} in the environment"
        )
    return values


def sas_token(spec: CatalogSpec, container: str) -> str:
    """A short-lived read token for "account/container", kept in memory until five minutes before it expires."""
    with _token_lock:
        token, expiry = _tokens.get(container, ("", datetime.min.replace(tzinfo=UTC)))
        if datetime.now(UTC) + _TOKEN_MARGIN > expiry:
            token, expiry = _tokens[container] = _request_token(spec, container)
        return token


def forget_token(container: str) -> None:
    """Drop a token that the service refused, so that the next read asks for a fresh one."""
    with _token_lock:
        _tokens.pop(container, None)


def _request_token(spec, container):
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
            f"catalogue {spec.name}: no read token from {url} ({status or type(error).__name__}); try again later"
        ) from None
