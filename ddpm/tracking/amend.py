"""Sends numbers that were measured after a training from the run's folder to W&B."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ddpm.errors import UserError, one_line
from ddpm.tracking import derived
from ddpm.tracking.open_run import possible_mode
from ddpm.tracking.record import read_record
from ddpm.tracking.run_folder import RunFolder
from ddpm.tracking.sync import at_home, sync_folder
from ddpm.tracking.wandb_run import WandbRun


def send_amended(folder: RunFolder, new: Collection[int]) -> str:
    """Send what `RunFolder.amend` added to an entered folder to its W&B run. Returns a message about it.

    Online, everything that the server lacks is sent. Offline, the `new` steps go into W&B's files. A run that was only
    offline so far stays offline unless `online` is asked for. A server that does not answer, or a missing client, is no
    error.
    """
    if not folder.unsent_steps:
        return ""
    later = f"to send them to W&B: ddpm sync {folder.path}"
    try:
        mode, why = _mode(folder.record)
        if mode == "online":
            return f"W&B: {sync_folder(folder)}"
    except UserError as error:
        return f"warning: {error}\n{later}"
    if mode == "disabled":
        return f"W&B: disabled ({why})"
    if new:
        run = WandbRun(at_home(folder), folder.path, mode)
        for step in new:
            run.log(step, folder.rows[step])
        run.finish(0)
    return later


def send_noted(path: Path, points: Collection[str]) -> str:
    """Send the points that `derived.note` added to the run folder `path` to W&B. Returns a message about it.

    Online, everything that the server lacks of the run is sent. Offline, the points go into W&B's files. Nothing that
    fails here is an error: the notes are in the folder.
    """
    if not (path / "run.json").exists() or not points:
        return ""
    later = f"to send it to W&B: ddpm sync {path}"
    try:
        mode, _ = _mode(read_record(path))
        if mode == "disabled":
            return ""
        with RunFolder.at(path) as folder:
            if mode == "online":
                return f"W&B: {sync_folder(folder)}"
            derived.send(folder, at_home(folder), mode, points)
            return later
    except UserError as error:
        return f"warning: W&B does not have this yet: {one_line(error)}.\n{later}"


def _mode(record: dict[str, Any]) -> tuple[str, str]:
    """(mode, why) for numbers that are added to a record's run. Raises UserError as `possible_mode` does."""
    wanted = record["config"]["logging"]["wandb"]["mode"]
    mode, why = possible_mode(wanted)
    been_online = any(session.get("wandb_mode") == "online" for session in record["sessions"])
    if mode == "online" and wanted == "auto" and "WANDB_MODE" not in os.environ and not been_online:
        return "offline", "the run was offline so far"  # a login alone does not upload it
    return mode, why
