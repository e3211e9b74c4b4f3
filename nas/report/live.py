"""The page of a run in progress, served on this machine only: the page, its data, and nothing else."""

from __future__ import annotations

import hashlib
import threading
import time
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nas.base.errors import UserError
from nas.report.contents import contents
from nas.report.page import embedded, page
from nas.report.run import WATCHED, read

ADDRESS = "127.0.0.1"
REST = 10  # pause between two readings of a run, in multiples of the time that reading takes


class Source:
    """The current contents of a run, read again when one of its files has changed; thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._state: list[tuple[int, int] | None] = []
        self._rest_until = 0.0
        self._contents: dict[str, Any] = {}

    def now(self) -> dict[str, Any]:
        """The contents, with a tag as `live` that differs when they do; raises UserError for a damaged file."""
        with self._lock:
            state = [_stamp(self.path / file) for file in (*WATCHED, "study.db")]
            if state != self._state and time.monotonic() >= self._rest_until:
                started = time.monotonic()
                found = contents(read(self.path))
                tag = hashlib.sha256(repr(state).encode()).hexdigest()[:16]
                self._contents, self._state = {**found, "live": f'"{tag}"'}, state
                self._rest_until = time.monotonic() + REST * (time.monotonic() - started)
            return self._contents


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def server(path: Path, port: int) -> ThreadingHTTPServer:
    """A server of a run's page on this machine only; port 0 takes any free one. Raises UserError for a taken one."""
    source = Source(path)
    source.now()  # a damaged run is reported before anything is served
    try:
        return ThreadingHTTPServer((ADDRESS, port), partial(Handler, source))
    except OSError as error:
        raise UserError(f"--port {port}: cannot be served on: {error.strerror or error}; give another one") from None


class Handler(BaseHTTPRequestHandler):
    """Answers GET / and GET /data.json if the Host header names this machine, and refuses all else."""

    server: ThreadingHTTPServer
    server_version, sys_version = "compound-nas", ""

    def __init__(self, source: Source, *given: Any) -> None:
        self.source = source
        super().__init__(*given)  # which answers the request

    def do_GET(self) -> None:
        port, kinds = self.server.server_port, {"/": "text/html", "/data.json": "application/json"}
        if self.headers.get("Host") not in (f"{ADDRESS}:{port}", f"localhost:{port}"):  # DNS rebinding
            return self._answer(HTTPStatus.MISDIRECTED_REQUEST, "ask for the address as printed")
        if self.path not in kinds:
            return self._answer(HTTPStatus.NOT_FOUND, "there is only the page")
        try:
            found = self.source.now()
        except UserError as error:
            return self._answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        if self.headers.get("If-None-Match") == found["live"]:
            return self._answer(HTTPStatus.NOT_MODIFIED, "", kinds[self.path], found["live"])
        text = page(found) if self.path == "/" else embedded(found)
        return self._answer(HTTPStatus.OK, text, kinds[self.path], found["live"])

    def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain", tag: str | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Do not log requests."""
