"""The product store: one folder on a disk, in an S3 bucket, or read-only behind HTTPS."""

import json
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from satfuse.errors import ConfigError, StoreError

log = logging.getLogger(__name__)

S3_VARIABLES = {
    "key": "SATFUSE_STORE_ACCESS_KEY",
    "secret": "SATFUSE_STORE_SECRET_KEY",
    "endpoint_url": "SATFUSE_STORE_ENDPOINT_URL",
}


class Store:
    """Small files and Zarr groups under one root. Picklable; holds no credentials, these come from the environment.

    Parameters
    ----------
    url : folder, `s3://bucket/prefix` (keys and endpoint from SATFUSE_STORE_ACCESS_KEY, SATFUSE_STORE_SECRET_KEY and
        SATFUSE_STORE_ENDPOINT_URL, else from AWS_* and AWS_ENDPOINT_URL), or `https://host/path` (read only).

    Raises
    ------
    ConfigError
        A scheme that is none of these.
    """

    def __init__(self, url: "str | os.PathLike | Store"):
        url = url.url if isinstance(url, Store) else os.fspath(url)
        self.protocol, separator, _ = url.partition("://")
        if not separator:
            self.protocol, url = "file", str(Path(url).absolute())
        if self.protocol not in ("file", "s3", "http", "https"):
            raise ConfigError(
                f"store {url!r}: give a folder, s3://bucket/prefix or https://host/path"
            )
        self.url = url.removeprefix("file://").rstrip("/")

    def __repr__(self):
        return f"Store({self.url!r})"

    def __reduce__(self):
        return Store, (self.url,)

    def __eq__(self, other):
        return isinstance(other, Store) and other.url == self.url

    def __hash__(self):
        return hash(self.url)

    @property
    def writable(self) -> bool:
        """False behind HTTPS, where only the derived `collection.json` says what there is."""
        return self.protocol in ("file", "s3")

    def uri(self, path: str) -> str:
        """Absolute address of a path in the store."""
        return f"{self.url}/{path}"

    @cached_property
    def _fs(self):
        import fsspec

        return fsspec.filesystem(self.protocol, **self._options())

    def _options(self) -> dict:
        """Of fsspec. A bucket's own keys win over AWS_*, which reading from a catalogue may need for itself."""
        if self.protocol != "s3":
            return {}
        own = {
            name: os.environ[variable]
            for name, variable in S3_VARIABLES.items()
            if os.environ.get(variable)
        }
        # listings must be fresh: other runs write at the same time
        return {"use_listings_cache": False, **own}

    @contextmanager
    def guard(self, doing: str) -> Iterator[None]:
        """Turn what the storage raises into a `StoreError` that names the store and what was being done."""
        from zarr.errors import BaseZarrError

        failures: tuple = (OSError, BaseZarrError)
        if self.protocol == "s3":
            from botocore.exceptions import BotoCoreError

            failures += (BotoCoreError,)
        elif not self.writable:
            from aiohttp import ClientError

            failures += (ClientError,)
        try:
            yield
        except failures as error:
            raise StoreError(
                f"cannot {doing} in store {self.url}: {type(error).__name__}: {error}"
            ) from error

    def zarr(self, path: str, *, read_only: bool = True):
        """A zarr store for the group at `path`."""
        from zarr.storage import FsspecStore, LocalStore

        if self.protocol == "file":
            return LocalStore(self.uri(path), read_only=read_only)
        return FsspecStore.from_url(
            self.uri(path), storage_options=self._options(), read_only=read_only
        )

    def read(self, path: str) -> bytes:
        """Content of one file.

        Raises
        ------
        StoreError
            It cannot be read.
        """
        with self.guard(f"read {path}"):
            return self._fs.cat_file(self.uri(path))

    def read_all(self, paths: list[str]) -> dict[str, bytes]:
        """Contents of many files, at once where the storage can; files that vanish meanwhile are left out."""
        if not paths:
            return {}
        uris = {self._fs._strip_protocol(self.uri(p)): p for p in paths}
        with self.guard(f"read {len(paths)} files"):
            found = self._fs.cat(list(uris), on_error="return")
        out = {}
        for uri, content in found.items():
            if isinstance(content, FileNotFoundError):
                continue
            if isinstance(content, Exception):
                raise StoreError(f"cannot read {uri} in store {self.url}: {content!r}") from content
            out[uris[self._fs._strip_protocol(uri)]] = content
        return out

    def write(self, path: str, content: bytes) -> None:
        """Write one file atomically: a reader sees all of it or nothing.

        Raises
        ------
        StoreError
            The store is read-only, full, or refuses.
        """
        if not self.writable:
            raise StoreError(
                f"store {self.url} is read-only; write to its folder or bucket instead"
            )
        with self.guard(f"write {path}"):
            if self.protocol == "s3":
                self._fs.pipe_file(self.uri(path), content)
                return
            target = Path(self.uri(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
            try:
                with part.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)

    def write_json(self, path: str, value) -> None:
        """Write a value as JSON, atomically and with sorted keys."""
        self.write(path, json.dumps(value, indent=1, sort_keys=True, default=str).encode())

    def exists(self, path: str) -> bool:
        """True where a file or folder is at `path`."""
        with self.guard(f"look for {path}"):
            return self._fs.exists(self.uri(path))

    def names(self, folder: str) -> list[str]:
        """Sorted names of the entries of a folder; none where the folder does not exist."""
        with self.guard(f"list {folder or 'the root'}"):
            try:
                entries = self._fs.ls(self.uri(folder), detail=False)
            except FileNotFoundError:
                return []
        names = {e.rstrip("/").rsplit("/", 1)[-1] for e in entries}
        return sorted(n for n in names if not n.startswith("."))

    def stats(self, folder: str) -> dict[str, tuple[int, datetime]]:
        """Size in bytes and time of the last change (UTC) of every file below a folder; none behind HTTPS."""
        if not self.writable:
            return {}
        root = self._fs._strip_protocol(self.url)
        with self.guard(f"list {folder}"):
            found = self._fs.find(self.uri(folder), detail=True)
        return {
            path.removeprefix(f"{root}/"): (
                stat["size"],
                stat["LastModified"]
                if self.protocol == "s3"
                else datetime.fromtimestamp(stat["mtime"], UTC),
            )
            for path, stat in found.items()
        }

    def remove(self, path: str) -> None:
        """Delete a file or folder if it is there."""
        with self.guard(f"delete {path}"):
            if self._fs.exists(self.uri(path)):
                self._fs.rm(self.uri(path), recursive=True)

    def check_writable(self) -> None:
        """Write and delete a small file.

        Raises
        ------
        StoreError
            The store cannot be written.
        """
        probe = f"data/.probe-{uuid.uuid4().hex}"
        try:
            self.write(probe, b"satfuse")
            self.remove(probe)
        except StoreError as error:
            raise StoreError(
                f"cannot write to store {self.url} ({error.__cause__ or error}); check that it exists, may be written "
                "and has space, or name another"
            ) from error


def default_store() -> str:
    """The store of `$SATFUSE_STORE`, else of the settings file (`$SATFUSE_CONFIG` or `~/.config/satfuse.toml`).

    Raises
    ------
    ConfigError
        Neither names one.
    """
    if url := os.environ.get("SATFUSE_STORE"):
        return url
    import tomllib

    file = Path(os.environ.get("SATFUSE_CONFIG") or Path.home() / ".config" / "satfuse.toml")
    if file.is_file():
        try:
            url = tomllib.loads(file.read_text()).get("store")
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"settings file {file} is not valid TOML: {error}") from error
    if not url:
        raise ConfigError(
            f'no store named: pass store=..., set SATFUSE_STORE, or put store = "..." into {file}'
        )
    return url
