"""The rooms in rooms.toml: files, and the tests that guard them."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Room:
    """`files` are edited, `tests` must notice; both are paths from the repository's root."""

    name: str
    files: tuple[str, ...]
    tests: tuple[str, ...]


def rooms() -> list[Room]:
    """All rooms, in the file's order. Raises ValueError if a pattern matches nothing."""
    found = tomllib.loads((Path(__file__).parent / "rooms.toml").read_text())
    return [_room(name, **lists) for name, lists in found.items()]


def _room(name: str, files: list[str], tests: list[str], but: list[str] | None = None) -> Room:
    left_out = _paths(name, but or [])
    return Room(name, tuple(path for path in _paths(name, files) if path not in left_out), tuple(_paths(name, tests)))


def _paths(room: str, patterns: list[str]) -> list[str]:
    paths = []
    for pattern in patterns:
        found = sorted(str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob(pattern))
        if not found:
            raise ValueError(f"tests/mutation/rooms.toml, room {room}: no file {pattern}")
        paths += found
    return paths
