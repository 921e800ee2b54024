"""SIGTERM and SIGINT leave a checkpoint, a closed record and the conventional exit code. A second signal ends the
process immediately."""

import functools
import os
import signal
import time
from pathlib import Path
from unittest import mock

import pytest

from ddpm.runtime.checkpoint import checkpoint_step, list_checkpoints
from ddpm.runtime.signals import Interrupted, StopSignals
from tests import processes
from tests.training.test_resume import assert_same, short, undisturbed  # noqa: F401 - a fixture


def _send_at_call(target: str, number: int, *signals: int) -> None:
    """In the child: send `signals` to itself when `target` is called for the `number`th time."""
    processes.at_call(target, number, lambda: [os.kill(os.getpid(), s) for s in signals])


@pytest.mark.parametrize(
    ("signum", "target", "number"),
    [
        (signal.SIGTERM, "ddpm.training.loop.train_step", 5),  # in a step, which is finished first
        (signal.SIGINT, "ddpm.evaluation.evaluator.to_uint8", 7),  # in an evaluation, which is repeated
        (signal.SIGTERM, "ddpm.curvature.hessian.squares._Network.passed", 7),  # in a probe, which is repeated
    ],
)
def test_a_signal_costs_nothing(tmp_path: Path, undisturbed, signum: int, target: str, number: int) -> None:  # noqa: F811
    """The exit code is 128 + signal, there is a checkpoint of the current step, and the continued run ends in the bits
    of an undisturbed one. The config's own next checkpoint is far away."""
    cfg = short(tmp_path, "--checkpoint.every=100")
    assert processes.run(cfg, functools.partial(_send_at_call, target, number, signum)) == 128 + signum
    step = checkpoint_step(list_checkpoints(cfg.run_dir)[-1])
    assert f"stopped after step {step}; the same command continues" in processes.log(cfg)
    if number == 5:
        assert step == 5
    assert processes.run(cfg) == 0, processes.log(cfg)
    assert f"continuing {cfg.run_id} after step {step}" in processes.log(cfg)
    assert_same(cfg, undisturbed)


def test_an_echo_is_no_second_signal(tmp_path: Path) -> None:
    """The same signal arrives twice at once, as from a batch system and from the launcher that forwards it. It is one
    stop, with its checkpoint. Catches preempted runs without a checkpoint."""
    cfg = short(tmp_path, "--checkpoint.every=100")
    twice = functools.partial(_send_at_call, "ddpm.training.loop.train_step", 2, signal.SIGTERM, signal.SIGTERM)
    assert processes.run(cfg, twice) == 143, processes.log(cfg)
    assert list_checkpoints(cfg.run_dir)


def test_a_second_signal_is_immediate(tmp_path: Path) -> None:
    """The second signal itself ends the process, without a checkpoint."""
    cfg = short(tmp_path, "--checkpoint.every=100")
    twice = functools.partial(_send_at_call, "ddpm.training.loop.train_step", 2, signal.SIGTERM, signal.SIGINT)
    assert processes.run(cfg, twice) == -signal.SIGINT
    assert not list_checkpoints(cfg.run_dir)


def test_handlers_are_put_back() -> None:
    """A program that calls the training keeps its own handlers afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)
        with pytest.raises(Interrupted) as caught:
            stop.check()
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_training_in_another_thread_leaves_signals_alone() -> None:
    """Python would refuse to set a handler there."""
    with mock.patch("threading.current_thread", return_value=None), StopSignals() as stop:
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        stop.check()
