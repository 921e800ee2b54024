"""Feature nets behind one interface: uint8 images in, feature vectors out.

Nets that do not ship with the package are files in the cache folder, downloaded or copied there by hand. The features'
name, and with it every protocol, contains the first digits of the file's SHA-256.
"""

import hashlib
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.data.images import to_model
from ddpm.errors import UserError
from ddpm.evaluation import efficientnet, embedded_features
from ddpm.files.paths import home
from ddpm.runtime.cache import cache_dir

INCEPTION_FILE = "inception-2015-12-05.pt"
LEGACY_FILE = "pt_inception-2015-12-05-6726825d.pth"
# First digits of the SHA-256 of the files that clean-fid downloads.
PUBLISHED = {INCEPTION_FILE: "f58cb9b6ec323ed6", LEGACY_FILE: "6726825d"}
INCEPTION_DIM = 2048
MODES = {
    "inception": "clean",
    "inception_legacy_pytorch": "legacy_pytorch",
    "inception_legacy_tensorflow": "legacy_tensorflow",
}


@dataclass(frozen=True)
class Features:
    """Maps (B, 3, H, W) uint8 images on any device to (B, dim) float32. The protocol has `name` and `resize`.

    begin: starts what does not need the net (resizing, in threads) and returns a function that returns the features.
    mode: clean-fid's name for its Inception; None for other features.
    """

    name: str
    resize: str
    dim: int
    begin: Callable[[Tensor], Callable[[], Tensor]]
    mode: str | None = None

    def extract(self, images: Tensor) -> Tensor:
        return self.begin(images)()

    def of(
        self, batches: Iterable[Tensor], timed: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> Iterator[Tensor]:
        """Yield the features of each batch. A batch is resized while the net works on the one before it.

        timed: a context that measures the time of the features, without that of drawing the batches.
        """
        begun: Callable[[], Tensor] | None = None
        for batch in itertools.chain(batches, (None,)):
            with timed():
                coming = self.begin(batch) if batch is not None else None
                found = begun() if begun else None
            if found is not None:
                yield found
            begun = coming


def at_once(extract: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Callable[[], Tensor]]:
    """`Features.begin` of a net that does all of the work."""
    return lambda images: lambda: extract(images)


def make_features(name: str, device: torch.device) -> Features:
    """The features `embedded`, `efficientnet_lite0`, `inception`, `inception_legacy_pytorch`,
    `inception_legacy_tensorflow`, or those of the TorchScript file at the path `name`. Raises UserError if the weights
    cannot be loaded."""
    if name == "embedded":
        return _embedded(device)
    if name == efficientnet.NAME:
        return _efficientnet(device)
    if name in MODES:
        return _inception(MODES[name], device)
    return _torchscript(home(name), device)


def require_packages(name: str) -> None:
    """Raises UserError if the optional packages of the features `name` are not installed. Loads no weights."""
    if name == efficientnet.NAME:
        efficientnet.packages()


def _embedded(device: torch.device) -> Features:
    net, name = embedded_features.load_embedded_features()
    net = net.to(device)

    @torch.inference_mode()
    def extract(images: Tensor) -> Tensor:
        return net(to_model(images.to(device)))

    return Features(name, "none", embedded_features.DIM, at_once(extract))


def _efficientnet(device: torch.device) -> Features:
    net, name = efficientnet.load_efficientnet_lite0()
    net = net.to(device)

    @torch.inference_mode()
    def extract(images: Tensor) -> Tensor:
        return net(images.to(device))

    return Features(name, efficientnet.RESIZE, efficientnet.DIM, at_once(extract))


def _torchscript(path: Path, device: torch.device) -> Features:
    """Features of a `torch.jit.save` file: a net from (B, 3, H, W) float32 in 0 ... 255 to (B, dim), which resizes by
    itself if it needs to. Raises UserError if the file is missing or does something else."""
    try:
        net = torch.jit.load(str(path), map_location=device).eval()
        with torch.inference_mode():
            out = net(torch.zeros(2, 3, 32, 32, device=device))
    except Exception as error:  # torch raises many types on files that are not its own
        reason = (str(error) or type(error).__name__).strip().splitlines()[-1]
        raise UserError(
            f"eval.features = {path} cannot be used: {'it is not a' if path.exists() else 'there is no'} TorchScript "
            f"file that takes (B, 3, 32, 32) images ({reason}). Give the path of a net that torch.jit.save wrote, or "
            "use embedded or inception."
        ) from error
    if not (isinstance(out, Tensor) and out.ndim == 2 and len(out) == 2 and out.is_floating_point()):
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise UserError(
            f"eval.features = {path} returns {shape} for two images, not (2, dim) floating-point features. Wrap the "
            "net so that it returns one vector per image."
        )

    @torch.inference_mode()
    def extract(images: Tensor) -> Tensor:
        return net(images.to(device).float()).float()

    return Features(f"{path.stem}-{file_digest(path)[:6]}", "inside", out.shape[1], at_once(extract))


def _inception(mode: str, device: torch.device) -> Features:
    """clean-fid's Inception in one of its modes.

    `clean`: Pillow's bicubic resize to 299 without quantisation, then its TorchScript Inception. `legacy_tensorflow`:
    the same net, which resizes inside as TensorFlow 1 did. `legacy_pytorch`: torch's bilinear resize, then the weights
    of pytorch-fid. Raises UserError if their file cannot be loaded.
    """
    path = inception_path(mode)
    try:
        fetch(path, _download)
        net = {"clean": _clean, "legacy_tensorflow": _tensorflow, "legacy_pytorch": _pytorch}[mode](path, device)
    except Exception as error:  # a damaged file, a refused download
        raise UserError(
            f"eval.features = inception needs clean-fid's Inception weights, but {what_failed(path, error)}. On a "
            "machine with internet clean-fid downloads the file: copy it into that folder, or set DDPM_CACHE to the "
            "folder that contains it. `ddpm doctor` lists what is there. Without it, use --eval.features=embedded: its "
            "FIDs have their own protocol and cannot be compared with Inception's."
        ) from error
    digest = file_digest(path)
    if not digest.startswith(PUBLISHED[path.name]):
        print(f"warning: {path} is not the file that clean-fid downloads: compare its FIDs only with each other")
    resize = {"clean": "pil-bicubic-299", "legacy_pytorch": "torch-bilinear-299", "legacy_tensorflow": "inside"}[mode]
    return Features(f"inception-{mode}-{digest[:6]}", resize, INCEPTION_DIM, net, mode)


def inception_path(mode: str) -> Path:
    """The path in the cache folder of the weights for a mode of clean-fid's Inception."""
    return cache_dir() / (LEGACY_FILE if mode == "legacy_pytorch" else INCEPTION_FILE)


def _clean(path: Path, device: torch.device) -> Callable[[Tensor], Callable[[], Tensor]]:
    # clean-fid's own builder does not take a folder; its parts do.
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    net, resize = InceptionV3W(str(path.parent), download=False).to(device).eval(), build_resizer("clean")
    pool = ThreadPoolExecutor()  # Pillow's resize takes longer than a GPU's forward pass, and threads share it

    def begin(images: Tensor) -> Callable[[], Tensor]:
        resized = pool.map(resize, images.permute(0, 2, 3, 1).cpu().numpy())

        @torch.inference_mode()
        def finish() -> Tensor:
            return net(torch.from_numpy(np.stack(list(resized))).permute(0, 3, 1, 2).to(device))

        return finish

    return begin


def _tensorflow(path: Path, device: torch.device) -> Callable[[Tensor], Callable[[], Tensor]]:
    from cleanfid.inception_torchscript import InceptionV3W

    net = InceptionV3W(str(path.parent), download=False, resize_inside=True).to(device).eval()

    @torch.inference_mode()
    def extract(images: Tensor) -> Tensor:
        return net(images.to(device).float())

    return at_once(extract)


def _pytorch(path: Path, device: torch.device) -> Callable[[Tensor], Callable[[], Tensor]]:
    from cleanfid import inception_pytorch

    with _loading(inception_pytorch, path):
        net = inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False).to(device).eval()

    @torch.inference_mode()
    def extract(images: Tensor) -> Tensor:
        resized = F.interpolate(images.to(device).float(), size=(299, 299), mode="bilinear", align_corners=False)
        return net(resized.clip(0, 255) / 255)[0].flatten(1)

    return at_once(extract)


