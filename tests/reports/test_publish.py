"""The report as a W&B Report: the real client and package write it into the stand-in, and the tests read it back."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
import wandb_workspaces.reports.v2 as wr

from ddpm.commands.cli import main
from ddpm.errors import UserError
from ddpm.training.loop import train
from reports import dashboard, report
from reports.experiments import Study, load
from reports.experiments.selection import select
from reports.figures import FIGURES, Figure
from reports.figures.style import colour
from reports.publish import page_blocks, publish
from reports.report import make_report
from reports.sources import open_source
from tests.reports.conftest import chosen
from tests.training.test_train import PLAIN, tiny
from wandb_standin import StandIn
from wandb_standin.records import ViewRecord

DRAWN = ("fid_vs_step", "sample_grids")


@pytest.fixture(scope="module")
def folder(two_seeds: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a report on e6 with two figures."""

    def load_fewer(name: str) -> Study:
        return load(name).model_copy(update={"figures": DRAWN})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "load", load_fewer)
        yield make_report("e6", str(two_seeds), tmp_path_factory.mktemp("out") / "e6").parent


@pytest.fixture
def project(server: StandIn) -> StandIn:
    """A server whose project `p` holds a run of e5 and one of e6."""
    for name, weighting in (("e5", "constant"), ("e6", "minsnr")):
        config = {"experiment": name, "loss": {"weighting": weighting}}
        with wandb.init(project="p", id=f"run-{name}", group=name, config=config) as run:
            run.log({"step": 1, "val/fid": 3.0})
    return server


def _publish(folder: Path, source: Path, path: str = "study/p") -> str:
    # As in report.py: drawn elsewhere, then moved.
    figures = [Figure(name, FIGURES[name][0], png=Path("moved") / f"{name}.png", caption="c") for name in DRAWN]
    absent = Figure("trace_vs_gradient", "Absent", reason="not logged")
    return publish(chosen(source, "e6"), folder, [*figures, absent], path)


def _view(server: StandIn) -> ViewRecord:
    (view,) = server.views.values()
    return view


def _unfolded(blocks: list[Any]) -> list[Any]:
    """The blocks with those under folded headings, in the order in which they are read."""
    return [each for block in blocks for each in (block, *(getattr(block, "collapsed_blocks", None) or []))]


def _panels(spec: dict[str, Any]) -> list[tuple[list[str], Any]]:
    """For each panel grid that shows media: its keys, and the value by which its runs are filtered."""
    grids = [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]
    return [
        (panel["config"]["mediaKeys"], grid["runSets"][0]["filters"]["filters"][0]["value"])
        for grid in grids
        for panel in grid["panelBankSectionConfig"]["panels"]
        if "mediaKeys" in panel["config"]
    ]


def test_the_page_arrives_whole(project: StandIn, folder: Path, two_seeds: Path, capfd: Any) -> None:
    """Read back from its address, the report has every heading in order, every verdict, and a panel for every figure.
    No link or command names this machine, and nothing is printed. Catches a section lost between two blocks, and an
    image without its run."""
    capfd.readouterr()
    address = _publish(folder, two_seeds)
    selection = chosen(two_seeds, "e6")
    compared = sum(len(arm.runs) for arm in (*selection.arms, *selection.context))
    assert capfd.readouterr() == (
        f"note: {compared} of the runs compared are not in wandb:study/p; the report is not linked to them there\n",
        "",
    )
    page = (folder / "report.md").read_text()
    study = load("e6")
    published = wr.Report.from_url(address)
    assert (published.title, published.description) == (f"e6: {study.title}", study.question)
    blocks = _unfolded(published.blocks)
    headings = [block.text for block in blocks if isinstance(block, wr.H1 | wr.H2)]
    titles = re.findall(r"^(?:##+ (.+)|<summary>(.+)</summary>)$", page, re.MULTILINE)
    assert headings == [*map("".join, titles), "Live charts"]
    folded = [block.text for block in published.blocks if isinstance(block, wr.H1) and block.collapsed_blocks]
    assert folded == re.findall(r"<summary>(.+)</summary>", page)
    text = "\n".join(block.text for block in blocks if isinstance(block, wr.MarkdownBlock))
    verdicts = page.partition("<summary>Verdicts")[2].partition("</details>")[0]
    sentences = [line for line in verdicts.splitlines() if line.startswith("- ")]
    assert len(sentences) > 3
    assert [line for line in sentences if line not in text] == []
    assert re.findall(r"^\|.*\|$", text, re.MULTILINE) == re.findall(r"^\|.*\|$", page, re.MULTILINE)
    spec = _view(project).spec
    assert _panels(spec) == [([f"figures/{name}"], "report-e6") for name in DRAWN]
    captions = re.findall(r"^!.+\n\n(\*.+\*)$", page, re.MULTILINE)
    assert len(captions) == len(DRAWN)
    assert all(caption in text for caption in captions)
    assert _view(project).type == "runs"  # not a draft
    assert str(folder.parent) in page  # the command that made it
    assert not re.search(r"\.png|!\[", json.dumps(spec))
    for place in (folder.parent, two_seeds):
        assert str(place) not in json.dumps(spec)


