"""Schedules against published values and the identities of respacing."""

import pytest
import torch

from ddpm.schedule import even_timesteps, make_schedule


@pytest.mark.parametrize(
    ("name", "last", "first_below_5"),
    # alpha_bar_T, and the first t (counted from 1) whose SNR is below 5. Catches an off-by-one or a wrong beta range.
    [("linear", 4.0358297653756754e-05, 131), ("cosine", 2.4287669070348567e-09, 262)],
)
def test_published_values(name: str, last: float, first_below_5: int) -> None:
    schedule = make_schedule(name)
    assert schedule.alpha_bar[-1].item() == pytest.approx(last, rel=1e-5)
    assert int((schedule.snr < 5).nonzero()[0]) + 1 == first_below_5


def test_snr_and_beta_invert_alpha_bar() -> None:
    """Catches SNR upside down, or a beta of the wrong neighbour."""
    schedule = make_schedule("linear")
    torch.testing.assert_close(schedule.snr / (1 + schedule.snr), schedule.alpha_bar, rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.beta, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize("nfe", [1, 7, 50, 1000])
def test_respaced_chain_keeps_the_marginals(nfe: int) -> None:
    """The respaced betas multiply up to the same alpha_bar. Catches the study's fault, betas of adjacent steps."""
    full = make_schedule("linear")
    chain = full.respace(even_timesteps(1000, nfe))
    torch.testing.assert_close(torch.cumprod(1 - chain.beta, 0), chain.alpha_bar, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(chain.alpha_bar, full.alpha_bar[chain.timesteps], rtol=0, atol=0)
    assert chain.timesteps[-1] == 999


def test_respacing_twice_keeps_the_networks_t() -> None:
    """Positions index the chain, timesteps name the original t. Catches telling the network the position."""
    chain = make_schedule("linear").respace(torch.tensor([10, 20, 30])).respace(torch.tensor([0, 2]))
    assert chain.timesteps.tolist() == [10, 30]


@pytest.mark.parametrize("positions", [[], [3, 3], [5, 2], [-1, 4], [0, 1000]])
def test_respacing_refuses_what_is_no_chain(positions: list[int]) -> None:
    with pytest.raises(ValueError, match="increase strictly"):
        make_schedule("linear").respace(torch.tensor(positions, dtype=torch.int64))


@pytest.mark.parametrize("nfe", [0, 1001])
def test_nfe_outside_the_chain(nfe: int) -> None:
    with pytest.raises(ValueError, match="nfe"):
        even_timesteps(1000, nfe)
