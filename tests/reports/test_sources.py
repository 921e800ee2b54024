"""Opening a source, reading run folders, and the agreement of both readers."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ddpm.errors import UserError
from ddpm.files.rows import parse
from reports.runs import Run
from reports.sources import folders, open_source
from tests.reports.conftest import WandbRuns, write_run


def test_bad_sources_say_what_was_looked_for(tmp_path: Path) -> None:
    """Catches a traceback, or an empty report, for a wrong path."""
    with pytest.raises(UserError, match="no such folder"):
        open_source(str(tmp_path / "absent"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        open_source(str(tmp_path / "file"))
    (tmp_path / "file").unlink()
    with pytest.raises(UserError, match=r"loss\.jsonl.*run-\*\.wandb"):
        open_source(str(tmp_path))


def test_original_logs(originals: Path) -> None:
    """Catches files of the original study whose experiment, steps, seed, commit or protocol is misread."""
    e1, e5, e6 = open_source(str(originals))
    assert [run.experiment for run in (e1, e5, e6)] == ["e1", "e5", "e6"]
    assert {run.seed for run in (e1, e5, e6)} == {1077}
    assert (e1.last_step, e5.last_step) == (50_000, 10_000)
    assert len(e5.series("curvature/hutch_trace_mean")) == 100
    assert "mins_snr_curve/weight" not in e6.history.columns
    t, weight = (e6.last_list(f"mins_snr_curve/{name}") for name in ("t", "weight"))
    assert t == tuple(range(1000)) and len(weight) == 1000 and not e5.lists and e5.last_list("mins_snr_curve/t") == ()
    assert e5.commit == "944a5b76537a255a2d990508fa766d65b9731ca7"
    assert e5.state == "finished" and e5.started is None and not e5.notes
    assert e1.protocol_of("val/fid") == e5.protocol_of("val/fid") == e6.protocol_of("val/fid")
    assert e5.protocols[e5.protocol_of("val/fid")]["nfe"] == 50
    assert e5.protocol_of("final/fid") != e5.protocol_of("val/fid")  # 10,000 samples, not 5,000


def test_our_run_folder(tmp_path: Path) -> None:
    """Catches an ignored run.json, misread steps of grids, and lost recorded fingerprints."""
    write_run(tmp_path / "any name", "e5", seed=3)
    (run,) = open_source(str(tmp_path))
    assert (run.id, run.experiment, run.seed) == ("e5-s3-any name", "e5", 3)
    assert run.started is not None and run.started.year == 2026
    assert sorted(run.grids) == [100, 200]
    assert run.protocol_of("val/fid") == "aaaa1111" and run.protocol_of("final/fid") == "bbbb2222"
    assert "val/fid_protocol" not in run.history.columns


def test_a_run_that_is_still_going(tmp_path: Path) -> None:
    """Catches a missing results.jsonl or a torn last line that stops the whole report."""
    folder = write_run(tmp_path / "r", "e5", finished=False)
    whole = len((folder / "loss.jsonl").read_text().splitlines())
    with (folder / "loss.jsonl").open("a") as file:
        file.write('{"_i": 210, "out": {"train/lo')
    (run,) = open_source(str(tmp_path))
    assert run.state == "unfinished" and run.last_step == 200
    assert run.notes == (f"loss.jsonl: 1 malformed line(s) were skipped (line {whole + 1})",)


def test_malformed_lines_are_counted(tmp_path: Path) -> None:
    """Catches rows that are lost without a note."""
    good = json.dumps({"_i": 1, "out": {"train/loss": 1.0}})
    folder = tmp_path / "e9"
    folder.mkdir()
    (folder / "loss.jsonl").write_text("\n".join(["garbage", good, "[1]", '{"_i": "x", "out": {}}', "", good]))
    (run,) = open_source(str(tmp_path))
    assert run.experiment == "e9" and len(run.history) == 1
    assert any("2 malformed line(s)" in note for note in run.notes)
    assert any("1 line(s) without a step" in note for note in run.notes)


def _read(folder: Path, lines: bytes) -> Run:
    folder.mkdir(exist_ok=True)
    (folder / "loss.jsonl").write_bytes(lines)
    (run,) = open_source(str(folder))
    return run


def test_awkward_lines(tmp_path: Path) -> None:
    """Catches NaN and Infinity, which Python writes but JSON's standard forbids, taken for damage. Also catches U+2028
    or CR LF that shift the line numbers, and zeros or undecodable bytes after a crash that end the reading."""
    lines = [
        b'{"_i": 1, "out": {"a": NaN, "b": 1}}\r',
        b'{"_i": 2, "out": {"a": Infinity, "b": true}}',
        b'{"_i": 3, "out": {"a": "-Infinity", "b": "NaN"}}',
        '{"_i": 4, "out": {"a": 4, "text": "one\u2028line"}}'.encode(),
        b'{"_i": 5, "out": {"a": 5, "text": "\xff"}}',
        b"\0\0\0\0",
        b"",
        b"\xff\xfe",
        b'{"_i": 6, "out": {"a": 6.0e0, "a": 7}}',
        b'{"_i": 7.0, "out": {"a": 1}}',
        b'{"_i": true, "out": {"a": 1}}',
        b'{"_i": 8, "out": {"a": 0.1, "b": 12345678901234567890123}}',
        b'{"_i": 9, "out": {"a": 1.',
    ]
    run = _read(tmp_path, b"\n".join(lines))
    history = run.history
    assert history.loc[[2, 3, 4, 5, 6, 8], "a"].to_list() == [math.inf, -math.inf, 4.0, 5.0, 7.0, 0.1]
    assert history["b"].dropna().to_dict() == {1: 1.0, 8: 12345678901234567890123.0}
    assert run.nan_steps == {"a": (1,), "b": (3,)}
    assert run.notes[0] == "loss.jsonl: 3 malformed line(s) were skipped (line 6, 8, 13)"
    assert run.notes[1] == "loss.jsonl: 2 line(s) without a step or values were skipped (line 10, 11)"
    assert run.notes[-1] == "b: 1 value(s) that are not numbers are left out, the first at step 2"


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1.7976931348623157e308, "b": 5e-324, "c": 2.2250738585072011e-308, "d": -0.0, "e": 0.1}',
        '{"a": 1e400, "b": -1e400, "c": 1e-400}',
        '{"a": 9007199254740993.0, "b": 18446744073709551615, "c": 123456789012345678.123456789}',
        '{"a": [NaN, -Infinity], "b": {"c": null}, "d": "\\ud83d\\ude00 \\\\ud800"}',
    ],
)
def test_quick_parsing_is_the_standard_librarys(text: str) -> None:
    """Catches a last digit, a sign or an overflow that differs between the two parsers."""
    assert repr(parse(text)) == repr(parse(text.encode())) == repr(json.loads(text))


def test_both_kinds_give_the_same_run(wandb_runs: WandbRuns) -> None:
    """Catches any difference between the two readers' results for the same training."""
    for ours, theirs in zip(open_source(str(wandb_runs.folders)), open_source(str(wandb_runs.wandb)), strict=True):
        shared = [column for column in theirs.history.columns if column != "no_step_of_its_own"]
        assert sorted(shared) == sorted(ours.history.columns)
        assert ours.history[shared].equals(theirs.history[shared])
        assert (ours.lists, ours.nan_steps) == (theirs.lists, theirs.nan_steps)
        assert (ours.id, ours.experiment, ours.seed) == (theirs.id, theirs.experiment, theirs.seed)
        assert ours.fingerprints == theirs.fingerprints and ours.protocols == theirs.protocols
        assert ours.commit == theirs.commit and ours.state == theirs.state == "finished"
        assert {k: v for k, v in theirs.config.items() if k != "commit"} == ours.config
        assert sorted(theirs.grids) == [100, 200]
        assert theirs.grids[200].read_bytes()[:4] == b"\x89PNG"


