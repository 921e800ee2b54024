"""A sweep file's points: the same as W&B's own code hands out, in the same order; their names; and what is refused."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args
from wandb.sdk.lib.config_util import save_config_file_from_dict

from ddpm.commands.cli import main
from ddpm.config.files import load_config, sweep_point
from ddpm.errors import UserError
from ddpm.sweep.command import expand, parameter_file
from ddpm.sweep.distributions import DISTRIBUTIONS, complete, quantile
from ddpm.sweep.jobs import plan
from ddpm.sweep.space import count_points, parse_sweep, points, read_sweep
from wandb_standin import SweepRecord

ROOT = Path(__file__).parents[2]
E5 = str(ROOT / "configs/smoke/e5.yaml")
COMMAND = ["${env}", "${program}", "train", E5, "${args}"]
GRIDS: list[dict[str, Any]] = [
    {"b.x": {"values": [3, 1]}, "a": {"values": ["u", "v"]}, "c": {"value": 5}},
    {"seed": {"values": [1, 2, 1]}, "loss.weighting": {"values": ["minsnr", "constant"]}},  # one value twice
    {"n": {"min": 2, "max": 4}, "m": {"distribution": "q_uniform", "min": 0, "max": 5, "q": 2}},
]


def _sweep(parameters: dict[str, Any], **more: Any) -> Any:
    tree = {"method": "grid", "program": "ddpm", "command": COMMAND, "parameters": parameters, **more}
    return parse_sweep(tree, Path("sweeps/test.yaml"))


@pytest.mark.parametrize("parameters", GRIDS)
def test_a_grid_is_gone_through_as_wandb_does(parameters: dict[str, Any]) -> None:
    """Compared with W&B's `sweeps` package, point by point. Catches another order, and values that are repeated or left
    out."""
    package = pytest.importorskip("sweeps")
    config, runs = {"method": "grid", "parameters": parameters}, []
    while (run := package.next_run(config, runs)) is not None:
        runs.append(run)
    theirs = [{key: entry["value"] for key, entry in run.config.items()} for run in runs]
    assert list(points(_sweep(parameters))) == theirs
    assert count_points(_sweep(parameters)) == len(theirs)


def test_a_grid_is_gone_through_as_the_stand_in_does() -> None:
    """Also with nested parameters and `run_cap`. Catches two enumerations in this repository that disagree."""
    nested = {"loss": {"parameters": {"minsnr_gamma": {"values": [1, 5]}, "weighting": {"value": "minsnr"}}}}
    for parameters, cap in ((GRIDS[0], {}), (nested | {"seed": {"values": [1, 2]}}, {}), (GRIDS[0], {"run_cap": 3})):
        record = SweepRecord("study", "p", "s", {"method": "grid", "parameters": parameters, **cap}, "")
        while (point := record.next_point()) is not None:
            record.runs.append({"args": point})
        assert list(points(_sweep(parameters, **cap))) == [run["args"] for run in record.runs]


@pytest.mark.parametrize("kind", sorted(DISTRIBUTIONS))
def test_quantiles_are_wandbs(kind: str) -> None:
    """Every distribution at nine places, compared with the `sweeps` package. Catches swapped ends, a missing exponent,
    and a wrong q."""
    params = pytest.importorskip("sweeps.params")
    low, high = (0.5, 20.0) if kind.endswith("_values") else (-1.0, 2.0)
    spec: dict[str, Any] = {"distribution": kind}
    spec |= {key: {"min": low, "max": high}.get(key) for key in DISTRIBUTIONS[kind][1]}
    spec |= {"mu": 0.3, "sigma": 0.7} if "normal" in kind else {}
    spec |= {"q": 0.25} if kind.startswith("q_") else {}
    spec |= {"min": 2, "max": 6} if kind == "int_uniform" else {}
    spec |= {
        key: value for key, value in (("values", ["a", "b", "c"]), ("probabilities", [0.2, 0.5, 0.3])) if key in spec
    }
    spec |= {"value": 7} if kind == "constant" else {}
    theirs = params.HyperParameter("x", spec)
    for u in (0.001, 0.1, 0.24, 0.4, 0.5, 0.61, 0.75, 0.9, 0.999):
        want = theirs.ppf(u)
        got = quantile(complete("x", spec), u)
        assert got == (want if isinstance(want, str | int) else pytest.approx(float(want), rel=1e-9)), u


def test_random_points_are_the_same_again_and_spread() -> None:
    """The points are equal in a second call and when more are drawn. Another range gives other points, and all values
    occur. Catches a state that points share, and a seed that does not come from the file."""
    ranges = {
        "optim.lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
        "seed": {"min": 0, "max": 3},
    }
    sweep = _sweep(ranges, method="random")
    first = list(points(sweep, 200))
    assert first == list(points(sweep, 200)) and first[:5] == list(points(sweep, 5))
    assert list(points(_sweep(ranges, method="random", run_cap=3))) == first[:3]
    assert all(1e-5 <= p["optim.lr"] <= 1e-3 for p in first)
    # Half of the draws lie below the geometric middle: 100 of 200, plus or minus three standard deviations of 7.
    assert abs(sum(p["optim.lr"] < 1e-4 for p in first) - 100) < 22
    assert set(Counter(p["seed"] for p in first)) == {0, 1, 2, 3}
    other = _sweep(ranges | {"seed": {"min": 0, "max": 4}}, method="random")
    assert [p["optim.lr"] for p in points(other, 5)] != [p["optim.lr"] for p in first[:5]]


def test_command_and_parameter_file_are_the_agents(tmp_path: Path) -> None:
    """Compared with the client's own functions, for values of every type. Catches another spelling of None, lists or
    floats."""
    values = {
        "loss.weighting": "minsnr",
        "optim.lr": 1e-05,
        "data.subset": None,
        "ema.enabled": False,
        "t": [1, 2],
        "ü": "é",
    }
    args = {key: {"value": value} for key, value in values.items()}
    flags = create_sweep_command_args({"args": args})["args"]
    assert expand(_sweep({"seed": {"value": 1}}), values) == ["/usr/bin/env", "ddpm", "train", E5, *flags]
    save_config_file_from_dict(str(tmp_path / "theirs.yaml"), args)
    assert parameter_file(values) == (tmp_path / "theirs.yaml").read_text(encoding="utf-8")


def test_what_the_agent_writes_for_null_is_null() -> None:
    """`--data.subset=None` on the command line. Catches the text "None" as a value."""
    assert load_config(Path(E5), ["--data.subset=None"]).data.subset is None


# --- names ---


def _named(point: dict[str, Any], *overrides: str) -> Any:
    return load_config(Path(E5), overrides, point)


def test_a_point_says_what_it_is() -> None:
    """Experiment and tags hold each swept key, shortened as far as it stays unique. Seeds share the experiment, and no
    display name covers several runs. Catches points that reports would take for seeds of one arm."""
    cfg = _named({"seed": 3, "eval.final.nfe": 20, "loss.weighting": "minsnr", "logging.wandb.notes": "why"})
    assert cfg.experiment == "e5-final.nfe_20-weighting_minsnr"
    assert cfg.logging.wandb.tags[-3:] == ("final.nfe=20", "weighting=minsnr", "seed=3")
    assert cfg.logging.wandb.run_name is None
    other = _named({"seed": 4, "eval.final.nfe": 20, "loss.weighting": "minsnr"})
    assert other.experiment == cfg.experiment and other.run_id != cfg.run_id
    assert _named({"experiment": "mine", "seed": 3}).experiment == "mine"
    assert _named({"loss.weighting": "p2"}, "--experiment=base").experiment == "base-weighting_p2"


def test_one_number_has_one_name() -> None:
    """5, 5.0 and "5" give one name, and so do 1e-4 as YAML's text and as a number. Catches a second arm when a server
    sends 5 for 5.0."""
    assert len({_named({"loss.minsnr_gamma": v}).experiment for v in (5, 5.0, "5", "5.0")}) == 1
    assert len({_named({"optim.lr": v}).experiment for v in ("1e-4", 1e-4, 0.0001)}) == 1


TYPED = {  # key: its Python values, and the forms that a sweep file, a server or an agent's command line may give them
    "data.shuffle": {False: (False, "False", "false", "FALSE"), True: (True, "True", "true")},
    "data.subset": {None: (None, "None", "null", "NULL", ""), 300: (300, "300", "3e2", 300.0)},
    "optim.lr": {1e-4: (1e-4, "1e-4", "0.0001"), 2.0: (2, 2.0, "2", "2.0")},
    "train.grad_clip": {None: (None, "None", "null"), 0.5: (0.5, "0.5", ".5")},
    "train.amp": {False: (False, "False"), "bf16": ("bf16",)},
    "eval.accept_sampler_error": {("ddpm",): (["ddpm"],), (): ([],)},
    "eval.recon.t_values": {(10, 500): ([10, 500], "[10, 500]")},
    "loss.weighting": {"p2": ("p2",)},
    "eval.reference_stats": {None: (None,)},
    "study_name": {"False": ("False",), "5": (5, "5"), "1e-4": ("1e-4",), "None.": ("None.",)},  # text stays text
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in TYPED.items() for value in values])
def test_a_points_value_has_the_keys_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: object
) -> None:
    """A value may be written in many forms: in the point, in an agent's parameter file, on the command line. All forms
    give one value with one type, one run, one name. Catches `False` read as the text "False" (and so true, or another
    arm), a number or null read as text, and text read as a number."""

    def found(cfg: Any) -> tuple[Any, str, tuple[str, ...]]:
        at: Any = cfg
        for part in key.split("."):
            at = getattr(at, part)
        return at, cfg.run_id, cfg.logging.wandb.tags

    seen = []
    path = tmp_path / "point.yaml"
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(path))
    for written in TYPED[key][value]:
        seen.append(found(_named({key: written})))
        path.write_text(parameter_file({key: written}))
        seen.append(found(_named(sweep_point())))
        (word,) = (word for word in expand(_sweep({key: {"value": written}}), {key: written}) if word.startswith("--"))
        seen.append(found(_named({key: written}, word)))  # otherwise it reports that something else decides the key
        assert found(load_config(Path(E5), [word]))[0] == value
    for one, run_id, tags in seen:
        assert one == value and type(one) is type(value), seen
        assert (run_id, tags) == seen[0][1:], seen


def test_no_two_points_share_a_name() -> None:
    """Values differ in characters that a name cannot hold, or only beyond the longest name, or they imitate a key."""
    lists = [[10, 500], [105, 0], [1, 0, 500], [10, 50, 0]]
    names = [_named({"eval.recon.t_values": v, "eval.recon.enabled": False}).experiment for v in lists]
    tricky = ["a/b", "a-b", "a_b", "a b", "a", "a-weighting_b"]
    names += [_named({"study_name": v, "loss.weighting": "p2"}).experiment for v in tricky]
    names += [_named({"study_name": "x" * 200 + end}).experiment for end in "ab"]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 80 for name in names)
    tags = [tag for end in "ab" for tag in _named({"study_name": "x" * 200 + end}).logging.wandb.tags]
    assert max(map(len, tags)) <= 64


# --- bad input ---

GOOD = {"method": "grid", "program": "ddpm", "command": COMMAND, "parameters": {"seed": {"values": [1, 2]}}}
MANY = {f"eval.{name}.n_samples": {"min": 1000, "max": 1099} for name in ("grid", "final", "fid_milestone")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"loss.weight": {"values": ["p2"]}}}, "unknown key loss.weight"),
        ({"parameters": {"seed": {"values": [1, "two"]}}}, "seed = two: seed = 'two'"),
        ({"parameters": {"eval.final.nfe": {"values": [50, 2000]}}}, "exceeds diffusion.T"),
        ({"parameters": {"seed": {"values": []}}}, "seed has no values"),
        ({"parameters": {}}, "no parameter"),
        ({"parameters": {"seed": 3}}, "must hold `values:`"),
        ({"parameters": {"seed": {"vales": [1]}}}, "has no values"),
        ({"parameters": {"seed": {"values": [1], "q": 2}}}, "does not know q"),
        ({"parameters": MANY}, "has 1,000,000 points. Add --yes"),
        ({"program": None}, "there is no `program:`"),
        ({"program": "not/there/ddpm"}, "the program not/there/ddpm is not there"),
        ({"program": "ls"}, "is not `ddpm train CONFIG"),
        ({"command": ["${env}", "${program}", "train", "${args}"]}, "is not `ddpm train CONFIG"),
        ({"command": ["${env}", "${program}", "train", "gone.yaml", "${args}"]}, "no config file gone.yaml"),
        ({"command": [*COMMAND, "${args_json}"]}, "${args_json} in its command is not known"),
        ({"command": [*COMMAND, "--out_dir=${envvar:UNSET}"]}, "UNSET is not set"),
        ({"command": [*COMMAND, "--clean_run=true"]}, "clean_run"),
        ({"command": [*COMMAND, "--id=one"]}, "two points have the same id one, and"),
        ({"method": "bayes"}, "wandb agent ID"),
        ({"method": "random"}, "--count 20"),
        ({"method": "random", "run_cap": 0}, "run_cap = 0"),
        ({"method": "random", "run_cap": 2, "parameters": {"seed": {"distribution": "beta"}}}, "q_log_normal"),
        ({"method": "random", "run_cap": 2, "parameters": {"optim.lr": {"min": "low", "max": 1.0}}}, "needs numbers"),
        ({"method": "random", "run_cap": 2, "parameters": {"optim.lr": {"min": 2.0, "max": 1.0}}}, "needs min < max"),
        ({"parameters": {"optim.lr": {"min": 0.1, "max": 1.0}}}, "A grid cannot enumerate the parameter optim.lr"),
        ({"methd": "grid"}, "Did you mean method?"),
    ],
)
def test_bad_input_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: dict, message: str
) -> None:
    """Each gives one paragraph and exit code 2 before a process starts or a file is written, also if only the last
    point is bad."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subprocess.Popen", None)
    tree = {key: value for key, value in (GOOD | change).items() if value is not None}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(tree))
    assert main(["sweep", "bad.yaml"]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_points_that_are_the_same_run_are_run_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A key that changes no row makes no new run. Catches two processes for one run folder."""
    sweep = _sweep({"data.num_workers": {"values": [1, 2]}, "seed": {"values": [1, 2]}})
    assert [job.cfg.seed for job in plan(sweep, None, [], Path("logs"))] == [1, 2]
    assert "2 of 4 points" in capsys.readouterr().out


def test_ten_thousand_points_are_planned_in_seconds() -> None:
    """100 points are planned and validated, 10,001 are listed, and 10,001 are refused by number. Catches files that are
    read again for each point. (Here 100 points take 0.1 s.)"""
    sweep = _sweep({"seed": {"min": 0, "max": 99}})
    jobs = plan(sweep, None, [], Path("logs"))
    assert len({job.cfg.run_dir for job in jobs}) == 100
    with pytest.raises(UserError, match="10,001 points"):
        plan(_sweep({"seed": {"min": 0, "max": 10_000}}), None, [], Path("logs"))
    assert len(list(itertools.islice(points(_sweep({"seed": {"min": 0, "max": 10_000}})), 10_001))) == 10_001


def test_the_step_of_a_run_that_is_being_written(tmp_path: Path) -> None:
    """The step is read from the end of `loss.jsonl`, although the last row is cut and the first one is long. Catches
    progress that stays 0."""
    job = plan(_sweep({"seed": {"value": 1}}), None, [f"--out_dir={tmp_path}"], tmp_path)[0]
    assert job.step == 0
    job.cfg.run_dir.mkdir(parents=True)
    rows = [{"_i": 0, "out": {"curve": list(range(20_000))}}, {"_i": 90, "out": {}}, {"_i": 180, "out": {}}]
    text = "\n".join(json.dumps(row) for row in rows)
    (job.cfg.run_dir / "loss.jsonl").write_text(text[: text.rindex("180")])
    assert job.step == 90


def test_nothing_else_decides_a_swept_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line sets another value than the point, or the parameter file is cut short. Catches runs that carry
    the name of another point."""
    smoke = Path(__file__).parents[2] / "configs/smoke/e5.yaml"
    point = {"loss.weighting": "minsnr", "optim.lr": 0.001}
    same = load_config(smoke, ["--optim.lr=1e-3", "--out_dir=x"], point)  # as in an agent's ${args}
    assert (same.optim.lr, same.loss.weighting) == (0.001, "minsnr")
    with pytest.raises(UserError, match=r"loss\.weighting is swept, and the command line .* sets it to p2"):
        load_config(smoke, ["--loss.weighting=p2"], point)
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(tmp_path / "point.yaml"))
    for content in (b"", b"loss.weighting: {value: p2}\n", b"a: [1\nb: {", b"wandb_version: 1\na: \xff"):
        (tmp_path / "point.yaml").write_bytes(content)
        with pytest.raises(UserError, match=r"\A.*PARAM_PATH\).* Start the agent again\.\Z"):  # and in one line
            sweep_point()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"distribution": ["uniform"], "min": 0, "max": 1}, "has the distribution"),
        ({"values": [1, 2], "probabilities": 3}, "as many as its values"),
        ({"values": [1, 2], "probabilities": [-1, 2]}, "as many as its values"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 3.5}, "whole numbers"),
        ({"distribution": "log_uniform", "min": 0, "max": 10000}, "log_uniform_values"),
    ],
)
def test_odd_parameters_are_refused_in_words(spec: dict[str, Any], said: str) -> None:
    """Catches tracebacks from inside a distribution."""
    with pytest.raises(UserError, match=said):
        complete("p", spec)


def test_counting_writes_nothing_out(tmp_path: Path) -> None:
    """Catches a list of 10^10 numbers that is built before so many points are refused."""
    (tmp_path / "s.yaml").write_text(
        "method: grid\nprogram: ddpm\nparameters: {seed: {min: 0, max: 9999999999}}\n"
        "command: ['${program}', train, configs/smoke/e5.yaml, '${args}']\n"
    )
    assert count_points(read_sweep(tmp_path / "s.yaml")) == 10**10
