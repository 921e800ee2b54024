"""Experiments as data: a report's arms, the keys in which they are meant to differ, its claims and figures."""

import fnmatch
import hashlib
import json
import re
from importlib import resources
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ddpm.errors import UserError, did_you_mean
from ddpm.files.paths import home
from ddpm.files.yaml12 import read_yaml

Role = Literal["baseline", "variant"]
Span = tuple[float, float]
OF_ONE = ("value", "protocol_change_pct")  # of one arm
_OF_ENDS = ("difference", "change_pct")  # compare two numbers, each after its statistic
# The keys that set the noise level of each timestep. A mean over timesteps is another function if one differs.
SCHEDULE = ("diffusion.beta_schedule", "diffusion.T", "diffusion.zero_terminal_snr")
OF_TIMESTEPS = ("curvature/hutch_", "curvature/ref_", "train/loss", "train/mse")  # such means


class Windows(BaseModel):
    """Parts of a run as fractions (lo, hi) of its length N: the steps with lo * N <= step <= hi * N and step > 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    early: Span = (0.0, 0.2)
    late: Span = (0.8, 1.0)


class Check(BaseModel):
    """One number of the runs, and its bounds: `at_least <= number <= at_most`.

    `metric`: a key, or a quotient of two (`a / b`). `of`: the arm's own curve (`value`), or the arm against the
    baseline, at each step (`step_difference`, `step_change_pct`) or after the statistic (`difference`, `change_pct`);
    a change is 100 (variant - baseline) / |baseline|.

    `statistic`: how the curve becomes a number. `drop_pct`: 100 (1 - mean over `window` / mean over `since`).
    `rising_pct`: share of successive steps that go up. `below_pct`: share of steps with a number below 0.
    `correlation`: Spearman's with `against_metric` at the steps that have both. `min_place`: place of the lowest value
    (1: the first logged). `farthest`: the value farthest from the middle of the bounds; if it lies between them, all
    values do.

    `equal_within`: the margin m of a claim that there is no difference, in place of bounds: `-m <= number <= m`, by two
    one-sided tests at 5 % (Schuirmann 1987), which is the 90 % interval.

    `protocol_change_pct`: the FID of the same checkpoint by the protocol that differs from the run's own in these
    values (`protocol`, measured by `ddpm evaluate`), against its own.

    `window`, `since`: steps, both ends included, or fractions of the run's length if they end at 1 or below. Without
    `window` the whole run counts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    of: Literal["value", "difference", "change_pct", "step_difference", "step_change_pct", "protocol_change_pct"] = (
        "value"
    )
    statistic: Literal[
        "mean",
        "min",
        "max",
        "min_step",
        "min_place",
        "farthest",
        "first",
        "last",
        "std",
        "drop_pct",
        "rising_pct",
        "below_pct",
        "correlation",
    ] = "mean"
    arm: str | None = None  # null: the experiment itself
    window: Span | None = None
    since: Span | None = None
    against_metric: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    equal_within: Annotated[float, Field(gt=0)] | None = None
    protocol: dict[str, str | int | float] | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Check":
        bounded = self.at_least is not None or self.at_most is not None
        if bounded == (self.equal_within is not None):
            raise ValueError("a check needs equal_within, or else at_least, at_most or both")
        if (self.of == "protocol_change_pct") != (self.protocol is not None):
            raise ValueError("protocol_change_pct, and it alone, needs protocol")
        if (self.statistic == "drop_pct") != (self.since is not None):
            raise ValueError("drop_pct, and it alone, needs since")
        if (self.statistic == "correlation") != (self.against_metric is not None):
            raise ValueError("correlation, and it alone, needs against_metric")
        if self.statistic == "farthest" and (None in (self.at_least, self.at_most) or self.of in _OF_ENDS):
            raise ValueError("farthest needs at_least and at_most, and a value or a number per step")
        return self


