"""Images from a checkpoint: its network, its schedule, and any sampler."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid
from tqdm import tqdm

from ddpm.data.images import to_uint8
from ddpm.diffusion.samplers import LIMITS, SAMPLERS, draw, make_chain
from ddpm.errors import UserError
from ddpm.files.disk import replacing, written
from ddpm.models.trained import Trained


def sample(
    trained: Trained,
    out: Path,
    *,
    n: int,
    sampler: str,
    nfe: int,
    spacing: str = "linspace",
    x0_limit: str = "clip",
    eta: float = 0.0,
    seed: int = 0,
    each: bool = False,
    batch_size: int = 25,
) -> Path:
    """Write n samples as one grid `out/grid.png` (and, with `each`, as `out/images/00000.png` ...); the grid's path.

    Equal seeds give equal images whatever the batch size. Raises UserError, and writes nothing, if the sampler cannot
    run here or an image is not finite.
    """
    if SAMPLERS[sampler].adjacent:
        print(f"warning: {sampler} is the original study's faulty sampler; its samples keep most of their noise")
    images = []
    try:
        chain = make_chain(trained.schedule, sampler, nfe, spacing)
        batches = draw(
            sampler,
            trained.denoiser,
            chain,
            n,
            seed=seed,
            batch_size=batch_size,
            device=trained.device,
            limit=LIMITS[x0_limit],
            eta=eta,
        )
        with tqdm(total=n, desc=f"{sampler}, nfe {nfe}", unit="img", disable=None, leave=False) as bar:
            for batch in batches:
                images.append(to_uint8(batch).cpu())
                bar.update(len(batch))
    except ValueError as error:  # more steps than the schedule has, or a sampler that cannot start on it
        raise UserError(f"--sampler {sampler} --nfe {nfe}: {error}.") from None
    everything = torch.cat(images)
    with written(out):
        out.mkdir(parents=True, exist_ok=True)
        if each:
            _save_each(everything, out / "images")
        _save(make_grid(everything, nrow=max(1, round(n**0.5)), padding=2), out / "grid.png")
    return out / "grid.png"


def _save_each(images: Tensor, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        _save(image, folder / f"{i:05d}.png")
    others = len(list(folder.iterdir())) - len(images)
    if others > 0:
        print(f"note: {folder} holds {others} other file(s), which are not of these images")


def _save(image: Tensor, path: Path) -> None:
    """An image (3, H, W) uint8 as PNG."""
    with replacing(path, synced=False) as aside:
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(aside, format="png")