def test_the_report_run_holds_figures_and_files(
    project: StandIn, folder: Path, two_seeds: Path, tmp_path: Path
) -> None:
    """The run's files equal the folder's. Catches a missing file, an image under another key than the panel's, and
    W&B's own files of the run left where `--from wandb` would find them."""
    _publish(folder, two_seeds)
    run = project.runs["p", "report-e6"]
    assert (run.name, run.group, run.job_type, run.state) == ("report e6", "e6", "report", "finished")
    (row,) = run.history
    assert {key for key in row if not key.startswith("_")} == {f"figures/{name}" for name in DRAWN}
    for name in DRAWN:
        image = row[f"figures/{name}"]
        assert run.files[image["path"]] == (folder / "figures" / f"{name}.png").read_bytes()
        assert image["caption"] == FIGURES[name][0]
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names >= {"report.md", "report.html", "numbers.csv"}
    assert project.artifact("report-e6").type == "report"
    assert set(project.artifact("report-e6").files) == names
    for name in names:
        assert project.content("report-e6", name) == (folder / name).read_bytes()
    assert not list(tmp_path.rglob("*report-e6*"))


def test_the_report_run_is_no_training_run(project: StandIn, folder: Path, two_seeds: Path) -> None:
    """Neither a request for an experiment nor one for all runs includes it. Catches a report that counts itself as an
    arm."""
    _publish(folder, two_seeds)
    assert "experiment" not in project.runs["p", "report-e6"].config
    named = open_source("wandb:study/p", ["e5", "e6"])
    assert sorted(run.id for run in named) == ["run-e5", "run-e6"]
    selection = select(load("e6"), open_source("wandb:study/p"))
    assert sorted(run.id for arm in selection.arms for run in arm.runs) == ["run-e5", "run-e6"]


def test_live_charts(project: StandIn, folder: Path, two_seeds: Path) -> None:
    """FID, loss and traces against `step`, for all arms and the context. Each group has its colour from the figures."""
    _publish(folder, two_seeds)
    grid = _view(project).spec["blocks"][-2]["metadata"]  # the last block is W&B's empty paragraph
    (runs,) = grid["runSets"]
    (condition,) = runs["filters"]["filters"]
    assert condition["key"] == {"section": "config", "name": "experiment"}
    assert (condition["op"], condition["value"]) == ("IN", ["e5", "e6", "e1"])
    assert runs["grouping"] == [{"section": "config", "name": "experiment.value"}]
    assert grid["customRunColors"] == {
        f"{runs['id']}-config:experiment.value:{name}": colour(name) for name in ("e5", "e6", "e1")
    }
    plots = [panel["config"] for panel in grid["panelBankSectionConfig"]["panels"]]
    assert {plot["xAxis"] for plot in plots} == {"step"}
    drawn = {key for plot in plots for key in plot["metrics"]}
    assert drawn >= {"val/fid", "train/loss", "curvature/hutch_trace_mean", "curvature/ref_trace_mean"}
    places = [tuple(panel["layout"].values()) for panel in grid["panelBankSectionConfig"]["panels"]]
    assert len(set(places)) == len(places)


