"""Analytic cases that several tests share: data whose perfect denoiser is known."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm.schedule import Schedule


def gaussian_denoiser(schedule: Schedule, std: float, mean: float = 0.0) -> Callable[[Tensor, int], Tensor]:
    """E[x_0 | x_t] for data N(mean, std^2): mean + sqrt(ab) std^2 (x_t - sqrt(ab) mean) / (ab std^2 + 1 - ab)."""

    def denoise(x_t: Tensor, t: int) -> Tensor:
        ab = schedule.alpha_bar[t]
        return mean + ab.sqrt() * std**2 / (ab * std**2 + 1 - ab) * (x_t - ab.sqrt() * mean)

    return denoise


def no_noise() -> Tensor:
    """A noise source for samplers that must not ask for noise."""
    raise AssertionError("a deterministic sampler asked for noise")


def seeded_noise(shape: tuple[int, ...], seed: int = 0) -> Callable[[], Tensor]:
    """Float64 standard normal noise from a seed."""
    rng = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=rng, dtype=torch.float64)
