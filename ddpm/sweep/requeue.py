"""The unfinished runs of a sweep on W&B's server, to be resumed here as the same W&B runs."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm.config.files import Chain, resolve
from ddpm.config.run import Config
from ddpm.errors import UserError, one_line
from ddpm.sweep.jobs import Job, make_job
from ddpm.sweep.space import parse_sweep
from ddpm.tracking import client

LOST = ("crashed", "failed", "killed", "preempted")


def lost_runs(name: str, overrides: Sequence[str], logs: Path) -> list[Job]:
    """A job for each run of the sweep ENTITY/PROJECT/ID that is neither running nor finished.

    Its process finds the run's folder here or makes it from W&B (`ddpm.sweep.fetch`). Raises UserError if there is no
    such sweep, server or login, or a run is not of this project.
    """
    parts = name.split("/")
    if len(parts) != 3 or not all(parts):
        raise UserError(f"--requeue needs the sweep as ENTITY/PROJECT/ID, as `wandb sweep` prints it; got {name!r}.")
    sweep, runs = _ask(name)
    states = Counter(str(run.state) for run in runs)
    print(f"{name}: {', '.join(f'{n} {state}' for state, n in sorted(states.items())) or 'no runs yet'}", flush=True)
    if states["running"]:
        print("W&B shows a killed run as `running` for some minutes; if one is missing here, requeue later")
    folder, chains = logs / parts[2], dict[Path, Chain]()
    jobs = []
    for run in runs:
        if run.state not in LOST:
            continue
        job = _job(run, sweep.config, name, overrides, folder, chains)
        if job.done:  # finished here, but W&B does not know
            print(f"{run.id} is finished in {job.cfg.run_dir}: `ddpm sync {job.cfg.run_dir}` tells W&B")
            continue
        ids = dict(zip(("WANDB_ENTITY", "WANDB_PROJECT", "WANDB_SWEEP_ID"), parts, strict=True))
        jobs.append(dataclasses.replace(job, environment=job.environment | ids | {"WANDB_RUN_ID": run.id}))
    return jobs


def _job(
    run: Any, sweep_config: dict[str, Any], name: str, overrides: Sequence[str], folder: Path, chains: dict[Path, Chain]
) -> Job:
    """The job that resumes a W&B run: from its own config, or from the sweep's if it ended before it had one."""
    own = {key: value for key, value in run.config.items() if key in Config.model_fields}
    if "experiment" not in own:
        sweep = parse_sweep(sweep_config, Path(name))
        values = {key: run.config[key] for key in sweep_config["parameters"] if key in run.config}
        return make_job(sweep, values, overrides, folder, chains)
    cfg = resolve([(f"W&B's run {run.id}", own)], overrides)
    path = folder / f"{cfg.run_id}.yaml"
    return Job(cfg, ["ddpm", "train", str(path)], folder / f"{cfg.run_id}.log", files={path: cfg.to_yaml()})


def _ask(name: str) -> tuple[Any, list[Any]]:
    """The sweep and its runs, with their configs, from the server. Raises UserError."""
    try:
        sweep = client.api().sweep(name)
        runs = list(sweep.runs)
        for run in runs:
            run.config  # noqa: B018 - this reads it from the server
        return sweep, runs
    except client.failures() as error:
        said = one_line(error)
        raise UserError(f"W&B's server gives no sweep {name}: {said}. `wandb login` makes a login.") from None
