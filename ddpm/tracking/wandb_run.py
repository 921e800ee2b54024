"""One W&B run, online or offline, that the training never waits for. The only writer of runs to W&B.

Rows go to W&B's own process, which keeps them on disk and uploads them. Artifacts are handed over by a thread, since
with a server the client asks it about each one first. What a server has not taken in the end, `ddpm sync` brings it.
"""

import contextlib
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddpm.errors import UserError
from ddpm.metrics.table import CURVES, STEP
from ddpm.tracking import client, staged

FLUSH_S = 1.0  # W&B's own default of 15 s is lost at a kill
_SILENCE = ("Timed out", "deadline exceeded")  # in W&B's words, a server that does not answer
_STOP_S = 10.0  # what a signalled run gives the server, for a machine that is taken away soon


def wandb_mode(wanted: str) -> tuple[str, str]:
    """(mode, why) of a run whose config names the mode `wanted`.

    WANDB_MODE decides. Else the more private one of the config's and that of W&B's settings files; else, `auto`, it is
    online if W&B's client finds a login for its server. Raises UserError for a mode, a setting or a key that the client
    refuses.
    """
    if off := client.switched_off(wanted):
        return "disabled", off
    said, where = client.asked_mode()
    if "WANDB_MODE" in os.environ:
        return said, where
    asked = [(wanted, "logging.wandb.mode")] if wanted != "auto" else []
    if said and said != "online":
        asked.insert(0, (said, where))
    if asked:
        return max(asked, key=lambda one: client.private(one[0]))
    if client.logged_in():
        return "online", f"logged in at {client.server()}"
    return "offline", f"no login found for {client.server()}; `wandb login` makes one"


