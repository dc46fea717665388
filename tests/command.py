"""Run the command line in this process, and serve an archive as a STAC API that tests can break."""

import io
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from satfuse.cli import main
from satfuse.demo import write_catalog

DAY, CLOUDY_DAY = "2024-07-04", "2024-07-09"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def command(*arguments: object) -> Ended:
    """`satfuse ARGUMENTS` through the entry point; log levels are restored afterwards."""
    loggers = [logging.getLogger(name) for name in ("", "satfuse", "py.warnings")]
    levels = [logger.level for logger in loggers]
    out = io.StringIO()
    err = io.StringIO()
    code = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main([str(a) for a in arguments])
    except SystemExit as end:
        if isinstance(end.code, str):  # what Python itself prints, and exits with 1
            print(end.code, file=err)
        code = 1 if isinstance(end.code, str) else end.code or 0
    finally:
        logging.captureWarnings(False)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    return Ended(code, out.getvalue(), err.getvalue())


def tree(folder: str | Path) -> set[str]:
    """All files and folders below a folder."""
    return {str(p.relative_to(folder)) for p in Path(folder).rglob("*")}


class _Handler(BaseHTTPRequestHandler):
    server: "Service"

    def do_GET(self) -> None:
        is_file = self.path.startswith("/files/")
        self._send(*(self.server.files if is_file else (200, json.dumps(self.server.landing))))

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        hits = [item for item in self.server.items if item["collection"] in query["collections"]]
        page = {"type": "FeatureCollection", "features": hits, "links": []}
        self._send(*(self.server.search or (200, json.dumps(page))))

    def _send(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


class Service(ThreadingHTTPServer):
    """A STAC API of an archive.

    `search` replaces its responses, `files` is the response to every request for a file.
    """

    daemon_threads = True

    def __init__(self, archive: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.archive = archive
        self.search: tuple[int, str] | None = None
        self.files = (404, "")
        self.items = [json.loads(p.read_text()) for p in sorted((archive / "items").glob("*.json"))]
        self.landing = {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "test",
            "description": "test",
            "conformsTo": [f"https://api.stacspec.org/v1.0.0/{c}" for c in ("core", "item-search")],
            "links": [{"rel": "search", "method": "POST", "href": f"http://{self.host}/search"}],
        }

    def move(self, root: Path | str) -> None:
        """Let every href begin with another root."""
        text = json.dumps(self.items)
        self.items = json.loads(text.replace(str(self.archive), str(root)))

    def catalog(self, path: Path, root: Path, **changes: str) -> Path:
        """Write the catalogue file of this service; `changes` replaces lines or adds them."""
        write_catalog(path, f"http://{self.host}", root)
        text = path.read_text()
        for key, line in changes.items():
            text, count = re.subn(rf"(?m)^{key} = .*$", line, text)
            text = text if count else f"{line}\n{text}"
        path.write_text(text)
        return path


@contextmanager
def service(archive: Path) -> Iterator[Service]:
    """A `Service` while the context lasts."""
    server = Service(archive)
    options = {"poll_interval": 0.02}  # seconds until `shutdown` is noticed
    threading.Thread(target=server.serve_forever, kwargs=options, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


ENTRY_POINT = Path(sys.executable).with_name("satfuse")
