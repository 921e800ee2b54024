"""Selects the runs that a report compares: one setting, the newest run of each seed."""

import fnmatch
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from ddpm.config.run import is_bookkeeping
from ddpm.errors import UserError
from ddpm.files.yaml12 import read_value
from reports.columns import as_number
from reports.experiments import OF_TIMESTEPS, SCHEDULE, Study
from reports.runs import Run, canonical, flat_config

# Keys that name a run, its place or its machine, or say when and on which draws a trace is measured, which changes
# neither the training nor what the trace estimates; besides the config's own bookkeeping.
_LABELS = (
    *("curvature.every", "curvature.neutral"),
    *("experiment", "seed", "study_name", "run_id", "notes", "tags", "session", "environment.*", "logging.*"),
    *("metric", "schema", "name", "group", "job_type", "commit", "version", "params", "extends"),
)
PREDICTION = "diffusion.prediction"
OF_WEIGHTS = ("curvature/", "train/grad_")  # derivatives by the weights
PREDICTIONS_DIFFER = "the predictions differ, so the traces are of different functions of the weights"
Condition = tuple[str, str, Any]  # a key, the typed word, and its value
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, eq=False)
class Arm:
    """An experiment in a report: one run for each seed, all of one setting, ordered by seed."""

    experiment: str
    role: str
    runs: tuple[Run, ...]

    @property
    def config(self) -> dict[str, Any]:
        """The dotted config of the first run; the others differ only in seed and bookkeeping."""
        return flat_config(self.runs[0])

    @cached_property
    def last_step(self) -> int:
        """N, the last step of the arm's longest run."""
        return max(run.last_step for run in self.runs)


@dataclass(frozen=True, eq=False)
class Selection:
    """What a report compares. `missing`: arms without a run. `left_out`: unused runs with the reason.

    `warnings`: why the comparison is not controlled.
    """

    study: Study
    arms: tuple[Arm, ...]
    context: tuple[Arm, ...] = ()
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def arm(self, experiment: str) -> Arm | None:
        """The arm of `experiment`; None if it is missing."""
        return next((arm for arm in self.arms if arm.experiment == experiment), None)

    @property
    def baseline(self) -> Arm | None:
        """The baseline's arm; None if it is missing."""
        return self.arm(self.study.baseline)

    @property
    def variants(self) -> tuple[Arm, ...]:
        """The other arms that have runs."""
        return tuple(arm for arm in self.arms if arm.role == "variant")


def matches(key: str, globs: Iterable[str]) -> bool:
    """Whether one of `globs` matches the dotted `key` (`loss.*`, or `loss` itself)."""
    return any(fnmatch.fnmatchcase(key, glob) for glob in globs)


def is_label(key: str) -> bool:
    """Whether the dotted `key` names a run, its place or its machine, or the like, and does not change the training."""
    return is_bookkeeping(key) or matches(key, _LABELS)


def differing_keys(arms: Sequence[Arm]) -> list[str]:
    """The config keys, sorted, whose values differ between `arms`, except bookkeeping."""
    configs = [arm.config for arm in arms]
    keys = sorted(set().union(*configs)) if configs else []
    return [key for key in keys if not is_label(key) and len({canonical(c.get(key, "(not set)")) for c in configs}) > 1]


def differing_schedules(configs: Iterable[dict[str, Any]]) -> str:
    """`diffusion.beta_schedule = cosine, linear`: the schedule's keys in which dotted configs differ; empty if in
    none. A trace over timesteps is then another function under each schedule; the neutral trace is the same."""
    return _differing(SCHEDULE, configs)


def differing_predictions(configs: Iterable[dict[str, Any]]) -> str:
    """`diffusion.prediction = eps, v`, if dotted configs differ in it; else empty. The eps-MSE then compares, but its
    gradient and Hessian do not: a network that predicts something else is another function of its weights."""
    return _differing((PREDICTION,), configs)


