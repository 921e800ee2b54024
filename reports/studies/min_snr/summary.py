"""The answers in the page's first lines, as verdicts and numbers; the sentences are in `summary.md.jinja`."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports.experiments.selection import Arm, Selection
from reports.figures.style import thousands
from reports.judging.judge import FAILS, HOLDS, UNDECIDED, UNSAID, Judged, judge, side, together
from reports.stats.intervals import Estimate, Interval
from reports.stats.statistics import COMMON, TRAINED
from reports.studies.min_snr import fids, scores, traces
from reports.studies.min_snr.against_log import Gap
from reports.studies.min_snr.traces import Change
from reports.text.markup import Markdown, template
from reports.text.verdicts import number as digits

_OLD, _NEW = scores.OLD, scores.RESPACED
BLUNT_PCT = 25  # a number within noise says little if even this difference would be
NOISE_PCT = 80  # of what uniform noise scores: from here on a score counts as near noise


@dataclass(frozen=True)
class Trend:
    """A sampler's FIDs of an arm at `steps`: the first, the last, and the change between them in per cent."""

    sampler: str
    arm: Arm
    steps: list[int]
    first: Estimate
    last: Estimate
    change: Estimate

    @property
    def sign(self) -> int:
        """1 or -1 if FID is decided to rise or fall, else 0."""
        return side(self.change)[0]


def trend(arm: Arm, sampler: str, steps: list[int]) -> Trend:
    """The trend over `steps`, two or more."""
    first, last = (fids.level(arm, sampler, step) for step in (steps[0], steps[-1]))
    return Trend(sampler, arm, steps, first, last, fids.change(arm, sampler, steps[0], steps[-1]))


def trends(selection: Selection) -> list[Trend]:
    """By sampler and arm, if scored at two steps or more."""
    found = [(s, arm, scores.steps_of([arm], s)) for s in scores.SAMPLERS for arm in selection.arms]
    return [trend(arm, sampler, steps) for sampler, arm, steps in found if len(steps) > 1]


def both_ways(selection: Selection) -> list[tuple[Trend, Trend]]:
    """For each arm the trends by the study's sampler and by the respaced one, if both scored two steps or more."""
    found = [(arm, steps) for arm in selection.arms if len(steps := scores.steps_of([arm], _OLD, _NEW)) > 1]
    return [(trend(arm, _OLD, steps), trend(arm, _NEW, steps)) for arm, steps in found]


# ---- (1) the plateau -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plateau:
    """Whether the study's FID plateau is its sampler. level: `HOLDS` if in each arm, at each step, the study's sampler
    scores near noise and the respaced one lower from the same weights; `FAILS` if one of these is reversed.
    pairs: the trends by both samplers, of each arm. floor, ceiling: FIDs of real images and of uniform noise.
    shares: by both samplers, the first arm's last FID in per cent of the ceiling."""

    level: str
    pairs: list[tuple[Trend, Trend]]
    floor: float
    ceiling: float
    shares: list[float | None]

    @property
    def opposite(self) -> list[str]:
        """The arms in which FID rises by the study's sampler and falls by the respaced one."""
        return [old.arm.experiment for old, new in self.pairs if (old.sign, new.sign) == (1, -1)]


def plateau(selection: Selection) -> Plateau | None:
    """None if no arm was scored by both samplers at two steps."""
    pairs = both_ways(selection)
    if not pairs:
        return None
    votes = []
    for old, _ in pairs:
        votes += [judge(fids.share(old.arm, _OLD, step), NOISE_PCT, None) for step in old.steps]
        votes += [judge(fids.between_samplers(old.arm, _OLD, _NEW, step), None, 0.0) for step in old.steps]
    arm, step = pairs[0][0].arm, pairs[0][0].steps[-1]
    return Plateau(
        level=together(votes).word,
        pairs=pairs,
        floor=scores.end_of(arm, _NEW, step, "floor"),
        ceiling=scores.end_of(arm, _NEW, step, "ceiling"),
        shares=[fids.share(arm, sampler, step).number for sampler in (_OLD, _NEW)],
    )


# ---- (2) flatter -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flatter:
    """How much of E6's lower trace remains on the common loss. decisive: the draw-by-draw change, else the probe's own
    with its bound over draws. own, common: by the probe, over all steps. study: the log's. own_draws, common_draws:
    draw by draw."""

    decisive: Estimate
    own: Change
    common: Change
    study: Estimate
    own_draws: Estimate
    common_draws: Estimate

    @property
    def side(self) -> tuple[int, str]:
        """As `judge.side` of what decides."""
        return side(self.decisive)


