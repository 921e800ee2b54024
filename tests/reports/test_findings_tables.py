"""The tables and answers of docs/findings.md against the numbers of `findings_by_hand.py`."""

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.experiments import load
from reports.experiments.selection import Arm, Selection
from reports.figures.library import entries
from reports.judging.judge import Judged, Outcome, Verdict
from reports.runs import Run
from reports.sources import open_source
from reports.stats.intervals import Estimate
from reports.studies.min_snr import summary, tables
from reports.studies.min_snr.against_log import Gap, gaps
from reports.studies.min_snr.claims import FidCheck, measure
from tests.reports.by_hand import STEPS, Z95, logged, mean, says, student
from tests.reports.findings_by_hand import (
    ARMS,
    CEILING,
    DDIM,
    FIDS,
    FLOOR,
    HUTCH,
    NAMES,
    NEW,
    OLD,
    PAIRS,
    REF,
    SEEDS,
    ByHand,
    Made,
    change,
    difference,
    jackknife,
    level,
    make,
    relative,
    sem,
)

NO_RUN = Run("none", "e5", 1, {}, pd.DataFrame(index=pd.Index([], name="step")), Path("none"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The runs of `findings_by_hand.py`, made once."""
    return make(tmp_path_factory.mktemp("findings"))


def said(made: Made | None = None, pairs: pd.DataFrame = PAIRS, **rest: Any) -> list[str]:
    """The first lines of the page's summary."""
    selection = made.selection if made else Selection(load("e6"), (Arm("e5", "baseline", (NO_RUN,)),))
    return summary.summary(selection, pairs, selection, **rest).splitlines()


# ---- tables ----------------------------------------------------------------------------------------------


def test_the_table_of_fids(made: Made) -> None:
    """A column for each run, with +- 1.96 errors. Catches one error, a run in another's column, and swapped ends of the
    scale."""
    rows = tables.fid_rows(made.selection)
    points = [(OLD, 2000), (OLD, 10_000), (NEW, 2000), (NEW, 10_000), (DDIM, 10_000)]
    assert [(row["sampler"], row["step"]) for row in rows] == [(NAMES[s], f"{step:,}") for s, step in points]
    for row, (sampler, step) in zip(rows, points, strict=True):
        for cell, (arm, seed) in zip(row["cells"], [(a, s) for a in ARMS for s in SEEDS], strict=True):
            says(cell, FIDS[arm, sampler][step][seed - 1], Z95 * sem(arm, step, seed))
            assert " ± " in cell
        assert (row["floor"], row["ceiling"]) == ("1.50", "60.0")
    said = tables.fids_of(made.arms[1], DDIM)
    assert said == f"15.50 ± {Z95 * 0.4:.2f} at 10,000, 16.20 ± {Z95 * 0.6:.2f} at 10,000"


def test_what_the_networks_know(made: Made) -> None:
    """At t = 100 the error grows from 0.013 to 0.014 in both arms. At t = 990 it falls from 2 to 0.9, in e6 to 0.8.
    Catches another step than the last that both arms have, and swapped arms."""
    rows = tables.predicted_rows(made.selection)
    assert [(row["t"], row["steps"]) for row in rows] == [(100, (2000, 10_000)), (990, (2000, 9000))]
    wanted = [[(0.013, 0.014), (0.013, 0.014)], [(2.0, 0.9), (2.0, 0.8)]]
    assert [np.round(row["errors"], 12).tolist() for row in rows] == [[list(pair) for pair in row] for row in wanted]
    known = tables.predicted_counts(rows)
    assert known["count"] == 2 and known["falls"] == [1, 1] and known["lower"] == [990]
    # Mid-grey's error, from CIFAR-10's published means and deviations: mean of (2 m - 1)^2 + (2 s)^2 over channels.
    grey = np.mean([(2 * m - 1) ** 2 + 4 * s**2 for m, s in ((0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616))])
    assert known["grey"] == f"{grey:.2f}" and known["blind"] == [[990], [990]]


def test_the_tables_of_trends_and_differences(made: Made) -> None:
    """Catches a change of the other arm or sampler, one error in place of 1.96, seeds that average out the noise of the
    samples, and a share of the whole FID in place of a share of the part above the floor."""
    rows = [tables.trend_row(trend) for trend in summary.trends(made.selection)]
    points = [(sampler, arm) for sampler in (OLD, NEW) for arm in ARMS]
    assert [(row["sampler"], row["arm"]) for row in rows] == [(NAMES[sampler], arm) for sampler, arm in points]
    for row, (sampler, arm) in zip(rows, points, strict=True):
        found, ends = change(arm, sampler), [level(arm, sampler, step).number for step in (2000, 10_000)]
        assert row["span"] == "2k to 10k" and row["ends"] == f"{ends[0]:#.4g} to {ends[1]:#.4g}"
        assert row["number"] == f"{found.number:+.1f}" and row["spread"] == found.spread(1)
        assert row["word"] == found.word("rises", "falls", "not told from flat")
    rows = tables.difference_rows(made.selection)
    points = [(OLD, 2000), (OLD, 10_000), (NEW, 2000), (NEW, 10_000), (DDIM, 10_000)]
    for row, (sampler, step) in zip(rows, points, strict=True):
        found, above = difference(sampler, step), level("e5", sampler, step).number - FLOOR
        assert (row["sampler"], row["step"]) == (NAMES[sampler], f"{step:,}")
        assert row["each"] == ", ".join(f"{value:+.2f}" for value in found.each)
        assert row["number"] == f"{found.number:+.2f}" and row["spread"] == found.spread(2)
        assert row["excess"] == f"{100 * found.number / above:+.1f} %"
        assert row["word"] == found.word("e6 higher", "e6 lower", "within the noise")
    assert {row["word"] for row in rows} == {"within the noise", "e6 lower in these runs", "e6 higher"}


def test_the_table_of_traces(made: Made) -> None:
    """The change at each step, then its mean, for each seed. The jackknife leaves out six blocks of steps in turn. The
    draws' errors are the worst case. Catches windows off by one, blocks of the mean curves, and errors of the other
    arm."""
    rows = iter(tables.change_rows(made.selection))
    reach_of = {}
    for metric, text in ((HUTCH, "each arm's own, trained loss"), (REF, "common, unweighted loss")):
        for low, high, span in ((0, 10_000, "all"), (100, 2000, "100-2,000"), (8000, 10_000, "8,000-10,000")):
            inside = (low <= STEPS) & (high >= STEPS)
            each = [relative(f"{metric}_mean", seed)[inside] for seed in SEEDS]
            number, over_seeds = float(np.mean(each)), student([x.mean() for x in each])
            row = next(rows)
            assert (row["loss"], row["span"]) == (text, span)
            of_means = mean("e6", f"{metric}_mean")[inside] < mean("e5", f"{metric}_mean")[inside]
            assert row["lower"] == f"{of_means.sum()} of {inside.sum()}" and row["number"] == f"{number:+.1f}"
            parts = [f"{over_seeds[0]:.1f} to {over_seeds[1]:.1f} over 2 seeds"]
            if span == "all":
                reaches = [jackknife(lambda kept, x=x: x[kept].mean(), 20) for x in each]
                reach = math.hypot(*reaches) / 2
                parts.insert(0, f"{number - reach:.1f} to {number + reach:.1f} within runs")
            assert row["spread"] == "; ".join(parts)
            worst = []
            for seed in SEEDS:
                means = {a: logged(a, seed)[f"{metric}_mean"][inside].mean() for a in ARMS}
                errors = {a: logged(a, seed)[f"{metric}_sem"][inside].mean() for a in ARMS}
                quotient = means["e6"] / means["e5"]
                worst.append(100 * Z95 * (errors["e6"] + quotient * errors["e5"]) / means["e5"])
            reach_of[metric, span] = np.mean(worst)
            assert row["draws"] == f"{number - np.mean(worst):.1f} to {number + np.mean(worst):.1f}"
    assert next(rows, None) is None and len(set(reach_of.values())) == 6


def test_the_table_of_pairs() -> None:
    """The table shows the mean over the checkpoints and the last one. Catches the first checkpoint, and swapped
    ends."""
    rows = tables.pair_rows(PAIRS)
    assert [tuple(row.values()) for row in rows[:4]] == [
        ("each arm's own, trained loss", "1", "10,000", "-15.0", "-18.0 to -12.0", "110000 draws"),
        ("each arm's own, trained loss", "1", "mean", "-18.0", "-20.0 to -16.0", "10 draws"),
        ("each arm's own, trained loss", "2", "10,000", "-16.0", "-17.0 to -15.0", "210000 draws"),
        ("each arm's own, trained loss", "2", "mean", "-17.0", "-21.0 to -13.0", "20 draws"),
    ]
    assert rows[-1]["loss"] == "common, unweighted loss" and rows[-1]["interval"] == "-7.7 to 17.7" and len(rows) == 10


def test_the_table_of_a_sweep(made: Made) -> None:
    """The last milestone of each of three runs. Catches the first milestone, and a trace in the other's column."""
    found = {
        row["steps"]: row for row in tables.sweep_rows(entries(open_source(str(made.swept)))) if row["loss"] != "minsnr"
    }
    e5, e1 = found["10000"], found["30000"]
    assert (e5["step"], e5["fid"], e1["fid"]) == ("10,000", "24.00 ± 0.98", "31.00 ± 0.49")
    assert (e5[f"{HUTCH}_mean"], e5[f"{REF}_mean"]) == ("400.0", "440.0")  # 800 - 20 * 20, 880 - 22 * 20


# ---- the log ---------------------------------------------------------------------------------------------

EVERY = np.arange(100, 10_001, 100)


def curves(scale: float, phase: int) -> dict[str, np.ndarray]:
    """Loss, gradient norm and trace, with its error, at 100 steps. Each `phase` gives other noise."""
    wave = np.cos(2.0 * np.arange(100) + phase)
    fall = np.exp(-EVERY / 2000)
    return {
        "train/loss": scale * (0.1 + fall) * np.exp(0.2 * wave),
        "train/grad_global_L2": (0.2 + fall) * np.exp(0.1 * wave),
        f"{HUTCH}_mean": (300 + 500 * fall) * (1 + 0.01 * wave) / scale,
        f"{HUTCH}_sem": 5 + EVERY / 1000 + phase,
    }


def test_the_table_of_the_log() -> None:
    """The table shows values, means over windows, the change, and its standard error. A single value's error comes from
    the noise between steps around it (second differences of the logarithm) or from the trace's draws; a window's error
    comes from the jackknife of the quotient. Catches an inverted quotient, windows off by one, and errors of only one
    of the two runs."""
    each = [curves(1.0, 0), curves(1.3, 1)]
    log, ours = (
        Arm("e5", "baseline", (Run(str(i), "e5", 1, {}, pd.DataFrame(c, index=EVERY), Path("none")),))
        for i, c in enumerate(each)
    )
    found = iter(gaps(log, ours))
    rows = iter(tables.gap_rows(gaps(log, ours), gaps(log, log)))
    early, late = EVERY <= 2000, EVERY >= 8000
    spans = [
        ("step 100", EVERY == 100, early),
        ("step 2,000", EVERY == 2000, early),
        ("step 10,000", EVERY == 10_000, late),
    ]
    spans += [("mean of 100-2,000", early, early), ("mean of 8,000-10,000", late, late)]
    t5 = stats.t.ppf(0.975, 5)
    for metric, what in (("train/loss", "loss"), ("train/grad_global_L2", "gradient L2"), (f"{HUTCH}_mean", "trace")):
        theirs, mine = (c[metric] for c in each)
        for where, inside, around in spans:
            gap, row = next(found), next(rows)
            a, b = theirs[inside].mean(), mine[inside].mean()
            if inside.sum() > 1:
                x, y = theirs[inside], mine[inside]
                error = jackknife(lambda kept, x=x, y=y: y[kept].mean() / x[kept].mean(), len(x)) / t5
                errors, most = (b / a - 1) / error, t5
            else:
                noises = [math.sqrt((np.diff(np.log(c[metric][around]), n=2) ** 2).mean() / 6) for c in each]
                if what == "trace":
                    noises = [float((c[f"{HUTCH}_sem"] / c[metric])[inside][0]) for c in each]
                errors, most = math.log(b / a) / math.hypot(*noises), Z95
            assert (gap.log, gap.value, gap.change, gap.errors) == pytest.approx((a, b, 100 * (b / a - 1), errors))
            apart = abs(errors) > most
            assert gap.apart == apart and (row["what"], row["where"]) == (what, where)
            says(row["log"], a)
            says(row["ours"], b)
            said = "**apart**" if apart else "within noise"
            assert row["ours_gap"] == f"{gap.change:+.1f} %, {errors:+.1f} s.e.: {said}"
            assert row["faithful"] == row["log"] and row["faithful_gap"].startswith("+0.0 %")
    assert next(found, None) is None
    assert {gap.apart for gap in gaps(log, ours) if gap.change < 0} == {True, False}


def test_the_line_on_the_log() -> None:
    """Catches undetectable differences that count as within noise, and a bound on the wrong side of 25 %."""
    ours = [
        Gap("train/loss", (8000, 10_000), 1.0, 1 + x, 100 * x, sem)
        for x, sem in ((0.5, 0.05), (0.1, 0.2), (-0.1, 0.3), (0.1, None))
    ]
    # 0.05 t5 is 13 %, 0.2 t5 is 51 %
    assert (summary.apart(ours), summary.blunt(ours)) == ((1, 3), 2)
    line = said(ours=ours, faithful=[replace(gap, change=-50.0) for gap in ours[:1]])[3]
    counts = "in 1 of 3 numbers compared, the faithful rerun in 1 of 1. For 2 of our numbers, noise would"
    assert counts in line


# ---- claims ----------------------------------------------------------------------------------------------


def test_what_a_claim_about_fids_measures(made: Made) -> None:
    """Each kind of number has both intervals. Catches a share relative to the score of real images, and a band relative
    to the largest FID."""

    def of(kind: str, sampler: str, arm: str = "e6") -> Estimate:
        return measure(FidCheck(fid=kind, sampler=sampler, arm=arm, at_most=0), made.selection)  # type: ignore[arg-type]

    for known, wanted in (
        (of("change", OLD, "e5"), change("e5", OLD)),
        (of("change", NEW), change("e6", NEW)),
        (of("share", OLD), level("e6", OLD, 10_000, 100 / CEILING)),
        (of("difference", NEW), difference(NEW, 10_000, percent=True)),
    ):
        assert known.number == pytest.approx(wanted.number) and known.per_seed == pytest.approx(wanted.each)
        assert known.within == pytest.approx(wanted.within) and known.seeds == pytest.approx(wanted.seeds)
    band = of("band", OLD, "e5")
    assert band.per_seed == pytest.approx((100 * 5 / 52.5, 100 * 7 / 55.5)) and band.as_logged


def test_the_table_of_claims() -> None:
    """Catches the study's number in our column, swapped intervals, and the verdict of another check."""
    ours = Estimate(-15.28, (-14.5, -16.0), (-18.5, -12.0), (-24.8, -5.7))
    counted = Estimate(2000.0, (1500.0, 2500.0), as_logged=True)
    lines = (
        Outcome(None, "the change", "at most 0 %", " %", ours, Verdict("holds"), Estimate(-15.2)),
        Outcome(None, "the step", "at most 1", "", counted, Verdict("undecided"), Estimate(reason="not logged")),
    )
    judged = Judged("it is lower", "A note.", lines, "undecided", "E6")
    first, second = tables.claim_rows(judged)
    assert (first["document"], first["says"], first["verdict"]) == (
        "E6",
        "it is lower (A note)",
        "**undecided** (holds)",
    )
    assert (first["study"], first["ours"]) == ("-15.2 %", "-15.3 %")
    assert first["spread"] == "-18.5 to -12.0 within runs; -24.8 to -5.70 over 2 seeds"
    assert (second["study"], second["ours"], second["spread"]) == ("–", "1,500, 2,500", "as logged")
    assert second["verdict"] == "(undecided)" and second["says"] == ""
    one, other = csv.DictReader(io.StringIO(tables.claims_csv([judged])))
    assert (one["study"], one["ours"], one["each_seed"]) == ("-15.2", "-15.28", "-14.5 -16")
    ends = [one[name] for name in ("within_low", "within_high", "seeds_low", "seeds_high")]
    assert ends == ["-18.5", "-12", "-24.8", "-5.7"]
    assert (one["verdict"], one["claim_verdict"], other["ours"]) == ("holds", "undecided", "2000")
    every = [replace(judged, verdict=v) for v in ("holds in these runs", "holds", "does not hold", "undecided")]
    every += [replace(judged, verdict=v) for v in ["cannot be said"] * 3 + ["undecided, given the draws"] * 3]
    counts = "2 hold in our runs, 1 do not, 4 are undecided, and 3 cannot be judged."
    assert said(judged=every)[4] == f"- Of 10 claims of the two documents, {counts}"


# ---- answers ---------------------------------------------------------------------------------------------


def percent(found: ByHand) -> str:
    return f"{found.number:+.1f} % ({found.within[0]:.1f} to {found.within[1]:.1f})"


def three(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")


def test_the_answer_on_the_plateau(made: Made) -> None:
    """Catches one sampler's numbers under the other's name, the first step's share in place of the last one's, and a
    plateau that is blamed on the sampler whatever its level."""
    parts = []
    for arm in ARMS:
        of_each = [
            f"{three(level(arm, s, 2000).number)} to {three(level(arm, s, 10_000).number)} by {NAMES[s]}, "
            f"{percent(change(arm, s))}"
            for s in (OLD, NEW)
        ]
        parts.append(f"of {arm} from 2k to 10k steps: {', and '.join(of_each)}")
    shares = [100 * level("e5", s, 10_000).number / CEILING for s in (OLD, NEW)]
    # Trends by the study's sampler and the other: e5 +10 and +13.5 %, and -33 %; e6 +4 and -1, and -24 and -22 %
    assert said(made)[0] == (
        "- **(1) Is the plateau at 203-207 the sampler? Yes, by its level; the trends are opposite in e5 alone.** "
        f"FID of the same checkpoints {'; '.join(parts)}. Real images score 1.50 and uniform noise 60.0; e5 ends at "
        f"{shares[0]:.0f} % of uniform noise's score by {NAMES[OLD]} and at {shares[1]:.0f} % by {NAMES[NEW]}. "
        "From 80 % on, a score counts as near noise."
    )


def test_the_answer_on_the_traces(made: Made) -> None:
    """If there are draws, the answer uses their mean over seeds. Catches the trained loss in place of the common one,
    the study's number in place of ours, and a change that counts as nonzero by one end of an interval."""
    own, common = (np.mean([relative(f"{metric}_mean", seed) for seed in SEEDS]) for metric in (HUTCH, REF))
    lower = [int((mean("e6", f"{m}_mean") < mean("e5", f"{m}_mean")).sum()) for m in (HUTCH, REF)]
    side = "below" if common < 0 else "above"
    question = "- **(2) How much of “E6 is 10-30 % flatter” remains on the common loss? "
    assert own < 0 and said(made, PAIRS)[1] == (
        f"{question}None in these runs.** "  # beyond the noise of the draws, but not of two seeds
        f"Averaged over 20 steps, E6's trace of the loss that each arm trains lies {-own:.1f} % below E5's (the "
        f"study's log: {-own:.1f} % below), that of the common loss {abs(common):.1f} % {side}. E6's is lower at "
        f"{lower[0]} of these steps on the trained loss, at {lower[1]} on the common loss. Draw by draw, the mean "
        "trace over the checkpoints changes by -17.5 % (-20.5 to -14.5) on the trained loss and by +5.0 % (2.5 to 7.5) "
        "on the common loss."
    )
    flipped = PAIRS.assign(change_pct=-PAIRS.change_pct, low_pct=-PAIRS.high_pct, high_pct=-PAIRS.low_pct)
    assert said(made, flipped)[1].startswith(f"{question}5.0 % in these runs.**")
    wide = PAIRS.assign(low_pct=-50, high_pct=50)
    assert said(made, wide)[1].startswith(f"{question}Not told from none.**")


def test_the_answer_on_fid(made: Made) -> None:
    """Catches e5 against e6, a step other than the last, and a difference that only one sampler of two decides."""
    of_new, of_ddim = (difference(sampler, 10_000, percent=True) for sampler in (NEW, DDIM))
    apart = [each.word("higher, beyond", "lower, beyond", "within the noise") for each in (of_new, of_ddim)]
    assert apart == ["higher, beyond", "within the noise"]
    above = level("e5", NEW, 10_000).number - FLOOR
    assert said(made)[2] == (
        "- **(3) Does FID respond to Min-SNR at this scale? Yes: E6's FID is worse, by one sampler of two.** "
        f"E6 against E5: by respaced DDPM at 10k {percent(of_new)}, higher, beyond the noise of samples and of seeds; "
        f"by DDIM at 10k {percent(of_ddim)}, within the noise. "
        f"By respaced DDPM, E5's FID is {three(above)} above that of real images."
    )
