"""A run's folder is held by one process, continued only with the same config, and recovered if it is damaged."""

import functools
import json
import os
import resource
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ddpm.config.run import Config
from ddpm.errors import Held, UserError
from ddpm.files import checksums
from ddpm.models.stored import load_checkpoint
from ddpm.runtime.checkpoint import list_checkpoints
from ddpm.tracking.run_folder import RunFolder
from ddpm.training.loop import train
from ddpm.training.setup import Training
from tests import processes
from tests.training.test_train import PLAIN, tiny


def plain(tmp_path: Path, *overrides: str) -> Config:
    """A run that measures nothing: these tests do not depend on what its rows contain."""
    return tiny(tmp_path, *PLAIN, *overrides)


def _interrupted(cfg: Config) -> Path:
    """The folder of `cfg`'s run, killed after its third step."""
    at_fourth = functools.partial(processes.at_call, "ddpm.training.loop.train_step", 4, processes.kill)
    assert processes.run(cfg, at_fourth) < 0
    return cfg.run_dir


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _steps(folder: Path) -> list[int]:
    return [json.loads(line)["_i"] for line in (folder / "loss.jsonl").read_text().splitlines()]


def test_another_config_under_the_same_id_is_refused_with_the_difference(tmp_path: Path) -> None:
    """The message gives each key with its old and its new value. Keys that change no row (here: how often to
    checkpoint) may change."""
    given = ("--id=mine", "--checkpoint.every=1")
    cfg = plain(tmp_path, *given)
    folder = _interrupted(cfg)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(
        UserError, match=r"loss.weighting was minsnr, is snr; optim.lr was 0.003, is 0.1\. Use the config it was"
    ):
        train(plain(tmp_path, *given, "--loss.weighting=snr", "--optim.lr=0.1"))
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert folder == train(plain(tmp_path, "--id=mine", "--checkpoint.every=2"))
    assert folder.name == "mine"
    assert _steps(folder) == [0, 2, 4]


def test_a_run_from_before_a_key_can_be_taken_up(tmp_path: Path) -> None:
    """Its record lacks newer keys, which had their default values then. Catches an old run on which `ddpm sync`
    fails."""
    config = tiny(tmp_path, "--eval.recon.enabled=false").nested()
    del config["loss"]["t_min"], config["loss"]["t_max"]
    config["eval"]["recon"] = {"enabled": False}
    folder = tmp_path / "older"
    folder.mkdir()
    record = {"run_id": "older", "wandb_id": "older-1", "sessions": [{}], "config": config}
    (folder / "run.json").write_text(json.dumps(record))
    with RunFolder.at(folder) as held:
        assert held.begun
    other = Config.model_validate(config | {"loss": config["loss"] | {"weighting": "snr"}})
    with pytest.raises(UserError, match=r"another config: loss\.weighting was minsnr, is snr\."):
        RunFolder(other, folder).check()


def test_other_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on with other data would be a run of neither set. The set is compared by its pixels, not by its
    path."""
    cfg = plain(tmp_path, "--checkpoint.every=1")
    _interrupted(cfg)
    monkeypatch.setattr("ddpm.data.images.ImageSet.digest", "other images")
    with pytest.raises(UserError, match=r"The images are not those .* was started with.*other images"):
        train(cfg)


def test_two_processes_on_one_run(tmp_path: Path) -> None:
    """The second process is refused and the first is not disturbed. A killed process leaves the folder free."""
    cfg = plain(tmp_path)
    with RunFolder(cfg), pytest.raises(UserError, match=r"Another process is writing to the run"):
        train(cfg)
    assert not cfg.run_dir.exists()
    with RunFolder(cfg):
        assert processes.run(cfg) == Held.exit_code
    assert "Another process is writing to the run" in processes.log(cfg)
    _interrupted(cfg)
    assert processes.run(cfg) == 0


@pytest.mark.parametrize("damage", ["cut", "bit", "empty"])
def test_the_newest_intact_checkpoint_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    """A file that is cut short, empty, or has one flipped bit (which torch alone does not notice): the run uses the
    checkpoint before it and says so."""
    cfg = plain(tmp_path, "--checkpoint.every=1")
    newest = list_checkpoints(_interrupted(cfg))[-1]
    content = bytearray(newest.read_bytes())
    if damage == "bit":  # of a weight: between its parts the file has padding
        weight = next(iter(load_checkpoint(newest)["model"].values()))
        content[content.index(bytes(weight.untyped_storage()))] ^= 1
    newest.write_bytes({"cut": content[: len(content) // 2], "bit": content, "empty": b""}[damage])
    train(cfg)
    out = capsys.readouterr().out
    assert f"{newest} is damaged" in out
    assert "It is passed over." in out
    assert f"continuing {cfg.run_id} after step 2" in out
    assert _steps(cfg.run_dir) == [0, 2, 4]


def test_without_any_intact_checkpoint_the_run_starts_at_its_beginning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = plain(tmp_path, "--checkpoint.every=1")
    for path in list_checkpoints(_interrupted(cfg)):
        path.write_bytes(b"gone")
    train(cfg)
    assert "after step 0" in capsys.readouterr().out
    assert _steps(cfg.run_dir) == [0, 2, 4]


def test_a_torn_last_row_is_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A kill in the middle of a write leaves half a row. The row is written again, from the checkpoint before it."""
    cfg = plain(tmp_path, "--checkpoint.every=1")
    rows = _interrupted(cfg) / "loss.jsonl"
    rows.write_bytes(rows.read_bytes()[:-20])
    train(cfg)
    assert _steps(cfg.run_dir) == [0, 2, 4]
    out = capsys.readouterr().out
    assert "do not parse" not in out
    assert "lacks 1 row (step 2) from before the checkpoint of step 3" in out
    assert f"continuing {cfg.run_id} after step 2" in out


