"""Records that are damaged, foreign or short of rows. A report uses what fits, leaves the rest out, and says so."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddpm.config.files import load_config
from ddpm.config.run import Config
from ddpm.errors import UserError
from ddpm.files import checksums
from ddpm.files.rows import LARGEST_STEP
from reports import report
from reports.experiments import Study, load
from reports.report import make_report
from reports.sources import open_source
from tests.reports.conftest import rows_of, write_run

ROOT = Path(__file__).parents[2]
EVERY = [f"--eval.{part}.every=100" for part in ("grid", "fid_milestone", "recon")]


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures: the tests are about their numbers and words."""

    def load_bare(name: str) -> Study:
        return load(name).model_copy(update={"figures": ()})

    monkeypatch.setattr(report, "load", load_bare)


def config(experiment: str, *overrides: str) -> Config:
    """The whole config of a run like that of `rows_of`: a row every 10 of 200 steps."""
    given = ["--train.total_steps=200", "--logging.log_every_n_steps=10", *EVERY, *overrides]
    return load_config(ROOT / f"configs/smoke/{experiment}.yaml", given)


def write_whole(folder: Path, experiment: str, seed: int = 1) -> Path:
    """A finished run folder as the training leaves it: a whole config, a summary, and checksums."""
    write_run(folder, experiment, seed)
    steps: dict[int, dict[str, Any]] = {}
    for step, row in sorted(rows_of(experiment, seed), key=lambda pair: pair[0]):
        steps.setdefault(step, {}).update(row)
    lines = [json.dumps({"_i": step, "out": row}) for step, row in steps.items()]
    whole = config(experiment, f"--seed={seed}").nested()
    card = json.loads((folder / "run.json").read_text()) | {"config": whole}
    last = {key: value for row in steps.values() for key, value in row.items() if not isinstance(value, list)}
    result = json.dumps({"cfg": whole, "out": {"params": 5, "run_time_s": 1.0, **last}, "_i": 0})
    for name, contents in (("loss.jsonl", lines), ("run.json", [json.dumps(card)]), ("results.jsonl", [result])):
        checksums.replace(folder / name, contents)
        (folder / name).write_text("".join(f"{content}\n" for content in contents))
    return folder


def both(root: Path) -> Path:
    """Write whole runs of e5 and e6 and return the folder of e6."""
    write_whole(root / "runs" / "e5", "e5")
    return write_whole(root / "runs" / "e6", "e6")


def report_of(root: Path) -> str:
    """The Markdown page on the runs in `root`."""
    return make_report("e6", str(root / "runs"), root / "out").with_suffix(".md").read_text()


# ---- rows that are not there -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["--curvature.every=7", "--eval.grid.every=9"],
        ["--train.total_steps=37", "--eval.recon.enabled=true", "--eval.recon.every=11", "--eval.grid.enabled=false"],
        ["--logging.log_every_n_steps=90", "--curvature.enabled=false", "--eval.fid_milestone.every=30"],
    ],
)
def test_the_steps_that_have_a_row(overrides: list[str]) -> None:
    """Catches a report that misses rows where the training writes none, or expects none where it does."""
    cfg = config("e6", *overrides)
    for last in (1, 36, 37, 38, 200):
        assert cfg.row_steps(last) == [step for step in range(1, last + 1) if cfg.has_row(step)]


