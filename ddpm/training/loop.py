"""Training: Ho et al. 2020, algorithm 1, with what is measured along the way."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm.config.run import Config
from ddpm.errors import UserError
from ddpm.runtime import distributed
from ddpm.runtime.signals import Interrupted, StopSignals
from ddpm.tracking.shared import SharedTracker, open_folder, open_tracker
from ddpm.tracking.tracker import Tracker
from ddpm.training.setup import Training
from ddpm.training.step import StepStats, update


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
        training = Training(cfg)
    distributed.require_same(
        {"config": cfg.run_id, "images": training.images_digest, "kind of device": training.device.type}
    )
    with folder:
        if folder.over():  # by another process, meanwhile
            return folder.path
        checkpoint = folder.newest_checkpoint()
        if checkpoint:
            training.state.load_state_dict(checkpoint)
        stop = StopSignals(quiet=distributed.rank() > 0)
        with open_tracker(cfg, folder, training.facts(), step=training.state.step) as tracker, stop:
            try:
                fit(training, tracker, stop)
            except Interrupted:
                path = tracker.save(training.state.step, training.state.state_dict())
                without = ", without --clean_run," if cfg.clean_run else ""
                print(f"stopped after step {training.state.step}; the same command{without} continues from {path}")
                raise
            tracker.finish(training.state.elapsed_s)
    return folder.path


def fit(training: Training, tracker: Tracker | SharedTracker, stop: StopSignals) -> None:
    """The loop, from wherever the training stands. Raises Interrupted between two steps, or in the measurements after
    one: the state's `state_dict` holds what continues it then."""
    cfg, state, diagnostics = training.cfg, training.state, training.diagnostics
    diagnostics.stop = stop
    state.replica = distributed.replicated(state.model)
    if not tracker.has(0):
        tracker.log(0, {**training.milestones.checks, **training.objective.row})
    total = cfg.train.total_steps
    # disable=None: a bar on a terminal, silence elsewhere
    with tqdm(total=total, initial=state.step, desc=tracker.run_id, unit="step", disable=None) as bar:
        if state.step:
            diagnostics.measure(tracker)  # what an interruption left out
        while state.step < total:
            distributed.check_stop(stop)
            advance(training, tracker)
            diagnostics.measure(tracker)
            if state.row:
                rate = (bar.format_dict["rate"] or 0) * cfg.data.batch_size
                bar.set_postfix({"loss": f"{state.row['train/loss']:.4f}", "img/s": f"{rate:.0f}"}, refresh=False)
            bar.update()


def advance(training: Training, tracker: Tracker | SharedTracker) -> None:
    """The next batch, a step on it, and its row if one is due. Raises UserError if the run diverges."""
    cfg, state = training.cfg, training.state
    before = state.streams()
    with training.timers.measure("train"):
        indices = state.batches.next_indices()
        x_0 = state.batches.take(indices[distributed.part(len(indices))])
        stats = train_step(training, x_0, with_stats=cfg.is_logged(state.step + 1))
        if not stats.finite and state.skipped >= cfg.train.skip_nonfinite:
            diverge(training, tracker, indices, stats, before)
        state.count(indices, stats)


def train_step(training: Training, x_0: Tensor, *, with_stats: bool = False) -> StepStats:
    """One step of gradient descent on w(t) |target - model(x_t, t)|^2 for a batch x_0 (B, 3, H, W), or for this
    process's part of it: t and eps are drawn for the whole batch, however many share it."""
    state, objective, device = training.state, training.objective, training.device
    batch = len(x_0) * distributed.world_size()
    mine = distributed.part(batch)
    t = torch.randint(*objective.t_range, (batch,), generator=state.noise_rng, device=device)
    eps = torch.randn((batch, *x_0.shape[1:]), generator=state.noise_rng, device=device)
    with torch.autocast(device.type, training.precision, enabled=training.precision is not torch.float32):
        loss, mse = objective.losses(state.replica, x_0, t[mine], eps[mine], t)
    stats = update(state, loss, mse, training.cfg.train.grad_clip, with_stats=with_stats)
    if with_stats:
        stats.gradient.update(objective.weight_stats(t))
    return stats


def diverge(
    training: Training, tracker: Tracker | SharedTracker, indices: Tensor, stats: StepStats, before: dict[str, Any]
) -> None:
    """End the run at a step that is not finite: keep the state from before it, say which images it saw."""
    cfg, state = training.cfg, training.state
    path = tracker.save(state.step, state.state_dict(before))
    row, step = stats.row(), state.step + 1
    tracker.diverged(step, row, indices.tolist())
    raise UserError(
        f"Step {step} is not finite: loss {row['train/loss']:g}, gradient norm {row['train/grad_global_L2']:g}, on "
        f"the images {indices.tolist()} of the set. {path} is the state before it. To go on from there past it, "
        f"raise train.skip_nonfinite (now {cfg.train.skip_nonfinite}). Or start another run: lower optim.lr "
        f"({cfg.optim.lr:g}) or train.grad_clip ({cfg.train.grad_clip}), or set train.amp=false."
    )
