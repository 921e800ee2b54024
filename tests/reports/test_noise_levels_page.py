"""The numbers of docs/curvature.md on noise levels follow from the records beside it."""

import re
from pathlib import Path

from ddpm.names import NOISE_BINS, NOISE_EDGES
from reports.experiments import load
from reports.experiments.selection import select
from reports.sources import open_source
from reports.stats.draws import paired_ratio
from reports.stats.statistics import COMMON, NEUTRAL

DOCS = Path(__file__).parents[2] / "docs"
PAIRS = (("e5", "e6"), ("e9a", "e9b"), ("e5", "e9a"))


def test_the_pages_ratios_are_those_of_the_records() -> None:
    """Every ratio of the table, with its interval, is that of the runs in docs/noise_levels. Catches a table that was
    typed by hand, or made with an older version of the intervals."""
    study = load("e9")
    selection = select(study, open_source(str(DOCS / "noise_levels/runs"), [*study.arms]), ())
    arms = {arm.experiment: arm for arm in selection.arms}
    rows = {
        f"{low} ... {high}": f"curvature/trace_by_noise/{name}_mean"
        for name, low, high in zip(NOISE_BINS, NOISE_EDGES[:-1], NOISE_EDGES[1:], strict=True)
    } | {"neutral": NEUTRAL, "common": COMMON}
    page = (DOCS / "curvature.md").read_text()
    table = page.split("| log SNR | E6 / E5")[1].split("\n\n")[0]
    for label, metric in rows.items():
        (line,) = [line for line in table.splitlines() if line.startswith(f"| {label} |")]
        shown = [float(number) for number in re.findall(r"\d\.\d{3}", line)]
        found: list[float] = []
        for baseline, variant in PAIRS:
            ratio = paired_ratio(arms[baseline], arms[variant], metric, [1750, 2000])
            assert ratio is not None and ratio.number is not None and ratio.within is not None
            found += [ratio.number, *ratio.within]
        assert len(shown) == len(found)
        assert all(abs(a - b) < 0.00051 for a, b in zip(shown, found, strict=True)), label
