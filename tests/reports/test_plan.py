"""`ddpm plan`, and what a report says of the criteria: what would decide them, the verdicts after Holm, their seal."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ddpm.commands.cli import main
from reports.experiments import Study, load, seals
from reports.experiments.selection import Selection, select
from reports.judging.checks import holm_numbers, judge_criteria
from reports.judging.seeds import what_would_decide
from reports.report import make_report
from reports.sources import open_source
from reports.stats.power import seeds_needed
from reports.stats.statistics import numbers
from reports.text.pages import markdown_page
from reports.text.plan import plan_lines
from reports.text.seal import seal_sentence
from tests.reports.conftest import write_run

METRIC = "curvature/hutch_trace_mean"
E5 = {1: 100.0, 2: 102.0, 3: 104.0}
E6 = {1: 90.0, 2: 93.0, 3: 93.0}  # differences -10, -9 and -11; variances 4 and 3


def runs(root: Path, e5: dict[int, float], e6: dict[int, float], **card: Any) -> Path:
    """Runs of (seed: their trace at each of nine steps); `card` goes into run.json."""
    for experiment, seeds in (("e5", e5), ("e6", e6)):
        for seed, value in seeds.items():
            rows = [(10 * (i + 1), {METRIC: value}) for i in range(9)]
            path = write_run(root / experiment / str(seed), experiment, seed, rows=rows, train__total_steps=90)
            (path / "run.json").write_text(json.dumps(json.loads((path / "run.json").read_text()) | card))
    return root


def about(root: Path, *checks: dict[str, Any]) -> Selection:
    """The runs in a study whose criteria have these checks, one each."""
    criteria = [
        {"says": f"claim {i}", "checks": [{"metric": METRIC} | check]} for i, check in enumerate(checks, start=1)
    ]
    study = Study.model_validate(load("e6").model_dump() | {"criteria": criteria, "statements": ()})
    return select(study, open_source(str(root)))


def plan(selection: Selection, effect: float | None = None, power: float = 0.8, seeds: int | None = None) -> str:
    return "\n".join(plan_lines(selection, effect, power, seeds))


# ---- the plan --------------------------------------------------------------------------------------------


def test_the_plan_of_three_shared_seeds(tmp_path: Path) -> None:
    """The paired differences have standard deviation 1, with the chi-square interval sqrt(2 / 7.378) to
    sqrt(2 / 0.05064); within the arms it is sqrt(3.5). Textbook: at one standard deviation pairs need 10 seeds, two
    groups 17 each. Catches a spread of the levels as that of the differences, and one row under the other's name."""
    selection = about(runs(tmp_path, E5, E6), {"of": "difference", "at_most": -20})
    by_one = plan(selection, effect=1.0)
    assert "   paired    1.00 (0.521 to 6.28)  10 (" in by_one and "claim 1" in by_one
    assert "   unpaired  1.87 (1.12 to 5.38)" in by_one and "-10.00 (seeds: e5 3 and e6 3)" in by_one
    assert "  17 (" in plan(selection, effect=math.sqrt(3.5)).split("unpaired")[1]
    low, high = (math.sqrt(2 / stats.chi2.ppf(p, 2)) for p in (0.975, 0.025))
    least, most = (seeds_needed(0.8, [1.0], sd, 1) for sd in (low, high))
    assert f"  10 ({least} to {most})  " in by_one and (least or 0) < 10 < (most or 0)
    assert "effect: 20.0, told from 0" in plan(selection), "the criterion's own bound"
    assert "with 3 seeds" in by_one and "with 7 seeds" in plan(selection, seeds=7)
    assert plan(selection, power=0.95) != plan(selection)


def test_the_effect_that_is_planned_for(tmp_path: Path) -> None:
    """A difference and a change: the bound, or without one the size seen; equality: its margin; a level: its distance
    from the bound. Catches 0 as an effect, and a level of 93 that is told from 0."""
    checks = (
        {"of": "difference", "at_most": 0},
        {"of": "change_pct", "at_least": -12, "at_most": 3},
        {"of": "difference", "equal_within": 4},
        {"at_most": 95},
    )
    found = plan(about(runs(tmp_path, E5, E6), *checks))
    effects = [line.strip() for line in found.splitlines() if line.strip().startswith("effect:")]
    assert effects == [
        "effect: 10.0, told from 0",
        "effect: 3.00 %, told from 0",
        "effect: equal within 4.00, if there is no difference",
        "effect: 3.00, the distance from a bound",
    ]
    assert "   over seeds  1.73 (" in found  # e6 alone: the root of 3


