"""Compares KID, precision, recall, density and coverage with closed forms, direct sums and clean-fid."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.evaluation import kid_prdc as kernel
from ddpm.evaluation.kid_prdc import Kid, kid, neighbours, squared_mmd


def _features(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_discrepancy_is_the_textbooks_sum() -> None:
    """Sums over all pairs in loops, without pairing a sample with itself. Catches a diagonal that counts, and a kernel
    without 1/d."""
    x, y = _features(5, 3), _features(4, 3, 1)

    def k(a: Tensor, b: Tensor) -> float:
        return ((a @ b).item() / 3 + 1) ** 3

    within_x = sum(k(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / 20
    within_y = sum(k(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
    between = sum(k(a, b) for a in x for b in y) / 20
    assert squared_mmd(x, y) == pytest.approx(within_x + within_y - 2 * between, rel=1e-12)


def test_a_mean_apart_is_its_closed_form() -> None:
    """In one dimension, y = x + s with E x = 0, E x^2 = 1, E x^3 = 0 gives MMD^2 = 9 s^2 + 9 s^4 + s^6. The cubic
    kernel's moments give 3 (dm1)^2 + 3 (dm2)^2 + (dm3)^2 with dm1 = s, dm2 = s^2, dm3 = 3 s + s^3.

    Catches another degree, and another scale of the kernel's terms.
    """
    s = 0.5
    expected = 3 * s**2 + 3 * s**4 + (3 * s + s**3) ** 2
    draws = [squared_mmd(_features(2000, 1, i), s + _features(2000, 1, 1000 + i)) for i in range(10)]
    error = np.std(draws, ddof=1) / math.sqrt(10)
    assert np.mean(draws) == pytest.approx(expected, abs=4 * error) and error < 0.1 * expected


def test_kid_of_one_distribution_is_zero_on_average() -> None:
    """Over 60 draws of 100 against 100, the mean is within 3 standard errors of 0, and about half of the values are
    negative. Catches the biased estimate, which counts the diagonal (here 0.6 more)."""
    settings = Kid(subsets=5, subset_size=50)
    values = np.array([kid(_features(100, 8, i), _features(100, 8, 500 + i), settings)[0] for i in range(60)])
    assert abs(values.mean()) < 3 * values.std(ddof=1) / math.sqrt(60)
    assert 15 < (values < 0).sum() < 45


def test_kid_agrees_with_clean_fids() -> None:
    """On the same features, the whole sets agree to 1e-9. Random subsets agree within their spread, and the spread
    itself agrees with clean-fid's."""
    from cleanfid.fid import kernel_distance as peer

    x, y = _features(300, 16), 0.1 + 1.1 * _features(300, 16, 1)
    assert squared_mmd(x, y) == pytest.approx(peer(x.numpy(), y.numpy(), 1, 300), rel=1e-9)
    np.random.seed(0)
    theirs = [peer(x.numpy(), y.numpy(), 1, 100) for _ in range(100)]
    mean, std = kid(x, y, Kid(subsets=100, subset_size=100))
    assert mean == pytest.approx(np.mean(theirs), abs=4 * np.std(theirs) * math.sqrt(2 / 100))
    assert std == pytest.approx(np.std(theirs), rel=0.3)


def test_the_deviation_over_subsets_is_not_below_the_error_of_kid() -> None:
    """100 samples against 2,000 of a shifted distribution, 60 times: with subsets of half the samples, the deviation is
    about sqrt(3) times that of KID itself (s^2 / n from the samples, 2 s^2 / n from as small subsets of the reference).
    60 draws know it to 9 %. Catches a deviation divided by the number of subsets, which share their samples."""
    reference = _features(2000, 8, 9999)
    found = np.array([kid(_features(100, 8, i) + 0.3, reference, Kid(subsets=20)) for i in range(60)])
    ratio = found[:, 1].mean() / found[:, 0].std(ddof=1)
    assert 1 < ratio < 3


