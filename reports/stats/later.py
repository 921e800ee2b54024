"""Numbers that were measured on checkpoints after the training, by arm: the mean over its runs."""

from collections import defaultdict

import pandas as pd

from reports.experiments.selection import Selection
from reports.runs import Later
from reports.stats.statistics import COLUMNS

Key = tuple[str, str, str, int]  # experiment, metric, setting, step


def by_arm(selection: Selection) -> dict[Key, list[Later]]:
    """What each arm's runs have of each number, in a fixed order."""
    found: dict[Key, list[Later]] = defaultdict(list)
    for arm in selection.arms:
        for run in arm.runs:
            for each in run.later:
                found[arm.experiment, each.metric, each.setting, each.step].append(each)
    order = [arm.experiment for arm in selection.arms]
    return {key: found[key] for key in sorted(found, key=lambda key: (order.index(key[0]), *key[1:]))}


def later_numbers(selection: Selection) -> pd.DataFrame:
    """Rows of `numbers.csv`: `SETTING_step<step>`, with `_low` and `_high`, the interval of one run's number, or
    `_lowest_seed` and `_highest_seed` of several."""
    rows = []
    for (arm, metric, setting, step), each in by_arm(selection).items():
        values = [one.value for one in each]
        found = {"": sum(values) / len(values)}
        if len(values) > 1:
            found |= {"_lowest_seed": min(values), "_highest_seed": max(values)}
        elif each[0].low is not None and each[0].high is not None:
            found |= {"_low": each[0].low, "_high": each[0].high}
        rows += [(arm, metric, f"{setting}_step{step}{end}", value) for end, value in found.items()]
    return pd.DataFrame(rows, columns=COLUMNS)