def test_run_folders_come_before_wandb_files(wandb_runs: WandbRuns) -> None:
    """Catches every run listed twice for a folder with both kinds of files."""
    assert len(open_source(str(wandb_runs.folders.parent))) == 2


def _long_run(folder: Path, scale: float = 1.0) -> Path:
    """A run folder of more than a megabyte, with every kind of value in its rows."""
    rows: list[tuple[int, dict[str, Any]]] = [(0, {"curve": [1, 2.5]})]
    rows += [(step, {f"m{i}": scale * math.sin(step + i) for i in range(16)}) for step in range(10, 2600)]
    rows += [(2600, {"m0": math.nan, "val/fid": 3.0, "val/fid_protocol": "old"})]
    rows += [(2610, {"m0": math.inf, "val/fid": 2.0, "val/fid_protocol": "aaaa1111"})]
    write_run(folder, "e5", rows=rows)
    with (folder / "loss.jsonl").open("a") as file:
        file.write("not JSON\n")
    assert (folder / "loss.jsonl").stat().st_size > 1_000_000
    return folder


def _same(run: Run, other: Run) -> None:
    pd.testing.assert_frame_equal(run.history, other.history)
    for name in ("lists", "nan_steps", "notes", "fingerprints", "protocols", "config", "summary", "grids", "state"):
        assert getattr(run, name) == getattr(other, name), name


