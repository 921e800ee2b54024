"""A training step as one CUDA graph: the possible gain if a GPU waits for kernel launches.

A trial, not a part of the product. The graph holds forward, loss, backward, clipping, Adam and EMA. The training's own
streams draw the batch, t and eps outside of it, into tensors at fixed addresses. Dropout draws inside, from the
device's stream, which a replay advances as a step does. The graph makes no decisions on the host: a step whose loss or
gradient is not finite still moves the weights, and clipping always multiplies, by 1 if the norm is below the limit.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.claims import Claim, of_rounds, quotient
from benchmarks.gpu.task import Task, repeatable, training_of
from benchmarks.timing import in_turn
from ddpm.training.loop import train_step
from ddpm.training.setup import Training
from ddpm.training.step import gradient_norm

Found = Iterator[Claim | str]
BATCH = 4
# Relative difference of any step's loss from the eager one's in float32: in 100 steps on a CPU, other orders of
# summation moved it by 1e-7. If two eager trainings differ on the device, the limit is ten times their difference.
SAME, APART = 1e-5, 10.0
WORTH_IT = 3.0


class StaticStep:
    """The steps of a new training; each is one replay of the graph."""

    def __init__(self, training: Training):
        self.training = training
        size, device = training.cfg.data.batch_size, training.device
        self.x_0 = torch.zeros(size, *training.state.batches.images.shape[1:], device=device)
        self.t = torch.full((size,), training.objective.t_range[0], device=device)
        self.eps = torch.zeros_like(self.x_0)
        self.said = torch.zeros(2, device=device)
        self.replay: Callable[[], None] = self.capture() if device.type == "cuda" else self.work

    def work(self) -> None:
        """`train_step` without decisions on the host."""
        training = self.training
        reduced = training.precision is not torch.float32
        with torch.autocast(training.device.type, training.precision, enabled=reduced):
            loss, _ = training.objective.losses(training.state.replica, self.x_0, self.t, self.eps, self.t)
        training.state.optimizer.zero_grad()
        loss.backward()
        norm = gradient_norm(training.state.params)
        if training.cfg.train.grad_clip:
            nn.utils.clip_grads_with_norm_(training.state.params, training.cfg.train.grad_clip, norm)
        training.state.optimizer.step()
        if training.state.ema:
            training.state.ema.update(training.state.model)
        self.said.copy_(torch.stack([loss.detach(), norm]))

    def capture(self) -> Callable[[], None]:
        """Capture `work` as a graph. Warming up changes weights, moments, averages and the stream; all are restored."""
        training = self.training
        averaged = list(training.state.ema.model.parameters()) if training.state.ema else []
        moved = [p.detach() for p in (*training.state.params, *averaged)]
        before, stream_before = [p.clone() for p in moved], torch.cuda.get_rng_state(training.device)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # off the default stream, as in a capture
            for _ in range(3):
                self.work()
        torch.cuda.current_stream().wait_stream(aside)
        torch._foreach_copy_(moved, before)
        for state in training.state.optimizer.state.values():
            torch._foreach_zero_(list(state.values()))  # as in a new Adam: step count and both moments
        training.state.optimizer.zero_grad()  # the capture allocates the gradients in the graph's own memory
        for group in training.state.optimizer.param_groups:
            group["capturable"] = True
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.work()
        torch.cuda.set_rng_state(stream_before, training.device)
        return graph.replay

    def step(self) -> float:
        """Take one step and return its loss. The draws and their order are those of `train_step`."""
        training = self.training
        self.x_0.copy_(next(training.state.batches))
        rng, device, t_range = training.state.noise_rng, training.device, training.objective.t_range
        self.t.copy_(torch.randint(*t_range, self.t.shape, generator=rng, device=device))
        self.eps.copy_(torch.randn(self.eps.shape, generator=rng, device=device))
        self.replay()
        loss, _ = self.said.tolist()  # a step has to read both
        return loss


def equal(task: Task) -> Found:
    """Losses of the captured step against the eager one's, from the same start; with dropout and in bf16 too."""
    repeatable()
    if not task.on_gpu:
        yield "skipped: the capture itself, on a GPU alone; the step that it would hold is compared"
    steps = task.pick(100, 4)
    for name, dropout, tf32 in (("fp32", 0.0, False), ("fp32", 0.1, True), ("bf16", 0.1, True)):
        if name == "bf16" and not (task.on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)):
            yield "skipped: bf16, which is a GPU's"
            continue
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32):
            eager, again, captured = (_losses(task, name, dropout, steps, kind) for kind in (False, False, True))
        control, off = (_apart(eager, other) for other in (again, captured))
        what = f"{name}, dropout {dropout:g}: captured against eager, {steps} steps, the largest relative difference"
        if dropout:  # equal masks need a replay that advances the stream as a step does: shown, not required
            yield Claim(what, off, better="neither")
        else:
            yield Claim("   the same of two eager trainings", control, better="neither")
            yield Claim(what, off, target=max(SAME, APART * control))


def _losses(task: Task, name: str, dropout: float, steps: int, captured: bool) -> Tensor:
    training = _training(task, name, dropout)  # this seeds the streams
    step = StaticStep(training).step if captured else _eager(training)
    return torch.tensor([step() for _ in range(steps)], dtype=torch.float64)


def _training(task: Task, name: str, dropout: float) -> Training:
    return training_of(task.config(f"--data.batch_size={BATCH}", f"--model.dropout={dropout}"), name)


def _eager(training: Training) -> Callable[[], float]:
    return lambda: train_step(training, next(training.state.batches)).loss.item()


def _apart(a: Tensor, b: Tensor) -> float:
    return (b / a - 1).abs().max().item()


def speed(task: Task) -> Found:
    """The gain of capturing at batch 4."""
    if not task.on_gpu:
        yield "skipped: a CUDA graph's speed, on a GPU alone"
    steps, rounds = task.pick(50, 1), task.pick(5, 1)
    names = ("fp32", "bf16") if task.on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else ("fp32",)
    for name in names:
        # Two separate trainings. The captured one comes first, so its warm-up cannot affect the eager one.
        captured = StaticStep(_training(task, name, 0.1)).step
        eager = _eager(_training(task, name, 0.1))

        def block(step: Callable[[], float]) -> list[float]:
            return [step() for _ in range(steps)]

        taken = in_turn({"eager": partial(block, eager), "captured": partial(block, captured)}, rounds)
        for way, seconds in taken.items():
            yield of_rounds(f"{way} step, batch {BATCH}, {name}", [1e3 * s / steps for s in seconds], "ms")
        if task.on_gpu:
            what = f"captured step's speed over the eager one's, batch {BATCH}, {name}"
            yield quotient(what, taken["eager"], taken["captured"], target=WORTH_IT, better="more")
