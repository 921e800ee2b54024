"""`python -m tests.mutation ROOM ...`: one small edit of the product at a time, and whether a test notices.

mutmut makes the edits and runs, for each, the tests that reach the edited function. It works in a copy under
out/mutation/, which also holds what was found: interrupted, a second call goes on. What survives is tried once more
against all tests of the room, as mutmut does not know tests that share a fixture, or start a process. The table is
out/mutation.md.
"""

import argparse
import configparser
import contextlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutation.rooms import REPOSITORY, Room, rooms

OUT = REPOSITORY / "out/mutation"
SAYS = {"killed": "killed", "timeout": "timeout", "not checked": "open"}  # all others survived so far


def main() -> None:
    known = {room.name: room for room in rooms()}
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description="Which edits does no test notice?")
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=f"of {', '.join(known)}; all without")
    parser.add_argument("--sample", type=int, default=12, help="edits to a file")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--again", action="store_true", help="try once more what survived, after tests were added")
    args = parser.parse_args()
    if unknown := set(args.rooms) - set(known):
        parser.error(f"no room {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for name in args.rooms or known:
        _mutate(known[name], args.sample, args.seed, args.workers, args.again)


def _mutate(room: Room, sample: int, seed: int, workers: int, again: bool) -> None:
    copy = OUT / room.name
    _copy_to(copy)
    _configure(copy, room)
    os.chdir(copy)
    chosen = _choose(room, sample, seed, workers)
    verdicts = Path("verdicts.json")  # of all tests of the room, by name
    whole: dict[str, str] = json.loads(verdicts.read_text()) if verdicts.exists() and not again else {}
    try:
        found = _found(room)
        if todo := [name for name in chosen if found[name] == "open" or (again and found[name] == "survived")]:
            command = ["mutmut", "run", "--max-children", str(workers), *todo]
            subprocess.run(
                [str(Path(sys.executable).parent / command[0]), *command[1:]], env=_environment(), check=True
            )
        found = _found(room)
        left = [name for name in chosen if found[name] == "survived" and name not in whole]
        with ThreadPoolExecutor(workers) as pool:
            for name, verdict in zip(left, pool.map(lambda name: _all_tests(name, room), left), strict=True):
                whole[name] = verdict
                verdicts.write_text(json.dumps(whole))
    finally:
        Path("table.md").write_text(_table(room, chosen, _found(room) | whole))
        tables = [OUT / known.name / "table.md" for known in rooms()]
        OUT.with_suffix(".md").write_text("\n".join(path.read_text() for path in tables if path.exists()))
        print(f"{room.name}: {OUT.with_suffix('.md')}", flush=True)


def _copy_to(copy: Path) -> None:
    """What git knows, and what it does not ignore. An unchanged file keeps its time, from which mutmut knows it."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines():
        source, target = REPOSITORY / name, copy / name
        if source.is_file() and not (target.exists() and target.read_bytes() == source.read_bytes()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _configure(copy: Path, room: Room) -> None:
    others = {path.name for path in copy.iterdir()} - {"ddpm", "reports", "mutants", "verdicts.json", "table.md"}
    settings: dict[str, list[str] | str] = {
        "source_paths": ["ddpm", "reports"],
        "only_mutate": list(room.files),
        "do_not_mutate_patterns": [r"raise \w+", r"UserError\("],  # what is said of a mistake
        "also_copy": sorted(others),
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-p", "no:xdist"],
        "pytest_add_cli_args_test_selection": list(room.tests),
        "process_isolation": "forkserver",  # torch is imported once, and no test has left a thread in it
        "use_git_change_detection": "false",
        "timeout_multiplier": "10",
        "timeout_constant": "4",  # seconds, before the multiplication
    }
    parser = configparser.ConfigParser(interpolation=None)
    parser["mutmut"] = {key: value if isinstance(value, str) else "\n".join(value) for key, value in settings.items()}
    with (copy / "setup.cfg").open("w") as file:
        parser.write(file)


def _choose(room: Room, sample: int, seed: int, workers: int) -> list[str]:
    """The names of `sample` edits to each file, by chance, of those that say something."""
    from mutmut.__main__ import copy_also_copy_files, copy_src_dir, create_mutants
    from mutmut.configuration import reset_config
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    reset_config()  # of the room before
    with contextlib.redirect_stdout(io.StringIO()):  # each file's name
        copy_src_dir()
        copy_also_copy_files()
        create_mutants(workers)
    chosen = []
    for path in room.files:
        names = sorted(_results(path))
        random.Random(f"{seed} {path}").shuffle(names)
        telling = (name for name in names if _telling(get_diff_for_mutant(name, path=path)))
        chosen += [name for name, _ in zip(telling, range(sample), strict=False)]
    return chosen


def _telling(diff: str) -> bool:
    """Not a `None` that crashes, not another case of letters, not a sentence for people."""
    before, after = ("\n".join(re.findall(rf"^\{sign}(?!\{sign})(.*)", diff, re.M)) for sign in "-+")
    crashes = after.count("None") > before.count("None")
    return not crashes and before.lower() != after.lower() and not re.search(r"XX[^\"']* [^\"']*", after)


def _results(path: str) -> dict[str, int | None]:
    from mutmut.mutation.data import SourceFileMutationData

    data = SourceFileMutationData(path=path)
    data.load()
    return data.exit_code_by_key


def _found(room: Room) -> dict[str, str]:
    from mutmut.stats import status_by_exit_code

    codes = {name: code for path in room.files for name, code in _results(path).items()}
    return {name: SAYS.get(status_by_exit_code[code], "survived") for name, code in codes.items()}


def _environment(mutant: str = "") -> dict[str, str]:
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path("mutants").resolve()), "MUTANT_UNDER_TEST": mutant}
    return os.environ | own


def _all_tests(name: str, room: Room) -> str:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *room.tests]
    with Path("all_tests.log").open("ab") as log:
        try:
            done = subprocess.run(command, cwd="mutants", env=_environment(name), stdout=log, stderr=log, timeout=1800)
        except subprocess.TimeoutExpired:
            return "timeout"
    return "killed" if done.returncode else "survived"


def _table(room: Room, chosen: list[str], found: dict[str, str]) -> str:
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    lines = [
        f"## {room.name}",
        "",
        "| file | edits there are | tried | killed | timeout | survived |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    survivors = []
    for path in room.files:
        there = _results(path)
        tried = [name for name in chosen if name in there and found[name] != "open"]
        count = [sum(found[name] == verdict for name in tried) for verdict in ("killed", "timeout", "survived")]
        lines.append(f"| {path} | {len(there)} | {len(tried)} | {' | '.join(map(str, count))} |")
        for name in sorted(name for name in tried if found[name] == "survived"):
            diff = get_diff_for_mutant(name, path=path).splitlines()[2:]
            edit = "\n".join(line for line in diff if line[0] in "+-")
            survivors.append(f"{path}:{_line(path, diff)} `{name.rpartition('.')[2]}`\n```diff\n{edit}\n```\n")
    return "\n".join([*lines, "", *survivors])


def _line(path: str, diff: list[str]) -> int:
    """The edited line's number: the diff is of the function alone, without its indentation."""
    old = [line for line in diff if line[0] in " -"]
    wanted = [line[1:].strip() for line in old]
    lines = [line.strip() for line in Path(path).read_text().splitlines()]
    starts = (start for start in range(len(lines)) if lines[start : start + len(wanted)] == wanted)
    return next(starts, -1) + 1 + next((i for i, line in enumerate(old) if line[0] == "-"), 0)


if __name__ == "__main__":
    main()
