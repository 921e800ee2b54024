"""Where a run is written: real W&B offline files, and the choice of the mode."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import wandb

from ddpm.errors import UserError
from ddpm.metrics.table import LISTS, METRICS
from ddpm.tracking import wandb_run
from ddpm.training.loop import train
from tests.once import once
from tests.rows import comparable
from tests.training.test_train import PLAIN, tiny

KEY = "x" * 40  # the client accepts no shorter one


def _inspect(folder: Path, *flags: str) -> str:
    """What W&B's own tool reads from a run's file."""
    if wandb.__version__.startswith("0.30."):
        pytest.skip("wandb 0.30 has no `leet inspect`")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *flags, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with W&B offline: its folder, and the folder of W&B's files. Tests only read them."""
    root = once(tmp_path_factory, "tracked", _track)
    (wandb_folder,) = root.glob("wandb/offline-run-*")
    return tiny(root).run_dir, wandb_folder


def _track(root: Path) -> None:
    train(tiny(root))
    wandb.teardown()  # `finish` may return before the file is written


def test_wandb_reads_back_what_was_logged(tracked: tuple[Path, Path]) -> None:
    """W&B's tool finds the config nested once, group, tags, FID's min and last, rows against `step`, grids and
    artifacts."""
    folder, wandb_folder = tracked
    records = [json.loads(line) for line in _inspect(wandb_folder).splitlines()]
    kinds = {r["type"] for r in records}
    assert {"run", "history", "summary", "artifact"} <= kinds

    run = next(r["run"] for r in records if r["type"] == "run")
    assert (run["run_group"], run["job_type"], run["run_id"]) == (
        "e6",
        "train",
        json.loads((folder / "run.json").read_text())["wandb_id"],
    )
    assert "minsnr" in run["tags"]
    config = run["config"]["update"]
    assert (config["loss"]["weighting"], config["loss"]["minsnr_gamma"]) == ("minsnr", 5.0)
    assert config["eval"]["fid_milestone"]["every"] == 2
    assert {"commit", "version", "protocols", "params"} <= set(config)

    rows = [json.loads(line) for line in (folder / "loss.jsonl").read_text().splitlines()]
    history = [r["history"]["item"] for r in records if r["type"] == "history"]
    assert [h["step"] for h in history] == [r["_i"] for r in rows]
    for logged, row in zip(history, rows, strict=True):
        assert comparable({k: logged[k] for k in row["out"]}) == comparable(row["out"])
    images = [h["samples/grid.path"] for h in history if h["step"] > 0]
    assert all((wandb_folder / "files" / i).exists() for i in images)

    summary = json.loads(_inspect(wandb_folder, "--summary"))["summary"]
    fids = [r["out"]["val/fid"] for r in rows[1:]]
    assert summary["val/fid"] == {"min": min(fids), "last": fids[-1]}

    artifacts = [(r["artifact"]["type"], r["artifact"].get("aliases", [])) for r in records if r["type"] == "artifact"]
    logged = {"config": 1, "dataset": 1, "samples": 2, "model": 2, "run_table": 2}
    assert Counter(kind for kind, _ in artifacts) == logged
    assert "step-4" in [aliases for kind, aliases in artifacts if kind == "model"][-1]


def test_every_metric_of_the_table_is_defined_as_it_says(tracked: tuple[Path, Path]) -> None:
    """Each metric is charted against `step`. The summary holds the last value, and also the lowest one if the metric's
    row says so. Lists make no chart, are hidden, and have no summary. A definition by name goes before the one for all
    names.

    Catches charts over W&B's own row counter, a summary without FID's lowest value, and a name that the table lacks.
    """
    _, wandb_folder = tracked
    found = [json.loads(line).get("metric") for line in _inspect(wandb_folder).splitlines()]
    named = {m["name"]: m for m in found if m and "name" in m}
    (all_others,) = [m for m in found if m and "glob_name" in m]
    assert all_others["glob_name"] == "*" and named.keys() <= {"step", *METRICS}
    for metric in METRICS.values():
        defined = named.get(metric.key.replace("XXXX", "0500"), all_others)
        is_list = metric.meaning.endswith(": a list.") or "a list. " in metric.meaning
        lowest = "summary holds its min and its last" in metric.meaning
        assert defined["step_metric"] == "step", metric.key
        expected = {"none": True} if is_list else {"min": True, "last": True} if lowest else {}
        assert defined.get("summary", {}) == expected, metric.key
        assert defined["options"].get("hidden", False) == is_list, metric.key
        assert (metric.key in LISTS) == is_list and lowest == (metric.key == "val/fid")
    summary = json.loads(_inspect(wandb_folder, "--summary"))["summary"]
    assert summary["loss/mean_weight"] and not set(LISTS) & set(summary)


