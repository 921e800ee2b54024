"""Draws that share noise levels: unbiased for every loss, with honest errors, and the same in every arm."""

import math
from pathlib import Path
from unittest import mock

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from ddpm.curvature.draws import BY_NOISE, COMMON, NEUTRAL, TRAINED, Levels, shared_levels
from ddpm.curvature.hessian.estimate import TraceEstimate, weighted
from ddpm.curvature.probe import CurvatureProbe
from ddpm.diffusion.noise_levels import HIGHEST, LOWEST, cells, covers, largest_distance, nearest
from ddpm.diffusion.objective import Objective
from ddpm.diffusion.schedule import Schedule, make_schedule
from ddpm.diffusion.weighting import make_weighting
from ddpm.names import NOISE_EDGES
from tests.training.test_train import NO_WANDB, PLAIN, tiny

SCHEDULES = {
    "linear": make_schedule("linear"),
    "cosine": make_schedule("cosine"),
    "zero terminal SNR": make_schedule("linear", zero_terminal_snr=True),
}
CASES = [
    (name, kind) for name in SCHEDULES for kind in ("eps", "x0", "v") if (name, kind) != ("zero terminal SNR", "eps")
]
every_case = pytest.mark.parametrize(("name", "kind"), CASES)


def _objective(name: str, kind: str = "eps", trained: range | None = None) -> Objective:
    schedule = SCHEDULES[name]
    return Objective(schedule, kind, make_weighting("minsnr"), trained or range(len(schedule)), torch.device("cpu"))


def _truth(objective: Objective, per_level: Tensor) -> dict[str, float]:
    """Each loss's mean of (T,) values of the unweighted squared error of the prediction, by its definition."""
    chain = objective.trained
    trained, common = objective.weights.double() * per_level, objective.common_weights.double() * per_level
    found = {TRAINED: trained.mean(), COMMON: common.mean(), NEUTRAL: cells(chain, LOWEST, HIGHEST) @ common}
    for bin_, low, high in zip(BY_NOISE, NOISE_EDGES[:-1], NOISE_EDGES[1:], strict=True):
        found[bin_] = cells(chain, low, high) @ common
    return {loss: value.item() for loss, value in found.items()}


def _levels(objective: Objective, draws: int, batch: int, seed: int) -> Levels:
    return shared_levels(objective, draws, batch, torch.Generator().manual_seed(seed))


def _estimates(levels: Levels, terms: Tensor) -> dict[str, TraceEstimate]:
    return dict(zip(levels.losses, weighted(terms[..., None], levels.weights, levels.strata), strict=True))


@every_case
@pytest.mark.parametrize("batch", [2, 3, 4])
def test_every_loss_is_unbiased(name: str, kind: str, batch: int) -> None:
    """The mean of many small measurements is the exact mean over levels, for a function of the level that varies by
    orders of magnitude. Catches a weight without its share of the mixture, a bin of the wrong width, and the cell of
    one timestep counted for its neighbour."""
    objective = _objective(name, kind)
    ab = objective.trained.alpha_bar
    per_level = 1 + 50 * ab + 3 / (1.001 - ab).sqrt()
    found: dict[str, list[float]] = {}
    for seed in range(300):
        levels = _levels(objective, 4, batch, seed)
        means = (levels.weights * per_level[levels.places]).mean((1, 2))
        for loss, mean in zip(levels.losses, means.tolist(), strict=True):
            found.setdefault(loss, []).append(mean)
    for loss, truth in _truth(objective, per_level).items():
        values = torch.tensor(found[loss])
        assert abs(values.mean() - truth) < 4.5 * values.std() / len(values) ** 0.5, loss


