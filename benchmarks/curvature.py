"""Cost and accuracy of a Hessian trace, compared with other libraries; `unet_cifar32`, batch 4, 16 probes.

`python -m benchmarks.curvature` trains a network briefly (`--checkpoints FOLDER` keeps or reuses its checkpoints) and
measures

- time in units of the plain gradient (forward and backward of the same batch), timed right before and after each way,
  all ways in turn, over several rounds; the median ratio counts;
- peak memory above that with network and batch loaded, as a multiple of a training step's, each in its own processes
  (Linux);
- the error of the differences against exact products in float64, for the same draws and vectors, in standard errors;
- the error bar of the improved estimate as a multiple of the plain one's;
- a run's probe with shared noise levels (`curvature.neutral`), which also gives the neutral trace and that by noise
  level, beside one whose samples all take the arm's own timesteps: time, and standard error of its two traces.

Libraries that are not installed are left out.
"""

import argparse
import json
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Generator, Tensor, nn

from benchmarks.claims import Claim, arguments, conclude, in_process, of_rounds, parsed, quotient, say
from benchmarks.timing import memory_growth, seconds
from ddpm.config.files import load_config
from ddpm.curvature.hessian import LeastSquares, hutchinson_trace, least_squares_trace
from ddpm.curvature.probe import CurvatureProbe
from ddpm.data.batches import Batches
from ddpm.data.images import load_images, to_model
from ddpm.diffusion.prediction import add_noise
from ddpm.diffusion.schedule import make_schedule
from ddpm.diffusion.weighting import constant, make_weighting, weights
from ddpm.models.build import objective_of, schedule_of
from ddpm.models.unet import UNetCifar32

BATCH, PROBES = 4, 16
STEPS = (0, 500, 1500, 3000)
# Targets of a trace: plain gradients per probe, share of the better peer's time, multiple of a training step's memory,
# numerical error in standard errors, improved error bar over the plain one, late in training and at any time.
UNITS, OF_PEER, MEMORY, ERROR, BAR_LATE, BAR = 1.0, 0.4, 1.5, 0.02, 0.15, 1.0
# Targets of shared noise levels: time and standard error over those of own timesteps.
SHARED_TIME, SHARED_BAR = 1.02, 1.2
SEEDS = 12
LATE = 1000


def main() -> int:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--checkpoints", type=Path, help="folder to keep the trained checkpoints, or reuse them")
    parser.add_argument("--root", type=Path, help="folder or .zip of images to train on, instead of the embedded ones")
    parser.add_argument("--memory", metavar="WAY", help=argparse.SUPPRESS)
    args = parsed(parser)
    if args.memory:
        print(json.dumps({"bytes": memory_of(args.memory)}))
        return 0
    steps = (0, 2) if args.quick else STEPS
    with tempfile.TemporaryDirectory() as spare:
        folder = args.checkpoints or Path(spare)
        found = load_images("folder" if args.root else "embedded", args.root, subset=5000)
        problem = Problem(found.images, found.name)
        problem.train(folder, steps)
        claims = say(measure_ways(problem, folder / f"step{steps[-1]}.pt", args.rounds))
        claims += say(measure_error_bars(problem, folder, steps))
        claims += say(measure_exactness(problem, folder, steps))
        claims += say(measure_shared_levels(problem, folder / f"step{steps[-1]}.pt", 2 if args.quick else SEEDS))
    return conclude(args, claims, batch=BATCH, probes=PROBES, steps=steps, data=problem.name, rounds=args.rounds)


