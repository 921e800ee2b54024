"""What benchmarks report, and how two of their files are compared. No test measures time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from benchmarks import __main__ as whole
from benchmarks import cost, judges
from benchmarks.claims import REPOSITORY, Claim, of_rounds, quotient, read_claims
from benchmarks.compare import changes
from benchmarks.timing import in_turn
from ddpm.data.images import load_images
from ddpm.evaluation.features import make_features


def test_a_claim_holds_on_its_targets_side() -> None:
    """Catches targets that are read the wrong way round if more is better."""
    assert Claim("a", 1.05, "x", 1.05).holds and not Claim("a", 1.06, "x", 1.05).holds
    assert Claim("a", 1.5, "x", 1.5, "more").holds and not Claim("a", 1.4, "x", 1.5, "more").holds
    assert Claim("a", 1.0).holds is None


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that becomes ten times slower in one round changes no ratio. Catches a ratio between medians."""
    found = quotient("a", [1, 20, 3], [2, 40, 6])
    assert (found.measured, found.low, found.high) == (0.5, 0.5, 0.5)
    spread = of_rounds("b", [1.0, 2.0, 3.0, 4.0, 100.0])
    assert (spread.measured, spread.low, spread.high) == (3.0, 2.0, 4.0)


def test_ways_are_measured_in_turn_after_a_warm_up() -> None:
    """A B, then B A; the first round does not count. Catches blocks of one way, and a warm-up that counts."""
    called: list[str] = []
    taken = in_turn({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, rounds=2)
    assert "".join(called[2:]) == "abba"
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 2, "b": 2}


def bench(*claims: Claim) -> dict[str, Any]:
    return {
        "step": {"setting": {}, "machine": {"threads": 2}, "claims": [vars(c) | {"holds": c.holds} for c in claims]}
    }


OLD = bench(
    Claim("of bare", 1.04, "x", 1.05, low=1.03, high=1.05),
    Claim("of loop", 1.5, "x", 1.4, "more"),
    Claim("seconds", 1.0, "s"),
    Claim("share", 70.0, "%", better="neither"),
    Claim("gone", 1.0, "x"),
)


def test_a_ratio_that_is_ten_percent_worse_is_a_regression() -> None:
    """Whether more or less is better. Catches a speed-up taken for a regression, and a regression hidden by its
    direction."""
    new = bench(
        Claim("of bare", 1.15, "x", 1.05, low=1.04, high=1.16),
        Claim("of loop", 1.35, "x", 1.4, "more"),
        Claim("seconds", 2.0, "s"),
        Claim("share", 90.0, "%", better="neither"),
    )
    found = {c.old.claim: c for c in changes(OLD, new)}
    assert "gone" not in found
    assert found["of bare"].worse_pct == pytest.approx(100 * (1.15 / 1.04 - 1)) and found["of bare"].overlaps
    assert found["of loop"].worse_pct == pytest.approx(100 * (1.5 / 1.35 - 1)) and not found["of loop"].overlaps
    assert found["share"].worse_pct is None
    assert read_claims(OLD["step"])[0] == Claim("of bare", 1.04, "x", 1.05, low=1.03, high=1.05)


