"""Training, readable as the algorithm: Ho et al. 2020, algorithm 1, with what is measured along the way."""

import copy
import hashlib
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from ddpm.checkpoint import save_checkpoint
from ddpm.config import Config, Sampling
from ddpm.curvature import hutchinson_trace
from ddpm.data import Batches, ImageSet, load_images
from ddpm.ema import Ema
from ddpm.errors import UserError
from ddpm.evaluation.evaluate import Evaluator, SamplingPlan, Timers, make_reference
from ddpm.evaluation.features import make_features
from ddpm.evaluation.known_answer import require, try_sampler
from ddpm.loss import constant, make_weighting, squared_error, weights
from ddpm.prediction import add_noise, target
from ddpm.samplers import Denoiser, model_denoiser
from ddpm.schedule import Schedule, make_schedule
from ddpm.tracking import Tracker, check_run_dir
from ddpm.unet import MODELS, count_parameters


def train(cfg: Config) -> Path:
    """Train, track and evaluate one run; its folder. Raises UserError on bad input, before anything is written."""
    trainer = Trainer(cfg)
    with Tracker(cfg, trainer.protocols, count_parameters(trainer.model)) as tracker:
        started = time.perf_counter()
        trainer.fit(tracker)
        tracker.finish(time.perf_counter() - started)
    return tracker.folder