def test_a_plan_says_what_is_not_known(tmp_path: Path) -> None:
    """One seed; seeds that are not shared; a metric that nobody logged; an arm without a run; no criteria. Catches
    silence, a spread of 0 for one seed, and a traceback."""
    one = plan(about(runs(tmp_path / "one", {1: 100.0}, {1: 90.0, 2: 91.0}), {"of": "difference", "at_most": 0}))
    assert "paired: not known, as e5 has one seed: train more seeds (`--seed`), the same in both arms." in one
    assert "unpaired: not known, as e5 has one seed: train more seeds (`--seed`)." in one
    other = plan(
        about(runs(tmp_path / "other", {1: 100.0, 2: 102.0}, {3: 9.0, 4: 8.0}), {"of": "difference", "at_most": 0})
    )
    assert "paired: not known, as e5 and e6 share 0 seeds: train more seeds" in other and "   unpaired  " in other
    steps = plan(about(tmp_path / "other", {"of": "step_difference", "at_most": 0}))
    assert "unpaired: not known, as a number made at each step needs pairs." in steps
    nothing = plan(about(tmp_path / "one", {"metric": "val/kid", "of": "difference", "at_most": 0}))
    assert "nothing is known, val/kid was not measured in e5 and e6." in nothing
    alone = runs(tmp_path / "alone", {}, {1: 90.0, 2: 91.0})
    assert "nothing is known, no run of e5." in plan(about(alone, {"of": "difference", "at_most": 0}))
    none = plan(about(tmp_path / "one"))
    assert "e6 has no criteria: these are the differences of the last FID." in none and "val/fid" in none


