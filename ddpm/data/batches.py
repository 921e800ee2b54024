"""The order in which training sees the images."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ddpm.data.images import to_model


class Batches:
    """An endless stream of batches. Each epoch is a new permutation, or without `shuffle` the set's order.

    It has its own random stream, which sampling and probing do not change. Batches cross epochs, so each is full.
    """

    def __init__(self, images: Tensor, batch_size: int, seed: int, *, shuffle: bool = True):
        self.images, self.batch_size, self.shuffle = images, batch_size, shuffle
        self._rng = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)
        self._at = 0

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        """(batch_size, 3, H, W) float32 in [-1, 1], on the device of the images."""
        return self.take(self.next_indices())

    def take(self, indices: Tensor) -> Tensor:
        """The images at `indices` (B,), in the form of `__next__`."""
        return to_model(self.images[indices.to(self.images.device)])

    def next_indices(self) -> Tensor:
        """(batch_size,) positions of the next batch."""
        while len(self._order) - self._at < self.batch_size:
            n = len(self.images)
            epoch = torch.randperm(n, generator=self._rng) if self.shuffle else torch.arange(n)
            self._order = torch.cat([self._order[self._at :], epoch])
            self._at = 0
        taken = self._order[self._at : self._at + self.batch_size]
        self._at += self.batch_size
        return taken

    def state_dict(self) -> dict[str, Any]:
        """All that the further order depends on."""
        return {"rng": self._rng.get_state(), "order": self._order[self._at :]}  # never modified in place

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.set_state(state["rng"])
        self._order, self._at = state["order"], 0
