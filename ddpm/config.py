"""What to train: one typed, frozen configuration, read from YAML files and the command line by `config_files`."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    `t_min`, `t_max`: training draws t from them and what lies between; null is T - 1.
    """

    weighting: Literal["constant", "snr", "minsnr", "minsnr_norm", "soft_minsnr", "truncated_snr", "p2"] = "constant"
    minsnr_gamma: Annotated[float, Field(gt=0)] = 5.0
    minsnr_norm_over: Literal["schedule", "batch"] = "schedule"
    p2_k: Annotated[float, Field(gt=0)] = 1.0
    p2_gamma: Annotated[float, Field(ge=0)] = 1.0
    t_min: int = 0
    t_max: int | None = None


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


class Recon(Section):
    """The error at single timesteps, on real images and with noise that are the same at every step."""

    enabled: bool = False
    every: Positive = 2000
    n_samples: Positive = 64
    t_values: tuple[int, ...] = (10, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 990)


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
    recon: Recon = Recon()


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
        scores = any(getattr(self.eval, name).enabled for name in ("grid", "fid_milestone", "final", "recon"))
        if scores and self.eval.weights == "ema" and not self.ema.enabled:
            raise ValueError("eval.weights = ema needs ema.enabled = true; or set eval.weights = live")
        self._check_timesteps()
        return self

    def _check_timesteps(self) -> None:
        T, low, high = self.diffusion.T, self.loss.t_min, self.loss.t_max
        if not 0 <= low <= (T - 1 if high is None else high) <= T - 1:
            raise ValueError(
                f"loss.t_min = {low} and loss.t_max = {'null' if high is None else high} must keep 0 <= t_min <= t_max "
                f"<= {T - 1}, the last of diffusion.T = {T} timesteps"
            )
        recon = self.eval.recon
        rising = list(recon.t_values) == sorted(set(recon.t_values))
        if recon.enabled and not (recon.t_values and rising and set(recon.t_values) <= set(range(T))):
            raise ValueError(
                f"eval.recon.t_values = {list(recon.t_values)} must be one or more timesteps, each larger than the one "
                f"before, within 0 ... {T - 1} (diffusion.T = {T})"
            )

    @property
    def trained_timesteps(self) -> range:
        """The t that training draws from, each as likely as the others."""
        return range(self.loss.t_min, (self.diffusion.T - 1 if self.loss.t_max is None else self.loss.t_max) + 1)

    @property
    def run_id(self) -> str:
        """`id` where it is given, else `experiment-sSEED-DIGEST`; the digest covers all that the rows depend on."""
        if self.id is not None:
            return self.id
        default = _defaults()
        decisive = {
            key: value
            for key, value in _decisive(self.nested()).items()
            if key != "seed" and not (key.startswith(_YOUNGER) and value == default[key])
        }
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
        measured = (self.eval.grid, self.eval.fid_milestone, self.eval.recon)
        return self.is_logged(step) or any(m.enabled and step % m.every == 0 for m in measured)

    def nested(self) -> dict[str, Any]:
        """The whole configuration as nested plain values, as it is logged."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The whole configuration as YAML that `load_config` reads back to an equal one."""
        return yaml.safe_dump(self.nested(), sort_keys=False)


_BOOKKEEPING = (
    *("out_dir", "clean_run", "device", "id", "data.num_workers", "train.skip_nonfinite"),
    *("checkpoint.", "logging.wandb."),
)
# Keys younger than the first runs: in a run's id they count where they are set, so that older runs keep theirs.
_YOUNGER = ("loss.t_min", "loss.t_max", "eval.recon.")


def _defaults() -> dict[str, Any]:
    """The decisive keys as they are where nothing is set. Unvalidated: the default data set needs a folder."""
    return _decisive(Config.model_construct(experiment="any").nested())


def _decisive(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of a nested config that a run's rows and weights depend on, dotted."""
    return {key: value for key, value in _dotted(config) if not is_bookkeeping(key)}


def is_bookkeeping(key: str) -> bool:
    """Whether a dotted key says where and how a run is kept, and changes none of its rows."""
    return key.startswith(_BOOKKEEPING)


def _dotted(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two nested configs of one run, in words: `loss.weighting was constant, is minsnr`."""
    old, new = _decisive(before), _decisive(now)
    default = _defaults() if old.keys() != new.keys() else {}
    return [
        f"{key} was {was}, is {new.get(key)}"
        for key in sorted({*old, *new})
        # A key that came after the run was started held its default then.
        if (was := old.get(key, default.get(key))) != new.get(key)
    ]
