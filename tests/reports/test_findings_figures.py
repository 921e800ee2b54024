"""The figures of docs/findings.md against the numbers of `findings_by_hand.py`. A figure without a check here fails."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpm.names import NOISE_BINS, NOISE_EDGES
from reports.experiments import load
from reports.experiments.selection import Arm
from reports.figures.library import draw_library, entries
from reports.figures.style import colour, theme
from reports.runs import Later
from reports.sources import open_source
from reports.studies.min_snr import figures
from reports.studies.min_snr.gallery import listed
from reports.studies.probe_pairs import draw
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
    smoothed,
    the_band,
    the_line,
    upright,
)
from tests.reports.conftest import config_of
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
    Made,
    level,
    make,
    relative,
)

VERMILION, GREEN, GREY, PINK = "#d55e00", "#029e73", "#949494", "#cc78bc"
CHECKS: dict[str, Callable[[Made], None]] = {}


def shows(name: str) -> Callable[[Callable[[Made], None]], Callable[[Made], None]]:
    """The decorated function checks the figure `name`."""

    def keep(check: Callable[[Made], None]) -> Callable[[Made], None]:
        CHECKS[name] = check
        return check

    return keep


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The runs of `findings_by_hand.py`, made once."""
    return make(tmp_path_factory.mktemp("findings"))


@pytest.mark.parametrize("name", [Path(entry["image"]).stem for entry in listed()["findings"]])
def test_a_figure_shows_its_numbers(name: str, made: Made) -> None:
    """Catches a figure without a check of its numbers, and everything that the checks below catch."""
    assert name in CHECKS, f"no check here says what {name} has to show"
    with theme():
        CHECKS[name](made)


def panels_of(figure: Figure, count: int) -> list[Axes]:
    assert len(figure.axes) == count
    return list(figure.axes)


def of_fids(axes: Axes, arm: str, sampler: str, shade: str, text: str, aside: float = 0.0) -> None:
    """The means with their bars, and the seeds' points."""
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


def _with_more(arm: Arm) -> Arm:
    """The arm with a milestone FID for each seed, and an excess over the floor for each noise level."""
    runs = []
    for run in arm.runs:
        more = {"val/fid": {10_000: FIDS[arm.experiment, NEW][10_000][(run.seed or 0) - 1]}}
        for place, name in enumerate(NOISE_BINS):
            more[f"loss_by_noise/{name}_excess"] = {2000: 9.0, 10_000: _excess(arm.experiment, place)}
            more[f"loss_by_noise/{name}_excess_sem"] = {2000: 9.0, 10_000: 0.1 * _excess(arm.experiment, place)}
        begun = [(10_000, 20.0 + (run.seed or 0)), *([(2000, 30.0)] if run.seed == 1 else [])]
        later = tuple(Later(step, "evaluate/fid", "", v, protocol={"t_start": 699}, noise=0) for step, v in begun)
        run = replace(run, later=later if arm.experiment == "e6" else ())
        runs.append(replace(run, history=pd.concat([run.history, pd.DataFrame(more)], axis=1).sort_index()))
    return replace(arm, runs=tuple(runs))


def _excess(arm: str, place: int) -> float:
    return (2.0 if arm == "e6" else 1.0) * 10.0 ** (place - 4)


@shows("answers")
def answers(made: Made) -> None:
    """Catches FIDs by another sampler than the respaced one, an excess at the first milestone, swapped arms, an effect
    of Min-SNR that is not paired by seed, or in points instead of per cent, and a chain that begins later drawn for an
    arm without one, or as a mean over other seeds at each step."""
    arms = tuple(_with_more(arm) for arm in made.arms)
    of_e6 = replace(made.selection, arms=arms)
    found = {"prediction": replace(of_e6, study=load("prediction")), "e6": of_e6, "e6_v": None}
    left, middle, right = panels_of(figures.answers(found).figure, 3)
    for arm in ARMS:
        of_fids(left, arm, NEW, COLOURS[arm], LABELS[arm])
        values = [_excess(arm, place) for place in range(len(NOISE_BINS))]
        the_line(middle, [low + 1 for low in NOISE_EDGES[:-1]], values, color=COLOURS[arm])
    the_line(left, [2000, 10_000], [30.0, 21.0], color=COLOURS["e6"])
    assert sum("t = 699" in text for text in left.get_legend_handles_labels()[1]) == 1
    of_ends(left)
    b, v = (FIDS[arm, NEW][10_000] for arm in ARMS)
    changes = [100 * (y / x - 1) for x, y in zip(b, v, strict=True)]
    the_line(right, [np.mean(changes)], [0], color=COLOURS["e6"])
    the_line(right, changes, [0, 0], color="k")
    the_line(right, by_hand.student(changes), [0, 0], color=COLOURS["e6"])
    assert [text.get_text() for text in right.get_yticklabels()] == ["eps"]


@shows("the_point")
def the_point(made: Made) -> None:
    """Catches swapped colours of samplers or arms, bars of one error, e5 against e6, and a range of the means in place
    of the range over seeds. The bars from the draws are the mean over seeds of both ends."""
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
    """Catches panels in another order, one sampler's FIDs in another's panel, bars of one error, and separate scales,
    with which a plateau looks as steep as a fall."""
    panels = panels_of(figures.fid(made.selection).figure, 3)
    (limits,) = {axes.get_ylim() for axes in panels}
    assert limits[0] == 0 and limits[1] > CEILING
    for axes, sampler in zip(panels, (OLD, NEW, DDIM), strict=True):
        for arm, aside in (("e5", -120), ("e6", 120)):
            of_fids(axes, arm, sampler, COLOURS[arm], arm, aside)
        of_ends(axes)
        assert count_lines(axes) == 2 * 3 + 2 and axes.get_title() == NAMES[sampler]


@shows("samples")
def samples(made: Made) -> None:
    """Each picture has one grey level. Catches swapped pictures."""
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
    """Catches one loss in both panels. See `curvature_vs_step` of the report."""
    for axes, metric in zip(panels_of(figures.curvature(made.selection).figure, 2), (HUTCH, REF), strict=True):
        for arm in ARMS:
            the_line(axes, STEPS, mean(arm, f"{metric}_mean"), color=COLOURS[arm], label=LABELS[arm])


@shows("log")
def log(made: Made) -> None:
    """Logged values are thin lines and their rolling means over 3 rows thick ones. A trace on fixed draws is not
    smoothed. Catches curves of another run, and a smoothed trace that has no noise."""
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
    """A run's milestones, with a large marker at the last. Catches swapped axes, a marker at the first milestone, and
    the trace of the other loss."""
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
    """The figure of `probe_pairs`. Catches the mean over the checkpoints drawn at step 0, and swapped panels of the two
    losses."""
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
