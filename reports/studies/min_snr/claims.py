"""The study's claims, held against our runs by intervals, beside what its own logs say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict

from ddpm.files.yaml12 import read_yaml
from reports.experiments import Check
from reports.experiments.selection import Arm, Selection
from reports.judging.checks import bounds, describe_check, not_whole, unit
from reports.studies.min_snr import fids, scores, traces
from reports.studies.min_snr.known import Known, decide, of_check, together
from reports.studies.min_snr.material import FAITHFUL, Material

_FID_WORDS = {
    "change": "change of FID from the first step scored to the last",
    "difference": "FID at the last step scored",
    "share": "FID at the last step scored, of uniform noise's",
    "band": "highest less lowest FID, of the mean",
}


class FidCheck(BaseModel):
    """A number of a sampler's FIDs in per cent, and where it should lie; see `claims.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fid: Literal["change", "difference", "share", "band"]
    sampler: str
    arm: str = "e6"
    at_least: float | None = None
    at_most: float | None = None


class PairsCheck(BaseModel):
    """The change of E6's mean trace over the checkpoints, of the trained (`hutch`) or the common (`ref`) loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: Literal["hutch", "ref"]
    at_least: float | None = None
    at_most: float | None = None


AnyCheck = Check | FidCheck | PairsCheck


class Said(BaseModel):
    """A claim of a document. Without checks, `note` says why none of the runs can tell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    says: str
    checks: tuple[AnyCheck, ...]
    note: str = ""


class Document(BaseModel):
    """The claims of one of the study's documents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    document: str
    claims: tuple[Said, ...]


@dataclass(frozen=True)
class Line:
    """A check of a claim: what is measured and where it should lie, in words; the number of the study's own log, or
    why there is none; ours; and what ours decides."""

    what: str
    wanted: str
    unit: str
    study: Known
    ours: Known
    verdict: str


@dataclass(frozen=True)
class Judged:
    """A claim, its checks, and the verdict of all of them."""

    document: str
    said: Said
    lines: tuple[Line, ...]
    verdict: str


def load_claims() -> list[Document]:
    """The claims of `claims.yaml`."""
    content = (resources.files("reports.studies.min_snr") / "claims.yaml").read_bytes()
    return [Document.model_validate(item) for item in read_yaml(content, "claims.yaml")]


def judge(m: Material) -> list[Judged]:
    """Every claim, in the documents' order: of e5 and e6, or of the faithful rerun, where the study's draws matter."""
    ours = replace(m.selection, arms=tuple(m.arms))
    judged = []
    for document in load_claims():
        for said in document.claims:
            lines = tuple(_line(check, ours, m.study, m.pairs) for check in said.checks)
            verdict = together([line.verdict for line in lines])
            judged.append(Judged(document.document, said, lines, verdict))
    return judged


def _line(check: AnyCheck, ours: Selection, study: Selection, pairs: pd.DataFrame) -> Line:
    low = -math.inf if check.at_least is None else check.at_least
    high = math.inf if check.at_most is None else check.at_most
    if isinstance(check, PairsCheck):
        found, theirs = traces.of_pairs(pairs, check.pairs), Known(reason="not logged")
    else:
        found, theirs = measure(check, ours), measure(_as_e5(check), study, single=True)
    plain = check if isinstance(check, Check) else None
    percent = Check(metric="", of="change_pct", at_least=check.at_least, at_most=check.at_most)
    what = describe_check(plain, ours.study) if plain else _what(check)
    return Line(what, bounds(plain or percent), unit(plain or percent), theirs, found, decide(found, low, high))


def _as_e5(check: Check | FidCheck) -> Check | FidCheck:
    """The check of the run that the faithful one repeats."""
    return check.model_copy(update={"arm": "e5"}) if check.arm == FAITHFUL else check


def _what(check: AnyCheck) -> str:
    """What a check of `claims.yaml`'s own kinds measures, in words."""
    if isinstance(check, FidCheck):
        against = ", e6 against e5" if check.fid == "difference" else f", {check.arm}"
        return f"{_FID_WORDS[check.fid]}, {scores.NAMES[check.sampler]}{against}"
    assert isinstance(check, PairsCheck)
    return (
        f"change of the mean trace over the checkpoints, {traces.LOSSES[traces.OF_PAIRS[check.pairs]]}, e6 against e5"
    )


def measure(check: Check | FidCheck, selection: Selection, *, single: bool = False) -> Known:
    """The check's number of the runs of a selection; without one, `reason` says why. single: without intervals."""
    compares = check.fid == "difference" if isinstance(check, FidCheck) else check.of != "value"
    names = [selection.study.baseline, "e6"] if compares else [check.arm or "e6"]
    arms = [arm for name in names if (arm := selection.arm(name)) is not None]
    if len(arms) < len(names):
        return Known(reason=f"no run of {', '.join(name for name in names if selection.arm(name) is None)}")
    found = _of_fid(check, arms) if isinstance(check, FidCheck) else _of_metric(check, arms, single)
    if found.number is None:
        return Known(reason=found.reason or "not measured")
    return found if single else replace(found, reason=not_whole(arms))


def _of_metric(check: Check, arms: Sequence[Arm], single: bool) -> Known:
    if any(not len(run.series(name)) for arm in arms for run in arm.runs for name in check.metric.split(" / ")):
        return Known(reason="not logged")
    return of_check(check, arms, single=single)


def _of_fid(check: FidCheck, arms: Sequence[Arm]) -> Known:
    steps = scores.steps_of(arms, check.sampler)
    if not steps:
        return Known(reason=f"not scored by {scores.NAMES[check.sampler]}")
    if check.fid in ("change", "band") and len(steps) < 2:
        return Known(reason=f"scored at one step by {scores.NAMES[check.sampler]}")
    if check.fid == "change":
        return fids.change(arms[0], check.sampler, steps[0], steps[-1])
    if check.fid == "band":
        return fids.band(arms[0], check.sampler)
    if check.fid == "share":
        return fids.share(arms[0], check.sampler, steps[-1])
    return fids.difference(arms[0], arms[1], check.sampler, steps[-1])
