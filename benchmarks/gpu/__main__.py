"""`python -m benchmarks.gpu --root CIFAR.zip --out DIR`: check a GPU's results and speed, in at most 8 minutes.

It runs these sections, each in its own process: trainings in float32, bf16 and fp16; checkpoint, kill and resume;
DDIM, DDPM, the probe and the Frechet distance against the CPU; two processes by nccl if there are two GPUs; a step as a
CUDA graph against the eager one; the speed of steps, of sampling and of probes; and the study's e5 and e6, for as many
steps as the time allows. A section that fails or takes too long is reported, and the rest goes on.

Ends with a table, and with exit code 1 if a section failed. DIR/gpu.json has all of it, in the form of
`python -m benchmarks`, and is written after every number.
"""

import argparse
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# {module: package}. W&B, pandas, seaborn and other packages of the reports are not needed.
NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "scipy": "scipy",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "tqdm": "tqdm",
    "filelock": "filelock",
    "safetensors": "safetensors",
    "pydantic": "pydantic",
    "orjson": "orjson",
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        epilog=f"Needs {', '.join(NEEDED.values())}; no other package, no W&B and no network.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--root", type=Path, help="folder or .zip of class folders, 5,000 images or more; default: the embedded images"
    )
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the script")
    parser.add_argument("--quick", action="store_true", help="a small network and few steps: does it work?")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all sections; default: %(default)g")
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="only these; other entries of DIR/gpu.json stay")
    args = parser.parse_args(argv)
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        return _refuse(f"{', '.join(missing)} cannot be imported here: pip install {' '.join(missing)}")
    return check(args)


def check(args: argparse.Namespace) -> int:
    begun = time.monotonic()
    os.environ["WANDB_MODE"] = "disabled"  # overrides the configs' mode
    import torch

    from benchmarks.gpu.sections import SECTIONS, Outcome, run, within
    from benchmarks.gpu.task import Task
    from ddpm.files.disk import write_whole

    names = [section.name for section in SECTIONS]
    unknown = [name for name in args.only or () if name not in names]
    if unknown:
        return _refuse(f"--only {unknown[0]}: the sections are {', '.join(names)}")
    if args.root and not args.root.exists():
        return _refuse(f"--root {args.root} does not exist: give a folder or a .zip that holds one folder per class")
    if args.device == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda or "no CUDA"
        return _refuse(
            f"torch {torch.__version__} (for {built}) sees no GPU here; --device cpu --quick tries the script"
        )
    if args.device == "cpu":
        import scipy.stats  # noqa: F401  # else each section, which is a fork of this process, would import it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # runs every `finally`, so no process is left behind

    path = args.out / "gpu.json"
    found: dict[str, Any] = json.loads(path.read_text()) if args.only and path.exists() else {}
    args.out.mkdir(parents=True, exist_ok=True)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        os.environ["DDPM_CACHE"] = f"{folder}/cache"
        root = args.root and args.root.resolve()
        task = Task(torch.device(args.device), root, Path(folder), args.out.resolve(), args.quick)

        def keep(outcome: Outcome) -> None:
            found[outcome.section.name] = outcome.record()
            write_whole(path, json.dumps(found, indent=1) + "\n")

        for section in SECTIONS:
            if args.only and section.name not in args.only:
                continue
            print(f"\n--- {section.name} ---", flush=True)
            left = begun + 60 * args.minutes - time.monotonic()
            outcomes.append(run(section, within(section, task, left), keep))
    print("\n" + table(found))
    print(f"\nAll numbers: {path}, after {time.monotonic() - begun:.0f} s")
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        print(f"failed: {outcome.section.name}: {outcome.why}", file=sys.stderr)
    return 1 if failed else 0


def _refuse(why: str) -> int:
    print(f"benchmarks.gpu: {why}.", file=sys.stderr)
    return 2


def table(found: dict[str, Any]) -> str:
    """Every claim, and the status of every section."""
    from benchmarks.claims import read_claims

    lines = ["| section | claim | measured (quartiles) | target | holds |", "|---|---|---|---|---|"]
    for name, record in found.items():
        for c in read_claims(record):
            holds = {None: "", True: "yes", False: "**no**"}[c.holds]
            lines.append(f"| {name} | {c.claim.strip()} | {c.shown} | {c.target_shown} | {holds} |")
        why = record["reason"] or "; ".join(note for note in record["notes"] if note.startswith("skipped"))
        lines.append(f"| {name} | **{record['status']}** in {record['seconds']:g} s | {why} | | |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
