"""The arms' sample grids side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import PIL.Image
from matplotlib.figure import Figure

from reports.experiments.selection import Arm, Selection
from reports.figures.style import Drawn, NothingToDraw, arm_labels, panels, without, wrapped
from reports.runs import Run

_MOST_PIXELS = 50_000_000


def sample_grids(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Each arm's grid, from its first seed with one, at the last step at which all of them have one."""
    found = {arm: run for arm in selection.arms if (run := _first_with_grids(arm)) is not None}
    if not found:
        names = ", ".join(arm.experiment for arm in selection.arms)
        raise NothingToDraw(f"no sample grids are in the runs of {names}")
    common = set.intersection(*(set(run.grids) for run in found.values()))
    if not common:
        raise NothingToDraw("the arms have no sample grid at a common step")
    step = max(common)
    figure = _draw(found, step, arm_labels(selection.arms, selection))
    seeds = ", ".join(f"{arm.experiment} seed {run.seed}" for arm, run in found.items())
    said = f"Samples at step {step}, the last step at which all arms shown have a grid ({seeds})."
    absent = without(selection.arms, list(found), "There are no grids in {}.")
    return Drawn(figure, f"{said}{_noise(list(found))}{absent}{_unreadable(selection.arms)}")


def _noise(arms: Sequence[Arm]) -> str:
    """Whether the grids share noise and sampler, by the runs' configs."""
    settings = [
        {key: value for key, value in arm.config.items() if key.startswith("eval.grid.") and not key.endswith(".every")}
        for arm in arms
    ]
    if not all("eval.grid.sample_seed" in each for each in settings):
        return " The runs do not record the grids' noise."
    keys = sorted({key for each in settings for key in each if any(other.get(key) != each[key] for other in settings)})
    return (
        f" The grids differ in {', '.join(keys)}."
        if keys
        else " All start from the same noise and use the same sampler."
    )


def _first_with_grids(arm: Arm) -> Run | None:
    readable = (replace(run, grids={s: p for s, p in run.grids.items() if _readable(p)}) for run in arm.runs)
    return next((run for run in readable if run.grids), None)


def _readable(path: Path) -> bool:
    """Whether the picture decodes and is not huge: a killed run may leave one cut short."""
    try:
        with PIL.Image.open(path) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                return False
        matplotlib.image.imread(path)
    except (OSError, ValueError, SyntaxError, MemoryError, PIL.Image.DecompressionBombError):
        return False
    return True


def _unreadable(arms: Sequence[Arm]) -> str:
    counts = {arm.experiment: sum(not _readable(p) for run in arm.runs for p in run.grids.values()) for arm in arms}
    said = ", ".join(f"{count} of {name}" for name, count in counts.items() if count)
    why = f" Grids that cannot be read, or have more than {_MOST_PIXELS:,} pixels, are left out"
    return f"{why}: {said}." if said else ""


def _draw(found: Mapping[Arm, Run], step: int, labels: dict[str, str]) -> Figure:
    images = [matplotlib.image.imread(run.grids[step]) for run in found.values()]
    tallest = max(image.shape[0] / image.shape[1] for image in images)
    width = 4.0 if len(found) < 4 else 3.2
    figure, row = panels(len(found), width, width * tallest + 0.7)
    figure.get_layout_engine().set(h_pad=0.1)  # type: ignore[union-attr,call-arg]
    for axes, arm, image in zip(row, found, images, strict=True):
        # nearest: the pixels that the model made, unblurred
        axes.imshow(image, cmap="gray" if image.ndim == 2 else None, interpolation="nearest")
        axes.set_title(wrapped(labels[arm.experiment], width) + f"\nstep {step}")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure
