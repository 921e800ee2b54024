"""What samples are compared with: statistics of real images, taken here or published by clean-fid; and the two ends of
the scale, real images and uniform noise."""

import tempfile
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
from ddpm.evaluation.features import Features, file_digest
from ddpm.evaluation.scores import FeatureSums, kept_positions
from ddpm.evenly import evenly_spaced
from ddpm.runtime.cache import cache_dir, cached
from ddpm.runtime.checkpoint import digest

_STATISTICS = 3  # another number where they are taken in another way: what is cached is then taken anew
BATCH = 250
PUBLISHED = {"cifar10-train": 50_000, "cifar10-test": 10_000}  # clean-fid's statistics, and of how many images they are


@dataclass(frozen=True)
class Reference:
    """Feature statistics of the real images, and what they were taken from. rows (m, d): some of the features
    themselves, None where only the statistics are known. key: what the numbers depend on. rows_digest: of the file that
    the rows are from, where that is another than the statistics'."""

    name: str
    digest: str
    gaussian: Gaussian
    rows: Tensor | None
    key: str
    rows_digest: str | None = None


def make_reference(features: Features, images: ImageSet, n: int | None) -> Reference:
    """Statistics of n images of the set (all if None), evenly spaced over it, from the cache where an earlier run took
    the same ones. Raises UserError where n is too small."""
    chosen = images.images[_reference_positions(images, n)]
    if len(chosen) <= features.dim:
        raise UserError(
            f"The reference statistics would rest on {len(chosen)} images, no more than the {features.dim} dimensions "
            f"of {features.name}. Raise eval.reference_n or data.subset above {features.dim}, or use "
            "--eval.features=embedded."
        )

    def take() -> dict[str, Tensor]:
        found = FeatureSums(len(chosen), features.dim)
        for rows in features.of(tqdm(chosen.split(BATCH), desc="reference features", disable=None, leave=False)):
            found.add(rows)
        gaussian = found.sums.result()
        return {"mean": gaussian.mean, "covariance": gaussian.covariance, "rows": found.rows}

    # The bits depend on device, version and threads too: the features of a few images tell the first two.
    few = digest([features.extract(chosen[:8]), torch.get_num_threads(), torch.__version__])
    key = digest([_STATISTICS, features.name, features.resize, images.digest, len(chosen), few])
    found = cached("reference", key, take)
    gaussian = Gaussian(found["mean"], found["covariance"], len(chosen))
    return Reference(images.name, images.digest, gaussian, found["rows"], key)


def _reference_positions(images: ImageSet, n: int | None) -> Tensor:
    return evenly_spaced(len(images), min(n or len(images), len(images)))


# --- clean-fid's own ---


def published_reference(name: str, features: Features, with_rows: bool) -> Reference:
    """clean-fid's statistics of `cifar10-train` or `cifar10-test` (of the images themselves, 32x32), for the mode of
    its Inception that `features` are; `with_rows`: and its features, that KID needs.

    From the cache folder, else downloaded into it by clean-fid. Raises UserError where that cannot be, or where the
    features are others.
    """
    if features.mode is None:
        raise UserError(
            f"eval.reference_stats = {name} are statistics of clean-fid's Inception features, and eval.features gives "
            f"{features.name}. Use eval.features=inception, or eval.reference_stats=null for statistics of the "
            "training images."
        )
    path, rows_path = published_files(name, features.mode)
    mean, covariance = (torch.from_numpy(_read(path, key)).double() for key in ("mu", "sigma"))
    if mean.shape != (features.dim,) or covariance.shape != (features.dim, features.dim):
        raise UserError(f"{path} holds a mean of shape {tuple(mean.shape)}, not ({features.dim},). {_advice(path)}")
    gaussian, content = Gaussian(mean, covariance, PUBLISHED[name]), file_digest(path)
    if not finite(gaussian):
        raise UserError(f"{path} holds statistics that are not finite numbers. {_advice(path)}")
    if not with_rows:
        return Reference(f"clean-fid-{name}", content[:12], gaussian, None, content)
    rows = _published_rows(rows_path, features.dim)
    of_rows = file_digest(rows_path)
    return Reference(f"clean-fid-{name}", content[:12], gaussian, rows, digest([content, of_rows]), of_rows[:12])


def _published_rows(path: Path, dim: int) -> Tensor:
    """The features (m, dim) in a file of clean-fid's; of more than ROWS so many, evenly spaced. Raises UserError."""
    rows = _read(path, "feats")
    if rows.ndim != 2 or rows.shape[1] != dim or rows.dtype.kind != "f":
        raise UserError(f"{path} holds features of shape {rows.shape} ({rows.dtype}), not (n, {dim}). {_advice(path)}")
    chosen = torch.from_numpy(rows[kept_positions(len(rows)).numpy()]).float()
    if not chosen.isfinite().all():
        raise UserError(f"{path} holds features that are not finite numbers. {_advice(path)}")
    return chosen


def published_files(name: str, mode: str) -> tuple[Path, Path]:
    """Where the cache folder has clean-fid's statistics by that name, and the features themselves."""
    dataset, split = name.split("-")
    stem = f"{dataset}_{mode}_{split}_32"
    return cache_dir() / "clean-fid" / f"{stem}.npz", cache_dir() / "clean-fid" / f"{stem}_kid.npz"


def _read(path: Path, key: str) -> Any:
    """The array `key` of a file of clean-fid's, downloaded where it is not there. Raises UserError."""
    try:
        if not path.exists():
            _download(path)
        with np.load(path) as file:
            return file[key]
    except Exception as error:  # what a damaged file or a refused download raise is many things
        state = "is damaged" if path.exists() else "is not there and could not be downloaded"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"clean-fid's statistics: {path} {state} ({reason}). {_advice(path)}") from error


def _advice(path: Path) -> str:
    return (
        f"On a machine with internet clean-fid downloads it: put its {path.name} into {path.parent}, or set DDPM_CACHE "
        "to the folder that has clean-fid/ in it; or set eval.reference_stats=null. `ddpm doctor` says what is there."
    )


def _download(path: Path) -> None:
    """Fetch one of clean-fid's files aside and rename it into place."""
    from cleanfid.downloads_helper import check_download_url

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        url = f"https://www.cs.cmu.edu/~clean-fid/stats/{path.name}"  # as cleanfid.features has it
        Path(check_download_url(local_folder=aside, url=url)).replace(path)


# --- the ends of the scale ---


def held_out(images: ImageSet, reference_n: int | None, n: int) -> Tensor:
    """n real images (n, 3, H, W) that the reference does not hold, evenly spaced over the set.

    Where fewer than n are left (none, where the reference is the whole set): over the whole set, so that some or all of
    them are the reference's own images, and the same more than once where n exceeds the set. Their score is then no
    floor of images that the reference has not seen but lies below it, down to 0 where they are the reference itself.
    """
    left = torch.ones(len(images), dtype=torch.bool)
    left[_reference_positions(images, reference_n)] = False
    positions = left.nonzero().flatten() if left.sum() >= n else torch.arange(len(images))
    return images.images[positions[evenly_spaced(len(positions), n)]]


def uniform_noise(n: int, shape: tuple[int, int, int]) -> Iterator[Tensor]:
    """n images (B, *shape) uint8 in batches, every value of every pixel as likely as the others; always the same."""
    rng = torch.Generator().manual_seed(0)
    for start in range(0, n, BATCH):
        yield torch.randint(0, 256, (min(BATCH, n - start), *shape), generator=rng, dtype=torch.uint8)
