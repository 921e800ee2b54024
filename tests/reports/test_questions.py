"""The questions of docs/findings.md: their answers presume the verdicts under which they are said."""

import re

import pytest

from reports.experiments import Check, load
from reports.judging.judge import HOLDS, Judged, Outcome, Verdict
from reports.stats.intervals import Estimate
from reports.studies.min_snr import questions
from reports.studies.min_snr.page import absent_lines, criterion_rows
from reports.studies.min_snr.questions import NOT_RUN, Question, Reading, answers, in_words, load_questions
from reports.text.pages import claim_rows

KEYS = [key for question in load_questions() for key in question.criteria]
_NUMBER = re.compile(r"\{-?(\w+\.\d+)(?:\.(\d+))?\}")


@pytest.mark.parametrize("question", load_questions(), ids=lambda each: each.ask[:20])
def test_each_question_has_criteria_and_a_last_word(question: Question) -> None:
    """Every criterion exists; an answer's conditions and numbers are among the question's criteria, and the last answer
    needs none. Catches a typo that would leave a question without an answer once its verdicts change."""
    for key in question.criteria:
        report, place = key.split(".")
        assert 1 <= int(place) <= len(load(report).criteria), key
    assert question.readings[-1].when == {} and all(each.when for each in question.readings[:-1])
    assert all(each.when for each in question.also)
    for reading in (*question.readings, *question.also):
        assert set(reading.when) <= set(question.criteria)
        words = [word for value in reading.when.values() for word in value.split("|")]
        assert set(words) <= {"pass", "fail", "undecided", NOT_RUN, "positive", "negative"}
        for key, check in _NUMBER.findall(reading.say):
            assert key in question.criteria, key
            assert int(check or 1) <= len(load(key.split(".")[0]).criteria[int(key.split(".")[1]) - 1].checks)


def judged(verdict: str, number: float = -25.0) -> Judged:
    check = Check(metric="val/fid", of="change_pct", statistic="last", at_most=0)
    found = Estimate(number, seeds=(number - 5, number + 5))
    return Judged("", "", (Outcome(check, "", "", " %", found, Verdict(HOLDS)),), verdict)


def test_the_first_answer_that_holds_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is said under its verdicts alone, with the numbers of its criteria; of the sentences that follow, all
    that hold are said. Catches a sentence that outlives its numbers, and conditions of which one is enough."""
    number = "-25.0 % (-30.0 to -20.0)"
    readings = (
        Reading(when={"a.1": "pass", "a.2": "fail"}, say="both, {a.2}"),
        Reading(when={"a.1": "pass|fail"}, say="one, {a.1}"),
        Reading(when={"a.1": "undecided", "a.2": "negative"}, say="falls"),
        Reading(say="neither"),
    )
    also = (Reading(when={"a.2": "fail"}, say="So {a.1}."), Reading(when={"a.1": "fail"}, say="Or {a.2}."))
    question = Question(ask="?", criteria=("a.1", "a.2"), readings=readings, also=also, mind="")
    monkeypatch.setattr(questions, "selections", lambda runs, asked: {})
    for verdicts, said in (
        (("pass in these runs (one seed)", "fail"), f"both, {number} So {number}."),
        (("fail", "fail"), f"one, {number} So {number}. Or {number}."),
        (("undecided", "fail"), f"falls So {number}."),
        ((NOT_RUN, "pass"), "neither"),
    ):
        given = dict(zip(("a.1", "a.2"), map(judged, verdicts), strict=True))
        monkeypatch.setattr(questions, "judged_by", lambda key, found, given=given: given[key])
        assert answers([], [question])[0].said == said


def test_without_runs_nothing_is_decided() -> None:
    """No run: every criterion is `not run`, the answers are those without conditions, and all planned seeds are
    missing. Catches an error where there is no run of a report, and an answer without a run."""
    found = answers([], load_questions())
    assert {each.verdict for answer in found for each in answer.judged} == {NOT_RUN}
    assert all(answer.said.startswith("Not decided") for answer in found)
    assert "**e5**: 0 of 4 seeds." in absent_lines([])


def test_a_number_in_words() -> None:
    """Catches a missing interval, sign or unit, and an interval that is not over seeds although there is one."""
    check = Check(metric="val/fid", statistic="last", at_most=0)
    of_value = Outcome(check, "", "", "", Estimate(0.96851, within=(0.9, 1.04)), Verdict(HOLDS))
    assert in_words(of_value) == "0.969 (0.900 to 1.04)"
    assert in_words(judged("pass").outcomes[0]) == "-25.0 % (-30.0 to -20.0)"
    assert in_words(judged("pass").outcomes[0], -1) == "+25.0 % (20.0 to 30.0)"
    assert in_words(Outcome(check, "", "", "", Estimate(2.0), Verdict(HOLDS))) == "2.00 (one seed)"
    nothing = Outcome(check, "", "", "", Estimate(reason="no run"), Verdict(HOLDS))
    assert in_words(nothing) == "not measured"


def test_a_criterion_without_runs_stands_in_the_table() -> None:
    """Catches criteria that are left out in silence because their report has no run yet."""
    answer = answers([], load_questions())[1]
    rows = criterion_rows(answer)
    assert [row["report"] for row in rows] == [key.partition(".")[0] for key in answer.question.criteria]
    assert {row["verdict"] for row in rows} == {NOT_RUN} and {row["number"] for row in rows} == {"–"}


@pytest.mark.parametrize(("metric", "what"), [("curvature/ref_trace_mean", "draws"), ("val/fid", "samples")])
def test_two_intervals_say_what_they_cover(metric: str, what: str) -> None:
    """Catches the noise of an FID's samples that is called that of a probe's draws."""
    found = Estimate(-25.0, seeds=(-30.0, -20.0), within=(-26.0, -24.0))
    outcome = Outcome(Check(metric=metric, at_most=0), "", "", " %", found, Verdict(HOLDS))
    (row,) = claim_rows([Judged("", "", (outcome,), "pass")])
    assert row["interval"].startswith(f"-26.00 to -24.00 over {what}; -30.00 to -20.00 over seeds")
