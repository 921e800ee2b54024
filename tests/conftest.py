"""Tests run without a W&B account, leave nothing outside their own folder, and never wait for a network."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B offline in the test's folder, no login, and caches of its own."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb-data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "ddpm-cache"))
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the networks here are tiny: a second thread only waits, and worse on a busy machine
