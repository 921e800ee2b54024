"""Images of the training set's kind that training never sees."""

from pathlib import Path

from torch import Tensor

from ddpm.data.files import Limits, choose, open_files
from ddpm.data.images import held_out_positions, load_images, training_positions
from ddpm.errors import UserError, printable
from ddpm.evenly import evenly_spaced
from ddpm.files.paths import home

_OTHERS = {"train": ("test", "val"), "test": ("train", "val")}


def load_unseen(
    n: int,
    dataset: str,
    root: Path | None = None,
    *,
    subset: int | None = None,
    hold_out: int = 0,
    split: str = "train",
    skip_bad: bool = False,
    workers: int = 2,
) -> Tensor:
    """Up to n images (m, 3, H, W) uint8 that a training on `load_images` of the same arguments does not see.

    They are evenly spaced over the first of these sets that there is: what `hold_out` keeps out, the other split, what
    `subset` leaves out. Raises UserError if there is none, or if it cannot be read.
    """
    other = _OTHERS[split][0]
    if dataset == "embedded":
        return load_images(dataset, split=other, subset=n).images
    if dataset == "cifar10":
        return load_images(dataset, root, split=other, pick=lambda count: _spread(count, n)).images
    assert root is not None
    other, left = _left_in_folder(home(root), subset, hold_out, split, skip_bad)
    picked = [left[i] for i in _spread(len(left), n)]
    images = load_images(
        dataset, root, split=other, pick=lambda _: picked, skip_bad=skip_bad, workers=workers, quiet=True
    )
    return images.images


def _spread(count: int, n: int) -> list[int]:
    return evenly_spaced(count, min(n, count)).tolist()


def _left_in_folder(root: Path, subset: int | None, hold_out: int, split: str, skip_bad: bool) -> tuple[str, list[int]]:
    """A split, and the positions of unseen images in it."""
    with open_files(root, Limits.from_environment(), skip_bad) as files:
        own = choose(files, split)
        for other in _OTHERS[split] if own.has_splits and not hold_out else ():
            count = len(choose(files, other).found)
            if count:
                return other, list(range(count))
    count = len(own.found)
    seen = set(training_positions(count, subset, hold_out, printable(root)))
    left = held_out_positions(count, hold_out) or [i for i in range(count) if i not in seen]
    if not left:
        raise UserError(
            f"{printable(root)} has no other split, and training takes all its images. Keep some out with "
            "--data.hold_out=N."
        )
    return split, left
