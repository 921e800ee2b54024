"""The GPU check, run on a CPU: it runs, and it notices faults."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as whole
from benchmarks.claims import REPOSITORY, Claim
from benchmarks.gpu import checks, graph, resume
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.task import Task
from ddpm.config.run import Config

# Runs the check twice in one process: first only a section that skips everything, then all sections and three that
# fail. Packages that a machine with a GPU may lack cannot be imported.
DRIVER = """
import os, sys
sys.modules |= dict.fromkeys("wandb pandas pyarrow seaborn matplotlib cleanfid jinja2 markdown requests".split())
from benchmarks.claims import Claim
from benchmarks.gpu import sections
from benchmarks.gpu.__main__ import main

def raises(task):
    yield Claim("before", 1.0)
    raise ValueError("what went wrong")

def misses(task):
    yield Claim("too much", 2.0, target=1.0)

def dies(task):
    yield "going"
    os._exit(3)

options = ["--device", "cpu", "--quick", "--minutes", "30", "--out", sys.argv[1]]
alone = main([*options, "--only", "processes"])
wrong = [sections.Section(f.__name__, f, 60) for f in (raises, misses, dies)]
sections.SECTIONS = (*wrong, *sections.SECTIONS)
print("CODES", alone, main(options))
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """gpu.json, and the printed output."""
    out = tmp_path_factory.mktemp("gpu")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, str(out)]
    done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((out / "gpu.json").read_text()), done.stdout


def test_every_section_runs_on_a_cpu(ran: tuple[dict[str, Any], str]) -> None:
    """Catches code that only a GPU would run first, and an import of a missing package. The file has the format of
    `python -m benchmarks`."""
    found, said = ran
    statuses = {name: record["status"] for name, record in found.items()}
    assert statuses == {
        **dict.fromkeys(("raises", "misses", "dies"), "failed"),
        **dict.fromkeys(("precision", "resume", "samplers", "probe", "distances", "graph"), "passed"),
        **dict.fromkeys(("graph_speed", "step", "sampling", "probes", "pair"), "measured"),
        "processes": "skipped",
    }
    assert all(record["machine"]["threads"] == 1 for name, record in found.items())
    rows = whole.table(found).splitlines()
    assert any(row.startswith("| samplers, 1 | ddim:") and row.endswith("| yes |") for row in rows)
    assert "| pair | e6: steps | 4 |" in said
    assert "skipped: the capture itself, on a GPU alone" in found["graph"]["notes"][0]


def test_a_section_that_fails_says_why_and_the_rest_goes_on(ran: tuple[dict[str, Any], str]) -> None:
    """Catches a failure that ends the check, a failed check that exits with 0, and earlier numbers that are lost."""
    found, said = ran
    assert said.splitlines()[-1] == "CODES 0 1"
    reasons = {name: found[name]["reason"] for name in ("raises", "misses", "dies")}
    assert reasons["raises"] == "ValueError: what went wrong" and found["raises"]["claims"][0]["claim"] == "before"
    assert reasons["misses"] == "too much: 2"
    assert reasons["dies"] == "its process ended without a word"
    assert "| raises | **failed** in" in said


