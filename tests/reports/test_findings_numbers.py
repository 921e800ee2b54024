"""The figures, tables and answers of docs/findings.md against numbers worked out by hand, from a few made-up FIDs and
the curves of `by_hand.py`. A figure without a check here fails."""

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from reports.experiments import load
from reports.experiments.selection import Arm, Selection
from reports.figures.library import draw_library, entries
from reports.figures.style import colour, theme
from reports.runs import Run
from reports.sources import open_source
from reports.studies.min_snr import figures, summary, tables
from reports.studies.min_snr.against_log import Gap, gaps
from reports.studies.min_snr.claims import FidCheck, Judged, Line, Said, measure
from reports.studies.min_snr.gallery import FINDINGS
from reports.studies.min_snr.known import Known
from reports.studies.probe_pairs import COLUMNS, draw
from tests.reports import by_hand
from tests.reports.by_hand import (
    COLOURS,
    LABELS,
    MARKERS,
    STEPS,
    at_milestones,
    count_lines,
    error_bars,
    labels_of,
    logged,
    mean,
    says,
    smoothed,
    student,
    the_band,
    the_line,
    upright,
)
from tests.reports.conftest import config_of

ARMS, SEEDS = ("e5", "e6"), (1, 2)
HUTCH, REF = "curvature/hutch_trace", "curvature/ref_trace"
OLD, NEW, DDIM = "ddpm_adjacent_posterior", "ddpm", "ddim"
NAMES = {OLD: "the study's sampler", NEW: "respaced DDPM", DDIM: "DDIM"}
FLOOR, CEILING = 1.5, 60.0
VERMILION, GREEN, GREY, PINK = "#d55e00", "#029e73", "#949494", "#cc78bc"
FIDS = {  # by step, of two seeds
    ("e5", OLD): {2000: (50.0, 52.0), 10_000: (55.0, 59.0)},
    ("e6", OLD): {2000: (51.0, 52.0), 10_000: (53.0, 51.5)},
    ("e5", NEW): {2000: (30.0, 32.0), 10_000: (20.0, 21.6)},
    ("e6", NEW): {2000: (33.0, 34.5), 10_000: (25.0, 26.8)},
    ("e5", DDIM): {10_000: (15.0, 16.0)},
    ("e6", DDIM): {10_000: (15.5, 16.2)},
}


def sem(arm: str, step: int, seed: int) -> float:
    """The standard error of such an FID."""
    return {"e5": 1.0, "e6": 0.8}[arm] * (0.5 if step == 10_000 else 1.0) * (1.5 if seed == 2 else 1.0)


def a_run(arm: str, seed: int) -> Run:
    """What `by_hand.py` says that it logged, its FIDs by sampler, and errors of predicted images."""
    columns = {
        name: pd.Series(values, index=STEPS)
        for name, values in logged(arm, seed).items()
        if not name.startswith("val/")
    }
    for (name, sampler), fids in FIDS.items():
        if name == arm:
            ends = {"": {step: found[seed - 1] for step, found in fids.items()}}
            ends |= {"_sem": {step: sem(arm, step, seed) for step in fids}}
            ends |= {"_floor": dict.fromkeys(fids, FLOOR), "_ceiling": dict.fromkeys(fids, CEILING)}
            columns |= {f"fid/{sampler}{end}": pd.Series(each) for end, each in ends.items()}
    e6 = arm == "e6"
    columns["val/recon_mse_t0100"] = pd.Series({2000: 0.010 + 0.002 * seed, 10_000: 0.011 + 0.002 * seed})
    late = {500: 9.0} if e6 else {10_000: 0.9, 9000: 9.0}
    columns["val/recon_mse_t0990"] = pd.Series({2000: 2.0, 10_000: 0.8} | late)
    history = pd.DataFrame(columns).sort_index().rename_axis("step")
    return Run(f"{arm}-{seed}", arm, seed, config_of(arm, seed, train__total_steps=10_000), history, Path("none"))


@dataclass(frozen=True)
class Made:
    """`selection`: two seeds of e5 and e6; `swept`, a folder of three runs; `folder`, for what a check writes."""

    selection: Selection
    swept: Path
    folder: Path

    @property
    def arms(self) -> tuple[Arm, Arm]:
        return self.selection.arms  # type: ignore[return-value]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The selection, made once."""
    root = tmp_path_factory.mktemp("findings")
    roles = {"e5": "baseline", "e6": "variant"}
    arms = tuple(Arm(name, role, tuple(a_run(name, seed) for seed in SEEDS)) for name, role in roles.items())
    return Made(Selection(load("e6"), arms), by_hand.write_runs(root / "swept", (1,), context=True), root)


