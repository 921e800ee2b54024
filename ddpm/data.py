"""Images: where they come from, and in which order training sees them.

A set lives in memory as one uint8 tensor; batches leave it by index and reach the model as float32 in [-1, 1].
"""

import hashlib
import http.client
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from ddpm import embedded
from ddpm.cache import cached
from ddpm.errors import NotFinite, UserError

EMBEDDED_COUNT = 5000
_DECODER = 1  # another number where images are decoded in another way: what is cached is then made anew
CACHED_FROM = 2000  # images; fewer are decoded in less than a second
IMAGE_SUFFIXES = frozenset(s for s, f in Image.registered_extensions().items() if f in Image.OPEN)
SPLITS = {"train", "test", "val", "valid", "validation"}
# What Pillow's decoders and zipfile are known to raise on damaged, hostile or unsupported files.
UNREADABLE = (
    *(UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError, EOFError),
    *(zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, struct.error, IndexError, KeyError, TypeError),
)


@dataclass(frozen=True)
class ImageSet:
    """images: (N, 3, H, W) uint8; labels: (N,) int64 into `classes`; name: what it is, for people and protocols."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str

    def __len__(self) -> int:
        return len(self.images)

    @property
    def digest(self) -> str:
        """12 hex digits of the pixels' SHA-256."""
        return hashlib.sha256(self.images.numpy().tobytes()).hexdigest()[:12]


def to_model(images: Tensor) -> Tensor:
    """uint8 in 0 ... 255 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Float in [-1, 1] (values outside are cut) to uint8, rounding to nearest: the inverse of `to_model`. Raises
    NotFinite, if a value of the (B, ...) images is no finite number: as uint8 it would be black."""
    finite = images.isfinite().flatten(1).all(1)
    if not finite.all():
        raise NotFinite(
            f"{int((~finite).sum())} of {len(images)} images hold values that are not finite numbers, so they can be "
            "neither shown nor scored. The weights are too large or the sampler runs away: take an earlier checkpoint, "
            "or limit x_0 (--x0-limit clip, eval.x0_limit=clip)."
        )
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def load_images(
    dataset: str,
    root: Path | None = None,
    *,
    subset: int | None = None,
    split: str = "train",
    size: int = 32,
    skip_bad: bool = False,
    workers: int = 2,
) -> ImageSet:
    """The image set `dataset`: `embedded`, `cifar10` or `folder` (class folders in a directory or a .zip).

    subset: keep this many images, drawn without replacement by a fixed seed. Raises UserError on a missing path, no
    images, an unreadable image (unless `skip_bad`), or a subset larger than the set.
    """
    if dataset == "embedded":
        # Its images are drawn one after the other, so the first ones of a larger set are the smaller set.
        seed = {"train": 0, "test": 1}[split]
        images, labels = embedded.render(subset or EMBEDDED_COUNT, seed)
        return ImageSet(images, labels, embedded.CLASSES, f"embedded-{split}")
    if root is None:
        raise UserError(f"data.dataset = {dataset} needs data.root: the folder (or .zip) that holds the images.")
    root = root.expanduser()
    return (
        _cifar10(root, split, subset) if dataset == "cifar10" else _folder(root, split, subset, size, skip_bad, workers)
    )


def _chosen(count: int, subset: int | None, where: str) -> list[int]:
    """Sorted positions of the subset among `count` images, the same in every run; all of them for None."""
    if subset is None:
        return list(range(count))
    if subset > count:
        raise UserError(f"data.subset = {subset} asks for more images than {where} has ({count}).")
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:subset].sort().values.tolist()


def _cifar10(root: Path, split: str, subset: int | None) -> ImageSet:
    from torchvision.datasets import CIFAR10

    try:
        raw = CIFAR10(str(root), train=split == "train", download=True)
    except (OSError, RuntimeError, tarfile.TarError, http.client.HTTPException) as error:
        raise UserError(
            f"CIFAR-10 is not in {root} and could not be downloaded ({error}). Put cifar-10-python.tar.gz there by "
            "hand, or use images of your own with data.dataset=folder data.root=PATH, or data.dataset=embedded."
        ) from error
    chosen = _chosen(len(raw.targets), subset, f"cifar10-{split}")
    images = torch.from_numpy(raw.data[chosen]).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor(raw.targets)[chosen], tuple(raw.classes), f"cifar10-{split}")


# --- class folders, in a directory or a .zip ---


def _folder(root: Path, split: str, subset: int | None, size: int, skip_bad: bool, workers: int) -> ImageSet:
    if not root.exists():
        raise UserError(
            f"data.root = {root} does not exist. Give a folder, or a .zip, that holds one folder per class."
        )
    if root.is_dir():
        names = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]

        def read(name: str) -> bytes:
            return (root / name).read_bytes()

        def mark(name: str) -> str:
            try:
                return hashlib.sha256(read(name)).hexdigest()
            except OSError:
                return "cannot be read"  # decoding it says so

        return _decode_all(root, names, read, mark, split, subset, size, skip_bad, workers)
    try:
        with zipfile.ZipFile(root) as archive:
            names = [i.filename for i in archive.infolist() if not i.is_dir()]
            return _decode_all(
                root,
                names,
                archive.read,
                lambda n: (archive.getinfo(n).CRC, archive.getinfo(n).file_size),
                split,
                subset,
                size,
                skip_bad,
                workers,
            )
    except UNREADABLE as error:
        raise UserError(f"data.root = {root} is neither a folder nor a .zip file that can be read: {error}.") from error


