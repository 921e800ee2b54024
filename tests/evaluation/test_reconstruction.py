"""The errors at single timesteps: closed forms, and a batch that stays the same."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ddpm.data.images import load_images, to_model
from ddpm.diffusion.samplers import dynamic_threshold, model_denoiser
from ddpm.diffusion.schedule import Schedule, make_schedule
from ddpm.evaluation.reconstruction import profile, reconstruction
from ddpm.evenly import evenly_spaced
from ddpm.training.loop import train_step
from ddpm.training.setup import Training
from tests.analytic import gaussian_denoiser
from tests.training.test_train import tiny

FOUR = ("--eval.recon.every=2", "--eval.recon.n_samples=4")

LINEAR = make_schedule("linear")
T_VALUES = (0, 50, 400, 999)


def _normal(n: int, seed: int, std: float = 1.0) -> Tensor:
    """(n, 3, 8, 8) float64."""
    return std * torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _measure(
    denoiser: Callable[[Tensor, int], Tensor],
    x_0: Tensor,
    eps: Tensor,
    schedule: Schedule = LINEAR,
    batch_size: int = 7,
    limit: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    return reconstruction(denoiser, x_0, eps, schedule, T_VALUES, batch_size=batch_size, limit=limit)


def test_the_perfect_denoiser_of_a_gaussian_errs_by_its_posterior() -> None:
    """For data from N(0, s^2) the mean |x_0 - x_0_hat|^2 is s^2 (1 - ab) / (ab s^2 + 1 - ab), and SNR times that in
    eps.

    Catches noise or alpha_bar at another t, an inverted SNR, and a sum for a mean. With s = 0.2 nothing is cut.
    """
    std = 0.2
    row = _measure(gaussian_denoiser(LINEAR, std), _normal(400, 1, std), _normal(400, 2))
    for t in T_VALUES:
        ab = LINEAR.alpha_bar[t].item()
        posterior = std**2 * (1 - ab) / (ab * std**2 + 1 - ab)
        assert row[f"val/recon_mse_t{t:04d}"] == pytest.approx(posterior, rel=0.03)
        assert row[f"mse_per_t/mse_t{t:04d}"] == pytest.approx(ab / (1 - ab) * posterior, rel=0.03)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_denoiser_that_says_the_same_of_all(schedule: str) -> None:
    """x_0 = 0.5 everywhere and x_0_hat = c: the error is exactly 0.5 - c in x_0 and sqrt(SNR) times that in eps.

    c = 3 is cut to 1 for the image error, not for the eps error. The PSNR's peak is 2.
    """
    chain = make_schedule(schedule)
    x_0 = torch.full((5, 3, 8, 8), 0.5, dtype=torch.float64)
    for c, shown in ((0.0, 0.0), (3.0, 1.0)):
        row = _measure(lambda x_t, t, c=c: torch.full_like(x_t, c), x_0, _normal(5, 2), chain)
        for t in T_VALUES:
            snr = chain.snr[t].item()
            assert row[f"mse_per_t/mse_t{t:04d}"] == pytest.approx(snr * (0.5 - c) ** 2, rel=1e-9)
            assert row[f"val/recon_mse_t{t:04d}"] == pytest.approx((0.5 - shown) ** 2, rel=1e-12)
            # 2^2 / 0.5^2 = 16 = 2^4
            assert row[f"val/recon_psnr_t{t:04d}"] == pytest.approx(40 * math.log10(2), rel=1e-12)


def test_the_limit_is_the_evaluations_and_eps_is_not_limited() -> None:
    """`dynamic` scales 3 down to 1 and 0.9 to 0.3, and does not affect eps. Catches a limit that is read but not
    used."""
    x_0, eps = torch.zeros(2, 3, 8, 8, dtype=torch.float64), _normal(2, 3)

    def halves(x_t: Tensor, t: int) -> Tensor:
        return torch.cat([torch.full_like(x_t[:, :, :4], 3.0), torch.full_like(x_t[:, :, :4], 0.9)], 2)

    unlimited, limited = (_measure(halves, x_0, eps, limit=limit) for limit in (None, dynamic_threshold))
    assert unlimited["val/recon_mse_t0050"] == pytest.approx((1 + 0.81) / 2)
    assert limited["val/recon_mse_t0050"] == pytest.approx((1 + 0.09) / 2)
    assert limited["mse_per_t/mse_t0050"] == unlimited["mse_per_t/mse_t0050"]


def test_means_over_t_and_over_unequal_batches() -> None:
    """The row's means are the means of its entries; five images in batches of 2, 2 and 1 count as five.

    Catches a mean of the batches' means, and noise that is paired with another image.
    """
    x_0, eps = _normal(5, 1, 0.2), _normal(5, 2)
    row = _measure(gaussian_denoiser(LINEAR, 0.2), x_0, eps, batch_size=2)
    for kind in ("mse", "psnr"):
        entries = [row[f"val/recon_{kind}_t{t:04d}"] for t in T_VALUES]
        assert row[f"val/recon_{kind}"] == pytest.approx(sum(entries) / len(entries), rel=1e-12)
    assert row == pytest.approx(_measure(gaussian_denoiser(LINEAR, 0.2), x_0, eps, batch_size=5), rel=1e-12)
    families = ("mse_per_t/mse", "val/recon_mse", "val/recon_psnr")
    assert set(row) == {f"{f}_t{t:04d}" for f in families for t in T_VALUES} | {"val/recon_mse", "val/recon_psnr"}


def test_nothing_wrong_is_an_infinite_psnr() -> None:
    """Catches a division by zero, or its logarithm."""
    x_0 = torch.zeros(2, 3, 8, 8)
    row = _measure(lambda x_t, t: torch.zeros_like(x_t), x_0, torch.zeros_like(x_0))
    assert row["val/recon_psnr_t0000"] == row["val/recon_psnr"] == math.inf


def test_the_profile_is_the_mean_error_of_each_bin() -> None:
    """The denoiser's eps error is t / 1000 at timestep t. A bin holds the mean square over its four timesteps, for any
    batches. Every image counts once in every bin.

    Catches a t outside its bin, a key that is not the bin's first t, and images that are left out.
    """
    x_0, eps = _normal(10, 1, 0.2), _normal(10, 2)

    def denoise(x_t: Tensor, t: int) -> Tensor:
        ab = LINEAR.alpha_bar[t]
        seen = torch.stack([((x_t - ab.sqrt() * x - (1 - ab).sqrt() * e) ** 2).sum((1, 2, 3)) for x, e in pairs]) < 1e-9
        wrong = torch.stack([pairs[i][1] + t / 1000 for i in seen.int().argmax(0).tolist()])
        return (x_t - (1 - ab).sqrt() * wrong) / ab.sqrt()

    pairs = list(zip(x_0, eps, strict=True))
    row = profile(denoise, x_0, eps, LINEAR, 5, batch_size=2)
    assert list(row) == [f"mse_bins/mse_t{t:04d}" for t in (0, 200, 400, 600, 800)]
    for i, value in enumerate(row.values()):
        ts = [200 * i + t for t in (25, 75, 125, 175)]
        counts = (3, 3, 2, 2)
        assert value == pytest.approx(sum(n * (t / 1000) ** 2 for n, t in zip(counts, ts, strict=True)) / 10, rel=1e-6)


class _Silent(nn.Module):
    """A network that returns zero."""

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x_t)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_the_error_is_that_of_eps_whatever_is_predicted(prediction: str) -> None:
    """A network that returns zero has an eps error of eps if it predicts eps. If it predicts x_0, the error is
    sqrt(SNR) x_0. If it predicts v, it is sqrt(ab) v, with v = sqrt(ab) eps - sqrt(1 - ab) x_0. Catches an error in
    another space."""
    x_0, eps = _normal(4, 1, 0.5), _normal(4, 2)
    row = _measure(model_denoiser(_Silent(), LINEAR, prediction), x_0, eps)
    for t in T_VALUES:
        ab = LINEAR.alpha_bar[t]
        missed = {
            "eps": eps,
            "x0": x_0 * (ab / (1 - ab)).sqrt(),
            "v": ab.sqrt() * (ab.sqrt() * eps - (1 - ab).sqrt() * x_0),
        }
        assert row[f"mse_per_t/mse_t{t:04d}"] == pytest.approx(missed[prediction].square().mean().item(), rel=1e-9)


# --- in a run ---


def test_the_batch_is_outside_the_reference_and_its_noise_is_fixed(tmp_path: Path) -> None:
    """Takes four images that the reference (100 of 200) does not hold. Each has its own noise: a run with another seed
    keeps it, another `eval.sample_seed` changes it."""
    images = load_images("embedded", None, subset=200).images
    rows = evenly_spaced(200, 100)
    reference = {image.numpy().tobytes() for image in images[rows]}
    all_images = {to_model(image).numpy().tobytes(): image.numpy().tobytes() for image in images}
    batches = [
        Training(tiny(tmp_path, *FOUR, *flags)).milestones.fixed_batch
        for flags in ((), ("--seed=3",), ("--eval.sample_seed=1",), ("--eval.recon.n_samples=6",))
    ]
    (x_0, eps), other_seed, other_noise, more = (batch for batch in batches if batch)
    outside = [all_images[image.numpy().tobytes()] for image in x_0]
    assert len(set(outside)) == 4 and not reference & set(outside)
    assert torch.equal(x_0, other_seed[0]) and torch.equal(eps, other_seed[1])
    assert torch.equal(x_0, other_noise[0]) and not torch.isclose(eps, other_noise[1]).any()
    assert torch.equal(eps, more[1][:4])
    assert not torch.isclose(eps[0], eps[1]).any()


def test_it_is_the_same_twice_and_moves_no_stream(tmp_path: Path) -> None:
    """The scores are bitwise the same, at another step too. The global stream and the training's own do not move."""
    training = Training(tiny(tmp_path, *FOUR, "--model.dropout=0.1", "--eval.fid_milestone.enabled=false"))
    before = torch.get_rng_state(), training.state.noise_rng.get_state()
    rows = [training.milestones.score(step, training.diagnostics.denoiser) for step in (2, 2, 40)]
    assert rows[0] == rows[1] == rows[2] != {}
    assert torch.equal(before[0], torch.get_rng_state()) and torch.equal(
        before[1], training.state.noise_rng.get_state()
    )
    assert training.milestones.score(3, training.diagnostics.denoiser) == {}


