"""The arms' sample grids side by side."""

from dataclasses import replace
from pathlib import Path

import matplotlib.image
from matplotlib.figure import Figure

from reports.experiments.choice import Arm, Selection
from reports.figures.style import Drawn, NothingToDraw, arm_labels, new_figure
from reports.runs import Run


def sample_grids(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Every arm's grid (its first seed's) at the last step at which all of them have one."""
    runs = {arm.experiment: _first_with_grids(arm) for arm in selection.arms}  # only grids that can be read
    without = [name for name, run in runs.items() if run is None]
    found = [(arm, run) for arm in selection.arms if (run := runs[arm.experiment]) is not None]
    if not found:
        raise NothingToDraw(f"no sample grids are in the runs of {', '.join(runs)}")
    common = set.intersection(*(set(run.grids) for _, run in found))
    if not common:
        raise NothingToDraw("the arms have no sample grid at a common step")
    step = max(common)
    figure = _draw(found, step, arm_labels(selection.arms, selection))
    absent = f" No grids in {', '.join(without)}." if without else ""
    seeds = ", ".join(f"{arm.experiment} seed {run.seed}" for arm, run in found)
    return Drawn(figure, f"Samples at step {step}, the last step that the arms shown have a grid of ({seeds}).{absent}")


def _first_with_grids(arm: Arm) -> Run | None:
    readable = (replace(run, grids={s: p for s, p in run.grids.items() if _readable(p)}) for run in arm.runs)
    return next((run for run in readable if run.grids), None)


def _readable(path: Path) -> bool:
    """Whether the picture decodes: a run that was killed may leave one cut short."""
    try:
        matplotlib.image.imread(path)
    except (OSError, ValueError, SyntaxError):
        return False
    return True


def _draw(found: list[tuple[Arm, Run]], step: int, labels: dict[str, str]) -> Figure:
    images = [matplotlib.image.imread(run.grids[step]) for _, run in found]
    tallest = max(image.shape[0] / image.shape[1] for image in images)
    figure = new_figure(4.0 * len(found), 4.0 * tallest + 0.7)
    figure.get_layout_engine().set(h_pad=0.1)  # type: ignore[union-attr,call-arg]
    row = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (arm, _), image in zip(row, found, images, strict=True):
        # nearest: what is shown are the pixels that the model made
        axes.imshow(image, cmap="gray" if image.ndim == 2 else None, interpolation="nearest")
        axes.set_title(f"{labels[arm.experiment]}\nstep {step}")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure
