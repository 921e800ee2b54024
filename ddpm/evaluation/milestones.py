"""What a training run is scored by, and when: FID, errors at single timesteps, and sample grids."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ddpm.config import Config
from ddpm.config_sections import Sampling
from ddpm.data import ImageSet, to_model
from ddpm.distributed import from_main, in_turn
from ddpm.evaluation.evaluate import Evaluator, SamplingPlan, Timers, held_out, make_reference
from ddpm.evaluation.features import make_features
from ddpm.evaluation.known_answer import require, try_sampler
from ddpm.evaluation.reconstruction import reconstruction
from ddpm.samplers import LIMITS, Denoiser, ImageNoise
from ddpm.schedule import Schedule
from ddpm.streams import stream_seed


class Milestones:
    """The evaluations that `cfg` asks for, ready to be taken. Of several processes, all have to take each: the samples
    of an FID are shared among them, and rank 0 does the rest.

    Raises UserError where too few images are to be scored, or where a scoring sampler misses a known answer.
    """

    def __init__(self, cfg: Config, schedule: Schedule, images: ImageSet, device: torch.device, timers: Timers):
        self.cfg, self.total = cfg.eval, cfg.train.total_steps
        self.fid_plan = _plan(cfg.eval.fid_milestone)
        self.final_plan = _plan(cfg.eval.final)
        self.grid_plan = _plan(cfg.eval.grid)
        self.evaluator = self._make_evaluator(schedule, images, device, timers)
        self.checks = self._check_samplers(schedule)
        self._images = images
        self._floor: float | None = None
        self.fixed_batch = self._make_fixed_batch() if cfg.eval.recon.enabled else None

    @property
    def protocols(self) -> dict[str, dict[str, Any]]:
        """Fingerprint to description, of every protocol this run scores by."""
        found = [self.evaluator.protocol(p) for p in (self.fid_plan, self.final_plan) if p]
        return {p.fingerprint: p.describe() for p in found}

    def score(self, step: int, denoiser: Callable[[], Denoiser]) -> dict[str, Any]:
        """What is due after `step`, by metric key: FIDs with their protocols, and errors at single timesteps."""
        row: dict[str, Any] = {}
        milestone = self.fid_plan if _due(self.cfg.fid_milestone.every, step) else None
        final = self.final_plan if step == self.total else None
        if milestone:
            row["val/fid"] = self.evaluator.fid(denoiser(), milestone, self.cfg.sample_seed)
            row["val/fid_protocol"] = self.evaluator.protocol(milestone).fingerprint
            row["val/fid_floor"] = self.floor(milestone)
        if final:
            # The same protocol and noise on the same weights: the milestone's number is the final one.
            same = final == milestone
            row["final/fid"] = row["val/fid"] if same else self.evaluator.fid(denoiser(), final, self.cfg.sample_seed)
            row["final/fid_protocol"] = self.evaluator.protocol(final).fingerprint
        if self.fixed_batch and (_due(self.cfg.recon.every, step) or step == self.total):
            fixed = self.fixed_batch
            row |= from_main(lambda: self.reconstruct(denoiser(), *fixed))
        return row

    def reconstruct(self, denoiser: Denoiser, images: Tensor, noise: Tensor) -> dict[str, float]:
        """The errors of `denoiser` at `eval.recon.t_values`; images and noise (n, 3, H, W)."""
        e = self.evaluator
        with e.timers.measure("recon"):
            return reconstruction(
                denoiser,
                images.to(e.device),
                noise.to(e.device),
                e.schedule,
                self.cfg.recon.t_values,
                batch_size=e.batch_size,
                limit=LIMITS[e.x0_limit],
            )

    def _make_fixed_batch(self) -> tuple[Tensor, Tensor]:
        """Real images in [-1, 1] and their noise, which depends on `eval.sample_seed` and the image's place alone."""
        images = to_model(held_out(self._images, self.cfg.reference_n, self.cfg.recon.n_samples))
        seed = stream_seed(self.cfg.sample_seed, "reconstruction")
        noise = ImageNoise(seed, range(len(images)), tuple(images.shape[1:]), images.device)
        return images, noise()

    def floor(self, plan: SamplingPlan) -> float:
        """What as many real images score as `plan` draws: an FID near it cannot be told from the data's."""
        if self._floor is None:
            real = held_out(self._images, self.cfg.reference_n, plan.n_samples)
            self._floor = from_main(lambda: self.evaluator.fid_of(real))
        return self._floor

    def draw_grid(self, step: int, denoiser: Callable[[], Denoiser]) -> Image.Image | None:
        """The sample grid of a step that has one."""
        if not (self.grid_plan and (_due(self.cfg.grid.every, step) or step == self.total)):
            return None
        plan = self.grid_plan
        picture = from_main(lambda: self.evaluator.grid(denoiser(), plan, self.cfg.grid.sample_seed))
        return Image.fromarray(picture.permute(1, 2, 0).numpy())

    def _make_evaluator(self, schedule: Schedule, images: ImageSet, device: torch.device, timers: Timers) -> Evaluator:
        plans = [p for p in (self.fid_plan, self.final_plan) if p]
        features = in_turn(lambda: make_features(self.cfg.features, device)) if plans else None
        _, channels, height, width = images.images.shape
        evaluator = Evaluator(
            schedule=schedule,
            features=features,
            reference=make_reference(features, images, self.cfg.reference_n) if features else None,
            device=device,
            batch_size=self.cfg.batch_size or (25 if device.type == "cpu" else 250),
            x0_limit=self.cfg.x0_limit,
            weights=self.cfg.weights,
            shape=(channels, height, width),
            timers=timers,
        )
        for plan in plans:
            evaluator.protocol(plan)  # refuses too few samples now, not at the first milestone
        return evaluator

    def _check_samplers(self, schedule: Schedule) -> dict[str, float]:
        """Each scoring sampler's error on a known answer, by metric key. Raises UserError beyond tolerance."""
        errors = {}
        for key, plan in (
            ("check/sampler_std_error", self.fid_plan),
            ("check/final_sampler_std_error", self.final_plan),
        ):
            if plan:
                answer = try_sampler(schedule, plan.sampler, plan.nfe, plan.spacing, plan.eta)
                require(answer, self.cfg.accept_sampler_error)
                if not answer.passes:
                    print(f"warning: {plan.sampler} at nfe {plan.nfe} misses a known answer by {answer.error:+.0%}")
                errors[key] = answer.error
        return errors


def _plan(section: Sampling) -> SamplingPlan | None:
    if not section.enabled:
        return None
    return SamplingPlan(section.sampler, section.nfe, section.n_samples, section.spacing, section.eta)


def _due(every: int, step: int) -> bool:
    return step % every == 0
