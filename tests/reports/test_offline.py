"""The reader of W&B transaction logs, tested against the official tool and with damaged files."""

import json
import math
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb

from reports.sources import cache, offline, open_source
from tests.reports.conftest import WandbRuns, environment, wandb_file, write_run


@pytest.fixture(scope="module")
def official(wandb_runs: WandbRuns) -> list[dict[str, Any]]:
    """The records of e5's file as `wandb leet inspect --json` prints them."""
    if wandb.__version__.startswith("0.30."):
        pytest.skip("wandb 0.30 has no `leet inspect`")
    path = wandb_file(wandb_runs.wandb, "e5")
    found = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", path],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=wandb_runs.wandb.parent,  # the tool leaves a log in ./wandb
        check=True,
    )
    return [json.loads(line) for line in found.stdout.splitlines()]


def test_history_agrees_with_the_official_tool(wandb_runs: WandbRuns, official: list[dict[str, Any]]) -> None:
    """Catches lost rows, changed values (NaN and infinities too), and misread framing."""
    numbers = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    expected: dict[tuple[int, str], float] = {}
    for record in official:
        if record["type"] != "history":
            continue
        item = record["history"]["item"]
        for key, value in item.items():
            value = numbers.get(value, value) if isinstance(value, str) else value
            if isinstance(value, int | float) and not key.startswith(("_", "samples/grid")) and key != "step":
                expected[item["step"], key] = float(value)
    run = next(run for run in open_source(str(wandb_runs.wandb)) if run.experiment == "e5")
    for (step, key), value in expected.items():
        got = float(run.history.loc[step, key])
        assert got == value or (math.isnan(got) and math.isnan(value)), (step, key)
    assert int(run.history.notna().sum().sum()) == sum(not math.isnan(v) for v in expected.values())
    assert any(math.isnan(v) for v in expected.values()) and any(math.isinf(v) for v in expected.values())


def test_record_count_agrees_with_the_official_tool(wandb_runs: WandbRuns, official: list[dict[str, Any]]) -> None:
    """Catches a reader that stops early at a block boundary (one record spans three blocks)."""
    data = wandb_file(wandb_runs.wandb, "e5").read_bytes()
    payloads, end = offline.read_records(data)
    assert len(data) > 3 * 32768 and end == len(data)
    assert len(payloads) == len(official)


def test_a_file_cut_anywhere_gives_a_prefix(wandb_runs: WandbRuns) -> None:
    """Catches an exception, or invented records, for a file that a kill truncated at any byte."""
    data = wandb_file(wandb_runs.wandb, "e5").read_bytes()
    whole, _ = offline.read_records(data)
    previous = 0
    cuts = [*range(0, 600), *range(600, len(data), 97), *range(32740, 32800), *range(65500, 65560)]
    for cut in sorted(set(cuts)):
        payloads, end = offline.read_records(data[:cut])
        assert payloads == whole[: len(payloads)] and end <= cut
        assert len(payloads) >= previous
        previous = len(payloads)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.02, 0.2, 0.5, 0.93])
def test_a_cut_run_is_read_and_noted(wandb_runs: WandbRuns, tmp_path: Path, share: float) -> None:
    """Catches a report that fails, or that calls a killed run finished."""
    source = wandb_file(wandb_runs.wandb, "e5")
    data = source.read_bytes()
    folder = tmp_path / source.parent.name
    folder.mkdir()
    (folder / source.name).write_bytes(data[: int(share * len(data))])
    (run,) = open_source(str(tmp_path))
    assert run.state == "unfinished"
    assert any("cut or damaged" in note for note in run.notes)
    assert run.id == "e5-s1-e5"
    if share > 0.15:
        assert len(run.history) > 3 and run.experiment == "e5"


def test_damage_in_the_middle_keeps_what_precedes_it(wandb_runs: WandbRuns) -> None:
    """Catches a reader that ignores checksums."""
    data = bytearray(wandb_file(wandb_runs.wandb, "e5").read_bytes())
    whole, _ = offline.read_records(bytes(data))
    data[9_000] ^= 0xFF
    payloads, end = offline.read_records(bytes(data))
    assert 0 < len(payloads) < len(whole) and end <= 9_000


