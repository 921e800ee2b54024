"""Writes the dashboard as files: the live page with the answers beside it, for a browser without a server."""

import shutil
import tempfile
from pathlib import Path

from ddpm.errors import UserError
from reports.browser import page
from reports.browser.board import Board
from reports.experiments import load

_OURS = ("data", "grids")  # folders that hold nothing else


def export(source: str, experiment: str | None, out: Path) -> Path:
    """Write the page of the runs below `source` into the folder `out`, all of it or nothing; returns the page.
    `experiment`: whose runs come first.

    An earlier export is replaced. A script holds each answer, as a browser reads no other files for a page from disk.
    Raises UserError: as `Board`; no such experiment; `out` is a file, holds something else, or cannot be written to.
    """
    board = Board(source, load(experiment) if experiment else None)
    if out.exists() and not _replaceable(out):
        raise UserError(f"{out} is no earlier export. Give a new or an empty folder for --export.")
    board.refresh()
    draft = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        draft.chmod(0o755)
        _fill(board, draft)
        if out.exists():
            shutil.rmtree(out)
        draft.rename(out)
    except OSError as error:
        raise UserError(f"The dashboard could not be written to {out}: {error}.") from error
    finally:
        if draft:
            shutil.rmtree(draft, ignore_errors=True)
    return out / "index.html"


def _replaceable(out: Path) -> bool:
    names = {path.name for path in out.iterdir()} if out.is_dir() else {""}
    return names <= {"index.html", *filter(None, page.FILES), *_OURS}


def _fill(board: Board, folder: Path) -> None:
    for name in page.FILES:
        (folder / (name or "index.html")).write_bytes(page.content(name, live=False))
    for part in _OURS:
        (folder / part).mkdir()
    for name in board.names():
        script = b"answered(%s, %s);\n" % (f'"{name}"'.encode(), board.answer(name))
        (folder / "data" / f"{name}.js").write_bytes(script)
    for key, step, path in board.grids():
        shutil.copyfile(path, folder / "grids" / f"{key}-{step}.png")
