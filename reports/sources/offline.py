"""W&B transaction logs (`run-<id>.wandb`), read without a server and without starting W&B.

The file is a 7-byte header, then LevelDB log framing in blocks of 32 KiB. A chunk is crc32 (4 bytes, over type and
data), length (2), type (1: whole record, 2: first, 3: middle, 4: last chunk of one), data. A record is a
`wandb_internal.Record`. A running or killed run's file ends in an incomplete record; the records before it are kept.
"""

import struct
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ddpm.metrics.table import SOURCE
from reports.columns import Logged, collect, merge
from reports.runs import Later, Run, as_time
from reports.sources import cache
from reports.sources.later import from_texts, with_later
from reports.sources.record import Pictures, make_run
from reports.sources.rows import parsed, read_config, read_history

_MAGIC = b":W&B"
_VERSION = b"\xe1\xbe\x00"  # of the file format: the header's other bytes, the same from wandb 0.21 to 0.31
_FILE_HEADER = 7
_BLOCK = 32768
_CHUNK = struct.Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class _Log:
    """What one file says besides its rows, as JSON values for the cache.

    `started`: ISO text; `grids`: (step, path among the run's files); `later`: rows of work on a training's checkpoints.
    """

    id: str
    started: str | None = None
    group: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    grids: list[tuple[int, str]] = field(default_factory=list)
    finished: bool = False
    commit: str | None = None
    notes: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)
    client: str = ""


_File = tuple[Path, Logged, _Log]


def find(root: Path) -> list[Path]:
    """The W&B run files at or below `root`, each once (`latest-run` links to one of the others)."""
    return sorted({path.resolve() for path in root.rglob("run-*.wandb") if path.is_file()})


def read(found: list[Path]) -> list[Run]:
    """One Run for each run id. Files of one id (a run resumed offline) are merged in order of session, then start."""
    by_id: dict[str, list[_File]] = defaultdict(list)
    later: dict[str, list[Later]] = defaultdict(list)
    for path in found:
        rows, said = cache.through(path, _read_file)
        log = _Log(**said)
        if SOURCE in log.config:  # no training, but work on one's checkpoints
            later[str(log.config[SOURCE])] += from_texts(log.later)
        else:
            by_id[log.id].append((path, rows, log))
    runs = {id: _merge(sorted(files, key=_started)) for id, files in by_id.items()}
    if alone := later.keys() - runs.keys():
        print(f"warning: evaluations or probes of {len(alone)} run(s) are left out: their trainings are not there")
    return [with_later(run, later[id]) for id, run in runs.items()]


def read_records(data: bytes) -> tuple[list[bytes], int]:
    """(payloads of the whole records in `data`, number of bytes that they and the header occupy).

    Stops at the first chunk that is cut short, fails its checksum or is out of sequence. Never raises.
    """
    payloads: list[bytes] = []
    if len(data) < _FILE_HEADER or data[: len(_MAGIC)] != _MAGIC:
        return payloads, 0
    position = end = _FILE_HEADER
    parts: list[bytes] = []
    while True:
        left = _BLOCK - position % _BLOCK
        if left < _CHUNK.size:  # a block's tail too short for a chunk header is padding
            position += left
        if position + _CHUNK.size > len(data):
            break
        crc, length, kind = _CHUNK.unpack_from(data, position)
        body = data[position + _CHUNK.size : position + _CHUNK.size + length]
        in_sequence = kind in (_WHOLE, _FIRST) if not parts else kind in (_MIDDLE, _LAST)
        if len(body) < length or not in_sequence or zlib.crc32(bytes([kind]) + body) != crc:
            break
        parts.append(body)
        position += _CHUNK.size + length
        if kind in (_WHOLE, _LAST):
            payloads.append(b"".join(parts))
            parts, end = [], position
    return payloads, end


