"""Records of runs that are small enough to commit: run folders without weights and pictures.

`reports/sources/folders.py` reads a record as any run folder. It has no `checkpoints/` and `samples/`, but:

run.json, config.yaml, loss.jsonl, results.jsonl, evaluations.jsonl   unchanged, except for paths of the machine
checkpoints.json   the run's checkpoints: {name: {"bytes": size, "sha256": digest}}
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from ddpm.errors import UserError
from ddpm.files.disk import write_whole
from ddpm.files.yaml12 import read_yaml, write_yaml
from reports.sources import folders

FILES = ("run.json", "config.yaml", "loss.jsonl", "results.jsonl", "evaluations.jsonl")
CHECKPOINTS = "checkpoints.json"
LARGEST_BYTES = 700_000  # of a whole record
_DROPPED = ("wandb_files",)  # where W&B's files lie on the machine
_NO_PATH = ("wandb",)  # /PROJECT/RUN_ID, if the entity is unknown


def keep(sources: Sequence[Path], out: Path) -> list[str]:
    """Update the records in `out`, EXPERIMENT/RUN_ID for each run, from the run folders at or below `sources`; returns
    a line for each run. Unfinished runs are fine; unchanged files are not written.

    Raises UserError: no run, two runs with one name, or a record that is too large to commit.
    """
    found = sorted({folder for source in sources for folder in folders.find(source)})
    if not found:
        where = ", ".join(map(str, sources))
        raise UserError(f"No runs at or below {where}: no loss.jsonl in any folder there. Give run folders, or `runs`.")
    places: dict[Path, Path] = {}
    for folder in found:
        place = out / _experiment(folder) / folder.name
        if place in places:
            raise UserError(f"{places[place]} and {folder} are two runs with one name. Give one of them.")
        if place.resolve() == folder.resolve():
            raise UserError(f"{folder} is a record already. Give the folder of the run itself.")
        places[place] = folder
    return [_keep_one(folder, place) for place, folder in places.items()]


def _keep_one(folder: Path, place: Path) -> str:
    contents = {name: _without_paths(folder / name) for name in FILES if (folder / name).exists()}
    contents[CHECKPOINTS] = _list_checkpoints(folder, place)
    size = sum(map(len, contents.values()))
    if size > LARGEST_BYTES:
        largest = max(contents, key=lambda name: len(contents[name]))
        raise UserError(
            f"The record of {folder} would have {size:,} bytes, more than {LARGEST_BYTES:,}; {largest} alone has "
            f"{len(contents[largest]):,}. Log more rarely, or evaluate fewer points."
        )
    changed = sum(_write(place / name, content) for name, content in contents.items())
    state = "finished" if "results.jsonl" in contents else "not finished"
    said = f"{changed} file(s) new or changed" if changed else "nothing new"
    return f"{place}: {said}, {size:,} bytes, {state}"


def _experiment(folder: Path) -> str:
    """The experiment in run.json, else the name of the folder above."""
    try:
        return str(json.loads((folder / "run.json").read_text())["experiment"])
    except (OSError, ValueError, LookupError, TypeError):
        return folder.parent.name


def _write(path: Path, content: bytes) -> int:
    """1 where `path` did not have that content, and now has."""
    if path.exists() and path.read_bytes() == content:
        return 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
    return 1


def _list_checkpoints(folder: Path, place: Path) -> bytes:
    """Names, sizes and digests of a run's checkpoints; those in the record if the run has none left."""
    listed = {}
    for path in sorted(folder.glob("checkpoints/step-*.pt")):
        try:
            with path.open("rb") as file:
                listed[path.name] = {
                    "bytes": path.stat().st_size,
                    "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                }
        except FileNotFoundError:  # a running training removes old ones
            continue
    if not listed and (place / CHECKPOINTS).exists():
        return (place / CHECKPOINTS).read_bytes()
    return (json.dumps(listed, indent=2) + "\n").encode()


# ---- paths of the machine --------------------------------------------------------------------------------


def _without_paths(path: Path) -> bytes:
    """A file's content without paths of the machine. Files, or lines of a .jsonl, without such paths stay byte for
    byte. An incomplete last line, as a running training may have, is left out."""
    content = path.read_bytes()
    if path.suffix == ".yaml":
        return _scrubbed(content, lambda text: read_yaml(text, path), write_yaml)
    if path.suffix == ".json":
        return _scrubbed(content, json.loads, lambda value: json.dumps(value, indent=2) + "\n")
    lines = content.splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n") and not _is_json(lines[-1]):
        lines = lines[:-1]
    return b"".join(_scrubbed(line, json.loads, lambda value: json.dumps(value) + "\n") for line in lines)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _scrubbed(content: bytes, parse: Callable[[bytes], Any], write: Callable[[Any], str]) -> bytes:
    try:
        value = parse(content)
    except (ValueError, UserError):  # the reader reports it
        return content
    without = _scrub(value)
    return content if without == value else write(without).encode()


def _scrub(value: Any, key: str = "") -> Any:
    """Remove the keys that only say where files lie; cut other absolute paths to their last name."""
    if isinstance(value, dict):
        return {k: _scrub(v, k) for k, v in value.items() if k not in _DROPPED}
    if isinstance(value, list):
        return [_scrub(item, key) for item in value]
    if isinstance(value, str) and key not in _NO_PATH and is_machine_path(value):
        return PureWindowsPath(value).name  # handles both kinds of slashes
    return value


def is_machine_path(text: str) -> bool:
    """Whether `text` is an absolute path of any system, or one below a home folder."""
    return len(text) > 1 and (text[0] in "/\\" or text.startswith(("~/", "file:")) or text[1:3] in (":\\", ":/"))
