"""The tables of the rerun and of the claims: rows of text, every number formatted here."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ddpm.metrics import Z95
from reports.experiments.selection import Arm, Selection
from reports.figures.library import Entry
from reports.figures.style import thousands
from reports.judging.judge import Judged, Outcome, side
from reports.runs import Run, flat_config
from reports.stats.intervals import Estimate
from reports.stats.statistics import curve
from reports.studies.min_snr import against_log, fids, scores, traces
from reports.studies.min_snr.against_log import Gap
from reports.studies.min_snr.summary import Trend, excess, interval_text
from reports.text.markup import Markdown
from reports.text.verdicts import number as digits

PREDICTED = "val/recon_mse_t"
# The mean square error of mid-grey on [-1, 1], from CIFAR-10's published channel means and standard deviations.
_CHANNELS = ((0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616))
GREY = sum((2 * mean - 1) ** 2 + (2 * std) ** 2 for mean, std in _CHANNELS) / 3

# ---- FID -------------------------------------------------------------------------------------------------


def fid_rows(selection: Selection) -> list[dict[str, Any]]:
    """A row for each sampler and step: every run's FID -+ half its interval, and those of real images and noise."""
    rows = []
    runs = [run for arm in selection.arms for run in arm.runs]
    for sampler in scores.SAMPLERS:
        name = scores.metric(sampler)
        for step in sorted({int(str(step)) for run in runs for step in run.series(name).index}):
            first = next(run for run in runs if step in run.series(name).index)
            row: dict[str, Any] = {"sampler": scores.NAMES[sampler], "step": f"{step:,}"}
            row["cells"] = [_fid_cell(run, sampler, step) for run in runs]
            rows.append(row | {e: digits(first.series(f"{name}_{e}").get(step), 3) for e in ("floor", "ceiling")})
    return rows


def _with_error(value: float, sem: float) -> str:
    """`24.73 ± 1.83`: an FID with half its 95 % interval over the noise of the samples, if known."""
    return f"{value:.2f}" + ("" if pd.isna(sem) else f" ± {Z95 * sem:.2f}")


def _fid_cell(run: Run, sampler: str, step: int) -> str:
    if step not in run.series(scores.metric(sampler)).index:
        return "–"
    found = fids.of(run, sampler, step)
    return _with_error(found.value, found.sem)


def predicted_rows(selection: Selection) -> list[dict[str, Any]]:
    """A row for each timestep t of `val/recon_mse_tXXXX`: each arm's error, mean over seeds, at the first and the last
    step at which all arms measured it."""
    rows = []
    logged = {str(name) for arm in selection.arms for run in arm.runs for name in run.history}
    for metric in sorted(name for name in logged if name.startswith(PREDICTED)):
        curves = [curve(arm, metric) for arm in selection.arms]
        steps = sorted(set.intersection(*(set(values.index) for values in curves)))
        if len(steps) > 1:
            errors = [(float(values[steps[0]]), float(values[steps[-1]])) for values in curves]
            rows.append({"t": int(metric.removeprefix(PREDICTED)), "steps": (steps[0], steps[-1]), "errors": errors})
    return rows


