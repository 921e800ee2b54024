"""The dashboard on 100 runs of 10,000 rows, in a real Chromium, against targets.

`python -m benchmarks.dashboard` writes run folders of ten arms, starts `ddpm dashboard` on them and measures

- seconds from opening the page, once the files are parsed, until the first view is drawn;
- seconds until a choice is redrawn: smoothing, an arm, a log axis, another tab;
- seconds from a row in a run's file until the page shows it;
- the memory of the server at its peak, and how it grows with the rows.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.claims import REPOSITORY, Claim, arguments, conclude, of_rounds, parsed, say
from benchmarks.report_reading import rows, write_run

ARMS = ("e5", "e6", "e7a", "e7b", "e8a", "e8b", "e9b", "e10b", "e11b", "e12b")
FIRST_S, CHOICE_S, ROW_S, MEMORY_MIB = 5.0, 0.5, 5.0, 1024
CHOICES = {
    "smoothing": "$('smoothing').value = ($('smoothing').value + 3) % 8",
    "an arm less or more": "$('groups').querySelector('input').click()",
    "the steps on a log axis": "$('logx').checked = !$('logx').checked",
    "each seed, or the means alone": "$('seeds').checked = !$('seeds').checked",
}


def main() -> int:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10_000, help="logged steps a run")
    parser.add_argument("--metrics", type=int, default=12)
    args = parsed(parser)
    if args.quick:
        args.runs, args.steps = 10, 1000
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        print("There is no Chromium on this machine: nothing is measured.")
        return conclude(args, [])
    with tempfile.TemporaryDirectory() as folder:
        claims = say(measure(Path(folder), args, browser))
    return conclude(args, claims, runs=args.runs, steps=args.steps, metrics=args.metrics)


def measure(folder: Path, args: argparse.Namespace, browser: str) -> list[Claim]:
    """Everything, on runs that are written into `folder`."""
    print(f"Writing {args.runs} runs of {args.steps} rows and {args.metrics} metrics", flush=True)
    for number in range(args.runs):
        experiment, seed = ARMS[number % len(ARMS)], number // len(ARMS)
        write_run(folder / "runs" / experiment / f"seed{seed}", experiment, seed, rows(experiment, seed, args))
    command = [sys.executable, "-m", "ddpm", "dashboard", "e6", "--from", str(folder / "runs"), "--no-browser"]
    environment = {
        **os.environ,
        "DDPM_CACHE": str(folder / "cache"),
        "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}",
    }
    begun = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = next(word for line in server.stdout or [] for word in line.split() if word.startswith("http"))
            while (said := state(address)).get("read", 0) < args.runs:
                time.sleep(0.2)
            parsing = time.perf_counter() - begun
            found = in_browser(address, browser, folder, args)
            memory = peak_mib(server.pid)
        finally:
            server.terminate()
    values = args.runs * args.steps * args.metrics
    return [
        Claim(f"start and parse {len(said['runs'])} runs, {values:,} values", parsing, "s"),
        of_rounds("from opening the page until its first view is drawn", found["first"], "s", target=FIRST_S),
        *(of_rounds(f"redrawn after: {name}", found[name], "s", target=CHOICE_S) for name in (*CHOICES, "another tab")),
        of_rounds("from a row in the file until it is on the page", found["row"], "s", target=ROW_S),
        Claim("memory of the server at its peak", memory, "MiB", MEMORY_MIB),
        Claim("memory of the page's scripts", found["heap"][0], "MiB", MEMORY_MIB),
    ]


def in_browser(address: str, browser: str, folder: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each round, and MiB."""
    from playwright.sync_api import sync_playwright

    found: dict[str, list[float]] = {name: [] for name in ("first", *CHOICES, "another tab", "row", "heap")}
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=browser, args=["--disable-gpu", "--enable-precise-memory-info"]
        )
        for _ in range(args.rounds):
            page = chromium.new_page(viewport={"width": 1400, "height": 900})
            begun = time.perf_counter()
            page.goto(address)
            page.wait_for_selector("body[data-drawn]")
            found["first"].append(time.perf_counter() - begun)
            page.evaluate("$('all').click()")
            page.evaluate("drawing")
            for name, choice in CHOICES.items():
                found[name].append(redrawn(page, choice))
            found["another tab"].append(redrawn(page, "$('tabs').children[1].click()"))
            page.evaluate("$('tabs').children[0].click()")
            page.evaluate("drawing")
            drawn = page.evaluate("state.version")
            with (folder / "runs" / "e5" / "seed0" / "loss.jsonl").open("a") as file:
                step = args.steps + len(found["row"]) + 1
                file.write(json.dumps({"_i": step, "out": {"train/loss": 0.1}}) + "\n")
            begun = time.perf_counter()
            while int(page.evaluate("document.body.dataset.drawn")) <= drawn:
                time.sleep(0.05)
            found["row"].append(time.perf_counter() - begun)
            found["heap"] = [page.evaluate("performance.memory.usedJSHeapSize") / 2**20]
            page.close()
        chromium.close()
    return found


def redrawn(page: Any, choice: str) -> float:
    """Seconds from a choice until the browser has painted it."""
    return page.evaluate(
        f"""async () => {{
            const begun = performance.now();
            {choice};
            await draw();
            await new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted)));
            return (performance.now() - begun) / 1000;
        }}"""
    )


def state(address: str) -> Any:
    with urllib.request.urlopen(f"{address}data/state.json") as answer:
        return json.load(answer)


def peak_mib(pid: int) -> float:
    """The memory of a process at its peak. Linux only."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
