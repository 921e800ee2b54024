"""How far a training curve lies from the original study's log of E5, and whether by more than noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ddpm.metrics import Z95
from reports.experiments import Check
from reports.experiments.selection import Arm
from reports.judging.judge import side
from reports.runs import Run
from reports.stats.estimates import over_steps, windowed
from reports.stats.intervals import BLOCKS, T5, Estimate, around, half, step_noise
from reports.stats.statistics import TRAINED, curve, same_draws, standard_error

METRICS = {"train/loss": "loss", "train/grad_global_L2": "gradient L2", TRAINED: "trace"}
EARLY, LATE = (100, 2000), (8000, 10_000)
# A step or a window; and the window whose step-to-step noise counts for a single step.
SPANS: tuple[tuple[tuple[float, float], tuple[float, float]], ...] = (
    ((100, 100), EARLY),
    ((2000, 2000), EARLY),
    ((10_000, 10_000), LATE),
    (EARLY, EARLY),
    (LATE, LATE),
)


@dataclass(frozen=True)
class Gap:
    """An arm against the log at one step or over a window: both values, the change in per cent of the log's, and the
    standard error of the quotient (at one step, of its logarithm, because loss and gradient scatter by factors; None if
    it cannot be estimated)."""

    metric: str
    span: tuple[float, float]
    log: float
    value: float
    change: float
    sem: float | None

    @property
    def _of_window(self) -> bool:
        return self.span[0] < self.span[1]

    @property
    def errors(self) -> float | None:
        """The change in standard errors."""
        if not self.sem:
            return None
        return (self.change / 100 if self._of_window else math.log(self.value / self.log)) / self.sem

    @property
    def least(self) -> float | None:
        """The smallest change, in per cent, that would be more than noise; None if that is unknown."""
        if not self.sem:
            return None
        return 100 * (T5 * self.sem if self._of_window else math.expm1(Z95 * self.sem))

    @property
    def estimate(self) -> Estimate:
        """The change in standard errors, with its interval."""
        if self.errors is None:
            return Estimate(reason="the noise is unknown")
        within = around(self.errors, T5, BLOCKS - 1) if self._of_window else around(self.errors, Z95)
        return Estimate(self.errors, within=within)

    @property
    def apart(self) -> bool | None:
        """Whether the two differ by more than noise; None if that is unknown."""
        return None if self.errors is None else side(self.estimate)[0] != 0


def gaps(log: Arm, arm: Arm) -> list[Gap]:
    """The arm's mean curves of loss, gradient and trace against the log's, at each of `SPANS` that both have whole."""
    found = []
    for metric in METRICS:
        ours, theirs = curve(arm, metric), curve(log, metric)
        for span, near in SPANS:
            a, b = windowed(span, theirs, log), windowed(span, ours, arm)
            if a.empty or b.empty or b.index[-1] < span[1]:
                continue
            value, level = float(b.mean()), float(a.mean())
            change = 100 * (value / level - 1)
            sem = _of_window(metric, span, log, arm) if span[0] < span[1] else _of_step(metric, span[0], near, log, arm)
            found.append(Gap(metric, span, level, value, change, sem))
    return found


def _of_window(metric: str, span: tuple[float, float], log: Arm, arm: Arm) -> float | None:
    """Standard error of the quotient of two means: the jackknife over blocks of steps, and the error of fixed draws."""
    found = over_steps(Check(metric=metric, of="change_pct", window=span, at_most=0), [log, arm])
    if found.within is None:
        return None
    sem = half(found.within) / T5 / 100
    if metric == TRAINED and same_draws([arm]):
        error = windowed(span, standard_error(arm, metric), arm).mean()
        sem = math.hypot(sem, float(error / windowed(span, curve(arm, metric), arm).mean()))
    return sem if math.isfinite(sem) else None


def _of_step(metric: str, step: float, near: tuple[float, float], log: Arm, arm: Arm) -> float | None:
    """Standard error of the logarithm of the quotient of two single values."""
    parts = [_noise(metric, step, near, each) for each in (log, arm)]
    found = math.hypot(*parts)
    return found if math.isfinite(found) and found > 0 else None


def _noise(metric: str, step: float, near: tuple[float, float], arm: Arm) -> float:
    """Relative standard error of the arm's value at one step, over the probes for a trace, else from the step-to-step
    noise in the window `near`; NaN if unknown."""
    if metric == TRAINED:
        errors = standard_error(arm, metric)
        return float(errors[step] / curve(arm, metric)[step]) if step in errors.index else math.nan
    each = [step_noise(windowed(near, run.series(metric), arm).to_numpy(dtype=float)) for run in arm.runs]
    return math.sqrt(sum(noise**2 for noise in each)) / len(each)


def above_clip(arms: Sequence[Arm]) -> tuple[int, int]:
    """How many logged gradient norms exceed `train.grad_clip`, and how many are logged."""
    norms = [
        (run.series("train/grad_global_L2"), arm.config.get("train.grad_clip")) for arm in arms for run in arm.runs
    ]
    return sum(int((x > (clip or math.inf)).sum()) for x, clip in norms), sum(len(x) for x, _ in norms)


def recurring(run: Run, lag: int = 2000) -> tuple[int, int]:
    """At how many logged steps the batch has the same timesteps as `lag` steps before, and for how many this is known.
    The study's runs name a batch's timesteps in the metrics that they logged, `mse_per_t/mse_tXXXX`."""
    names = [name for name in run.history.columns if name.startswith("mse_per_t/")]
    there = {int(str(step)): frozenset(row.index[row.notna()]) for step, row in run.history[names].iterrows()}
    later = [step for step in there if there[step] and there.get(step - lag)]
    return sum(there[step] == there[step - lag] for step in later), len(later)
