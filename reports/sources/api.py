"""Runs of a W&B project, read from its server through `wandb.Api()`.

A server's `history` is sampled; `scan_history` is complete, and is what is read. Rows of one step (a run that was
continued logs some twice) are merged like everywhere.
"""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ddpm.errors import UserError
from reports.runs import Run, as_seed, as_time, merge_rows, resolve_protocols
from reports.sources.rows import read_row

_TIMEOUT_S = 20


def read(path: str) -> list[Run]:
    """The runs of `ENTITY/PROJECT`, or of `PROJECT` under the login's own entity.

    Raises UserError: no login, no such project, no runs in it, or a server that does not answer.
    """
    wandb: Any = importlib.import_module("wandb")  # 0.5 s that other sources need not pay
    requests: Any = importlib.import_module("requests")
    try:
        api = wandb.Api(timeout=_TIMEOUT_S)
        found = list(api.runs(path, order="+created_at", per_page=100, lazy=False))
        runs = [_read_run(run) for run in tqdm(found, desc="runs", unit="run", disable=None, leave=False)]
    except (wandb.errors.Error, requests.RequestException, ValueError, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"wandb:{path} cannot be read from {os.environ.get('WANDB_BASE_URL', 'https://api.wandb.ai')}: {reason}. "
            "Give wandb:ENTITY/PROJECT as in the project's address, log in with `wandb login`, or read the runs from "
            "a folder (`wandb` or `runs`)."
        ) from error
    if not runs:
        raise UserError(f"wandb:{path} holds no runs.")
    return runs


def _read_run(run: Any) -> Run:
    config = {key: value for key, value in run.config.items() if key != "_wandb"}
    described = config.pop("protocols", None)
    rows, images = [], {}
    for raw in run.scan_history(page_size=1000):
        step, row, image = read_row(raw)
        if step is None:
            continue
        rows.append((step, row))
        if image:
            images[step] = image
    merged = merge_rows(rows)
    fingerprints, protocols = resolve_protocols(
        config, merged.fingerprints, described if isinstance(described, dict) else {}
    )
    return Run(
        id=run.id,
        experiment=str(config.get("experiment") or run.group or run.id),
        seed=as_seed(config.get("seed")),
        config=config,
        history=merged.history,
        source=Path(f"wandb:{'/'.join(run.path)}"),
        summary=_plain(dict(run.summary)),
        protocols=protocols,
        fingerprints=fingerprints,
        grids={step: path for step, name in sorted(images.items()) if (path := _fetch(run, name))},
        state="finished" if run.state == "finished" else "unfinished",
        started=as_time(run.created_at),
        commit=config.get("commit") or run.commit,
        notes=merged.notes,
    )


def _fetch(run: Any, name: str) -> Path | None:
    """A run's image on this machine, downloaded once: its name holds its digest. None where the server lacks it."""
    cache = Path(os.environ.get("DDPM_CACHE", Path.home() / ".cache" / "ddpm")) / "wandb" / Path(*run.path)
    if not (cache / name).is_file():
        for file in run.files([name]):
            file.download(root=str(cache), replace=True)
    return cache / name if (cache / name).is_file() else None


def _plain(value: Any) -> Any:
    """W&B's summary wrappers as plain dictionaries."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return value
