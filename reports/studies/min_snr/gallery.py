"""docs/gallery.md: every kind of figure that the project makes, with the command that makes it."""

import inspect
import re
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ddpm.files.yaml12 import read_yaml
from reports.figures import FIGURES
from reports.text.markup import template

FOLDER = "findings/gallery"  # of the report's figures, below docs/
REPORT = "ddpm report e6 --from docs/findings/runs --out out/e6"
FINDINGS = "ddpm findings"


class Entry(BaseModel):
    """A figure of the gallery. image: its file below docs/."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    shows: str
    command: str = FINDINGS
    image: str


def listed() -> dict[str, list[dict[str, str]]]:
    """The content of `gallery.yaml`."""
    content = (resources.files("reports.studies.min_snr") / "gallery.yaml").read_bytes()
    found: dict[str, list[dict[str, str]]] = read_yaml(content, "gallery.yaml")
    return found


def gallery(docs: Path) -> str:
    """The Markdown text. A figure whose picture is not below `docs` is listed without it."""
    figures = listed()
    report = [
        {"title": title, "shows": _first_paragraph(function), "command": REPORT, "image": f"{FOLDER}/{name}.png"}
        for name, (title, function) in FIGURES.items()
    ]
    sections = {"Findings": figures["findings"], "Reports": report, "Checkpoints and configs": figures["others"]}
    shown = [(name, [Entry.model_validate(entry) for entry in found]) for name, found in sections.items()]
    drawn = {entry.image for _, found in shown for entry in found if (docs / entry.image).exists()}
    text = template("studies/min_snr/gallery.md.jinja").render(sections=shown, drawn=drawn)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _first_paragraph(function: object) -> str:
    """The first paragraph of a figure function's docstring, in one line."""
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
