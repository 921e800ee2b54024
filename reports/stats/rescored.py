"""Checks on scores that `ddpm evaluate` added: the same checkpoints by another protocol, or from other noise."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

from ddpm.metrics import Z95
from reports.experiments import Check
from reports.experiments.selection import Arm
from reports.runs import Later, Run, flat_config
from reports.stats.intervals import LEVEL, Array, Estimate, Interval, around, over_seeds

Spread = tuple[float, int]  # a standard deviation and its degrees of freedom


def protocol_change(check: Check, arm: Arm) -> Estimate:
    """The change in % from each run's own score at its last step to the same checkpoint's by the check's protocol,
    mean over seeds. The interval within the runs adds the errors of both scores as if they were independent: too wide
    if both start from one noise."""
    changes, reaches = [], []
    for run in arm.runs:
        own, error = run.series(check.metric), run.series(f"{check.metric}_sem")
        step = int(own.index[-1]) if len(own) else 0
        found = rescored(run, check.metric, check.protocol or {})
        if step not in found or step not in error.index:
            continue
        before, after = float(own.loc[step]), found[step]
        changes.append(100 * (after.value / before - 1))
        own_error = 100 * Z95 * float(error.loc[step]) * after.value / before**2
        reaches.append(math.hypot(100 * (_half(after) / before), own_error))
    how = ", ".join(f"{key} = {value}" for key, value in (check.protocol or {}).items())
    if not changes:
        return Estimate(basis=f"no checkpoint of {arm.experiment} was scored with {how} (ddpm evaluate)")
    number, reach = float(np.mean(changes)), math.hypot(*reaches) / len(reaches)
    basis = f"{len(changes)} seed(s): noise of the samples, of both scores as if independent"
    return Estimate(number, tuple(changes), around(number, reach), over_seeds(changes), basis)


def rescored(run: Run, metric: str, change: Mapping[str, object]) -> dict[int, Later]:
    """The scores of the run's checkpoints, by step, by its own protocol but for `change`, from its own noise. If a
    checkpoint was scored so twice, the last one counts."""
    wanted = {**_own_protocol(run, metric), **change}
    return {
        each.step: each
        for each in sorted(run.later, key=lambda score: score.step)
        if each.metric == _later_name(metric) and each.protocol == wanted and each.noise == _own_noise(run)
    }


def _half(score: Later) -> float:
    return math.nan if score.low is None or score.high is None else (score.high - score.low) / 2


def seed_over_noise(metric: str, arms: Sequence[Arm]) -> Estimate:
    """The standard deviation of the last score over seeds, within arms, in units of that over other noise of the same
    checkpoints. The interval is that of a ratio of two variances (F), for normal scores.

    The runs' own scores, from one noise, give the first; scores from other noise the second, so that they are
    independent.
    """
    seeds, noise = spreads(metric, [arm.runs for arm in arms])
    if seeds is None or noise is None:
        return Estimate(basis="needs two seeds of an arm, and a checkpoint scored from two other noises")
    (spread, df), (other, other_df) = seeds, noise
    ratio = spread / other
    tails = [stats.f.ppf(q, df, other_df) for q in ((1 + LEVEL) / 2, (1 - LEVEL) / 2)]
    interval = Interval(ratio / math.sqrt(tails[0]), ratio / math.sqrt(tails[1]), math.nan)
    basis = f"F, {df} and {other_df} degrees of freedom: {spread:.3g} over seeds, {other:.3g} over noise"
    return Estimate(ratio, seeds=interval, basis=basis)


def spreads(metric: str, arms: Sequence[Sequence[Run]]) -> tuple[Spread | None, Spread | None]:
    """The spread of the last score over the seeds of an arm, and that over other noise of the same checkpoints. If runs
    share other noise, their scores move together: the degrees of freedom then count each noise once. arms: the runs
    of each."""
    own = [_array([value for run in runs if (value := _last(run, metric)) is not None]) for runs in arms]
    again = [_resampled(run, metric) for runs in arms for run in runs]
    noises = {score.noise for scores in again for score in scores}
    noise = pooled([_array([score.value for score in scores]) for scores in again])
    return pooled(own), noise and (noise[0], min(noise[1], len(noises) - 1))


def _array(values: Sequence[float]) -> Array:
    return np.array(values, dtype=float)


def pooled(groups: Sequence[Array]) -> Spread | None:
    """(standard deviation within groups, its degrees of freedom); None without a group of two, or if it is 0."""
    df = sum(len(group) - 1 for group in groups if len(group) > 1)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups if len(group) > 1)
    return (math.sqrt(squares / df), df) if df and squares else None


def _last(run: Run, metric: str) -> float | None:
    values = run.series(metric)
    return float(values.iloc[-1]) if len(values) else None


def _resampled(run: Run, metric: str) -> list[Later]:
    """The last checkpoint's scores by the run's own protocol, from other noise than its own."""
    own = run.series(metric)
    found = _scores(run, metric, int(own.index[-1])) if len(own) else ()
    known = (None, _own_noise(run))
    return [score for score in found if score.protocol == _own_protocol(run, metric) and score.noise not in known]


def _scores(run: Run, metric: str, step: int) -> Iterator[Later]:
    return (each for each in run.later if each.metric == _later_name(metric) and each.step == step)


def _later_name(metric: str) -> str:
    return f"evaluate/{metric.partition('/')[2]}"


def _own_protocol(run: Run, metric: str) -> dict[str, object]:
    return dict(run.protocols.get(run.protocol_of(metric), {}))


def _own_noise(run: Run) -> int:
    return int(flat_config(run).get("eval.sample_seed", 0))
