"""Work on a run's checkpoints: evaluations, probes into a file, samples. On W&B these are runs that use the checkpoint.

The run folder is the truth here too: each command notes what it measured in a file of `FILES`, one line a point,
{"_i": step, "point": key, "how": settings, "out": results}. `send` makes W&B runs of the notes. Their ids follow from
the training's, so the same work is the same W&B run whenever and from wherever it is sent.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddpm.errors import UserError, one_line
from ddpm.files.disk import append_line
from ddpm.files.rows import LeftOut, read_objects, said_of
from ddpm.metrics.table import SOURCE
from ddpm.runtime.checkpoint import digest
from ddpm.tracking import client
from ddpm.tracking.run_folder import RunFolder
from ddpm.tracking.wandb_run import Job, WandbRun

FILES = {"evaluate": "evaluations.jsonl", "probe": "probes.jsonl", "sample": "drawn.jsonl"}
_CALLED = {"evaluate": "evaluation", "probe": "probe", "sample": "sample"}
_NOT_SENT = ("influence", "described")  # long lists; the protocols, which the run's config has

Row = dict[str, Any]


@dataclass
class Work:
    """One W&B run. rows: what it logs, by key. steps: the checkpoints that it uses. table: its rows for people."""

    job: Job
    steps: set[int] = field(default_factory=set)
    rows: dict[str, Row] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    table: list[Row] = field(default_factory=list)


def note(folder: Path, job: str, step: int, point: str, out: Any, how: Any = None) -> None:
    """Append a point to the notes in a run folder, unless they have it. Does nothing for another folder. Prints a
    warning if the file cannot be read or written."""
    if not (folder / "run.json").exists():
        return
    path = folder / FILES[job]
    line = {"_i": step, "point": point, **({} if how is None else {"how": how}), "out": out}
    try:
        content = path.read_bytes() if path.exists() else b""
        if not any(each.get("point") == point for _, each in read_objects(content.splitlines(), {})):
            append_line(path, json.dumps(line) + "\n")
        elif not content.endswith(b"\n"):
            append_line(path, "")  # a kill took the last line's end
    except OSError as error:
        print(f"warning: the {_CALLED[job]} is not noted in {path}: {error.strerror or error}")


def works(folder: Path, record: dict[str, Any]) -> list[Work]:
    """The W&B runs of the notes in a run folder. Prints how many lines do not fit, and are left out."""
    found: dict[str, Work] = {}
    for job, name in FILES.items():
        path = folder / name
        left_out: LeftOut = {}
        for number, line in read_objects(path.read_bytes().splitlines(), left_out) if path.is_file() else ():
            try:
                made = {"evaluate": _evaluated, "probe": _probed, "sample": _drawn}[job](line, folder)
                suffix, axis, about, rows = made
                step = int(line["_i"])
            except (LookupError, TypeError, ValueError, AttributeError):
                left_out.setdefault("line(s) that do not fit", []).append(number)
                continue
            known = record.get("data") or {}
            config = {SOURCE: record["wandb_id"], "trained": _of_training(record), "data_digest": known.get("digest")}
            work = found.setdefault(suffix, Work(Job(job, suffix, axis, config | about)))
            work.job.config.get("protocols", {}).update(about.get("protocols", {}))
            work.steps.add(step)
            for key, row in rows:
                work.rows[key] = row | {"key": key}
            if job == "evaluate":
                work.table += [_tabled(row) for row in line["out"]]
            if job == "sample" and (picture := folder / "drawn" / f"{line['point']}.png").is_file():
                work.pictures |= {key: picture for key, _ in rows}
        for said in said_of(name, left_out):
            print(f"warning: {folder}: {said}")
    return list(found.values())


_Made = tuple[str, str, dict[str, Any], list[tuple[str, Row]]]  # the W&B id's end, x-axis, config, rows by key


def _evaluated(line: dict[str, Any], folder: Path) -> _Made:
    """A run for each checkpoint, its scores against the network calls."""
    rows = []
    for out in line["out"]:
        numbers = {"": out["value"], "_low": out.get("low"), "_high": out.get("high"), "_std": out.get("std")}
        row = {f"evaluate/{out['metric']}/{out['sampler']}{end}": value for end, value in numbers.items()}
        row |= {f"evaluate/{out['metric']}_{end}": out.get(end) for end in ("floor", "ceiling")}
        row = {key: value for key, value in row.items() if value is not None}
        whole = json.dumps({key: value for key, value in out.items() if key not in _NOT_SENT})
        key = f"{line['point']}-{out['metric']}"
        rows.append((key, {"evaluate/nfe": out["nfe"], **row, "row": whole}))
    protocols = {out["protocol"]: out["described"] for out in line["out"] if "described" in out}
    about = {"step": line["_i"], "protocols": protocols}
    return f"evaluate-{line['_i']}", "evaluate/nfe", about, rows


def _probed(line: dict[str, Any], folder: Path) -> _Made:
    """A run for each way to measure, its numbers against the training step."""
    numbers = {key: value for key, value in line["out"].items() if isinstance(value, int | float)}
    row = {"step": line["_i"], **numbers, "row": json.dumps(line | {"out": numbers})}
    about = {"how": line["how"]}
    return f"probe-{digest([line['how']])[:8]}", "step", about, [(line["point"], row)]


def _drawn(line: dict[str, Any], folder: Path) -> _Made:
    """A run for each grid of samples."""
    row = {"step": line["_i"], "row": json.dumps(line)}
    return f"sample-{line['point']}", "step", {"step": line["_i"], "how": line["how"]}, [(line["point"], row)]


def _of_training(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record.get(key) for key in ("run_id", "experiment", "seed", "commit", "version")}


def _tabled(row: Row) -> Row:
    """A row of an evaluation as the table shows it: numbers and short texts."""
    return {key: value for key, value in row.items() if key not in _NOT_SENT and not isinstance(value, list | dict)}


# --- to W&B ---


def send(folder: RunFolder, record: dict[str, Any], mode: str, only: Collection[str] | None = None) -> int:
    """Send the work in an entered folder that W&B lacks, as W&B runs of the record's project. Returns their number.

    Online, the server is asked what it has. Offline, the rows of the points `only` go into W&B's files. Raises
    UserError if the server does not answer, or does not take everything.
    """
    todo = works(folder.path, record)
    known = _ask_server(record) if mode == "online" and todo else {}
    sent = 0
    for work in todo:
        had, used = known.get(work.job.suffix, (set(), False))
        rows = {key: row for key, row in work.rows.items() if key not in had}
        if mode == "offline":
            rows = {key: row for key, row in rows.items() if only is None or key.split("-")[0] in only}
        if rows or (mode == "online" and not used):
            _send_one(folder, record, mode, work, rows, use=not used)
            sent += 1
    return sent


def _send_one(
    folder: RunFolder, record: dict[str, Any], mode: str, work: Work, rows: dict[str, Row], use: bool
) -> None:
    run = WandbRun(record, folder.path, mode, job=work.job)
    if run.mode == "online" and use:
        model, config = f"{record['wandb_id']}-model", f"{record['wandb_id']}-config"
        for step in sorted(work.steps):  # a checkpoint that the server does not keep: the config of its training
            run.use([f"{model}:step-{step}", f"{config}:latest"])
    for number, (key, row) in enumerate(rows.items(), start=1):
        picture = {"samples/drawn": work.pictures[key]} if key in work.pictures else {}
        # Offline the client would keep its own copy of the table; `ddpm sync` sends it.
        run.log_work(row, picture, work.table if number == len(rows) and run.mode == "online" else [])
    if not run.finish(0) or (mode == "online" and run.mode != "online"):
        raise UserError(f"The server did not take everything of the {work.job.type} runs of {folder.path}.")


def _ask_server(record: dict[str, Any]) -> dict[str, tuple[set[str], bool]]:
    """For each W&B run of the record's work, by its id's end: the keys that it has, and whether it uses something."""
    options, source = record["config"]["logging"]["wandb"], record["wandb_id"]
    path = "/".join(part for part in (options["entity"], options["project"]) if part)
    found = {}
    try:
        for run in client.api().runs(path, filters={f"config.{SOURCE}": source}, per_page=100):
            keys = {str(row["key"]) for row in run.scan_history(keys=["key"])}
            found[run.id.removeprefix(f"{source}-")] = keys, any(True for _ in run.used_artifacts())
    except client.failures() as error:
        if not client.not_found(error):
            raise UserError(f"W&B's server cannot be asked about {source}: {one_line(error)}.") from error
    return found
