"""Every option of every verb reaches what it is for.

The options come from the command line itself. For each option, `OPTIONS` holds a second value and what must change with
it; an option without an entry fails.
"""

import csv
import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ddpm.commands import cli
from ddpm.diffusion.samplers import draw
from ddpm.evaluation import evaluator as evaluate
from ddpm.training.loop import train
from tests.once import apart
from tests.settings.test_keys import World

Argv = list[str]
SECONDS = ("sample_s", "features_s", "distance_s")


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what a command shows: each function runs it in its own folder ---


def places(argv: Argv, folder: Path) -> list[str]:
    """Where files are written."""
    assert cli.main(argv) == 0
    return sorted(_files(folder))


def pictures(argv: Argv, folder: Path) -> dict[str, bytes]:
    """The written images, regardless of their place."""
    assert cli.main(argv) == 0
    return {Path(name).name: content for name, content in _files(folder).items() if name.endswith(".png")}


def _evaluated(argv: Argv, folder: Path) -> None:
    if not any(folder.rglob("evaluations.csv")):
        with mock.patch("ddpm.commands.score_checkpoints.draw_frontier"):
            assert cli.main(argv) == 0


def table(argv: Argv, folder: Path) -> list[dict[str, str]]:
    """An evaluation's rows, without the seconds and the protocol digests."""
    _evaluated(argv, folder)
    rows = csv.DictReader(next(folder.rglob("evaluations.csv")).read_text().splitlines())
    return [{key: value for key, value in row.items() if key not in (*SECONDS, "point", "protocol")} for row in rows]


def protocols(argv: Argv, folder: Path) -> str:
    """What the fingerprints of an evaluation stand for."""
    _evaluated(argv, folder)
    return next(folder.rglob("protocols.json")).read_text()


def curvature(argv: Argv, folder: Path) -> list[Any]:
    """The numbers of a probe."""
    assert cli.main(argv) == 0
    lines = next(folder.rglob("*.jsonl")).read_text().splitlines()
    return [json.loads(line)["out"] for line in lines]


def batch_sizes(argv: Argv, folder: Path) -> list[int]:
    """How many images are drawn at a time."""
    drawn = mock.Mock(side_effect=draw)
    with (
        mock.patch("ddpm.diffusion.samplers.draw", drawn),
        mock.patch.object(evaluate, "draw", drawn),
        mock.patch("ddpm.commands.score_checkpoints.draw_frontier"),
    ):
        assert cli.main(argv) == 0
    return [call.kwargs["batch_size"] for call in drawn.call_args_list]


def influences(argv: Argv, folder: Path) -> int:
    """How many samples' influence the run's record holds."""
    table(argv, folder)
    run = Path(argv[1]).parents[1]
    noted = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])["out"][0]
    return len(noted.get("influence", ()))


def answer(argv: Argv, folder: Path) -> int:
    """The exit code."""
    return cli.main(argv)


def handed_on(argv: Argv, folder: Path) -> list[Any]:
    """The arguments of the function that does the verb's work; its own tests check what it does with them."""
    work = {
        "train": ["ddpm.training.loop.train"],
        "sweep": ["ddpm.sweep.start.run_sweep", "ddpm.sweep.start.requeue_sweep"],
        "report": ["reports.report.make_report", "reports.library.make_library"],
        "plan": ["reports.text.plan.plan"],
        "sync": ["ddpm.tracking.sync.sync"],
        "dashboard": [
            "reports.browser.server.show",
            "reports.browser.export.export",
            "reports.dashboard.save_workspace",
        ],
        "schedule": ["ddpm.commands.plots.draw_schedule"],
        "findings": ["reports.studies.min_snr.write.write_figures", "reports.studies.min_snr.write.write_text"],
        "probe-pairs": ["reports.studies.probe_pairs.compare"],
    }
    with ExitStack() as stack:
        answer = 0 if argv[0] == "sweep" else ""
        mocks = {name: stack.enter_context(mock.patch(name, return_value=answer)) for name in work[argv[0]]}
        cli.main(argv)
    calls = [(name, call.args, call.kwargs) for name, function in mocks.items() for call in function.call_args_list]
    assert calls
    return calls


@dataclass(frozen=True)
class Option:
    """`with_it`, put behind `without` (or in its place if `instead`), changes all of `by`."""

    by: tuple[Callable[[Argv, Path], Any], ...]
    without: str
    with_it: str
    instead: bool = False


SAMPLE = "sample {run} --out {out} --nfe 3 --n 5"
EVALUATE = "evaluate {run}/checkpoints/step-000002.pt --out {out} --n 80 --nfe 2 --sampler ddpm"
PROBE = "probe {run}/checkpoints/step-000002.pt --out {out}/p.jsonl --probes 2"
REPORT = "report e6 --from {run}"
KEEP = "findings --docs {out} --keep {run}"
PAIRS = "probe-pairs --baseline a.jsonl --variant b.jsonl --out table"


def _on(*by: Callable[[Argv, Path], Any], without: str, given: str) -> Option:
    return Option(by, without, given)


