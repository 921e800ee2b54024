"""A training's record: the run folder, which is the truth, and W&B, which mirrors it."""

import secrets
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from ddpm import __version__
from ddpm.config.run import Config
from ddpm.errors import UserError
from ddpm.runtime.checkpoint import checkpoint_path
from ddpm.runtime.distributed import by_main, from_main, rank
from ddpm.runtime.environment import git_commit
from ddpm.runtime.signals import Interrupted
from ddpm.tracking import client, staged
from ddpm.tracking.open_run import NoRun, open_run
from ddpm.tracking.run_folder import RunFolder
from ddpm.tracking.wandb_run import FLUSH_S, WandbRun


class Tracker:
    """One run's record, as a context manager: leaving it closes the W&B run, as failed after an exception.

    With several processes, each has one: all know the rows, rank 0 writes, and its errors are raised on all.
    folder: entered (on rank 0). facts: what `run.json` holds besides the config. step: steps done, 0 for a new run.
    """

    def __init__(self, cfg: Config, folder: RunFolder, facts: dict[str, Any], step: int = 0):
        self.run_id = cfg.run_id
        self.folder = folder
        # The saved config must not wipe the run when it is used again.
        self._cfg = cfg.model_copy(update={"clean_run": False})
        folder.rows = from_main(lambda: self._begin(facts, step))

    def _begin(self, facts: dict[str, Any], step: int) -> dict[int, dict[str, Any]]:
        """Begin or continue the folder and the W&B run. Returns the folder's rows."""
        folder = self.folder
        session = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "from_step": step,
            "commit": git_commit(),
            "version": __version__,
            "environment": facts["environment"],
        }
        if folder.begun:
            self._continue(facts, session)
        else:
            record = {
                "run_id": self.run_id,
                # A random end: the same config elsewhere, or started over, is another run to W&B, so that their rows
                # do not mix.
                "wandb_id": self._agents_run() or f"{self.run_id}-{secrets.token_hex(3)}",
                "experiment": self._cfg.experiment,
                "seed": self._cfg.seed,
                **{key: session[key] for key in ("started", "commit", "version")},
                **facts,
                "sessions": [session],
                "config": self._cfg.nested(),
            }
            with folder.beginning(record, self._cfg.to_yaml()):
                self._run = open_run(record, folder.path)
        folder.note_session({"wandb": self._run.path, "wandb_mode": self._run.mode, "wandb_files": self._run.files})
        print(f"W&B: {self._run.mode} ({self._run.why}), run {self._run.id}, {self._run.where}")
        self._run.log_artifact("config", folder.path / "config.yaml", ["latest"])
        self._run.use_data()
        return folder.rows

    def _continue(self, facts: dict[str, Any], session: dict[str, Any]) -> None:
        """Resume the run at its newest checkpoint, under its W&B id. Raises UserError if images, protocols or network
        have changed."""
        before = self.folder.record
        for key, what in (("data", "images"), ("protocols", "evaluation protocols"), ("params", "network")):
            if key in before and before[key] != facts[key]:
                raise UserError(
                    f"The {what} are not those that the run in {self.folder.path} was started with ({key} in run.json: "
                    f"{before[key]}; now: {facts[key]}). Bring them back, or start over with --clean_run=true."
                )
        old = before.get("environment", {})
        now = {k: v for k, v in facts["environment"].items() if k not in ("world_size", "backend")}
        moved = [f"{k} {old[k]} -> {v}" for k, v in now.items() if k in old and old[k] != v]
        if moved:
            print(f"warning: continued in another environment, numbers may round differently: {', '.join(moved)}")
        processes = facts["environment"]["world_size"]
        last = before["sessions"][-1].get("environment", {}).get("world_size", 1)
        if processes != last:
            print(
                f"note: continued on {processes} processes, {last} before: the same batches, t and eps; sums round "
                "differently, and dropout draws other masks"
            )
        print(f"continuing {self.run_id} after step {session['from_step']}")
        config = self._cfg.nested()
        for key in ("project", "entity"):  # it stays the same W&B run
            config["logging"]["wandb"][key] = before["config"]["logging"]["wandb"][key]
        known = {**{key: session[key] for key in ("started", "commit", "version")}, **facts}
        known.pop("criteria", None)  # those of the start, which is over
        self.folder.continuing(session["from_step"], session, config, known)
        if id := self._agents_run():
            self.folder.record["wandb_id"] = id  # an agent's W&B run gets all rows
        self._run = open_run(self.folder.record, self.folder.path)
        # Send again what W&B may lack: rows newer than its server's last, and rows logged seconds before a kill.
        # Readers merge rows of one step.
        rows = self.folder.rows
        end = max((row.get("time/total_s", 0.0) for row in rows.values()), default=0.0)
        flushed = {step for step, row in rows.items() if row.get("time/total_s", end) < end - 10 * FLUSH_S}
        for step in rows:
            if step > self._run.last_step or step > max(flushed, default=-1):
                send_row(self._run, self.folder, step)
        self._run.summarise(self.folder.fid_summary())

    def _agents_run(self) -> str | None:
        """The W&B id that a sweep's agent gives this process, if any. Raises UserError if another training of this
        project has it: the agent's variables are left over in the shell."""
        id = client.agents_run()
        for path in self._cfg.out_dir.glob("*/*/run.json") if id else ():
            if path.parent != self.folder.path and f'"wandb_id": "{id}"' in path.read_text(errors="replace"):
                raise UserError(
                    f"WANDB_RUN_ID and WANDB_SWEEP_ID give this training the W&B run {id}, which belongs to "
                    f"{path.parent}. Unset both to train it as a W&B run of its own."
                )
        return id

    def has(self, step: int) -> bool:
        """Whether the row of `step` is logged."""
        return step in self.folder.rows

    def last(self, key: str) -> Any:
        """The value of `key` in the last row that has it; None if no row has it."""
        return next((row[key] for row in reversed(self.folder.rows.values()) if key in row), None)

    def log(self, step: int, row: dict[str, Any], grid: Any = None, table: Any = None) -> None:
        """Write one row of metrics, the step's sample grid (a PIL image) and its sample table (rows, a PIL image) to
        the folder and to W&B."""
        self._write(step, row, grid, table)
        self.folder.rows[step] = self.folder.rows.get(step, {}) | row  # on every rank

    @by_main
    def _write(self, step: int, row: dict[str, Any], grid: Any, table: Any) -> None:
        if grid:
            self.folder.save_grid(step, grid)
        if table:
            self.folder.save_table(step, *table)
        self.folder.append(step, row)
        send_row(self._run, self.folder, step)
        if "val/fid" in row:
            self._run.summarise(self.folder.fid_summary())

    @by_main
    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write a checkpoint from which the run can be resumed. Returns its path."""
        return self.folder.save_checkpoint(step, state)

    @by_main
    def log_checkpoint(self, step: int) -> None:
        """Send a milestone's checkpoint to W&B as a version of the run's model artifact, unless checkpoint.upload is
        off. The version with the lowest FID so far is `best`."""
        if self._cfg.checkpoint.upload:
            send_checkpoint(self._run, self.folder, step, last=step)

    @by_main
    def diverged(self, step: int, row: dict[str, float], indices: list[int]) -> None:
        """Record a step whose loss or gradient was not finite. indices: its images' positions in the set."""
        self.folder.write_json("diverged.json", {"step": step, "batch": indices, "out": row})
        self._run.log(step, row)
        self._run.summarise({"diverged/step": step, "diverged/batch": indices})
        self._run.alert("Training diverged", f"{self.run_id}: step {step} is not finite, on images {indices}", "ERROR")

    @by_main
    def finish(self, run_time_s: float) -> None:
        """Write `results.jsonl`, the mark of a finished run."""
        folder = self.folder
        summary: dict[str, Any] = {
            "seed": self._cfg.seed,
            "params": folder.record.get("params"),
            "run_id": self.run_id,
            "git_hash": folder.record.get("commit"),
            **folder.last_values(),
        }
        if fids := folder.fids():
            best = min(fids, key=lambda step: fids[step])
            summary |= {
                "val/fid_min": fids[best],
                "val/fid_last": fids[max(fids)],
                "ckpt_best": str(checkpoint_path(folder.path, best)),
            }
        last = checkpoint_path(folder.path, self._cfg.train.total_steps)
        summary |= {"ckpt_last": str(last), "run_time_s": run_time_s}
        self._run.summarise({"run_time_s": run_time_s, "params": summary["params"]})
        folder.write_json("results.jsonl", {"cfg": self._cfg.nested(), "out": summary, "_i": 0})
        scores = ", ".join(f"{k} {summary[k]:.2f}" for k in ("val/fid_min", "final/fid") if k in summary)
        self._run.alert("Training finished", f"{self.run_id}: {scores or 'done'}", "INFO")

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if rank():
            return
        stopped = isinstance(error, Interrupted)
        code = 0 if error is None else error.exit_code if isinstance(error, Interrupted) else 1
        complete = self._run.finish(code, stopped=stopped) and len(self.folder.record["sessions"]) == 1
        if self._run.mode == "offline":
            print(f"to upload this run: ddpm sync {self.folder.path}")
            if kept := staged.note_on_run(self.folder.path):
                print(kept)
        elif self._run.mode == "online" and not complete:
            print(f"to upload what the server may lack: ddpm sync {self.folder.path}")