class Problem:
    """The study's problem: eps-prediction, linear betas; the trained loss is Min-SNR, the common one unweighted."""

    def __init__(self, images: Tensor, name: str):
        self.images, self.name = images, name
        schedule = make_schedule("linear")
        self.alpha_bar = schedule.alpha_bar
        self.weights = torch.stack([weights(w, schedule).float() for w in (make_weighting("minsnr"), constant)])

    def draw(self, number: int, rng: Generator) -> LeastSquares:
        """A batch with fresh images, t and eps."""
        x_0 = to_model(self.images[torch.randint(0, len(self.images), (BATCH,), generator=rng)])
        t = torch.randint(0, len(self.alpha_bar), (BATCH,), generator=rng)
        eps = torch.randn(x_0.shape, generator=rng)
        return LeastSquares((add_noise(x_0, eps, self.alpha_bar[t]), t), eps, self.weights[:, t])

    def train(self, folder: Path, steps: tuple[int, ...]) -> None:
        """Write step{N}.pt of a network trained with the study's settings, for each N, unless all exist."""
        folder.mkdir(parents=True, exist_ok=True)
        if all((folder / f"step{n}.pt").exists() for n in steps):
            return
        print(f"Training {steps[-1]} steps on {self.name}", flush=True)
        torch.manual_seed(0)
        model, batches = UNetCifar32(), Batches(self.images, BATCH, seed=1)
        optimizer, rng = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True), torch.Generator().manual_seed(2)
        for step in range(steps[-1] + 1):
            if step in steps:
                torch.save(model.state_dict(), folder / f"step{step}.pt")
            x_0, t = next(batches), torch.randint(0, len(self.alpha_bar), (BATCH,), generator=rng)
            eps = torch.randn(x_0.shape, generator=rng)
            loss = (model(add_noise(x_0, eps, self.alpha_bar[t]), t) - eps).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()


def load(path: Path) -> UNetCifar32:
    model = UNetCifar32().eval()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


# --- time and memory ---


