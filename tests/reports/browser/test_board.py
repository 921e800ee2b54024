"""What the page is told, by numbers worked out by hand, and how much of a run is kept."""

import json
from pathlib import Path
from typing import Any

import pytest

from reports.browser.board import Board, metric_id
from reports.experiments import load
from reports.figures.style import colour
from reports.sources import open_source, watch
from tests.reports.conftest import rows_of, write_run


def _board(root: Path, experiment: str | None = "e6") -> Board:
    board = Board(str(root), load(experiment) if experiment else None)
    board.refresh()
    return board


def _asked(board: Board, name: str, since: int = 0) -> Any:
    return json.loads(board.answer(name, since))


def test_curves_and_pairs_are_the_rows_of_the_runs(two_seeds: Path) -> None:
    """Catches values of another run, metric or step, and an error that is not the logged one."""
    board = _board(two_seeds)
    state = _asked(board, "state")
    runs = {run["id"]: run for run in state["runs"]}
    loss, pairs = (_asked(board, name)["runs"] for name in (metric_id("train/loss"), "pairs"))
    for run in open_source(str(two_seeds)):
        key = runs[run.id]["key"]
        series = run.series("train/loss")
        assert loss[key]["x"] == series.index.tolist()
        assert loss[key]["y"] == pytest.approx(series.tolist(), rel=2**-23)  # float32
        found = pairs[key]["curvature/hutch_trace_mean"]
        assert found["step"] == [100, 200]
        assert found["x"] == run.series("curvature/hutch_trace_mean")[[100, 200]].tolist()
        assert found["y"] == run.series("val/fid").tolist()
        assert found["ex"] == run.series("curvature/hutch_trace_sem")[[100, 200]].tolist()
        assert found["ey"] == [None, None]


def test_groups_are_the_reports_arms_in_its_colours(two_seeds: Path) -> None:
    """Catches arms in other colours than the report's, and a legend that does not name the difference."""
    groups = _asked(_board(two_seeds), "state")["groups"]
    assert [(g["name"], g["colour"]) for g in groups] == [
        ("e5: loss.weighting = constant", colour("e5")),
        ("e6: loss.weighting = minsnr", colour("e6")),
    ]


def test_two_settings_of_one_experiment_are_two_groups(tmp_path: Path) -> None:
    """Catches a mean over runs that were trained differently."""
    write_run(tmp_path / "a", "e5", 1)
    write_run(tmp_path / "b", "e5", 2)
    write_run(tmp_path / "c", "e5", 1, train__total_steps=400)
    state = _asked(_board(tmp_path, None), "state")
    assert [g["name"] for g in state["groups"]] == ["e5; train.total_steps = 200", "e5; train.total_steps = 400"]
    assert [run["group"] for run in state["runs"]] == [0, 0, 1]
    assert len({(g["colour"], g["dash"]) for g in state["groups"]}) == 2
    assert state["swept"] == ["train.total_steps"]


def test_at_first_the_runs_of_the_report_are_shown(tmp_path: Path) -> None:
    """Catches another selection than the report's, and one that does not say why."""
    write_run(tmp_path / "a", "e5")
    write_run(tmp_path / "b", "e6")
    write_run(tmp_path / "c", "e1")
    write_run(tmp_path / "old", "e5", started="2025-01-01T00:00:00+00:00")
    state = _asked(_board(tmp_path), "state")
    assert {run["id"]: run["shown"] for run in state["runs"]} == {
        "e5-s1-a": True,
        "e6-s1-b": True,
        "e1-s1-c": False,
        "e5-s1-old": False,
    }
    assert any("e5-s1-old" in note and "newer run" in note for note in state["notes"])
    (tmp_path / "b" / "loss.jsonl").unlink()
    state = _asked(_board(tmp_path), "state")
    assert all(run["shown"] for run in state["runs"])
    assert any(note.startswith("All runs are shown") for note in state["notes"])


