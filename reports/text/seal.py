"""Whether a report's criteria are those that stood when its runs began."""

from reports.experiments import names
from reports.experiments.selection import Selection


def seal_sentence(selection: Selection) -> tuple[str, bool]:
    """(a sentence on the digest of the criteria and on the runs that recorded it at their start; whether it is a
    warning: a run recorded another one). Empty for a report without criteria."""
    study, runs = selection.study, [run for arm in selection.arms for run in arm.runs]
    if not study.criteria:
        return "", False
    if study.name not in names():
        return "The criteria are in a file outside the package: no run can have recorded them at its start.", False
    recorded = [run for run in runs if study.name in run.criteria]
    changed = [run for run in recorded if run.criteria[study.name] != study.seal]
    older = len(runs) - len(recorded)
    silent = f" {_runs(older)} recorded none (older than this, or their record was lost)." if older else ""
    if changed:
        each = ", ".join(
            f"{run.name}, begun {run.started.strftime('%Y-%m-%d %H:%M') if run.started else 'at an unknown time'}, "
            f"recorded {run.criteria[study.name]}"
            for run in changed
        )
        said = f"The criteria were changed after the first run began: their digest is {study.seal}, but {each}."
        return f"{said}{silent}", True
    if not recorded:
        said = f"Not one of the {len(runs)} runs recorded a digest of the criteria (now {study.seal}) at its start"
        return f"{said}: nothing shows that the criteria are older than the runs.", False
    if older:
        said = f"{len(recorded)} of {len(runs)} runs began after the criteria were sealed: they recorded their digest"
        return f"{said}, {study.seal}, at their start.{silent}", False
    return (
        f"The criteria were sealed before the first run: digest {study.seal}, recorded by {len(recorded)} of "
        f"{_runs(len(runs))} at their start.",
        False,
    )


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"
