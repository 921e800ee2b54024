"""Where a run is written: Weights & Biases, and the run folder beside it. The only writer to W&B.

The folder comes first and is the truth; W&B mirrors it, live where there is a server.
"""

import netrc
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlparse

from ddpm import __version__
from ddpm.checkpoint import checkpoint_path
from ddpm.config import Config
from ddpm.environment import git_commit
from ddpm.errors import UserError
from ddpm.metrics import STEP
from ddpm.run_folder import RunFolder
from ddpm.signals import Interrupted

FLUSH_S = 1.0  # W&B's own default of 15 s is lost at a kill
INIT_TIMEOUT_S = 20.0  # how long a run waits for the server before it starts offline
FINISH_TIMEOUT_S = 60.0  # and, at its end, for what is still to be uploaded


def wandb_mode(wanted: str) -> tuple[str, str]:
    """(mode, why) for the configured mode: WANDB_MODE first, then `wanted`; `auto` is online where there is a login.

    Raises UserError where WANDB_MODE holds no mode.
    """
    from_environment = os.environ.get("WANDB_MODE")
    if from_environment:
        if from_environment not in ("online", "offline", "disabled"):
            raise UserError(f"WANDB_MODE = {from_environment} is not a mode. Use online, offline or disabled.")
        return from_environment, "WANDB_MODE"
    if wanted != "auto":
        return wanted, "logging.wandb.mode"
    return ("online", "logged in") if _has_login() else ("offline", "no login found; `wandb login` makes one")


