"""The update of one step, and what the step measured."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ddpm.runtime import distributed

if TYPE_CHECKING:
    from ddpm.training.state import TrainState


@dataclass(frozen=True)
class StepStats:
    """What one step measured, still on the device: loss, mse and gradient L2 norm before clipping, all scalars; and
    whether loss and gradient were finite. A gradient that overflows in fp16 counts as finite: the next step is scaled
    less."""

    loss: Tensor
    mse: Tensor
    grad_norm: Tensor
    gradient: dict[str, Tensor]
    finite: bool

    def row(self) -> dict[str, float]:
        """The step's metrics by key. Waits for the device."""
        tensors = {
            "train/loss": self.loss,
            "train/mse": self.mse,
            "train/grad_global_L2": self.grad_norm,
            **self.gradient,
        }
        return {key: value.item() for key, value in tensors.items()}


def gradient_norm(params: list[nn.Parameter]) -> Tensor:
    """L2 norm over all entries, a scalar."""
    return nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])


def gradient_stats(params: list[nn.Parameter]) -> dict[str, Tensor]:
    """Mean and largest |gradient| over all entries, before clipping."""
    flat = torch.cat([p.grad.flatten() for p in params if p.grad is not None]).abs()
    return {"train/grad_abs_mean": flat.mean(), "train/grad_abs_max": flat.max()}


def update(
    state: "TrainState", loss: Tensor, mse: Tensor, grad_clip: float | None, *, with_stats: bool = False
) -> StepStats:
    """Backward, clip, optimizer and average: a whole update of `state`, or none if loss or gradient are not finite.

    loss, mse: scalars of this process's part of the batch. with_stats: measure the gradient's entries too.
    """
    state.optimizer.zero_grad()
    state.scaler.scale(loss).backward()
    state.scaler.unscale_(state.optimizer)
    gradient = gradient_stats(state.params) if with_stats else {}
    loss, mse = distributed.means(loss.detach(), mse.detach())  # every step: what is not finite, all have to see
    norm = gradient_norm(state.params)
    loss_is, norm_is = torch.stack([loss, norm]).tolist()  # the one time that a step waits for the device
    taken = math.isfinite(loss_is) and math.isfinite(norm_is)
    # An fp16 gradient that overflows is the scaler's to handle, as long as it can scale less: without one it is 1.
    overflow = math.isfinite(loss_is) and not taken and state.scaler.get_scale() > 1
    if taken:
        if grad_clip and norm_is > grad_clip:  # else a pass over all gradients for nothing
            nn.utils.clip_grads_with_norm_(state.params, grad_clip, norm)
        state.scaler.step(state.optimizer)
        if state.ema:
            state.ema.update(state.model)
    state.scaler.update()
    return StepStats(loss, mse, norm, gradient, taken or overflow)
