"""The text of docs/findings.md."""

import json
import re
from collections.abc import Sequence
from typing import Any

from scipy.special import stdtrit

from reports.experiments.selection import Selection
from reports.library import sentences
from reports.runs import Run
from reports.studies.min_snr import against_log, fids, scores, summary, tables
from reports.studies.min_snr.claims import Judged
from reports.studies.min_snr.known import Known, side
from reports.studies.min_snr.material import FAITHFUL, Material
from reports.text.markup import Markdown, code, template

_SHORT_COMMIT = 10
STUDY_NOISE = 226  # measured with the study's own pipeline; no log has it


def page(material: Material, judged: Sequence[Judged]) -> str:
    """The Markdown text. Images are linked as `findings/NAME.png`."""
    m, log = material, material.study.arm("e5")
    ours = m.selection.arm("e5")
    gaps = against_log.gaps(log, ours) if log and ours else []
    faithful = against_log.gaps(log, m.faithful) if log and m.faithful else []
    predicted = tables.predicted_rows(m.selection)
    text = template("studies/min_snr/findings.md.jinja").render(
        answers=summary.answers(m.selection, m.pairs, m.study),
        log_line=summary.log_line(gaps, faithful),
        claims_line=summary.claims_line(judged),
        missing=_missing(m),
        runs=[_run_row(run) for arm in m.arms for run in arm.runs],
        columns=[f"{arm.experiment} {run.seed}" for arm in m.selection.arms for run in arm.runs],
        fids=tables.fid_rows(m.selection),
        opposite=_opposite(m.selection),
        arms=[arm.experiment for arm in m.selection.arms],
        predicted=predicted,
        predicted_lines=tables.predicted_lines(predicted, m.selection.arms) if predicted else [],
        recon_n=m.selection.arms[0].config.get("eval.recon.n_samples", "some"),
        trends=[tables.trend_row(*row) for row in summary.trends(m.selection)],
        differences=tables.difference_rows(m.selection),
        faithful_fids=tables.fids_of(m.faithful, scores.OLD) if m.faithful else "",
        changes=tables.change_rows(m.selection),
        study_changes=tables.change_rows(m.study),
        pairs=tables.pair_rows(m.pairs),
        gaps=tables.gap_rows(gaps, faithful),
        has_faithful=bool(faithful),
        seeds={arm.experiment: len(arm.runs) for arm in m.arms},
        recurring=against_log.recurring(log.runs[0]) if log else (0, 0),
        clipped=against_log.above_clip([ours]) if ours else (0, 0),
        claims=[row for each in judged for row in tables.claim_rows(each)],
        samples=m.grids_of,
        sweep=tables.sweep_rows(m.swept),
        sweep_sentences=sentences(m.swept) if m.swept else [],
        frame=m.frame,
        config=m.selection.arms[0].config,
        band=_band(m.study),
        study_noise=STUDY_NOISE,
        seed_reach=f"{stdtrit(1, 0.975):.1f}",
        commands=_commands(m),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


# ---- what there is ---------------------------------------------------------------------------------------


def _missing(m: Material) -> list[str]:
    """What the page would rest on and does not."""
    lines = [f"There is no run of {name}." for name in m.selection.missing]
    for arm in m.selection.arms:
        if len(arm.runs) == 1:
            lines.append(f"{arm.experiment} has one seed: no interval over seeds.")
        for run in arm.runs:
            absent = [scores.NAMES[s] for s in scores.SAMPLERS if not len(run.series(scores.metric(s)))]
            lines += [f"{run.name} was not scored by {' and '.join(absent)}."] if absent else []
    short = [run for arm in m.arms for run in arm.runs if _short(run)]
    lines += [f"{run.name} stands at step {run.last_step} of {run.planned_steps}." for run in short]
    if m.faithful is None:
        lines.append(f"There is no run of {FAITHFUL}, the faithful one.")
    if m.pairs.empty:
        lines.append("No checkpoint was probed draw by draw (`ddpm probe --out`).")
    if not m.swept:
        lines.append("There is no record of a sweep.")
    return lines + m.notes


def _short(run: Run) -> bool:
    return run.last_step < (run.planned_steps or 0)


def _run_row(run: Run) -> dict[str, Any]:
    return {
        "experiment": run.experiment,
        "id": run.id,
        "seed": run.seed,
        "last_step": run.last_step,
        "state": run.state,
        "commits": Markdown(", ".join(code(commit[:_SHORT_COMMIT]) for commit in _commits(run))),
    }


def _commits(run: Run) -> list[str]:
    """Of the code that the run was begun with, and of what continued it."""
    sessions = json.loads((run.source / "run.json").read_text(encoding="utf-8"))["sessions"]
    return list(dict.fromkeys([run.commit or "unknown", *(each["commit"] for each in sessions if each.get("commit"))]))


def _band(study: Selection) -> str:
    """The lowest and the highest FID of the study's logs."""
    found = [run.series("val/fid") for arm in study.arms for run in arm.runs]
    return f"{min(x.min() for x in found):.2f} to {max(x.max() for x in found):.2f}"


def _opposite(selection: Selection) -> list[str]:
    """Of each arm whether the study's sampler and the respaced one go opposite ways, and what a rise by both says."""
    lines = []
    for arm in selection.arms:
        steps = scores.steps_of([arm], scores.OLD, scores.RESPACED)
        if len(steps) > 1:
            changes = [fids.change(arm, s, steps[0], steps[-1]) for s in (scores.OLD, scores.RESPACED)]
            lines.append(f"{arm.experiment}, by the study's sampler and by respaced DDPM: {summary.opposite(changes)}.")
    rising = [arm.experiment for sampler, arm, _, known in summary.trends(selection) if _rises(sampler, known)]
    if rising:
        names = " and ".join(rising)
        lines.append(
            f"With the sampler put right FID rises with training, too, in {names}. What the samples are like is above; "
            "what the networks know, where that was measured, below."
        )
    return lines


def _rises(sampler: str, known: Known) -> bool:
    return sampler == scores.RESPACED and side(known)[0] > 0


def _commands(m: Material) -> list[str]:
    """How the runs were made, scored and probed."""
    return [*_trainings(m), *_evaluations(m), *_probes(m), *_samples(m)]


def _trainings(m: Material) -> list[str]:
    runs = [run for arm in m.arms for run in arm.runs]
    return [f"ddpm train configs/findings/{run.experiment}.yaml --data.root=CIFAR --seed={run.seed}" for run in runs]


def _evaluations(m: Material) -> list[str]:
    """One for each set of samplers that `ddpm evaluate` drew some steps' samples by."""
    runs = [run for arm in m.selection.arms for run in arm.runs]
    own = {run.protocols.get(run.protocol_of("val/fid"), {}).get("sampler") for run in runs}
    at: dict[int, list[str]] = {}
    for sampler in scores.SAMPLERS:
        for step in scores.steps_of(m.selection.arms, sampler):
            again = any(scores.influence_name(sampler, step) in run.arrays for run in runs)
            if again or sampler not in own:
                at.setdefault(step, []).append(sampler)
    how = f"--nfe {m.frame.get('nfe')} --n {m.frame.get('n_samples')} --seed {m.frame.get('noise')}"
    how += " --influence" * any("_influence_" in name for run in runs for name in run.arrays)
    return [
        f"ddpm evaluate RUN/checkpoints/step-{step:06d}.pt --sampler {','.join(samplers)} {how}"
        for step, samplers in sorted(at.items())
    ]


def _probes(m: Material) -> list[str]:
    if m.pairs.empty:
        return []
    count = str(m.pairs["interval_over"].iloc[0]).split()[0]
    return [f"ddpm probe RUN --method hutchinson --probes {count} --out docs/findings/probes/EXPERIMENT-sSEED.jsonl"]


def _samples(m: Material) -> list[str]:
    return [
        f"ddpm sample RUN/checkpoints/step-{step:06d}.pt --sampler {sampler} --nfe {m.frame.get('nfe')} --n 16   "
        f"# its grid.png: docs/findings/samples/{m.grids_of}/{sampler}-{step:06d}.png"
        for sampler, step in sorted(m.grids)
    ]
