"""Runs read from a W&B server have the same numbers as the offline files and the run folders."""

import csv
import math
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb

from ddpm.commands.cli import main
from ddpm.curvature.probe import CurvatureProbe, Measurement
from ddpm.errors import UserError
from ddpm.training.loop import train
from reports.report import make_report
from reports.sources import api, cache, open_source
from tests import processes
from tests.training.test_train import PLAIN, tiny
from wandb_standin import StandIn


def _numbers(out: Path) -> list[dict[str, str]]:
    with (out / "numbers.csv").open() as file:
        return list(csv.DictReader(file))


def _without_the_second_value(measure: Callable[..., Measurement]) -> Callable[..., Measurement]:
    def measured(*args: Any, **keys: Any) -> Measurement:
        found = measure(*args, **keys)
        for values in found.details.values():
            values[1] = math.nan
        return found

    return measured


@pytest.mark.usefixtures("unrendered")
def test_offline_runs_synced_to_a_server_give_the_same_report(
    tmp_path: Path, server: StandIn, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `wandb sync` of both arms' offline files, reports from the server, the files and the run folders have the
    same numbers, and the runs the same digests of criteria and lists of the draws' values, with a missing one. Catches
    sampled histories, lost digits, NaN as text, and a lost floor or protocol."""
    monkeypatch.setattr(CurvatureProbe, "measure", _without_the_second_value(CurvatureProbe.measure))
    for arm in ("e5", "e6"):
        train(
            tiny(tmp_path, "--logging.wandb.mode=offline", "--train.total_steps=6", "--curvature.probes=5", arm=arm),
            {"e6": "ab12"},
        )
    offline = sorted(str(p) for p in (tmp_path / "wandb").glob("offline-run-*"))
    processes.wandb_cli(tmp_path, "sync", *offline)
    sources = {"api": "wandb:study/min_snr_smoke", "files": str(tmp_path / "wandb"), "folders": str(tmp_path / "runs")}
    numbers = {}
    for name, source in sources.items():
        if name == "files":  # every figure is made once, from the server's runs
            request.getfixturevalue("few_figures")
        make_report("e6", source, tmp_path / name)
        numbers[name] = _numbers(tmp_path / name)
    assert len(numbers["api"]) > 20
    assert numbers["api"] == numbers["files"] == numbers["folders"]
    assert any(row["statistic"] == "mean_difference_low" for row in numbers["api"])
    assert [run.criteria for run in open_source(sources["folders"])] == [{"e6": "ab12"}] * 2
    lists = {name: [dict(sorted(run.lists.items())) for run in open_source(at)] for name, at in sources.items()}
    assert repr(lists["api"]) == repr(lists["files"]) == repr(lists["folders"])  # NaN does not equal itself
    (second,) = {repr(values[1]) for run in lists["api"] for values in run["curvature/ref_values"].values()}
    assert second == "nan" and all(len(run["curvature/ref_values"]) > 1 for run in lists["api"])
    grids = [run.grids for run in open_source(sources["api"])]
    assert [sorted(g) for g in grids] == [[2, 4, 6]] * 2
    for run, other in zip(open_source(sources["api"]), open_source(sources["files"]), strict=True):
        pd.testing.assert_frame_equal(run.history.sort_index(axis=1), other.history.sort_index(axis=1))
        assert {s: p.read_bytes() for s, p in run.grids.items()} == {s: p.read_bytes() for s, p in other.grids.items()}
        assert run.criteria == other.criteria == {"e6": "ab12"}
        assert run.images and run.images == other.images == open_source(sources["folders"])[0].images
        assert (run.experiment, run.seed, run.state, run.fingerprints) == (
            other.experiment,
            other.seed,
            other.state,
            other.fingerprints,
        )


@pytest.mark.usefixtures("unrendered")
def test_evaluations_and_probes_that_only_the_server_has(
    tmp_path: Path, server: StandIn, request: pytest.FixtureRequest
) -> None:
    """Evaluations and probes of a checkpoint give the same numbers.csv, byte for byte, from the run folder, from W&B's
    offline files, and from a server after `ddpm sync`. They count as no runs.

    Catches a number that loses digits on its way, an interval or a protocol that is lost, and an evaluation that is
    taken for a training.
    """
    request.getfixturevalue("few_figures")
    folder = train(tiny(tmp_path, *PLAIN, "--logging.wandb.mode=offline", arm="e5"))
    last = str(folder / "checkpoints/step-000004.pt")
    assert main(["evaluate", last, "--out", str(tmp_path / "eval"), "--n", "70", "--nfe", "1,2"]) == 0
    assert main(["probe", last, "--out", str(tmp_path / "probe"), "--method", "hutchinson", "--probes", "2"]) == 0
    assert main(["sync", str(tmp_path / "runs")]) == 0
    written = []
    for source in (str(tmp_path / "runs"), str(tmp_path / "wandb"), "wandb:study/min_snr_smoke"):
        (run,) = open_source(source)
        assert {each.metric for each in run.later} >= {"evaluate/fid", "probe/ref_trace_mean"}
        out = tmp_path / f"out {len(written)}"
        make_report("e5", source, out)
        written.append((out / "numbers.csv").read_bytes())
        assert "evaluate/fid" in (out / "report.md").read_text()
    assert written[0] == written[1] == written[2]
    assert written[0].count(b"evaluate/fid,ddim_nfe2_n70_seed0_embedded64-") == 3  # the FID and its interval


def test_a_run_with_steps_logged_twice_and_values_that_are_not_finite(server: StandIn) -> None:
    """The last value of a step counts. NaN and infinity are kept and noted. Rows without a step are skipped. A list
    is kept and makes no step. The run's page is known."""
    with wandb.init(project="p", id="r", config={"experiment": "e5", "seed": 3}) as run:
        run.define_metric("*", step_metric="step")
        run.log({"step": 0, "curve": [1, 2.5]})
        for step, loss in ((1, 1.0), (2, 2.0), (2, 5.0), (3, float("nan")), (4, float("inf"))):
            run.log({"step": step, "train/loss": loss})
        run.log({"other": 1})
    (found,) = open_source("wandb:study/p")
    assert found.series("train/loss").to_dict() == {1: 1.0, 2: 5.0}
    assert any("NaN or infinite at 2 step(s), first at 3" in note for note in found.notes)
    assert (found.experiment, found.seed, found.state) == ("e5", 3, "finished")
    assert found.lists == {"curve": {0: (1.0, 2.5)}} and list(found.history.index) == [1, 2, 3, 4]
    assert found.nan_steps == {"train/loss": (3,)}
    assert found.url == f"{server.url}/study/p/runs/r"


@pytest.mark.parametrize("path", ["study/none", "somebody/p"])
def test_a_project_that_cannot_be_read(
    server: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    """Catches a traceback, or a message that does not say which project, from which server, and what to do."""
    assert main(["report", "e6", "--from", f"wandb:{path}", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert re.search(rf"wandb:{path} cannot be read from http.*ENTITY/PROJECT.*wandb login", said), said


def test_a_project_without_permission(server: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The server's refusal is an error with that reason, even if the cache has the runs. Catches the client's own
    exception as a traceback, and old numbers shown to a user who lost access."""
    _log("a", range(2))
    open_source("wandb:study/p")
    server.fail(403, 100, where="Runs")
    assert main(["report", "e5", "--from", "wandb:study/p", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "wandb:study/p cannot be read" in said and "permission denied (HTTP 403)" in said


def test_without_a_login(monkeypatch: pytest.MonkeyPatch, server: StandIn) -> None:
    """The error comes at once, and nobody is asked for a key."""
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(UserError, match=r"cannot be read.*wandb login"):
        open_source("wandb:study/p")


def _log(id: str, steps: range, experiment: str = "e5") -> None:
    config = {"experiment": experiment, "seed": 1}
    with wandb.init(project="p", id=id, config=config, resume="allow") as run:
        for step in steps:
            run.log({"step": step, "train/loss": 1.0 / (step + 1)})


def _asked(server: StandIn, since: int) -> list[str]:
    return [name for name in server.requests[since:] if "History" in name]


def test_what_was_read_is_not_read_again(server: StandIn) -> None:
    """The second reading asks only for the list of runs if a run is unchanged, and only for the new rows if it went on.
    Catches a cache that is never used, and one that is used too long."""
    _log("a", range(5))
    _log("b", range(3))
    first = open_source("wandb:study/p")
    assert [run.last_step for run in first] == [4, 2]
    before = len(server.requests)
    assert _asked(server, 0)
    again = open_source("wandb:study/p")
    assert not _asked(server, before)
    for run, other in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(run.history, other.history)
    _log("b", range(3, 7))
    before = len(server.variables)
    assert [run.last_step for run in open_source("wandb:study/p")] == [4, 6]
    scans = [v for name, v in server.variables[before:] if "minStep" in v]
    assert [v["minStep"] for v in scans] == [3], scans


def test_only_the_experiments_asked_for_are_read(server: StandIn) -> None:
    """If none of them exists, all runs are read, so the message can list the experiments."""
    _log("a", range(2), "e5")
    _log("b", range(2), "e9")
    assert [run.experiment for run in open_source("wandb:study/p", ["e5", "e6"])] == ["e5"]
    assert [run.experiment for run in open_source("wandb:study/p", ["e7"])] == ["e5", "e9"]


def test_without_the_server_the_cache_is_used_and_said(server: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    """--offline-cache uses the cache silently. A server that does not answer gives a warning. An empty cache is an
    error. Each run's notes say why the cache was used and when the numbers were read, since a report outlives the
    printed warning."""
    with pytest.raises(UserError, match="not in the cache"):
        open_source("wandb:study/p", cached=True)
    _log("a", range(3))
    (fresh,) = open_source("wandb:study/p")
    assert not fresh.notes
    (card,) = Path(os.environ["DDPM_CACHE"]).rglob("card.json")
    then = datetime(2026, 3, 4, 5, 6, 59, tzinfo=UTC).timestamp()
    os.utime(card, (then, then))
    server.down()
    capsys.readouterr()
    (asked,) = open_source("wandb:study/p", cached=True)
    assert capsys.readouterr().out == ""
    (found,) = open_source("wandb:study/p")
    assert "does not answer" in capsys.readouterr().out
    read = f"the numbers are those read from {server.url} on 2026-03-04 05:06 UTC"
    assert asked.notes == (f"read from the cache, because of --offline-cache: {read}",)
    assert found.notes == (f"{server.url} did not answer: {read}",)
    for run in (asked, found):
        pd.testing.assert_frame_equal(run.history, fresh.history)
    server.up()


@pytest.mark.parametrize(("name", "left"), [("card.json", "{"), ("history.jsonl", '{"_step": 0, "st')])
def test_a_damaged_cache_is_read_anew(server: StandIn, name: str, left: str) -> None:
    """Catches a report that fails for a truncated cache file. Without the network, a damaged cache counts as empty."""
    _log("a", range(3))
    open_source("wandb:study/p")
    (kept,) = Path(os.environ["DDPM_CACHE"]).rglob(name)
    kept.write_text(left)
    assert [run.last_step for run in open_source("wandb:study/p")] == [2]
    kept.write_text(left)
    with pytest.raises(UserError, match="not in the cache"):
        open_source("wandb:study/p", cached=True)


def test_a_long_history_is_parsed_once(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the server's rows parsed again for every report, or shown differently the second time."""
    monkeypatch.setattr(cache, "_LEAST_BYTES", 0)
    _log("a", range(5))
    (first,) = open_source("wandb:study/p")
    with monkeypatch.context() as patch:
        patch.setattr(api, "collect", None)
        (again,) = open_source("wandb:study/p")
    pd.testing.assert_frame_equal(first.history, again.history)
    _log("a", range(5, 7))
    assert [run.last_step for run in open_source("wandb:study/p")] == [6]
