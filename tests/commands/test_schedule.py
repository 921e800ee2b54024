"""The figures of `ddpm schedule` and `ddpm evaluate`, against numbers worked out by hand."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from ddpm.commands import plots
from ddpm.config.run import Config
from tests.reports.by_hand import count_lines, labels_of, the_line

Drawing = Callable[[ModuleType, Callable[[], Any]], list[Axes]]


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> Drawing:
    """draws(module, function): the panels of the one figure that `function` draws and closes."""

    def draws(module: ModuleType, function: Callable[[], Any]) -> list[Axes]:
        closed: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(module.plt, "close", closed.append)
            function()
        (figure,) = closed
        module.plt.close(figure)
        return list(figure.axes)

    return draws


@pytest.mark.parametrize("zero_terminal", [False, True])
def test_the_schedule_is_drawn_as_it_is(drawing: Drawing, tmp_path: Path, zero_terminal: bool) -> None:
    """alpha_bar of 1000 linear betas, SNR, and every weighting over the trained t, 100 to 899, with its mean. At zero
    terminal SNR the last t has no place on a log axis. Catches swapped signal and noise, SNR upside down, a mean over
    all t, and the wrong weighting marked as configured."""
    diffusion = {"T": 1000, "beta_schedule": "linear", "zero_terminal_snr": zero_terminal}
    if zero_terminal:
        diffusion["prediction"] = "v"
    loss = {"weighting": "soft_minsnr", "minsnr_gamma": 4.0, "p2_k": 2.0, "p2_gamma": 0.5, "t_min": 100, "t_max": 899}
    cfg = Config.model_validate({"experiment": "x", "data": {"root": "none"}, "diffusion": diffusion, "loss": loss})
    signal, snr, weight = drawing(plots, lambda: plots.draw_schedule(cfg, tmp_path / "schedule.png"))

    t, root = np.arange(1000), np.sqrt(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))
    if zero_terminal:  # Lin et al. 2024: shifted so that the last is 0, scaled so that the first stays
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bar = root**2
    the_line(signal, t, alpha_bar, linestyle="-", label=r"$\bar\alpha_t$: signal variance")
    the_line(signal, t, 1 - alpha_bar, linestyle="--", label=r"$1 - \bar\alpha_t$: noise variance")
    there = alpha_bar > 0
    ratio = alpha_bar[there] / (1 - alpha_bar[there])
    the_line(snr, t[there], ratio)
    assert there.sum() == 1000 - zero_terminal
    the_line(snr, [0, 1], [4, 4], linestyle=":", label="loss.minsnr_gamma = 4")
    r = ratio[100:900]
    wanted = {
        "constant": np.ones(800),
        "minsnr": np.minimum(r, 4) / r,
        "minsnr_norm": np.minimum(r, 4) / r / (np.minimum(r, 4) / r).mean(),
        "soft_minsnr": 4 / (r + 4),
        "truncated_snr": np.maximum(r, 1) / r,
        "p2": 1 / np.sqrt(2 + r),
    }
    for name, values in wanted.items():
        configured = name == "soft_minsnr"
        label = f"{name} (mean {values.mean():.3g})" + " <- configured" * configured
        the_line(weight, t[100:900], values, label=label, linewidth=3 if configured else 1.4)
    assert [count_lines(axes) for axes in (signal, snr, weight)] == [2, 2, 6]
    assert [axes.get_yscale() for axes in (signal, snr, weight)] == ["linear", "log", "log"]
    said = signal.figure.get_suptitle()
    assert said == "diffusion.beta_schedule = linear, T = 1000" + ", zero terminal SNR" * zero_terminal


def test_the_frontier_is_drawn_as_it_is(drawing: Drawing, tmp_path: Path) -> None:
    """Two samplers at two NFE, asked for in another order; the intervals reach less far down than up. Catches points
    out of order, bars drawn from the interval's ends instead of their distances, bars upside down, swapped floor and
    ceiling, and linear axes."""
    common = {"run": "r", "step": 4, "weights": "ema", "spacing": "linspace", "x0_limit": "clip", "seed": 0}
    common |= {"features": "f", "reference": "own", "reference_n": 9, "reference_digest": "ab", "n": 70}
    points = [("ddpm", 50, 20.0, 18.0, 23.0), ("ddim", 10, 30.0, 29.0, 34.0), ("ddpm", 10, 40.0, 37.0, 41.0)]
    rows = [
        {**common, "sampler": s, "nfe": nfe, "value": v, "low": low, "high": high, "floor": 1.5, "ceiling": 60.0}
        for s, nfe, v, low, high in points
    ]
    (axes,) = drawing(plots, lambda: plots.draw_frontier(rows, tmp_path / "frontier.png"))
    first = the_line(axes, [10, 50], [40, 20], marker="o")
    second = the_line(axes, [10], [30], marker="s")
    assert first.get_color() != second.get_color()
    the_line(axes, [0, 1], [1.5, 1.5], linestyle=":", label="real images: 1.5")
    the_line(axes, [0, 1], [60, 60], linestyle="--", label="uniform noise: 60")
    bars = [np.array(bar.lines[2][0].get_segments()).tolist() for bar in axes.containers]
    assert bars == [[[[10, 37], [10, 41]], [[50, 18], [50, 23]]], [[[10, 29], [10, 34]]]]
    names = ["uniform noise: 60", "real images: 1.5", "sampler = ddpm", "sampler = ddim"]
    assert labels_of(axes) == names and count_lines(axes) == 4
    assert axes.get_title() == "features f, reference own (9 images, ab), n = 70"
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xticks().tolist() == [10, 50]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("NFE (network calls per image)", "FID (lower is better)")
