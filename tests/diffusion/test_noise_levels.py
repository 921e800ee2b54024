"""Levels of noise: which timestep stands for a lambda, and for how much of the axis."""

import math

import pytest
import torch

from ddpm.diffusion.noise_levels import HIGHEST, LOWEST, cells, covers, largest_distance, nearest
from ddpm.diffusion.schedule import make_schedule
from ddpm.names import NOISE_BINS, NOISE_EDGES, SCHEDULES

CHAINS = {name: make_schedule(name) for name in SCHEDULES} | {
    "zero terminal SNR": make_schedule("linear", zero_terminal_snr=True),
    "short": make_schedule("linear", 50),
}
every_chain = pytest.mark.parametrize("name", CHAINS)


@every_chain
def test_a_level_is_that_of_the_nearest_timestep(name: str) -> None:
    """On a fine grid, no other timestep is nearer. Catches a search in the wrong direction, borders at the levels
    themselves, and a level at -inf that takes part."""
    levels = CHAINS[name].log_snr
    grid = torch.linspace(-25, 15, 4001, dtype=torch.float64)
    distance = (levels[:, None] - grid).abs()
    found = nearest(CHAINS[name], grid)
    torch.testing.assert_close(distance[found, torch.arange(len(grid))], distance.amin(0))


@every_chain
def test_cells_are_the_shares_of_the_levels(name: str) -> None:
    """Cells sum to 1 in any range, those of two halves are those of the whole, and they are the shares of a fine grid.
    Catches a cell that is cut at its level, and outer cells that end."""
    chain = CHAINS[name]
    whole = cells(chain, LOWEST, HIGHEST)
    torch.testing.assert_close(whole.sum().item(), 1.0)
    halves = (cells(chain, LOWEST, 0.0) + cells(chain, 0.0, HIGHEST)) / 2
    torch.testing.assert_close(halves, whole)
    grid = LOWEST + (HIGHEST - LOWEST) * (torch.arange(160_000, dtype=torch.float64) + 0.5) / 160_000
    counted = torch.bincount(nearest(chain, grid), minlength=len(chain)) / 160_000
    assert (counted - whole).abs().max() <= 1.0 / 160_000  # each of the two borders moves it by half a grid step


@pytest.mark.parametrize(("name", "stated"), [("linear", 0.25), ("cosine", 0.17)])
def test_the_studys_schedules_have_every_level_nearly(name: str, stated: float) -> None:
    """docs/curvature.md states the largest distance between a lambda and its timestep's level, near lambda = 8, where
    the levels lie farthest apart. The function gives that of a fine grid. Catches a maximum over borders outside."""
    chain = CHAINS[name]
    grid = torch.linspace(LOWEST, HIGHEST, 100_001, dtype=torch.float64)
    far = (chain.log_snr[nearest(chain, grid)] - grid).abs().max().item()
    assert largest_distance(chain) == pytest.approx(far, abs=2e-4)
    assert largest_distance(chain) <= stated
    assert largest_distance(chain, -6, 6) < 0.1


def test_what_a_chain_reaches_is_known() -> None:
    """The study's schedules reach all bins, Stable Diffusion's does not reach the outer ones. Catches a chain whose
    last timestep stands for levels that it does not have."""
    assert all(covers(CHAINS[name], LOWEST, HIGHEST) for name in ("linear", "cosine", "sigmoid", "zero terminal SNR"))
    narrow = CHAINS["scaled_linear"]
    reached = [covers(narrow, low, low + 2) for low in NOISE_EDGES[:-1]]
    assert reached == [False, False, True, True, True, True, True, False]


def test_bins_are_named_by_their_lower_edge() -> None:
    """Catches edges and names that drift apart: a figure would label one bin with another's numbers."""
    assert [int(name.removeprefix("lambda_")) for name in NOISE_BINS] == list(NOISE_EDGES[:-1])
    assert len(NOISE_BINS) >= 8
    assert math.isclose(NOISE_EDGES[-1] - NOISE_EDGES[0], 2 * len(NOISE_BINS))
