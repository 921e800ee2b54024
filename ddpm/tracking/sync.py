"""Uploads what W&B's server lacks of the runs on this machine, in order and without duplicates.

A run that was offline in a single session is uploaded by `wandb sync` from W&B's own files, with console and system
metrics. Anything else that the server lacks (after a kill, a resume or an outage) is uploaded from the run folder:
rows, sample grids, checkpoints, config, summary.
"""

import copy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddpm.config.run import Config
from ddpm.errors import UserError, one_line
from ddpm.metrics.table import STEP
from ddpm.runtime.checkpoint import checkpoint_path
from ddpm.tracking import client, derived, staged
from ddpm.tracking.run_folder import RunFolder
from ddpm.tracking.tracker import send_checkpoint, send_grid
from ddpm.tracking.wandb_run import DATA, WandbRun, answers, data_of, drop_old_versions


def sync(root: Path) -> Iterator[str]:
    """Upload the runs in and under `root`. Yields a message for each run, also for those left out or failed.

    Raises UserError if there is no run folder, if the server does not answer, or at the end if a run failed.
    """
    folders = sorted({path.parent for path in root.rglob("run.json") if not path.parent.name.startswith(".")})
    if not folders:
        raise UserError(f"{root} holds no run folders (run.json). Give the folder that `ddpm train` wrote, e.g. runs.")
    failed = 0
    for number, path in enumerate(folders, start=1):
        try:
            folder = RunFolder.at(path)
            folder.__enter__()
        except UserError as error:  # damaged, or still running
            yield f"{path}: left out: {error}"
            continue
        try:
            yield f"{path}: {sync_folder(folder)}"
        except UserError as error:
            if not answers(client.server()):
                rest = len(folders) - number
                raise UserError(f"{error} {rest} more runs were not tried." if rest else str(error)) from None
            failed += 1
            yield f"{path}: not uploaded completely: {error}"
        finally:
            folder.__exit__(None, None, None)
    if failed:
        raise UserError(f"{failed} of {len(folders)} runs are not completely on the server. Run the command again.")


@dataclass
class _Known:
    """What the server has of a run. aliases: its artifacts' aliases by type. digests: the artifacts'. inputs: types of
    the artifacts that it used."""

    run: bool = False
    steps: set[int] = field(default_factory=set)
    aliases: dict[str, set[str]] = field(default_factory=dict)
    digests: set[str] = field(default_factory=set)
    inputs: set[str] = field(default_factory=set)
    state: str = ""

    def has(self, kind: str, step: int) -> bool:
        return f"step-{step}" in self.aliases.get(kind, ())


def sync_folder(folder: RunFolder) -> str:
    """Upload what the server lacks of the run in an entered folder. Returns a message. Raises UserError."""
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
    data = bool(data_of(folder.record)) and DATA not in known.inputs
    if rows or grids or checkpoints or config or data or (folder.finished and known.state != "finished"):
        _send(folder, known, rows, grids, checkpoints)
        counts = ((rows, "row"), (grids, "sample grid"), (checkpoints, "checkpoint"))
        sent += [f"{len(what)} {name}{'s' * (len(what) > 1)}" for what, name in counts if what]
        sent += ["the config"] * config + ["the data set's reference"] * data
        sent = sent or ["its end"]
    if works := derived.send(folder, at_home(folder), "online"):
        sent.append(f"{works} run{'s' * (works > 1)} of its checkpoints")
    done = [f"uploaded {', '.join(sent)}" if sent else "everything is on the server"]
    if sent and (checkpoints or known.aliases.get("model")):  # a run without checkpoints has no versions
        done.append(_drop_old_versions(folder))
    if staged.copies(folder.path):
        done.append(staged.remove_arrived(folder.path, _ask_server(folder).digests))
    return "; ".join(filter(None, done))


