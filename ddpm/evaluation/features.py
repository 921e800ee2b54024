"""Feature nets behind one small interface: uint8 images in, feature vectors out."""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm.cache import cache_dir
from ddpm.data import to_model
from ddpm.errors import UserError
from ddpm.evaluation import embedded_features

INCEPTION_FILE = "inception-2015-12-05.pt"


@dataclass(frozen=True)
class Features:
    """extract: (B, 3, H, W) uint8 on any device to (B, dim) float32. `name` and `resize` go into the protocol."""

    name: str
    resize: str
    dim: int
    extract: Callable[[Tensor], Tensor]


def make_features(name: str, device: torch.device) -> Features:
    """The feature net `embedded` or `inception`. Raises UserError where its weights are not to be had."""
    return {"embedded": _embedded, "inception": _inception}[name](device)


def _embedded(device: torch.device) -> Features:
    net, name = embedded_features.load_embedded_features()
    net = net.to(device)

    @torch.inference_mode()
    def extract(images: Tensor) -> Tensor:
        return net(to_model(images.to(device)))

    return Features(name, "none", embedded_features.DIM, extract)


def _inception(device: torch.device) -> Features:
    """clean-fid's `clean` mode: Pillow bicubic resize to 299 without quantisation, then its TorchScript Inception."""
    # clean-fid's own builder takes no folder; its parts do.
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    folder = cache_dir()
    try:
        if not (folder / INCEPTION_FILE).exists():
            _download_inception(folder)
        net = InceptionV3W(str(folder), download=False).to(device).eval()
    except (OSError, RuntimeError, ValueError) as error:
        state = "is damaged" if (folder / INCEPTION_FILE).exists() else "is not there and could not be downloaded"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"eval.features = inception needs clean-fid's Inception weights, and {folder / INCEPTION_FILE} {state} "
            f"({reason}). On a machine with internet clean-fid downloads the file; copy it into that folder, or set "
            "DDPM_CACHE to the folder that holds it. Without it, use --eval.features=embedded: its FIDs carry their "
            "own protocol name and cannot be compared with Inception's."
        ) from error
    resize = build_resizer("clean")

    @torch.inference_mode()
    def extract(images: Tensor) -> Tensor:
        pixels = images.permute(0, 2, 3, 1).cpu().numpy()
        resized = np.stack([resize(p) for p in pixels])
        return net(torch.from_numpy(resized).permute(0, 3, 1, 2).to(device))

    digest = hashlib.sha256((folder / INCEPTION_FILE).read_bytes()).hexdigest()[:6]
    return Features(f"inception-clean-{digest}", "pil-bicubic-299", 2048, extract)


def _download_inception(folder: Path) -> None:
    """Fetch the weights aside and rename them into place: clean-fid would leave half a file under the final name."""
    from cleanfid.downloads_helper import check_download_inception

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        Path(check_download_inception(fpath=aside)).replace(folder / INCEPTION_FILE)
