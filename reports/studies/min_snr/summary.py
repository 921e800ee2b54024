"""The page's first lines: what the runs say to the three questions, in words that stay true whichever way it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.experiments.selection import Arm, Selection
from reports.figures.style import thousands
from reports.stats.statistics import COMMON, TRAINED
from reports.studies.min_snr import fids, scores, traces
from reports.studies.min_snr.against_log import Gap
from reports.studies.min_snr.claims import Judged
from reports.studies.min_snr.known import (
    FAILS,
    HOLDS,
    UNDECIDED,
    UNSAID,
    Known,
    bare,
    decide,
    interval_text,
    side,
    together,
)
from reports.text.verdicts import number as digits

_OLD, _NEW = scores.OLD, scores.RESPACED
NOT_YET = "Cannot be said yet"
BLUNT_PCT = 25  # a number of which this is within noise says little by not being apart
NOISE_PCT = 80  # of what uniform noise scores: from there on a score is called one of noise


@dataclass(frozen=True)
class Answer:
    """A question, the answer in a word or three, and what it rests on."""

    question: str
    word: str
    text: str


def answers(selection: Selection, pairs: pd.DataFrame, study: Selection) -> list[Answer]:
    """The three questions of the rerun."""
    return [plateau(selection), flatter(selection, pairs, study), responds(selection)]


def _percent(known: Known) -> str:
    """`-50.0 %; -51.4 to -48.6`: a change with its interval within the runs."""
    return f"{known.number:+.1f} %; {interval_text(known.within, 1) if known.within else 'no interval'}"


# ---- (1) the plateau -------------------------------------------------------------------------------------


def plateau(selection: Selection) -> Answer:
    """Whether the study's FID plateau is its sampler. By level, *yes* where in each arm, at each step, the study's
    sampler scores near noise, and the respaced one lower from the same weights; *no* where one of these is reversed.
    Besides, in which arms the two go opposite ways."""
    question = "Is the plateau at 203-207 the sampler?"
    found = [(arm, steps) for arm in selection.arms if len(steps := scores.steps_of([arm], _OLD, _NEW)) > 1]
    if not found:
        return Answer(question, NOT_YET, "No arm's checkpoints were scored by both samplers at two steps.")
    votes = []
    for arm, steps in found:
        votes += [decide(fids.share(arm, _OLD, step), NOISE_PCT, math.inf) for step in steps]
        votes += [decide(fids.between_samplers(arm, _OLD, _NEW, step), -math.inf, 0.0) for step in steps]
    level = {HOLDS: "Yes, by its level", FAILS: "No, by its level"}.get(bare(together(votes)), "Not shown")
    parts = "; ".join(_plateau_of(arm, steps) for arm, steps in found)
    word = f"{level}; {_opposite_in(found)}"
    near = f" Near noise is from {NOISE_PCT} % of what uniform noise scores."
    text = f"FID of the same checkpoints: {parts}.{_ends(found[0][0], found[0][1][-1])}{near}"
    return Answer(question, word, text)


def _opposite_in(found: Sequence[tuple[Arm, list[int]]]) -> str:
    """In which arms the two samplers' trends are opposite."""
    names = [arm.experiment for arm, steps in found if _trends(arm, steps)[1]]
    if not names:
        return "the trends are not opposite"
    return f"the trends are opposite in {' and '.join(names)}{'' if len(names) == len(found) else ' alone'}"


def _trends(arm: Arm, steps: Sequence[int]) -> tuple[list[Known], bool]:
    """The changes by the study's sampler and by the respaced one, and whether the first rises and the second falls."""
    changes = [fids.change(arm, sampler, steps[0], steps[-1]) for sampler in (_OLD, _NEW)]
    return changes, [side(change)[0] for change in changes] == [1, -1]


