"""Numbers measured after a training, added to the record of the run: its folder, then W&B."""

from collections.abc import Mapping
from typing import Any

from ddpm.tracking.run_folder import Row, RunFolder
from ddpm.tracking.sync import at_home
from ddpm.tracking.wandb_run import WandbRun


def send_amended(folder: RunFolder, rows: Mapping[int, Row], facts: dict[str, Any]) -> str:
    """Rows that `RunFolder.append` has added to an entered folder, to W&B, under the run's own id; what became of them.

    facts: how they were measured, for `run.json`. Offline they are kept in W&B's files, and `ddpm sync` sends them.
    """
    run = WandbRun(at_home(folder))
    for step, row in rows.items():
        run.log(step, row)
    run.summarise(folder.summary())
    arrived = run.finish(0 if folder.finished else 1)
    sent = run.mode == "online" and arrived
    amendment = {"steps": list(rows), "sent": sent or run.mode == "disabled", "wandb_files": run.files, **facts}
    folder.amend_record(amendment)
    if sent:
        return f"on W&B too: {run.where}"
    return "W&B is disabled" if run.mode == "disabled" else f"to send them to W&B: ddpm sync {folder.path}"
