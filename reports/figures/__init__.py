"""Figures by name. Each draws one picture of a selection, or says why it cannot."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ddpm.errors import UserError
from reports.experiments.selection import Selection
from reports.figures import cost, grids, noise_levels, scatter, steps, timesteps
from reports.figures.style import Drawn, NothingToDraw, save, theme, told_apart

Draw = Callable[[Selection, bool], Drawn]

# name -> (title, function). A function raises NothingToDraw if its data are absent, and UserError if it would put FIDs
# of different protocols on one axis.
FIGURES: dict[str, tuple[str, Draw]] = {
    "loss_fid_vs_step": ("Loss and FID over training", steps.loss_fid_vs_step),
    "curvature_vs_step": ("Hessian trace over training", steps.curvature_vs_step),
    "trace_by_noise": ("Hessian trace by noise level over training", noise_levels.trace_by_noise),
    "trace_ratio_by_noise": ("Hessian trace by noise level, late", noise_levels.trace_ratio_by_noise),
    "curvature_vs_fid": ("Hessian trace against FID at the milestones", scatter.curvature_vs_fid),
    "sample_grids": ("Samples", grids.sample_grids),
    "curvature_with_loss": ("Hessian trace and loss over training", steps.curvature_with_loss),
    "trace_mean_vs_std": ("The estimator: mean against std over probes", scatter.trace_mean_vs_std),
    "trace_vs_gradient": ("Hessian trace against gradient size", scatter.trace_vs_gradient),
    "fid_vs_step": ("FID over training", steps.fid_vs_step),
    "small_multiples": ("All at a glance", steps.small_multiples),
    "trained_vs_common_trace": (
        "Trace of the trained loss against the unweighted one's",
        scatter.trained_vs_common_trace,
    ),
    "timestep_profile": ("Loss by timestep", timesteps.timestep_profile),
    "loss_over_floor": ("Loss by noise level over its floor", noise_levels.loss_over_floor),
    "seen_vs_unseen": ("Loss by noise level, seen and unseen images", noise_levels.seen_vs_unseen),
    "fid_vs_cost": ("Quality against cost", cost.fid_vs_cost),
    "nfe_fid": ("FID against NFE", cost.nfe_fid),
    "time_breakdown": ("Where the time went", cost.time_breakdown),
}


@dataclass(frozen=True)
class Figure:
    """A figure of the report: `png` (with an `.svg` beside it) and its caption, or the `reason` why it is absent."""

    name: str
    title: str
    png: Path | None = None
    caption: str = ""
    reason: str = ""


def draw_all(selection: Selection, folder: Path, allow_mixed: bool = False) -> list[Figure]:
    """Draw the study's figures into `folder` as `<name>.png` (200 dpi) and `<name>.svg`.

    Raises UserError for mixed FID protocols unless `allow_mixed`.
    """
    return [draw(name, selection, folder, allow_mixed) for name in selection.study.figures]


def draw(name: str, selection: Selection, folder: Path, allow_mixed: bool = False) -> Figure:
    """Draw one figure. Raises KeyError for a name that is not in `FIGURES`."""
    title, function = FIGURES[name]
    with told_apart([arm.experiment for arm in (*selection.arms, *selection.context)]):
        try:
            return render(name, title, lambda: function(selection, allow_mixed), folder)
        except UserError as refusal:  # FIDs of two protocols on one axis
            if not selection.study.compares_protocols:
                raise
            return Figure(name, title, reason=str(refusal).split(", so it cannot")[0])


def render(name: str, title: str, function: Callable[[], Drawn], folder: Path) -> Figure:
    """Have `function` draw with the reports' theme and write the picture, or keep the reason why it cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    with theme():
        try:
            drawn = function()
        except NothingToDraw as absent:
            return Figure(name, title, reason=str(absent))
        return Figure(name, title, png=save(drawn, folder / name), caption=drawn.caption)
