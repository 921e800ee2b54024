"""The loss scale in fp16: what happens to a step whose gradient overflows. The tests run on a CPU, where autocast
supports fp16 too."""

import itertools
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from ddpm.config.run import Config
from ddpm.errors import UserError
from ddpm.models.stored import load_checkpoint
from ddpm.runtime.checkpoint import checkpoint_path, digest, load_state, save_checkpoint
from ddpm.training.loop import advance, train, train_step
from ddpm.training.setup import Training
from tests.training.test_train import NO_WANDB, PLAIN, tiny

FITS, TOO_LARGE = 2.0**8, 2.0**40  # loss scales: fp16 holds the scaled gradients; they overflow
EVERY_STEP = [*PLAIN, NO_WANDB, "--checkpoint.every=1", "--checkpoint.keep=99", "--logging.log_every_n_steps=1"]


@pytest.fixture(autouse=True)
def _scaler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Force the scaler on: on a CPU it would be off."""
    monkeypatch.setattr("ddpm.training.setup.choose_precision", lambda *_: torch.float16)


def _prepare(training: Training, scale: float, overflows: Collection[int] | None, **more: Any) -> None:
    """`overflows`: compute in float32, which takes a tenth of the time here, and make the gradients infinite at these
    steps (counted from 1). None: compute in fp16."""
    assert training.state.scaler.is_enabled()
    training.state.scaler.load_state_dict({**training.state.scaler.state_dict(), "scale": scale, **more})
    if overflows is not None:
        training.precision, steps = torch.float32, itertools.count(1)
        training.state.params[0].register_hook(
            lambda g: torch.full_like(g, math.inf) if next(steps) in overflows else g
        )


def _training(
    tmp_path: Path, *flags: str, scale: float = FITS, overflows: Collection[int] | None = (), **more: Any
) -> Training:
    training = Training(tiny(tmp_path, *PLAIN, *flags))
    _prepare(training, scale, overflows, **more)
    return training


def _train(cfg: Config, scale: float, overflows: Collection[int]) -> None:
    made = Training.__init__

    def prepared(self: Training, cfg: Config) -> None:
        made(self, cfg)
        _prepare(self, scale, overflows)

    with mock.patch.object(Training, "__init__", prepared):
        train(cfg)


def _advance(training: Training, steps: int = 1) -> None:
    for _ in range(steps):
        advance(training, None)  # type: ignore[arg-type]  # nothing diverges


def _parts(training: Training) -> dict[str, str]:
    """The digests of everything that an optimizer step changes."""
    assert training.state.ema
    states = {"model": training.state.model, "ema": training.state.ema.model, "optimizer": training.state.optimizer}
    return {name: digest(part.state_dict()) for name, part in states.items()}


def _apart(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_an_overflow_in_fp16_moves_the_scale_alone(tmp_path: Path) -> None:
    """The scale is so large that fp16 gradients really overflow. Weights, EMA and Adam state keep their bits, the scale
    halves, and the step does not count as divergence. The next step that fits changes all of them.

    Catches an EMA update after a step that was not taken: the EMA would then move although the weights did not.
    """
    training = _training(tmp_path, "--data.batch_size=2", "--ema.decay=0.5", "--optim.lr=0.01", overflows=None)
    train_step(training, next(training.state.batches))
    assert training.state.ema and not torch.equal(
        training.state.ema.model.stem.weight, training.state.model.stem.weight
    )
    before = _parts(training)
    _prepare(training, TOO_LARGE, None)
    stats = train_step(training, next(training.state.batches))
    assert stats.finite and math.isfinite(stats.loss.item()) and not math.isfinite(stats.grad_norm.item())
    assert _parts(training) == before
    assert training.state.scaler.get_scale() == TOO_LARGE / 2
    _prepare(training, FITS, None)
    stats = train_step(training, next(training.state.batches))
    assert stats.finite and math.isfinite(stats.grad_norm.item())
    assert {name for name, found in _parts(training).items() if found != before[name]} == set(before)
    assert training.state.scaler.get_scale() == FITS


def test_the_first_step_may_overflow(tmp_path: Path) -> None:
    """The first step overflows, before Adam has a state. The next step is then Adam's first, with the bits of a
    training that begins there. Catches a skipped step that counts in Adam's bias correction."""
    late, plain = _training(tmp_path, overflows={1}), _training(tmp_path)
    first, second = next(late.state.batches), next(late.state.batches)
    streams = late.state.streams()
    train_step(late, first)
    late.state.noise_rng.set_state(streams["noise_rng"])
    for training in (late, plain):
        train_step(training, second)
    assert late.state.scaler.get_scale() == FITS / 2
    assert _parts(late) == _parts(plain)


def test_a_loss_that_is_not_finite_is_no_overflow(tmp_path: Path) -> None:
    """A NaN pixel is not the scale's fault, however large the scale is. Catches a run that continues silently for as
    long as the scale can fall."""
    training = _training(tmp_path)
    before = _parts(training)
    x_0 = next(training.state.batches)
    x_0[1, 2, 3, 4] = math.nan
    assert not train_step(training, x_0).finite
    assert _parts(training) == before


def test_the_scale_grows_where_nothing_overflows(tmp_path: Path) -> None:
    """The scale doubles after two fitting steps in a row. An overflow between them restarts the count. Catches a step
    that was taken without calling the scaler's `update`."""
    training = _training(tmp_path, overflows={2}, growth_interval=2)
    scales = []
    for _ in range(4):
        _advance(training)
        scales.append(training.state.scaler.get_scale() / FITS)
    assert scales == [1, 0.5, 0.5, 1]


