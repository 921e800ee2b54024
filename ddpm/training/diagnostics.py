"""What is measured during a training, and when: checkpoints, curvature, scores, sample grids."""

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm.config.run import Config
from ddpm.curvature.probe import CurvatureProbe
from ddpm.diffusion.objective import Objective
from ddpm.diffusion.samplers import Denoiser, model_denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.evaluation.milestones import Milestones
from ddpm.runtime.signals import StopSignals
from ddpm.tracking.tracker import Tracker
from ddpm.training.state import TrainState

_PARTS = ("train", "probe", "sample", "features", "distance", "recon")


class Diagnostics:
    """One run's measurements. They do not change the training by a bit. `stop` is checked while they last."""

    def __init__(
        self, cfg: Config, schedule: Schedule, objective: Objective, milestones: Milestones, state: TrainState
    ):
        self.cfg, self.schedule, self.milestones, self.state = cfg, schedule, milestones, state
        self.curvature = CurvatureProbe(cfg, objective, state.batches.images)
        self.stop = StopSignals()

    def measure(self, tracker: Tracker) -> None:
        """Save a checkpoint if one is due. Unless the step's row exists, probe, score and draw if due, and log the row.
        Raises Interrupted."""
        step, state = self.state.step, self.state
        milestone = self.cfg.is_milestone(step)
        if milestone or step % self.cfg.checkpoint.every == 0:
            # First, so that a kill during an evaluation loses no step.
            tracker.save(step, state.state_dict())
        if not tracker.has(step):
            row: dict[str, Any] = dict(state.row)
            if self.cfg.is_probed(step):
                with state.timers.measure("probe"):
                    row |= self.probe(step, exact=tracker.last("curvature/exact") == 1)
            denoiser = cache(self.denoiser)  # one copy of the network for all that is due
            row |= self.milestones.score(step, denoiser)
            grid = self.milestones.draw_grid(step, denoiser)
            if self.milestones.has_grid(step) and not grid:
                row["samples/not_finite"] = 1.0
            if state.row:
                row |= self._times()
            if row or grid:
                tracker.log(step, row, grid, self.milestones.table)
            for key in ("val/fid", "final/fid"):
                if key in row:
                    tqdm.write(f"{tracker.run_id} step {step}: {key} {row[key]:.2f} ({row[f'{key}_protocol']})")
        if milestone:
            tracker.log_checkpoint(step)

    def _times(self) -> dict[str, float]:
        seconds = self.state.timers.seconds
        row = {f"time/{part}_s": seconds[part] for part in _PARTS}
        if self.cfg.curvature.enabled:
            row["time/probe_share"] = seconds["probe"] / (seconds["train"] + seconds["probe"])
        return row | {"time/total_s": self.state.elapsed_s}

    def probe(self, step: int, *, exact: bool = False) -> dict[str, Any]:
        """The curvature at the weights after `step`. exact: see `CurvatureProbe.measure`."""
        model = self.state.model
        if self.state.ema and self.cfg.curvature.weights == "ema":
            model = copy.deepcopy(self.state.ema.model).requires_grad_(True)
        return self.curvature.measure(model, step, self.state.indices, self.stop.check, exact=exact).logged

    def denoiser(self) -> Denoiser:
        """The denoiser to evaluate: a copy of the EMA (or live) weights in eval mode, in channels_last layout."""
        ema = self.state.ema
        source = ema.model if ema and self.cfg.eval.weights == "ema" else self.state.model
        model = copy.deepcopy(source).eval().to(memory_format=torch.channels_last)
        denoise = model_denoiser(model, self.schedule, self.cfg.diffusion.prediction)

        def watched(x_t: Tensor, t: int) -> Tensor:
            self.stop.check()
            return denoise(x_t, t)

        return watched
