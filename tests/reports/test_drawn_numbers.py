"""Every figure of a report against numbers worked out by hand from a small selection of runs (`by_hand.py`). These
tests check the drawn values, not only that something is drawn. A figure without a check here fails."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from reports.experiments.selection import Selection
from reports.figures import FIGURES
from reports.figures.curves import smoothing_window
from reports.figures.style import Drawn, theme
from tests.reports import by_hand, noise_by_hand
from tests.reports.by_hand import (
    BATCH,
    CEILING,
    COLOURS,
    FINALS,
    FLOOR,
    LABELS,
    MARKERS,
    MILESTONES,
    STEPS,
    TIMESTEPS,
    Z95,
    Selections,
    at_milestones,
    count_lines,
    error_bars,
    labels_of,
    logged,
    mean,
    scattered,
    smoothed,
    the_band,
    the_line,
    upright,
)
from tests.reports.conftest import chosen, write_run

ARMS = ("e5", "e6")
HUTCH, REF = "curvature/hutch_trace", "curvature/ref_trace"
Check = Callable[[Selections, Path], None]
CHECKS: dict[str, Check] = {**noise_by_hand.CHECKS}


def shows(name: str) -> Callable[[Check], Check]:
    """The decorated function checks the figure `name`."""

    def keep(check: Check) -> Check:
        CHECKS[name] = check
        return check

    return keep


@pytest.fixture(scope="module")
def selections(tmp_path_factory: pytest.TempPathFactory) -> Selections:
    """The runs of `by_hand.py`, written once."""
    return by_hand.make_selections(tmp_path_factory.mktemp("by-hand"))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_shows_its_numbers(name: str, selections: Selections, tmp_path: Path) -> None:
    """Catches a figure without a check of its numbers, and everything that the checks below catch."""
    assert name in CHECKS, f"no check here says what {name} has to show"
    CHECKS[name](selections, tmp_path)


def test_no_check_is_of_a_figure_that_is_gone() -> None:
    """Catches a check that never runs because its figure has another name now."""
    assert set(CHECKS) == set(FIGURES)


def draw(name: str, selection: Selection) -> Drawn:
    """The figure as a report draws it, not saved."""
    with theme():
        return FIGURES[name][1](selection, False)


def panels_of(figure: Figure, count: int) -> list[Axes]:
    assert len(figure.axes) == count
    return list(figure.axes)


# ---- what several figures have ---------------------------------------------------------------------------


def of_seeds(axes: Axes, experiment: str, metric: str, steps: np.ndarray = STEPS, reach: int = 0) -> None:
    """Every seed's points, and the band between the seeds. For two seeds, the band is the range of their (smoothed)
    values."""
    each = [logged(experiment, seed)[metric] for seed in (1, 2)]
    the_line(axes, np.tile(steps, 2), np.concatenate(each), color=COLOURS[experiment], marker=".")
    each = [smoothed(values, reach) for values in each]
    the_band(axes, steps, np.minimum(*each), np.maximum(*each), COLOURS[experiment])


def of_smoothed(axes: Axes, experiment: str, metric: str, label: str = "") -> None:
    """20 points from each of two seeds, with the rolling mean over 3 of the seeds' mean."""
    look = {"label": label} if label else {}
    the_line(axes, STEPS, smoothed(mean(experiment, metric)), color=COLOURS[experiment], **look)
    of_seeds(axes, experiment, metric, reach=1)


def of_fids(axes: Axes, experiment: str, label: str = "") -> None:
    """The FIDs of two seeds at the milestones, and their mean with markers."""
    look = {"color": COLOURS[experiment], "marker": MARKERS[experiment]} | ({"label": label} if label else {})
    the_line(axes, MILESTONES, mean(experiment, "val/fid"), **look)
    of_seeds(axes, experiment, "val/fid", np.array(MILESTONES))


def of_traces(axes: Axes, experiment: str, metric: str, seeds: int) -> None:
    """The mean without smoothing, with the seeds' band and points. For one seed, the band is +- one standard error of
    its probes."""
    colour = COLOURS[experiment]
    if seeds == 2:
        the_line(axes, STEPS, mean(experiment, f"{metric}_mean"), color=colour)
        of_seeds(axes, experiment, f"{metric}_mean")
        return
    values, error = (logged(experiment, 1)[f"{metric}_{name}"] for name in ("mean", "sem"))
    the_line(axes, STEPS, values, color=colour, marker=".")
    the_band(axes, STEPS, values - error, values + error, colour)


# ---- over steps ------------------------------------------------------------------------------------------


@shows("loss_fid_vs_step")
def loss_fid_vs_step(runs: Selections, _: Path) -> None:
    """Catches one seed in place of the mean, a line or band of another arm or window, stars at another step than the
    last, and a caption with other milestones than the first and last."""
    drawn = draw("loss_fid_vs_step", runs.two)
    loss, fid = panels_of(drawn.figure, 2)
    for arm in ARMS:
        of_smoothed(loss, arm, "train/loss", LABELS[arm])
        of_fids(fid, arm)
        finals = [FINALS[arm, seed] for seed in (1, 2)]
        the_line(fid, [10_000, 10_000], finals, color=COLOURS[arm], marker="*")
    assert labels_of(loss) == [LABELS[arm] for arm in ARMS]
    assert labels_of(fid) == ["final FID (another protocol than the milestones')"]
    assert (count_lines(loss), count_lines(fid)) == (4, 6)
    assert "points: logged values; lines: centred rolling mean of 3" in loss.get_title()
    assert "optimise differently weighted losses" in loss.get_title()
    assert loss.get_ylabel() == "training loss\n(weighted MSE)" and fid.get_ylabel() == "FID (lower is better)"
    said = "FID at the first and last milestone: e5 41.50 at 2000 and 24.50 at 10000; e6 38.50 at 2000 and 28.60 at"
    assert drawn.caption.endswith(f"mean over 2 seeds, band: 95 % bootstrap interval over seeds. {said} 10000.")


@shows("fid_vs_step")
def fid_vs_step(runs: Selections, _: Path) -> None:
    """One seed has bars of 1.96 errors of its samples, the ends of the scale, and the context beside the arms. Two
    seeds have the seeds' points and band. Catches bars of one error, bars of another arm, and swapped floor and
    ceiling."""
    drawn = draw("fid_vs_step", runs.one)
    (axes,) = drawn.figure.axes
    for arm in ("e1", *ARMS):
        values = logged(arm, 1)
        the_line(axes, MILESTONES, values["val/fid"], color=COLOURS[arm], marker=MARKERS[arm])
        upright(axes, COLOURS[arm], MILESTONES, values["val/fid"], Z95 * values["val/fid_sem"])
    the_line(axes, [0, 1], [FLOOR] * 2, linestyle=":", label="as many real images: 1.25")
    the_line(axes, [0, 1], [CEILING] * 2, linestyle="-.", label="uniform noise: 50.00")
    assert count_lines(axes) == 5 and not by_hand.bands(axes)
    assert (axes.get_xscale(), axes.get_xlabel()) == ("log", "step (log scale)")  # e1 is three times as long
    assert "Bars: 95 % interval of a single seed's value from the noise of its samples." in drawn.caption
    ends = "e1 35.00 at 2000 and 31.00 at 10000; e5 40.00 at 2000 and 24.00 at 10000; e6 38.00 at 2000 and 28.00 at"
    assert f"FID at the first and last milestone: {ends} 10000. " in drawn.caption
    assert "Uniform noise scores 50.00." in drawn.caption

    (axes,) = draw("fid_vs_step", runs.two).figure.axes
    for arm in ARMS:
        of_fids(axes, arm, LABELS[arm])
    assert not error_bars(axes) and axes.get_xscale() == "linear"


@shows("curvature_vs_step")
def curvature_vs_step(runs: Selections, _: Path) -> None:
    """Catches a band of two errors or of the probes' std, a smoothed seeds' band, and swapped panels of the two
    losses."""
    for selection, seeds in ((runs.two, 2), (runs.one, 1)):
        drawn = draw("curvature_vs_step", selection)
        for axes, metric in zip(panels_of(drawn.figure, 2), (HUTCH, REF), strict=True):
            for arm in ARMS:
                of_traces(axes, arm, metric, seeds)
            assert count_lines(axes) == 2 * seeds and labels_of(axes) == [LABELS[arm] for arm in ARMS]
            probes, of_seeds = "band: ±1 standard error over the probes", "band: 95 % bootstrap interval over seeds"
            assert (probes in axes.get_title(), of_seeds in axes.get_title()) == (seeds == 1, seeds == 2)
        assert "Trained loss" in drawn.figure.axes[0].get_title()
        assert "Common unweighted loss: the same in every arm" in drawn.figure.axes[1].get_title()


