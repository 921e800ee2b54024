"""The estimated cost of a study: trainings, probes, milestones and final evaluations, on 1, 8 and 64 devices.

`python -m benchmarks.cost` prints the tables of docs/speed.md for 24 arms of 3 seeds and 50,000 steps. Costs are in
passes of the network over one image. A few rates convert them to hours; they are arguments, since they differ between
machines by orders of magnitude.
"""

import argparse
import heapq
import math
from dataclasses import dataclass, replace

# In passes: forward and backward of an image; the whole step relative to that; a probe's image; Inception, by FLOP.
TRAINED, STEP, PROBE, INCEPTION = 3.0, 1.05, 3.6, 11.4 / 0.685


@dataclass(frozen=True)
class Study:
    """Runs of one study, all alike."""

    arms: int = 24
    seeds: int = 3
    steps: int = 50_000
    batch: int = 4
    probe_every: int = 100
    probes: int = 16
    milestone_every: int = 2_000
    n: int = 5_000
    nfe: int = 50
    final_n: int = 10_000
    inception: bool = True

    @property
    def runs(self) -> int:
        return self.arms * self.seeds


@dataclass(frozen=True)
class Device:
    """Passes over an image per second, at batches that fill the device; the minimum milliseconds of a training step and
    of a pass at any batch size; the seconds before a run's first step."""

    passes_per_s: float
    step_ms: float
    pass_ms: float
    start_s: float


def parts_of_a_run(study: Study, device: Device) -> dict[str, float]:
    """Seconds of each part of one run."""

    def passes(n: float) -> float:
        return n / device.passes_per_s

    step = max(passes(study.batch * TRAINED * STEP), device.step_ms / 1e3)
    probes = study.steps // study.probe_every * study.probes if study.probe_every else 0
    probe = max(passes(study.batch * PROBE), 3 * device.pass_ms / 1e3)
    scored = (study.steps // study.milestone_every if study.milestone_every else 0) * study.n + study.final_n
    return {
        "start": device.start_s,
        "steps": study.steps * step,
        "probes": probes * probe,
        "samples": passes(scored * study.nfe),
        "features": passes(scored * INCEPTION) if study.inception else 0.0,
    }


def makespan_h(study: Study, device: Device, devices: int, apart: bool = False) -> float:
    """Hours until all jobs are done, with an agent on each device. Jobs are whole runs, or (`apart`) trainings first,
    and an evaluation of each checkpoint once its training is over."""
    parts = parts_of_a_run(study, device)
    scoring = parts["samples"] + parts["features"]
    training = sum(parts.values()) - scoring
    if not apart:
        return math.ceil(study.runs / devices) * (training + scoring) / 3600
    checkpoints = (study.steps // study.milestone_every if study.milestone_every else 0) + 1
    free, released = [0.0] * devices, []
    for _ in range(study.runs):
        end = heapq.heappop(free) + training
        heapq.heappush(free, end)
        released += [end] * checkpoints
    job = scoring / checkpoints + device.start_s
    for at in sorted(released):
        heapq.heappush(free, max(heapq.heappop(free), at) + job)
    return max(free) / 3600


def row(name: str, study: Study, device: Device) -> str:
    parts = parts_of_a_run(study, device)
    whole = sum(parts.values())
    shares = " | ".join(f"{100 * s / whole:.0f} %" for s in parts.values())
    hours = " | ".join(f"{makespan_h(study, device, n):.3g}" for n in (1, 8, 64))
    return f"| {name} | {whole / 3600:.3g} | {shares} | {hours} |"


def table(device: Device) -> str:
    small, large = Study(), Study(batch=64)
    rows = {
        "batch 4, FID of 5,000 by DDPM-50 every 2,000 steps": small,
        "batch 64, the same": large,
        "batch 64, no probe": replace(large, probe_every=0),
        "batch 64, FID of 5,000 by DDIM-20": replace(large, nfe=20),
        "batch 64, FID of 1,000 by DDIM-20, the last of 10,000": replace(large, nfe=20, n=1_000),
        "batch 64, every 10,000 steps, DDIM-20": replace(large, nfe=20, milestone_every=10_000),
    }
    lines = [
        "| study | a run, h | start | steps | probes | samples | features | 1 device, h | 8 | 64 |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(row(name, study, device) for name, study in rows.items()),
        "",
        "| batch 64, hours on | 1 | 8 | 64 |",
        "|---|---|---|---|",
    ]
    for name, apart in (("whole runs", False), ("evaluations as jobs of their own", True)):
        hours = " | ".join(f"{makespan_h(large, device, devices, apart):.3g}" for devices in (1, 8, 64))
        lines.append(f"| {name} | {hours} |")
    return "\n".join(lines)


# A data-centre GPU, as assumed in docs/speed.md.
ASSUMED = Device(passes_per_s=20_000, step_ms=12.0, pass_ms=3.0, start_s=15.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    what = {
        "passes_per_s": "images a second through the network",
        "step_ms": "the least time of a training step",
        "pass_ms": "the least time of a pass without gradients",
        "start_s": "process start to first step",
    }
    for name, meaning in what.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(ASSUMED, name), help=meaning)
    print(table(Device(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
