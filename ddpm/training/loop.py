"""Training: Ho et al. 2020, algorithm 1, and what is measured along the way."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm.config.run import Config
from ddpm.runtime import distributed
from ddpm.runtime.distributed import from_main
from ddpm.runtime.signals import Interrupted, StopSignals
from ddpm.tracking.run_folder import RunFolder
from ddpm.tracking.tracker import Tracker
from ddpm.training.setup import Training
from ddpm.training.step import StepStats, divergence, update


def train(cfg: Config, criteria: Mapping[str, str] | None = None) -> Path:
    """Train, track and evaluate one run, or resume it. Returns its folder. A finished run is left alone.

    criteria: {report: digest of its criteria}, which the record of a new run keeps.

    Raises UserError on bad input (before anything is written) or divergence, and Interrupted after SIGTERM or SIGINT,
    once a checkpoint is written. With several processes (torchrun) all train, rank 0 writes, and all raise alike.
    """
    distributed.require_possible(cfg.data.batch_size)
    folder = RunFolder(cfg)
    from_main(folder.check)  # a quick answer, before images are read
    if said := from_main(folder.over):
        print(said)
        return folder.path
    with distributed.together():
        training = Training(cfg)
    distributed.require_same(
        {"config": cfg.run_id, "images": training.images_digest, "kind of device": training.device.type}
    )
    state, stop = training.state, StopSignals(quiet=distributed.rank() > 0)
    with distributed.entered_by_main(folder):
        if from_main(folder.over):  # another process has finished it meanwhile
            return folder.path
        if checkpoint := from_main(folder.newest_checkpoint):
            state.load_state_dict(checkpoint)
        facts = training.facts() | {"criteria": dict(criteria or {})}
        with Tracker(cfg, folder, facts, step=state.step) as tracker, stop:
            try:
                fit(training, tracker, stop)
            except Interrupted:
                path = tracker.save(state.step, state.state_dict())
                without = ", without --clean_run," if cfg.clean_run else ""
                print(f"stopped after step {state.step}; the same command{without} continues from {path}")
                raise
            tracker.finish(state.elapsed_s)
    return folder.path


def fit(training: Training, tracker: Tracker, stop: StopSignals) -> None:
    """The loop, from the state's step to the last. Raises UserError if the run diverges, and Interrupted between two
    steps or during a measurement; the state can then be saved and resumed."""
    cfg, state, diagnostics = training.cfg, training.state, training.diagnostics
    diagnostics.stop = stop
    state.replica = distributed.replicated(state.model)
    if not tracker.has(0):
        tracker.log(0, {**training.milestones.checks, **training.objective.row})
    total = cfg.train.total_steps
    # disable=None: a bar on a terminal, silence elsewhere
    with tqdm(total=total, initial=state.step, desc=tracker.run_id, unit="step", disable=None) as bar:
        if state.step:
            diagnostics.measure(tracker)  # anything that an interruption left out
        while state.step < total:
            distributed.check_stop(stop)
            advance(training, tracker)  # next batch, loss, backward, clip, step, EMA
            diagnostics.measure(tracker)  # checkpoint, curvature, FID and grid if due; log, upload
            if state.row:
                rate = (bar.format_dict["rate"] or 0) * cfg.data.batch_size
                bar.set_postfix({"loss": f"{state.row['train/loss']:.4f}", "img/s": f"{rate:.0f}"}, refresh=False)
            bar.update()


def advance(training: Training, tracker: Tracker) -> None:
    """Do the next step and count it. Raises UserError if the run diverges."""
    cfg, state = training.cfg, training.state
    before = state.streams()
    with training.timers.measure("train"):
        indices = state.batches.next_indices()
        x_0 = state.batches.take(indices[distributed.part(len(indices))])
        stats = train_step(training, x_0, with_stats=cfg.is_logged(state.step + 1))
        if not stats.finite and state.skipped >= cfg.train.skip_nonfinite:
            path = tracker.save(state.step, state.state_dict(before))
            tracker.diverged(state.step + 1, stats.row(), indices.tolist())
            raise divergence(cfg, state.step + 1, stats, indices.tolist(), path)
        state.count(indices, stats)


def train_step(training: Training, x_0: Tensor, *, with_stats: bool = False) -> StepStats:
    """One step of gradient descent on w(t) |target - model(x_t, t)|^2.

    x_0: this process's part (B, 3, H, W) of the batch. t and eps are drawn for the whole batch, so that they do not
    depend on the number of processes.
    """
    state, objective, device = training.state, training.objective, training.device
    batch = len(x_0) * distributed.world_size()
    mine = distributed.part(batch)
    t = torch.randint(*objective.t_range, (batch,), generator=state.noise_rng, device=device)
    eps = torch.randn((batch, *x_0.shape[1:]), generator=state.noise_rng, device=device)
    with torch.autocast(device.type, training.precision, enabled=training.precision is not torch.float32):
        loss, mse = objective.losses(state.replica, x_0, t[mine], eps[mine], t)
    stats = update(state, loss, mse, training.cfg.train.grad_clip, with_stats=with_stats)
    if with_stats:
        stats.details.update(objective.weight_stats(t))
    return stats