@shows("curvature_with_loss")
def curvature_with_loss(runs: Selections, _: Path) -> None:
    """Catches swapped columns of the two arms, and a y-axis that is not shared, so that one arm looks like the
    other."""
    drawn = draw("curvature_with_loss", runs.two)
    grid = np.array(panels_of(drawn.figure, 4)).reshape(2, 2)
    for (top, bottom), arm in zip(grid.T, ARMS, strict=True):
        of_traces(top, arm, HUTCH, 2)
        of_smoothed(bottom, arm, "train/loss")
        assert top.get_title() == LABELS[arm] and (count_lines(top), count_lines(bottom)) == (2, 2)
    for row, metric in zip(grid, (f"{HUTCH}_mean", "train/loss"), strict=True):
        (limits,) = {axes.get_ylim() for axes in row}
        values = np.concatenate([logged(arm, seed)[metric] for arm in ARMS for seed in (1, 2)])
        assert limits[0] < values.min() and values.max() < limits[1]


@shows("small_multiples")
def small_multiples(runs: Selections, _: Path) -> None:
    """Catches a panel of another metric, and smoothed milestones."""
    loss, fid, norm, trace = panels_of(draw("small_multiples", runs.two).figure, 4)
    for arm in ARMS:
        of_smoothed(loss, arm, "train/loss", LABELS[arm])
        of_fids(fid, arm, LABELS[arm])
        of_smoothed(norm, arm, "train/grad_global_L2", LABELS[arm])
        of_smoothed(trace, arm, f"{HUTCH}_mean", LABELS[arm])
    assert [count_lines(axes) for axes in (loss, fid, norm, trace)] == [4] * 4
    assert [axes.get_ylabel().split("\n")[0] for axes in (fid, norm)] == ["FID (lower is better)", "gradient L2 norm"]


@pytest.mark.parametrize(
    ("points", "window"), [(15, 1), (16, 3), (31, 3), (32, 5), (112, 15), (1599, 15), (1600, 17), (10_000, 101)]
)
def test_the_rolling_mean_is_over_so_many(points: int, window: int) -> None:
    """The window grows by one point to either side for every 16 points, up to 15, and is 1 % of a long curve. Catches
    flattened curves."""
    assert smoothing_window(points) == window


# ---- one against another ---------------------------------------------------------------------------------


@shows("curvature_vs_fid")
def curvature_vs_fid(runs: Selections, _: Path) -> None:
    """Bars show one standard error of the trace: for two seeds, half the root of the sum of squares. Catches swapped
    axes, bars of another step or of two errors, and labels at other points than theirs."""
    drawn = draw("curvature_vs_fid", runs.two)
    (axes,) = drawn.figure.axes
    points = set()
    for arm in ARMS:
        trace, fid = at_milestones(mean(arm, f"{HUTCH}_mean")), mean(arm, "val/fid")
        errors = [at_milestones(logged(arm, seed)[f"{HUTCH}_sem"]) for seed in (1, 2)]
        error = np.sqrt(sum(each**2 for each in errors)) / 2
        the_line(axes, trace, fid, color=COLOURS[arm], marker=MARKERS[arm])
        (bars,) = [ends for shade, ends in error_bars(axes) if shade == COLOURS[arm]]
        assert by_hand.near(bars[:, 0], np.stack([trace - error, fid], 1))
        assert by_hand.near(bars[:, 1], np.stack([trace + error, fid], 1))
        points |= {(text, x, y) for text, x, y in zip(("2k", "6k", "10k"), trace, fid, strict=True)}
        said = f"{arm} goes from trace {trace[0]:.4g} and FID {fid[0]:.2f} (step 2000) to trace {trace[2]:.4g} and"
        assert f"{said} FID {fid[2]:.2f} (step 10000)" in drawn.caption
    assert {(text.get_text(), *text.xy) for text in axes.texts} == points
    assert labels_of(axes) == [LABELS[arm] for arm in ARMS]
    assert "Hessian trace" in axes.get_xlabel() and axes.get_ylabel() == "FID (lower is better)"


