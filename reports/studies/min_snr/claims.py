"""The study's claims, judged by our runs' intervals, beside what the study's own logs say."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ddpm.files.yaml12 import read_yaml
from reports.experiments import Check
from reports.experiments.selection import Arm, Selection
from reports.judging.checks import bounds, describe_check, find_arms, not_whole, unit, within_bounds
from reports.judging.judge import Judged, Outcome, corrected, judge, together
from reports.stats.estimates import with_both_intervals
from reports.stats.intervals import Estimate
from reports.studies.min_snr import fids, scores, traces
from reports.studies.min_snr.material import FAITHFUL, Material

_FID_WORDS = {
    "change": "change of FID from the first step scored to the last",
    "difference": "FID at the last step scored",
    "share": "FID at the last step scored, of uniform noise's",
    "band": "highest less lowest FID, of the mean",
}


class FidCheck(BaseModel):
    """A number made of a sampler's FIDs, in per cent, and its bounds; see `claims.yaml`."""

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
    """A claim of a document. Without checks, `note` says why no run can tell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    says: str
    checks: tuple[AnyCheck, ...]
    note: str = ""


class Document(BaseModel):
    """The claims of one of the study's documents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    document: str
    claims: tuple[Said, ...]


def load_claims() -> list[Document]:
    """The claims of `claims.yaml`."""
    content = (resources.files("reports.studies.min_snr") / "claims.yaml").read_bytes()
    return [Document.model_validate(item) for item in read_yaml(content, "claims.yaml")]


def judge_claims(m: Material) -> list[Judged]:
    """Every claim, in the documents' order, also after Holm's correction over all of them. Checks name the faithful
    rerun where the study's own draws matter."""
    judged = []
    for document in load_claims():
        for said in document.claims:
            outcomes = tuple(_outcome(check, m) for check in said.checks)
            verdict = together([outcome.verdict for outcome in outcomes])
            p = min(verdict.p) if verdict.p else None
            judged.append(Judged(said.says, said.note, outcomes, str(verdict), document.document, p))
    return corrected(judged, "claims")


def _outcome(check: AnyCheck, m: Material) -> Outcome:
    if isinstance(check, PairsCheck):
        found, study = traces.of_pairs(m.pairs, check.pairs), Estimate(reason="not logged")
    else:
        found = measure(check, replace(m.selection, arms=tuple(m.arms)))
        study = measure(_as_e5(check), m.study)
    verdict = judge(found, check.at_least, check.at_most)
    if isinstance(check, Check):
        what, wanted, end = describe_check(check, m.selection.study), bounds(check), unit(check)
    else:
        what, wanted, end = _what(check), within_bounds(check.at_least, check.at_most, " %"), " %"
    return Outcome(check, what, wanted, end, found, verdict, study)


def _as_e5(check: Check | FidCheck) -> Check | FidCheck:
    """The check for the run that the faithful rerun repeats."""
    return check.model_copy(update={"arm": "e5"}) if check.arm == FAITHFUL else check


def _what(check: FidCheck | PairsCheck) -> str:
    """What one of this study's own checks measures, in words."""
    if isinstance(check, FidCheck):
        against = ", e6 against e5" if check.fid == "difference" else f", {check.arm}"
        return f"{_FID_WORDS[check.fid]}, {scores.NAMES[check.sampler]}{against}"
    loss = traces.LOSSES[traces.OF_PAIRS[check.pairs]]
    return f"change of the mean trace over the checkpoints, {loss}, e6 against e5"


def measure(check: Check | FidCheck, selection: Selection) -> Estimate:
    """The check's number in the runs of a selection; without one, `reason` says why."""
    compares = check.fid == "difference" if isinstance(check, FidCheck) else check.of != "value"
    arms, missing = find_arms([selection.study.baseline, "e6"] if compares else [check.arm or "e6"], selection)
    if missing:
        return Estimate(reason=missing)
    found = _of_fid(check, arms) if isinstance(check, FidCheck) else _of_metric(check, arms)
    if found.number is None:
        return Estimate(reason=found.reason or "not measured")
    return replace(found, reason=not_whole(arms))


def _of_metric(check: Check, arms: Sequence[Arm]) -> Estimate:
    if any(not len(run.series(name)) for arm in arms for run in arm.runs for name in check.metric.split(" / ")):
        return Estimate(reason="not logged")
    return with_both_intervals(check, arms)


def _of_fid(check: FidCheck, arms: Sequence[Arm]) -> Estimate:
    steps = scores.steps_of(arms, check.sampler)
    if not steps:
        return Estimate(reason=f"not scored by {scores.NAMES[check.sampler]}")
    if check.fid in ("change", "band") and len(steps) < 2:
        return Estimate(reason=f"scored at one step by {scores.NAMES[check.sampler]}")
    if check.fid == "change":
        return fids.change(arms[0], check.sampler, steps[0], steps[-1])
    if check.fid == "band":
        return fids.band(arms[0], check.sampler)
    if check.fid == "share":
        return fids.share(arms[0], check.sampler, steps[-1])
    return fids.difference(arms[0], arms[1], check.sampler, steps[-1])
