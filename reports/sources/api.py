"""Runs of a W&B project, read from its server through `wandb.Api()`, by way of a cache outside the package.

The cache holds, for each run, its rows as they came and a card (config, summary, state, a stamp of how far it had got).
One request lists a hundred runs with their stamps; only runs whose stamp has moved are read again, from where the
cached rows end, several at once. What was read stays read if the network goes: the next call goes on from there.

A server's `history` is sampled; `scan_history` is complete, and is what is read.
"""

import hashlib
import importlib
import json
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ddpm.errors import UserError
from ddpm.files.disk import write_whole
from ddpm.files.rows import parse, step_of
from ddpm.runtime.cache import cache_dir
from ddpm.tracking import client
from reports.columns import collect, merge
from reports.runs import Run
from reports.sources import cache, pictures
from reports.sources.record import Pictures, make_run, read_about
from reports.sources.rows import read_history, read_row

_TIMEOUT_S = 20
_AT_ONCE = 8
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")  # of an entity, a project, a run, as a folder's


def read(path: str, experiments: Sequence[str] = (), *, cached: bool = False) -> list[Run]:
    """The runs of `ENTITY/PROJECT`, or of `PROJECT` under the login's own entity; of `experiments` alone where named.

    cached: what the cache holds, without the network. It is also what is used where the server does not answer, which
    is then printed; in both cases each run's notes say it, and of when the numbers are. Raises UserError: no login, no
    such project, no right to it, no runs in it, nothing cached.
    """
    why = "read from the cache, as asked for with --offline-cache"
    if not cached:
        try:
            return [_from_cache(folder) for folder in _refresh(path, experiments)]
        except client.failures() as error:
            reason, server = _reason(error), client.server()
            if not _cached(path) or not _is_silence(reason):
                raise UserError(
                    f"wandb:{path} cannot be read from {server}: {reason}. Give wandb:ENTITY/PROJECT as in the "
                    "project's address, log in with `wandb login`, or read the runs from a folder (`wandb` or `runs`)."
                ) from error
            print(f"warning: {server} does not answer ({reason[:120]}): these are the runs as last read from it")
            why = f"{server} did not answer"
    folders = _cached(path)
    if not folders:
        raise UserError(f"wandb:{path} is not in the cache ({_root()}). Read it once with the network.")
    runs = [_from_cache(folder, why) for folder in folders]
    return [run for run in runs if run.experiment in experiments] or runs


def _refresh(path: str, experiments: Sequence[str]) -> list[Path]:
    """Bring the cache up to date; the folders of the runs asked for (of all, where none is of `experiments`)."""
    wandb: Any = importlib.import_module("wandb")  # 0.5 s that other sources need not pay
    api = wandb.Api(timeout=_TIMEOUT_S)
    wanted = {"config.experiment": {"$in": list(experiments)}} if experiments else {}
    found = list(api.runs(path, filters=wanted, order="+created_at", per_page=100, lazy=False))
    if not found and experiments:
        found = list(api.runs(path, order="+created_at", per_page=100, lazy=False))  # to say what there is
    if not found:
        raise UserError(f"wandb:{path} holds no runs.")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        folders = list(tqdm(pool.map(_fetch, found), desc="runs", total=len(found), disable=None, leave=False))
    # After all rows: pictures are the least of a report, and wait for nothing else.
    names = [_card(folder).get("pictures", []) for folder in folders]
    pictures.fetch(list(zip(found, folders, names, strict=True)), api.api_key, client.server())
    return folders


def _fetch(run: Any) -> Path:
    """The run's folder in the cache, its rows brought up to date. The card is written last: a stamp speaks for what is
    there."""
    folder = _folder(run.path)
    card = _card(folder)
    stamp = [run.state, str(run.heartbeat_at), run.historyLineCount]
    if card and card["stamp"] == stamp:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    old = (folder / "history.jsonl").read_text() if card else ""
    # A shorter history than the one known is another one.
    begin = card["last"] + 1 if card and run.historyLineCount >= card["stamp"][2] else 0
    rows = list(run.scan_history(min_step=begin, page_size=1000))
    write_whole(
        folder / "history.jsonl", (old if begin else "") + "".join(json.dumps(row) + "\n" for row in rows), synced=False
    )
    grids = [name for row in rows if (name := read_row(row)[2])]
    known = {
        "id": run.id,
        "group": run.group,
        "state": run.state,
        "created_at": run.created_at,
        "commit": run.commit,
        "path": "/".join(run.path),
        "url": run.url,
        "config": {key: value for key, value in run.config.items() if key != "_wandb"},
        "summary": _plain(dict(run.summary)),
        "last": max((step for row in rows if (step := step_of(row.get("_step"))) is not None), default=begin - 1),
        "pictures": (card.get("pictures", []) if begin else []) + grids,
        "stamp": stamp,
        "bytes": (folder / "history.jsonl").stat().st_size,
    }
    write_whole(folder / "card.json", json.dumps(known), synced=False)
    return folder


