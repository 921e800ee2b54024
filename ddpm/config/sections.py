"""The sections of a run's configuration: each key with its type, default and allowed values."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from ddpm.errors import UserError, did_you_mean
from ddpm.files.paths import home
from ddpm.names import (
    FEATURES,
    LimitName,
    MethodName,
    PredictionName,
    SamplerName,
    ScheduleName,
    SpacingName,
    WeightingName,
    WeightsName,
)


def _at_home(value: Any) -> Any:
    if not isinstance(value, str | Path):
        return value
    try:
        str(value).encode()
        return home(value)
    except UnicodeEncodeError:
        raise ValueError(f"{value!r} is not UTF-8, which a run's record requires") from None
    except UserError as error:
        raise ValueError(str(error).rstrip(".")) from None


def _as_typed(value: Any) -> Any:
    _at_home(value)
    return value


Positive = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
RandomSeed = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # what torch's generators take
Seconds = Annotated[float, Field(ge=1, le=1e6)]
Place = Annotated[Path, BeforeValidator(_at_home)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Section(BaseModel):
    """A frozen part of the configuration. Refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, str_strip_whitespace=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Otherwise pydantic takes `true` for 1 where it expects a number."""
        takes = cls.model_fields[str(info.field_name)].annotation
        members = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(member, bool) for member in members) and bool not in (takes, *get_args(takes)):
            raise ValueError(f"{info.field_name} = {json.dumps(value)}: that key does not take true or false")
        return value


class Data(Section):
    """The images. `root`: the folder or .zip of `cifar10` and `folder`, kept as typed because it counts in run ids.

    `hold_out`: training never sees this many images, evenly spaced over the folder; `subset` is drawn from the others.
    """

    dataset: Literal["embedded", "cifar10", "folder"] = "cifar10"
    root: Annotated[Path, BeforeValidator(_as_typed)] | None = None
    split: Literal["train", "test"] = "train"
    subset: Positive | None = None
    batch_size: Positive = 4
    num_workers: Annotated[int, Field(ge=0)] = 2  # threads that decode a folder's images
    shuffle: bool = True
    skip_bad: bool = False  # leave unreadable images out instead of stopping
    hold_out: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @property
    def images(self) -> dict[str, Any]:
        """The arguments of `ddpm.data.images.load_images`, and of `ddpm.data.unseen.load_unseen`, for these images."""
        keys = ("dataset", "root", "subset", "hold_out", "split", "skip_bad")
        return {key: getattr(self, key) for key in keys} | {"workers": self.num_workers}

    @model_validator(mode="after")
    def _held_out_of_a_folder(self) -> "Data":
        if self.hold_out and self.dataset != "folder":
            raise ValueError(
                f"data.hold_out = {self.hold_out} is for data.dataset = folder: {self.dataset} has a test split, which "
                "training does not see"
            )
        return self


class Model(Section):
    """The network. `time_frequencies: study` is the original study's faulty time embedding, for exact reruns."""

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
    """The averaged weights, from which samples are drawn."""

    enabled: bool = True
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999


class Diffusion(Section):
    """The forward process, T steps of a beta schedule, and what the network predicts."""

    beta_schedule: ScheduleName = "linear"
    T: Annotated[int, Field(ge=25, le=1_000_000)] = 1000  # shorter chains need betas of 1 or more
    zero_terminal_snr: bool = False
    prediction: PredictionName = "eps"

    @model_validator(mode="after")
    def _x0_is_determined(self) -> "Diffusion":
        if self.zero_terminal_snr and self.prediction == "eps":
            raise ValueError(
                "diffusion.zero_terminal_snr = true leaves no x_0 in x_T, so eps cannot determine it: set "
                "diffusion.prediction to v or x0"
            )
        return self


class Seeds(Section):
    """The seeds of a run's parts, to vary one of them; null: `seed`. `init`: of the first weights. `data`: of the order
    of the images. `noise`: of t, eps and dropout."""

    init: Seed | None = None
    data: Seed | None = None
    noise: Seed | None = None


class Optim(Section):
    """The optimizer."""

    optimizer: Literal["adam"] = "adam"
    lr: Annotated[float, Field(gt=0)] = 1e-4


