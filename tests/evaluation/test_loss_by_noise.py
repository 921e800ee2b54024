"""The loss by noise level: its levels, its pairs, its errors, and what it says of denoisers that are known."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from ddpm.data.images import load_images, to_model
from ddpm.diffusion.noise_levels import largest_distance
from ddpm.diffusion.schedule import Schedule, from_betas, linear_betas, make_schedule
from ddpm.evaluation.loss_by_noise import LossByNoise, mean_and_error, timesteps_by_bin
from ddpm.evenly import evenly_spaced
from ddpm.metrics.table import METRICS, metric_of
from ddpm.names import NOISE_BINS, NOISE_EDGES
from ddpm.training.setup import Training
from tests.training.test_train import PLAIN, tiny

CPU = torch.device("cpu")
LINEAR = make_schedule("linear")
KINDS = ("seen", "unseen", "gap", "floor", "excess")
Denoiser = Callable[[Tensor, int], Tensor]


def _measuring(n: int = 24, count: int = 200, unseen: int | None = None, schedule: Schedule = LINEAR) -> LossByNoise:
    """n of `count` embedded images, and as many of the test split (or `unseen`)."""
    others = load_images("embedded", split="test", subset=n).images
    rng = torch.Generator().manual_seed(0)
    return LossByNoise(
        schedule,
        load_images("embedded", subset=count),
        evenly_spaced(count, n),
        others[:unseen],
        torch.randn(n, 3, 32, 32, generator=rng),
    )


def _knows(images: Tensor, schedule: Schedule = LINEAR) -> Denoiser:
    """The posterior mean over `images` (N, 3, H, W), from its definition."""
    known = images.flatten(1).double()

    def denoise(x_t: Tensor, t: int) -> Tensor:
        ab = schedule.alpha_bar[t]
        away = torch.cdist(x_t.flatten(1).double(), ab.sqrt() * known).square()
        return ((-away / (2 * (1 - ab))).softmax(1) @ known).to(x_t.dtype).reshape(x_t.shape)

    return denoise


def _shrinks(x_t: Tensor, t: int) -> Tensor:
    """The best linear denoiser of pixels of variance 0.1: it knows no image."""
    ab = LINEAR.alpha_bar[t].float()
    return ab.sqrt() * 0.1 / (0.1 * ab + 1 - ab) * x_t


@pytest.mark.parametrize(("name", "n"), [("linear", 24), ("cosine", 10), ("linear", 4), ("linear", 2), ("cosine", 1)])
def test_each_image_has_a_level_of_each_bin(name: str, n: int) -> None:
    """The levels are the midpoints of the bin's equal parts, as near as the chain has them, in turn. Each has two
    images or more if there are two. Catches a level outside its bin, SNR for its logarithm, and levels of one image,
    which have no error."""
    schedule = make_schedule(name)
    found = timesteps_by_bin(schedule, n)
    assert tuple(found) == NOISE_BINS
    parts = max(1, min(4, n // 2))
    for low, timesteps in zip(NOISE_EDGES[:-1], found.values(), strict=True):
        assert timesteps.shape == (n,)
        wanted = torch.tensor([low + 2 * (i % parts + 0.5) / parts for i in range(n)])
        assert (schedule.log_snr[timesteps] - wanted).abs().max() <= largest_distance(schedule)
        assert len(timesteps.unique()) == parts
        assert n == 1 or timesteps.unique(return_counts=True)[1].min() >= 2


def test_a_bin_that_the_chain_does_not_reach_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first half of the linear chain ends at log SNR -2.5; the scaled linear one goes from 7.07 to -5.36. A run
    names the missing bins in one line. Catches a bin measured at other levels than its own."""
    half = from_betas(linear_betas(1000)[:500])
    assert tuple(timesteps_by_bin(half, 4)) == tuple(b for b in NOISE_BINS if int(b.removeprefix("lambda_")) >= -2)
    training = Training(tiny(tmp_path, "--diffusion.beta_schedule=scaled_linear"))
    said = [line for line in capsys.readouterr().out.splitlines() if "loss by noise level" in line]
    missing = ("lambda_-8", "lambda_-6", "lambda_6")
    assert len(said) == 1 and f"does not cover {', '.join(missing)}:" in said[0]
    row = training.milestones.measure_by_noise(training.diagnostics.denoiser())
    assert {key.split("/")[1].rsplit("_", 1)[0] for key in row if not key.endswith("_sem")} == {
        b for b in NOISE_BINS if b not in missing
    }