def _rows(cfg: Config) -> list[dict[str, Any]]:
    lines = (cfg.run_dir / "loss.jsonl").read_text().splitlines()
    return [row["out"] for row in map(json.loads, lines) if row["_i"]]


def test_a_run_goes_on_after_overflows(tmp_path: Path) -> None:
    """Steps 2 and 4 of 5 overflow. Their checkpoints hold the weights, EMA and Adam state of the step before, and half
    its scale. The rows report no step left out, since nothing diverged, and the images count as seen.

    Catches an overflow that stops the run, uses up `train.skip_nonfinite`, or keeps its scale.
    """
    cfg = tiny(tmp_path, *EVERY_STEP, "--train.total_steps=5", "--ema.decay=0.5")
    _train(cfg, FITS, {2, 4})
    states = [load_checkpoint(checkpoint_path(cfg.run_dir, step)) for step in range(1, 6)]
    assert [state["scaler"]["scale"] / FITS for state in states] == [1, 0.5, 0.5, 0.25, 0.25]
    assert [state["scaler"]["_growth_tracker"] for state in states] == [1, 0, 1, 0, 1]
    for part in ("model", "ema", "optimizer"):
        found = [digest(state[part]) for state in states]
        assert [a == b for a, b in itertools.pairwise(found)] == [True, False, True, False], part
    rows = _rows(cfg)
    assert [row["train/skipped_steps"] for row in rows] == [0] * 5
    assert [row["train/images_seen"] for row in rows] == [4, 8, 12, 16, 20]
    assert [math.isinf(row["train/grad_global_L2"]) for row in rows] == [False, True, False, True, False]
    assert not (cfg.run_dir / "diverged.json").exists()


def test_the_error_of_a_step_that_overflows_counts(tmp_path: Path) -> None:
    """The forward pass of a step that overflows is valid. train/mse_mean is the mean over all steps since the last row,
    including the one that overflows (the first of two). Catches a mean over only the steps that were taken, and a
    divisor that differs from the number of summed steps."""
    each = _training(tmp_path, "--logging.log_every_n_steps=1", overflows={1})
    mses = []
    for _ in range(2):
        _advance(each)
        mses.append(each.state.row["train/mse"])
    both = _training(tmp_path, "--logging.log_every_n_steps=2", overflows={1})
    _advance(both, 2)
    assert both.state.row["train/mse_mean"] == pytest.approx(sum(mses) / 2, rel=1e-6)
    assert mses[0] != pytest.approx(mses[1], rel=1e-3)


@pytest.mark.parametrize("skips", [0, 1])
def test_a_scale_that_can_fall_no_more_is_divergence(tmp_path: Path, skips: int) -> None:
    """Every step from the second on overflows. The scale falls from 4 to 2 to 1. At 1 it cannot fall further, so step 4
    diverges. (If one step may be left out, step 4 counts as left out and step 5 diverges.) The newest checkpoint has
    step 1's weights.

    Catches a run that continues for ever without a step, and overflows that use up `train.skip_nonfinite`.
    """
    cfg = tiny(tmp_path, *EVERY_STEP, "--train.total_steps=9", f"--train.skip_nonfinite={skips}")
    bad = 4 + skips
    with pytest.raises(UserError, match=rf"Step {bad} is not finite: loss [0-9.]+, gradient norm (inf|nan)"):
        _train(cfg, 4.0, range(2, 10))
    first, last = (load_checkpoint(checkpoint_path(cfg.run_dir, step)) for step in (1, bad - 1))
    for part in ("model", "ema", "optimizer"):
        assert digest(first[part]) == digest(last[part]), part
    assert (first["scaler"]["scale"], last["scaler"]["scale"]) == (4.0, 1.0 if skips == 0 else 0.5)
    assert json.loads((cfg.run_dir / "diverged.json").read_text())["step"] == bad
    assert [row["train/skipped_steps"] for row in _rows(cfg)] == [0, 0, 0, 1][: bad - 1]


def test_the_scale_survives_a_resume_bitwise(tmp_path: Path) -> None:
    """The scale has come down from one that overflows, and half the steps to its next doubling are done. This state is
    written, read by a new training, and trained on in fp16. It ends in the bits of an uninterrupted training.

    Catches a scale or a count that restarts: with another scale, fp16 gradients round differently or overflow.
    """
    whole = _training(tmp_path, "--data.batch_size=2", scale=FITS * 8, overflows={1, 2, 3}, growth_interval=4)
    _advance(whole, 5)
    assert (whole.state.scaler.get_scale(), whole.state.scaler.state_dict()["_growth_tracker"]) == (FITS, 2)
    save_checkpoint(tmp_path / "state.pt", whole.state.state_dict())
    continued = Training(whole.cfg)
    continued.state.load_state_dict(load_state(tmp_path / "state.pt"))
    assert continued.state.scaler.state_dict() == whole.state.scaler.state_dict()
    whole.precision = torch.float16
    scales = []
    for training in (whole, continued):
        for _ in range(3):
            _advance(training)
            scales.append(training.state.scaler.get_scale() / FITS)
    assert scales == [1, 2, 2] * 2
    assert continued.state.scaler.state_dict() == whole.state.scaler.state_dict()
    assert _parts(continued) == _parts(whole)