# ---- numbers by hand -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ByHand:
    """A number of two seeds, its interval over the noise of the samples (mean of the seeds' errors, as they share their
    noise), and Student's over seeds."""

    each: tuple[float, ...]
    error: float

    @property
    def number(self) -> float:
        return sum(self.each) / len(self.each)

    @property
    def within(self) -> tuple[float, float]:
        return self.number - 1.96 * self.error, self.number + 1.96 * self.error

    @property
    def seeds(self) -> tuple[float, float]:
        return student(self.each)

    def spread(self, places: int) -> str:
        parts = [f"{low:.{places}f} to {high:.{places}f}" for low, high in (self.within, self.seeds)]
        return f"{parts[0]} within runs; {parts[1]} over 2 seeds"

    def word(self, up: str, down: str, neither: str) -> str:
        """Decided by the interval over samples; of these runs, where the one over seeds does not say the same."""
        sides = [1 if low >= 0 else -1 if high <= 0 else 0 for low, high in (self.within, self.seeds)]
        if sides[0] == 0:
            return neither
        return (up if sides[0] > 0 else down) + ("" if sides[1] == sides[0] else " of these runs")


def level(arm: str, sampler: str, step: int, scale: float = 1.0) -> ByHand:
    fids = FIDS[arm, sampler][step]
    return ByHand(tuple(scale * x for x in fids), scale * float(np.mean([sem(arm, step, s) for s in SEEDS])))


def change(arm: str, sampler: str) -> ByHand:
    """From step 2000 to 10,000, in per cent."""
    first, last = (FIDS[arm, sampler][step] for step in (2000, 10_000))
    each = tuple(100 * (b / a - 1) for a, b in zip(first, last, strict=True))
    errors = [
        100 / a * math.hypot(sem(arm, 10_000, s), b / a * sem(arm, 2000, s))
        for a, b, s in zip(first, last, SEEDS, strict=True)
    ]
    return ByHand(each, float(np.mean(errors)))


def difference(sampler: str, step: int, *, percent: bool = False) -> ByHand:
    """e6 less e5."""
    pairs = list(zip(FIDS["e5", sampler][step], FIDS["e6", sampler][step], SEEDS, strict=True))
    if percent:
        each = tuple(100 * (b / a - 1) for a, b, _ in pairs)
        errors = [100 / a * math.hypot(sem("e6", step, s), b / a * sem("e5", step, s)) for a, b, s in pairs]
    else:
        each = tuple(b - a for a, b, _ in pairs)
        errors = [math.hypot(sem("e6", step, s), sem("e5", step, s)) for *_, s in pairs]
    return ByHand(each, float(np.mean(errors)))


def relative(metric: str, seed: int) -> np.ndarray:
    """e6's change against e5 of one seed, in per cent, at each step."""
    return 100 * (logged("e6", seed)[metric] / logged("e5", seed)[metric] - 1)


def jackknife(statistic: Callable[[np.ndarray], float], count: int) -> float:
    """Half of Student's interval of six pseudo-values; `statistic` takes the places that are kept."""
    places = np.arange(count)
    blocks = places * 6 // count
    pseudo = [6 * statistic(places) - 5 * statistic(places[blocks != block]) for block in range(6)]
    return float(stats.t.ppf(0.975, 5) * np.std(pseudo, ddof=1) / math.sqrt(6))


_PAIRS = {  # loss and seed -> (step, change, half its interval)
    ("hutch", "1"): ((2000, -20, 2), (10_000, -15, 3), (0, -18, 2)),
    ("hutch", "2"): ((2000, -18, 6), (10_000, -16, 1), (0, -17, 4)),
    ("ref", "1"): ((2000, 5, 4), (10_000, 3, 2), (0, 4, 2)),
    ("ref", "2"): ((2000, 7, 6), (10_000, 5, 4), (0, 6, 3)),
    ("hutch", "all"): ((0, -17.5, 6.4),),
    ("ref", "all"): ((0, 5, 12.7),),
}
PAIRS = pd.DataFrame(
    [
        (loss, seed, step, 100.0, 100.0 + change, change, change - reach, change + reach, f"{seed} {step}")
        for (loss, seed), found in _PAIRS.items()
        for step, change, reach in found
    ],
    columns=list(COLUMNS),
)

