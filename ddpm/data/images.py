"""Image sets: loading and decoding.

A set is one uint8 tensor in memory; batches are taken by index and reach the model as float32 in [-1, 1].
"""

import hashlib
import http.client
import json
import posixpath
import tarfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile
from torch import Tensor
from tqdm import tqdm

from ddpm.data import shapes as embedded
from ddpm.data.files import FORMATS, UNREADABLE, Files, Limits, choose, open_files, some
from ddpm.errors import NotFinite, UserError, printable
from ddpm.evenly import evenly_spaced
from ddpm.files.paths import home
from ddpm.runtime.cache import cached

EMBEDDED_COUNT = 5000
# Version of the decoder by ending, else 1. Bump when decoding changes; discards cached images.
_DECODER = {".tif": 2, ".tiff": 2}
CACHED_FROM = 2000  # images; fewer take less than a second to decode
Pick = Callable[[int], list[int]]


@dataclass(frozen=True)
class ImageSet:
    """images: (N, 3, H, W) uint8; labels: (N,) int64 into `classes`; name: for messages and protocols."""

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
    """Float in [-1, 1] (values outside are cut) to uint8, rounding to nearest: the inverse of `to_model`.

    Raises NotFinite if a value of the (B, ...) images is not finite: as uint8 it would be black.
    """
    finite = images.isfinite().reshape(len(images), -1).all(1)
    if not finite.all():
        raise NotFinite(
            f"{int((~finite).sum())} of {len(images)} images have values that are not finite, so they cannot be shown "
            "or scored. The weights are too large or the sampler diverges: take an earlier checkpoint, or limit x_0 "
            "(--x0-limit clip, eval.x0_limit=clip)."
        )
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def load_images(
    dataset: str,
    root: Path | None = None,
    *,
    subset: int | None = None,
    hold_out: int = 0,
    split: str = "train",
    pick: Pick | None = None,
    size: int = 32,
    skip_bad: bool = False,
    workers: int = 2,
    quiet: bool = False,
) -> ImageSet:
    """The image set `dataset`: `embedded`, `cifar10` or `folder` (class folders in a directory or a .zip).

    subset, hold_out: see `training_positions`; pick: the positions to take of so many images, instead of these. The
    embedded set has only `subset`. For a folder, a line says what was read and left out, unless `quiet`. Raises
    UserError on a missing path, no images, an unreadable image (unless `skip_bad`), or a subset larger than the set.
    """
    if dataset == "embedded":
        # Images are drawn one after another, so a smaller set is the start of a larger one.
        seed = {"train": 0, "test": 1}[split]
        images, labels = embedded.render(subset or EMBEDDED_COUNT, seed)
        return ImageSet(images, labels, embedded.CLASSES, f"embedded-{split}")
    if root is None:
        raise UserError(f"data.dataset = {dataset} needs data.root: the folder (or .zip) with the images.")
    root = home(root)
    where = f"cifar10-{split}" if dataset == "cifar10" else printable(root)
    pick = pick or (lambda count: training_positions(count, subset, hold_out, where))
    if dataset == "cifar10":
        return _cifar10(root, split, pick)
    loaded, said = _folder(root, split, pick, _Decoding(size, skip_bad, workers))
    if not quiet:
        print(said)
    return loaded


def held_out_positions(count: int, hold_out: int) -> list[int]:
    """The positions among `count` images that training never sees: `hold_out` of them, evenly spaced."""
    return evenly_spaced(count, min(hold_out, count)).tolist()


def training_positions(count: int, subset: int | None, hold_out: int, where: str) -> list[int]:
    """Sorted positions of the images to train on, among `count` that are in `where`; the same in every run.

    All but the held-out ones; of these `subset`, drawn without replacement (None: all). Raises UserError if too few are
    left.
    """
    held = set(held_out_positions(count, hold_out))
    kept = [i for i in range(count) if i not in held]
    if hold_out and not kept:
        raise UserError(f"data.hold_out = {hold_out} leaves no image to train on: {where} has {count}.")
    if subset is None:
        return kept
    if subset > len(kept):
        without = f" without the {hold_out} of data.hold_out" if hold_out else ""
        raise UserError(f"data.subset = {subset} asks for more images than {where} has{without} ({len(kept)}).")
    drawn = torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))[:subset].sort().values
    return [kept[i] for i in drawn.tolist()]


def _cifar10(root: Path, split: str, pick: Pick) -> ImageSet:
    from torchvision.datasets import CIFAR10

    try:
        raw = CIFAR10(str(root), train=split == "train", download=True)
    except (OSError, RuntimeError, tarfile.TarError, http.client.HTTPException) as error:
        raise UserError(
            f"CIFAR-10 is not in {root} and could not be downloaded ({error}). Copy cifar-10-python.tar.gz there, or "
            "use your own images with data.dataset=folder data.root=PATH, or data.dataset=embedded."
        ) from error
    chosen = pick(len(raw.targets))
    images = torch.from_numpy(raw.data[chosen]).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor(raw.targets)[chosen], tuple(raw.classes), f"cifar10-{split}")


# --- class folders, in a directory or a .zip ---


@dataclass(frozen=True)
class _Decoding:
    """How images are decoded."""

    size: int
    skip_bad: bool
    workers: int


