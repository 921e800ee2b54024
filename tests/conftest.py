"""Tests run without a W&B account, leave nothing outside their own folder, and never wait for a network."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# The networks here are tiny: a second thread would only wait, for long on a busy machine. Set before torch is imported,
# and for every process that a test starts.
os.environ["OMP_NUM_THREADS"] = "1"

# First: their classes look through all loaded modules.
import wandb.apis.public
import wandb.sdk.artifacts._models.pagination

# isort: split
import pytest
import torch

from tests.once import apart
from wandb_standin import StandIn

# A shell that runs the tests in the background makes them, and every process that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The slowest modules, the longest first. If they started last, the other workers would be idle at the end.
LONGEST = (
    *("test_tracking_online", "test_probe", "test_evaluate", "test_resume", "test_sweep_points", "test_distributed"),
    *("test_api", "test_wandb_standin", "test_gpu_check", "test_colab", "test_without_wandb", "test_options"),
    *("test_keys", "test_wandb", "test_fuzz", "test_durable", "test_signals", "test_curvature", "test_train"),
    *("test_report", "test_figures"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The modules of `LONGEST` come first, in its order."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B offline in the test's folder, no login, and separate caches."""
    apart(monkeypatch, tmp_path)
    torch.manual_seed(0)


@pytest.fixture
def server(_apart: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in W&B server on loopback, with the environment that leads to it. The test fails if the stand-in could
    not answer a request."""
    with StandIn() as standin:
        for name, value in standin.env.items():
            monkeypatch.setenv(name, value)
        _forget_wandb()
        yield standin
        standin.up()  # a run left open in this process would wait for it for ever
        _forget_wandb()
    assert not standin.unknown, f"the W&B stand-in has no answer to {standin.unknown}"


def _forget_wandb() -> None:
    """End wandb's service in this process, because it keeps the first environment that it saw."""
    wandb.teardown()