class OnPairs(nn.Module):
    """The network as a function of one input (x, t), for the peers."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return self.net(*pair)


def ways(model: UNetCifar32, data: LeastSquares, draw: Callable[[int, Generator], LeastSquares]) -> dict[str, Callable]:
    """Each way to take 16 probes of the unweighted loss, as a function without arguments. The differences also give the
    other loss and both estimates."""
    params = list(model.parameters())
    rng = torch.Generator().manual_seed(0)

    def loss_of(batch: LeastSquares) -> Tensor:
        return (model(*batch.inputs) - batch.target).square().mean()

    def differences(per_draw: int) -> Callable[[], Any]:
        batch = (lambda *_: data) if per_draw == PROBES else draw
        return lambda: least_squares_trace(model, batch, PROBES, rng, head=model.conv_out, per_draw=per_draw)

    def kept(chunk: int) -> Callable[[], Any]:
        return lambda: hutchinson_trace(lambda: loss_of(data), params, PROBES, rng, per_draw=PROBES, chunk=chunk)

    found: dict[str, Callable[[], Any]] = {
        "exact, a fresh graph for each probe (the study's)": lambda: hutchinson_trace(
            lambda: loss_of(draw(0, rng)), params, PROBES, rng
        ),
        "exact, one kept graph": kept(1),
        "exact, vmapped in one chunk": kept(PROBES),
        "differences, 16 draws": differences(1),
        "differences, 8 draws of 2 vectors": differences(2),
        "differences, one fixed batch": differences(PROBES),
    }
    return found | peers(model, data)


def peers(model: UNetCifar32, data: LeastSquares) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    pairs, batch = OnPairs(model), (data.inputs, data.target)
    try:
        import curvlinops

        operator = curvlinops.HessianLinearOperator(
            pairs,
            nn.MSELoss(),
            list(pairs.parameters()),
            [batch],
            check_deterministic=False,
            batch_size_fn=lambda _: BATCH,
        )

        def with_curvlinops() -> None:
            # Under torch.no_grad, its forward-over-reverse product cannot pass torch's SiLU and GroupNorm.
            with mock.patch("curvlinops.hessian.no_grad", lambda: lambda function: function):
                curvlinops.hutchinson_trace(operator, num_matvecs=PROBES)

        found["curvlinops"] = with_curvlinops
    except ImportError:
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pyhessian

        def with_pyhessian() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                taken = pyhessian.hessian(pairs, nn.MSELoss(), data=batch, cuda=False)
                taken.trace(PROBES, tol=float("-inf"))
            for p in pairs.parameters():
                p.grad = None  # PyHessian leaves a graph there that references itself

        found["PyHessian"] = with_pyhessian
    except ImportError:
        pass
    return found


def gradient(model: UNetCifar32, data: LeastSquares) -> None:
    """The unit of time."""
    loss = (model(*data.inputs) - data.target).square().mean()
    torch.autograd.grad(loss, list(model.parameters()))


def measure_ways(problem: Problem, path: Path, rounds: int) -> list[Claim]:
    model = load(path)
    data = problem.draw(0, torch.Generator().manual_seed(0))
    taken: dict[str, list[float]] = {}
    floor: list[float] = []

    @torch.no_grad()
    def three_passes() -> None:
        for _ in range(3):
            model(*data.inputs)

    for _number in range(rounds):
        unit = seconds(lambda: gradient(model, data), 5)
        floor.append(seconds(three_passes, 5) / unit)
        for name, way in ways(model, data, problem.draw).items():
            before = seconds(lambda: gradient(model, data), 5)
            spent = seconds(way)
            after = seconds(lambda: gradient(model, data), 5)
            taken.setdefault(name, []).append(spent / ((before + after) / 2) / PROBES)
    step = memory_in_process("training step", 3)
    what = "three passes without a graph, which a probe with a draw of its own takes: gradients"
    claims = [of_rounds(what, floor, better="neither")]
    for name, units in taken.items():
        ours = name.startswith("differences")
        claims.append(of_rounds(f"{name}: gradients a probe", units, target=UNITS if ours else None))
        memory = memory_in_process(name, 3 if ours else 1) / step
        claims.append(Claim(f"   memory of {name}, of a training step's", memory, target=MEMORY if ours else None))
    peers = [taken[name] for name in ("curvlinops", "PyHessian") if name in taken]
    if peers:
        better = min(peers, key=statistics.median)
        claims.append(
            quotient(
                "differences, 16 draws: of the better peer's time",
                taken["differences, 16 draws"],
                better,
                target=OF_PEER,
            )
        )
    return claims


def memory_in_process(way: str, times: int) -> float:
    """The median over several processes, whose allocators lay out memory differently."""
    return statistics.median(in_process("curvature", "--memory", way)["bytes"] for _ in range(times))


def memory_of(way: str) -> int:
    """Bytes by which a way raises the memory of this process, with network and batch loaded."""
    problem, model = Problem(torch.zeros(BATCH, 3, 32, 32, dtype=torch.uint8), "zeros"), UNetCifar32().eval()
    data = problem.draw(0, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def training_step() -> None:
        (model(*data.inputs) - data.target).square().mean().backward()
        optimizer.step()

    work = training_step if way == "training step" else ways(model, data, problem.draw)[way]
    with torch.no_grad():
        model(*data.inputs)  # every way shares what the first pass loads
    return memory_growth(work)


# --- exactness and error bars ---


def measure_exactness(problem: Problem, folder: Path, steps: tuple[int, ...]) -> list[Claim]:
    """Differences in float32 against products in float64: |difference of the means| in standard errors."""

    def double(number: int, rng: Generator) -> LeastSquares:
        data = problem.draw(number, rng)
        x_t, t = data.inputs
        return LeastSquares((x_t.double(), t), data.target.double(), data.weights)

    claims, worst = [], 0.0
    for step in steps:
        model = load(folder / f"step{step}.pt")
        for design, per_draw in (("16 draws", 1), ("a fixed batch", PROBES)):
            rng = torch.Generator().manual_seed(step)
            rough = least_squares_trace(model, problem.draw, PROBES, rng, head=model.conv_out, per_draw=per_draw)
            rng = torch.Generator().manual_seed(step)
            exact_model = load(folder / f"step{step}.pt").double()
            exact = least_squares_trace(
                exact_model, double, PROBES, rng, head=exact_model.conv_out, per_draw=per_draw, exact=True
            )
            errors = {
                (loss, form): abs(getattr(a, form).mean - getattr(b, form).mean) / getattr(b, form).sem
                for loss, a, b in zip(("Min-SNR", "common"), rough, exact, strict=True)
                for form in ("plain", "improved")
            }
            for form in ("plain", "improved"):
                largest = max(errors["Min-SNR", form], errors["common", form])
                claims.append(Claim(f"numerical error, {form}, {design}, step {step}", largest, "sem"))
                worst = max(worst, largest)
    return [*claims, Claim("numerical error, the largest of these", worst, "sem", ERROR)]


def measure_error_bars(problem: Problem, folder: Path, steps: tuple[int, ...], batches: int = 4) -> list[Claim]:
    """Improved over plain standard error: on fixed batches (root mean square over them) and with 16 draws."""
    claims, late, ever = [], 0.0, 0.0
    for step in steps:
        model = load(folder / f"step{step}.pt")
        rng = torch.Generator().manual_seed(step)

        def measured(per_draw: int, model: UNetCifar32 = model, rng: Generator = rng) -> list[Any]:
            return least_squares_trace(model, problem.draw, PROBES, rng, head=model.conv_out, per_draw=per_draw)

        fixed = [measured(PROBES) for _ in range(batches)]
        fresh = measured(1)
        for loss, name in enumerate(("Min-SNR", "common")):
            squares = [(f[loss].plain.sem ** 2, f[loss].improved.sem ** 2) for f in fixed]
            quotient = (sum(b for _, b in squares) / sum(a for a, _ in squares)) ** 0.5
            claims.append(Claim(f"improved error bar, {name}, fixed batches, step {step}", quotient, "plain"))
            claims.append(
                Claim(
                    f"   the same, {name}, 16 draws, step {step}",
                    fresh[loss].improved.sem / fresh[loss].plain.sem,
                    "plain",
                )
            )
            late = max(late, quotient if step > LATE else 0.0)
            ever = max(ever, *((b / a) ** 0.5 for a, b in squares))
    late_claim = Claim(f"improved error bar, fixed batches, after {LATE} steps, the largest", late, "plain", BAR_LATE)
    return [*claims, late_claim, Claim("   on any one batch at any step, the largest", ever, "plain", BAR)]


def measure_shared_levels(problem: Problem, path: Path, seeds: int) -> list[Claim]:
    """Both kinds of draws in turn, with several probe seeds, as a run of e6 measures them."""
    model = load(path)
    study = next(Path("configs/study/MS1_min_snr/e6").glob("*.yaml"))
    keys = ("--data.dataset=embedded", "--data.root=null", f"--curvature.probes={PROBES}")
    taken: dict[str, list[float]] = {"false": [], "true": []}
    errors: dict[tuple[str, str], float] = {}
    for seed in range(seeds):
        for shared, times in taken.items():
            cfg = load_config(study, [*keys, f"--curvature.neutral={shared}", f"--curvature.seed={seed}"])
            probe = CurvatureProbe(cfg, objective_of(cfg, schedule_of(cfg), torch.device("cpu")), problem.images)
            row: dict[str, float] = {}

            def measure(probe: CurvatureProbe = probe, row: dict[str, float] = row) -> None:
                row |= probe.measure(model, 5, torch.arange(BATCH), lambda: None, checks=0).row

            times.append(seconds(measure))
            for loss in ("hutch", "ref"):
                errors[shared, loss] = errors.get((shared, loss), 0.0) + row[f"curvature/{loss}_trace_sem"] ** 2
    claims = [quotient("a probe with shared noise levels: time", taken["true"], taken["false"], target=SHARED_TIME)]
    for loss, name in (("hutch", "trained"), ("ref", "common")):
        bar = (errors["true", loss] / errors["false", loss]) ** 0.5
        claims.append(Claim(f"   standard error of the {name} trace", bar, "own timesteps'", SHARED_BAR))
    return claims


if __name__ == "__main__":
    sys.exit(main())