def _folder(root: Path, split: str, pick: Pick, how: _Decoding) -> tuple[ImageSet, str]:
    """The images of a folder or .zip, and a line that says what was read and left out."""
    limits = Limits.from_environment()
    with open_files(root, limits, how.skip_bad) as files:
        choice = choose(files, split)
        left_out = f"; left out {', '.join(choice.left_out)}" if choice.left_out else ""
        if not choice.found:
            raise UserError(
                f"data.root = {printable(root)} has no images for data.split = {split}{printable(left_out)}. Expected "
                "class folders with files that Pillow reads (such as .png, .jpg, .webp), at the top or under train/ "
                "and test/."
            )
        # Only the chosen are decoded. With skip_bad they may end up fewer; a line says so.
        found = [choice.found[i] for i in pick(len(choice.found))]
        files.require_bounded([name for name, _ in found])
        with _bounded(limits.pixels):
            kinds, images, notes = _read(root, files, found, how)
    classes = tuple(sorted(set(kinds)))
    labels = torch.tensor([classes.index(kind) for kind in kinds])
    of = f" of {len(choice.found):,}" if len(found) < len(choice.found) else ""
    said = (
        f"data: {len(kinds):,}{of} images, {choice.split}, {len(classes)} class{'es' * (len(classes) > 1)}, in {root}"
    )
    loaded = ImageSet(images, labels, classes, f"{root.resolve().name}-{split}")
    return loaded, printable(said + notes + left_out)


@contextmanager
def _bounded(pixels: int) -> Iterator[None]:
    """Let Pillow raise on images with more pixels; by default it warns, and raises at twice as many."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _read(root: Path, files: Files, found: list[tuple[str, str]], how: _Decoding) -> tuple[list[str], Tensor, str]:
    """(class of each image, images, notes for the user)."""

    def decode(name: str) -> tuple[Tensor, bool] | str:
        try:
            return _decode(files.read(name), how.size)
        except UnidentifiedImageError:
            return f"{name} (not an image that Pillow reads)"
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels, set by the environment variable DDPM_MAX_PIXELS"
            return f"{name} (too large: the limit is {limit})"
        except UNREADABLE as error:
            return f"{name} ({str(error) or type(error).__name__})"

    notes = []

    def decode_found() -> tuple[list[str], dict[str, Tensor]]:
        with ThreadPoolExecutor(max(1, how.workers)) as pool:
            # disable=None: a bar only on a terminal
            decoded = pool.map(decode, [n for n, _ in found])
            results = list(tqdm(decoded, total=len(found), desc="reading images", disable=None, leave=False))
        bad = [printable(r) for r in results if isinstance(r, str)]
        if bad and not (how.skip_bad and len(bad) < len(found)):
            raise UserError(
                f"{len(bad)} of {len(found)} images in {printable(root)} cannot be read: {some(bad)}. Repair or remove "
                "them, or leave them out with --data.skip_bad=true."
            )
        if bad:
            notes.append(f"; left out {len(bad)} of {len(found)} images that cannot be read, first {bad[0]}")
        kept = [(kind, *r) for (_, kind), r in zip(found, results, strict=True) if not isinstance(r, str)]
        several = torch.tensor(sum(more for *_, more in kept))
        return [kind for kind, *_ in kept], {"images": torch.stack([r for _, r, _ in kept]), "several": several}

    if how.skip_bad or len(found) < CACHED_FROM:
        kinds, read = decode_found()
    else:
        kinds = [kind for _, kind in found]
        decoder = max(_DECODER.get(posixpath.splitext(n)[1].lower(), 1) for n, _ in found)
        content = json.dumps([decoder, how.size, PIL.__version__, [(n, files.mark(n)) for n, _ in found]])
        key = hashlib.sha256(content.encode()).hexdigest()
        read = cached("images", key, lambda: decode_found()[1])
    several = int(read.get("several", 0))
    if several:
        notes.append(f"; {several:,} of them have several frames; the first was read")
    return kinds, read["images"], "".join(notes)


def _decode(raw: bytes, size: int) -> tuple[Tensor, bool]:
    """(3, size, size) uint8 RGB, and whether the file has further images after this first one.

    EXIF rotation is applied, transparency becomes white, and grey of 12 or 16 bits is scaled to 8. Other sizes are
    cropped to the central square and resized (bicubic, antialiased). Raises ValueError on pixels without a known range
    (modes I and F).
    """
    opened = Image.open(BytesIO(raw), formats=FORMATS)
    image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I;16"):
        image = _grey(image, opened)
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
    return pixels.reshape(size, size, 3).permute(2, 0, 1).contiguous(), _has_more(opened)


def _grey(image: Image.Image, opened: Image.Image) -> Image.Image:
    """8-bit grey from a 16-bit image. A TIFF file may use fewer of the 16 bits, and 0 for white."""
    tags = opened.tag_v2 if isinstance(opened, TiffImageFile) else {}
    white = 2 ** tags.get(BITSPERSAMPLE, (16,))[0] - 1
    grey = np.asarray(image).astype(np.uint32) * 255 // white
    return Image.fromarray((255 - grey if tags.get(PHOTOMETRIC_INTERPRETATION) == 0 else grey).astype(np.uint8))


def _has_more(opened: Image.Image) -> bool:
    try:
        return bool(getattr(opened, "is_animated", False))
    except UNREADABLE:  # the file ends, or is damaged, after its first image
        return True
