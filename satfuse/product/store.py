"""The product store: one folder on a disk, in an S3 bucket, or read-only behind HTTPS."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from satfuse.errors import ConfigError, StoreError
from satfuse.files import replacing

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from zarr.abc.store import Store as ZarrStore

S3_VARIABLES = {
    "key": "SATFUSE_STORE_ACCESS_KEY",
    "secret": "SATFUSE_STORE_SECRET_KEY",
    "endpoint_url": "SATFUSE_STORE_ENDPOINT_URL",
}


class Store:
    """Small files and Zarr groups under one root.

    Picklable; keeps no credentials, these come from the environment.

    Parameters
    ----------
    url : folder, `s3://bucket/prefix` or `https://host/path` (read only). Keys and endpoint of a
        bucket come from SATFUSE_STORE_ACCESS_KEY, SATFUSE_STORE_SECRET_KEY and
        SATFUSE_STORE_ENDPOINT_URL, else from AWS_* and AWS_ENDPOINT_URL.

    Raises
    ------
    ConfigError
        A scheme that is none of these.
    """

    def __init__(self, url: "str | os.PathLike[str] | Store") -> None:
        text: str = url.url if isinstance(url, Store) else os.fspath(url)
        protocol, separator, _ = text.partition("://")
        if not separator:
            protocol = "file"
            text = str(Path(text).absolute())
        if protocol not in ("file", "s3", "http", "https"):
            raise ConfigError(
                f"store {text!r}: give a folder, s3://bucket/prefix or https://host/path"
            )
        self.protocol: str = protocol
        self.url: str = text.removeprefix("file://").rstrip("/")

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __reduce__(self) -> "tuple[type[Store], tuple[str]]":
        return Store, (self.url,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    @property
    def writable(self) -> bool:
        """False behind HTTPS, where only the derived `collection.json` lists the items."""
        return self.protocol in ("file", "s3")

    def uri(self, path: str) -> str:
        """Absolute address of a path in the store."""
        return f"{self.url}/{path}"

    @cached_property
    def _fs(self) -> "AbstractFileSystem":
        import fsspec

        return fsspec.filesystem(self.protocol, **self._options())

    def _options(self) -> dict[str, Any]:
        """Options of fsspec.

        The bucket's own keys win over AWS_*, which reading from a catalogue may need for itself.
        """
        if self.protocol != "s3":
            return {}
        keys = {
            name: os.environ[variable]
            for name, variable in S3_VARIABLES.items()
            if os.environ.get(variable)
        }
        # listings must be fresh: other runs write at the same time
        return {"use_listings_cache": False, **keys}

    @contextmanager
    def guard(self, doing: str) -> Iterator[None]:
        """Turn what the storage raises into a `StoreError` that names the store and the action."""
        try:
            yield
        except self._failures() as error:
            raise StoreError(
                f"cannot {doing} in store {self.url}: {type(error).__name__}: {error}"
            ) from error

    def _failures(self) -> tuple[type[Exception], ...]:
        """Exceptions of the storage, whose libraries are imported only where they are used."""
        from zarr.errors import BaseZarrError

        if self.protocol == "s3":
            import botocore.exceptions  # type: ignore[import-untyped]  # it has no types

            return OSError, BaseZarrError, botocore.exceptions.BotoCoreError
        if not self.writable:
            from aiohttp import ClientError

            return OSError, BaseZarrError, ClientError
        return OSError, BaseZarrError

    def zarr(self, path: str, *, read_only: bool = True) -> "ZarrStore":
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
        """Contents of many files, concurrently where the storage can.

        Files that vanish meanwhile are omitted.
        """
        if not paths:
            return {}
        path_of = {self._fs.unstrip_protocol(self.uri(p)): p for p in paths}
        with self.guard(f"read {len(paths)} files"):
            answers = self._fs.cat([self.uri(p) for p in paths], on_error="return")
        contents = {}
        for uri, answer in answers.items():
            if isinstance(answer, FileNotFoundError):
                continue
            if isinstance(answer, Exception):
                raise StoreError(f"cannot read {uri} in store {self.url}: {answer!r}") from answer
            contents[path_of[self._fs.unstrip_protocol(uri)]] = answer
        return contents

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
            if self.protocol == "s3":  # an object appears whole
                self._fs.pipe_file(self.uri(path), content)
                return
            with replacing(Path(self.uri(path))) as draft:
                draft.write_bytes(content)

    def write_json(self, path: str, value: object) -> None:
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
        """Size in bytes and time of the last change (UTC) of every file below a folder.

        Empty behind HTTPS, where files cannot be listed.
        """
        if not self.writable:
            return {}
        root = self._fs.unstrip_protocol(self.url)
        with self.guard(f"list {folder}"):
            entries = self._fs.find(self.uri(folder), detail=True)
        return {
            self._fs.unstrip_protocol(path).removeprefix(f"{root}/"): self._size_and_time(entry)
            for path, entry in entries.items()
        }

    def _size_and_time(self, entry: dict[str, Any]) -> tuple[int, datetime]:
        """From one entry of a detailed listing, whose keys depend on the storage."""
        if self.protocol == "s3":
            return entry["size"], entry["LastModified"]
        return entry["size"], datetime.fromtimestamp(entry["mtime"], UTC)

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
                f"cannot write to store {self.url} ({error.__cause__ or error}); check that it "
                "exists, may be written and has space, or name another"
            ) from error


def default_store() -> str:
    """The store of `$SATFUSE_STORE`, else of the settings file.

    The settings file is `$SATFUSE_CONFIG` or `~/.config/satfuse.toml`.

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
