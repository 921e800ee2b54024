"""What the stand-in stores: runs, artifacts, sweeps, alerts and saved views, as plain records that tests read."""

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

HISTORY, SUMMARY, EVENTS, CONSOLE = "wandb-history.jsonl", "wandb-summary.json", "wandb-events.jsonl", "output.log"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class RunRecord:
    """One run as the server knows it. `history` and `console` hold the file stream's lines, in order."""

    entity: str
    project: str
    id: str
    name: str = ""
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    description: str | None = None
    tags: list[str] = field(default_factory=list)
    sweep: str | None = None
    commit: str | None = None
    host: str | None = None
    program: str | None = None
    raw_config: dict[str, Any] = field(default_factory=dict)  # as W&B stores it: {"key": {"value": ...}, "_wandb": ...}
    summary: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, list[str]] = field(default_factory=dict)  # lines by the stream's file name
    files: dict[str, bytes] = field(default_factory=dict)
    used_artifacts: list[str] = field(default_factory=list)
    created_at: str = field(default_factory=now)
    heartbeat_at: str = field(default_factory=now)
    exit_code: int | None = None
    stop: bool = False  # asked to stop, as by the button on the run's page
    preempting: bool = False  # as the run itself said
    crashed_after: float = 300.0  # seconds without a heartbeat
    _heard: float = field(default_factory=time.monotonic)

    @property
    def config(self) -> dict[str, Any]:
        """The config as `wandb.config` shows it."""
        return {k: v["value"] for k, v in self.raw_config.items() if k != "_wandb"}

    @property
    def state(self) -> str:
        """`running`, `crashed` if it went silent, `finished`, `failed`, or `preempted` if it announced that before."""
        if self.exit_code is None:
            return "crashed" if time.monotonic() - self._heard > self.crashed_after else "running"
        return "finished" if not self.exit_code else "preempted" if self.preempting else "failed"

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.streams.get(HISTORY, [])]

    @property
    def console(self) -> list[str]:
        """The console's lines, without the stamp that the client puts before each."""
        return [line.rstrip("\n") for line in self.streams.get(CONSOLE, [])]

    def beat(self, exit_code: int | None) -> None:
        """A process writes this run. The run continues, even if it had ended before, or it ends with an exit code."""
        self._heard = time.monotonic()
        self.heartbeat_at = now()
        if self.exit_code is not None:
            self.preempting = False
        self.exit_code = exit_code

    def write(self, stream: str, offset: int, lines: list[str]) -> None:
        """Write lines at an offset of a stream. A chunk that is sent again overwrites itself."""
        if stream == SUMMARY:
            self.summary = json.loads(lines[-1])
            return
        held = self.streams.setdefault(stream, [])
        if offset > len(held) and stream != CONSOLE:
            raise ValueError(f"{stream}: lines from {offset} on, where only {len(held)} are held")
        held.extend([""] * (offset - len(held)))
        held[offset : offset + len(lines)] = lines


@dataclass
class ArtifactRecord:
    """One version of an artifact collection."""

    id: str
    project: str
    collection: str
    type: str
    digest: str
    run: str | None
    client_id: str | None = None
    description: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    aliases: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    version: int = 0
    state: str = "PENDING"  # "COMMITTED" once all its files are there, "DELETED"
    manifest: dict[str, Any] = field(default_factory=dict)
    used_by: list[str] = field(default_factory=list)
    created_at: str = field(default_factory=now)
    updated_at: str = field(default_factory=now)

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """The manifest's entries by file name: `digest` (MD5, base64) and `size`."""
        return self.manifest.get("contents", {})

    @property
    def own_files(self) -> dict[str, dict[str, Any]]:
        """The entries whose bytes are here; the others are references to somewhere else."""
        return {name: entry for name, entry in self.files.items() if "ref" not in entry}


@dataclass
class AlertRecord:
    project: str
    run: str
    title: str
    text: str
    level: str


@dataclass
class ViewRecord:
    """A saved workspace or a report."""

    id: str
    project: str
    name: str
    type: str
    display_name: str = ""
    description: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    created_at: str = field(default_factory=now)
    updated_at: str = field(default_factory=now)