@pytest.mark.usefixtures("no_figures")
def test_missing_rows_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches means over fewer rows than the run logged, without a warning on the page and on stderr. Also catches a
    warning about a run that is whole."""
    path = both(tmp_path) / "loss.jsonl"
    assert "lacks" not in report_of(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"_i": 40,' not in line and '"_i": 60,' not in line))
    page = report_of(tmp_path)
    said = "e6 seed 1 (run e6-s1-e6) lacks 2 of its 20 rows (steps 40 to 60): the means of e6"
    assert f"**Warning: {said}" in page and said in capsys.readouterr().err
    assert "loss.jsonl: 2 line(s) that were written are not there" in page
    path.with_name("loss.jsonl.crc").unlink()
    assert said in report_of(tmp_path)
    assert "checksums" not in report_of(tmp_path)


def test_the_originals_lack_nothing_that_can_be_said(originals: Path) -> None:
    """The original configs do not say which steps have rows. Catches missing rows that are inferred from them."""
    assert [run.missing_rows for run in open_source(str(originals))] == [([], 0)] * 3


@pytest.mark.parametrize("cut", [1, 10, 200])
@pytest.mark.usefixtures("no_figures")
def test_a_torn_last_line_costs_that_line_alone(tmp_path: Path, cut: int) -> None:
    """Catches `final/fid`, which the summary still has, dropped because the torn line held its protocol."""
    path = both(tmp_path) / "loss.jsonl"
    whole = report_of(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    page = report_of(tmp_path)
    assert [line for line in page.splitlines() if line.startswith("| *final*")] == [
        line for line in whole.splitlines() if line.startswith("| *final*")
    ]
    assert ("lacks 1 of its 20 rows (step 200)" in page) == (cut > 1)


@pytest.mark.parametrize("content", ["", "\n", "{", "[]", "{}"])
def test_a_result_that_is_none(tmp_path: Path, content: str) -> None:
    """Catches a run that counts as finished for one reader and as unfinished for another."""
    folder = write_run(tmp_path / "r", "e5")
    (folder / "results.jsonl").write_text(content)
    (run,) = open_source(str(tmp_path))
    assert run.state == "unfinished"
    assert "results.jsonl holds no result: the run counts as not finished" in run.notes


# ---- values and lines that do not fit --------------------------------------------------------------------

_LINES: dict[str, tuple[str, str]] = {
    "an infinite step": ('{"_i": Infinity, "out": {"train/loss": 1}}', "1 line(s) without a step or values"),
    "a step beyond 64 bits": (f'{{"_i": {2**63}, "out": {{"train/loss": 1}}}}', "1 line(s) without a step or values"),
    "a negative step": ('{"_i": -10, "out": {"train/loss": 1}}', "1 line(s) without a step or values"),
    "brackets": ("[" * 200_000, "1 malformed line(s)"),
    "half a surrogate pair": ('{"_i": 30, "out": {"train/lo\\ud800s": 1}}', "1 malformed line(s)"),
    "a number of 5,000 digits": ('{"_i": 30, "out": {"train/mse": ' + "9" * 5000 + "}}", "1 malformed line(s)"),
}


@pytest.mark.parametrize("name", _LINES)
@pytest.mark.usefixtures("no_figures")
def test_a_line_that_does_not_fit(tmp_path: Path, name: str) -> None:
    """Catches a traceback for one bad line, a bad line whose number is not named, and other lines that are lost with
    it."""
    line, said = _LINES[name]
    path = both(tmp_path) / "loss.jsonl"
    report_of(tmp_path)
    before = (tmp_path / "out/numbers.csv").read_bytes()
    path.write_text(line + "\n" + path.read_text())
    assert f"loss.jsonl: {said} were skipped (line 1)" in report_of(tmp_path)
    assert (tmp_path / "out/numbers.csv").read_bytes() == before


_VALUES: dict[str, tuple[str, Any, str]] = {
    "400 digits": ("train/mse", 10**400, "train/mse is NaN or infinite at 1 step(s), first at 30"),
    "a vast error": ("curvature/hutch_trace_sem", 1e308, "infinite, or beyond 1e+100, at 1 step(s), first at 30"),
    "text": ("train/loss", "0.25", "train/loss: 1 value(s) that are not numbers are left out, the first at step 30"),
    "a mapping": ("train/loss", {"a": 1}, "train/loss: 1 value(s) that are not numbers are left out"),
    "a number for a protocol": ("val/fid_protocol", 5, "val/fid\\_protocol: 1 value(s) that are not numbers"),
    "a name of no text": ("train/\x1b[31m", 5.0, "train/\\\\x1b\\[31m: 1 value(s) that are not numbers are left out"),
}


@pytest.mark.parametrize("name", _VALUES)
@pytest.mark.usefixtures("no_figures")
def test_a_value_that_does_not_fit(tmp_path: Path, name: str) -> None:
    """Catches an overflow in a number computed from the value, and a text in place of a number that is dropped without
    a note."""
    metric, value, said = _VALUES[name]
    path = both(tmp_path) / "loss.jsonl"
    with path.open("a") as file:
        file.write(json.dumps({"_i": 30, "out": {metric: value}}) + "\n")
    assert said in report_of(tmp_path)


_CARDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a config that is a list": lambda card: card | {"config": [], "sessions": [5]},
    "nothing but a session": lambda card: {"sessions": [5]},
    "a seed that is a list": lambda card: card | {"seed": [1]},
    "a seed beyond 64 bits": lambda card: card | {"seed": 10**30},
    "protocols that are texts": lambda card: card | {"protocols": {"aaaa1111": "text", "bbbb2222": {}}},
    "a deep config": lambda card: card | {"config": card["config"] | {"deep": _deep(400)}},
    "vast probes": lambda card: card | {"config": card["config"] | {"curvature": {"probes": 10**400}}},
    "a list": lambda card: [card],
}


def _deep(depth: int) -> dict[str, Any]:
    return {"a": _deep(depth - 1)} if depth else {}


@pytest.mark.parametrize("name", _CARDS)
@pytest.mark.usefixtures("no_figures")
def test_a_run_json_of_another_shape(tmp_path: Path, name: str) -> None:
    """The folder's name and the results still identify the run. Catches a traceback, and parts left out without a
    note."""
    path = both(tmp_path) / "run.json"
    path.write_text(json.dumps(_CARDS[name](json.loads(path.read_text()))))
    (run,) = (run for run in open_source(str(tmp_path / "runs")) if run.source.name == "e6")
    assert run.experiment == "e6" and run.last_step == 200
    assert any("run.json" in note for note in run.notes)
    report_of(tmp_path)


@pytest.mark.usefixtures("no_figures")
def test_an_error_names_the_damage_behind_it(tmp_path: Path) -> None:
    """Catches "no runs of e6" for a folder with e6 whose record was changed."""
    path = both(tmp_path) / "run.json"
    path.write_text(path.read_text().replace('"experiment": "e6"', '"experiment": "d6"'))
    with pytest.raises(UserError, match=r"Experiments there: d6, e5.*run\.json is not as it was written"):
        report_of(tmp_path)


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback for a file without read permission."""
    folder = write_run(tmp_path / "r", "e5")

    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(UserError, match=rf"{folder}/loss\.jsonl cannot be read: Permission denied"):
        open_source(str(tmp_path))


