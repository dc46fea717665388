"""Catalogues: one TOML file per STAC service, read strictly into a frozen `CatalogSpec`."""

import os
import tomllib
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import get_type_hints

from satfuse.catalog.fields import catalogs_dir
from satfuse.errors import ConfigError
from satfuse.sensors.bands import S2_NAMES, S3_NAMES

# Canonical asset keys per sensor, the same for every service.
ASSET_KEYS = {
    "sentinel2": (*S2_NAMES, "SCL", "product_metadata", "granule_metadata"),
    "sentinel3_syn": (*S3_NAMES, "geolocation", "flags", "time", "tiepoints_olci", "manifest"),
    "enmap": (
        "image", "metadata", "quality_classes", "quality_cloud", "quality_cloud_shadow", "quality_haze",
        "quality_cirrus", "quality_snow", "quality_testflags", "pixel_mask",
    ),
}  # fmt: skip
SENSORS = tuple(ASSET_KEYS)

_CHOICES = {
    "filter": ("query", "cql2-json", "cql2-text", "none"),
    "method": ("POST", "GET"),
    "auth": ("none", "s3-keys", "sas", "basic"),
    "schemes": ("https", "http", "s3", "file"),
    "datetime": ("datatake_start", "sensing", "frame_start", "frame_middle"),
    "radiometry": ("product_metadata", "baseline", "boa_offset=-1000", "boa_offset=0"),
}
_NEEDED_BY_AUTH = {"basic": ("user_env", "secret_env"), "sas": ("token_url", "containers")}


