"""Where runs come from: `open_source` looks at what is there and picks the reader."""

from pathlib import Path

from ddpm.errors import UserError
from reports.runs import Run
from reports.sources import folders, offline


def open_source(spec: str) -> list[Run]:
    """All runs under the folder `spec`, ordered by experiment, start and id.

    A folder that holds `loss.jsonl` files anywhere below it is read as run folders; else one that holds
    `run-*.wandb` files is read as W&B offline runs. Run folders come first because they hold the same
    numbers and need no foreign file format.

    Raises UserError: nothing there, a file, neither kind found, or `wandb:ENTITY/PROJECT`.
    """
    if spec.startswith("wandb:"):
        raise UserError(
            f"{spec}: runs cannot be read from the W&B server yet. Give a folder instead: the run folders "
            "of `ddpm train`, or the `wandb` folder that holds the `offline-run-*` (or `run-*`) folders."
        )
    root = Path(spec).expanduser()
    if not root.exists():
        raise UserError(f"{spec}: there is no such folder. Give a folder of runs, e.g. `runs` or `wandb`.")
    if not root.is_dir():
        raise UserError(f"{spec} is a file. Give the folder that holds the runs, e.g. `{root.parent}`.")
    for reader in (folders, offline):
        found = reader.find(root)
        if found:
            runs = reader.read(found)
            return sorted(runs, key=lambda r: (r.experiment, r.started is not None, str(r.started), r.id))
    raise UserError(
        f"{spec}: no runs found. Looked at any depth for `loss.jsonl` (run folders) and for `run-*.wandb` "
        "(W&B run files)."
    )