class Trainer:
    """Everything a run consists of, and the loop over it."""

    def __init__(self, cfg: Config):
        self.cfg = cfg
        self.device = choose_device(cfg.device)
        self.precision = choose_precision(cfg.train.amp, self.device)
        check_run_dir(cfg)  # here too: the quick refusal, before images are read

        images = load_images(
            cfg.data.dataset,
            cfg.data.root,
            subset=cfg.data.subset,
            split=cfg.data.split,
            skip_bad=cfg.data.skip_bad,
            workers=cfg.data.num_workers,
        )
        self.schedule: Schedule = schedule_of(cfg)
        self.timers = Timers()
        self.evaluator = make_evaluator(cfg, self.schedule, images, self.device, self.timers)
        self.fid_plan = _plan(cfg.eval.fid_milestone)
        self.final_plan = _plan(cfg.eval.final)
        self.grid_plan = _plan(cfg.eval.grid)
        self.checks = self.check_samplers()

        # Each stream of random numbers has an owner, so that none moves another.
        torch.manual_seed(stream_seed(cfg.seed, "weights and dropout"))
        self.model = make_model(cfg).to(self.device)
        self.ema = Ema(self.model, cfg.ema.decay) if cfg.ema.enabled else None
        self.params = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self.params, lr=cfg.optim.lr, fused=True)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)
        self.noise_rng = torch.Generator(self.device).manual_seed(stream_seed(cfg.seed, "timesteps and noise"))
        self.probe_rng = torch.Generator().manual_seed(stream_seed(cfg.seed, "probe"))
        self.batches = Batches(
            images.images.to(self.device),
            cfg.data.batch_size,
            stream_seed(cfg.seed, "data"),
            shuffle=cfg.data.shuffle,
        )
        self.alpha_bar = self.schedule.alpha_bar.to(self.device)
        weighting = make_weighting(cfg.loss.weighting, cfg.loss.minsnr_gamma, cfg.loss.p2_k, cfg.loss.p2_gamma)
        self.weights = weights(weighting, self.schedule, cfg.diffusion.prediction).float().to(self.device)
        # The weights that make the error of any prediction an eps-MSE: the loss that all arms have in common.
        self.common_weights = weights(constant, self.schedule, cfg.diffusion.prediction).float().to(self.device)
        self.mean_weight = weights(weighting, self.schedule).mean().item()

    def check_samplers(self) -> dict[str, float]:
        """Each scoring sampler's error on a known answer, by metric key. Raises UserError beyond tolerance."""
        errors = {}
        for key, plan in (
            ("check/sampler_std_error", self.fid_plan),
            ("check/final_sampler_std_error", self.final_plan),
        ):
            if plan:
                answer = try_sampler(self.schedule, plan.sampler, plan.nfe, plan.spacing, plan.eta)
                require(answer, self.cfg.eval.accept_sampler_error)
                if not answer.passes:
                    print(f"warning: {plan.sampler} at nfe {plan.nfe} misses a known answer by {answer.error:+.0%}")
                errors[key] = answer.error
        return errors

    @property
    def protocols(self) -> dict[str, dict[str, Any]]:
        """Fingerprint to description, of every protocol this run scores by."""
        plans = [p for p in (self.fid_plan, self.final_plan) if p and self.evaluator]
        found = [self.evaluator.protocol(p) for p in plans if self.evaluator]
        return {p.fingerprint: p.describe() for p in found}

    def fit(self, tracker: Tracker) -> None:
        """The training loop."""
        cfg, total = self.cfg, self.cfg.train.total_steps
        mse_sum, mse_count = torch.zeros((), device=self.device), 0
        tracker.log(0, {**self.checks, "loss/mean_weight": self.mean_weight})
        # disable=None: a bar on a terminal, silence elsewhere
        for step in (bar := tqdm(range(1, total + 1), desc=tracker.run_id, unit="step", disable=None)):
            logged = step % cfg.logging.log_every_n_steps == 0 or step == total
            with self.timers.measure("train"):
                x_0 = next(self.batches)
                stats = self.step(x_0, with_gradient_stats=logged)
                mse_sum, mse_count = mse_sum + stats.mse, mse_count + 1
                row = stats.row() if logged else {}
            if logged:
                row["train/mse_mean"] = (mse_sum / mse_count).item()
                row["train/images_seen"] = step * cfg.data.batch_size
                mse_sum, mse_count = torch.zeros_like(mse_sum), 0
                self._stop_if_diverged(step, row, tracker)
                rate = bar.format_dict["rate"] or 0
                bar.set_postfix({"loss": f"{row['train/loss']:.4f}", "img/s": f"{rate * cfg.data.batch_size:.0f}"})
            if logged and cfg.curvature.enabled:
                with self.timers.measure("probe"):
                    row |= self.probe(x_0)
            row |= self.score(step)
            grid = self.draw_grid(step, tracker.folder)
            if logged:
                row |= {
                    f"time/{part}_s": self.timers.seconds[part] for part in ("train", "probe", "sample", "features")
                }
            if row or grid:
                tracker.log(step, row, grid)
            if _due(cfg.eval.fid_milestone.every, step, total):
                path = tracker.folder / "checkpoints" / f"step-{step:06d}.pt"
                save_checkpoint(path, self.state_dict(step))
                tracker.log_checkpoint(step, path, row.get("val/fid"))
            if "val/fid" in row or "final/fid" in row:
                scores = ", ".join(
                    f"{k} {row[k]:.2f} ({row[k + '_protocol']})" for k in ("val/fid", "final/fid") if k in row
                )
                tqdm.write(f"{tracker.run_id} step {step}: {scores}")

    def losses(self, x_0: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """(trained loss, eps-MSE), scalars: the error of what the network predicts under the arm's own weights, and
        under those that make it the unweighted eps-MSE."""
        alpha_bar = self.alpha_bar[t]
        output = self.model(add_noise(x_0, eps, alpha_bar), t)
        error = squared_error(output, target(self.cfg.diffusion.prediction, x_0, eps, alpha_bar))
        weights = self.weights[t]
        if self.cfg.loss.weighting == "minsnr_norm" and self.cfg.loss.minsnr_norm_over == "batch":
            weights = weights / weights.mean()
        return (weights * error).mean(), (self.common_weights[t] * error).mean()

    def step(self, x_0: Tensor, *, with_gradient_stats: bool = False) -> "StepStats":
        """One step of gradient descent on w(t) |target - model(x_t, t)|^2 for a batch x_0 (B, 3, H, W)."""
        t = torch.randint(len(self.alpha_bar), (len(x_0),), generator=self.noise_rng, device=self.device)
        eps = torch.randn(x_0.shape, generator=self.noise_rng, device=self.device)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            loss, mse = self.losses(x_0, t, eps)

        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        stats = gradient_stats(self.params) if with_gradient_stats else {}
        norm = nn.utils.clip_grad_norm_(self.params, self.cfg.train.grad_clip or float("inf"))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update(self.model)
        return StepStats(loss.detach(), mse.detach(), norm, stats)

    def probe(self, x_0: Tensor) -> dict[str, float]:
        """Hessian traces of the trained and of the unweighted loss at the live weights; training is left untouched.

        The study's scheme: the current batch, fresh t, eps and v for each probe, eval mode, float32.
        """
        same = torch.equal(self.weights, self.common_weights)

        def losses() -> Tensor:
            t = torch.randint(len(self.alpha_bar), (len(x_0),), generator=self.probe_rng).to(self.device)
            eps = torch.randn(x_0.shape, generator=self.probe_rng).to(self.device)
            trained, common = self.losses(x_0, t, eps)
            return common[None] if same else torch.stack([trained, common])

        self.model.eval()
        try:
            # cuDNN convolutions take TF32 by default, which is no float32.
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                estimates = hutchinson_trace(losses, self.params, self.cfg.curvature.probes, self.probe_rng)
        finally:
            self.model.train()
        prefixes = (self.cfg.curvature.log_prefix, "curvature/ref")
        pairs = zip(prefixes, (estimates[0], estimates[-1]), strict=True)
        return {f"{p}_trace_{name}": getattr(e, name) for p, e in pairs for name in ("mean", "std", "sem")}

    def score(self, step: int) -> dict[str, Any]:
        """FID where `step` is a milestone, and the final one after the last step."""
        total = self.cfg.train.total_steps
        row: dict[str, Any] = {}
        if not self.evaluator:
            return row
        milestone = self.fid_plan if _due(self.cfg.eval.fid_milestone.every, step) else None
        final = self.final_plan if step == total else None
        if milestone:
            row["val/fid"] = self.evaluator.fid(self.denoiser(), milestone, self.cfg.eval.sample_seed)
            row["val/fid_protocol"] = self.evaluator.protocol(milestone).fingerprint
        if final:
            # The same protocol and noise on the same weights: the milestone's number is the final one.
            same = final == milestone
            row["final/fid"] = (
                row["val/fid"] if same else self.evaluator.fid(self.denoiser(), final, self.cfg.eval.sample_seed)
            )
            row["final/fid_protocol"] = self.evaluator.protocol(final).fingerprint
        return row

    def draw_grid(self, step: int, folder: Path) -> Path | None:
        """Write the sample grid of a step that has one; its path."""
        grid = self.cfg.eval.grid
        if not (self.evaluator and self.grid_plan and _due(grid.every, step, self.cfg.train.total_steps)):
            return None
        path = folder / "samples" / f"step-{step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = self.evaluator.grid(self.denoiser(), self.grid_plan, grid.sample_seed)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
        return path

    def denoiser(self) -> Denoiser:
        """The denoiser that is evaluated: a copy of the EMA (or live) weights in eval mode, laid out for sampling."""
        source = self.ema.model if self.ema and self.cfg.eval.weights == "ema" else self.model
        model = copy.deepcopy(source).eval().to(memory_format=torch.channels_last)
        return model_denoiser(model, self.schedule, self.cfg.diffusion.prediction)

    def state_dict(self, step: int) -> dict[str, Any]:
        """Weights, optimizer, data order and random streams after `step`, as tensors and plain values."""
        return {
            "step": step,
            "config": self.cfg.nested(),
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "batches": self.batches.state_dict(),
            "noise_rng": self.noise_rng.get_state(),
            "probe_rng": self.probe_rng.get_state(),
            "global_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }

    def _stop_if_diverged(self, step: int, row: dict[str, float], tracker: Tracker) -> None:
        if not math.isfinite(row["train/mse_mean"]):
            tracker.log(step, row)
            raise UserError(
                f"The loss is no longer finite: train/mse averaged {row['train/mse_mean']} up to step {step}. Lower "
                f"optim.lr ({self.cfg.optim.lr:g}), lower train.grad_clip ({self.cfg.train.grad_clip}), or "
                "set train.amp=false."
            )


@dataclass(frozen=True)
class StepStats:
    """What one step measured, still on the device: loss, mse and gradient L2 norm before clipping, all scalars."""

    loss: Tensor
    mse: Tensor
    grad_norm: Tensor
    gradient: dict[str, Tensor]

    def row(self) -> dict[str, float]:
        """The step's metrics by key. Waits for the device."""
        tensors = {
            "train/loss": self.loss,
            "train/mse": self.mse,
            "train/grad_global_L2": self.grad_norm,
            **self.gradient,
        }
        return {key: value.item() for key, value in tensors.items()}


def gradient_stats(params: list[nn.Parameter]) -> dict[str, Tensor]:
    """Mean and largest |gradient| over all entries, before clipping."""
    flat = torch.cat([p.grad.flatten() for p in params if p.grad is not None]).abs()
    return {"train/grad_abs_mean": flat.mean(), "train/grad_abs_max": flat.max()}


def make_model(cfg: Config) -> nn.Module:
    """A fresh network of the configured kind, weights from the global random stream."""
    m = cfg.model
    return MODELS[m.name](m.base_channels, m.dropout, m.time_embedding, m.gn_groups, m.time_frequencies)


def schedule_of(cfg: Config) -> Schedule:
    """The full chain that the configured network is trained on."""
    d = cfg.diffusion
    return make_schedule(d.beta_schedule, d.T, zero_terminal_snr=d.zero_terminal_snr)


def make_evaluator(
    cfg: Config, schedule: Schedule, images: ImageSet, device: torch.device, timers: Timers
) -> Evaluator | None:
    """The evaluator of a run, ready to score; None where nothing is to be scored or drawn."""
    if not (cfg.eval.grid.enabled or cfg.eval.fid_milestone.enabled or cfg.eval.final.enabled):
        return None
    plans = [p for p in (_plan(cfg.eval.fid_milestone), _plan(cfg.eval.final)) if p]
    features = make_features(cfg.eval.features, device) if plans else None
    _, channels, height, width = images.images.shape
    evaluator = Evaluator(
        schedule=schedule,
        features=features,
        reference=make_reference(features, images, cfg.eval.reference_n) if features else None,
        device=device,
        batch_size=cfg.eval.batch_size or (25 if device.type == "cpu" else 250),
        x0_limit=cfg.eval.x0_limit,
        weights=cfg.eval.weights,
        shape=(channels, height, width),
        timers=timers,
    )
    for plan in plans:
        evaluator.protocol(plan)  # refuses too few samples now, not at the first milestone
    return evaluator


def choose_device(name: str) -> torch.device:
    """`auto` is a CUDA device where there is one, else the CPU. Raises UserError on a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device = {name} is not to be had here: {str(error).splitlines()[0]} Use auto or cpu."
        ) from error
    return torch.device(name)


def choose_precision(amp: bool | str, device: torch.device) -> torch.dtype:
    """The dtype that the network's forward pass runs in: float32, or autocast's bfloat16 or float16."""
    if not amp:
        return torch.float32
    if device.type == "cpu":
        print("amp: off on a CPU, where bf16 autocast was measured 10 times slower than float32")
        return torch.float32
    if amp == "fp16":
        return torch.float16
    return torch.bfloat16 if amp == "bf16" or torch.cuda.is_bf16_supported() else torch.float16


def stream_seed(seed: int, stream: str) -> int:
    """The seed of one named random stream of a run: equal for equal (seed, stream), unrelated between streams."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:7])


def _plan(section: Sampling) -> SamplingPlan | None:
    if not section.enabled:
        return None
    return SamplingPlan(section.sampler, section.nfe, section.n_samples, section.spacing, section.eta)


def _due(every: int, step: int, last: int | None = None) -> bool:
    return step % every == 0 or step == last
