"""The cost of an evaluation, and whether its features detect faults: `unet_cifar32`, untrained, on this machine.

`python -m benchmarks.evaluation` measures

- images/s of the embedded features; of Inception's in our loop against clean-fid's own loops: once with a net as costly
  as Inception (random weights), once with one that costs nothing;
- seconds of each distance, for 64 and for 2048 dimensions;
- peak memory of `ddpm evaluate` with 5,000 samples above that with the network loaded, in its own process (Linux);
  memory does not depend on NFE, which is 1 here;
- with `--root`, on those images (ten class folders): whether the embedded features rank distortions by their strength,
  and the floor at n = 5,000 as a share of what uniform noise scores.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.claims import REPOSITORY, Claim, arguments, conclude, in_process, of_rounds, parsed, quotient, say
from benchmarks.distortions import DISTORTIONS, KEPT_CLASSES, STRENGTHS
from benchmarks.study import NO_EVALUATION
from benchmarks.timing import in_turn, memory_growth, seconds
from ddpm.data.images import ImageSet, load_images
from ddpm.diffusion.schedule import make_schedule
from ddpm.evaluation.distances import frechet_distance, gaussian_of
from ddpm.evaluation.evaluator import Evaluator
from ddpm.evaluation.features import INCEPTION_FILE, make_features
from ddpm.evaluation.fid_error import frechet_error
from ddpm.evaluation.kid_prdc import kid, neighbours
from ddpm.evaluation.milestones import default_batch_size
from ddpm.evaluation.reference import make_reference, outside_reference, uniform_noise

# Targets: share of clean-fid's seconds; MiB above the model's memory; the floor as a share of the ceiling.
OF_CLEAN_FID, MEMORY, FLOOR = 1.0, 2048, 0.05
CPU = torch.device("cpu")


def main() -> int:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--n", type=int, default=5000, help="samples of the memory measurement")
    parser.add_argument("--root", type=Path, help="folder or .zip of images in ten classes")
    parser.add_argument("--memory", metavar="FEATURES", help=argparse.SUPPRESS)
    args = parsed(parser)
    if args.memory:
        print(json.dumps({"bytes": memory_of(args.memory, args.n)}))
        return 0
    if args.quick:
        args.n = 200
    claims = say(measure_features(args.rounds))
    claims += say(measure_clean_fid(args.rounds, 25 if args.quick else 100))
    claims += say(measure_distances(500 if args.quick else args.n, (64,) if args.quick else (64, 2048)))
    if args.root:
        images = load_images("folder", args.root, subset=3000 if args.quick else None)
        claims += say(measure_ranking(images, 300 if args.quick else 2000))
        claims += say(measure_scale(images, args.n))
    for features in ("embedded",) if args.quick else ("embedded", "2048"):
        claims += say(measure_memory(features, args.n))
    return conclude(args, claims, n=args.n, rounds=args.rounds)


# --- features and distances ---


def measure_features(rounds: int) -> list[Claim]:
    features = make_features("embedded", CPU)
    images = torch.randint(0, 256, (500, 3, 32, 32), dtype=torch.uint8)
    batches = images.split(default_batch_size(CPU))
    taken = in_turn({"features": lambda: list(features.of(batches))}, rounds)["features"]
    return [of_rounds("embedded features: images/s", [len(images) / s for s in taken], "/s", better="more")]


class Resized(nn.Module):
    """An Inception in the form of clean-fid's file, of torchvision's layers with random weights: for timing only."""

    def __init__(self, layers: nn.Module):
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Wide(nn.Module):
    """2048 features, as many as Inception's, at almost no cost. What remains is the cost of resizing and of keeping
    features."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2048] / 255


def measure_clean_fid(rounds: int, n: int) -> list[Claim]:
    """clean-fid's mode in our loop (n images from memory) and in its own: over a folder of PNG files with two workers,
    and over the results of a function."""
    from cleanfid import fid
    from torchvision.io import write_png
    from torchvision.models import inception_v3

    inception = inception_v3(weights=None, init_weights=False, aux_logits=False).eval()
    inception.fc = nn.Identity()
    claims = []
    for name, layers, count in (("Inception", inception, n), ("no net", Wide(), 10 * n)):
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        batches = images.split(default_batch_size(CPU))
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"DDPM_CACHE": folder}):
            example = torch.zeros(2, 3, 299, 299)
            with torch.no_grad():
                torch.jit.trace(Resized(layers), example, check_trace=False).save(f"{folder}/{INCEPTION_FILE}")
            ours, theirs = make_features("inception", CPU), clean_fid_net(folder)
            (Path(folder) / "png").mkdir()
            for i, image in enumerate(images):
                write_png(image, f"{folder}/png/{i:05}.png")
            common = {"batch_size": default_batch_size(CPU), "device": CPU, "mode": "clean", "verbose": False}

            def from_folder(folder: str = folder, net: Any = theirs, common: dict[str, Any] = common) -> None:
                fid.get_folder_features(f"{folder}/png", net, num_workers=2, **common)

            def from_function(batches: Any = batches, net: Any = theirs, common: dict[str, Any] = common) -> None:
                draws = iter(batches)
                fid.get_model_features(lambda _: next(draws), net, num_gen=len(batches) * len(batches[0]), **common)

            ways = {
                "ours": lambda net=ours, batches=batches: list(net.of(batches)),
                "folder": from_folder,
                "function": from_function,
            }
            taken = in_turn(ways, rounds, wall=True)  # both resize in threads or processes
        speed = [count / s for s in taken["ours"]]
        claims += [
            of_rounds(f"clean-fid's features by our loop, {name}: images/s", speed, "/s", better="more"),
            quotient(
                f"   over clean-fid's loop over files, {name}", taken["ours"], taken["folder"], target=OF_CLEAN_FID
            ),
            quotient(
                f"   over clean-fid's loop over a function, {name}",
                taken["ours"],
                taken["function"],
                target=OF_CLEAN_FID,
            ),
        ]
    return claims