# ---- pictures --------------------------------------------------------------------------------------------


def test_pictures_stay_inside_the_folder(tmp_path: Path) -> None:
    """Catches a report that follows a link in somebody's run folder and draws a picture of this machine, and a picture
    left out without a note."""
    folder = write_run(tmp_path / "runs" / "r", "e5")
    secret = tmp_path / "secret.png"
    secret.write_bytes((folder / "samples/step-000100.png").read_bytes())
    (folder / "samples/step-000300.png").symlink_to(secret)
    (run,) = open_source(str(tmp_path / "runs"))
    assert sorted(run.grids) == [100, 200]
    assert "1 sample grid(s) are left out: their files could not be had" in run.notes


# ---- checksums -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_figures")
def test_a_digit_that_turned_is_said(tmp_path: Path) -> None:
    """Catches a changed number without a warning. A run without checksums gives no warning; a run whose checksums were
    lost says so."""
    path = both(tmp_path) / "loss.jsonl"
    content = path.read_bytes()
    at = content.index(b'"train/loss": 0.') + len(b'"train/loss": 0.')
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    said = "loss.jsonl: 1 line(s) are not as they were written, or their checksums are lost (line 2)"
    assert said in report_of(tmp_path)
    path.write_bytes(content)
    assert "checksums" not in report_of(tmp_path)
    place = path.with_name("loss.jsonl.crc")
    place.write_text("".join(place.read_text().splitlines(keepends=True)[:-1]))
    assert said.replace("(line 2)", "(line 21)") in report_of(tmp_path)


def test_what_a_line_of_a_record_may_hold() -> None:
    """The largest step is the last integer with a float of its own. Catches a step that shares its float with the
    next."""
    assert float(LARGEST_STEP) != float(LARGEST_STEP - 1)
    assert float(LARGEST_STEP) == float(LARGEST_STEP + 1) and math.isfinite(LARGEST_STEP)
