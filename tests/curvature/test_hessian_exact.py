"""Hutchinson's estimate by exact products: it agrees with dense Hessians and leaves training untouched."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Generator, Tensor, nn

from ddpm.curvature.hessian import (
    Hessian,
    TraceEstimate,
    gaussian,
    hutchinson_trace,
    rademacher,
    ratio,
)
from ddpm.curvature.hessian.chunks import Chunks

SIZES = ((2, 3), (3,), (3, 1))


def _rng(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _problem() -> tuple[list[Tensor], Callable[[], Tensor], Tensor]:
    """A two-layer net with 12 parameters in float64, two losses, and the dense Hessian of the first loss."""
    rng = _rng()
    x, y = torch.randn(6, 2, generator=rng).double(), torch.randn(6, 1, generator=rng).double()
    flat = torch.randn(12, generator=rng).double()

    def losses(w: Tensor, b: Tensor, u: Tensor) -> Tensor:
        error = torch.tanh(x @ w + b) @ u - y
        return torch.stack([error.square().mean(), error.pow(4).mean()])

    def dense(flat: Tensor) -> Tensor:
        return losses(*(p.reshape(s) for p, s in zip(flat.split([6, 3, 3]), SIZES, strict=True)))[0]

    params = [p.reshape(s).clone().requires_grad_() for p, s in zip(flat.split([6, 3, 3]), SIZES, strict=True)]
    return params, lambda: losses(*params), torch.autograd.functional.hessian(dense, flat)


def all_signs(params: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Every sign vector once."""
    sizes = [p.numel() for p in params]
    for signs in itertools.product([-1.0, 1.0], repeat=sum(sizes)):
        parts = torch.tensor(signs, dtype=params[0].dtype).split(sizes)
        yield [part.reshape(p.shape) for part, p in zip(parts, params, strict=True)]


@pytest.mark.parametrize("chunk", [1, 512])
def test_all_sign_vectors_give_trace_variance_and_groups_exactly(chunk: int) -> None:
    """Over all 2^n sign vectors the mean is tr H, the variance is 2 (|H|_F^2 - sum H_ii^2), and each group's mean is
    its block's trace. Catches a transposed or dropped term, mixed-up columns in a vmapped pass, and groups that
    leak."""
    params, losses, H = _problem()
    every = all_signs(params)
    found = hutchinson_trace(
        losses,
        params,
        4096,
        _rng(),
        vectors=lambda *_: next(every),
        per_draw=4096,
        groups=["w", "rest", "rest"],
        chunk=chunk,
    )[0]
    assert found.mean == pytest.approx(H.trace().item(), rel=1e-10)
    assert found.std**2 == pytest.approx(2 * (H.square().sum() - H.diagonal().square().sum()).item(), rel=1e-10)
    assert found.groups["w"].mean == pytest.approx(H.diagonal()[:6].sum().item(), rel=1e-10)
    torch.testing.assert_close(found.groups["w"].values + found.groups["rest"].values, found.values)


def test_gaussian_vectors_are_unbiased_with_their_own_variance() -> None:
    """The mean is tr H, the variance 2 |H|_F^2. Catches entries without unit variance, and signs under the wrong
    name."""
    params, losses, H = _problem()
    found = hutchinson_trace(losses, params, 4000, _rng(), vectors=gaussian, per_draw=4000, chunk=4000)[0]
    assert abs(found.mean - H.trace().item()) < 4 * found.sem
    assert found.std**2 == pytest.approx(2 * H.square().sum().item(), rel=0.15)


def test_signs_are_fair_and_independent() -> None:
    """Entries are +-1, with mean 0 and no correlation at lags 1 to 19, across parameters and in odd sizes. Catches bits
    of a byte that are used twice and a generator that does not advance."""
    params = [torch.zeros(1001), torch.zeros(7, 3), torch.zeros(9000)]
    rng = _rng()
    first, second = (torch.cat([v.flatten() for v in rademacher(params, rng)]) for _ in range(2))
    assert torch.equal(first.abs(), torch.ones(10022))
    sigma = 10022**-0.5
    assert abs(first.mean()) < 4 * sigma
    assert abs((first * second).mean()) < 4 * sigma
    assert all(abs((first[lag:] * first[:-lag]).mean()) < 4.5 * sigma for lag in range(1, 20))


def test_eight_signs_of_a_byte_take_all_their_patterns() -> None:
    """8192 bytes take all 256 patterns: each is absent with probability e^-32. Catches a pattern that is never
    drawn."""
    (drawn,) = rademacher([torch.zeros(8192, 8)], _rng())
    assert len(drawn.unique(dim=0)) == 256


