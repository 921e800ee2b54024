"""The run record: what every source delivers and everything above reads. Pure: no files, no W&B."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ddpm.config import Config, as_meant

FID_METRICS = ("val/fid", "final/fid")
SCORES = (*FID_METRICS, "val/kid")
PROTOCOL_SUFFIX = "_protocol"
# Where the config of the original study, which logged no fingerprint, describes each number's protocol.
_PROTOCOL_CONFIG = {"val/fid": "fid_milestone", "final/fid": "final", "val/kid": "kid"}
_PROTOCOL_FIELDS = ("sampler", "nfe", "n_samples", "fid_stats")
# Configs older than a key mean this by leaving it out.
DEFAULTS: dict[str, Any] = {"loss.weighting": "constant"}
_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, eq=False)
class Run:
    """One training with one seed. Equal to itself alone, so that what is worked out of a run can be kept by run.

    `history`: numeric columns, index `step` (int, sorted, unique); a metric that was not logged at a step
    is NaN there, and `nan_steps`: metric -> the steps at which NaN itself was logged. `arrays`: metric -> the last
    list of numbers logged under that name. `fingerprints`: FID metric -> protocol fingerprint; `protocols`:
    fingerprint -> description. `grids`: step -> PNG file. `state`: `finished` or `unfinished`. `notes`: what a
    reader of the report must know about how the run was read (skipped lines, values that are not finite).
    `url`: the run's page on W&B's server, of a run read from there.
    """

    id: str
    experiment: str
    seed: int | None
    config: dict[str, Any]
    history: pd.DataFrame
    source: Path
    summary: dict[str, Any] = field(default_factory=dict)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    grids: dict[int, Path] = field(default_factory=dict)
    state: str = "unfinished"
    started: datetime | None = None
    commit: str | None = None
    notes: tuple[str, ...] = ()
    arrays: dict[str, tuple[float, ...]] = field(default_factory=dict)
    nan_steps: dict[str, tuple[int, ...]] = field(default_factory=dict)
    url: str | None = None

    def protocol_of(self, metric: str) -> str:
        """Fingerprint of the protocol behind `metric`; `unrecorded-unknown` where nothing tells."""
        return self.fingerprints.get(metric, "unrecorded-unknown")

    def series(self, metric: str) -> pd.Series:
        """The finite values of `metric` by step, shape (n,); empty when it was never logged."""
        if metric not in self.history.columns:
            return pd.Series(dtype=float, name=metric)
        values = self.history[metric]
        return values[np.isfinite(values.to_numpy())]

    @cached_property  # a report asks for it more often than there are runs
    def last_step(self) -> int:
        """The last step with a finite train/loss, or the last logged one of a run without; 0 for a run without rows."""
        losses = self.series("train/loss")
        steps = losses.index if "train/loss" in self.history.columns else self.history.index
        return int(steps[-1]) if len(steps) else 0

    @property
    def planned_steps(self) -> int | None:
        """How many steps the run is to take, by its config; None where that does not say."""
        steps = flatten(self.config).get("train.total_steps")
        return steps if isinstance(steps, int) else None

    @property
    def diverged_after(self) -> int | None:
        """The last step with a finite train/loss, where none logged after it is; None for a run that is well."""
        logged = self.nan_steps.get("train/loss", ())
        column = self.history.get("train/loss")
        infinite = [] if column is None else column.index[np.isinf(column.to_numpy())].tolist()
        last_bad = max([*logged, *infinite], default=-1)
        return self.last_step if last_bad > self.last_step else None

    @property
    def name(self) -> str:
        """How messages call the run, e.g. `e5 seed 3 (run abc123)`."""
        seed = "" if self.seed is None else f" seed {self.seed}"
        return f"{self.experiment}{seed} (run {self.id})"


@dataclass(frozen=True)
class Logged:
    """What the rows of one file hold, the last value of each metric and step.

    `steps`: shape (n,), int64, sorted, unique; `metrics`: m names; `values`: shape (m, n), float64, and `there`, shape
    (m, n), bool: whether a number, which may be NaN, was logged. `protocols`: metric -> step -> fingerprint;
    `arrays`: as in `Run`.
    """

    steps: np.ndarray
    metrics: list[str]
    values: np.ndarray
    there: np.ndarray
    protocols: dict[str, dict[int, str]]
    arrays: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Rows:
    """What a run logged: `history`, `nan_steps` and `arrays` as in `Run`, the last protocols named, and notes."""

    history: pd.DataFrame
    nan_steps: dict[str, tuple[int, ...]]
    arrays: dict[str, tuple[float, ...]]
    fingerprints: dict[str, str]
    notes: tuple[str, ...]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted keys; `{"a": {"b": 1}}` gives `{"a.b": 1}`. Empty mappings vanish."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def flat_config(run: Run) -> dict[str, Any]:
    """The run's config with dotted keys; keys that older configs leave out have the value they mean."""
    return dict(_flat_config(run))


