"""Serves an archive through a real STAC API server (`rustac serve`) on the loopback interface."""

import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from satfuse.errors import CatalogError, MissingExtraError
from satfuse.simulate.archive.make import open_archive

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 5


@contextmanager
def serve(archive_root: str | os.PathLike[str], port: int = 0) -> Iterator[str]:
    """Serve the collections and items of an archive until the context ends.

    Parameters
    ----------
    archive_root : a complete archive.
    port : of the loopback interface; 0 selects a free one.

    Yields
    ------
    URL of the STAC API. It supports core and item search, but neither filters nor sorting.

    Raises
    ------
    ConfigError
        There is no complete archive.
    MissingExtraError
        `rustac` is not installed.
    CatalogError
        The port is taken, or the server does not start.
    """
    root = open_archive(archive_root).root
    folders = (root / "collections", root / "items")
    files = [str(path) for folder in folders for path in sorted(folder.glob("*.json"))]
    port = _free_port(port)
    url = f"http://{HOST}:{port}"
    with tempfile.TemporaryFile("w+") as output:
        command = [_binary(), "serve", "--addr", f"{HOST}:{port}", *files]
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _wait_until_ready(server, url, output)
            log.info("STAC API of %s at %s", root, url)
            yield url
        finally:
            _stop(server)


def _binary() -> str:
    """Path of rustac: the one installed next to this Python, or one on the search path."""
    installed = Path(sys.executable).with_name("rustac")
    binary = str(installed) if installed.is_file() else shutil.which("rustac")
    if not binary:
        raise MissingExtraError("rustac", "server")
    return binary


def _free_port(port: int) -> int:
    """`port` itself where it is free, or any free one for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise CatalogError(
                f"port {port} of {HOST} is taken ({error}); use another, or 0 for a free one"
            ) from error
        return probe.getsockname()[1]


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, output: IO[str]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            output.seek(0)
            raise CatalogError(
                f"the STAC server at {url} stopped at once: {output.read().strip()[-500:]}"
            )
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.05)
    raise CatalogError(f"the STAC server at {url} does not answer within {START_TIMEOUT_S} s")


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
