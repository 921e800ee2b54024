"""The training uses what the config says: files, overrides, sweep points, filters, paths and names."""

import argparse
import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import wandb
import yaml
from wandb.sdk.artifacts._validators import NAME_MAXLEN

from ddpm.arguments import path as path_argument
from ddpm.commands import cli
from ddpm.commands.cli import main
from ddpm.config.files import (
    ARTIFACT_LETTERS,
    PROJECT_LETTERS,
    TAG_LETTERS,
    load_config,
    read_chain,
    resolve,
    sweep_point,
)
from ddpm.config.keys import key_types
from ddpm.config.run import Config
from ddpm.data.images import load_images
from ddpm.diffusion.schedule import SCHEDULES, from_betas, make_schedule, shortest_chain
from ddpm.errors import UserError
from ddpm.evaluation.features import make_features
from ddpm.files.paths import home
from ddpm.files.yaml12 import read_value, read_yaml, write_yaml
from ddpm.runtime.cache import cache_dir, use_folder
from ddpm.sweep.space import points, read_sweep
from ddpm.tracking.run_folder import RunFolder
from reports import sources
from reports.experiments import load
from reports.experiments.selection import filtered
from reports.runs import Run

ROOT = Path(__file__).parents[2]
QUICK = ROOT / "configs/smoke/quick.yaml"
CHAIN = read_chain(QUICK)


def _config(*overrides: str, point: dict[str, Any] | None = None) -> Config:
    return resolve(CHAIN, overrides, point)


def _of_file(folder: Path, text: str | bytes, *overrides: str) -> Config:
    content = text.encode() if isinstance(text, str) else text
    (folder / "mine.yaml").write_bytes(content.replace(b"QUICK", str(QUICK).encode()))
    return load_config(folder / "mine.yaml", overrides)


def _value(cfg: Any, key: str) -> Any:
    for part in key.split("."):
        cfg = getattr(cfg, part)
    return cfg


# --- YAML ---

TWICE = "loss: {weighting: minsnr}\nseed: 3\nloss: {minsnr_gamma: 3}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWICE, "line 3, column 1: the key loss is there twice, first in line 1"),
        ("loss:\n  weighting: p2\n  t_min: 1\n  weighting: snr\n", "line 4, column 3: .* weighting .* line 2"),
        ('seed: 1\n"seed": 2\n', "line 2, .* seed is there twice, first in line 1"),
        ("- {a: 1, a: 2}\n", "the key a is there twice"),
        ("a: &b {x: 1}\nb: {<<: *b, <<: *b}\n", "the key << is there twice"),
    ],
)
def test_a_key_that_is_there_twice(text: str, message: str) -> None:
    """Catches a file in which the first of two equal sections is silently dropped, on any level and in any notation."""
    with pytest.raises(UserError, match=message):
        read_yaml(text, "file")


def test_every_kind_of_file_refuses_it(tmp_path: Path) -> None:
    """Configs, sweep files and experiments are refused, and no module reads YAML by itself. Catches a reader that
    accepts such a file."""
    (tmp_path / "twice.yaml").write_text(TWICE)
    for read in (load_config, read_sweep, lambda path: load(str(path))):
        with pytest.raises(UserError, match="the key loss is there twice, first in line 1"):
            read(tmp_path / "twice.yaml")
    code = [file.read_text() for folder in ("ddpm", "reports") for file in (ROOT / folder).rglob("*.py")]
    assert not [text for text in code if "yaml.safe_load" in text or "yaml.load" in text]


def test_anchors_do_not_make_a_key_twice() -> None:
    """A merged mapping is merged again, with its own value. Catches a value from `<<` that counts as typed."""
    text = "a: &a {nfe: 7}\nb: &b {<<: *a, n: 40}\nc: {<<: *b, nfe: 9}\n"
    assert read_yaml(text, "file") == {"a": {"nfe": 7}, "b": {"nfe": 7, "n": 40}, "c": {"nfe": 9, "n": 40}}


