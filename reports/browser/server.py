"""Shows the dashboard's page on this machine, while the runs grow."""

import contextlib
import os
import secrets
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from ddpm.errors import UserError
from reports.browser import page
from reports.browser.board import Board
from reports.experiments import load

LOOPBACK = "127.0.0.1"
_LOOK_S = 1.0  # between two looks at the files
# The page runs its own scripts, talks to its own address and nothing else. Charts set styles.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Server:
    """The page of `board` at `address`. Other pages and users of the machine do not know the word in the address.

    Raises UserError: no such host, or the port is taken.
    """

    def __init__(self, board: Board, host: str = LOOPBACK, port: int = 0) -> None:
        self.board = board
        page.content("plotly.js", live=True)  # if it is not installed, the command says so now
        self._word = secrets.token_urlsafe(16)
        try:
            self._http = _Http((host, port), self._answer)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"The dashboard cannot listen on {host}:{port}: {error}. Leave out --port for a free one, and --host "
                "for this machine alone."
            ) from None
        self.port = self._http.server_address[1]
        name = socket.gethostname() if host in ("0.0.0.0", "::") else host
        shown = f"[{name}]" if ":" in name else name
        # A page elsewhere may give its own name this machine's address: only these names are answered.
        self._hosts = {f"{shown}:{self.port}", f"localhost:{self.port}"} if _loopback(host) else None
        self.address = f"http://{shown}:{self.port}/{self._word}/"
        self._over = threading.Event()

    def start(self) -> None:
        """Read the runs and answer, in threads of their own."""
        for work in (self._look, self._http.serve_forever):
            threading.Thread(target=work, daemon=True).start()

    def stop(self) -> None:
        """Answer no more."""
        self._over.set()
        self._http.shutdown()
        self._http.server_close()

    def _look(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError):  # a folder that cannot be listed now: the next look may succeed
                self.board.refresh()
            self._over.wait(_LOOK_S)

    def _answer(self, host: str, target: str) -> tuple[HTTPStatus, str, bytes]:
        """(status, content type, content) for a GET of `target`, asked from `host`."""
        if self._hosts is not None and host not in self._hosts:
            return HTTPStatus.MISDIRECTED_REQUEST, "text/plain", b"another host\n"
        path, _, query = target.partition("?")
        word, slash, name = path.removeprefix("/").partition("/")
        found = None
        if slash and secrets.compare_digest(word.encode(), self._word.encode()):
            found = self._content(name, query)
        return (HTTPStatus.OK, *found) if found else (HTTPStatus.NOT_FOUND, "text/plain", b"not here\n")

    def _content(self, name: str, query: str) -> tuple[str, bytes] | None:
        """Content type and content of what the page may ask for; None for anything else."""
        if name in page.FILES:
            return page.FILES[name], page.content(name, live=True)
        kind, _, rest = name.partition("/")
        if kind == "data":
            try:
                since = int(parse_qs(query).get("since", ["0"])[0])
                return "application/json", self.board.answer(rest.removesuffix(".json"), since)
            except (KeyError, ValueError):
                return None
        key, _, step = rest.removesuffix(".png").partition("-")
        path = self.board.grid(key, int(step)) if kind == "grids" and step.isascii() and step.isdigit() else None
        try:
            return ("image/png", path.read_bytes()) if path else None
        except OSError:
            return None


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a page asks for all its charts at once

    def __init__(self, place: tuple[str, int], answer: Callable[[str, str], tuple[HTTPStatus, str, bytes]]) -> None:
        if ":" in place[0]:
            self.address_family = socket.AF_INET6
        self.answer = answer
        super().__init__(place, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless a browser went away."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    server_version, sys_version = "ddpm", ""
    timeout = 30  # for a client that sends nothing

    def do_GET(self) -> None:
        status, kind, content = self.server.answer(self.headers.get("Host", ""), self.path)
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind != "image/png" else kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing: the terminal is the user's."""


def show(source: str, experiment: str | None, host: str, port: int, browser: bool) -> None:
    """Show the runs below `source` until Ctrl-C, which passes through as KeyboardInterrupt. `experiment`: whose runs
    come first. `browser`: open it, if this machine has a screen.

    Raises UserError: as `Board` and `Server`; no such experiment.
    """
    board = Board(source, load(experiment) if experiment else None)
    server = Server(board, host, port)
    server.start()
    what = f"{board.total} run{'s' * (board.total != 1)} in {source}"
    print(f"Dashboard of {what}, read again as they grow: {server.address}\nCtrl-C ends it.", flush=True)
    if not _loopback(host):
        seen = f"{host} can be reached from other machines: who knows the address sees the runs"
        print(f"ddpm: warning: {seen}.", file=sys.stderr)
    if browser and _has_screen():
        webbrowser.open(server.address)
    try:
        while True:
            time.sleep(3600)
    finally:
        server.stop()


def _loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _has_screen() -> bool:
    """Whether a browser can have a window: a browser in the terminal would hide the address."""
    return sys.platform in ("darwin", "win32") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