def _from_cache(folder: Path, why: str = "") -> Run:
    """The run in a folder of the cache. `why` the server's present state is not known, for its notes."""
    card = _card(folder)
    config = card["config"] if isinstance(card["config"], dict) else {}
    found = {
        "run_id": card["id"],
        "experiment": config.get("experiment") or card["group"],
        "seed": config.get("seed"),
        "started": card["created_at"],
        "commit": config.get("commit") or card["commit"],
        "config": {key: value for key, value in config.items() if key != "protocols"},
        "protocols": config.get("protocols"),
        "summary": card["summary"],
    }
    about, notes = read_about(found, "the run's config")
    about.experiment = about.experiment or about.run_id
    logged, said = cache.through(folder / "history.jsonl", _read_history)
    grids = Pictures()
    for step, name in said["grids"]:
        grids.add(step, folder, name)
    dated = [f"{why}: the numbers are those read from {client.server()} on {_read_at(folder)}"] if why else []
    source = Path(f"wandb:{card['path']}")
    finished = card["state"] == "finished"
    url = card.get("url") if str(card.get("url")).startswith(("http://", "https://")) else None
    notes = [*dated, *notes, *said["notes"]]
    return make_run(about, merge([logged]), source, notes, pictures=grids, finished=finished, url=url)


def _read_history(path: Path) -> cache.Read:
    grids: list[tuple[int, str]] = []
    notes: list[str] = []
    rows = (_parsed(line) for line in path.read_bytes().splitlines())
    return collect(read_history(rows, grids, notes)), {"grids": grids, "notes": notes}


def _parsed(line: bytes) -> Any:
    try:
        return parse(line)
    except ValueError:
        return None


# --- the cache ---


def _root() -> Path:
    """The cache's folder for this server."""
    return cache_dir() / "wandb" / client.server_name()


def _folder(parts: Sequence[str]) -> Path:
    """The folder of an entity, project or run in the cache. What cannot be a folder's name has a digest as its own."""
    names = [
        part if _NAME.fullmatch(part) else f"id-{hashlib.sha256(part.encode(errors='replace')).hexdigest()[:32]}"
        for part in map(str, parts)
    ]
    return _root().joinpath(*names)


def _read_at(folder: Path) -> str:
    """When the run's numbers were read from the server: its card is written last."""
    return datetime.fromtimestamp((folder / "card.json").stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _cached(path: str) -> list[Path]:
    """The folders of a project's runs that are in the cache whole."""
    *entity, project = path.split("/")
    place = _folder([*entity, project]).relative_to(_root())
    pattern = place if entity else Path("*") / place
    return sorted(card.parent for card in _root().glob(f"{pattern}/*/card.json") if _card(card.parent))


def _card(folder: Path) -> dict[str, Any]:
    """What the cache knows of a run; empty where it is not there, or damaged."""
    try:
        card = json.loads((folder / "card.json").read_text())
        if card["bytes"] == (folder / "history.jsonl").stat().st_size:
            return card
    except (OSError, ValueError, LookupError, TypeError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    return {}


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    status = getattr(getattr(error, "response", None), "http_status", None)
    return f"permission denied (HTTP {status}): {text}" if status in (401, 403) else text


def _is_silence(reason: str) -> bool:
    """Whether the server did not answer; one that answers and refuses is not made up for by old numbers."""
    silent = (
        "timed out",
        "deadline",
        "refused",
        "did not respond",
        "unreachable",
        "no such host",
        "resolve",
        "giving up",
    )
    return any(word in reason.lower() for word in silent)


def _plain(value: Any) -> Any:
    """W&B's summary wrappers as plain dictionaries."""
    if hasattr(value, "items"):  # theirs are no Mapping
        return {key: _plain(inner) for key, inner in value.items()}
    return value
