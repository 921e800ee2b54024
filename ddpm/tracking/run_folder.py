"""One run's folder: plain files, readable without W&B, from which an interrupted run is continued.

run.json        what is trained, on what, under which W&B id, and when it was continued
config.yaml     the resolved configuration, usable again
loss.jsonl      one row a logged step: {"_i": step, "out": {metric: value}} (docs/wandb.md)
samples/        sample grids
checkpoints/    see ddpm/checkpoint.py
diverged.json   where a loss or gradient was not finite
results.jsonl   the summary, once the run is finished: {"cfg", "out", "_i"}
NAME.crc        with what run.json, loss.jsonl and results.jsonl were written (ddpm/checksums.py)
evaluations.jsonl   what `ddpm evaluate` scored: {"_i": step, "point": key, "out": [table row, ...]}
"""

import errno
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from ddpm import checksums
from ddpm.checkpoint import checkpoint_path, checkpoint_step, intact, list_checkpoints, save_checkpoint
from ddpm.config import Config, as_meant, differences
from ddpm.errors import Held, UserError
from ddpm.metrics import CURVES
from ddpm.rows import LeftOut, read_rows
from ddpm.tracking.record import read_record, read_result

Row = dict[str, Any]


class RunFolder:
    """The folder of the run that `cfg` describes. Entered, it is held: no second process can write to it."""

    def __init__(self, cfg: Config, path: Path | None = None):
        self._cfg = cfg
        self.path = path or cfg.run_dir
        self.record: dict[str, Any] = {}
        self.rows: dict[int, Row] = {}
        self._altered: set[int] = set()  # steps of rows whose lines are not as they were written
        # Beside the folder, which may not be there yet, or be replaced.
        self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=0)

    @classmethod
    def at(cls, path: Path) -> "RunFolder":
        """The run folder at `path`, wherever it was trained. Raises UserError where its `run.json` is damaged."""
        try:
            config = read_record(path / "run.json")["config"]
            return cls(Config.model_validate(as_meant(config)), path)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path / 'run.json'} cannot be read: {' '.join(str(error).split())}.") from None

    # --- what is there ---

    def check(self) -> None:
        """Raises UserError where the folder is something else, or holds the same run under another config."""
        if not self.path.exists():
            return
        try:
            stored = read_record(self.path / "run.json")["config"]
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.path} exists and is not a run folder of this project (run.json: {error}). Move it, or give "
                "another --out_dir."
            ) from None
        if self._cfg.clean_run:
            return
        changed = differences(stored, self._cfg.nested())
        if changed:
            raise UserError(
                f"The run in {self.path} has another config: {'; '.join(changed)}. Use the config it was started with "
                "(its config.yaml), give this one another --id, or start it over with --clean_run=true."
            )

    @property
    def finished(self) -> bool:
        """Whether the run's last step and evaluation are done."""
        return not self._cfg.clean_run and bool(read_result(self.path))

    def fid_summary(self) -> dict[str, Any]:
        """The lowest and the last FID, as W&B's summary shows them. W&B's own minimum forgets earlier sessions."""
        fids = self.fids()
        return {"val/fid": {"min": min(fids.values()), "last": fids[max(fids)]}} if fids else {}

    def last_values(self) -> dict[str, Any]:
        """The last value of every metric; curves, which are lists, left out."""
        values: dict[str, Any] = {}
        for row in self.rows.values():
            values |= row
        return {key: value for key, value in values.items() if key not in CURVES}

    def summary(self) -> dict[str, Any]:
        """The last value of every metric, FID's lowest and last, the run's time once it is finished."""
        values = self.last_values()
        if self.finished:
            out = read_result(self.path)["out"]
            values |= {key: out[key] for key in ("run_time_s", "params") if key in out}
        return values | self.fid_summary()

    @property
    def begun(self) -> bool:
        """Whether there is a run to continue. Known once the folder is held."""
        return bool(self.record)

    def __enter__(self) -> "RunFolder":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise Held(
                f"Another process is writing to the run {self.path}. Wait for it or stop it, or give this one another "
                "--seed, --id or --out_dir."
            ) from None
        except OSError as error:
            raise UserError(f"The run folder {self.path} cannot be made: {error}.") from error
        try:
            self.check()
            if self.path.exists() and not self._cfg.clean_run:
                if not os.access(self.path, os.W_OK):
                    raise UserError(f"The run folder {self.path} is read-only. Make it writable, or copy it elsewhere.")
                self.record = read_record(self.path / "run.json")
                self.rows = self._read_rows()
                for path in (self.path / name for name in ("run.json", "results.jsonl")):
                    for said in checksums.as_written(path, path.read_bytes()) if path.exists() else []:
                        print(f"warning: {self.path}: {said}")
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.release()

    # --- beginning and continuing ---

    @contextmanager
    def beginning(self, record: dict[str, Any], config_yaml: str) -> Iterator[Path]:
        """Make the folder aside, where the path given is; what is done inside decides whether it takes its place.

        Neither W&B nor the folder is left half-begun by the other's failure, and an earlier run's folder goes only
        when the new one is there.
        """
        draft, old = (self.path.with_name(f".{self.path.name}.{end}") for end in ("part", "old"))
        try:
            with self._writing("run.json"):
                shutil.rmtree(draft, ignore_errors=True)
                shutil.rmtree(old, ignore_errors=True)
                draft.mkdir(parents=True)
                text = json.dumps(record, indent=2) + "\n"
                checksums.note(draft / "run.json", text)
                (draft / "run.json").write_text(text)
                (draft / "config.yaml").write_text(config_yaml)
            yield draft
            with self._writing("run.json"):
                # Two renames: a kill leaves the old folder or the new one whole.
                if self.path.exists():
                    self.path.rename(old)
                draft.rename(self.path)
                shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        self.record = record

    def continuing(self, step: int, session: dict[str, Any], config: dict[str, Any]) -> None:
        """Forget what came after `step`, which will come again: rows, checkpoints, a divergence. Note the new session,
        and the keys of the config that may change in a run, in `run.json`."""
        self.rows = {s: row for s, row in self.rows.items() if s <= step}
        self.record = {**self.record, "config": config, "sessions": [*self.record["sessions"], session]}
        with self._writing("loss.jsonl"):
            lines = {s: _line(s, row) for s, row in self.rows.items()}
            self._replace("loss.jsonl", "".join(lines.values()), *lines.values())
            # Of a line that was not as it was written, nothing more is known now.
            checksums.replace(self.path / "loss.jsonl", [lines[s] for s in lines.keys() - self._altered])
            for path in list_checkpoints(self.path):
                if checkpoint_step(path) > step:
                    path.unlink()
            for path in (*self.path.glob("checkpoints/*.part"), self.path / "diverged.json"):
                path.unlink(missing_ok=True)
        self._save_record()

    def note_session(self, facts: dict[str, Any]) -> None:
        """Add to what `run.json` says of the session that is going on."""
        sessions = self.record["sessions"]
        self.record = {**self.record, "sessions": [*sessions[:-1], {**sessions[-1], **facts}]}
        self._save_record()

    def amend(self, step: int, row: Row, how: dict[str, Any]) -> None:
        """Add numbers that were measured after the training to the row of `step`. `run.json` says how, and that W&B
        does not have them yet, before they are there."""
        amendments = self.record.get("amendments", [])
        last = amendments[-1] if amendments else {}
        steps = [*last["steps"], step] if last.get("how") == how and not last["sent"] else [step]
        kept = amendments[:-1] if len(steps) > 1 else amendments
        self.record = {**self.record, "amendments": [*kept, {"steps": steps, "sent": False, "how": how}]}
        self._save_record()
        self.append(step, row)

    @property
    def unsent_steps(self) -> set[int]:
        """The steps to which numbers were added that W&B's server does not have yet."""
        return {step for a in self.record.get("amendments", []) if not a["sent"] for step in a["steps"]}

    def note_sent(self) -> None:
        """Note in `run.json` that everything added was sent."""
        if self.unsent_steps:
            self.record["amendments"] = [{**a, "sent": True} for a in self.record["amendments"]]
            self._save_record()

    def _save_record(self) -> None:
        with self._writing("run.json"):
            self._replace("run.json", json.dumps(self.record, indent=2) + "\n")

    def newest_checkpoint(self) -> dict[str, Any] | None:
        """The state to continue from: the newest intact one, or the one before it if that brings lost rows back. None
        where no checkpoint is intact."""
        states = [state for _, state in itertools.islice(intact(self.path), 2)] if self.begun else []
        for state in states:
            lost = [step for step in range(1, state["step"]) if self._cfg.has_row(step) and step not in self.rows]
            if not lost:
                return state
            print(
                f"warning: {self.path / 'loss.jsonl'} lacks the rows of {lost}, which come before step {state['step']}"
            )
        if states:
            print("warning: those rows stay lost: no recent checkpoint comes before them")
        return states[0] if states else None

    def _read_rows(self) -> dict[int, Row]:
        path = self.path / "loss.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        rows: dict[int, Row] = {}
        left_out: LeftOut = {}
        for step, row in read_rows(lines, left_out):
            rows.setdefault(step, {}).update(row)
        bad = sorted(number for numbers in left_out.values() for number in numbers)
        altered, gone = checksums.altered_lines(path, lines)
        altered = [number for number in altered if number not in bad]
        self._altered = {step for step, _ in read_rows([lines[number - 1] for number in altered], {})}
        said = []
        # A torn last line, or one too few, is what a kill leaves: the run goes on, and it comes again.
        if bad and (bad != [len(lines)] or self.finished):
            said.append(f"line(s) {', '.join(map(str, bad))} do not parse as rows and are left out")
        if altered:
            listed = ", ".join(map(str, altered))
            said.append(f"line(s) {listed} are not as they were written, or their checksums are lost, and are kept")
        if gone and self.finished:
            said.append(f"{gone} line(s) that were written are not there")
        if said:
            aside = path.with_name("loss.jsonl.damaged")
            with self._writing(aside.name):
                shutil.copyfile(path, aside)
            print(f"warning: {path}: {'; '.join(said)}; the file as it was is kept as {aside.name}")
        return dict(sorted(rows.items()))

    # --- writing ---

    def append(self, step: int, row: Row) -> None:
        """Add one row to `loss.jsonl`. Raises UserError where it cannot be written."""
        self.rows[step] = {**self.rows.get(step, {}), **row}
        path, line = self.path / "loss.jsonl", _line(step, row)
        with self._writing(path.name):
            checksums.note(path, line)
            with path.open("ab+") as file:
                torn = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"  # what a kill leaves
                file.write(("\n" * bool(torn) + line).encode())

    def save_checkpoint(self, step: int, state: dict[str, Any]) -> Path:
        """Write the checkpoint of `step`, then drop the older ones beyond `checkpoint.keep`; milestones stay."""
        path = checkpoint_path(self.path, step)
        with self._writing(f"checkpoints/{path.name}"):
            save_checkpoint(path, state)
            passing = [p for p in list_checkpoints(self.path) if not self._cfg.is_milestone(checkpoint_step(p))]
            for old in passing[: -self._cfg.checkpoint.keep]:
                if old != path:
                    old.unlink()
        return path

    def grid_path(self, step: int) -> Path:
        """Where the sample grid of `step` is, if it has one."""
        return self.path / "samples" / f"step-{step:06d}.png"

    def fids(self) -> dict[int, float]:
        """Milestone to FID."""
        return {step: row["val/fid"] for step, row in self.rows.items() if "val/fid" in row}

    def save_grid(self, step: int, picture: Any) -> None:
        """Write a PIL image as the sample grid of `step`."""
        path = self.grid_path(step)
        with self._writing(f"samples/{path.name}"):
            path.parent.mkdir(exist_ok=True)
            picture.save(path)

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON line as the file `name`, whole or not at all."""
        with self._writing(name):
            self._replace(name, json.dumps(value) + "\n")

    def _replace(self, name: str, text: str, *lines: str) -> None:
        """Write `text`, which is made of `lines`, or else one content, as the file `name`: whole or not at all."""
        checksums.note(self.path / name, *(lines or [text]))
        aside = self.path / f"{name}.part"
        aside.write_text(text)
        aside.replace(self.path / name)

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            found = list_checkpoints(self.path)
            left = f" Its newest checkpoint is {found[-1].name}." if found else ""
            raise UserError(
                f"The run folder {self.path} cannot be written ({what}: {error.strerror or error}).{left} "
                + ("Make room, then run" if full else "Make it writable, then run")
                + " the same command again to continue."
            ) from error


def note_evaluation(folder: Path, step: int, point: str, rows: list[Row]) -> None:
    """Append the rows of an evaluated point to the record of the run in `folder`, once; elsewhere do nothing. Says so
    where the record cannot be read or written."""
    if not (folder / "run.json").exists():
        return
    path = folder / "evaluations.jsonl"
    try:
        before = path.read_bytes() if path.exists() else b""
        noted = any(_is_of(line, point) for line in before.splitlines())
        torn = "\n" if before and not before.endswith(b"\n") else ""  # a kill in the middle of a line
        line = "" if noted else json.dumps({"_i": step, "point": point, "out": rows}) + "\n"
        if torn or line:
            with path.open("a") as file:
                file.write(torn + line)
    except OSError as error:
        print(f"warning: the evaluation is not noted in {path}: {error.strerror or error}")


def _is_of(line: bytes, point: str) -> bool:
    """Whether a line of the record is of that point, and whole: cut short, it does not parse."""
    try:
        return bool(json.loads(line)["point"] == point)
    except (ValueError, LookupError, TypeError):
        return False


def _line(step: int, row: Row) -> str:
    return json.dumps({"_i": step, "out": row}) + "\n"