def _plateau_of(arm: Arm, steps: Sequence[int]) -> str:
    first, last = steps[0], steps[-1]
    changes, _ = _trends(arm, steps)
    parts = [
        f"by {scores.NAMES[s]} {_level(arm, s, first)} to {_level(arm, s, last)} ({_percent(change)})"
        for s, change in zip((_OLD, _NEW), changes, strict=True)
    ]
    return f"{arm.experiment} from {thousands(first)} to {thousands(last)} steps {' and '.join(parts)}"


def opposite(changes: Sequence[Known]) -> str:
    """Whether the first of two trends is upward and the second downward, beyond their intervals."""
    signs = [side(change)[0] for change in changes]
    if signs == [1, -1]:
        return "opposite trends"
    words = [{1: "one rises", -1: "one falls", 0: "one does not move measurably"}[sign] for sign in signs]
    return f"no opposite trends ({words[0]}, {words[1].replace('one', 'the other')})"


def _level(arm: Arm, sampler: str, step: int) -> str:
    return digits(fids.level(arm, sampler, step).number, 3)


def end_of(arm: Arm, sampler: str, step: int, name: str) -> float:
    """What real images (`floor`) or uniform noise (`ceiling`) score where the arm's FID was taken; NaN if unknown."""
    return float(scores.scored(arm, sampler)[0].series(f"{scores.metric(sampler)}_{name}").get(step, np.nan))


def _ends(arm: Arm, step: int) -> str:
    floor, ceiling = (end_of(arm, _NEW, step, name) for name in ("floor", "ceiling"))
    shares = [f"{fids.share(arm, s, step).number:.0f} %" for s in (_OLD, _NEW)]
    return (
        f" Real images score {digits(floor, 3)} and uniform noise {digits(ceiling, 3)}, of which {arm.experiment} ends "
        f"at {shares[0]} and {shares[1]}."
    )


def trends(selection: Selection) -> list[tuple[str, Arm, list[int], Known]]:
    """(sampler, arm, steps, change from the first to the last in per cent) of all that were scored at two steps."""
    found = [(s, arm, scores.steps_of([arm], s)) for s in scores.SAMPLERS for arm in selection.arms]
    return [(s, arm, at, fids.change(arm, s, at[0], at[-1])) for s, arm, at in found if len(at) > 1]


# ---- (2) flatter -----------------------------------------------------------------------------------------


def flatter(selection: Selection, pairs: pd.DataFrame, study: Selection) -> Answer:
    """How much of E6's lower trace remains on the common loss: by the draw-by-draw measurements where there are any,
    else by the probe's own, whose draws' error is bounded alone."""
    question = "How much of “E6 is 10-30 % flatter” remains on the common loss?"
    changes = (
        {(c.metric, c.span): c for c in traces.changes(selection.arms[0], selection.arms[1])}
        if len(selection.arms) > 1
        else {}
    )
    own, common = (changes.get((metric, None)) for metric in (TRAINED, COMMON))
    if own is None or common is None:
        return Answer(question, NOT_YET, "The two traces were not measured in both arms.")
    by_draws = traces.of_pairs(pairs, "ref")
    decisive = by_draws if by_draws.number is not None else Known(common.known.number, within=common.at_most)
    sign, limit = side(decisive)
    word = {1: "Nothing", -1: f"{abs(decisive.number or 0):.1f} %", 0: "Not told from nothing"}[sign] + limit
    theirs = traces.changes(study.arms[0], study.arms[1])[0].known if len(study.arms) > 1 else Known()
    text = (
        f"Averaged over {own.count} steps E6's trace of its own, trained loss lies {_below(own.known)} E5's "
        f"(the study's log: {_below(theirs)}), of the common loss {_below(common.known)}; lower at {own.lower} and at "
        f"{common.lower} of them. "
    )
    if by_draws.number is None:
        return Answer(question, word, f"{text}Over other draws the latter may be {interval_text(common.at_most, 1)} %.")
    own_draws = traces.of_pairs(pairs, "hutch")
    return Answer(
        question,
        word,
        f"{text}Draw by draw, of the mean trace over the checkpoints: {_percent(own_draws)}, and {_percent(by_draws)}.",
    )


