"""The workspace of an experiment on W&B's server. (`browser/` shows runs without one.)"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

from ddpm.errors import UserError
from ddpm.metrics.table import STEP, axis_label
from ddpm.tracking import client
from reports import workspaces
from reports.experiments import Study, load

TIMEOUT_S = 20  # to wait for a server's answer
# Sections of the workspace -> the lines of each chart. Lines in one chart have one unit.
CHARTS: dict[str, list[list[str]]] = {
    "FID": [["val/fid", "val/fid_floor"], ["final/fid"]],
    "Loss": [["train/loss"], ["train/mse_mean"]],
    "Curvature": [["curvature/hutch_trace_mean"], ["curvature/ref_trace_mean"]],
    "Gradient": [["train/grad_global_L2"]],
    "Time": [["time/train_s"], ["time/probe_s"], ["time/sample_s"]],
}


def save_workspace(experiment: str, path: str) -> str:
    """Save the experiment's workspace in the W&B project `path`, `ENTITY/PROJECT`; its name and address.

    Raises UserError: no such experiment or project; the server does not answer.
    """
    study = load(experiment)
    with saving(f"workspace of {study.name}", path):
        workspace = make_workspace(study, *training_runs(study, path))
        workspace.save()
        return f"{study.name}: {workspace.url}"


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
    import wandb

    api: Any = wandb.Api(timeout=TIMEOUT_S)
    entity, _, project = path.rpartition("/")
    entity = entity or api.default_entity
    wanted = {"config.experiment": {"$in": [*study.arms, *study.context]}}
    found = api.runs(f"{entity}/{project}", filters=wanted, per_page=200)
    return entity, project, [(run.id, run.config["experiment"]) for run in found]


def make_workspace(study: Study, entity: str, project: str, runs: Sequence[tuple[str, str]]) -> Any:
    """The workspace, unsaved: runs (id, experiment) grouped by experiment in the reports' colours."""
    import wandb_workspaces.expr as expr
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    from reports.figures.style import colour  # imports matplotlib

    experiments = [*study.arms, *study.context]
    grids = wr.MediaBrowser(title="samples of equal noise", media_keys=["samples/grid"], num_columns=3)
    charts = {name: line_plots(name) for name in CHARTS} | {"Samples": [grids]}
    sections = [ws.Section(name=name, is_open=True, panels=panels) for name, panels in charts.items()]
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
            pinned_columns=["summary:val/fid.min", "summary:final/fid", "config:loss.weighting", "config:seed"],
        ),
    )
    workspaces.fix_view(workspace, f"{entity}/{project}/{study.name}")
    return workspace


def line_plots(section: str) -> list[Any]:
    """The charts of one of `CHARTS` over the training step, for a workspace or a W&B report."""
    import wandb_workspaces.reports.v2 as wr

    plot: Any = wr.LinePlot
    look = {"x": STEP, "groupby_rangefunc": "minmax"}
    return [plot(y=keys, title=" and ".join(keys), title_y=axis_label(keys[0]), **look) for keys in CHARTS[section]]
