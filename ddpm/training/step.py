"""What one step of training measured."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


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