def _read_file(path: Path) -> cache.Read:
    # Over half a second that a report from run folders does not need.
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    log = _Log(id=path.stem.removeprefix("run-"))
    rows: list[Any] = []
    data = path.read_bytes()
    payloads, end = read_records(data)
    version = data[len(_MAGIC) : _FILE_HEADER]
    if data.startswith(_MAGIC) and version != _VERSION:
        log.notes.append(
            f"{path.name} has the file version {version.hex()}; the known one is {_VERSION.hex()} (wandb 0.21 to "
            "0.31), so it may be read wrongly"
        )
    raw_summary: dict[tuple[str, ...], str] = {}
    for payload in payloads:
        record = Record()
        try:
            record.ParseFromString(payload)
        except DecodeError:
            by = f" (written by wandb {log.client})" if log.client else ""
            log.notes.append(f"{path.name}: a record does not decode{by}; the file was read up to it")
            break
        _apply(record, log, rows, raw_summary)
    for keys, text in raw_summary.items():
        _put(log.summary, keys, parsed(text))
    if end == 0 or data[end:].strip(b"\0"):  # zeros are a block's padding
        log.notes.append(
            f"{path.name}: {len(data) - end} bytes after the last whole record were not read (cut or damaged)"
        )
    if SOURCE in log.config:
        log.later = [row["row"] for row in rows if isinstance(row.get("row"), str)]
        rows = []
    return collect(read_history(rows, log.grids, log.notes)), vars(log)


def _apply(record: Any, log: _Log, rows: list[Any], raw_summary: dict[tuple[str, ...], str]) -> None:
    kind = record.WhichOneof("record_type")
    log.client = record.header.version_info.producer.partition("+")[0] or log.client if kind == "header" else log.client
    if kind == "history":
        row: dict[str, Any] = {}
        for item in record.history.item:
            _put(row, _keys(item), parsed(item.value_json))
        rows.append(row)
    elif kind == "run":
        log.id = record.run.run_id or log.id
        log.group = record.run.run_group or log.group
        log.commit = record.run.git.commit or log.commit
        if record.run.HasField("start_time"):
            log.started = datetime.fromtimestamp(record.run.start_time.ToMicroseconds() / 1e6, UTC).isoformat()
        _apply_config(record.run.config, log.config)
    elif kind == "config":
        _apply_config(record.config, log.config)
    elif kind == "summary":
        # Kept as text: each logged row repeats the summary, and only the last values matter.
        raw_summary.update({_keys(item): item.value_json for item in record.summary.update})
        for item in record.summary.remove:
            raw_summary.pop(_keys(item), None)
    elif kind == "exit":
        log.finished = record.exit.exit_code == 0


def _apply_config(record: Any, config: dict[str, Any]) -> None:
    for item in record.update:
        _put(config, _keys(item), parsed(item.value_json))
    for item in record.remove:
        _drop(config, _keys(item))


def _keys(item: Any) -> tuple[str, ...]:
    return tuple(item.nested_key) or (item.key,)


def _put(target: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    for key in keys[:-1]:
        inner = target.get(key)
        if not isinstance(inner, dict):
            inner = target[key] = {}
        target = inner
    target[keys[-1]] = value


def _drop(target: dict[str, Any], keys: tuple[str, ...]) -> None:
    for key in keys[:-1]:
        target = target.get(key, {})
        if not isinstance(target, dict):
            return
    target.pop(keys[-1], None)


def _started(file: _File) -> tuple[int, float, str]:
    """The run numbers its sessions itself: a clock may jump back between two."""
    path, _, log = file
    session, started = log.config.get("session"), as_time(log.started)
    return session if isinstance(session, int) else 0, started.timestamp() if started else 0.0, str(path)


def _merge(files: list[_File]) -> Run:
    paths, rows, logs = zip(*files, strict=True)
    last = logs[-1]
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    grids = Pictures()
    for path, _, log in files:
        config |= log.config
        summary |= log.summary
        for step, name in log.grids:
            grids.add(step, path.parent / "files", name)
    about, notes = read_config(
        config,
        run_id=last.id,
        experiment=next((log.group for log in logs if log.group), ""),
        started=next((log.started for log in logs if log.started), None),
        commit=next((log.commit for log in reversed(logs) if log.commit), None),
        summary=summary,
    )
    notes = [*(note for log in logs for note in log.notes), *notes]
    return make_run(about, merge(rows), paths[-1].parent, notes, pictures=grids, finished=last.finished)
