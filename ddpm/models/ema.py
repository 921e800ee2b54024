"""Exponential moving average of the weights, used for sampling."""

import copy

import torch
from torch import Tensor, nn


class Ema:
    """w_ema <- decay * w_ema + (1 - decay) * w after each optimizer step, starting from the first weights.

    After n steps w_ema = decay^n w_0 + (1 - decay) * sum_k decay^(n-k) w_k. Buffers are copied. 0 <= decay < 1.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._averaged: list[Tensor] = list(self.model.parameters())

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move one step towards the weights of `model`."""
        torch._foreach_lerp_(self._averaged, list(model.parameters()), 1 - self.decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
