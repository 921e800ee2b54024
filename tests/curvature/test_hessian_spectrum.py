"""Compares sketched traces, eigenvalues, spectra and gradient noise with dense matrices."""

import pytest
import torch
from torch import Generator, Tensor, nn

from ddpm.curvature.hessian import (
    Hessian,
    gradient_noise_scale,
    hutchinson_trace,
    hutchpp_trace,
    spectral_density,
    top_eigenvalue,
    xtrace,
)


def _rng(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _matrix(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """A symmetric matrix with this spectrum."""
    n = len(eigenvalues)
    Q = torch.linalg.qr(torch.randn(n, n, generator=_rng(seed), dtype=torch.float64)).Q
    return Q @ eigenvalues.double().diag() @ Q.T


def _net() -> tuple[Hessian, Tensor]:
    """The Hessian of a net with 29 parameters, as an operator and as a matrix."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    x, y = torch.randn(20, 3).double(), torch.randn(20, 1).double()
    params = list(model.parameters())
    operator = Hessian(lambda: (model(x) - y).square().mean(), params)
    return operator, operator @ torch.eye(operator.shape[0], dtype=torch.float64)


@pytest.mark.parametrize("estimator", [hutchpp_trace, xtrace])
def test_a_matrix_of_low_rank_is_known_exactly(estimator) -> None:  # type: ignore[no-untyped-def]
    """The sketch spans the matrix of rank 3: the trace is exact to rounding and the error is 0. Catches a projector on
    the wrong side and a test vector left in its own basis."""
    A = _matrix(torch.tensor([5.0, -2.0, 1.0] + [0.0] * 17))
    found = estimator(A, 15, _rng())
    assert found.mean == pytest.approx(4, rel=1e-7)
    assert found.sem < 1e-6


@pytest.mark.parametrize("estimator", [hutchpp_trace, xtrace])
def test_sketches_are_unbiased_with_an_error_bar_of_the_right_size(estimator) -> None:  # type: ignore[no-untyped-def]
    """600 estimates of an indefinite matrix with a long tail: their mean is within 4 standard errors of the trace, and
    the reported error is within a third of their spread. Catches a part counted twice and a wrong number of vectors."""
    A = _matrix(torch.cat([torch.tensor([40.0, -15.0]), torch.linspace(-1, 2, 28)]))
    rng = _rng()
    found = [estimator(A, 12, rng) for _ in range(600)]
    means = torch.tensor([f.mean for f in found])
    assert abs(means.mean() - A.trace()) < 4 * means.std() / 600**0.5
    reported = sum(f.sem**2 for f in found) / 600
    assert reported**0.5 == pytest.approx(means.std().item(), rel=0.33)


def test_sketches_beat_hutchinson_where_few_eigenvalues_hold_the_variance() -> None:
    """Each takes 12 products of a net's Hessian operator. Catches a sketch whose products are not the operator's."""
    operator, H = _net()
    rng = _rng()
    errors = {
        estimator: sum((estimator(operator, 12, rng).mean - H.trace().item()) ** 2 for _ in range(40))
        for estimator in (hutchpp_trace, xtrace)
    }
    off_diagonal = H.square().sum() - H.diagonal().square().sum()
    assert max(errors.values()) / 40 < (2 * off_diagonal / 12).item()


def test_too_few_products_are_refused() -> None:
    A = torch.eye(4)
    for estimator, products in ((hutchpp_trace, 5), (xtrace, 3)):
        with pytest.raises(ValueError, match="at least"):
            estimator(A, products, _rng())
    with pytest.raises(ValueError, match="starts"):
        spectral_density(A, 2, 1, _rng())
    with pytest.raises(ValueError, match="steps"):
        top_eigenvalue(A, 0, _rng())
    with pytest.raises(FloatingPointError, match="finite"):
        top_eigenvalue(torch.full((3, 3), torch.nan), 2, _rng())


def test_the_fewest_products_allowed_are_taken() -> None:
    """Each method accepts its smallest number of products. For a diagonal matrix every sign vector has v' A v = tr A,
    so two starts give the exact trace. Catches a limit that is one too high."""
    for estimator, products in ((hutchpp_trace, 6), (xtrace, 4)):
        found = estimator(torch.zeros(4, 4), products, _rng())
        assert (found.mean, found.sem) == (0, 0)
    A = torch.diag(torch.tensor([1.0, 2.0, 4.0]))
    assert spectral_density(A, 1, 2, _rng()).moment(1) == (pytest.approx(7), pytest.approx(0, abs=1e-6))
    p = torch.ones(1, requires_grad=True)
    assert gradient_noise_scale(lambda: p.sum(), [p], 3, 1).scale == 0


def test_one_step_of_lanczos_is_the_rayleigh_quotient_of_its_signs() -> None:
    """One step gives v' A v / n for the next n signs of the stream. Catches a start drawn in another way, which would
    break the curves of runs that already started."""
    _, H = _net()
    v = (torch.randint(0, 2, (29,), generator=_rng(3)) * 2 - 1).double()
    assert top_eigenvalue(H, 1, _rng(3)).value == pytest.approx((v @ H @ v / 29).item(), rel=1e-12)


def test_the_top_eigenvalue_is_the_dense_one() -> None:
    """All steps give the value to rounding. A few steps stay below it, with an eigenvalue within the residual. Catches
    the largest absolute value taken for the largest eigenvalue, and a residual that is too small."""
    operator, H = _net()
    dense = torch.linalg.eigvalsh(H)
    assert top_eigenvalue(operator, 29, _rng()).value == pytest.approx(dense[-1].item(), rel=1e-9)
    assert top_eigenvalue(-H, 29, _rng()).value == pytest.approx(-dense[0].item(), rel=1e-9)
    for steps in (2, 4, 6):
        ritz = top_eigenvalue(operator, steps, _rng())
        assert ritz.products == steps
        assert ritz.value <= dense[-1] + 1e-12
        assert (dense - ritz.value).abs().min() <= ritz.residual + 1e-12


def test_quadrature_of_the_spectrum_is_exact_for_what_it_promises() -> None:
    """The quadrature with m nodes integrates powers up to 2m - 1 as v' A^p v / |v|^2; with all nodes it integrates exp
    too. Catches weights that are not squared first components."""
    _, H = _net()
    found = spectral_density(H, 4, 3, _rng(7))
    rng = _rng(7)
    for nodes, weights in zip(found.nodes, found.weights, strict=True):
        v = (torch.randint(0, 2, (29, 1), generator=rng, dtype=torch.int8) * 2 - 1).double()
        for power in range(8):
            exact = (v.T @ torch.linalg.matrix_power(H, power) @ v / 29).item()
            assert (weights * nodes**power).sum().item() == pytest.approx(exact, rel=1e-8)
    full = spectral_density(H, 29, 2, _rng(7))
    v = (torch.randint(0, 2, (29, 1), generator=_rng(7), dtype=torch.int8) * 2 - 1).double()
    exact = (v.T @ torch.linalg.matrix_exp(H) @ v / 29).item()
    assert (full.weights[0] * full.nodes[0].exp()).sum().item() == pytest.approx(exact, rel=1e-9)


def test_weights_add_up_to_one_and_the_moments_are_the_matrix() -> None:
    """The mean over many starts gives the trace and |H|_F^2 within 4 standard errors. The share of eigenvalues above a
    gap is the dense count. Catches weights that are not normalised, and padding that counts as eigenvalues."""
    A = _matrix(torch.cat([torch.zeros(24), torch.tensor([8.0, 8.5, 9.0, 9.5, 10.0, 10.5])]))
    found = spectral_density(A, 10, 60, _rng())
    for power, exact in ((1, A.trace()), (2, A.square().sum())):
        value, sem = found.moment(power)
        assert abs(value - exact.item()) < 4 * sem
    torch.testing.assert_close(found.weights.sum(1), torch.ones(60, dtype=torch.float64))
    above = found.weights[found.nodes > 4].sum().item() / 60
    assert above == pytest.approx(6 / 30, abs=0.05)


def test_the_operator_and_the_trace_agree() -> None:
    """The first moment is tr H of the same net, within 4 standard errors. Catches an operator for another loss or
    scale."""
    operator, H = _net()
    found = spectral_density(operator, 2, 200, _rng())
    value, sem = found.moment(1)
    assert abs(value - H.trace().item()) < 4 * sem
    torch.testing.assert_close(operator @ torch.eye(29, dtype=torch.float64), H)


def test_gradient_noise_scale_of_a_known_problem() -> None:
    """The loss is the batch mean of |p - x|^2 / 2 with x ~ N(m, s^2 I): G = p - m, and one example's covariance is s^2
    I. Catches a forgotten batch size, |mean|^2 not corrected for its noise, and a jackknife's spread reported as
    error."""
    p = torch.zeros(40, dtype=torch.float64, requires_grad=True)
    rng = _rng()

    def loss() -> Tensor:
        x = 0.5 + 3 * torch.randn(8, 40, generator=rng, dtype=torch.float64)
        return (p - x).square().sum(1).mean() / 2

    found = [gradient_noise_scale(loss, [p], 16, 8) for _ in range(60)]
    assert sum(f.trace for f in found) / 60 == pytest.approx(40 * 9, rel=0.02)
    assert sum(f.squared_norm for f in found) / 60 == pytest.approx(40 * 0.25, rel=0.05)
    scales = torch.tensor([f.scale for f in found])
    assert scales.mean().item() == pytest.approx(36, rel=0.1)
    assert sum(f.sem for f in found) / 60 == pytest.approx(scales.std().item(), rel=0.4)
    assert p.grad is None


def test_gradient_noise_with_missing_batches_and_too_few() -> None:
    """A batch that is not finite is left out and counted. If noise exceeds the gradient, there is no scale."""
    p = torch.ones(5, requires_grad=True)
    signs = iter([1.0, float("nan"), 1.0, 1.0, 1.0])
    clean = gradient_noise_scale(lambda: next(signs) * p.sum(), [p], 5, 4)
    assert (clean.missing, clean.scale, clean.sem) == (1, 0, 0)
    back_and_forth = iter([1.0, -1.0, 1.0, -1.0])
    noisy = gradient_noise_scale(lambda: next(back_and_forth) * p.sum(), [p], 4, 4)
    assert noisy.scale != noisy.scale
    assert noisy.squared_norm < 0
    with pytest.raises(ValueError, match="at least 3"):
        gradient_noise_scale(lambda: p.sum(), [p], 2, 4)


def test_gradient_noise_of_three_gradients_by_hand() -> None:
    """Gradients 1, 2 and 4 from batches of 2: mean 7/3, variance 7/3, so the trace is 14/3 and |G|^2 = 49/9 - 7/9 =
    14/3. Leaving one out gives 4/8, 9/4 and 1/2: their mean is 13/12, and the squared distances from it sum to 49/24.
    The jackknife's error is sqrt(2/3 * 49/24) = 7/6. Catches a factor of K, and numbers in single precision."""
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    gradients = iter([1.0, 2.0, 4.0])
    found = gradient_noise_scale(lambda: next(gradients) * p.sum(), [p], 3, 2)
    assert (found.trace, found.squared_norm) == (pytest.approx(14 / 3, rel=1e-12), pytest.approx(14 / 3, rel=1e-12))
    assert (found.scale, found.sem) == (pytest.approx(1, rel=1e-12), pytest.approx(7 / 6, rel=1e-12))


def test_gradient_noise_without_a_gradient_in_two_of_three() -> None:
    """(1, 0) and (0, 1) are orthogonal, so |G|^2 from those two is 0. Without (1, 1) there is no scale, so there is no
    error. From all three, the trace and |G|^2 are both 2/3. Catches a division by zero."""
    p = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    gradients = iter(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64))
    found = gradient_noise_scale(lambda: next(gradients) @ p, [p], 3, 1)
    assert (found.trace, found.scale) == (pytest.approx(2 / 3, rel=1e-12), pytest.approx(1, rel=1e-12))
    assert found.sem != found.sem


@pytest.mark.parametrize("factor", [2.0**-60, 2.0**60])
def test_sketches_do_not_know_the_scale_of_the_matrix(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fixed signs (one repeated), a matrix times a power of two gives every value times that power. Catches a
    dependence threshold that is not relative."""
    A = _matrix(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0]))
    W = (torch.randint(0, 2, (8, 4), generator=_rng()) * 2 - 1).double()
    W[:, 1] = W[:, 0]
    monkeypatch.setattr("ddpm.curvature.hessian.sketch.signs", lambda *_: W)
    for estimator, products in ((hutchpp_trace, 12), (xtrace, 8)):
        values, scaled = (estimator(M, products, _rng()).values for M in (A, factor * A))
        torch.testing.assert_close(scaled / factor, values, rtol=1e-9, atol=1e-9)


def test_hutchinson_of_a_fixed_batch_agrees_with_the_sketches() -> None:
    """Three estimators agree on one trace within their errors. Catches a batch that changes between them."""
    operator, H = _net()
    rng = _rng(1)
    for found in (hutchpp_trace(operator, 18, rng), xtrace(operator, 18, rng)):
        assert abs(found.mean - H.trace().item()) < 5 * found.sem
    p = torch.zeros(29, dtype=torch.float64, requires_grad=True)
    plain = hutchinson_trace(lambda: p @ H @ p / 2, [p], 400, rng, per_draw=400, chunk=400)[0]
    assert abs(plain.mean - H.trace().item()) < 4 * plain.sem


@pytest.mark.parametrize("rank", [3, 8])
@pytest.mark.parametrize("k", [3, 5, 11])
def test_xtrace_leaves_each_vector_out_also_of_columns_that_depend_on_each_other(
    rank: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XTrace's values follow the definition, with projectors from a dense pseudo-inverse, in 8 dimensions. One test
    vector is repeated, and there may be more vectors than dimensions. Catches a direction chosen by rounding in place
    of the one to leave out."""
    A = _matrix(torch.cat([torch.arange(1.0, 1 + rank), torch.zeros(8 - rank)]))
    W = (torch.randint(0, 2, (8, k), generator=_rng(k)) * 2 - 1).double()
    W[:, 1] = W[:, 0]
    monkeypatch.setattr("ddpm.curvature.hessian.sketch.signs", lambda *_: W)
    expected = []
    for i in range(k):
        rest = A @ torch.cat([W[:, :i], W[:, i + 1 :]], dim=1)
        P = rest @ torch.linalg.pinv(rest, rtol=1e-9)
        w = W[:, i] - P @ W[:, i]
        expected.append((P @ A @ P).trace() + w @ A @ w)
    torch.testing.assert_close(xtrace(A, 2 * k, _rng()).values, torch.stack(expected), rtol=1e-9, atol=0)
    spanned = torch.linalg.matrix_rank(W) >= 8 or (rank == 3 and k > 3)
    for found in (xtrace(A, 2 * k, _rng()), hutchpp_trace(A, 3 * k, _rng())):
        assert not spanned or found.mean == pytest.approx(A.trace().item(), rel=1e-9)


def test_sketches_of_nothing_and_of_more_products_than_dimensions_are_exact() -> None:
    """Catches a sketch without a column, and one that leaves out a direction of the space it spans."""
    A = _matrix(torch.tensor([3.0, -1.0, 0.5]))
    for found in (xtrace(A, 24, _rng()), hutchpp_trace(A, 36, _rng())):
        assert found.mean == pytest.approx(2.5, rel=1e-9) and found.sem < 1e-9
    for found in (xtrace(torch.zeros(9, 9), 8, _rng()), hutchpp_trace(torch.zeros(9, 9), 12, _rng())):
        assert (found.mean, found.sem) == (0, 0)
