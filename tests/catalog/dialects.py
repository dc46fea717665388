"""A small STAC API that speaks the dialect of each service, and fails on request.

CDSE pages by token and returns no `numberMatched`; earth-search pages with a full body (`merge`
false), fails above 267 items and has no filter; DLR pages by `startIndex` (`merge` true), takes
only cql2-text and returns every collection when none is named. The server does not filter: clients
must.
"""

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.file_server import LoopbackServer

_CONFORMS = ["core", "item-search", "ogcapi-features"]
_EXTENSIONS = {
    "cdse": ["item-search#query", "item-search#filter", "item-search#sort"],
    "earth-search": ["item-search#query", "item-search#sort"],
    "dlr": ["item-search#filter", "item-search#sort"],
}


@dataclass(frozen=True)
class Fault:
    """A failing response: status, headers and body, or a wait before the normal response."""

    status: int = 200
    body: str = ""
    headers: dict = field(default_factory=dict)
    wait_s: float = 0.0


WAF = Fault(
    429, '{"error":"WAF","message":"Rate limit exceeded","status":429}', {"Retry-After": "1"}
)
HTML_LOGIN = Fault(
    200, "<!DOCTYPE html><html><body>Please log in</body></html>", {"Content-Type": "text/html"}
)


class DialectServer(LoopbackServer):
    """Serves `features` in a service's dialect while its `with` lasts.

    `server.url` is its address, `server.requests` a list of (time, method, path, body).
    """

    def __init__(self, dialect: str, features=(), *, faults=(), page_size: int = 100):
        super().__init__(_Handler)
        self.dialect = dialect
        self.features = list(features)
        self.page_size = page_size
        self.faults = list(faults)
        self.requests = []
        self.lock = threading.Lock()

    @property
    def searches(self) -> list:
        return [r for r in self.requests if r[2].startswith("/search")]

    def answer(self, body: dict) -> tuple[int, dict]:
        """The page of items that `body` requests, or the refusal of the real service."""
        limit = min(int(body.get("limit", 20)), self.page_size)
        if self.dialect == "earth-search":
            return self._earth_search(body, limit)
        if self.dialect == "dlr":
            return self._dlr(body, limit)
        start = int(body.get("token", "next:0").removeprefix("next:"))
        page = self.features[start : start + limit]
        body = {**body, "token": f"next:{start + limit}"}
        return 200, self._page(page, start + limit, {"body": body, "merge": False})

    def _earth_search(self, body, limit):
        if "filter" in body:
            return 400, {"code": 400, "description": "filter is not supported"}
        if int(body.get("limit", 10)) > 267:
            return 500, {"code": 500, "description": "Internal Server Error"}
        ids = [f["id"] for f in self.features]
        start = ids.index(body["next"]) + 1 if "next" in body else 0
        page = self.features[start : start + limit]
        search = {k: v for k, v in body.items() if k != "next"}
        link = {"body": {**search, "next": page[-1]["id"] if page else ""}, "merge": False}
        counts = {
            "numberMatched": len(ids),
            "context": {"matched": len(ids), "returned": len(page), "limit": limit},
        }
        return 200, {**self._page(page, start + limit, link), **counts}

    def _dlr(self, body, limit):
        if "query" in body or body.get("filter-lang", "cql2-text") != "cql2-text":
            return 400, {
                "code": "InvalidParameterValue",
                "description": "only filter-lang=cql2-text is supported",
            }
        start = int(body.get("startIndex", 0))
        collections = body.get("collections")
        features = [f for f in self.features if not collections or f["collection"] in collections]
        link = {"body": {"startIndex": start + limit, "limit": limit}, "merge": True}
        page = self._page(features[start : start + limit], start + limit, link, total=len(features))
        return 200, {**page, "numberMatched": len(features)}

    def _page(self, features, following, link, total=None):
        links = []
        if following < (len(self.features) if total is None else total):
            links = [{"rel": "next", "method": "POST", "href": f"{self.url}/search", **link}]
        return {
            "type": "FeatureCollection",
            "features": features,
            "links": links,
            "numberReturned": len(features),
        }

    def landing(self) -> dict:
        names = _CONFORMS + _EXTENSIONS[self.dialect]
        return {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": self.dialect,
            "description": "imitation",
            "conformsTo": [f"https://api.stacspec.org/v1.0.0/{n}" for n in names],
            "links": [
                {
                    "rel": "search",
                    "method": m,
                    "type": "application/geo+json",
                    "href": f"{self.url}/search",
                }
                for m in ("GET", "POST")
            ],
        }


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self._serve({})

    def do_POST(self):
        self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _serve(self, body):
        server = self.server
        with server.lock:
            server.requests.append((time.monotonic(), self.command, self.path, body))
            is_search = self.path.startswith("/search")
            fault = server.faults.pop(0) if server.faults and is_search else None
        if fault:
            time.sleep(fault.wait_s)
        if fault and (fault.body or fault.status != 200):
            return self._send(fault.status, fault.body, fault.headers)
        if is_search:
            status, answer = server.answer(body)
        else:
            status = 200
            answer = server.landing()
        return self._send(status, json.dumps(answer), {"Content-Type": "application/geo+json"})

    def _send(self, status, text, headers):
        data = text.encode()
        try:
            self.send_response(status)
            for name, value in {"Content-Length": len(data), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client gave up waiting

    def log_message(self, *_):
        pass
