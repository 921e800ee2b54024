"""`ddpm sample`: images from a checkpoint, by any sampler."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.arguments import fraction, not_negative, path, positive
from ddpm.errors import UserError
from ddpm.files.disk import replacing, require_folder, written
from ddpm.names import LIMITS, SAMPLERS, SPACINGS, WEIGHTS
from ddpm.runtime.memory import keep_freed_memory

if TYPE_CHECKING:
    from torch import Tensor

HELP = "draw images from a checkpoint or a run"
DESCRIPTION = "Draw images with any sampler from a checkpoint, or from the newest one of a run folder."


def arguments(verb: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verb.add_argument("source", type=path, metavar="RUN|CHECKPOINT", help="run folder, or a file of its checkpoints/")
    verb.add_argument("--out", type=path, default=Path("out/samples"), metavar="DIR", help="default: %(default)s")
    verb.add_argument("--n", type=positive, default=36, help="how many images; default: %(default)s")
    verb.add_argument("--sampler", choices=SAMPLERS, default="ddpm", help="default: %(default)s")
    verb.add_argument("--nfe", type=positive, default=50, help="network calls for each image; default: %(default)s")
    verb.add_argument("--spacing", choices=SPACINGS, default="linspace")
    verb.add_argument(
        "--t-start", type=not_negative, metavar="T", help="timestep at which the chain begins; default: the last"
    )
    verb.add_argument("--eta", type=fraction, default=0.0, help="fresh noise of ddim, 0 to 1; default: %(default)s")
    verb.add_argument("--x0-limit", choices=LIMITS, default="clip", help="default: %(default)s")
    verb.add_argument("--weights", choices=WEIGHTS, default="ema", help="default: %(default)s")
    verb.add_argument(
        "--seed", type=not_negative, default=0, help="equal seeds give equal images; default: %(default)s"
    )
    verb.add_argument("--batch-size", type=positive, default=25, help="default: %(default)s")
    verb.add_argument("--device", default="auto", help="default: %(default)s")
    verb.add_argument("--each", action="store_true", help="also write every image to DIR/images/")


def run(args: argparse.Namespace) -> None:
    """Write the samples as one grid `grid.png` (and, with --each, as `images/00000.png` ...).

    Equal seeds give equal images at any batch size. Raises UserError, and writes nothing, if the sampler cannot run
    here or an image is not finite.
    """
    keep_freed_memory()
    require_folder(args.out)
    import torch
    from torchvision.utils import make_grid
    from tqdm import tqdm

    from ddpm.data.images import to_uint8
    from ddpm.diffusion import samplers
    from ddpm.models.trained import find_checkpoint, load_trained

    checkpoint = find_checkpoint(args.source)
    trained = load_trained(checkpoint, args.weights, args.device)
    if samplers.SAMPLERS[args.sampler].adjacent:
        print(f"warning: {args.sampler} is the original study's faulty sampler; its samples keep most of their noise")
    images = []
    try:
        chain = samplers.make_chain(trained.schedule, args.sampler, args.nfe, args.spacing, args.t_start)
        batches = samplers.draw(
            args.sampler,
            trained.denoiser,
            chain,
            args.n,
            seed=args.seed,
            batch_size=args.batch_size,
            device=trained.device,
            limit=samplers.LIMITS[args.x0_limit],
            eta=args.eta,
        )
        with tqdm(total=args.n, desc=f"{args.sampler}, nfe {args.nfe}", unit="img", disable=None, leave=False) as bar:
            for batch in batches:
                images.append(to_uint8(batch).cpu())
                bar.update(len(batch))
    except ValueError as error:  # more steps than the schedule has, or a sampler that cannot start on it
        raise UserError(f"--sampler {args.sampler} --nfe {args.nfe}: {error}.") from None
    everything = torch.cat(images)
    grid = args.out / "grid.png"
    with written(args.out):
        args.out.mkdir(parents=True, exist_ok=True)
        if args.each:
            _save_each(everything, args.out / "images")
        _save(make_grid(everything, nrow=max(1, round(args.n**0.5)), padding=2), grid)
    print(f"{args.n} images of {checkpoint} (step {trained.step}) by {args.sampler}, nfe {args.nfe}: {grid}")
    if checkpoint.parent.name == "checkpoints" and (said := _note(args, checkpoint, trained.step, grid)):
        print(said)


def _note(args: argparse.Namespace, checkpoint: Path, step: int, grid: Path) -> str:
    """Note the grid in the run's folder, and send it to W&B as a run of its own. Returns a message about it."""
    import shutil

    from ddpm.runtime.checkpoint import digest
    from ddpm.tracking import derived
    from ddpm.tracking.amend import send_noted

    keys = ("n", "sampler", "nfe", "spacing", "eta", "t_start", "x0_limit", "weights", "seed")
    how = {key: value for key in keys if (value := getattr(args, key)) is not None}
    point = digest([step, how])[:12]
    folder = checkpoint.resolve().parents[1]
    if not (folder / "run.json").exists():
        return ""
    try:
        (folder / "drawn").mkdir(exist_ok=True)
        shutil.copyfile(grid, folder / "drawn" / f"{point}.png")
    except OSError as error:
        return f"warning: the grid is not noted in {folder}: {error.strerror or error}"
    derived.note(folder, "sample", step, point, {"grid": f"drawn/{point}.png"}, how)
    return send_noted(folder, [point])


def _save_each(images: "Tensor", folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        _save(image, folder / f"{i:05d}.png")
    others = len(list(folder.iterdir())) - len(images)
    if others > 0:
        print(f"note: {folder} also holds {others} file(s) that were there before")


def _save(image: "Tensor", path: Path) -> None:
    """Write an image (3, H, W) uint8 as PNG."""
    from PIL import Image

    with replacing(path, synced=False) as aside:
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(aside, format="png")
