"""Which protocol FIDs were measured with, and whether arms can be compared by them."""

import re
from collections.abc import Sequence

from ddpm.config.run import flatten
from ddpm.errors import UserError
from reports.experiments.selection import Arm, Selection
from reports.runs import SCORES, Run, canonical

# clean-fid's Inceptions are `inception-MODE-DIGEST`; the study's statistics `stats/cifar10_inception_train.npz`.
_INCEPTION = re.compile(r"\Ainception-|\Astats/.*_inception_")


def measured(arms: Sequence[Arm], metric: str) -> list[tuple[str, Run]]:
    """(protocol's fingerprint, run) for every run that has values of the FID `metric`."""
    return [
        (run.protocol_of(metric), run)
        for arm in arms
        for run in arm.runs
        if len(run.series(metric)) or (metric == "final/fid" and metric in run.summary)
    ]


def protocol_difference(arms: Sequence[Arm], metric: str) -> str | None:
    """How the protocols differ with which `arms` measured `metric`, in words; None if they do not."""
    by_fingerprint: dict[str, Run] = {}
    for fingerprint, run in measured(arms, metric):
        by_fingerprint.setdefault(fingerprint, run)
    if len(by_fingerprint) < 2:
        return None
    flat = {f: flatten(run.protocols.get(f, {})) for f, run in by_fingerprint.items()}
    keys = sorted(differing_fields(list(by_fingerprint.items())))
    parts = []
    for fingerprint, run in by_fingerprint.items():
        values = ", ".join(f"{key} = {flat[fingerprint].get(key, '(not set)')}" for key in keys)
        parts.append(f"{run.name} has protocol {fingerprint}" + (f" ({values})" if values else ""))
    return "; ".join(parts)


def foreign_features(arms: Sequence[Arm], metric: str) -> list[str]:
    """The features behind the arms' FIDs `metric` that are not the original study's, sorted. The study's logs name only
    the statistics of Inception features that it used as reference (`fid_stats`)."""
    found = set()
    for fingerprint, run in measured(arms, metric):
        described = run.protocols.get(fingerprint, {})
        features = str(described.get("features") or described.get("fid_stats") or "features that are not recorded")
        if not _INCEPTION.search(features):
            found.add(features)
    return sorted(found)


def differing_fields(found: Sequence[tuple[str, Run]]) -> set[str]:
    """The fields in which protocols differ; `found`: (fingerprint, a run that describes it)."""
    flat = [flatten(run.protocols.get(fingerprint, {})) for fingerprint, run in found]
    return {
        key
        for key in set().union(*flat)
        if len({canonical(description.get(key, "(not set)")) for description in flat}) > 1
    }


def check_protocols(arms: Sequence[Arm], metric: str, allow_mixed: bool) -> str | None:
    """None if all arms measured `metric` with one protocol; else a note if `allow_mixed`, or UserError."""
    difference = protocol_difference(arms, metric)
    if difference is None:
        return None
    if not allow_mixed:
        raise UserError(
            f"{metric} was measured under different protocols, so it cannot be compared: {difference}. "
            "Pick runs of one protocol with --where, or show them side by side with --allow-mixed-protocols."
        )
    return f"{metric} was measured under different protocols and is not comparable: {difference}."


def check_all_protocols(selection: Selection, allow_mixed: bool) -> list[str]:
    """Notes on the scores whose protocols differ among the arms; none if the study compares protocols, because each
    figure that cannot show them then says so. Raises UserError for different protocols unless `allow_mixed`."""
    if selection.study.compares_protocols and not allow_mixed:
        return []
    notes = [check_protocols(selection.arms, metric, allow_mixed) for metric in SCORES]
    return [note for note in notes if note is not None]
