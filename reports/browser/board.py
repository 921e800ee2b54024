"""What the page shows, as JSON: the board reads the runs and answers by name."""

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from scipy.stats import t as student

from ddpm.errors import UserError, one_line
from ddpm.metrics import Z95
from ddpm.metrics.table import METRICS, axis_label
from ddpm.names import NOISE_BINS, NOISE_EDGES
from reports.browser.cards import TRACES, Card, make_card
from reports.experiments import Study
from reports.experiments.selection import (
    Arm,
    Selection,
    differing_keys,
    differing_predictions,
    differing_schedules,
    is_label,
    select,
    show,
)
from reports.figures import style
from reports.figures.library import described
from reports.sources.watch import Found, Watch
from reports.stats.statistics import weightings_differ

# Plotly's names of the reports' markers.
_SYMBOLS = {
    **{"o": "circle", "s": "square", "^": "triangle-up", "v": "triangle-down", "D": "diamond"},
    **{"P": "cross", "X": "x", "<": "triangle-left", ">": "triangle-right"},
}
_MOST_SEEDS = 100  # for the intervals over seeds


class Board:
    """The runs of a folder, condensed, and the page's questions about them.

    `study`: whose runs are shown first; None: all are. Raises UserError as `Watch`. `refresh` and `answer` may be
    called from different threads.
    """

    def __init__(self, source: str, study: Study | None) -> None:
        self.source, self.study = source, study
        self.watch = Watch(source)
        self.version = 0
        self.total = len(self.watch)
        self._lock = threading.Lock()
        self._cards: dict[str, list[tuple[str, int, Card]]] = {}  # file key -> (run key, version, card)
        self._problems: dict[str, str] = {}
        self._names: dict[tuple[str, int], str] = {}
        self._state: tuple[int, dict[str, Any]] = (-1, {})

    def refresh(self) -> None:
        """Read what is new."""
        self.total = len(self.watch)
        for found in self.watch.changes():
            self._take(found)

    def _take(self, found: Found) -> None:
        problem = found.problem
        try:
            cards = [make_card(run, found.changed) for run in found.runs]
        except Exception as error:  # one run must not hide the others
            cards, problem = [], f"{found.key} cannot be shown ({type(error).__name__}: {one_line(error)})"
        with self._lock:
            self.version += 1
            self._cards[found.key] = [
                (self._names.setdefault((found.key, i), f"r{len(self._names)}"), self.version, card)
                for i, card in enumerate(cards)
            ]
            self._problems.pop(found.key, None)
            if problem:
                self._problems[found.key] = problem

    # ---- answers -------------------------------------------------------------------------------------------

    def answer(self, name: str, since: int = 0) -> bytes:
        """JSON text of `state`, `pairs`, `configs` or `metric-ID`; of runs that were read after version `since` only.

        Raises KeyError for another name.
        """
        with self._lock:
            version = self.version
            held = [entry for entries in self._cards.values() for entry in entries]
        fresh = [(key, card) for key, at, card in held if at > since]
        if name == "state":
            found = self._described([(key, card) for key, _, card in held], version) if version > since else {}
            return _json({"version": version, "now": time.time(), **found})
        if name == "pairs":
            return _json({"version": version, "runs": {key: card.pairs for key, card in fresh}})
        if name == "configs":
            return _json({"version": version, "runs": {key: _config(card) for key, card in fresh}})
        metric = next((m for _, _, card in held for m in card.curves if metric_id(m) == name), None)
        if metric is None:
            raise KeyError(name)
        curves = {key: card.curves.get(metric) for key, card in fresh}
        return _json({"version": version, "runs": curves})

    def names(self) -> list[str]:
        """The names of all answers."""
        with self._lock:
            metrics = {m for entries in self._cards.values() for _, _, card in entries for m in card.curves}
        return ["state", "pairs", "configs", *sorted(map(metric_id, metrics))]

    def grid(self, key: str, step: int) -> Path | None:
        """The sample grid of a run at a step; None if there is none."""
        with self._lock:
            found = [card for entries in self._cards.values() for name, _, card in entries if name == key]
        return found[0].run.grids.get(step) if found else None

    def grids(self) -> list[tuple[str, int, Path]]:
        """Run key, step and file of every sample grid."""
        with self._lock:
            held = [entry for entries in self._cards.values() for entry in entries]
        return [(key, step, path) for key, _, card in held for step, path in card.run.grids.items()]

    def _described(self, held: Sequence[tuple[str, Card]], version: int) -> dict[str, Any]:
        if self._state[0] != version:
            self._state = version, _state(held, self.study, self.source, self.total, dict(self._problems))
        return self._state[1]


def metric_id(metric: str) -> str:
    """A name for the metric's answer that any address and file system takes."""
    return f"metric-{hashlib.sha256(metric.encode(errors='replace')).hexdigest()[:12]}"


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS, default=str)


def _config(card: Card) -> dict[str, list[Any]]:
    """Dotted key -> [its value as text, whether it only names the run, its place or its machine]."""
    config = card.run.flat
    return {key: [show(config, key), is_label(key)] for key in sorted(config)}


