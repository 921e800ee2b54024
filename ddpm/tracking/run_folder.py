"""One run's folder: plain files, readable without W&B, from which an interrupted run is continued.

run.json        what is trained, on what, under which W&B id, and when it was continued
config.yaml     the resolved configuration, usable again
loss.jsonl      one row a logged step: {"_i": step, "out": {metric: value}} (docs/wandb.md)
samples/        sample grids
checkpoints/    see ddpm/runtime/checkpoint.py
diverged.json   where a loss or gradient was not finite
results.jsonl   the summary, once the run is finished: {"cfg", "out", "_i"}
NAME.crc        with what run.json, loss.jsonl and results.jsonl were written (ddpm/files/checksums.py)
staged.jsonl    what W&B's client has copied of it (ddpm/tracking/staged.py)
evaluations.jsonl   what `ddpm evaluate` scored: {"_i": step, "point": key, "out": [table row, ...]}
"""

import errno
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from ddpm.config.run import Config
from ddpm.config.stored import differences, upgrade
from ddpm.errors import Held, UserError
from ddpm.files import checksums
from ddpm.files.disk import make_folder, replacing, require_folder, sync, write_whole
from ddpm.files.rows import LeftOut, read_rows
from ddpm.metrics.table import CURVES
from ddpm.models.stored import intact, load_checkpoint
from ddpm.runtime.checkpoint import checkpoint_path, checkpoint_step, list_checkpoints, save_checkpoint
from ddpm.tracking.record import RESTORED, read_record, read_result

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
        """The run folder at `path`, wherever it was trained. Raises UserError if its `run.json` is lost, see
        `read_record`, or holds no config of this version."""
        config = read_record(path)["config"]
        try:
            return cls(Config.model_validate(upgrade(config)), path)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path / 'run.json'} cannot be read: {' '.join(str(error).split())}.") from None

    # --- what is there ---

    def check(self) -> None:
        """Raises UserError if the folder cannot be made, is something else, or holds the same run under another
        config."""
        try:
            if not self.path.exists():
                require_folder(self.path, "The run folder")
                return
        except OSError as error:  # a folder above it may not be entered, or the path is too long
            raise UserError(f"The run folder {self.path} cannot be made: {error.strerror}.") from None
        record = read_record(self.path)
        if self._cfg.clean_run:
            return
        changed = differences(record["config"], self._cfg.nested())
        if changed:
            raise UserError(
                f"The run in {self.path} has another config: {'; '.join(changed)}. Use the config it was started with "
                "(its config.yaml), give this one another --id, or start it over with --clean_run=true."
            )

    @property
    def finished(self) -> bool:
        """Whether the run's last step and evaluation are done."""
        return not self._cfg.clean_run and bool(read_result(self.path))

    def over(self) -> str | None:
        """What to say of a run with nothing left to do: it is finished, and its rows are there, or what is lost cannot
        be brought back. None of a run to train, or to repair: the row of the last step is measured again, if its
        checkpoint is there."""
        if not self.finished:
            return None
        rows, bad, damage = self._parse_rows()
        last = self._cfg.train.total_steps
        lost = self._lost(rows, last + 1)
        if lost == [last] and not bad[:-1] and self._has_checkpoint(last):
            return None
        said = f"This run is finished already. --clean_run=true trains it anew: {self.path}"
        if lost:
            damage.append(f"it lacks {_rows_of(lost)}")
        if damage:
            said = (
                f"warning: {self.path / 'loss.jsonl'} is damaged: {'; '.join(damage)}. What is lost cannot be brought "
                f"back from this folder, and reports are without it.\n{said}"
            )
        return said

    def _lost(self, rows: dict[int, Row], before: int) -> list[int]:
        """The steps before `before` that should have a row and have none."""
        return [step for step in range(1, before) if self._cfg.has_row(step) and step not in rows]

    def _has_checkpoint(self, step: int) -> bool:
        try:
            load_checkpoint(checkpoint_path(self.path, step))
        except UserError:
            return False
        return True

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
            make_folder(self.path.parent)
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
                self._read_record()
                self.rows = self._read_rows()
                for path in (self.path / name for name in ("run.json", "results.jsonl")):
                    for said in checksums.as_written(path, path.read_bytes()) if path.exists() else []:
                        print(f"warning: {self.path}: {said}")
                lost = self._lost(self.rows, self._cfg.train.total_steps + 1) if self.finished else []
                if lost:
                    print(
                        f"warning: {self.path / 'loss.jsonl'} of a finished run lacks {_rows_of(lost)}. `ddpm train` "
                        "measures that of the last step again, if its checkpoint is there"
                    )
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.release()

    def _read_record(self) -> None:
        self.record = read_record(self.path)
        if RESTORED in self.record and (reason := self.record.pop(RESTORED)):
            with self._writing("run.json"):
                if (self.path / "run.json").exists():
                    (self.path / "run.json").replace(self.path / "run.json.damaged")
            self._save_record()
            print(
                f"warning: {self.path / 'run.json'} was lost ({reason}). It is made again from the newest checkpoint; "
                f"to W&B this is now the run {self.record['wandb_id']}"
            )
        if (self.path / "results.jsonl").exists() and not self.finished:
            print(f"warning: {self.path / 'results.jsonl'} holds no result: the run counts as not finished")

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
                for path in (*draft.rglob("*"), draft):
                    sync(path)
                # Two renames: a kill leaves the old folder or the new one whole.
                if self.path.exists():
                    self.path.rename(old)
                draft.rename(self.path)
                sync(self.path.parent)
                shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        self.record = record

    def continuing(self, step: int, session: dict[str, Any], config: dict[str, Any], known: dict[str, Any]) -> None:
        """Forget what came after `step`, which will come again: rows, checkpoints, a divergence. Note the new session,
        the keys of the config that may change in a run, and what is `known` and not noted yet, in `run.json`."""
        self.rows = {s: row for s, row in self.rows.items() if s <= step}
        known = {key: value for key, value in known.items() if key not in self.record}
        self.record = {**self.record, **known, "config": config, "sessions": [*self.record["sessions"], session]}
        with self._writing("loss.jsonl"):
            for path in list_checkpoints(self.path):
                if checkpoint_step(path) > step:
                    path.unlink()
            for path in (*self.path.glob("checkpoints/*.part"), self.path / "diverged.json"):
                path.unlink(missing_ok=True)
            # After the checkpoints that presume the rows that go.
            lines = {s: _line(s, row) for s, row in self.rows.items()}
            checksums.note(self.path / "loss.jsonl", *lines.values())
            self._sync_rows()
            write_whole(self.path / "loss.jsonl", "".join(lines.values()))
            # Of a line that was not as it was written, nothing more is known now.
            checksums.replace(self.path / "loss.jsonl", [lines[s] for s in lines.keys() - self._altered])
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
        with self._writing("loss.jsonl"):
            self._sync_rows()

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
        states = [state for _, state in itertools.islice(self._own_checkpoints(), 2)] if self.begun else []
        for state in states:
            lost = self._lost(self.rows, state["step"])
            if not lost:
                return state
            before = f"from before the checkpoint of step {state['step']}"
            print(f"warning: {self.path / 'loss.jsonl'} lacks {_rows_of(lost)} {before}")
        if states:
            print("warning: those rows stay lost: no recent checkpoint comes before them")
        return states[0] if states else None

    def _own_checkpoints(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """The intact checkpoints of this run, newest first. Names those that are of another run or step."""
        for path, state in intact(self.path):
            other = differences(state["config"], self._cfg.nested())
            if state["step"] != checkpoint_step(path):
                other = [f"it is of step {state['step']}"]
            if other:
                print(f"warning: {path} is not what its name says and is passed over: {'; '.join(other)}")
            else:
                yield path, state

    def _parse_rows(self) -> tuple[dict[int, Row], list[int], list[str]]:
        """The rows in `loss.jsonl` by step, the numbers of the lines that do not parse, and how the file is damaged."""
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
        damage = []
        # A torn last line, or one too few, is what a kill leaves: the run goes on, and it comes again.
        if bad and (bad != [len(lines)] or self.finished):
            damage.append(f"line(s) {', '.join(map(str, bad))} do not parse as rows and are left out")
        if altered:
            listed = ", ".join(map(str, altered))
            damage.append(f"line(s) {listed} are not as they were written, or their checksums are lost, and are kept")
        if gone and self.finished:
            damage.append(f"{gone} line(s) that were written are not there")
        return dict(sorted(rows.items())), bad, damage

    def _read_rows(self) -> dict[int, Row]:
        path = self.path / "loss.jsonl"
        rows, _, damage = self._parse_rows()
        if damage:
            aside = path.with_name("loss.jsonl.damaged")
            with self._writing(aside.name):
                shutil.copyfile(path, aside)
            print(f"warning: {path}: {'; '.join(damage)}; the file as it was is kept as {aside.name}")
        return rows

    # --- writing ---

    def append(self, step: int, row: Row) -> None:
        """Add one row to `loss.jsonl`, which the next checkpoint has reach the disk. Raises UserError if it cannot be
        written."""
        self.rows[step] = {**self.rows.get(step, {}), **row}
        path, line = self.path / "loss.jsonl", _line(step, row)
        with self._writing(path.name):
            checksums.note(path, line)
            with path.open("ab+") as file:
                torn = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"  # what a kill leaves
                file.write(("\n" * bool(torn) + line).encode())

    def save_checkpoint(self, step: int, state: dict[str, Any]) -> Path:
        """Write the checkpoint of `step`, then drop the older ones beyond `checkpoint.keep`; milestones stay.

        The rows before it are on the disk first: after a power cut, no checkpoint presumes rows that are lost.
        """
        path = checkpoint_path(self.path, step)
        with self._writing("loss.jsonl"):
            self._sync_rows()
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
            make_folder(path.parent)
            with replacing(path) as aside:
                picture.save(aside, format="png")

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON line as the file `name`, whole or not at all, after the rows so far."""
        with self._writing(name):
            self._sync_rows()
            self._replace(name, json.dumps(value) + "\n")

    def _replace(self, name: str, text: str) -> None:
        """Write `text` as the file `name`: whole or not at all, its checksum first."""
        path = self.path / name
        checksums.note(path, text)
        if checksums.place(path).exists():
            sync(checksums.place(path))
        write_whole(path, text)

    def _sync_rows(self) -> None:
        path = self.path / "loss.jsonl"
        for each in (checksums.place(path), path):
            if each.exists():
                sync(each)
        sync(self.path)

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


def _rows_of(steps: Sequence[int]) -> str:
    """`3 rows (steps 10 ... 70)`."""
    spread = f"steps {steps[0]} ... {steps[-1]}" if len(steps) > 1 else f"step {steps[0]}"
    return f"{len(steps)} row{'s' * (len(steps) > 1)} ({spread})"


def _line(step: int, row: Row) -> str:
    return json.dumps({"_i": step, "out": row}) + "\n"
