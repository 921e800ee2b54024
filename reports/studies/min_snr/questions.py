"""The questions of docs/findings.md: sealed criteria of reports answer them, in words that presume their verdicts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from pydantic import BaseModel, ConfigDict

from ddpm.errors import UserError
from ddpm.files.yaml12 import read_yaml
from reports.experiments import load
from reports.experiments.selection import Selection, select
from reports.judging.checks import judge_criteria
from reports.judging.judge import Judged, Outcome
from reports.judging.seeds import what_would_decide
from reports.runs import Run
from reports.studies.min_snr.answer_tables import late_chain_words, lowest
from reports.text.verdicts import number as digits

NOT_RUN = "not run"


class Reading(BaseModel):
    """An answer in words. `when`: criterion -> the verdicts (`pass|fail`), or the sign of its number (`positive`,
    `negative`), under which it may be said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: dict[str, str] = {}
    say: str


class Question(BaseModel):
    """A question; see `questions.yaml`. `readings`: the first one that holds is the answer. `also`: all that hold
    follow it. `mind`: what would change the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ask: str
    criteria: tuple[str, ...]
    readings: tuple[Reading, ...]
    also: tuple[Reading, ...] = ()
    mind: str


@dataclass(frozen=True)
class Answer:
    """A question with its answer, the criteria that decide it, and what would decide the undecided ones."""

    question: Question
    said: str
    judged: tuple[Judged, ...]
    to_decide: tuple[str, ...]


def load_questions() -> list[Question]:
    """The questions of `questions.yaml`."""
    content = (resources.files("reports.studies.min_snr") / "questions.yaml").read_bytes()
    return [Question.model_validate(item) for item in read_yaml(content, "questions.yaml")]


def selections(runs: Sequence[Run], questions: Sequence[Question]) -> dict[str, Selection | None]:
    """The selection of each report that the questions name; None for one without runs."""
    names = dict.fromkeys(key.partition(".")[0] for question in questions for key in question.criteria)
    return {name: _selected(name, runs) for name in names}


def _selected(name: str, runs: Sequence[Run]) -> Selection | None:
    study = load(name)
    try:
        return select(study, [run for run in runs if run.experiment in study.arms])
    except UserError:  # no run of the arm that the report is about
        return None


def judged_by(key: str, found: Mapping[str, Selection | None]) -> Judged:
    """The criterion REPORT.NUMBER; its verdict is `not run` if the report has no runs."""
    name, _, place = key.partition(".")
    selection = found[name]
    if selection is None:
        return Judged(load(name).criteria[int(place) - 1].says, "", (), NOT_RUN)
    return judge_criteria(selection)[int(place) - 1]


def answers(runs: Sequence[Run], questions: Sequence[Question]) -> list[Answer]:
    """The answer to each question that the runs give."""
    found = selections(runs, questions)
    said = []
    for question in questions:
        judged = {key: judged_by(key, found) for key in question.criteria}
        first = next(each for each in question.readings if _holds(each, judged))
        says = [first.say, *(each.say for each in question.also if _holds(each, judged))]
        open_ = tuple(line for name in found for line in _to_decide(name, found[name], judged))
        said.append(Answer(question, _filled(" ".join(says), judged, runs), tuple(judged.values()), open_))
    return said


def _to_decide(name: str, selection: Selection | None, judged: Mapping[str, Judged]) -> list[str]:
    """The lines with a number of seeds; the table says of the others that there is one seed, or no run."""
    mine = [each for key, each in judged.items() if key.startswith(f"{name}.")]
    return what_would_decide(mine, selection, known=True) if selection else []


def _holds(reading: Reading, judged: Mapping[str, Judged]) -> bool:
    return all(_is(judged[key], words.split("|")) for key, words in reading.when.items())


def _is(judged: Judged, words: Sequence[str]) -> bool:
    number = judged.outcomes[0].estimate.number if judged.outcomes else None
    sign = "" if not number else "positive" if number > 0 else "negative"
    return judged.verdict.startswith(tuple(words)) or sign in words


def _filled(say: str, judged: Mapping[str, Judged], runs: Sequence[Run]) -> str:
    """The words with numbers in place of `{REPORT.NUMBER}` and `{REPORT.NUMBER.CHECK}`; `{-...}` turns the sign.
    `{lowest ARM}`: the steps at which the FIDs of that arm's runs are lowest; `{late ARM}`: those with a chain that
    begins later."""

    def of_arm(match: re.Match[str]) -> str:
        say = {"lowest": lowest, "late": late_chain_words}[match[1]]
        return say([run for run in runs if run.experiment == match[2]])

    def number(match: re.Match[str]) -> str:
        report, place, *check = match[2].split(".")
        outcomes = judged[f"{report}.{place}"].outcomes
        turn = -1 if match[1] else 1
        return in_words(outcomes[int(check[0]) - 1 if check else 0], turn) if outcomes else "not measured"

    return re.sub(r"\{(-?)([\w.]+)\}", number, re.sub(r"\{(lowest|late) (\w+)\}", of_arm, say))


def in_words(outcome: Outcome, turn: int = 1) -> str:
    """`-58.7 % (-75.4 to -41.9)`: a check's number times `turn`, with its interval, over seeds if there is one."""
    found = outcome.estimate
    if found.number is None:
        return "not measured"
    ends = sorted(turn * end for end in found.seeds or found.within or ())
    of_change = outcome.check.of != "value"
    value, *interval = ((f"{each:.1f}" if outcome.unit else digits(each, 3)) for each in (turn * found.number, *ends))
    sign = "+" if of_change and turn * found.number > 0 else ""
    return f"{sign}{value}{outcome.unit} ({' to '.join(interval) or 'one seed'})"
