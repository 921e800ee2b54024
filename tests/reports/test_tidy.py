"""The long table of all logged numbers."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports.columns import collect, merge
from reports.long_table import settled, tidy
from reports.runs import Run


def _run(id: str, experiment: str, seed: int | None, rows: list[tuple[int, dict[str, Any]]]) -> Run:
    merged = merge([collect(rows)])
    return Run(
        id=id,
        experiment=experiment,
        seed=seed,
        config={},
        history=merged.history,
        source=Path(id),
        nan_steps=merged.nan_steps,
    )


def test_a_row_for_every_number_logged(tmp_path: Path) -> None:
    """Catches rows for absent values, missing rows for logged NaN and infinities, a missing seed that becomes a float,
    and another order. Also catches values that a parquet file does not give back."""
    runs = [
        _run("r2", "e6", None, [(2, {"b": math.inf}), (1, {"b": 1.0, "a": math.nan})]),
        _run("r1", "e5", 3, [(10, {"a": 0.5})]),
    ]
    table = tidy(runs)
    found = [tuple(row) for row in table.astype(object).itertuples(index=False)]
    assert found[:1] + found[2:] == [
        ("e5", "r1", 3, 10, "a", 0.5),
        ("e6", "r2", pd.NA, 1, "b", 1.0),
        ("e6", "r2", pd.NA, 2, "b", math.inf),
    ]
    assert found[1][:5] == ("e6", "r2", pd.NA, 1, "a") and math.isnan(found[1][5])
    assert table.dtypes.astype(str).to_dict() == {
        "experiment": "category",
        "run": "category",
        "seed": "Int64",
        "step": "int64",
        "metric": "category",
        "value": "float64",
    }
    table.to_parquet(tmp_path / "data.parquet", compression="zstd", index=False)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "data.parquet"), table)


def test_no_runs_and_runs_without_rows() -> None:
    """Catches a failure if there is nothing to join."""
    for runs in ([], [_run("r", "e5", 1, [])]):
        assert tidy(runs).empty and list(tidy(runs).columns)[-1] == "value"


def test_a_row_takes_few_bytes() -> None:
    """Catches names kept as text in every row, which would fill the machine's memory for 8 million rows."""
    run = _run("a long run id", "experiment", 1, [(step, {"a/long/metric/name": 1.0}) for step in range(10_000)])
    assert tidy([run]).memory_usage(deep=True, index=False).sum() < 40 * 10_000


def test_what_differs_by_rounding_is_settled() -> None:
    """Sums of the same numbers in another order become one value. Other values stay the same to 13 digits. Catches lost
    digits, and zeros, infinities or very small numbers that turn into NaN."""
    rng = np.random.default_rng(0)
    for scale in (1e-200, 1.0, 1e200):
        terms = scale * rng.lognormal(0, 2, size=(50, 7))
        one, two = (
            settled(pd.Series([np.sum(row[order]) for row in terms])) for order in (slice(None), slice(None, None, -1))
        )
        assert (one == two).all() and one.to_numpy() == pytest.approx(terms.sum(1), rel=1e-12)
    odd = pd.Series([0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, -1.7e308], index=range(7))
    pd.testing.assert_series_equal(settled(odd), odd, check_exact=True)