@lru_cache(maxsize=4096)
def _flat_config(run: Run) -> dict[str, Any]:
    own = {key: value for key, value in run.config.items() if key in Config.model_fields}
    try:
        younger = flatten(Config.model_validate(as_meant(own)).nested())
    except ValueError:  # the original study's, or no whole config: what it does not say is not known
        younger = {}
    return DEFAULTS | younger | flatten(run.config)


def as_number(value: Any) -> float | None:
    """`value` as a float; `"NaN"`, `"Infinity"`, `"-Infinity"` too; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    return _NONFINITE.get(value) if isinstance(value, str) else None


def as_time(value: Any) -> datetime | None:
    """ISO text -> time with a zone (UTC where none is given), so that starts can be compared."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def merge_rows(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Rows:
    """Rows `(step, {metric: value})` in the order written -> one row per step; see `collect` and `merge`."""
    return merge([collect(rows)])


def collect(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Logged:
    """Rows `(step, {metric: value})` in the order written -> the last value per step and metric.

    A resumed run writes some steps again; the last word is the one that the surviving weights saw. A row without a
    metric says nothing about it. Numbers are what `as_number` takes for one.
    """
    steps: list[int] = []
    # Most rows of a run have the same metrics: rows by their keys are columns, which numpy takes whole.
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
    arrays: dict[str, tuple[float, ...]] = {}
    for key, parts in columns.items():
        written, numbers, others = _column(parts)
        if len(numbers):
            metrics.append(key)
            cells.append(_last_of_each(step_of_row[written], numbers))
        for number, value in others:
            if isinstance(value, list) and (array := _as_array(value)) is not None:
                arrays[key] = array
            elif isinstance(value, str) and key.endswith(PROTOCOL_SUFFIX):
                protocols.setdefault(key.removesuffix(PROTOCOL_SUFFIX), {})[steps[number]] = value
    found = np.full((len(metrics), len(known)), np.nan)
    there = np.zeros(found.shape, dtype=bool)
    for line, (at, numbers) in enumerate(cells):
        found[line, at] = numbers
        there[line, at] = True
    return Logged(known, metrics, found, there, protocols, arrays)


def _column(
    parts: Sequence[tuple[list[int], tuple[Any, ...]]],
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, Any]]]:
    """A metric's values by the number of their row -> (row numbers, numbers, (row number, other value) pairs)."""
    places, numbers = [], []
    others: list[tuple[int, Any]] = []
    for rows, values in parts:
        if not set(map(type, values)) <= {float, int}:
            parsed = [as_number(value) for value in values]
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


