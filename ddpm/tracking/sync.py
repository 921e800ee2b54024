"""Upload what W&B's server does not have yet of the runs on this machine: in order, and nothing twice.

A run that was offline from its start to its end, in one session, goes up by `wandb sync`, from W&B's own files (with
console and system metrics). Whatever a server then lacks of that or any other run (one that was killed, continued, or
online in an outage) comes from the run folder: rows, sample grids, checkpoints, config, summary.
"""

import copy
import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddpm.config.run import Config
from ddpm.errors import UserError
from ddpm.metrics.table import STEP
from ddpm.runtime.checkpoint import checkpoint_path
from ddpm.tracking import client, staged
from ddpm.tracking.run_folder import RunFolder
from ddpm.tracking.tracker import send_checkpoint, send_grid
from ddpm.tracking.wandb_run import WandbRun, answers, drop_old_versions


def sync(root: Path) -> Iterator[str]:
    """Upload the runs in and under `root`; a line for each, those left out and those that failed too.

    Raises UserError: no run folder; in the end, if a run failed; at once, if the server does not answer at all.
    """
    folders = sorted({path.parent for path in root.rglob("run.json") if not path.parent.name.startswith(".")})
    if not folders:
        raise UserError(f"{root} holds no run folders (run.json). Give the folder that `ddpm train` wrote, e.g. runs.")
    failed = 0
    for number, path in enumerate(folders, start=1):
        try:
            folder = RunFolder.at(path)
            folder.__enter__()
        except UserError as error:  # damaged, or a run that is going on
            yield f"{path}: left out: {error}"
            continue
        try:
            yield f"{path}: {sync_folder(folder)}"
        except UserError as error:
            if not answers(client.server()):
                rest = len(folders) - number
                raise UserError(f"{error} {rest} more runs were not tried." if rest else str(error)) from None
            failed += 1
            yield f"{path}: not uploaded whole: {error}"
        finally:
            folder.__exit__(None, None, None)
    if failed:
        raise UserError(f"{failed} of {len(folders)} runs are not on the server whole. The same command goes on there.")


@dataclass
class _Known:
    """What the server has of a run: whether it knows it, its steps, its artifacts' aliases by type, their digests, its
    state."""

    run: bool = False
    steps: set[int] = field(default_factory=set)
    aliases: dict[str, set[str]] = field(default_factory=dict)
    digests: set[str] = field(default_factory=set)
    state: str = ""

    def has(self, kind: str, step: int) -> bool:
        return f"step-{step}" in self.aliases.get(kind, ())


def sync_folder(folder: RunFolder) -> str:
    """Upload what the server lacks of the run whose folder is entered; what that was. Raises UserError as `sync`."""
    known = _ask_server(folder)
    sent = []
    log = _whole_offline_log(folder)
    if log and not known.run:
        _sync_log(log)
        sent.append("W&B's files")
        known = _ask_server(folder)
    rows = [step for step in folder.rows if step not in known.steps - folder.unsent_steps]
    grids = [s for s in folder.rows if folder.grid_path(s).is_file() and not known.has("samples", s)]
    checkpoints = [step for step in _milestones(folder) if not known.has("model", step)]
    config = not known.aliases.get("config")
    if rows or grids or checkpoints or config or (folder.finished and known.state != "finished"):
        _send(folder, known, rows, grids, checkpoints)
        counts = ((rows, "row"), (grids, "sample grid"), (checkpoints, "checkpoint"))
        sent += [f"{len(what)} {name}{'s' * (len(what) > 1)}" for what, name in counts if what]
        sent += ["the config"] * config
        sent = sent or ["its end"]
    done = [f"uploaded {', '.join(sent)}" if sent else "everything is on the server"]
    if sent and (checkpoints or known.aliases.get("model")):  # of a run without checkpoints there are no versions
        done.append(_drop_old_versions(folder))
    if staged.copies(folder.path):
        done.append(staged.remove_arrived(folder.path, _ask_server(folder).digests))
    return "; ".join(filter(None, done))


