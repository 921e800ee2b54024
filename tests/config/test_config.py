"""Configuration: merging, typing, and errors that name the key."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from ddpm.config.files import load_config
from ddpm.config.run import decisive
from ddpm.config.stored import differences
from ddpm.errors import UserError

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "configs/study/MS1_min_snr"
E5 = STUDY / "e5/e5_baseline_linear_hutch_trace_10k_50nfe.yaml"
E6 = STUDY / "e6/e6_minsnr_linear_hutch_trace_10k_50nfe.yaml"
E1 = STUDY / "e1/e1_baseline_linear_full_50k_50nfe.yaml"


def _differences(a: dict, b: dict, prefix: str = "") -> set[str]:
    keys = set()
    for key in a.keys() | b.keys():
        if isinstance(a.get(key), dict):
            keys |= _differences(a[key], b[key], f"{prefix}{key}.")
        elif a.get(key) != b.get(key):
            keys.add(prefix + key)
    return keys


def _file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_studys_settings() -> None:
    """E5 has the settings that the study documents state. Catches an edit of the base file that changes the study."""
    e5 = load_config(E5)
    assert (e5.data.dataset, e5.data.batch_size, e5.diffusion.beta_schedule, e5.diffusion.T) == (
        "cifar10",
        4,
        "linear",
        1000,
    )
    assert (e5.model.base_channels, e5.optim.lr, e5.train.grad_clip, e5.ema.decay) == (32, 1e-4, 1.0, 0.999)
    assert (e5.train.total_steps, e5.train.amp, e5.loss.weighting, e5.seed) == (
        10_000,
        True,
        "constant",
        1077,
    )
    assert (e5.curvature.enabled, e5.curvature.probes, e5.logging.log_every_n_steps) == (True, 16, 100)
    fid = e5.eval.fid_milestone
    assert (fid.every, fid.sampler, fid.nfe, fid.n_samples, e5.eval.final.n_samples) == (
        2000,
        "ddpm",
        50,
        5000,
        10_000,
    )


def test_each_experiment_differs_only_in_what_it_is_about() -> None:
    labels = {"experiment", "logging.wandb.run_name", "logging.wandb.tags", "logging.wandb.notes"}
    e5 = load_config(E5).nested()
    assert _differences(e5, load_config(E6).nested()) == labels | {"loss.weighting"}
    assert _differences(e5, load_config(E1).nested()) == labels | {
        "train.total_steps",
        "curvature.enabled",
        "eval.fid_milestone.every",
    }
    smoke = [load_config(ROOT / f"configs/smoke/{e}.yaml").nested() for e in ("e5", "e6")]
    assert _differences(*smoke) == (labels - {"logging.wandb.notes"}) | {"loss.weighting"}


def test_a_config_from_before_a_key_is_the_same_config() -> None:
    """A stored config without the newer keys means their defaults; its run keeps the same id.

    Catches an old run that counts as another run, or that cannot be compared.
    """
    now = load_config(E5, ["--eval.recon.enabled=false"])
    stored = now.nested()
    for key in ("t_min", "t_max"):
        del stored["loss"][key]
    for key in ("every", "per_draw", "seed", "batch_size", "weights", "exact", "chunk", "lanczos_steps", "slq_starts"):
        del stored["curvature"][key]
    for key in ("recon", "kid", "prdc", "reference_stats"):
        del stored["eval"][key]
    for key in ("grid", "fid_milestone", "final"):
        del stored["eval"][key]["t_start"]
    del stored["cache_dir"], stored["data"]["hold_out"], stored["seeds"]
    assert differences(stored, now.nested()) == []
    cut = load_config(E5, ["--eval.recon.enabled=false", "--loss.t_max=50"])
    assert differences(stored, cut.nested()) == ["loss.t_max was None, is 50"]
    older = {key: value for key, value in decisive(stored).items() if key != "seed"}
    digest = hashlib.sha256(json.dumps(older, sort_keys=True).encode()).hexdigest()[:8]
    assert now.run_id == f"e5-s1077-{digest}"
    assert len({now.run_id, cut.run_id, load_config(E5).run_id}) == 3


def test_later_wins_and_nothing_else_moves(tmp_path: Path) -> None:
    """The order is extends < file < command line, merged key by key."""
    _file(
        tmp_path,
        "root.yaml",
        "experiment: a\ndata: {dataset: embedded, batch_size: 8, num_workers: 5}\nseed: 1\n",
    )
    leaf = _file(tmp_path, "leaf.yaml", "extends: root.yaml\ndata: {batch_size: 16}\noptim: {lr: 1e-3}\n")
    cfg = load_config(leaf, ["--seed=3", "--loss.weighting=minsnr", "--train.grad_clip=null"])
    assert (cfg.experiment, cfg.data.batch_size, cfg.data.num_workers, cfg.seed) == ("a", 16, 5, 3)
    assert (cfg.optim.lr, cfg.loss.weighting, cfg.train.grad_clip) == (1e-3, "minsnr", None)


def test_the_resolved_config_reads_back_equal(tmp_path: Path) -> None:
    cfg = load_config(E6, ["--train.amp=bf16"])
    assert load_config(_file(tmp_path, "again.yaml", cfg.to_yaml())) == cfg
    assert yaml.safe_load(cfg.to_yaml())["train"]["amp"] == "bf16"


def test_run_ids_tell_runs_apart() -> None:
    """The original's ids left out the loss and collided. The run's place and names do not change the id."""
    base = load_config(E5)
    others = [
        load_config(E5, [o]) for o in ("--loss.weighting=minsnr", "--seed=1", "--eval.final.nfe=20", "--data.subset=9")
    ]
    assert len({base.run_id, *(o.run_id for o in others)}) == 5
    same = load_config(E5, ["--out_dir=elsewhere", "--logging.wandb.project=p", "--clean_run=true", "--device=cpu"])
    assert same.run_id == base.run_id


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--loss.weigthing=minsnr", r"unknown key loss\.weigthing.*command line.*loss\.weighting"),
        ("--batch_size=4", r"unknown key batch_size.*Did you mean data\.batch_size"),
        ("--data.batch_size=four", r"data\.batch_size = 'four'.*integer"),
        ("--loss.weighting=minsrn", r"loss\.weighting = 'minsrn'.*'constant', 'snr', .*\. Did you mean minsnr\?$"),
        ("--train.amp=bf61", r"train\.amp = 'bf61'.*'bf16' or 'fp16'\. Did you mean bf16\?$"),
        ("--curvature.method=[slq, hutch]", r"curvature\.method = 'hutch'.*Did you mean hutchpp\?$"),
        ("--eval.features=embeded", r"eval\.features = embeded is not one of.*\. Did you mean embedded\?"),
        ("--train.amp=perhaps", r"train\.amp = 'perhaps'.*boolean.*'bf16' or 'fp16'"),
        ("--train.total_steps=0", r"train\.total_steps = 0.*greater than or equal to 1"),
        ("--curvature.probes=1", r"curvature\.probes = 1"),
        ("--eval.fid_milestone.nfe=1001", r"nfe = 1001 exceeds diffusion\.T = 1000"),
        ("--diffusion.zero_terminal_snr=true", r"set diffusion\.prediction to v or x0"),
        ("--eval.final.spacing=odd", r"'linspace', 'leading' or 'trailing'"),
        ("--eval.accept_sampler_error=[euler]", r"accept_sampler_error.*'ddpm'"),
        ("--eval.final.eta=0.5", r"eta = 0\.5 is for ddim only, not ddpm"),
        ("--data.root=null", r"needs data\.root"),
        ("--data.hold_out=5", r"data\.hold_out = 5 is for data\.dataset = folder: cifar10 has a test split"),
        ("--data.hold_out=-1", r"data\.hold_out = -1"),
        ("--ema.enabled=false", r"eval\.weights = live"),
        ("--model.gn_groups=5", r"gn_groups = 5 must divide model\.base_channels = 32"),
        ("--loss.t_max=1000", r"loss\.t_min = 0 and loss\.t_max = 1000 must keep 0 <= t_min <= t_max <= 999"),
        ("--loss.t_min=-1", r"loss\.t_min = -1 and loss\.t_max = null"),
        ("--loss.t_min=1000", r"loss\.t_min = 1000 and loss\.t_max = null"),
        ("--loss={t_min: 5, t_max: 4}", r"loss\.t_min = 5 and loss\.t_max = 4"),
        ("--loss.t_max=true", r"does not take true or false"),
        ("--eval.recon.t_values=[]", r"t_values = \[\] must be one or more"),
        ("--eval.recon.t_values=[3, 3]", r"t_values = \[3, 3\] must be .* larger than the one before"),
        ("--eval.recon.t_values=[5, 3]", r"t_values = \[5, 3\]"),
        ("--eval.recon.t_values=[-1, 3]", r"t_values = \[-1, 3\]"),
        ("--eval.recon.t_values=[10, 1000]", r"within 0 \.\.\. 999 \(diffusion\.T = 1000\)"),
        ("--experiment=a/b", "experiment = 'a/b'"),
        ("--data=3", "data = 3"),
        ("train.total_steps=3", "is not an override"),
        ("--dry", "is not an override"),
    ],
)
def test_bad_values_are_explained(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(E5, [override])


def test_more_bins_than_timesteps_are_refused() -> None:
    """Some bins would be empty, and their mean error would be 0 / 0 at the first milestone."""
    flags = ["--diffusion.T=50", "--eval.recon.enabled=true", "--eval.recon.t_values=[3]"]
    assert load_config(E5, [*flags, "--eval.recon.bins=50"]).eval.recon.bins == 50
    with pytest.raises(UserError, match=r"eval\.recon\.bins = 51 exceeds diffusion\.T = 50"):
        load_config(E5, [*flags, "--eval.recon.bins=51"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n- 2\n", "must hold keys and values"),
        ("a: [1\n", "not valid YAML"),
        ("extends: none.yaml\n", r"none\.yaml.*extends"),
        ("extends: bad.yaml\n", "circle"),
        ("extends: [a, b]\n", "one file"),
        ("seed: 1\n", "experiment is missing"),
        ("", "experiment is missing"),
        ("seed: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_bad_files_are_explained(tmp_path: Path, text: str, message: str) -> None:
    path = _file(tmp_path, "bad.yaml", text)
    with pytest.raises(UserError, match=message):
        load_config(path)
    with pytest.raises(UserError, match="no config file"):
        load_config(tmp_path / "absent.yaml")


def test_the_file_of_a_bad_key_is_named(tmp_path: Path) -> None:
    """The error names the file in the chain that holds the key, not the file that was asked for."""
    _file(tmp_path, "root.yaml", "experiment: a\ndata: {dataset: embedded, batchsize: 8}\n")
    leaf = _file(tmp_path, "leaf.yaml", "extends: root.yaml\n")
    with pytest.raises(UserError, match=r"data\.batchsize in .*root\.yaml"):
        load_config(leaf)


def test_each_name_has_its_function() -> None:
    """Catches a name that the config accepts but nothing implements, and the reverse."""
    from ddpm import names
    from ddpm.commands.probe_checkpoints import _DESIGN
    from ddpm.commands.score_checkpoints import METRICS
    from ddpm.config import sections as config
    from ddpm.curvature.probe import _ON_OPERATOR
    from ddpm.diffusion import prediction, samplers, schedule
    from ddpm.diffusion import weighting as loss
    from ddpm.evaluation import efficientnet
    from ddpm.evaluation.features import MODES
    from ddpm.models import build

    assert tuple(schedule.SCHEDULES) == names.SCHEDULES
    assert tuple(samplers.SAMPLERS) == names.SAMPLERS
    assert tuple(samplers.LIMITS) == names.LIMITS
    assert tuple(METRICS) == names.SCORES
    assert ("hutchinson", *_ON_OPERATOR, "noise_scale") == names.METHODS == tuple(_DESIGN)
    assert ("embedded", efficientnet.NAME, *MODES) == names.FEATURES
    assert {config.Model.model_fields["name"].default} == set(build.MODELS)
    linear = schedule.make_schedule("linear")
    snr, alpha_bar = linear.snr, linear.alpha_bar[500]
    assert all(loss.make_weighting(name)(snr).shape == snr.shape for name in names.WEIGHTINGS)
    assert all(len(schedule.spaced_timesteps(1000, 10, name)) == 10 for name in names.SPACINGS)
    assert all(prediction.target(name, snr, snr, alpha_bar).shape == snr.shape for name in names.PREDICTIONS)


def test_the_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(E5).seed = 2  # type: ignore[misc]
