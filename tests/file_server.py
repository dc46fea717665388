"""A file server on loopback with byte ranges, which can ask for a password or a signature."""

import base64
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class LoopbackServer(ThreadingHTTPServer):
    """Answers on a free port of loopback while its `with` lasts."""

    daemon_threads = True

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self):
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class FileServer(LoopbackServer):
    """`with FileServer(root, password=("user", "pw")) as server:`, then `server.url`.

    `server.seen` lists the requests as (method, path, headers).

    Parameters
    ----------
    root : folder of the files.
    password : user and password of HTTP basic authentication; without them it answers 401.
    key : access key that must have signed the request as S3 wants it; else it answers 403.
    query : what must stand behind the "?", as an Azure signature does; else it answers 403.
    answers : path -> bytes that are given to everybody.
    redirects : path -> address that it sends everybody to.
    """

    def __init__(
        self, root: Path, *, password=("", ""), key="", query="", answers=None, redirects=None
    ):
        super().__init__(_Handler)
        self.root, self.query = Path(root), query
        self.signed = f"AWS4-HMAC-SHA256 Credential={key}/" if key else ""
        self.basic = (
            f"Basic {base64.b64encode(':'.join(password).encode()).decode()}"
            if any(password)
            else ""
        )
        self.answers, self.redirects, self.seen = answers or {}, redirects or {}, []


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, urlsplit(self.path)
        path = unquote(asked.path)
        server.seen.append((self.command, path, dict(self.headers)))
        if path in server.redirects:
            return self._send(302, headers={"Location": server.redirects[path]})
        if path in server.answers:
            return self._send(200, server.answers[path])
        shown = self.headers.get("Authorization", "")
        if server.basic and shown != server.basic:
            return self._send(401, headers={"WWW-Authenticate": "Basic"})
        if not shown.startswith(server.signed) or (server.query and asked.query != server.query):
            return self._send(403, b"<Error><Code>AccessDenied</Code></Error>")
        file = server.root / path.lstrip("/")
        return self._send_range(file.read_bytes()) if file.is_file() else self._send(404)

    do_HEAD = do_GET  # noqa: N815  the name that http.server calls

    def _send_range(self, body):
        headers = {
            "Accept-Ranges": "bytes",
            "ETag": '"1"',
            "Last-Modified": "Wed, 01 May 2024 00:00:00 GMT",
        }
        if not (wanted := self.headers.get("Range")):
            return self._send(200, body, headers)
        first, last = wanted.removeprefix("bytes=").split("-")
        start = int(first) if first else max(len(body) - int(last), 0)
        stop = min(int(last) + 1, len(body)) if first and last else len(body)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
        return self._send(206, body[start:stop], headers)

    def _send(self, status, body=b"", headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass
