"""The tables beside the answers: all arms, the seeds of a run's parts, two judges. Every number is formatted here."""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reports.figures.style import thousands
from reports.runs import Later, Run, flat_config
from reports.stats.intervals import Estimate, around_deviation
from reports.stats.parts import PARTS, moved_by
from reports.stats.rescored import Spread, rescored, spreads
from reports.stats.statistics import COMMON, NEUTRAL, in_window, rank_correlation
from reports.studies.min_snr.summary import interval_text
from reports.studies.min_snr.tables import PREDICTED
from reports.text.verdicts import number as digits

FIRST = 2000  # the first milestone of the reruns
_LATE = (0.6, 1.0)
_FID, _EXCESS, _X0 = "val/fid", "loss_by_noise/lambda_-8_excess", f"{PREDICTED}0900"
_JUDGED = {"evaluate/fid": "FID", "evaluate/kid": "KID"}
_DIGITS = 3
LATE_CHAIN = {"t_start": 699}  # of the sealed criterion: log SNR -5 with linear betas
Judges = dict[Run, dict[tuple[str, str], float]]  # of each run, by score and features


# ---- all arms --------------------------------------------------------------------------------------------


def arm_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each arm: its setting, and its numbers as means over seeds."""
    rows = []
    for name in dict.fromkeys(run.experiment for run in runs):
        mine = [run for run in runs if run.experiment == name]
        config = flat_config(mine[0])
        setting = ("diffusion.prediction", "loss.weighting", "diffusion.beta_schedule")
        prediction, weighting, betas = (str(config.get(key, "unknown")) for key in setting)
        rows.append(
            {
                **{"arm": name, "lowest": lowest(mine)},
                "seeds": len(mine),
                **{"prediction": prediction, "weighting": weighting, "betas": betas},
                "first": _mean([_at(run, _FID, FIRST) for run in mine]),
                "last": _mean([_at(run, _FID) for run in mine]),
                "x0": _mean([_at(run, _X0) for run in mine]),
                "excess": _mean([_at(run, _EXCESS) for run in mine]),
                "common": _mean([_late(run, COMMON) for run in mine]),
                "neutral": _mean([_late(run, NEUTRAL) for run in mine]),
            }
        )
    return rows


def lowest(runs: Sequence[Run]) -> str:
    """The steps at which the runs' FIDs are lowest, in words."""
    steps = [float(str(values.idxmin())) for run in runs if len(values := run.series(_FID))]
    return " and ".join(dict.fromkeys(map(thousands, steps))) or "no step"


def _at(run: Run, metric: str, step: int | None = None) -> float | None:
    """The value at `step`, or the last one."""
    values = run.series(metric)
    if step is None:
        return float(values.iloc[-1]) if len(values) else None
    return float(values[step]) if step in values.index else None


def _late(run: Run, metric: str) -> float | None:
    values = in_window(run.series(metric), run.last_step, _LATE)
    return float(values.mean()) if len(values) else None


def _mean(values: Sequence[float | None]) -> str:
    """The mean of what is known, and of how many seeds if not of all."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return digits(sum(known) / len(known), _DIGITS) + (f" ({len(known)})" if len(known) < len(values) else "")


def along_training(runs: Sequence[Run]) -> str:
    """Whether FID falls with the common trace: their rank correlation over the milestones of each run, by what the
    network predicts; empty without a run that has one."""
    found: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        if (rank := rank_correlation(run.series(COMMON), run.series(_FID))) is not None:
            found[str(flat_config(run).get("diffusion.prediction", "unknown"))].append(rank)
    if not found:
        return ""
    every = [rank for ranks in found.values() for rank in ranks]
    yes, no = min(every) > 0, max(every) < 0
    said = "In these runs it does." if yes else "In these runs it means worse ones." if no else "Not by itself."
    parts = [f"{_range(ranks)} with {prediction} (runs: {len(ranks)})" for prediction, ranks in found.items()]
    return (
        f"{said} Over the milestones of a run, the rank correlation of the common trace and FID is {', '.join(parts)}: "
        "above 0, samples get better as the trace falls; below 0, worse."
    )


def _range(values: Sequence[float]) -> str:
    ends = dict.fromkeys(f"{value:+.2f}" for value in (min(values), max(values)))
    return " to ".join(ends)


def late_chain(runs: Sequence[Run]) -> dict[Run, dict[int, Later]]:
    """The FIDs of checkpoints that were scored again with a chain that begins later, of each run with one, by step."""
    return {run: found for run in runs if (found := rescored(run, _FID, LATE_CHAIN))}


def late_chain_rows(runs: Sequence[Run]) -> tuple[list[str], list[dict[str, Any]]]:
    """The steps, and for each run with such scores two rows: the FIDs of its own chain, and of the one that begins
    later."""
    found = late_chain(runs)
    steps = sorted({step for scores in found.values() for step in scores})
    rows = []
    for run, scores in found.items():
        own = [_known(_at(run, _FID, step)) for step in steps]
        later = [_known(scores[step].value if step in scores else None) for step in steps]
        first, start = int(flat_config(run)["diffusion.T"]) - 1, LATE_CHAIN["t_start"]
        rows.append({"run": f"{run.experiment} {run.seed}", "start": first, "fids": own})
        rows.append({"run": "", "start": start, "fids": later})
    return [thousands(step) for step in steps], rows


def late_chain_means(runs: Sequence[Run]) -> tuple[dict[int, float], int]:
    """The FIDs with the chain that begins later, by step, and how many seeds they are means over: those scored so at
    several steps, or all if none is. A step that one of them lacks is left out."""
    found = late_chain(runs).values()
    scored = [each for each in found if len(each) > 1] or list(found)
    steps = sorted(set.intersection(*map(set, scored))) if scored else []
    return {step: sum(each[step].value for each in scored) / len(scored) for step in steps}, len(scored)


def late_chain_words(runs: Sequence[Run]) -> str:
    """`30.5 at 2k and 23.9 at 10k (seeds: 1)`, of `late_chain_means`."""
    means, seeds = late_chain_means(runs)
    said = [f"{digits(mean, _DIGITS)} at {thousands(step)}" for step, mean in means.items()]
    if len(said) < 2:
        return "not measured at several steps"
    return f"{', '.join(said[:-1])} and {said[-1]} (seeds: {seeds})"


def _known(value: float | None) -> str:
    return "–" if value is None else digits(value, _DIGITS)


# ---- seeds -----------------------------------------------------------------------------------------------


def variance_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A row for each arm with several seeds or noises, and one for all of them: how far the last FID moves if a run is
    trained again, and if its last checkpoint is sampled again."""
    arms = [[run for run in runs if run.experiment == name] for name in dict.fromkeys(run.experiment for run in runs)]
    rows = []
    for name, group in (*((mine[0].experiment, [mine]) for mine in arms), ("*all, within arms*", arms)):
        found = spreads(_FID, group)
        cells = {part: _deviation(spread) for part, spread in zip(("seeds", "noise"), found, strict=True)}
        rows += [{"arm": name, **cells}] * any(found)
    return rows if any(row["noise"] != "–" for row in rows) else []


