"""The pure helpers for run records."""

import math
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ddpm.config.run import flatten
from reports.columns import Rows, as_number, collect, merge
from reports.experiments.selection import Arm
from reports.runs import Run, as_time, resolve_protocols


def merge_rows(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Rows:
    """The merged rows of one file."""
    return merge([collect(rows)])


def test_flatten_gives_dotted_keys() -> None:
    """Catches lists that are taken apart, and empty sections that leave a key."""
    assert flatten({"a": {"b": {"c": 1}}, "d": [1, 2], "e": {}}) == {"a.b.c": 1, "d": [1, 2]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (0.5, 0.5),
        ("Infinity", math.inf),
        ("-Infinity", -math.inf),
        (True, None),
        ("x", None),
        ([1], None),
    ],
)
def test_as_number(value: object, expected: float | None) -> None:
    """Catches booleans or text that count as numbers."""
    assert as_number(value) == expected


def test_as_number_nan() -> None:
    """Catches the string for NaN dropped like other text."""
    number = as_number("NaN")
    assert number is not None and math.isnan(number)


def test_rows_of_one_step_are_merged_and_the_last_value_wins() -> None:
    """Catches a resumed run's rewritten steps counted twice, and a stale value that stays."""
    rows = merge_rows([(2, {"a": 1.0}), (1, {"a": 5.0}), (2, {"b": 3.0}), (2, {"a": 2.0})])
    assert list(rows.history.index) == [1, 2]
    assert rows.history.loc[2].to_dict() == {"a": 2.0, "b": 3.0}
    assert math.isnan(rows.history.loc[1, "b"])


def test_interleaved_steps_after_a_resume() -> None:
    """The last written value of a step wins. Catches one chosen by step or by size, and a row that deletes an earlier
    value because it lacks the metric."""
    rows = [(3, {"a": 3.0, "b": 1.0}), (5, {"a": 5.0}), (4, {"a": 4.0}), (3, {"a": -3.0}), (5, {"b": 9.0}), (4, {})]
    history = merge_rows(rows).history
    assert history["a"].to_dict() == {3: -3.0, 4: 4.0, 5: 5.0}
    assert history["b"].dropna().to_dict() == {3: 1.0, 5: 9.0}


def test_nan_that_was_logged_is_a_value() -> None:
    """Catches an older number shown although the run logged NaN, and a logged NaN that counts as a missing value."""
    rows = merge_rows([(1, {"a": 1.0, "b": 2.0}), (1, {"a": "NaN"}), (2, {"a": 3.0}), (3, {"a": math.nan})])
    assert rows.history["a"].dropna().to_dict() == {2: 3.0}
    assert rows.nan_steps == {"a": (1, 3)}


def test_one_metric_of_many_types() -> None:
    """Catches a column converted as a whole: true becomes 1, text fails, None becomes NaN."""
    values: list[Any] = [1, 2.5, True, "Infinity", None, "text", {"c": 1}, [1.0]]
    rows = merge_rows([(step, {"a": value}) for step, value in enumerate(values)])
    assert rows.history["a"].to_dict() == {0: 1.0, 1: 2.5, 3: math.inf}
    assert rows.lists == {"a": {7: (1.0,)}} and not rows.nan_steps


def test_lists_of_numbers_are_kept_by_step() -> None:
    """Catches the curves of the original e6 that are lost or become object columns, and steps out of order. Also
    catches lists of other things that count as numbers."""
    rows = merge_rows(
        [
            (7, {"curve": [1, 2], "x": 1.0, "names": ["a"], "flags": [True]}),
            (0, {"curve": [0.5, "NaN", 3]}),
            (8, {"x": 2.0}),
        ]
    )
    assert list(rows.history.columns) == ["x"]
    assert list(rows.lists) == ["curve"] and list(rows.lists["curve"]) == [0, 7]
    first, second, third = rows.lists["curve"][0]
    assert (first, third) == (0.5, 3.0) and math.isnan(second)
    assert rows.lists["curve"][7] == (1.0, 2.0)


def test_a_row_without_numbers_is_no_step() -> None:
    """Catches rows of lists, text or nothing that fail, or that make a step which other sources do not have."""
    rows = [(0, {"curve": [1.0]}), (1, {"x": 1.0}), (2, {"note": "text"}), (3, {})]
    assert list(merge_rows(rows).history.index) == [1]
    for left in ([], [(0, {"curve": [1.0]})]):
        empty = merge_rows(left)
        assert empty.history.empty and not empty.notes and empty.history.index.dtype == "int64"


