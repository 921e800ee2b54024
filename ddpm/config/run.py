"""A training run's whole configuration, typed and frozen. `ddpm.config.files` reads it from YAML and overrides."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ddpm.config.sections import (
    NAME,
    Checkpoint,
    Curvature,
    Data,
    Diffusion,
    Ema,
    Eval,
    Logging,
    Loss,
    Model,
    Optim,
    Place,
    Sampling,
    Section,
    Seed,
    Seeds,
    Train,
)
from ddpm.files.yaml12 import write_yaml


class Config(Section):
    """One training run, completely described."""

    experiment: Annotated[str, Field(pattern=NAME)]
    study_name: str = "min_snr"
    seed: Seed = 1077
    seeds: Seeds = Seeds()
    # The run's id; null: see `run_id`.
    id: Annotated[str, Field(pattern=NAME)] | None = None
    out_dir: Place = Path("runs")
    # For feature weights, reference statistics, decoded images. Null: the user's cache folder. DDPM_CACHE overrides it.
    cache_dir: Place | None = None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    clean_run: bool = False  # start over: replace the run's folder
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
            T, begin = self.diffusion.T, section.t_start
            if section.enabled and begin is not None and begin >= T:
                raise ValueError(f"eval.{name}.t_start = {begin} must lie within 0 ... {T - 1} (diffusion.T = {T})")
            if section.enabled and section.nfe > (T if begin is None else begin + 1):
                what = f"diffusion.T = {T}" if begin is None else f"the {begin + 1} timesteps up to t_start = {begin}"
                raise ValueError(
                    f"eval.{name}.nfe = {section.nfe} exceeds {what}: a sampler takes at most one step for each "
                    "timestep"
                )
            if section.enabled and section.eta > 0 and section.sampler != "ddim":
                raise ValueError(f"eval.{name}.eta = {section.eta:g} is for ddim only, not {section.sampler}")
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
        if recon.enabled and recon.bins > T:
            raise ValueError(f"eval.recon.bins = {recon.bins} exceeds diffusion.T = {T}: each bin holds timesteps")

    def seed_of(self, part: Literal["init", "data", "noise"]) -> int:
        """The seed of a part of the run: its own, or the run's."""
        own: int | None = getattr(self.seeds, part)
        return self.seed if own is None else own

    @property
    def trained_timesteps(self) -> range:
        """The t that training draws from, all equally likely."""
        return range(self.loss.t_min, (self.diffusion.T - 1 if self.loss.t_max is None else self.loss.t_max) + 1)

    @property
    def run_id(self) -> str:
        """`id` if it is given, else `experiment-sSEED-DIGEST`. The digest covers every key that rows depend on.

        A younger key counts only if it differs from its default, so that runs from before the key keep their ids.
        """
        if self.id is not None:
            return self.id
        changed = flatten(self.model_dump(exclude_defaults=True))
        counted = {
            key: value
            for key, value in decisive(self.nested()).items()
            if key != "seed" and (key in changed or not key.startswith(_YOUNGER))
        }
        if not self.curvature.neutral or self.curvature.draws != "fixed":  # as in runs from before the key
            counted.pop("curvature.neutral", None)
        digest = hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.experiment}-s{self.seed}-{digest}"

    @property
    def run_dir(self) -> Path:
        """The run's folder: `out_dir/experiment/run_id`."""
        return self.out_dir / self.experiment / self.run_id

    def is_milestone(self, step: int) -> bool:
        """Whether the checkpoint of `step` is kept and uploaded: one per `eval.fid_milestone.every`, and the last."""
        return step > 0 and (step % self.eval.fid_milestone.every == 0 or step == self.train.total_steps)

    def is_logged(self, step: int) -> bool:
        """Whether the training metrics of `step` are logged; always true for the last step."""
        return step % self.logging.log_every_n_steps == 0 or step == self.train.total_steps

    def is_probed(self, step: int) -> bool:
        """Whether the curvature is measured after `step`; if it is enabled, always after the last step."""
        c, last = self.curvature, self.train.total_steps
        due = self.is_logged(step) if c.every is None else step % c.every == 0 or step == last
        return c.enabled and step > 0 and due

    def has_row(self, step: int) -> bool:
        """Whether anything is logged after `step`."""
        return step == self.train.total_steps or any(step % every == 0 for every in self._row_intervals)

    def row_steps(self, last: int) -> list[int]:
        """The steps from 1 to `last` with a row, in order."""
        steps: set[int] = set().union(*(range(every, last + 1, every) for every in self._row_intervals))
        return sorted(steps | ({self.train.total_steps} if self.train.total_steps <= last else set()))

    @property
    def _row_intervals(self) -> list[int]:
        """The intervals in steps at which something is logged."""
        measured = (self.eval.grid, self.eval.fid_milestone, self.eval.recon)
        probed = [self.curvature.every] if self.curvature.enabled and self.curvature.every else []
        return [self.logging.log_every_n_steps, *probed, *(m.every for m in measured if m.enabled)]

    def nested(self) -> dict[str, Any]:
        """The configuration as nested plain values, as it is logged."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The configuration as YAML, which `load_config` reads back to an equal one."""
        return write_yaml(self.nested())


_BOOKKEEPING = (
    *("out_dir", "cache_dir", "clean_run", "device", "id", "data.num_workers", "train.skip_nonfinite"),
    *("checkpoint.", "logging.wandb.", "eval.sample_table."),
)
# Keys younger than the first runs; see `Config.run_id`.
_YOUNGER = (
    *("seeds.", "data.hold_out", "loss.t_min", "loss.t_max"),
    *("eval.recon.", "eval.kid.", "eval.prdc.", "eval.reference_stats"),
    *(f"curvature.{key}" for key in ("every", "per_draw", "seed", "batch_size", "weights", "exact", "chunk")),
    *("curvature.lanczos_steps", "curvature.slq_starts"),
    *(f"eval.{name}.t_start" for name in ("grid", "fid_milestone", "final")),
)


def decisive(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of a nested config, dotted, that a run's rows and weights depend on."""
    unread = () if config.get("curvature", {}).get("enabled") else ("curvature.draws", "curvature.neutral")
    return {key: value for key, value in flatten(config).items() if not is_bookkeeping(key) and key not in unread}


def is_bookkeeping(key: str) -> bool:
    """Whether a dotted key says only where and how a run is kept, and changes none of its rows."""
    return key.startswith(_BOOKKEEPING)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted keys: `{"a": {"b": 1}}` gives `{"a.b": 1}`. Empty mappings vanish."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
