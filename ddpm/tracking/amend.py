"""Sends numbers that were measured after a training from the run's folder to W&B."""

import os
from collections.abc import Collection

from ddpm.errors import UserError
from ddpm.tracking.open_run import possible_mode
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
        wanted = folder.record["config"]["logging"]["wandb"]["mode"]
        mode, why = possible_mode(wanted)
        been_online = any(session.get("wandb_mode") == "online" for session in folder.record["sessions"])
        if mode == "online" and wanted == "auto" and "WANDB_MODE" not in os.environ and not been_online:
            mode = "offline"  # a login alone does not upload a run that was offline so far
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
