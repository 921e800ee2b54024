"""Vectors pushed through a graph several at a time, as many as memory allows."""

import warnings
from collections.abc import Callable

from torch import Tensor

# What a CPU allocator says in a plain RuntimeError; of a GPU it is torch.OutOfMemoryError, a RuntimeError too.
_SIGNS = ("out of memory", "not enough memory", "can't allocate memory")


class MeasurementWarning(UserWarning):
    """What a measurement had to do otherwise than asked."""


def out_of_memory(error: Exception) -> bool:
    """Whether this is how a lack of memory shows."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _SIGNS)


class Chunks:
    """`size` vectors at a time, from the first failure on fewer: halved until they fit."""

    def __init__(self, size: int):
        if size < 1:
            raise ValueError(f"chunk must be at least 1, got {size}")
        self.size = size

    def over(self, count: int, work: Callable[[slice], Tensor]) -> list[Tensor]:
        """`work` of consecutive slices of 0 ... count-1. Raises what `work` raises of a single vector."""
        found: list[Tensor] = []
        begin = 0
        while begin < count:
            result = self._attempt(work, slice(begin, min(begin + self.size, count)))
            if result is not None:
                found.append(result)
                begin += self.size
        return found

    def _attempt(self, work: Callable[[slice], Tensor], part: slice) -> Tensor | None:
        """What `work` found, or None after going down to a smaller size. By then what the failure held is released."""
        try:
            return work(part)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or self.size == 1:
                raise
        smaller = max(1, min(self.size, part.stop - part.start) // 2)
        warnings.warn(
            f"out of memory with {self.size} vectors at a time: going on with {smaller}", MeasurementWarning, 2
        )
        self.size = smaller
        return None
