"""What an evaluation costs, and whether its features can tell faults: `unet_cifar32`, untrained, on this machine.

`python -m benchmarks.evaluation` measures

- images/s of sampling beside a plain loop (batch 64, default layout, gradients off, the same sampler), in turn, several
  rounds, the middle ratio counting; the share of it that convolutions take, and how near they come to the processor's
  rate in a matrix product: what no arrangement of the same float32 network can go below;
- images/s of the embedded features, and seconds of each distance, for 64 and for 2048 dimensions;
- peak memory of `ddpm evaluate` with 5,000 samples above what the process holds with the network loaded, in a process
  of its own (Linux); memory does not depend on NFE, which is 1 here;
- with `--root`, on those images (ten class folders): whether the embedded features rank distortions by their strength,
  and the floor at n = 5,000 as a share of what uniform noise scores.

It prints a table, and the same as one line of JSON.
"""

import argparse
import ctypes
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.claims import Claim, report
from ddpm.data import ImageSet, load_images
from ddpm.evaluation.distances import Gaussian, GaussianSum, frechet_distance
from ddpm.evaluation.evaluate import Evaluator, SamplingPlan
from ddpm.evaluation.features import make_features
from ddpm.evaluation.intervals import frechet_error
from ddpm.evaluation.kernel import kid, neighbours
from ddpm.evaluation.milestones import default_batch_size
from ddpm.evaluation.reference import held_out, make_reference, uniform_noise
from ddpm.samplers import make_chain, model_denoiser
from ddpm.schedule import make_schedule
from ddpm.unet import UNetCifar32
from tests.distortions import DISTORTIONS, KEPT_CLASSES, STRENGTHS

