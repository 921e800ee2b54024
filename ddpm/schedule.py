"""Noise schedules: how much signal and how much noise x_t holds.

Forward process (Ho et al. 2020, eq. 4): x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, with t = 0 ... T-1
and alpha_bar_t the product of 1 - beta_s over s <= t. SNR(t) = alpha_bar_t / (1 - alpha_bar_t) (Kingma et al. 2021).
Everything is kept in float64: alpha_bar_T of the cosine schedule is 2.4e-9.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """A schedule over the increasing `timesteps` of a chain; `respace` makes a shorter one.

    timesteps: (S,) int64, the t that the network is told at each of the S steps.
    alpha_bar: (S,) float64 in (0, 1), decreasing.
    """

    timesteps: Tensor
    alpha_bar: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def snr(self) -> Tensor:
        """(S,) signal-to-noise ratio alpha_bar / (1 - alpha_bar)."""
        return self.alpha_bar / (1 - self.alpha_bar)

    @property
    def alpha_bar_prev(self) -> Tensor:
        """(S,) alpha_bar of the next cleaner step; 1 (clean data) before the first."""
        return torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar[:-1]])

    @property
    def beta(self) -> Tensor:
        """(S,) variance added between consecutive steps *of this chain*: 1 - alpha_bar / alpha_bar_prev."""
        return 1 - self.alpha_bar / self.alpha_bar_prev

    def respace(self, timesteps: Tensor) -> "Schedule":
        """The chain over the strictly increasing positions `timesteps` (S',) of this one.

        Its betas follow from alpha_bar, so that the posterior of every step is that of the longer stride
        (Nichol & Dhariwal 2021, section 4). Raises ValueError on positions that do not increase or are outside.
        """
        inside = len(timesteps) > 0 and int(timesteps[0]) >= 0 and int(timesteps[-1]) < len(self)
        if not inside or bool((timesteps.diff() <= 0).any()):
            raise ValueError(f"timesteps must increase strictly within 0 ... {len(self) - 1}, got {timesteps.tolist()}")
        return Schedule(self.timesteps[timesteps], self.alpha_bar[timesteps])


def from_betas(betas: Tensor) -> Schedule:
    """The schedule of a full chain from its (T,) betas in (0, 1)."""
    return Schedule(torch.arange(len(betas)), torch.cumprod(1 - betas.double(), 0))


def linear_betas(T: int) -> Tensor:
    """(T,) betas from 1e-4 to 0.02 (Ho et al. 2020, section 4), scaled by 1000 / T for other lengths."""
    scale = 1000 / T
    return torch.linspace(1e-4 * scale, 0.02 * scale, T, dtype=torch.float64)


def cosine_betas(T: int, s: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """(T,) betas of alpha_bar(u) = cos^2((u + s) / (1 + s) * pi / 2) (Nichol & Dhariwal 2021, eq. 17)."""
    u = torch.arange(T + 1, dtype=torch.float64) / T
    alpha_bar = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


SCHEDULES: dict[str, Callable[[int], Tensor]] = {"linear": linear_betas, "cosine": cosine_betas}


def make_schedule(name: str, T: int = 1000) -> Schedule:
    """The full chain of T steps by the name of its betas: one of `SCHEDULES`."""
    return from_betas(SCHEDULES[name](T))


def even_timesteps(T: int, nfe: int) -> Tensor:
    """(nfe,) increasing positions spread evenly over 0 ... T-1, both ends included (nfe = 1: T-1 alone).

    Raises ValueError where nfe is not within 1 ... T: more network calls than the chain has steps.
    """
    if not 1 <= nfe <= T:
        raise ValueError(f"nfe must lie within 1 ... T = {T}, got {nfe}")
    if nfe == 1:
        return torch.tensor([T - 1])
    return torch.linspace(0, T - 1, nfe, dtype=torch.float64).round().long()