def test_a_damaged_row_is_kept_aside_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The damaged file is kept; the row (here of step 0) is written again."""
    cfg = plain(tmp_path, "--checkpoint.every=1")
    rows = _interrupted(cfg) / "loss.jsonl"
    damaged = b"\0\0\0" + rows.read_bytes()
    rows.write_bytes(damaged)
    train(cfg)
    assert "line(s) 1 do not parse" in capsys.readouterr().out
    assert (cfg.run_dir / "loss.jsonl.damaged").read_bytes() == damaged
    assert sorted(_steps(cfg.run_dir)) == [0, 2, 4]


def test_a_row_that_is_not_as_it_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One digit changes before the run continues. The run reports it then, and a report does so later; the other lines
    are confirmed. Catches a changed number that gets a valid checksum when the file is written again, and checksums
    that were never written."""
    cfg = plain(tmp_path, "--checkpoint.every=1", "--logging.wandb.mode=disabled")
    rows = _interrupted(cfg) / "loss.jsonl"
    assert checksums.as_written(rows, rows.read_bytes()) == []
    at = rows.read_bytes().index(b'"train/mse": 0.') + len(b'"train/mse": 0.')
    content = bytearray(rows.read_bytes())
    content[at] ^= 1
    rows.write_bytes(content)
    train(cfg)
    assert "line(s) 2 are not as they were written" in capsys.readouterr().out
    assert _steps(cfg.run_dir) == [0, 2, 4]
    (said,) = checksums.as_written(rows, rows.read_bytes())
    assert said.startswith("loss.jsonl: 1 line(s) are not as they were written") and said.endswith("(line 2)")
    for name in ("run.json", "results.jsonl"):
        path = cfg.run_dir / name
        assert (path.with_name(f"{name}.crc").exists(), checksums.as_written(path, path.read_bytes())) == (True, [])


@pytest.mark.parametrize(
    "change", [{"sessions": [5]}, {"config": []}, {"sessions": []}, {"wandb_id": None}, {"amendments": [{}]}]
)
def test_a_run_json_of_another_shape(tmp_path: Path, change: dict[str, Any]) -> None:
    """Catches a traceback when a part of the record has the wrong type."""
    cfg = plain(tmp_path)
    cfg.run_dir.mkdir(parents=True)
    record = {"run_id": "r", "wandb_id": "r-1", "sessions": [{}], "config": cfg.nested()}
    (cfg.run_dir / "run.json").write_text(json.dumps(record | change))
    key = next(iter(change))
    for way in (lambda: train(cfg), lambda: RunFolder.at(cfg.run_dir)):
        with pytest.raises(UserError, match=rf"run\.json.*{key}"):
            way()


@pytest.mark.parametrize("content", ["", "{", '{"run_id": 3}', "[]"])
def test_a_damaged_run_json(tmp_path: Path, content: str) -> None:
    """The run is refused with the folder's name, and no file in the folder changes."""
    cfg = plain(tmp_path)
    cfg.run_dir.mkdir(parents=True)
    (cfg.run_dir / "run.json").write_text(content)
    with pytest.raises(UserError, match="not a run folder of this project"):
        train(cfg)