def _differing(keys: Sequence[str], configs: Iterable[dict[str, Any]]) -> str:
    configs = list(configs)
    found = {key: {show(config, key) for config in configs if key in config} for key in keys}
    return "; ".join(f"{key} = {', '.join(sorted(values))}" for key, values in found.items() if len(values) > 1)


def not_comparable(metric: str, configs: Sequence[dict[str, Any]]) -> str:
    """Why `metric` is that of another function in each of these dotted configs; empty if it is the same function."""
    if metric.startswith(OF_WEIGHTS) and (predictions := differing_predictions(configs)):
        return f"the predictions differ ({predictions}), and each network is another function of its weights"
    if metric.startswith(OF_TIMESTEPS) and (schedules := differing_schedules(configs)):
        return f"the schedules differ ({schedules}), and it is another function under each; the neutral trace is not"
    return ""


def undeclared_keys(arms: Sequence[Arm], study: Study) -> list[str]:
    """The differing keys that the study does not declare."""
    return [key for key in differing_keys(arms) if not matches(key, study.difference)]


def select(study: Study, runs: Sequence[Run], where: Sequence[str] = ()) -> Selection:
    """The runs of `study` among `runs`.

    A *setting* is everything in a config but the declared difference, the seed and bookkeeping. The setting with most
    arms is used, in a tie the one with the newest start; in it, for each arm and seed, the newest run. If no setting
    has all arms, each arm's newest setting is used, with a warning about the undeclared differences. Runs that
    contradict the study's `where` are left out. Several values of a declared difference within an arm are a warning.
    Equal images are equal, whatever their folder is called.

    Raises UserError: a filter that does not parse or leaves nothing; no run of any arm, or of the experiment itself.
    """
    kept, left_out = _as_meant(study, _under_one_name(filtered(runs, where)))
    usable = [run for run in kept if not run.history.empty]
    ours = [run for run in usable if run.experiment in study.arms]
    _require(study, runs, ours, where, left_out)
    left_out += [f"{run.name}: no metrics logged" for run in kept if run.history.empty]

    present = {run.experiment for run in ours}
    by_setting: dict[str, list[Run]] = defaultdict(list)
    for run in ours:
        by_setting[_setting(run, study)].append(run)
    best = max(by_setting.values(), key=lambda group: (len({r.experiment for r in group}), max(map(_age, group))))
    if {run.experiment for run in best} == present:
        chosen = best
    else:
        chosen = [run for name in study.arms for run in _newest_setting(ours, name)]

    arms, replaced = _arms(study, chosen)
    shown = {id(run) for arm in arms for run in arm.runs} | {id(run) for run in replaced}
    left_out += [f"{run.name}: a newer run of the same seed and setting is used" for run in replaced]
    left_out += [
        f"{run.name}: another setting ({_difference(run, arms, study)})" for run in ours if id(run) not in shown
    ]
    context, context_left_out = _context(study, usable, arms)
    return Selection(
        study,
        arms,
        context,
        missing=tuple(name for name in study.arms if name not in present),
        left_out=tuple(left_out + context_left_out),
        warnings=(
            *_undeclared(arms, study),
            *_left_open((*arms, *context), usable, study),
            *_lacking((*arms, *context)),
        ),
    )


def filtered(runs: Sequence[Run], where: Sequence[str]) -> list[Run]:
    """The runs whose configs meet all of `where`, each `key=value`. Raises UserError if one does not parse."""
    conditions = _conditions(where)
    return [run for run in runs if not _contradicted(run, conditions)]


def _under_one_name(runs: Sequence[Run]) -> list[Run]:
    """The runs, with one `data.root` for those that trained on the same images under several; a note says so."""
    roots: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        if run.images and flat_config(run).get("data.root"):
            roots[run.images].add(str(flat_config(run)["data.root"]))
    names = {images: min(found) for images, found in roots.items() if len(found) > 1}
    return [_renamed(run, names[run.images]) if run.images in names else run for run in runs]