def test_kid_depends_on_its_seed_alone() -> None:
    """KID neither uses nor moves the global streams. Catches np.random."""
    x, y = _features(60, 4), _features(60, 4, 1)
    before = torch.get_rng_state()
    first = kid(x, y, Kid(5, 20))
    np.random.seed(1)
    assert kid(x, y, Kid(5, 20)) == first != kid(x, y, Kid(5, 20), seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_subsets_are_at_most_half_of_a_set() -> None:
    """Otherwise all subsets would be the same, with a spread of 0."""
    assert Kid(subset_size=1000).size(80, 2000) == 40
    assert kid(_features(30, 4), _features(90, 4, 1), Kid(5, 1000))[1] > 0


# --- nearest neighbours ---


def test_a_set_against_itself() -> None:
    """Every point is in reach, so precision, recall and coverage are 1. Each ball holds k others and its own centre, so
    density is (k + 1) / k."""
    x = _features(200, 4)
    assert neighbours(x, x, k=5) == {"precision": 1.0, "recall": 1.0, "density": pytest.approx(1.2), "coverage": 1.0}


@pytest.mark.parametrize("d", [4, 64, 300])
def test_images_that_both_sets_have_lie_on_the_edge_of_their_balls_and_count(d: int) -> None:
    """Samples are a permutation of the reference, alone and with strangers far away. Each ball just reaches its k-th
    neighbour, whose twin is a sample. Catches two distances for one pair, from two products that round differently."""
    x = _features(50, d) + 3
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    whole = {"precision": 1.0, "recall": 1.0, "density": 1.2, "coverage": 1.0}
    assert neighbours(x[order], x, k=5) == whole == neighbours(x.float()[order], x.float(), k=5)
    strangers = torch.cat([x[order], _features(7, d, 2) + 1e3])
    assert neighbours(strangers, x, k=5) == whole | {
        "precision": 50 / 57,
        "density": pytest.approx(1.2 * 50 / 57, rel=1e-12),
    }


def test_far_apart_nothing_is_within_reach() -> None:
    assert set(neighbours(_features(50, 4) + 1e3, _features(60, 4, 1), k=3).values()) == {0.0}


def test_one_distribution_has_a_density_and_a_coverage_that_are_known() -> None:
    """For sets of equal size, density is 1 on average and coverage is 1 - 1 / 2^k (Naeem et al. 2020, section 3.3: each
    of the 2n - 1 others in turn is equally likely real or not). Catches a k that counts the row itself."""
    found = [neighbours(_features(400, 2, i), _features(400, 2, 100 + i), k=2) for i in range(10)]
    assert np.mean([f["density"] for f in found]) == pytest.approx(1, abs=0.03)
    assert np.mean([f["coverage"] for f in found]) == pytest.approx(1 - 1 / 4, abs=0.03)


def test_a_lost_half_lowers_recall_and_noise_lowers_precision() -> None:
    """The data has two distant clusters. Samples from one cluster are precise and recall half of the data. Samples from
    both, plus as many strays, recall all and are half precise. Catches swapped precision and recall."""
    apart = torch.tensor([40.0, 0]).double()
    real = torch.cat([_features(200, 2), _features(200, 2, 1) + apart])
    half = neighbours(_features(400, 2, 2), real)
    assert half["precision"] > 0.95 and half["recall"] == pytest.approx(0.5, abs=0.03)
    assert half["coverage"] == pytest.approx(0.5, abs=0.03)
    strays = torch.cat([_features(200, 2, 3), _features(200, 2, 4) + apart, _features(400, 2, 5) * 3 - 500])
    assert neighbours(strays, real)["precision"] == pytest.approx(0.5, abs=0.03)
    assert neighbours(strays, real)["recall"] > 0.95


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are processed in blocks. Catches a lost last block, and float32's digits far from the origin."""
    x, y = _features(101, 3), _features(97, 3, 1)
    whole = neighbours(x, y, k=3)
    monkeypatch.setattr(kernel, "BLOCK", 10)
    assert neighbours(x, y, k=3) == whole == neighbours(x + 1e6, y + 1e6, k=3)
