"""The W&B run of a run folder, or none. W&B's client is imported only if there is to be one, and need not be installed
otherwise."""

import os
from pathlib import Path
from typing import Any

from ddpm.errors import UserError
from ddpm.tracking.wandb_run import WandbRun, wandb_mode


class NoRun:
    """What W&B gets where it is disabled: nothing. It has what is used of a `WandbRun`."""

    mode, files, last_step = "disabled", None, float("inf")
    where = "kept in the run folder alone"

    def __init__(self, record: dict[str, Any], why: str):
        self.id, self.why = str(record["wandb_id"]), why
        options = record["config"]["logging"]["wandb"]
        self.path = f"{options['entity'] or ''}/{options['project']}/{self.id}"

    def log(self, step: int, row: dict[str, Any], grid: Path | None = None) -> None:
        """See `WandbRun.log`."""

    def log_artifact(self, kind: str, path: Path, aliases: list[str]) -> None:
        """See `WandbRun.log_artifact`."""

    def summarise(self, values: dict[str, Any]) -> None:
        """See `WandbRun.summarise`."""

    def alert(self, title: str, text: str, level: str) -> None:
        """See `WandbRun.alert`."""

    def finish(self, exit_code: int, *, stopped: bool = False) -> bool:
        """See `WandbRun.finish`."""
        return True


def open_run(record: dict[str, Any], folder: Path) -> WandbRun | NoRun:
    """The W&B run of a record (`run.json`) that is kept in `folder`, in the mode that its config and the environment
    say. Raises UserError."""
    mode, why = possible_mode(record["config"]["logging"]["wandb"]["mode"])
    return NoRun(record, why) if mode == "disabled" else WandbRun(record, folder, mode, why)


def possible_mode(wanted: str) -> tuple[str, str]:
    """`wandb_mode`; where W&B's client is not installed, `auto` is disabled.

    Raises UserError as `wandb_mode` does, and if a mode was asked for that needs the client.
    """
    try:
        mode, why = wandb_mode(wanted)
        if mode != "disabled":
            from wandb import init  # noqa: F401 - a folder `wandb` that runs leave here imports as well, and is empty
    except ImportError as error:
        asked = f"WANDB_MODE = {os.environ['WANDB_MODE']}" if os.environ.get("WANDB_MODE") else ""
        if not asked and wanted == "auto":
            return "disabled", "the package wandb is not installed; with it, `ddpm sync` uploads the run later"
        raise UserError(
            f"{asked or f'logging.wandb.mode = {wanted}'} needs the package wandb, which cannot be imported here "
            f"({error}). Install it (pip install wandb), or use disabled to keep runs in their folders alone."
        ) from None
    return mode, why
