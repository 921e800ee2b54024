"""Numbers measured after a training, from the run's folder to W&B."""

from collections.abc import Collection

from ddpm.errors import UserError
from ddpm.tracking.open_run import possible_mode
from ddpm.tracking.run_folder import RunFolder
from ddpm.tracking.sync import at_home, sync_folder
from ddpm.tracking.wandb_run import WandbRun


def send_amended(folder: RunFolder, new: Collection[int]) -> str:
    """What `RunFolder.amend` has added to an entered folder, under the run's own id; a line that says where it is.

    A server gets all that it does not have yet. Offline the `new` steps go into W&B's files, and `ddpm sync` sends all.
    A server that does not answer costs nothing, and neither does a client that is missing.
    """
    if not folder.unsent_steps:
        return ""
    later = f"to send them to W&B: ddpm sync {folder.path}"
    try:
        mode, why = possible_mode(folder.record["config"]["logging"]["wandb"]["mode"])
        if mode == "online":
            return f"W&B: {sync_folder(folder)}"
    except UserError as error:
        return f"warning: {error}\n{later}"
    if mode == "disabled":
        return f"W&B: disabled ({why})"
    if new:
        run = WandbRun(at_home(folder), mode=mode)
        for step in new:
            run.log(step, folder.rows[step])
        run.finish(0)
    return later