@pytest.mark.parametrize(
    ("wanted", "environment", "netrc", "mode"),
    [
        ("auto", {}, None, "offline"),
        ("auto", {"WANDB_API_KEY": "x" * 40}, None, "online"),
        ("auto", {}, f"machine api.wandb.ai login user password {KEY}", "online"),
        ("auto", {}, f"machine elsewhere.example login user password {KEY}", "offline"),
        (
            "auto",
            {"WANDB_BASE_URL": "https://elsewhere.example"},
            f"machine elsewhere.example login u password {KEY}",
            "online",
        ),
        ("offline", {"WANDB_API_KEY": "x" * 40}, None, "offline"),
        ("online", {"WANDB_MODE": "offline"}, None, "offline"),
        ("disabled", {}, None, "disabled"),
    ],
)
def test_mode(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    environment: dict[str, str],
    netrc: str | None,
    mode: str,
) -> None:
    """WANDB_MODE decides, then the config, then whether there is a login for the server in use. More in tests/edges."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if netrc:
        (tmp_path / "netrc").write_text(netrc + "\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_run.wandb_mode(wanted)[0] == mode


def test_offline_is_said_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(tiny(tmp_path, *PLAIN, "--eval.grid.enabled=true", "--train.total_steps=2"))
    lines = [line for line in capfd.readouterr().out.splitlines() if "W&B" in line or "wandb" in line]
    assert len(lines) == 2
    assert lines[0].startswith("W&B: offline (no login found")
    assert "wandb-data/artifacts/staging" in lines[1]


def test_disabled_keeps_the_run_folder_alone(tmp_path: Path) -> None:
    """There are no W&B files; the plain record is complete."""
    folder = train(tiny(tmp_path, "--train.total_steps=2", "--logging.wandb.mode=disabled"))
    assert (folder / "results.jsonl").exists()
    assert not list(tmp_path.rglob("*.wandb"))


def test_an_exception_ends_the_wandb_run_as_failed(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        train(tiny(tmp_path, "--optim.lr=1e30", "--train.grad_clip=null"))
    (wandb_folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert json.loads(_inspect(wandb_folder, "--summary"))["exit_code"] == 1


def test_wandb_that_cannot_start_leaves_the_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad WANDB_MODE is explained. The folder that clean_run would replace is still there."""
    folder = train(tiny(tmp_path, *PLAIN, "--train.total_steps=2"))
    before = (folder / "loss.jsonl").read_bytes()
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(UserError, match=r"WANDB_MODE = sometimes is not a mode.*offline"):
        train(tiny(tmp_path, *PLAIN, "--train.total_steps=2", "--clean_run=true"))
    assert (folder / "loss.jsonl").read_bytes() == before


def test_the_best_checkpoint_is_the_one_with_the_lowest_fid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FIDs 5, 3, 4: the first two are called best when they arrive, the last is not."""
    fids = iter([5.0, 3.0, 4.0])
    monkeypatch.setattr("ddpm.evaluation.evaluator.Evaluator.scores", lambda *_: {"fid": next(fids)})
    unmeasured = [f"--{part}.enabled=false" for part in ("curvature", "eval.grid", "eval.recon")]
    folder = train(tiny(tmp_path, *unmeasured, "--train.total_steps=6"))
    (wandb_folder,) = (tmp_path / "wandb").glob("offline-run-*")
    artifacts = [r["artifact"] for r in map(json.loads, _inspect(wandb_folder).splitlines()) if r["type"] == "artifact"]
    models = [a["aliases"] for a in artifacts if a["type"] == "model"]
    assert ["best" in aliases for aliases in models] == [True, True, False]
    out = json.loads((folder / "results.jsonl").read_text())["out"]
    assert (out["val/fid_min"], out["val/fid_last"]) == (3.0, 4.0)
    assert out["ckpt_best"].endswith("step-000004.pt")
    assert out["ckpt_last"].endswith("step-000006.pt")


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """There is a file in place of the folder."""
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match=r"run folder .* cannot be written: .*runs is not a folder"):
        train(tiny(tmp_path, "--train.total_steps=2"))
    assert not (tmp_path / "wandb").exists()


def test_the_key_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is neither in the run folder nor in W&B's files."""
    key = "0123456789abcdef" * 2 + "deadbeef"
    monkeypatch.setenv("WANDB_API_KEY", key)
    train(tiny(tmp_path, "--logging.wandb.mode=offline", "--train.total_steps=2"))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert key.encode() not in path.read_bytes(), path