class Train(Section):
    """The loop. `amp`: false, true (bf16 if the GPU has it, else fp16), bf16 or fp16; off on a CPU.

    `skip_nonfinite`: the run skips this many steps whose loss or gradient is not finite, then stops at the next one.
    """

    total_steps: Positive = 10_000
    grad_clip: Annotated[float, Field(gt=0)] | None = 1.0
    amp: bool | Literal["bf16", "fp16"] = True
    skip_nonfinite: Annotated[int, Field(ge=0)] = 0


class Checkpoint(Section):
    """Checkpoints, from which an interrupted run resumes: one per `every` steps, and one at each FID milestone.

    The newest `keep` stay, and all milestones. `keep_online`: W&B's server keeps this many milestones besides the best.
    `upload: false`: W&B neither copies nor uploads checkpoints.
    """

    every: Positive = 500
    keep: Positive = 2
    keep_online: Positive = 3
    upload: bool = True


class Loss(Section):
    """The weighting over timesteps. The three Min-SNR forms read `minsnr_gamma`, `p2` reads `p2_*`.

    `minsnr_norm_over`: scales the weights of the schedule to mean 1 or, as in the original study, those of each batch.
    `t_min`, `t_max`: training draws t from this range, both ends included; null is T - 1.
    """

    weighting: WeightingName = "constant"
    minsnr_gamma: Annotated[float, Field(gt=0)] = 5.0
    minsnr_norm_over: Literal["schedule", "batch"] = "schedule"
    p2_k: Annotated[float, Field(gt=0)] = 1.0
    p2_gamma: Annotated[float, Field(ge=0)] = 1.0
    t_min: int = 0
    t_max: int | None = None


class Curvature(Section):
    """The curvature probe (docs/curvature.md). `every`: interval in steps; null means every logged step.

    `draws: fixed` uses the same images, t, eps and v at every step and in every run with the same `seed`; `batch` uses
    the current training batch and new t, eps and v, as the original study did. `neutral`: half of the images of a fixed
    draw take their noise level from the range that schedules share; this adds the neutral trace and the trace by noise
    level. `probes`: the number of v'Hv values, `per_draw` of them on each batch of `batch_size` images (null:
    data.batch_size); for the sketches, the number of products; for the noise scale, of batches. `exact`: Hessian-vector
    products instead of differences. `chunk`: products in one pass, fewer if memory runs out.
    """

    enabled: bool = False
    every: Positive | None = None
    method: tuple[MethodName, ...] = ("hutchinson",)
    probes: Annotated[int, Field(ge=2)] = 16  # one probe has no error bar
    per_draw: Positive = 1
    draws: Literal["fixed", "batch"] = "fixed"
    neutral: bool = True  # needs fixed draws
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    batch_size: Positive | None = None
    weights: WeightsName = "live"
    exact: bool = False
    chunk: Positive = 1
    lanczos_steps: Positive = 16  # for `lanczos`, and for each start vector of `slq`
    slq_starts: Annotated[int, Field(ge=2)] = 2
    log_prefix: Literal["curvature/hutch"] = "curvature/hutch"  # the reports look for it

    @field_validator("method", mode="before")
    @classmethod
    def _one_or_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_serializer("method")
    def _one_by_its_name(self, method: tuple[str, ...]) -> str | list[str]:
        return method[0] if len(method) == 1 else list(method)

    @model_validator(mode="after")
    def _methods_are_possible(self) -> "Curvature":
        if not self.method or len(set(self.method)) < len(self.method):
            raise ValueError(f"curvature.method = {list(self.method)} must name one or more methods, each once")
        if self.probes % self.per_draw:
            raise ValueError(f"curvature.per_draw = {self.per_draw} must divide curvature.probes = {self.probes}")
        for method, least in (("hutchpp", 6), ("xtrace", 4), ("noise_scale", 3)):  # the estimators refuse fewer
            if method in self.method and self.probes < least:
                raise ValueError(
                    f"curvature.probes = {self.probes} is too few for {method}: an error bar needs at least {least}"
                )
        return self