# ---- figures ---------------------------------------------------------------------------------------------

CHECKS: dict[str, Callable[[Made], None]] = {}


def shows(name: str) -> Callable[[Callable[[Made], None]], Callable[[Made], None]]:
    """The decorated function checks the figure `name`."""

    def keep(check: Callable[[Made], None]) -> Callable[[Made], None]:
        CHECKS[name] = check
        return check

    return keep


@pytest.mark.parametrize("name", FINDINGS)
def test_a_figure_shows_its_numbers(name: str, made: Made) -> None:
    """Catches a figure that nothing holds to its numbers, and all that the checks below say that they catch."""
    assert name in CHECKS, f"no check here says what {name} has to show"
    with theme():
        CHECKS[name](made)


def panels_of(figure: Figure, count: int) -> list[Axes]:
    assert len(figure.axes) == count
    return list(figure.axes)


def of_fids(axes: Axes, arm: str, sampler: str, shade: str, text: str, aside: float = 0.0) -> None:
    """Means with their bars, and the seeds' points."""
    steps = list(FIDS[arm, sampler])
    place = np.array(steps) + aside
    found = [level(arm, sampler, step) for step in steps]
    means = [each.number for each in found]
    line = the_line(axes, place, means, color=shade, marker=MARKERS[arm])
    (mine,) = [bar for bar in axes.containers if bar.lines[0] is line]
    assert mine.get_label() == text
    bars = np.array(mine.lines[2][0].get_segments())
    assert by_hand.near(bars[:, :, 0], np.stack([place, place], 1))
    assert by_hand.near(bars[:, :, 1], [each.within for each in found])
    for seed in SEEDS:
        the_line(axes, place, [FIDS[arm, sampler][step][seed - 1] for step in steps], marker=".", color="black")


def of_ends(axes: Axes) -> None:
    the_line(axes, [0, 1], [FLOOR] * 2, linestyle=":")
    the_line(axes, [0, 1], [CEILING] * 2, linestyle="-.")
    said = {text.get_text(): text.xy[1] for text in axes.texts}
    assert said == {"uniform noise: 60": CEILING, "real images: 1.5": FLOOR}


@shows("the_point")
def the_point(made: Made) -> None:
    """Catches samplers or arms in each other's colour, bars of one error, e5 against e6, and a range over seeds that is
    that of the means; of the draws the mean over seeds of both ends."""
    left, right = panels_of(figures.the_point(made.selection, PAIRS).figure, 2)
    for sampler, shade in ((OLD, VERMILION), (NEW, GREEN)):
        for arm in ARMS:
            of_fids(left, arm, sampler, shade, f"{arm}: {NAMES[sampler]}")
    of_ends(left)
    assert count_lines(left) == 4 * 3 + 2 and left.get_ylim()[0] == 0
    texts = {HUTCH: "each arm's own, trained loss", REF: "common, unweighted loss"}
    for metric, shade in ((HUTCH, GREY), (REF, PINK)):
        of_means = 100 * (mean("e6", f"{metric}_mean") / mean("e5", f"{metric}_mean") - 1)
        the_line(right, STEPS, of_means, color=shade, label=texts[metric])
        each = [relative(f"{metric}_mean", seed) for seed in SEEDS]
        the_band(right, STEPS, np.minimum(*each), np.maximum(*each), shade)
    upright(right, GREY, [2000, 10_000], [-19, -15.5], [4, 2])
    upright(right, PINK, [2000, 10_000], [6, 4], [5, 3])
    the_line(right, [0, 1], [0, 0], color="black")
    assert labels_of(right)[:2] == list(texts.values()) and len(error_bars(right)) == 2


@shows("fids")
def fids_by_sampler(made: Made) -> None:
    """Catches panels in another order, one sampler's FIDs in another's panel, and bars of one error."""
    for axes, sampler in zip(panels_of(figures.fid(made.selection).figure, 3), (OLD, NEW, DDIM), strict=True):
        for arm, aside in (("e5", -120), ("e6", 120)):
            of_fids(axes, arm, sampler, COLOURS[arm], arm, aside)
        of_ends(axes)
        assert count_lines(axes) == 2 * 3 + 2 and axes.get_title() == NAMES[sampler]


