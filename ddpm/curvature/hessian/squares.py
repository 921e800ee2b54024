"""Traces of squared-error losses from forward passes, for several weightings of the samples at once.

loss_l = 1/B sum_i w_li |f_i - y_i|^2 / d. Along v, with J = df/dtheta and r = f - y,

    v' H_l v = 2 / (B d) sum_i w_li (|J_i v|^2 + r_i . D^2 f_i[v, v]),

a Gauss-Newton part, never negative, and a residual part. Both are directional derivatives of the network's outputs, so
f(theta), f(theta + h v) and f(theta - h v) give them for each sample, and hence for every weighting.

With a linear head (`head`, parameters b, features phi; a: all other parameters) only the features are differenced, and
only along v_a; the contributions of b are exact. The terms v_a' H_aa v_a, 2 v_a' H_ab v_b and v_b' H_bb v_b are then
known separately. The second has expectation 0, the third tr H_bb, which is known in closed form. So v_a' H_aa v_a +
tr H_bb is unbiased for the same trace, without the variance of those two terms. docs/curvature.md has the derivation.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from ddpm.curvature.hessian.chunks import Chunks, MeasurementWarning, out_of_memory
from ddpm.curvature.hessian.estimate import TraceEstimate, check_design, weighted
from ddpm.curvature.hessian.head import LinearHead
from ddpm.curvature.hessian.operator import gradient_graph, quadratic_terms
from ddpm.curvature.hessian.untouched import untouched
from ddpm.curvature.hessian.vectors import Vectors, rademacher

# Step of the differences over the root mean square parameter, in units of the fourth root of the machine epsilon, at
# which rounding (eps / h^2) and truncation (h^2) of a second difference balance.
STEP = 0.2
# Largest accepted numerical error: in standard errors, or relative to the trace (exact products round as much).
TOLERANCE, ROUNDING = 0.02, 1e-5

# (number of a draw, its generator) -> the draw.
Draw = Callable[[int, Generator], "LeastSquares"]
# (number of draws, a function that measures some and leaves 0 for the others) -> the measurements of all.
Share = Callable[[int, Callable[[range], Tensor]], Tensor]


def alone(draws: int, measure: Callable[[range], Tensor]) -> Tensor:
    """One process measures all draws."""
    return measure(range(draws))


@dataclass(frozen=True)
class LeastSquares:
    """A batch of a least-squares problem and its L weightings.

    inputs: arguments of the model; target: (B, ...), of the output's shape; weights: (L, B), a row for each loss.
    strata: (B,) integers, if the draws share out the samples among strata, see `weighted`.
    """

    inputs: tuple[Tensor, ...]
    target: Tensor
    weights: Tensor
    strata: Tensor | None = None


@dataclass(frozen=True)
class LeastSquaresTrace:
    """The trace for one loss. plain: from v' H v; improved: with the head's part in closed form (None without a head).

    numerical_error: |mean of value - exact value| over the checked vectors, plain and improved; NaN without a check. It
        is that of the differences, even if they were too coarse and exact products replaced them.
    exact: whether the values are from exact products.
    """

    plain: TraceEstimate
    improved: TraceEstimate | None
    numerical_error: tuple[float, float]
    exact: bool

    @property
    def error_in_sems(self) -> float:
        """The larger numerical error in standard errors: 0 if exact products would round as much, infinite if only
        exact products were finite, NaN if nothing could be checked.

        A standard error is half a 95 % interval / 1.96 here, since that of a few values may be small by chance.
        """
        found = []
        for estimate, error in zip((self.plain, self.improved), self.numerical_error, strict=True):
            if estimate is not None:
                sem = (estimate.interval()[1] - estimate.mean) / 1.96
                small = error <= ROUNDING * abs(estimate.mean)
                found.append(0.0 if small else error / sem if sem > 0 else error if math.isinf(error) else math.nan)
        return math.nan if any(map(math.isnan, found)) else max(found)


def least_squares_trace(
    model: nn.Module,
    draw: Draw,
    probes: int,
    rng: Generator,
    *,
    head: nn.Module | None = None,
    per_draw: int = 1,
    vectors: Vectors = rademacher,
    exact: bool = False,
    checks: int = 0,
    chunk: int = 1,
    share: Share = alone,
) -> list[LeastSquaresTrace]:
    """Trace of the Hessian of each of L weighted squared errors, with respect to all trained parameters of `model`.

    draw: returns the batch of a number from 0 on, using only the given generator. All have equally many samples.
    per_draw: vectors per batch (see `hutchinson_trace`). A draw has its own generators for batch and vectors, seeded
        from `rng`.
    head: the submodule whose output the model returns unchanged: an `nn.Linear` or `nn.Conv2d`.
    exact: use exact products instead of differences, about 4 times slower, `chunk` vectors at a time.
    checks: for this many of the last draws, the first vector is measured both ways. If the mean difference of a loss
        that has all draws exceeds 2 % of the standard error, or only the differences are not finite, all draws are
        measured again by exact products, with a warning.
    share: how processes share the draws.

    The model is measured in eval mode, without autocast or TF32. It, its gradients and all random streams but `rng`
    stay bitwise unchanged. Values that are not finite, and draws that run out of memory (with a warning), count as
    missing. Raises ValueError if probes < 2, if per_draw does not divide probes, if the model does not end with the
    head, or if shapes differ.
    """
    draws = check_design(probes, per_draw)
    net = _Network(model, head)
    chunks = Chunks(chunk)
    seeds = torch.randint(2**32, (draws, 2), generator=rng).tolist()

    def batch(k: int) -> LeastSquares:
        return draw(k, torch.Generator().manual_seed(seeds[k][0]))

    def of_draw(k: int, count: int, exactly: bool, what: str) -> Tensor:
        """(2 forms, B, count) terms of the samples for the first vectors of draw k."""
        data, of_vectors = batch(k), torch.Generator().manual_seed(seeds[k][1])
        drawn = (vectors(net.params, of_vectors) for _ in range(count))  # one at a time: each is as large as the model
        try:
            return _by_products(net, data, list(drawn), chunks) if exactly else _by_differences(net, data, drawn)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            warnings.warn(f"out of memory: {what} could not be made", MeasurementWarning, 2)
            return torch.full((2, len(data.target), count), torch.nan, dtype=torch.float64)

    def measured(exactly: bool, checks: int) -> tuple[Tensor, Tensor]:
        """(2, draws, B, per_draw) terms, and (2, draws, B) errors of the checked draws' first ones."""

        def of(mine: range) -> Tensor:
            found = torch.zeros(draws, 2, weights.shape[2], per_draw + 1, dtype=torch.float64)
            with untouched(net.params, model):
                for k in mine:
                    found[k, :, :, :-1] = of_draw(k, per_draw, exactly, f"{per_draw} values of one draw")
                    if k >= draws - checks:
                        known = of_draw(k, 1, True, "a check")[:, :, 0]
                        error = found[k, :, :, 0] - known
                        found[k, :, :, -1] = torch.where(known.isfinite() & ~error.isfinite(), torch.inf, error)
            return found

        found = share(draws, of).transpose(0, 1)
        return found[..., :-1], found[..., -1]

    batches = [batch(k) for k in range(draws)]
    weights = torch.stack([data.weights.double().cpu() for data in batches], dim=1)
    given = [data.strata.cpu() for data in batches if data.strata is not None]
    strata = torch.stack(given) if given else None
    del batches
    checks = 0 if exact else min(checks, draws)
    terms, errors = measured(exact, checks)
    off = _errors(errors[:, draws - checks :], weights[:, draws - checks :])
    found = _traces(terms, weights, strata, off, head is not None, exact)
    in_all = (weights != 0).any(2).all(1)  # the checked draws say little about a loss with samples in some draws only
    judged = [trace.error_in_sems for trace, judge in zip(found, in_all, strict=True) if judge]
    if all(error <= TOLERANCE or math.isnan(error) for error in judged):
        return found
    coarse = "differences of float32 outputs are too coarse here: measuring by exact products"
    warnings.warn(coarse, MeasurementWarning, stacklevel=2)
    terms, _ = measured(True, 0)
    return _traces(terms, weights, strata, off, head is not None, True)


