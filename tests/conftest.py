"""Tests run without a W&B account, leave nothing outside their own folder, and never wait for a network."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.wandb_standin import StandIn


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B offline in the test's folder, no login, and caches of its own."""
    for name in os.environ:
        if name.startswith("WANDB_") and name != "WANDB_SERVICE":  # that one is of this process's own making
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb-data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "ddpm-cache"))
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the networks here are tiny: a second thread only waits, and worse on a busy machine


@pytest.fixture
def server(_apart: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in W&B server on loopback, and the environment that leads to it. Fails on what it could not answer."""
    with StandIn() as standin:
        for name, value in standin.env.items():
            monkeypatch.setenv(name, value)
        _forget_wandb()
        yield standin
        standin.up()  # a run left open in this process would wait for it for ever
        _forget_wandb()
    assert not standin.unknown, f"the W&B stand-in has no answer to {standin.unknown}"


def _forget_wandb() -> None:
    """End wandb's service in this process: it keeps the first environment that it saw."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()