def clean_fid_net(folder: str) -> nn.Module:
    from cleanfid.inception_torchscript import InceptionV3W

    return InceptionV3W(folder, download=False).eval()


def measure_distances(n: int, dims: tuple[int, ...]) -> list[Claim]:
    """Seconds of each distance of n features."""
    claims = []
    for d in dims:
        spread = torch.linspace(0.1, 1, d)
        rows, others = torch.randn(n, d) * spread, torch.randn(n, d) * spread + 0.1
        gaussians = [gaussian_of(rows), gaussian_of(others)]
        works: dict[str, Callable[[], Any]] = {
            "Frechet distance": lambda g=gaussians: frechet_distance(*g),
            "its standard error": lambda g=gaussians, x=rows: frechet_error(*g, x),
            "KID, 100 subsets of 1000": lambda x=rows, y=others: kid(x, y),
            "precision, recall, density, coverage": lambda x=rows, y=others: neighbours(x, y),
        }
        claims += [Claim(f"{name}, n = {n}, d = {d}", seconds(work), "s") for name, work in works.items()]
    return claims


# --- what the features detect ---


def measure_ranking(images: ImageSet, n: int) -> list[Claim]:
    """Each level of strength must score worse than the one before; n images from each half of the set."""
    features = make_features("embedded", CPU)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    real, fresh = images.images[order[:n]], images.images[order[n : 2 * n]]
    labels = images.labels[order[n : 2 * n]]

    def extract(batch: Tensor) -> Tensor:
        return torch.cat([features.extract(part) for part in batch.split(250)])

    reference, plain = gaussian_of(extract(real)), extract(fresh)
    scores = {
        name: [frechet_distance(gaussian_of(extract(distort(fresh, s))), reference) for s in STRENGTHS]
        for name, distort in DISTORTIONS.items()
    }
    scores["missing classes"] = [frechet_distance(gaussian_of(plain[labels < k]), reference) for k in KEPT_CLASSES]
    claims = []
    for name, found in scores.items():
        steps = [b - a for a, b in itertools.pairwise(found)]
        shown = ", ".join(f"{value:.3g}" for value in found)
        claims.append(Claim(f"{name}, n = {n}: {shown}; smallest step", min(steps), "", 0.0, better="more"))
    return claims


def measure_scale(images: ImageSet, n: int) -> list[Claim]:
    """FIDs of n real images outside the reference, and of n images of uniform noise."""
    features, reference_n = make_features("embedded", CPU), len(images) - n
    reference = make_reference(features, images, reference_n)
    evaluator = Evaluator(make_schedule("linear"), features, reference, CPU, 25, "clip", "ema")
    real = images.images[outside_reference(images, reference_n, n)]
    floor = evaluator.scores_of("real images", real.split(250), n)
    ceiling = evaluator.scores_of("uniform noise", uniform_noise(n, (3, 32, 32)), n)
    return [
        Claim(f"real images, n = {n}: FID", floor["fid"], better="neither"),
        Claim(f"   its standard error, n = {n}", floor["fid_sem"], better="neither"),
        Claim(f"uniform noise, n = {n}: FID", ceiling["fid"], better="neither"),
        Claim("   real over noise", floor["fid"] / ceiling["fid"], "", FLOOR),
    ]


# --- memory, in its own process ---


def measure_memory(features: str, n: int) -> list[Claim]:
    begin = time.perf_counter()
    size = in_process("evaluation", "--memory", features, "--n", str(n))["bytes"] / 2**20
    return [
        Claim(f"peak memory above the model's, {n} samples, {features} features, FID and KID", size, "MiB", MEMORY),
        Claim("   and its time, floor and ceiling included", time.perf_counter() - begin, "s"),
    ]


def memory_of(features: str, n: int) -> int:
    """Bytes by which `ddpm evaluate` of n samples raises the memory of this process, with the network loaded."""
    from ddpm.commands.score_checkpoints import Request, evaluate
    from ddpm.config.files import load_config
    from ddpm.models.trained import load_trained
    from ddpm.training.loop import train

    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"WANDB_MODE": "disabled", "DDPM_CACHE": f"{folder}/cache"}
        small = ["--train.total_steps=1", "--curvature.enabled=false", f"--out_dir={folder}", "--eval.reference_n=4000"]
        network = ["--model.base_channels=32", "--model.gn_groups=32", "--data.batch_size=4"]
        run = train(load_config(REPOSITORY / "configs/smoke/e5.yaml", [*NO_EVALUATION, *small, *network]))
        if features != "embedded":
            features = f"{folder}/wide.pt"
            torch.jit.script(Wide()).save(features)
        trained = load_trained(next(run.glob("checkpoints/*.pt")))
        trained.denoiser(torch.zeros(25, 3, 32, 32), 500)
        request = Request([run], Path(folder) / "out", ["ddim"], [1], n, ("fid", "kid"), features)
        return memory_growth(lambda: evaluate(request))


if __name__ == "__main__":
    sys.exit(main())