def test_traces_of_two_predictions_are_warned_of(tmp_path: Path) -> None:
    """Catches a reader who compares the traces of two functions without a word, and a warning without a cause."""
    write_run(tmp_path / "one" / "e5", "e5", diffusion__prediction="eps")
    write_run(tmp_path / "one" / "e6", "e6", diffusion__prediction="eps", loss__weighting="minsnr")
    assert not any("predictions" in note for note in _asked(_board(tmp_path / "one"), "state")["notes"])
    write_run(tmp_path / "two" / "e5", "e5", diffusion__prediction="eps")
    write_run(tmp_path / "two" / "e6", "e6", diffusion__prediction="v", loss__weighting="minsnr")
    notes = _asked(_board(tmp_path / "two"), "state")["notes"]
    assert any(note.startswith("The predictions differ (diffusion.prediction = eps, v)") for note in notes)


def test_only_what_is_new_is_answered_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a page that gets all curves every second, and one that misses a row."""
    monkeypatch.setattr(watch, "_REST", 0.0)
    for name, experiment in (("a", "e5"), ("b", "e6")):
        write_run(tmp_path / name, experiment, finished=False)
    board = _board(tmp_path)
    version = _asked(board, "state")["version"]
    assert "runs" not in _asked(board, "state", version)
    with (tmp_path / "a" / "loss.jsonl").open("a") as file:
        file.write(json.dumps({"_i": 300, "out": {"train/loss": 0.5}}) + "\n")
    board.refresh()
    assert _asked(board, "state", version)["runs"]
    (curve,) = _asked(board, metric_id("train/loss"), version)["runs"].values()
    assert curve["y"][-1] == 0.5


def test_a_damaged_run_is_named_and_the_rest_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a page that one file empties."""
    write_run(tmp_path / "a", "e5")
    write_run(tmp_path / "b", "e6")
    write_run(tmp_path / "c", "e6", 2)
    (tmp_path / "a" / "loss.jsonl").write_bytes((tmp_path / "a" / "loss.jsonl").read_bytes()[:-20])
    monkeypatch.setattr("reports.browser.board.make_card", _fails_for("e6-s2-c"))
    state = _asked(_board(tmp_path), "state")
    assert [run["id"] for run in state["runs"]] == ["e5-s1-a", "e6-s1-b"]
    assert any("loss.jsonl: 1 malformed line(s)" in note for note in state["runs"][0]["notes"])
    assert any("c cannot be shown (ZeroDivisionError: oh)" in note for note in state["notes"])


def _fails_for(id: str) -> Any:
    from reports.browser.cards import make_card

    def card(run: Any, changed: float) -> Any:
        if run.id == id:
            raise ZeroDivisionError("oh")
        return make_card(run, changed)

    return card


def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    """Catches a board that keeps whole histories: of a run it keeps thinned curves and one column."""
    rows = [(step, {f"m/{i}": float(step + i) for i in range(50)}) for step in range(5000)]
    write_run(tmp_path / "a", "e5", rows=rows)
    board = _board(tmp_path, None)
    (((_, _, card),),) = board._cards.values()
    assert card.run.history.shape == (5000, 1)
    assert max(len(curve["x"]) for curve in card.curves.values()) <= 401 and len(card.curves) == 50


def test_the_tables_numbers(tmp_path: Path) -> None:
    """Catches a last value for a lowest one, and a mean over the wrong rows."""
    rows: list[tuple[int, dict[str, Any]]] = [(step, {"train/loss": float(step)}) for step in range(1, 101)]
    rows += [(50, {"val/fid": 3.0}), (75, {"val/fid": 1.0}), (100, {"val/fid": 2.0})]
    write_run(tmp_path / "a", "e5", rows=rows)
    (run,) = _asked(_board(tmp_path, None), "state")["runs"]
    assert run["numbers"] == {
        "val/fid (lowest)": 1.0,
        "val/fid (last)": 2.0,
        "train/loss (mean of the last fifth)": sum(range(80, 101)) / 21,
    }


def test_every_name_has_an_answer_and_no_other(two_seeds: Path) -> None:
    board = _board(two_seeds)
    logged = {name for experiment in ("e5", "e6") for _, row in rows_of(experiment, 1) for name in row}
    assert metric_id("train/loss") in board.names() and "train/loss" in logged
    for name in board.names():
        assert "version" in _asked(board, name)
    with pytest.raises(KeyError):
        board.answer("metric-0")
