"""Compares the Frechet distance with closed forms."""

import pytest
import torch

from ddpm.evaluation.distances import Gaussian, GaussianSum, frechet_distance
from ddpm.evaluation.fid_error import extrapolate, fid_interval, frechet_error, frechet_influence


def _features(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _gaussian(features: torch.Tensor, batch: int = 37) -> Gaussian:
    total = GaussianSum()
    for part in features.split(batch):
        total.add(part)
    return total.result()


def test_streamed_statistics_are_those_of_the_whole() -> None:
    """Holds with a large common offset too. Catches n in place of n - 1, and cancellation."""
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
    """With shared eigenvectors it is sum (sqrt a - sqrt b)^2. Catches a missing factor 2 and a missing root."""
    basis = torch.linalg.qr(_features(6, 6)).Q
    a, b = torch.linspace(0.1, 3, 6).double(), torch.linspace(5, 1, 6).double()
    zero = torch.zeros(6).double()
    one, two = (Gaussian(zero, basis @ torch.diag(v) @ basis.T, 10) for v in (a, b))
    expected = (a.sqrt() - b.sqrt()).square().sum().item()
    assert frechet_distance(one, two) == pytest.approx(expected, rel=1e-10)


def test_covariances_that_do_not_commute_and_symmetry() -> None:
    """Compares with the textbook form: the eigenvalues of the product. Catches the root of each factor taken alone."""
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


def _rows(n: int, root: torch.Tensor, shift: float, seed: int) -> torch.Tensor:
    return shift + _features(n, len(root), seed) @ root.T


@pytest.mark.parametrize("n", [20, 150])
def test_the_interval_covers_the_mean_of_repeated_draws(n: int) -> None:
    """Over 200 draws, FID +- 1.96 standard errors holds the draws' mean FID in at least 90 % (binomial: 95 % +- 3.1).
    The interval is not just wide: the mean error is at most 1.4 times the deviation over draws. 20 samples in 16
    dimensions suffice.

    Catches an error of another statistic, a missing root of n, and a sign in the gradient.
    """
    root = torch.diag(torch.linspace(0.3, 1, 16).double())
    real = Gaussian(torch.zeros(16).double(), root.flip(0, 1) @ root.flip(0, 1).T, 10_000)
    found = []
    for seed in range(200):
        rows = _rows(n, root, 0.2, seed)
        samples = _gaussian(rows)
        found.append((frechet_distance(samples, real), frechet_error(samples, real, rows)))
    fid, error = torch.tensor(found, dtype=torch.float64).T
    low, high = torch.tensor([fid_interval(*each) for each in found], dtype=torch.float64).T
    covered = ((low <= fid.mean()) & (fid.mean() <= high)).double().mean()
    assert covered >= 0.9
    assert 0.8 < error.mean() / fid.std() < 1.4


def test_the_influence_is_the_derivative() -> None:
    """The influence is the distance's derivative by one feature's weight, by central differences of the weighted
    statistics. Catches a transport map in the wrong direction, and a factor 2 in it."""
    rows, real = _rows(60, torch.eye(4).double(), 0.3, 0), _gaussian(_features(300, 4, 1) @ _features(4, 4, 2))

    def weighted(i: int, e: float) -> Gaussian:
        weights = torch.full((60,), (1 - e) / 60, dtype=torch.float64)
        weights[i] += e
        away = rows - weights @ rows
        return Gaussian(weights @ rows, (weights * away.T) @ away, 60)

    influence = frechet_influence(weighted(0, 0.0), real, rows)
    for i in (0, 7, 59):
        slope = (frechet_distance(weighted(i, 1e-5), real) - frechet_distance(weighted(i, -1e-5), real)) / 2e-5
        assert influence[i].item() == pytest.approx(slope, rel=1e-5)


def test_extrapolation_takes_the_bias_away() -> None:
    """In 32 dimensions, with 400 samples from the reference's own distribution, the true distance is 0. The
    extrapolated estimates average at least 10 times nearer to it than the plain ones. Catches a fit in n, and a wrong
    sign of the slope."""
    real = Gaussian(torch.zeros(32).double(), torch.eye(32).double(), 10_000)
    plain, infinite = [], []
    for seed in range(20):
        rows = _features(400, 32, seed)
        plain.append(frechet_distance(_gaussian(rows), real))
        infinite.append(extrapolate(rows, real))
    assert abs(sum(infinite)) < 0.1 * sum(plain)


def test_a_difference_of_two_that_share_their_noise() -> None:
    """Two generators share their noise; one is shifted and wider. Over 60 draws, the paired error (from the difference
    of the influences) is within 30 % of the deviation of the distances' difference. If taken for independent, the error
    would be more than twice that. Catches a lost pairing, and samples out of order."""
    real, n = _gaussian(_features(4000, 6, 99)), 150
    found, paired, apart = [], [], []
    for seed in range(60):
        noise = _features(n, 6, seed)
        rows = [noise * 1.2 + 0.4, noise * 1.3 + 0.5 + 0.1 * _features(n, 6, 1000 + seed)]
        samples = [_gaussian(each) for each in rows]
        first, second = (frechet_influence(s, real, r) for s, r in zip(samples, rows, strict=True))
        found.append(frechet_distance(samples[1], real) - frechet_distance(samples[0], real))
        paired.append(float((second - first).std() / n**0.5))
        apart.append(float((first.var() / n + second.var() / n) ** 0.5))
    deviation = float(torch.tensor(found).std())
    assert sum(paired) / 60 == pytest.approx(deviation, rel=0.3)
    assert sum(apart) / 60 > 2 * deviation


def test_fewer_features_than_dimensions_have_one_distance_whatever_rounds() -> None:
    """A distance stays the same in rotated coordinates, which round differently, as another processor does. It uses 12
    features in 40 dimensions, with a tolerance of 10 d eps relative to a trace. Catches the root of an eigenvalue of 0
    after rounding: that is 1e-8, far above rounding."""
    d = 40
    samples, reference = _features(12, d), _features(200, d, 1) / torch.arange(1.0, d + 1)
    expected = frechet_distance(_gaussian(samples), _gaussian(reference))
    allowed = 10 * d * torch.finfo(torch.float64).eps * _gaussian(samples).covariance.trace().item()
    for seed in range(2, 6):
        turn = torch.linalg.qr(_features(d, d, seed)).Q
        turned = frechet_distance(_gaussian(samples @ turn), _gaussian(reference @ turn))
        assert turned == pytest.approx(expected, rel=0, abs=allowed)
