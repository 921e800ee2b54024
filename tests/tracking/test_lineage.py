"""What came of what: data set, training, checkpoint, and the work on the checkpoint, on W&B's server."""

import json
from pathlib import Path

import pytest
import wandb

from ddpm.commands.cli import main
from ddpm.tracking.derived import works
from ddpm.tracking.sync import sync
from ddpm.training.loop import train
from tests.training.test_train import tiny
from wandb_standin import StandIn

UNMEASURED = tuple(f"--{part}.enabled=false" for part in ("curvature", "eval.recon", "eval.final"))
Edge = tuple[str, str, str, str]


def graph(server: StandIn, training: str) -> set[Edge]:
    """(job type, group; uses or logs; artifact's name; its digest, or aliases of a model) without the training's id."""
    edges = set()
    for (_, id), run in server.runs.items():
        who = f"{run.job_type} {run.group} {id}"
        used = [("uses", server.artifacts_by_id[artifact]) for artifact in run.used_artifacts]
        logged = [("logs", artifact) for artifact in server.artifacts if artifact.run == id]
        for does, artifact in used + logged:
            what = artifact.digest if artifact.type == "dataset" else " ".join(sorted(artifact.aliases))
            edges.add((who, does, f"{artifact.type} {artifact.collection}", what))
    return {tuple(part.replace(training, "RUN") for part in edge) for edge in edges}  # type: ignore[misc]


def work(folder: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Evaluate, probe and sample the run's last checkpoint."""
    last = str(folder / "checkpoints/step-000004.pt")
    evaluate = ["evaluate", last, "--out", str(out / "eval"), "--n", "70", "--nfe", "1,2"]
    probe = ["probe", last, "--out", str(out / "probe.jsonl"), "--method", "hutchinson", "--probes", "2"]
    sample = ["sample", last, "--out", str(out / "samples"), "--n", "4", "--nfe", "1"]
    for command in (evaluate, probe, sample):
        assert main(command) == 0, capsys.readouterr()
    return capsys.readouterr().out


def test_offline_and_sync_give_the_online_graph(
    tmp_path: Path, server: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data set, training, checkpoints, evaluation, probe and sample are the same runs, artifacts and edges, whether
    online at once or offline with `ddpm sync` later. A second sync sends nothing.

    Catches an edge that only a live server gets, work linked to another checkpoint than its own, and rows or edges
    that double.
    """
    graphs = []
    for mode in ("online", "offline"):
        root = tmp_path / mode
        folder = train(tiny(root, *UNMEASURED, f"--logging.wandb.mode={mode}"))
        said = work(folder, root, capsys)
        id = json.loads((folder / "run.json").read_text())["wandb_id"]
        if mode == "offline":
            assert said.count(f"to send it to W&B: ddpm sync {folder}") == 3
            assert not server.runs
            (line,) = sync(root / "runs")
            assert "3 runs of its checkpoints" in line
        before = {run: len(record.history) for run, record in server.runs.items()}, len(server.artifacts)
        assert list(sync(root / "runs")) == [f"{folder}: everything is on the server"]
        assert ({run: len(record.history) for run, record in server.runs.items()}, len(server.artifacts)) == before
        graphs.append(graph(server, id))
        server.runs.clear()
        server.artifacts_by_id.clear()
    online, offline = graphs
    assert offline == online
    uses = {(who.split()[0], what, which) for who, does, what, which in online if does == "uses"}
    model = "model RUN-model", "latest step-4"
    assert {use for use in uses if use[0] != "train"} == {(job, *model) for job in ("evaluate", "probe", "sample")}
    assert {what for job, what, _ in uses if job == "train"} == {"dataset data-embedded-train"}
    assert all(who.split()[1] == "e6" for who, *_ in online)


def test_a_checkpoint_that_the_server_does_not_keep(
    tmp_path: Path, server: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without uploaded checkpoints, the work uses the config of its training, so that the way back is not cut."""
    folder = train(tiny(tmp_path, *UNMEASURED, "--checkpoint.upload=false"))
    work(folder, tmp_path, capsys)
    id = json.loads((folder / "run.json").read_text())["wandb_id"]
    (used,) = wandb.Api().run(f"study/min_snr_smoke/{id}-evaluate-4").used_artifacts()
    assert (used.name, used.logged_by().id) == (f"{id}-config:v0", id)


def test_no_image_leaves_with_the_data_set(tmp_path: Path, server: StandIn) -> None:
    """The data set's artifact has its name, split, count and digest, and no file. Catches images that are uploaded."""
    folder = train(tiny(tmp_path, *UNMEASURED, "--eval.grid.enabled=false", "--checkpoint.upload=false"))
    (data,) = [artifact for artifact in server.artifacts if artifact.type == "dataset"]
    known = json.loads((folder / "run.json").read_text())["data"]
    assert data.metadata == {"dataset": "embedded", "split": "train", "subset": 200, **known}
    assert known["n"] == 200 and not data.own_files
    assert [entry["ref"] for entry in data.files.values()] == [f"ddpm-images:{known['digest']}"]


def test_notes_that_do_not_fit_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A torn line and one without results: the other notes become W&B runs, and a line says what is left out. Catches
    an evaluation that never reaches W&B, without a word."""
    good = {"_i": 4, "point": "a", "how": {}, "out": {"curvature/ref_trace_mean": 1.0}}
    lines = [json.dumps(good), json.dumps({"_i": 4, "point": "b"}), '{"_i": 4, "poi']
    (tmp_path / "probes.jsonl").write_text("\n".join(lines))
    (found,) = works(tmp_path, {"wandb_id": "x"})
    assert list(found.rows) == ["a"]
    said = capsys.readouterr().out
    assert "1 line(s) that do not fit were skipped (line 2)" in said
    assert "1 malformed line(s) were skipped (line 3)" in said
