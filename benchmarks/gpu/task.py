"""What the sections share: the device, the images, and trainings of the study's network."""

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from benchmarks.claims import REPOSITORY
from benchmarks.study import CONFIG, NO_EVALUATION
from ddpm.commands.cli import main
from ddpm.config.files import load_config
from ddpm.config.run import Config
from ddpm.data.images import ImageSet, load_images
from ddpm.models.build import make_model
from ddpm.training.loop import train_step
from ddpm.training.setup import Training

FINDINGS = REPOSITORY / "configs/findings"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SMALL = {"base_channels": 8, "gn_groups": 8, "time_embedding": 32}  # of `model`, in a quick check


@dataclass(frozen=True)
class Task:
    """root: a folder or .zip of class folders; None: the embedded images. folder: for temporary files. out: for kept
    files. quick: a small network and few steps, to test the script. seconds: the section's time limit."""

    device: torch.device
    root: Path | None
    folder: Path
    out: Path
    quick: bool
    seconds: float = 60.0

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    @property
    def subset(self) -> int:
        """The number of images in the checks."""
        return self.pick(5000, 160)

    def images(self, subset: int | None) -> ImageSet:
        """`subset` of the images (all for None); a quick check takes few."""
        subset = self.subset if self.quick else subset
        return load_images("folder" if self.root else "embedded", self.root, subset=subset, workers=8)

    def data(self, subset: int) -> list[str]:
        """The options that select `subset` of the images."""
        named = ["--data.dataset=folder", f"--data.root={self.root}"]
        none = ["--data.dataset=embedded", "--data.root=null"]
        return [*(named if self.root else none), f"--data.subset={subset}", "--data.num_workers=8"]

    @property
    def small(self) -> list[str]:
        """Options for a small network, in a quick check."""
        return [f"--model.{key}={value}" for key, value in SMALL.items()] if self.quick else []

    def config(self, *overrides: str, file: Path = CONFIG) -> Config:
        """The study's e5 on these images and this device, in float32, without W&B, probe and evaluation."""
        return load_config(
            file,
            [
                *self.data(self.subset),
                "--curvature.enabled=false",
                *NO_EVALUATION,
                f"--device={self.device}",
                "--train.amp=false",
                "--eval.features=embedded",
                "--logging.wandb.mode=disabled",
                *self.small,
                *overrides,
            ],
        )

    def network(self) -> nn.Module:
        """A new network of the trained size."""
        return make_model(self.config())


def in_precision(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Inside, a training runs its network in `dtype` on a CPU too, where the config alone keeps float32."""
    if device.type == "cuda":
        return nullcontext()
    return mock.patch("ddpm.training.setup.choose_precision", lambda amp, device: dtype)


def training_of(cfg: Config, name: str = "fp32") -> Training:
    """A training in one of `DTYPES`."""
    device = torch.device(cfg.device)
    if name != "fp32":
        cfg = cfg.model_copy(update={"train": cfg.train.model_copy(update={"amp": name})})
    with in_precision(DTYPES[name], device):
        return Training(cfg)


def trained(task: Task, *overrides: str) -> Training:
    """A training after a few steps."""
    batch = task.pick(64, 4)
    training = Training(task.config(f"--data.batch_size={batch}", "--optim.lr=0.001", *overrides))
    for _ in range(task.pick(200, 4)):
        train_step(training, next(training.state.batches))
    return training


def repeatable() -> None:
    """Select repeatable algorithms. Call it before the first matrix product on a GPU."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True, warn_only=True)


# --- `ddpm train` in processes of their own ---


def start_training(cfg: Config, name: str = "fp32", before: Callable[[], None] | None = None) -> BaseProcess:
    """Start `ddpm train` of `cfg` in a new process, which first calls `before`. Its output goes to `OUT_DIR/log`."""
    cfg.out_dir.mkdir(parents=True, exist_ok=True)
    (cfg.out_dir / "cfg.yaml").write_text(cfg.to_yaml())
    device = torch.device(cfg.device)
    # A fork saves the imports, but CUDA and thread pools do not survive it.
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    context: Any = get_context("fork" if alone else "spawn")
    process: BaseProcess = context.Process(target=_train, args=(cfg.out_dir, device, name, before))
    process.start()
    return process


def finish(process: BaseProcess, cfg: Config, code: int = 0) -> None:
    """Wait for a training. Raises RuntimeError with its last output if the exit code differs from `code`."""
    process.join()
    if process.exitcode != code:
        said = (cfg.out_dir / "log").read_text().strip().splitlines()[-3:]
        raise RuntimeError(f"a training ended with {process.exitcode}, not {code}: {' / '.join(said)}")


def _train(folder: Path, device: torch.device, name: str, before: Callable[[], None] | None) -> None:
    log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if before:
        before()
    with in_precision(DTYPES[name], device):
        code = main(["train", str(folder / "cfg.yaml")])
    sys.stdout.flush()
    sys.exit(code)
