"""Continues a run of another machine: makes its folder here from W&B's server."""

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from ddpm.config.run import Config
from ddpm.errors import UserError, first_line
from ddpm.tracking import client

_ABOUT = ("run_id", "commit", "version", "params", "protocols", "environment", "criteria")


def fetch_point(cfg: Config) -> None:
    """In a sweep: if this process's run has no folder here, make it from the W&B run, if there is one.

    Agents get a run again after a preemption; `ddpm sweep --requeue` gives out crashed ones. Raises UserError if the
    W&B run is another training: the agent's variables are left over in the shell.
    """
    names = (os.environ.get("WANDB_ENTITY"), os.environ.get("WANDB_PROJECT"), client.agents_run())
    if not all(names) or cfg.clean_run or cfg.run_dir.exists():
        return
    path = "/".join(map(str, names))
    try:
        run = client.api().run(path)
        other = run.config.get("run_id", cfg.run_id)
        if "experiment" in run.config and other == cfg.run_id:
            _make_folder(run, cfg, path)
    except client.failures() as error:
        if not client.not_found(error):  # otherwise the run has not begun
            print(f"warning: nothing is continued from W&B ({first_line(error)})")
        return
    if other != cfg.run_id:
        raise UserError(
            f"WANDB_RUN_ID and WANDB_SWEEP_ID give this training, {cfg.run_id}, the W&B run {path}, which belongs to "
            f"{other}. Unset both to train it as a W&B run of its own."
        )


def _make_folder(run: Any, cfg: Config, path: str) -> None:
    from ddpm.tracking.run_folder import RunFolder
    from ddpm.tracking.wandb_run import version_step

    found = [a for a in run.logged_artifacts() if a.type == "model" and version_step(a) > 0]
    if not found:
        return
    newest = max(found, key=version_step)
    # A run from before a key does not have it.
    facts = {key: value for key in _ABOUT if (value := run.config.get(key)) is not None}
    session = {"started": run.created_at, "from_step": 0, **{key: facts.get(key) for key in ("commit", "version")}}
    session |= {"environment": facts.get("environment", {}), "wandb": path, "wandb_mode": "online", "wandb_files": None}
    record = facts | {
        "wandb_id": run.id,
        "experiment": cfg.experiment,
        "seed": cfg.seed,
        "started": run.created_at,
        "sessions": [session],
        "config": cfg.nested(),
    }
    with RunFolder(cfg) as folder:
        if folder.begun:  # another process has made it meanwhile
            return
        with folder.beginning(record, cfg.to_yaml()) as draft, tempfile.TemporaryDirectory(dir=draft) as aside:
            newest.download(root=aside)
            (draft / "checkpoints").mkdir()
            for file in Path(aside).glob("step-*.pt"):
                file.rename(draft / "checkpoints" / file.name)
            lines = (json.dumps({"_i": step, "out": row}) + "\n" for step, row in sorted(_rows(run).items()))
            (draft / "loss.jsonl").write_text("".join(lines))
    print(f"continuing from W&B's checkpoint {newest.name} (step {version_step(newest)})")


def _rows(run: Any) -> dict[int, dict[str, Any]]:
    """The rows that W&B has, by step: numbers, names and curves. Of a value logged twice, the last counts."""
    rows: dict[int, dict[str, Any]] = {}
    for logged in run.scan_history():
        if logged.get("step") is None:
            continue
        kept = {
            key: math.nan if value == "NaN" else value
            for key, value in logged.items()
            if value is not None and not key.startswith("_") and key != "step" and not isinstance(value, dict)
        }
        rows.setdefault(int(logged["step"]), {}).update(kept)
    return rows
