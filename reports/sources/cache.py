"""What the files of runs hold, kept on disk outside the package, so that a second report reads quickly.

For each file one `rows/<digest of its path>.npz` under `$DDPM_CACHE` (`~/.cache/ddpm`): numpy arrays and a text in
JSON, in a zip with its checksums, without pickles. It counts as long as the file has the size and the time that it
had. All of it may be deleted at any time.
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

_FORMAT = 2  # another number where a file is read in another way, or kept in another form
_LEAST_BYTES = 1_000_000  # a smaller file is read in the time that its place in the cache takes

# The rows of a file, and what else it says, as JSON knows it.
Read = tuple[Logged, dict[str, Any]]


def through(path: Path, read: Callable[[Path], Read]) -> Read:
    """`read(path)`, kept from an earlier time where the file has not changed since.

    A cache that is damaged, read-only or full is passed by without a word. Raises OSError where `path` itself is not
    to be read.
    """
    about = path.stat()  # before it is read: what is appended meanwhile is for the next time
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
            arrays = {metric: tuple(values) for metric, values in text["arrays"].items()}
            left_out = {metric: (count, step) for metric, (count, step) in text["left_out"].items()}
            logged = Logged(held["steps"], text["metrics"], held["values"], held["there"], protocols, arrays, left_out)
            return logged, text["said"]
    except Exception:  # damage shows in many ways, and all of them end in reading the file itself
        return None


def _keep(place: Path, stamp: list[Any], read: Read) -> None:
    logged, said = read
    text = {
        "stamp": stamp,
        "metrics": logged.metrics,
        "protocols": {metric: list(by_step.items()) for metric, by_step in logged.protocols.items()},
        "arrays": logged.arrays,
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
