"""The cost of a training step besides its forward and backward pass: `unet_cifar32`, as `ddpm train` runs it.

`python -m benchmarks.training_step` takes the study's e5 on embedded images (probe and evaluation off), and measures in
turn, in blocks of a few steps each,

- the bare pass: forward, backward, one fixed batch;
- the whole step: batch from memory, t, eps, x_t, forward, backward, gradient norm and clipping, Adam, EMA, the row with
  gradient statistics at every logged step, and its way to the run folder and to W&B;
- a first draft of the step: images through Pillow, Adam and EMA one tensor at a time, numbers read at once.

The run writes rows every 100 steps (the default) at small batches. At large ones it writes them every 10 steps, in
shorter blocks. It is measured without W&B and with its offline files, each in its own process. A checkpoint, which a
run writes every 500 steps, is measured separately.

`--device cuda --batch 4 64 512 --amp` measures a GPU.
"""

import argparse
import copy
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.claims import Claim, arguments, conclude, in_process, of_rounds, parsed, quotient, say
from benchmarks.study import CONFIG, PLAIN
from benchmarks.timing import seconds

# Targets, relative to the bare pass: the whole step at small and at large batches; W&B offline over W&B off.
SMALL, LARGE, LARGE_FROM, WANDB = 1.05, 1.03, 32, 1.01


def main() -> int:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 64])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="bf16, where the GPU has it")
    parser.add_argument("--one", type=int, metavar="BATCH", help=argparse.SUPPRESS)
    args = parsed(parser)
    if args.one:
        print(json.dumps(measure_in_process(args.one, args)))
        return 0
    claims: list[Claim] = []
    for batch in args.batch:
        found = {mode: measured(batch, mode, args) for mode in ("disabled", "offline")}
        claims += say(claims_of(batch, found))
    return conclude(args, claims, device=args.device, amp=args.amp, rounds=args.rounds)


def claims_of(batch: int, found: dict[str, dict[str, Any]]) -> list[Claim]:
    alone, offline = found["disabled"], found["offline"]
    off, on = (quotient("", t["step"], t["bare"]).measured for t in (alone, offline))
    at, target = f"batch {batch}", target_of(batch)
    bare, step, *parts = claims_of_one(at, batch, alone)
    return [
        bare,
        step,
        quotient(f"whole step over the bare pass, {at}, W&B offline", offline["step"], offline["bare"], target=target),
        Claim(f"   W&B offline over W&B off, {at}", on / off, "x", WANDB),
        *parts,
    ]


def target_of(batch: int) -> float:
    return LARGE if batch >= LARGE_FROM else SMALL


def claims_of_one(at: str, batch: int, alone: dict[str, Any]) -> list[Claim]:
    """The claims without W&B: the bare pass, the whole step relative to it, and the rest."""
    return [
        of_rounds(f"bare forward and backward, {at}", [1e3 * s for s in alone["bare"]], "ms"),
        quotient(
            f"whole step over the bare pass, {at}, W&B off", alone["step"], alone["bare"], target=target_of(batch)
        ),
        quotient(f"first-draft step over the bare pass, {at}", alone["draft"], alone["bare"], better="neither"),
        *(of_rounds(f"   of the bare pass, {part}, {at}", s, "%") for part, s in alone["parts"].items()),
        of_rounds(f"   of the bare pass, a checkpoint in 500 steps, {at}", alone["checkpoint"], "%"),
        of_rounds(
            f"   of the bare pass, what Adam, EMA and the norm read and write at the memory's rate, {at}",
            alone["traffic"],
            "%",
            better="neither",
        ),
    ]


def measured(batch: int, mode: str, args: argparse.Namespace) -> dict[str, Any]:
    """`measure_in_process`, in a process of its own with W&B's `mode`."""
    options = ["--one", str(batch), "--rounds", str(args.rounds), "--device", args.device]
    options += ["--quick"] * args.quick + ["--amp"] * args.amp
    with tempfile.TemporaryDirectory() as folder:
        env = {"WANDB_MODE": mode, "WANDB_DIR": folder, "WANDB_SILENT": "true", "BENCH_FOLDER": folder}
        return in_process("training_step", *options, **env)


# --- in the process that measures ---


