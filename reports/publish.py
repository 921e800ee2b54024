"""Saves the local report as a W&B Report, with one W&B run that holds its figures and files."""

import re
import shlex
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb
import wandb_workspaces.expr as expr
import wandb_workspaces.reports.v2 as wr

from ddpm.metrics.table import SOURCE
from ddpm.tracking import client
from reports.dashboard import TIMEOUT_S, line_plots, saving, training_runs
from reports.experiments import Study
from reports.experiments.selection import Selection
from reports.figures import Figure
from reports.figures.style import colour
from reports.text.markup import sections

FILES = ("report.md", "report.html", "numbers.csv", "data.parquet")
_LIVE = ("FID", "Loss", "Curvature")  # sections of the workspace
_UPLOAD_S = 120  # to wait for the files
_FINISH_S = 60  # to wait for the figures
_TITLE_LENGTH = 128  # W&B's limit
_COLUMNS = 24  # in a panel grid; a row is about as high as a column is wide
_HEADING_OR_IMAGE = re.compile(r"^(##+ .+|!\[.*\]\(figures/.+\.png\))$", re.MULTILINE)


def publish(selection: Selection, folder: Path, figures: Sequence[Figure], path: str) -> str:
    """Save the report in `folder` (`figures/*.png` and the `FILES` that it has) as a W&B Report; returns its address.

    path: the W&B project `ENTITY/PROJECT`. Its run `report-EXPERIMENT` holds the figures as images, the files as an
    artifact, and in its config the id of the W&B Report; it uses what it compared. A later call replaces that report,
    even if it was renamed, and makes another if it was deleted.

    Raises UserError: no login, no such project, no permission, the server does not answer. Nothing is then written.
    """
    study = selection.study
    with saving(f"report of {study.name}", path):
        entity, project, _ = training_runs(study, path)
        with _report_run(study, entity, project) as run:
            absent = _use_compared(run, selection, entity, project)
            _upload(run, study, folder, figures)
            report = wandb_report(study, folder, entity, project)
            known = run.config.get("report", "")
            report.id = known if known in _report_ids(entity, project) else ""
            report.save()
            run.config.update({"report": report.id}, allow_val_change=True)
        address = str(report.url)
    if absent:
        print(f"note: {absent} of the runs compared are not in wandb:{path}; the report is not linked to them there")
    return address


# ---- the run that holds figures and files ----------------------------------------------------------------


@contextmanager
def _report_run(study: Study, entity: str, project: str) -> Iterator[Any]:
    """The study's report run, new or resumed. It has no `experiment` in its config, as training runs have."""
    settings = wandb.Settings(
        init_timeout=TIMEOUT_S,
        finish_timeout=_FINISH_S,
        finish_timeout_raises=True,
        silent=True,
        console="off",
        disable_git=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        sagemaker_disable=True,
    )
    about: dict[str, Any] = {"name": f"report {study.name}", "group": study.name, "job_type": "report"}
    where: dict[str, Any] = {"entity": entity, "project": project, "mode": "online", "resume": "allow"}
    client.name_run(_run_id(study))
    # W&B's local files of this run are deleted: in ./wandb they would be read as one of the study's runs.
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as aside,
        wandb.init(id=_run_id(study), **about, **where, dir=aside, settings=settings) as run,
    ):
        yield run


def _run_id(study: Study) -> str:
    return f"report-{study.name}"


def _use_compared(run: Any, selection: Selection, entity: str, project: str) -> int:
    """Mark as used by the report run what it compared: of each training its data set, config, best and last checkpoint,
    and the tables of its evaluations. Returns how many of the compared runs the project does not have."""
    api = client.api(TIMEOUT_S)
    path, study = f"{entity}/{project}", selection.study
    wanted = {one.id for arm in (*selection.arms, *selection.context) for one in arm.runs}
    filters = {"config.experiment": {"$in": [*study.arms, *study.context]}}
    found = {training: {training.id, training.config.get("run_id")} for training in api.runs(path, filters=filters)}
    compared = [training for training, names in found.items() if names & wanted]
    ids = {training.id for training in compared}
    evaluations = [work for work in api.runs(path, filters={"jobType": "evaluate"}) if work.config.get(SOURCE) in ids]
    used = [artifact for training in compared for artifact in training.used_artifacts()]
    logged = [artifact for one in (*compared, *evaluations) for artifact in one.logged_artifacts()]
    for artifact in {one.id: one for one in (*used, *filter(_rests_on, logged))}.values():
        run.use_artifact(artifact)
    return len(wanted - set().union(*(found[training] for training in compared)))


def _rests_on(artifact: Any) -> bool:
    """Whether a report rests on this artifact of a run."""
    if artifact.type == "model":
        return bool({"best", "latest"} & {*artifact.aliases})
    return artifact.type == "config" or (artifact.type == "run_table" and "evaluate_table" in artifact.name)


