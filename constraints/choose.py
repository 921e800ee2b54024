"""Print the versions that pip may install here, one a line, for its --constraint.

`tested` and `lowest` are the files beside this one for the running Python; `latest` holds nothing back. A package that
the system brings (`make demo SYSTEM_SITE=1`) keeps its version: torch and torchvision for certain, any other as long
as pyproject.toml takes it. Run by the Makefile with the environment's Python.
"""

import sys
from importlib.metadata import distributions
from pathlib import Path

KEPT = ("torch", "torchvision")  # a second torch is gigabytes, and may not fit the machine's driver


def main(versions: str) -> None:
    brought = system_packages()
    for name in KEPT:
        if name in brought:
            print(f"{name}=={brought[name]}")
            _say(f"The system's {name} {brought[name]} is used.")
    if system_site() and "torch" not in brought:
        _say(f"The system has no torch that {sys.executable} sees: one is installed.")
    pair = KEPT if "torch" in brought else ()  # a torchvision for the system's torch, and not for the tested one
    for pin in pins(versions):
        if _canonical(pin.partition("==")[0]) not in {*brought, *pair}:
            print(pin)


def pins(versions: str) -> list[str]:
    """The lines NAME==VERSION of the file for this Python; none, said in a line, if there is no such file."""
    if versions == "latest":
        return []
    prefix = "lowest-" if versions == "lowest" else ""
    here = Path(__file__).parent
    file = here / f"{prefix}py{sys.version_info.major}{sys.version_info.minor}.txt"
    if not file.is_file():
        _say(f"There is no {file.relative_to(here.parent)}: this Python was not tested, and gets the newest versions.")
        return []
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


def system_site() -> bool:
    """Whether this environment sees the packages of the Python that it was made with."""
    settings = (Path(sys.prefix) / "pyvenv.cfg").read_text()
    return "include-system-site-packages = true" in settings


def system_packages() -> dict[str, str]:
    """Name and version of what this environment sees outside its own folder."""
    own = Path(sys.prefix).resolve()
    found = [d for d in distributions() if own not in Path(str(d.locate_file(""))).resolve().parents]
    return {_canonical(d.metadata["Name"]): d.version for d in found if d.metadata["Name"]}


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1])