def _for(*by: Callable[[Argv, Path], Any], without: str, given: str) -> Option:
    return Option(by, without, given, instead=True)


OPTIONS = {
    "train config": _for(handed_on, without="train {config}", given="train {other_config}"),
    "train --dry-run": _on(places, without="train {config} --out_dir={out}", given="--dry-run"),
    "sweep file": _for(handed_on, without="sweep a.yaml", given="sweep b.yaml"),
    "sweep --requeue": _for(handed_on, without="sweep a.yaml", given="sweep --requeue a/b/c"),
    "sweep --workers": _on(handed_on, without="sweep a.yaml", given="--workers 2"),
    "sweep --gpus": _on(handed_on, without="sweep a.yaml", given="--gpus 0,1"),
    "sweep --count": _on(handed_on, without="sweep a.yaml", given="--count 3"),
    "sweep --yes": _on(handed_on, without="sweep a.yaml", given="--yes"),
    "report experiment": _for(handed_on, without=REPORT, given="report e5 --from {run}"),
    "report --from": _on(handed_on, without=REPORT, given="--from {out}"),
    "report --out": _on(handed_on, without=REPORT, given="--out {out}/there"),
    "report --where": _on(handed_on, without=REPORT, given="--where seed=1"),
    "report --allow-mixed-protocols": _on(handed_on, without=REPORT, given="--allow-mixed-protocols"),
    "report --offline-cache": _on(handed_on, without=REPORT, given="--offline-cache"),
    "report --publish": _on(handed_on, without=REPORT, given="--publish a/b"),
    "plan experiment": _for(handed_on, without="plan e6", given="plan e9"),
    "plan --from": _on(handed_on, without="plan e6", given="--from {run}"),
    "plan --effect": _on(handed_on, without="plan e6", given="--effect 2.5"),
    "plan --power": _on(handed_on, without="plan e6", given="--power 0.9"),
    "plan --seeds": _on(handed_on, without="plan e6", given="--seeds 6"),
    "plan --where": _on(handed_on, without="plan e6", given="--where seed=1"),
    "sync root": _for(handed_on, without="sync a", given="sync b"),
    "dashboard experiment": _for(handed_on, without="dashboard e5", given="dashboard e6"),
    "dashboard --from": _on(handed_on, without="dashboard e6", given="--from {run}"),
    "dashboard --export": _on(handed_on, without="dashboard e6", given="--export {out}/there"),
    "dashboard --no-browser": _on(handed_on, without="dashboard e6", given="--no-browser"),
    "dashboard --host": _on(handed_on, without="dashboard e6", given="--host 0.0.0.0"),
    "dashboard --port": _on(handed_on, without="dashboard e6", given="--port 8000"),
    "dashboard --publish": _on(handed_on, without="dashboard e6", given="--publish a/b"),
    "sample source": _for(pictures, without=SAMPLE, given=SAMPLE.replace("{run}", "{other_run}")),
    "sample --out": _on(places, without=SAMPLE, given="--out {out}/there"),
    "sample --n": _on(pictures, without=SAMPLE, given="--n 6"),
    "sample --sampler": _on(pictures, without=SAMPLE, given="--sampler ddpm_large"),
    "sample --nfe": _on(pictures, without=SAMPLE, given="--nfe 4"),
    "sample --spacing": _on(pictures, without=SAMPLE, given="--spacing trailing"),
    "sample --t-start": _on(pictures, without=SAMPLE, given="--t-start 700"),
    "sample --eta": _on(pictures, without=f"{SAMPLE} --sampler ddim", given="--eta 0.8"),
    "sample --x0-limit": _on(pictures, without=SAMPLE, given="--x0-limit none"),
    "sample --weights": _on(pictures, without=SAMPLE, given="--weights live"),
    "sample --seed": _on(pictures, without=SAMPLE, given="--seed 3"),
    "sample --batch-size": _on(batch_sizes, without=SAMPLE, given="--batch-size 2"),
    "sample --device": _on(answer, without=SAMPLE, given="--device cuda:63"),
    "sample --each": _on(places, without=SAMPLE, given="--each"),
    "probe source": _for(curvature, without=PROBE, given=PROBE.replace("step-000002", "step-000004")),
    "probe --data": _on(curvature, without=PROBE, given="--data {pictures}"),
    "probe --method": _on(curvature, without=f"{PROBE} --probes 4", given="--method xtrace"),
    "probe --probes": _on(curvature, without=PROBE, given="--probes 4"),
    "probe --weights": _on(curvature, without=PROBE, given="--weights ema"),
    "probe --device": _on(answer, without=PROBE, given="--device cuda:63"),
    "probe --out": _on(places, without=PROBE, given="--out {out}/q.jsonl"),
    "evaluate sources": _for(table, without=EVALUATE, given=EVALUATE.replace("step-000002", "step-000004")),
    "evaluate --out": _on(places, without=EVALUATE, given="--out {out}/there"),
    "evaluate --sampler": _on(table, protocols, without=EVALUATE, given="--sampler ddpm_large"),
    "evaluate --nfe": _on(table, protocols, without=EVALUATE, given="--nfe 3"),
    "evaluate --n": _on(table, protocols, without=EVALUATE, given="--n 90"),
    "evaluate --metrics": _on(table, protocols, without=EVALUATE, given="--metrics prdc"),
    "evaluate --features": _on(table, protocols, without=EVALUATE, given="--features {net}"),
    "evaluate --data": _on(table, protocols, without=EVALUATE, given="--data {pictures}"),
    "evaluate --weights": _on(table, protocols, without=EVALUATE, given="--weights live"),
    "evaluate --spacing": _on(table, protocols, without=EVALUATE, given="--spacing trailing"),
    "evaluate --t-start": _on(table, protocols, without=EVALUATE, given="--t-start 700"),
    "evaluate --x0-limit": _on(table, protocols, without=EVALUATE, given="--x0-limit none"),
    "evaluate --seed": _on(table, without=EVALUATE, given="--seed 3"),
    "evaluate --batch-size": _on(batch_sizes, without=EVALUATE, given="--batch-size 30"),
    "evaluate --device": _on(answer, without=EVALUATE, given="--device cuda:63"),
    "evaluate --influence": _on(influences, without=EVALUATE, given="--influence"),
    "schedule config": _for(handed_on, without="schedule {config}", given="schedule {other_config}"),
    "schedule --out": _on(handed_on, without="schedule {config}", given="--out {out}/curves.svg"),
    "findings --docs": _on(handed_on, without="findings", given="--docs {out}"),
    "findings --original": _on(handed_on, without="findings", given="--original {out}"),
    "findings --no-figures": _on(handed_on, without="findings", given="--no-figures"),
    "findings --keep": _on(places, without=KEEP, given="{other_run}"),
    "findings --to": _on(places, without=KEEP, given="--to {out}/there"),
    "probe-pairs --baseline": _for(handed_on, without=PAIRS, given=PAIRS.replace("a.jsonl", "c.jsonl")),
    "probe-pairs --variant": _for(handed_on, without=PAIRS, given=PAIRS.replace("b.jsonl", "c.jsonl")),
    "probe-pairs --out": _for(handed_on, without=PAIRS, given=PAIRS.replace("table", "other")),
}


