"""Lanczos ends at the last eigenvalue that its start touches, neither earlier nor later."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ddpm.curvature.hessian import Hessian, spectral_density, top_eigenvalue
from ddpm.curvature.hessian.lanczos import lanczos
from tests.curvature.test_hessian_spectrum import _matrix, _net, _rng

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
# Distinct eigenvalues, with gaps that rounding in float32 leaves apart; each is repeated to fill the matrix.
SPECTRA: dict[str, list[float]] = {
    "identity": [1],
    "zero": [0],
    "reflection": [-1, 1],
    "three": [1, 2, 5],
    "six": [1, 2, 3, 4, 5, 6],
    "indefinite": [-3, -1, 0, 2],
    "huge": [1e15, -3e15],
    "tiny": [1e-15, -2e-15, 0],
}


class Products:
    """An operator that computes products by a function and counts them."""

    def __init__(self, n: int, dtype: torch.dtype, product: Callable[[Tensor], Tensor]):
        self.shape, self.dtype, self.device, self.count = (n, n), dtype, torch.device("cpu"), 0
        self._product = product

    def __matmul__(self, V: Tensor) -> Tensor:
        self.count += V.shape[1]
        return self._product(V)


def _signs(n: int, seed: int, dtype: torch.dtype) -> Tensor:
    return (torch.randint(0, 2, (n,), generator=_rng(seed)) * 2 - 1).to(dtype)


def _ritz(alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(alpha.diag() + beta[:-1].diag(1) + beta[:-1].diag(-1))


def _tolerance(dtype: torch.dtype) -> float:
    """The tolerance for a Ritz value, relative to |A|: the threshold for products that are right to 20 eps."""
    return (20 * torch.finfo(dtype).eps) ** (2 / 3)


@BOTH
@pytest.mark.parametrize("values", SPECTRA.values(), ids=SPECTRA.keys())
def test_as_many_steps_as_the_start_touches_eigenvalues(values: list[float], dtype: torch.dtype) -> None:
    """Three sizes with four matrices each: every Ritz value is an eigenvalue. Catches a rounding residual taken for a
    direction (extra steps, and Ritz values between the eigenvalues), and a threshold that depends on |A|."""
    distinct = torch.tensor(values, dtype=torch.float64)
    for n in (12, 30, 120):
        for seed in range(4):
            A = _matrix(distinct.repeat(-(-n // len(distinct)))[:n], seed)
            alpha, beta = lanczos(((A + A.T) / 2).to(dtype), _signs(n, seed, dtype), n)
            assert len(alpha) == len(distinct), (n, seed, beta)
            away = (_ritz(alpha, beta)[:, None] - distinct).abs().min(1).values
            assert (away <= _tolerance(dtype) * distinct.abs().max()).all(), (n, seed, away)


@BOTH
@pytest.mark.parametrize("touched", [[29], [0], [3, 17], [0, 10, 20, 29]])
def test_eigenvalues_that_the_start_does_not_touch_stay_out(touched: list[int], dtype: torch.dtype) -> None:
    """The start combines a few of 30 eigenvectors. Catches steps that find the other eigenvectors in the rounding."""
    n = 30
    A = _matrix(torch.linspace(1, 4, n), 1).to(dtype)
    vectors = torch.linalg.eigh(A.double()).eigenvectors
    alpha, beta = lanczos(A, vectors[:, touched].sum(1).to(dtype), n)
    assert len(alpha) == len(touched), beta


def test_small_steps_that_are_none_of_roundings_are_taken() -> None:
    """Lanczos takes all n steps for six decades of eigenvalues (smallest beta 1e-6 |A|), a net's Hessian in both
    precisions (1e-4 |A|), and evenly spaced eigenvalues. Catches an end before the space is exhausted, and vectors that
    are not orthogonal."""
    spread = torch.logspace(-3, 3, 30, dtype=torch.float64)
    alpha, beta = lanczos(_matrix(spread), torch.ones(30, dtype=torch.float64), 30)
    torch.testing.assert_close(_ritz(alpha, beta), spread, rtol=1e-5, atol=1e-9)
    _, H = _net()
    for dtype in (torch.float32, torch.float64):
        for seed in range(3):
            alpha, beta = lanczos(H.to(dtype), _signs(29, seed, dtype), 29)
            exact = torch.linalg.eigvalsh(H)
            torch.testing.assert_close(_ritz(alpha, beta), exact, rtol=0, atol=100 * torch.finfo(dtype).eps)
            even = torch.arange(1.0, 61).to(dtype).diag()
            assert len(lanczos(even, _signs(60, seed, dtype), 60)[0]) == 60


@BOTH
def test_a_hessian_by_autograd_ends_too(dtype: torch.dtype) -> None:
    """A linear model has the Hessian 2 I on orthogonal inputs, and one of rank 3 on three samples. Catches a threshold
    that holds for matrices alone. (The start has a part in every eigenspace; random signs might nearly miss one.)"""
    torch.manual_seed(0)
    hadamard = torch.tensor([[1.0]])
    for _ in range(4):
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    for x, steps in ((hadamard[:, 1:], 1), (torch.randn(3, 40), 3)):
        model = nn.Linear(x.shape[1], 1).to(dtype)
        inputs, wanted = x.to(dtype), torch.randn(len(x), 1, dtype=dtype)
        H = Hessian(lambda m=model, i=inputs, w=wanted: (m(i) - w).square().mean(), list(model.parameters()))  # type: ignore[misc]
        vectors = torch.linalg.eigh((H @ torch.eye(H.shape[0], dtype=dtype)).double()).eigenvectors
        assert len(lanczos(H, vectors[:, -steps:].sum(1).to(dtype), 12)[0]) == steps
        assert len(lanczos(H, vectors[:, -1].to(dtype), 12)[0]) == 1


@BOTH
@pytest.mark.parametrize("values", [[1], [1, 2, 5], [-1, 1]])
def test_an_operator_of_coarse_products_ends_by_its_own_accuracy(values: list[float], dtype: torch.dtype) -> None:
    """Differences of a gradient are right to about half of the digits. Catches a threshold that uses the precision
    alone."""
    n, h = 30, torch.finfo(dtype).eps ** 0.5
    for seed in range(4):
        A = _matrix(torch.tensor(values, dtype=torch.float64).repeat(n)[:n], seed).to(dtype)
        x = torch.randn(n, 1, generator=_rng(seed), dtype=torch.float64).to(dtype)
        coarse = Products(n, dtype, lambda V, A=A, x=x: (A @ (x + h * V) - A @ (x - h * V)) / (2 * h))  # type: ignore[misc]
        assert (coarse @ x - A @ x).norm() > 100 * torch.finfo(dtype).eps
        assert len(lanczos(coarse, _signs(n, seed, dtype), n)[0]) == len(values)


def test_the_check_costs_a_product_only_at_the_end() -> None:
    """Catches a check that doubles the price of each step."""
    even = Products(60, torch.float32, lambda V: torch.arange(1.0, 61)[:, None] * V)
    assert top_eigenvalue(even, 16, _rng()).products == even.count == 16
    few = Products(60, torch.float32, lambda V: (torch.arange(60) % 3)[:, None] * V)
    assert top_eigenvalue(few, 16, _rng()).products == 3 and few.count == 4


@BOTH
def test_a_quadrature_that_ended_early_is_the_spectrum(dtype: torch.dtype) -> None:
    """The nodes are the distinct eigenvalues, the weights are the start's squared parts in their eigenspaces, and the
    rest is padding with weight 0. Catches weight on a value that is no eigenvalue, and padding that counts."""
    values = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    A = _matrix(values.repeat(10), 2)
    found = spectral_density(A.to(dtype), 16, 3, _rng(5))
    within = [(A - a * torch.eye(30)) @ (A - b * torch.eye(30)) for a, b in ((2, 5), (1, 5), (1, 2))]
    rng = _rng(5)
    for nodes, weights in zip(found.nodes, found.weights, strict=True):
        v = (torch.randint(0, 2, (30, 1), generator=rng, dtype=torch.int8) * 2 - 1).double()
        parts = torch.stack([(P @ v).square().sum() for P in within])
        parts = parts / torch.tensor([4.0, 3.0, 12.0]).square() / 30
        torch.testing.assert_close(nodes[:3], values, rtol=0, atol=5 * _tolerance(dtype))
        torch.testing.assert_close(weights[:3], parts, rtol=0, atol=_tolerance(dtype))
        assert not nodes[3:].any() and not weights[3:].any()
