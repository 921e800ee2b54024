"""Who is answered, and with what."""

import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ddpm.commands import cli
from ddpm.errors import UserError
from reports.browser import server
from reports.browser.board import Board
from reports.browser.server import Server
from tests.reports.conftest import write_run


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Server]:
    write_run(tmp_path / "runs" / "a", "e5")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "runs" / "a" / "samples" / "step-000300.png").symlink_to(tmp_path / "secret.png")
    board = Board(str(tmp_path / "runs"), None)
    board.refresh()
    server = Server(board)
    server.start()
    yield server
    server.stop()


def _get(server: Server, path: str, host: str | None = None, method: str = "GET") -> http.client.HTTPResponse:
    asked = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    asked.request(method, path, headers={"Host": host} if host else {})
    return asked.getresponse()


def _path(server: Server, name: str = "") -> str:
    return urlsplit(server.address).path + name


def test_what_the_page_asks_for(served: Server) -> None:
    """Catches a content type by which a browser would run or guess something, and an answer that may be kept."""
    for name, kind in {
        "": "text/html",
        "page.js": "text/javascript",
        "page.css": "text/css",
        "plotly.js": "text/javascript",
        "data/state.json": "application/json",
        "data/pairs.json?since=0": "application/json",
        "grids/r0-100.png": "image/png",
    }.items():
        answer = _get(served, _path(served, name))
        assert answer.status == 200 and answer.headers["Content-Type"].partition(";")[0] == kind, name
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe-eval" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["Access-Control-Allow-Origin"] is None
        assert len(answer.read()) > 100


@pytest.mark.parametrize(
    "name",
    [
        *("../../etc/passwd", "%2e%2e/secret.png", "grids/../../secret.png", "grids/r0-300.png", "grids/r9-100.png"),
        *("grids/r0-1e2.png", "grids/r0-²00.png", "grids/r0.png", "data/state.json?since=x", "data/none.json"),
        *("page.py", "page.html", "data/", "grids/", "//etc/passwd", "data/../page.py"),
    ],
)
def test_nothing_else_is_served(served: Server, name: str) -> None:
    """Catches a path that leaves the runs, by the address or by a link in them."""
    answer = _get(served, _path(served, name.replace("²", "%C2%B2")))
    assert answer.status == 404 and b"secret" not in answer.read()


def test_who_does_not_know_the_word_gets_nothing(served: Server) -> None:
    """Catches a page of another user, or of a web site, that finds the port and reads the runs."""
    for path in (
        "/",
        "",
        "/data/state.json",
        f"/x{_path(served)[1:]}",
        _path(served)[:-2] + "/",
        "*",
        "//[",
    ):
        assert _get(served, path or "/").status == 404
    assert _get(served, _path(served), method="POST").status == 501


def test_another_name_of_this_machine_is_refused(served: Server) -> None:
    """Catches DNS rebinding: a web site whose name leads to 127.0.0.1."""
    assert _get(served, _path(served), host=f"evil.example:{served.port}").status == 421
    assert _get(served, _path(served), host=f"localhost:{served.port}").status == 200


def test_only_this_machine_can_connect(served: Server) -> None:
    """Catches a server on all interfaces."""
    assert served._http.server_address[0] == "127.0.0.1"


def test_a_taken_port_is_refused(served: Server) -> None:
    with pytest.raises(UserError, match=r"cannot listen on 127.0.0.1:\d+.*--port"):
        Server(served.board, port=served.port)
    with pytest.raises(UserError, match=r"cannot listen on no\.such\.host\.invalid"):
        Server(served.board, host="no.such.host.invalid")


def test_two_servers_have_different_words(served: Server) -> None:
    other = Server(served.board)
    other.start()
    other.stop()
    assert _path(other) != _path(served)


def test_the_command_says_what_it_shows_until_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a command that opens a browser where there is no screen, or that ends otherwise than the other verbs."""
    write_run(tmp_path / "a", "e5")
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(server, "time", Interrupted())
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert cli.main(["dashboard", "--from", str(tmp_path)]) == 130
    said = capsys.readouterr()
    assert f"Dashboard of 1 run in {tmp_path}" in said.out and "http://127.0.0.1:" in said.out and opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    assert cli.main(["dashboard", "--from", str(tmp_path), "--no-browser"]) == 130 and opened == []
    assert cli.main(["dashboard", "--from", str(tmp_path)]) == 130
    assert opened[0] in capsys.readouterr().out


class Interrupted:
    """A clock in whose first long sleep Ctrl-C comes."""

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, _: float) -> None:
        raise KeyboardInterrupt
