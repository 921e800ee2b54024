"""Noise schedules: how much signal and how much noise x_t contains.

Forward process (Ho et al. 2020, eq. 4): x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, with t = 0 ... T-1
and alpha_bar_t the product of 1 - beta_s over s <= t. SNR(t) = alpha_bar_t / (1 - alpha_bar_t) (Kingma et al. 2021).
Everything is kept in float64: alpha_bar_T of the cosine schedule is 2.4e-9.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm.evenly import evenly_spaced
from ddpm.names import SPACINGS


@dataclass(frozen=True)
class Schedule:
    """A schedule over the increasing `timesteps` of a chain; `respace` makes a shorter one.

    timesteps: (S,) int64, the network's input t at each of the S steps.
    alpha_bar: (S,) float64 in [0, 1), decreasing; only the last can be 0 (zero terminal SNR).
    alpha_bar_prev: (S,) alpha_bar of the next step in sampling, the next cleaner one; 1 after the last.
    """

    timesteps: Tensor
    alpha_bar: Tensor
    alpha_bar_prev: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def snr(self) -> Tensor:
        """(S,) signal-to-noise ratio alpha_bar / (1 - alpha_bar)."""
        return self.alpha_bar / (1 - self.alpha_bar)

    @property
    def log_snr(self) -> Tensor:
        """(S,) lambda = log SNR; -inf at zero terminal SNR. DPM-Solver's lambda is half of it."""
        return self.alpha_bar.log() - (-self.alpha_bar).log1p()

    @property
    def beta(self) -> Tensor:
        """(S,) variance added between consecutive steps *of this chain*: 1 - alpha_bar / alpha_bar_prev."""
        return 1 - self.alpha_bar / self.alpha_bar_prev

    def respace(self, timesteps: Tensor) -> "Schedule":
        """The chain over the strictly increasing positions `timesteps` (S',) of this one.

        Its betas follow from alpha_bar, so each step has the posterior of the longer stride (Nichol & Dhariwal 2021,
        section 4). Raises ValueError on positions that do not increase or lie outside.
        """
        self._check(timesteps)
        return _chain(self.timesteps[timesteps], self.alpha_bar[timesteps])

    def keep_adjacent(self, timesteps: Tensor) -> "Schedule":
        """The same positions, each with the alpha_bar_prev of its neighbour in *this* chain: the study's fault.

        A sampler then uses a small step's posterior for a long stride, and most of the noise remains. Only for showing
        that. Raises as `respace`.
        """
        self._check(timesteps)
        return Schedule(self.timesteps[timesteps], self.alpha_bar[timesteps], self.alpha_bar_prev[timesteps])

    def _check(self, timesteps: Tensor) -> None:
        inside = len(timesteps) > 0 and int(timesteps[0]) >= 0 and int(timesteps[-1]) < len(self)
        if not inside or bool((timesteps.diff() <= 0).any()):
            raise ValueError(f"timesteps must increase strictly within 0 ... {len(self) - 1}: {timesteps.tolist()}")


def _chain(timesteps: Tensor, alpha_bar: Tensor) -> Schedule:
    return Schedule(timesteps, alpha_bar, torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]]))


def from_betas(betas: Tensor) -> Schedule:
    """The schedule of a full chain from its (T,) betas. Raises ValueError if one is not within (0, 1)."""
    if not _within_unit(betas):
        raise ValueError(f"betas must lie within (0, 1); they reach {betas.max():.3g} in a chain of {len(betas)} steps")
    return _chain(torch.arange(len(betas)), torch.cumprod(1 - betas.double(), 0))


def _within_unit(betas: Tensor) -> bool:
    return bool(((betas > 0) & (betas < 1)).all())


def with_zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The schedule with sqrt(alpha_bar) shifted and scaled: the last is 0, the first unchanged (Lin et al. 2024).

    x_T is then pure noise, as sampling assumes. eps does not determine x_0 there: predict v or x_0.
    """
    root = schedule.alpha_bar.sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return _chain(schedule.timesteps, root.square())


def linear_betas(T: int) -> Tensor:
    """(T,) betas from 1e-4 to 0.02 (Ho et al. 2020, section 4), scaled by 1000 / T for other lengths."""
    scale = 1000 / T
    return torch.linspace(1e-4 * scale, 0.02 * scale, T, dtype=torch.float64)


def cosine_betas(T: int, s: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """(T,) betas of alpha_bar(u) = cos^2((u + s) / (1 + s) * pi / 2) (Nichol & Dhariwal 2021, eq. 17)."""
    u = torch.arange(T + 1, dtype=torch.float64) / T
    alpha_bar = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


def cosine_match_linear_betas(T: int) -> Tensor:
    """(T,) betas of the cosine schedule, scaled to the sum of the linear schedule's."""
    cosine = cosine_betas(T)
    return cosine * (linear_betas(T).sum() / cosine.sum())


def sigmoid_betas(T: int) -> Tensor:
    """(T,) betas from 1e-4 to 0.02 along a sigmoid over [-6, 6] (Xu et al. 2022, GeoDiff), scaled as `linear_betas`."""
    low, high = 1e-4 * 1000 / T, 0.02 * 1000 / T
    return torch.sigmoid(torch.linspace(-6, 6, T, dtype=torch.float64)) * (high - low) + low


def scaled_linear_betas(T: int) -> Tensor:
    """(T,) betas whose roots are linear from sqrt(0.00085) to sqrt(0.012) (Rombach et al. 2022), scaled likewise."""
    scale = 1000 / T
    return torch.linspace((0.00085 * scale) ** 0.5, (0.012 * scale) ** 0.5, T, dtype=torch.float64) ** 2


SCHEDULES: dict[str, Callable[[int], Tensor]] = {
    "linear": linear_betas,
    "cosine": cosine_betas,
    "cosine_match_linear": cosine_match_linear_betas,
    "sigmoid": sigmoid_betas,
    "scaled_linear": scaled_linear_betas,
}


def make_schedule(name: str, T: int = 1000, *, zero_terminal_snr: bool = False) -> Schedule:
    """The full chain of T steps of the schedule `name`, one of `SCHEDULES`."""
    schedule = from_betas(SCHEDULES[name](T))
    return with_zero_terminal_snr(schedule) if zero_terminal_snr else schedule


def shortest_chain(name: str, T: int) -> int:
    """The smallest number of steps, at least T, for which all betas of the schedule `name` lie within (0, 1)."""
    while not _within_unit(SCHEDULES[name](T)):
        T += 1
    return T


def spaced_timesteps(T: int, steps: int, spacing: str = "linspace") -> Tensor:
    """(steps,) increasing positions within 0 ... T-1 (names as in Lin et al. 2024, table 2).

    linspace: evenly spaced, both ends included (one step: T-1). leading: multiples of T // steps from 0, without T-1.
    trailing: from T-1 down in strides of T / steps. Raises ValueError if steps is not within 1 ... T, or on another
    spacing.
    """
    if not 1 <= steps <= T:
        raise ValueError(f"a sampler takes 1 ... T = {T} steps, got {steps}")
    if spacing == "linspace":
        return evenly_spaced(T, steps) if steps > 1 else torch.tensor([T - 1])
    if spacing == "leading":
        return torch.arange(steps) * (T // steps)
    if spacing == "trailing":
        return (torch.arange(1, steps + 1, dtype=torch.float64) * (T / steps)).round().long() - 1
    raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}")
