"""docs/findings.md says what the records say, whichever way the numbers fall."""

import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from ddpm.commands.cli import main
from ddpm.errors import UserError
from reports.experiments import Check
from reports.experiments.selection import Arm
from reports.figures.style import theme
from reports.judging.judge import Judged, Verdict, judge, side, together
from reports.runs import Run
from reports.stats.estimates import with_both_intervals
from reports.stats.intervals import Estimate, Interval
from reports.studies.min_snr import fids, figures, scores, summary, tables
from reports.studies.min_snr.against_log import gaps
from reports.studies.min_snr.claims import judge_claims
from reports.studies.min_snr.gallery import gallery
from reports.studies.min_snr.material import Material, gather
from reports.studies.min_snr.page import findings, page
from reports.studies.min_snr.questions import answers, load_questions
from tests.reports.campaign import Campaign
from tests.reports.conftest import LOGS

DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True)
class Made:
    """A campaign's material, claims and pages, the answers first."""

    material: Material
    judged: list[Judged]
    text: str

    def verdict(self, says: str) -> str:
        """The verdict on the only claim that begins with these words."""
        (found,) = [each.verdict for each in self.judged if each.says.startswith(says)]
        return found

    def answer(self, number: int) -> str:
        """The summary's answer to that question."""
        return next(line for line in self.text.splitlines() if line.startswith(f"- **({number})"))


def make(root: Path, campaign: Campaign) -> Made:
    """Make what the page's command makes from a campaign's run folders."""
    campaign.write(root / "runs")
    material = gather(root, LOGS)
    judged = judge_claims(material)
    return Made(material, judged, answered(material, judged) + page(material, judged))


def answered(material: Material, judged: list[Judged]) -> str:
    """docs/findings.md as the command writes it."""
    return findings(material, judged, answers(material.runs, load_questions()))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The study's sampler rises a little near noise, and the respaced one falls. E6 is no flatter. FID is equal."""
    return make(tmp_path_factory.mktemp("expected"), Campaign(influence=True, old=8.0))