SCALARS = {
    **{"1e-4": 1e-4, "3E5": 3e5, "2e1": 20.0, ".5": 0.5, "1.": 1.0, "+12": 12, "010": 10, "0o17": 15, "0x1F": 31},
    **{"-.inf": -torch.inf, "true": True, "False": False, "null": None, "~": None, "": None, "-0.0": 0.0},
    **{
        t: t for t in ("no", "on", "Yes", "y", "1_000", "1_1_1", "1:30", "2026-05-01", "0b11", "nan", "tRUE", "=", "1e")
    },
    **{"20260501": 20260501, "fix #3": "fix #3", "base: lr 1e-3": "base: lr 1e-3", "&a": "&a", "'q'": "'q'"},
}


@pytest.mark.parametrize(("word", "value"), SCALARS.items())
def test_values_are_those_of_yaml_1_2(word: str, value: Any) -> None:
    """The specification's core schema, written out by hand. Catches version 1.1's dates, octals, 60ths and yes/no."""
    found = read_value(word, "word")
    assert (found, type(found), str(found)) == (value, type(value), str(value))
    if not set(word) & set("#:&'") or word in ("1:30",):
        in_file = read_yaml(f"key: {word}\n", "file")["key"]
        assert (in_file, type(in_file)) == (value, type(value))


TEXTS = [
    *(word for word in SCALARS if word),
    *("1e5", ".nan", "None", "<<", "- a", "[a]", "{a", "*a", "!x", "%y", "@z", "`", "? x", "a\nb", "é", "x:", "|", "'"),
]


def test_what_is_written_is_read_by_everyone() -> None:
    """A run's config.yaml is read by this reader and by a YAML 1.1 reader. Catches the text 1e-4 written without
    quotes."""
    values = {"text": TEXTS, "numbers": [1e-5, 1e20, 0.1, -3, 10**17], "flags": [True, None, []]}
    text = write_yaml(values)
    assert read_yaml(text, "file") == yaml.safe_load(text) == values
    for word in TEXTS[::8]:
        cfg = _config().model_copy(update={"study_name": word})
        assert yaml.safe_load(cfg.to_yaml())["study_name"] == read_yaml(cfg.to_yaml(), "")["study_name"] == word


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n", "must hold keys and values"),
        (b"hello", "must hold keys and values"),
        (b"extends: QUICK\nstudy_name: caf\xe9\n", "not valid YAML: .*invalid continuation byte"),
        (b"extends: QUICK\nseed: \0\n", "not valid YAML: .*special characters"),
        (b"extends: QUICK\nloss:\n\tt_min: 3\n", r"line 3, column 1: .*'\\t'"),
        (b"extends: QUICK\n---\nseed: 1\n", "single document"),
        (b"loss: &l {weighting: *l}\n", "more than 100,000 values"),
        (
            b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) if i else b"a0: &a0 [1]\n" for i in range(40)),
            "000",
        ),
        (b"a: " + b"[" * 1000, "nested too deeply"),
        (b"seed: !!timestamp 2026-05-01\n", "line 1, column 7: .*timestamp"),
        (b"seed: !!int abc\n", "the type that its tag"),
        (b"extends: QUICK\nloss.weighting: minsnr\n", "write each part of the key below the one before it"),
        (b"extends: QUICK\n1: x\n", "unknown key 1 in"),
        (b"extends: QUICK\n[a]: x\n", "unhashable key"),
        (b"extends: ''\n", "must be the path of one file"),
        (b"extends: mine.yaml\n", "circle"),
        (b"extends: QUICK\nloss: minsnr\n", "loss is a section. Its keys are loss.weighting, "),
        (b"extends: QUICK\nseed:\n", "seed = None"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, content: bytes, message: str) -> None:
    """Catches a traceback, an endless loop, and several lines in the parser's own words."""
    with pytest.raises(UserError, match=message) as refused:
        _of_file(tmp_path, content)
    assert "\n" not in str(refused.value)