def flatter(selection: Selection, pairs: pd.DataFrame, study: Selection) -> Flatter | None:
    """None if the two traces were not measured in both arms."""
    if len(selection.arms) < 2:
        return None
    changes = {change.metric: change for change in traces.changes(*selection.arms[:2]) if change.span is None}
    if not {TRAINED, COMMON} <= changes.keys():
        return None
    own_draws, common_draws = (traces.of_pairs(pairs, loss) for loss in ("hutch", "ref"))
    decisive = changes[COMMON].over_draws if common_draws.number is None else common_draws
    theirs = traces.changes(*study.arms[:2])[0].estimate if len(study.arms) > 1 else Estimate()
    return Flatter(decisive, changes[TRAINED], changes[COMMON], theirs, own_draws, common_draws)


# ---- (3) FID ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Responds:
    """Whether FID by the samplers that draw images differs between the arms at the last step scored. differences:
    (sampler, step, E6's change against E5 in per cent). excess: E5's FID less that of real images, by the first
    sampler; NaN if unknown."""

    differences: list[tuple[str, int, Estimate]]
    excess: float

    @property
    def signs(self) -> set[int]:
        """1 for higher, -1 for lower, 0 for undecided, by any sampler."""
        return {side(change)[0] for *_, change in self.differences}

    @property
    def limits(self) -> str:
        """The limits of what is decided, in words."""
        return max((side(change)[1] for *_, change in self.differences), key=len)


def responds(selection: Selection) -> Responds | None:
    """None if the arms have no score by these samplers at a common step."""
    baseline, variant = selection.arms[0], selection.arms[-1]
    found = []
    for sampler in (scores.RESPACED, scores.DDIM) if baseline is not variant else ():
        steps = scores.steps_of(selection.arms, sampler)
        if steps:
            found.append((sampler, steps[-1], fids.difference(baseline, variant, sampler, steps[-1])))
    if not found:
        return None
    return Responds(found, excess(baseline, *found[0][:2]))


def excess(arm: Arm, sampler: str, step: int) -> float:
    """By how much the arm's FID exceeds that of real images; NaN if unknown."""
    level = fids.level(arm, sampler, step).number
    return (float("nan") if level is None else level) - scores.end_of(arm, sampler, step, "floor")


# ---- counts ----------------------------------------------------------------------------------------------


def apart(gaps: Sequence[Gap]) -> tuple[int, int]:
    """How many numbers differ from the log by more than noise, and of how many that is known."""
    known = [gap.apart for gap in gaps if gap.apart is not None]
    return sum(known), len(known)


def blunt(gaps: Sequence[Gap]) -> int:
    """In how many numbers a difference of `BLUNT_PCT` would have been within noise."""
    return sum(gap.least is not None and gap.least > BLUNT_PCT for gap in gaps)


def counts(judged: Sequence[Judged]) -> dict[str, int]:
    """How many claims have each verdict, whatever its limits."""
    words = (HOLDS, FAILS, UNDECIDED, UNSAID)
    return {word: sum(each.verdict.startswith(word) for each in judged) for word in words}


# ---- as text ---------------------------------------------------------------------------------------------


def summary(
    selection: Selection,
    pairs: pd.DataFrame,
    study: Selection,
    ours: Sequence[Gap] = (),
    faithful: Sequence[Gap] = (),
    judged: Sequence[Judged] = (),
) -> Markdown:
    """The page's first lines. ours, faithful: the gaps from the study's log of our E5 and of the faithful rerun."""
    text = template("studies/min_snr/summary.md.jinja").render(
        plateau=plateau(selection),
        flatter=flatter(selection, pairs, study),
        responds=responds(selection),
        compared=bool(ours),
        apart=apart(ours),
        faithful_apart=apart(faithful) if faithful else None,
        blunt=blunt(ours),
        claims=len(judged),
        counts=counts(judged),
        noise_pct=NOISE_PCT,
        blunt_pct=BLUNT_PCT,
        names=scores.NAMES,
        beside=_beside,
        digits=digits,
        interval=interval_text,
        percent=percent,
        side=side,
        thousands=thousands,
        whole=whole,
    )
    return Markdown(text.strip())


def percent(found: Estimate) -> str:
    """`-50.0 % (-51.4 to -48.6)`: a change with its interval within the runs."""
    if found.number is None:
        return "by an unknown part"
    return f"{found.number:+.1f} % ({interval_text(found.within, 1) if found.within else 'no interval'})"


def whole(number: float | None) -> str:
    """The number without decimals; a dash for none."""
    return "–" if number is None else f"{number:.0f}"


def _beside(found: Estimate) -> str:
    """`15.0 % below`: a change in per cent as a distance and a side."""
    if found.number is None:
        return "at an unknown distance from"
    return f"{abs(found.number):.1f} % {'below' if found.number < 0 else 'above'}"


def interval_text(interval: Interval | None, places: int | None = None) -> str:
    """`a to b` with that many decimals, or else with three digits; a dash for no interval."""
    if interval is None:
        return "–"
    return " to ".join(digits(end, 3) if places is None else f"{end:.{places}f}" for end in interval)
