"""Where runs come from: `open_source` looks at the source and picks the reader."""

from collections.abc import Sequence

from ddpm.errors import UserError
from ddpm.files.paths import home
from reports.runs import Run
from reports.sources import api, folders, offline


def open_source(spec: str, experiments: Sequence[str] = (), *, cached: bool = False) -> list[Run]:
    """All runs in the folder `spec`, or in the W&B project `wandb:ENTITY/PROJECT`, by experiment, start and id.

    A folder with `loss.jsonl` files at any depth is read as run folders, else one with `run-*.wandb` files as W&B
    offline runs. Both hold the same numbers; run folders need no foreign file format.

    From a server only the runs of `experiments` are read, if it has any of them. `cached`: only its cache is read,
    without the network.

    Raises UserError: no such folder, a file, no runs found, or a server that cannot be read.
    """
    if spec.startswith("wandb:"):
        return _ordered(api.read(spec.removeprefix("wandb:"), experiments, cached=cached))
    root = home(spec)
    if not root.exists():
        raise UserError(f"{spec}: there is no such folder. Give a folder of runs, e.g. `runs` or `wandb`.")
    if not root.is_dir():
        raise UserError(f"{spec} is a file. Give the folder that holds the runs, e.g. `{root.parent}`.")
    for reader in (folders, offline):
        try:
            found = reader.find(root)
            if found:
                return _ordered(reader.read(found))
        except OSError as error:
            raise UserError(f"{error.filename or spec} cannot be read: {error.strerror or error}.") from error
    raise UserError(
        f"{spec}: no runs found. Looked at any depth for `loss.jsonl` (run folders) and for `run-*.wandb` "
        "(W&B run files)."
    )


def _ordered(runs: list[Run]) -> list[Run]:
    return sorted(runs, key=lambda r: (r.experiment, r.started is not None, str(r.started), r.id))
