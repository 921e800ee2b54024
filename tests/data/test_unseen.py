"""Images that training never sees: where they come from, and that training does not see them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from ddpm.data.images import load_images
from ddpm.data.unseen import load_unseen
from ddpm.errors import UserError
from ddpm.evenly import evenly_spaced


def _pixels(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def _write(root: Path, seed: int, n: int = 12) -> list[bytes]:
    """n images without two alike, in two classes; their pixels in the order of loading."""
    pixels = torch.randint(256, (n, 32, 32, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    for i, image in enumerate(pixels.numpy()):
        path = root / ("a" if i < n // 2 else "b") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return _pixels(pixels.permute(0, 3, 1, 2).contiguous())


def _flat(root: Path) -> None:
    _write(root, 0)


def _splits(*names: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for seed, name in enumerate(names):
            _write(root / name, seed)

    return write


def _nothing(root: Path) -> None:
    """For the embedded set."""


@pytest.mark.parametrize(
    ("write", "settings", "count"),
    [
        (_nothing, {"dataset": "embedded", "subset": 300}, 5),
        (_nothing, {"dataset": "embedded", "subset": 300, "split": "test"}, 5),
        (_splits("train", "test"), {}, 5),
        (_splits("train", "test"), {"split": "test"}, 5),
        (_splits("train", "val"), {}, 5),
        (_splits("train", "test"), {"subset": 9}, 5),
        (_splits("train", "test"), {"hold_out": 3}, 3),
        (_flat, {"subset": 9}, 3),
        (_flat, {"subset": 5}, 5),
        (_flat, {"subset": 5, "split": "test"}, 5),
        (_flat, {"hold_out": 4}, 4),
        (_flat, {"hold_out": 7, "subset": 2}, 5),
        (_splits("train"), {"hold_out": 1}, 1),
    ],
)
def test_training_does_not_see_them(
    tmp_path: Path, write: Callable[[Path], None], settings: dict[str, Any], count: int
) -> None:
    """Five are asked for, of every kind of data set. Catches images that are in both sets, the training split taken for
    the other, and a folder without splits whose `test` is all of it."""
    write(tmp_path)
    how = {"dataset": "folder", "root": tmp_path, **settings}
    seen, unseen = _pixels(load_images(**how).images), _pixels(load_unseen(5, **how))
    assert len(set(unseen)) == len(unseen) == count
    assert not set(seen) & set(unseen)
    assert unseen == _pixels(load_unseen(5, **how))


def test_they_are_spread_over_the_other_split(tmp_path: Path) -> None:
    """Catches the first images, which are all of one class."""
    _write(tmp_path / "train", 0)
    test = _write(tmp_path / "test", 1)
    assert _pixels(load_unseen(4, "folder", tmp_path)) == [test[i] for i in evenly_spaced(12, 4).tolist()]


def test_held_out_images_stay_out_whatever_the_subset_is(tmp_path: Path) -> None:
    """The same four are out for each subset; training and they make up the set. Without `hold_out` the training set is
    the one from before the key. Catches a subset that is drawn before."""
    everything = _write(tmp_path, 0)
    held = _pixels(load_unseen(4, "folder", tmp_path, hold_out=4))
    assert held == [everything[i] for i in evenly_spaced(12, 4).tolist()]
    left = [image for image in everything if image not in held]
    assert _pixels(load_images("folder", tmp_path, hold_out=4).images) == left
    for subset in (3, 8):
        part = _pixels(load_images("folder", tmp_path, hold_out=4, subset=subset).images)
        assert set(part) <= set(left) and len(part) == subset
        assert held == _pixels(load_unseen(4, "folder", tmp_path, hold_out=4, subset=subset))
    assert _pixels(load_images("folder", tmp_path).images) == everything


def test_it_is_said_if_there_are_none(tmp_path: Path) -> None:
    """Catches a folder without splits whose training images are taken for unseen ones."""
    _write(tmp_path, 0)
    for subset in (None, 12):
        with pytest.raises(UserError, match=r"takes all its images.*--data\.hold_out=N"):
            load_unseen(4, "folder", tmp_path, subset=subset)
    with pytest.raises(UserError, match=r"data\.hold_out = 12 leaves no image to train on"):
        load_images("folder", tmp_path, hold_out=12)
    with pytest.raises(UserError, match=r"data\.subset = 9 asks for more .* without the 4 of data\.hold_out \(8\)"):
        load_images("folder", tmp_path, hold_out=4, subset=9)
