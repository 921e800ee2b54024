"""The check that the original study lacked: a sampler runs on a known distribution before its samples are scored.

For data N(0, 0.5^2) the perfect denoiser is a formula, so any error of the output comes from the schedule, the sampler
or its NFE. The study's 50 strides with adjacent-step posteriors end at std 0.93: mostly noise.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm.diffusion.samplers import SAMPLERS, make_chain, sampling_function
from ddpm.diffusion.schedule import Schedule
from ddpm.errors import UserError

DATA_STD = 0.5
N = 4096  # samples; their std is known to 1.1 %
# Allowed relative error of the output's std. Too wide: noise is left in. Too narrow: a coarse chain (DDPM at NFE 10
# ends at -0.35), which still makes images.
LOWEST, HIGHEST = -0.5, 0.4


@dataclass(frozen=True)
class KnownAnswer:
    """std: of the sampler's output on data with std 0.5. error: std / 0.5 - 1."""

    sampler: str
    nfe: int
    spacing: str
    std: float

    @property
    def error(self) -> float:
        return self.std / DATA_STD - 1

    @property
    def passes(self) -> bool:
        """Whether the error is within tolerance."""
        return LOWEST <= self.error <= HIGHEST


def gaussian_denoiser(x_t: Tensor, alpha_bar: Tensor) -> Tensor:
    """E[x_0 | x_t] for x_0 ~ N(0, 0.5^2): sqrt(ab) 0.25 x_t / (0.25 ab + 1 - ab)."""
    variance = DATA_STD**2
    return alpha_bar.sqrt() * variance / (variance * alpha_bar + 1 - alpha_bar) * x_t


def try_sampler(
    schedule: Schedule, sampler: str, nfe: int, spacing: str, eta: float = 0.0, t_start: int | None = None
) -> KnownAnswer:
    """Run the sampler on the known Gaussian (one dimension, float64, milliseconds, no limit on x_0). eta: for ddim.
    t_start: see `make_chain`."""
    rng = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(N, generator=rng, dtype=torch.float64)

    chain = make_chain(schedule, sampler, nfe, spacing, t_start)
    out = sampling_function(sampler, eta)(
        lambda x, t: gaussian_denoiser(x, schedule.alpha_bar[t]), noise(), chain, noise
    )
    return KnownAnswer(sampler, nfe, spacing, out.square().mean().sqrt().item())


def require(answer: KnownAnswer, accepted: tuple[str, ...]) -> None:
    """Raise UserError if the answer is out of tolerance and its sampler is not in `accepted`."""
    if answer.passes or answer.sampler in accepted:
        return
    fault = "noise is left in the samples" if answer.error > 0 else "the samples lose their variance"
    why = (
        "It is the original study's sampler, kept to show its fault: use ddpm."
        if SAMPLERS[answer.sampler].adjacent
        else "Use more network calls or another sampler."
    )
    raise UserError(
        f"The sampler {answer.sampler} at nfe = {answer.nfe} (spacing {answer.spacing}) misses a known answer: with a "
        f"perfect denoiser of Gaussian data with std {DATA_STD} it ends at std {answer.std:.3f} ({answer.error:+.0%}, "
        f"allowed {LOWEST:+.0%} to {HIGHEST:+.0%}), so {fault} whatever the network learns. {why} To score it anyway, "
        f"set --eval.accept_sampler_error=[{answer.sampler}]."
    )
