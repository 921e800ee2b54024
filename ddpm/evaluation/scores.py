"""From features to scores: what is kept of features that arrive in batches, and the scores computed from it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm.errors import NotFinite, UserError
from ddpm.evaluation.distances import Gaussian, GaussianSum, frechet_distance
from ddpm.evaluation.fid_error import error_of, extrapolate, frechet_influence
from ddpm.evaluation.kid_prdc import Kid, kid
from ddpm.evaluation.kid_prdc import neighbours as nearest
from ddpm.evenly import evenly_spaced

NEIGHBOURS = ("precision", "recall", "density", "coverage")
ROWS = 10_000  # features kept per set: 2.5 MB of embedded features, 82 MB of Inception's
KID_ROWS = 4  # a subset is at most half the rows, and one row gives no unbiased estimate
INFINITE_ROWS = 4  # per dimension; with fewer, the smaller subsets' FIDs do not lie on a line in 1 / n


def kept_positions(n: int) -> Tensor:
    """Positions of the features that are kept, of n: min(n, ROWS), evenly spaced."""
    return evenly_spaced(n, min(n, ROWS))


class FeatureSums:
    """What the scores need of n features (n, d) that arrive in batches, in order: Gaussian sums, and min(n, ROWS) rows.

    first: position of this process's first feature; origin: common to all processes (see GaussianSum).
    """

    def __init__(self, n: int, dim: int, origin: Tensor | None = None, first: int = 0) -> None:
        self.sums = GaussianSum(origin)
        self._kept = kept_positions(n)
        self.rows = torch.zeros(len(self._kept), dim)
        self.influence: Tensor | None = None  # (len(rows),) on FID, once scored
        self._at = first

    def add(self, features: Tensor) -> None:
        """Take in the next batch (B, d). Raises NotFinite if a feature is not finite."""
        features = features.float().cpu()
        finite = features.isfinite().all(1)
        if not finite.all():
            raise NotFinite(
                f"The features of {int((~finite).sum())} of the images {self._at} ... {self._at + len(features) - 1} "
                "are not finite numbers, so they cannot be scored. Look at the samples (ddpm sample), and at the "
                "feature net if it is your own; eval.features=embedded needs none."
            )
        self.sums.add(features)
        ends = torch.tensor([self._at, self._at + len(features)])
        low, high = torch.searchsorted(self._kept, ends).tolist()
        self.rows[low:high] = features[self._kept[low:high] - self._at]
        self._at += len(features)

    def add_all(self, batches: Iterable[Tensor]) -> None:
        """Take in batches (B, d), in order."""
        for features in batches:
            self.add(features)

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """Take in what the other processes gathered. `total` adds a tensor up over all processes."""
        self.sums.add_up(total)
        self.rows = total(self.rows)  # each row belongs to one process and is zero in the others


@dataclass(frozen=True)
class Wanted:
    """Which scores to compute besides FID. neighbours: k of precision, recall, density and coverage; infinite: FID
    extrapolated to infinitely many samples."""

    kid: Kid | None = None
    neighbours: int | None = None
    infinite: bool = False

    @property
    def needs_rows(self) -> bool:
        """Whether the scores need rows of the reference."""
        return bool(self.kid or self.neighbours)

    def settings(self, score: str, n: int, reference_rows: int, rows_digest: str | None = None) -> str | None:
        """How `score` is computed from n samples and `reference_rows` rows, for its protocol; None for FID.

        rows_digest: see `Reference`.
        """
        rows = min(n, ROWS), reference_rows
        among = f"among {rows[0]} and {rows[1]}" + (f" of {rows_digest}" if rows_digest else "")
        if score == "kid" and self.kid:
            return f"{self.kid.subsets} subsets of {self.kid.size(*rows)} {among}"
        if score in NEIGHBOURS and self.neighbours:
            return f"{self.neighbours} nearest neighbours {among}"
        return "extrapolated" if score == "fid_infinity" else None

    def check(self, n: int, reference_rows: int, dim: int) -> None:
        """Raises UserError if n samples or the reference's rows are too few for a score. dim: of the features."""
        kept, least = min(n, ROWS), min(n, ROWS, reference_rows)
        available = f"there are {kept} of the samples and {reference_rows} of the reference"
        more = "Raise the numbers of samples and of reference images (eval.reference_n, data.subset)"
        if self.neighbours and self.neighbours >= least:
            raise UserError(
                f"Precision, recall, density and coverage with eval.prdc.k = {self.neighbours} neighbours need more "
                f"than {self.neighbours} features; {available}. {more}, or lower k."
            )
        if self.kid and least < KID_ROWS:
            raise UserError(
                f"KID needs at least {KID_ROWS} features, for subsets of two; {available}. {more}, or leave KID out."
            )
        if self.infinite and kept <= INFINITE_ROWS * dim:
            raise UserError(
                f"FID at infinite n extrapolates FIDs of {kept // 2} to {kept} samples, which works only above "
                f"{INFINITE_ROWS} * {dim} = {INFINITE_ROWS * dim} samples (at most {ROWS:,} are kept). Raise n, use "
                "features with fewer dimensions, or leave fid_infinity out."
            )

    def smaller_subsets(self, n: int, reference_rows: int) -> str | None:
        """A sentence if n samples or the reference's rows are too few for KID's subsets as asked for; None if not."""
        rows = min(n, ROWS)
        if not self.kid or (size := self.kid.size(rows, reference_rows)) == self.kid.subset_size:
            return None
        return (
            f"KID: subsets of {size} features, not {self.kid.subset_size}: a subset is at most half of the {rows} of "
            f"the samples and of the {reference_rows} of the reference. Its mean stays unbiased, its spread is wider."
        )


def scores(found: FeatureSums, real: Gaussian, real_rows: Tensor | None, wanted: Wanted) -> dict[str, float]:
    """The scores of `found` against a reference's statistics and rows (m, d), by name: `fid` and `fid_sem`, its
    standard error; if wanted `fid_infinity`, `kid` and `kid_std`, `precision`, `recall`, `density`, `coverage`."""
    gaussian = found.sums.result()
    found.influence = frechet_influence(gaussian, real, found.rows)
    row = {"fid": frechet_distance(gaussian, real), "fid_sem": error_of(found.influence, gaussian.count)}
    if wanted.infinite:
        row["fid_infinity"] = extrapolate(found.rows, real)
    if real_rows is not None and wanted.kid:
        row["kid"], row["kid_std"] = kid(found.rows, real_rows, wanted.kid)
    if real_rows is not None and wanted.neighbours:
        row |= nearest(found.rows, real_rows, wanted.neighbours)
    return row