def test_the_numbers_of_the_study_come_out_bitwise() -> None:
    """Spells out the study's scheme: draw v, draw data, then do two backward passes, for two losses. Catches another
    order of draws or sums, which would break the curves of runs that already started."""
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))

    def losses(rng: Generator) -> Callable[[], Tensor]:
        def of_a_draw() -> Tensor:
            errors = (model(torch.randn(4, 5, generator=rng))).square().mean(1)
            return torch.stack([(torch.rand(4, generator=rng) * errors).mean(), errors.mean()])

        return of_a_draw

    def signs(params: Sequence[Tensor], rng: Generator) -> list[Tensor]:
        return [torch.randint(0, 2, p.shape, generator=rng, dtype=torch.int8).float() * 2 - 1 for p in params]

    params = list(model.parameters())
    old, new = _rng(3), _rng(3)
    values = torch.zeros(5, 2, dtype=torch.float64)
    for k in range(5):
        v = signs(params, old)
        for j, loss in enumerate(losses(old)()):
            gradient = torch.autograd.grad(loss, params, create_graph=True)
            slope = torch.stack([(g * u).sum() for g, u in zip(gradient, v, strict=True)]).sum()
            product = torch.autograd.grad(slope, params, retain_graph=True)
            values[k, j] = sum((h * u).sum(dtype=torch.float64).item() for h, u in zip(product, v, strict=True))
    found = hutchinson_trace(losses(new), params, 5, new, vectors=signs)
    for estimate, column in zip(found, values.unbind(1), strict=True):
        assert torch.equal(estimate.values, column)
        # The same five numbers lie elsewhere in memory, so they may be summed in another order.
        expected = [column.mean().item(), column.std(correction=0).item(), column.std(correction=1).item() / 5**0.5]
        assert [estimate.mean, estimate.std, estimate.sem] == pytest.approx(expected, rel=1e-12)


