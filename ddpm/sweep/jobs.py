"""One job for each point of a sweep; all are checked before the first one starts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddpm.config.files import Chain, read_chain, resolve
from ddpm.config.run import Config
from ddpm.config.stored import differences
from ddpm.errors import UserError
from ddpm.files.rows import read_rows
from ddpm.sweep.command import expand, parameter_file, parse_train
from ddpm.sweep.space import Sweep, count_points, points
from ddpm.tracking.record import read_result

MANY = 10_000


@dataclass(frozen=True)
class Job:
    """One run: its config, its command, additional environment variables, and files (by path) to write first.

    log: the file for its output; later attempts append.
    """

    cfg: Config
    command: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.cfg.run_id

    @property
    def done(self) -> bool:
        """Whether the run is finished."""
        return not self.cfg.clean_run and bool(read_result(self.cfg.run_dir))

    @property
    def step(self) -> int:
        """The last step with a row in the run's folder; 0 if there is none."""
        try:
            with (self.cfg.run_dir / "loss.jsonl").open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - 2**16))  # rows have at most some kilobytes, except the first
                lines = file.read().splitlines()
        except OSError:
            return 0
        for line in reversed(lines):
            for step, _ in read_rows([line], {}):  # a line that is cut has no step
                return step
        return 0


def plan(sweep: Sweep, count: int | None, overrides: Sequence[str], folder: Path, *, many: bool = False) -> list[Job]:
    """The jobs for a sweep's points, in their order, without duplicates.

    overrides: for all points. folder: for logs and parameter files. Raises UserError if a point is impossible, or for
    more than 10,000 points unless `many`.
    """
    number = count_points(sweep, count)
    if number > MANY and not many:
        raise UserError(f"{sweep.path} has {number:,} points. Add --yes to run more than {MANY:,}, or --count fewer.")
    chains: dict[Path, Chain] = {}
    jobs: dict[str, Job] = {}
    for values in points(sweep, count):
        job = make_job(sweep, values, overrides, folder, chains)
        same = jobs.setdefault(job.name, job)
        changed = differences(same.cfg.nested(), job.cfg.nested()) if same is not job else []
        if changed:
            raise UserError(f"{sweep.path}: two points have the same id {job.name}, and {'; '.join(changed)}.")
    if len(jobs) < number:
        print(f"{number - len(jobs)} of {number} points are left out: they train the same run as another point")
    return list(jobs.values())


def make_job(
    sweep: Sweep, values: dict[str, Any], overrides: Sequence[str], folder: Path, chains: dict[Path, Chain]
) -> Job:
    """The job for one point. chains: a cache of config files. Raises UserError if the point cannot be run."""
    command = [*expand(sweep, values), *overrides]
    path, options = parse_train(sweep, command)
    if path not in chains:
        chains[path] = read_chain(path)
    try:
        cfg = resolve(chains[path], options, values)
    except UserError as error:
        raise UserError(f"{sweep.path}, at {', '.join(f'{k} = {v}' for k, v in values.items())}: {error}") from None
    if cfg.clean_run:
        raise UserError(
            f"{sweep.path}: clean_run would start a point over at every resume. Remove its run folder instead."
        )
    parameters = (folder / f"{cfg.run_id}.yaml").resolve()
    return Job(
        cfg,
        command,
        folder / f"{cfg.run_id}.log",
        {"WANDB_SWEEP_PARAM_PATH": str(parameters)},
        {parameters: parameter_file(values)},
    )
