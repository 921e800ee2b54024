"""What to train: YAML files merged into one typed, frozen configuration.

Later wins: the `extends` chain from its root, the file, then `--key.sub=value` from the command line. A variant file
holds only its difference. Every error names the key, where its value came from, and what is allowed.
"""

import difflib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ddpm.errors import UserError

Positive = Annotated[int, Field(ge=1)]
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
SamplerName = Literal["ddpm", "ddpm_large", "ddim", "dpmpp_2m", "heun", "ddpm_adjacent_posterior"]


class Section(BaseModel):
    """A frozen part of the configuration that knows its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, str_strip_whitespace=True)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, values: Any) -> Any:
        """pydantic would take `true` for 1 wherever a number is expected."""
        if isinstance(values, dict):
            for key, value in values.items():
                field = cls.model_fields.get(key)
                if isinstance(value, bool) and field and bool not in (field.annotation, *get_args(field.annotation)):
                    raise ValueError(f"{key} = {str(value).lower()}: that key does not take true or false")
        return values


class Data(Section):
    """Which images. `root` is the folder or .zip of `cifar10` and `folder`."""

    dataset: Literal["embedded", "cifar10", "folder"] = "cifar10"
    root: Path | None = None
    split: Literal["train", "test"] = "train"
    subset: Positive | None = None
    batch_size: Positive = 4
    num_workers: Annotated[int, Field(ge=0)] = 2  # threads that decode a folder's images
    shuffle: bool = True
    skip_bad: bool = False  # leave unreadable images out instead of stopping


class Model(Section):
    """The network. `time_frequencies: study` is the original study's faulty time embedding, for faithful reruns."""

    name: Literal["unet_cifar32"] = "unet_cifar32"
    base_channels: Positive = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    time_embedding: Annotated[int, Field(ge=4, multiple_of=2)] = 512
    time_frequencies: Literal["standard", "study"] = "standard"
    gn_groups: Positive = 32

    @model_validator(mode="after")
    def _groups_divide(self) -> "Model":
        if self.base_channels % self.gn_groups:
            raise ValueError(
                f"model.gn_groups = {self.gn_groups} must divide model.base_channels = {self.base_channels}"
            )
        return self


class Ema(Section):
    """Averaged weights, the ones that are sampled from."""

    enabled: bool = True
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999


class Diffusion(Section):
    """The forward process: T steps of a beta schedule; and what the network predicts of it."""

    beta_schedule: Literal["linear", "cosine", "cosine_match_linear", "sigmoid", "scaled_linear"] = "linear"
    T: Annotated[int, Field(ge=25)] = 1000  # shorter chains would need betas of 1 and more
    zero_terminal_snr: bool = False
    prediction: Literal["eps", "x0", "v"] = "eps"

    @model_validator(mode="after")
    def _x0_can_be_told(self) -> "Diffusion":
        if self.zero_terminal_snr and self.prediction == "eps":
            raise ValueError(
                "diffusion.zero_terminal_snr = true leaves nothing of x_0 in x_T, and eps does not tell it: set "
                "diffusion.prediction to v or x0"
            )
        return self


class Optim(Section):
    """The optimizer."""

    optimizer: Literal["adam"] = "adam"
    lr: Annotated[float, Field(gt=0)] = 1e-4


class Train(Section):
    """The loop. `amp`: false, true (bf16 where the GPU has it, else fp16), bf16 or fp16; off on a CPU.

    `skip_nonfinite`: how many steps whose loss or gradient is not finite are left out before the run stops.
    """

    total_steps: Positive = 10_000
    grad_clip: Annotated[float, Field(gt=0)] | None = 1.0
    amp: bool | Literal["bf16", "fp16"] = True
    skip_nonfinite: Annotated[int, Field(ge=0)] = 0


class Checkpoint(Section):
    """What an interrupted run is continued from. There is one at every FID milestone too, and those are all kept.

    `every` so many steps, of which the newest `keep` stay; `keep_online`: how many milestones W&B's server keeps,
    besides the best.
    """

    every: Positive = 500
    keep: Positive = 2
    keep_online: Positive = 3


