"""The noise levels of a measurement's draws, and what their samples count for in each loss.

The losses differ in the noise levels that they average over. All of them are estimated from the same samples: one at
timestep t, drawn with probability q(t), counts w(t) p(t) / q(t) for a loss that draws t with probability p(t) and
weighs its error by w(t) (importance sampling). docs/curvature.md has an example.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Generator, Tensor

from ddpm.diffusion.noise_levels import HIGHEST, LOWEST, cells, covers, nearest
from ddpm.diffusion.objective import Objective
from ddpm.names import NOISE_BINS, NOISE_EDGES

# The losses, by the start of their metrics after `curvature/`.
TRAINED, COMMON, NEUTRAL = "hutch_trace", "ref_trace", "neutral_trace"
BY_NOISE = tuple(f"trace_by_noise/{name}" for name in NOISE_BINS)


@dataclass(frozen=True)
class Levels:
    """The timesteps of D draws of B samples, by their place among the trained ones, and what they count for.

    places: (D, B). losses: L names. weights: (L, D, B). strata: (D, B), the bin of each sample's level.
    """

    places: Tensor
    losses: tuple[str, ...]
    weights: Tensor
    strata: Tensor


def shared_levels(objective: Objective, draws: int, batch: int, rng: Generator) -> Levels:
    """Half of the samples of each draw (of an odd number, one less) take lambda uniformly from LOWEST ... HIGHEST, the
    same lambda in every arm, and the timestep nearest to it. The others take t uniformly from the trained timesteps.
    Each half is shared out evenly, see `_shared_out`.

    The neutral loss and the bins are means over the first half. The trained and the common loss count all samples, as
    draws from the mixture of both halves (the balance heuristic of Veach & Guibas 1995). A loss with levels that the
    trained timesteps do not reach is left out.
    """
    chain, neutral, own = objective.trained, batch // 2, batch - batch // 2
    T = len(chain)
    at = (_shared_out(draws, own, rng) * T).long().clamp(max=T - 1)
    levels = LOWEST + (HIGHEST - LOWEST) * _shared_out(draws, neutral, rng)
    places = torch.cat([at, nearest(chain, levels)], dim=1)
    strata = torch.cat([_bin(chain.log_snr[at]), _bin(levels)], dim=1)

    p = torch.full((T,), 1 / T, dtype=torch.float64)
    q = (own * p + neutral * cells(chain, LOWEST, HIGHEST)) / batch
    trained, common = objective.large_batch_weights.double().cpu(), objective.common_weights.double().cpu()
    counts = {TRAINED: (trained * p / q)[places], COMMON: (common * p / q)[places]}
    if covers(chain, LOWEST, HIGHEST):
        counts[NEUTRAL] = common[places] * batch / neutral
        counts[NEUTRAL][:, :own] = 0
    for place, (low, high) in enumerate(pairwise(NOISE_EDGES)):
        if covers(chain, low, high):
            counts[BY_NOISE[place]] = common[places] * (strata == place) * len(BY_NOISE) * batch / neutral
            counts[BY_NOISE[place]][:, :own] = 0
    return Levels(places, tuple(counts), torch.stack([*counts.values()]), strata)


def _bin(levels: Tensor) -> Tensor:
    """The place of the bin of noise level; -1 for levels below all bins, one more than the last for those above."""
    return torch.bucketize(levels, torch.tensor(NOISE_EDGES, dtype=levels.dtype), right=True) - 1


def _shared_out(draws: int, each: int, rng: Generator) -> Tensor:
    """(draws, each) float64 within [0, 1), each value uniform. The i-th of a draw lies in the i-th of `each` equal
    parts, and of that part's `draws` equal parts each is taken once (Latin hypercube sampling, McKay et al. 1979)."""
    u = torch.rand(draws, each, generator=rng, dtype=torch.float64)
    order = torch.stack([torch.randperm(draws, generator=rng) for _ in range(each)], dim=1)
    return (torch.arange(each) + (order + u) / draws) / each
