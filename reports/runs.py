"""The run record that every source delivers and everything above reads. No files, no W&B."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ddpm.config.run import Config, flatten
from ddpm.config.stored import upgrade
from reports.columns import LARGEST, PROTOCOL_SUFFIX, Lists

FID_METRICS = ("val/fid", "final/fid")
SCORES = (*FID_METRICS, "val/kid")
# The original study logged no fingerprint; these sections of its config describe each number's protocol.
_PROTOCOL_CONFIG = {"val/fid": "fid_milestone", "final/fid": "final", "val/kid": "kid"}
_PROTOCOL_FIELDS = ("sampler", "nfe", "n_samples", "fid_stats")
# The values that apply to configs older than these keys.
DEFAULTS: dict[str, Any] = {"loss.weighting": "constant"}
_MOST_ROWS = 10_000_000  # rows of longer runs are not counted


@dataclass(frozen=True)
class Later:
    """A number that was measured on a checkpoint after the training.

    metric: `evaluate/fid`, or `probe/` and a key of `curvature/`. setting: how it was measured, in one word. low, high:
    its 95 % interval, if known. protocol: the description of a score's protocol. noise: the seed of its samples' noise.
    """

    step: int
    metric: str
    setting: str
    value: float
    low: float | None = None
    high: float | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)
    noise: int | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """One training with one seed. Equal only to itself, so that results can be cached by run.

    `history`: numeric columns, index `step` (int, sorted, unique), NaN if a metric was not logged at a step.
    `nan_steps`: metric -> the steps at which NaN itself was logged. `lists`: metric -> step -> the list of numbers
    logged there, by step. `fingerprints`: FID metric -> protocol fingerprint. `protocols`: fingerprint -> description.
    `grids`: step -> PNG file. `state`: `finished` or `unfinished`. `notes`: how the run was read, for the report
    (skipped lines, values that are not finite). `url`: the page on W&B's server of a run that was read from there.
    `later`: what was measured on its checkpoints afterwards, in order. `criteria`: report -> digest of its criteria
    when the run began. `images`: digest of the training images, if it is known.
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
    images: str = ""
    criteria: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    lists: Lists = field(default_factory=dict)
    nan_steps: dict[str, tuple[int, ...]] = field(default_factory=dict)
    url: str | None = None
    later: tuple[Later, ...] = ()

    def protocol_of(self, metric: str) -> str:
        """Fingerprint of the protocol behind `metric`; `unrecorded-unknown` if it is not known."""
        return self.fingerprints.get(metric, "unrecorded-unknown")

    def series(self, metric: str) -> pd.Series:
        """The finite values of `metric` (below `LARGEST`) by step, shape (n,); empty if it was never logged."""
        if metric not in self.history.columns:
            return pd.Series(dtype=float, name=metric)
        values = self.history[metric]
        return values[np.abs(values.to_numpy()) < LARGEST]

    def last_list(self, metric: str) -> tuple[float, ...]:
        """The list of `metric` at the last step that has one; empty if there is none."""
        return next(reversed(self.lists.get(metric, {}).values()), ())

    # Kept with the run, and gone with it: a report asks for these many times.
    @cached_property
    def whole_config(self) -> Config | None:
        """The run's config as the trainer reads it; None if it is the original study's or incomplete."""
        own = {key: value for key, value in self.config.items() if key in Config.model_fields}
        try:
            return Config.model_validate(upgrade(own))
        except (ValueError, TypeError):
            return None

    @cached_property
    def flat(self) -> dict[str, Any]:
        """`flat_config`'s result: do not change it."""
        whole = self.whole_config
        return DEFAULTS | (flatten(whole.nested()) if whole else {}) | flatten(self.config)

    @cached_property
    def last_step(self) -> int:
        """The last step with a finite train/loss, or the last logged one of a run without; 0 for a run without rows."""
        losses = self.series("train/loss")
        steps = losses.index if "train/loss" in self.history.columns else self.history.index
        return int(steps[-1]) if len(steps) else 0

    @property
    def planned_steps(self) -> int | None:
        """The number of steps in the run's config; None if it has none."""
        steps = flatten(self.config).get("train.total_steps")
        return steps if isinstance(steps, int) else None

    @property
    def diverged_after(self) -> int | None:
        """The last step with a finite train/loss, if later ones are not finite; None for a run that did not diverge."""
        logged = self.nan_steps.get("train/loss", ())
        column = self.history.get("train/loss")
        infinite = [] if column is None else column.index[np.abs(column.to_numpy()) >= LARGEST].tolist()
        last_bad = max([*logged, *infinite], default=-1)
        return self.last_step if last_bad > self.last_step else None

    @cached_property
    def missing_rows(self) -> tuple[list[int], int]:
        """(steps without a row at which the config has one, number of steps with a row in the config).

        Counts to the end of a finished run, else to its last row. ([], 0) if the config does not tell the steps, as the
        original study's, or if they are too many to count.
        """
        cfg, said = self.whole_config, flatten(self.config)
        if cfg is None or self.history.empty or not {"train.total_steps", "logging.log_every_n_steps"} <= said.keys():
            return [], 0
        last = cfg.train.total_steps if self.state == "finished" else int(self.history.index[-1])
        last = min(last, cfg.train.total_steps)
        if last > _MOST_ROWS:
            return [], 0
        wanted = cfg.row_steps(last)
        return sorted(set(wanted) - set(self.history.index.tolist())), len(wanted)

    @property
    def name(self) -> str:
        """The run's name in messages, e.g. `e5 seed 3 (run abc123)`."""
        seed = "" if self.seed is None else f" seed {self.seed}"
        return f"{self.experiment}{seed} (run {self.id})"


def flat_config(run: Run) -> dict[str, Any]:
    """The run's config with dotted keys, including the values of keys that it is too old to have."""
    return dict(run.flat)


def as_time(value: Any) -> datetime | None:
    """ISO text -> time with a zone (UTC if it has none), so that starts can be compared; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def resolve_protocols(
    config: Mapping[str, Any],
    recorded: Mapping[str, str],
    described: Mapping[str, dict[str, Any]],
    summary: Mapping[str, Any] | None = None,
) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """(metric -> fingerprint, fingerprint -> description) of a run.

    Logged fingerprints count first, then those in the summary, as rows may be lost. Without either (the original study)
    the fingerprint is `unrecorded-` and a digest of the config's evaluation settings, so it equals no recorded one.
    """
    last = {metric: (summary or {}).get(f"{metric}{PROTOCOL_SUFFIX}") for metric in SCORES}
    fingerprints = {metric: name for metric, name in last.items() if isinstance(name, str)} | dict(recorded)
    protocols = dict(described)
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