def _renamed(run: Run, root: str) -> Run:
    before = str(flat_config(run).get("data.root"))
    if before == root:
        return run
    data = {**run.config.get("data", {}), "root": root}
    note = f"its data.root, {before}, holds the same images (digest {run.images}) as {root}"
    return replace(run, config=run.config | {"data": data}, notes=(*run.notes, note))


def _conditions(where: Sequence[str]) -> list[Condition]:
    conditions = []
    for text in where:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UserError(f"`{text}` is not a filter. Write key=value, e.g. `diffusion.beta_schedule=linear`.")
        conditions.append((key.strip(), value, read_value(value, f"The filter `{text}`")))
    return conditions


def _contradicted(run: Run, conditions: Sequence[Condition]) -> list[tuple[str, Any]]:
    """Key and value of each condition that the run's config does not meet."""
    config = flat_config(run)
    return [(key, value) for key, word, value in conditions if not _same(config.get(key), word, value)]


def _same(found: Any, word: str, value: Any) -> bool:
    """Whether the config's value `found` is the value, or the typed word as text; 5 equals 5.0."""
    return found == word or as_number(found) == as_number(value) is not None or canonical(found) == canonical(value)


def _as_meant(study: Study, runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs that meet the study's `where`, and the reasons why the others do not."""
    kept, left_out = [], []
    for run in runs:
        wrong = _contradicted(run, _conditions(study.where.get(run.experiment, ())))
        config = flat_config(run)
        said = "; ".join(f"its {key} is {show(config, key)}, not {show({key: v}, key)}" for key, v in wrong)
        if not said:
            kept.append(run)
        elif run.experiment in (*study.arms, *study.context):
            left_out.append(f"{run.name}: {said}, as the experiment asks for")
    return kept, left_out


def _require(
    study: Study, runs: Sequence[Run], ours: Sequence[Run], where: Sequence[str], left_out: Sequence[str]
) -> None:
    present = {run.experiment for run in ours}
    if study.name in present or (present and study.name not in study.arms):
        return
    there = ", ".join(sorted({run.experiment for run in runs})) or "none"
    filtered = f" that match {', '.join(where)}" if where else ""
    why = "".join(f" Left out: {line}." for line in left_out)
    wanted, so = f"`{study.name}`", ", so there is nothing to report on"
    if not present:
        wanted, so = f"the experiments in this report ({', '.join(study.arms)})", ""
    raise UserError(f"No runs of {wanted}{filtered} with metrics in the source{so}. Experiments there: {there}.{why}")


def _setting(run: Run, study: Study | None = None) -> str:
    """The run's setting as text: its config without bookkeeping and the study's declared difference."""
    declared = study.difference if study else ()
    config = flat_config(run).items()
    return canonical({key: value for key, value in config if not (is_label(key) or matches(key, declared))})


def _age(run: Run) -> tuple[datetime, str]:
    """Sorts runs from old to new. The id breaks ties, so that the choice is stable."""
    return (run.started or _LONG_AGO, run.id)


def _newest_setting(runs: Sequence[Run], experiment: str) -> list[Run]:
    """The runs of `experiment` with the same setting as its newest run, declared differences included."""
    own = [run for run in runs if run.experiment == experiment]
    if not own:
        return []
    setting = _setting(max(own, key=_age))
    return [run for run in own if _setting(run) == setting]


def _arms(study: Study, chosen: Sequence[Run]) -> tuple[tuple[Arm, ...], list[Run]]:
    """The arms, and the runs that a newer run of their seed replaces."""
    arms: list[Arm] = []
    replaced: list[Run] = []
    for name, role in study.arms.items():
        # Arms may differ in a declared key, seeds of one arm may not: no mean over 200 and 10,000 steps.
        own = _newest_setting(chosen, name)
        newest: dict[int | None, Run] = {}
        for run in sorted(own, key=_age):
            if run.seed in newest:
                replaced.append(newest[run.seed])
            newest[run.seed] = run
        if newest:
            ordered = sorted(newest.values(), key=lambda run: (run.seed is None, run.seed or 0))
            arms.append(Arm(name, role, tuple(ordered)))
    return tuple(arms), replaced


def _difference(run: Run, arms: Sequence[Arm], study: Study) -> str:
    """How `run` differs from the chosen run of its own experiment, or else from the first arm."""
    nearest = next((arm for arm in arms if arm.experiment == run.experiment), arms[0])
    other = Arm(run.experiment, "", (run,))
    keys = undeclared_keys([nearest, other], study) or differing_keys([nearest, other])
    mine, theirs = other.config, nearest.config
    return "; ".join(f"{key} = {show(mine, key)}, not {show(theirs, key)} as in the runs compared" for key in keys)


def _context(study: Study, usable: Sequence[Run], arms: Sequence[Arm]) -> tuple[tuple[Arm, ...], list[str]]:
    """The context arms: of each, the setting nearest to the first arm's, in a tie the newest."""
    context, left_out = [], []
    for name in study.context:
        own = [run for run in usable if run.experiment == name]
        if not own:
            left_out.append(f"{name} (context): no run with metrics in the source")
            continue
        distance = {run.id: len(undeclared_keys([arms[0], Arm(name, "context", (run,))], study)) for run in own}
        least = min(distance.values())
        near = max((run for run in own if distance[run.id] == least), key=_age)
        same = [run for run in own if _setting(run) == _setting(near)]
        newest = {run.seed: run for run in sorted(same, key=_age)}
        context.append(Arm(name, "context", tuple(newest[seed] for seed in sorted(newest, key=str))))
    return tuple(context), left_out


def _left_open(arms: Sequence[Arm], runs: Sequence[Run], study: Study) -> list[str]:
    """Warnings about arms whose runs have several values of a declared key, such as a weighting from the command line.

    The newest run need not have the value that is meant.
    """
    lines = []
    for arm in arms:
        setting = _setting(arm.runs[0], study)
        own = [run for run in runs if run.experiment == arm.experiment and _setting(run, study) == setting]
        for key in differing_keys([Arm(arm.experiment, arm.role, (run,)) for run in own]):
            used = show(arm.config, key)
            others = sorted({show(flat_config(run), key) for run in own} - {used})
            lines.append(
                f"{arm.experiment} has runs with several values of {key}: {used} (the newest run's) is compared, "
                f"{', '.join(others)} is left out. Name the one that is meant in `where` in the experiment's file."
            )
    return lines


def _undeclared(arms: Sequence[Arm], study: Study) -> tuple[str, ...]:
    keys = undeclared_keys(arms, study)
    if not keys:
        return ()
    values = "; ".join(
        f"{key}: " + ", ".join(f"{arm.experiment} {show(arm.config, key)}" for arm in arms) for key in keys
    )
    return (f"The arms differ in more than the declared difference, so the comparison is not controlled. {values}.",)


def _lacking(arms: Sequence[Arm]) -> list[str]:
    """Warnings about runs that lack rows, and the effect on means."""
    lines = []
    for arm in arms:
        name, seeds = arm.experiment, len(arm.runs)
        effect = f"the means of {name}, and what is compared with it, rest on the other rows"
        if seeds > 1:
            effect = f"the means over {seeds} seeds of {name}, and what is compared with them, leave these steps out"
        lines += [f"{said}: {effect}." for run in arm.runs if (said := missing_rows(run))]
    return lines


def missing_rows(run: Run) -> str:
    """How many rows the run lacks, and where; empty if it has all rows that its config asks for."""
    missing, count = run.missing_rows
    if not missing:
        return ""
    where = f"step {missing[0]}" if len(missing) == 1 else f"steps {missing[0]} to {missing[-1]}"
    return f"{run.name} lacks {len(missing)} of its {count} rows ({where})"


def show(config: dict[str, Any], key: str) -> str:
    """The value of `key` as text: `(not set)` if it is missing, YAML words for null and booleans."""
    if key not in config:
        return "(not set)"
    value = config[key]
    return value if isinstance(value, str) else canonical(value)
