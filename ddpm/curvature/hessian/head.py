"""A network's last linear layer: the output is linear in its parameters, and a squared error exactly quadratic.

f = head(phi) with weights and bias b: df/db depends only on the features phi, which therefore give the block H_bb of a
squared error's Hessian in closed form, for every weighting of the samples.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LinearHead:
    """`module`, an `nn.Linear` or an ungrouped, zero-padded `nn.Conv2d`, as a function of features and parameters.

    Raises ValueError on any other module.
    """

    def __init__(self, module: nn.Module):
        plain = not isinstance(module, nn.Conv2d) or (module.groups == 1 and module.padding_mode == "zeros")
        if not (isinstance(module, (nn.Linear, nn.Conv2d)) and plain):
            raise ValueError(f"the head must be an nn.Linear or an ungrouped, zero-padded nn.Conv2d, got {module}")
        self.module = module

    def weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The head's own weight and bias."""
        bias = self.module.bias
        return self.module.weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype)

    def __call__(self, features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, ...) output for these features with this weight and bias instead of the head's own."""
        if isinstance(self.module, nn.Linear):
            return F.linear(features, weight, bias)
        m = self.module
        return F.conv2d(features, weight, bias, m.stride, m.padding, m.dilation)

    def squared_jacobian(self, features: Tensor) -> Tensor:
        """(B,) |d f_i / d b|_F^2. Each of the O outputs at a place has its own row of weights, and all have the same
        inputs there: O times the sum over places of |inputs|^2 (+ 1 with a bias)."""
        weight = self.module.weight
        ones = torch.ones_like(weight[:1], dtype=features.dtype)
        at_place = self(features.square(), ones)  # (B, 1, H, W) or (B, ..., 1)
        if self.module.bias is not None:
            at_place = at_place + 1
        return len(weight) * at_place.flatten(1).sum(1)

    @contextmanager
    def recorded(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Record (input, output) of each pass through the head inside the block."""
        seen: list[tuple[Tensor, Tensor]] = []

        def record(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen.append((args[0].detach(), output))

        handle = self.module.register_forward_hook(record)
        try:
            yield seen
        finally:
            handle.remove()
