"""Work on several vectors at a time, as many as memory allows."""

import warnings
from collections.abc import Callable

from torch import Tensor

# Texts of a CPU allocator's plain RuntimeError. A GPU raises torch.OutOfMemoryError, also a RuntimeError.
_SIGNS = ("out of memory", "not enough memory", "can't allocate memory")


class MeasurementWarning(UserWarning):
    """A measurement deviated from its settings."""


def out_of_memory(error: Exception) -> bool:
    """Whether the error means a lack of memory."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _SIGNS)


class Chunks:
    """Processes `size` vectors at a time; after a lack of memory fewer, halved until they fit."""

    def __init__(self, size: int):
        if size < 1:
            raise ValueError(f"chunk must be at least 1, got {size}")
        self.size = size

    def over(self, count: int, work: Callable[[slice], Tensor]) -> list[Tensor]:
        """The results of `work` on consecutive slices of range(count). Raises what `work` raises on a single vector."""
        found: list[Tensor] = []
        begin = 0
        while begin < count:
            result = self._attempt(work, slice(begin, min(begin + self.size, count)))
            if result is not None:
                found.append(result)
                begin += self.size
        return found

    def _attempt(self, work: Callable[[slice], Tensor], part: slice) -> Tensor | None:
        """The result of `work`; or None after halving the size, once the failed attempt has released its memory."""
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
