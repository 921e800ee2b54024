"""The speed of training, sampling and probes: the benchmarks of the same names, at sizes for a GPU."""

import argparse
import os
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks import sampling, training_step
from benchmarks.claims import Claim, of_rounds, quotient
from benchmarks.gpu.task import Task
from benchmarks.timing import in_turn
from ddpm.training.setup import Training

Found = Iterator[Claim | str]


def step(task: Task) -> Found:
    """The whole step compared with its bare forward and backward pass, at three batch sizes."""
    os.environ["BENCH_FOLDER"] = str(task.folder)
    args = argparse.Namespace(quick=task.quick, rounds=3, device=str(task.device), amp=False)
    reduced = task.on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if not reduced:
        yield "skipped: bf16, which is a GPU's"
    for batch in (2,) if task.quick else (4, 64, 512):
        for args.amp in (False, True) if reduced else (False,):
            found = training_step.measure_in_process(batch, args, task.small)
            yield from training_step.claims_of_one(f"batch {batch}, {'bf16' if args.amp else 'fp32'}", batch, found)


def samples(task: Task) -> Found:
    """Images/s, compared with a plain loop and with the network's passes alone."""
    batch = 2 if task.quick else None
    yield from sampling.measure_plain(task.device, task.pick(20, 1), task.pick(3, 1), task.network, batch)


def probes(task: Task) -> Found:
    """The cost of a probe of 16 values, in gradients of the same batch size."""
    for batch in (2,) if task.quick else (4, 64):
        yield from _probes(task, batch)


def _probes(task: Task, batch: int) -> Found:
    probes, gradients = task.pick(16, 2), task.pick(20, 2)
    training = Training(
        task.config(f"--data.batch_size={batch}", "--curvature.enabled=true", f"--curvature.probes={probes}")
    )
    bare = training_step.bare(training, batch)

    def probe() -> None:
        training.diagnostics.curvature.measure(training.state.model, 1, torch.arange(batch), lambda: None, checks=0)

    ways: dict[str, Callable[[], object]] = {"gradients": partial(_repeat, bare, gradients), "probe": probe}
    taken = in_turn(ways, task.pick(3, 1))
    yield of_rounds(f"a gradient, batch {batch}", [1e3 * s / gradients for s in taken["gradients"]], "ms")
    yield of_rounds(f"a probe, batch {batch}", [1e3 * s / probes for s in taken["probe"]], "ms")
    per_probe, per_gradient = ([s / n for s in taken[k]] for k, n in (("probe", probes), ("gradients", gradients)))
    yield quotient(f"gradients a probe, batch {batch}", per_probe, per_gradient, "", target=1.0)


def _repeat(work: Callable[[], object], times: int) -> None:
    for _ in range(times):
        work()
