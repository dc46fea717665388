"""Catalogues: one TOML file per STAC service, read strictly into a frozen `CatalogSpec`."""

import os
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from satfuse.catalog.fields import catalogs_dir
from satfuse.errors import ConfigError
from satfuse.sensors.bands import S2_NAMES, S3_NAMES
from satfuse.strict import from_dict

# Canonical asset keys per sensor, the same for every service.
ASSET_KEYS = {
    "sentinel2": (*S2_NAMES, "SCL", "product_metadata", "granule_metadata"),
    "sentinel3_syn": (*S3_NAMES, "geolocation", "flags", "time", "tiepoints_olci", "manifest"),
    "enmap": (
        "image",
        "metadata",
        "quality_classes",
        "quality_cloud",
        "quality_cloud_shadow",
        "quality_haze",
        "quality_cirrus",
        "quality_snow",
        "quality_testflags",
        "pixel_mask",
    ),
}
SENSORS = tuple(ASSET_KEYS)

Filter = Literal["query", "cql2-json", "cql2-text", "none"]
Auth = Literal["none", "s3-keys", "sas", "basic"]
Scheme = Literal["https", "http", "s3", "file"]
Clock = Literal["datatake_start", "sensing", "frame_start", "frame_middle"]
Radiometry = Literal["product_metadata", "baseline", "boa_offset=-1000", "boa_offset=0"]

_NEEDED_BY_AUTH = {"basic": ("user_env", "secret_env"), "sas": ("token_url", "containers")}


