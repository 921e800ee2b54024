"""The run record: what every source delivers and everything above reads. Pure: no files, no W&B."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

FID_METRICS = ("val/fid", "final/fid")
PROTOCOL_SUFFIX = "_protocol"
# Where the config of the original study, which logged no fingerprint, describes each number's protocol.
_PROTOCOL_CONFIG = {"val/fid": "fid_milestone", "final/fid": "final"}
_PROTOCOL_FIELDS = ("sampler", "nfe", "n_samples", "fid_stats")
# Configs older than a key mean this by leaving it out.
DEFAULTS: dict[str, Any] = {"loss.weighting": "constant"}
_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Run:
    """One training with one seed.

    `history`: numeric columns, index `step` (int, sorted, unique); a metric that was not logged at a step
    is NaN there. `fingerprints`: FID metric -> protocol fingerprint; `protocols`: fingerprint ->
    description. `grids`: step -> PNG file. `state`: `finished` or `unfinished`. `notes`: what a reader of
    the report must know about how the run was read (skipped lines, values that are not finite).
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

    def protocol_of(self, metric: str) -> str:
        """Fingerprint of the protocol behind `metric`; `unrecorded-unknown` where nothing tells."""
        return self.fingerprints.get(metric, "unrecorded-unknown")

    def series(self, metric: str) -> pd.Series:
        """The finite values of `metric` by step, shape (n,); empty when it was never logged."""
        if metric not in self.history.columns:
            return pd.Series(dtype=float, name=metric)
        values = self.history[metric]
        return values[values.map(math.isfinite)].astype(float)

    @property
    def last_step(self) -> int:
        """The last logged step; 0 for a run without rows."""
        return int(self.history.index[-1]) if len(self.history) else 0

    @property
    def name(self) -> str:
        """How messages call the run, e.g. `e5 seed 3 (run abc123)`."""
        seed = "" if self.seed is None else f" seed {self.seed}"
        return f"{self.experiment}{seed} (run {self.id})"


@dataclass(frozen=True)
class Rows:
    """What `merge_rows` makes of raw rows: the frame, the protocols named in them, and notes."""

    history: pd.DataFrame
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
    return DEFAULTS | flatten(run.config)


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
    """Rows `(step, {metric: value})` in the order written -> one row per step, the last value per key wins.

    A resumed run writes some steps again; the last word is the one that the surviving weights saw.
    Values of a FID that were taken under another protocol than the run's last one are dropped (noted).
    """
    numbers: dict[int, dict[str, float]] = {}
    protocols: dict[str, dict[int, str]] = {}
    for step, row in rows:
        target = numbers.setdefault(step, {})
        for key, value in row.items():
            number = as_number(value)
            if number is not None:
                target[key] = number
            elif key.endswith(PROTOCOL_SUFFIX) and isinstance(value, str):
                protocols.setdefault(key.removesuffix(PROTOCOL_SUFFIX), {})[step] = value
    notes = _drop_other_protocols(numbers, protocols) + _nonfinite_notes(numbers)
    history = pd.DataFrame.from_dict(numbers, orient="index").astype(float).sort_index()
    history.index = history.index.astype("int64")
    history.index.name = "step"
    last = {metric: by_step[max(by_step)] for metric, by_step in protocols.items()}
    return Rows(history, last, tuple(notes))


def _drop_other_protocols(numbers: dict[int, dict[str, float]], protocols: dict[str, dict[int, str]]) -> list[str]:
    notes = []
    for metric, by_step in protocols.items():
        last = by_step[max(by_step)]
        others = [step for step, fingerprint in by_step.items() if fingerprint != last]
        dropped = [step for step in others if numbers[step].pop(metric, None) is not None]
        if dropped:
            notes.append(
                f"{metric} changed its protocol within the run: {len(dropped)} earlier value(s), "
                f"steps {min(dropped)} to {max(dropped)}, are left out"
            )
    return notes


def _nonfinite_notes(numbers: dict[int, dict[str, float]]) -> list[str]:
    bad: dict[str, list[int]] = {}
    for step, row in numbers.items():
        for key, value in row.items():
            if not math.isfinite(value):
                bad.setdefault(key, []).append(step)
    return [
        f"{key} is NaN or infinite at {len(steps)} step(s), first at {min(steps)}; "
        "those values are in no mean and no figure"
        for key, steps in sorted(bad.items())
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
