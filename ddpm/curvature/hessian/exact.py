"""Hutchinson's estimate of the trace of a loss Hessian, from exact products.

For v with independent entries of mean 0 and variance 1, E[v' H v] = sum_ij H_ij E[v_i v_j] = tr H. Signs (Rademacher)
have variance 2 (|H|_F^2 - sum_i H_ii^2), Gaussian entries 2 |H|_F^2 (Hutchinson 1990; Avron & Toledo 2011). H v is the
gradient of (grad L . v): two backward passes, exact, and H is never formed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ddpm.curvature.hessian.chunks import Chunks
from ddpm.curvature.hessian.estimate import TraceEstimate, check_design, finite_or_missing
from ddpm.curvature.hessian.operator import gradient_graph, quadratic_terms
from ddpm.curvature.hessian.untouched import untouched
from ddpm.curvature.hessian.vectors import Vectors, rademacher

Losses = Callable[[], Tensor]
ModelLoss = tuple[nn.Module, Callable[[Any, Any], Tensor], tuple[Any, ...]]


def hutchinson_trace(
    loss: Losses | ModelLoss,
    params: Sequence[Tensor] | None,
    probes: int,
    rng: Generator,
    *,
    vectors: Vectors = rademacher,
    per_draw: int = 1,
    groups: Sequence[str] | None = None,
    chunk: int = 1,
) -> list[TraceEstimate]:
    """Trace of the Hessian with respect to `params` of each of L losses that share a forward pass.

    loss: a function that returns the losses, scalar or (L,), and may draw new data at each call; or (model, criterion,
        batch) for criterion(model(*batch[:-1]), batch[-1]) in eval mode, and then params = None means all trained ones.
    probes: number of values v' H v for each loss. All losses share each v, so their traces differ only by the losses.
    per_draw: vectors for each call of `loss`. 1: new data for each; `probes`: one fixed batch; values in between
        separate the variance of data and estimator (`TraceEstimate.split`).
    rng: a CPU generator; the vectors of a draw are drawn before `loss` is called. No other random stream moves.
    vectors: `rademacher` or `gaussian`.
    groups: a label for each parameter; each group's trace comes from the same products.
    chunk: vectors in one vmapped pass, fewer (with a warning) if memory runs out; memory grows with it.

    Gradients and random streams stay bitwise unchanged; so do modes and buffers of a model given with its batch (not of
    one inside a function). Values that are not finite count as missing. Raises ValueError if probes < 2 (one probe has
    no error bar) or per_draw does not divide probes.
    """
    draws = check_design(probes, per_draw)
    model, losses, chosen = _resolve(loss, params)
    chunks = Chunks(chunk)
    rows = []
    with untouched(chosen, model), torch.enable_grad():
        for _ in range(draws):
            drawn = [vectors(chosen, rng) for _ in range(per_draw)]
            of_losses = losses().reshape(-1).unbind(0)
            terms_of = [quadratic_terms(gradient_graph(value, chosen), chosen, drawn, chunks) for value in of_losses]
            rows.append(torch.stack(terms_of))
    terms = torch.stack(rows, dim=1)  # (L, draws, per_draw, parameters)
    return [_estimate(of_loss, groups) for of_loss in terms.unbind(0)]


def _resolve(
    loss: Losses | ModelLoss, params: Sequence[Tensor] | None
) -> tuple[nn.Module | None, Losses, list[Tensor]]:
    if isinstance(loss, tuple):
        model, criterion, (*inputs, target) = loss
        chosen = list(params or (p for p in model.parameters() if p.requires_grad))
        return model, lambda: criterion(model(*inputs), target), chosen
    if params is None:
        raise ValueError("a loss given as a function does not tell its parameters: give params")
    return None, loss, list(params)


def _estimate(terms: Tensor, groups: Sequence[str] | None) -> TraceEstimate:
    """The estimate from terms (draws, per_draw, parameters), summed in the order of the parameters."""
    whole = TraceEstimate(_total(terms, range(terms.shape[-1])))
    if groups is None:
        return whole
    if len(groups) != terms.shape[-1]:
        raise ValueError(f"groups must name a group for each of {terms.shape[-1]} parameters, got {len(groups)}")
    members = {name: [i for i, g in enumerate(groups) if g == name] for name in dict.fromkeys(groups)}
    return TraceEstimate(whole.table, {name: TraceEstimate(_total(terms, at)) for name, at in members.items()})


def _total(terms: Tensor, at: Sequence[int]) -> Tensor:
    total = torch.zeros(terms.shape[:-1], dtype=torch.float64)
    for i in at:
        total = total + terms[..., i]
    return finite_or_missing(total)