def test_mean_and_error() -> None:
    """Two levels with the values 1, 3 and 10, 14: within them the squares are 2 and 8, with two degrees of freedom.
    Catches the spread between levels counted as error, and a population's variance."""
    values, timesteps = torch.tensor([1.0, 10.0, 3.0, 14.0]).double(), torch.tensor([5, 8, 5, 8])
    mean, error = mean_and_error(values, timesteps)
    assert (mean, error) == (7, pytest.approx(math.sqrt((2 + 8) / 2 / 4)))
    assert mean_and_error(values, torch.arange(4)) == (7, None)
    one_level = mean_and_error(values, torch.zeros(4, dtype=torch.int64))[1]
    assert one_level == pytest.approx(values.std().item() / 2)


def test_the_intervals_cover() -> None:
    """95 % intervals of the mean over four levels with means far apart cover it in 93 to 97 % of 1,000 repetitions, by
    Student's t with 60 degrees of freedom (2.0003). Catches an error that is too small or too large by a fifth."""
    rng = torch.Generator().manual_seed(0)
    timesteps = torch.arange(64) % 4
    inside = 0
    for _ in range(1000):
        mean, error = mean_and_error(10.0 * timesteps + torch.randn(64, generator=rng).double(), timesteps)
        assert error is not None
        inside += abs(mean - 15) < 2.0003 * error
    assert 0.93 < inside / 1000 < 0.97


def test_the_best_denoiser_has_no_excess() -> None:
    """The posterior mean over the training images errs by the floor in every bin: its excess is rounding of float32.
    Catches a floor of other images, noise, levels or pixels than the loss beside it."""
    measuring = _measuring()
    training = to_model(load_images("embedded", subset=200).images)
    row = measuring.row(_knows(training), CPU, 7)
    for name, timesteps in measuring.bins.items():
        # eps_hat comes from x_t and x_0_hat in float32, so an error of 0 ends at SNR * eps^2
        rounding = LINEAR.snr[timesteps].max().item() * (4 * torch.finfo(torch.float32).eps) ** 2
        seen, floor = row[f"loss_by_noise/{name}_seen"], row[f"loss_by_noise/{name}_floor"]
        assert seen == pytest.approx(floor, rel=1e-4, abs=rounding)
        assert row[f"loss_by_noise/{name}_excess"] == pytest.approx(seen - floor, rel=1e-9, abs=1e-12 * seen)
    assert row["loss_by_noise/lambda_-4_floor"] > 1e-5


def test_a_denoiser_that_knows_less_has_an_excess() -> None:
    """The best linear denoiser is above the floor, beyond its error, wherever noise leaves images apart. Catches a
    floor above the loss."""
    row = _measuring().row(_shrinks, CPU, 7)
    for name in NOISE_BINS[2:]:
        assert row[f"loss_by_noise/{name}_excess"] > 4 * row[f"loss_by_noise/{name}_excess_sem"] > 0


def test_learning_by_heart_is_a_gap() -> None:
    """A denoiser that knows the training images errs more on others, wherever noise leaves them apart. One that knows
    no image errs as much on both, within four standard errors. One that says eps_hat = 0 errs by |eps|^2, and the gap
    is 0: the noise is the same. Catches the two kinds exchanged, and pairs with unequal noise or level."""
    measuring = _measuring()
    row = measuring.row(_knows(to_model(load_images("embedded", subset=200).images)), CPU, 7)
    for name in NOISE_BINS[3:]:
        assert row[f"loss_by_noise/{name}_gap"] > 4 * row[f"loss_by_noise/{name}_gap_sem"] > 0
    row = measuring.row(_shrinks, CPU, 7)
    for name in NOISE_BINS:
        assert abs(row[f"loss_by_noise/{name}_gap"]) < 4 * row[f"loss_by_noise/{name}_gap_sem"]
        gap = row[f"loss_by_noise/{name}_unseen"] - row[f"loss_by_noise/{name}_seen"]
        assert row[f"loss_by_noise/{name}_gap"] == pytest.approx(gap, rel=1e-9, abs=1e-12)
    row = measuring.row(lambda x_t, t: x_t / LINEAR.alpha_bar[t].sqrt().float(), CPU, 7)
    for name in NOISE_BINS:
        assert row[f"loss_by_noise/{name}_seen"] == pytest.approx(1, rel=0.02)
        assert abs(row[f"loss_by_noise/{name}_gap"]) < 1e-5


@pytest.mark.parametrize("count", [24, 10])
def test_a_pair_has_one_noise_and_one_level(count: int) -> None:
    """Unseen images that are copies of the seen ones have no gap to them at all. Catches pairs with different noise or
    different levels, whose gap would still be right on average."""
    twins = _measuring()
    twins.unseen = twins.seen[:count]
    row = twins.row(_shrinks, CPU, 24)
    gaps = {key: value for key, value in row.items() if "_gap" in key and not (count == 10 and key.endswith("_sem"))}
    assert len(gaps) == (2 if count == 24 else 1) * len(NOISE_BINS)
    assert set(gaps.values()) == {0.0}