def test_encodings_of_other_systems(tmp_path: Path) -> None:
    """A file with a byte order mark, and one in the UTF-16 of a PowerShell redirection. Catches a first key
    `\\ufeffextends`."""
    for encoding in ("utf-8-sig", "utf-16"):
        text = f"extends: {QUICK}\nstudy_name: é\n"
        assert _of_file(tmp_path, text.encode(encoding)).study_name == "é"


def test_a_link_that_goes_round(tmp_path: Path) -> None:
    """Catches the RuntimeError from a path that never resolves."""
    (tmp_path / "a.yaml").symlink_to("b.yaml")
    (tmp_path / "b.yaml").symlink_to("a.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_config(tmp_path / "a.yaml")


# --- sections ---


def test_an_empty_section_changes_nothing(tmp_path: Path) -> None:
    """Every key below is a comment. Tried in a file, in its parent, below a section, before an override, and in an
    experiment. Catches a section whose baseline values are all replaced by the defaults."""
    text = "extends: QUICK\nlogging:\n  # log_every_n_steps: 3\nmodel:\neval: {grid: , final: {}}\n"
    assert _of_file(tmp_path, text) == _config()
    changed = "--logging.log_every_n_steps=5"
    assert _of_file(tmp_path, text, changed, "--eval.grid.nfe=4") == _config(changed, "--eval.grid.nfe=4")
    (tmp_path / "child.yaml").write_text("extends: mine.yaml\nlogging: {log_every_n_steps: 5}\nmodel:\n")
    assert load_config(tmp_path / "child.yaml") == _config(changed)
    (tmp_path / "e6.yaml").write_text((ROOT / "reports/experiments/e6.yaml").read_text() + "\nwindows:\n  # early: x\n")
    assert load(str(tmp_path / "e6.yaml")) == load("e6")


@pytest.mark.parametrize("word", ["null", "None", "", "3", "offline", "[1]"])
def test_a_section_is_not_set_to_one_value(word: str) -> None:
    """Catches `--logging.wandb=null --logging.wandb.tags=[a]`, in which the first word silently resets the section."""
    with pytest.raises(UserError, match=r"logging\.wandb is a section\. Its keys are logging\.wandb\.mode, "):
        _config(f"--logging.wandb={word}", "--logging.wandb.tags=[a]")


# --- overrides ---


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("--out_dir=out/runs #2", Path("out/runs #2")),
        ("--logging.wandb.notes=fix #3", "fix #3"),
        ("--logging.wandb.notes=base: lr 1e-3", "base: lr 1e-3"),
        ("--logging.wandb.notes=[wip] {x}", "[wip] {x}"),
        ("--logging.wandb.notes='q'", "'q'"),
        ("--logging.wandb.notes=a=b", "a=b"),
        ("--logging.wandb.notes=~", "~"),
        ("--logging.wandb.notes=null", None),
        ("--logging.wandb.notes=None", None),
        ("--logging.wandb.run_name=2026-05-01", "2026-05-01"),
        ("--id=20260501", "20260501"),
        ("--id=1_1_1", "1_1_1"),
        ("--id=1e-4", "1e-4"),
        ("--study_name=no", "no"),
        ("--study_name=null", "null"),
        ("--data.root=2026", Path("2026")),
        ("--logging.wandb.tags=[2026, 1e-3, no, 'b #c']", ("2026", "1e-3", "no", "b #c")),
        ("--curvature.method=slq", ("slq",)),
        ("--curvature.method=['slq', 'lanczos']", ("slq", "lanczos")),
        ("--train.total_steps=2e1", 20),
        ("--train.total_steps=1_000", 1000),
        ("--seed=010", 10),
        ("--optim.lr=3e-3", 0.003),
        ("--ema.enabled=True", True),
        ("--ema.enabled=yes", True),
        ("--ema.enabled=off", False),
        ("--ema.enabled=1", True),
        ("--train.amp=bf16", "bf16"),
        ("--eval.recon.t_values=[1e1, 30]", (10, 30)),
        ("--data.subset=", None),
    ],
)
def test_what_stands_after_the_equals_sign(override: str, value: Any) -> None:
    """A key that takes text gets the word itself; another key gets the word's value. Catches a text cut at its `#`,
    dates, 111."""
    assert _value(_config(override), override[2:].partition("=")[0]) == value