def predicted_counts(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """falls: at how many timesteps each arm's error falls. lower: the t at which the second arm's last error is the
    lower one. blind: the t at which every arm's first, and last, error is above mid-grey's."""
    arms = range(len(rows[0]["errors"]))
    return {
        "falls": [sum(row["errors"][arm][1] < row["errors"][arm][0] for row in rows) for arm in arms],
        "lower": [row["t"] for row in rows if len(arms) > 1 and row["errors"][1][1] < row["errors"][0][1]],
        "blind": [[row["t"] for row in rows if min(pair[end] for pair in row["errors"]) > GREY] for end in (0, 1)],
        "grey": f"{GREY:.2f}",
        "count": len(rows),
    }


def trend_row(trend: Trend) -> dict[str, str]:
    """A row of the table of trends."""
    first, last = trend.steps[0], trend.steps[-1]
    return {
        "sampler": scores.NAMES[trend.sampler],
        "arm": trend.arm.experiment,
        "span": f"{thousands(first)} to {thousands(last)}",
        "ends": f"{digits(trend.first.number, 4)} to {digits(trend.last.number, 4)}",
        "number": f"{trend.change.number:+.1f}",
        "spread": spread(trend.change, 1),
        "word": _word(trend.change, "rises", "falls", "not told from flat"),
    }


def difference_rows(selection: Selection) -> list[dict[str, str]]:
    """E6's FID less E5's, a row for each sampler and step that both have."""
    baseline, variant = selection.arm("e5"), selection.arm("e6")
    if baseline is None or variant is None:
        return []
    rows = []
    for sampler in scores.SAMPLERS:
        for step in scores.steps_of([baseline, variant], sampler):
            found = fids.difference(baseline, variant, sampler, step, percent=False)
            above = excess(baseline, sampler, step)
            rows.append(
                {
                    "sampler": scores.NAMES[sampler],
                    "step": f"{step:,}",
                    "each": ", ".join(f"{value:+.2f}" for value in found.per_seed),
                    "number": f"{found.number:+.2f}",
                    "spread": spread(found, 2),
                    "excess": "–" if pd.isna(above) else f"{100 * (found.number or 0) / above:+.1f} %",
                    "word": _word(found, "e6 higher", "e6 lower", "within the noise"),
                }
            )
    return rows


def _word(found: Estimate, up: str, down: str, neither: str) -> str:
    """What the judge says about a number's sign."""
    sign, limits = side(found)
    return f"{up if sign > 0 else down}{limits}" if sign else neither


def spread(found: Estimate, places: int | None = None) -> str:
    """Both intervals in words, or why there is none."""
    if found.as_logged:
        return "as logged"
    parts = []
    if found.within:
        parts.append(f"{interval_text(found.within, places)} within runs{', paired' * found.paired}")
    if found.seeds:
        parts.append(f"{interval_text(found.seeds, places)} over {len(found.per_seed)} seeds")
    return "; ".join(parts) or "no interval"


def fids_of(arm: Arm, sampler: str) -> str:
    """An arm's FIDs in one line: `52.10 ± 0.40 at 2,000, ...`."""
    at = scores.steps_of([arm], sampler)
    return ", ".join(f"{_fid_cell(run, sampler, step)} at {step:,}" for run in arm.runs for step in at)


# ---- traces ----------------------------------------------------------------------------------------------


def change_rows(selection: Selection) -> list[dict[str, Any]]:
    """E6's trace against E5's: a row for each loss and part of the run."""
    if len(selection.arms) < 2:
        return []
    return [
        {
            "loss": traces.LOSSES[change.metric],
            "span": "all" if change.span is None else f"{change.span[0]:,.0f}-{change.span[1]:,.0f}",
            "lower": f"{change.lower} of {change.count}",
            "number": "–" if change.estimate.number is None else f"{change.estimate.number:+.1f}",
            "spread": spread(_beside_draws(change), 1),
            "draws": interval_text(change.over_draws.within, 1) + ", paired" * change.over_draws.paired,
            "paired": change.over_draws.paired,
        }
        for change in traces.changes(selection.arms[0], selection.arms[1])
    ]


def _beside_draws(change: traces.Change) -> Estimate:
    """The change without the interval that stands in the column over draws."""
    return replace(change.estimate, within=None) if change.over_draws.paired else change.estimate


def pair_rows(pairs: pd.DataFrame) -> list[dict[str, str]]:
    """The draw-by-draw table: for each loss and seed, the mean over the checkpoints and the last one."""
    if pairs.empty:
        return []
    return [
        {
            "loss": traces.LOSSES[traces.OF_PAIRS[str(row.loss)]],
            "seed": str(row.seed),
            "step": "mean" if row.step == 0 else f"{row.step:,}",
            "number": f"{row.change_pct:+.1f}",
            "interval": f"{row.low_pct:.1f} to {row.high_pct:.1f}",
            "over": str(row.interval_over),
        }
        for row in pairs[pairs["step"].isin([0, pairs["step"].max()])].itertuples()
    ]


# ---- the log ---------------------------------------------------------------------------------------------


def gap_rows(ours: Sequence[Gap], faithful: Sequence[Gap]) -> list[dict[str, str]]:
    """A row for each number of the log, with ours and the faithful rerun's."""
    others = {(gap.metric, gap.span): gap for gap in faithful}
    rows = []
    for gap in ours:
        other = others.get((gap.metric, gap.span))
        low, high = gap.span
        rows.append(
            {
                "what": against_log.METRICS[gap.metric],
                "where": f"step {low:,.0f}" if low == high else f"mean of {low:,.0f}-{high:,.0f}",
                "log": digits(gap.log),
                "ours": digits(gap.value),
                "ours_gap": _gap_text(gap),
                "faithful": digits(other.value) if other else "–",
                "faithful_gap": _gap_text(other) if other else "–",
            }
        )
    return rows


def _gap_text(gap: Gap) -> str:
    errors = "" if gap.errors is None else f", {gap.errors:+.1f} s.e."
    apart = {True: Markdown("**apart**"), False: "within noise", None: "noise unknown"}[gap.apart]
    return Markdown(f"{gap.change:+.1f} %{errors}: {apart}")


# ---- claims ----------------------------------------------------------------------------------------------


def claim_rows(judged: Judged) -> list[dict[str, str]]:
    """A row for each check; the claim, its note and its verdict stand in the first."""
    note = f" ({judged.note.rstrip('.')})" if judged.note else ""
    verdict = Markdown(f"**{judged.verdict}**{' †' * (judged in lost([judged]))}")
    first = {"document": judged.document, "says": f"{judged.says}{note}", "verdict": verdict}
    if not judged.outcomes:
        return [first | dict.fromkeys(("what", "wanted", "study", "ours", "spread"), "–")]
    blank = dict.fromkeys(first, "")
    rows = [(blank if place else first) | _cells(outcome) for place, outcome in enumerate(judged.outcomes)]
    if len(rows) > 1:
        for row, outcome in zip(rows, judged.outcomes, strict=True):
            row["verdict"] = Markdown(f"{row['verdict']} ({outcome.verdict.word})".strip())
    return rows


def lost(judged: Sequence[Judged]) -> list[Judged]:
    """The claims whose verdict is undecided after Holm's correction."""
    return [claim for claim in judged if claim.adjusted not in ("", claim.verdict)]


def _cells(outcome: Outcome) -> dict[str, str]:
    ours, study = outcome.estimate, outcome.study
    numbers = ours.per_seed if ours.as_logged and len(set(ours.per_seed)) > 1 else (ours.number,)
    known = ours.number is not None
    return {
        "what": outcome.what,
        "wanted": outcome.wanted,
        "study": "–" if study is None or study.number is None else digits(study.number, 3) + outcome.unit,
        "ours": ", ".join(digits(number, 3) for number in numbers) + outcome.unit if known else "–",
        "spread": "; ".join(word for word in (spread(ours) if known else "", ours.reason) if word),
    }


_CLAIM_COLUMNS = (
    *("document", "claim", "measured", "wanted", "study", "ours", "each_seed"),
    *("within_low", "within_high", "seeds_low", "seeds_high", "verdict", "claim_verdict"),
)


def claims_csv(judged: Sequence[Judged]) -> str:
    """The table of claims, a row for each check, numbers with six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CLAIM_COLUMNS)
    for each in judged:
        for outcome in each.outcomes:
            ours, study = outcome.estimate, outcome.study or Estimate()
            ends = (*(ours.within or (None, None)), *(ours.seeds or (None, None)))
            seeds = " ".join(f"{value:.6g}" for value in ours.per_seed)
            found = (study.number, ours.number)
            cells = [each.document, each.says, outcome.what, outcome.wanted, *map(_six, found), seeds]
            writer.writerow([*cells, *map(_six, ends), outcome.verdict, each.verdict])
        if not each.outcomes:
            writer.writerow([each.document, each.says, *[""] * 10, each.verdict])
    return text.getvalue()


def _six(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


# ---- the sweep -------------------------------------------------------------------------------------------


def sweep_rows(swept: Sequence[Entry]) -> list[dict[str, str]]:
    """A row for each run: its two traces and its FID at the last milestone."""
    rows: dict[str, dict[str, str]] = {}
    for entry in swept:
        run, step, end = entry.run, entry.points.index[-1], entry.points.iloc[-1]
        row = {"loss": entry.loss, "schedule": entry.schedule, "seed": str(run.seed), "step": f"{step:,}"}
        row["fid"] = _with_error(float(end["fid"]), run.series("val/fid_sem").get(step, np.nan))
        row["steps"] = str(flat_config(run).get("train.total_steps", "–"))
        rows.setdefault(run.id, row)[entry.trace] = digits(float(end["trace"]))
    return sorted(rows.values(), key=lambda row: (row["loss"], row["schedule"], row["seed"]))
