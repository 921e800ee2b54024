"""Makes run records from what sources hold. Validates everything except rows, once: what does not fit is left out and
noted. Rows are validated in `reports.columns.collect`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reports.columns import Rows
from reports.runs import Run, as_time, resolve_protocols

_DEEPEST = 50  # levels of nested mappings and lists; a config has four
_LARGEST_INT = 2**63
_SHOWN = 3


class About(BaseModel):
    """What a record says about its run besides the rows."""

    model_config = ConfigDict(strict=True, extra="ignore")

    run_id: str = ""
    experiment: str = ""
    seed: Annotated[int, Field(ge=-_LARGEST_INT, lt=_LARGEST_INT)] | None = None
    started: str | None = None
    commit: str | None = None
    config: dict[str, Any] = {}
    protocols: dict[str, dict[str, Any]] = {}
    criteria: dict[str, str] = {}
    images: str = ""
    summary: dict[str, Any] = {}


@dataclass
class Pictures:
    """Sample grids by step; `absent`: the number of grids whose files are missing."""

    grids: dict[int, Path] = field(default_factory=dict)
    absent: int = 0

    def add(self, step: int, folder: Path, name: str) -> None:
        """Add the grid of `step`, the file `name` in `folder`; counted as absent if no such file is inside it."""
        path = inside(folder, name)
        if path is not None and path.is_file():
            self.grids[step] = path
        else:
            self.absent += 1


def inside(folder: Path, name: str) -> Path | None:
    """The path `name` in `folder`; None if it leads out of it (by `..`, an absolute path or a link)."""
    try:
        path = folder / name
        path.exists()  # raises if it is no valid name
        return path if path.resolve().is_relative_to(folder.resolve()) else None
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, links in a circle
        return None


def read_about(found: Mapping[str, Any], name: str) -> tuple[About, list[str]]:
    """What `found` says about a run, and notes on what was left out. `name`: the record's name in the notes."""
    left_out: list[str] = []
    fits = {key: value for key, value in found.items() if value is not None}
    fits = _fitting({key: fits[key] for key in About.model_fields if key in fits}, "", left_out)
    while True:
        try:
            about = About.model_validate(fits)
            break
        except ValidationError as error:
            for item in error.errors(include_url=False):
                part, *within = item["loc"]
                (fits[part] if within else fits).pop(within[0] if within else part, None)
                left_out.append(f"{'.'.join(map(str, item['loc']))} ({item['msg']})")
    if not left_out:
        return about, []
    shown = "; ".join(left_out[:_SHOWN]) + ("; ..." if len(left_out) > _SHOWN else "")
    return about, [f"{name}: {len(left_out)} entry(s) that do not fit were left out: {shown}"]


def _fitting(value: Any, place: str, left_out: list[str], depth: int = 0) -> Any:
    """`value` with printable texts, without integers of more than 64 bits and without too deeply nested parts."""
    if isinstance(value, Mapping):
        inner = [(printable(str(key)), part) for key, part in value.items()]
    elif isinstance(value, list | tuple):
        inner = [(str(number), part) for number, part in enumerate(value)]
    else:
        return printable(value) if isinstance(value, str) else value
    kept = {}
    for key, part in inner:
        at = f"{place}.{key}" if place else key
        if isinstance(part, int) and not -_LARGEST_INT <= part < _LARGEST_INT:
            left_out.append(f"{at} (an integer of more than 64 bits)")
        elif depth == _DEEPEST and isinstance(part, Mapping | list | tuple):
            left_out.append(f"{at[:100]} (nested too deeply)")
        else:
            kept[key] = _fitting(part, at, left_out, depth + 1)
    return kept if isinstance(value, Mapping) else list(kept.values())


def printable(text: str) -> str:
    """`text` with U+FFFD for control characters (except tabs and line ends) and halves of surrogate pairs.

    They could control a terminal, or could not be written to a file.
    """
    if text.isprintable():
        return text
    return "".join("\ufffd" if _is_control(char) else char for char in text)


def _is_control(char: str) -> bool:
    return (not char.isprintable() and char not in "\n\r\t" and ord(char) < 0xA0) or "\ud800" <= char <= "\udfff"


def make_run(
    about: About,
    rows: Rows,
    source: Path,
    notes: list[str],
    *,
    pictures: Pictures,
    finished: bool,
    url: str | None = None,
) -> Run:
    """The run of a record with validated parts."""
    recorded = {metric: printable(fingerprint) for metric, fingerprint in rows.fingerprints.items()}
    fingerprints, protocols = resolve_protocols(about.config, recorded, about.protocols, about.summary)
    if pictures.absent:
        notes = [*notes, f"{pictures.absent} sample grid(s) are left out: their files could not be had"]
    return Run(
        id=about.run_id,
        experiment=about.experiment,
        seed=about.seed,
        config=about.config,
        history=rows.history,
        source=source,
        summary=about.summary,
        protocols=protocols,
        fingerprints=fingerprints,
        grids=dict(sorted(pictures.grids.items())),
        state="finished" if finished else "unfinished",
        started=as_time(about.started),
        commit=about.commit,
        criteria=about.criteria,
        images=about.images,
        notes=(*notes, *rows.notes),
        lists=rows.lists,
        nan_steps=rows.nan_steps,
        url=url,
    )
