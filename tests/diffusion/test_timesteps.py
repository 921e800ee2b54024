"""Training on part of the timesteps, and the logged weight curve."""

import json
from pathlib import Path

import pytest
import torch

from ddpm.config.run import Config
from ddpm.diffusion.objective import Objective
from ddpm.diffusion.schedule import make_schedule
from ddpm.diffusion.weighting import make_weighting, weights
from ddpm.models.build import objective_of
from ddpm.runtime.streams import stream_seed
from ddpm.training.loop import train, train_step
from ddpm.training.setup import Training
from tests.training.test_train import NO_WANDB, PLAIN, tiny


def _seen(cfg: Config) -> set[int]:
    """The t that the network receives in 12 steps (48 draws). A probe with 8 draws takes no other t."""
    training = Training(cfg)
    seen: set[int] = set()
    training.state.model.register_forward_pre_hook(lambda _, given: seen.update(given[1].tolist()))
    for _ in range(12):
        train_step(training, next(training.state.batches))
    steps = set(seen)
    seen.clear()
    training.diagnostics.probe(12)
    assert seen and seen <= steps
    return steps


def test_both_ends_are_drawn_and_nothing_outside(tmp_path: Path) -> None:
    """t_min 3 and t_max 5 give 3, 4 and 5, in training and in the probe. Catches a range that leaves out its end."""
    assert _seen(tiny(tmp_path, "--loss.t_min=3", "--loss.t_max=5", "--curvature.probes=8")) == {3, 4, 5}
    assert _seen(tiny(tmp_path, "--loss.t_max=0")) == {0}
    assert _seen(tiny(tmp_path, "--loss.t_min=999")) == {999}


def test_the_loss_of_a_range_is_weighed_by_the_weights_of_its_timesteps(tmp_path: Path) -> None:
    """Recomputes the loss by hand from the same streams. Catches weights that are looked up t_min timesteps too
    early."""
    training = Training(tiny(tmp_path, "--loss.t_min=40", "--loss.t_max=160"))
    x_0 = next(training.state.batches)
    rng = torch.Generator().manual_seed(stream_seed(training.cfg.seed, "timesteps and noise"))
    t = torch.randint(40, 161, (4,), generator=rng)
    eps = torch.randn(x_0.shape, generator=rng)
    ab = training.schedule.alpha_bar[t].float()[:, None, None, None]
    mse = (training.state.model(ab.sqrt() * x_0 + (1 - ab).sqrt() * eps, t) - eps).square().mean((1, 2, 3))
    snr = training.schedule.snr[t]
    stats = train_step(training, x_0)
    assert stats.loss.item() == pytest.approx((mse * (snr.clamp(max=5) / snr)).mean().item(), rel=1e-4)
    assert stats.mse.item() == pytest.approx(mse.mean().item(), rel=1e-4)


def test_the_whole_range_is_what_it_always_was(tmp_path: Path) -> None:
    """Explicit bounds equal to the defaults change no bit of a step. Catches another way of drawing t."""
    plain, bounded = (Training(tiny(tmp_path, *f)) for f in ((), ("--loss.t_min=0", "--loss.t_max=999")))
    for training in (plain, bounded):
        train_step(training, next(training.state.batches))
    assert all(torch.equal(a, b) for a, b in zip(plain.state.params, bounded.state.params, strict=True))
    rng = torch.Generator().manual_seed(stream_seed(plain.cfg.seed, "timesteps and noise"))
    torch.randint(1000, (4,), generator=rng)
    torch.randn(4, 3, 32, 32, generator=rng)
    assert torch.equal(rng.get_state(), plain.state.noise_rng.get_state())


def _objective(tmp_path: Path, *flags: str) -> Objective:
    return objective_of(tiny(tmp_path, *flags), make_schedule("linear"), torch.device("cpu"))


def test_a_batchs_weights_average_to_one(tmp_path: Path) -> None:
    """minsnr_norm over the batch scales each part of a batch by the whole batch's mean. Over the schedule, or with
    another weighting, the batch scales nothing. Catches a part that is scaled alone, and a setting that is not read."""
    snr = make_schedule("linear").snr[3:]
    w = snr.clamp(max=5) / snr
    t = torch.tensor([10, 300, 900])
    at = w[t - 3]
    for weighting, over, wanted in (
        ("minsnr_norm", "batch", at / at.mean()),
        ("minsnr_norm", "schedule", at / w.mean()),
        ("minsnr", "batch", at),
    ):
        flags = (f"--loss.weighting={weighting}", f"--loss.minsnr_norm_over={over}", "--loss.t_min=3")
        objective = _objective(tmp_path, *flags)
        assert objective.weights_at(t)[0].tolist() == pytest.approx(wanted.tolist(), rel=1e-5)
        assert objective.weights_at(t[:2], t)[0].tolist() == pytest.approx(wanted[:2].tolist(), rel=1e-5)
        assert objective.weights_at(t)[1].tolist() == [1, 1, 1]


def test_the_weights_are_of_the_error_in_what_the_network_predicts(tmp_path: Path) -> None:
    """For v, |eps - eps_hat|^2 = SNR / (SNR + 1) |v - v_hat|^2: this gives the common loss's weights, and Min-SNR's are
    min(SNR, 5) / (SNR + 1). Catches weights in eps space."""
    snr = make_schedule("linear").snr
    minsnr, constant = (
        _objective(tmp_path, "--diffusion.prediction=v", f"--loss.weighting={name}") for name in ("minsnr", "constant")
    )
    assert minsnr.weights.tolist() == pytest.approx((snr.clamp(max=5) / (snr + 1)).tolist(), rel=1e-5)
    assert minsnr.common_weights.tolist() == pytest.approx((snr / (snr + 1)).tolist(), rel=1e-5)
    assert constant.is_common and not minsnr.is_common


def test_the_curve_is_logged_once_and_survives(tmp_path: Path) -> None:
    """Only the first row holds t and w_eps = min(SNR, 5) / SNR over the trained range, with their mean beside it.

    Catches w in the prediction's space (here v), and a mean over all t.
    """
    flags = ("--loss.t_min=100", "--loss.t_max=300", "--diffusion.prediction=v")
    folder = train(tiny(tmp_path, *PLAIN, NO_WANDB, *flags, "--train.total_steps=2"))
    first, *rest = (json.loads(line)["out"] for line in (folder / "loss.jsonl").read_text().splitlines())
    snr = make_schedule("linear").snr[100:301]
    w = snr.clamp(max=5) / snr
    assert first["mins_snr_curve/t"] == list(range(100, 301))
    assert first["mins_snr_curve/weight"] == pytest.approx(w.tolist(), rel=1e-12)
    assert first["loss/mean_weight"] == pytest.approx(w.mean().item(), rel=1e-12)
    assert rest and not any("mins_snr_curve/t" in row for row in rest)


def test_normalised_weights_have_mean_1_over_the_range(tmp_path: Path) -> None:
    """minsnr_norm over t = 0 ... 50, where Min-SNR's own mean is far below 1. Catches a scale from the whole
    schedule."""
    flags = ("--loss.weighting=minsnr_norm", "--loss.t_max=50")
    row = Training(tiny(tmp_path, *flags)).objective.row
    part = make_schedule("linear").respace(torch.arange(51))
    w = weights(make_weighting("minsnr"), part)
    assert w.mean() < 0.1
    assert row["loss/mean_weight"] == pytest.approx(1, rel=1e-12)
    assert row["mins_snr_curve/weight"] == pytest.approx((w / w.mean()).tolist(), rel=1e-12)
