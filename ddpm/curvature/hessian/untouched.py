"""Measure in full float32 precision and restore all state afterwards."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def untouched(params: Sequence[Tensor], model: nn.Module | None = None) -> Iterator[None]:
    """Inside: no autocast, no TF32, and `model`, if given, in eval mode. Afterwards random streams, and the mode and
    buffers of each submodule of `model`, are bitwise as before."""
    devices = sorted({p.device.index for p in params if p.device.type == "cuda"})
    precision = torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.autocast(params[0].device.type, enabled=False))
        stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        stack.callback(torch.set_float32_matmul_precision, precision)
        torch.set_float32_matmul_precision("highest")
        if model is not None:
            stack.enter_context(_eval_mode(model))
        yield


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for buffer, before in buffers:
            if not torch.equal(buffer, before):
                buffer.copy_(before)
