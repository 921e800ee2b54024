"""Where a run is written: Weights & Biases, and the run folder's plain files beside it. The only writer to W&B.

The run folder holds `run.json` (what is trained), `loss.jsonl` (one row a logged step), `samples/`, `checkpoints/` and,
once it is finished, `results.jsonl`: the original study's schema, append-only and readable without W&B.
"""

import json
import netrc
import os
import secrets
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlparse

from ddpm import __version__
from ddpm.config import Config
from ddpm.errors import UserError
from ddpm.metrics import STEP


def git_commit() -> str | None:
    """The commit of this code, with `+dirty` where tracked files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        # Installed into another project's checkout, this file is not one of its own.
        subprocess.run(["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True, check=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        status = ["git", "status", "--porcelain", "--untracked-files=no"]
        dirty = subprocess.run(status, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+dirty" if dirty else "")


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


def check_run_dir(cfg: Config) -> None:
    """Raises UserError where the run's folder holds a run already (unless `clean_run`), or holds something else."""
    folder = cfg.run_dir
    if not folder.exists():
        return
    try:
        json.loads((folder / "run.json").read_text())["run_id"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder} exists and is not a run folder of this project. Move it, or give another --out_dir."
        ) from None
    if not cfg.clean_run:
        state = "finished" if (folder / "results.jsonl").exists() else "was started"
        raise UserError(
            f"This run {state} already, in {folder}. Start it over with --clean_run=true (its folder is replaced), or "
            "change --seed, --out_dir or another key."
        )


class Tracker:
    """One run's record, used as a context manager: leaving it closes the W&B run, as failed on an exception."""

    def __init__(self, cfg: Config, protocols: dict[str, dict[str, Any]], params: int):
        check_run_dir(cfg)
        self.run_id = cfg.run_id
        self.folder = cfg.run_dir
        # Starting over is how this run came about, not what it is: its saved config must not wipe it when used again.
        self._cfg = cfg.model_copy(update={"clean_run": False})
        self._best_fid = float("inf")
        self._summary: dict[str, Any] = {
            "seed": cfg.seed,
            "params": params,
            "run_id": self.run_id,
            "git_hash": git_commit(),
        }
        record = {
            "run_id": self.run_id,
            # The same config elsewhere, or started over, is another run to W&B: their rows must not mix.
            "wandb_id": f"{self.run_id}-{secrets.token_hex(3)}",
            "experiment": cfg.experiment,
            "seed": cfg.seed,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": self._summary["git_hash"],
            "version": __version__,
            "params": params,
            "protocols": protocols,
            "config": self._cfg.nested(),
        }
        # Made beside its place before W&B starts, moved there after: neither is left half-begun by the other's failure,
        # and an earlier run's folder goes only when the new one is there.
        draft = self._draft_folder(record)
        try:
            self._run = self._start_wandb(record)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        if self.folder.exists():
            shutil.rmtree(self.folder)
        draft.rename(self.folder)
        self.log_artifact("config", self.folder / "config.yaml", ["latest"])

    def _draft_folder(self, record: dict[str, Any]) -> Path:
        draft = self.folder.with_name(f".{self.run_id}.part")
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            (draft / "run.json").write_text(json.dumps(record, indent=2) + "\n")
            (draft / "config.yaml").write_text(self._cfg.to_yaml())
        except OSError as error:
            raise UserError(f"The run folder {self.folder} cannot be made: {error}.") from error
        return draft

    def _start_wandb(self, record: dict[str, Any]) -> Any:
        import wandb

        options = self._cfg.logging.wandb
        mode, why = wandb_mode(options.mode)
        try:
            run = wandb.init(
                id=record["wandb_id"],
                name=options.run_name or self.run_id,
                project=options.project,
                entity=options.entity,
                group=self._cfg.experiment,
                job_type="train",
                tags=options.tags,
                notes=options.notes,
                config={
                    **record["config"],
                    **{k: record[k] for k in ("commit", "version", "params", "protocols")},
                },
                dir=os.environ.get("WANDB_DIR"),  # wandb itself reads it only once a process
                mode=mode,  # type: ignore[arg-type]  # a str to mypy, one of its literals here
                # By default the log is flushed every 15 s, and a kill loses as much.
                settings=wandb.Settings(x_transaction_log_flush_interval=1.0, silent=True),
            )
        except (wandb.errors.Error, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"W&B could not start in mode {mode} ({why}): {reason}. Use --logging.wandb.mode=offline to keep the "
                "run on disk and upload it later with `wandb sync`."
            ) from error
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        run.define_metric("val/fid", step_metric=STEP, summary="min,last")
        where = run.url if mode == "online" else run.settings.sync_dir
        print(f"W&B: {mode} ({why}), run {run.id}" + (f", {where}" if where else ""))
        return run

    def log(self, step: int, row: dict[str, Any], grid: Path | None = None) -> None:
        """Write one row of metrics (and the sample grid drawn at this step) to W&B and to `loss.jsonl`."""
        with (self.folder / "loss.jsonl").open("a") as file:
            file.write(json.dumps({"_i": step, "out": row}) + "\n")
        self._summary.update(row)
        media: dict[str, Any] = {}
        if grid:
            import wandb

            media["samples/grid"] = wandb.Image(str(grid), caption=f"{self.run_id}, step {step}")
            self.log_artifact("samples", grid, ["latest", f"step-{step}"])
        self._run.log({STEP: step, **row, **media})

    def log_checkpoint(self, step: int, path: Path, fid: float | None) -> None:
        """Record a checkpoint file as a version of the run's model artifact; `best` is the lowest milestone FID."""
        aliases = ["latest", f"step-{step}"]
        if fid is not None and fid < self._best_fid:
            self._best_fid = fid
            self._summary["ckpt_best"] = str(path)
            aliases.append("best")
        self._summary["ckpt_last"] = str(path)
        self.log_artifact("model", path, aliases)

    def log_artifact(self, kind: str, path: Path, aliases: list[str]) -> None:
        """Log one file as the next version of the artifact `RUN_ID-KIND`."""
        import wandb

        artifact = wandb.Artifact(f"{self._run.id}-{kind}", type=kind, metadata={"experiment": self._cfg.experiment})
        # W&B keeps a copy of its own until it is uploaded: the run folder may be replaced or moved before that.
        artifact.add_file(str(path))
        self._run.log_artifact(artifact, aliases=aliases)

    def finish(self, run_time_s: float) -> None:
        """Write `results.jsonl`, the mark of a finished run."""
        fids = [r["val/fid"] for r in self._rows() if "val/fid" in r]
        if fids:
            self._summary |= {"val/fid_min": min(fids), "val/fid_last": fids[-1]}
        self._summary["run_time_s"] = run_time_s
        self._run.summary.update({"run_time_s": run_time_s, "params": self._summary["params"]})
        result = {"cfg": self._cfg.nested(), "out": self._summary, "_i": 0}
        (self.folder / "results.jsonl").write_text(json.dumps(result) + "\n")

    def _rows(self) -> list[dict[str, Any]]:
        return [json.loads(line)["out"] for line in (self.folder / "loss.jsonl").read_text().splitlines()]

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._run.finish(exit_code=0 if kind is None else 1)