@dataclass(frozen=True, kw_only=True)
class CatalogSpec:
    """One STAC service: plain data that can be pickled and stored with an item; never a secret.

    Attributes
    ----------
    name, title, url : short name, one line of description, root of the STAC API.
    filter : how the service filters on the server: "query", "cql2-json", "cql2-text" or "none".
    method, page_limit : HTTP method of a search, and number of items requested per page.
    requests_per_s, timeout_s, max_connections : limits of one process: searches per second, seconds
        to wait for a response, simultaneous file transfers.
    auth : how files are read. "none"; "s3-keys": AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or an
        AWS profile; "basic": user and password from the environment variables named by `user_env`
        and `secret_env`; "sas": a short-lived token from `token_url` ("{account}" and "{container}"
        are filled from `containers`: sensor -> "account/container").
    schemes, hosts : allowed schemes and hosts of an item's hrefs; for `s3://` a host is a bucket.
    login_hosts : hosts, besides `hosts`, that a download may be redirected through.
    endpoint : URL of the object store, where it is not the provider's own.
    root : folder that contains the files of a `file` catalogue.
    collections : sensor -> collection ids in order of preference.
    assets : sensor -> canonical asset key -> the service's key.
    datetime : sensor -> meaning of an item's `datetime`: "datatake_start", "sensing",
        "frame_start", "frame_middle".
    radiometry : sensor -> source of scale and offset: "product_metadata" (the default), "baseline"
        (checked against the data), or "boa_offset=-1000" and "boa_offset=0", which override the
        item's metadata.
    """

    name: str
    title: str
    url: str
    filter: Filter
    schemes: tuple[Scheme, ...]
    collections: dict[str, tuple[str, ...]]
    assets: dict[str, dict[str, str]]
    datetime: dict[str, Clock]
    radiometry: dict[str, Radiometry] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    login_hosts: tuple[str, ...] = ()
    endpoint: str = ""
    root: str = ""
    auth: Auth = "none"
    user_env: str = ""
    secret_env: str = ""
    token_url: str = ""
    containers: dict[str, str] = field(default_factory=dict)
    method: Literal["POST", "GET"] = "POST"
    page_limit: int = 100
    requests_per_s: float = 4.0
    timeout_s: float = 60.0
    max_connections: int = 8

    def to_dict(self) -> dict[str, Any]:
        """Plain dict, ready for JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, source: str = "a stored catalogue"
    ) -> "CatalogSpec":
        """Check plain data and build the spec.

        Parameters
        ----------
        data : values by the attributes of this class.
        source : where the data came from, for messages.

        Raises
        ------
        ConfigError
            A key that is unknown or missing, or a value that is not allowed; the message names key
            and source.
        """
        spec = from_dict(cls, data, source)
        try:
            _check_sensors(spec)
            _check_urls(spec)
            _check_limits(spec)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error
        return spec

    def collections_of(self, sensor: str) -> tuple[str, ...]:
        """Collection ids of a sensor; ConfigError where the service does not have it."""
        if sensor not in self.collections:
            raise ConfigError(
                f"catalogue {self.name} has no {sensor}; it has: {', '.join(self.collections)}"
            )
        return self.collections[sensor]


def load_catalog(name: str | Path) -> CatalogSpec:
    """Read a catalogue by name (`cdse`) or by the path of a TOML file.

    A name is looked up in the folder $SATFUSE_CATALOGS first, then among the shipped files. A
    relative `root` starts at the working directory.

    Raises
    ------
    ConfigError
        No such catalogue (the message lists the known ones), or a malformed file.
    """
    path = Path(name) if str(name).endswith(".toml") else _catalog_files().get(str(name))
    if path is None or not path.is_file():
        raise ConfigError(
            f"unknown catalogue {str(name)!r}; known: {', '.join(catalog_names())}, or the path of "
            "a .toml file (a folder of your own: $SATFUSE_CATALOGS)"
        )
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    spec = CatalogSpec.from_dict(data, source=str(path))
    return replace(spec, root=str(Path(spec.root).resolve())) if spec.root else spec


def local_catalog(url: str, root: str | Path) -> CatalogSpec:
    """Catalogue of a STAC server on this machine whose assets are files under `root`.

    Parameters
    ----------
    url : root of the STAC API, for example "http://127.0.0.1:7822".
    root : folder of the files; hrefs to any other place are refused.
    """
    template = load_catalog(catalogs_dir() / "local.toml")
    return replace(template, url=url, root=str(Path(root).resolve()))


def catalog_names() -> list[str]:
    """Names that `load_catalog` knows."""
    return sorted(_catalog_files())


def _catalog_files() -> dict[str, Path]:
    folders = [catalogs_dir()]
    if user_folder := os.environ.get("SATFUSE_CATALOGS"):
        folders.append(Path(user_folder))  # last, so that its files replace shipped ones
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def _check_sensors(spec: CatalogSpec) -> None:
    for key in ("collections", "assets", "datetime", "radiometry", "containers"):
        _refuse_unknown(f"sensor in {key}", getattr(spec, key), SENSORS)
    for sensor, keys in spec.assets.items():
        _refuse_unknown(f"{sensor} asset", keys, ASSET_KEYS[sensor])
    for sensor in spec.collections:
        if sensor not in spec.assets or sensor not in spec.datetime:
            raise ConfigError(
                f"collections of {sensor} need [assets.{sensor}] and datetime.{sensor}"
            )


def _refuse_unknown(what: str, names: Iterable[str], known: Collection[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        names_found = ", ".join(map(repr, unknown))
        raise ConfigError(f"unknown {what} {names_found}; known: {', '.join(known)}")


def _check_urls(spec: CatalogSpec) -> None:
    if not spec.url.startswith(("http://", "https://")):
        raise ConfigError(f"url {spec.url!r} must start with http:// or https://")
    for key in ("url", "endpoint", "token_url"):
        # a spec is stored with every pair and product, so credentials must not get into it
        if "@" in getattr(spec, key) or "?" in getattr(spec, key):
            raise ConfigError(
                f"{key} may hold no user name and no query: it is stored with every pair"
            )


def _check_limits(spec: CatalogSpec) -> None:
    for key in ("page_limit", "requests_per_s", "timeout_s", "max_connections"):
        if not getattr(spec, key) > 0:
            raise ConfigError(f"{key} = {getattr(spec, key)} must be above 0")
    for container in spec.containers.values():
        if container.count("/") != 1:
            raise ConfigError(f"container {container!r} must be account/container")
    missing = [k for k in _NEEDED_BY_AUTH.get(spec.auth, ()) if not getattr(spec, k)]
    if missing:
        raise ConfigError(f'auth = "{spec.auth}" needs {", ".join(missing)}')