@every_case
def test_bins_add_up(name: str, kind: str) -> None:
    """The mean of the bins is the neutral trace, value by value. With importance weights p(t) / cell(t), and what lies
    outside of their range, they have the common loss's expectation. Catches a gap or an overlap between bins."""
    objective = _objective(name, kind)
    levels = _levels(objective, 16, 4, 0)
    rows = dict(zip(levels.losses, levels.weights, strict=True))
    torch.testing.assert_close(sum(rows[bin_] for bin_ in BY_NOISE) / len(BY_NOISE), rows[NEUTRAL])

    terms = torch.rand(16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = _estimates(levels, terms)
    assert sum(found[b].mean for b in BY_NOISE) / len(BY_NOISE) == pytest.approx(found[NEUTRAL].mean, rel=1e-6)

    chain, T = objective.trained, len(objective.trained)
    per_level = 1 + 50 * chain.alpha_bar
    common, share = objective.common_weights.double() * per_level, cells(chain, LOWEST, HIGHEST)
    parts = [cells(chain, low, low + 2) / len(BY_NOISE) for low in NOISE_EDGES[:-1]]
    inside = sum(part @ torch.where(share > 0, common / T / share, 0) for part in parts)
    outside = common[share == 0].sum() / T
    assert (inside + outside).item() == pytest.approx(_truth(objective, per_level)[COMMON], rel=1e-6)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_intervals_hold_the_truth_as_often_as_they_say(name: str) -> None:
    """Of 1,000 measurements with 16 draws of 4 samples, 93 to 97 % of the intervals hold the truth, for each loss.
    Terms scatter around a level that rises threefold toward clean images, as a trained network's do. Catches an error
    bar that counts which levels a draw got (the intervals then hold too often), one that forgets the few levels beyond
    the bins, and a bin's error over draws without a sample of it (too seldom)."""
    objective = _objective(name)
    per_level = 500 + 1300 * torch.sigmoid(objective.trained.log_snr - 3.5)
    truth = _truth(objective, per_level)
    rng, held = torch.Generator().manual_seed(0), dict.fromkeys(truth, 0)
    reach = {n: float(stats.t.ppf(0.975, n - 1)) for n in range(2, 17)}
    for seed in range(1000):
        levels = _levels(objective, 16, 4, seed)
        noise = 1 + 0.3 * torch.randn(16, 4, generator=rng, dtype=torch.float64)
        for loss, found in _estimates(levels, per_level[levels.places] * noise).items():
            held[loss] += abs(found.mean - truth[loss]) < reach[len(found.complete)] * found.sem
    assert all(930 <= count <= 970 for count in held.values()), held


def test_few_and_missing_draws() -> None:
    """Two draws of two samples are enough for an error of the trained loss. With a draw lost, a bin is the mean of its
    samples that are left, not a sum with a hole; a bin that lost all of them is missing, with no error from one.
    Catches a trace that falls because a draw failed."""
    objective = _objective("linear")
    levels = _levels(objective, 2, 2, 0)
    found = _estimates(levels, torch.ones(2, 2, dtype=torch.float64))
    assert math.isfinite(found[TRAINED].sem)

    levels = _levels(objective, 16, 4, 0)
    terms = torch.ones(16, 4, dtype=torch.float64)
    terms[3, 1] = math.nan
    found = _estimates(levels, terms)
    assert found[TRAINED].missing == 1
    for bin_ in BY_NOISE:
        assert found[bin_].mean == pytest.approx(1)
    of_bin = (levels.weights[levels.losses.index(BY_NOISE[0])] != 0).any(1)
    terms[of_bin] = math.nan
    assert math.isnan(_estimates(levels, terms)[BY_NOISE[0]].mean)


@pytest.mark.parametrize("lost", [0, 1])
def test_the_error_of_a_bin_is_that_of_a_mean_of_its_samples(lost: int) -> None:
    """Trace and error of a bin are mean and standard deviation / sqrt(n) of the n samples that are left in it, each in
    a draw of its own. Catches an error bar that shrinks when a draw fails."""
    levels = _levels(_objective("linear"), 16, 4, 0)
    terms = 1 + torch.rand(16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = levels.weights[levels.losses.index(BY_NOISE[3])]
    draws, places = weights.nonzero().T
    assert len(draws.unique()) == len(draws) == 4
    terms[draws[:lost]] = math.nan
    kept = terms[draws[lost:], places[lost:]]
    # The bin's other samples, at the arm's own timesteps, share its stratum: here they have its mean.
    stratum = levels.strata[draws[0], places[0]]
    others = (levels.strata == stratum) & (weights == 0)
    terms[others & terms.isfinite()] = kept.mean()
    found = _estimates(levels, terms)[BY_NOISE[3]]
    assert found.mean == pytest.approx(kept.mean().item())
    n, whole = len(kept), int((levels.strata == stratum)[terms.isfinite().all(1)].sum())
    spread = ((kept - kept.mean()).square().sum() / n * whole / (whole - 1)).sqrt().item()
    total = int((levels.strata == stratum).sum())
    assert found.sem == pytest.approx(spread / n**0.5 * (n / 4) * (total / whole))


def test_the_halves_are_shared_out_evenly() -> None:
    """Of the D n equal parts of either half, each is used once, and each draw has one sample in each n-th of the range.
    Catches draws that pick freely: how often a bin is visited would then be an accident."""
    levels = _levels(_objective("linear"), 8, 4, 0)
    own, shared = levels.places[:, :2], SCHEDULES["linear"].log_snr[levels.places[:, 2:]]
    assert sorted((own.flatten() * 16 // 1000).tolist()) == list(range(16))
    assert (own[:, 0] < 500).all()
    assert (own[:, 1] >= 500).all()
    assert (shared[:, 0] < 0.1).all()  # the level nearest to a lambda below 0
    assert (shared[:, 1] > -0.1).all()
    rows = dict(zip(levels.losses, levels.weights, strict=True))
    assert all((rows[bin_] > 0).sum() == 2 for bin_ in BY_NOISE)


def test_every_draw_can_have_every_level() -> None:
    """Over many seeds the first draw's samples reach the whole of their parts. Catches parts that are dealt in order:
    the methods that measure one draw would always see its lowest levels."""
    first = torch.stack([_levels(_objective("linear"), 8, 4, seed).places[0] for seed in range(100)])
    assert first[:, 0].min() < 50 and first[:, 0].max() >= 450
    assert first[:, 1].min() < 550 and first[:, 1].max() >= 950
    shared = SCHEDULES["linear"].log_snr[first[:, 2:]]
    assert (shared.amin(0) < torch.tensor([-7.0, 1.0])).all()
    assert (shared.amax(0) > torch.tensor([-1.0, 7.0])).all()


def test_levels_that_a_chain_does_not_reach_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With timesteps up to 499 the high noise levels are missing: the losses that need them are not measured, a line
    says so, and the others are unbiased. Catches a bin measured at a neighbour's level, and silence."""
    objective = _objective("linear", trained=range(500))
    levels = _levels(objective, 4, 4, 0)
    lowest = objective.trained.log_snr[-1].item()
    assert levels.losses[2:] == tuple(b for b, low in zip(BY_NOISE, NOISE_EDGES[:-1], strict=True) if low >= lowest)
    assert NEUTRAL not in levels.losses
    assert not covers(objective.trained, LOWEST, HIGHEST)

    from ddpm.training.setup import Training

    training = Training(
        tiny(tmp_path, *PLAIN, NO_WANDB, "--curvature.enabled=true", "--curvature.probes=4", "--loss.t_max=499")
    )
    said = capsys.readouterr().out
    assert "no neutral trace and no trace in 3 of 8 bins" in said
    assert f"from log SNR {lowest:.1f} to 9.2" in said
    row = training.diagnostics.probe(90)
    assert "curvature/neutral_trace_mean" not in row
    assert "curvature/trace_by_noise/lambda_-8_mean" not in row
    assert "curvature/trace_by_noise/lambda_6_mean" in row


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("--curvature.draws=batch", "draws of the training batch have no neutral trace"),
        ("--curvature.batch_size=1", "a draw has 2 images, not 1"),
        ("--curvature.method=lanczos", ""),
    ],
)
def test_draws_that_are_not_as_the_config_says_are_named(tmp_path: Path, key: str, said: str) -> None:
    """Catches a neutral trace that is missing, or a batch of another size, without a word."""
    cfg = tiny(tmp_path, *PLAIN, NO_WANDB, "--curvature.enabled=true", key)
    notes = CurvatureProbe(cfg, _objective("linear"), _images()).notes
    assert [said in line for line in notes] == [True] * bool(said)


# --- with a network whose Hessian is known ---


class LinearDenoiser(nn.Module):
    """A x + b over all pixels. At level t, the Hessian of |A x_t + b - y|^2 / d has the trace 2 (E|x_t|^2 + 1)."""

    def __init__(self, d: int):
        super().__init__()
        self.linear = nn.Linear(d, d)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.linear(x_t.flatten(1)).view_as(x_t)


def _images() -> Tensor:
    return torch.randint(0, 256, (50, 3, 2, 2), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def _probed(tmp_path: Path, schedule: Schedule, objective: Objective, probes: int) -> dict[str, float]:
    keys = ("--curvature.enabled=true", f"--curvature.probes={probes}")
    probe = CurvatureProbe(tiny(tmp_path, *PLAIN, NO_WANDB, *keys), objective, _images())
    torch.manual_seed(0)
    model = LinearDenoiser(12)
    return probe.measure(model, 5, torch.arange(4), lambda: None, checks=0).row


def _level_traces(chain: Schedule) -> Tensor:
    x_0 = _images().double() / 127.5 - 1
    square = x_0.flatten(1).square().sum(1).mean()
    return 2 * (chain.alpha_bar * square + (1 - chain.alpha_bar) * 12 + 1)


@every_case
def test_the_traces_of_a_linear_denoiser_are_the_closed_form(tmp_path: Path, name: str, kind: str) -> None:
    """Trained, common and neutral trace and all bins lie within 4.5 standard errors of the formula. Catches a noise
    level taken from another schedule, weights of another prediction, and t shifted by one."""
    objective = _objective(name, kind)
    row = _probed(tmp_path, SCHEDULES[name], objective, 256)
    for loss, truth in _truth(objective, _level_traces(objective.trained)).items():
        error = row[f"curvature/{loss}_mean"] - truth
        assert abs(error) < 4.5 * row[f"curvature/{loss}_sem"], loss
        if loss in (NEUTRAL, *BY_NOISE):  # of the others, x0's weight of SNR makes the first timesteps scatter
            assert row[f"curvature/{loss}_sem"] < 0.25 * truth, loss


def test_two_schedules_share_the_neutral_trace_and_not_the_common_one(tmp_path: Path) -> None:
    """The same network under linear and cosine betas: the neutral traces agree within one standard error, as their
    draws are the same; the common ones differ as the formula says. Catches draws that depend on the schedule."""
    rows, truths = {}, {}
    for name in ("linear", "cosine"):
        objective = _objective(name)
        rows[name] = _probed(tmp_path, SCHEDULES[name], objective, 64)
        truths[name] = _truth(objective, _level_traces(objective.trained))
    a, b = rows["linear"], rows["cosine"]
    assert abs(a["curvature/neutral_trace_mean"] - b["curvature/neutral_trace_mean"]) < a["curvature/neutral_trace_sem"]
    apart = a["curvature/ref_trace_mean"] - b["curvature/ref_trace_mean"]
    expected = truths["linear"][COMMON] - truths["cosine"][COMMON]
    error = math.hypot(a["curvature/ref_trace_sem"], b["curvature/ref_trace_sem"])
    assert abs(expected) > 3 * error  # so that the next line means something
    assert abs(apart - expected) < 4.5 * error


def test_arms_of_two_schedules_have_the_same_draws(tmp_path: Path) -> None:
    """Images, noise and the second half's levels are the same under linear and cosine betas, up to the distance of the
    nearest timestep. Catches a stream that depends on the arm."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name in ("linear", "cosine"):
        objective = _objective(name)
        task = objective.task

        def recorded(x_0: Tensor, t: Tensor, eps: Tensor, name: str = name, task=task) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
            seen.setdefault(name, []).append((torch.cat([x_0, eps]), SCHEDULES[name].log_snr[t]))
            return task(x_0, t, eps)

        with mock.patch.object(objective, "task", recorded):
            _probed(tmp_path, SCHEDULES[name], objective, 4)
    apart = largest_distance(SCHEDULES["linear"]) + largest_distance(SCHEDULES["cosine"])
    for (x, levels), (y, others) in zip(seen["linear"], seen["cosine"], strict=True):
        assert torch.equal(x, y)
        assert (levels[2:] - others[2:]).abs().max() <= apart
        assert not torch.equal(levels[:2], others[:2])


def test_the_nearest_timestep_is_the_one_that_is_noised() -> None:
    """The shared lambda of a seed are those of the generator, whatever the schedule. Catches places counted from the
    first timestep instead of the first trained one."""
    part = _objective("linear", trained=range(100, 1000))
    whole = _objective("linear")
    a, b = (_levels(objective, 4, 4, 7).places[:, 2:] for objective in (part, whole))
    chosen = whole.trained.log_snr[b]
    assert torch.equal(a, nearest(part.trained, chosen))
