"""Hutchinson's estimate of the trace of a loss Hessian, in plain tensors.

For v with independent entries of +-1 (Rademacher), E[v' H v] = sum_ij H_ij E[v_i v_j] = tr H, with variance
2 (|H|_F^2 - sum_i H_ii^2) (Hutchinson 1990; Avron & Toledo 2011). H v is the gradient of (grad L . v): two backward
passes, exact, and H is never formed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TraceEstimate:
    """values: (probes,) float64, one v' H v each."""

    values: Tensor

    @property
    def mean(self) -> float:
        """The estimate of the trace."""
        return self.values.mean().item()

    @property
    def std(self) -> float:
        """Population standard deviation over the probes (the study's `hutch_trace_std`)."""
        return self.values.std(correction=0).item()

    @property
    def sem(self) -> float:
        """Standard error of `mean`: sample standard deviation / sqrt(probes)."""
        return self.values.std(correction=1).item() / len(self.values) ** 0.5


def hutchinson_trace(
    losses: Callable[[], Tensor], params: Sequence[Tensor], probes: int, rng: torch.Generator
) -> list[TraceEstimate]:
    """Trace of the Hessian with respect to `params` of each of the L scalar losses in `losses()`, (L,).

    `losses` is called once a probe and may draw its data afresh each time; the same v then serves all L losses, so that
    their traces differ by the losses alone. Only `rng` (a CPU generator) is drawn from here, and no `.grad` is touched.
    Raises ValueError where probes < 2: one probe has no error bar.
    """
    if probes < 2:
        raise ValueError(f"probes must be at least 2 for an error bar, got {probes}")
    values = []
    for _ in range(probes):
        v = [_rademacher(p, rng) for p in params]
        with torch.enable_grad():
            values.append([_quadratic_form(loss, params, v) for loss in losses().unbind(0)])
    table = torch.tensor(values, dtype=torch.float64)
    return [TraceEstimate(column) for column in table.unbind(1)]


def _quadratic_form(loss: Tensor, params: Sequence[Tensor], v: Sequence[Tensor]) -> float:
    """v' H v of one loss, summed in float64. A parameter that the loss does not depend on contributes 0."""
    gradient = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    slope = torch.stack([(g * u).sum() for g, u in zip(gradient, v, strict=True) if g is not None]).sum()
    if not slope.requires_grad:  # linear in the parameters
        return 0.0
    product = torch.autograd.grad(slope, params, retain_graph=True, allow_unused=True)
    return sum((h * u).sum(dtype=torch.float64).item() for h, u in zip(product, v, strict=True) if h is not None)


def _rademacher(like: Tensor, rng: torch.Generator) -> Tensor:
    """Entries of +-1 with the shape, dtype and device of `like`."""
    signs = torch.randint(0, 2, like.shape, generator=rng, dtype=torch.int8)
    return signs.to(like.device, like.dtype) * 2 - 1