@pytest.mark.usefixtures("unrendered", "few_figures")
def test_from_a_report_to_what_it_rests_on(server: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the report's artifact the API reaches, in at most three steps, checkpoint, config, evaluation, the training
    and its data's digest. Publishing again adds no edge. Catches a report that stands alone on the server."""
    folder = train(tiny(tmp_path, *PLAIN, arm="e5"))
    last = str(folder / "checkpoints/step-000004.pt")
    assert main(["evaluate", last, "--out", str(tmp_path / "eval"), "--n", "70", "--nfe", "1"]) == 0
    source = "wandb:study/min_snr_smoke"
    make_report("e5", source, tmp_path / "out", publish_to="study/min_snr_smoke")
    assert "note:" not in capsys.readouterr().out
    (report_run,) = [record for record in server.runs.values() if record.job_type == "report"]
    before = list(report_run.used_artifacts)

    published = wandb.Api().artifact("study/min_snr_smoke/report-e5:latest")
    used = {each.type: each for each in published.logged_by().used_artifacts()}  # two steps
    known = json.loads((folder / "run.json").read_text())
    assert used.keys() == {"dataset", "config", "model", "run_table"}
    assert used["dataset"].metadata["digest"] == used["model"].metadata["data"]["digest"] == known["data"]["digest"]
    training = used["model"].logged_by()  # three
    assert (training.id, training.config["train"]["total_steps"]) == (known["wandb_id"], 4)
    got = Path(used["model"].download(root=str(tmp_path / "got"))) / Path(last).name
    assert got.read_bytes() == Path(last).read_bytes()
    assert used["run_table"].logged_by().job_type == "evaluate"

    make_report("e5", source, tmp_path / "out", publish_to="study/min_snr_smoke")
    assert report_run.used_artifacts == before


def test_publishing_again_replaces(project: StandIn, folder: Path, two_seeds: Path, tmp_path: Path) -> None:
    """There remain one report and one report run, with the new content, even if the report was renamed meanwhile.

    Catches a second report at every call, a report that is found by its title, and an old page or image left in place.
    """
    first = _publish(folder, two_seeds)
    before = _view(project).id
    _view(project).display_name = "renamed"
    changed = tmp_path / "again"
    (changed / "figures").mkdir(parents=True)
    other, same = (folder / "figures" / f"{name}.png" for name in DRAWN)
    (changed / "figures" / other.name).write_bytes(same.read_bytes())
    (changed / "figures" / same.name).write_bytes(same.read_bytes())
    page = (folder / "report.md").read_text()
    (changed / "report.md").write_text(
        page.replace("Verdicts</summary>\n", "Verdicts</summary>\n\nA second opinion.\n")
    )

    assert _publish(changed, two_seeds) == first
    assert _view(project).id == before
    assert "A second opinion." in json.dumps(_view(project).spec)
    assert sorted(id for _, id in project.runs) == ["report-e6", "run-e5", "run-e6"]
    run = project.runs["p", "report-e6"]
    assert run.state == "finished"
    assert run.files[run.history[-1][f"figures/{DRAWN[0]}"]["path"]] == same.read_bytes()
    assert b"A second opinion." in project.content("report-e6", "report.md")


def test_a_deleted_report_is_made_anew(project: StandIn, folder: Path, two_seeds: Path) -> None:
    """Catches the id of a deleted report, sent to a server that would refuse it forever. Also catches a user's own
    report with the same title that is overwritten."""
    _publish(folder, two_seeds)
    gone = _view(project).id
    del project.views[gone]
    mine = wr.Report(entity="study", project="p", title=f"e6: {load('e6').title}", blocks=[wr.H1("Mine")]).save()
    _publish(folder, two_seeds)
    assert len(project.views) == 2
    assert gone not in project.views
    assert "Mine" in json.dumps(project.views[mine.id].spec)


@pytest.mark.parametrize("path", ["study/none", "somebody/p"])
def test_no_project_is_made(project: StandIn, folder: Path, two_seeds: Path, path: str) -> None:
    """A misspelt name is an error. Catches the client's default, which creates the project."""
    with pytest.raises(UserError, match=rf"report of e6 cannot be saved in wandb:{path}.*ENTITY/PROJECT"):
        _publish(folder, two_seeds, path)
    assert project.projects == ["p"]
    assert len(project.runs) == 2
    assert not project.views


@pytest.mark.parametrize("step", ["UpsertBucket", "upsertView"])
def test_no_permission(project: StandIn, folder: Path, two_seeds: Path, step: str) -> None:
    """A login may read the project but not write into it. The error gives W&B's reason. Catches a traceback, a printed
    key, and a report that exists all the same."""
    project.fail(403, times=50, where=step)
    with pytest.raises(
        UserError, match=r"report of e6 cannot be saved in wandb:study/p: as the test ordered\."
    ) as refused:
        _publish(folder, two_seeds)
    assert project.api_key not in str(refused.value)
    assert not project.views


def test_without_a_login(server: StandIn, folder: Path, two_seeds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes at once, and nobody is asked for a key."""
    server.projects.append("p")
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(UserError, match=r"report of e6 cannot be saved.*wandb login"):
        _publish(folder, two_seeds)
    assert not server.runs


def test_without_a_server(project: StandIn, folder: Path, two_seeds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for a first answer is bounded, so no user waits forever."""
    monkeypatch.setattr(dashboard, "TIMEOUT_S", 1)
    project.down()
    with pytest.raises(UserError, match=r"report of e6 cannot be saved in wandb:study/p: .*try again"):
        _publish(folder, two_seeds)


@pytest.mark.parametrize("where", ["/storage/", "/file_stream"])
def test_a_server_that_fails_midway(
    project: StandIn, folder: Path, two_seeds: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The error comes within bounded time, and the same command later makes the one report. Catches W&B's own waiting,
    which has no end, and a report's id that is lost with its run."""
    project.fail(503, times=3, where=where)
    begin = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr("reports.publish._UPLOAD_S", 1)
        patch.setattr("reports.publish._FINISH_S", 1)
        with pytest.raises(UserError, match=r"report of e6 cannot be saved in wandb:study/p: .*try again"):
            _publish(folder, two_seeds)
    assert time.monotonic() - begin < 15
    wandb.teardown()  # W&B does this at the end of a process
    _publish(folder, two_seeds)
    assert len(project.views) == 1
    assert project.runs["p", "report-e6"].state == "finished"


def test_blocks_of_a_page() -> None:
    """Every line of a small page is in its place. Catches `##` inside a code block that becomes a heading, a lost image
    caption, a command that names a folder of this machine, a truncated relative path or address, and the same command
    for every run."""
    page = (
        "# e6: Title\n\n*Question: which?*\n\n**Warning: one arm**\n\n![Two](figures/two.png)\n\n*caption*\n\n"
        "<details>\n<summary>Verdicts</summary>\n\n- a\n- b: 1/2 of /x\n\n### Part\n\nc\n\n</details>\n\n"
        "## More\n\n![One](figures/one.png)\n\n## How\n\n    ## none\n"
        "    ddpm report e6 --from runs/new --out '/home/me/my reports/e6' --x wandb:a/b\n"
        "    ddpm train /home/me/runs/e6/e6-s1/config.yaml    # e6\n"
    )
    assert page_blocks(page, {"one": "picture 1", "two": "picture 2"}) == [
        wr.MarkdownBlock("**Warning: one arm**"),
        "picture 2",
        wr.MarkdownBlock("*caption*"),
        wr.H1(
            "Verdicts",
            collapsed_blocks=[wr.MarkdownBlock("- a\n- b: 1/2 of /x"), wr.H2("Part"), wr.MarkdownBlock("c")],
        ),
        wr.H1("More"),
        "picture 1",
        wr.H1("How"),
        wr.MarkdownBlock(
            "    ## none\n    ddpm report e6 --from runs/new --out e6 --x wandb:a/b\n"
            "    ddpm train RUNS/e6/e6-s1/config.yaml    # e6"
        ),
    ]