def _send(folder: RunFolder, known: _Known, rows: list[int], grids: list[int], checkpoints: list[int]) -> None:
    """Upload the rows, grids and checkpoints of these steps, config and summary. Raises UserError if the server does
    not take everything."""
    run = WandbRun(at_home(folder), folder.path, mode="online")
    if run.mode == "online":
        for step in rows:
            grid = folder.grid_path(step)
            media = [p if p.is_file() and step not in known.steps else None for p in (grid, folder.table_path(step))]
            run.log(step, folder.rows[step], *media)
        for step in grids:
            send_grid(run, folder, step)
        newest = max(_milestones(folder), default=0)
        for step in checkpoints:
            send_checkpoint(run, folder, step, last=newest)
        run.log_artifact("config", folder.path / "config.yaml", ["latest"])  # an equal file makes no new version
        if DATA not in known.inputs:
            run.use_data()
        run.summarise({STEP: max(folder.rows, default=0), **folder.summary()})  # else the step of the last row sent
    if not run.finish(0 if folder.finished else 1) or run.mode != "online":
        raise UserError(f"The server did not take everything of {folder.path}. Run the command again.")
    folder.note_sent()


def _drop_old_versions(folder: RunFolder) -> str:
    """Delete the server's surplus checkpoints. Returns a message if it refuses."""
    try:
        drop_old_versions(_path(folder), folder.record["config"]["checkpoint"]["keep_online"])
    except client.failures() as error:  # perhaps the login may not delete; the upload itself is done
        return f"older checkpoints stay on the server ({one_line(error)[:200]})"
    return ""


def _whole_offline_log(folder: RunFolder) -> Path | None:
    """W&B's log of a run with a single, offline session; None for others, which `wandb sync` would mix up."""
    sessions = folder.record["sessions"]
    files = sessions[0].get("wandb_files")
    if len(sessions) > 1 or not files or sessions[0]["wandb_mode"] != "offline":
        return None
    return next(Path(files).glob("run-*.wandb"), None)


def _sync_log(log: Path) -> None:
    """Upload one session's log, as far as it can be read; print a warning if not completely.

    A log that the client marked as sent is sent again, because the server does not have the run.
    """
    command = [sys.executable, "-m", "wandb", "sync", "--include-synced", str(log.parent)]
    done = subprocess.run(command, capture_output=True, text=True, env=client.unnamed())
    errors = [line for line in done.stderr.splitlines() if "ERROR" in line]
    if errors:
        print(f"warning: {log} was not uploaded completely: {' '.join(errors)}", flush=True)


def _path(folder: RunFolder) -> str:
    """`ENTITY/PROJECT/ID` from the last online session, otherwise from the config."""
    settled = [s["wandb"] for s in folder.record["sessions"] if s.get("wandb_mode") == "online"]
    options = folder.record["config"]["logging"]["wandb"]
    wanted = "/".join(part for part in (options["entity"], options["project"], folder.record["wandb_id"]) if part)
    return settled[-1] if settled else wanted


def at_home(folder: RunFolder) -> dict[str, Any]:
    """The run's record, with the entity, project and id from `_path`."""
    *entity, project, id = _path(folder).split("/")
    record = copy.deepcopy(folder.record)
    record["config"]["logging"]["wandb"] |= {"entity": entity[0] if entity else None, "project": project}
    return {**record, "wandb_id": id}


def _ask_server(folder: RunFolder) -> _Known:
    """What the server has of the folder's run. Raises UserError if it does not answer or refuses access."""
    known = _Known()
    try:
        try:
            run = client.api().run(_path(folder))
        except client.failures() as error:
            if not client.not_found(error):
                raise
            return known
        known.run, known.state = True, str(run.state)
        known.steps = {int(row["step"]) for row in run.scan_history(keys=["step"])}
        for artifact in run.logged_artifacts():
            known.aliases.setdefault(artifact.type, set()).update(artifact.aliases)
            known.digests.add(artifact.digest)
        known.inputs = {artifact.type for artifact in run.used_artifacts()}
    except client.failures() as error:
        raise UserError(
            f"W&B's server cannot be asked about {folder.path}: {one_line(error)}. `wandb login` makes a login."
        ) from error
    return known


def _milestones(folder: RunFolder) -> list[int]:
    """The milestones whose checkpoints a server should have: the newest few and the best of those in the folder; none
    if checkpoint.upload is off."""
    cfg = Config.model_validate(folder.record["config"])
    if not cfg.checkpoint.upload:
        return []
    there = [s for s in folder.rows if cfg.is_milestone(s) and checkpoint_path(folder.path, s).is_file()]
    fids = {step: fid for step, fid in folder.fids().items() if step in there}
    best = [min(fids, key=lambda step: fids[step])] if fids else []
    return sorted({*there[-cfg.checkpoint.keep_online :], *best})