def test_parts_of_a_run_are_merged_as_their_rows_would_be() -> None:
    """Catches any difference between a run in several parts (several files, or a cached part) and the same rows in
    order."""
    random_ = random.Random(0)
    values: list[Any] = [1.0, 2, math.nan, math.inf, "-Infinity", "text", None, [1, 2], False]
    for _ in range(200):
        rows = [
            (
                random_.randint(0, 5),
                {key: random_.choice(values) for key in random_.sample(["a", "b", "val/fid"], random_.randint(0, 3))}
                | ({"val/fid_protocol": random_.choice("pq")} if random_.random() < 0.3 else {}),
            )
            for _ in range(10)
        ]
        cut = random_.randint(0, 10)
        whole, parts = merge_rows(rows), merge([collect(rows[:cut]), collect(rows[cut:])])
        pd.testing.assert_frame_equal(whole.history, parts.history, check_like=True)
        assert (whole.nan_steps, whole.lists, whole.fingerprints) == (
            parts.nan_steps,
            parts.lists,
            parts.fingerprints,
        )
        assert sorted(whole.notes) == sorted(parts.notes)


def test_series_are_finite() -> None:
    """Catches NaN or infinities in a mean or a figure, and an error for a metric that was never logged."""
    run = _run([(1, {"a": 1.0}), (2, {"a": math.inf}), (3, {"a": math.nan}), (4, {"a": -2.0, "b": 1.0})])
    assert run.series("a").to_dict() == {1: 1.0, 4: -2.0}
    assert run.series("none").empty


def test_runs_and_arms_are_told_apart_by_identity() -> None:
    """Catches a run or an arm that cannot be a dictionary key, or that equals another one with the same content."""
    one, other = _run([(1, {"a": 1.0})]), _run([(1, {"a": 1.0})])
    assert len({one, other}) == 2 and one == one and one != other
    assert len({Arm("e5", "baseline", (one,)), Arm("e5", "baseline", (one,))}) == 2


def _run(rows: list[tuple[int, dict[str, Any]]]) -> Run:
    return Run(id="r", experiment="e5", seed=1, config={}, history=merge_rows(rows).history, source=Path("r"))


def test_values_that_are_not_finite_are_noted() -> None:
    """Catches a diverged run that reads like a healthy one."""
    (note,) = merge_rows([(1, {"a": 1.0}), (2, {"a": math.nan}), (3, {"a": "Infinity"})]).notes
    assert "a is NaN or infinite at 2 step(s), first at 2" in note


def test_fid_of_an_earlier_protocol_is_dropped() -> None:
    """Catches two protocols joined into one curve after a run was resumed with another evaluation."""
    rows = merge_rows(
        [
            (1, {"val/fid": 9.0, "val/fid_protocol": "old"}),
            (2, {"val/fid": 5.0, "val/fid_protocol": "new"}),
        ]
    )
    assert rows.fingerprints == {"val/fid": "new"}
    assert rows.history["val/fid"].dropna().to_dict() == {2: 5.0}
    assert "changed its protocol" in rows.notes[0]


def test_unrecorded_protocols_come_from_the_config() -> None:
    """Catches logs without fingerprints that get the same protocol despite different NFE, or the protocol of a recorded
    run."""
    config = {"eval": {"fid_milestone": {"sampler": "ddpm", "nfe": 50, "every": 10}, "final": {"nfe": 20}}}
    other = {"eval": {"fid_milestone": {"sampler": "ddpm", "nfe": 25, "every": 10}}}
    ours, descriptions = resolve_protocols(config, {}, {})
    theirs, _ = resolve_protocols(other, {}, {})
    assert ours["val/fid"].startswith("unrecorded-")
    assert ours["val/fid"] != theirs["val/fid"] and ours["val/fid"] != ours["final/fid"]
    assert descriptions[ours["val/fid"]] == {
        "sampler": "ddpm",
        "nfe": 50,
    }  # `every` does not belong to the protocol


def test_recorded_protocols_stand() -> None:
    """Catches a logged fingerprint that the config overrides."""
    fingerprints, _ = resolve_protocols({"eval": {"fid_milestone": {"nfe": 50}}}, {"val/fid": "abc"}, {})
    assert fingerprints["val/fid"] == "abc"


def test_times_have_a_zone() -> None:
    """Catches naive and aware start times that cannot be compared in the choice of the newest run."""
    naive, aware = as_time("2026-01-01T00:00:00"), as_time("2026-01-01T01:00:00+01:00")
    assert naive == aware
    assert as_time("yesterday") is None and as_time(None) is None
