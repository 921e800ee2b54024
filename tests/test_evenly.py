"""Positions and images are the same on every processor."""

import contextlib
import io
import json
import os
import subprocess
import sys
from fractions import Fraction

import pytest

from ddpm.diffusion.schedule import spaced_timesteps
from ddpm.evenly import evenly_spaced

# Every decision that rounds floats to whole numbers, at sizes with many halves.
DECISIONS = """
import json
from ddpm.data.shapes import render
from ddpm.evaluation.reference import _reference_positions
from ddpm.evaluation.scores import kept_positions
from ddpm.diffusion.schedule import spaced_timesteps
from ddpm.names import SPACINGS
from ddpm.runtime.checkpoint import digest
steps = [spaced_timesteps(1000, n, spacing) for spacing in SPACINGS for n in range(1, 1001)]
positions = [_reference_positions(range(50_000), n) for n in (512, 5_000, 20_000, 45_000)]
print(json.dumps({
    "timesteps": digest(steps), "reference": digest(positions), "kept": digest([kept_positions(45_000)]),
    "embedded images": digest([render(1000, seed=3)[0]]),
}))
"""


@pytest.mark.parametrize("n", [1, 2, 95, 1000])
def test_positions_are_the_exact_fractions_rounded(n: int) -> None:
    """Halves round to even, also for more positions than places. Catches a missed end, and a half that depends on a
    float's last bit."""
    for count in (2, 3, 10, 31, 55, 59, 103, 995, 2 * n):
        exact = [round(Fraction(i * (n - 1), count - 1)) for i in range(count)]
        assert evenly_spaced(n, count).tolist() == exact
    assert evenly_spaced(n, 1).tolist() == [0]


def test_a_sampler_takes_both_ends() -> None:
    """Catches a single step that starts at t = 0, where there is no noise to remove."""
    assert spaced_timesteps(1000, 1).tolist() == [999]
    assert spaced_timesteps(1000, 3).tolist() == [0, 500, 999]  # 499.5


def test_no_decision_goes_with_the_processor() -> None:
    """Compares the kernels for any processor (ATEN_CPU_CAPABILITY=default) with this processor's. Catches images,
    timesteps or positions that depend on the last bits: scores would then have other protocols or another reference."""
    env = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    other = subprocess.run([sys.executable, "-c", DECISIONS], env=env, capture_output=True, text=True, check=True)
    here = io.StringIO()
    with contextlib.redirect_stdout(here):
        exec(DECISIONS, {})
    assert json.loads(other.stdout) == json.loads(here.getvalue())