def test_what_cannot_be_read_is_named_with_its_version(wandb_runs: WandbRuns, tmp_path: Path) -> None:
    """Catches a file of a later format or client that is read wrongly without a word, or blamed on damage alone."""
    source = wandb_file(wandb_runs.wandb, "e5")
    data = source.read_bytes()
    body = b"\xff"  # a protobuf field that never ends
    chunk = struct.pack("<IHB", zlib.crc32(b"\x01" + body), len(body), 1) + body
    payloads, _ = offline.read_records(data)
    after_header = 7 + 7 + len(payloads[0])  # the file's header, a chunk's header
    known, other = data[:after_header] + chunk, data[:6] + b"\x09" + data[7:]
    notes = []
    for name, content in (("known", known), ("other", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / source.name).write_bytes(content)
        (run,) = open_source(str(tmp_path / name))
        notes.append(run.notes[0])
    assert f"a record does not decode (written by wandb {wandb.__version__})" in notes[0]
    assert "has the file version e1be09; the known one is e1be00" in notes[1]


def test_a_file_of_another_kind_is_no_run_of_rows(tmp_path: Path) -> None:
    """Catches numbers read from a foreign file with a matching name."""
    (tmp_path / "run-x.wandb").write_bytes(b"not a log" * 100)
    (run,) = open_source(str(tmp_path))
    assert run.history.empty and run.notes


def test_files_of_one_id_are_merged_in_order_of_start(wandb_runs: WandbRuns, tmp_path: Path) -> None:
    """Catches a run resumed offline that counts as two runs, or whose older values win."""
    first = wandb_file(wandb_runs.wandb, "e5")
    for name, share in (("offline-run-1", 0.2), ("offline-run-2", 1.0)):
        (tmp_path / name).mkdir()
        data = first.read_bytes()
        (tmp_path / name / first.name).write_bytes(data[: int(share * len(data))])
    shutil.copytree(first.parent / "files", tmp_path / "offline-run-2" / "files")
    (run,) = open_source(str(tmp_path))
    (alone,) = open_source(str(tmp_path / "offline-run-2"))
    assert run.history.equals(alone.history) and run.state == "finished"


def test_one_run_folder_is_a_source(wandb_runs: WandbRuns) -> None:
    """Catches a source that may only be the outer `wandb` folder."""
    (run,) = open_source(str(wandb_file(wandb_runs.wandb, "e6").parent))
    assert run.experiment == "e6"


def test_a_long_file_is_read_once(wandb_runs: WandbRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a cached run that differs from the file's, and a cache that is never used."""
    monkeypatch.setattr(cache, "_LEAST_BYTES", 0)
    fresh = open_source(str(wandb_runs.wandb))

    def never(_: bytes) -> Any:
        raise AssertionError("the file was read, not the cache")

    monkeypatch.setattr(offline, "read_records", never)
    for run, kept in zip(fresh, open_source(str(wandb_runs.wandb)), strict=True):
        pd.testing.assert_frame_equal(run.history, kept.history)
        assert {k: v for k, v in vars(run).items() if k != "history"} == {
            k: v for k, v in vars(kept).items() if k != "history"
        }


def test_lists_are_those_of_a_run_folder(tmp_path: Path) -> None:
    """Catches lists of numbers that only one kind of source delivers, and a row with only lists that counts as a step
    in one of them."""
    rows: list[tuple[int, dict[str, Any]]] = [
        (0, {"curve/t": [0, 1], "curve/weight": [0.5, math.inf]}),
        (1, {"x": 1.0}),
        (2, {"x": 2.0, "curve/weight": [0.25, 4.0]}),
    ]
    write_run(tmp_path / "folders" / "r", "e6", rows=rows)
    settings = wandb.Settings(silent=True, x_disable_stats=True, console="off")
    with wandb.init(id="r", project="test", dir=tmp_path, mode="offline", settings=settings) as run:
        for step, row in rows:
            run.log({"step": step, **row})
    wandb.teardown()  # `finish` may return before the file is written
    (ours,) = open_source(str(tmp_path / "folders"))
    (theirs,) = open_source(str(tmp_path / "wandb"))
    assert ours.lists == theirs.lists
    assert ours.lists == {"curve/t": {0: (0.0, 1.0)}, "curve/weight": {0: (0.5, math.inf), 2: (0.25, 4.0)}}
    pd.testing.assert_frame_equal(ours.history, theirs.history)
    assert list(ours.history.index) == [1, 2]
