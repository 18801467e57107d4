"""The page's server: the standard library's, for one person at one machine."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import sys
import traceback
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.demo.answers import Demo

_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/picture.js": ("picture.js", "text/javascript; charset=utf-8"),
}
_UPLOAD_TYPE = "application/octet-stream"
# Nothing is ever loaded from elsewhere, and no script runs but the page's own.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_CHUNK = 1 << 16
# A browser hears an answer only after it has sent all; of what is too large so much is read and thrown away.
_MOST_DISCARDED = 1 << 30


class _Refusal(Exception):
    """A request that is not answered."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class DemoServer(ThreadingHTTPServer):
    """Serves a `Demo`; `serve_forever` runs it.

    Attributes:
        demo: What answers.
        url: Where the page is.
    """

    daemon_threads = True

    def __init__(self, demo: Demo, host: str, port: int) -> None:
        """Takes the port.

        Args:
            demo: What answers.
            host: Name or address to listen on.
            port: 0 takes a free one.

        Raises:
            UserError: Host and port cannot be had.
        """
        self.demo = demo
        self.host = host
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"--port {port}: cannot listen on {host} ({reason}); 0 takes a free one") from None
        self.url = f"http://{host}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of browsers that have gone away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: DemoServer
    # Seconds after which a connection on which nothing comes is closed.
    timeout = 60
    server_version = "deeplab2-lite"
    sys_version = ""

    def do_GET(self) -> None:
        self._reply(self._get)

    def do_POST(self) -> None:
        self._reply(self._post)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: what the user does on the page is no news to the user."""

    def _reply(self, answer: Callable[[], tuple[bytes, str]]) -> None:
        try:
            self._check_origin()
            content, kind, status = *answer(), HTTPStatus.OK
        except _Refusal as refusal:
            content, kind, status = _json({"error": str(refusal)}), "application/json", refusal.status
        except UserError as error:
            message = " ".join(str(error).splitlines())
            content, kind, status = _json({"error": message}), "application/json", HTTPStatus.UNPROCESSABLE_ENTITY
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            traceback.print_exc()
            message = "the server failed; where it was started it says why"
            content, kind, status = _json({"error": message}), "application/json", HTTPStatus.INTERNAL_SERVER_ERROR
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **_HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _check_origin(self) -> None:
        """Refuses what another site's page sends: by its own name for this machine, or across origins."""
        host = self.headers.get("Host", "")
        if not _is_ours(host, self.server.host):
            raise _Refusal(HTTPStatus.FORBIDDEN, f"expected the address {self.server.url}, got the host '{host}'")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            raise _Refusal(HTTPStatus.FORBIDDEN, f"requests from other sites are refused ('{origin}')")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise _Refusal(HTTPStatus.FORBIDDEN, "requests from other sites are refused")

    def _get(self) -> tuple[bytes, str]:
        path = urlsplit(self.path).path
        if path in _FILES:
            name, kind = _FILES[path]
            return Path(__file__).with_name(name).read_bytes(), kind
        if path == "/model":
            return _json(self.server.demo.model()), "application/json"
        if path.startswith("/samples/") and path.removeprefix("/samples/").isdecimal():
            return self.server.demo.thumbnail(int(path.removeprefix("/samples/"))), "image/jpeg"
        raise _Refusal(HTTPStatus.NOT_FOUND, f"there is nothing at {path}")

    def _post(self) -> tuple[bytes, str]:
        parts = urlsplit(self.path)
        if parts.path != "/segment":
            raise _Refusal(HTTPStatus.NOT_FOUND, f"there is nothing at {parts.path}")
        # A type that no form can send: a page elsewhere would have to ask first, and is never allowed to.
        if self.headers.get_content_type() != _UPLOAD_TYPE:
            raise _Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"expected an image as {_UPLOAD_TYPE}")
        query = parse_qs(parts.query)
        encoded = self._body()
        if "sample" in query:
            if not query["sample"][0].isdecimal():
                raise UserError(f"sample: expected a number, got '{query['sample'][0]}'")
            name, encoded = self.server.demo.sample(int(query["sample"][0]))
        else:
            name = _file_name(query.get("name", [""])[0])
        return _json(self.server.demo.answer(name, encoded)), "application/json"

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise _Refusal(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        size, limit = int(length), self.server.demo.limits.max_bytes
        if size > limit:
            self._discard(min(size, _MOST_DISCARDED))
            message = f"{size / 1e6:.1f} MB; this page takes images of up to {limit / 1e6:g} MB; reduce it first"
            raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        body = self.rfile.read(size)
        if len(body) < size:
            raise _Refusal(HTTPStatus.BAD_REQUEST, f"cut off: {len(body)} of {size} bytes came")
        return body

    def _discard(self, size: int) -> None:
        while size > 0:
            chunk = self.rfile.read(min(size, _CHUNK))
            if not chunk:
                return
            size -= len(chunk)


def _is_ours(host: str, name: str) -> bool:
    """Whether a Host header can only mean this server.

    Another site's name may be made to lead to this machine (DNS rebinding); an address may not.
    """
    with contextlib.suppress(ValueError):
        found = urlsplit(f"//{host}").hostname
        if found is None:
            return False
        if found in ("localhost", name.lower()):
            return True
        ipaddress.ip_address(found)
        return True
    return False


def _file_name(name: str) -> str:
    """Returns the last part of what a browser calls the file, without what would spoil a line."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(c for c in last if c.isprintable()).strip()[:200] or "image"


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()