class Sampling(Section):
    """How samples are drawn. `eta`: the share of fresh noise that ddim adds; no other sampler reads it. `t_start`: the
    timestep at which the chain begins; null is T - 1."""

    enabled: bool = True
    sampler: SamplerName = "ddpm"
    nfe: Positive = 50
    spacing: SpacingName = "linspace"
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    n_samples: Positive = 5000
    t_start: Annotated[int, Field(ge=0)] | None = None


class Grid(Sampling):
    """A grid of samples from the same noise at every step and in every run."""

    every: Positive = 5000
    sampler: SamplerName = "ddim"
    nfe: Positive = 20
    n_samples: Positive = 36
    sample_seed: RandomSeed = 0


class FidMilestone(Sampling):
    """FID, and a checkpoint, once per `every` steps."""

    every: Positive = 2000


class Final(Sampling):
    """FID after the last step."""

    n_samples: Positive = 10_000


class Recon(Section):
    """The error at single timesteps, with the same real images and noise at every step."""

    enabled: bool = False
    every: Positive = 2000
    n_samples: Positive = 64
    t_values: tuple[int, ...] = (10, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 990)
    bins: Annotated[int, Field(ge=1, le=100)] = 10  # of equally many timesteps; their mean errors are logged too


class KidMilestone(Section):
    """KID of each FID's samples: the mean over random subsets."""

    enabled: bool = False
    subsets: Positive = 100
    subset_size: Annotated[int, Field(ge=2)] = 1000


class SampleTable(Section):
    """A table of single samples at each FID milestone: influence on FID, nearest real image, distance. `rows`: how
    many, 0 for no table. `nearest_image`: whether it shows that image, which uploads images of the data set; null: only
    if the data set is embedded.
    """

    rows: Annotated[int, Field(ge=0, le=100)] = 16
    nearest_image: bool | None = None


class Prdc(Section):
    """Precision, recall, density and coverage of each FID's samples, by `k` nearest neighbours."""

    enabled: bool = False
    k: Positive = 5


class Eval(Section):
    """Evaluation. `features`: `embedded`, `efficientnet_lite0` (an optional extra), clean-fid's `inception` (or
    `inception_legacy_pytorch`, `inception_legacy_tensorflow`), or the path of a TorchScript file. `reference_n`: the
    number of training images for the reference statistics, null for all. `reference_stats`: clean-fid's published
    statistics instead.
    """

    features: str = "inception"
    reference_n: Positive | None = None
    reference_stats: Literal["cifar10-train", "cifar10-test"] | None = None
    weights: WeightsName = "ema"
    sample_seed: RandomSeed = 0
    batch_size: Positive | None = None  # null: 25 on a CPU, 250 on a GPU
    x0_limit: LimitName = "clip"
    # Samplers that may score although they fail the test of ddpm/evaluation/sampler_check.py.
    accept_sampler_error: tuple[SamplerName, ...] = ()
    grid: Grid = Grid()
    fid_milestone: FidMilestone = FidMilestone()
    final: Final = Final()
    recon: Recon = Recon()
    kid: KidMilestone = KidMilestone()
    prdc: Prdc = Prdc()
    sample_table: SampleTable = SampleTable()

    @field_validator("features")
    @classmethod
    def _known_features(cls, name: str) -> str:
        if name not in FEATURES and not name.endswith((".pt", ".pth", ".ts")):
            hint = did_you_mean(name, FEATURES)
            raise ValueError(
                f"eval.features = {name} is not one of {', '.join(FEATURES)}, nor the path of a TorchScript file (.pt)"
                + (f".{hint}" if hint else "")
            )
        return name


class Wandb(Section):
    """Weights & Biases. `auto` is online if there is a login, else offline. WANDB_MODE overrides the mode, and
    `wandb offline` overrides `online`.

    `init_timeout_s`: how long a run waits for the server before it starts offline. `finish_timeout_s`: how long it then
    waits for uploads at its end; `ddpm sync` uploads the rest.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "min_snr"
    alerts: bool = True  # a message from the server when the run ends or diverges
    init_timeout_s: Seconds = 20.0
    finish_timeout_s: Seconds = 60.0
    entity: str | None = None
    run_name: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None


class Logging(Section):
    """How often a row is logged, and where."""

    log_every_n_steps: Positive = 100
    wandb: Wandb = Wandb()