def _options() -> list[str]:
    """`VERB OPTION` for every option of the command line except --help."""
    verbs = next(action for action in cli._parser()._actions if action.dest not in ("help", "version")).choices
    assert isinstance(verbs, dict)
    actions = [(verb, action) for verb, parser in verbs.items() for action in parser._actions if action.dest != "help"]
    return [f"{verb} {action.option_strings[-1] if action.option_strings else action.dest}" for verb, action in actions]


class Runs(World):
    """Runs of four steps with a learning rate at which averaged and live weights draw different images."""

    def __init__(self, root: Path):
        super().__init__(root)
        for name, seed in (("run", 1), ("other_run", 5)):
            cfg = self.config("--optim.lr=0.05", "--ema.decay=0.9", f"--seed={seed}")
            self.names[name] = train(cfg)
            self.names[name.replace("run", "config")] = root / f"{name}.yaml"
            (root / f"{name}.yaml").write_text(cfg.to_yaml())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("options")
    with pytest.MonkeyPatch.context() as patch:
        apart(patch, root)
        return Runs(root)


def test_every_option_has_an_entry() -> None:
    """Catches an option without a test."""
    assert set(OPTIONS) == set(_options())


def _groups() -> dict[str, list[str]]:
    """The options grouped by shared command line, so that it runs once for all of them."""
    groups: dict[str, list[str]] = {}
    for name, option in OPTIONS.items():
        groups.setdefault(option.without, []).append(name)
    several = groups.pop(EVALUATE)  # in parts, so that processes share them
    return groups | {EVALUATE: several[::2], EVALUATE.replace(" --nfe 2", " --nfe  2"): several[1::2]}


@pytest.mark.parametrize(
    ("without", "names"), _groups().items(), ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_options_reach_what_they_are_for(
    without: str, names: list[str], runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an option that is parsed but not passed on, or passed on but not used."""
    apart(monkeypatch, runs.root)
    monkeypatch.chdir(tmp_path)
    found: dict[tuple[str, Callable[[Argv, Path], Any]], str] = {}

    def seen(line: str, by: Callable[[Argv, Path], Any]) -> str:
        if (line, by) not in found:
            # Several functions read one evaluation's files; other commands run anew.
            place = line if by in (table, protocols) else f"{by.__name__} {line}"
            out = tmp_path / hashlib.sha256(place.encode()).hexdigest()[:12]
            out.mkdir(exist_ok=True)
            argv = [word.format(**runs.names, out=out) for word in line.split()]
            found[line, by] = str(by(argv, out)).replace(str(out), "OUT")
        return found[line, by]

    unmoved = []
    for name in names:
        option = OPTIONS[name]
        given = option.with_it if option.instead else f"{without} {option.with_it}"
        unmoved += [f"{name}: {by.__name__} is as it was" for by in option.by if seen(without, by) == seen(given, by)]
    assert not unmoved
