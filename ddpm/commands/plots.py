"""The figures of two verbs: FID against NFE (`ddpm evaluate`), and a config's schedule (`ddpm schedule`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from ddpm.config.run import Config
from ddpm.diffusion.weighting import make_weighting, weights
from ddpm.files.disk import replacing, written
from ddpm.models.build import schedule_of
from ddpm.names import WEIGHTINGS
from reports.figures.letters import PlainFigure

# Rows that differ in these are in different panels.
_COMPARABLE = ("features", "reference", "reference_n", "reference_digest", "n")
_LINE = ("run", "step", "weights", "sampler", "spacing", "t_start", "x0_limit", "seed")


def draw_frontier(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """Draw FID with its 95 % interval against NFE on log scales, from the table's rows of the metric fid.

    Each sampler on each checkpoint is a line. FIDs with different features, references or sample counts get a panel of
    their own.
    """
    panels: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        panels.setdefault(tuple(str(row.get(key)) for key in _COMPARABLE), []).append(row)
    named = [key for key in _LINE if len({row.get(key) for row in rows}) > 1 or key == "sampler"]
    with sns.axes_style("whitegrid"):
        figure, found = plt.subplots(
            len(panels),
            1,
            figsize=(9, 0.6 + 4.4 * len(panels)),
            layout="constrained",
            squeeze=False,
            FigureClass=PlainFigure,
        )
        for axes, (what, mine) in zip(found[:, 0], panels.items(), strict=True):
            _draw_panel(axes, mine, named)
            axes.set_title("features {}, reference {} ({} images, {:.12}), n = {}".format(*what), fontsize=10)
            axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        with replacing(out) as aside:
            figure.savefig(aside, dpi=150, format="png")
        plt.close(figure)


def _draw_panel(axes: Axes, rows: Sequence[dict[str, Any]], named: Sequence[str]) -> None:
    lines: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault(tuple(row.get(key) for key in _LINE), []).append(row)
    shades = sns.color_palette("colorblind", len(lines))
    for i, (key, points) in enumerate(lines.items()):
        points = sorted(points, key=lambda row: row["nfe"])
        bars = [[row["value"] - row["low"] for row in points], [row["high"] - row["value"] for row in points]]
        text = ", ".join(f"{name} = {value}" for name, value in zip(_LINE, key, strict=True) if name in named)
        axes.errorbar(
            [row["nfe"] for row in points],
            [row["value"] for row in points],
            bars,
            marker="osD^vP*X"[i % 8],
            color=shades[i],
            capsize=2,
            label=text,
        )
    for name, end, style in (("uniform noise", "ceiling", "--"), ("real images", "floor", ":")):
        for level in sorted({row[end] for row in rows}):
            axes.axhline(level, color="black", ls=style, lw=1, label=f"{name}: {level:.3g}")
    axes.set(xscale="log", yscale="log", xlabel="NFE (network calls per image)", ylabel="FID (lower is better)")
    axes.set_xticks(sorted({row["nfe"] for row in rows}))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw_schedule(cfg: Config, out: Path) -> Path:
    """Draw a config's alpha_bar, its SNR and every weighting's w_eps over the trained t, the configured one thick.

    Writes and returns `out`, in the format of its ending. Raises UserError if it cannot be written.
    """
    schedule = schedule_of(cfg)
    trained = schedule.respace(torch.tensor(cfg.trained_timesteps))
    t = schedule.timesteps.numpy()
    with sns.axes_style("whitegrid"), sns.color_palette("colorblind"):
        figure, (signal, snr, weight) = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
        signal.plot(t, schedule.alpha_bar, label=r"$\bar\alpha_t$: signal variance")
        signal.plot(t, 1 - schedule.alpha_bar, "--", label=r"$1 - \bar\alpha_t$: noise variance")
        signal.set(xlabel="t", ylabel="variance")
        signal.legend()
        d = cfg.diffusion
        figure.suptitle(
            f"diffusion.beta_schedule = {d.beta_schedule}, T = {d.T}" + (", zero terminal SNR" * d.zero_terminal_snr)
        )
        shown = schedule.snr > 0
        snr.semilogy(t[shown], schedule.snr[shown])
        snr.axhline(cfg.loss.minsnr_gamma, color="grey", ls=":", label=f"loss.minsnr_gamma = {cfg.loss.minsnr_gamma:g}")
        snr.set(xlabel="t", ylabel="SNR (log scale)")
        snr.legend()
        styles = ["-", "--", "-.", ":"]
        for i, name in enumerate(w for w in WEIGHTINGS if w != "snr"):  # snr equals constant, in w_eps
            weighting = make_weighting(name, cfg.loss.minsnr_gamma, cfg.loss.p2_k, cfg.loss.p2_gamma)
            w = weights(weighting, trained)
            chosen = name == cfg.loss.weighting or (name == "constant" and cfg.loss.weighting == "snr")
            label = f"{name} (mean {w.mean():.3g})" + (" <- configured" if chosen else "")
            weight.semilogy(trained.timesteps, w, styles[i % 4], lw=3 if chosen else 1.4, label=label)
        weight.set(xlabel="t", ylabel="weight of the eps-MSE (log scale)", ylim=(1e-4, 1e2))
        weight.legend(fontsize=8)
        with written(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            with replacing(out) as aside:
                figure.savefig(aside, dpi=150, format=out.suffix.removeprefix(".").lower())
        plt.close(figure)
    return out
