"""Noise levels on the axis that all schedules, predictions and weightings share: lambda = log SNR (Kingma & Gao 2023).

A chain of timesteps has only some levels. A lambda is noised at the timestep with the nearest one, so each timestep
stands for a *cell* of the axis: all lambda that are nearer to its level than to any other.
"""

import torch
from torch import Tensor

from ddpm.diffusion.schedule import Schedule
from ddpm.names import NOISE_EDGES

LOWEST, HIGHEST = float(NOISE_EDGES[0]), float(NOISE_EDGES[-1])


def nearest(schedule: Schedule, levels: Tensor) -> Tensor:
    """The positions in `schedule` whose log SNR is nearest to `levels`, int64 of the same shape."""
    return torch.searchsorted(-_borders(schedule), -levels.double())


def cells(schedule: Schedule, low: float, high: float) -> Tensor:
    """(S,) the share of low ... high that falls into the cell of each timestep; they sum to 1."""
    borders = _borders(schedule)
    above = torch.cat([borders.new_tensor([torch.inf]), borders]).clamp(low, high)
    below = torch.cat([borders, borders.new_tensor([-torch.inf])]).clamp(low, high)
    return (above - below) / (high - low)


def covers(schedule: Schedule, low: float, high: float) -> bool:
    """Whether the levels of `schedule` reach from low to high."""
    levels = schedule.log_snr
    return bool(levels[-1] <= low and levels[0] >= high)


def largest_distance(schedule: Schedule, low: float = LOWEST, high: float = HIGHEST) -> float:
    """The largest distance of a lambda within low ... high from the level of its timestep."""
    levels, borders = schedule.log_snr, _borders(schedule)
    inside = borders[(borders > low) & (borders < high)]
    tried = torch.cat([inside, borders.new_tensor([low, high])])
    return (levels[nearest(schedule, tried)] - tried).abs().max().item()


def _borders(schedule: Schedule) -> Tensor:
    """(S - 1,) the borders between cells, halfway between neighbouring levels, decreasing. That of a level at -inf
    (zero terminal SNR) is -inf: no lambda is nearest to it."""
    levels = schedule.log_snr
    return (levels[:-1] + levels[1:]) / 2
