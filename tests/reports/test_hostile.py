"""Runs made by somebody else. A report shows their texts as text, and they reach no file of this machine."""

import base64
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import wandb

from reports.figures import grids
from reports.library import make_library
from reports.report import make_report
from reports.sources import api, open_source, pictures
from reports.text.markup import code, html_page, link, text, verbatim
from tests.reports.conftest import chosen, rows_of, write_run
from wandb_standin import StandIn
from wandb_standin.records import HISTORY

# Texts that leave a code block, a code span, a table, a list or an attribute; HTML, a link, a picture, an entity.
HOSTILE = (
    "x\n\n# y\n\n<img src=x onerror=alert(1)>\n\n`</code></pre></td><script>alert(2)</script>` "
    'src="../secret.png" src="figures/fid_vs_step.png" [a](javascript:alert(3)) ![b](../secret.png) | c | '
    "<?x><img src=q onerror=alert(4)>?> <!-- <http://e.example> &lt;script&gt; ~~d~~ \x1b[31m\u202e \\"
)
_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "em", "strong", "code", "pre", "ul"),
    *("li", "div", "table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "img", "details", "summary"),
}


class _Page(HTMLParser):
    """Tags and attributes of a page, its text, and the cells of each line of a table."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.words = ""
        self.cells: list[list[int]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "table":
            self.cells.append([])
        elif tag == "tr":
            self.cells[-1].append(0)
        elif tag in ("td", "th"):
            self.cells[-1][-1] += 1

    def handle_data(self, data: str) -> None:
        self.words += data


def _hostile(value: Any, key: str = "") -> Any:
    """`value` with hostile text in place of its texts, and with a hostile key and text added to a config and the
    like."""
    if isinstance(value, dict):
        found = {inner: _hostile(part, inner) for inner, part in value.items()}
        return found | {f"{key} {HOSTILE}": HOSTILE} if key in ("config", "model", "out", "aaaa1111") else found
    if isinstance(value, list):
        return [_hostile(part) for part in value]
    return HOSTILE if isinstance(value, str) and key not in ("experiment", "started", "weighting") else value


def _write(folder: Path, experiment: str) -> Path:
    write_run(folder, experiment)
    for name in ("run.json", "results.jsonl"):
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(_hostile(found | {"model": {}})) + "\n")
    rows = rows_of(experiment, 1, HOSTILE)
    rows += [(30, {HOSTILE: 1.0, "train/loss": HOSTILE, "final/fid_protocol": HOSTILE}), (40, {"text": HOSTILE})]
    (folder / "loss.jsonl").write_text("\n".join(json.dumps({"_i": s, "out": row}) for s, row in rows))
    return folder


def _assert_harmless(page: str, *secrets: bytes) -> None:
    found = _Page(page)
    assert found.tags <= _TAGS, found.tags - _TAGS
    for tag, name, value in found.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name != "src" or value.startswith("data:image/png;base64,"), (tag, name, value)
        assert "javascript" not in value
    for secret in secrets:
        assert base64.b64encode(secret).decode() not in page
    assert "alert(1)" in found.words and "alert(2)" in found.words  # shown, as text
    assert found.cells and all(len(set(lines)) == 1 for lines in found.cells), found.cells


@pytest.mark.usefixtures("few_figures")
def test_a_hostile_text_in_every_field_of_a_record(tmp_path: Path) -> None:
    """The parsed page has only the template's tags and its own pictures. Catches a script, an event, a link or a
    picture of this machine in a table, a code block, a list, a caption or a title, and a table with other columns."""
    for name in ("e5", "e6"):
        _write(tmp_path / "runs" / name, name)
    secret = tmp_path / "secret.png"
    secret.write_bytes((tmp_path / "runs/e5/samples/step-000100.png").read_bytes())
    page = make_report("e6", str(tmp_path / "runs"), tmp_path / "out", allow_mixed_protocols=True)
    _assert_harmless(page.read_text(), secret.read_bytes())
    assert "\x1b" not in page.with_suffix(".md").read_text()


def test_a_hostile_text_in_the_library(tmp_path: Path) -> None:
    """Catches an experiment's or a run's name that becomes mark-up in the page over all runs."""
    for seed, name in enumerate(("<script>alert(1)</script>", HOSTILE)):
        folder = _write(tmp_path / "runs" / str(seed), "e5")
        card = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(card | {"experiment": name, "run_id": HOSTILE}))
    page = make_library(str(tmp_path / "runs"), tmp_path / "out")
    _assert_harmless(page.read_text())


def test_a_picture_of_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a small file that takes all memory when it is drawn, and a picture left out without a note."""
    for name in ("e5", "e6"):
        write_run(tmp_path / name, name)
    monkeypatch.setattr(grids, "_MOST_PIXELS", 24 * 24)
    assert "left out" not in grids.sample_grids(chosen(tmp_path, "e6"), False).caption
    PIL.Image.new("L", (25, 24)).save(tmp_path / "e6/samples/step-000200.png")
    caption = grids.sample_grids(chosen(tmp_path, "e6"), False).caption
    assert "Samples at step 100" in caption and "pixels, are left out: 1 of e6." in caption


