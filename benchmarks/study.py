"""The study's configuration and run folders, as several benchmarks use them."""

import json
from pathlib import Path
from typing import Any

from benchmarks.claims import REPOSITORY

CONFIG = REPOSITORY / "configs/study/MS1_min_snr/e5/e5_baseline_linear_hutch_trace_10k_50nfe.yaml"
NO_EVALUATION = [f"--eval.{part}.enabled=false" for part in ("fid_milestone", "final", "grid", "recon")]
# Embedded images, no evaluation, no probe.
PLAIN = [
    *NO_EVALUATION,
    "--curvature.enabled=false",
    "--data.dataset=embedded",
    "--data.root=null",
    "--eval.features=embedded",
]
TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def rows_of(run_dir: Path) -> dict[int, dict[str, Any]]:
    """The logged rows of a run folder, by step."""
    found: dict[int, dict[str, Any]] = {}
    for line in (run_dir / "loss.jsonl").read_text().splitlines():
        row = json.loads(line)
        found[row["_i"]] = row["out"]
    return found
