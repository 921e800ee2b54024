"""One run's folder: plain files, readable without W&B, from which an interrupted run is resumed.

run.json        the record: config, data, environment, W&B id, sessions
config.yaml     the resolved configuration, usable again
loss.jsonl      a row per logged step: {"_i": step, "out": {metric: value}} (docs/wandb.md)
samples/        sample grids
tables/         sample tables: rows, and a picture of their samples (ddpm/evaluation/sample_table.py)
checkpoints/    see ddpm/runtime/checkpoint.py
diverged.json   the step whose loss or gradient was not finite
results.jsonl   the summary of a finished run: {"cfg", "out", "_i"}
NAME.crc        checksums of run.json, loss.jsonl and results.jsonl (ddpm/files/checksums.py)
staged.jsonl    copies that W&B's client made (ddpm/tracking/staged.py)
evaluations.jsonl, probes.jsonl, drawn.jsonl    what was measured on checkpoints later (ddpm/tracking/derived.py)
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
from ddpm.errors import Held, UserError, one_line
from ddpm.files import checksums
from ddpm.files.disk import append_line, make_folder, replacing, require_folder, sync, write_whole
from ddpm.files.rows import LeftOut, read_rows
from ddpm.metrics.table import LISTS
from ddpm.models.stored import intact, load_checkpoint
from ddpm.runtime.checkpoint import checkpoint_path, checkpoint_step, list_checkpoints, save_checkpoint
from ddpm.tracking.record import RESTORED, read_record, read_result

Row = dict[str, Any]


class RunFolder:
    """The folder of the run that `cfg` describes. While entered, it is locked against other processes."""

    def __init__(self, cfg: Config, path: Path | None = None):
        self._cfg = cfg
        self.path = path or cfg.run_dir
        self.record: dict[str, Any] = {}
        self.rows: dict[int, Row] = {}
        self._altered: set[int] = set()  # steps whose lines in loss.jsonl were altered
        # Beside the folder, which may not exist yet, or may be replaced.
        self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=0)

    @classmethod
    def at(cls, path: Path) -> "RunFolder":
        """The run folder at `path`, which may have been moved. Raises UserError if its record cannot be read, see
        `read_record`, or has no config of this version."""
        config = read_record(path)["config"]
        try:
            return cls(Config.model_validate(upgrade(config)), path)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path / 'run.json'} cannot be read: {one_line(error)}.") from None

    # --- reading ---

    def check(self) -> None:
        """Raises UserError if the folder cannot be made, is not a run folder, or has the run with another config."""
        try:
            if not self.path.exists():
                require_folder(self.path, "The run folder")
                return
        except OSError as error:  # no access to a parent folder, or the path is too long
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
        """A message if the run has nothing left to do: it is finished, and any lost rows cannot be restored. None if it
        must be trained, or lacks only the last row, which can be measured again from its checkpoint."""
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
                f"back from this folder, and reports lack it.\n{said}"
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
        """The lowest and the last FID for W&B's summary, because W&B's own minimum forgets earlier sessions."""
        fids = self.fids()
        return {"val/fid": {"min": min(fids.values()), "last": fids[max(fids)]}} if fids else {}

    def last_values(self) -> dict[str, Any]:
        """The last value of every metric, except lists."""
        values: dict[str, Any] = {}
        for row in self.rows.values():
            values |= row
        return {key: value for key, value in values.items() if key not in LISTS}

    def summary(self) -> dict[str, Any]:
        """The last value of every metric, FID's lowest and last, and a finished run's time."""
        values = self.last_values()
        if self.finished:
            out = read_result(self.path)["out"]
            values |= {key: out[key] for key in ("run_time_s", "params") if key in out}
        return values | self.fid_summary()

    @property
    def begun(self) -> bool:
        """Whether there is a run to resume. Known once the folder is entered."""
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
                f"on W&B this is now the run {self.record['wandb_id']}"
            )
        if (self.path / "results.jsonl").exists() and not self.finished:
            print(f"warning: {self.path / 'results.jsonl'} holds no result: the run counts as not finished")

    # --- beginning and resuming ---

    @contextmanager
    def beginning(self, record: dict[str, Any], config_yaml: str) -> Iterator[Path]:
        """Make a draft of the folder and yield its path; on leaving, it takes the folder's place.

        An error inside (from W&B, for example) leaves nothing behind. An earlier run's folder is removed only when the
        new one is in place.
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
        """Remove the rows, checkpoints and divergence after `step`: training repeats it. Write the new session, the
        config (some keys may change in a run), and the keys of `known` that it lacks to `run.json`."""
        self.rows = {s: row for s, row in self.rows.items() if s <= step}
        known = {key: value for key, value in known.items() if key not in self.record}
        self.record = {**self.record, **known, "config": config, "sessions": [*self.record["sessions"], session]}
        with self._writing("loss.jsonl"):
            for path in list_checkpoints(self.path):
                if checkpoint_step(path) > step:
                    path.unlink()
            for path in (*self.path.glob("checkpoints/*.part"), self.path / "diverged.json"):
                path.unlink(missing_ok=True)
            # After the checkpoints are gone: they presume the removed rows.
            lines = {s: _line(s, row) for s, row in self.rows.items()}
            checksums.note(self.path / "loss.jsonl", *lines.values())
            self._sync_rows()
            write_whole(self.path / "loss.jsonl", "".join(lines.values()))
            # Altered lines get no checksum.
            checksums.replace(self.path / "loss.jsonl", [lines[s] for s in lines.keys() - self._altered])
        self._save_record()

    def note_session(self, facts: dict[str, Any]) -> None:
        """Add facts about the current session to `run.json`."""
        sessions = self.record["sessions"]
        self.record = {**self.record, "sessions": [*sessions[:-1], {**sessions[-1], **facts}]}
        self._save_record()

    def amend(self, step: int, row: Row, how: dict[str, Any]) -> None:
        """Add numbers that were measured after the training to the row of `step`. `run.json` first notes how they were
        measured, and that W&B lacks them."""
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
        """The steps whose added numbers W&B's server lacks."""
        return {step for a in self.record.get("amendments", []) if not a["sent"] for step in a["steps"]}

    def note_sent(self) -> None:
        """Note in `run.json` that W&B's server has all added numbers."""
        if self.unsent_steps:
            self.record["amendments"] = [{**a, "sent": True} for a in self.record["amendments"]]
            self._save_record()

    def _save_record(self) -> None:
        with self._writing("run.json"):
            self._replace("run.json", json.dumps(self.record, indent=2) + "\n")

    def newest_checkpoint(self) -> dict[str, Any] | None:
        """The state to resume from: the newest intact one, or the one before it if that restores lost rows. None if no
        checkpoint is intact."""
        states = [state for _, state in itertools.islice(self._own_checkpoints(), 2)] if self.begun else []
        for state in states:
            lost = self._lost(self.rows, state["step"])
            if not lost:
                return state
            before = f"from before the checkpoint of step {state['step']}"
            print(f"warning: {self.path / 'loss.jsonl'} lacks {_rows_of(lost)} {before}")
        if states:
            print("warning: those rows stay lost: no recent checkpoint precedes them")
        return states[0] if states else None

    def _own_checkpoints(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """This run's intact checkpoints, newest first. Prints a warning about those of another run or step."""
        for path, state in intact(self.path):
            other = differences(state["config"], self._cfg.nested())
            if state["step"] != checkpoint_step(path):
                other = [f"it belongs to step {state['step']}"]
            if other:
                print(f"warning: {path} does not fit its name and is passed over: {'; '.join(other)}")
            else:
                yield path, state

    def _parse_rows(self) -> tuple[dict[int, Row], list[int], list[str]]:
        """(rows in `loss.jsonl` by step, numbers of lines that do not parse, descriptions of the damage)."""
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
        # A kill leaves a torn last line, or one too few. The resumed run writes it again.
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
            print(f"warning: {path}: {'; '.join(damage)}; the damaged file is kept as {aside.name}")
        return rows

    # --- writing ---

    def append(self, step: int, row: Row) -> None:
        """Add one row to `loss.jsonl`, which the next checkpoint syncs to the disk. Raises UserError if it cannot be
        written."""
        self.rows[step] = {**self.rows.get(step, {}), **row}
        path, line = self.path / "loss.jsonl", _line(step, row)
        with self._writing(path.name):
            checksums.note(path, line)
            append_line(path, line)

    def save_checkpoint(self, step: int, state: dict[str, Any]) -> Path:
        """Write the checkpoint of `step`. Then delete older ones beyond `checkpoint.keep`, except milestones.

        Rows are synced first, so that after a power cut no checkpoint presumes lost rows.
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
        """The path of the sample grid of `step`."""
        return self.path / "samples" / f"step-{step:06d}.png"

    def fids(self) -> dict[int, float]:
        """FID by milestone."""
        return {step: row["val/fid"] for step, row in self.rows.items() if "val/fid" in row}

    def save_grid(self, step: int, picture: Any) -> None:
        """Write a PIL image as the sample grid of `step`."""
        path = self.grid_path(step)
        with self._writing(f"samples/{path.name}"):
            make_folder(path.parent)
            with replacing(path) as aside:
                picture.save(aside, format="png")

    def table_path(self, step: int) -> Path:
        """The path of the sample table of `step`, beside its picture."""
        return self.path / "tables" / f"step-{step:06d}.json"

    def save_table(self, step: int, rows: list[dict[str, Any]], picture: Any) -> None:
        """Write a sample table: its rows, and a PIL image with their samples side by side."""
        path = self.table_path(step)
        with self._writing(f"tables/{path.name}"):
            make_folder(path.parent)
            with replacing(path.with_suffix(".png")) as aside:
                picture.save(aside, format="png")
            write_whole(path, json.dumps(rows) + "\n")

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON line as the file `name`, whole or not at all; rows are synced first."""
        with self._writing(name):
            self._sync_rows()
            self._replace(name, json.dumps(value) + "\n")

    def _replace(self, name: str, text: str) -> None:
        """Write `text` as the file `name`, whole or not at all; its checksum comes first."""
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
