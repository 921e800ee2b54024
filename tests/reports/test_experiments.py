"""Experiments as data."""

import fnmatch
import re
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from pydantic import ValidationError

from ddpm.config.files import load_config
from ddpm.config.run import Config, flatten
from ddpm.config.stored import differences
from ddpm.errors import UserError
from reports import experiments
from reports.experiments import Study, load, names
from reports.experiments.selection import is_label, show
from reports.figures import FIGURES


@pytest.mark.parametrize("name", names())
def test_every_experiment_loads_and_names_real_figures(name: str) -> None:
    """Catches a typo in a YAML file that only a request for that report would find."""
    study = load(name)
    assert study.name == name
    assert study.figures and set(study.figures) <= set(FIGURES)


def _configs(pattern: str) -> dict[str, Config]:
    files = sorted((Path(__file__).parents[2] / "configs").glob(pattern))
    return {cfg.experiment: cfg for cfg in map(load_config, files)}


STUDY, RERUN = _configs("study/*/e*/*.yaml"), _configs("findings/*.yaml")


def _configs_of(study: Study) -> dict[str, Config]:
    """The study's configs, or those of the reruns for arms that the study did not have."""
    return STUDY if set(study.arms) <= set(STUDY) else RERUN


@pytest.mark.parametrize("name", names())
def test_the_arms_have_configs_that_differ_in_what_is_declared(name: str) -> None:
    """Every arm can be trained, and differs from the baseline only in declared keys. Catches a config that extends the
    wrong file, and a question that the runs cannot answer."""
    study = load(name)
    configs = _configs_of(study)
    baseline = configs[study.baseline]
    for arm in study.arms:
        changed = [d.split(" was ")[0] for d in differences(baseline.nested(), configs[arm].nested())]
        changed.remove("experiment") if arm != study.baseline else None
        changed = [key for key in changed if not is_label(key)]
        assert bool(changed) == (arm != study.baseline)
        assert all(any(fnmatch.fnmatch(key, glob) for glob in study.difference) for key in changed), changed


@pytest.mark.parametrize("name", names())
def test_the_arms_configs_are_what_the_experiment_says_of_them(name: str) -> None:
    """Catches a `where` value that the arm's own config does not have, so that all its runs are left out. Also catches
    a comparison of weightings that does not say which arm has which."""
    study = load(name)
    for experiment, conditions in study.where.items():
        config = flatten(_configs_of(study)[experiment].nested())
        for condition in conditions:
            key, value = condition.split("=")
            assert show(config, key) == show({key: yaml.safe_load(value)}, key)
    if "loss.*" in study.difference:
        assert set(study.where) >= set(study.arms)


def test_the_documented_experiment_can_be_run(tmp_path: Path) -> None:
    """The three files of docs/reports.md work exactly as printed there. Catches a page that has fallen behind the
    code."""
    root = Path(__file__).parents[2]
    page = (root / "docs/reports.md").read_text().split("## An experiment of your own")[1].split("\n## ")[0]
    blocks = [dedent(block) for block in re.findall(r"(?:^ {4}.*\n)+", page, flags=re.MULTILINE)]
    (tmp_path / "configs/mine").mkdir(parents=True)
    (tmp_path / "configs/smoke").symlink_to(root / "configs/smoke")
    for name, text in zip(("e5", "mine", "report"), blocks, strict=False):
        (tmp_path / f"configs/mine/{name}.yaml").write_text(text)
    baseline, mine = (load_config(tmp_path / f"configs/mine/{name}.yaml") for name in ("e5", "mine"))
    study = load(str(tmp_path / "configs/mine/report.yaml"))
    assert study.arms == {baseline.experiment: "baseline", mine.experiment: "variant"} and study.criteria
    assert set(study.figures) <= set(FIGURES)
    changed = {text.split(" was ")[0] for text in differences(baseline.nested(), mine.nested())}
    assert changed == {"experiment", "loss.weighting"}
    assert all(f"ddpm train configs/mine/{name}.yaml" in blocks[3] for name in ("e5", "mine"))


def test_e6_is_compared_with_e5() -> None:
    """Catches swapped baseline and variant, which would reverse every sign."""
    study = load("e6")
    assert study.arms == {"e5": "baseline", "e6": "variant"}
    assert study.baseline == "e5" and study.context == ("e1",) and study.difference == ("loss.*",)
    assert set(study.figures) == set(FIGURES)


