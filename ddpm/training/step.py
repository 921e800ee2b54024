"""The update of one step, what the step measured, and its divergence."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ddpm.config.run import Config
from ddpm.errors import UserError
from ddpm.runtime import distributed

if TYPE_CHECKING:
    from ddpm.training.state import TrainState


@dataclass(frozen=True)
class StepStats:
    """What one step measured: scalars that are still on the device.

    grad_norm: L2, before clipping. details: metrics that only rows need. finite: whether loss and gradient are finite.
    An fp16 gradient that overflows counts as finite, because the next step has a smaller loss scale.
    """

    loss: Tensor
    mse: Tensor
    grad_norm: Tensor
    details: dict[str, Tensor]
    finite: bool

    def row(self) -> dict[str, float]:
        """The step's metrics by key. Waits for the device."""
        tensors = {
            "train/loss": self.loss,
            "train/mse": self.mse,
            "train/grad_global_L2": self.grad_norm,
            **self.details,
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
    """Backward, clip, optimizer and EMA: a whole update of `state`, or none if loss or gradient is not finite.

    loss, mse: scalars for this process's part of the batch. with_stats: also measure the gradient's entries.
    """
    state.optimizer.zero_grad()
    state.scaler.scale(loss).backward()
    state.scaler.unscale_(state.optimizer)
    details = gradient_stats(state.params) if with_stats else {}
    loss, mse = distributed.means(loss.detach(), mse.detach())  # every step: all processes must see a non-finite value
    norm = gradient_norm(state.params)
    loss_is, norm_is = torch.stack([loss, norm]).tolist()  # the only wait for the device in a step
    taken = math.isfinite(loss_is) and math.isfinite(norm_is)
    # The scaler handles an fp16 gradient that overflows, as long as it can lower the scale. Without fp16, it is 1.
    overflow = math.isfinite(loss_is) and not taken and state.scaler.get_scale() > 1
    if taken:
        if grad_clip and norm_is > grad_clip:  # otherwise clipping is a pass over all gradients without effect
            nn.utils.clip_grads_with_norm_(state.params, grad_clip, norm)
        state.scaler.step(state.optimizer)
        if state.ema:
            state.ema.update(state.model)
    if taken or overflow:
        state.scaler.update()  # after a skipped step `TrainState.count` does it; a diverged step is not counted
    return StepStats(loss, mse, norm, details, taken or overflow)


def divergence(cfg: Config, step: int, stats: StepStats, indices: list[int], path: Path) -> UserError:
    """The error that ends a run at `step`, which was not finite. path: the checkpoint of the state before it."""
    row = stats.row()
    return UserError(
        f"Step {step} is not finite: loss {row['train/loss']:g}, gradient norm {row['train/grad_global_L2']:g}, on "
        f"the images {indices} of the set. {path} is the state before it. To resume there and skip the step, raise "
        f"train.skip_nonfinite (now {cfg.train.skip_nonfinite}). Or start another run: lower optim.lr "
        f"({cfg.optim.lr:g}) or train.grad_clip ({cfg.train.grad_clip}), or set train.amp=false."
    )