@shows("trained_vs_common_trace")
def trained_vs_common_trace(runs: Selections, _: Path) -> None:
    """Catches an inverted quotient, a mean in place of the median, and swapped axes."""
    drawn = draw("trained_vs_common_trace", runs.two)
    left, right = panels_of(drawn.figure, 2)
    for arm, weight in (("e5", 1.0), ("e6", 0.75)):
        trained, common = mean(arm, f"{HUTCH}_mean"), mean(arm, f"{REF}_mean")
        ratio = trained / common
        the_line(left, common, trained, color=COLOURS[arm], linestyle="None")
        the_line(right, STEPS, ratio, color=COLOURS[arm], label=LABELS[arm])
        the_line(right, [0, 1], [weight] * 2, color=COLOURS[arm], linestyle=":")
        assert f"{arm} {np.median(ratio):.3f} (median), mean weight {weight:.3f}" in drawn.caption
    (equal,) = [line for line in left.lines if line.get_color() == "grey"]
    assert np.array_equal(equal.get_xdata(), equal.get_ydata()) and equal.get_xdata()[0] < equal.get_xdata()[1]
    assert "unweighted loss" in left.get_xlabel() and "unweighted" not in left.get_ylabel()


def of_points(drawn: Drawn, x: str, y: str) -> None:
    """A panel for each arm with every measurement of both seeds, coloured by its step, and their rank correlation."""
    first, second, bar = panels_of(drawn.figure, 3)
    for axes, arm in ((first, "e5"), (second, "e6")):
        pairs = [np.concatenate([logged(arm, seed)[name] for seed in (1, 2)]) for name in (x, y)]
        found, by_step = scattered(axes)
        assert by_hand.near(found, np.stack(pairs, 1)) and np.array_equal(by_step, np.tile(STEPS, 2))
        assert axes.collections[0].get_clim() == (500, 10_000) and axes.get_title() == LABELS[arm]
        assert f"{arm} {stats.spearmanr(*pairs).statistic:+.2f} over 40 points" in drawn.caption
    assert bar.get_ylim() == (500, 10_000) and bar.get_ylabel() == "step"


@shows("trace_mean_vs_std")
def trace_mean_vs_std(runs: Selections, _: Path) -> None:
    """Catches the error in place of the std, swapped axes, and points that are not coloured by step."""
    drawn = draw("trace_mean_vs_std", runs.two)
    of_points(drawn, f"{HUTCH}_mean", f"{HUTCH}_std")
    assert "its mean and its std over the probes" in drawn.caption


@shows("trace_vs_gradient")
def trace_vs_gradient(runs: Selections, _: Path) -> None:
    """Catches the gradient's norm in place of its mean size, and swapped axes."""
    drawn = draw("trace_vs_gradient", runs.two)
    of_points(drawn, "train/grad_abs_mean", f"{HUTCH}_mean")
    assert drawn.figure.axes[0].get_xlabel() == "mean |gradient|"


@shows("timestep_profile")
def timestep_profile(runs: Selections, _: Path) -> None:
    """Each t has six values: three steps from 8000 on, for two seeds. Bars show their std over the root of 6. e6's
    weight at t is t / 1000 + 1 / 4. Catches a profile from other steps, bars of the std, and a weight of another t or
    arm."""
    mse, weight, both = panels_of(draw("timestep_profile", runs.two).figure, 3)
    for arm in ARMS:
        late = [[by_hand.profile_value(arm, s, t, n) for s in (1, 2) for n in (8000, 9000, 10_000)] for t in TIMESTEPS]
        means, errors = np.mean(late, axis=1), np.std(late, axis=1, ddof=1) / 6**0.5
        weights = np.array(TIMESTEPS) / 1000 + 0.25 if arm == "e6" else np.ones(3)
        for axes, by in ((mse, np.ones(3)), (both, weights)):
            the_line(axes, TIMESTEPS, by * means, color=COLOURS[arm], marker=MARKERS[arm])
            upright(axes, COLOURS[arm], TIMESTEPS, by * means, by * errors)
    the_line(weight, [0, 999], [1, 1], color=COLOURS["e5"], label=LABELS["e5"])
    the_line(weight, [0, 1000], [0.25, 1.25], color=COLOURS["e6"], label=LABELS["e6"])
    assert [axes.get_title() for axes in (mse, weight, both)] == [
        *("eps-MSE, unweighted", "weight of the eps-MSE", "weight × eps-MSE")
    ]
    assert {axes.get_yscale() for axes in (mse, weight, both)} == {"log"}