def test_nulls_within_what_an_agent_writes() -> None:
    """Nested parameters come as a Python dictionary. Catches None as the text "None"."""
    cfg = _config("--logging={'wandb': {'notes': None, 'entity': 'None'}, 'log_every_n_steps': 3}")
    assert (cfg.logging.wandb.notes, cfg.logging.wandb.entity, cfg.logging.log_every_n_steps) == (None, "None", 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--optim.lr=nan", "optim.lr = 'nan' in .* finite"),
        ("--optim.lr=.inf", "optim.lr = inf in .* finite"),
        ("--optim.lr=-0.0", "greater than 0"),
        ("--train.total_steps=1e400", "finite"),
        ("--train.total_steps=99999999999999999999", "less than 2147483648"),
        (
            f"--train.total_steps={'1' * 5000}",
            r"is not a value: its number has thousands of digits",
        ),
        ("--eval.sample_seed=99999999999999999999", "eval.sample_seed"),
        ("--diffusion.T=1000000000", "diffusion.T"),
        ("--logging.wandb.finish_timeout_s=1e300", "finish_timeout_s"),
        ("--seed=1:30", "seed = '1:30'"),
        ("--seed=True", r"seed = true: .* \(in the command line \(--seed=True\)\)"),
        ("--eval.recon.t_values=[true, 3]", r"t_values = \[true, 3\]"),
        ("--logging.wandb.tags=a", r"a list, such as \[a, b\]"),
        ("--loss={t_min: 5, t_min: 6}", "the key t_min is there twice"),
        ("--loss={", "not valid YAML"),
        ("--seed", "is not an override"),
        ("seed=3", "is not an override"),
        ("--study_name=\udcff", "study_name"),
        ("--out_dir=a\udcff", "is not UTF-8"),
    ],
)
def test_values_that_are_refused(override: str, message: str) -> None:
    """Catches a traceback later on, a value that differs from the typed one, and 5000 digits in the message."""
    with pytest.raises(UserError, match=message) as refused:
        _config(override)
    assert len(str(refused.value)) < 400


def test_one_value_has_one_run() -> None:
    """Catches another run id for the same run because of `-0.0`, `3e-3` or a text of digits."""
    assert _config("--eval.grid.eta=-0.0").run_id == _config().run_id
    assert _config("--optim.lr=3e-3").run_id == _config("--optim.lr=0.003").run_id
    assert _config("--train.total_steps=2e1").run_id == _config("--train.total_steps=20").run_id


def test_text_keys_of_a_file(tmp_path: Path) -> None:
    """Text values are typed in the file without quotes. Catches a date, an integer in place of text, a tag `False`."""
    wandb_ = "{notes: 1e-4, run_name: 2026-05-01, tags: [1, no, 1.0, 2026-05-01], entity: ~}"
    cfg = _of_file(
        tmp_path, f"extends: QUICK\nid: 20260501\nstudy_name: 1_1_1\nout_dir: 010\nlogging: {{wandb: {wandb_}}}\n"
    )
    found = cfg.logging.wandb
    assert (cfg.id, cfg.study_name, cfg.out_dir) == ("20260501", "1_1_1", Path("010"))
    assert (found.notes, found.run_name, found.entity) == ("1e-4", "2026-05-01", None)
    assert found.tags == ("1", "no", "1.0", "2026-05-01")
    assert _of_file(tmp_path, cfg.to_yaml()) == cfg


# --- sweeps and filters ---