class Loss(Section):
    """The weighting over timesteps. `minsnr_gamma` is read by the three Min-SNR forms, `p2_*` by `p2`.

    `minsnr_norm_over: batch` scales the weights of each batch to mean 1, as the original study did, not the schedule's.
    """

    weighting: Literal["constant", "snr", "minsnr", "minsnr_norm", "soft_minsnr", "truncated_snr", "p2"] = "constant"
    minsnr_gamma: Annotated[float, Field(gt=0)] = 5.0
    minsnr_norm_over: Literal["schedule", "batch"] = "schedule"
    p2_k: Annotated[float, Field(gt=0)] = 1.0
    p2_gamma: Annotated[float, Field(ge=0)] = 1.0


class Curvature(Section):
    """The Hutchinson probe, taken at every logged step."""

    enabled: bool = False
    method: Literal["hutchinson"] = "hutchinson"
    probes: Annotated[int, Field(ge=2)] = 16  # one probe has no error bar
    log_prefix: Literal["curvature/hutch"] = "curvature/hutch"  # what the reports know the trace by


class Sampling(Section):
    """How images are drawn."""

    enabled: bool = True
    sampler: SamplerName = "ddpm"
    nfe: Positive = 50
    spacing: Literal["linspace", "leading", "trailing"] = "linspace"
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0  # how much fresh noise ddim adds; no other sampler reads it
    n_samples: Positive = 5000


class Grid(Sampling):
    """A grid of samples from noise that is the same at every step and in every run."""

    every: Positive = 5000
    sampler: SamplerName = "ddim"
    nfe: Positive = 20
    n_samples: Positive = 36
    sample_seed: int = 0


class FidMilestone(Sampling):
    """FID (and a checkpoint) every so many steps."""

    every: Positive = 2000


class Final(Sampling):
    """FID after the last step."""

    n_samples: Positive = 10_000


class Eval(Section):
    """Evaluation. `reference_n`: how many training images the reference statistics are taken from (all if null)."""

    features: Literal["embedded", "inception"] = "inception"
    reference_n: Positive | None = None
    weights: Literal["ema", "live"] = "ema"
    sample_seed: int = 0
    batch_size: Positive | None = None  # null: 25 on a CPU, 250 on a GPU
    x0_limit: Literal["clip", "dynamic", "none"] = "clip"
    # Samplers that may score although they miss a known answer (see ddpm/evaluation/known_answer.py).
    accept_sampler_error: tuple[SamplerName, ...] = ()
    grid: Grid = Grid()
    fid_milestone: FidMilestone = FidMilestone()
    final: Final = Final()


