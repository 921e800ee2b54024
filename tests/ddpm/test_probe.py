"""`ddpm probe`: the curvature of a run that is over, in its record or in a file."""

import json
from pathlib import Path
from unittest import mock

import pytest
import wandb

from ddpm.cli import METHODS, main
from ddpm.curvature import _METHODS
from ddpm.errors import UserError
from ddpm.probe import _MARKS, probe
from ddpm.tracking.run_folder import RunFolder
from ddpm.tracking.sync import sync
from ddpm.train import train
from reports.sources import open_source
from tests.ddpm.test_tracking_online import _history, _record, _rows
from tests.ddpm.test_train import tiny
from tests.wandb_standin import StandIn

# Exact products: differences in so narrow a network are checked, and what is checked falls back to them.
_SCORELESS = [f"--eval.{part}.enabled=false" for part in ("grid", "final", "recon")]
_EXACT = ["--curvature.exact=true", *_SCORELESS]


def _curvature(rows: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    kept = {step: {k: v for k, v in row.items() if k.startswith("curvature/")} for step, row in rows.items()}
    return {step: row for step, row in kept.items() if row}


def test_a_run_probed_afterwards_has_what_it_would_have_logged(tmp_path: Path) -> None:
    """At every checkpoint, bitwise, in the folder and in W&B's offline files; a second time nothing is to be done.

    Catches other draws or weights than the training's, and rows that replace those of the same step.
    """
    during = train(tiny(tmp_path / "a", *_EXACT))
    after = train(tiny(tmp_path / "b", *_EXACT, "--curvature.enabled=false"))
    assert not _curvature(_all_rows(after))
    said = probe(after, [], None, "cpu", None)
    assert "ref_trace_mean" in said
    assert "ddpm sync" in said
    assert _curvature(_all_rows(after)) == _curvature(_all_rows(during))
    assert all("train/loss" in _all_rows(after)[step] for step in (2, 4))
    wandb.teardown()  # W&B writes its file after `finish` has returned
    for source in (tmp_path / "b/runs", tmp_path / "wandb"):
        runs = [run for run in open_source(str(source), ["e6"]) if after.name in run.id]
        assert [len(run.series("curvature/ref_trace_mean")) for run in runs] == [2]
        assert [len(run.series("train/loss")) for run in runs] == [2]
    assert probe(after, [], None, "cpu", None) == "2 of 2 checkpoints had these numbers already"
    assert "top_eigenvalue" in probe(after, ["--curvature.method=lanczos"], None, "cpu", None)


def _all_rows(folder: Path) -> dict[int, dict[str, float]]:
    with RunFolder.at(folder) as held:
        return dict(held.rows)


def test_what_is_added_reaches_the_server(tmp_path: Path, server: StandIn) -> None:
    """Online at once; offline by `ddpm sync`, which knows of rows that the server has in part. A report that cached the
    run sees them. Catches numbers that stay on one disk."""
    folder = train(tiny(tmp_path, *_EXACT, "--curvature.enabled=false"))
    source = f"wandb:{_record(server).entity}/{_record(server).project}"
    assert not len(open_source(source, ["e6"])[0].series("curvature/ref_trace_mean"))
    assert "on W&B too" in probe(folder, [], None, "cpu", None)
    assert _history(_record(server)) == _all_rows(folder)
    assert _record(server).state == "finished"
    assert len(open_source(source, ["e6"])[0].series("curvature/ref_trace_mean")) == 2
    with mock.patch.dict("os.environ", {"WANDB_MODE": "offline"}):
        assert "ddpm sync" in probe(folder, ["--curvature.method=lanczos"], None, "cpu", None)
    assert "curvature/top_eigenvalue" not in _history(_record(server))[4]
    assert "uploaded 2 rows" in next(iter(sync(tmp_path / "runs")))
    assert _history(_record(server)) == _all_rows(folder)
    assert next(iter(sync(tmp_path / "runs"))).endswith("everything is on the server")


def test_a_file_holds_the_values_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One checkpoint on its own, by the command line: every v'Hv, whose mean is what is logged."""
    folder = train(tiny(tmp_path, *_EXACT, "--curvature.enabled=false"))
    alone = tmp_path / "alone.pt"
    alone.write_bytes((folder / "checkpoints/step-000004.pt").read_bytes())
    out = tmp_path / "some/where.jsonl"
    options = ["--method", "hutchinson,slq", "--probes", "4", "--curvature.lanczos_steps=3", "--out", str(out)]
    assert main(["probe", str(alone), *options]) == 0
    (line,) = map(json.loads, out.read_text().splitlines())
    assert line["_i"] == 4
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
    """Other probes, images or keys are refused before anything is written, and do go to a file."""
    folder = train(tiny(tmp_path, *_EXACT))
    before = (folder / "loss.jsonl").read_bytes()
    for overrides, data, said in (
        (["--curvature.probes=4"], None, "curvature.probes was 2, is 4"),
        (["--curvature.weights=ema"], None, "curvature.weights was live, is ema"),
        ([], str(_folder_of_images(tmp_path)), "trained on other images"),
        (["--seed=3"], None, "keys of --curvature alone"),
        (["--curvature.method=hutch"], None, "noise_scale"),
    ):
        with pytest.raises(UserError, match=said):
            probe(folder, overrides, data, "cpu", None)
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


def test_methods_are_named_alike_everywhere() -> None:
    """Config, command line, code and marks. Catches a method that is in one place alone."""
    from typing import get_args

    from ddpm.config_sections import Method

    assert set(get_args(Method)) == set(METHODS) == {"hutchinson", *_METHODS} == set(_MARKS)