def test_the_points_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The points come from the sweep's file, from a server, and from the file that an agent writes. Catches 1e-4 as a
    text, `id` as a number."""
    (tmp_path / "s.yaml").write_text(
        "method: grid\nprogram: ddpm\nparameters:\n"
        "  optim.lr: {values: [1e-4]}\n  train.total_steps: {values: [2e1]}\n  id: {values: [20260501]}\n"
    )
    (point,) = points(read_sweep(tmp_path / "s.yaml"))
    assert point == {"optim.lr": 1e-4, "train.total_steps": 20.0, "id": 20260501}
    from_server = {"optim.lr": "1e-4", "train": {"total_steps": "2e1"}, "id": "20260501"}
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(tmp_path / "point.yaml"))
    (tmp_path / "point.yaml").write_text(
        "wandb_version: 1\noptim.lr: {value: 1e-4}\ntrain.total_steps: {value: 20}\nid: {value: 20260501}\n"
    )
    by_agent = ("--optim.lr=0.0001", "--train.total_steps=20.0", "--id=20260501")
    for values, overrides in itertools.product((point, from_server, sweep_point()), (by_agent, ())):
        cfg = _config(*overrides, point=values)
        assert (cfg.optim.lr, cfg.train.total_steps, cfg.id) == (1e-4, 20, "20260501")
        assert {"lr=0.0001", "total_steps=20"} <= set(cfg.logging.wandb.tags)
    (tmp_path / "point.yaml").write_text("wandb_version: 1\nstudy_name: {value: 1e-4}\n")
    assert _config(point=sweep_point()).study_name == "1e-4"
    (tmp_path / "point.yaml").write_text("a: [1\nb: 2\n")
    with pytest.raises(UserError, match=r"WANDB_SWEEP_PARAM_PATH.* not valid YAML: line 2") as refused:
        sweep_point()
    assert "\n" not in str(refused.value)


def test_bounds_of_a_sweep_are_numbers(tmp_path: Path) -> None:
    """`min: 1e-5` has no decimal point. Catches a refusal of what is a number in YAML 1.2."""
    text = "method: random\nrun_cap: 3\nprogram: ddpm\nparameters: {optim.lr: {distribution: log_uniform_values, "
    (tmp_path / "s.yaml").write_text(text + "min: 1e-5, max: 1e-3}}\n")
    assert all(1e-5 <= point["optim.lr"] <= 1e-3 for point in points(read_sweep(tmp_path / "s.yaml")))


def test_the_projects_files_mean_the_same_to_both_versions() -> None:
    """W&B's `wandb sweep` reads YAML 1.1. Catches a sweep file that its server would read differently."""
    files = [file for folder in ("configs", "sweeps", "reports") for file in (ROOT / folder).rglob("*.yaml")]
    assert len(files) > 50
    for file in files:
        assert read_yaml(file.read_bytes(), file) == yaml.safe_load(file.read_bytes()), file


@pytest.mark.parametrize(
    "where",
    [
        *("optim.lr=3e-3", "optim.lr=0.003", "optim.lr=.003", "train.total_steps=2e1", "train.total_steps=20"),
        *("logging.wandb.notes=fix #3: a", "id=20260501", "study_name=no", "data.subset=null", "ema.enabled=true"),
        *("logging.wandb.run_name=2026-05-01", "eval.recon.t_values=[10, 30]", "old.lr=1e-4", "seed = 1077"),
    ],
)
def test_filters_read_values_as_configs_do(where: str) -> None:
    """The filter is applied to a run whose config has the value. Catches "No runs" for 3e-3, and a filter that is cut
    at its `#`."""
    overrides = ["--optim.lr=3e-3", "--train.total_steps=20", "--id=20260501", "--study_name=no"]
    overrides += ["--logging.wandb.notes=fix #3: a", "--logging.wandb.run_name=2026-05-01"]
    overrides += ["--eval.recon.t_values=[10, 30]", "--eval.recon.enabled=false"]
    config = {**_config(*overrides).nested(), "old": {"lr": "1e-4"}}  # as a reader for YAML 1.1 had recorded it
    run = Run("r", "quick", 1077, config, pd.DataFrame(), Path("runs"))
    assert filtered([run], [where]) == [run]
    assert filtered([run], [where.partition("=")[0] + "=4e-3"]) == []


