"""Random damage to a run's files, tested with the report, the continued training and the upload. No traceback, no
number that changes without a note, and an error that names its cause.

A few mutations by default; `DDPM_FUZZ=300 python -m pytest tests/reports/test_fuzz.py` for more.
"""

import contextlib
import csv
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ddpm.config.run import Config
from ddpm.errors import UserError
from ddpm.files import checksums
from ddpm.tracking.sync import sync
from ddpm.training.loop import train
from reports.report import make_report
from tests.once import once
from tests.reports.conftest import WandbRuns, wandb_file
from tests.reports.test_damaged import both, no_figures
from tests.training.test_train import NO_WANDB, PLAIN, tiny
from wandb_standin import StandIn
from wandb_standin.records import HISTORY

__all__ = ["no_figures"]
FILES = ("loss.jsonl", "run.json", "results.jsonl")
_WORDS = [b"NaN", b"-Infinity", b"-1", b"1e400", b"9" * 400, b'"text"', b"null", b"true", b"{}", b"[]", b"[" * 5000]


def _count(few: int) -> range:
    """One seed for each mutation: `few`, or the number in DDPM_FUZZ."""
    return range(int(os.environ.get("DDPM_FUZZ", few)))


def _mutated(content: bytes, rng: random.Random) -> bytes:
    """`content` with one fault: cut, a flipped bit, a piece missing or doubled, lines missing, or another value."""
    at, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    end = min(end, at + rng.choice([1, 8, 200, 5000]))
    ways: list[Callable[[], bytes]] = [
        lambda: content[:at],
        lambda: content[: len(content) - rng.randrange(1, 40)],
        lambda: content[:at] + content[end:],
        lambda: content[:end] + content[at:],
        lambda: content[:at] + rng.randbytes(end - at) + content[end:],
        lambda: content[:at] + b"\0" * (end - at) + content[end:],
        lambda: b"".join(line for line in content.splitlines(keepends=True) if rng.random() < 0.9),
        lambda: _turned(content, rng),
        lambda: _turned(content, rng),
        lambda: _replaced(content, rng),
        lambda: _replaced(content, rng),
    ]
    return rng.choice(ways)()


def _turned(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]


def _replaced(content: bytes, rng: random.Random) -> bytes:
    """`content` with one JSON value replaced: the text between a colon and the next comma."""
    colons = [place for place, byte in enumerate(content) if byte == ord(":")] or [0]
    at = rng.choice(colons) + 1
    stops = [place for stop in (b",", b"}") if (place := content.find(stop, at)) >= 0]
    return content[:at] + rng.choice(_WORDS) + content[min(stops, default=at) :]


@contextlib.contextmanager
def _damaged(path: Path, rng: random.Random) -> Iterator[None]:
    content = path.read_bytes()
    stamp = path.stat()
    path.write_bytes(_mutated(content, rng))
    try:
        yield
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


# ---- the report ------------------------------------------------------------------------------------------


def _outcome(source: Path, out: Path) -> tuple[list[list[str]], set[str]]:
    """The numbers of a report on e6, and the lines that say what is wrong with its runs."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        page = make_report("e6", str(source), out).with_suffix(".md").read_text()
    missing = page.partition("<summary>What is missing or left out")[2].partition("</details>")[0]
    warned = page.partition("<summary>Verdicts")[0]
    said = {line for line in missing.splitlines() if line.startswith("- ")}
    said |= {line for line in warned.splitlines() if line.startswith("**")}
    with (out / "numbers.csv").open() as file:
        return list(csv.reader(file)), said


def _assert_said(source: Path, path: Path, tmp_path: Path, few: int) -> None:
    numbers, usual = _outcome(source, tmp_path / "out")
    for seed in _count(few):
        with _damaged(path, random.Random(f"{path.name} {seed}")):
            try:
                found, said = _outcome(source, tmp_path / "out")
            except UserError as error:
                assert path.name in str(error), (seed, str(error))
                continue
            assert found == numbers or said - usual, (seed, path.name, "numbers changed, and nothing was said")


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("name", FILES)
def test_a_report_on_a_damaged_run_folder(tmp_path: Path, name: str) -> None:
    """Catches an exception that is not meant for users, a changed number or a lost row without a note, and an error
    that names the wrong file."""
    folder = both(tmp_path)
    _assert_said(tmp_path / "runs", folder / name, tmp_path, few=4)


@pytest.mark.usefixtures("no_figures")
def test_a_report_on_damaged_wandb_files(tmp_path: Path, wandb_runs: WandbRuns) -> None:
    """The same test for the client's own log."""
    shutil.copytree(wandb_runs.wandb, tmp_path / "wandb")
    _assert_said(tmp_path / "wandb", wandb_file(tmp_path / "wandb", "e6"), tmp_path, few=4)