def test_e9_names_an_arm_in_every_check_and_compares_the_neutral_trace() -> None:
    """Catches a check about `e9`, which is no arm, and a trace of another function under each schedule."""
    study = load("e9")
    assert study.arms == {"e5": "baseline", "e6": "variant", "e9a": "variant", "e9b": "variant"}
    checks = [check for claim in study.criteria for check in claim.checks]
    assert {check.arm for check in checks} == {"e6", "e9a", "e9b"}
    assert {check.metric for check in checks} == {"curvature/neutral_trace_mean", "val/fid"}


def test_means_over_timesteps_are_not_compared_across_schedules(tmp_path: Path) -> None:
    """The error names the metric, of losses and traces alike, and the neutral one. Within one schedule, and for a
    single arm's own trace, all is as before. Catches a criterion that asks for another function under each schedule,
    and a check that refuses e6's own."""
    text = (Path(__file__).parents[2] / "reports/experiments/e6.yaml").read_text()
    assert load("e6").criteria[1].checks[0].metric == "curvature/ref_trace_mean"
    for glob in ("diffusion.*", "diffusion.T", "*"):
        (tmp_path / "mine.yaml").write_text(text.replace("difference: [loss.*]", f'difference: [loss.*, "{glob}"]'))
        with pytest.raises(UserError, match=r"no experiment.*curvature/hutch_trace_mean.*curvature/neutral_trace_mean"):
            load(str(tmp_path / "mine.yaml"))
    own = text.replace("difference: [loss.*]", "difference: [diffusion.*]").replace("of: change_pct", "of: value")
    for metric in ("curvature/hutch_trace_mean", "curvature/ref_trace_mean", "train/mse"):
        one = own.replace(f"{{metric: {metric}, of: value", f"{{metric: {metric}, of: change_pct")
        (tmp_path / "mine.yaml").write_text(one)
        with pytest.raises(UserError, match=rf"no experiment.*{metric}.*curvature/neutral_trace_mean"):
            load(str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text(own)
    assert load(str(tmp_path / "mine.yaml")).name == "e6"


def test_an_unknown_name_gets_the_nearest() -> None:
    """Catches a KeyError or file error for a misspelt experiment."""
    with pytest.raises(UserError, match=r"`e66`.*Did you mean e6.*: e1, .*e5, e6,"):
        load("e66")


def test_a_stem_or_an_arm_finds_its_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """e7 is e7a, e7b and e7c; e13 is an arm of e14 alone. A report's own name goes first: e5 is also an arm of e6.
    Catches a question back for what has one answer, a guess for what has two, and e1 taken for e10."""
    assert (load("e7").name, load("e7c").name, load("e13").name, load("e5").name) == ("e7a", "e7a", "e14", "e5")
    for name in ("e", "e7ab", "7a", "e.", "e1[0]", "e66"):
        with pytest.raises(UserError, match="There is no experiment"):
            load(name)
    twin = load("e7a").model_copy(update={"arms": {"e10b": "baseline", "e7c": "variant"}})
    whole = experiments._packaged
    monkeypatch.setattr(experiments, "_packaged", lambda name: twin if name == "e10b" else whole(name))
    assert load("e7").name == "e7a"
    with pytest.raises(UserError, match=r"no experiment `e7c`. It could be one of: e10b, e7a\."):
        load("e7c")


@pytest.mark.parametrize(
    "wrong",
    [{"arms": {"a": "variant"}}, {"arms": {"b": "baseline"}}, {"figure": []}, {"where": {"b": ["seed=1"]}}],
)
def test_wrong_studies_are_refused(wrong: dict[str, object]) -> None:
    """Catches studies without a baseline, without their own experiment, with a misspelt key, or with conditions on an
    arm that they lack."""
    values: dict[str, object] = {"name": "a", "title": "t", "question": "q", "arms": {"a": "baseline"}}
    values |= {"figures": []}
    Study.model_validate(values)
    check = {"metric": "val/fid", "at_most": 1}
    of_b = {"name": "both", "arms": {"a": "baseline", "b": "variant"}}
    Study.model_validate(values | of_b | {"criteria": [{"says": "s", "checks": [check | {"arm": "b"}]}]})
    with pytest.raises(ValidationError, match="must name its arm"):
        Study.model_validate(values | of_b | {"criteria": [{"says": "s", "checks": [check]}]})
    with pytest.raises(ValidationError):
        Study.model_validate(values | wrong)
