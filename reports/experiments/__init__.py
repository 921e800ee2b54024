"""Experiments as data: the arms a report compares, in what they are meant to differ, its figures."""

import difflib
from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ddpm.errors import UserError

Role = Literal["baseline", "variant"]


class Windows(BaseModel):
    """Parts of a run, as fractions of its length N: the steps with lo * N <= step <= hi * N and step > 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    early: tuple[float, float] = (0.0, 0.2)
    late: tuple[float, float] = (0.8, 1.0)


class Study(BaseModel):
    """One report: `arms` (experiment -> role, in the order shown), `context` (experiments that appear only
    where FID over steps is compared), `difference` (globs of the config keys in which the arms are meant to
    differ) and the names of its `figures`, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    question: str
    arms: dict[str, Role]
    context: tuple[str, ...] = ()
    difference: tuple[str, ...] = ()
    figures: tuple[str, ...]
    windows: Windows = Field(default_factory=Windows)

    @model_validator(mode="after")
    def _one_baseline(self) -> "Study":
        if list(self.arms.values()).count("baseline") != 1:
            raise ValueError("exactly one arm is the baseline")
        if self.name not in self.arms:
            raise ValueError("the experiment must be one of its own arms")
        return self

    @property
    def baseline(self) -> str:
        """The experiment that the others are compared with."""
        return next(name for name, role in self.arms.items() if role == "baseline")


def names() -> list[str]:
    """The experiments that have a report, sorted."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load(name: str) -> Study:
    """The study called `name`. Raises UserError for an unknown one, with the names there are."""
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        raise UserError(f"There is no experiment `{name}`.{hint} Those with a report: {', '.join(known)}.")
    text = (resources.files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
    return Study.model_validate(yaml.safe_load(text))
