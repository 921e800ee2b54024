"""Sample grids of a W&B server's runs, into the cache. They are the least of a report: what cannot be had within
`TOGETHER_S` is left out, and the run's notes count it."""

import contextlib
import importlib
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ddpm.files.disk import replacing
from reports.sources.record import inside

TOGETHER_S = 60.0  # for all pictures of a report
_ANSWER_S = 10.0  # for a server's next word
_LARGEST_BYTES = 50_000_000
_AT_ONCE = 8

Wanted = tuple[Any, Path, Sequence[str]]  # a W&B run, its folder, names of its files


def fetch(wanted: Sequence[Wanted], api_key: str | None, server: str) -> None:
    """Download the files of each W&B run that its folder does not have. Never raises: a picture that is refused, too
    large or late is absent. A name that leads out of the folder is not asked for."""
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
            except Exception:  # whatever the server answered, or the client made of it
                continue

    # Not a pool, which would be waited for at the end: the client tries again for minutes, and cannot be told not to.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_AT_ONCE, jobs.qsize()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def _download(file: Any, folder: Path, api_key: str | None, server: str, end: float) -> None:
    """One file, whole or not at all. Not by the client, whose download tries again for minutes."""
    requests: Any = importlib.import_module("requests")
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