def _never(*_: Any) -> Any:
    raise AssertionError("the file was read, not the cache")


def test_a_long_run_is_kept_and_read_again_only_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a cache that is never used or that differs from the file. Also catches one that stays valid after the
    file has more rows, other rows of the same length, or was replaced."""
    path = _long_run(tmp_path / "r") / "loss.jsonl"
    (first,) = open_source(str(tmp_path))
    assert first.lists == {"curve": {0: (1.0, 2.5)}} and first.nan_steps == {"m0": (2600,)} and len(first.notes) == 3
    with monkeypatch.context() as patch:
        patch.setattr(folders, "collect", _never)
        (again,) = open_source(str(tmp_path))
        _same(again, first)

    with path.open("a") as file:
        file.write('{"_i": 2620, "out": {"m0": 5.0}}\n')
    (longer,) = open_source(str(tmp_path))
    assert longer.last_step == 2620 and longer.history.loc[2620, "m0"] == 5.0

    text = path.read_text()
    path.write_text(text.replace('"_i": 2620, "out": {"m0": 5.0}', '"_i": 2620, "out": {"m0": 7.0}'))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    (other,) = open_source(str(tmp_path))
    assert other.history.loc[2620, "m0"] == 7.0

    _long_run(tmp_path / "aside", scale=2.0).joinpath("loss.jsonl").replace(path)
    (replaced,) = open_source(str(path.parent))
    assert replaced.history.loc[10, "m0"] == 2 * math.sin(10)


def test_a_damaged_cache_is_passed_by(tmp_path: Path) -> None:
    """Catches a report that fails, or shows wrong numbers, if a bit of the cache flipped or its file was truncated."""
    _long_run(tmp_path / "r")
    (first,) = open_source(str(tmp_path))
    (kept,) = Path(os.environ["DDPM_CACHE"]).rglob("*.npz")
    whole = kept.read_bytes()
    places = np.linspace(0, len(whole) - 1, 25).astype(int)
    damaged = [whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] for at in places]
    for content in [*damaged, b"", whole[: len(whole) // 2], b"something else"]:
        kept.write_bytes(content)
        (run,) = open_source(str(tmp_path))
        _same(run, first)
    assert list(kept.parent.iterdir()) == [kept]


def test_without_a_place_for_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an unusable cache folder or a full disk that ends the report, and partial files left there."""
    _long_run(tmp_path / "r")
    (tmp_path / "file").touch()
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "file"))
    (first,) = open_source(str(tmp_path))

    def full(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "full"))
    monkeypatch.setattr(np, "savez", full)
    (run,) = open_source(str(tmp_path))
    _same(run, first)
    assert not [path for path in (tmp_path / "full").rglob("*") if path.is_file()]


def test_short_runs_are_not_kept(originals: Path) -> None:
    """Catches cache entries for files that are as quick to read themselves."""
    open_source(str(originals))
    assert not list(Path(os.environ["DDPM_CACHE"]).rglob("*.npz"))
