"""The versions that the two install commands choose."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent.parent / "constraints"
FILES = sorted(HERE.glob("*.txt"))


def _pins(file: Path) -> dict[str, str]:
    return dict(line.split("==") for line in file.read_text().splitlines())


def _wanted(*extras: str) -> list[Requirement]:
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return [Requirement(line) for line in lines]


def test_tested_and_lowest_versions_are_there_for_the_same_pythons() -> None:
    """Catches a Python that is added to only one list."""
    tested = {file.stem for file in FILES if not file.stem.startswith("lowest-")}
    assert {f"lowest-{name}" for name in tested} == {file.stem for file in FILES} - tested
    assert {"py311", "py313"} <= tested


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_constraints_file_names_what_the_project_needs_and_nothing_else(file: Path) -> None:
    """Every dependency is there, in a version that pyproject.toml allows. Lines hold names and versions, no host, hash
    or path. Catches a dependency added without `make lock`, and a range that no longer includes its tested version."""
    lines = file.read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[a-z0-9.!]+", line)] == []
    pins = _pins(file)
    for need in _wanted(*("dev", "judge", *(() if file.stem.startswith("lowest-") else ("bench", "mutate")))):
        assert need.specifier.contains(pins[canonicalize_name(need.name)], prereleases=True), f"{need}: make lock"


def test_the_lowest_torch_of_the_range_is_the_one_that_is_tested() -> None:
    """Catches a lower limit that was never tested."""
    for need in _wanted():
        if need.name in ("torch", "torchvision"):
            lowest = min(spec.version for spec in need.specifier if spec.operator == ">=")
            for file in FILES:
                if file.stem.startswith("lowest-"):
                    assert _pins(file)[need.name].startswith(lowest)


# --- constraints/choose.py ---


def _choose(venv: Path, versions: str, system: Path, site: bool = True) -> tuple[list[str], str]:
    """What the script prints, and its messages, in an environment that sees the packages in the folder `system` outside
    itself."""
    make = [sys.executable, "-m", "venv", "--without-pip", *(["--system-site-packages"] if site else []), str(venv)]
    subprocess.run(make, check=True)
    script = [str(venv / "bin/python"), str(HERE / "choose.py"), versions]
    done = subprocess.run(script, env={"PYTHONPATH": str(system)}, capture_output=True, text=True, check=True)
    return done.stdout.splitlines(), done.stderr


def _package(folder: Path, name: str, version: str) -> None:
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_the_systems_torch_is_kept(tmp_path: Path) -> None:
    """An image's torch is pinned at its version. No line pins a torchvision for another torch, or a package that the
    image already has. Catches a working torch that is replaced, and a name that is written in two ways."""
    _package(tmp_path / "system", "torch", "2.7.0+cu126")
    _package(tmp_path / "system", "PyYAML", "6.0.1")
    lines, said = _choose(tmp_path / "venv", "tested", tmp_path / "system")
    assert lines[0] == "torch==2.7.0+cu126"
    assert not [line for line in lines[1:] if line.startswith(("torch==", "torchvision==", "pyyaml=="))]
    assert "pandas==" in " ".join(lines)
    assert "The system's torch 2.7.0+cu126 is used." in said


def test_a_system_without_torch_is_said(tmp_path: Path) -> None:
    """Catches a silent download of gigabytes although SYSTEM_SITE was asked for."""
    lines, said = _choose(tmp_path / "venv", "latest", tmp_path / "empty")
    if not [line for line in lines if line.startswith("torch==")]:  # this Python's own site may have one
        assert "has no torch" in said


def test_an_environment_of_its_own_gets_the_tested_versions(tmp_path: Path) -> None:
    """Catches the file of another Python. A Python without a file gets a message, and the newest versions."""
    lines, said = _choose(tmp_path / "venv", "tested", tmp_path / "empty", site=False)
    own = HERE / f"py{sys.version_info.major}{sys.version_info.minor}.txt"
    if own.is_file():
        assert (lines, said) == (own.read_text().splitlines(), "")
    else:
        assert lines == []
        assert "not tested" in said
    assert _choose(tmp_path / "venv", "latest", tmp_path / "empty", site=False) == ([], "")
