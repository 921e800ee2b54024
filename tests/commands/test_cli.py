"""The command line as a user meets it."""

import subprocess
import sys
from pathlib import Path

import pytest

from ddpm.commands.cli import main
from ddpm.metrics.table import markdown_page
from tests.training.test_train import trained  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
E5 = str(ROOT / "configs/smoke/e5.yaml")


def test_dry_run_prints_a_config_that_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The overrides are included, as `wandb agent` passes them."""
    assert main(["train", E5, "--dry-run", "--loss.weighting=minsnr", "--train.total_steps=7"]) == 0
    out = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(out)
    assert main(["train", str(tmp_path / "again.yaml"), "--dry-run"]) == 0
    assert capsys.readouterr().out == out
    assert "total_steps: 7" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", E5, "--loss.weight=minsnr"], "unknown key loss.weight"),
        (["train", "none.yaml"], "no config file none.yaml"),
        (["train", E5, "--data.dataset=folder", "--data.root=/nowhere"], "/nowhere does not exist"),
        (["train", E5, "--data.batch_size=four"], "data.batch_size = 'four'"),
        (["report", "e6", "--from", "/nowhere", "--out", "unused"], "/nowhere"),
        (["report", "e999", "--from", ".", "--out", "unused"], "e999"),
        (["findings", "--to", "unused"], "give --keep RUNS too"),
    ],
)
def test_bad_input_is_one_paragraph_and_code_2(
    argv: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("ddpm: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not [p for p in tmp_path.iterdir() if not p.name.startswith(".")]


@pytest.mark.parametrize(
    ("argv", "usage", "hint"),
    [
        (["report", "e6", "--form", "runs"], "usage: ddpm report", "--form runs. Did you mean --from?"),
        (["sample", "none", "--step=9"], "usage: ddpm sample", "unrecognized arguments: --step=9.\n"),
        (["doctor", "e6"], "usage: ddpm doctor", "unrecognized arguments: e6."),
        (["probe", "none", "--method", "slq,hutch"], "usage: ddpm probe", "'hutch' is not one of hutchinson, hutchpp"),
    ],
)
def test_a_wrong_option_gets_the_usage_of_its_verb(
    argv: list[str], usage: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches the top level's usage, which names no option, and a path that is checked before the options."""
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(usage) and hint in err


@pytest.mark.parametrize("verb", ["probe", "sample", "evaluate"])
def test_a_folder_of_runs_names_them(
    verb: str,
    trained: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Tried with the experiment's folder and with the one above. Catches an example path in the message although real
    runs are there."""
    for above in (trained.parent, trained.parents[1]):
        assert main([verb, str(above), "--out", str(tmp_path / "out")]) == 2
        assert f"Give one of them: {trained}." in capsys.readouterr().err


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    """The test counts imports, not seconds. Catches an import of torch, wandb or pandas at the top of a module."""
    heavy = "{'torch', 'numpy', 'wandb', 'pandas', 'pydantic'}"
    code = f"import sys, ddpm.commands.cli; print(sorted({heavy} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    code = "import sys, ddpm.config.files; print([m for m in ('torch', 'wandb', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_metrics_table_is_the_committed_one() -> None:
    """`make docs` writes it."""
    assert (ROOT / "docs/metrics.md").read_text() == markdown_page()


def test_every_logged_key_is_documented(trained: Path) -> None:  # noqa: F811
    """The keys come from a real run. The table lists the keys of single timesteps as one family."""
    import json

    from ddpm.metrics.table import metric_of

    for line in (trained / "loss.jsonl").read_text().splitlines():
        assert all(metric_of(key) for key in json.loads(line)["out"])
