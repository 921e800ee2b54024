"""Single samples of an FID evaluation: what each does to FID, and which real image is nearest in feature space."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm.evaluation.reference import Reference
from ddpm.evaluation.scores import FeatureSums, kept_positions


@dataclass(frozen=True)
class SampleTable:
    """k samples. index: of their noise, which is the same in all evaluations with one seed. images: (k, 3, H, W) uint8.
    influence: (k,) on FID, see `frechet_influence`. nearest: (k,) positions in the data set of the reference's images
    that are nearest in feature space, and distance: (k,) Euclidean; both None if the reference has no images here."""

    index: list[int]
    images: Tensor
    influence: Tensor
    nearest: Tensor | None
    distance: Tensor | None


class Shown:
    """Keeps the images of an evaluation's first samples, while they pass by.

    n: samples of the evaluation. count: how many to keep. Only samples with a kept feature count, and those that this
    process draws, `part`.
    """

    def __init__(self, n: int, count: int, part: slice):
        self._at = part.start or 0
        self.index = [i for i in kept_positions(n)[:count].tolist() if self._at <= i < part.stop]
        self._images: list[Tensor] = []

    def watch(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the batches (B, 3, H, W) unchanged."""
        for batch in batches:
            self._images += [batch[i - self._at] for i in self.index if self._at <= i < self._at + len(batch)]
            self._at += len(batch)
            yield batch

    def table(self, found: FeatureSums, reference: Reference) -> SampleTable | None:
        """The table, from the scored features of the same evaluation; None without samples. On the first process."""
        k = len(self._images)
        if not k or found.influence is None:
            return None
        nearest = distance = None
        if reference.rows is not None and reference.positions is not None:
            exact = "donot_use_mm_for_euclid_dist"  # equal features have distance 0
            distance, row = torch.cdist(found.rows[:k], reference.rows, compute_mode=exact).min(dim=1)
            nearest = reference.positions[row]
        return SampleTable(self.index[:k], torch.stack(self._images), found.influence[:k], nearest, distance)
