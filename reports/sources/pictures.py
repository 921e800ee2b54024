"""Downloads sample grids from a W&B server into the cache. A report can do without them: those that do not come within
`TOGETHER_S` are left out, and the run's notes count them."""

import contextlib
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ddpm.files.disk import replacing
from reports.sources.record import inside

TOGETHER_S = 60.0  # to wait for all pictures of a report
_ANSWER_S = 10.0  # to wait for a server's next bytes
_LARGEST_BYTES = 50_000_000
_AT_ONCE = 8

Wanted = tuple[Any, Path, Sequence[str]]  # a W&B run, its folder, names of its files


def fetch(wanted: Sequence[Wanted], api_key: str | None, server: str) -> None:
    """Download the files of each W&B run that its folder lacks, except names that lead out of the folder.

    Never raises: a picture that is refused, too large or late stays absent.
    """
    jobs: queue.SimpleQueue[Wanted] = queue.SimpleQueue()
    for run, folder, names in wanted:
        missing = [name for name in names if (path := inside(folder, name)) is not None and not path.is_file()]
        if missing:
            jobs.put((run, folder, missing))
    end = time.monotonic() + TOGETHER_S

    def work() -> None:
        while time.monotonic() < end:
            try:
                run, folder, names = jobs.get_nowait()
            except queue.Empty:
                return
            try:
                for file in run.files(names):
                    _download(file, folder, api_key, server, end)
            except Exception:  # any answer of the server, any failure of the client
                continue

    # No pool, which waits for its threads at the end: the client retries for minutes and has no option against it.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_AT_ONCE, jobs.qsize()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def _download(file: Any, folder: Path, api_key: str | None, server: str, end: float) -> None:
    """Download one file, whole or not at all. The client's own download would retry for minutes."""
    import requests

    path = inside(folder, file.name)
    if path is None:
        return
    own = urlsplit(file.url).netloc == urlsplit(server).netloc  # elsewhere the address itself is the key
    login = ("api", api_key) if own and api_key else None
    with contextlib.suppress(requests.RequestException, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            requests.get(file.url, auth=login, stream=True, timeout=_ANSWER_S) as answer,
            replacing(path, synced=False) as aside,
            aside.open("wb") as content,
        ):
            answer.raise_for_status()
            for part in answer.iter_content(2**16):
                content.write(part)
                if content.tell() > _LARGEST_BYTES or time.monotonic() > end:
                    raise OSError("too large or too late")
