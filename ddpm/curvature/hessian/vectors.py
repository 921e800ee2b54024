"""Random vectors with E[v v'] = I in the shape of a list of parameters.

They are drawn on the CPU and moved, so a seed gives the same vector on every device.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Generator, Tensor

# (parameters, CPU generator) -> a tensor for each parameter, with its shape, dtype and device.
Vectors = Callable[[Sequence[Tensor], Generator], list[Tensor]]


def rademacher(params: Sequence[Tensor], rng: Generator) -> list[Tensor]:
    """Independent signs, eight from each random byte: a third of the time of `torch.randint(0, 2)` for each entry."""
    count = sum(p.numel() for p in params)
    octets = torch.empty(-(-count // 8), dtype=torch.uint8).random_(0, 256, generator=rng)
    return _shaped(_signs_of_byte().index_select(0, octets.int()).flatten()[:count], params)


def gaussian(params: Sequence[Tensor], rng: Generator) -> list[Tensor]:
    """Independent standard normal entries."""
    return _shaped(torch.randn(sum(p.numel() for p in params), generator=rng), params)


@cache
def _signs_of_byte() -> Tensor:
    """(256, 8) float32: the bits of a byte as signs."""
    return (((torch.arange(256)[:, None] >> torch.arange(8)) & 1) * 2 - 1).float()


def _shaped(flat: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    parts = flat.split([p.numel() for p in params])
    return [part.reshape(p.shape).to(p.device, p.dtype) for part, p in zip(parts, params, strict=True)]