class WandbRun:
    """The W&B run of a run folder's record (`run.json`), started or taken up under its id.

    folder: where the run is kept. mode: `online` or `offline`, and why. An online run becomes offline if its server
    does not answer in time. Raises UserError if W&B refuses to start.
    """

    def __init__(self, record: dict[str, Any], folder: Path, mode: str, why: str = "asked for"):
        self._record, self._folder = record, folder
        self._options = record["config"]["logging"]["wandb"]
        self.mode, self.why = mode, why
        self._run = self._start()
        self.id: str = self._run.id
        self.unsent: list[str] = []
        self.broken = False
        self._queue: queue.Queue[tuple[str, Callable[[], None]] | None] = queue.Queue()
        self._given_up = threading.Event()
        self._worker = threading.Thread(target=self._work, name="artifacts", daemon=True)
        self._worker.start()

    def _start(self) -> Any:
        import wandb

        record, options = self._record, self._options
        about = ("run_id", "commit", "version", "params", "protocols", "environment")
        arguments: dict[str, Any] = {
            "id": record["wandb_id"],
            "name": options["run_name"] or record["run_id"],
            "project": options["project"],
            "entity": options["entity"],
            "group": record.get("experiment"),
            "job_type": "train",
            "tags": options["tags"],
            "notes": options["notes"],
            "config": {**record["config"], **{k: record.get(k) for k in about}, "session": len(record["sessions"])},
        }
        # On SageMaker the client would give all trainings of one job the job's id.
        settings: dict[str, Any] = {
            "x_transaction_log_flush_interval": FLUSH_S,
            "silent": True,
            "sagemaker_disable": True,
        }
        wait = options["init_timeout_s"]
        try:
            client.name_run(record["wandb_id"])
            if self.mode == "online":
                try:
                    run = wandb.init(
                        **arguments,
                        mode="online",
                        resume="allow",
                        settings=wandb.Settings(init_timeout=wait, **settings),
                    )
                except wandb.errors.CommError as error:
                    if not any(silence in str(error) for silence in _SILENCE):
                        raise  # it answered, and refused
                    reason = str(error).splitlines()[0]
                    wandb.teardown()  # its process still holds the id of the run that did not start
                    self.mode, self.why = "offline", f"the server did not answer within {wait:g} s: {reason}"
            if self.mode != "online":
                run = wandb.init(**arguments, mode=self.mode, settings=wandb.Settings(**settings))  # type: ignore[arg-type]
        except (wandb.errors.Error, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"W&B could not start in mode {self.mode} ({self.why}): {reason}. Use --logging.wandb.mode=offline to "
                "keep the run on disk and upload it later with `ddpm sync`."
            ) from error
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        run.define_metric("val/fid", step_metric=STEP, summary="min,last")
        for key in CURVES:  # a list at one step makes no chart, and a summary is to be read
            run.define_metric(key, step_metric=STEP, hidden=True, summary="none")
        return run

    @property
    def where(self) -> str:
        """The run's page, or the folder of its offline files."""
        return str(self._run.url if self.mode == "online" else self._run.settings.sync_dir)

    @property
    def files(self) -> str | None:
        """The folder in which W&B keeps the files of this start."""
        return str(self._run.settings.sync_dir)

    @property
    def path(self) -> str:
        """`ENTITY/PROJECT/ID` as W&B settled it: a sweep decides all three."""
        return f"{self._run.entity}/{self._run.project}/{self.id}"

    @property
    def last_step(self) -> float:
        """The last step that is known to W&B; infinite where there is no server to know better."""
        return float(self._run.summary.get(STEP, -1)) if self.mode == "online" else float("inf")

    # --- what is recorded; none of it waits ---

    def log(self, step: int, row: dict[str, Any], grid: Path | None = None) -> None:
        """One row of metrics, with the sample grid drawn at this step."""

        def tell() -> None:
            import wandb

            caption = f"{self._record['run_id']}, step {step}"
            media = {"samples/grid": wandb.Image(str(grid), caption=caption)} if grid else {}
            self._run.log({STEP: step, **row, **media})

        self._tell(tell)

    def log_artifact(self, kind: str, path: Path, aliases: list[str]) -> None:
        """One file as the next version of the artifact `ID-KIND`; of `model`, a server keeps the newest and best."""

        def hand_over() -> None:
            import wandb

            artifact = wandb.Artifact(
                f"{self.id}-{kind}", type=kind, metadata={"experiment": self._record.get("experiment")}
            )
            # W&B keeps a copy of its own until it is uploaded: the run folder may be replaced or moved before that.
            artifact.add_file(str(path))
            staged.note(self._folder, artifact)
            logged = self._run.log_artifact(artifact, aliases=aliases)
            if self.mode == "online":
                logged.wait()
                if kind == "model":
                    self._keep_newest()

        self._queue.put((f"{kind} {path.name}", hand_over))

    def summarise(self, values: dict[str, Any]) -> None:
        """Set summary values."""
        self._tell(lambda: self._run.summary.update(values))

    def alert(self, title: str, text: str, level: str) -> None:
        """A message to whoever follows the project, where there is a server to send it."""
        if self.mode == "online" and self._options["alerts"]:
            self._tell(lambda: self._run.alert(title=title, text=text, level=level))

    def _tell(self, what: Callable[[], None]) -> None:
        """Do what W&B should know of. Where its process or its disk fails, say so once and go on without it."""
        if self.broken:
            return
        try:
            what()
        except Exception as error:
            self.broken = True
            print(f"warning: W&B takes nothing more ({_first_line(error)}); the run folder has it all")

    # --- the thread that hands artifacts over ---

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            name, hand_over = job
            for attempts_left in (1, 0):  # the server may go while one is on its way
                try:
                    self._wait_for_server()
                    hand_over()
                    break
                except Exception as error:  # whatever the network or the server did, the training goes on
                    if attempts_left and not self._given_up.is_set():
                        continue
                    if not self.unsent:
                        print(f"warning: {name} is not uploaded ({_first_line(error)})")
                    self.unsent.append(name)
                    break

    def _wait_for_server(self) -> None:
        """Return once the server answers anything at all. Raises OSError where `finish` would not wait longer.

        Handed over in an outage, an artifact would keep W&B from finishing until the server is back.
        """
        while self.mode == "online" and not answers(self._run.settings.base_url):
            if self._given_up.wait(2.0):
                raise OSError(f"no answer from {self._run.settings.base_url}")

    def _keep_newest(self) -> None:
        try:
            drop_old_versions(self.path, self._record["config"]["checkpoint"]["keep_online"])
        except Exception as error:  # the upload is done: a login that may not delete leaves nothing unsent
            print(f"warning: older checkpoints stay on the server ({_first_line(error)})")

    # --- the end ---

    def finish(self, exit_code: int, *, stopped: bool = False) -> bool:
        """Close the run, after waiting a while for the server; whether it has everything.

        stopped: by a signal, so that a sweep may hand the run out again and the wait is short.
        """
        patience = _STOP_S if stopped else self._options["finish_timeout_s"]
        began = time.monotonic()
        self._queue.put(None)
        if stopped:
            self._tell(self._run.mark_preempting)
        if self.mode != "online":
            self._worker.join()
            self._close(exit_code)
            return not self.broken
        self._worker.join(patience)
        self._given_up.set()
        self._worker.join(0.5)
        import wandb

        # W&B's own finish_timeout does not hold while an artifact is on its way.
        closing = threading.Thread(target=self._close, args=(exit_code,), name="closing", daemon=True)
        closing.start()
        closing.join(max(1.0, patience - (time.monotonic() - began)))
        late = self._worker.is_alive() or bool(self.unsent) or closing.is_alive() or self.broken
        if closing.is_alive():
            client.end_service()
            closing.join(5.0)
            with contextlib.suppress(Exception):  # so that a next run in this Python gets a process of its own
                wandb.teardown()
        return not late

    def _close(self, exit_code: int) -> None:
        # Where the service was ended meanwhile, there is nobody left to close with.
        with contextlib.suppress(Exception):
            self._run.finish(exit_code=exit_code)


def answers(server: str) -> bool:
    """Whether a server answers anything at all."""
    try:
        urllib.request.urlopen(f"{server}/healthz", timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def drop_old_versions(path: str, keep: int) -> None:
    """Delete the model versions of the run `ENTITY/PROJECT/ID` on the server but those of the `keep` last steps, the
    best and the latest."""
    import wandb

    versions = {_step_of(v): v for v in wandb.Api(timeout=20).artifacts("model", f"{path}-model")}
    for step in sorted(versions)[:-keep]:
        if step >= 0 and not {"best", "latest"} & set(versions[step].aliases):
            versions[step].delete(delete_aliases=True)


def _step_of(version: Any) -> int:
    """The step in a version's aliases; -1 where there is none, which is none of ours."""
    return max((int(a[5:]) for a in version.aliases if a.startswith("step-") and a[5:].isdigit()), default=-1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