def _upload(run: Any, study: Study, folder: Path, figures: Sequence[Figure]) -> None:
    shown = {f"figures/{f.name}": (folder / "figures" / f"{f.name}.png", f.title) for f in figures if f.png is not None}
    run.log({key: wandb.Image(str(png), caption=title) for key, (png, title) in shown.items()})
    artifact = wandb.Artifact(_run_id(study), type="report", description=study.title)
    for name in FILES:
        if (folder / name).is_file():
            artifact.add_file(str(folder / name))
    run.log_artifact(artifact).wait(_UPLOAD_S)


def _report_ids(entity: str, project: str) -> set[str]:
    """The ids of the project's W&B Reports."""
    return {report.id for report in client.api(TIMEOUT_S).reports(f"{entity}/{project}")}


# ---- the W&B Report --------------------------------------------------------------------------------------


def wandb_report(study: Study, folder: Path, entity: str, project: str) -> Any:
    """The W&B Report of `folder`, unsaved: the page's blocks, then live charts of the project's runs."""
    page = (folder / "report.md").read_text(encoding="utf-8")
    pictures = {png.stem: _picture(study, png, entity, project) for png in (folder / "figures").glob("*.png")}
    files = f"The artifact `{_run_id(study)}` of this project holds this page as a file and its numbers."
    return wr.Report(
        entity=entity,
        project=project,
        title=f"{study.name}: {study.title}"[:_TITLE_LENGTH],
        description=study.question,
        blocks=[*page_blocks(page, pictures), wr.MarkdownBlock(files), *_live(study, entity, project)],
        width="fluid",
    )


def page_blocks(page: str, pictures: Mapping[str, Any]) -> list[Any]:
    """The Markdown `page` as blocks: headings, `pictures[name]` for `figures/<name>.png`, the Markdown in between. What
    the page folds is folded under its heading.

    Leaves out title and question, which the W&B Report has itself. Paths on this machine keep only their last part.
    """
    body = re.sub(r"\A# .+\n+(\*Question: .+\*\n)?", "", page)
    blocks: list[Any] = []
    for title, inside in sections(body):
        found = _blocks(inside, pictures)
        blocks += [wr.H1(title, collapsed_blocks=found)] if title else found
    return blocks


def _blocks(part: str, pictures: Mapping[str, Any]) -> list[Any]:
    blocks: list[Any] = []
    for piece in _HEADING_OR_IMAGE.split(part):
        if piece.startswith("## "):
            blocks.append(wr.H1(piece.lstrip("# ")))
        elif piece.startswith("##"):
            blocks.append(wr.H2(piece.lstrip("# ")))
        elif piece.startswith("!["):
            blocks.append(pictures[Path(piece.rpartition("(")[2]).stem])
        elif piece.strip():
            blocks.append(wr.MarkdownBlock(_without_folders(piece.strip("\n"))))
    return blocks


def _without_folders(text: str) -> str:
    """`text` with absolute paths in commands (indented lines) cut to their last part, a run's config to RUNS/...."""

    def last_part(match: re.Match[str]) -> str:
        path = Path(match.group().strip("'"))
        return shlex.quote(str(Path("RUNS", *path.parts[-3:])) if path.name == "config.yaml" else path.name)

    return re.sub(
        r"^    .*$", lambda line: re.sub(r"(?<!\S)('/[^']*'|/\S+)", last_part, line.group()), text, flags=re.MULTILINE
    )


def _picture(study: Study, png: Path, entity: str, project: str) -> Any:
    """A panel with the report run's image of one figure, as wide as the page."""
    width, height = struct.unpack(">II", png.read_bytes()[16:24])
    frame = 3  # rows for the panel's title, its caption and its slider over earlier versions
    panel = wr.MediaBrowser(
        media_keys=[f"figures/{png.stem}"],
        num_columns=1,
        layout=wr.Layout(w=_COLUMNS, h=frame + round(_COLUMNS * height / width)),
    )
    runs = wr.Runset(
        entity=entity,
        project=project,
        name="this report's figures",
        filters=expr.And(expr.Metric("ID") == _run_id(study)),
    )
    return wr.PanelGrid(runsets=[runs], hide_run_sets=True, panels=[panel])


def _live(study: Study, entity: str, project: str) -> list[Any]:
    experiments = [*study.arms, *study.context]
    runs = wr.Runset(
        entity=entity,
        project=project,
        name="training runs",
        filters=expr.And(expr.Config("experiment").isin(experiments)),
        groupby=["config.experiment"],
    )
    colours: dict[Any, Any] = {
        wr.RunsetGroup(runs.name, (wr.RunsetGroupKey(wr.Config("experiment"), name),)): colour(name)
        for name in experiments
    }
    plots = [plot for section in _LIVE for plot in line_plots(section)]
    note = f"All runs of {', '.join(experiments)} in this project as they are now, not only those compared above."
    return [
        wr.H1("Live charts"),
        wr.MarkdownBlock(note),
        wr.PanelGrid(runsets=[runs], panels=plots, custom_run_colors=colours),
    ]