def _state(
    held: Sequence[tuple[str, Card]], study: Study | None, source: str, total: int, problems: dict[str, str]
) -> dict[str, Any]:
    selection, notes = _selected([card for _, card in held], study)
    groups, group_of = _groups([card for _, card in held], study, selection)
    chosen = None if selection is None else {id(run) for arm in selection.arms for run in arm.runs}
    swept = differing_keys([Arm(card.run.experiment, "", (card.run,)) for _, card in held])
    runs = [
        {
            "key": key,
            "id": card.run.id,
            "name": card.run.name,
            "group": group,
            "experiment": card.run.experiment,
            "seed": card.run.seed,
            "finished": card.run.state == "finished",
            "step": card.run.last_step,
            "planned": card.run.planned_steps,
            "changed": card.changed,
            "protocol": card.run.protocol_of("val/fid") if "val/fid" in card.curves else None,
            "grids": list(card.run.grids),
            "numbers": card.numbers,
            "swept": {name: show(card.run.flat, name) for name in swept},
            "notes": card.notes,
            "shown": chosen is None or id(card.run) in chosen,
        }
        for (key, card), group in zip(held, group_of, strict=True)
    ]
    protocols = {
        run.protocol_of("val/fid"): described(
            run.protocol_of("val/fid"), run.protocols.get(run.protocol_of("val/fid"), {})
        )
        for run in (card.run for _, card in held if "val/fid" in card.curves)
    }
    return {
        "title": f"{study.name}: {study.title}" if study else "All runs",
        "question": study.question if study else "",
        "source": source,
        "read": len(held) + len(problems),
        "total": total,
        "groups": groups,
        "runs": runs,
        "swept": swept,
        "columns": list(dict.fromkeys(name for _, card in held for name in card.numbers)),
        "protocols": protocols,
        "metrics": _metrics([card for _, card in held]),
        "traces": [{"key": key, "label": METRICS[key].label} for key in TRACES],
        "noise": [
            {"id": metric_id(f"curvature/trace_by_noise/{name}_mean"), "middle": (low + high) / 2}
            for name, low, high in zip(NOISE_BINS, NOISE_EDGES[:-1], NOISE_EDGES[1:], strict=True)
        ],
        "notes": [*notes, *problems.values()],
        "unlisted": max((card.unlisted for _, card in held), default=0),
        "z95": Z95,
        "t95": [None, *(float(student.ppf(0.975, n)) for n in range(1, _MOST_SEEDS))],
    }


def _selected(cards: Sequence[Card], study: Study | None) -> tuple[Selection | None, list[str]]:
    """What the study's report would compare, and what it would say about that; None if there is nothing (yet)."""
    if study is None or not cards:
        return None, []
    try:
        selection = select(study, [card.run for card in cards])
    except UserError as error:
        return None, [f"All runs are shown, as there is nothing to compare yet: {one_line(error)}."]
    notes = [*selection.warnings, *(f"Not shown at first. {line}." for line in selection.left_out)]
    notes += [f"There is no run of {name} yet." for name in selection.missing]
    if weightings_differ(selection.arms):
        notes.append("The arms optimise differently weighted losses: compare train/mse, not train/loss.")
    if schedules := differing_schedules([arm.config for arm in selection.arms]):
        notes.append(
            f"The schedules differ ({schedules}): losses and traces over timesteps are other functions under each. "
            "Compare the neutral trace and the traces by noise level."
        )
    if predictions := differing_predictions([arm.config for arm in selection.arms]):
        notes.append(
            f"The predictions differ ({predictions}): each network is another function of its weights. "
            "Compare losses and FIDs, not traces."
        )
    return selection, notes


def _groups(
    cards: Sequence[Card], study: Study | None, selection: Selection | None
) -> tuple[list[dict[str, Any]], list[int]]:
    """The groups (an experiment's runs of one setting), and the group of each card."""
    labels = style.arm_labels(selection.arms, selection) if selection and selection.arms else {}
    own: dict[str, list[Card]] = defaultdict(list)
    for card in cards:
        own[card.run.experiment].append(card)
    order = [*(study.arms if study else ()), *(study.context if study else ())]
    experiments = sorted(own, key=lambda name: (order.index(name) if name in order else len(order), name))
    settings: dict[int, tuple[str, str]] = {}  # card -> experiment, how its setting differs from its other runs'
    for name in experiments:
        keys = differing_keys([Arm(name, "", (card.run,)) for card in own[name]])
        for card in own[name]:
            settings[id(card)] = name, ", ".join(f"{key} = {show(card.run.flat, key)}" for key in keys)
    different = sorted(set(settings.values()), key=lambda pair: (experiments.index(pair[0]), pair[1]))
    groups: list[dict[str, Any]] = []
    with style.told_apart(experiments):
        for name, setting in different:
            earlier = [group for group in groups if group["experiment"] == name]
            groups.append(
                {
                    "experiment": name,
                    "name": "; ".join(filter(None, [labels.get(name, name), setting])),
                    "colour": style.colour(name),
                    "dash": _dash(style.dash(name)) if not earlier else ["dash", "dot", "dashdot"][len(earlier) % 3],
                    "symbol": _SYMBOLS[style.marker(name)],
                }
            )
    return groups, [different.index(settings[id(card)]) for card in cards]


def _dash(line: Any) -> str:
    """A line style of matplotlib as the page's charts name it."""
    return "solid" if line == "-" else ",".join(f"{2 * length:g}px" for length in line[1])


def _metrics(cards: Sequence[Card]) -> list[dict[str, Any]]:
    """The metrics that have curves, in the order of the metrics table, unknown ones last."""
    counts: dict[str, int] = defaultdict(int)
    for card in cards:
        for metric in card.curves:
            counts[metric] += 1
    place = {name: i for i, name in enumerate(METRICS)}
    return [
        {"id": metric_id(name), "key": name, "label": axis_label(name), "runs": counts[name]}
        for name in sorted(counts, key=lambda name: (place.get(name, len(place)), name))
    ]