def _has_login() -> bool:
    """Whether the wandb client would find a key without asking: an environment variable or a netrc entry."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        if path and Path(path).expanduser().is_file():
            try:
                return netrc.netrc(Path(path).expanduser()).authenticators(host) is not None
            except (netrc.NetrcParseError, OSError):
                return False
    return False


class Tracker:
    """One run's record, used as a context manager: leaving it closes the W&B run, as failed on an exception.

    `facts`: what the record says besides the config. `step`: where the training stands, 0 for a new run.
    """

    def __init__(self, cfg: Config, folder: RunFolder, facts: dict[str, Any], step: int = 0):
        self.run_id = cfg.run_id
        self.folder = folder
        # Starting over is how this run came about, not what it is: its saved config must not wipe it when used again.
        self._cfg = cfg.model_copy(update={"clean_run": False})
        self._checkpoints: dict[str, str] = {}
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
                # The same config elsewhere, or started over, is another run to W&B: their rows must not mix.
                "wandb_id": f"{self.run_id}-{secrets.token_hex(3)}",
                "experiment": cfg.experiment,
                "seed": cfg.seed,
                **{key: session[key] for key in ("started", "commit", "version")},
                **facts,
                "sessions": [session],
                "config": self._cfg.nested(),
            }
            with folder.beginning(record, self._cfg.to_yaml()):
                self._run = self._start_wandb(record)
        self.log_artifact("config", self.folder.path / "config.yaml", ["latest"])

    def _continue(self, facts: dict[str, Any], session: dict[str, Any]) -> None:
        """Take up the run where its newest checkpoint stands, under its old W&B id. Raises UserError where what it is
        trained on has changed meanwhile."""
        before = self.folder.record
        for key, what in (("data", "images"), ("protocols", "evaluation protocols"), ("params", "network")):
            if key in before and before[key] != facts[key]:
                raise UserError(
                    f"The {what} are not those that the run in {self.folder.path} was started with ({key} in run.json: "
                    f"{before[key]}; now: {facts[key]}). Bring them back, or start over with --clean_run=true."
                )
        old = before.get("environment", {})
        moved = [f"{k} {old[k]} -> {v}" for k, v in facts["environment"].items() if k in old and old[k] != v]
        if moved:
            print(f"warning: continued in another environment, numbers may round differently: {', '.join(moved)}")
        step = session["from_step"]
        print(f"continuing {self.run_id} after step {step}")
        self.folder.continuing(step, session)
        self._run = self._start_wandb(self.folder.record)
        self._log_again()

    def _log_again(self) -> None:
        """Send W&B the rows that it may not have: those after what its server has, or of the last seconds before a
        kill. Rows of one step are merged where they are read."""
        rows = self.folder.rows
        seconds = {step: row["time/total_s"] for step, row in rows.items() if "time/total_s" in row}
        flushed = max(seconds.values(), default=0.0) - 10 * FLUSH_S
        known = self._run.summary.get(STEP, -1) if self._mode == "online" else float("inf")
        for step, row in rows.items():
            if step > known or seconds.get(step, 0.0) >= flushed:
                grid = self.folder.path / "samples" / f"step-{step:06d}.png"
                self._send(step, row, grid if grid.is_file() else None)

    def _start_wandb(self, record: dict[str, Any]) -> Any:
        """Start (or take up) the W&B run of `record`; offline where the server does not answer in time."""
        import wandb

        options = self._cfg.logging.wandb
        mode, why = wandb_mode(options.mode)
        arguments = {
            "id": record["wandb_id"],
            "name": options.run_name or self.run_id,
            "project": options.project,
            "entity": options.entity,
            "group": self._cfg.experiment,
            "job_type": "train",
            "tags": options.tags,
            "notes": options.notes,
            "config": {
                **record["config"],
                **{k: record[k] for k in ("run_id", "commit", "version", "params", "protocols", "environment")},
                "session": len(record["sessions"]),
            },
            "dir": os.environ.get("WANDB_DIR"),  # wandb itself reads it only once a process
        }
        settings = wandb.Settings(x_transaction_log_flush_interval=FLUSH_S, silent=True)
        try:
            if mode == "online":
                try:
                    online = settings.model_copy(
                        update={"init_timeout": INIT_TIMEOUT_S, "finish_timeout": FINISH_TIMEOUT_S}
                    )
                    run = wandb.init(**arguments, mode="online", resume="allow", settings=online)
                except (wandb.errors.CommError, TimeoutError) as error:
                    wandb.teardown()
                    reason = " ".join(str(error).split()).rstrip(".")
                    mode, why = "offline", f"the server did not answer within {INIT_TIMEOUT_S:g} s: {reason}"
            if mode != "online":
                run = wandb.init(**arguments, mode=mode, settings=settings)  # type: ignore[arg-type]  # a str to mypy
        except (wandb.errors.Error, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"W&B could not start in mode {mode} ({why}): {reason}. Use --logging.wandb.mode=offline to keep the "
                "run on disk and upload it later with `ddpm sync`."
            ) from error
        self._mode = mode
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        run.define_metric("val/fid", step_metric=STEP, summary="min,last")
        where = run.url if mode == "online" else run.settings.sync_dir
        print(f"W&B: {mode} ({why}), run {run.id}" + (f", {where}" if where else ""))
        return run

    # --- what the training says ---

    def has(self, step: int) -> bool:
        """Whether the row of `step` is logged already."""
        return step in self.folder.rows

    def log(self, step: int, row: dict[str, Any], grid: Any = None) -> None:
        """Write one row of metrics (and the sample grid drawn at this step, a PIL image) to the folder and to W&B."""
        path = self.folder.save_grid(step, grid) if grid else None
        self.folder.append(step, row)
        self._send(step, row, path)

    def _send(self, step: int, row: dict[str, Any], grid: Path | None) -> None:
        media: dict[str, Any] = {}
        if grid:
            import wandb

            media["samples/grid"] = wandb.Image(str(grid), caption=f"{self.run_id}, step {step}")
            self.log_artifact("samples", grid, ["latest", f"step-{step}"])
        self._run.log({STEP: step, **row, **media})

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write a checkpoint that the run can be continued from; its path."""
        return self.folder.save_checkpoint(step, state)

    def log_checkpoint(self, step: int, path: Path) -> None:
        """Record a milestone's checkpoint as a version of the run's model artifact; `best` is the lowest FID so far."""
        fids = self._fids()
        aliases = ["latest", f"step-{step}"]
        if step in fids and fids[step] == min(fids.values()):
            aliases.append("best")
        self.log_artifact("model", path, aliases)

    def log_artifact(self, kind: str, path: Path, aliases: list[str]) -> None:
        """Log one file as the next version of the artifact `RUN_ID-KIND`."""
        import wandb

        artifact = wandb.Artifact(f"{self._run.id}-{kind}", type=kind, metadata={"experiment": self._cfg.experiment})
        # W&B keeps a copy of its own until it is uploaded: the run folder may be replaced or moved before that.
        artifact.add_file(str(path))
        self._run.log_artifact(artifact, aliases=aliases)

    def diverged(self, step: int, row: dict[str, float], indices: list[int]) -> None:
        """Record a step whose loss or gradient was not finite, and the images (their positions in the set) it saw."""
        self.folder.write_json("diverged.json", {"step": step, "batch": indices, "out": row})
        self._send(step, row, None)
        self._run.summary.update({"diverged/step": step, "diverged/batch": indices})
        self._alert("Training diverged", f"{self.run_id}: step {step} is not finite, on images {indices}", "ERROR")

    def finish(self, run_time_s: float) -> None:
        """Write `results.jsonl`, the mark of a finished run."""
        fids = self._fids()
        names = {step: str(checkpoint_path(self.folder.path, step)) for step in fids}
        summary: dict[str, Any] = {
            "seed": self._cfg.seed,
            "params": self.folder.record["params"],
            "run_id": self.run_id,
            "git_hash": self.folder.record["commit"],
        }
        for row in self.folder.rows.values():
            summary |= row
        if fids:
            best = min(fids, key=lambda step: fids[step])
            summary |= {"val/fid_min": fids[best], "val/fid_last": fids[max(fids)], "ckpt_best": names[best]}
        summary |= {
            "ckpt_last": str(checkpoint_path(self.folder.path, self._cfg.train.total_steps)),
            "run_time_s": run_time_s,
        }
        self._run.summary.update({"run_time_s": run_time_s, "params": summary["params"]})
        self.folder.write_json("results.jsonl", {"cfg": self._cfg.nested(), "out": summary, "_i": 0})
        scores = ", ".join(f"{k} {summary[k]:.2f}" for k in ("val/fid_min", "final/fid") if k in summary)
        self._alert("Training finished", f"{self.run_id}: {scores or 'done'}", "INFO")

    def _fids(self) -> dict[int, float]:
        return {step: row["val/fid"] for step, row in self.folder.rows.items() if "val/fid" in row}

    def _alert(self, title: str, text: str, level: str) -> None:
        """A message to whoever follows the project, where there is a server to send it."""
        if self._mode == "online" and self._cfg.logging.wandb.alerts:
            self._run.alert(title=title, text=text, level=level)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, Interrupted):
            self._run.mark_preempting()  # lets a sweep hand the run out again
        code = 0 if kind is None else error.exit_code if isinstance(error, Interrupted) else 1
        self._run.finish(exit_code=code)
