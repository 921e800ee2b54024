"""From features to numbers: what is kept of features that stream by, and the scores that are taken of it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm.evaluation.distances import Gaussian, GaussianSum, frechet_distance
from ddpm.evaluation.intervals import extrapolate, frechet_error
from ddpm.evaluation.kernel import Kid, kid
from ddpm.evaluation.kernel import neighbours as nearest

NEIGHBOURS = ("precision", "recall", "density", "coverage")
ROWS = 10_000  # features kept one by one, of each set: 2.5 MB of embedded features, 82 MB of Inception's


class FeatureSums:
    """What scores need of n features (n, d) that arrive in batches, in order: their Gaussian sums, and min(n, ROWS) of
    them, evenly spaced, as they are. Memory does not grow with n beyond that.

    Of several processes each begins at `first` of the n, with one `origin` for all (see GaussianSum).
    """

    def __init__(self, n: int, dim: int, origin: Tensor | None = None, first: int = 0) -> None:
        self.sums = GaussianSum(origin)
        self.rows = torch.zeros(min(n, ROWS), dim)
        self._kept = torch.linspace(0, n - 1, len(self.rows), dtype=torch.float64).round().long()
        self._at = first

    def add(self, features: Tensor) -> None:
        """Take in the next batch (B, d)."""
        features = features.float().cpu()
        self.sums.add(features)
        ends = torch.tensor([self._at, self._at + len(features)])
        low, high = torch.searchsorted(self._kept, ends).tolist()
        self.rows[low:high] = features[self._kept[low:high] - self._at]
        self._at += len(features)

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """Take in what other processes have gathered: `total` adds a tensor up over all of them."""
        self.sums.add_up(total)
        self.rows = total(self.rows)  # each row is one process's, and zero in the others


@dataclass(frozen=True)
class Wanted:
    """Which scores are taken besides FID. neighbours: the k of precision, recall, density and coverage; infinite: FID
    extrapolated to infinitely many samples."""

    kid: Kid | None = None
    neighbours: int | None = None
    infinite: bool = False

    @property
    def needs_rows(self) -> bool:
        """Whether the reference has to have rows."""
        return bool(self.kid or self.neighbours)

    def settings(self, score: str, n: int, reference_n: int) -> str | None:
        """How `score` is taken of n samples and a reference, for its protocol; None of FID."""
        rows = min(n, ROWS), min(reference_n, ROWS)
        if score == "kid" and self.kid:
            return f"{self.kid.subsets} subsets of {self.kid.size(*rows)} among {rows[0]} and {rows[1]}"
        if score in NEIGHBOURS and self.neighbours:
            return f"{self.neighbours} nearest neighbours among {rows[0]} and {rows[1]}"
        return "extrapolated" if score == "fid_infinity" else None


def scores(found: FeatureSums, real: Gaussian, real_rows: Tensor | None, wanted: Wanted) -> dict[str, float]:
    """The scores of `found` against a reference's statistics and rows (m, d), by name: `fid` and `fid_sem`, its
    standard error; where wanted `fid_infinity`, `kid` and `kid_std`, `precision`, `recall`, `density`, `coverage`."""
    gaussian = found.sums.result()
    row = {"fid": frechet_distance(gaussian, real), "fid_sem": frechet_error(gaussian, real, found.rows)}
    if wanted.infinite:
        row["fid_infinity"] = extrapolate(found.rows, real)
    if real_rows is not None and wanted.kid:
        row["kid"], row["kid_std"] = kid(found.rows, real_rows, wanted.kid)
    if real_rows is not None and wanted.neighbours:
        row |= nearest(found.rows, real_rows, wanted.neighbours)
    return row