def test_fewer_unseen_images_pair_with_the_first() -> None:
    """With ten unseen images of 24, and with none, the loss on the seen ones is bitwise what it is. Catches pairs that
    shift, and levels that depend on the number of unseen images."""
    full, part, none = (_measuring(unseen=m).row(_shrinks, CPU, 24) for m in (None, 10, 0))
    for name in NOISE_BINS:
        for kind in ("seen", "floor", "excess"):
            key = f"loss_by_noise/{name}_{kind}"
            assert full[key] == part[key] == none[key]
        assert f"loss_by_noise/{name}_unseen" not in none and f"loss_by_noise/{name}_gap" not in none
    only = _measuring(unseen=10)
    only.seen = only.seen[:10]
    only.floor = {name: errors[:10] for name, errors in only.floor.items()}
    for key, value in only.row(_shrinks, CPU, 24).items():
        if "gap" in key or "unseen" in key:
            assert part[key] == pytest.approx(value, rel=1e-6, abs=1e-9)


# --- in a run ---


def test_a_run_logs_what_the_table_lists(tmp_path: Path) -> None:
    """All keys of the table and no others, with an error each; none without `eval.recon`. Catches a key that the table
    lacks, and a bin or kind that is not logged."""
    training = Training(tiny(tmp_path, *PLAIN, "--eval.recon.enabled=true", "--eval.recon.n_samples=8"))
    row = training.milestones.score(4, training.diagnostics.denoiser)
    logged = {key for key in row if key.startswith("loss_by_noise/")}
    assert logged == {f"loss_by_noise/{b}_{k}{end}" for b in NOISE_BINS for k in KINDS for end in ("", "_sem")}
    assert logged == {key for key in METRICS if key.startswith("loss_by_noise/")}
    assert all(metric_of(key) for key in row if "/" in key)
    off = Training(tiny(tmp_path, *PLAIN)).milestones
    assert off.by_noise is None and off.score(4, training.diagnostics.denoiser) == {}


def test_the_images_are_those_of_the_other_errors(tmp_path: Path) -> None:
    """Seen: those of `mse_per_t`, with their noise. Unseen: not trained on, and the same in every run. Catches a
    second batch, and a training image among the unseen."""
    four = "--eval.recon.n_samples=4"
    training = Training(tiny(tmp_path, four))
    other = Training(tiny(tmp_path, four, "--seed=3", "--eval.sample_seed=1"))
    by_noise, others = training.milestones.by_noise, other.milestones.by_noise
    batch = training.milestones.fixed_batch
    assert by_noise and others and batch
    assert torch.equal(by_noise.seen, batch[0]) and torch.equal(by_noise.noise, batch[1])
    assert torch.equal(by_noise.unseen, others.unseen) and not torch.equal(by_noise.noise, others.noise)
    trained = {image.numpy().tobytes() for image in to_model(training.state.batches.images)}
    assert len(by_noise.unseen) == 4 and not trained & {image.numpy().tobytes() for image in by_noise.unseen}


def test_a_run_without_unseen_images_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without splits, trained on as a whole: one line names the key, and the other errors are there. With
    `data.hold_out` there is a gap. Two held-out images for four pairs are said too."""
    for i, image in enumerate(load_images("embedded", subset=80).images):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"images/{i:02d}.png")
    flags = [
        *PLAIN,
        "--eval.recon.enabled=true",
        "--eval.recon.n_samples=4",
        "--data.dataset=folder",
        f"--data.root={tmp_path / 'images'}",
        "--data.subset=null",
        "--eval.reference_n=70",
    ]
    logged = []
    for more in ([], ["--data.hold_out=4"], ["--data.hold_out=2"]):
        training = Training(tiny(tmp_path, *flags, *more))
        said = [line for line in capsys.readouterr().out.splitlines() if "loss by noise level" in line]
        row = training.milestones.measure_by_noise(training.diagnostics.denoiser())
        logged.append((said, "loss_by_noise/lambda_0_gap" in row, "loss_by_noise/lambda_0_excess" in row))
    (without, *kinds), (held, *all_kinds), (few, *_) = logged
    assert len(without) == 1 and "--data.hold_out=N" in without[0] and kinds == [False, True]
    assert held == [] and all_kinds == [True, True]
    assert len(few) == 1 and "only 2 unseen images, not eval.recon.n_samples = 4" in few[0]
