"""Correctness: training in reduced precision, and a GPU's numbers against a CPU's from the same draws."""

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.claims import Claim
from benchmarks.gpu.task import Task, trained, training_of
from ddpm.curvature.hessian.squares import ROUNDING, TOLERANCE
from ddpm.curvature.hessian.untouched import untouched
from ddpm.data.images import to_model, to_uint8
from ddpm.diffusion.samplers import Denoiser, draw, make_chain, model_denoiser
from ddpm.diffusion.schedule import make_schedule
from ddpm.evaluation.distances import Gaussian, frechet_distance, gaussian_of
from ddpm.evaluation.features import make_features
from ddpm.training.loop import train_step
from ddpm.training.setup import Training

Found = Iterator[Claim | str]
CPU = torch.device("cpu")

# The largest ratio of the last quarter's mean loss to the first's at which the loss has fallen.
FALLEN = 0.95
# The error of a loss in reduced precision, relative to float32. The first loss, from equal weights: a rounding unit of
# bf16, 2^-8. Each of 12,288 or more outputs is off by a few units, with either sign; in their mean, only the squares of
# these errors remain. The last quarter's mean: after rounding, Adam takes another path to losses of the same size.
FIRST, LAST = 2**-8, 0.02
# A float32 image's error against a network in float64, as a multiple of the CPU's own error. Another order of summation
# costs a factor of a few. Winograd's form of a 3x3 convolution, which cuDNN may use, costs one or two digits. TF32,
# imitated on a CPU by rounding the inputs of a convolution, was at 500 to 700.
ROUNDED = 100.0
# The mean difference of sampled images, in levels of 0 ... 255, with TF32 if the GPU has it. Imitated: 0.03.
LEVELS = 0.3
# The relative error of an FID by features in float32 and as run (TF32 imitated: 3e-5), and of a distance in float64.
FID, FID_AS_RUN, DISTANCE = 1e-5, 1e-3, 1e-6


# --- precision ---


def precision(task: Task) -> Found:
    """Losses in float32, bf16 and fp16 from the same weights, images, t and eps. Also a scale that overflows."""
    losses: dict[str, Tensor] = {}
    for name in ("fp32", "bf16", "fp16"):
        if name == "bf16" and task.on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
            yield "skipped: bf16, which this GPU emulates"
            continue
        losses[name] = series = _losses(task, name)
        quarter = len(series) // 4
        yield Claim(f"{name}: losses that are not finite", float((~series.isfinite()).sum()), target=0)
        fallen = series[-quarter:].mean() / series[:quarter].mean()
        yield Claim(f"{name}: mean loss of the last quarter of the steps over the first's", fallen.item(), "x", FALLEN)
        if name != "fp32":
            exact = losses["fp32"]
            first = abs(series[0] / exact[0] - 1).item()
            last = abs(series[-quarter:].mean() / exact[-quarter:].mean() - 1).item()
            yield Claim(f"{name} against fp32: the first loss, relative difference", first, target=FIRST)
            yield Claim(f"{name} against fp32: the last quarter's mean loss, relative difference", last, target=LAST)
    yield from _overflow(task)


def _losses(task: Task, name: str) -> Tensor:
    batch, lr = task.pick(64, 2), 0.001
    training = training_of(task.config(f"--data.batch_size={batch}", "--model.dropout=0", f"--optim.lr={lr}"), name)
    steps = [train_step(training, next(training.state.batches)).loss for _ in range(task.pick(300, 8))]
    return torch.stack(steps).double().cpu()


def _overflow(task: Task) -> Found:
    """With far too large a scale, fp16's gradients overflow. The scaler must lower it without changing the weights."""
    cfg = task.config(f"--data.batch_size={task.pick(64, 2)}", "--model.dropout=0")
    training = training_of(cfg, "fp16")
    training.state.scaler.load_state_dict(
        {**training.state.scaler.state_dict(), "scale": 2.0**40, "backoff_factor": 2.0**-6}
    )
    skipped = moved = stuck = 0
    for _ in range(8):
        scale, before = training.state.scaler.get_scale(), _flat(training)
        train_step(training, next(training.state.batches))
        same = torch.equal(before, _flat(training))
        if training.state.scaler.get_scale() < scale:
            skipped, moved = skipped + 1, moved + (not same)
        else:
            stuck += same
    yield Claim("fp16, scale too large: steps that the scaler skips", skipped, target=1, better="more")
    yield Claim("fp16, scale too large: skipped steps that move the weights", moved, target=0)
    yield Claim("fp16, scale too large: other steps that do not", stuck, target=0)


def _flat(training: Training) -> Tensor:
    return torch.cat([p.detach().flatten() for p in training.state.params])


# --- a GPU against a CPU ---


