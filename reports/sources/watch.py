"""Reads the runs below a folder again and again, each only if its files have changed. For the page that shows runs
while they train."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ddpm.errors import UserError, one_line
from ddpm.files.paths import home
from reports.runs import Run
from reports.sources import folders, offline

# A run that grows is read again after at least this many times the seconds that reading it took, so that a long run
# leaves most of a core to its training; but at the latest after `_LATEST_S`.
_REST, _LATEST_S = 5.0, 3.0
Stamp = tuple[tuple[str, int, int], ...]  # name, size and time of each file


@dataclass(frozen=True)
class Found:
    """What was read: the runs (none if their files are gone, or cannot be read: the `problem`), and when their files
    last changed (seconds since 1970)."""

    key: str
    runs: list[Run]
    changed: float
    problem: str = ""


@dataclass
class _Known:
    stamp: Stamp
    due: float  # on the monotonic clock


class Watch:
    """The runs below the folder `source`: run folders, else W&B's offline files, as `open_source` chooses.

    Raises UserError: no such folder, a file, no runs, a W&B project.
    """

    def __init__(self, source: str) -> None:
        if source.startswith("wandb:"):
            raise UserError(
                f"The dashboard reads folders, e.g. `wandb` or `runs`, not {source}. For a workspace on W&B's server: "
                f"ddpm dashboard EXP --publish {source.removeprefix('wandb:')}"
            )
        self.root = home(source)
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else "there is no such folder"
            raise UserError(f"{source}: {what}. Give a folder of runs, e.g. `runs` or `wandb`.")
        self.folders = bool(folders.find(self.root))
        if not self._files():
            raise UserError(
                f"{source}: no runs found. Looked at any depth for `loss.jsonl` (run folders) and for `run-*.wandb` "
                "(W&B run files). A training writes them with its first rows: start the dashboard after it."
            )
        if not self.folders:
            import wandb.proto.wandb_internal_pb2  # noqa: F401 - if it is not installed, the command says so now
        self._known: dict[str, _Known] = {}

    def __len__(self) -> int:
        """How many runs there are now."""
        return len(self._files())

    def changes(self) -> Iterator[Found]:
        """Each run that is new or has changed since the last call, one at a time: the caller may keep little of it."""
        there = self._files()
        for key in self._known.keys() - there.keys():
            del self._known[key]
            yield Found(key, [], 0.0)
        for key, files in there.items():
            stamp = _stamp(files)
            known = self._known.get(key)
            if known and (known.stamp == stamp or time.monotonic() < known.due):
                continue
            begun = time.monotonic()
            found = self._read(key, files)
            if _stamp(files) != stamp:  # written meanwhile: perhaps seen in the middle of a line
                stamp, found = _stamp(files), self._read(key, files)
            now = time.monotonic()
            self._known[key] = _Known(stamp, now + min(_REST * (now - begun), _LATEST_S))
            yield found

    def _files(self) -> dict[str, list[Path]]:
        """A key for each run -> the files that belong to it."""
        if self.folders:
            names = ("loss.jsonl", "results.jsonl", "run.json", "samples")
            return {str(folder): [folder / name for name in names] for folder in folders.find(self.root)}
        by_name: dict[str, list[Path]] = {}
        for path in offline.find(self.root):  # files of one name are the sessions of one run
            by_name.setdefault(path.name, []).append(path)
        return by_name

    def _read(self, key: str, files: list[Path]) -> Found:
        changed = max((time_ns for _, _, time_ns in _stamp(files)), default=0) / 1e9
        try:
            runs = [folders.read_run(files[0].parent)] if self.folders else offline.read(files)
        except OSError as error:
            return Found(key, [], changed, f"{error.filename or key} cannot be read: {error.strerror or error}")
        except Exception as error:  # one run must not hide the others
            return Found(key, [], changed, f"{key} cannot be read ({type(error).__name__}: {one_line(error)})")
        return Found(key, runs, changed)


def _stamp(files: list[Path]) -> Stamp:
    found = []
    for path in files:
        with contextlib.suppress(OSError):  # not there (yet)
            about = path.stat()
            found.append((str(path), about.st_size, about.st_mtime_ns))
    return tuple(found)
