"""Reference statistics of real images, computed here or published by clean-fid; and the two ends of FID's scale: real
images and uniform noise."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ddpm.data.images import ImageSet
from ddpm.errors import UserError
from ddpm.evaluation.distances import Gaussian, finite
from ddpm.evaluation.features import Features, fetch, file_digest, what_failed
from ddpm.evaluation.scores import FeatureSums, kept_positions
from ddpm.evenly import evenly_spaced
from ddpm.runtime.cache import cache_dir, cached
from ddpm.runtime.checkpoint import digest

_STATISTICS = 3  # bump when the statistics are computed in another way; discards cached ones
BATCH = 250
PUBLISHED = {"cifar10-train": 50_000, "cifar10-test": 10_000}  # clean-fid's statistics: number of images


@dataclass(frozen=True)
class Reference:
    """Feature statistics of real images.

    rows: (m, d), some of the features, or None if only the statistics are known. key: a digest of all that the numbers
    depend on. rows_digest: the digest of the rows' file if the statistics are from another file. positions: (m,) of
    the rows' images in their set, if they are from one.
    """

    name: str
    digest: str
    gaussian: Gaussian
    rows: Tensor | None
    key: str
    rows_digest: str | None = None
    positions: Tensor | None = None


def make_reference(features: Features, images: ImageSet, n: int | None) -> Reference:
    """Statistics of n images, evenly spaced over the set (all if None), cached. Raises UserError if n is too small."""
    chosen = images.images[_reference_positions(images, n)]
    if len(chosen) <= features.dim:
        raise UserError(
            f"The reference has {len(chosen)} images, too few for the {features.dim} dimensions of {features.name}. "
            f"Raise eval.reference_n or data.subset above {features.dim}, or use --eval.features=embedded."
        )

    def take() -> dict[str, Tensor]:
        found = FeatureSums(len(chosen), features.dim)
        found.add_all(features.of(tqdm(chosen.split(BATCH), desc="reference features", disable=None, leave=False)))
        gaussian = found.sums.result()
        return {"mean": gaussian.mean, "covariance": gaussian.covariance, "rows": found.rows}

    # The bits also depend on device, version and threads. The features of a few images show the first two.
    few = digest([features.extract(chosen[:8]), torch.get_num_threads(), torch.__version__])
    key = digest([_STATISTICS, features.name, features.resize, images.digest, len(chosen), few])
    found = cached("reference", key, take)
    gaussian = Gaussian(found["mean"], found["covariance"], len(chosen))
    positions = _reference_positions(images, n)[kept_positions(len(chosen))]
    return Reference(images.name, images.digest, gaussian, found["rows"], key, positions=positions)


def _reference_positions(images: ImageSet, n: int | None) -> Tensor:
    return evenly_spaced(len(images), min(n or len(images), len(images)))


# --- clean-fid's own ---


def published_reference(name: str, features: Features, with_rows: bool) -> Reference:
    """clean-fid's statistics of `cifar10-train` or `cifar10-test` (at 32x32) for its Inception mode `features.mode`.

    with_rows: the features too, which KID needs. clean-fid downloads missing files into the cache folder. Raises
    UserError if it cannot, or if `features` are not clean-fid's.
    """
    if features.mode is None:
        raise UserError(
            f"eval.reference_stats = {name} are statistics of clean-fid's Inception features, but eval.features is "
            f"{features.name}. Use eval.features=inception, or eval.reference_stats=null for statistics of the "
            "training images."
        )
    path, rows_path = published_files(name, features.mode)
    mean, covariance = (torch.from_numpy(_read(path, key)).double() for key in ("mu", "sigma"))
    if mean.shape != (features.dim,) or covariance.shape != (features.dim, features.dim):
        raise UserError(f"{path} has a mean of shape {tuple(mean.shape)}, not ({features.dim},). {_advice(path)}")
    gaussian, content = Gaussian(mean, covariance, PUBLISHED[name]), file_digest(path)
    if not finite(gaussian):
        raise UserError(f"{path} has statistics that are not finite. {_advice(path)}")
    if not with_rows:
        return Reference(f"clean-fid-{name}", content[:12], gaussian, None, content)
    rows = _published_rows(rows_path, features.dim)
    of_rows = file_digest(rows_path)
    return Reference(f"clean-fid-{name}", content[:12], gaussian, rows, digest([content, of_rows]), of_rows[:12])


def _published_rows(path: Path, dim: int) -> Tensor:
    """The features (m, dim) in a file of clean-fid's, at most ROWS of them, evenly spaced. Raises UserError."""
    rows = _read(path, "feats")
    if rows.ndim != 2 or rows.shape[1] != dim or rows.dtype.kind != "f":
        raise UserError(f"{path} has features of shape {rows.shape} ({rows.dtype}), not (n, {dim}). {_advice(path)}")
    chosen = torch.from_numpy(rows[kept_positions(len(rows)).numpy()]).float()
    if not chosen.isfinite().all():
        raise UserError(f"{path} has features that are not finite. {_advice(path)}")
    return chosen


def published_files(name: str, mode: str) -> tuple[Path, Path]:
    """The paths in the cache folder of clean-fid's statistics of that name, and of their features."""
    dataset, split = name.split("-")
    stem = f"{dataset}_{mode}_{split}_32"
    return cache_dir() / "clean-fid" / f"{stem}.npz", cache_dir() / "clean-fid" / f"{stem}_kid.npz"


def _read(path: Path, key: str) -> Any:
    """The array `key` of a file of clean-fid's, which is downloaded if missing. Raises UserError."""
    try:
        fetch(path, _download)
        with np.load(path) as file:
            return file[key]
    except Exception as error:  # a damaged file and a refused download raise many types
        raise UserError(f"clean-fid's statistics: {what_failed(path, error)}. {_advice(path)}") from error


def _advice(path: Path) -> str:
    return (
        f"On a machine with internet clean-fid downloads {path.name}: copy it into {path.parent}, or set DDPM_CACHE to "
        "the folder that contains clean-fid/; or set eval.reference_stats=null. `ddpm doctor` lists what is there."
    )


def _download(path: Path) -> None:
    from cleanfid.downloads_helper import check_download_url

    url = f"https://www.cs.cmu.edu/~clean-fid/stats/{path.name}"  # as cleanfid.features has it
    check_download_url(local_folder=str(path.parent), url=url)


# --- the ends of the scale ---


def outside_reference(images: ImageSet, reference_n: int | None, n: int) -> Tensor:
    """(n,) positions of images that are not in the reference, evenly spaced over the set.

    If fewer than n are left, they are spaced over the whole set: some or all are then in the reference, and repeat if n
    exceeds the set. Their FID is then below that of images outside, down to 0 if they are the reference itself.
    """
    left = torch.ones(len(images), dtype=torch.bool)
    left[_reference_positions(images, reference_n)] = False
    positions = left.nonzero().flatten() if left.sum() >= n else torch.arange(len(images))
    return positions[evenly_spaced(len(positions), n)]


def uniform_noise(n: int, shape: tuple[int, int, int]) -> Iterator[Tensor]:
    """Yield n images of uniform noise in batches, (B, *shape) uint8; always the same."""
    rng = torch.Generator().manual_seed(0)
    for start in range(0, n, BATCH):
        yield torch.randint(0, 256, (min(BATCH, n - start), *shape), generator=rng, dtype=torch.uint8)
