"""The texts of docs/findings.md, which has the answers, and of docs/rerun.md, which has what is behind them."""

import json
import re
from collections.abc import Sequence
from typing import Any

from scipy import stats

from reports.experiments.selection import Selection
from reports.figures.style import thousands
from reports.judging.judge import Judged
from reports.library import sentences
from reports.runs import Run
from reports.studies.min_snr import against_log, answer_tables, scores, summary, tables
from reports.studies.min_snr.material import FAITHFUL, Material, split_of
from reports.studies.min_snr.questions import Answer, selections
from reports.text.markup import Markdown, code, template
from reports.text.pages import claim_rows
from reports.text.seal import seal_sentence

_SHORT_COMMIT = 10
STUDY_NOISE = 226  # FID of uniform noise, measured with the study's own pipeline; no log has it


def findings(m: Material, judged: Sequence[Judged], answered: Sequence[Answer]) -> str:
    """The Markdown text of docs/findings.md. Images are linked as `findings/NAME.png`."""
    judges, selected = answer_tables.judged_twice(m.runs), selections(m.runs, [each.question for each in answered])
    ours = [run for run in m.runs if run.experiment != FAITHFUL]
    text = template("studies/min_snr/findings.md.jinja").render(
        seals=[(name, seal_sentence(each)[0]) for name, each in selected.items() if each],
        answers=[{**vars(each), "rows": criterion_rows(each)} for each in answered],
        arms=answer_tables.arm_rows(ours),
        along=answer_tables.along_training(ours),
        first=thousands(answer_tables.FIRST),
        grey=f"{tables.GREY:.2f}",
        library=sentences(m.library, bool(split_of(m.library)), known=True),
        late_chain=answer_tables.late_chain_rows(ours),
        variances=answer_tables.variance_rows(ours),
        panel=answer_tables.panel_rows(m.panel),
        judges=answer_tables.judge_table(judges),
        agreement=answer_tables.agreement(judges),
        absent=absent_lines(m.runs),
        counts={"all": len(judged), **summary.counts(judged)},
        tested=sum(each.p is not None for each in judged),
        lost=len(tables.lost(judged)),
        claims=[row for each in judged for row in tables.claim_rows(each)],
        frame=m.frame,
    )
    return _tidy(text)


def criterion_rows(answer: Answer) -> list[dict[str, str]]:
    """The rows of the criteria with their reports, also of reports without runs."""
    rows = []
    for key, each in zip(answer.question.criteria, answer.judged, strict=True):
        not_run = {"says": each.says, "verdict": each.verdict} | dict.fromkeys(("number", "interval", "adjusted"), "–")
        found = claim_rows([each]) or [not_run]
        rows += [row | {"report": key.partition(".")[0] if row["says"] else ""} for row in found]
    return rows


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


# The seeds that each arm was to have.
PLANNED = {"e5": 4, "e6": 4} | dict.fromkeys(("e5_x0", "e6_x0", "e5_v", "e6_v", "e9a", "e9b"), 2)


def absent_lines(runs: Sequence[Run]) -> list[str]:
    """Which of the planned runs are missing or unfinished."""
    lines = []
    for arm, wanted in PLANNED.items():
        mine = [run for run in runs if run.experiment == arm]
        done = [run for run in mine if run.last_step >= (run.planned_steps or 0)]
        lines += [f"**{arm}**: {len(done)} of {wanted} seeds."] * (len(done) < wanted)
        lines += [f"{run.name} is at step {run.last_step} of {run.planned_steps}." for run in mine if run not in done]
    return lines


