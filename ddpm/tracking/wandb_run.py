"""One W&B run, online or offline. Only this file writes runs to W&B, and the training never waits for it.

Rows go to W&B's own process, which keeps them on disk and uploads them. A thread hands over artifacts, because the
client first asks the server about each one. `ddpm sync` uploads anything that a server missed.
"""

import contextlib
import json
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm.errors import UserError, first_line, one_line
from ddpm.metrics.table import LISTS, STEP, TABLE
from ddpm.tracking import client, staged

DATA = "dataset"  # type of the artifact that names a data set
FLUSH_S = 1.0  # a kill loses the last seconds; W&B's default is 15
_SILENCE = ("Timed out", "deadline exceeded")  # W&B's words for a server that does not answer
_STOP_S = 10.0  # patience with the server after a signal: the machine may go soon


def wandb_mode(wanted: str) -> tuple[str, str]:
    """(mode, why) for a run with the mode `wanted` in its config.

    WANDB_MODE decides if set; otherwise the more private mode of the config and W&B's settings files; for `auto`,
    online if W&B's client finds a login for its server. Raises UserError for a mode, setting or key that the client
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


@dataclass(frozen=True)
class Job:
    """Work on a training's checkpoints as a W&B run of its own. type: its job type. suffix: the end of its id and name,
    after the training's. axis: the x-axis of its charts. config: its config, instead of the training's."""

    type: str
    suffix: str
    axis: str
    config: dict[str, Any]


class WandbRun:
    """The W&B run of a run folder's record (`run.json`), started or resumed under its id; or of a `job` of that run.

    mode: `online` or `offline`. why: the reason, for messages. An online run becomes offline if its server does not
    answer in time. Raises UserError if W&B refuses to start.
    """

    def __init__(self, record: dict[str, Any], folder: Path, mode: str, why: str = "asked for", job: Job | None = None):
        self._record, self._folder, self._job = record, folder, job
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
        about = ("run_id", "commit", "version", "params", "protocols", "environment", "criteria")
        arguments: dict[str, Any] = {
            "id": record["wandb_id"],
            "name": options["run_name"] or record["run_id"],
            "project": options["project"],
            "entity": options["entity"],
            "group": record.get("experiment"),
            "job_type": "train",
            "tags": options["tags"],
            "notes": options["notes"],
            "config": {
                **record["config"],
                **{k: record.get(k) for k in about},
                "images": (record.get("data") or {}).get("digest"),
                "session": len(record["sessions"]),
            },
        }
        if job := self._job:
            arguments |= {"id": f"{arguments['id']}-{job.suffix}", "name": f"{arguments['name']} {job.suffix}"}
            arguments |= {"job_type": job.type, "config": job.config}
        # sagemaker_disable: on SageMaker the client would give all trainings of a job the job's id.
        settings: dict[str, Any] = {**client.durable(FLUSH_S), "silent": True, "sagemaker_disable": True}
        wait = options["init_timeout_s"]
        try:
            client.name_run(arguments["id"])
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
                        raise  # it answered with a refusal
                    reason = first_line(error)
                    wandb.teardown()  # its process still holds the run's id
                    self.mode, self.why = "offline", f"the server did not answer within {wait:g} s: {reason}"
            if self.mode != "online":
                run = wandb.init(**arguments, mode=self.mode, settings=wandb.Settings(**settings))  # type: ignore[arg-type]
        except (wandb.errors.Error, ValueError) as error:
            raise UserError(
                f"W&B could not start in mode {self.mode} ({self.why}): {one_line(error)}. Use "
                "--logging.wandb.mode=offline to keep the run on disk and upload it later with `ddpm sync`."
            ) from error
        if self._job:
            run.define_metric(self._job.axis)
            run.define_metric("*", step_metric=self._job.axis)
            return run
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        run.define_metric("val/fid", step_metric=STEP, summary="min,last")
        for key in LISTS:  # lists make no chart and no readable summary
            run.define_metric(key, step_metric=STEP, hidden=True, summary="none")
        return run

    @property
    def where(self) -> str:
        """The run's page, or the folder with its offline files."""
        return str(self._run.url if self.mode == "online" else self._run.settings.sync_dir)

    @property
    def files(self) -> str | None:
        """W&B's folder for this session of the run."""
        return str(self._run.settings.sync_dir)

    @property
    def path(self) -> str:
        """`ENTITY/PROJECT/ID`; in a sweep, the sweep sets all three."""
        return f"{self._run.entity}/{self._run.project}/{self.id}"

    @property
    def last_step(self) -> float:
        """The last step that W&B's server has; infinite if offline."""
        return float(self._run.summary.get(STEP, -1)) if self.mode == "online" else float("inf")

    # --- recording; nothing here waits ---

    def log(self, step: int, row: dict[str, Any], grid: Path | None = None, table: Path | None = None) -> None:
        """Log one row of metrics, and the step's sample grid and sample table."""

        def tell() -> None:
            import wandb

            caption = f"{self._record['run_id']}, step {step}"
            media: dict[str, Any] = {"samples/grid": wandb.Image(str(grid), caption=caption)} if grid else {}
            if table:
                media[TABLE] = sample_table(step, table)
            self._run.log({STEP: step, **row, **media})
            if table and (made := client.artifact_of(media[TABLE])):
                staged.note(self._folder, made)

        self._tell(tell)

    def log_work(self, row: dict[str, Any], pictures: dict[str, Path], table: list[dict[str, Any]]) -> None:
        """Log one row of a job, with pictures by key and a table for people, given as rows."""

        def tell() -> None:
            import wandb

            media: dict[str, Any] = {key: wandb.Image(str(path)) for key, path in pictures.items()}
            if table and self._job:
                columns: list[Any] = list(dict.fromkeys(key for each in table for key in each))
                data: list[Any] = [[each.get(column) for column in columns] for each in table]
                # With a slash in its key the client would log another artifact each time.
                media[f"{self._job.type}_table"] = wandb.Table(columns=columns, data=data)
            self._run.log({**row, **media})

        self._tell(tell)

    def use(self, names: list[str]) -> None:
        """Mark the first of the artifacts `NAME:ALIAS` that the server has as used by this run."""

        def hand_over() -> None:
            for name in names:
                try:
                    self._run.use_artifact(name)
                    return
                except client.failures() as error:
                    if not client.not_found(error):
                        raise
            print(f"warning: the server has none of {', '.join(names)}: this run is linked to nothing")

        self._queue.put((f"the use of {names[0]}", hand_over))

    def log_artifact(self, kind: str, path: Path, aliases: list[str]) -> None:
        """Log a file as the next version of the artifact `ID-KIND`. A server keeps only the newest and best `model`."""

        def hand_over() -> None:
            import wandb

            about = {"experiment": self._record.get("experiment"), "data": self._record.get("data")}
            artifact = wandb.Artifact(f"{self.id}-{kind}", type=kind, metadata=about)
            # W&B uploads from its own copy, because the run folder may be replaced or moved before that.
            artifact.add_file(str(path))
            staged.note(self._folder, artifact)
            logged = self._run.log_artifact(artifact, aliases=aliases)
            if self.mode == "online":
                logged.wait()
                if kind == "model":
                    self._keep_newest()

        self._queue.put((f"{kind} {path.name}", hand_over))

    def use_data(self) -> None:
        """Mark the data set as used by this run: an artifact that names it, without its images."""
        about = data_of(self._record)

        def hand_over() -> None:
            import wandb

            artifact = wandb.Artifact(f"data-{about['dataset']}-{about['split']}", type=DATA, metadata=about)
            client.add_reference(artifact, "images", f"ddpm-images:{about['digest']}")
            client.use_new(self._run, artifact)

        if about:
            self._queue.put(("the data set's reference", hand_over))

    def summarise(self, values: dict[str, Any]) -> None:
        """Set summary values."""
        self._tell(lambda: self._run.summary.update(values))

    def alert(self, title: str, text: str, level: str) -> None:
        """Have the server send a message to whoever follows the project; nothing if offline."""
        if self.mode == "online" and self._options["alerts"]:
            self._tell(lambda: self._run.alert(title=title, text=text, level=level))

    def _tell(self, what: Callable[[], None]) -> None:
        """Call W&B. If its process or its disk fails, say so once and go on without W&B."""
        if self.broken:
            return
        try:
            what()
        except Exception as error:
            self.broken = True
            print(f"warning: W&B takes nothing more ({_short(error)}); the run folder has everything")

    # --- the thread for artifacts ---

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            name, hand_over = job
            for attempts_left in (1, 0):  # the server may vanish during an upload
                try:
                    self._wait_for_server()
                    hand_over()
                    break
                except Exception as error:  # the training goes on whatever network or server do
                    if attempts_left and not self._given_up.is_set():
                        continue
                    if not self.unsent:
                        print(f"warning: {name} is not uploaded ({_short(error)})")
                    self.unsent.append(name)
                    break

    def _wait_for_server(self) -> None:
        """Wait until the server answers. Raises OSError when `finish` gives up.

        An artifact handed over in an outage would keep W&B from finishing until the server is back.
        """
        while self.mode == "online" and not answers(self._run.settings.base_url):
            if self._given_up.wait(2.0):
                raise OSError(f"no answer from {self._run.settings.base_url}")

    def _keep_newest(self) -> None:
        try:
            drop_old_versions(self.path, self._record["config"]["checkpoint"]["keep_online"])
        except Exception as error:  # perhaps the login may not delete; the upload itself is done
            print(f"warning: older checkpoints stay on the server ({_short(error)})")

    # --- the end ---

    def finish(self, exit_code: int, *, stopped: bool = False) -> bool:
        """Close the run, after waiting a while for the server. Returns whether W&B has everything.

        stopped: by a signal; a sweep may hand the run out again, and the wait is short.
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

        # W&B's own finish_timeout has no effect during the upload of an artifact.
        closing = threading.Thread(target=self._close, args=(exit_code,), name="closing", daemon=True)
        closing.start()
        closing.join(max(1.0, patience - (time.monotonic() - began)))
        late = self._worker.is_alive() or bool(self.unsent) or closing.is_alive() or self.broken
        if closing.is_alive():
            client.end_service()
            closing.join(5.0)
            with contextlib.suppress(Exception):  # the next run in this Python needs a new process
                wandb.teardown()
        return not late

    def _close(self, exit_code: int) -> None:
        with contextlib.suppress(Exception):  # the service may have been ended meanwhile
            self._run.finish(exit_code=exit_code)


def sample_table(step: int, path: Path) -> Any:
    """The sample table in a run folder (see `RunFolder.save_table`) as a W&B table."""
    import wandb
    from PIL import Image

    rows = json.loads(path.read_bytes())
    columns: list[Any] = ["step", "sample", *rows[0], "nearest image"]  # the last only if it is shown
    data: list[Any] = []
    with Image.open(path.with_suffix(".png")) as picture:
        size = picture.width // len(rows)  # images are square
        for number, row in enumerate(rows):
            boxes = [(number * size, top, (number + 1) * size, top + size) for top in range(0, picture.height, size)]
            sample, *nearest = [wandb.Image(picture.crop(box)) for box in boxes]
            data.append([step, sample, *row.values(), *nearest])
    return wandb.Table(columns=columns[: len(data[0])], data=data)


def data_of(record: dict[str, Any]) -> dict[str, Any]:
    """A record's data set for W&B: name, split, subset, number of images, digest; empty if unknown."""
    found = record.get("data") or {}
    settings = record["config"]["data"]
    return {key: settings.get(key) for key in ("dataset", "split", "subset")} | found if found else {}


def answers(server: str) -> bool:
    """Whether a server answers, with whatever status."""
    try:
        urllib.request.urlopen(f"{server}/healthz", timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def drop_old_versions(path: str, keep: int) -> None:
    """Delete model versions of the run `ENTITY/PROJECT/ID` on the server, except the `keep` last, best and latest."""
    versions = {version_step(v): v for v in client.api().artifacts("model", f"{path}-model")}
    for step in sorted(versions)[:-keep]:
        if step >= 0 and not {"best", "latest"} & set(versions[step].aliases):
            versions[step].delete(delete_aliases=True)


def version_step(version: Any) -> int:
    """The step in the aliases of an artifact's version; -1 for a version without one, which is not ours."""
    return max((int(a[5:]) for a in version.aliases if a.startswith("step-") and a[5:].isdigit()), default=-1)


def _short(error: Exception) -> str:
    return first_line(error)[:200]