def _small_files_only() -> None:
    """In the child: no file may grow beyond 300 kB, as on a disk that fills up. A checkpoint is larger than that."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    processes.at_call("ddpm.training.loop.train_step", 4, limit)


def test_a_full_disk_stops_the_run_with_the_last_checkpoint_intact(tmp_path: Path) -> None:
    """Exit code 2 with advice, no half-written file, and the run continues once there is room."""
    cfg = plain(tmp_path, "--checkpoint.every=1", "--logging.wandb.mode=disabled")
    assert processes.run(cfg, _small_files_only) == 2, processes.log(cfg)
    log = processes.log(cfg)
    assert "cannot be written (checkpoints/step-000004.pt: File too large)" in log
    assert "Its newest checkpoint is step-000003.pt. Make room, then run the same command again" in log
    assert not list(cfg.run_dir.rglob("*.part"))
    assert processes.run(cfg) == 0
    assert _steps(cfg.run_dir) == [0, 2, 4]


def test_a_read_only_run_folder(tmp_path: Path) -> None:
    """The folder is refused before a step is trained, not at the first row."""
    cfg = plain(tmp_path, "--checkpoint.every=1")
    folder = _interrupted(cfg)
    folder.chmod(0o555)
    try:
        # root can write everywhere, so the test replaces access(2)
        denied = mock.patch("os.access", lambda path, mode: not (Path(path) == folder and mode & os.W_OK))
        with denied, pytest.raises(UserError, match="is read-only"):
            train(cfg)
    finally:
        folder.chmod(0o755)


def test_a_run_that_steps_back_keeps_what_it_writes(tmp_path: Path) -> None:
    """A run continues from an older checkpoint and stops before it reaches the damaged newer ones. The damaged ones are
    gone; the new one is there, and the next start uses it. Catches pruning that takes a higher step for a newer
    file."""
    cfg = plain(tmp_path, "--checkpoint.every=1", "--checkpoint.keep=3", "--train.total_steps=9")
    kill = functools.partial(processes.at_call, "ddpm.training.loop.train_step", 8, processes.kill)
    assert processes.run(cfg, kill) < 0
    for path in list_checkpoints(cfg.run_dir)[-3:]:
        path.write_bytes(b"damaged")
    stop = functools.partial(processes.at_call, "ddpm.training.loop.train_step", 1, _terminate)
    assert processes.run(cfg, stop) == 143
    assert f"continuing {cfg.run_id} after step 4" in processes.log(cfg)
    assert list_checkpoints(cfg.run_dir)[-1].name == "step-000005.pt"
    assert processes.run(cfg) == 0
    assert f"continuing {cfg.run_id} after step 5" in processes.log(cfg)


def test_settings_that_change_no_row_may_change(tmp_path: Path) -> None:
    """The second start gets the W&B mode that it asks for."""
    cfg = plain(tmp_path, "--checkpoint.every=1")
    _interrupted(cfg)
    assert processes.run(plain(tmp_path, "--checkpoint.every=1", "--logging.wandb.mode=disabled")) == 0
    assert "W&B: disabled (logging.wandb.mode)" in processes.log(cfg)


def test_old_checkpoints_go_and_milestones_stay(tmp_path: Path) -> None:
    """Of the checkpoints in between, checkpoint.keep stay, however many there were. All milestones stay (every 4th
    step)."""
    often = ("--checkpoint.every=1", "--checkpoint.keep=2", "--eval.fid_milestone.every=4", "--train.total_steps=7")
    folder = train(plain(tmp_path, *often))
    assert [p.name for p in list_checkpoints(folder)] == [f"step-{n:06d}.pt" for n in (4, 5, 6, 7)]


@pytest.mark.parametrize("skips", [0, 1])
def test_divergence_names_its_batch_and_leaves_the_state_before(tmp_path: Path, skips: int) -> None:
    """The pixels of an image are NaN. The run stops at that image's step (or at the next such step, if one may be
    skipped) and names the batch. Its newest checkpoint is from the step before, finite, and ready to draw the bad batch
    next."""
    cfg = plain(
        tmp_path,
        "--data.shuffle=false",
        "--eval.fid_milestone.every=9",
        "--train.total_steps=9",
        f"--train.skip_nonfinite={skips}",
        "--logging.wandb.mode=disabled",
    )

    def poison(training: Training) -> None:
        take = training.state.batches.take
        # images 8 and 17: in the third batch of four, and in the fifth
        training.state.batches.take = lambda i: take(i) * (float("nan") if {8, 17} & set(i.tolist()) else 1.0)  # type: ignore[method-assign]

    made = Training.__init__

    def poisoned(self: Training, cfg: Config) -> None:
        made(self, cfg)
        poison(self)

    bad = 3 if skips == 0 else 5
    batch = list(range(4 * bad - 4, 4 * bad))
    with mock.patch.object(Training, "__init__", poisoned), pytest.raises(UserError) as caught:
        train(cfg)
    assert f"Step {bad} is not finite: loss nan" in str(caught.value)
    assert str(batch) in str(caught.value)
    noted = json.loads((cfg.run_dir / "diverged.json").read_text())
    assert (noted["step"], noted["batch"]) == (bad, batch)
    (checkpoint,) = list_checkpoints(cfg.run_dir)
    assert checkpoint.name == f"step-{bad - 1:06d}.pt"
    training, state = Training(cfg), RunFolder(cfg)
    with state:
        loaded = state.newest_checkpoint()
    assert loaded is not None
    training.state.load_state_dict(loaded)
    assert all(p.isfinite().all() for p in training.state.params)
    assert training.state.batches.next_indices().tolist() == batch  # it stands before the bad step
    assert training.state.skipped == skips