def _send(folder: RunFolder, known: _Known, rows: list[int], grids: list[int], checkpoints: list[int]) -> None:
    """Rows, grids and checkpoints of these steps, config and summary, from the run folder. Raises UserError if not all
    arrives."""
    run = WandbRun(at_home(folder), folder.path, mode="online")
    if run.mode == "online":
        for step in rows:
            grid = folder.grid_path(step)
            run.log(step, folder.rows[step], grid if grid.is_file() and step not in known.steps else None)
        for step in grids:
            send_grid(run, folder, step)
        newest = max(_milestones(folder), default=0)
        for step in checkpoints:
            send_checkpoint(run, folder, step, last=newest)
        run.log_artifact("config", folder.path / "config.yaml", ["latest"])  # the same again makes no new version
        run.summarise({STEP: max(folder.rows, default=0), **folder.summary()})  # not the step of the last row sent
    if not run.finish(0 if folder.finished else 1) or run.mode != "online":
        raise UserError(f"The server did not take everything of {folder.path}. The same command goes on from here.")
    folder.note_sent()


def _drop_old_versions(folder: RunFolder) -> str:
    """Have the server keep no more checkpoints than it should; what it has against that."""
    try:
        drop_old_versions(_path(folder), folder.record["config"]["checkpoint"]["keep_online"])
    except client.failures() as error:  # a login that may not delete has uploaded all the same
        return f"older checkpoints stay on the server ({' '.join(str(error).split())[:200]})"
    return ""


def _whole_offline_log(folder: RunFolder) -> Path | None:
    """W&B's log of a run that had one session, offline; None for others, which `wandb sync` would mix up."""
    sessions = folder.record["sessions"]
    files = sessions[0].get("wandb_files")
    if len(sessions) > 1 or not files or sessions[0]["wandb_mode"] != "offline":
        return None
    return next(Path(files).glob("run-*.wandb"), None)


def _sync_log(log: Path) -> None:
    """Upload one session's log, as far as it can be read; says where it could not be read to its end.

    A log that the client has marked as sent is sent again: the server has no such run (any more).
    """
    command = [sys.executable, "-m", "wandb", "sync", "--include-synced", str(log.parent)]
    done = subprocess.run(command, capture_output=True, text=True, env=client.unnamed())
    errors = [line for line in done.stderr.splitlines() if "ERROR" in line]
    if errors:
        print(f"warning: {log} was not uploaded whole: {' '.join(errors)}", flush=True)


def _path(folder: RunFolder) -> str:
    """`ENTITY/PROJECT/ID` where a server settled it, else as the config has it."""
    settled = [s["wandb"] for s in folder.record["sessions"] if s.get("wandb_mode") == "online"]
    options = folder.record["config"]["logging"]["wandb"]
    wanted = "/".join(part for part in (options["entity"], options["project"], folder.record["wandb_id"]) if part)
    return settled[-1] if settled else wanted


def at_home(folder: RunFolder) -> dict[str, Any]:
    """The run's record with the entity, project and id that it has on the server."""
    *entity, project, id = _path(folder).split("/")
    record = copy.deepcopy(folder.record)
    record["config"]["logging"]["wandb"] |= {"entity": entity[0] if entity else None, "project": project}
    return {**record, "wandb_id": id}


def _ask_server(folder: RunFolder) -> _Known:
    """Raises UserError where the server does not answer, or does not let us in."""
    wandb: Any = importlib.import_module("wandb")
    known = _Known()
    try:
        try:
            run = wandb.Api(timeout=20).run(_path(folder))
        except client.failures() as error:
            if "not find" not in str(error) and "not found" not in str(error):
                raise
            return known
        known.run, known.state = True, str(run.state)
        known.steps = {int(row["step"]) for row in run.scan_history(keys=["step"])}
        for artifact in run.logged_artifacts():
            known.aliases.setdefault(artifact.type, set()).update(artifact.aliases)
            known.digests.add(artifact.digest)
    except client.failures() as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"W&B's server cannot be asked about {folder.path}: {reason}. `wandb login` makes a login."
        ) from error
    return known


def _milestones(folder: RunFolder) -> list[int]:
    """The milestones whose checkpoints a server is to keep: the newest few and the best, of those that are there; none
    if checkpoints are to stay in the run folder."""
    cfg = Config.model_validate(folder.record["config"])
    if not cfg.checkpoint.upload:
        return []
    there = [s for s in folder.rows if cfg.is_milestone(s) and checkpoint_path(folder.path, s).is_file()]
    fids = {step: fid for step, fid in folder.fids().items() if step in there}
    best = [min(fids, key=lambda step: fids[step])] if fids else []
    return sorted({*there[-cfg.checkpoint.keep_online :], *best})
