"""Samplers: from noise to images in a given number of network calls (NFE).

A sampler is a plain function of a denoiser, the noise x_T, a chain (a respaced `Schedule`, see `make_chain`) and a
source of fresh noise. A denoiser maps (x_t, t), with one integer t for the whole batch, to its estimate of x_0;
`limited` bounds that estimate (`clip_to_data`, `dynamic_threshold`, or None).

In formulas: ab = alpha_bar and ab' = alpha_bar_prev of a step, b = beta = 1 - ab / ab', z fresh noise.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ddpm.diffusion.prediction import eps_from_x0, to_x0
from ddpm.diffusion.schedule import Schedule, spaced_timesteps

Denoiser = Callable[[Tensor, int], Tensor]
Noise = Callable[[], Tensor]
Limit = Callable[[Tensor], Tensor]


def clip_to_data(x_0: Tensor) -> Tensor:
    """x_0 cut to [-1, 1], the range of images (Ho et al. 2020). Not for latents, which have no such range."""
    return x_0.clamp(-1, 1)


def dynamic_threshold(x_0: Tensor, percentile: float = 0.995) -> Tensor:
    """x_0 cut to [-s, s] and divided by s, s = max(1, that percentile of |x_0|) per image (Saharia et al. 2022)."""
    s = x_0.abs().flatten(1).quantile(percentile, dim=1).clamp(min=1).reshape(-1, *[1] * (x_0.ndim - 1))
    return x_0.clamp(-s, s) / s


LIMITS: dict[str, Limit | None] = {"clip": clip_to_data, "dynamic": dynamic_threshold, "none": None}


def limited(denoiser: Denoiser, limit: Limit | None) -> Denoiser:
    """The denoiser with `limit` applied to each of its estimates."""
    return (lambda x_t, t: limit(denoiser(x_t, t))) if limit else denoiser


def ddpm(denoiser: Denoiser, x_T: Tensor, chain: Schedule, noise: Noise, *, variance: str = "small") -> Tensor:
    """Ancestral sampling with the posterior q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 6, 7).

    x_{t-1} = sqrt(ab') b / (1 - ab) x_0 + sqrt(1 - b) (1 - ab') / (1 - ab) x_t + s z. `small`: s^2 = b (1 - ab') / (1 -
    ab), the posterior's own variance; `large`: s^2 = b. The last step adds no noise.
    """
    x = x_T
    ab, ab_prev, beta = chain.alpha_bar, chain.alpha_bar_prev, chain.beta
    from_x0 = ab_prev.sqrt() * beta / (1 - ab)
    from_xt = (1 - beta).sqrt() * (1 - ab_prev) / (1 - ab)
    std = {"small": beta * (1 - ab_prev) / (1 - ab), "large": beta}[variance].sqrt()
    for i, t in _steps(chain):
        x = from_x0[i].to(x.dtype) * denoiser(x, t) + from_xt[i].to(x.dtype) * x
        if i > 0:
            x = x + std[i].to(x.dtype) * noise()
    return x


def ddim(denoiser: Denoiser, x_T: Tensor, chain: Schedule, noise: Noise, *, eta: float = 0.0) -> Tensor:
    """Implicit sampling (Song et al. 2021, eq. 12): deterministic at eta = 0, `ddpm` with small variance at eta = 1.

    x_{t-1} = sqrt(ab') x_0 + sqrt(1 - ab' - s^2) eps + s z, s = eta * sqrt(b (1 - ab') / (1 - ab)). eps is recomputed
    from x_t and the limited x_0.
    """
    x = x_T
    ab, ab_prev = chain.alpha_bar, chain.alpha_bar_prev
    std = eta * (chain.beta * (1 - ab_prev) / (1 - ab)).sqrt()
    for i, t in _steps(chain):
        x_0 = denoiser(x, t)
        eps = eps_from_x0(x, x_0, ab[i])
        direction = (1 - ab_prev[i] - std[i] ** 2).clamp(min=0).sqrt()  # at zero terminal SNR 0, up to rounding
        x = ab_prev[i].sqrt().to(x.dtype) * x_0 + direction.to(x.dtype) * eps
        if eta > 0 and i > 0:
            x = x + std[i].to(x.dtype) * noise()
    return x


def dpmpp_2m(denoiser: Denoiser, x_T: Tensor, chain: Schedule, noise: Noise) -> Tensor:
    """DPM-Solver++(2M), deterministic, second order from two successive calls (Lu et al. 2022, algorithm 2).

    x_{t-1} = (sigma' / sigma) x_t - alpha' (e^{-h} - 1) D, h = lambda' - lambda with lambda = log(alpha / sigma), and
    D = x_0 + (h / 2 h_last) (x_0 - x_0 of the previous call). The first and the last step (sigma' = 0) are first order.
    """
    x, last, h_last = x_T, None, torch.tensor(torch.inf)
    sigma, sigma_prev = (1 - chain.alpha_bar).sqrt(), (1 - chain.alpha_bar_prev).sqrt()
    lam = chain.log_snr / 2
    for i, t in _steps(chain):
        x_0 = denoiser(x, t)
        if i == 0:
            return x_0
        h = lam[i - 1] - lam[i]
        extrapolated = x_0 if last is None else x_0 + (h / (2 * h_last)).to(x.dtype) * (x_0 - last)
        kept, added = sigma_prev[i] / sigma[i], -chain.alpha_bar_prev[i].sqrt() * torch.expm1(-h)
        x = kept.to(x.dtype) * x + added.to(x.dtype) * extrapolated
        last, h_last = x_0, h
    return x


def heun(denoiser: Denoiser, x_T: Tensor, chain: Schedule, noise: Noise) -> Tensor:
    """Heun's method on the probability-flow ODE, deterministic, second order (Karras et al. 2022, algorithm 1).

    With y = x_t / alpha and s = sigma / alpha the ODE is dy / ds = eps(y, s). Each step calls the network at both of
    its ends, the last one (to s = 0) only at its start: a chain of S steps takes 2 S - 1 calls. Raises ValueError at
    zero terminal SNR, where s is infinite.
    """
    if chain.alpha_bar[-1] == 0:
        raise ValueError(
            "heun starts at s = sigma / alpha, which is infinite at zero terminal SNR; use ddim or dpmpp_2m"
        )
    ratio = (1 - chain.alpha_bar).sqrt() / chain.alpha_bar.sqrt()
    alpha = chain.alpha_bar.sqrt()
    x = x_T
    for i, t in _steps(chain):
        x_0 = denoiser(x, t)
        if i == 0:
            return x_0
        eps = eps_from_x0(x, x_0, chain.alpha_bar[i])
        stride = (ratio[i - 1] - ratio[i]).to(x.dtype)
        y, scale = x / alpha[i].to(x.dtype), alpha[i - 1].to(x.dtype)
        ahead = scale * (y + stride * eps)
        eps_ahead = eps_from_x0(ahead, denoiser(ahead, int(chain.timesteps[i - 1])), chain.alpha_bar[i - 1])
        x = scale * (y + stride * (eps + eps_ahead) / 2)
    return x


def _steps(chain: Schedule) -> Iterator[tuple[int, int]]:
    """(position in the chain, its t), from the noisy end to the clean one."""
    return reversed(list(enumerate(chain.timesteps.tolist())))


@dataclass(frozen=True)
class Sampler:
    """A sampling function, and how its chain is made.

    calls: network calls per step of the chain, except the last step, which takes one. adjacent: the original study's
    fault, see `Schedule.keep_adjacent`.
    """

    function: Callable[..., Tensor]
    calls: int = 1
    adjacent: bool = False


SAMPLERS: dict[str, Sampler] = {
    "ddpm": Sampler(ddpm),
    "ddpm_large": Sampler(partial(ddpm, variance="large")),
    "ddim": Sampler(ddim),
    "dpmpp_2m": Sampler(dpmpp_2m),
    "heun": Sampler(heun, calls=2),
    # The original study's sampler: each of its strides takes the posterior of an adjacent step of the full chain.
    "ddpm_adjacent_posterior": Sampler(ddpm, adjacent=True),
}


def sampling_function(sampler: str, eta: float = 0.0) -> Callable[[Denoiser, Tensor, Schedule, Noise], Tensor]:
    """The function of a sampler by name. `eta` goes to `ddim`; no other sampler takes one."""
    return partial(ddim, eta=eta) if sampler == "ddim" else SAMPLERS[sampler].function


def make_chain(
    schedule: Schedule, sampler: str, nfe: int, spacing: str = "linspace", t_start: int | None = None
) -> Schedule:
    """The chain on which `sampler` makes at most `nfe` network calls (heun makes one fewer if nfe is even).

    t_start: the timestep at which the chain begins, from the same noise N(0, 1); None for T - 1. Raises ValueError if
    it is not within 0 ... T - 1, if nfe asks for more steps than there are, or on an unknown spacing.
    """
    if t_start is not None and not 0 <= t_start < len(schedule):
        raise ValueError(f"t_start must lie within 0 ... T - 1 = {len(schedule) - 1}, got {t_start}")
    kind = SAMPLERS[sampler]
    steps = (nfe + kind.calls - 1) // kind.calls
    positions = spaced_timesteps(len(schedule) if t_start is None else t_start + 1, steps, spacing)
    return schedule.keep_adjacent(positions) if kind.adjacent else schedule.respace(positions)


def model_denoiser(model: nn.Module, schedule: Schedule, prediction: str = "eps") -> Denoiser:
    """The denoiser of a network that predicts `prediction`, trained on the full chain `schedule`.

    A network with a method `at_one_t(x_t, t)`, faster and without gradients, is called by that method.
    """

    def at_each_t(x_t: Tensor, t: int) -> Tensor:
        return model(x_t, torch.full((len(x_t),), t, device=x_t.device))

    network = getattr(model, "at_one_t", at_each_t)
    return lambda x_t, t: to_x0(prediction, network(x_t, t), x_t, schedule.alpha_bar[t])


class ImageNoise:
    """Fresh standard normal noise, image by image: image i's stream depends on (seed, i) alone.

    The images therefore do not depend on the batch size, and no global random stream is used.
    """

    def __init__(self, seed: int, indices: range, shape: tuple[int, ...], device: torch.device):
        # NumPy hashes all of (seed, i). torch's CPU generator takes 32 bits of a seed, too few for many images and
        # seeds. Drawn on the CPU, the noise is the same on every device.
        self._streams = [np.random.default_rng([seed, i]) for i in indices]
        self._shape, self._device = shape, device

    def __call__(self) -> Tensor:
        """(len(indices), *shape) float32."""
        drawn = np.stack([s.standard_normal(self._shape, dtype=np.float32) for s in self._streams])
        return torch.from_numpy(drawn).to(self._device)


def draw(
    sampler: str,
    denoiser: Denoiser,
    chain: Schedule,
    n: int,
    *,
    seed: int,
    shape: tuple[int, int, int] = (3, 32, 32),
    batch_size: int,
    device: torch.device,
    limit: Limit | None = clip_to_data,
    eta: float = 0.0,
    part: slice = slice(None),
) -> Iterator[Tensor]:
    """Yield n samples in batches, each (<= batch_size, *shape) float32, drawn without gradients.

    eta: see `sampling_function`. part: which of the n samples to draw.
    """
    function = sampling_function(sampler, eta)
    indices = range(n)[part]
    for start in range(0, len(indices), batch_size):
        noise = ImageNoise(seed, indices[start : start + batch_size], shape, device)
        with torch.inference_mode():
            # channels_last: sampling on a CPU takes 0.79 of the default layout's time
            x_T = noise().to(memory_format=torch.channels_last)
            images = function(limited(denoiser, limit), x_T, chain, noise)
        yield images  # outside: a generator that waits inside would leave its caller in inference mode
