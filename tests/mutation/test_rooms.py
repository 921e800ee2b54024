"""What `make mutate` works on. The gate does not run the tool itself."""

from tests.mutation.rooms import REPOSITORY, rooms


def test_every_rooms_files_and_tests_are_there() -> None:
    """Catches a file that was moved, a pattern that matches nothing, and a product file named as a test."""
    found = rooms()
    assert [room.name for room in found] == ["diffusion", "curvature", "evaluation", "training", "reports"]
    for room in found:
        assert room.files and {path.split("/")[0] for path in room.files} <= {"ddpm", "reports"}
        assert room.tests and all(path.startswith("tests/") and "/test_" in path for path in room.tests)
        assert all((REPOSITORY / path).is_file() for path in room.files + room.tests)


def test_no_file_is_in_two_rooms() -> None:
    """Catches a pattern that matches another room's files: their edits would count twice."""
    files = [path for room in rooms() for path in room.files]
    assert sorted(files) == sorted(set(files))
