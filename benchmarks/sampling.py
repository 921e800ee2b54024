"""Images/s of sampling, compared with a plain loop and other libraries: `unet_cifar32`, untrained, DDIM.

`python -m benchmarks.sampling` measures in turn, several rounds

- `ddpm.evaluation`'s sampling against a plain loop with the same network and sampler (batch 64, default layout,
  gradients off), and against its own network's passes alone: what the sampler's arithmetic adds;
- seconds per image, step and GFLOP of the network (multiplications and additions both counted), against `diffusers`'
  DDIMPipeline and `denoising-diffusion-pytorch`, each with its own network of about the same number of parameters,
  without attention where it can be left out; and the same for one network, ours, in `diffusers`' pipeline;
- the share of the time that convolutions take, and how near they come to the processor's rate in a matrix product: a
  limit for any arrangement of the same float32 network.

Peers that are not installed are left out.
"""

import contextlib
import io
import sys
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.claims import Claim, arguments, conclude, of_rounds, parsed, quotient, say
from benchmarks.timing import in_turn, seconds
from ddpm.diffusion.samplers import make_chain, model_denoiser
from ddpm.diffusion.schedule import make_schedule
from ddpm.evaluation.evaluator import Evaluator, SamplingPlan
from ddpm.evaluation.features import make_features
from ddpm.evaluation.milestones import default_batch_size
from ddpm.models.unet import UNetCifar32, count_parameters

PLAIN_BATCH, PEER_BATCH = 64, 25
# Targets: multiple of the plain loop's images/s; share of the peers' seconds per image, step and GFLOP; multiple of the
# seconds of the passes alone.
SPEED, OF_PEER, OF_PASSES = 1.5, 1.0, 1.03


def main() -> int:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--nfe", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parsed(parser)
    device = torch.device(args.device)
    torch.manual_seed(0)
    claims = say(measure_plain(device, args.nfe, args.rounds))
    claims += say(measure_peers(device, args.nfe, args.rounds))
    if device.type == "cpu":
        claims += say(limit_of(UNetCifar32().eval().to(memory_format=torch.channels_last)))
    return conclude(args, claims, device=args.device, nfe=args.nfe, rounds=args.rounds)


# --- ours, and the plain loop ---


def plain_loop(model: nn.Module, device: torch.device, nfe: int, batch: int = PLAIN_BATCH) -> None:
    """Straightforward DDIM: a batch of 64 in the default layout, gradients off."""
    chain = make_chain(make_schedule("linear"), "ddim", nfe)
    x = torch.randn(batch, 3, 32, 32, device=device)
    with torch.no_grad():
        for i in reversed(range(len(chain))):
            ab, before = chain.alpha_bar[i].float(), chain.alpha_bar_prev[i].float()
            eps = model(x, torch.full((batch,), int(chain.timesteps[i]), device=device))
            x_0 = ((x - (1 - ab).sqrt() * eps) / ab.sqrt()).clamp(-1, 1)
            eps = (x - ab.sqrt() * x_0) / (1 - ab).sqrt()
            x = before.sqrt() * x_0 + (1 - before).sqrt() * eps


def sampling_of(model: nn.Module, device: torch.device, nfe: int, batch: int | None = None) -> Callable[[int], None]:
    """A function that draws n samples of `model` as `ddpm evaluate` does, `batch` at a time."""
    schedule = make_schedule("linear")
    features = make_features("embedded", device)
    evaluator = Evaluator(schedule, features, None, device, batch or default_batch_size(device), "clip", "ema")
    denoiser = model_denoiser(model.to(memory_format=torch.channels_last), schedule)

    def draw(n: int) -> None:
        for _ in evaluator.samples(denoiser, SamplingPlan("ddim", nfe, n), 0, None):
            pass

    return draw


