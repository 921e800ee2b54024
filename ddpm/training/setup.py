"""Builds all parts of a training from its config, before the first step."""

from typing import Any

from ddpm.config.run import Config
from ddpm.data.images import load_images
from ddpm.evaluation.evaluator import Timers
from ddpm.evaluation.milestones import Milestones
from ddpm.models.build import objective_of, schedule_of
from ddpm.models.unet import count_parameters
from ddpm.runtime import distributed
from ddpm.runtime.cache import use_folder
from ddpm.runtime.environment import choose_device, choose_precision, environment
from ddpm.training.diagnostics import Diagnostics
from ddpm.training.state import TrainState


class Training:
    """All parts of one training. Raises UserError if a part cannot be built. Writes nothing."""

    def __init__(self, cfg: Config):
        self.cfg = cfg
        use_folder(cfg.cache_dir)
        self.device = choose_device(cfg.device)
        self.precision = choose_precision(cfg.train.amp, self.device)
        images = distributed.in_turn(lambda: load_images(**cfg.data.images))
        self.images_digest = images.digest
        self.schedule = schedule_of(cfg)
        self.objective = objective_of(cfg, self.schedule, self.device)
        self.timers = Timers()
        self.milestones = Milestones(cfg, self.schedule, images, self.device, self.timers)
        self.state = TrainState(cfg, images.images, self.device, self.precision, self.timers)
        self.diagnostics = Diagnostics(cfg, self.schedule, self.objective, self.milestones, self.state)
        if cfg.curvature.enabled:
            for line in self.diagnostics.curvature.notes:
                print(line)

    def facts(self) -> dict[str, Any]:
        """What the run's record holds besides its config."""
        return {
            "params": count_parameters(self.state.model),
            "data": {"digest": self.images_digest, "n": len(self.state.batches.images)},
            "protocols": self.milestones.protocols,
            "environment": environment(self.device),
        }
