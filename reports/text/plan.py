"""How many seeds an experiment needs, in plain text, from the spread that its runs show."""

import sys
from collections.abc import Sequence

from reports.experiments import Check, Study, load
from reports.experiments.selection import Arm, Selection, select
from reports.judging.checks import arms_of, describe_check, estimated, find_arms, unit
from reports.judging.judge import ends
from reports.sources import open_source
from reports.stats.intervals import half
from reports.stats.power import MOST, ONE_SIDED, TWO_SIDED, Spread, detectable, seeds_range, spread_of, why_unknown
from reports.text.verdicts import number as digits

_CHANGES = ("drop_pct", "correlation")  # numbers of one arm that are compared with 0


def plan(
    experiment: str, source: str, where: Sequence[str], effect: float | None, power: float, seeds: int | None
) -> list[str]:
    """`plan_lines` for the runs in `source`; the selection's warnings go to stderr.

    Raises UserError: unknown experiment, unreadable source, no runs.
    """
    study = load(experiment)
    selection = select(study, open_source(source, [*study.arms]), where)
    for warning in selection.warnings:
        print(f"ddpm: warning: {warning}", file=sys.stderr)
    return plan_lines(selection, effect, power, seeds)


def plan_lines(selection: Selection, effect: float | None, power: float, seeds: int | None) -> list[str]:
    """For each check of the criteria: the spread over seeds, paired and not, the seeds that find the effect with this
    power, and the smallest effect that `seeds` seeds find.

    effect: in the check's unit, above 0; None for the check's own bound, or else the size seen. seeds: None for as many
    as there are. What is not known is said in a line.
    """
    study = selection.study
    lines = [
        f"{study.name}: {study.title}",
        f"Seeds per arm that find an effect in {100 * power:g} % of studies; tests at 5 %, two-sided, as the report's.",
        "In brackets: the 95 % interval of the spread, and the numbers of seeds at its ends.",
    ]
    lines += [f"Left out: {line}." for line in selection.left_out]
    checks = [(claim.says, check) for claim in study.criteria for check in claim.checks]
    if not checks:
        checks = [("last FID", check) for check in _of_fid(study)]
        lines.append(f"{study.name} has no criteria: these are the differences of the last FID.")
    for place, (says, check) in enumerate(checks, start=1):
        lines += ["", f"{place}. {says}", *(f"   {line}" for line in _of_check(check, selection, effect, power, seeds))]
    return lines


def _of_fid(study: Study) -> list[Check]:
    variants = (name for name, role in study.arms.items() if role == "variant")
    return [Check(metric="val/fid", of="difference", statistic="last", arm=arm, at_most=0) for arm in variants]


def _of_check(check: Check, selection: Selection, effect: float | None, power: float, seeds: int | None) -> list[str]:
    arms, missing = find_arms(arms_of(check, selection.study), selection)
    found = estimated(check, selection)
    what = describe_check(check, selection.study)
    if missing or found.number is None:
        return [f"{what}: nothing is known, {found.reason or missing}."]
    there = " and ".join(f"{arm.experiment} {len(arm.runs)}" for arm in arms)
    lines = [f"{what}: {digits(found.number)}{unit(check)} (seeds: {there})"]
    lines += [f"Caution: {found.reason}."] if found.reason else []
    if found.within and found.seeds:
        reach = f"{digits(half(found.within), 3)}{unit(check)}"
        lines.append(f"Caution: other draws of the probe may move it by {reach} (95 %); more seeds do not narrow that.")
    size = effect or _own_effect(check, found.number, arms)
    lines.append(f"effect: {_meaning(check, arms, size)}" if size else "effect: none is known; give --effect.")
    rows = []
    for paired in (True, False) if len(arms) > 1 else (True,):
        name = "over seeds" if len(arms) == 1 else "paired" if paired else "unpaired"
        spread = spread_of(check, arms, paired=paired)
        if spread is None:
            lines.append(f"{name}: not known, as {_lacking(check, arms, paired)}.")
        else:
            rows.append(_row(name, spread, check, size, power, seeds))
    return [*lines, *_table(rows)]


def _own_effect(check: Check, number: float, arms: Sequence[Arm]) -> float:
    """The margin; the bound of a difference or a change, or else its size; the distance of a level from its bound."""
    if check.equal_within:
        return check.equal_within
    bounds = [bound for bound in (check.at_least, check.at_most) if bound is not None]
    if len(arms) > 1 or check.statistic in _CHANGES:
        return min((abs(bound) for bound in bounds if bound), default=abs(number))
    low, high = ends(check.at_least, check.at_most)
    return min(abs(number - end) for end in (low, high))


def _meaning(check: Check, arms: Sequence[Arm], size: float) -> str:
    shown = f"{digits(size, 3)}{unit(check)}"
    if check.equal_within:
        return f"equal within {shown}, if there is no difference"
    if len(arms) > 1 or check.statistic in _CHANGES:
        return f"{shown}, told from 0"
    return f"{shown}, the distance from a bound"


def _lacking(check: Check, arms: Sequence[Arm], paired: bool) -> str:
    if not paired and check.of.startswith("step_"):
        return "a number made at each step needs pairs"
    advice = "train more seeds (`--seed`)" + ", the same in both arms" * (paired and len(arms) > 1)
    return f"{why_unknown(arms, paired=paired)}: {advice}"


def _row(
    name: str, spread: Spread, check: Check, size: float, power: float, seeds: int | None
) -> tuple[str, str, str, str]:
    end = unit(check)
    distances, tail = ([size, size], ONE_SIDED) if check.equal_within else ([size], TWO_SIDED)
    low, high = spread.interval
    needed = "–"
    if size:
        middle, least, most = (_seeds(each) for each in seeds_range(power, distances, spread, tail))
        needed = f"{middle} ({least} to {most})"
    count = seeds or spread.seeds
    seen = detectable(power, spread.sd, count, spread.samples, tail, len(distances))
    return (
        name,
        f"{digits(spread.sd, 3)}{end} ({digits(low, 3)} to {digits(high, 3)})",
        needed,
        f"{digits(seen, 3)}{end} with {count} seeds",
    )


def _seeds(count: int | None) -> str:
    return f"over {MOST:,}" if count is None else f"{count:,}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    table = [("", "spread (sd)", "seeds needed", "smallest effect found"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
