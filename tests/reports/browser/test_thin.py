"""Thinned curves: what a screen shows of many rows."""

import numpy as np
import pandas as pd
import pytest

from reports.browser.thin import MOST, thin


def _curve(steps: list[int] | range) -> pd.Series:
    values = np.random.default_rng(0).normal(size=len(steps))
    return pd.Series(values, index=pd.Index(list(steps), name="step"))


def test_a_short_curve_is_as_it_was_logged() -> None:
    """Catches bins, or lost rows, in what fits a screen anyway."""
    values = _curve(range(0, 10 * MOST, 10))
    found = thin(values)
    assert found["x"].tolist() == values.index.tolist()
    assert found["y"].tolist() == values.astype(np.float32).tolist()
    assert "lo" not in found and "width" not in found


@pytest.mark.parametrize("steps", [range(10_000), range(7, 50_000, 3), [*range(5_000), 2**40]])
def test_a_long_curve_keeps_its_mean_its_extremes_and_its_rows(steps: list[int] | range) -> None:
    """Catches rows that fall between bins, a lost spike, more points than a screen has."""
    values = _curve(steps)
    found = thin(values)
    assert len(found["x"]) <= MOST + 1
    assert found["n"].sum() == len(values)
    # float32 holds 24 binary digits
    assert (found["y"].astype(float) * found["n"]).sum() == pytest.approx(values.sum(), abs=len(values) * 2**-22)
    assert found["lo"].min() == np.float32(values.min())
    assert found["hi"].max() == np.float32(values.max())
    assert (np.diff(found["x"]) > 0).all()


def test_the_bins_of_two_runs_agree_or_divide_each_other() -> None:
    """Catches bins that depend on a run's first step or length: the page takes means over seeds bin by bin."""
    short, long = thin(_curve(range(3, 2_000))), thin(_curve(range(9_000)))
    assert long["width"] % short["width"] == 0 and short["width"] > 1
    for found in (short, long):
        assert len(set(found["x"] // found["width"])) == len(found["x"])  # a bin's mean step lies in it


def test_an_error_is_kept_if_it_is_known_everywhere() -> None:
    """Catches an error bar at the wrong step, and one that is made up."""
    values = _curve(range(0, 50, 10))
    assert thin(values, pd.Series(2.0, index=values.index))["e"].tolist() == [2.0] * 5
    assert "e" not in thin(values, pd.Series(2.0, index=values.index[1:]))
    assert "e" not in thin(values, pd.Series(dtype=float))


def test_a_number_beyond_single_precision_is_no_number() -> None:
    """Catches infinity, which JSON does not have."""
    assert np.isnan(thin(pd.Series([1e60], index=[1]))["y"][0])
