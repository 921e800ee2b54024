"""Evenly spaced positions, the same on every processor."""

import torch
from torch import Tensor


def evenly_spaced(n: int, count: int) -> Tensor:
    """(count,) int64 positions, evenly spaced from 0 to n - 1 and rounded, halves to even. A single one is 0.

    In whole numbers: `torch.linspace` differs in its last bit between processors, which rounding can turn into another
    position.
    """
    gaps = max(count - 1, 1)
    at = torch.arange(count) * (n - 1)
    below, rest = at // gaps, at % gaps
    return below + (2 * rest + below % 2 > gaps)