def test_what_spans_more_than_a_decade_has_a_log_axis(tmp_path: Path) -> None:
    """A loss from 22 to 2 is on a log axis; one from 18 to 2 is not. Catches a threshold other than a decade."""
    for first, scale in ((22.0, "log"), (18.0, "linear")):
        root = tmp_path / scale
        for arm in ARMS:
            write_run(root / arm, arm, rows=[(10, {"train/loss": first}), (20, {"train/loss": 2.0})])
        (axes,) = draw("loss_fid_vs_step", chosen(root, "e6")).figure.axes
        assert axes.get_yscale() == scale and ("log scale" in axes.get_ylabel()) == (scale == "log")


def test_three_seeds_are_their_mean(tmp_path: Path) -> None:
    """FIDs of 10, 11 and 18 have the mean 13. The band reaches from 10 to 18, as the lowest of 27 resamples has a
    chance of 1 / 27. Catches the median, and a band whose tails are cut deeper."""
    for seed, fid in ((1, 11.0), (2, 18.0), (3, 10.0)):
        rows = [(step, {"val/fid": fid + step, "val/fid_protocol": "aaaa1111"}) for step in (100, 200)]
        write_run(tmp_path / str(seed), "e5", seed, rows=rows)
    (axes,) = draw("fid_vs_step", chosen(tmp_path, "e5")).figure.axes
    the_line(axes, [100, 200], [113, 213], color=COLOURS["e5"], marker="o")
    the_band(axes, [100, 200], [110, 210], [118, 218], COLOURS["e5"])
    the_line(axes, [100, 200] * 3, [111, 211, 118, 218, 110, 210], marker=".")


def test_a_caption_says_which_arm_lacks_what(runs_of_one_arm: Selection, selections: Selections) -> None:
    """e6 logged only a loss. Catches a missing arm that the caption does not name, and a present arm that it calls
    missing."""
    said = {
        "time_breakdown": "Not logged in e6.",
        "fid_vs_cost": "Not in every panel, for lack of logged values: e6.",
        "trace_vs_gradient": "Not logged in e6.",
        "curvature_with_loss": "No trace was logged in e6.",
        "sample_grids": "There are no grids in e6.",
    }
    for name, sentence in said.items():
        assert sentence in draw(name, runs_of_one_arm).caption, name
        assert sentence.split(" in e6")[0] not in draw(name, selections.two).caption, name


@pytest.fixture
def runs_of_one_arm(tmp_path: Path) -> Selection:
    """e5 complete, and e6 with nothing but a loss."""
    e5 = by_hand.write_runs(tmp_path / "both", (1,)) / "e5-1"
    e5.rename(tmp_path / "e5")
    folder = write_run(tmp_path / "e6", "e6", rows=[(500, {"train/loss": 1.0})], train__total_steps=10_000)
    for picture in (folder / "samples").iterdir():
        picture.unlink()
    shutil.rmtree(tmp_path / "both")  # removes its e6 too
    return chosen(tmp_path, "e6")


# ---- cost ------------------------------------------------------------------------------------------------


