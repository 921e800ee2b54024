"""The Frechet distance against closed forms."""

import pytest
import torch

from ddpm.evaluation.distances import Gaussian, GaussianSum, frechet_distance


def _features(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _gaussian(features: torch.Tensor, batch: int = 37) -> Gaussian:
    total = GaussianSum()
    for part in features.split(batch):
        total.add(part)
    return total.result()


def test_streamed_statistics_are_those_of_the_whole() -> None:
    """Also with a large common offset. Catches n in place of n - 1 and cancellation."""
    features = _features(500, 8) + 1e5
    stats = _gaussian(features)
    torch.testing.assert_close(stats.mean, features.mean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(stats.covariance, features.T.cov(), rtol=1e-9, atol=1e-10)
    assert stats.count == 500


def test_identical_sets_have_distance_zero() -> None:
    stats = _gaussian(_features(300, 16))
    assert abs(frechet_distance(stats, stats)) < 1e-9 * stats.covariance.trace().item()


def test_a_shift_counts_squared() -> None:
    features, shift = _features(300, 16), torch.linspace(0, 1, 16).double()
    assert frechet_distance(_gaussian(features), _gaussian(features + shift)) == pytest.approx(
        shift.square().sum().item(), rel=1e-9
    )


def test_commuting_covariances() -> None:
    """sum (sqrt a - sqrt b)^2 over shared eigenvectors. Catches a missing factor 2 and a missing root."""
    basis = torch.linalg.qr(_features(6, 6)).Q
    a, b = torch.linspace(0.1, 3, 6).double(), torch.linspace(5, 1, 6).double()
    zero = torch.zeros(6).double()
    one, two = (Gaussian(zero, basis @ torch.diag(v) @ basis.T, 10) for v in (a, b))
    expected = (a.sqrt() - b.sqrt()).square().sum().item()
    assert frechet_distance(one, two) == pytest.approx(expected, rel=1e-10)


def test_covariances_that_do_not_commute_and_symmetry() -> None:
    """Against the eigenvalues of the product, the textbook form. Catches taking the root of each factor alone."""
    one, two = _gaussian(_features(50, 5)), _gaussian(_features(60, 5, 1) @ _features(5, 5, 2))
    roots = torch.linalg.eigvals(one.covariance @ two.covariance).sqrt().real.sum()
    expected = (one.mean - two.mean).square().sum() + one.covariance.trace() + two.covariance.trace() - 2 * roots
    assert frechet_distance(one, two) == pytest.approx(expected.item(), rel=1e-10)
    assert frechet_distance(two, one) == pytest.approx(expected.item(), rel=1e-10)


def test_agrees_with_clean_fid() -> None:
    from cleanfid.fid import frechet_distance as peer

    one, two = _gaussian(_features(400, 12)), _gaussian(_features(400, 12, 1) * 1.3 + 0.2)
    theirs = peer(one.mean.numpy(), one.covariance.numpy(), two.mean.numpy(), two.covariance.numpy())
    assert frechet_distance(one, two) == pytest.approx(float(theirs), rel=1e-6)


def test_fewer_features_than_dimensions_stay_finite() -> None:
    value = frechet_distance(_gaussian(_features(10, 64)), _gaussian(_features(1000, 64, 1)))
    assert 0 < value < 200


def test_one_feature_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        _gaussian(_features(1, 4))