@contextmanager
def _loading(module: Any, path: Path) -> Iterator[None]:
    """Let clean-fid load `path`. It would ask torch's hub for its weights, which downloads and unpickles them."""
    original = module.load_state_dict_from_url
    module.load_state_dict_from_url = lambda *_, **__: torch.load(path, map_location="cpu", weights_only=True)
    try:
        yield
    finally:
        module.load_state_dict_from_url = original


def fetch(path: Path, download: Callable[[Path], object]) -> None:
    """Download `path` if it is missing, into a folder aside, and rename it: clean-fid alone would leave half a file."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        download(Path(aside) / path.name)
        (Path(aside) / path.name).replace(path)


def what_failed(path: Path, error: Exception) -> str:
    """A clause that says why `path` could not be loaded."""
    state = "is damaged" if path.exists() else "is missing and could not be downloaded"
    return f"{path} {state} ({(str(error) or type(error).__name__).strip().splitlines()[0]})"


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(path: Path) -> None:
    from cleanfid.downloads_helper import check_download_inception

    if path.name == LEGACY_FILE:
        from cleanfid.inception_pytorch import FID_WEIGHTS_URL

        torch.hub.download_url_to_file(FID_WEIGHTS_URL, str(path), PUBLISHED[path.name])
    else:
        check_download_inception(fpath=str(path.parent))