# --- paths ---


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder for one test."""
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    return tmp_path / "me"


def test_every_path_key_knows_the_home_folder(at: Path, tmp_path: Path) -> None:
    """Every config key with a path type, from the command line and from a file. Catches a folder named `~`, also for a
    new key, and a run id that changes with the home folder."""
    keys = [key for key, type_ in key_types().items() if "pathlib" in repr(type_)]
    assert {"out_dir", "cache_dir", "data.root"} <= set(keys)
    for key in keys:
        assert home(_value(_config(f"--{key}=~/x"), key)) == at / "x"
    assert _config("--out_dir=~/x").out_dir == _of_file(tmp_path, "extends: QUICK\nout_dir: ~/x\n").out_dir == at / "x"
    assert _config("--cache_dir=~").cache_dir == at
    for kept in ("data.root", "eval.features"):  # they count in the id, and are resolved on use
        assert str(_value(_config(f"--{kept}=~/x.pt"), kept)) == "~/x.pt"
    with pytest.raises(UserError, match=str(at / "x")):
        load_images("folder", Path("~/x"))
    with pytest.raises(UserError, match=str(at / "x.pt")):
        make_features("~/x.pt", torch.device("cpu"))


def test_every_path_option_knows_the_home_folder(at: Path) -> None:
    """Catches an option of any verb, also a new one, that reads paths in another way."""
    (verbs,) = (a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    kinds = {action.type for verb in verbs.choices.values() for action in verb._actions}
    assert path_argument in kinds and Path not in kinds
    assert path_argument("~/x") == at / "x"
    with pytest.raises(UserError, match="~/gone: there is no such folder"):
        sources.open_source("~/gone")
    with pytest.raises(UserError, match=str(at / "gone.yaml")):
        load("~/gone.yaml")


def test_the_cache_in_the_home_folder(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set by either variable, or by neither. Catches a folder named `~` beside the runs."""
    use_folder(None)
    monkeypatch.setenv("DDPM_CACHE", "~/c")
    assert cache_dir() == at / "c"
    monkeypatch.setenv("DDPM_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/x")
    assert cache_dir() == at / "x/ddpm"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_dir() == at / ".cache/ddpm"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "is not a path"),
        ("a\0b", "is not a path"),
        ("~nobody-here/x", r"no home folder of ~nobody-here\. A folder of that name is \./~nobody-here"),
        (f"a/{'é' * 128}/b", "256 bytes; 255 is the limit"),
    ],
)
def test_paths_that_are_none(path: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Given as a value and as an option. Catches the current folder in place of an unset variable, a RuntimeError, and
    an OSError in the middle of the work."""
    with pytest.raises(UserError, match=message):
        home(path)
    with pytest.raises(UserError, match=message):
        _config(f"--out_dir={path}")
    with pytest.raises(SystemExit, match="2"):
        main(["schedule", str(QUICK), f"--out={path}"])
    assert "argument --out" in capsys.readouterr().err


def test_a_run_folder_that_cannot_be_looked_at() -> None:
    """The whole path is too long; a folder of another user gives the same kind of error. Catches an OSError from
    `train`."""
    with pytest.raises(UserError, match="cannot be made: File name too long"):
        RunFolder(_config(f"--out_dir={'a/' * 3000}")).check()


# --- schedules ---


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_shortest_chain_of_each_schedule(name: str) -> None:
    """Every T from 2 is tried. Below the shortest T no chain can be made; from it on each one can, alpha_bar falls, and
    the config accepts it. Catches a ValueError from within the training, and a T that is refused although it works."""
    least = shortest_chain(name, 2)
    for T in [*range(2, 340), 1000, 1001, 20_000]:
        if least > T:
            with pytest.raises(ValueError, match="betas must lie"):
                from_betas(SCHEDULES[name](T))
            continue
        for terminal in (False, True) if T >= 25 else ():
            alpha_bar = make_schedule(name, T, zero_terminal_snr=terminal).alpha_bar
            assert bool((alpha_bar.diff() < 0).all()) and alpha_bar[0] < 1 and alpha_bar[-2] > 0
    smallest = max(least, 25)
    flags = (
        f"--diffusion.beta_schedule={name}",
        "--eval.final.nfe=5",
        "--eval.grid.nfe=5",
        "--eval.fid_milestone.nfe=5",
    )
    assert smallest == _config(*flags, f"--diffusion.T={smallest}").diffusion.T
    with pytest.raises(UserError, match=rf"diffusion\.T\b.* {smallest}"):
        _config(*flags, f"--diffusion.T={smallest - 1}")


def test_a_schedule_that_is_too_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback about a beta of 1.27 from `train` or `schedule`, and a half-made figure."""
    flags = ["--diffusion.T=100", "--diffusion.beta_schedule=cosine_match_linear"]
    for verb in (["train", str(QUICK), f"--out_dir={tmp_path}"], ["schedule", str(QUICK), f"--out={tmp_path}/s.png"]):
        assert main([*verb, *flags]) == 2
        assert "cosine_match_linear needs diffusion.T >= 300, and diffusion.T = 100" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- names ---


@pytest.mark.parametrize("letters", [115, 260])
def test_an_experiment_with_a_long_name(letters: int) -> None:
    """Catches artifacts that are never uploaded, and an OSError from a folder name."""
    with pytest.raises(
        UserError, match=rf"command line .* has {letters} characters and may have 98: .* W&B's artifacts"
    ):
        _config(f"--experiment={'a' * letters}")


def test_the_longest_names_are_w_and_bs(tmp_path: Path) -> None:
    """W&B's own client judges the longest accepted experiment, id, tag and project, and each with one more letter.
    Catches limits that differ from the client's, and an artifact name that grew."""
    assert (NAME_MAXLEN, 64) == (ARTIFACT_LETTERS, TAG_LETTERS)
    for key, longest in (("experiment", 98), ("id", 113)):
        cfg = _config(f"--{key}={'a' * longest}")
        wandb.Artifact(f"{cfg.run_id}-0f1e2d-samples", type="samples")
        with pytest.raises(ValueError, match="longer than 128"):
            wandb.Artifact(f"{cfg.run_id}a-0f1e2d-samples", type="samples")
        with pytest.raises(UserError, match=f"{key} = .* may have {longest}"):
            _config(f"--{key}={'a' * (longest + 1)}")
    seeded = _config(f"--experiment={'a' * 92}", "--seed=2147483647")
    assert len(seeded.run_id) == 113
    for tag, good in (("x" * TAG_LETTERS, True), ("x" * (TAG_LETTERS + 1), False), ("''", False)):
        _same_as_client("tags", f"[{tag}]", {"run_tags": [tag.strip("'")]}, good)
    for project in ("p" * PROJECT_LETTERS, "a b.c-d"):
        _same_as_client("project", project, {"project": project}, True)
    for project in ("p" * (PROJECT_LETTERS + 1), *(f"a{sign}b" for sign in "/\\#?%:")):
        _same_as_client("project", project, {"project": project}, False)


def _same_as_client(key: str, word: str, settings: dict[str, Any], good: bool) -> None:
    if good:
        wandb.Settings(**settings)
        assert _config(f"--logging.wandb.{key}={word}")
        return
    with pytest.raises((ValueError, wandb.errors.UsageError)):
        wandb.Settings(**settings)
    with pytest.raises(UserError, match=rf"logging\.wandb\.{key}.*command line.*W&B"):
        _config(f"--logging.wandb.{key}={word}")
