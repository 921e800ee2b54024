"""Writes a report into a folder: all of it, or nothing."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ddpm.errors import UserError


def command_line(experiment: str, source: str, out: Path, where: Sequence[str], *flags: str) -> list[str]:
    """The words of the command that makes a report."""
    filters = [word for condition in where for word in ("--where", condition)]
    return ["ddpm", "report", experiment, "--from", source, "--out", str(out), *filters, *flags]


def write_report(out: Path, fill: Callable[[Path], None], figures: Iterable[str]) -> Path:
    """Have `fill` write a report into a draft folder, then move it to `out`; returns the path of `report.html`.

    figures: the names that figures of such reports can have; those of an earlier report that `fill` did not draw are
    removed. Other files in `out` stay. After an error `out` is unchanged. Raises UserError: `out` is a file, or cannot
    be written to.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file. Give a folder for the report.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Beside `out`, on the same file system: moves there cannot stop half-way through a copy.
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UserError(f"The report cannot be written to {out}: {error}.") from error
    try:
        fill(draft)
        _move(draft, out, figures)
    except OSError as error:
        raise UserError(f"The report could not be written to {out}: {error}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out / "report.html"


def _move(draft: Path, out: Path, figures: Iterable[str]) -> None:
    """Move the draft's files into `out`, pages last."""
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for name in (f"figures/{figure}{ending}" for figure in figures for ending in (".png", ".svg")):
        if not (draft / name).exists():
            (out / name).unlink(missing_ok=True)
    files = sorted((path for path in draft.rglob("*") if path.is_file()), key=lambda path: len(path.parts))
    for path in reversed(files):
        path.replace(out / path.relative_to(draft))