def samplers(task: Task) -> Found:
    """DDIM's and DDPM's images on the device and on the CPU from the same noise, by the same network."""
    there = copy.deepcopy(trained(task).state.model).eval().to(memory_format=torch.channels_last)
    here = copy.deepcopy(there).cpu()
    for name in ("ddim", "ddpm"):
        exact = _images(task, name, _in_float64(here), CPU)
        own = _rms(_images(task, name, _denoiser(here), CPU) - exact)
        with untouched(list(there.parameters())):
            error = _rms(_images(task, name, _denoiser(there), task.device) - exact)
        yield Claim(f"{name}: float32 images against float64's, of the CPU's error", error / own, "x", ROUNDED)
        as_run = _images(task, name, _denoiser(there), task.device)
        levels = (to_uint8(as_run).double() - to_uint8(exact).double()).abs().mean().item()
        yield Claim(f"{name}: images as they are drawn, mean difference in levels of 255", levels, target=LEVELS)


def _denoiser(model: nn.Module) -> Denoiser:
    return model_denoiser(model, make_schedule("linear"))


def _in_float64(model: nn.Module) -> Denoiser:
    exact = _denoiser(copy.deepcopy(model).double())
    return lambda x, t: exact(x.double(), t).float()


def _images(task: Task, name: str, denoiser: Denoiser, device: torch.device) -> Tensor:
    """(n, 3, 32, 32) float32 on the CPU."""
    chain = make_chain(make_schedule("linear"), name, task.pick(50, 5))
    n = task.pick(4, 2)
    return torch.cat([x.cpu() for x in draw(name, denoiser, chain, n, seed=0, batch_size=n, device=device)])


def _rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def probe(task: Task) -> Found:
    """Hutchinson's values on the device and on the CPU, for trained, common and neutral loss, from the same images, t,
    eps and vectors. Bins of noise level have samples in some draws only."""
    probes = task.pick(8, 2)
    options = (
        "--curvature.enabled=true",
        f"--curvature.probes={probes}",
        "--curvature.batch_size=4",
        "--loss.weighting=minsnr",
    )
    there, here = trained(task, *options), Training(task.config(*options, "--device=cpu"))
    here.state.model.load_state_dict(there.state.model.state_dict())
    for exact in (False, True):
        ours, known = _values(there, exact), _values(here, exact)
        if any(len(v) < probes or not v.isfinite().all() for v in (*ours.values(), *known.values())):
            raise RuntimeError("the probe misses values")
        if exact:
            off = max(((ours[k] - known[k]).abs().max() / known[k].abs().mean()).item() for k in known)
            # Products round a trace by ROUNDING; ten times that for a single value, of which a trace is the mean.
            yield Claim("exact products: the largest difference, of a value's size", off, target=10 * ROUNDING)
        else:
            bars = {k: v.std() / len(v) ** 0.5 for k, v in known.items()}
            off = max(((ours[k].mean() - known[k].mean()).abs() / bars[k]).item() for k in known)
            # Each of the two may be off by TOLERANCE.
            yield Claim("differences: the largest difference of a trace", off, "sem", 2 * TOLERANCE)


def _values(training: Training, exact: bool) -> dict[str, Tensor]:
    """The probe's values by loss and form."""
    nothing = torch.empty(0, dtype=torch.int64)  # its draws are fixed ones, not the batch's
    measured = training.diagnostics.curvature.measure(
        training.state.model, 1, nothing, lambda: None, checks=0, exact=exact
    )
    found = {key: values for key, values in measured.details.items() if "by_noise" not in key}
    return {key: torch.tensor(values, dtype=torch.float64) for key, values in found.items()}


def distances(task: Task) -> Found:
    """The FID of real images with noise added, by features taken on the device and on the CPU."""
    images = task.images(task.subset).images
    half = len(images) // 2
    noise = torch.randn(images[half:].shape, generator=torch.Generator().manual_seed(0))
    noisy = to_uint8(to_model(images[half:]) + 0.1 * noise)

    def gaussians(device: torch.device) -> tuple[Gaussian, Gaussian]:
        return _gaussian(images[:half], device), _gaussian(noisy, device)

    on_cpu = gaussians(CPU)
    known = frechet_distance(*on_cpu)
    with untouched([torch.zeros((), device=task.device)]):
        strict = frechet_distance(*gaussians(task.device))
    yield Claim("FID by features in float32, relative difference", abs(strict / known - 1), target=FID)
    as_run = frechet_distance(*gaussians(task.device))
    yield Claim("FID by features as they are taken, relative difference", abs(as_run / known - 1), target=FID_AS_RUN)
    moved = [Gaussian(g.mean.to(task.device), g.covariance.to(task.device), g.count) for g in on_cpu]
    off = abs(frechet_distance(*moved) / known - 1)
    yield Claim("the distance itself in float64, relative difference", off, target=DISTANCE)
    if not math.isfinite(known):
        raise RuntimeError(f"the FID is {known}")


def _gaussian(images: Tensor, device: torch.device) -> Gaussian:
    return gaussian_of(torch.cat(list(make_features("embedded", device).of(images.split(250)))))
