"""`python tests/mutation/mutate.py ROOM ...`: makes one small edit of the product at a time and sees if a test fails.

mutmut makes the edits, knows which tests reach which function, and forks a process for each edit. It works in a copy
under out/mutation/. The copy also holds the results, so that a second call continues an interrupted one. For each edit
the tests that reach its function run first, the quickest first, until one fails. Then all other tests of the room run,
because mutmut does not see tests that share a fixture or start a process. The table is out/mutation.md.

This is a script. If it were a module, this process's package `tests` would replace the copy's in its children.
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
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rooms import REPOSITORY, Room, rooms

OUT = REPOSITORY / "out/mutation"
NOTHING_FAILED = (0, 5, 33)  # no failure, or no test chosen or found
ENDS = {1: "killed", 3: "killed", -6: "killed", -11: "killed", -24: "timeout", -9: "timeout"}
OWN = ("ddpm", "reports", "mutants", "verdicts.json", "table.md")


@dataclass(frozen=True)
class Edit:
    """`name` is mutmut's; `diff` covers the function alone."""

    path: str
    name: str
    diff: str

    @property
    def key(self) -> str:
        return f"{self.path}\n{self.diff}"  # the numbers in a name shift if the function changes


def main() -> None:
    known = {room.name: room for room in rooms()}
    parser = argparse.ArgumentParser(description="Which edits does no test notice?")
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=f"of {', '.join(known)}; all without")
    parser.add_argument("--sample", type=int, default=12, help="edits to a file")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--seconds", type=float, default=20, help="of tests for an edit, before those of the whole room"
    )
    parser.add_argument("--quick", action="store_true", help="leave those of the whole room out")
    parser.add_argument(
        "--again", action="store_true", help="try once more what was not killed, after tests were added"
    )
    args = parser.parse_args()
    if unknown := set(args.rooms) - set(known):
        parser.error(f"no room {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for name in args.rooms or known:
        copy = OUT / name
        _copy_to(copy)
        _configure(copy, known[name])
        os.chdir(copy)
        _mutate(known[name], args)


def _mutate(room: Room, args: argparse.Namespace) -> None:
    edits = _choose(room, args.sample, args.seed, args.workers)
    file = Path("verdicts.json")
    verdicts: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    if args.again:
        verdicts = {key: verdict for key, verdict in verdicts.items() if verdict == "killed"}
    reached = {edit.name: _reached(edit, args.seconds) for edit in edits}
    try:
        for before, after, tests in (
            (None, "survived what reaches it", reached),
            ("survived what reaches it", "survived", {name: _others(few) for name, few in reached.items()}),
        ):
            todo = [edit for edit in edits if verdicts.get(edit.key) == before and not (before and args.quick)]
            for edit, code in _run({edit: tests[edit.name] for edit in todo}, args.workers):
                verdicts[edit.key] = after if code in NOTHING_FAILED else ENDS.get(code, f"odd: {code}")
                file.write_text(json.dumps(verdicts))
                print(f"{edit.path} {edit.name.rpartition('__')[2]}: {verdicts[edit.key]}", flush=True)
    finally:
        Path("table.md").write_text(_table(room, edits, verdicts))
        tables = [OUT / known.name / "table.md" for known in rooms()]
        OUT.with_suffix(".md").write_text("\n".join(path.read_text() for path in tables if path.exists()))
        print(f"{room.name}: {OUT.with_suffix('.md')}", flush=True)


def _copy_to(copy: Path) -> None:
    """Copies the files that git tracks or does not ignore. An unchanged file keeps its time, by which mutmut recognises
    it."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines():
        source, target = REPOSITORY / name, copy / name
        if source.is_file() and not (target.exists() and target.read_bytes() == source.read_bytes()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _configure(copy: Path, room: Room) -> None:
    settings: dict[str, list[str] | str] = {
        "source_paths": ["ddpm", "reports"],
        "only_mutate": list(room.files),
        "do_not_mutate_patterns": [r"raise \w+", r"UserError\("],  # the texts of errors
        "also_copy": sorted(path.name for path in copy.iterdir() if path.name not in OWN),
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-p", "no:xdist"],
        "pytest_add_cli_args_test_selection": list(room.tests),
        "process_isolation": "forkserver",  # torch is imported once, without threads from a test
        "use_git_change_detection": "false",
    }
    parser = configparser.ConfigParser(interpolation=None)
    parser["mutmut"] = {key: value if isinstance(value, str) else "\n".join(value) for key, value in settings.items()}
    with (copy / "setup.cfg").open("w") as file:
        parser.write(file)


def _choose(room: Room, sample: int, seed: int, workers: int) -> list[Edit]:
    """Chooses at random `sample` telling edits for each file. After it mutmut knows which tests reach them."""
    from mutmut.__main__ import collect_or_load_stats, copy_also_copy_files, copy_src_dir, create_mutants
    from mutmut.configuration import reset_config
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.state import reset_state
    from mutmut.workers.isolation import get_mutant_runner

    reset_config()  # clears the previous room's state
    reset_state()
    with contextlib.redirect_stdout(io.StringIO()):  # hides the printed file names
        copy_src_dir()
        copy_also_copy_files()
        create_mutants(workers)
    edits = []
    for path in room.files:
        names = sorted(_names(path))
        random.Random(f"{seed} {path}").shuffle(names)
        found = (Edit(path, name, get_diff_for_mutant(name, path=path)) for name in names)
        edits += [edit for edit, _ in zip(filter(_telling, found), range(sample), strict=False)]
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path("mutants").resolve())}
    collect_or_load_stats(get_mutant_runner())
    return edits


def _names(path: str) -> list[str]:
    from mutmut.mutation.data import SourceFileMutationData

    data = SourceFileMutationData(path=path)
    data.load()
    return list(data.exit_code_by_key)


def _telling(edit: Edit) -> bool:
    """False for an edit that adds a `None` (it crashes), edits a sentence for people, or changes only case, strict or
    stacklevel."""
    before, after = ("\n".join(re.findall(rf"^\{sign}(?!\{sign})(.*)", edit.diff, re.M)) for sign in "-+")
    if after.count("None") > before.count("None") or re.search(r"XX[^\"']* [^\"']*", after):
        return False
    before, after = (re.sub(r",? ?(strict|stacklevel)=\w+", "", text).replace(", )", ")") for text in (before, after))
    return before.lower() != after.lower()


def _reached(edit: Edit, seconds: float) -> list[str]:
    """The quickest tests that reach the edited function and together take at most `seconds`."""
    from mutmut.state import state

    tests = state().tests_by_mangled_function_name.get(edit.name.partition("__mutmut_")[0], set())
    return _quickest(tests, seconds)


def _others(tests: list[str]) -> list[str]:
    from mutmut.state import state

    return _quickest(set(state().duration_by_test) - set(tests))


def _quickest(tests: set[str], seconds: float = float("inf")) -> list[str]:
    from mutmut.state import state

    chosen, lasts = [], 0.0
    for duration, test in sorted((state().duration_by_test[test], test) for test in tests):
        if chosen and lasts + duration > seconds:
            break
        chosen.append(test)
        lasts += duration
    return chosen


def _run(tests: dict[Edit, list[str]], workers: int) -> Iterator[tuple[Edit, int]]:
    """Yields (edit, pytest's exit code or minus a signal) as each edit ends."""
    from mutmut.state import state
    from mutmut.workers.isolation import get_mutant_runner

    edits = {edit.name: edit for edit in tests}
    runner = get_mutant_runner(workers)
    runner.startup()
    try:
        for edit, few in tests.items():
            lasts = sum(state().duration_by_test[test] for test in few)
            while not runner.has_capacity():
                found = runner.wait_for_result()
                yield edits[found.mutant_name], found.exit_code
            runner.submit(edit.name, few, int(600 + 20 * lasts), lasts)  # the clock limit is half of this
        runner.signal_work_complete()
        while runner.pending_count():
            found = runner.wait_for_result()
            yield edits[found.mutant_name], found.exit_code
    finally:
        runner.stop_all_workers()
        runner.shutdown()


def _table(room: Room, edits: list[Edit], verdicts: dict[str, str]) -> str:
    head = "| file | edits there are | tried | killed | timeout | survived |\n|---|--:|--:|--:|--:|--:|"
    lines, survivors = [f"## {room.name}", "", head], []
    for path in room.files:
        tried = [edit for edit in edits if edit.path == path and edit.key in verdicts]
        count = Counter(verdicts[edit.key].split()[0] for edit in tried)
        numbers = (len(_names(path)), len(tried), count["killed"], count["timeout"], count["survived"])
        lines.append(f"| {path} | {' | '.join(map(str, numbers))} |")
        for edit in tried:
            if "survived" in verdicts[edit.key]:
                diff = edit.diff.splitlines()[2:]
                change = "\n".join(line for line in diff if line[0] in "+-")
                function, number = edit.name.rpartition(".")[2].split("__mutmut_")
                place = f"{path}:{_line(path, diff)}, {function} {number}"
                survivors.append(f"{place} ({verdicts[edit.key]})\n```diff\n{change}\n```\n")
    return "\n".join([*lines, "", *survivors])


def _line(path: str, diff: list[str]) -> int:
    """The edited line's number: the diff covers the function alone, without its indentation."""
    old = [line for line in diff if line[0] in " -"]
    wanted = [line[1:].strip() for line in old]
    lines = [line.strip() for line in Path(path).read_text().splitlines()]
    starts = (start for start in range(len(lines)) if lines[start : start + len(wanted)] == wanted)
    return next(starts, -1) + 1 + next((i for i, line in enumerate(old) if line[0] == "-"), 0)


if __name__ == "__main__":
    main()
