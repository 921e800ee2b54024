"""The whole way from a source to numbers, figures and pages."""

import re
import shutil
import warnings
from pathlib import Path

import pandas as pd
import pytest

from ddpm.commands.cli import main
from ddpm.errors import UserError
from reports import report
from reports.report import make_report
from reports.stats.statistics import COLUMNS
from tests.once import once
from tests.reports.conftest import WandbRuns, rows_of, write_run


@pytest.fixture(scope="module")
def e6(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report on the original e6."""
    root = once(tmp_path_factory, "original-e6", lambda root: make_report("e6", str(originals), root / "out/e6"))
    return root / "out/e6"


@pytest.fixture(scope="session")
def originals() -> Path:
    """The original logs, for a fixture with a wider scope."""
    return Path(__file__).parents[2] / "docs/findings/study_logs"


def test_files(e6: Path) -> None:
    """Catches a missing or misnamed output, and drafts left behind."""
    assert {path.name for path in e6.iterdir()} == {
        "report.md",
        "report.html",
        "numbers.csv",
        "data.parquet",
        "figures",
    }
    assert [path.name for path in e6.parent.iterdir()] == ["e6"]
    assert list(pd.read_csv(e6 / "numbers.csv").columns) == COLUMNS


def test_numbers_keep_full_precision(e6: Path) -> None:
    """Catches rounding on the way into the CSV file."""
    rows = pd.read_csv(e6 / "numbers.csv", float_precision="round_trip")
    table = rows.set_index(["experiment", "metric", "statistic"])["value"]
    assert table["e5", "train/loss", "first"] == 0.19482320547103882
    assert table["e6", "val/fid", "at_10000"] == 206.99518792814138


def test_markdown(e6: Path) -> None:
    """Catches sections, tables or reasons that are missing from the page."""
    text = (e6 / "report.md").read_text()
    for part in (
        "by 15.2 % on average (2.5 to 33.9 %)",
        "| `loss.weighting` | `constant` | `minsnr` | yes |",
        "| 2000 | 203.61 | 203.89 | – |",
        "203.61 (step 2000) | 203.89 (step 2000)",
        "no sample grids are in the runs of e5, e6",
        "final/fid was not logged in e5, e6",
        "`unrecorded-",
        "ddpm report e6 --from",
        "`944a5b7653`",
    ):
        assert part in text, part
    assert "nan" not in text.lower().split() and "None" not in text


def test_the_answer_and_a_picture_come_first(e6: Path) -> None:
    """In both pages: the answer, warnings, the overview and the samples, then folded parts, then the other figures.
    Catches a picture below the tables, a part that is not folded or is lost, and a `<details>` shown as text."""
    page = (e6 / "report.md").read_text()
    html = (e6 / "report.html").read_text()
    first, *parts = re.split(r"^<details>$", page, flags=re.MULTILINE)
    assert first.index("*Question: ") < first.index("- **FID") < first.index("**Warning: ") < first.index("![")
    assert re.findall(r"figures/(\w+)\.png", first) == ["small_multiples"]  # the study's logs have no samples
    titles = [re.findall(r"^<summary>(.+)</summary>$", part, flags=re.MULTILINE) for part in parts]
    names = [title.partition(":")[0] for (title,) in titles]
    assert names == [
        *("Verdicts", "Success criteria", "What the study said", "Numbers", "What was compared"),
        *("How the configs differ", "How FID was measured", "What is missing or left out", "How to reproduce"),
    ]
    assert all(part.count("\n</details>\n") == 1 for part in parts)
    assert "![" not in "".join(parts[:-1]) and parts[-1].partition("</details>")[2].startswith("\n\n## More figures\n")
    assert re.findall(r"<details>\n<summary><h2>(.+?)</h2></summary>", html) == [title for (title,) in titles]
    assert html.count("</details>") == len(parts) and "&lt;details" not in html and "&lt;/details" not in html
    assert html.index("<figure>") < html.index("<details>")


def test_the_folded_parts_count_what_they_hold(e6: Path) -> None:
    """Catches a count of another list than the table below it, and one that counts checks in place of claims."""
    page = (e6 / "report.md").read_text()
    for title, bold in (("Success criteria", r"\*\*"), ("What the study said", "")):
        counted = re.findall(rf"<summary>{title}: (.+)</summary>", page)[0]
        table = page.partition(f"<summary>{title}")[2].partition("</details>")[0]
        verdicts = re.findall(rf"^\|[^|]+\| {bold}([^|*]+?){bold} \|", table, flags=re.MULTILINE)
        verdicts = [verdict for verdict in verdicts if verdict.strip("- ") not in ("", "verdict")]
        assert counted == ", ".join(f"{verdicts.count(each)} {each}" for each in dict.fromkeys(verdicts))


def test_html_is_self_contained(e6: Path) -> None:
    """Catches a page that loses its figures when it is mailed, or that uses the network."""
    page = (e6 / "report.html").read_text()
    sources = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', page)
    assert len(sources) == 10 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|@import|url\(|<script|<link", page)
    assert page.count("<figcaption>") == 10 and page.count("<table>") >= 5
    assert "|---" not in page, "a table was not recognised"


@pytest.mark.usefixtures("few_figures")
def test_only_labels_are_kept_on_one_line(e6: Path) -> None:
    """Catches verdicts that long one-line claims push behind a scroll bar, and a metric's name that breaks across lines
    in a table."""
    start = r'<div class="table ?(.*?)"><table>\s*<thead>\s*<tr>\s*<th>(.*?)</th>'
    tables = {first: kind for kind, first in re.findall(start, (e6 / "report.html").read_text())}
    assert {first for first, kind in tables.items() if kind} == {"criterion", "statement"}
    assert {"metric", "arm", "key", "step", "pair"} <= set(tables)


@pytest.mark.usefixtures("few_figures")
def test_every_run_has_a_command_of_its_own(wandb_runs: WandbRuns, tmp_path: Path) -> None:
    """From W&B's files, which hold no config file, and from a run folder, which does. Catches `ddpm train CONFIG` with
    one seed for both arms, and a path that does not exist."""
    text = make_report("e6", str(wandb_runs.wandb), tmp_path / "a").with_suffix(".md").read_text()
    for run in ("e5/e5-s1-e5", "e6/e6-s1-e6"):
        assert f"    ddpm train RUNS/{run}/config.yaml --seed=1 --out_dir=NEW    # {run[:2]}," in text
    config = write_run(tmp_path / "runs" / "e6", "e6") / "config.yaml"
    shutil.copy(Path(__file__).parents[2] / "configs/smoke/e6.yaml", config)
    text = make_report("e6", str(tmp_path / "runs"), tmp_path / "b").with_suffix(".md").read_text()
    assert f"    ddpm train {config} --seed=1 --out_dir=NEW    # e6," in text


@pytest.mark.usefixtures("unrendered")
def test_folders_and_wandb_give_identical_numbers(wandb_runs: WandbRuns, tmp_path: Path) -> None:
    """Catches a report that depends on the kind of source of the same run."""
    ours = make_report("e6", str(wandb_runs.folders), tmp_path / "folders").parent
    theirs = make_report("e6", str(wandb_runs.wandb), tmp_path / "wandb").parent
    assert (ours / "numbers.csv").read_bytes() == (theirs / "numbers.csv").read_bytes()
    assert "train/loss is NaN or infinite at 2 step(s)" in (theirs / "report.md").read_text()
    figures = {path.name for path in (ours / "figures").iterdir()}
    assert figures == {path.name for path in (theirs / "figures").iterdir()} and "sample_grids.png" in figures


@pytest.mark.usefixtures("few_figures")
def test_an_error_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches half a report, or a damaged earlier one, after a failure."""
    write_run(tmp_path / "runs" / "a", "e5")
    write_run(tmp_path / "runs" / "b", "e6", protocol="cccc3333")
    with pytest.raises(UserError, match="different protocols"):
        make_report("e6", str(tmp_path / "runs"), tmp_path / "out" / "e6")
    monkeypatch.setattr(report, "markdown_page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_report("e6", str(tmp_path / "runs"), tmp_path / "out" / "e6", allow_mixed_protocols=True)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("few_figures")
def test_mixed_protocols_are_shown_when_asked(tmp_path: Path) -> None:
    """Catches a page that does not say that mixed protocols were allowed."""
    write_run(tmp_path / "runs" / "a", "e5")
    write_run(tmp_path / "runs" / "b", "e6", protocol="cccc3333")
    page = make_report("e6", str(tmp_path / "runs"), tmp_path / "e6", allow_mixed_protocols=True)
    text = page.with_suffix(".md").read_text()
    assert "**Warning: val/fid was measured under different protocols and is not comparable" in text
    assert "--allow-mixed-protocols" in text and "this difference means nothing" in text


@pytest.mark.usefixtures("few_figures")
def test_overwriting_keeps_other_files(tmp_path: Path) -> None:
    """Catches a deleted file of the user, and a figure of an earlier report that stays."""
    write_run(tmp_path / "runs" / "a", "e5")
    write_run(tmp_path / "runs" / "b", "e6")
    out = make_report("e6", str(tmp_path / "runs"), tmp_path / "e6").parent
    (out / "notes.txt").write_text("mine")
    (out / "figures" / "mine.png").write_text("mine")
    assert (out / "figures" / "sample_grids.png").exists()
    for run in ("a", "b"):
        for path in (tmp_path / "runs" / run / "samples").iterdir():
            path.unlink()
    make_report("e6", str(tmp_path / "runs"), out)
    assert (out / "notes.txt").read_text() == (out / "figures" / "mine.png").read_text() == "mine"
    assert not (out / "figures" / "sample_grids.png").exists()


@pytest.mark.usefixtures("few_figures")
def test_what_was_found_is_printed(originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The terminal shows the original logs' numbers, as on the page. Catches a report that prints only a path, swapped
    arms, and a comparison of FIDs of two protocols."""
    page = make_report("e6", str(originals), tmp_path / "out")
    said = capsys.readouterr().out
    assert "e6 against e5: Hessian trace of each arm's trained loss -15.2 %" in said
    assert "FID 207.00 against " in said and "at step 10000" in said and "one seed each, 10000 steps" in said
    assert "by 15.2 % on average" in page.with_suffix(".md").read_text()
    write_run(tmp_path / "runs" / "a", "e5")
    write_run(tmp_path / "runs" / "b", "e6", protocol="cccc3333")
    make_report("e6", str(tmp_path / "runs"), tmp_path / "mixed", allow_mixed_protocols=True)
    mixed = capsys.readouterr().out
    assert "e6 against e5: " in mixed and "FID" not in mixed


@pytest.mark.usefixtures("few_figures")
def test_text_from_runs_cannot_break_the_page(tmp_path: Path) -> None:
    """Catches a pipe or mark-up in a config value that breaks a table or is active in the page."""
    nasty = "<script>alert(1)</script> | a `b` _c_"
    write_run(tmp_path / "runs" / "a", "e5", model__name=nasty)
    write_run(tmp_path / "runs" / "b", "e6", model__name="unet")
    page = make_report("e6", str(tmp_path / "runs"), tmp_path / "e6")
    html = page.read_text()
    assert "<script>" not in html and "&lt;script&gt;" in html
    row = next(line for line in page.with_suffix(".md").read_text().splitlines() if "`model.name`" in line)
    assert row.count("|") == 5 and "undeclared" in row
    assert "does not declare 1 difference(s)" in html


@pytest.mark.usefixtures("few_figures")
def test_a_missing_arm_is_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a report without its baseline that does not say so."""
    write_run(tmp_path / "runs" / "b", "e6", finished=False)
    text = make_report("e6", str(tmp_path / "runs"), tmp_path / "e6").with_suffix(".md").read_text()
    assert "Arm e5: no run with metrics in the source." in text
    assert "not finished; its last step so far is 200" in text
    assert "Only these arms have runs: e6. Nothing is compared." in capsys.readouterr().out


def test_out_that_is_a_file(tmp_path: Path, originals: Path) -> None:
    """Catches a traceback for a mistyped --out."""
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match="is a file"):
        make_report("e1", str(originals), tmp_path / "out")


def test_reports_never_import_torch() -> None:
    """Catches a report that needs the training stack to start."""
    import subprocess
    import sys

    code = "import sys, reports.report; sys.exit('torch' in sys.modules or 'wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.usefixtures("few_figures")
def test_places_that_cannot_be_written(tmp_path: Path, originals: Path) -> None:
    """A file stands in place of a folder, above the report or inside it. Catches a traceback in place of an error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        make_report("e6", str(originals), tmp_path / "file" / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "figures").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        make_report("e6", str(originals), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["figures"]


def test_a_filter_that_is_no_yaml(tmp_path: Path, originals: Path) -> None:
    with pytest.raises(UserError, match=r"The filter `seed=\[1` is not valid YAML"):
        make_report("e6", str(originals), tmp_path / "out", where=["seed=[1"])


def test_values_without_a_percentage_make_no_nonsense(tmp_path: Path) -> None:
    """A baseline of zeros, negative traces, constant stds, and a `$` in the config. Catches `nan %`, `inf %`, a rise
    called a fall, a division warning, and text typeset as mathematics."""
    for name, sign in (("e5", 0.0), ("e6", -1.0)):
        rows = [
            (step, {k: (sign * v if isinstance(v, float) else v) for k, v in row.items()})
            for step, row in rows_of(name, 1)
        ]
        extra = {"data__root": "$HOME/run_$USER"} if name == "e6" else {}
        write_run(tmp_path / "runs" / name, name, rows=rows, **extra)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        page = make_report("e6", str(tmp_path / "runs"), tmp_path / "out")
    text = page.with_suffix(".md").read_text()
    assert not re.search(r"(?<![a-z/])[+-]?(nan|inf)\b", text.lower()), re.findall(r".*\bnan\b.*|.*\binf\b.*", text)
    assert "e6: the trace of the trained loss rises by" in text and "e5: the trace of the trained loss" not in text


def test_an_experiment_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file outside the package has a condition on an arm's runs. Catches a path that is not accepted, an ignored
    `where`, and a report that overwrites its own YAML file if --out is not given."""
    for seed, lr in ((1, 1.0), (2, 2.0)):
        write_run(tmp_path / "runs" / f"a{seed}", "mine", seed, optim__lr=lr)
        write_run(tmp_path / "runs" / f"b{seed}", "theirs", seed, optim__lr=lr)
    study = "name: mine\ntitle: T\nquestion: Q\narms: {theirs: baseline, mine: variant}\nfigures: [fid_vs_step]\n"
    (tmp_path / "study.yaml").write_text(study + "where: {mine: [optim.lr=1.0], theirs: [optim.lr=1.0]}\n")
    page = make_report(str(tmp_path / "study.yaml"), str(tmp_path / "runs"), tmp_path / "out")
    text = page.with_suffix(".md").read_text()
    shown, left_out = text.split("<summary>What is missing or left out")
    assert "| mine | variant | `mine-s1-a1` |" in shown and "mine-s2" not in shown and "theirs-s2" not in shown
    assert "its optim.lr is 2.0, not 1.0, as the experiment asks for" in left_out
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(tmp_path / "study.yaml"), "--from", "runs"]) == 0
    assert (tmp_path / "out/study/report.html").is_file()
    (tmp_path / "study.yaml").write_text(study.replace("fid_vs_step", "fid_vs_stop"))
    with pytest.raises(UserError, match=r"Unknown figures in .*: fid_vs_stop. Available: .*fid_vs_step"):
        make_report(str(tmp_path / "study.yaml"), str(tmp_path / "runs"), tmp_path / "out")
    (tmp_path / "study.yaml").write_text(study.replace("question", "qestion"))
    with pytest.raises(UserError, match=r"study\.yaml is no experiment: question: Field required; qestion"):
        make_report(str(tmp_path / "study.yaml"), str(tmp_path / "runs"), tmp_path / "out")
