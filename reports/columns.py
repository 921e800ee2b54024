"""Turns rows, in the order written, into columns of numbers. Other values are left out here, once, and counted."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ddpm.metrics.table import DRAWN, metric_of

PROTOCOL_SUFFIX = "_protocol"
# Numbers from here on count as infinite: their squares overflow. No mean and no figure has them.
LARGEST = 1e100
# Metric -> step -> the list of numbers logged there.
Lists = dict[str, dict[int, tuple[float, ...]]]
_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Logged:
    """The content of one file's rows: the last value of each metric and step.

    `steps`: shape (n,), int64, sorted, unique; `metrics`: m names; `values`: shape (m, n), float64; `there`: shape
    (m, n), bool, whether a number (or NaN) was logged. `protocols`: metric -> step -> fingerprint; `lists`: metric ->
    step -> numbers. `left_out`: metric -> (number of other values, step of the first).
    """

    steps: np.ndarray
    metrics: list[str]
    values: np.ndarray
    there: np.ndarray
    protocols: dict[str, dict[int, str]]
    lists: Lists
    left_out: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Rows:
    """What a run logged: `history`, `nan_steps`, `lists` as in `Run`, the last fingerprint of each FID, and notes."""

    history: pd.DataFrame
    nan_steps: dict[str, tuple[int, ...]]
    lists: Lists
    fingerprints: dict[str, str]
    notes: tuple[str, ...]


def as_number(value: Any) -> float | None:
    """`value` as a float, also for `"NaN"`, `"Infinity"`, `"-Infinity"`; None for anything else.

    An integer beyond the largest float becomes infinite.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return _NONFINITE.get(value) if isinstance(value, str) else None


def collect(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Logged:
    """Rows `(step, {metric: value})` in the order written -> the last value per step and metric.

    A resumed run writes some steps again; the last value belongs to the weights that survived. Numbers are those that
    `as_number` accepts.
    """
    steps: list[int] = []
    # Most rows of a run have the same metrics: rows of equal keys become columns at once.
    alike: dict[tuple[str, ...], tuple[list[int], list[tuple[Any, ...]]]] = {}
    for number, (step, row) in enumerate(rows):
        steps.append(step)
        places, values = alike.setdefault(tuple(row), ([], []))
        places.append(number)
        values.append(tuple(row.values()))
    columns: dict[str, list[tuple[list[int], tuple[Any, ...]]]] = {}
    for keys, (places, values) in alike.items():
        for key, column in zip(keys, zip(*values, strict=True), strict=True):
            columns.setdefault(key, []).append((places, column))

    known, step_of_row = np.unique(np.array(steps, dtype=np.int64), return_inverse=True)
    metrics: list[str] = []
    cells: list[tuple[np.ndarray, np.ndarray]] = []
    protocols: dict[str, dict[int, str]] = {}
    lists: Lists = {}
    left_out: dict[str, tuple[int, int]] = {}
    for key, parts in columns.items():
        written, numbers, others = _column(parts, key)
        if len(numbers):
            metrics.append(key)
            cells.append(_last_of_each(step_of_row[written], numbers))
        strange = []
        for number, value in others:
            if isinstance(value, list) and (listed := _as_numbers(value)) is not None:
                lists.setdefault(key, {})[steps[number]] = listed
            elif isinstance(value, str) and key.endswith(PROTOCOL_SUFFIX):
                protocols.setdefault(key.removesuffix(PROTOCOL_SUFFIX), {})[steps[number]] = value
            elif value is not None:
                strange.append(steps[number])
        if strange:
            left_out[key] = len(strange), min(strange)
    found = np.full((len(metrics), len(known)), np.nan)
    there = np.zeros(found.shape, dtype=bool)
    for line, (at, numbers) in enumerate(cells):
        found[line, at] = numbers
        there[line, at] = True
    return Logged(known, metrics, found, there, protocols, lists, left_out)


def _may_be_text(key: str, metrics: Sequence[str]) -> bool:
    """Whether `key` is no metric and never had a number: texts under it need no note."""
    return _is_name(key) and key not in metrics and not metric_of(key) and not key.endswith(PROTOCOL_SUFFIX)


def _is_name(key: str) -> bool:
    """Whether `key` can be a metric's name: printable text."""
    return key.isprintable() and "\ufffd" not in key


def _column(
    parts: Sequence[tuple[list[int], tuple[Any, ...]]], key: str
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, Any]]]:
    """A metric's values by the number of their row -> (row numbers, numbers, (row number, other value) pairs)."""
    places, numbers = [], []
    others: list[tuple[int, Any]] = []
    of_numbers = _is_name(key) and not key.endswith(PROTOCOL_SUFFIX)
    for rows, values in parts:
        if not (of_numbers and set(map(type, values)) <= {float, int} and _fit_floats(values)):
            parsed = [as_number(value) if of_numbers else None for value in values]
            others += [
                pair for pair, number in zip(zip(rows, values, strict=True), parsed, strict=True) if number is None
            ]
            rows = [row for row, number in zip(rows, parsed, strict=True) if number is not None]
            values = tuple(number for number in parsed if number is not None)
        places.append(np.array(rows, dtype=np.int64))
        numbers.append(np.array(values, dtype=float))
    written = np.concatenate(places)
    order = np.argsort(written)
    return written[order], np.concatenate(numbers)[order], sorted(others, key=lambda pair: pair[0])