def send_row(run: WandbRun | NoRun, folder: RunFolder, step: int) -> None:
    """Send the folder's row of `step`, and its sample grid, to W&B."""
    grid, table = folder.grid_path(step), folder.table_path(step)
    run.log(step, folder.rows[step], grid if grid.is_file() else None, table if table.is_file() else None)
    if grid.is_file():
        send_grid(run, folder, step)


def send_grid(run: WandbRun | NoRun, folder: RunFolder, step: int) -> None:
    """Send the folder's sample grid of `step` to W&B, as an artifact."""
    newest = not any(folder.grid_path(later).is_file() for later in folder.rows if later > step)
    run.log_artifact("samples", folder.grid_path(step), [f"step-{step}", *(["latest"] if newest else [])])


def send_checkpoint(run: WandbRun | NoRun, folder: RunFolder, step: int, last: int) -> None:
    """Send the folder's milestone checkpoint of `step` to W&B. last: the newest milestone that is sent."""
    fids = {at: fid for at, fid in folder.fids().items() if at <= last}
    aliases = [f"step-{step}"]
    if step == last:
        aliases.append("latest")
    if step in fids and fids[step] == min(fids.values()):
        aliases.append("best")
    run.log_artifact("model", checkpoint_path(folder.path, step), aliases)