def test_it_is_due_every_so_often_and_at_the_end(tmp_path: Path) -> None:
    """It is due at each `every` and after the last step, which `every` does not divide. A run knows that such a step
    has a row."""
    flags = ["--train.total_steps=5", "--eval.recon.every=3", "--logging.log_every_n_steps=100"]
    off = ["--eval.final.enabled=false", "--eval.grid.enabled=false", "--eval.fid_milestone.enabled=false"]
    cfg = tiny(tmp_path, *flags, *off)
    training = Training(cfg)
    due = [step for step in range(1, 6) if training.milestones.score(step, training.diagnostics.denoiser)]
    assert due == [3, 5] == [step for step in range(1, 6) if cfg.has_row(step)]
    assert training.timers.seconds["recon"] > 0


def test_it_follows_the_evaluated_weights(tmp_path: Path) -> None:
    """Recomputes the error by hand from the EMA (or live) weights in eval mode. Catches the other weights, and
    dropout."""
    for weights in ("ema", "live"):
        flags = (*FOUR, f"--eval.weights={weights}", "--optim.lr=0.01", "--model.dropout=0.2")
        training = Training(tiny(tmp_path, *flags))
        for _ in range(3):
            train_step(training, next(training.state.batches))
        row = training.milestones.score(2, training.diagnostics.denoiser)
        model = training.state.ema.model if weights == "ema" and training.state.ema else training.state.model.eval()
        batch = training.milestones.fixed_batch
        assert batch
        x_0, eps = batch
        ab = training.schedule.alpha_bar[500].float()
        with torch.no_grad():
            eps_hat = model(ab.sqrt() * x_0 + (1 - ab).sqrt() * eps, torch.full((4,), 500))
        assert row["mse_per_t/mse_t0500"] == pytest.approx((eps - eps_hat).square().mean().item(), rel=1e-3)