def measure_in_process(batch: int, args: argparse.Namespace, more: Sequence[str] = ()) -> dict[str, Any]:
    """Seconds a step of each way in each round, and the step's parts in percent of the bare pass. more:
    options of the training besides those of `overrides`."""
    from ddpm.config.files import load_config
    from ddpm.runtime.distributed import check_stop
    from ddpm.runtime.memory import keep_freed_memory
    from ddpm.runtime.signals import StopSignals
    from ddpm.tracking.run_folder import RunFolder
    from ddpm.tracking.tracker import Tracker
    from ddpm.training.loop import advance
    from ddpm.training.setup import Training

    keep_freed_memory()  # as `ddpm train` does
    block, every = (2, 2) if args.quick else (10, 100) if batch < LARGE_FROM else (5, 10)
    rounds = 1 if args.quick else args.rounds
    cfg = load_config(CONFIG, [*overrides(batch, every, args), *more])
    folder = RunFolder(cfg)
    training = Training(cfg)
    ways: dict[str, Callable[[], Any]] = {"bare": bare(training, batch), "draft": first_draft(training, batch)}
    stop = StopSignals()
    with folder, Tracker(cfg, folder, training.facts()) as tracker, stop:

        def step() -> None:
            check_stop(stop)
            advance(training, tracker)
            training.diagnostics.measure(tracker)

        ways["step"] = step
        for way in ways.values():
            seconds(way, 2)
        taken = {name: [0.0] * rounds for name in ways}
        for number in range(rounds):
            for _ in range(every // block):  # a round holds one logged row; its blocks lie between the others'
                for name, way in ways.items():
                    taken[name][number] += seconds(way, block) * block / every
        bare_s = sum(taken["bare"]) / rounds
        parts = {
            name: [100 * seconds(work, 3) / bare_s for _ in range(2 + rounds)] for name, work in parts_of(training)
        }
        saved = [
            100 * seconds(lambda: tracker.save(1, training.state.state_dict())) / bare_s / 500 for _ in range(rounds)
        ]
        traffic = [100 * traffic_s(training.state.params) / bare_s]
    return {**taken, "parts": parts, "checkpoint": saved, "traffic": traffic}


def traffic_s(params: list[nn.Parameter]) -> float:
    """Seconds for the memory traffic of an update: Adam reads weights, gradients and two moments and writes three,
    EMA reads two and writes one, and the norm reads one. These are 11 numbers per weight. The rate is that of copying
    tensors of the weights' mean size, more of them than a cache holds."""
    count, numel = len(params), sum(p.numel() for p in params)
    source = torch.ones(8 * count, numel // count, device=params[0].device)
    target = torch.zeros_like(source)
    rate = 2 * source.numel() / min(seconds(lambda: target.copy_(source)) for _ in range(5))
    return 11 * numel / rate


def overrides(batch: int, every: int, args: argparse.Namespace) -> list[str]:
    return [
        *PLAIN,
        "--train.total_steps=1000000",
        "--checkpoint.every=1000000",
        f"--train.amp={str(args.amp).lower()}",
        f"--data.batch_size={batch}",
        f"--logging.log_every_n_steps={every}",
        f"--device={args.device}",
        f"--out_dir={os.environ['BENCH_FOLDER']}/runs",
    ]


def bare(training: Any, batch: int) -> Callable[[], Any]:
    """Forward and backward on one batch, by the training's own network (a copy), at the training's precision."""
    model, device = copy.deepcopy(training.state.model), training.device
    x, eps = (torch.randn(batch, 3, 32, 32, device=device) for _ in range(2))
    t = torch.randint(0, 1000, (batch,), device=device)
    reduced = training.precision is not torch.float32

    def work() -> None:
        model.zero_grad()
        with torch.autocast(device.type, training.precision, enabled=reduced):
            loss = (model(x, t) - eps).square().mean()
        loss.backward()

    return work


def first_draft(training: Any, batch: int) -> Callable[[], Any]:
    """A straightforward step with the same network and schedule."""
    from torchvision.transforms.functional import pil_to_tensor, to_pil_image

    model, ema, device = copy.deepcopy(training.state.model), copy.deepcopy(training.state.model), training.device
    images = [to_pil_image(image.cpu()) for image in training.state.batches.images[:512]]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, foreach=False)
    alpha_bar = training.schedule.alpha_bar.float().to(device)

    def draw() -> Tensor:
        chosen = torch.randint(0, len(images), (batch,)).tolist()
        return torch.stack([pil_to_tensor(images[i]).float() / 127.5 - 1 for i in chosen]).to(device)

    def work() -> None:
        x_0 = draw()
        t, eps = torch.randint(0, 1000, (batch,), device=device), torch.randn_like(x_0)
        ab = alpha_bar[t].view(-1, 1, 1, 1)
        loss = (model(ab.sqrt() * x_0 + (1 - ab).sqrt() * eps, t) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        squares = sum(p.grad.norm().item() ** 2 for p in model.parameters() if p.grad is not None)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
        optimizer.step()
        with torch.no_grad():
            for mine, theirs in zip(ema.parameters(), model.parameters(), strict=True):
                mine.mul_(0.999).add_(theirs, alpha=0.001)
        loss.item(), squares**0.5

    return work


def parts_of(training: Any) -> list[tuple[str, Callable[[], Any]]]:
    """The parts of a step besides forward and backward, each alone. The gradients are the last step's."""
    from ddpm.training.step import gradient_norm, gradient_stats

    batch, device = training.cfg.data.batch_size, training.device

    def noise() -> None:
        x_0 = training.state.batches.take(training.state.batches.next_indices())
        t = torch.randint(0, 1000, (batch,), device=device)
        training.objective.task(x_0, t, torch.randn(x_0.shape, device=device))

    return [
        ("batch, t, eps and x_t", noise),
        ("gradient norm", lambda: gradient_norm(training.state.params)),
        ("Adam", training.state.optimizer.step),
        ("EMA", lambda: training.state.ema.update(training.state.model)),
        ("random streams' states", training.state.streams),
        ("gradient statistics (at logged steps alone)", lambda: gradient_stats(training.state.params)),
    ]


if __name__ == "__main__":
    sys.exit(main())