@pytest.mark.parametrize(("measured", "code"), [(1.13, 0), (1.15, 1), (0.9, 0)])
def test_the_command_ends_with_1_on_a_regression(tmp_path: Path, measured: float, code: int) -> None:
    """1.04 to 1.15 is worse by 10.6 %, 1.04 to 1.13 by 8.7 %. Seconds that double are the machine's doing. Catches a
    comparison whose exit code a script cannot use."""
    files = tmp_path / "old.json", tmp_path / "new.json"
    new = bench(Claim("of bare", measured, "x", 1.05), Claim("seconds", 2.0, "s"))
    for path, content in zip(files, (OLD, new), strict=True):
        path.write_text(json.dumps(content))
    command = [sys.executable, "-m", "benchmarks.compare", *map(str, files)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert f"{code} worse by 10 % or more" in done.stdout and "3 claims" in done.stdout
    assert ("REGRESSION" in done.stdout) == bool(code)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.json"
    path.write_text("{")
    command = [sys.executable, "-m", "benchmarks.compare", str(path), str(path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and "empty.json" in done.stderr and "Traceback" not in done.stderr


def test_the_table_has_every_claim_with_a_target() -> None:
    """Catches missed targets that are left out of the summary."""
    rows = whole.table(OLD).splitlines()
    assert len(rows) == 4
    assert rows[2] == "| step, 2 | of bare | 1.04 (1.03 to 1.05) x | at most 1.05 | yes |"
    assert whole.table(bench(Claim("a", 2, "x", 1))).endswith("| at most 1 | **no** |")


def test_every_benchmark_is_run_by_make_bench() -> None:
    """Catches a script that nobody runs, or a name without a script."""
    scripts = {path.stem for path in (REPOSITORY / "benchmarks").glob("*.py")}
    shared = {"__init__", "__main__", "claims", "timing", "compare", "cost", "study", "distortions"}
    shared |= {"judges"}  # it needs CIFAR-10: docs/evaluation.md has its command
    assert scripts - shared == set(whole.NAMES)


def test_the_page_has_the_tables_of_its_files() -> None:
    """Catches a page that was not written again after the measurements, or the cost model, changed."""
    page = (REPOSITORY / "docs/speed.md").read_text()
    for path in (REPOSITORY / "docs/speed").glob("*.json"):
        assert whole.table(json.loads(path.read_text())) in page
    assert cost.table(cost.ASSUMED) in page


def test_a_studys_cost() -> None:
    """Checked by hand: 2 runs of 100 steps of 10 images, no probe, one score from 50 images at NFE 2, on a device with
    100 passes a second. Catches seconds that leave out the batch, the NFE or a part, and agents that wait for each
    other."""
    study = cost.Study(1, 2, 100, batch=10, probe_every=0, milestone_every=0, nfe=2, final_n=50, inception=False)
    device = cost.Device(passes_per_s=100, step_ms=0, pass_ms=0, start_s=5)
    parts = cost.parts_of_a_run(study, device)
    steps = 100 * 10 * cost.TRAINED * cost.STEP / 100
    assert parts == {"start": 5, "steps": pytest.approx(steps), "probes": 0, "samples": 1, "features": 0}
    assert cost.makespan_h(study, device, 1) == pytest.approx(2 * (6 + steps) / 3600)
    assert cost.makespan_h(study, device, 2) == pytest.approx((6 + steps) / 3600)
    slow = cost.Device(100, step_ms=1000, pass_ms=0, start_s=5)
    assert cost.parts_of_a_run(study, slow)["steps"] == pytest.approx(100)


def test_missing_classes_leave_as_many_images() -> None:
    """Seven images of three classes: three, two and two; without the third class four and three. Catches sets of other
    sizes, whose FIDs differ by their bias, and a class that fills up another."""
    labels = torch.tensor([0, 1, 2] * 4)
    for classes, counts in ((3, [3, 2, 2]), (2, [4, 3])):
        positions = judges.balanced(labels, classes, 7)
        assert labels[positions].bincount().tolist() == counts and len(positions.unique()) == 7
    with pytest.raises(ValueError, match="1 classes need up to 7"):
        judges.balanced(labels, 1, 7)


class _Colours(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def test_shares_lie_between_the_images_and_noise(tmp_path: Path) -> None:
    """Every set is scored, the undisturbed images are 0 and uniform noise 1, and the table has a row for each level, by
    judge and score. Catches a scale of another judge, and a value in another's column."""
    torch.jit.script(_Colours()).save(str(tmp_path / "colours.pt"))
    images = load_images("embedded", subset=200)
    features = make_features(str(tmp_path / "colours.pt"), torch.device("cpu"))
    found = judges.measure(features, images, load_images("embedded", split="test", subset=200), 20)
    assert len(found) == 2 + 3 * 3 + 4
    for score in ("fid", "kid"):
        ends = found.set_index("fault")[f"{score}_share"]
        assert (ends["none"], ends["uniform noise"]) == (0, 1)
    lines = judges.as_text(pd.concat([found, found.assign(judge="other", fid_share=0.5, kid_share=0.25)])).splitlines()
    assert len(lines) == 2 + 3 * 3 + 4
    noise = found[(found["fault"] == "noise") & (found["level"] == 40)].iloc[0]
    shown = f"| noise | 40 | {100 * noise.fid_share:.2g} % | 50 % | {100 * noise.kid_share:.2g} % | 25 % |"
    assert shown in lines


def test_the_pages_table_is_that_of_its_csv() -> None:
    """Catches a table in docs/evaluation.md that was not written again after the measurement."""
    assert (
        judges.as_text(pd.read_csv(REPOSITORY / "docs/judges.csv")) in (REPOSITORY / "docs/evaluation.md").read_text()
    )
