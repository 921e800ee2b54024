"""Images from a checkpoint: its network, its schedule, and any sampler."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid
from tqdm import tqdm

from ddpm.checkpoint import list_checkpoints, load_checkpoint, no_checkpoints, weights_of
from ddpm.config import Config
from ddpm.data import to_uint8
from ddpm.disk import replacing, written
from ddpm.environment import choose_device
from ddpm.errors import UserError
from ddpm.samplers import LIMITS, SAMPLERS, Denoiser, draw, make_chain, model_denoiser
from ddpm.schedule import Schedule
from ddpm.train import schedule_of
from ddpm.unet import make_model


@dataclass(frozen=True)
class Trained:
    """A checkpoint made ready to sample from."""

    denoiser: Denoiser
    schedule: Schedule
    cfg: Config
    step: int
    device: torch.device


def find_checkpoint(path: Path) -> Path:
    """`path` itself where it is a file, else the newest checkpoint of the run folder `path`. Raises UserError."""
    if path.is_file():
        return path
    found = list_checkpoints(path)
    if not found:
        raise no_checkpoints(path)
    return found[-1]


def load_trained(path: Path, weights: str = "ema", device: str = "auto") -> Trained:
    """The network of a checkpoint with its `ema` or `live` weights, in eval mode, as a denoiser. Raises UserError."""
    where = choose_device(device)
    state = load_checkpoint(path)
    cfg = Config.model_validate(state["config"])
    model = make_model(cfg).to(where)
    model.load_state_dict(weights_of(path, state, weights))
    model = model.eval().to(memory_format=torch.channels_last)
    schedule = schedule_of(cfg)
    return Trained(model_denoiser(model, schedule, cfg.diffusion.prediction), schedule, cfg, state["step"], where)


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