class Wandb(Section):
    """Weights & Biases. `auto` is online where there is a login, else offline; WANDB_MODE overrides it.

    `init_timeout_s`: how long a run waits for the server before it starts offline; `finish_timeout_s`: how long, at its
    end, for what is still to be uploaded. `ddpm sync` uploads the rest.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "min_snr"
    alerts: bool = True  # a message from the server when the run ends or diverges
    init_timeout_s: Annotated[float, Field(ge=1)] = 20.0
    finish_timeout_s: Annotated[float, Field(ge=1)] = 60.0
    entity: str | None = None
    run_name: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None


class Logging(Section):
    """How often a row is logged, and where to."""

    log_every_n_steps: Positive = 100
    wandb: Wandb = Wandb()


class Config(Section):
    """One training run, wholly described."""

    experiment: Annotated[str, Field(pattern=_NAME)]
    study_name: str = "min_snr"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1077
    # The run's id. Null derives it from experiment, seed and a digest of the config.
    id: Annotated[str, Field(pattern=_NAME)] | None = None
    out_dir: Path = Path("runs")
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    clean_run: bool = False  # start over: replace what an earlier run left in this run's folder
    data: Data = Data()
    model: Model = Model()
    ema: Ema = Ema()
    diffusion: Diffusion = Diffusion()
    optim: Optim = Optim()
    train: Train = Train()
    checkpoint: Checkpoint = Checkpoint()
    loss: Loss = Loss()
    curvature: Curvature = Curvature()
    eval: Eval = Eval()
    logging: Logging = Logging()

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        for name in ("grid", "fid_milestone", "final"):
            section: Sampling = getattr(self.eval, name)
            if section.enabled and section.nfe > self.diffusion.T:
                raise ValueError(
                    f"eval.{name}.nfe = {section.nfe} exceeds diffusion.T = {self.diffusion.T}: a sampler takes at "
                    "most one step for each timestep"
                )
            if section.enabled and section.eta > 0 and section.sampler != "ddim":
                raise ValueError(f"eval.{name}.eta = {section.eta:g} is for ddim alone, not {section.sampler}")
            if section.enabled and section.sampler == "heun" and self.diffusion.zero_terminal_snr:
                raise ValueError(f"eval.{name}.sampler = heun cannot start at zero terminal SNR: use ddim or dpmpp_2m")
        if self.data.dataset != "embedded" and self.data.root is None:
            raise ValueError(
                f"data.dataset = {self.data.dataset} needs data.root, the folder (or .zip) that holds the images"
            )
        scores = any(getattr(self.eval, name).enabled for name in ("grid", "fid_milestone", "final"))
        if scores and self.eval.weights == "ema" and not self.ema.enabled:
            raise ValueError("eval.weights = ema needs ema.enabled = true; or set eval.weights = live")
        return self

    @property
    def run_id(self) -> str:
        """`id` where it is given, else `experiment-sSEED-DIGEST`; the digest covers all that the rows depend on."""
        if self.id is not None:
            return self.id
        decisive = {key: value for key, value in _decisive(self.nested()).items() if key != "seed"}
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.experiment}-s{self.seed}-{digest}"

    @property
    def run_dir(self) -> Path:
        """The run's folder: `out_dir/experiment/run_id`."""
        return self.out_dir / self.experiment / self.run_id

    def is_milestone(self, step: int) -> bool:
        """Whether the checkpoint of `step` stays and goes to W&B: every `eval.fid_milestone.every`, and the last."""
        return step > 0 and (step % self.eval.fid_milestone.every == 0 or step == self.train.total_steps)

    def is_logged(self, step: int) -> bool:
        """Whether the training metrics of `step` are logged; those of the last one always are."""
        return step % self.logging.log_every_n_steps == 0 or step == self.train.total_steps

    def has_row(self, step: int) -> bool:
        """Whether anything is logged after `step`."""
        grid = self.eval.grid.enabled and step % self.eval.grid.every == 0
        fid = self.eval.fid_milestone.enabled and step % self.eval.fid_milestone.every == 0
        return self.is_logged(step) or grid or fid

    def nested(self) -> dict[str, Any]:
        """The whole configuration as nested plain values, as it is logged."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The whole configuration as YAML that `load_config` reads back to an equal one."""
        return yaml.safe_dump(self.nested(), sort_keys=False)


