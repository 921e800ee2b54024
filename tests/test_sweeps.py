"""The files in sweeps/ are valid for W&B, and each of their points is a run that can be started."""

import json
from importlib.metadata import files
from pathlib import Path

import jsonschema
import pytest
import yaml

from ddpm.config.files import load_config
from ddpm.sweep.command import expand, parse_train
from ddpm.sweep.space import parse_sweep, points

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
SIZES = {
    "smoke": 8,
    "loss_schedule_steps": 12,
    "minsnr_gamma": 3,
    "seeds": 6,
    "nfe_frontier": 12,
    "findings": 8,
    "seed_parts": 8,
    "curvature_library": 30,
    "lr_bayes": 24,
}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_wandbs_own_schema_accepts_it(path: Path) -> None:
    """Checked with the schema from W&B's `sweeps` package. Catches a key that the server would warn of and ignore."""
    (schema,) = [file for file in files("sweeps") or () if file.name == "schema.json"]
    rules = json.loads(schema.read_text())
    rules["properties"]["run_cap"] = {
        "type": "integer",
        "exclusiveMinimum": 0,
    }  # as in 0.3.0, which needs numpy < 2
    errors = jsonschema.Draft7Validator(rules).iter_errors(yaml.safe_load(path.read_text()))
    assert not [error.message for error in errors]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_point_is_a_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has its intended number of points. Each has a valid config and its own run folder, and there are as many
    experiments as points without their seeds. Catches a renamed key, and arms that would be taken for one."""
    monkeypatch.chdir(ROOT)
    tree = yaml.safe_load(path.read_text())
    if tree["method"] == "bayes":
        tree |= {"method": "random"}  # draws from the same ranges
    sweep = parse_sweep(tree, path)
    configs, arms = [], set()
    for values in points(sweep):
        config, overrides = parse_train(sweep, expand(sweep, values))
        configs.append(load_config(config, overrides, values))
        arms.add(json.dumps({key: value for key, value in values.items() if key != "seed"}, sort_keys=True))
    assert len(configs) == SIZES[path.stem]
    assert len({cfg.run_dir for cfg in configs}) == len(configs)
    assert len({cfg.experiment for cfg in configs}) == len(arms)
    assert tree["project"] == configs[0].logging.wandb.project


def test_every_sweep_is_listed() -> None:
    assert {path.stem for path in SWEEPS} == set(SIZES)


def test_final_samplers_of_the_frontier_pass_their_known_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler that cannot reach a known answer at its NFE would stop its run at the start."""
    from ddpm.diffusion.schedule import make_schedule
    from ddpm.evaluation.sampler_check import try_sampler

    tree = yaml.safe_load((ROOT / "sweeps/nfe_frontier.yaml").read_text())["parameters"]
    for sampler in tree["eval.final.sampler"]["values"]:
        for nfe in tree["eval.final.nfe"]["values"]:
            assert try_sampler(make_schedule("linear", 1000), sampler, nfe, "linspace").passes, (sampler, nfe)