def test_seeds_that_do_not_differ_need_two(tmp_path: Path) -> None:
    """Catches a division by 0, and an effect of 0 that is looked for."""
    still = about(runs(tmp_path, {1: 5.0, 2: 5.0}, {1: 4.0, 2: 4.0}), {"of": "difference", "at_most": 0})
    assert "   paired    0 (0 to 0)   2 (2 to 2)" in plan(still)
    same = about(runs(tmp_path / "same", {1: 5.0, 2: 5.0}, {1: 5.0, 2: 5.0}), {"of": "difference", "at_most": 0})
    assert "effect: none is known; give --effect." in plan(same)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an option that does not arrive, and bad input that prints a traceback or a plan."""
    source = str(runs(tmp_path, E5, E6))
    assert main(["plan", "e6", "--from", source, "--effect", "2", "--seeds", "4", "--power", "0.9"]) == 0
    said = capsys.readouterr().out
    assert "find an effect in 90 % of studies" in said and "effect: 2.00 %, told from 0" in said
    assert "with 4 seeds" in said
    for wrong in (["--power", "1"], ["--effect", "-1"], ["--effect", "nan"], ["--seeds", "1"]):
        with pytest.raises(SystemExit) as stop:
            main(["plan", "e6", "--from", source, *wrong])
        assert stop.value.code == 2
    assert main(["plan", "e99", "--from", source]) == 2 and main(["plan", "e6", "--from", f"{source}/no"]) == 2
    assert "Traceback" not in capsys.readouterr().err


# ---- what would decide -----------------------------------------------------------------------------------


def decide(selection: Selection) -> list[str]:
    return what_would_decide(judge_criteria(selection), selection)


def test_an_undecided_criterion_says_how_many_more_seeds(tmp_path: Path) -> None:
    """Differences of -10 -+ 1. From the bound -9 it is one standard deviation: 10 seeds, 7 more than the 3 there are.
    A bound of 0 is decided and has no line. An equality within 9 is as far. Catches the distance from 0, seeds in all
    in place of more, and a line for a decided criterion."""
    root = runs(tmp_path, E5, E6)
    found = about(root, {"of": "difference", "at_most": -9}, {"of": "difference", "at_most": 0})
    (line,) = decide(found)
    low, high = (math.sqrt(2 / stats.chi2.ppf(p, 2)) for p in (0.975, 0.025))
    least, most = ((seeds_needed(0.8, [1.0], sd, 1) or 0) - 3 for sd in (low, high))
    assert line == (
        f"claim 1: about 7 more seeds ({least} to {most}) would decide a difference of this size in 80 % of studies."
    )
    (equal,) = decide(about(root, {"of": "difference", "equal_within": 9}))
    assert equal == line
    (level,) = decide(about(root, {"at_most": 93}))
    assert "would decide a number of this size" in level
    page = markdown_page(found, numbers(found), [], ["ddpm"])
    assert f"- {line}" in page


def test_what_more_seeds_do_not_tell(tmp_path: Path) -> None:
    """One seed has no spread; two arms that share one seed have none of their difference. Catches a number of seeds
    from nothing. A metric that was not measured has its own reason in the table."""
    one = about(runs(tmp_path / "one", {1: 100.0}, {1: 90.0}), {"of": "difference", "statistic": "last", "at_most": 0})
    assert decide(one) == ["claim 1: the spread over seeds is not known (one seed)."]
    part = about(
        runs(tmp_path / "two", {1: 100.0, 2: 101.0}, {1: 90.0}), {"of": "difference", "statistic": "last", "at_most": 0}
    )
    assert decide(part) == ["claim 1: the spread over seeds is not known (e6 has one seed)."]
    assert decide(about(tmp_path / "one", {"metric": "val/kid", "at_most": 0})) == []


def test_the_draws_that_leave_it_open_are_named(tmp_path: Path) -> None:
    """The draws of the probe scatter around 0, the seeds hardly differ. Catches seeds that are promised to decide what
    the draws leave open, in the report or in a plan."""
    draws = np.array([3.0, -4.0, 2.0, -1.0, 5.0, -6.0])
    for experiment, shift in (("e5", 0 * draws), ("e6", draws)):
        for seed in (1, 2):
            values = 100 + shift + 0.01 * seed * (experiment == "e6")
            row = {METRIC: float(values.mean()), "curvature/hutch_values": values.tolist()}
            rows = [(10 * (i + 1), row) for i in range(9)]
            folder = tmp_path / experiment / str(seed)
            write_run(folder, experiment, seed, rows=rows, train__total_steps=90, curvature__draws="fixed")
    found = about(tmp_path, {"of": "difference", "at_most": 0.01})
    reach = stats.t.ppf(0.975, 5) * draws.std(ddof=1) / math.sqrt(6)
    assert f"may move it by {reach:.2f} (95 %); more seeds do not narrow that." in plan(found)
    (line,) = decide(found)
    assert line.startswith("claim 1: more seeds alone would not decide it, as the interval within the runs reaches")


# ---- Holm in a report ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_figures")
def test_holm_stands_beside_the_verdicts_and_at_the_end_of_the_table(tmp_path: Path) -> None:
    """Three paired differences -10, -9 and -11 lie 17.3 standard errors from 0 and 4.68 from -7.3: p = 0.003 and 0.043,
    after Holm 3 x 0.003 and 2 x 0.043. Catches rows in the middle of numbers.csv, a correction over another number of
    criteria, and one that replaces the plain verdict."""
    root = runs(tmp_path / "runs", E5, E6)
    selection = about(
        root,
        {"of": "difference", "at_most": -7.3},
        {"of": "difference", "at_most": 0},
        {"of": "difference", "at_most": -9},
    )
    near, far = (stats.ttest_1samp([-10, -9, -11], bound).pvalue for bound in (-7.3, 0))
    judged = judge_criteria(selection)
    assert [claim.verdict for claim in judged] == ["pass", "pass", "undecided"]
    assert [claim.adjusted for claim in judged] == [
        *("undecided after Holm's correction over 3 criteria", "pass", "undecided"),
    ]
    page = markdown_page(selection, numbers(selection), [], ["ddpm"])
    assert "| **pass** |" in page and f"over 3 criteria (p = {near:.3f}, after Holm {2 * near:.3f}) |" in page
    table = holm_numbers(selection).set_index("statistic")["value"]
    assert list(table.index) == [f"criterion_{i}_{key}" for i in (1, 2, 3) for key in ("p", "p_holm")]
    assert table["criterion_1_p"] == pytest.approx(near) and table["criterion_1_p_holm"] == pytest.approx(2 * near)
    assert table["criterion_2_p_holm"] == pytest.approx(3 * far)
    make_report("e6", str(root), tmp_path / "out")
    rows = pd.read_csv(tmp_path / "out/numbers.csv")["statistic"].tolist()
    ends = [place for place, name in enumerate(rows) if name.endswith(("_p", "_p_holm"))]
    assert ends and ends == list(range(len(rows) - len(ends), len(rows)))


# ---- seals -----------------------------------------------------------------------------------------------


def test_a_training_is_given_the_seals_of_its_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ddpm train` hands the digests of all criteria that concern the experiment to the training, and of no others.
    Catches runs that record nothing, so that no report could show that its criteria are older."""
    given: dict[str, str] = {}
    monkeypatch.setattr("ddpm.training.loop.train", lambda cfg, criteria: given.update(criteria))
    assert main(["train", str(Path(__file__).parents[2] / "configs/smoke/e6.yaml")]) == 0
    assert given["e6"] == load("e6").seal and given["e9"] == load("e9").seal and "e8a" not in given


