"""Numbers made of FIDs by sampler, from one arm or two, with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ddpm.metrics import Z95
from reports.experiments.selection import Arm
from reports.runs import Run
from reports.stats.intervals import Array, Estimate, around, over_seeds
from reports.stats.statistics import shared_seeds
from reports.studies.min_snr.scores import influence_name, metric, scored


@dataclass(frozen=True)
class Measured:
    """A number made of FIDs, its standard error over the noise of their samples, and the influence of each sample on
    it, (n,), if known for all of the FIDs: samples at the same place in two FIDs start from the same noise."""

    value: float
    sem: float
    influence: Array | None = None


def of(run: Run, sampler: str, step: int) -> Measured:
    """The FID of a run's checkpoint."""
    name = metric(sampler)
    each = run.lists.get(influence_name(sampler), {}).get(step)
    sem = float(run.series(f"{name}_sem").get(step, np.nan))
    return Measured(float(run.series(name)[step]), sem, np.array(each) if each else None)


def made_of(value: float, parts: Sequence[tuple[float, Measured]]) -> Measured:
    """A number from its derivative by each part. If all influences are known the parts' samples are paired; else their
    noise counts as independent, which is too wide if the parts go together and are subtracted."""
    known = [part.influence for _, part in parts if part.influence is not None]
    if len(known) == len(parts) and len({len(each) for each in known}) == 1:
        influence = sum(slope * each for (slope, _), each in zip(parts, known, strict=True))
        assert isinstance(influence, np.ndarray)
        return Measured(value, float(influence.std(ddof=1)) / len(influence) ** 0.5, influence)
    return Measured(value, float(np.sqrt(sum((slope * part.sem) ** 2 for slope, part in parts))))


def less(one: Measured, other: Measured, *, percent: bool = True) -> Measured:
    """other - one; in per cent of `one` by the delta method."""
    if not percent:
        return made_of(other.value - one.value, [(1.0, other), (-1.0, one)])
    scale = 100 / one.value
    return made_of(scale * other.value - 100, [(scale, other), (-scale * other.value / one.value, one)])


def over_runs(found: Sequence[Measured]) -> Estimate:
    """The mean over seeds, which are scored with one noise. Without known influences its error is the mean of theirs:
    they do not average out."""
    values = tuple(each.value for each in found)
    if not values or not np.isfinite(values).all():
        return Estimate(reason="not measured")
    mean = made_of(float(np.mean(values)), [(1 / len(found), each) for each in found])
    reach = Z95 * (mean.sem if mean.influence is not None else float(np.mean([each.sem for each in found])))
    within = around(mean.value, reach) if np.isfinite(reach) else None
    return Estimate(mean.value, values, within, over_seeds(values), paired=mean.influence is not None)


def level(arm: Arm, sampler: str, step: int) -> Estimate:
    """The FID at a step."""
    return over_runs([of(run, sampler, step) for run in scored(arm, sampler)])


def share(arm: Arm, sampler: str, step: int) -> Estimate:
    """The FID in per cent of that of uniform noise."""
    found = []
    for run in scored(arm, sampler):
        measured, scale = of(run, sampler, step), 100 / run.series(f"{metric(sampler)}_ceiling").get(step, np.nan)
        found.append(made_of(scale * measured.value, [(scale, measured)]))
    return over_runs(found)


def change(arm: Arm, sampler: str, first: int, last: int) -> Estimate:
    """The FID at `last` less that at `first`, in per cent of the one at `first`."""
    found = scored(arm, sampler)
    return over_runs([less(of(run, sampler, first), of(run, sampler, last)) for run in found])


def difference(baseline: Arm, variant: Arm, sampler: str, step: int, *, percent: bool = True) -> Estimate:
    """The variant's FID less the baseline's for the same seed; in per cent of the baseline's."""
    both = [replace(arm, runs=tuple(scored(arm, sampler))) for arm in (baseline, variant)]
    pairs = [(both[0].runs[i], both[1].runs[j]) for i, j in shared_seeds(*both)]
    return over_runs([less(of(b, sampler, step), of(v, sampler, step), percent=percent) for b, v in pairs])


def between_samplers(arm: Arm, one: str, other: str, step: int) -> Estimate:
    """The FID by `other` less that by `one`, for the same weights, in per cent of the one by `one`."""
    return over_runs([less(of(run, one, step), of(run, other, step)) for run in scored(arm, one, other)])


def band(arm: Arm, sampler: str) -> Estimate:
    """Highest less lowest FID over the steps, in per cent of the mean; as logged."""
    values = [run.series(metric(sampler)) for run in scored(arm, sampler)]
    numbers = tuple(100 * float(x.max() - x.min()) / float(x.mean()) for x in values if len(x) > 1)
    return Estimate(float(np.mean(numbers)), numbers, as_logged=True) if numbers else Estimate(reason="not measured")