def test_what_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback from the first import."""
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("yaml", "scipy") else find(name))
    assert main(["--device", "cpu"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "benchmarks.gpu: scipy, pyyaml cannot be imported here: pip install scipy pyyaml."
    ]


# --- faults are noticed ---


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task(torch.device("cpu"), None, tmp_path / "work", tmp_path / "out", quick=True)


def missed(found: Iterator[Claim | str]) -> list[str]:
    return [c.claim for c in found if isinstance(c, Claim) and c.holds is False]


@contextlib.contextmanager
def as_if_tf32_stayed_on(*_: object) -> Iterator[None]:
    """Convolutions read 11 of a number's 24 bits."""
    original = torch.nn.functional.conv2d

    def rounded(x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32:
            return x
        return ((x.detach().contiguous().view(torch.int32) + 4096) >> 13 << 13).view(torch.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "torch.nn.functional.conv2d", lambda x, w, *rest, **k: original(rounded(x), rounded(w), *rest, **k)
        )
        yield


def test_images_by_rounded_convolutions_are_seen(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a bound on float32's error so wide that TF32 passes it."""
    monkeypatch.setattr(checks, "untouched", as_if_tf32_stayed_on)
    assert missed(checks.samplers(task)) == [
        f"{name}: float32 images against float64's, of the CPU's error" for name in ("ddim", "ddpm")
    ]


def test_other_features_and_other_values_are_seen(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the two is larger by a thousandth. Catches a comparison of a number with itself."""
    original, calls = checks._gaussian, iter(range(100))

    def larger(*args: Any) -> Any:
        gaussian = original(*args)
        scale = 1.0 if next(calls) < 2 else 1.001  # the first two come from the CPU
        return type(gaussian)(gaussian.mean * scale, gaussian.covariance * scale**2, gaussian.count)

    monkeypatch.setattr(checks, "_gaussian", larger)
    assert missed(checks.distances(task)) == [
        "FID by features in float32, relative difference",
        "FID by features as they are taken, relative difference",
    ]
    values, turn = checks._values, iter(range(100))

    def off(*args: Any) -> Any:
        scale = 1.001 if next(turn) % 2 == 0 else 1.0  # the device's come first
        return {key: scale * v + (scale - 1) * v.abs().max() * 100 for key, v in values(*args).items()}

    monkeypatch.setattr(checks, "_values", off)
    assert len(missed(checks.probe(task))) == 2


def test_losses_that_stray_are_seen(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp32 falls, bf16 starts elsewhere, and fp16 becomes NaN. Catches means that hide a difference, and NaN that
    passes."""
    falling = torch.linspace(1, 0.5, 40, dtype=torch.float64)
    series = {"fp32": falling, "bf16": 1.05 * falling, "fp16": torch.where(falling < 0.7, torch.nan, falling)}
    monkeypatch.setattr(checks, "_losses", lambda task, name: series[name])
    monkeypatch.setattr(checks, "_overflow", lambda task: iter(()))
    found = missed(checks.precision(task))
    assert not any(claim.startswith("fp32:") for claim in found)
    assert [claim for claim in found if "bf16" in claim] == [
        "bf16 against fp32: the first loss, relative difference",
        "bf16 against fp32: the last quarter's mean loss, relative difference",
    ]
    assert "fp16: losses that are not finite" in found and len(found) == 5


def test_a_captured_step_that_does_something_else_is_seen(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """The captured step takes other t. Catches a comparison of the eager step with itself."""
    monkeypatch.setattr(graph, "repeatable", lambda: None)  # it would stay so in this process
    work = graph.StaticStep.work

    def shifted(self: graph.StaticStep) -> None:
        self.t.clamp_(min=500)
        work(self)

    monkeypatch.setattr(graph.StaticStep, "work", shifted)
    assert len(missed(graph.equal(task))) == 1


def test_a_scale_that_a_resume_forgets_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made by hand: states that differ only in the scaler's count, and a missing row. Catches a comparison that leaves
    out either one. Also catches one that reports other bits as a failure although two uninterrupted trainings differ as
    well."""
    weights = torch.ones(3)
    whole_one = {"model/w": weights, "scaler/scale": 65536.0, "scaler/_growth_tracker": 8, "noise_rng": weights}
    states = {"whole": whole_one, "again": dict(whole_one), "killed": {**whole_one, "scaler/_growth_tracker": 4}}
    rows = {name: {2: {"train/loss": 1.0}, 4: {"train/loss": 0.5}} for name in states}
    del rows["killed"][4]
    monkeypatch.setattr(resume, "_state", lambda cfg: states[cfg])
    monkeypatch.setattr(resume, "_rows", lambda cfg: rows[cfg])
    monkeypatch.setattr(resume, "_not_repeatable", lambda cfg: [])

    def compared() -> Iterator[Claim | str]:
        names: list[Any] = ["whole", "again", "killed"]  # used in place of configs
        cfgs: list[Config] = names
        return resume._compared("fp16", *cfgs)

    assert missed(compared()) == [
        "fp16: rows that a kill changes",
        "fp16: parts of the last state that a kill changes",
        "fp16: parts of the scaler's state that a kill changes",
    ]
    states["again"] = {**whole_one, "model/w": weights + 1e-6}
    states["killed"] = {**whole_one, "model/w": weights - 2e-6}
    assert missed(compared()) == []
    states["killed"] = {**whole_one, "model/w": weights - 2e-5}
    assert missed(compared()) == ["fp16: weights' distance, of two uninterrupted trainings'"]