def measure_plain(
    device: torch.device,
    nfe: int,
    rounds: int,
    network: Callable[[], nn.Module] = UNetCifar32,
    batch: int | None = None,
) -> list[Claim]:
    """batch: for both loops, instead of their defaults."""
    plain, model = (network().eval().to(device) for _ in range(2))
    draw, plain_batch = sampling_of(model, device, nfe, batch), batch or PLAIN_BATCH
    batch = batch or default_batch_size(device)
    n = 3 * batch
    x = torch.randn(batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def passes() -> None:
        for _ in range(3 * nfe):
            model.at_one_t(x, 500)

    taken = in_turn(
        {"plain": lambda: plain_loop(plain, device, nfe, plain_batch), "ours": lambda: draw(n), "passes": passes},
        rounds,
    )
    plain_s, ours_s = [s / plain_batch for s in taken["plain"]], [s / n for s in taken["ours"]]
    return [
        of_rounds(f"plain loop: images/s at NFE {nfe}", [1 / s for s in plain_s], "/s", better="more"),
        of_rounds(f"ours: images/s at NFE {nfe}", [1 / s for s in ours_s], "/s", better="more"),
        quotient("ours over the plain loop, images/s", plain_s, ours_s, target=SPEED, better="more"),
        quotient("ours over the network's passes alone, seconds", taken["ours"], taken["passes"], target=OF_PASSES),
    ]


# --- other libraries ---


def measure_peers(device: torch.device, nfe: int, rounds: int) -> list[Claim]:
    """Seconds per image, step and GFLOP of each library's sampling with its own network."""
    ours = UNetCifar32().eval().to(device)
    draw = sampling_of(ours, device, nfe)
    found: dict[str, tuple[nn.Module, Callable[[], Any]]] = {"ours": (ours, lambda: draw(PEER_BATCH))}
    found |= with_diffusers(device, nfe) | with_denoising_diffusion(device, nfe)
    taken = in_turn({name: sample for name, (_, sample) in found.items()}, rounds)
    work = {name: PEER_BATCH * nfe * gflops(network, device) for name, (network, _) in found.items()}
    claims = []
    for name, (network, _) in found.items():
        size = f"{count_parameters(network) / 1e6:.2f}M parameters, {work[name] / PEER_BATCH / nfe:.3g} GFLOP"
        per = [1e3 * s / work[name] for s in taken[name]]
        claims.append(of_rounds(f"{name} ({size}): per image, step and GFLOP", per, "ms"))
    for name in found:
        if name != "ours":
            ours_per = [s / work["ours"] for s in taken["ours"]]
            theirs = [s / work[name] for s in taken[name]]
            claims.append(quotient(f"ours over {name}, seconds per GFLOP", ours_per, theirs, target=OF_PEER))
    return claims


def gflops(network: nn.Module, device: torch.device) -> float:
    """GFLOP of one image's pass."""
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        network(torch.zeros(1, 3, 32, 32, device=device), torch.zeros(1, dtype=torch.int64, device=device))
    return counted.get_total_flops() / 1e9


class AsDiffusersUnet(nn.Module):
    """Our network with the interface of `diffusers`' pipeline."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.config = SimpleNamespace(sample_size=32, in_channels=3)
        self.device, self.dtype = next(network.parameters()).device, torch.float32

    def forward(self, x: Tensor, t: Tensor) -> Any:
        return SimpleNamespace(sample=self.network(x, t.expand(len(x))))


def with_diffusers(device: torch.device, nfe: int) -> dict[str, tuple[nn.Module, Callable[[], Any]]]:
    try:
        from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
    except ImportError:
        return {}

    class Bare(nn.Module):
        """Its network, called for a tensor: to count its FLOP and parameters."""

        def __init__(self, unet: nn.Module):
            super().__init__()
            self.unet = unet

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.unet(x, t).sample

    def pipeline(unet: Any) -> Callable[[], Any]:
        drawn = DDIMPipeline(unet=unet, scheduler=DDIMScheduler(num_train_timesteps=1000, clip_sample=True))
        drawn.set_progress_bar_config(disable=True)
        return lambda: drawn(batch_size=PEER_BATCH, num_inference_steps=nfe, output_type="np")

    blocks = ("DownBlock2D",) * 3, ("UpBlock2D",) * 3
    theirs = UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 64, 64),
        down_block_types=blocks[0],
        up_block_types=blocks[1],
        add_attention=False,
        norm_num_groups=32,
        layers_per_block=3,
    )
    theirs = theirs.eval().to(device)
    ours = UNetCifar32().eval().to(device)
    return {
        "diffusers, its network": (Bare(theirs), pipeline(theirs)),
        "diffusers, our network": (ours, pipeline(AsDiffusersUnet(ours))),
    }


def with_denoising_diffusion(device: torch.device, nfe: int) -> dict[str, tuple[nn.Module, Callable[[], Any]]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    except ImportError:
        return {}
    network = Unet(dim=40, dim_mults=(1, 2, 2), full_attn=(False, False, False), attn_heads=1, attn_dim_head=8)
    diffusion = GaussianDiffusion(
        network, image_size=32, timesteps=1000, sampling_timesteps=nfe, beta_schedule="linear"
    )
    diffusion = diffusion.eval().to(device)

    def sample() -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            diffusion.sample(PEER_BATCH)

    return {"denoising-diffusion-pytorch": (network, sample)}


# --- the machine's limit ---


def limit_of(model: nn.Module) -> list[Claim]:
    """The share of convolutions in sampling, and their rate compared with a matrix product's."""
    batch = default_batch_size(torch.device("cpu"))
    x = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counted:
            model.at_one_t(x, 500)
        flops = sum(n for name, n in counted.get_flop_counts()["Global"].items() if "conv" in str(name))
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            for _ in range(10):
                model.at_one_t(x, 500)
        a = torch.randn(2048, 2048)
        a @ a
        product = min(seconds(lambda: a @ a) for _ in range(5))
    total = sum(event.self_cpu_time_total for event in seen.key_averages()) / 10 / 1e6
    convolutions = sum(e.self_cpu_time_total for e in seen.key_averages() if "convolution" in e.key) / 10 / 1e6
    return [
        Claim("   of the passes' time in convolutions", 100 * convolutions / total, "%", better="neither"),
        Claim("   convolutions' rate", flops / convolutions / 1e9, "GFLOP/s", better="more"),
        Claim("   a float32 matrix product's rate here", 2 * 2048**3 / product / 1e9, "GFLOP/s", better="more"),
    ]


if __name__ == "__main__":
    sys.exit(main())
