"""The page as files."""

import json
import re
from pathlib import Path

import pytest

from ddpm.commands import cli
from ddpm.errors import UserError
from reports.browser.board import Board
from reports.browser.export import export


def test_the_files_hold_the_answers(two_seeds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an answer or a picture that an export lacks."""
    assert cli.main(["dashboard", "e6", "--from", str(two_seeds), "--export", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "index.html")
    board = Board(str(two_seeds), None)
    board.refresh()
    names = {path.stem for path in (tmp_path / "out" / "data").iterdir()}
    assert names == set(board.names())
    for path in (tmp_path / "out" / "data").iterdir():
        name, found = re.fullmatch(r'answered\("(.*?)", (.*)\);\n', path.read_text(), re.DOTALL).groups()  # type: ignore[union-attr]
        assert name == path.stem and json.loads(found)["version"] > 0
    assert len(list((tmp_path / "out" / "grids").iterdir())) == len(board.grids()) == 8
    assert 'data-live="no"' in (tmp_path / "out" / "index.html").read_text()


def test_an_export_replaces_an_earlier_one_and_nothing_else(two_seeds: Path, tmp_path: Path) -> None:
    """Catches files of an earlier export that stay, and a folder of somebody's files that goes."""
    out = tmp_path / "out"
    export(str(two_seeds), None, out)
    (out / "data" / "old.js").touch()
    export(str(two_seeds), None, out)
    assert not (out / "data" / "old.js").exists()
    (out / "thesis.tex").touch()
    with pytest.raises(UserError, match="is no earlier export"):
        export(str(two_seeds), None, out)
    assert (out / "thesis.tex").exists() and (out / "index.html").exists()
    with pytest.raises(UserError, match="is no earlier export"):
        export(str(two_seeds), None, out / "index.html")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
