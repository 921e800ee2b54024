"""Upload what W&B's server does not have yet of the runs on this machine: idempotent, in the order it happened.

First W&B's own files of offline sessions (with console and system metrics), by `wandb sync`; then, from the run
folders, whatever the server still lacks: rows, sample grids, checkpoints. So a run that was online in an outage, or
killed, is completed too.
"""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddpm.checkpoint import checkpoint_path
from ddpm.config import Config
from ddpm.errors import UserError
from ddpm.run_folder import RunFolder
from ddpm.tracking import send_checkpoint, send_row
from ddpm.wandb_run import WandbRun


def sync(root: Path) -> Iterator[str]:
    """Upload the runs in and under `root`; a line for each. Raises UserError: no run folder, no server, no login."""
    folders = sorted({path.parent for path in root.rglob("run.json") if ".part" not in path.parent.name})
    if not folders:
        raise UserError(f"{root} holds no run folders (run.json). Give the folder that `ddpm train` wrote, e.g. runs.")
    for path in folders:
        yield f"{path}: {_sync(path)}"


def _sync(path: Path) -> str:
    folder = RunFolder.at(path)
    try:
        folder.__enter__()
    except UserError as error:
        return f"left out: {error}"
    try:
        return _sync_held(folder)
    finally:
        folder.__exit__(None, None, None)


def _sync_held(folder: RunFolder) -> str:
    sessions = [log for session in folder.record["sessions"] if (log := _offline_log(session.get("wandb_files")))]
    for log in sessions:
        _sync_session(log)
    rows, aliases, state = _on_server(folder)
    steps = [step for step in folder.rows if step not in rows]
    grids = [s for s in folder.rows if folder.grid_path(s).is_file() and f"step-{s}" not in aliases["samples"]]
    checkpoints = [step for step in _milestones(folder) if f"step-{step}" not in aliases["model"]]
    if steps or grids or checkpoints or (folder.finished and state != "finished"):
        run = WandbRun(folder.record, mode="online")
        if run.mode != "online":
            run.finish(1)
            raise UserError(f"W&B: {run.why}. Nothing more was uploaded; the same command goes on from here.")
        for step in sorted({*steps, *grids}):
            send_row(run, folder, step)
        newest = max(_milestones(folder), default=0)
        for step in checkpoints:
            send_checkpoint(run, folder, step, last=newest)
        if not run.finish(0 if folder.finished else 1):
            raise UserError(f"The server did not take everything of {folder.path}. The same command goes on from here.")
    for log in sessions:
        _marker(log).touch()  # also of a damaged one: what it lacked came from the run folder
    parts = (
        (len(sessions), "session"),
        (len(steps), "row"),
        (len(grids), "sample grid"),
        (len(checkpoints), "checkpoint"),
    )
    sent = [f"{n} {name}{'s' * (n > 1)}" for n, name in parts if n]
    return f"uploaded {', '.join(sent)}" if sent else "everything is on the server"


def _offline_log(files: str | None) -> Path | None:
    """W&B's log of a session that was offline, if it is here and not uploaded yet."""
    found = next(Path(files).glob("run-*.wandb"), None) if files and Path(files).name.startswith("offline-") else None
    return None if found is None or _marker(found).exists() else found


def _marker(log: Path) -> Path:
    """What `wandb sync` leaves beside a log that it has uploaded."""
    return log.with_name(f"{log.name}.synced")


def _sync_session(log: Path) -> None:
    """Upload one session's log, as far as it can be read; says where it could not be read to its end."""
    done = subprocess.run([sys.executable, "-m", "wandb", "sync", str(log.parent)], capture_output=True, text=True)
    if not _marker(log).exists():
        errors = [line for line in (done.stderr or done.stdout).splitlines() if "ERROR" in line]
        print(f"warning: {log} was not uploaded whole: {' '.join(errors) or done.stderr}", flush=True)


def _on_server(folder: RunFolder) -> tuple[set[int], dict[str, set[str]], str]:
    """(steps, kind of artifact -> aliases, state) that the server has of the run. Raises UserError if it is silent."""
    wandb: Any = importlib.import_module("wandb")
    requests: Any = importlib.import_module("requests")
    options = folder.record["config"]["logging"]["wandb"]
    aliases: dict[str, set[str]] = {"samples": set(), "model": set(), "config": set()}
    try:
        api = wandb.Api(timeout=20)
        path = "/".join(p for p in (options["entity"], options["project"], folder.record["wandb_id"]) if p)
        try:
            run = api.run(path)
        except wandb.errors.CommError as error:
            if "not find" not in str(error) and "not found" not in str(error):
                raise
            return set(), aliases, "unknown"
        steps = {int(row["step"]) for row in run.scan_history(keys=["step"])}
        for artifact in run.logged_artifacts():
            aliases.setdefault(artifact.type, set()).update(artifact.aliases)
    except (wandb.errors.Error, requests.RequestException, ValueError, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"W&B's server cannot be asked about {folder.path}: {reason}. `wandb login` makes a login."
        ) from error
    return steps, aliases, str(run.state)


def _milestones(folder: RunFolder) -> list[int]:
    """The milestones whose checkpoints a server is to keep: the newest few and the best, of those that are there."""
    cfg = Config.model_validate(folder.record["config"])
    there = [s for s in folder.rows if cfg.is_milestone(s) and s > 0 and checkpoint_path(folder.path, s).is_file()]
    fids = {step: fid for step, fid in folder.fids().items() if step in there}
    best = [min(fids, key=lambda step: fids[step])] if fids else []
    return sorted({*there[-cfg.checkpoint.keep_online :], *best})
