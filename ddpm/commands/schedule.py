"""Figures of the training package itself: what a configured schedule and its weightings look like."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import seaborn as sns
import torch

from ddpm.config.run import Config
from ddpm.diffusion.weighting import make_weighting, weights
from ddpm.files.disk import replacing, written
from ddpm.models.build import schedule_of
from ddpm.names import WEIGHTINGS


def draw_schedule(cfg: Config, out: Path) -> Path:
    """alpha_bar, SNR and the w_eps of every weighting over the t trained on, for a config; the configured one thick.

    Writes `out`, in the format of its ending, and returns it. Raises UserError, if it cannot be written.
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
        for i, name in enumerate(w for w in WEIGHTINGS if w != "snr"):  # snr is constant by another name
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