@shows("samples")
def samples(made: Made) -> None:
    """Catches a picture in another's place: each is of one grey."""
    grids = {}
    for grey, key in enumerate([(NEW, 10_000), (OLD, 2000), (NEW, 2000), (OLD, 10_000)], start=1):
        grids[key] = made.folder / f"{grey}.png"
        matplotlib.image.imsave(grids[key], np.full((4, 4, 3), 10 * grey, dtype=np.uint8))
    axes = panels_of(figures.samples(grids).figure, 4)
    shown = [round(255 * float(np.asarray(each.images[0].get_array())[0, 0, 0])) for each in axes]
    assert shown == [20, 40, 30, 10]
    titles = ["the study's sampler, 2k", "the study's sampler, 10k", "respaced DDPM, 2k", "respaced DDPM, 10k"]
    assert [each.get_title() for each in axes] == titles


@shows("curvature")
def curvature(made: Made) -> None:
    """Catches a figure of one loss in both panels; see `curvature_vs_step` of the report."""
    for axes, metric in zip(panels_of(figures.curvature(made.selection).figure, 2), (HUTCH, REF), strict=True):
        for arm in ARMS:
            the_line(axes, STEPS, mean(arm, f"{metric}_mean"), color=COLOURS[arm], label=LABELS[arm])


@shows("log")
def log(made: Made) -> None:
    """What was logged, thin, and its rolling mean over 3 rows, thick; a trace on fixed draws as it is. Catches curves
    of another run, and a trace smoothed that has no noise."""
    e5 = made.arms[0]
    (theirs,) = (Arm("e5", "baseline", (e5.runs[1],)),)
    config = config_of("e5", 1, train__total_steps=10_000, curvature__draws="fixed")
    fixed = Arm("e5_study", "variant", (replace(e5.runs[0], config=config),))
    drawn = figures.log(theirs, [e5, fixed])
    names = ("train/loss", "train/grad_global_L2", f"{HUTCH}_mean")
    for axes, metric in zip(panels_of(drawn.figure, 3), names, strict=True):
        curves = [(logged("e5", 2)[metric], "#4d4d4d", 1), (mean("e5", metric), COLOURS["e5"], 1)]
        curves += [(logged("e5", 1)[metric], colour("e5_study"), metric != f"{HUTCH}_mean")]
        for values, shade, reach in curves:
            the_line(axes, STEPS, values, color=shade, linewidth=0.6)
            the_line(axes, STEPS, smoothed(values, int(reach)), color=shade, linewidth=1.8)
        assert count_lines(axes) == 6
    assert [axes.get_yscale() for axes in drawn.figure.axes] == ["log", "log", "linear"]
    told = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
    assert told[2:4] == ["e5: the study's log", "e5: our rerun"]


@shows("library")
def library(made: Made) -> None:
    """A run's milestones, and a large marker at the last. Catches axes that changed places, the first milestone marked,
    and a run's trace of the other loss."""
    drawn = draw_library(entries(open_source(str(made.swept))))
    shades = {"e5": COLOURS["e5"], "e6": COLOURS["e6"], "e1": COLOURS["e5"]}  # by loss
    for axes, metric in zip(panels_of(drawn.figure, 2), (HUTCH, REF), strict=True):
        for run, shade in shades.items():
            trace, fid = at_milestones(logged(run, 1)[f"{metric}_mean"]), logged(run, 1)["val/fid"]
            the_line(axes, trace, fid, color=shade, marker="o")
            the_line(axes, trace[-1:], fid[-1:], color=shade, marker="o", markersize=8)
        assert count_lines(axes) == 6
        assert ("unweighted" in axes.get_xlabel()) == (metric == REF) and axes.get_ylabel() == "FID (lower is better)"
    wanted = ["loss.weighting = constant", "loss.weighting = minsnr", "diffusion.beta_schedule = linear"]
    assert labels_of(drawn.figure.axes[0]) == wanted and drawn.caption.startswith("3 runs,")