def _of_split(names: list[str], split: str) -> list[tuple[str, str]]:
    """(name, class) of the images of a split, sorted.

    The class is an image's own folder. Folders that hold everything are passed over; where what is then at the top are
    splits alone (train, test, ...), the split is one of them, else every image belongs to every split.
    """
    parts = {n: Path(n).parts for n in names if Path(n).suffix.lower() in IMAGE_SUFFIXES}
    hidden = {n for n, p in parts.items() if any(x.startswith(".") or x == "__MACOSX" for x in p)}
    shown = sorted(parts.keys() - hidden)
    if not shown:
        return []
    depth = 0
    while all(len(parts[n]) > depth + 2 for n in shown) and len({parts[n][depth] for n in shown}) == 1:
        if parts[shown[0]][depth] in SPLITS:
            break
        depth += 1
    tops = {parts[n][depth] for n in shown}
    if tops <= SPLITS and all(len(parts[n]) > depth + 2 for n in shown):
        shown = [n for n in shown if parts[n][depth] == split]
    return [(n, parts[n][-2] if len(parts[n]) > 1 else "images") for n in shown]


def _decode_all(
    root: Path,
    names: list[str],
    read: Callable[[str], bytes],
    mark: Callable[[str], object],
    split: str,
    subset: int | None,
    size: int,
    skip_bad: bool,
    workers: int,
) -> ImageSet:
    """The images of a split. `mark` tells, by name, an image's content from another one, quicker than decoding it."""
    found = _of_split(names, split)
    if not found:
        raise UserError(
            f"data.root = {root} holds no images for data.split = {split}. Expected class folders with files that "
            "Pillow reads (such as .png, .jpg, .webp), at the top or under train/ and test/."
        )
    # No more is decoded than is asked for; with skip_bad a subset may so end up smaller, which is said.
    found = [found[i] for i in _chosen(len(found), subset, str(root))]

    def decode(name: str) -> Tensor | str:
        try:
            return _decode(read(name), size)
        except UnidentifiedImageError:
            return f"{name} (not an image that Pillow reads)"
        except UNREADABLE as error:
            return f"{name} ({str(error) or type(error).__name__})"

    def decode_found() -> list[tuple[str, Tensor]]:
        with ThreadPoolExecutor(max(1, workers)) as pool:
            # disable=None: a bar on a terminal, silence elsewhere
            decoded = pool.map(decode, [n for n, _ in found])
            results = list(tqdm(decoded, total=len(found), desc="reading images", disable=None, leave=False))
        bad = [r for r in results if isinstance(r, str)]
        if bad and not (skip_bad and len(bad) < len(found)):
            shown = "; ".join(bad[:5]) + (f"; and {len(bad) - 5} more" if len(bad) > 5 else "")
            raise UserError(
                f"{len(bad)} of {len(found)} images in {root} cannot be read: {shown}. Mend or remove them, or leave "
                "them out with --data.skip_bad=true."
            )
        if bad:
            print(f"data: left out {len(bad)} of {len(found)} images that cannot be read, first {bad[0]}")
        return [(kind, r) for (_, kind), r in zip(found, results, strict=True) if isinstance(r, Tensor)]

    if skip_bad or len(found) < CACHED_FROM:
        kept = decode_found()
        kinds, images = [kind for kind, _ in kept], torch.stack([r for _, r in kept])
    else:
        kinds = [kind for _, kind in found]
        content = json.dumps([_DECODER, size, PIL.__version__, [(n, mark(n)) for n, _ in found]])
        key = hashlib.sha256(content.encode()).hexdigest()
        images = cached("images", key, lambda: {"images": torch.stack([r for _, r in decode_found()])})["images"]
    classes = tuple(sorted(set(kinds)))
    labels = torch.tensor([classes.index(kind) for kind in kinds])
    return ImageSet(images, labels, classes, f"{root.resolve().name}-{split}")


def _decode(raw: bytes, size: int) -> Tensor:
    """(3, size, size) uint8 RGB, as it is meant to be seen: turned by its EXIF tag, transparency on white, 16-bit grey
    scaled to 8. Other sizes are cut to the middle square and resized (bicubic, antialiased). Raises ValueError on
    pixels without a known range (modes I and F)."""
    image = ImageOps.exif_transpose(Image.open(BytesIO(raw)))
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} pixels have no known range")
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("RGB")
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.reshape(size, size, 3).permute(2, 0, 1).contiguous()


# --- the order of training ---


class Batches:
    """An endless stream of batches: epoch after epoch, each a new permutation (or the set's order, unshuffled).

    It owns its random stream: neither sampling nor probing changes what is trained on next. Epochs run into each
    other, so every batch is full.
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
        """The images at `indices` (B,), as `__next__` gives them."""
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
        """All that the order depends on from here on."""
        return {"rng": self._rng.get_state(), "order": self._order[self._at :]}  # never written to

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.set_state(state["rng"])
        self._order, self._at = state["order"], 0