def _decisive(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of a nested config that a run's rows and weights depend on, dotted."""
    aside = (
        *("out_dir", "clean_run", "device", "id", "data.num_workers", "train.skip_nonfinite"),
        *("checkpoint.", "logging.wandb."),
    )
    return {key: value for key, value in _dotted(config) if not key.startswith(aside)}


def _dotted(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two nested configs of one run, in words: `loss.weighting was constant, is minsnr`."""
    old, new = _decisive(before), _decisive(now)
    default = _decisive(Config(experiment="any").nested()) if old.keys() != new.keys() else {}
    return [
        f"{key} was {was}, is {new.get(key)}"
        for key in sorted({*old, *new})
        # A key that came after the run was started held its default then.
        if (was := old.get(key, default.get(key))) != new.get(key)
    ]


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a YAML file and `--key.sub=value` overrides.

    Raises UserError on a missing or malformed file, a circular `extends`, an unknown key, a wrong type, a value out of
    range or an impossible combination.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source, tree in _chain(path):
        _merge(values, tree, source, origins)
    for override in overrides:
        _merge(values, _parse_override(override), f"the command line ({override})", origins)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, origins, path)) from None


def sweep_overrides() -> list[str]:
    """The overrides that a W&B sweep agent has set for this process; none outside an agent.

    A sweep whose command has `${args}` gives them on the command line too; one that has not gives them here alone.
    """
    path = os.environ.get("WANDB_SWEEP_PARAM_PATH")
    if not path:
        return []
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        return [f"--{key}={json.dumps(entry['value'])}" for key, entry in values.items() if key != "wandb_version"]
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"The sweep's parameters in {path} (WANDB_SWEEP_PARAM_PATH) cannot be read: {error}.") from None


def _chain(path: Path, above: tuple[Path, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    """(file, its own keys) from the root of the `extends` chain down to `path`."""
    resolved = path.resolve()
    if resolved in above:
        raise UserError(f"{path}: `extends` goes round in a circle: {' -> '.join(p.name for p in (*above, resolved))}.")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        below = f", which {above[-1]} extends" if above else ""
        raise UserError(f"There is no config file {path}{below}. The study's are under configs/.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The config file {path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold keys and values, such as `seed: 1077`; it holds a {type(tree).__name__}.")
    parent = tree.pop("extends", None)
    if parent is None:
        return [(str(path), tree)]
    if not isinstance(parent, str):
        raise UserError(f"{path}: `extends` must be the path of one file, relative to this one; it is {parent!r}.")
    return [*_chain(path.parent / parent, (*above, resolved)), (str(path), tree)]


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, raw = text.removeprefix("--").partition("=")
    if not text.startswith("--") or not equals or not all(key.split(".")):
        raise UserError(f"{text!r} is not an override. Write --key.sub=value, such as --train.total_steps=500.")
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        value = raw
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(into: dict[str, Any], tree: dict[str, Any], source: str, origins: dict[str, str], prefix: str = "") -> None:
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        origins[dotted] = source
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value, source, origins, f"{dotted}.")
        elif isinstance(value, dict):
            into[key] = {}
            _merge(into[key], value, source, origins, f"{dotted}.")
        else:
            into[key] = value


def _known_keys(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def _explain(error: ValidationError, origins: dict[str, str], path: Path) -> str:
    known = {*_known_keys(), *origins}
    by_key: dict[str, list[Any]] = {}
    for item in error.errors(include_url=False):
        # A union (bool | "bf16" | "fp16") reports each of its members, under key.member.
        parts = [str(p) for p in item["loc"]]
        while parts and ".".join(parts) not in known:
            parts.pop()
        by_key.setdefault(".".join(parts), []).append(item)
    return "; ".join(_explain_one(key, items, origins.get(key, str(path))) for key, items in by_key.items()) + "."


def _explain_one(key: str, items: list[Any], source: str) -> str:
    item = items[0]
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _known_keys(), n=1, cutoff=0.5)
        leaf = [k for k in _known_keys() if k.split(".")[-1] == key.split(".")[-1]]
        hint = f" Did you mean {(leaf or near)[0]}?" if leaf or near else ""
        siblings = [k for k in _known_keys() if k.rpartition(".")[0] == key.rpartition(".")[0]]
        allowed = f" Allowed there: {', '.join(siblings)}." if siblings and not leaf else ""
        return f"unknown key {key} in {source}.{hint}{allowed}".rstrip(".")
    if item["type"] == "missing":
        return f"{key} is missing in {source}"
    if item["type"] == "value_error":
        return f"{item['msg'].removeprefix('Value error, ')} (in {source})"
    messages = " or ".join(i["msg"].removeprefix("Input ") for i in items)
    return f"{key} = {item['input']!r} in {source} {messages}"