@pytest.mark.parametrize("way", [text, code, verbatim])
def test_no_filter_lets_a_text_out(tmp_path: Path, way: Any) -> None:
    """Each filter alone, in the places where the templates use it. Catches a text that leaves a list, a cell or a code
    block."""
    start = "    " if way is verbatim else "- "
    page = html_page(f"# t\n\n{start}{way(HOSTILE)}\n\n| a | b |\n|---|---|\n| c | d |\n", tmp_path, HOSTILE)
    _assert_harmless(page)


def test_a_title_is_text(tmp_path: Path) -> None:
    """Catches the title, the only part of the page that is not Markdown, left unescaped."""
    page = html_page("x", tmp_path, "</title><script>alert(1)</script>")
    assert "<script>" not in page and "&lt;/title&gt;&lt;script&gt;" in page


def test_html_in_the_markdown_is_text(tmp_path: Path) -> None:
    """Catches a page that is safe only if no filter was forgotten."""
    page = html_page("<script>alert(1)</script>\n\n<div>\n\na <b>c</b> <http://e.example>\n", tmp_path, "t")
    assert _Page(page).tags <= _TAGS - {"div"}, page


def test_a_link_leads_to_the_web_alone() -> None:
    """Catches a run's server address that is a script or that ends the link early."""
    label = code("r")
    assert link(label, "https://wandb.ai/a/b/runs/r") == "[`r`](https://wandb.ai/a/b/runs/r)"
    for address in ("javascript:alert(1)", "https://x) <script>", "file:///etc/passwd", "https://x\n\ny", "", None):
        assert link(label, address) == label


# ---- a server ---------------------------------------------------------------------------------------------


def _log(server: StandIn, id: str, picture: Path) -> None:
    with wandb.init(project="p", id=id, config={"experiment": "e5", "seed": 1}) as run:
        for step in (1, 2, 3):
            run.log({"step": step, "train/loss": 1.0, "samples/grid": wandb.Image(str(picture))})
    wandb.teardown()


def _move_picture(server: StandIn, id: str, path: str) -> None:
    """Make the row of step 2 name another path for its picture."""
    lines = server.runs["p", id].streams[HISTORY]
    row = json.loads(lines[1])
    row["samples/grid"]["path"] = path
    lines[1] = json.dumps(row)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture outside the runs, which no run may draw."""
    return write_run(tmp_path / "own", "e5") / "samples/step-000100.png"


def test_a_servers_row_cannot_name_a_file_of_this_machine(server: StandIn, tmp_path: Path, picture: Path) -> None:
    """The paths use `..`, are absolute, contain a byte that no path may have, or are too long. Catches a local picture
    in a report, one row that stops the whole report, and a picture left out without a note."""
    for id, path in (("a", "../../../../../" + str(picture)), ("b", str(picture)), ("c", "x\0y.png"), ("d", "y" * 999)):
        _log(server, id, picture)
        _move_picture(server, id, path)
    runs = open_source("wandb:study/p")
    assert [sorted(run.grids) for run in runs] == [[1, 3]] * 4
    for run in runs:
        assert "1 sample grid(s) are left out: their files could not be had" in run.notes
        assert all(api._root() in path.parents for path in run.grids.values())


@pytest.mark.parametrize("status", [404, 500])
def test_pictures_that_cannot_be_fetched(
    server: StandIn, picture: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Catches a report that fails or hangs for missing pictures, a missing picture that is not counted, and one that is
    never requested again."""
    monkeypatch.setattr(pictures, "TOGETHER_S", 5.0)
    _log(server, "a", picture)
    server.fail(status, 1000, where="GET /storage")
    (run,) = open_source("wandb:study/p")
    assert not run.grids and run.last_step == 3
    assert "3 sample grid(s) are left out: their files could not be had" in run.notes
    server._failures.clear()
    (run,) = open_source("wandb:study/p")
    assert sorted(run.grids) == [1, 2, 3] and not run.notes


def test_a_servers_names_are_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run called `..` that takes the place of its project's folder in the cache, and a name that no file can
    have. Also catches ordinary names that are changed, so that cached runs are read again."""
    root = api._root()
    assert api._folder(["study", "p", "run-1.x"]) == root / "study/p/run-1.x"
    for part in ("..", ".", "", "a/b", "/etc", "x" * 300, "a\0", ".hidden"):
        assert api._folder(["study", "p", part]).parent == root / "study/p"
        assert api._folder(["study", "p", part]).name.startswith("id-")
    assert not api._cached("../..")