def test_a_model_loss_and_batch_leave_training_untouched() -> None:
    """Measures dropout and batch norm in eval mode. Gradients, buffers, parameters, the global stream and each
    submodule's mode stay bitwise the same. Catches `model.train()` on a frozen part, and running statistics that
    moved."""
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    model[1].eval()
    x, y = torch.randn(5, 3), torch.randn(5, 1)
    model(x).square().mean().backward()
    before = [
        t.clone() for t in (*model.state_dict().values(), *(p.grad for p in model.parameters()), torch.get_rng_state())
    ]
    found = hutchinson_trace((model, nn.functional.mse_loss, (x, y)), None, 4, _rng())[0]
    after = [*model.state_dict().values(), *(p.grad for p in model.parameters()), torch.get_rng_state()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert [m.training for m in model] == [True, False, True, True]
    again = hutchinson_trace((model, nn.functional.mse_loss, (x, y)), None, 4, _rng())[0]
    assert torch.equal(found.values, again.values)  # dropout is off


def test_values_that_are_not_finite_are_missing() -> None:
    """One draw in three fails. The estimate counts it and uses the rest. Catches a NaN that spoils the whole
    estimate."""
    p = torch.ones(3, dtype=torch.float64, requires_grad=True)
    scales = itertools.cycle([1.0, float("nan"), 2.0])
    found = hutchinson_trace(lambda: next(scales) * p.square().sum(), [p], 6, _rng())[0]
    assert found.missing == 2
    assert found.mean == pytest.approx(9)  # the trace is 6 or 12
    assert found.sem == pytest.approx((12**0.5) / 2)
    nothing = hutchinson_trace(lambda: float("inf") * p.square().sum(), [p], 2, _rng())[0]
    assert (nothing.missing, nothing.mean == nothing.mean, nothing.sem == nothing.sem) == (2, False, False)


def test_what_has_no_curvature_or_no_error_bar() -> None:
    p, unused = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    assert hutchinson_trace(lambda: p.sum(), [p, unused], 2, _rng())[0].mean == 0
    assert hutchinson_trace(lambda: torch.zeros(()), [p], 2, _rng())[0].mean == 0
    with pytest.raises(ValueError, match="at least 2"):
        hutchinson_trace(lambda: p.sum(), [p], 1, _rng())
    with pytest.raises(ValueError, match="divide"):
        hutchinson_trace(lambda: p.sum(), [p], 5, _rng(), per_draw=2)
    with pytest.raises(ValueError, match="give params"):
        hutchinson_trace(lambda: p.sum(), None, 2, _rng())
    with pytest.raises(ValueError, match="each of 1"):
        hutchinson_trace(lambda: p.sum(), [p], 2, _rng(), groups=["a", "b"])


def test_out_of_memory_falls_to_a_smaller_chunk_and_says_so() -> None:
    """Memory holds at most 3 vectors at a time: all work is done once and in order, and other errors pass through.
    Catches vectors skipped or repeated after a failure, and a loop that never ends."""

    def work(part: slice) -> Tensor:
        if part.stop - part.start > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        return torch.arange(10)[part]

    chunks = Chunks(8)
    with (
        pytest.warns(UserWarning, match="out of memory with 8 vectors at a time: going on with 4"),
        pytest.warns(UserWarning, match="out of memory with 4 vectors at a time: going on with 2"),
    ):
        assert torch.cat(chunks.over(10, work)).tolist() == list(range(10))
    assert chunks.size == 2
    with pytest.raises(RuntimeError, match="invalid for input"):
        Chunks(4).over(4, lambda part: torch.zeros(2).reshape(3))
    with pytest.raises(RuntimeError, match="can't allocate"):
        Chunks(1).over(1, lambda part: work(slice(0, 4)))


@pytest.mark.parametrize(("count", "sizes"), [(4, [4, 2, 1, 1, 1, 1]), (3, [3, 1, 1, 1])])
def test_chunks_go_down_to_single_vectors(count: int, sizes: list[int]) -> None:
    """Each failure halves the chunk, down to 1. Catches a size that stays at 2 and is tried forever."""
    tried: list[int] = []

    def work(part: slice) -> torch.Tensor:
        tried.append(part.stop - part.start)
        assert len(tried) < 10
        if tried[-1] > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return torch.arange(part.start, part.stop)

    with pytest.warns(UserWarning, match="going on with 1"):
        assert torch.cat(Chunks(4).over(count, work)).tolist() == list(range(count))
    assert tried == sizes


def test_the_operator_is_the_dense_hessian() -> None:
    """H I = H, column by column or vmapped. Catches the parameters' entries in a wrong order."""
    params, losses, H = _problem()
    for chunk in (1, 5):
        operator = Hessian(lambda: losses()[0], params, chunk)
        torch.testing.assert_close(operator @ torch.eye(12, dtype=torch.float64), H)


def test_statistics_of_an_estimate() -> None:
    """Draws are independent, but the vectors within a draw are not. Catches sqrt(probes) when there are half as many
    draws."""
    fresh = TraceEstimate(torch.tensor([[1.0], [2.0], [3.0], [6.0]]).double())
    assert (fresh.mean, fresh.std) == (3, pytest.approx((14 / 4) ** 0.5))
    assert fresh.sem == pytest.approx((14 / 3) ** 0.5 / 2)
    low, high = fresh.interval()
    assert (high - low) / 2 == pytest.approx(3.182446 * fresh.sem, rel=1e-6)  # Student's t, 3 degrees of freedom
    fixed = TraceEstimate(fresh.table.T)
    assert fixed.sem == fresh.sem
    pairs = TraceEstimate(torch.tensor([[0.0, 2.0], [4.0, 6.0], [8.0, 10.0]]).double())
    assert pairs.sem == pytest.approx(4 / 3**0.5)
    assert pairs.split() == pytest.approx(((16 - 1) ** 0.5, 2**0.5))
    with pytest.raises(ValueError, match="at least 2 draws"):
        fixed.split()


def test_parts_of_the_std_are_those_that_made_the_data() -> None:
    """Recovers the std between draws (3) and within draws (5). Catches the within part left inside the between part."""
    rng = _rng()
    table = 3 * torch.randn(4000, 1, generator=rng) + 5 * torch.randn(4000, 2, generator=rng)
    between, within = TraceEstimate(table.double()).split()
    assert between == pytest.approx(3, rel=0.1)
    assert within == pytest.approx(5, rel=0.1)


def test_a_ratio_of_shared_draws_has_a_small_error() -> None:
    """The numerator is 0.9 x the denominator plus a little noise: the ratio's error comes from that noise. Catches
    errors added as if the two were independent, and a correlation with the wrong sign."""
    b = 100 + 20 * torch.randn(16, 1, generator=_rng()).double()
    exact = ratio(TraceEstimate(0.9 * b), TraceEstimate(b))
    assert exact.value == pytest.approx(0.9)
    assert exact.sem == pytest.approx(0, abs=1e-12)
    values = []
    for seed in range(300):
        rng = _rng(seed)
        b = 100 + 20 * torch.randn(16, 1, generator=rng).double()
        values.append(ratio(TraceEstimate(0.9 * b + torch.randn(16, 1, generator=rng)), TraceEstimate(b)))
    spread = torch.tensor([r.value for r in values]).std().item()
    assert sum(r.sem for r in values) / 300 == pytest.approx(spread, rel=0.15)
