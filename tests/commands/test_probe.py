"""`ddpm probe` measures the curvature of a finished run, into its record or a file."""

import itertools
import json
import signal
from pathlib import Path
from unittest import mock

import pytest
import torch
import wandb

from ddpm.commands.cli import main
from ddpm.commands.probe_checkpoints import _DESIGN, _DRAWS, probe
from ddpm.config.stored import differences
from ddpm.curvature.probe import CurvatureProbe, Measurement
from ddpm.errors import Held, UserError
from ddpm.models.stored import load_checkpoint
from ddpm.runtime.signals import Interrupted
from ddpm.tracking.run_folder import RunFolder
from ddpm.tracking.sync import sync
from ddpm.training.loop import train
from reports.sources import open_source
from tests.tracking.test_tracking_online import _history, _record, _rows
from tests.training.test_train import NO_WANDB, PLAIN, tiny
from wandb_standin import StandIn

# Exact products: in so narrow a network, finite differences are checked, and the check falls back to exact products.
_EXACT = [*PLAIN, "--curvature.enabled=true", "--curvature.exact=true", "--curvature.lanczos_steps=3"]
_UNPROBED = [*_EXACT, "--curvature.enabled=false"]


def _curvature(rows: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    kept = {step: {k: v for k, v in row.items() if k.startswith("curvature/")} for step, row in rows.items()}
    return {step: row for step, row in kept.items() if row}


def test_a_run_probed_afterwards_has_what_it_would_have_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The numbers are equal bitwise at every checkpoint, in the folder and in W&B's offline files. A second call has
    nothing to do.

    Catches draws or weights that differ from the training's, and rows that replace those of the same step.
    """
    during = train(tiny(tmp_path / "a", *_EXACT))
    after = train(tiny(tmp_path / "b", *_UNPROBED))
    assert not _curvature(_all_rows(after))
    probe(after, [], None, "cpu", None)
    said = capsys.readouterr().out
    assert "ref_trace_mean" in said
    assert "ddpm sync" in said
    assert _curvature(_all_rows(after)) == _curvature(_all_rows(during))
    assert all("train/loss" in _all_rows(after)[step] for step in (2, 4))
    wandb.teardown()  # W&B writes its file after `finish` has returned
    for source in (tmp_path / "b/runs", tmp_path / "wandb"):
        runs = [run for run in open_source(str(source), ["e6"]) if after.name in run.id]
        assert [len(run.series("curvature/ref_trace_mean")) for run in runs] == [2]
        assert [len(run.series("train/loss")) for run in runs] == [2]
    begun = len(list((tmp_path / "wandb").glob("offline-run-*")))
    assert probe(after, [], None, "cpu", None) == "2 of 2 checkpoints had these numbers already"
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == begun
    capsys.readouterr()
    probe(after, ["--curvature.method=[hutchinson,lanczos]"], None, "cpu", None)
    said = capsys.readouterr().out
    assert "top_eigenvalue" in said
    assert "ref_trace_mean" not in said  # it was there already


def _all_rows(folder: Path) -> dict[int, dict[str, float]]:
    with RunFolder.at(folder) as held:
        return dict(held.rows)


def test_what_is_added_reaches_the_server(tmp_path: Path, server: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    """Online the numbers arrive at once. Offline `ddpm sync` sends them, and it knows which rows the server has in
    part. A report that cached the run sees them, and the summary keeps the last step. Catches numbers that stay on one
    disk."""
    folder = train(tiny(tmp_path, *_UNPROBED, "--eval.fid_milestone.enabled=true"))
    source = f"wandb:{_record(server).entity}/{_record(server).project}"
    assert not len(open_source(source, ["e6"])[0].series("curvature/ref_trace_mean"))
    probe(folder / "checkpoints/step-000002.pt", [], None, "cpu", None)
    assert "W&B: uploaded 1 row" in capsys.readouterr().out
    assert _history(_record(server)) == _all_rows(folder)
    assert (_record(server).state, _record(server).summary["step"]) == ("finished", 4)
    assert len(open_source(source, ["e6"])[0].series("curvature/ref_trace_mean")) == 1
    with mock.patch.dict("os.environ", {"WANDB_MODE": "offline"}):
        probe(folder, ["--curvature.method=lanczos"], None, "cpu", None)
    assert "ddpm sync" in capsys.readouterr().out
    assert "curvature/top_eigenvalue" not in _history(_record(server))[4]
    assert "uploaded 2 rows" in next(iter(sync(tmp_path / "runs")))
    assert _history(_record(server)) == _all_rows(folder)
    assert next(iter(sync(tmp_path / "runs"))).endswith("everything is on the server")


def test_a_run_trained_offline_goes_up_whole(tmp_path: Path, server: StandIn) -> None:
    """The training was offline and the probe has a server: rows, config and the run's end arrive with the curvature.
    Catches a sync that sees the new keys of the probed steps on the server and takes the rows for complete."""
    folder = train(tiny(tmp_path, *_UNPROBED, "--logging.wandb.mode=offline"))
    with mock.patch.dict("os.environ", {"WANDB_MODE": "online"}):
        probe(folder, [], None, "cpu", None)
    assert _history(_record(server)) == _all_rows(folder)
    assert next(iter(sync(tmp_path / "runs"))).endswith("everything is on the server")


def test_a_probe_that_ends_early_keeps_what_it_has(
    tmp_path: Path, server: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the probe is stopped in the second checkpoint, it sends the first. If it is killed between folder and server,
    the next command sends what the folder has. A torn last line costs no row. Catches numbers that no command will ever
    send."""
    folder = train(tiny(tmp_path, *_UNPROBED))
    measure = CurvatureProbe.measure

    def stopped(self: CurvatureProbe, model: object, step: int, *more: object, **keys: object) -> Measurement:
        if step == 4:
            raise Interrupted(signal.SIGTERM)
        return measure(self, model, step, *more, **keys)  # type: ignore[arg-type]

    with mock.patch.object(CurvatureProbe, "measure", stopped), pytest.raises(Interrupted):
        probe(folder, [], None, "cpu", None)
    assert "W&B: uploaded 1 row" in capsys.readouterr().out
    assert set(_curvature(_history(_record(server)))) == {2}
    log = folder / "loss.jsonl"
    log.write_bytes(log.read_bytes() + b'{"_i": 4, "out": {"curv')
    with (
        mock.patch("ddpm.commands.probe_checkpoints.send_amended", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        probe(folder, [], None, "cpu", None)
    assert set(_curvature(_all_rows(folder))) == {2, 4}
    assert set(_curvature(_history(_record(server)))) == {2}
    probe(folder, [], None, "cpu", None)
    assert set(_curvature(_history(_record(server)))) == {2, 4}


def test_a_run_that_will_go_on_is_refused(tmp_path: Path) -> None:
    """A row may still be missing. With the probe's numbers in it, the training would take that row for done. Catches a
    loss and an FID that are never logged."""
    folder = train(tiny(tmp_path, *_UNPROBED, NO_WANDB))
    (folder / "results.jsonl").unlink()
    before = (folder / "loss.jsonl").read_bytes()
    with pytest.raises(UserError, match="is not finished"):
        probe(folder, [], None, "cpu", None)
    assert (folder / "loss.jsonl").read_bytes() == before
    probe(folder, [], None, "cpu", tmp_path / "x.jsonl")
    with RunFolder.at(folder), pytest.raises(Held, match="write to a file with --out"):
        probe(folder, [], None, "cpu", None)


def test_a_file_goes_on_where_it_was(tmp_path: Path) -> None:
    """The probe stops after one of two checkpoints. The same command measures the other one; another command measures
    both. The file appears only when it is complete. Catches minutes of lost measurements, and lines with two designs in
    one file."""
    folder = train(tiny(tmp_path, *_UNPROBED, NO_WANDB))
    out, whole = tmp_path / "x.jsonl", tmp_path / "whole.jsonl"
    probe(folder, [], None, "cpu", whole)
    measure, seen = CurvatureProbe.measure, []

    def counted(self: CurvatureProbe, model: object, step: int, *more: object, **keys: object) -> Measurement:
        if seen == [2]:
            seen.append(0)
            raise Interrupted(signal.SIGTERM)
        seen.append(step)
        return measure(self, model, step, *more, **keys)  # type: ignore[arg-type]

    with mock.patch.object(CurvatureProbe, "measure", counted):
        with pytest.raises(Interrupted):
            probe(folder, [], None, "cpu", out)
        assert not out.exists()
        probe(folder, [], None, "cpu", out)
        assert seen == [2, 0, 4]
        assert out.read_bytes() == whole.read_bytes()
        out.rename(tmp_path / "x.jsonl.part")
        probe(folder, ["--curvature.seed=1"], None, "cpu", out)
    assert seen == [2, 0, 4, 2, 4]


def test_a_file_holds_the_values_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One checkpoint outside its run folder, by the command line: the file holds every v'Hv, and their mean is the
    logged number. The line carries the name of the checkpoint's run. Catches the name that a training with the probe's
    own settings would have."""
    folder = train(tiny(tmp_path, *_UNPROBED, NO_WANDB))
    alone = tmp_path / "alone.pt"
    alone.write_bytes((folder / "checkpoints/step-000004.pt").read_bytes())
    out = tmp_path / "some/where.jsonl"
    options = ["--method", "hutchinson,slq", "--probes", "4", "--curvature.lanczos_steps=3", "--out", str(out)]
    assert main(["probe", str(alone), *options]) == 0
    (line,) = map(json.loads, out.read_text().splitlines())
    assert (line["_i"], line["run_id"]) == (4, folder.name)
    values = line["details"]["curvature/ref_values"]
    assert len(values) == 4
    assert sum(values) / 4 == pytest.approx(line["out"]["curvature/ref_trace_mean"])
    assert len(line["details"]["curvature/ref_slq_nodes"]) == 2 * 3
    assert sum(line["details"]["curvature/ref_slq_weights"]) == pytest.approx(1)
    assert "step" in capsys.readouterr().out
    assert not _curvature(_rows(folder))
    assert main(["probe", str(alone)]) == 2
    assert "Give --out FILE" in capsys.readouterr().err


def test_one_key_of_a_run_keeps_one_meaning(tmp_path: Path) -> None:
    """Other probes, images or keys are refused before anything is written. They can go to a file."""
    folder = train(tiny(tmp_path, *_EXACT, NO_WANDB))
    before = (folder / "loss.jsonl").read_bytes()
    for overrides, data, said in (
        (["--curvature.probes=4"], None, "curvature.probes is 2 there, 4 here"),
        (["--curvature.weights=ema"], None, "curvature.weights is live there, ema here"),
        ([], str(_folder_of_images(tmp_path)), "trained on other images"),
        (["--seed=3"], None, "takes its options and --curvature.key=value"),
        (["--curvature.probes", "4"], None, "takes its options and --curvature.key=value"),
        (["--curvature.method=hutch"], None, "noise_scale"),
    ):
        with pytest.raises(UserError, match=said):
            probe(folder, overrides, data, "cpu", None)
    strange = folder / "checkpoints/mine.pt"
    torch.save({"weights": torch.ones(1)}, strange)
    with pytest.raises(UserError, match="no checkpoint of a training"):
        probe(strange, [], None, "cpu", None)
    with pytest.raises(UserError, match="cannot be written: it is a folder"):
        probe(folder, [], None, "cpu", tmp_path)
    other = train(tiny(tmp_path / "other", *_UNPROBED, NO_WANDB, "--seed=5"))
    strange.write_bytes((other / "checkpoints/step-000004.pt").read_bytes())
    with pytest.raises(UserError, match="belongs to another run"):
        probe(strange, [], None, "cpu", None)
    strange.unlink()
    with pytest.raises(UserError, match="neither a checkpoint nor a run folder"):
        probe(tmp_path / "none", [], None, "cpu", None)
    assert (folder / "loss.jsonl").read_bytes() == before
    out = tmp_path / "other.jsonl"
    probe(folder, ["--curvature.probes=4", "--curvature.weights=ema"], str(_folder_of_images(tmp_path)), "cpu", out)
    assert len(out.read_text().splitlines()) == 2


def _folder_of_images(tmp_path: Path) -> Path:
    from PIL import Image

    folder = tmp_path / "images/train/grey"
    folder.mkdir(parents=True, exist_ok=True)
    for shade in range(200):
        Image.new("RGB", (32, 32), (shade,) * 3).save(folder / f"{shade}.png")
    return tmp_path / "images"


def test_older_runs_had_the_studys_draws(tmp_path: Path) -> None:
    """A run from before `curvature.draws` counts as `batch`. Other draws are refused, and its config differs from
    today's if the curvature is measured. Catches two schemes in one curve."""
    folder = train(tiny(tmp_path, *_EXACT, NO_WANDB))
    record = json.loads((folder / "run.json").read_text())
    del record["config"]["curvature"]["draws"], record["config"]["curvature"]["neutral"]
    (folder / "run.json").write_text(json.dumps(record))
    for path in (folder / "checkpoints").iterdir():
        state = load_checkpoint(path)
        del state["config"]["curvature"]["draws"], state["config"]["curvature"]["neutral"]
        torch.save(state, path)
    with pytest.raises(UserError, match="draws is batch there, fixed here"):
        probe(folder, ["--curvature.method=lanczos"], None, "cpu", None)
    now = tiny(tmp_path, *_EXACT)
    found = differences(record["config"], now.nested())
    assert found == ["curvature.draws was batch, is fixed", "curvature.neutral was False, is True"]
    off = tiny(tmp_path, "--curvature.enabled=false")
    older = off.nested()
    del older["curvature"]["draws"], older["curvature"]["neutral"]
    assert differences(older, off.nested()) == []


def test_designs_are_of_keys_of_the_config() -> None:
    """Catches a design that names a key which the config does not have."""
    from ddpm.config.sections import Curvature

    assert {*_DRAWS, *itertools.chain.from_iterable(_DESIGN.values())} <= {*Curvature.model_fields}
