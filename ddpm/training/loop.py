"""Training, readable as the algorithm: Ho et al. 2020, algorithm 1, with what is measured along the way."""

import copy
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ddpm.config.run import Config
from ddpm.curvature.probe import CurvatureProbe
from ddpm.data.batches import Batches
from ddpm.data.images import load_images
from ddpm.diffusion.samplers import Denoiser, model_denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.diffusion.weighting import squared_error
from ddpm.errors import UserError
from ddpm.evaluation.evaluator import Timers
from ddpm.evaluation.milestones import Milestones
from ddpm.models.build import make_model, objective_of, schedule_of
from ddpm.models.ema import Ema
from ddpm.models.stored import FORMAT
from ddpm.models.unet import count_parameters
from ddpm.runtime import distributed
from ddpm.runtime.cache import use_folder
from ddpm.runtime.environment import choose_device, choose_precision, environment
from ddpm.runtime.signals import Interrupted, StopSignals
from ddpm.runtime.streams import stream_seed
from ddpm.tracking.shared import SharedTracker, open_folder, open_tracker
from ddpm.tracking.tracker import Tracker
from ddpm.training.step import StepStats, gradient_norm, gradient_stats

_PARTS = ("train", "probe", "sample", "features", "distance", "recon")


def train(cfg: Config) -> Path:
    """Train, track and evaluate one run, or continue it where it was interrupted; its folder.

    A finished run is left as it is. Raises UserError on bad input, before anything is written, and where the run cannot
    go on; Interrupted after SIGTERM or SIGINT, once a checkpoint is written. Of several processes (torchrun), all train
    and rank 0 writes; they raise alike.
    """
    distributed.require_possible(cfg.data.batch_size)
    folder = open_folder(cfg)
    folder.check()  # here too: the quick answer, before images are read
    over = folder.over()
    if over:
        print(over)
        return folder.path
    with distributed.together():
        trainer = Trainer(cfg)
    distributed.require_same(
        {"config": cfg.run_id, "images": trainer.images_digest, "kind of device": trainer.device.type}
    )
    with folder:
        if folder.over():  # by another process, meanwhile
            return folder.path
        state = folder.newest_checkpoint()
        if state:
            trainer.load_state_dict(state)
        stop = StopSignals(quiet=distributed.rank() > 0)
        with open_tracker(cfg, folder, trainer.facts(), step=trainer.done) as tracker, stop:
            try:
                trainer.fit(tracker, stop)
            except Interrupted:
                path = tracker.save(trainer.done, trainer.state_dict())
                without = ", without --clean_run," if cfg.clean_run else ""
                print(f"stopped after step {trainer.done}; the same command{without} continues from {path}")
                raise
            tracker.finish(trainer.elapsed_s)
    return folder.path