def _errors(errors: Tensor, weights: Tensor) -> Tensor:
    """(2, L) mean errors of the checked draws' values; NaN without checks."""
    counted = weights != 0  # an infinite error of a sample without weight does not matter
    each = torch.where(counted, weights * torch.where(counted, errors[:, None], 0), 0).sum(3) / weights.shape[2]
    return each.mean(2).abs()


def _traces(
    terms: Tensor, weights: Tensor, strata: Tensor | None, off: Tensor, with_head: bool, exact: bool
) -> list[LeastSquaresTrace]:
    plain, improved = (weighted(form, weights, strata) for form in terms)
    return [
        LeastSquaresTrace(plain[i], improved[i] if with_head else None, (off[0, i].item(), off[1, i].item()), exact)
        for i in range(len(plain))
    ]


class _Network:
    """A model whose trained parameters are split into those of the head and the body (all others)."""

    def __init__(self, model: nn.Module, head: nn.Module | None):
        self.model = model
        self.head = None if head is None else LinearHead(head)
        self.params = [p for p in model.parameters() if p.requires_grad]
        position = {id(p): i for i, p in enumerate(self.params)}
        own = [] if head is None else [id(p) for p in head.parameters()]
        if not position.keys() >= set(own):
            raise ValueError("the head's parameters are not all among those that the model trains")
        self.head_at = [position[p] for p in own]
        self.body_at = [i for i in range(len(self.params)) if i not in self.head_at]
        self.body = [self.params[i].detach() for i in self.body_at]
        self.dtype = self.params[0].dtype
        count = sum(p.numel() for p in self.body)
        rms = (sum(p.double().square().sum().item() for p in self.body) / max(count, 1)) ** 0.5
        self.step = STEP * torch.finfo(self.dtype).eps ** 0.25 * (rms or 1.0)

    def displaced(self, v: Sequence[Tensor], by: float) -> Sequence[Tensor]:
        """The parameters of the body + by v."""
        return torch._foreach_add(self.body, [v[i] for i in self.body_at], alpha=by) if self.body else []

    def at(self, inputs: tuple[Tensor, ...], body: Sequence[Tensor]) -> Tensor:
        """Features (see `passed`) in float64, with these parameters of the body.

        Setting `data` for one pass is the fastest way to replace parameters: `torch.func.functional_call` takes an
        eighth of a forward pass longer.
        """
        try:
            self._set_body(body)
            return self.passed(inputs)[1].double()
        finally:
            self._set_body(self.body)

    def _set_body(self, body: Sequence[Tensor]) -> None:
        for i, tensor in zip(self.body_at, body, strict=True):
            self.params[i].data = tensor

    def passed(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """(output, features) of a forward pass. Features are the head's input, or the output if there is no head.

        Raises ValueError if the model's output is not the head's.
        """
        if self.head is None:
            output = self.model(*inputs)
            return output, output
        with self.head.recorded() as seen:
            output = self.model(*inputs)
        if len(seen) != 1 or seen[0][1] is not output:
            raise ValueError("the head must be the model's last operation, used once, and its output be returned as is")
        return output, seen[0][0]


@torch.no_grad()
def _by_differences(net: _Network, data: LeastSquares, drawn: Iterable[Sequence[Tensor]]) -> Tensor:
    """(2, B, vectors) plain and improved terms."""
    here = net.at(data.inputs, net.body)
    values = []
    for v in drawn:
        ahead, behind = (net.at(data.inputs, net.displaced(v, by)) for by in (net.step, -net.step))
        v_head = [v[i] for i in net.head_at]
        del v  # as large as the model, like the next one
        first, second = (ahead - behind) / (2 * net.step), (ahead + behind - 2 * here) / net.step**2
        values.append(_values(net, data, v_head, here, first, second))
    return torch.stack(values, dim=2)


def _values(
    net: _Network, data: LeastSquares, v_head: Sequence[Tensor], here: Tensor, first: Tensor, second: Tensor
) -> Tensor:
    """(2, B) terms from the features (or outputs) and their first and second derivatives along v_a."""
    if net.head is None:
        plain = _mean(first.square() + _residual(data, here) * second)
        return torch.stack([plain, plain])
    # Only the differences need more than the model's precision.
    dtype = net.dtype
    here, first, second = here.to(dtype), first.to(dtype), second.to(dtype)
    weight, bias = net.head.weights(dtype)
    r = _residual(data, net.head(here, weight, bias))
    along_a, along_b = net.head(first, weight).double(), net.head(here, *v_head).double()
    bent_aa, bent_ab = net.head(second, weight).double(), 2 * net.head(first, v_head[0]).double()
    plain = _mean((along_a + along_b).square() + r * (bent_aa + bent_ab))
    return torch.stack([plain, _mean(along_a.square() + r * bent_aa) + _head_trace(net.head, data, here)])


def _by_products(net: _Network, data: LeastSquares, drawn: Sequence[Sequence[Tensor]], chunks: Chunks) -> Tensor:
    """(2, B, vectors) terms as in `_by_differences`, from exact products: a graph for each sample."""
    samples = [
        LeastSquares(tuple(part[i : i + 1] for part in data.inputs), data.target[i : i + 1], data.weights[:, i : i + 1])
        for i in range(len(data.target))
    ]
    return torch.cat([_products_of(net, sample, drawn, chunks) for sample in samples], dim=1)


def _products_of(net: _Network, data: LeastSquares, drawn: Sequence[Sequence[Tensor]], chunks: Chunks) -> Tensor:
    """(2, 1, vectors) terms of a batch of one sample."""
    with torch.enable_grad():
        output, features = net.passed(data.inputs)
        error = _residual(data, output, dtype=output.dtype).square().mean()
        terms = quadratic_terms(gradient_graph(error, net.params), net.params, drawn, chunks)  # (vectors, parameters)
    plain = terms.sum(1)
    if net.head is None:
        return torch.stack([plain, plain])[:, None]
    # v_b . (H v)_b = v_b' H_ba v_a + v_b' H_bb v_b, so twice this minus the last term is b's part of v' H v.
    with torch.no_grad():
        features = features.double()
        in_head = [_mean(net.head(features, *[v[i].double() for i in net.head_at]).square()) for v in drawn]
        known = torch.cat(in_head) + _head_trace(net.head, data, features)
    return torch.stack([plain, plain - 2 * terms[:, net.head_at].sum(1) + known])[:, None]


def _residual(data: LeastSquares, output: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    if output.shape != data.target.shape:
        raise ValueError(f"output {tuple(output.shape)} and target {tuple(data.target.shape)} differ in shape")
    return output.to(dtype) - data.target.to(dtype)


def _mean(per_value: Tensor) -> Tensor:
    """(B,) on the CPU: 2 / d sum_j of (B, d) values."""
    return 2 * per_value.double().flatten(1).mean(1).cpu()


def _head_trace(head: LinearHead, data: LeastSquares, features: Tensor) -> Tensor:
    """(B,) tr H_bb of each sample: 2 / d |df_i / db|_F^2."""
    return _mean((head.squared_jacobian(features) / data.target[0].numel())[:, None])