@pytest.fixture(scope="module")
def reversed_(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The opposite of every finding in `expected`."""
    campaign = Campaign(old=-60.0, respaced=150.0, ddim=150.0, trained=10.0, common=-20.0, fid=-30.0, sem=0.5)
    return make(tmp_path_factory.mktemp("reversed"), campaign)


# ---- the page and its records ----------------------------------------------------------------------------


def test_the_committed_page_is_what_the_committed_records_say() -> None:
    """The pages, their table and the gallery match the records byte for byte. Catches a typed number, and records, code
    or a template that changed without the page."""
    material = gather(DOCS / "findings", LOGS)
    judged = judge_claims(material)
    assert answered(material, judged) == (DOCS / "findings.md").read_text()
    assert page(material, judged) == (DOCS / "rerun.md").read_text()
    assert tables.claims_csv(judged) == (DOCS / "findings" / "claims.csv").read_text()
    assert gallery(DOCS) == (DOCS / "gallery.md").read_text()


def test_equal_records_make_equal_pages(expected: Made, tmp_path: Path) -> None:
    """The same campaign, written later into another folder, gives the same page. Catches paths and times in it."""
    again = make(tmp_path / "again", Campaign(influence=True, old=8.0))
    assert again.text == expected.text
    assert tables.claims_csv(again.judged) == tables.claims_csv(expected.judged)
    assert str(tmp_path) not in again.text


def test_the_command_writes_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command makes records from run folders, and text and table from records. Bad input gives exit code 2 and a
    message. Catches a verb that does not reach its function."""
    runs = Campaign(seeds=(1077,), faithful=False).write(tmp_path / "camp")
    assert main(["findings", "--docs", str(tmp_path / "docs"), "--keep", str(runs)]) == 0
    assert main(["findings", "--docs", str(tmp_path / "docs"), "--original", str(LOGS), "--no-figures"]) == 0
    assert (tmp_path / "docs/rerun.md").read_text().startswith("# The study, rerun")
    assert "Not decided" in (tmp_path / "docs/findings.md").read_text()  # of runs without another prediction
    assert (tmp_path / "docs/findings/claims.csv").exists() and (tmp_path / "docs/gallery.md").exists()
    capsys.readouterr()
    assert main(["findings", "--docs", str(tmp_path / "nothing"), "--no-figures"]) == 2
    assert "holds no records" in capsys.readouterr().err


# ---- whichever way it is ---------------------------------------------------------------------------------


def test_what_the_networks_know_is_said_as_it_is(expected: Made, tmp_path: Path) -> None:
    """The page gives the error of predicted images by t, and says at which t grey would do better. Catches swapped
    arms, steps or timesteps, a growing error that is said to fall, and a sentence that stays when the networks know
    more."""
    assert "| 100 | 0.01 | 0.011 | 0.01 | 0.011 |\n| 990 | 2.4 | 1.2 | 2.16 | 1.08 |" in expected.text
    assert "the error falls in e5 at 1 and in e6 at 1 of 2 timesteps" in expected.text
    assert "e6's error is the lower one at 1 of 2 timesteps: t = 990." in expected.text
    grey = "every arm's error is above that of mid-grey (about 0.26 on CIFAR-10) at"
    assert all(f"At the {when} step {grey} t = 990." in expected.text for when in ("first", "last"))
    one_arm = make(tmp_path / "one", Campaign(seeds=(1077,), faithful=False, noisiest=0.26))  # e6: 0.234; at 2k 0.468
    assert f"At the first step {grey} t = 990." in one_arm.text and f"At the last step {grey} no t." in one_arm.text


def test_the_summary_says_what_the_numbers_say(expected: Made, reversed_: Made) -> None:
    """The summary follows the numbers in both campaigns. Catches an answer that was written beforehand."""
    assert "Yes, by its level; the trends are opposite in e5 and e6.**" in expected.answer(1)
    assert "No, by its level; the trends are not opposite.**" in reversed_.answer(1)
    assert "Not told from none.**" in expected.answer(2)  # with 16 draws, the common trace is known to 14 % at worst
    assert "15.0 % below E5's (the study's log: 15.2 % below), that of the common loss 5.0 % above" in expected.answer(
        2
    )
    assert "remains on the common loss? 20." in reversed_.answer(2)
    assert "Not beyond the noise.**" in expected.answer(3)
    assert "Yes: E6's FID is better.**" in reversed_.answer(3)
    assert "FID still rises with training" not in expected.text
    assert "FID still rises with training in e5 and e6" in reversed_.text
    assert "e5, by the study's sampler and by respaced DDPM: opposite trends." in expected.text
    assert "no opposite trends (one falls, the other rises)" in reversed_.text


def test_claims_hold_or_not_by_their_numbers(expected: Made, reversed_: Made) -> None:
    """Catches a verdict that ignores the number, reversed bounds, and the wrong sampler."""
    for says, holds in {
        "E6's trace is 10-30 % lower across training": (True, False),
        "... and so it is on the common loss, as a flatter": (False, True),
        "FID is best early and gets worse": (True, False),
        "... and so it is with the sampler put right": (False, True),
        "the samples are noise because model": (False, False),
        "Min-SNR does not buy better FID": (True, False),
    }.items():
        found = [made.verdict(says) for made in (expected, reversed_)]
        assert [verdict.startswith("holds") for verdict in found] == list(holds), (says, found)


def test_the_studys_own_log_stands_beside(expected: Made) -> None:
    """The page shows the known numbers of the study's log (docs of E5 and E6) in that log's column. Catches our numbers
    in their place."""
    for number in ("| 60.2 % |", "| 41.1 % |", "| 44.2 % |", "| -15.2 % |", "| 1.25 % |"):
        assert number in expected.text
    assert "at 40 of 80 logged steps its batch has the same timesteps" in expected.text


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """With one seed, no evaluations, no faithful run and half of the steps, there is still a page. It says what is
    missing, decides nothing and gives no interval over seeds. Catches a traceback, and a verdict on half a run."""
    made = make(tmp_path, Campaign(seeds=(1077,), evaluations=False, faithful=False, steps=5000))
    for line in (
        "e5 has one seed: no interval over seeds.",
        "e6 seed 1077 (run e6-s1077-0123abcd) was not scored by the study's sampler and DDIM.",
        "e5 seed 1077 (run e5-s1077-0123abcd) is at step 5000 of 10000.",
        "There is no run of e5\\_study, the faithful rerun.",
        "There is no record of a sweep.",
    ):
        assert f"- {line}" in made.text
    assert "Cannot be said yet.**" in made.answer(1)
    assert {each.verdict for each in made.judged} == {"cannot be said"}
    assert "over 2 seeds" not in made.text and "nan" not in made.text and "None" not in made.text


def test_tables_are_whole(expected: Made, reversed_: Made) -> None:
    """Every row of a table has as many cells as its head. Catches a cell that a condition or a `|` in a text adds."""
    for made in (expected, reversed_):
        blocks = re.findall(r"(?:^\|.*\n)+", made.text, flags=re.MULTILINE)
        counts = [{len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()} for block in blocks]
        assert len(blocks) >= 7 and all(len(count) == 1 for count in counts)


def test_one_seed_decides_of_these_runs(tmp_path: Path) -> None:
    """Catches a single training that decides about E6 in general, not only "in these runs"."""
    made = make(tmp_path, Campaign(seeds=(1077,), sem=0.1))
    found = {each.verdict for each in made.judged if each.verdict.startswith(("holds", "does not"))}
    assert found and all("in these runs" in verdict for verdict in found)


def test_half_scored_seeds_are_used_as_far_as_they_go(tmp_path: Path) -> None:
    """If DDIM and the study's sampler scored one seed of two, their numbers come from that seed. Catches an arm that
    has no score because one of its runs has none."""
    Campaign().write(tmp_path / "runs")
    for experiment in ("e5", "e6"):
        (tmp_path / f"runs/{experiment}/{experiment}-s1078-0123abcd/evaluations.jsonl").unlink()
    material = gather(tmp_path, LOGS)
    e5 = material.selection.arms[0]
    assert [len(scores.scored(e5, sampler)) for sampler in scores.SAMPLERS] == [1, 2, 1]
    assert scores.steps_of([e5], scores.DDIM) == [2000, 6000, 10_000]
    assert fids.change(e5, scores.DDIM, 2000, 10_000).seeds is None


# ---- rules -----------------------------------------------------------------------------------------------


def normal(low: float, high: float) -> Interval:
    """An interval by the normal distribution."""
    return Interval(low, high, math.inf)


@pytest.mark.parametrize(
    ("known", "verdict"),
    [
        (Estimate(1.0, (1.0, 1.0), normal(0.5, 1.5), normal(0.2, 1.8)), "holds"),
        (Estimate(1.0, (1.0, 1.0), normal(0.5, 1.5), normal(-2.0, 4.0)), "holds in these runs"),
        (Estimate(1.0, (1.0,), normal(0.5, 1.5)), "holds in these runs"),
        (Estimate(1.0, (1.0, 1.0), normal(-0.5, 2.5), normal(0.9, 1.1)), "undecided"),  # seeds share their noise
        (Estimate(1.0, (1.0, 1.0), None, normal(0.9, 1.1)), "holds"),
        (Estimate(-1.0, (-1.0, -1.0), normal(-1.5, -0.5), normal(-1.1, -0.9)), "does not hold"),
        (
            Estimate(-1.0, (-1.0, -1.0), normal(-1.5, -0.5), normal(-1.1, -0.9), given_draws=True),
            "does not hold, given the draws",
        ),
        (Estimate(1.0, (1.0,)), "undecided"),
        (Estimate(1.0, (1.0, 2.0), as_logged=True), "holds in these runs"),
        (Estimate(1.0, (1.0, -2.0), as_logged=True), "undecided"),
        (Estimate(-1.0, (-1.0,), as_logged=True), "does not hold in these runs"),
        (Estimate(1.0, (1.0,), normal(0.5, 1.5), reason="not whole"), "cannot be said"),
        (Estimate(reason="no run of e6"), "cannot be said"),
    ],
)
def test_an_interval_decides(known: Estimate, verdict: str) -> None:
    """The page's rules decide whether a number is at least 0. Catches a decision by the number alone, and one by seeds
    that share the noise."""
    assert str(judge(known, 0.0, None)) == verdict


def test_a_claim_is_as_good_as_its_worst_check() -> None:
    """Catches a claim that holds by only one check of two, and a verdict that loses `in these runs` or `given the
    draws`."""
    holds, in_these, given = Verdict("holds"), Verdict("holds", True), Verdict("holds", given_draws=True)
    fails, undecided, unsaid = (Verdict(word) for word in ("does not hold", "undecided", "cannot be said"))
    assert str(together([holds, Verdict("does not hold", True)])) == "does not hold in these runs"
    assert str(together([fails, Verdict("does not hold", True), undecided])) == "does not hold"
    assert str(together([holds, undecided, unsaid])) == "cannot be said"
    assert str(together([holds, in_these])) == "holds in these runs"
    assert str(together([in_these, given, holds])) == "holds, given the draws"
    assert str(together([])) == "cannot be said"


def test_a_side_is_beyond_zero() -> None:
    """Catches a zero-width interval at 0 that counts as above or below 0, and a lost `in these runs`."""
    assert side(Estimate(0.0, (0.0, 0.0), normal(0.0, 0.0), normal(0.0, 0.0))) == (0, "")
    assert side(Estimate(1.0, (1.0,), normal(0.5, 1.5))) == (1, " in these runs")
    assert side(Estimate(-1.0, (-1.0, -1.0), normal(-1.5, -0.5), normal(-1.1, -0.9))) == (-1, "")


def test_fids_of_one_noise_are_compared_sample_by_sample(expected: Made, tmp_path: Path) -> None:
    """Each sample contributes nearly the same in both arms, so the difference is known ten times better than from the
    two errors. By hand: std of 100 / a (IF_b - b / a IF_a) over sqrt(n). Catches lost pairs, and arms out of order."""
    e5, e6 = expected.material.selection.arms
    found = fids.difference(e5, e6, scores.DDIM, 10_000)
    Campaign(old=8.0, faithful=False).write(tmp_path / "runs")
    loose = fids.difference(*gather(tmp_path, LOGS).selection.arms, scores.DDIM, 10_000)
    assert found.paired and not loose.paired and found.number == pytest.approx(loose.number)
    assert found.within and loose.within
    assert (loose.within[1] - loose.within[0]) > 5 * (found.within[1] - found.within[0])
    name = scores.influence_name(scores.DDIM)
    each = []
    for b, v in zip(e5.runs, e6.runs, strict=True):
        first, second = (float(run.series("fid/ddim")[10_000]) for run in (b, v))
        moves = [np.array(run.lists[name][10_000]) for run in (b, v)]
        each.append(100 / first * (moves[1] - second / first * moves[0]))
    sem = np.mean(each, axis=0).std(ddof=1) / 200**0.5
    assert found.within[1] - found.within[0] == pytest.approx(2 * 1.959964 * sem)


def test_a_difference_by_hand() -> None:
    """For a = 10 and b = 20, whose samples add x and y, b - a adds y - x, and 100 (b / a - 1) adds 10 y - 20 x. Without
    the samples' contributions, the error is the root of the sum of squares. Catches a wrong slope of the quotient, or a
    wrong sign."""
    x, y = np.array([1.0, -2.0, 1.0, 0.0]), np.array([0.5, -1.0, 3.0, -2.5])
    one, other = (fids.Measured(v, float(each.std(ddof=1)) / 2, each) for v, each in ((10.0, x), (20.0, y)))
    plain, percent = (fids.less(one, other, percent=way) for way in (False, True))
    assert (plain.value, percent.value) == pytest.approx((10.0, 100.0))
    assert plain.sem == pytest.approx((y - x).std(ddof=1) / 2)
    assert percent.sem == pytest.approx((10 * y - 20 * x).std(ddof=1) / 2)
    apart = fids.less(fids.Measured(10.0, 0.3), fids.Measured(20.0, 0.4))
    assert apart.sem == pytest.approx(math.hypot(10 * 0.4, 20 * 0.3)) and apart.influence is None


def test_the_difference_is_told_of_what_lies_above_the_floor(reversed_: Made) -> None:
    """E6's FID is 30 % below E5's; the page relates the difference to E5's FID minus the floor. Catches a share of the
    whole FID."""
    e5 = reversed_.material.selection.arms[0]
    level = fids.level(e5, scores.DDIM, 10_000).number or 0.0
    row = tables.difference_rows(reversed_.material.selection)[-1]
    assert row["sampler"] == "DDIM" and row["excess"] == f"{-30 * level / (level - 0.3):+.1f} %"


def test_noise_by_both_samplers_is_not_the_studys_alone(tmp_path: Path) -> None:
    """The respaced sampler ends worse. Catches a plateau that is blamed on one sampler without a look at the other."""
    Campaign(seeds=(1077,), respaced=120.0, faithful=False).write(tmp_path / "runs")
    found = summary.plateau(gather(tmp_path, LOGS).selection)
    assert found is not None and found.level == "does not hold"


@pytest.mark.parametrize("other", [('"n_samples": 500', '"n_samples": 100'), ('"seed": 0', '"seed": 1')])
def test_what_was_scored_in_another_way_is_left_out(tmp_path: Path, other: tuple[str, str]) -> None:
    """One run's evaluations have fewer samples or other noise, and one line is torn. Catches two scales in one table,
    and pairs of samples that do not match."""
    Campaign(seeds=(1077,)).write(tmp_path / "runs")
    path = tmp_path / "runs/e6/e6-s1077-0123abcd/evaluations.jsonl"
    lines = path.read_text().replace(*other).splitlines()
    path.write_text("\n".join([*lines, '{"half a line']) + "\n")
    material = gather(tmp_path, LOGS)
    assert material.notes == ["6 FID(s) with another protocol than most, or from other noise, are left out."]
    assert scores.steps_of(material.selection.arms, scores.DDIM) == []


def test_the_studys_log_is_not_apart_from_itself(expected: Made) -> None:
    """All fifteen numbers of the log equal themselves. Catches windows that differ."""
    (log,) = [arm for arm in expected.material.study.arms if arm.experiment == "e5"]
    assert len(gaps(log, log)) == 15 and all(gap.change == 0 and not gap.apart for gap in gaps(log, log))


def test_the_point_is_drawn_with_and_without_scores(expected: Made, tmp_path: Path) -> None:
    """Every line and both ends of the scale have their names. Catches a figure that needs the whole campaign."""
    Campaign(seeds=(1077,), evaluations=False, faithful=False, steps=3000).write(tmp_path / "runs")
    bare = gather(tmp_path, LOGS)
    with theme():
        whole = figures.the_point(expected.material.selection, expected.material.pairs).figure
        figures.the_point(bare.selection, bare.pairs)
    left, right = whole.axes
    assert left.get_legend_handles_labels()[1] == [
        f"{arm}: {name}" for name in ("the study's sampler", "respaced DDPM") for arm in ("e5", "e6")
    ]
    assert [text.get_text() for text in left.texts] == ["uniform noise: 58", "real images: 0.3"]
    assert len(right.get_legend_handles_labels()[1]) == 2


def test_a_spread_falls_by_all_of_it_at_most() -> None:
    """The scatter of two seeds falls by 99 and by 60 %. Catches an interval that reaches beyond a fall of 100 %."""

    def arm(name: str, scales: tuple[float, float]) -> Arm:
        steps = pd.Index(range(100, 3100, 100), name="step")
        wave = np.tile([0.9, 1.1], 15)
        histories = [pd.DataFrame({"train/mse": 1 + scale * (wave - 1)}, index=steps) for scale in scales]
        runs = (Run(f"{name}{seed}", name, seed, {}, h, Path(name)) for seed, h in enumerate(histories))
        return Arm(name, "baseline" if name == "e5" else "variant", tuple(runs))

    check = Check(metric="train/mse", of="change_pct", statistic="std", at_most=0)
    known = with_both_intervals(check, [arm("e5", (1.0, 1.0)), arm("e6", (0.01, 0.4))])
    assert known.per_seed == pytest.approx((-99, -60)) and known.seeds is not None and known.seeds[0] == -100


@pytest.mark.filterwarnings("error:Attempt to set")
def test_a_short_run_beside_the_log_is_drawn_on_a_log_axis(tmp_path: Path) -> None:
    """Catches an axis limit of 0, which matplotlib warns of and ignores, and two line widths without an explanation."""
    Campaign(seeds=(1077,), evaluations=False, faithful=False, steps=2000).write(tmp_path / "runs")
    short = gather(tmp_path, LOGS)
    (log,) = [arm for arm in short.study.arms if arm.experiment == "e5"]
    with theme():
        axes = figures.log(log, short.selection.arms[:1]).figure.axes[0]
        said = {text.get_text() for text in axes.figure.legends[0].get_texts()}
    assert axes.get_xscale() == "log" and axes.get_xlim()[1] > 10_000
    assert "thin: what was logged" in said
    assert "thick: its centred rolling mean, over 3 or 13 rows; a trace on fixed draws as logged" in said


def test_probes_of_a_run_that_is_not_kept_are_refused(tmp_path: Path) -> None:
    """Catches draws from another run of the same arm and seed among the records."""
    Campaign(seeds=(1077,), faithful=False).write(tmp_path / "runs")
    shutil.copytree(DOCS / "findings/probes", tmp_path / "probes")
    with pytest.raises(UserError, match=r"e5-s1077.jsonl has probes of the run e5-s1077-\w+, which has no record"):
        gather(tmp_path, LOGS)


def test_grids_of_samples_are_shown_where_they_are(tmp_path: Path) -> None:
    """Grids are named by sampler and step, with a row for each sampler and a column for each step. The page names the
    run. Catches a picture under another picture's name."""
    Campaign(seeds=(1077,), faithful=False).write(tmp_path / "runs")
    (tmp_path / "samples/e5-s1077-0123abcd").mkdir(parents=True)
    for name in ("ddpm-002000", "ddpm_adjacent_posterior-002000", "ddpm-010000", "other-002000"):
        matplotlib.image.imsave(tmp_path / f"samples/e5-s1077-0123abcd/{name}.png", np.zeros((8, 8, 3)))
    material = gather(tmp_path, LOGS)
    with theme():
        drawn = figures.samples(material.grids).figure
    titles = [axes.get_title() for axes in drawn.axes]
    assert titles == ["the study's sampler, 2k", "", "respaced DDPM, 2k", "respaced DDPM, 10k"]
    assert "Images of checkpoints of `e5-s1077-0123abcd`" in page(material, [])