REPOSITORY = Path(__file__).parents[1]
PLAIN_BATCH, NFE = 64, 5
# Times the plain loop's images/s; MiB above the model's own memory; the floor as a share of the ceiling.
SPEED, MEMORY, FLOOR = 1.5, 2048, 0.05
CPU = torch.device("cpu")


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure evaluation: speed, memory, and what features tell.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--n", type=int, default=5000, help="samples of the memory measurement")
    parser.add_argument("--root", type=Path, help="folder or .zip of images in ten classes")
    parser.add_argument("--quick", action="store_true", help="one round, few samples: whether it works, no measurement")
    parser.add_argument("--memory", metavar="FEATURES", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        print(json.dumps({"bytes": memory_of(args.memory, args.n)}))
        return 0
    if args.quick:
        args.rounds, args.n = 1, 200
    print(f"{'':86}{'measured':>14}{'target':>9}  holds")
    claims = report(measure_sampling(args.rounds))
    claims += report(measure_features(args.rounds))
    claims += report(measure_distances(500 if args.quick else args.n, (64,) if args.quick else (64, 2048)))
    if args.root:
        images = load_images("folder", args.root, subset=3000 if args.quick else None)
        claims += report(measure_ranking(images, 300 if args.quick else 2000))
        claims += report(measure_scale(images, args.n))
    for features in ("embedded",) if args.quick else ("embedded", "2048"):
        claims += report(measure_memory(features, args.n))
    setting = {"threads": torch.get_num_threads(), "cores": os.cpu_count(), "torch": torch.__version__}
    print(json.dumps(setting | {"claims": [asdict(c) | {"holds": c.holds} for c in claims]}))
    return 0 if all(c.holds is not False for c in claims) else 1


def timed(work: Callable[[], Any]) -> float:
    """Seconds; with one thread those of the processor, which other processes of a shared machine do not add to."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    work()
    return clock() - begin


# --- sampling ---


def plain_loop(model: nn.Module) -> None:
    """DDIM as one would write it down: a batch of 64 in the default layout, gradients off."""
    chain = make_chain(make_schedule("linear"), "ddim", NFE)
    x = torch.randn(PLAIN_BATCH, 3, 32, 32)
    with torch.no_grad():
        for i in reversed(range(len(chain))):
            ab, before = chain.alpha_bar[i].float(), chain.alpha_bar_prev[i].float()
            eps = model(x, torch.full((PLAIN_BATCH,), int(chain.timesteps[i])))
            x_0 = ((x - (1 - ab).sqrt() * eps) / ab.sqrt()).clamp(-1, 1)
            eps = (x - ab.sqrt() * x_0) / (1 - ab).sqrt()
            x = before.sqrt() * x_0 + (1 - before).sqrt() * eps


def make_evaluator(model: nn.Module, batch_size: int | None = None) -> tuple[Evaluator, Callable[[int], None]]:
    """The evaluator as `ddpm evaluate` has it, and a function that draws so many samples of `model` with it."""
    schedule = make_schedule("linear")
    features = make_features("embedded", CPU)
    size = batch_size or default_batch_size(CPU)
    evaluator = Evaluator(schedule, features, None, CPU, size, "clip", "ema")
    denoiser = model_denoiser(model.to(memory_format=torch.channels_last), schedule)

    def draw(n: int) -> None:
        for _ in evaluator.samples(denoiser, SamplingPlan("ddim", NFE, n), 0, None):
            pass

    return evaluator, draw


def measure_sampling(rounds: int) -> list[Claim]:
    torch.manual_seed(0)
    plain, model = UNetCifar32().eval(), UNetCifar32().eval()
    _, draw = make_evaluator(model)
    n = 3 * default_batch_size(CPU)
    taken: dict[str, list[float]] = {"plain": [], "ours": []}
    for number in range(rounds + 1):
        found = {"plain": timed(lambda: plain_loop(plain)) / PLAIN_BATCH, "ours": timed(lambda: draw(n)) / n}
        if number:  # the first warms up
            for name, seconds in found.items():
                taken[name].append(seconds)
    ratio = statistics.median(p / o for p, o in zip(taken["plain"], taken["ours"], strict=True))
    claims = [
        Claim(f"sampling, plain loop: images/s at NFE {NFE}", 1 / statistics.median(taken["plain"]), "/s"),
        Claim(f"sampling, evaluator: images/s at NFE {NFE}", 1 / statistics.median(taken["ours"]), "/s"),
        Claim("sampling: evaluator's images/s over the plain loop's", ratio, "x", SPEED, least=True),
    ]
    return claims + limit_of(model, statistics.median(taken["plain"]))


def limit_of(model: nn.Module, plain: float) -> list[Claim]:
    """What convolutions take of sampling, beside a matrix product's rate; plain: the plain loop's seconds an image."""
    batch = default_batch_size(CPU)
    x = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    t = torch.full((batch,), 500)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counted:
            model(x, t)
        flops = sum(n for name, n in counted.get_flop_counts()["Global"].items() if "conv" in str(name))
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            for _ in range(10):
                model(x, t)
        a = torch.randn(2048, 2048)
        a @ a
        product = min(timed(lambda: a @ a) for _ in range(5))
    total = sum(event.self_cpu_time_total for event in seen.key_averages()) / 10 / 1e6
    convolutions = sum(e.self_cpu_time_total for e in seen.key_averages() if "convolution" in e.key) / 10 / 1e6
    return [
        Claim("   of it in convolutions", 100 * convolutions / total, "%"),
        Claim("   convolutions' rate", flops / convolutions / 1e9, "GFLOP/s"),
        Claim("   a float32 matrix product's rate here", 2 * 2048**3 / product / 1e9, "GFLOP/s"),
        Claim(
            "   plain loop over convolutions alone, all else for nothing",
            plain * batch / NFE / convolutions,
            "x",
        ),
    ]


# --- features and distances ---


def measure_features(rounds: int) -> list[Claim]:
    features = make_features("embedded", CPU)
    images = torch.randint(0, 256, (500, 3, 32, 32), dtype=torch.uint8)
    size = default_batch_size(CPU)
    taken = [timed(lambda: [features.extract(batch) for batch in images.split(size)]) for _ in range(rounds + 1)]
    return [Claim("embedded features: images/s", len(images) / statistics.median(taken[1:] or taken), "/s")]


def measure_distances(n: int, dims: tuple[int, ...]) -> list[Claim]:
    """Seconds of each distance of n features, once a set of samples."""
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
        claims += [Claim(f"{name}, n = {n}, d = {d}", timed(work), "s") for name, work in works.items()]
    return claims


def gaussian_of(rows: Tensor) -> Gaussian:
    total = GaussianSum()
    total.add(rows)
    return total.result()


# --- what the features tell ---


def measure_ranking(images: ImageSet, n: int) -> list[Claim]:
    """Each step of strength must score worse than the one before; n images of either half of the set."""
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
        claims.append(Claim(f"{name}, n = {n}: {shown}; smallest step", min(steps), "", 0.0, least=True))
    return claims


def measure_scale(images: ImageSet, n: int) -> list[Claim]:
    """Real images that the reference does not hold, and uniform noise, n of each."""
    features, reference_n = make_features("embedded", CPU), len(images) - n
    reference = make_reference(features, images, reference_n)
    evaluator = Evaluator(make_schedule("linear"), features, reference, CPU, 25, "clip", "ema")
    real = held_out(images, reference_n, n)
    floor = evaluator.scores_of("real images", real.split(250), n)
    ceiling = evaluator.scores_of("uniform noise", uniform_noise(n, (3, 32, 32)), n)
    return [
        Claim(f"real images, n = {n}: FID", floor["fid"]),
        Claim(f"   its standard error, n = {n}", floor["fid_sem"]),
        Claim(f"uniform noise, n = {n}: FID", ceiling["fid"]),
        Claim("   real over noise", floor["fid"] / ceiling["fid"], "", FLOOR),
    ]


# --- memory, in a process of its own ---


class Wide(nn.Module):
    """2048 features at next to no cost, as many as Inception's: what is measured is what is kept of them."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2048] / 255


def measure_memory(features: str, n: int) -> list[Claim]:
    command = [sys.executable, "-m", "benchmarks.evaluation", "--memory", features, "--n", str(n)]
    begin = time.perf_counter()
    found = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    size = json.loads(found.stdout.splitlines()[-1])["bytes"] / 2**20
    what = "embedded" if features == "embedded" else "2048"
    return [
        Claim(f"peak memory above the model's, {n} samples, {what} features, FID and KID", size, "MiB", MEMORY),
        Claim("   and its time, floor and ceiling included", time.perf_counter() - begin, "s"),
    ]


def memory_of(features: str, n: int) -> int:
    """Bytes by which `ddpm evaluate` of n samples grew beyond what this process held with the network loaded."""
    from ddpm.config_files import load_config
    from ddpm.evaluations import Request, evaluate
    from ddpm.sample import load_trained
    from ddpm.train import train

    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"WANDB_MODE": "disabled", "DDPM_CACHE": f"{folder}/cache"}
        off = [f"--eval.{part}.enabled=false" for part in ("fid_milestone", "final", "grid", "recon")]
        small = ["--train.total_steps=1", "--curvature.enabled=false", f"--out_dir={folder}", "--eval.reference_n=4000"]
        network = ["--model.base_channels=32", "--model.gn_groups=32", "--data.batch_size=4"]
        run = train(load_config(REPOSITORY / "configs/smoke/e5.yaml", [*off, *small, *network]))
        if features != "embedded":
            features = f"{folder}/wide.pt"
            torch.jit.script(Wide()).save(features)
        trained = load_trained(next(run.glob("checkpoints/*.pt")))
        trained.denoiser(torch.zeros(25, 3, 32, 32), 500)
        request = Request([run], Path(folder) / "out", ["ddim"], [1], n, ("fid", "kid"), features)
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held
        before = peak_memory()
        evaluate(request)
        return peak_memory() - before


def peak_memory() -> int:
    """Bytes this process held at most since its peak was reset. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    sys.exit(main())
