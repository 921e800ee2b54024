"""Caches the content of runs' files, so that a second report reads quickly.

Each file has one `rows/<digest of its path>.npz` under `$DDPM_CACHE` (`~/.cache/ddpm`): numpy arrays and a JSON text,
without pickles. It is valid while the file's size and time stay the same. The cache can be deleted at any time.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.files.disk import replacing
from ddpm.runtime.cache import cache_dir
from reports.columns import Logged

_FORMAT = 4  # bump when reading or the cached form changes
_LEAST_BYTES = 1_000_000  # reading a smaller file takes no longer than its cache entry

# A file's rows, and the rest of its content as JSON values.
Read = tuple[Logged, dict[str, Any]]


def through(path: Path, read: Callable[[Path], Read]) -> Read:
    """`read(path)`, from the cache if the file has not changed.

    A damaged, read-only or full cache is ignored silently. Raises OSError if `path` itself cannot be read.
    """
    about = path.stat()  # before reading: rows that are appended meanwhile count as a change
    if about.st_size < _LEAST_BYTES:
        return read(path)
    name = str(path.resolve())
    stamp = [_FORMAT, name, about.st_size, about.st_mtime_ns]
    try:
        place = cache_dir() / "rows" / f"{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:32]}.npz"
    except RuntimeError:  # no home
        return read(path)
    kept = _load(place, stamp)
    if kept is None:
        kept = read(path)
        _keep(place, stamp, kept)
    return kept


def _load(place: Path, stamp: list[Any]) -> Read | None:
    try:
        with np.load(place) as held:
            text = json.loads(held["text"].tobytes())
            if text["stamp"] != stamp:
                return None
            protocols = {metric: dict(pairs) for metric, pairs in text["protocols"].items()}
            lists = {metric: {step: tuple(v) for step, v in pairs} for metric, pairs in text["lists"].items()}
            left_out = {metric: (count, step) for metric, (count, step) in text["left_out"].items()}
            logged = Logged(held["steps"], text["metrics"], held["values"], held["there"], protocols, lists, left_out)
            return logged, text["said"]
    except Exception:  # damage raises many errors; the file itself is then read
        return None


def _keep(place: Path, stamp: list[Any], read: Read) -> None:
    logged, said = read
    text = {
        "stamp": stamp,
        "metrics": logged.metrics,
        "protocols": {metric: list(by_step.items()) for metric, by_step in logged.protocols.items()},
        "lists": {metric: list(at_steps.items()) for metric, at_steps in logged.lists.items()},
        "left_out": logged.left_out,
        "said": said,
    }
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # shared: another report may be writing the same file.
        with replacing(place, synced=False, shared=True) as aside, aside.open("wb") as file:
            packed = np.frombuffer(json.dumps(text).encode(), dtype=np.uint8)
            np.savez(file, text=packed, steps=logged.steps, values=logged.values, there=logged.there)
    except OSError:
        return
