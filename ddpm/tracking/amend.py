"""Numbers measured after a training, from the run's folder to W&B."""

import os
from collections.abc import Collection

from ddpm.errors import UserError
from ddpm.tracking.run_folder import RunFolder
from ddpm.tracking.sync import at_home, sync_folder
from ddpm.tracking.wandb_run import WandbRun, wandb_mode


def send_amended(folder: RunFolder, new: Collection[int]) -> str:
    """What `RunFolder.amend` has added to an entered folder, under the run's own id; a line that says where it is.

    A server gets all that it does not have yet. Offline the `new` steps go into W&B's files, and `ddpm sync` sends all.
    A server that does not answer costs nothing. A run that has only been offline stays so unless `online` is asked for.
    """
    if not folder.unsent_steps:
        return ""
    wanted = folder.record["config"]["logging"]["wandb"]["mode"]
    mode, _ = wandb_mode(wanted)
    been_online = any(session.get("wandb_mode") == "online" for session in folder.record["sessions"])
    if mode == "online" and wanted == "auto" and "WANDB_MODE" not in os.environ and not been_online:
        mode = "offline"  # a login alone does not take a run to a server that was kept here so far
    later = f"to send them to W&B: ddpm sync {folder.path}"
    if mode == "online":
        try:
            return f"W&B: {sync_folder(folder)}"
        except UserError as error:
            return f"warning: {error}\n{later}"
    if new:
        run = WandbRun(at_home(folder), folder.path, mode)
        for step in new:
            run.log(step, folder.rows[step])
        run.finish(0)
    return later if mode == "offline" else "W&B is disabled"