def page(m: Material, judged: Sequence[Judged]) -> str:
    """The Markdown text of docs/rerun.md."""
    log, ours = m.study.arm("e5"), m.selection.arm("e5")
    gaps = against_log.gaps(log, ours) if log and ours else []
    faithful = against_log.gaps(log, m.faithful) if log and m.faithful else []
    trends = summary.trends(m.selection)
    predicted = tables.predicted_rows(m.selection)
    text = template("studies/min_snr/rerun.md.jinja").render(
        summary=summary.summary(m.selection, m.pairs, m.study, gaps, faithful, judged),
        missing=_missing(m),
        runs=[_run_row(run) for arm in m.arms for run in arm.runs],
        columns=[f"{arm.experiment} {run.seed}" for arm in m.selection.arms for run in arm.runs],
        fids=tables.fid_rows(m.selection),
        both_ways=summary.both_ways(m.selection),
        rising=[t.arm.experiment for t in trends if t.sampler == scores.RESPACED and t.sign > 0],
        arms=[arm.experiment for arm in m.selection.arms],
        predicted=predicted,
        known=tables.predicted_counts(predicted) if predicted else {},
        recon_n=m.selection.arms[0].config.get("eval.recon.n_samples", "some"),
        trends=[tables.trend_row(trend) for trend in trends],
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
        samples=m.grids_of,
        sweep=tables.sweep_rows(m.swept),
        sweep_sentences=sentences(m.swept, bool(m.split)) if m.swept else [],
        sweep_split=m.split,
        frame=m.frame,
        config=m.selection.arms[0].config,
        band=_band(m.study),
        study_noise=STUDY_NOISE,
        seed_reach=f"{stats.t.ppf(0.975, 1):.1f}",
        scorings=_scorings(m),
        influence=any(
            name.endswith("_influence") for arm in m.selection.arms for run in arm.runs for name in run.lists
        ),
        draws="" if m.pairs.empty else str(m.pairs["interval_over"].iloc[0]).split()[0],
        grids=sorted(m.grids),
    )
    return _tidy(text)


# ---- what there is ---------------------------------------------------------------------------------------


def _missing(m: Material) -> dict[str, Any]:
    """What the page would rest on and does not; empty if nothing is missing."""
    ours = [run for arm in m.selection.arms for run in arm.runs]
    absent = {
        run.name: [scores.NAMES[s] for s in scores.SAMPLERS if not len(run.series(scores.metric(s)))] for run in ours
    }
    found = {
        "arms": m.selection.missing,
        "seeds": [arm.experiment for arm in m.selection.arms if len(arm.runs) == 1],
        "unscored": {name: samplers for name, samplers in absent.items() if samplers},
        "short": [run for arm in m.arms for run in arm.runs if run.last_step < (run.planned_steps or 0)],
        "faithful": m.faithful is None,
        "pairs": m.pairs.empty,
        "sweep": not m.swept,
        "notes": m.notes,
    }
    return found if any(found.values()) else {}


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
    """The commits of the code that started the run and of the code that resumed it."""
    sessions = json.loads((run.source / "run.json").read_text(encoding="utf-8"))["sessions"]
    return list(dict.fromkeys([run.commit or "unknown", *(each["commit"] for each in sessions if each.get("commit"))]))


def _band(study: Selection) -> str:
    """The lowest and the highest FID of the study's logs."""
    found = [run.series("val/fid") for arm in study.arms for run in arm.runs]
    return f"{min(x.min() for x in found):.2f} to {max(x.max() for x in found):.2f}"


def _scorings(m: Material) -> dict[int, list[str]]:
    """By step, the samplers whose FIDs `ddpm evaluate` made. The runs' own sampler needs it only for influences."""
    runs = [run for arm in m.selection.arms for run in arm.runs]
    own = {run.protocols.get(run.protocol_of("val/fid"), {}).get("sampler") for run in runs}
    at: dict[int, list[str]] = {}
    for sampler in scores.SAMPLERS:
        for step in scores.steps_of(m.selection.arms, sampler):
            again = any(step in run.lists.get(scores.influence_name(sampler), ()) for run in runs)
            if again or sampler not in own:
                at.setdefault(step, []).append(sampler)
    return dict(sorted(at.items()))