@dataclass(frozen=True, kw_only=True)
class CatalogSpec:
    """One STAC service; plain data that can be pickled and stored beside an item. It never holds a secret.

    Attributes
    ----------
    name, title, url : short name, one line for people, root of the STAC API.
    filter : how the service filters on the server: "query", "cql2-json", "cql2-text" or "none".
    method, page_limit : HTTP method of a search, and items asked for per page.
    requests_per_s, timeout_s, max_connections : limits of one process: searches per second, seconds to wait for an
        answer, simultaneous file transfers.
    auth : how files are read. "none"; "s3-keys": AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or an AWS profile;
        "basic": user and password from the environment variables named by `user_env` and `secret_env`; "sas": a
        short-lived token from `token_url` ("{account}" and "{container}" are filled from `containers`: sensor ->
        "account/container").
    schemes, hosts : where an item may point; for `s3://` a host is a bucket.
    login_hosts : hosts that a download may be redirected through besides `hosts`.
    endpoint : URL of the object store, where it is not the provider's own.
    root : folder below which the files of a `file` catalogue lie.
    collections : sensor -> collection ids in order of preference.
    assets : sensor -> canonical asset key -> the service's key.
    datetime : sensor -> what an item's `datetime` is: "datatake_start", "sensing", "frame_start", "frame_middle".
    radiometry : sensor -> where scale and offset come from: "product_metadata" (where nothing is said), "baseline"
        (checked against the data), or "boa_offset=-1000" and "boa_offset=0", which override what the items say.
    """

    name: str
    title: str
    url: str
    filter: str
    schemes: tuple[str, ...]
    collections: dict[str, tuple[str, ...]]
    assets: dict[str, dict[str, str]]
    datetime: dict[str, str]
    radiometry: dict[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    login_hosts: tuple[str, ...] = ()
    endpoint: str = ""
    root: str = ""
    auth: str = "none"
    user_env: str = ""
    secret_env: str = ""
    token_url: str = ""
    containers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    page_limit: int = 100
    requests_per_s: float = 4.0
    timeout_s: float = 60.0
    max_connections: int = 8

    def to_dict(self) -> dict:
        """Plain dict, fit for JSON; `from_dict` takes it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict, *, source: str = "a stored catalogue") -> "CatalogSpec":
        """Check plain data and build the spec.

        Parameters
        ----------
        data : keys as the attributes of this class.
        source : where the data came from, for messages.

        Raises
        ------
        ConfigError
            A key that is unknown or missing, or a value of the wrong kind; the message names both key and source.
        """
        known = {f.name: f for f in fields(cls)}
        _refuse(sorted(set(data) - set(known)), known, "unknown key", source)
        missing = [
            n
            for n, f in known.items()
            if n not in data and f.default is MISSING and f.default_factory is MISSING
        ]
        if missing:
            raise ConfigError(f"{source} lacks the key {', '.join(missing)}")
        hints = get_type_hints(cls)
        spec = cls(
            **{key: _typed(key, value, str(hints[key]), source) for key, value in data.items()}
        )
        _check_values(spec, source)
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

    A name is looked up in the folder $SATFUSE_CATALOGS first, then among the shipped files. A relative `root` is
    taken from the working directory.

    Raises
    ------
    ConfigError
        No such catalogue (the message lists the known ones), or a malformed file.
    """
    path = Path(name) if str(name).endswith(".toml") else _catalog_files().get(str(name))
    if path is None or not path.is_file():
        raise ConfigError(
            f"unknown catalogue {str(name)!r}; known: {', '.join(catalog_names())}, or the path of a .toml file "
            "(a folder of your own: $SATFUSE_CATALOGS)"
        )
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    spec = CatalogSpec.from_dict(data, source=str(path))
    return replace(spec, root=str(Path(spec.root).resolve())) if spec.root else spec


def local_catalog(url: str, root: str | Path) -> CatalogSpec:
    """The catalogue of a STAC server on this machine whose assets are files under `root`.

    Parameters
    ----------
    url : root of the STAC API, for example "http://127.0.0.1:7822".
    root : folder; items may point nowhere else.
    """
    return replace(
        load_catalog(catalogs_dir() / "local.toml"), url=url, root=str(Path(root).resolve())
    )


def catalog_names() -> list[str]:
    """Names that `load_catalog` knows."""
    return sorted(_catalog_files())


def _catalog_files() -> dict[str, Path]:
    folders = [catalogs_dir()]
    if own := os.environ.get("SATFUSE_CATALOGS"):
        folders.append(Path(own))
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def _typed(key, value, hint, source):
    """Cast TOML or JSON values to the field's kind: lists to tuples, int to float; refuse anything else."""
    texts = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
    if hint == "tuple[str, ...]" and texts:
        return tuple(value)
    if hint == "dict[str, tuple[str, ...]]" and isinstance(value, dict):
        return {k: _typed(f"{key}.{k}", v, "tuple[str, ...]", source) for k, v in value.items()}
    if hint == "dict[str, dict[str, str]]" and isinstance(value, dict):
        return {k: _typed(f"{key}.{k}", v, "dict[str, str]", source) for k, v in value.items()}
    if hint == "dict[str, str]" and isinstance(value, dict):
        return {k: _typed(f"{key}.{k}", v, "<class 'str'>", source) for k, v in value.items()}
    if hint == "<class 'float'>" and type(value) in (int, float):
        return float(value)
    if hint in ("<class 'str'>", "<class 'int'>") and hint == str(type(value)):
        return value
    wanted = hint.removeprefix("<class '").removesuffix("'>")
    raise ConfigError(f"{source}: {key} = {value!r} must be {wanted}")


def _check_values(spec: CatalogSpec, source: str) -> None:
    for key, allowed in _CHOICES.items():
        value = getattr(spec, key)
        values = (
            value.values()
            if isinstance(value, dict)
            else [value]
            if isinstance(value, str)
            else value
        )
        _refuse([v for v in values if v not in allowed], allowed, f"unknown {key}", source)
    for key in ("collections", "assets", "datetime", "radiometry", "containers"):
        _refuse(
            [s for s in getattr(spec, key) if s not in SENSORS],
            SENSORS,
            f"unknown sensor in {key}",
            source,
        )
    for sensor, keys in spec.assets.items():
        _refuse(
            [k for k in keys if k not in ASSET_KEYS[sensor]],
            ASSET_KEYS[sensor],
            f"unknown {sensor} asset",
            source,
        )
    for sensor in spec.collections:
        if sensor not in spec.assets or sensor not in spec.datetime:
            raise ConfigError(
                f"{source} has collections of {sensor} but no [assets.{sensor}] or no datetime.{sensor}"
            )
    for key in ("page_limit", "requests_per_s", "timeout_s", "max_connections"):
        if not getattr(spec, key) > 0:
            raise ConfigError(f"{source}: {key} = {getattr(spec, key)} must be above 0")
    if not spec.url.startswith(("http://", "https://")):
        raise ConfigError(f"{source}: url {spec.url!r} must start with http:// or https://")
    for key in ("url", "endpoint", "token_url"):
        if "@" in getattr(spec, key) or "?" in getattr(spec, key):
            raise ConfigError(
                f"{source}: {key} may hold no user name and no query: it is stored beside every pair"
            )
    if odd := [v for v in spec.containers.values() if v.count("/") != 1]:
        raise ConfigError(f"{source}: container {odd[0]!r} must be account/container")
    needed = [k for k in _NEEDED_BY_AUTH.get(spec.auth, ()) if not getattr(spec, k)]
    if needed:
        raise ConfigError(f'{source}: auth = "{spec.auth}" needs {", ".join(needed)}')


def _refuse(found, allowed, what, source):
    if found:
        raise ConfigError(
            f"{source}: {what} {', '.join(map(repr, found))}; known: {', '.join(allowed)}"
        )
