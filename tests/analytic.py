"""Analytic cases that several tests share: data with a known perfect denoiser."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm.diffusion.schedule import Schedule


def gaussian_denoiser(schedule: Schedule, std: float, mean: float = 0.0) -> Callable[[Tensor, int], Tensor]:
    """E[x_0 | x_t] for data N(mean, std^2): mean + sqrt(ab) std^2 (x_t - sqrt(ab) mean) / (ab std^2 + 1 - ab)."""

    def denoise(x_t: Tensor, t: int) -> Tensor:
        ab = schedule.alpha_bar[t]
        return mean + ab.sqrt() * std**2 / (ab * std**2 + 1 - ab) * (x_t - ab.sqrt() * mean)

    return denoise


@dataclass(frozen=True)
class Mixture:
    """K isotropic Gaussians in d dimensions, in float64: weights (K,), means (K, d), stds (K,)."""

    weights: Tensor
    means: Tensor
    stds: Tensor

    def denoiser(self, schedule: Schedule) -> Callable[[Tensor, int], Tensor]:
        """E[x_0 | x_t] for x_t (n, d): the components' own values, weighted by their shares in the density of x_t.

        It is (x_t + (1 - ab) grad log p_t(x_t)) / sqrt(ab) with the score of the noisy mixture p_t (Tweedie).
        """

        def denoise(x_t: Tensor, t: int) -> Tensor:
            ab = schedule.alpha_bar[t]
            variance = ab * self.stds**2 + 1 - ab
            away = x_t[:, None, :] - ab.sqrt() * self.means
            logits = self.weights.log() - self._d / 2 * variance.log() - away.square().sum(-1) / (2 * variance)
            own = self.means + (ab.sqrt() * self.stds**2 / variance)[:, None] * away
            return (logits.softmax(1)[:, :, None] * own).sum(1)

        return denoise

    def sample(self, n: int, seed: int) -> Tensor:
        """Independent draws (n, d)."""
        rng = torch.Generator().manual_seed(seed)
        k = torch.multinomial(self.weights, n, replacement=True, generator=rng)
        return self.means[k] + self.stds[k, None] * torch.randn(n, self._d, generator=rng, dtype=torch.float64)

    def quantiles(self, levels: Tensor) -> Tensor:
        """(n, 1) for one-dimensional data: the x whose distribution function is each level, by bisection."""
        low, high = torch.full_like(levels, -20.0), torch.full_like(levels, 20.0)
        for _ in range(60):
            middle = (low + high) / 2
            below = self._below(middle) < levels
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2)[:, None]

    def noisy(self, alpha_bar: Tensor) -> "Mixture":
        """The mixture that x_t follows at a scalar alpha_bar."""
        return Mixture(self.weights, alpha_bar.sqrt() * self.means, (alpha_bar * self.stds**2 + 1 - alpha_bar).sqrt())

    def _below(self, x: Tensor) -> Tensor:
        return (self.weights * torch.special.ndtr((x[:, None] - self.means[:, 0]) / self.stds)).sum(1)

    @property
    def _d(self) -> int:
        return self.means.shape[1]


def sliced_w1(a: Tensor, b: Tensor, directions: int = 32) -> float:
    """Sliced Wasserstein-1 distance between two equally large samples (n, 2), over evenly turned directions."""
    angles = torch.arange(directions, dtype=a.dtype) * (torch.pi / directions)
    along = torch.stack([angles.cos(), angles.sin()])
    return ((a @ along).sort(0).values - (b @ along).sort(0).values).abs().mean().item()


def no_noise() -> Tensor:
    """A noise source for samplers that must not ask for noise."""
    raise AssertionError("a deterministic sampler asked for noise")


def seeded_noise(shape: tuple[int, ...], seed: int = 0) -> Callable[[], Tensor]:
    """Float64 standard normal noise from a seed."""
    rng = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=rng, dtype=torch.float64)


def states_of(
    sampler: Callable[..., Tensor],
    denoiser: Callable[[Tensor, int], Tensor],
    x_T: Tensor,
    chain: Schedule,
    noise: Callable[[], Tensor],
) -> list[Tensor]:
    """x_t after each step of the chain: the denoiser's inputs, except those of heun's second calls, and the output."""
    seen: list[Tensor] = []

    def recorded(x_t: Tensor, t: int) -> Tensor:
        seen.append(x_t.clone())
        return denoiser(x_t, t)

    out = sampler(recorded, x_T, chain, noise)
    calls = -(-len(seen) // len(chain))
    return [*seen[calls::calls], out]