def _fit_floats(values: tuple[int | float, ...]) -> bool:
    try:
        max(values) + 0.0, min(values) + 0.0
    except OverflowError:
        return False
    return True


def _last_of_each(cells: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The unique `cells`, sorted, and the last of the `numbers` in each."""
    different, last = np.unique(cells[::-1], return_index=True)
    return different, numbers[::-1][last]


def _as_numbers(values: list[Any]) -> tuple[float, ...] | None:
    numbers = [as_number(value) for value in values]
    found = tuple(number for number in numbers if number is not None)
    return found if len(found) == len(numbers) else None


def merge(parts: Sequence[Logged]) -> Rows:
    """The files of one run, in the order written, as one: the last part's value of a step and metric counts.

    Drops, with a note, values of a FID under another protocol than the run's last one. Steps without a number, such as
    rows of text, images or lists only, are not in the history.
    """
    all_ = _join(parts)
    notes = []
    for metric, by_step in all_.protocols.items():
        if metric in all_.metrics:
            notes += _drop_other_protocols(metric, by_step, all_.steps, all_.there[all_.metrics.index(metric)])
    nan_steps: dict[str, tuple[int, ...]] = {}
    for metric, values, there in sorted(zip(all_.metrics, all_.values, all_.there, strict=True), key=lambda m: m[0]):
        bad = there & ~(np.abs(values) < LARGEST)
        if bad.any():
            beyond = f", or beyond {LARGEST:g}," if np.isfinite(values[bad]).any() else ""
            notes.append(
                f"{metric} is NaN or infinite{beyond} at {bad.sum()} step(s), first at {all_.steps[bad][0]}; "
                "those values are in no mean and no figure"
            )
        if (bad & np.isnan(values)).any():
            nan_steps[metric] = tuple(all_.steps[bad & np.isnan(values)].tolist())
    notes += [
        f"{ascii(metric)[1:-1]}: {count} value(s) that are not numbers are left out, the first at step {step}"
        for metric, (count, step) in sorted(all_.left_out.items())
        if not _may_be_text(metric, all_.metrics)
    ]
    lists = {metric: dict(sorted(at_steps.items())) for metric, at_steps in all_.lists.items()}
    for metric in lists.keys() & set(DRAWN):
        notes += _drop_other_lengths(metric, lists[metric])
    rows, columns = np.flatnonzero(all_.there.any(axis=0)), np.flatnonzero(all_.there.any(axis=1))
    history = pd.DataFrame(
        np.where(all_.there, all_.values, np.nan)[np.ix_(columns, rows)].T,
        index=pd.Index(all_.steps[rows], name="step"),
        columns=[all_.metrics[column] for column in columns],
    )
    last = {metric: by_step[max(by_step)] for metric, by_step in all_.protocols.items()}
    return Rows(history, nan_steps, lists, last, tuple(notes))


def _join(parts: Sequence[Logged]) -> Logged:
    """All `parts` as a new one; where they overlap, the last one's value counts."""
    steps = np.unique(np.concatenate([part.steps for part in parts]))
    metrics = list(dict.fromkeys(metric for part in parts for metric in part.metrics))
    values = np.full((len(metrics), len(steps)), np.nan)
    there = np.zeros(values.shape, dtype=bool)
    protocols: dict[str, dict[int, str]] = {}
    lists: Lists = {}
    left_out: dict[str, tuple[int, int]] = {}
    for part in parts:
        lines = np.array([metrics.index(metric) for metric in part.metrics], dtype=np.int64)
        at = np.ix_(lines, np.searchsorted(steps, part.steps))
        values[at] = np.where(part.there, part.values, values[at])
        there[at] |= part.there
        for metric, by_step in part.protocols.items():
            protocols.setdefault(metric, {}).update(by_step)
        for metric, at_steps in part.lists.items():
            lists.setdefault(metric, {}).update(at_steps)
        for metric, (count, first) in part.left_out.items():
            before = left_out.get(metric, (0, first))
            left_out[metric] = before[0] + count, min(before[1], first)
    return Logged(steps, metrics, values, there, protocols, lists, left_out)


def _drop_other_protocols(metric: str, by_step: dict[int, str], steps: np.ndarray, there: np.ndarray) -> list[str]:
    """Clear in `there`, shape (n,), the values of other protocols than the last; returns a note if there are any."""
    last = by_step[max(by_step)]
    others = np.array([step for step, fingerprint in by_step.items() if fingerprint != last], dtype=np.int64)
    cells = np.searchsorted(steps, others)
    dropped = steps[cells[there[cells]]]
    there[cells] = False
    if not len(dropped):
        return []
    return [
        f"{metric} changed its protocol within the run: {len(dropped)} earlier value(s), "
        f"steps {dropped.min()} to {dropped.max()}, are left out"
    ]


def _drop_other_lengths(metric: str, lists: dict[int, tuple[float, ...]]) -> list[str]:
    """Drop lists of another length than most: equal places are equal draws only among lists of one length. Returns a
    note if there are any."""
    usual = Counter(map(len, lists.values())).most_common(1)[0][0]
    others = [step for step, values in lists.items() if len(values) != usual]
    for step in others:
        del lists[step]
    if not others:
        return []
    return [
        f"{metric}: {len(others)} list(s) that do not have {usual} values like most are left out, the first at step "
        f"{others[0]}"
    ]
