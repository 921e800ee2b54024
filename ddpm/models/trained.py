"""The network of a checkpoint, ready for sampling."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ddpm.config.run import Config
from ddpm.diffusion.samplers import Denoiser, model_denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.models.build import make_model, schedule_of
from ddpm.models.stored import load_checkpoint, weights_of
from ddpm.runtime.checkpoint import list_checkpoints, no_checkpoints
from ddpm.runtime.environment import choose_device


@dataclass(frozen=True)
class Trained:
    """A checkpoint, ready for sampling."""

    denoiser: Denoiser
    schedule: Schedule
    cfg: Config
    step: int
    device: torch.device


def find_checkpoint(path: Path) -> Path:
    """`path` if it is a file, else the newest checkpoint of the run folder `path`. Raises UserError if it has none."""
    if path.is_file():
        return path
    found = list_checkpoints(path)
    if not found:
        raise no_checkpoints(path)
    return found[-1]


def load_trained(path: Path, weights: str = "ema", device: str = "auto") -> Trained:
    """The network of a checkpoint with its `ema` or `live` weights, in eval mode, as a denoiser. Raises UserError."""
    where = choose_device(device)
    state = load_checkpoint(path)
    cfg = Config.model_validate(state["config"])
    model = make_model(cfg).to(where)
    model.load_state_dict(weights_of(path, state, weights))
    model = model.eval().to(memory_format=torch.channels_last)
    schedule = schedule_of(cfg)
    return Trained(model_denoiser(model, schedule, cfg.diffusion.prediction), schedule, cfg, state["step"], where)
