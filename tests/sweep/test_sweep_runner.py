"""Jobs in processes: each runs once, a limited number at a time, is retried or stopped, and is known as done. They
train nothing."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ddpm.config.files import load_config
from ddpm.sweep import runner
from ddpm.sweep.jobs import Job
from ddpm.sweep.progress import Progress, summary, table
from ddpm.sweep.runner import Attempt
from tests.once import HANGS

E5 = Path(__file__).parents[2] / "configs/smoke/e5.yaml"
# argv: run folder, journal file. `end` writes what a finished training leaves.
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
folder, journal = map(Path, sys.argv[1:])
tries = folder.with_name(folder.name + ".tries")
def note(word):
    with journal.open("a") as file:
        file.write(f"{word} {folder.name} {os.environ['OMP_NUM_THREADS']} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
def end():
    folder.mkdir(parents=True)
    (folder / "results.jsonl").write_text('{"out": {}}')
tries.parent.mkdir(parents=True, exist_ok=True)
with tries.open("a") as file:
    file.write("x")
first = tries.read_text() == "x"
print("try", tries.read_text(), flush=True)
note("begin")
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TICK_S", 0.01)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def _jobs(folder: Path, *scripts: str) -> list[Job]:
    jobs = []
    for seed, script in enumerate(scripts):
        cfg = load_config(E5, [f"--out_dir={folder / 'runs'}", f"--seed={seed}"])
        command = [sys.executable, "-c", SCRIPT + script, str(cfg.run_dir), str(folder / "journal")]
        jobs.append(Job(cfg, command, folder / f"{seed}.log"))
    return jobs


def _run(jobs: Sequence[Job], workers: int = 1, gpus: Sequence[str] = ()) -> tuple[list[str], int | None]:
    attempts, stopped_by = runner.run(jobs, runner.slots(workers, gpus), lambda *_: None)
    return [a.state for a in attempts], stopped_by


def _journal(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "journal").read_text().splitlines()]


def test_each_job_once_and_two_at_a_time(tmp_path: Path) -> None:
    """Five jobs on two places: each begins once, and at most two run at the same time. A second call starts none.
    Catches a place that is lost or given twice, and finished runs that are trained again."""
    jobs = _jobs(tmp_path, *["time.sleep(0.2); end(); note('end')"] * 5)
    assert _run(jobs, 2) == (["done"] * 5, None)
    going, most = 0, 0
    for word, *_ in _journal(tmp_path):
        going += 1 if word == "begin" else -1
        most = max(most, going)
    assert most == 2
    begun = [name for word, name, *_ in _journal(tmp_path) if word == "begin"]
    assert sorted(begun) == sorted(job.name for job in jobs)
    assert _run(jobs, 2) == (["there"] * 5, None)
    assert len(_journal(tmp_path)) == 10


def test_places_share_threads_and_have_a_gpu_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With eight cores, each of two places gets four threads; a place gets at least one. GPUs are dealt out in turn.
    Values set by hand stay, and the settings reach the runs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert runner.slots(2, []) == [{"OMP_NUM_THREADS": "4"}] * 2
    assert runner.slots(20, [])[0] == {"OMP_NUM_THREADS": "1"}
    assert [s["CUDA_VISIBLE_DEVICES"] for s in runner.slots(None, ["0", "3"])] == ["0", "3"]
    assert [s["CUDA_VISIBLE_DEVICES"] for s in runner.slots(4, ["0", "3"])] == ["0", "3", "0", "3"]
    _run(_jobs(tmp_path, "end()"), 1, ["7"])
    assert _journal(tmp_path)[0][2:] == ["8", "7"]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert runner.slots(2, []) == [{"OMP_NUM_THREADS": "3"}] * 2


def test_a_crash_is_tried_once_more(tmp_path: Path) -> None:
    """Two jobs fail at the first attempt only (kill -9, exit code 1), one crashes twice, and one has bad input, which a
    retry cannot fix. Catches endless retries, no retry, and a failure that keeps the others from running."""
    scripts = [
        "if first: os.kill(os.getpid(), signal.SIGKILL)\nend()",
        "if first: sys.exit(1)\nend()",
        "sys.exit(1)",
        "sys.exit(2)",
        "end()",
    ]
    jobs = _jobs(tmp_path, *scripts)
    assert _run(jobs) == (["done", "done", "failed", "failed", "done"], None)
    tries = [(job.cfg.run_dir.with_name(job.name + ".tries")).read_text() for job in jobs]
    assert tries == ["xx", "xx", "xx", "x", "x"]
    assert jobs[2].log.read_text() == "try x\ntry xx\n"


def test_a_run_that_another_process_has_is_left_to_it(tmp_path: Path) -> None:
    """`ddpm train` has its own exit code for a run that another process is writing. The other process may have finished
    it by then. Catches either case as a failure, and bad input taken for a run that another process holds."""
    held, finished, bad = _jobs(tmp_path, "sys.exit(75)", "end(); sys.exit(75)", "sys.exit(2)")
    assert _run([held, finished, bad])[0] == ["elsewhere", "there", "failed"]


STOPS = """
def stop(signum, frame):
    note("told")
    time.sleep(0.2)
    note("saved")
    sys.exit(130)
