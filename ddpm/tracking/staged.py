"""Copies of a run's files in the staging folder of W&B's client: noted in the run folder, removed once uploaded.

The client removes a copy after an online run has uploaded it. A killed run and `wandb sync` leave theirs.
"""

import base64
import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ddpm.tracking import client

FILE = "staged.jsonl"


@dataclass(frozen=True)
class Copy:
    """A copy in the staging folder: its path, the MD5 of its bytes, and its artifact's digest."""

    path: str
    md5: str
    artifact: str


def note(folder: Path, artifact: Any) -> None:
    """Note the client's copies for `artifact`, before it is handed over."""
    copies = [Copy(str(e.local_path), e.digest, artifact.digest) for e in artifact.manifest.entries.values()]
    with (folder / FILE).open("a") as file:
        file.writelines(json.dumps(asdict(copy)) + "\n" for copy in copies)


def copies(folder: Path) -> dict[Copy, int]:
    """The run's copies that are still in the staging folder, unaltered, with their sizes in bytes.

    Their names are random: a file with the same name and other bytes belongs to another run.
    """
    try:
        lines = (folder / FILE).read_bytes().splitlines()
    except OSError:
        return {}
    noted = dict.fromkeys(copy for line in lines if (copy := _parse(line)))
    return {copy: size for copy in noted if (size := _size(copy)) is not None}


def _parse(line: bytes) -> Copy | None:
    try:
        return Copy(**{key: str(value) for key, value in json.loads(line).items()})
    except (ValueError, TypeError, AttributeError):  # torn by a kill
        return None


def _size(copy: Copy) -> int | None:
    """The copy's size; None if the file is not this copy."""
    path = Path(copy.path)
    try:
        if path.parent.resolve() != client.staging_folder().resolve() or path.is_symlink():
            return None
        with path.open("rb") as file:
            same = base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode() == copy.md5
            return file.tell() if same else None
    except (OSError, ValueError):
        return None


def remove_arrived(folder: Path, arrived: Collection[str]) -> str:
    """Remove the run's copies of artifacts with a digest in `arrived`, which the server has. Returns a message, empty
    if there were no copies."""
    gone, kept = [], []
    for copy, size in copies(folder).items():
        if copy.artifact in arrived:
            Path(copy.path).unlink(missing_ok=True)  # the client may remove it at the same time
            gone.append(size)
        else:
            kept.append(size)
    said = [f"removed {_amount(gone)} of uploaded files from W&B's staging folder"] * bool(gone)
    stay = "stays" if len(kept) == 1 else "stay"
    said += [f"{_amount(kept)} that the server does not have {stay} in {client.staging_folder()}"] * bool(kept)
    return "; ".join(said)


def note_on_run(folder: Path) -> str:
    """A message about the copies of the run in `folder` and the whole staging folder; empty without copies."""
    own = list(copies(folder).values())
    if not own:
        return ""
    return (
        f"W&B keeps {_amount(own)} of this run in {client.staging_folder()} until they are uploaded "
        f"({in_mb(sizes())} in all); checkpoint.upload=false keeps checkpoints out of it"
    )


def sizes() -> list[int]:
    """The sizes of all files in the staging folder in bytes, including other projects'."""
    try:
        return [path.stat().st_size for path in client.staging_folder().iterdir() if path.is_file()]
    except FileNotFoundError:
        return []


def _amount(found: list[int]) -> str:
    return f"{len(found)} cop{'y' if len(found) == 1 else 'ies'} ({in_mb(found)})"


def in_mb(found: list[int]) -> str:
    """The sum of sizes in bytes, in MB."""
    return f"{sum(found) / 1e6:.1f} MB"
