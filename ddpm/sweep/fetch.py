"""A run that was interrupted on another machine: its folder made here from what W&B's server has of it."""

import importlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from ddpm.config.run import Config
from ddpm.errors import UserError
from ddpm.tracking import client

_ABOUT = ("run_id", "commit", "version", "params", "protocols", "environment")


def fetch_point(cfg: Config) -> None:
    """In a sweep, where the run that this process is given has no folder here: make it from W&B's, if W&B has one.

    An agent is given a run a second time after a preemption, and `ddpm sweep --requeue` gives those that crashed.
    Raises UserError if W&B's run is another training: an agent's variables in a shell that is used again.
    """
    names = (os.environ.get("WANDB_ENTITY"), os.environ.get("WANDB_PROJECT"), client.agents_run())
    if not all(names) or cfg.clean_run or cfg.run_dir.exists():
        return
    path = "/".join(map(str, names))
    wandb: Any = importlib.import_module("wandb")
    try:
        run = wandb.Api(timeout=20).run(path)
        other = run.config.get("run_id", cfg.run_id)
        if "experiment" in run.config and other == cfg.run_id:
            _make_folder(run, cfg, path)
    except client.failures() as error:
        if "not find" not in str(error) and "not found" not in str(error):  # a run that has not begun
            print(f"warning: nothing is continued from W&B ({(str(error).splitlines() or [''])[0]})")
        return
    if other != cfg.run_id:
        raise UserError(
            f"WANDB_RUN_ID and WANDB_SWEEP_ID give this training, {cfg.run_id}, the W&B run {path}, which is that of "
            f"{other}. Unset both to train it as a W&B run of its own."
        )


def _make_folder(run: Any, cfg: Config, path: str) -> None:
    from ddpm.tracking.run_folder import RunFolder

    found = [a for a in run.logged_artifacts() if a.type == "model" and _step(a) > 0]
    if not found:
        return
    newest = max(found, key=_step)
    facts = {key: run.config.get(key) for key in _ABOUT}
    session = {"started": run.created_at, "from_step": 0, "commit": facts["commit"], "version": facts["version"]}
    session |= {"environment": facts["environment"] or {}, "wandb": path, "wandb_mode": "online", "wandb_files": None}
    record = facts | {
        "wandb_id": run.id,
        "experiment": cfg.experiment,
        "seed": cfg.seed,
        "started": run.created_at,
        "sessions": [session],
        "config": cfg.nested(),
    }
    with RunFolder(cfg) as folder:
        if folder.begun:  # by another process, meanwhile
            return
        with folder.beginning(record, cfg.to_yaml()) as draft, tempfile.TemporaryDirectory(dir=draft) as aside:
            newest.download(root=aside)
            (draft / "checkpoints").mkdir()
            for file in Path(aside).glob("step-*.pt"):
                file.rename(draft / "checkpoints" / file.name)
            lines = (json.dumps({"_i": step, "out": row}) + "\n" for step, row in sorted(_rows(run).items()))
            (draft / "loss.jsonl").write_text("".join(lines))
    print(f"continuing from W&B's checkpoint {newest.name} (step {_step(newest)})")


def _step(artifact: Any) -> int:
    """The step in an artifact's aliases; -1 where there is none."""
    return max((int(a[5:]) for a in artifact.aliases if a.startswith("step-") and a[5:].isdigit()), default=-1)


def _rows(run: Any) -> dict[int, dict[str, Any]]:
    """The rows that W&B has, by step: numbers, names and curves; the last value of what was logged twice."""
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