def test_pairs_are_drawn_as_they_are() -> None:
    """The figure of `probe_pairs`. Catches the mean over the checkpoints drawn at step 0, and the two losses in each
    other's panel."""
    each = [PAIRS[PAIRS["seed"] == seed] for seed in ("1", "2")]
    with theme():
        panels = panels_of(draw(each, ("e5", "e6")).figure, 2)
    ends = {"hutch": [((-20, -15), (-22, -18), (-18, -12)), ((-18, -16), (-24, -17), (-12, -15))]}
    ends["ref"] = [((5, 3), (1, 1), (9, 5)), ((7, 5), (1, 1), (13, 9))]
    for axes, of_seeds in zip(panels, ends.values(), strict=True):
        for shade, seed, (values, low, high) in zip((COLOURS["e5"], COLOURS["e6"]), SEEDS, of_seeds, strict=True):
            the_line(axes, [2000, 10_000], values, color=shade, label=f"seed = {seed}")
            the_band(axes, [2000, 10_000], low, high, shade)
    assert "each arm's own" in panels[0].get_title() and "common" in panels[1].get_title()
    assert panels[0].get_ylabel() == "e6 against e5\n(% of e5's trace)"


# ---- tables ----------------------------------------------------------------------------------------------


def test_the_table_of_fids(made: Made) -> None:
    """A column for each run; +- 1.96 errors. Catches one error, a run in another's column, and the ends of the scale in
    each other's place."""
    rows = tables.fid_rows(made.selection)
    points = [(OLD, 2000), (OLD, 10_000), (NEW, 2000), (NEW, 10_000), (DDIM, 10_000)]
    assert [(row["sampler"], row["step"]) for row in rows] == [(NAMES[s], f"{step:,}") for s, step in points]
    for row, (sampler, step) in zip(rows, points, strict=True):
        for cell, (arm, seed) in zip(row["cells"], [(a, s) for a in ARMS for s in SEEDS], strict=True):
            says(cell, FIDS[arm, sampler][step][seed - 1], 1.96 * sem(arm, step, seed))
            assert " ± " in cell
        assert (row["floor"], row["ceiling"]) == ("1.50", "60.0")
    said = tables.fids_of(made.arms[1], DDIM)
    assert said == f"15.50 ± {1.96 * 0.4:.2f} at 10,000, 16.20 ± {1.96 * 0.6:.2f} at 10,000"


def test_what_the_networks_know(made: Made) -> None:
    """At t = 100 it grows from 0.013 to 0.014, in both; at t = 990 it falls from 2 to 0.9, in e6 to 0.8. Catches
    another step than the last that both have, and arms that changed places."""
    rows = tables.predicted_rows(made.selection)
    assert [(row["t"], row["steps"]) for row in rows] == [(100, (2000, 10_000)), (990, (2000, 10_000))]
    wanted = [[(0.013, 0.014), (0.013, 0.014)], [(2.0, 0.9), (2.0, 0.8)]]
    assert [np.round(row["errors"], 12).tolist() for row in rows] == [[list(pair) for pair in row] for row in wanted]
    lines = tables.predicted_lines(rows, made.arms)
    assert lines[:2] == [
        "From the first step to the last it falls in e5 at 1 of 2 and in e6 at 1 of 2 timesteps.",
        "At the last step e6's is the lower one at 1 of 2, t = 990.",
    ]
    # Mid-grey's, of the published means and deviations of CIFAR-10: mean of (2 m - 1)^2 + (2 s)^2 over the channels.
    grey = np.mean([(2 * m - 1) ** 2 + 4 * s**2 for m, s in ((0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616))])
    assert all(f"about {grey:.2f} on CIFAR-10, at t = 990." in line for line in lines[2:])


def test_the_tables_of_trends_and_differences(made: Made) -> None:
    """Catches a change of the other arm or sampler, one error for 1.96, seeds that average the samples' noise out, and
    a share of the whole FID for that of what lies above the floor."""
    rows = [tables.trend_row(*row) for row in summary.trends(made.selection)]
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
        assert row["word"] == found.word("e6 higher", "e6 lower", "inside the noise")
    assert {row["word"] for row in rows} == {"inside the noise", "e6 lower of these runs", "e6 higher"}


def test_the_table_of_traces(made: Made) -> None:
    """Change at each step, then the mean, of each seed; six blocks of steps left out in turn; the draws' errors as bad
    as they can be. Catches windows off by one, blocks of the mean curves, and errors of the other arm."""
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
                worst.append(196 * (errors["e6"] + quotient * errors["e5"]) / means["e5"])
            reach_of[metric, span] = np.mean(worst)
            assert row["draws"] == f"{number - np.mean(worst):.1f} to {number + np.mean(worst):.1f}"
    assert next(rows, None) is None and len(set(reach_of.values())) == 6


