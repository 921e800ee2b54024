"""The page's first lines: what the runs say to the three questions, in words that stay true whichever way it is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.experiments.choice import Arm, Selection
from reports.figures.style import thousands
from reports.findings import scores, traces
from reports.findings.against_log import Gap
from reports.findings.claims import Judged
from reports.findings.known import FAILS, HOLDS, UNDECIDED, UNSAID, Known, interval_text, side
from reports.statistics import COMMON, TRAINED
from reports.verdicts import number as digits

_OLD, _NEW = scores.OLD, scores.RESPACED
NOT_YET = "Cannot be said yet"


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
    """Whether the study's FID plateau is its sampler: *yes* where in each arm the respaced sampler scores lower at each
    step, from the same weights, and its FID parts downward from the other's; *no* where one of these is reversed."""
    question = "Is the plateau at 203-207 the sampler?"
    found = [(arm, steps) for arm in selection.arms if len(steps := scores.steps_of([arm], _OLD, _NEW)) > 1]
    if not found:
        return Answer(question, NOT_YET, "No arm's checkpoints were scored by both samplers at two steps.")
    votes: list[int] = []
    for arm, steps in found:
        votes += [side(scores.between_samplers(arm, _OLD, _NEW, step))[0] for step in steps]
        votes.append(side(scores.parting(arm, _OLD, _NEW, steps[0], steps[-1]))[0])
    word = "Yes" if set(votes) == {-1} else "No" if 1 in votes else "Not shown"
    parts = "; ".join(_plateau_of(arm, steps) for arm, steps in found)
    return Answer(question, word, f"FID of the same checkpoints: {parts}.{_ends(found[0][0], found[0][1][-1])}")


def _plateau_of(arm: Arm, steps: Sequence[int]) -> str:
    first, last = steps[0], steps[-1]
    changes = [scores.change(arm, sampler, first, last) for sampler in (_OLD, _NEW)]
    parts = [
        f"by {scores.NAMES[s]} {_level(arm, s, first)} to {_level(arm, s, last)} ({_percent(change)})"
        for s, change in zip((_OLD, _NEW), changes, strict=True)
    ]
    span = f"from {thousands(first)} to {thousands(last)} steps"
    return f"{arm.experiment} {span} {' and '.join(parts)}, {opposite(changes)}"


def opposite(changes: Sequence[Known]) -> str:
    """Whether the first of two trends is upward and the second downward, beyond their intervals."""
    signs = [side(change)[0] for change in changes]
    if signs == [1, -1]:
        return "opposite trends"
    words = [{1: "one rises", -1: "one falls", 0: "one does not move measurably"}[sign] for sign in signs]
    return f"no opposite trends ({words[0]}, {words[1].replace('one', 'the other')})"


def _level(arm: Arm, sampler: str, step: int) -> str:
    return digits(scores.level(arm, sampler, step).number, 3)


def end_of(arm: Arm, sampler: str, step: int, name: str) -> float:
    """What real images (`floor`) or uniform noise (`ceiling`) score where the arm's FID was taken; NaN if unknown."""
    return float(scores.scored(arm, sampler)[0].series(f"{scores.metric(sampler)}_{name}").get(step, np.nan))


def _ends(arm: Arm, step: int) -> str:
    floor, ceiling = (end_of(arm, _NEW, step, name) for name in ("floor", "ceiling"))
    shares = [f"{scores.share(arm, s, step).number:.0f} %" for s in (_OLD, _NEW)]
    return (
        f" Real images score {digits(floor, 3)} and uniform noise {digits(ceiling, 3)}, of which {arm.experiment} ends "
        f"at {shares[0]} and {shares[1]}."
    )


def trends(selection: Selection) -> list[tuple[str, Arm, list[int], Known]]:
    """(sampler, arm, steps, change from the first to the last in per cent) of all that were scored at two steps."""
    found = [(s, arm, scores.steps_of([arm], s)) for s in scores.SAMPLERS for arm in selection.arms]
    return [(s, arm, at, scores.change(arm, s, at[0], at[-1])) for s, arm, at in found if len(at) > 1]


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
    sign, _ = side(decisive)
    word = {1: "Nothing", -1: f"{abs(decisive.number or 0):.1f} %", 0: "Not told from nothing"}[sign]
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
        question, word, f"{text}Draw by draw, at the checkpoints: {_percent(own_draws)}, and {_percent(by_draws)}."
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
            found.append((sampler, steps[-1], scores.difference(baseline, variant, sampler, steps[-1])))
    if not found:
        return Answer(question, NOT_YET, "The arms have no score by these samplers at a common step.")
    parts = [
        f"by {scores.NAMES[sampler]} at {thousands(step)} ({_percent(known)}) {_apart(known)}"
        for sampler, step, known in found
    ]
    sampler, step, _ = found[0]
    excess = (scores.level(baseline, sampler, step).number or np.nan) - end_of(baseline, sampler, step, "floor")
    said = f" Above real images E5 is by {digits(excess, 3)}." if np.isfinite(excess) else ""
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
        return "Inside the noise"
    if {1, -1} <= signs:
        return "The samplers disagree"
    better = "lower" if -1 in signs else "higher"
    limit = " of these runs" if any(limit for sign, limit in sides if sign) else ""
    return f"It is {better}{limit}{', by one sampler of two' if 0 in signs else ''}"


# ---- the rest --------------------------------------------------------------------------------------------


def log_line(ours: Sequence[Gap], faithful: Sequence[Gap]) -> str:
    """From how many numbers of E5's log the rerun, and the faithful one, are told apart."""

    def counted(gaps: Sequence[Gap]) -> str:
        known = [gap for gap in gaps if gap.apart is not None]
        return f"{sum(bool(gap.apart) for gap in known)} of {len(known)}"

    if not ours:
        return "Our E5 was not compared with the study's log."
    said = f"From the study's log of E5 our E5 differs by more than noise in {counted(ours)} numbers compared"
    return f"{said}{', the faithful rerun in ' + counted(faithful) if faithful else '; there is no faithful rerun'}."


def claims_line(judged: Sequence[Judged]) -> str:
    """How many claims there are with each verdict."""
    counts = {word: sum(each.verdict.startswith(word) for each in judged) for word in (HOLDS, FAILS, UNDECIDED, UNSAID)}
    return (
        f"Of {len(judged)} claims of the two documents, {counts[HOLDS]} hold of our runs, {counts[FAILS]} do not, "
        f"{counts[UNDECIDED]} are undecided, and of {counts[UNSAID]} nothing can be said."
    )
