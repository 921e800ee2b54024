"""The workspace of an experiment on W&B's server. (`browser/` shows runs without one.)"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

from ddpm.errors import UserError
from ddpm.metrics.table import STEP, TABLE, axis_label
from ddpm.tracking import client
from reports import workspaces
from reports.experiments import Study, load

LOWEST_FID = "val/fid.min"  # in a run's summary
_SWEEP = "sweep:"
TIMEOUT_S = 20  # to wait for a server's answer
# Sections of the workspace -> the lines of each chart. Lines in one chart have one unit.
CHARTS: dict[str, list[list[str]]] = {
    "FID": [["val/fid", "val/fid_floor", "val/fid_ceiling"], ["final/fid"]],
    "Loss": [["train/loss"], ["train/mse_mean"]],
    "Curvature": [["curvature/hutch_trace_mean"], ["curvature/ref_trace_mean"]],
    "Probes by method": [
        [f"curvature/{name}" for name in ("hutch_trace_mean", "hutchpp_trace", "xtrace", "slq_trace")],
        [f"curvature/ref_{name}" for name in ("trace_mean", "hutchpp_trace", "xtrace", "slq_trace")],
        ["curvature/top_eigenvalue", "curvature/ref_top_eigenvalue"],
        ["curvature/noise_scale"],
    ],
    "Gradient": [["train/grad_global_L2"]],
    "Time": [["time/train_s"], ["time/probe_s"], ["time/sample_s"]],
}


def save_workspace(experiment: str, path: str) -> str:
    """Save the workspace of the experiment, or of `sweep:ID`, in the W&B project `path`, `ENTITY/PROJECT`; its name and
    address.

    Raises UserError: no such experiment, sweep or project; the server does not answer.
    """
    if experiment.startswith(_SWEEP):
        return _save_sweep(experiment.removeprefix(_SWEEP), path)
    study = load(experiment)
    with saving(f"workspace of {study.name}", path):
        workspace = make_workspace(study, *training_runs(study, path))
        workspace.save()
        return f"{study.name}: {workspace.url}"


def _save_sweep(id: str, path: str) -> str:
    with saving(f"workspace of sweep {id}", path):
        api = client.api(TIMEOUT_S)
        entity, _, project = path.rpartition("/")
        entity = entity or api.default_entity
        swept = list(api.sweep(f"{entity}/{project}/{id}").config["parameters"])
        workspace = make_sweep_workspace(id, swept, entity, project)
        workspace.save()
        return f"sweep {id}: {workspace.url}"


@contextlib.contextmanager
def saving(what: str, path: str) -> Iterator[None]:
    """Save `what` in the W&B project `path` inside, without W&B's own messages. Its failures become UserErrors."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except client.failures() as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"The {what} cannot be saved in wandb:{path}: {reason}. Give wandb:ENTITY/PROJECT as in the project's "
            "address, log in with `wandb login`, or try again if the server did not answer."
        ) from error


def training_runs(study: Study, path: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Entity, project and the study's runs there, as (id, experiment). Raises ValueError if there is no project."""
    api = client.api(TIMEOUT_S)
    entity, _, project = path.rpartition("/")
    entity = entity or api.default_entity
    wanted = {"config.experiment": {"$in": [*study.arms, *study.context]}}
    found = api.runs(f"{entity}/{project}", filters=wanted, per_page=200)
    return entity, project, [(run.id, run.config["experiment"]) for run in found]


def make_workspace(study: Study, entity: str, project: str, runs: Sequence[tuple[str, str]]) -> Any:
    """The workspace, unsaved: runs (id, experiment) grouped by experiment in the reports' colours."""
    import wandb_workspaces.expr as expr
    import wandb_workspaces.workspaces as ws

    from reports.figures.style import colour  # imports matplotlib

    experiments = [*study.arms, *study.context]
    sections = [ws.Section(name=name, is_open=True, panels=panels) for name, panels in _panels([]).items()]
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=f"{study.name}: {study.title}",
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=50),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Config("experiment").isin(experiments)),
            groupby=[expr.Config("experiment")],
            group_colors={name: colour(name) for name in experiments},
            run_settings={id: ws.RunSettings(color=colour(experiment)) for id, experiment in runs},
            pinned_columns=[f"summary:{LOWEST_FID}", "summary:final/fid", "config:loss.weighting", "config:seed"],
        ),
    )
    workspaces.fix_view(workspace, f"{entity}/{project}/{study.name}")
    return workspace


def make_sweep_workspace(id: str, swept: Sequence[str], entity: str, project: str) -> Any:
    """The workspace of a sweep's runs, unsaved: what its keys `swept` (dotted, of the config) do to FID comes first."""
    import wandb_workspaces.expr as expr
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    importance = wr.ParameterImportancePlot(with_respect_to=LOWEST_FID)
    panels = {"Sweep": [_parallel(swept), importance], **_panels(swept)}
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=f"sweep {id}",
        sections=[ws.Section(name=name, is_open=True, panels=found) for name, found in panels.items()],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=50),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Metric("Sweep") == id),
            groupby=[expr.Config("loss.weighting")],
            pinned_columns=[f"summary:{LOWEST_FID}", *(f"config:{key}" for key in swept)],
        ),
    )
    workspaces.fix_view(workspace, f"{entity}/{project}/{_SWEEP}{id}")
    return workspace


def _panels(swept: Sequence[str]) -> dict[str, list[Any]]:
    """The panels of a workspace by section. Without `swept` keys there are parallel coordinates of the usual ones."""
    import wandb_workspaces.reports.v2 as wr

    scatter = [
        wr.ScatterPlot(
            title=f"FID against {axis_label(trace)}",
            x=wr.SummaryMetric(trace),
            y=wr.SummaryMetric(LOWEST_FID),
            z=wr.Config("loss.weighting"),  # the colour
        )
        for trace in ("curvature/ref_trace_mean", "curvature/neutral_trace_mean")
    ]
    grids = wr.MediaBrowser(title="samples of equal noise", media_keys=["samples/grid"], num_columns=3)
    table = wr.WeavePanelSummaryTable(table_name=TABLE)
    usual = [] if swept else [_parallel(("loss.weighting", "diffusion.beta_schedule", "train.total_steps", "seed"))]
    charts = {name: line_plots(name) for name in CHARTS}
    return {"Curvature against FID": [*scatter, *usual]} | charts | {"Samples": [grids, table]}


def _parallel(keys: Sequence[str]) -> Any:
    """Parallel coordinates: config keys, then the common loss's trace and FID."""
    import wandb_workspaces.reports.v2 as wr

    ends: Any = (wr.SummaryMetric("curvature/ref_trace_mean"), wr.SummaryMetric(LOWEST_FID))
    return wr.ParallelCoordinatesPlot(
        title="from configs to FID",
        columns=[wr.ParallelCoordinatesPlotColumn(metric) for metric in [*map(wr.Config, keys), *ends]],
    )


def line_plots(section: str) -> list[Any]:
    """The charts of one of `CHARTS` over the training step, for a workspace or a W&B report."""
    import wandb_workspaces.reports.v2 as wr

    plot: Any = wr.LinePlot
    look = {"x": STEP, "groupby_rangefunc": "minmax"}
    return [plot(y=keys, title=" and ".join(keys), title_y=axis_label(keys[0]), **look) for keys in CHARTS[section]]