def test_the_table_of_pairs() -> None:
    """The mean over the checkpoints and the last one. Catches the first checkpoint, and ends in each other's place."""
    rows = tables.pair_rows(PAIRS)
    assert [tuple(row.values()) for row in rows[:4]] == [
        ("each arm's own, trained loss", "1", "10,000", "-15.0", "-18.0 to -12.0", "1 10000"),
        ("each arm's own, trained loss", "1", "mean", "-18.0", "-20.0 to -16.0", "1 0"),
        ("each arm's own, trained loss", "2", "10,000", "-16.0", "-17.0 to -15.0", "2 10000"),
        ("each arm's own, trained loss", "2", "mean", "-17.0", "-21.0 to -13.0", "2 0"),
    ]
    assert rows[-1]["loss"] == "common, unweighted loss" and rows[-1]["interval"] == "-7.7 to 17.7" and len(rows) == 10


def test_the_table_of_a_sweep(made: Made) -> None:
    """The last milestone of three runs. Catches the first one, and a trace in the other's column."""
    found = {
        row["steps"]: row for row in tables.sweep_rows(entries(open_source(str(made.swept)))) if row["loss"] != "minsnr"
    }
    e5, e1 = found["10000"], found["30000"]
    assert (e5["step"], e5["fid"], e1["fid"]) == ("10,000", "24.00 ± 0.98", "31.00 ± 0.49")
    assert (e5[f"{HUTCH}_mean"], e5[f"{REF}_mean"]) == ("400.0", "440.0")  # 800 - 20 * 20, 880 - 22 * 20


# ---- the log ---------------------------------------------------------------------------------------------

EVERY = np.arange(100, 10_001, 100)


def curves(scale: float, phase: int) -> dict[str, np.ndarray]:
    """Loss, gradient norm and trace, with its error, at 100 steps; `phase` makes other noise."""
    wave = np.cos(2.0 * np.arange(100) + phase)
    fall = np.exp(-EVERY / 2000)
    return {
        "train/loss": scale * (0.1 + fall) * np.exp(0.2 * wave),
        "train/grad_global_L2": (0.2 + fall) * np.exp(0.1 * wave),
        f"{HUTCH}_mean": (300 + 500 * fall) * (1 + 0.01 * wave) / scale,
        f"{HUTCH}_sem": 5 + EVERY / 1000 + phase,
    }


def test_the_table_of_the_log() -> None:
    """Values and means over windows, the change, and its standard error: of one value by the noise from step to step
    around it (second differences of the logarithm) or of the trace's draws, of a window by the jackknife of the
    quotient. Catches ours against theirs upside down, windows off by one, and errors of one of the two alone."""
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
                errors, most = math.log(b / a) / math.hypot(*noises), 1.96
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
    """Catches what could not be seen counted as within noise, and a bound on the other side of 25 %."""
    ours = [
        Gap("train/loss", (8000, 10_000), 1.0, 1 + x, 100 * x, sem) for x, sem in ((0.5, 0.05), (0.1, 0.2), (0.1, None))
    ]
    line = summary.log_line(ours, [replace(gap, change=-50.0) for gap in ours[:1]])
    # 0.05 t5 is 13 %, 0.2 t5 is 51 %
    assert (
        "in 1 of 2 numbers compared, the faithful rerun in 1 of 1. 1 of ours could not have shown a difference of"
        in line
    )


# ---- claims ----------------------------------------------------------------------------------------------


def test_what_a_claim_about_fids_measures(made: Made) -> None:
    """Each kind of number, with both intervals. Catches a share of real images' score, and a band of the largest."""

    def of(kind: str, sampler: str, arm: str = "e6") -> Known:
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
    assert band.per_seed == pytest.approx((100 * 5 / 52.5, 100 * 7 / 55.5)) and band.counted


def test_the_table_of_claims() -> None:
    """Catches the study's number in our column, intervals in each other's place, and a verdict of the wrong check."""
    ours = Known(-15.28, (-14.5, -16.0), (-18.5, -12.0), (-24.8, -5.7))
    counted = Known(2000.0, (1500.0, 2500.0), counted=True)
    lines = (
        Line("the change", "at most 0 %", " %", Known(-15.2), ours, "holds"),
        Line("the step", "at most 1", "", Known(reason="not logged"), counted, "undecided"),
    )
    judged = Judged("E6", Said(says="it is lower", checks=(), note="A note."), lines, "undecided")
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
    every = [replace(judged, verdict=v) for v in ("holds of these runs", "holds", "does not hold", "undecided")]
    assert summary.claims_line([*every, *[replace(judged, verdict="cannot be said")] * 3]) == (
        "Of 7 claims of the two documents, 2 hold of our runs, 1 do not, 1 are undecided, and of 3 nothing can be said."
    )