class Claim(BaseModel):
    """A claim about the runs in words, the checks that decide it, and a note for the reader."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    says: str
    checks: Annotated[tuple[Check, ...], Field(min_length=1)]
    note: str = ""


class Study(BaseModel):
    """One report.

    `arms`: experiment -> role, in the order shown. `context`: experiments that only the figures and tables of FID over
    steps show. `difference`: globs of the config keys in which the arms are meant to differ. `where`: experiment ->
    conditions `key=value`; runs with another value are left out, as a run can get another value under the same name.
    `figures`: their names, in order.

    `criteria` are written before the runs; an interval decides them: pass, fail or undecided. `statements` are the
    original study's about its runs; the numbers themselves decide them.

    `name` is one of the arms: the one that a claim is about if it names no other. A report over several arms alike may
    have a name of its own; then every check names its arm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    question: str
    arms: dict[str, Role]
    context: tuple[str, ...] = ()
    difference: tuple[str, ...] = ()
    where: dict[str, tuple[str, ...]] = {}
    figures: tuple[str, ...]
    windows: Windows = Field(default_factory=Windows)
    criteria: tuple[Claim, ...] = ()
    statements: tuple[Claim, ...] = ()

    @model_validator(mode="after")
    def _one_baseline(self) -> "Study":
        if list(self.arms.values()).count("baseline") != 1:
            raise ValueError("exactly one arm is the baseline")
        claims = (*self.criteria, *self.statements)
        if self.name not in self.arms and (not claims or any(c.arm is None for claim in claims for c in claim.checks)):
            raise ValueError("the experiment must be one of its own arms, or each of its checks must name its arm")
        stray = [name for name in self.where if name not in (*self.arms, *self.context)]
        if stray:
            raise ValueError(f"`where` names {', '.join(stray)}, which this experiment does not show")
        for claim in claims:
            for check in claim.checks:
                if check.arm is not None and check.arm not in self.arms:
                    raise ValueError(f"{claim.says!r} is about {check.arm}, which is not an arm of this experiment")
                if check.of not in OF_ONE and (check.arm or self.name) == self.baseline:
                    raise ValueError(f"{claim.says!r} compares the baseline with itself")
        return self

    @model_validator(mode="after")
    def _one_function(self) -> "Study":
        """No criterion compares the unweighted loss's trace across schedules: it is another function under each."""
        key = next((key for key in SCHEDULE if self._declares(key)), "")
        for claim in self.criteria if key else ():
            for check in claim.checks:
                if check.of != "value" and check.metric.startswith(OF_TIMESTEPS):
                    raise ValueError(
                        f"{claim.says!r} compares {check.metric} between arms that differ in {key}: it is another "
                        "function under each schedule. Compare curvature/neutral_trace_mean, or loss_by_noise/..."
                    )
        return self

    def _declares(self, key: str) -> bool:
        return any(fnmatch.fnmatchcase(key, glob) for glob in self.difference)

    @property
    def compares_protocols(self) -> bool:
        """Whether sampler or NFE are declared to differ, so that FIDs of different protocols are to be compared."""
        keys = ("eval.fid_milestone.sampler", "eval.fid_milestone.nfe")
        return any(map(self._declares, keys))

    @property
    def seal(self) -> str:
        """A digest of the criteria: of their words and of the checks that decide them. Notes do not count."""
        content = [claim.model_dump(mode="json", exclude={"note"}, exclude_defaults=True) for claim in self.criteria]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def baseline(self) -> str:
        """The experiment that the others are compared with."""
        return next(name for name, role in self.arms.items() if role == "baseline")


def names() -> list[str]:
    """The experiments that have a report, sorted."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def seals(experiment: str) -> dict[str, str]:
    """{study: seal} of the studies with criteria that have `experiment` as an arm: what a run records at its start."""
    studies = map(_packaged, names())
    return {study.name: study.seal for study in studies if experiment in study.arms and study.criteria}


def load(name: str) -> Study:
    """The study called `name`, or the study in the YAML file at the path `name`. `e7` and `e7c` also find the one study
    whose arms are e7a, e7b and e7c.

    Raises UserError: an unknown name, or one that several studies could mean; a file that is no study.
    """
    if name.endswith((".yaml", ".yml")):
        path = home(name)
        try:
            return _parse(path.name, path.read_bytes())
        except OSError as error:
            raise UserError(f"The experiment {path} cannot be read: {error}.") from None
    known = names()
    if name in known:
        return _packaged(name)
    meant = [other for other in known if _means(name, _packaged(other))]
    if len(meant) == 1:
        return _packaged(meant[0])
    hint = f" It could be one of: {', '.join(meant)}." if meant else did_you_mean(name, known)
    raise UserError(
        f"There is no experiment `{name}`.{hint} Those with a report: {', '.join(known)}. Or give a YAML file."
    )


def _packaged(name: str) -> Study:
    return _parse(f"{name}.yaml", (resources.files(__name__) / f"{name}.yaml").read_bytes())


def _means(name: str, study: Study) -> bool:
    """Whether `name` is an arm of the study, or what is left of all its arms without their last letter."""
    return name in study.arms or all(re.fullmatch(f"{re.escape(name)}[a-z]", arm) for arm in study.arms)


def _parse(name: str, content: bytes) -> Study:
    tree = read_yaml(content, name)
    if isinstance(tree, dict):  # an empty section changes nothing
        tree = {key: value for key, value in tree.items() if value is not None}
    try:
        return Study.model_validate(tree)
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}".removeprefix(": ")
            for item in error.errors(include_url=False)
        ]
        raise UserError(f"{name} is no experiment: {'; '.join(found)}. docs/reports.md says what one holds.") from None
