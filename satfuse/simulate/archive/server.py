"""Serves an archive through a real STAC API server (`rustac serve`) on the loopback interface."""

import logging
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

from satfuse.errors import CatalogError, MissingExtraError
from satfuse.simulate.archive.make import open_archive

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 5


@contextmanager
def serve(archive_root: Path, port: int = 0) -> Iterator[str]:
    """Serve the collections and items of an archive while the context lasts.

    Parameters
    ----------
    archive_root : a complete archive.
    port : of the loopback interface; 0 takes a free one.

    Yields
    ------
    URL of the STAC API. It does core and item search, no filter and no sorting.

    Raises
    ------
    ConfigError
        No complete archive.
    MissingExtraError
        `rustac` is not installed.
    CatalogError
        The port is taken, or the server does not start.
    """
    root = open_archive(archive_root).root
    files = [
        str(p)
        for folder in ("collections", "items")
        for p in sorted((root / folder).glob("*.json"))
    ]
    port = _free_port(port)
    url = f"http://{HOST}:{port}"
    with tempfile.TemporaryFile("w+") as output:
        command = [_binary(), "serve", "--addr", f"{HOST}:{port}", *files]
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _wait_until_it_answers(server, url, output)
            log.info("STAC API of %s at %s", root, url)
            yield url
        finally:
            _stop(server)


def _binary():
    beside = Path(sys.executable).with_name("rustac")
    found = str(beside) if beside.is_file() else shutil.which("rustac")
    if not found:
        raise MissingExtraError("rustac", "server")
    return found


def _free_port(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise CatalogError(
                f"port {port} of {HOST} is taken ({error}); use another, or 0 for a free one"
            ) from error
        return probe.getsockname()[1]


def _wait_until_it_answers(server, url, output):
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


def _stop(server):
    server.terminate()
    try:
        server.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
