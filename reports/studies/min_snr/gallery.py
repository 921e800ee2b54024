"""docs/gallery.md: every kind of figure that the project makes, with the command that makes it."""

import inspect
import re
from dataclasses import dataclass
from pathlib import Path

from reports.figures import FIGURES
from reports.text.markup import template

FOLDER = "findings/gallery"  # of the report's figures, beneath docs/
REPORT = "ddpm report e6 --from docs/findings/runs --out out/e6"


@dataclass(frozen=True)
class Entry:
    """A figure of the gallery. image: beneath docs/, empty where there is none, and `without` says why."""

    title: str
    shows: str
    command: str
    image: str = ""
    without: str = ""


FINDINGS = {
    "the_point": (
        "The rerun in a picture",
        "FID of the same checkpoints by the study's sampler and by respaced DDPM, and E6's trace against E5's on the "
        "trained and on the common loss.",
    ),
    "fids": ("FID by sampler", "FID over steps of E5 and E6, a panel for each sampler, with intervals."),
    "samples": ("Samples by sampler", "Images of one run's checkpoints, from the same noise: a row for each sampler."),
    "curvature": ("Traces of both arms", "Hessian trace over steps, of the trained loss and of the common one."),
    "log": (
        "Our E5 and the original's log",
        "Loss, gradient norm and trace of the study's own log, of our rerun and of the faithful one.",
    ),
    "library": ("Curvature against FID over a sweep", "A line for each run over its milestones; colour: loss."),
}
_OTHERS = (
    Entry(
        "FID against NFE, embedded images",
        "Four samplers at 5 to 1000 network calls, between what real images and pure noise score (samplers.md).",
        "ddpm evaluate RUN --sampler ddpm,ddim,dpmpp_2m,ddpm_adjacent_posterior --nfe 5,10,20,50,100,250 --out out/nfe",
        "nfe_embedded.png",
    ),
    Entry(
        "FID against NFE, CIFAR-10",
        "The same on CIFAR-10. `ddpm evaluate` writes it as OUT/frontier.png, with intervals.",
        "ddpm evaluate RUN --sampler ddpm,ddim,dpmpp_2m,ddpm_adjacent_posterior --nfe 5,10,20,50,100,250 --out out/nfe",
        "nfe_cifar.png",
    ),
    Entry(
        "Two runs' traces, draw by draw",
        "The change of E6's trace against E5's at every checkpoint on the same draws, with intervals (curvature.md).",
        "ddpm probe-pairs --baseline e5.jsonl --variant e6.jsonl --out out/pairs",
        "curvature_e5_e6/pairs.png",
    ),
    Entry(
        "A config's schedule",
        "alpha_bar, SNR and the weighting over t.",
        "ddpm schedule configs/study/MS1_min_snr/e6/e6_minsnr_linear_hutch_trace_10k_50nfe.yaml --out out/schedule.png",
        "schedule_e6.png",
    ),
    Entry(
        "Samples",
        "A grid of images of a checkpoint, by any sampler; here of e5 at step 10,000, as findings.md shows it.",
        "ddpm sample RUN --sampler ddpm --nfe 50 --n 16 --out out/samples",
        "findings/samples/e5-s1077-5cc7047e/ddpm-010000.png",
    ),
)


def gallery(docs: Path) -> str:
    """The Markdown text; a figure whose picture is not below `docs` is listed without one."""
    findings = [
        Entry(title, shows, "ddpm findings", f"findings/{name}.png", "the records lack what it shows")
        for name, (title, shows) in FINDINGS.items()
    ]
    report = [
        Entry(title, _first_paragraph(function), REPORT, f"{FOLDER}/{name}.png", "the records lack what it shows")
        for name, (title, function) in FIGURES.items()
    ]
    sections = {
        "Of the findings": findings,
        "Of a report": report,
        "Of checkpoints and configs": list(_OTHERS),
    }
    shown = [(section, [_checked(entry, docs) for entry in entries]) for section, entries in sections.items()]
    text = template("studies/min_snr/gallery.md.jinja").render(sections=shown)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _checked(entry: Entry, docs: Path) -> Entry:
    there = entry.image and (docs / entry.image).exists()
    return entry if there else Entry(entry.title, entry.shows, entry.command, "", entry.without)


def _first_paragraph(function: object) -> str:
    """What a figure's function says of itself."""
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