def _below(known: Known) -> str:
    if known.number is None:
        return "none"
    return f"{abs(known.number):.1f} % {'below' if known.number < 0 else 'above'}"


# ---- (3) FID ---------------------------------------------------------------------------------------------


def responds(selection: Selection) -> Answer:
    """Whether FID by the samplers that draw images differs between the arms at the last step scored: beyond the noise
    of samples and of seeds, of samples alone, or not."""
    question = "Does FID respond to Min-SNR at this scale?"
    found = []
    baseline, variant = selection.arms[0], selection.arms[-1]
    for sampler in (scores.RESPACED, scores.DDIM) if baseline is not variant else ():
        steps = scores.steps_of(selection.arms, sampler)
        if steps:
            found.append((sampler, steps[-1], fids.difference(baseline, variant, sampler, steps[-1])))
    if not found:
        return Answer(question, NOT_YET, "The arms have no score by these samplers at a common step.")
    parts = [
        f"by {scores.NAMES[sampler]} at {thousands(step)} ({_percent(known)}) {_apart(known)}"
        for sampler, step, known in found
    ]
    sampler, step, _ = found[0]
    excess = (fids.level(baseline, sampler, step).number or np.nan) - end_of(baseline, sampler, step, "floor")
    said = (
        f" Above real images E5 is by {digits(excess, 3)}, by {scores.NAMES[sampler]}." if np.isfinite(excess) else ""
    )
    return Answer(
        question, _responds([side(known) for *_, known in found]), f"E6 against E5: {'; '.join(parts)}.{said}"
    )


def _apart(known: Known) -> str:
    """What the noise says of a difference."""
    sign, limit = side(known)
    if not sign:
        return "inside the noise"
    seeds = "beyond the noise of the samples alone" if limit else "beyond the noise of samples and of seeds"
    return f"{'higher' if sign > 0 else 'lower'}, {seeds}"


def _responds(sides: Sequence[tuple[int, str]]) -> str:
    signs = {sign for sign, _ in sides}
    if signs == {0}:
        return "Not beyond the noise"
    if {1, -1} <= signs:
        return "The samplers disagree"
    better = "lower" if -1 in signs else "higher"
    limit = " of these runs" if any(limit for sign, limit in sides if sign) else ""
    return f"Yes, E6's is {better}{limit}{', by one sampler of two' if 0 in signs else ''}"


# ---- the rest --------------------------------------------------------------------------------------------


def log_line(ours: Sequence[Gap], faithful: Sequence[Gap]) -> str:
    """From how many numbers of E5's log the rerun, and the faithful one, are told apart."""

    def counted(gaps: Sequence[Gap]) -> str:
        known = [gap for gap in gaps if gap.apart is not None]
        return f"{sum(bool(gap.apart) for gap in known)} of {len(known)}"

    blunt = sum(gap.least is not None and gap.least > BLUNT_PCT for gap in ours)

    if not ours:
        return "Our E5 was not compared with the study's log."
    said = f"From the study's log of E5 our E5 differs by more than noise in {counted(ours)} numbers compared"
    said += f", the faithful rerun in {counted(faithful)}" if faithful else "; there is no faithful rerun"
    return f"{said}. {blunt} of ours could not have shown a difference of {BLUNT_PCT} %."


def claims_line(judged: Sequence[Judged]) -> str:
    """How many claims there are with each verdict."""
    counts = {word: sum(each.verdict.startswith(word) for each in judged) for word in (HOLDS, FAILS, UNDECIDED, UNSAID)}
    return (
        f"Of {len(judged)} claims of the two documents, {counts[HOLDS]} hold of our runs, {counts[FAILS]} do not, "
        f"{counts[UNDECIDED]} are undecided, and of {counts[UNSAID]} nothing can be said."
    )