def _deviation(spread: Spread | None) -> str:
    """A standard deviation, its 95 % interval, and its degrees of freedom."""
    if spread is None:
        return "–"
    value, df = spread
    return f"{digits(value, _DIGITS)} ({interval_text(around_deviation(value, df))}; {df})"


def panel_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A row for each part of a training with a seed of its own: how far FID and the trace move if that seed alone
    changes. The last row is the standard error of one measurement."""
    if not runs:
        return []
    fid, trace = moved_by(runs, _FID), moved_by(runs, COMMON, percent=True)
    rows = [{"part": name, "fid": _spread(fid[part]), "trace": _spread(trace[part])} for part, name in PARTS.items()]
    errors = [_at(run, f"{_FID}_sem") for run in runs], [_relative_error(run) for run in runs]
    return [*rows, {"part": "*(error of one measurement)*", "fid": _mean(errors[0]), "trace": _mean(errors[1])}]


def _spread(found: Estimate) -> str:
    return "–" if found.number is None else f"{digits(found.number, _DIGITS)} ({interval_text(found.seeds)})"


def _relative_error(run: Run) -> float | None:
    error, value = _at(run, COMMON.replace("_mean", "_sem")), _at(run, COMMON)
    return 100 * error / value if error is not None and value else None


# ---- two judges ------------------------------------------------------------------------------------------


def judged_twice(runs: Sequence[Run]) -> Judges:
    """The scores of the last checkpoints that were scored with several features, from the first noise, by one sampler
    and from as many samples. If there are several such settings, the last one in the record counts."""
    found: Judges = {}
    for run in runs:
        by_setting: dict[tuple[Any, ...], list[Later]] = defaultdict(list)
        for each in run.later:
            if each.metric in _JUDGED and each.step == run.last_step and not each.noise:
                by_setting[tuple(each.protocol.get(key) for key in ("sampler", "nfe", "n_samples"))].append(each)
        for scored in by_setting.values():
            if len({each.protocol.get("features") for each in scored}) > 1:
                found[run] = {(_JUDGED[s.metric], str(s.protocol.get("features"))): s.value for s in scored}
    return found


def judge_table(found: Judges) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The names of the columns, and for each run its name and cells."""
    keys = sorted({key for scored in found.values() for key in scored})
    rows = [
        (f"{run.experiment} {run.seed}", [digits(scored[key], _DIGITS) if key in scored else "–" for key in keys])
        for run, scored in found.items()
    ]
    return [f"{score} by {features}" for score, features in keys], rows


def agreement(found: Judges) -> list[str]:
    """A sentence for each score of two judges: the rank correlation over the checkpoints, and the pairs of arms that
    the judges order differently."""
    lines = []
    for score in _JUDGED.values():
        columns: dict[str, dict[Run, float]] = defaultdict(dict)
        for run, scored in found.items():
            for (name, features), value in scored.items():
                if name == score:
                    columns[features][run] = value
        if len(columns) == 2:
            lines.append(f"{score}: {_compared(columns)}.")
    return lines


def _compared(columns: Mapping[str, Mapping[Run, float]]) -> str:
    first, second = (pd.Series(dict(values), dtype=float) for values in columns.values())
    shared = [run for run in first.index if run in second.index]
    rank = rank_correlation(first[shared], second[shared])
    arms = pd.DataFrame({"a": first[shared], "b": second[shared]}).groupby([run.experiment for run in shared]).mean()
    pairs = list(itertools.combinations(arms.index, 2))
    turned = [f"{x} and {y}" for x, y in pairs if (arms.loc[x] - arms.loc[y]).prod() < 0]
    known = "unknown" if rank is None else f"{rank:+.2f}"
    listed = f": {', '.join(turned)}" if turned else ""
    return (
        f"the judges' rank correlation over {len(shared)} checkpoints is {known}; they order {len(turned)} of "
        f"{len(pairs)} pairs of arms differently{listed}"
    )