# ---- answers ---------------------------------------------------------------------------------------------


def percent(found: ByHand) -> str:
    return f"{found.number:+.1f} %; {found.within[0]:.1f} to {found.within[1]:.1f}"


def three(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")


def test_the_answer_on_the_plateau(made: Made) -> None:
    """Catches a sampler's numbers under the other's name, the first step's share for the last one's, and a plateau that
    is put down to the sampler whatever its level."""
    found = summary.plateau(made.selection)
    parts = []
    for arm in ARMS:
        of_each = [
            f"by {NAMES[s]} {three(level(arm, s, 2000).number)} to {three(level(arm, s, 10_000).number)} "
            f"({percent(change(arm, s))})"
            for s in (OLD, NEW)
        ]
        parts.append(f"{arm} from 2k to 10k steps {' and '.join(of_each)}")
    shares = [100 * level("e5", s, 10_000).number / CEILING for s in (OLD, NEW)]
    ends = (
        f"Real images score 1.50 and uniform noise 60.0, of which e5 ends at {shares[0]:.0f} % and {shares[1]:.0f} %."
    )
    near = "Near noise is from 80 % of what uniform noise scores."
    assert found.text == f"FID of the same checkpoints: {'; '.join(parts)}. {ends} {near}"
    # e5's trends are +10 and +13.5 % by the study's sampler, and -33 by the other; e6's +4 and -1, and -24 and -22 %
    assert found.word == "Yes, by its level; the trends are opposite in e5 alone"


def test_the_answer_on_the_traces(made: Made) -> None:
    """By the draws where there are any: their mean over seeds. Catches the trained loss for the common one, the study's
    number for ours, and a change that is told from nothing by the end of one interval."""
    found = summary.flatter(made.selection, PAIRS, made.selection)
    own, common = (np.mean([relative(f"{metric}_mean", seed) for seed in SEEDS]) for metric in (HUTCH, REF))
    lower = [int((mean("e6", f"{m}_mean") < mean("e5", f"{m}_mean")).sum()) for m in (HUTCH, REF)]
    side = "below" if common < 0 else "above"
    assert own < 0 and found.text == (
        f"Averaged over 20 steps E6's trace of its own, trained loss lies {-own:.1f} % below E5's (the study's log: "
        f"{-own:.1f} % below), of the common loss {abs(common):.1f} % {side}; lower at {lower[0]} and at {lower[1]} of "
        "them. Draw by draw, of the mean trace over the checkpoints: -17.5 %; -20.5 to -14.5, and +5.0 %; 2.5 to 7.5."
    )
    assert found.word == "Nothing of these runs"  # beyond the draws, not beyond two seeds
    flipped = PAIRS.assign(change_pct=-PAIRS.change_pct, low_pct=-PAIRS.high_pct, high_pct=-PAIRS.low_pct)
    assert summary.flatter(made.selection, flipped, made.selection).word == "5.0 % of these runs"
    wide = PAIRS.assign(low_pct=-50, high_pct=50)
    assert summary.flatter(made.selection, wide, made.selection).word == "Not told from nothing"


def test_the_answer_on_fid(made: Made) -> None:
    """Catches e5 against e6, a step that is not the last, and a difference that one sampler of two decides alone."""
    found = summary.responds(made.selection)
    of_new, of_ddim = (difference(sampler, 10_000, percent=True) for sampler in (NEW, DDIM))
    apart = [each.word("higher, beyond", "lower, beyond", "inside the noise") for each in (of_new, of_ddim)]
    assert apart == ["higher, beyond", "inside the noise"]
    said = f"by respaced DDPM at 10k ({percent(of_new)}) higher, beyond the noise of samples and of seeds; "
    said += f"by DDIM at 10k ({percent(of_ddim)}) inside the noise."
    above = level("e5", NEW, 10_000).number - FLOOR
    assert found.text == f"E6 against E5: {said} Above real images E5 is by {three(above)}, by respaced DDPM."
    assert found.word == "Yes, E6's is higher, by one sampler of two"