def _last_of_each(cells: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different `cells`, sorted, and the last of the `numbers` of each."""
    different, last = np.unique(cells[::-1], return_index=True)
    return different, numbers[::-1][last]


def _as_array(values: list[Any]) -> tuple[float, ...] | None:
    numbers = [as_number(value) for value in values]
    found = tuple(number for number in numbers if number is not None)
    return found if len(found) == len(numbers) else None


def merge(parts: Sequence[Logged]) -> Rows:
    """What the files of one run hold, in the order written, as one: of a step and metric the last part's value counts.

    Values of a FID that were taken under another protocol than the run's last one are dropped (noted). Steps at which
    no number is left are in no history: a row of text, images or lists only is the same as none.
    """
    all_ = _join(parts)
    notes = []
    for metric, by_step in all_.protocols.items():
        if metric in all_.metrics:
            notes += _drop_other_protocols(metric, by_step, all_.steps, all_.there[all_.metrics.index(metric)])
    nan_steps: dict[str, tuple[int, ...]] = {}
    for metric, values, there in sorted(zip(all_.metrics, all_.values, all_.there, strict=True), key=lambda m: m[0]):
        bad = there & ~np.isfinite(values)
        if bad.any():
            notes.append(
                f"{metric} is NaN or infinite at {bad.sum()} step(s), first at {all_.steps[bad][0]}; "
                "those values are in no mean and no figure"
            )
        if (bad & np.isnan(values)).any():
            nan_steps[metric] = tuple(all_.steps[bad & np.isnan(values)].tolist())
    rows, columns = np.flatnonzero(all_.there.any(axis=0)), np.flatnonzero(all_.there.any(axis=1))
    history = pd.DataFrame(
        np.where(all_.there, all_.values, np.nan)[np.ix_(columns, rows)].T,
        index=pd.Index(all_.steps[rows], name="step"),
        columns=[all_.metrics[column] for column in columns],
    )
    last = {metric: by_step[max(by_step)] for metric, by_step in all_.protocols.items()}
    return Rows(history, nan_steps, all_.arrays, last, tuple(notes))


def _join(parts: Sequence[Logged]) -> Logged:
    """One new part of all `parts`; where they overlap, the last one's value."""
    steps = np.unique(np.concatenate([part.steps for part in parts]))
    metrics = list(dict.fromkeys(metric for part in parts for metric in part.metrics))
    values = np.full((len(metrics), len(steps)), np.nan)
    there = np.zeros(values.shape, dtype=bool)
    protocols: dict[str, dict[int, str]] = {}
    arrays: dict[str, tuple[float, ...]] = {}
    for part in parts:
        lines = np.array([metrics.index(metric) for metric in part.metrics], dtype=np.int64)
        at = np.ix_(lines, np.searchsorted(steps, part.steps))
        values[at] = np.where(part.there, part.values, values[at])
        there[at] |= part.there
        for metric, by_step in part.protocols.items():
            protocols.setdefault(metric, {}).update(by_step)
        arrays |= part.arrays
    return Logged(steps, metrics, values, there, protocols, arrays)


def _drop_other_protocols(metric: str, by_step: dict[int, str], steps: np.ndarray, there: np.ndarray) -> list[str]:
    """Strike out of `there`, shape (n,), the values of another protocol than the last; a note where there are any."""
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


def resolve_protocols(
    config: Mapping[str, Any], recorded: Mapping[str, str], described: Mapping[str, dict[str, Any]]
) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """(metric -> fingerprint, fingerprint -> description) of a run.

    Logged fingerprints stand. For logs without them (the original study) an id is derived from what the
    config says of the evaluation and prefixed `unrecorded-`, so that it never equals a recorded one.
    """
    fingerprints, protocols = dict(recorded), dict(described)
    evaluation = config.get("eval")
    for metric, section in _PROTOCOL_CONFIG.items():
        settings = evaluation.get(section) if isinstance(evaluation, Mapping) else None
        if metric in fingerprints or not isinstance(settings, Mapping):
            continue
        described_by = {key: settings[key] for key in _PROTOCOL_FIELDS if key in settings}
        digest = hashlib.sha256(canonical(described_by).encode()).hexdigest()[:8]
        fingerprints[metric] = f"unrecorded-{digest}"
        protocols[fingerprints[metric]] = described_by
    return fingerprints, protocols


def canonical(value: Any) -> str:
    """JSON with sorted keys: equal text for equal values."""
    return json.dumps(value, sort_keys=True, default=str)


def as_seed(value: Any) -> int | None:
    """`value` where it is an integer seed, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