class Trainer:
    """Everything a run consists of, and the loop over it."""

    def __init__(self, cfg: Config):
        self.cfg = cfg
        use_folder(cfg.cache_dir)
        self.device = choose_device(cfg.device)
        self.precision = choose_precision(cfg.train.amp, self.device)

        d = cfg.data
        images = distributed.in_turn(
            lambda: load_images(
                d.dataset, d.root, subset=d.subset, split=d.split, skip_bad=d.skip_bad, workers=d.num_workers
            )
        )
        self.images_digest = images.digest
        self.schedule: Schedule = schedule_of(cfg)
        self.timers = Timers()
        self.milestones = Milestones(cfg, self.schedule, images, self.device, self.timers)

        # Each stream of random numbers has an owner, so that none moves another.
        torch.manual_seed(stream_seed(cfg.seed, "weights and dropout"))
        self.model = make_model(cfg).to(self.device)
        distributed.begin_stream(cfg.seed, step=0)
        self.replica = self.model  # what a step calls; of several processes' models, one replica
        self.ema = Ema(self.model, cfg.ema.decay) if cfg.ema.enabled else None
        self.params = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self.params, lr=cfg.optim.lr, fused=True)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)
        self.noise_rng = torch.Generator(self.device).manual_seed(stream_seed(cfg.seed, "timesteps and noise"))
        self.batches = Batches(
            images.images.to(self.device), d.batch_size, stream_seed(cfg.seed, "data"), shuffle=d.shuffle
        )
        self.objective = objective_of(cfg, self.schedule, self.device)
        self.curvature = CurvatureProbe(cfg, self.objective, self.batches.images)

        # Where the loop stands: steps done, the last one's batch and row, and what has gathered since the last row.
        self.done = 0
        self.indices = torch.empty(0, dtype=torch.int64)
        self.row: dict[str, float] = {}
        self.mse_sum, self.mse_count = torch.zeros((), device=self.device), 0
        self.skipped = 0
        self._elapsed_before, self._started = 0.0, time.perf_counter()
        self.stop = StopSignals()

    def facts(self) -> dict[str, Any]:
        """What the run's record says of it besides its config."""
        return {
            "params": count_parameters(self.model),
            "data": {"digest": self.images_digest, "n": len(self.batches.images)},
            "protocols": self.milestones.protocols,
            "environment": environment(self.device),
        }

    def fit(self, tracker: Tracker | SharedTracker, stop: StopSignals) -> None:
        """The training loop, from wherever the trainer stands. Raises Interrupted between two steps, or in the
        measurements after one: `state_dict` holds what continues it then."""
        self.stop = stop
        self.replica = distributed.replicated(self.model)
        total = self.cfg.train.total_steps
        if not tracker.has(0):
            tracker.log(0, {**self.milestones.checks, **self.objective.row})
        # disable=None: a bar on a terminal, silence elsewhere
        with tqdm(total=total, initial=self.done, desc=tracker.run_id, unit="step", disable=None) as bar:
            if self.done:
                self.measure(tracker)  # what an interruption left out
            while self.done < total:
                distributed.check_stop(stop)
                self.advance(tracker)
                self.measure(tracker)
                if self.row:
                    rate = (bar.format_dict["rate"] or 0) * self.cfg.data.batch_size
                    bar.set_postfix({"loss": f"{self.row['train/loss']:.4f}", "img/s": f"{rate:.0f}"}, refresh=False)
                bar.update()

    def advance(self, tracker: Tracker | SharedTracker) -> None:
        """One step, and its row where one is due."""
        step = self.done + 1
        logged = self.cfg.is_logged(step)
        before = self.streams()
        with self.timers.measure("train"):
            indices = self.batches.next_indices()
            x_0 = self.batches.take(indices[distributed.part(len(indices))])
            stats = self.step(x_0, with_gradient_stats=logged)
            if stats.finite:
                self.mse_sum, self.mse_count = self.mse_sum + stats.mse, self.mse_count + 1
            elif self.skipped < self.cfg.train.skip_nonfinite:
                self.skipped += 1
            else:
                self.diverge(tracker, step, indices, stats, before)
            row = stats.row() if logged else {}
        if logged:
            if self.mse_count:
                row["train/mse_mean"] = (self.mse_sum / self.mse_count).item()
            row["train/images_seen"] = step * self.cfg.data.batch_size
            row["train/skipped_steps"] = self.skipped
            self.mse_sum, self.mse_count = torch.zeros_like(self.mse_sum), 0
        self.done, self.indices, self.row = step, indices, row

    def measure(self, tracker: Tracker | SharedTracker) -> None:
        """Keep, probe, score and draw what is due after the step just done, and log it; once, also when continued."""
        step = self.done
        milestone = self.cfg.is_milestone(step)
        if milestone or step % self.cfg.checkpoint.every == 0:
            # Before what takes long: a kill in the middle of an evaluation loses no step.
            tracker.save(step, self.state_dict())
        if not tracker.has(step):
            row: dict[str, Any] = dict(self.row)
            if self.cfg.is_probed(step):
                with self.timers.measure("probe"):
                    row |= self.probe(step, exact=tracker.last("curvature/exact") == 1)
            row |= self.milestones.score(step, self.denoiser)
            grid = self.milestones.draw_grid(step, self.denoiser)
            if self.milestones.has_grid(step) and not grid:
                row["samples/not_finite"] = 1.0
            if self.row:
                row |= {f"time/{part}_s": self.timers.seconds[part] for part in _PARTS}
                if self.cfg.curvature.enabled:
                    seconds = self.timers.seconds
                    row["time/probe_share"] = seconds["probe"] / (seconds["train"] + seconds["probe"])
                row["time/total_s"] = self.elapsed_s
            if row or grid:
                tracker.log(step, row, grid)
            for key in ("val/fid", "final/fid"):
                if key in row:
                    tqdm.write(f"{tracker.run_id} step {step}: {key} {row[key]:.2f} ({row[f'{key}_protocol']})")
        if milestone:
            tracker.log_checkpoint(step)

    def losses(self, x_0: Tensor, t: Tensor, eps: Tensor, t_batch: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(trained loss, eps-MSE), scalars: the error of what the network predicts under the arm's own weights, and
        under those that make it the unweighted eps-MSE. t_batch: the t of the whole batch, where this is a part."""
        x_t, wanted = self.objective.task(x_0, t, eps)
        error = squared_error(self.replica(x_t, t), wanted)
        trained, common = self.objective.weights_at(t, t_batch)
        return (trained * error).mean(), (common * error).mean()

    def weight_stats(self, t: Tensor) -> dict[str, Tensor]:
        """Mean, smallest and largest w_eps of a batch with timesteps t (B,): what its eps-MSEs count in its loss."""
        trained, common = self.objective.weights_at(t)
        w_eps = trained / common
        found = {"mean": w_eps.mean(), "min": w_eps.min(), "max": w_eps.max()}
        return {f"loss/batch_weight_{name}": value for name, value in found.items()}

    def step(self, x_0: Tensor, *, with_gradient_stats: bool = False) -> StepStats:
        """One step of gradient descent on w(t) |target - model(x_t, t)|^2 for a batch x_0 (B, 3, H, W), or for this
        process's part of it: t and eps are drawn for the whole batch, however many share it.

        Where the loss or the gradient is not finite, weights, their average and optimizer stay as they are.
        """
        batch = len(x_0) * distributed.world_size()
        mine = distributed.part(batch)
        t = torch.randint(*self.objective.t_range, (batch,), generator=self.noise_rng, device=self.device)
        eps = torch.randn((batch, *x_0.shape[1:]), generator=self.noise_rng, device=self.device)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            loss, mse = self.losses(x_0, t[mine], eps[mine], t)

        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        stats = {**gradient_stats(self.params), **self.weight_stats(t)} if with_gradient_stats else {}
        loss, mse = distributed.means(loss.detach(), mse.detach())  # every step: what is not finite, all have to see
        norm = gradient_norm(self.params)
        loss_is, norm_is = torch.stack([loss, norm]).tolist()  # the one time that a step waits for the device
        taken = math.isfinite(loss_is) and math.isfinite(norm_is)
        # An fp16 gradient that overflows is the scaler's to handle, as long as it can scale less: without one it is 1.
        overflow = math.isfinite(loss_is) and not taken and self.scaler.get_scale() > 1
        if taken:
            limit = self.cfg.train.grad_clip
            if limit and norm_is > limit:  # else a pass over all gradients for nothing
                nn.utils.clip_grads_with_norm_(self.params, limit, norm)
            self.scaler.step(self.optimizer)
            if self.ema:
                self.ema.update(self.model)
        self.scaler.update()
        return StepStats(loss, mse, norm, stats, taken or overflow)

    def diverge(
        self, tracker: Tracker | SharedTracker, step: int, indices: Tensor, stats: StepStats, before: dict[str, Any]
    ) -> None:
        """End the run at a step that is not finite: keep the state from before it, say which images it saw."""
        path = tracker.save(self.done, self.state_dict(before))
        row = stats.row()
        tracker.diverged(step, row, indices.tolist())
        raise UserError(
            f"Step {step} is not finite: loss {row['train/loss']:g}, gradient norm {row['train/grad_global_L2']:g}, on "
            f"the images {indices.tolist()} of the set. {path} is the state before it. To go on from there past it, "
            f"raise train.skip_nonfinite (now {self.cfg.train.skip_nonfinite}). Or start another run: lower optim.lr "
            f"({self.cfg.optim.lr:g}) or train.grad_clip ({self.cfg.train.grad_clip}), or set train.amp=false."
        )

    def probe(self, step: int, *, exact: bool = False) -> dict[str, float]:
        """The curvature at the weights after `step`; training is left untouched. exact: as `CurvatureProbe` has it."""
        model = self.model
        if self.ema and self.cfg.curvature.weights == "ema":
            model = copy.deepcopy(self.ema.model).requires_grad_(True)
        return self.curvature.measure(model, step, self.indices, self.stop.check, exact=exact).row

    def denoiser(self) -> Denoiser:
        """The denoiser that is evaluated: a copy of the EMA (or live) weights in eval mode, laid out for sampling."""
        source = self.ema.model if self.ema and self.cfg.eval.weights == "ema" else self.model
        model = copy.deepcopy(source).eval().to(memory_format=torch.channels_last)
        denoise = model_denoiser(model, self.schedule, self.cfg.diffusion.prediction)

        def watched(x_t: Tensor, t: int) -> Tensor:
            self.stop.check()
            return denoise(x_t, t)

        return watched

    # --- what a training is continued from ---

    def streams(self) -> dict[str, Any]:
        """What a step moves on whether it counts or not: data order, random streams, the loss scale."""
        return {
            "scaler": self.scaler.state_dict(),
            "batches": self.batches.state_dict(),
            "noise_rng": self.noise_rng.get_state(),
            **distributed.stream_state(self.device),
        }

    def state_dict(self, streams: dict[str, Any] | None = None) -> dict[str, Any]:
        """All that the next step depends on, and what the row of the last one said, as tensors and plain values.

        streams: those from before a step that is not to count. Of several processes, all have to ask for it.
        """
        streams = streams or self.streams()
        others = distributed.gather({key: streams[key] for key in ("global_rng", "cuda_rng")})[1:]
        return {
            "format": FORMAT,
            "config": self.cfg.nested(),
            "device": self.device.type,
            "step": self.done,
            "indices": self.indices,
            "row": self.row,
            "mse_sum": self.mse_sum,
            "mse_count": self.mse_count,
            "skipped": self.skipped,
            "elapsed_s": self.elapsed_s,
            "seconds": dict(self.timers.seconds),
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            **streams,
            **({"other_ranks": others} if others else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where `state_dict` was taken. Raises UserError where its device or its format is another one."""
        if state.get("format") != FORMAT:
            raise UserError(
                "The run's checkpoints are of another version of this package and cannot be continued: use that "
                "version, or start over with --clean_run=true."
            )
        if state["device"] != self.device.type:
            raise UserError(
                f"The run was started on {state['device']}, and its random streams cannot move to "
                f"{self.device.type}: continue with --device={state['device']}, or start over with --clean_run=true."
            )
        self.done, self.indices, self.row = state["step"], state["indices"], state["row"]
        self.mse_sum, self.mse_count = state["mse_sum"].to(self.device), state["mse_count"]
        self.skipped = state["skipped"]
        self._elapsed_before, self._started = state["elapsed_s"], time.perf_counter()
        self.timers.seconds.update(state["seconds"])
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.ema.model.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.batches.load_state_dict(state["batches"])
        self.noise_rng.set_state(state["noise_rng"])
        ranks = [state, *state.get("other_ranks", [])]
        distributed.restore_stream(ranks, self.device, self.cfg.seed, self.done)

    @property
    def elapsed_s(self) -> float:
        """Seconds in this run, those of earlier sessions up to the checkpoint included."""
        return self._elapsed_before + time.perf_counter() - self._started
