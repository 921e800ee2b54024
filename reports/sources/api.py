"""Runs of a W&B project, read from its server through `wandb.Api()` and a cache outside the package.

For each run the cache holds its rows as they came and a card: config, summary, state, and a stamp of how far it had
got. One request lists a hundred runs with their stamps. Only runs with another stamp are read again, several at once,
from where the cached rows end. If the network fails, the next call continues.

Rows come from `scan_history`, which is complete; a server's `history` is sampled.
"""

import hashlib
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ddpm.errors import UserError
from ddpm.files.disk import write_whole
from ddpm.files.rows import step_of
from ddpm.metrics.table import SOURCE
from ddpm.runtime.cache import cache_dir
from ddpm.tracking import client
from reports.columns import collect, merge
from reports.runs import Later, Run
from reports.sources import cache, pictures
from reports.sources.later import JOBS, from_texts, with_later
from reports.sources.record import Pictures, make_run
from reports.sources.rows import parsed, read_config, read_history, read_row

_AT_ONCE = 8
# What a message says if the server did not answer.
_SILENCE = re.compile(
    "timed out|deadline|refused|did not respond|unreachable|no such host|resolve|giving up", re.IGNORECASE
)
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")  # a folder's name for an entity, a project, a run


def read(path: str, experiments: Sequence[str] = (), *, cached: bool = False) -> list[Run]:
    """The runs of `ENTITY/PROJECT`, or of `PROJECT` under the login's own entity; only those of `experiments`, if any.

    cached: read the cache without the network. If the server does not answer, the cache is used too, with a warning.
    In both cases each run's notes say so, and when the numbers were read. Raises UserError: no login, no such project,
    no permission, no runs, nothing cached.
    """
    why = "read from the cache, because of --offline-cache"
    if not cached:
        try:
            return _runs(_refresh(path, experiments))
        except client.failures() as error:
            reason, server = _reason(error), client.server()
            # A server that answers and refuses is not replaced by old numbers.
            if not _cached(path) or not _SILENCE.search(reason):
                raise UserError(
                    f"wandb:{path} cannot be read from {server}: {reason}. Give wandb:ENTITY/PROJECT as in the "
                    "project's address, log in with `wandb login`, or read the runs from a folder (`wandb` or `runs`)."
                ) from error
            print(f"warning: {server} does not answer ({reason[:120]}): these are the runs as last read from it")
            why = f"{server} did not answer"
    folders = _cached(path)
    if not folders:
        raise UserError(f"wandb:{path} is not in the cache ({_root()}). Read it once with the network.")
    runs = _runs(folders, why)
    return [run for run in runs if run.experiment in experiments] or runs


def _refresh(path: str, experiments: Sequence[str]) -> list[Path]:
    """Update the cache; returns the folders of the runs asked for, or of all runs if none is of `experiments`."""
    api = client.api()
    wanted = {"config.experiment": {"$in": list(experiments)}} if experiments else {}
    found = list(api.runs(path, filters=wanted, order="+created_at", per_page=100, lazy=False))
    if not found and experiments:
        found = list(api.runs(path, order="+created_at", per_page=100, lazy=False))  # for the error, which lists them
    found = [run for run in found if SOURCE not in run.config]
    if not found:
        raise UserError(f"wandb:{path} holds no runs.")
    of = {run.id for run in found}
    work = api.runs(path, filters={"jobType": {"$in": list(JOBS)}}, order="+created_at", per_page=100, lazy=False)
    found += [run for run in work if run.config.get(SOURCE) in of]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        folders = list(tqdm(pool.map(_fetch, found), desc="runs", total=len(found), disable=None, leave=False))
    # Pictures last: a report can do without them.
    names = [_card(folder).get("pictures", []) for folder in folders]
    pictures.fetch(list(zip(found, folders, names, strict=True)), api.api_key, client.server())
    return folders


def _fetch(run: Any) -> Path:
    """Update the run's rows in the cache; returns its folder. The card is written last, so its stamp holds."""
    folder = _folder(run.path)
    card = _card(folder)
    stamp = [run.state, str(run.heartbeat_at), run.historyLineCount]
    if card and card["stamp"] == stamp:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    old = (folder / "history.jsonl").read_text() if card else ""
    # A history that became shorter is another one.
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


def _runs(folders: Sequence[Path], why: str = "") -> list[Run]:
    """The runs in folders of the cache, each with what the other folders say of its checkpoints."""
    trainings: dict[str, Path] = {}
    later: dict[str, list[Later]] = defaultdict(list)
    for folder in folders:
        card = _card(folder)
        if SOURCE in card["config"]:
            rows = map(parsed, (folder / "history.jsonl").read_bytes().splitlines())
            later[str(card["config"][SOURCE])] += from_texts(row.get("row") for row in rows if isinstance(row, dict))
        else:
            trainings[card["id"]] = folder
    return [with_later(_from_cache(folder, why), later[id]) for id, folder in trainings.items()]


def _from_cache(folder: Path, why: str = "") -> Run:
    """The run in a folder of the cache. `why`: for its notes, why the server's present state is not known."""
    card = _card(folder)
    about, notes = read_config(
        card["config"] if isinstance(card["config"], dict) else {},
        run_id=card["id"],
        experiment=card["group"],
        started=card["created_at"],
        commit=card["commit"],
        summary=card["summary"],
    )
    logged, said = cache.through(folder / "history.jsonl", _read_history)
    grids = Pictures()
    for step, name in said["grids"]:
        grids.add(step, folder, name)
    dated = [f"{why}: the numbers are those read from {client.server()} on {_read_at(folder)}"] if why else []
    source, finished = Path(f"wandb:{card['path']}"), card["state"] == "finished"
    url = card.get("url") if str(card.get("url")).startswith(("http://", "https://")) else None
    notes = [*dated, *notes, *said["notes"]]
    return make_run(about, merge([logged]), source, notes, pictures=grids, finished=finished, url=url)


def _read_history(path: Path) -> cache.Read:
    grids: list[tuple[int, str]] = []
    notes: list[str] = []
    rows = (parsed(line) for line in path.read_bytes().splitlines())
    return collect(read_history(rows, grids, notes)), {"grids": grids, "notes": notes}


# --- the cache ---


def _root() -> Path:
    """The cache's folder for this server."""
    return cache_dir() / "wandb" / client.server_name()


def _folder(parts: Sequence[str]) -> Path:
    """The folder of an entity, project or run in the cache. A name that no folder can have becomes a digest."""
    names = [
        part if _NAME.fullmatch(part) else f"id-{hashlib.sha256(part.encode(errors='replace')).hexdigest()[:32]}"
        for part in map(str, parts)
    ]
    return _root().joinpath(*names)


def _read_at(folder: Path) -> str:
    """When the run's numbers were read from the server."""
    return datetime.fromtimestamp((folder / "card.json").stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _cached(path: str) -> list[Path]:
    """The folders of a project's runs that are complete in the cache."""
    *entity, project = path.split("/")
    place = _folder([*entity, project]).relative_to(_root())
    pattern = place if entity else Path("*") / place
    return sorted(card.parent for card in _root().glob(f"{pattern}/*/card.json") if _card(card.parent))


def _card(folder: Path) -> dict[str, Any]:
    """A run's card in the cache; empty if it is missing or damaged, and the folder is then removed."""
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


def _plain(value: Any) -> Any:
    """W&B's summary wrappers as plain dictionaries."""
    if hasattr(value, "items"):  # W&B's wrappers are not Mappings
        return {key: _plain(inner) for key, inner in value.items()}
    return value
