"""Every metric that a run logs: its key, label, unit, meaning, when it is logged and what it costs.

`table.yaml` lists them. `ddpm metrics` prints them as docs/metrics.md, and figures take their axis labels from here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddpm.files.yaml12 import read_yaml
from ddpm.names import METHODS, NOISE_BINS, NOISE_EDGES

STEP = "step"
TABLE = "sample_table"  # W&B's key of the table of single samples; with a slash, each step would make another artifact
SOURCE = "source_run"  # in the config of a W&B run that works on a training's checkpoints: the training's W&B id
CURVES = ("mins_snr_curve/t", "mins_snr_curve/weight")  # lists, logged once
# Lists with the value of each draw, logged at every measurement. All other values are numbers or names.
DRAWN = tuple(
    f"curvature/{loss}_values" for loss in ("hutch", "ref", "neutral", *(f"trace_by_noise/{b}" for b in NOISE_BINS))
)
LISTS = CURVES + DRAWN


@dataclass(frozen=True)
class Metric:
    """One logged quantity. `label` and `unit` are what a figure's axis shows."""

    key: str
    label: str
    unit: str
    when: str
    cost: str
    meaning: str

    @property
    def axis(self) -> str:
        """The axis label, e.g. `time in probes (s)`."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


_EACH: dict[str, list[dict[str, str]]] = {
    "method": [{"method": name} for name in METHODS],
    "noise": [
        {"bin": name, "low": str(low), "high": str(high)}
        for name, low, high in zip(NOISE_BINS, NOISE_EDGES[:-1], NOISE_EDGES[1:], strict=True)
    ],
}


def _read(entries: list[dict[str, Any]], words: dict[str, str]) -> Iterator[Metric]:
    """The metrics of a list in the file; `words` are those of the file and of the groups around it."""
    for entry in entries:
        if "each" in entry:
            every = _EACH.get(str(entry["each"]), entry["each"])
            for values in every:
                yield from _read(entry["metrics"], words | _filled(values, words))
            continue
        row = words | _filled(entry, words)
        metric = Metric(**{name: row[name] for name in Metric.__dataclass_fields__})
        if entry.get("losses") == "both":
            name = metric.key.removeprefix("curvature/")
            unweighted = replace(
                metric,
                key=f"curvature/ref_{name.removeprefix('hutch_')}",
                label=f"{metric.label}, unweighted loss",
                **_filled(_FILE["unweighted"], {"name": name}),
            )
            yield from (replace(metric, label=f"{metric.label}, trained loss"), unweighted)
        else:
            yield metric


def _filled(values: dict[str, str], words: dict[str, str]) -> dict[str, str]:
    return {name: text.format_map(words) for name, text in values.items()}


_PATH = Path(__file__).with_name("table.yaml")
_FILE = read_yaml(_PATH.read_bytes(), _PATH)
METRICS = {metric.key: metric for metric in _read(_FILE["metrics"], _FILE["words"])}


def metric_of(key: str) -> Metric | None:
    """The metric logged under `key`; None for an unknown key. One of a family has its own t in key and label."""
    t = re.search(r"_t(\d{4,})$", key)
    family = METRICS.get(f"{key[: t.start()]}_tXXXX") if t else None
    if t and family:
        return replace(family, key=key, label=family.label.replace("XXXX", str(int(t[1]))))
    return METRICS.get(key)


def axis_label(key: str) -> str:
    """The axis label of `key`; for an unknown key, the key itself."""
    metric = metric_of(key)
    return metric.axis if metric else key


def markdown_page() -> str:
    """The text of docs/metrics.md: a table for each section."""
    parts = [_FILE["opening"]]
    for section in _FILE["sections"]:
        rows = [_markdown_row(metric) for metric in METRICS.values() if _section(metric.key) == section["title"]]
        head = ["| key | meaning | unit | when | cost |", "|---|---|---|---|---|"]
        parts += [f"## {section['title']}", section["about"], "\n".join([*head, *rows])]
    return "\n\n".join(parts) + "\n"


def _section(key: str) -> str:
    """The title of the section with the longest start of `key`."""
    titles = {start: section["title"] for section in _FILE["sections"] for start in section["keys"]}
    return str(titles[max(filter(key.startswith, titles), key=len)])


def _markdown_row(metric: Metric) -> str:
    meaning = metric.meaning.replace("|", "\\|")
    return f"| `{metric.key}` | {meaning} | {metric.unit} | {metric.when} | {metric.cost} |"