def test_the_seal_is_recorded_by_all_by_some_or_by_none(tmp_path: Path) -> None:
    """Catches criteria called sealed that no run recorded, and older runs that are not counted."""
    study = load("e6")
    every = select(study, open_source(str(runs(tmp_path / "all", E5, E6, criteria=seals("e6")))))
    said, warning = seal_sentence(every)
    assert said == (
        f"The criteria were sealed before the first run: digest {study.seal}, recorded by 6 of 6 runs at their start."
    )
    assert not warning and study.seal == seals("e5")["e6"]
    none = select(study, open_source(str(runs(tmp_path / "none", E5, E6))))
    said, warning = seal_sentence(none)
    assert (
        said.startswith(f"Not one of the 6 runs recorded a digest of the criteria (now {study.seal})") and not warning
    )
    runs(tmp_path / "some", {1: 1.0}, {}, criteria=seals("e5"))
    runs(tmp_path / "some" / "old", {}, {1: 1.0, 2: 2.0})
    said, warning = seal_sentence(select(study, open_source(str(tmp_path / "some"))))
    assert said.startswith("1 of 3 runs began after the criteria were sealed") and not warning
    assert said.endswith("2 runs recorded none (older than this, or their record was lost).")
    page = markdown_page(every, numbers(every), [], ["ddpm"])
    assert f"digest {study.seal}, recorded by 6 of 6 runs" in page.partition("Success criteria")[2]


def test_criteria_that_changed_after_a_run_began_are_a_warning(tmp_path: Path) -> None:
    """e5's run recorded another digest. Catches silence, and a warning below the fold. A note may change."""
    study = load("e6")
    runs(tmp_path, {1: 1.0}, {}, criteria={"e6": "0123456789ab"})
    runs(tmp_path / "new", {}, {1: 1.0}, criteria=seals("e6"))
    selection = select(study, open_source(str(tmp_path)))
    said, warning = seal_sentence(selection)
    began = selection.arms[0].runs[0].started
    assert warning and began == datetime(2026, 1, 1, tzinfo=UTC)
    assert said == (
        f"The criteria were changed after the first run began: their digest is {study.seal}, but e5 seed 1 "
        "(run e5-s1-1), begun 2026-01-01 00:00, recorded 0123456789ab."
    )
    page = markdown_page(selection, numbers(selection), [], ["ddpm"])
    assert f"**Warning: {said}**" in page.partition("<details>")[0]
    noted = study.criteria[0].model_copy(update={"note": "Another word."})
    assert study.model_copy(update={"criteria": (noted, *study.criteria[1:])}).seal == study.seal


def test_criteria_from_a_file_of_ones_own_are_not_sealed(tmp_path: Path) -> None:
    """Catches a warning, or a claim of a seal, for criteria that no run can know."""
    selection = select(load("e6"), open_source(str(runs(tmp_path, {1: 1.0}, {1: 2.0}, criteria=seals("e6")))))
    mine = Selection(selection.study.model_copy(update={"name": "mine"}), selection.arms)
    said = "The criteria are in a file outside the package: no run can have recorded them at its start."
    assert seal_sentence(mine) == (said, False)
    bare = Selection(selection.study.model_copy(update={"criteria": ()}), selection.arms)
    assert seal_sentence(bare) == ("", False)
