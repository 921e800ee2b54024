"""The W&B run of a run folder, or a stand-in if W&B is disabled. Only then may W&B's client be missing."""

import os
from pathlib import Path
from typing import Any

from ddpm.errors import UserError
from ddpm.tracking.wandb_run import WandbRun, wandb_mode


class NoRun:
    """Takes the place of a `WandbRun` if W&B is disabled; does nothing."""

    mode, files, last_step = "disabled", None, float("inf")
    where = "kept only in the run folder"

    def __init__(self, record: dict[str, Any], why: str):
        self.id, self.why = str(record["wandb_id"]), why
        options = record["config"]["logging"]["wandb"]
        self.path = f"{options['entity'] or ''}/{options['project']}/{self.id}"

    def log(self, *_: Any) -> None:
        """Does nothing."""

    log_artifact = use_data = summarise = alert = log

    def finish(self, exit_code: int, *, stopped: bool = False) -> bool:
        """True: W&B lacks nothing that it should have."""
        return True


def open_run(record: dict[str, Any], folder: Path) -> WandbRun | NoRun:
    """The W&B run of the record (`run.json`) in `folder`, in the mode that its config and the environment set. Raises
    UserError."""
    mode, why = possible_mode(record["config"]["logging"]["wandb"]["mode"])
    return NoRun(record, why) if mode == "disabled" else WandbRun(record, folder, mode, why)


def possible_mode(wanted: str) -> tuple[str, str]:
    """`wandb_mode`; without W&B's client, `auto` is disabled.

    Raises UserError as `wandb_mode` does, and if the client is missing for a mode that needs it.
    """
    try:
        mode, why = wandb_mode(wanted)
        if mode != "disabled":
            from wandb import init  # noqa: F401 - `import wandb` could find an empty folder `wandb` that runs leave
    except ImportError as error:
        asked = f"WANDB_MODE = {os.environ['WANDB_MODE']}" if os.environ.get("WANDB_MODE") else ""
        if not asked and wanted == "auto":
            return "disabled", "the package wandb is not installed; with it, `ddpm sync` uploads the run later"
        raise UserError(
            f"{asked or f'logging.wandb.mode = {wanted}'} needs the package wandb, which cannot be imported here "
            f"({error}). Install it (pip install wandb), or use disabled to keep runs only in their folders."
        ) from None
    return mode, why