# ---- the training that continues, and the upload ------------------------------------------------------------


def _config(root: Path) -> Config:
    return tiny(root, *PLAIN, NO_WANDB, "--checkpoint.every=1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps. The tests copy it."""
    return _config(once(tmp_path_factory, "to-damage", lambda root: train(_config(root)))).run_dir


def _rows(lines: list[str]) -> dict[int, dict[str, Any]]:
    """step -> row, without the times."""
    rows: dict[int, dict[str, Any]] = {}
    for line in map(json.loads, lines):
        step, out = (line["_i"], line["out"]) if "out" in line else (line["step"], line)
        kept = {k: v for k, v in out.items() if not k.startswith(("time/", "_")) and k != "step"}
        rows.setdefault(int(step), {}).update(kept)
    return rows


def _written(folder: Path) -> dict[int, dict[str, Any]]:
    return _rows((folder / "loss.jsonl").read_text().splitlines())


def test_a_training_that_goes_on_in_a_damaged_folder(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether or not the run is finished, the same command ends with the same rows or says what is wrong. Catches a
    traceback, and a damaged row that is rewritten as a valid one."""
    for seed in _count(4):
        rng = random.Random(seed)
        cfg = _config(tmp_path / str(seed))
        shutil.copytree(trained, cfg.run_dir)
        name = rng.choice(FILES[: 3 if seed % 2 else 2])
        path = cfg.run_dir / name
        damaged = _mutated(path.read_bytes(), rng)
        path.write_bytes(damaged)
        if not seed % 2:
            (cfg.run_dir / "results.jsonl").unlink()
        capsys.readouterr()
        try:
            train(cfg)
        except UserError as error:
            assert str(cfg.run_dir) in str(error), (seed, str(error))
            continue
        said = capsys.readouterr().out
        if "finished already" in said and path.read_bytes() == damaged:
            continue  # the training did nothing
        try:
            found = _written(cfg.run_dir)
        except (ValueError, LookupError, TypeError, AttributeError):
            found = {}
        assert found == _written(trained) or "warning: " in said, (seed, name, said)


def test_an_upload_of_a_damaged_folder(
    tmp_path: Path, trained: Path, server: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback, and an upload of wrong rows without a note."""
    for seed in _count(2):
        rng = random.Random(seed)
        folder = tmp_path / str(seed) / trained.name
        shutil.copytree(trained, folder)
        record = json.loads((folder / "run.json").read_text())
        record["config"]["logging"]["wandb"] |= {"project": f"p{seed}", "mode": "online"}
        text = json.dumps(record)
        (folder / "run.json").write_text(text)
        checksums.replace(folder / "run.json", [text])
        path = folder / rng.choice(FILES)
        path.write_bytes(_mutated(path.read_bytes(), rng))
        capsys.readouterr()
        try:
            said = "\n".join(sync(tmp_path / str(seed)))
        except UserError as error:
            assert str(folder) in str(error) or "run.json" in str(error), (seed, str(error))
            continue
        said += capsys.readouterr().out
        sent = [run.streams.get(HISTORY, []) for run in server.runs_of(f"p{seed}")]
        same = bool(sent) and _rows(sent[0]) == _written(trained)
        assert same or "left out" in said or "warning: " in said, (seed, path.name, said)