@shows("fid_vs_cost")
def fid_vs_cost(runs: Selections, _: Path) -> None:
    """Catches cost and score from different steps, the seconds of training alone, and one arm's images for the
    other's."""
    drawn = draw("fid_vs_cost", runs.two)
    panels = panels_of(drawn.figure, 4)
    for place, axes in enumerate(panels):
        score = ("val/fid", "val/kid")[place // 2]
        for arm in ARMS:
            total = np.mean([by_hand.seconds(arm, seed)["total"] for seed in (1, 2)])
            cost = np.array(MILESTONES) * (BATCH[arm] if place % 2 else total / 10_000)
            the_line(axes, cost, mean(arm, score), color=COLOURS[arm], marker=MARKERS[arm], label=LABELS[arm])
        assert count_lines(axes) == 2
    assert ["(s)" in axes.get_xlabel() for axes in panels] == [True, False, True, False]
    assert [axes.get_ylabel().split()[0] for axes in panels] == ["FID", "FID", "KID", "KID"]


def test_images_that_were_not_logged_are_steps_times_batch(tmp_path: Path) -> None:
    """Catches steps shown as images for a log of the original study."""
    row = {"val/fid": 30.0, "val/fid_protocol": "aaaa1111"}
    write_run(tmp_path / "e5", "e5", rows=[(100, row), (200, row)], data__batch_size=16)
    (axes,) = draw("fid_vs_cost", chosen(tmp_path, "e5")).figure.axes
    the_line(axes, [1600, 3200], [30, 30])


@shows("time_breakdown")
def time_breakdown(runs: Selections, _: Path) -> None:
    """Means over two seeds of the last rows' times, one after the other, with the rest of the total as `other`. The
    stated share is the time outside training. Catches inverted shares, sums over seeds, and swapped parts."""
    drawn = draw("time_breakdown", runs.two)
    (axes,) = drawn.figure.axes
    wanted = {  # e5 and e6: seconds, by hand
        **{"train": (210, 250), "probe": (50, 110), "sample": (32, 34), "features": (12, 14), "distance": (8, 10)},
        **{"recon": (3, 0), "other": (17, 14)},
    }
    left = np.zeros(2)
    assert [bar.get_label() for bar in axes.containers] == list(wanted)
    for bar in axes.containers:
        widths = np.array(wanted[bar.get_label()])
        assert np.allclose([patch.get_width() for patch in bar], widths)
        assert np.allclose([patch.get_x() for patch in bar], left)
        assert np.allclose([patch.get_y() + patch.get_height() / 2 for patch in bar], [0, 1])
        left = left + widths
    assert left.tolist() == [332, 432] and axes.get_xlabel() == "wall-clock (s)" and axes.yaxis_inverted()
    assert [text.get_text() for text in axes.get_yticklabels()] == [LABELS[arm] for arm in ARMS]
    assert "e5: 37 % of 332 s outside the training steps; e6: 42 % of 432 s outside" in drawn.caption  # 122, 182


@shows("nfe_fid")
def nfe_fid(_: Selections, root: Path) -> None:
    """e5 has two seeds at NFE 50, whose last FIDs are 24 and 26, and one at NFE 10; e6 has two runs. Catches a run's
    first or lowest FID in place of its last, points of two samplers on one line, and the sum over seeds for the
    mean."""
    card = {"n_samples": 64, "features": "f"}
    protocols = {f"{s}-{n}": {**card, "sampler": s, "nfe": n} for s in ("ddpm", "ddim") for n in (10, 50)}
    made = [("e5", 1, "ddpm-50", 24.0), ("e5", 2, "ddpm-50", 26.0), ("e5", 3, "ddpm-10", 60.0)]
    made += [("e6", 1, "ddpm-10", 50.0), ("e6", 2, "ddim-50", 21.0)]
    for arm, seed, protocol, last in made:
        fids = [(100, {"val/fid": 20.0}), (200, {"val/fid": last})]
        rows = [(step, row | {"val/fid_protocol": protocol}) for step, row in fids]
        by_hand.describe(write_run(root / f"{arm}-{seed}", arm, seed, rows=rows), protocols)
    drawn = draw("nfe_fid", chosen(root, "e6"))
    (axes,) = drawn.figure.axes
    the_line(axes, [10, 50], [60, 25], color=COLOURS["e5"], label=f"{LABELS['e5']}, sampler = ddpm")
    the_line(axes, [10], [50], color=COLOURS["e6"], label=f"{LABELS['e6']}, sampler = ddpm")
    the_line(axes, [50], [21], color=COLOURS["e6"], label=f"{LABELS['e6']}, sampler = ddim")
    assert count_lines(axes) == 3 and (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert drawn.caption.startswith("Each run's last val/fid by its sampler's NFE")


@shows("sample_grids")
def sample_grids(runs: Selections, _: Path) -> None:
    """Each grid has one grey level, which identifies it. Catches the grid of another step, seed or arm."""
    drawn = draw("sample_grids", runs.two)
    for axes, arm in zip(panels_of(drawn.figure, 2), ARMS, strict=True):
        (image,) = axes.images
        assert np.unique(np.asarray(image.get_array())[..., :3] * 255).round() == [by_hand.pixel(arm, 1, 6000)]
        assert axes.get_title() == f"{LABELS[arm]}\nstep 6000"
    assert "Samples at step 6000, the last step at which" in drawn.caption and "(e5 seed 1, e6 seed 1)" in drawn.caption
