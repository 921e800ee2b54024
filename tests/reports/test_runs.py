"""The run record's pure helpers."""

import math

import pytest

from reports.runs import as_number, as_time, flatten, merge_rows, resolve_protocols


def test_flatten_gives_dotted_keys() -> None:
    """Catches: values of lists taken apart, or empty sections leaving a key."""
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
    """Catches: booleans counted as numbers, text taken for one."""
    assert as_number(value) == expected


def test_as_number_nan() -> None:
    """Catches: the string that stands for NaN dropped like other text."""
    number = as_number("NaN")
    assert number is not None and math.isnan(number)


def test_rows_of_one_step_are_merged_and_the_last_value_wins() -> None:
    """Catches: a resumed run's rewritten steps counted twice, or the stale value kept."""
    rows = merge_rows([(2, {"a": 1.0}), (1, {"a": 5.0}), (2, {"b": 3.0}), (2, {"a": 2.0})])
    assert list(rows.history.index) == [1, 2]
    assert rows.history.loc[2].to_dict() == {"a": 2.0, "b": 3.0}
    assert math.isnan(rows.history.loc[1, "b"])


def test_lists_are_no_metrics() -> None:
    """Catches: the curve arrays of the original e6 ending up as object columns."""
    assert list(merge_rows([(0, {"curve": [1, 2], "x": 1.0})]).history.columns) == ["x"]


def test_values_that_are_not_finite_are_noted() -> None:
    """Catches: a diverged run that reads like a healthy one."""
    (note,) = merge_rows([(1, {"a": 1.0}), (2, {"a": math.nan}), (3, {"a": "Infinity"})]).notes
    assert "a is NaN or infinite at 2 step(s), first at 2" in note


def test_fid_of_an_earlier_protocol_is_dropped() -> None:
    """Catches: two protocols joined into one curve when a run was resumed with another evaluation."""
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
    """Catches: logs without fingerprints of different NFE taken for one protocol, or for a recorded one."""
    config = {"eval": {"fid_milestone": {"sampler": "ddpm", "nfe": 50, "every": 10}, "final": {"nfe": 20}}}
    other = {"eval": {"fid_milestone": {"sampler": "ddpm", "nfe": 25, "every": 10}}}
    ours, descriptions = resolve_protocols(config, {}, {})
    theirs, _ = resolve_protocols(other, {}, {})
    assert ours["val/fid"].startswith("unrecorded-")
    assert ours["val/fid"] != theirs["val/fid"] and ours["val/fid"] != ours["final/fid"]
    assert descriptions[ours["val/fid"]] == {
        "sampler": "ddpm",
        "nfe": 50,
    }  # `every` is no part of the protocol


def test_recorded_protocols_stand() -> None:
    """Catches: a logged fingerprint overridden by what the config says."""
    fingerprints, _ = resolve_protocols({"eval": {"fid_milestone": {"nfe": 50}}}, {"val/fid": "abc"}, {})
    assert fingerprints["val/fid"] == "abc"


def test_times_have_a_zone() -> None:
    """Catches: naive and aware starts that cannot be compared when the newest run is looked for."""
    naive, aware = as_time("2026-01-01T00:00:00"), as_time("2026-01-01T01:00:00+01:00")
    assert naive == aware
    assert as_time("yesterday") is None and as_time(None) is None