signal.signal(signal.SIGINT, stop)
if first: note("ready"), time.sleep(600)
end()
"""
# A sweep in a separate process that gets the signal. It prints the states, the signal, and whether the old handlers are
# back.
SWEEP = """
import json, sys, time
from pathlib import Path
from ddpm.sweep import runner
from tests.sweep.test_sweep_runner import STOPS, _jobs
from tests.once import HANGS
attempts, signum = runner.run(_jobs(Path(sys.argv[1]), *[STOPS] * 3), runner.slots(2, []), lambda *_: None)
try:
    print(json.dumps([[a.state for a in attempts], signum]), flush=True)
    time.sleep(HANGS)
except KeyboardInterrupt:
    print("put back")
"""


def test_a_signal_stops_what_goes_and_starts_nothing(tmp_path: Path) -> None:
    """SIGINT reaches each process once, and the processes end in their own time. No job starts after it, and a second
    call does the rest. Catches children that are killed, signalled twice, or left behind."""
    sweep = subprocess.Popen(
        [sys.executable, "-c", SWEEP, str(tmp_path)], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    )
    assert sweep.stdout
    deadline = time.monotonic() + HANGS
    while not (tmp_path / "journal").exists() or [w for w, *_ in _journal(tmp_path)].count("ready") < 2:
        assert time.monotonic() < deadline and sweep.poll() is None
        time.sleep(0.05)
    sweep.send_signal(signal.SIGINT)
    assert json.loads(sweep.stdout.readline()) == [["stopped", "stopped", "waiting"], signal.SIGINT]
    sweep.send_signal(signal.SIGINT)
    assert sweep.communicate(timeout=HANGS)[0] == "put back\n"
    words = sorted(word for word, *_ in _journal(tmp_path))
    assert words == sorted(["begin", "ready", "told", "saved"] * 2)
    jobs = _jobs(tmp_path, *[STOPS] * 3)
    (tmp_path / "runs/e5" / f"{jobs[2].name}.tries").write_text("x")
    assert _run(jobs, 2) == (["done"] * 3, None)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_is_shown(tmp_path: Path) -> None:
    """On a terminal: a table no wider than the terminal. Elsewhere: a line for each run that ends. At the end: each
    failed run with its last line and its log. Catches silence, floods of lines, and lines that wrap."""
    jobs = _jobs(tmp_path, "end()", "end()", "sys.exit(1)")
    jobs[1].cfg.run_dir.mkdir(parents=True)
    (jobs[1].cfg.run_dir / "loss.jsonl").write_text('{"_i": 540, "out": {}}\n')
    jobs[2].log.write_text("one\nValueError: no\n")
    done, going, failed = (Attempt(job, state) for job, state in zip(jobs, ("done", "going", "failed"), strict=True))
    failed.code, going.began = 1, time.monotonic() - 60
    head, row = table([done, going, failed], 90.0, 200)
    assert head == "1 of 3 done, 1 failed, 0 to come; 01:30, about 00:30 to go"  # 1.5 runs in 90 s, half a run left
    assert "[##########          ]  540/1080" in row and jobs[1].name in row
    assert all(len(line) < 40 for line in table([done, going, failed], 90.0, 40))
    plain, live = io.StringIO(), _Terminal()
    for out in (plain, live):
        show = Progress(out)
        show([done, going, failed], None)
        show([done, going, failed], done)
        show.close()
    assert plain.getvalue() == f"[2/3] done in 0 s: {jobs[0].name}\n"
    assert live.getvalue().count("1 of 3 done") == 2 and live.getvalue().endswith("\x1b[2F\x1b[J")
    text = summary([done, going, failed], 90.0, ["ddpm", "report"], "ddpm sweep x")
    assert f"exit code 1: {jobs[2].name}: ValueError: no ({jobs[2].log})" in text
    assert "to continue: ddpm sweep x" in text
