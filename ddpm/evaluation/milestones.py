"""When a training run is scored and by what: FID and other scores, errors at single timesteps, sample grids."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ddpm.config.run import Config
from ddpm.config.sections import Data, Eval, Sampling
from ddpm.data.images import ImageSet, to_model
from ddpm.data.unseen import load_unseen
from ddpm.diffusion.samplers import LIMITS, Denoiser, ImageNoise
from ddpm.diffusion.schedule import Schedule
from ddpm.errors import NotFinite, UserError
from ddpm.evaluation.evaluator import Evaluator, SamplingPlan, Timers
from ddpm.evaluation.features import Features, make_features
from ddpm.evaluation.kid_prdc import Kid
from ddpm.evaluation.loss_by_noise import LossByNoise
from ddpm.evaluation.reconstruction import profile, reconstruction
from ddpm.evaluation.reference import (
    BATCH,
    Reference,
    make_reference,
    outside_reference,
    published_reference,
    uniform_noise,
)
from ddpm.evaluation.sample_table import SampleTable
from ddpm.evaluation.sampler_check import require, try_sampler
from ddpm.evaluation.scores import NEIGHBOURS, Wanted
from ddpm.names import NOISE_BINS
from ddpm.runtime.checkpoint import digest
from ddpm.runtime.distributed import from_main, in_turn
from ddpm.runtime.streams import stream_seed


class Milestones:
    """The evaluations of a config. All processes call each: they share the samples of an FID, and rank 0 does the rest.

    Raises UserError if too few images are scored, or if a scoring sampler fails its check.
    """

    def __init__(self, cfg: Config, schedule: Schedule, images: ImageSet, device: torch.device, timers: Timers):
        self.cfg, self.total = cfg.eval, cfg.train.total_steps
        self.fid_plan = _plan(cfg.eval.fid_milestone)
        self.final_plan = _plan(cfg.eval.final)
        self.grid_plan = _plan(cfg.eval.grid)
        self.evaluator = self._make_evaluator(schedule, images, device, timers)
        self.checks = self._check_samplers(schedule)
        self._images, self._embedded = images, cfg.data.dataset == "embedded"
        self.table: tuple[list[dict[str, Any]], Image.Image] | None = None  # of the last `score`
        self._ends: dict[int, tuple[dict[str, float], dict[str, float]]] = {}
        self.fixed_batch: tuple[Tensor, Tensor] | None = None
        self.by_noise: LossByNoise | None = None
        if cfg.eval.recon.enabled:
            positions = outside_reference(images, cfg.eval.reference_n, cfg.eval.recon.n_samples)
            self.fixed_batch = self._make_fixed_batch(positions)
            self.by_noise = self._make_by_noise(cfg.data, positions, self.fixed_batch[1])

    @property
    def protocols(self) -> dict[str, dict[str, Any]]:
        """{fingerprint: description} of every protocol of this run."""
        wanted = ("fid", *(["kid"] if self.cfg.kid.enabled else []), *(NEIGHBOURS if self.cfg.prdc.enabled else ()))
        plans = [p for p in (self.fid_plan, self.final_plan) if p]
        found = [self.evaluator.protocol(p, name) for p in plans for name in wanted]
        return {p.fingerprint: p.describe() for p in found}

    def score(self, step: int, denoiser: Callable[[], Denoiser]) -> dict[str, Any]:
        """The row of what is due after `step`: scores with their protocols, and errors at single timesteps."""
        row: dict[str, Any] = {}
        milestone = self.fid_plan if _due(self.cfg.fid_milestone.every, step) else None
        final = self.final_plan if step == self.total else None
        self.evaluator.table = None
        if milestone:
            self.evaluator.show = self.cfg.sample_table.rows
            row |= self._scores("val", denoiser(), milestone)
            self.evaluator.show = 0
        table = self.evaluator.table
        if final:
            # Equal plans mean equal protocol, noise and weights: the milestone's numbers are the final ones.
            same = final == milestone
            row |= _renamed(row, "val", "final") if same else self._scores("final", denoiser(), final)
        if self.fixed_batch and (_due(self.cfg.recon.every, step) or step == self.total):
            fixed = self.fixed_batch
            row |= from_main(lambda: self.reconstruct(denoiser(), *fixed) | self.measure_by_noise(denoiser()))
        self.table = self._shown(table) if table else None  # on the first process
        return row

    def _shown(self, table: SampleTable) -> tuple[list[dict[str, Any]], Image.Image]:
        """The rows of a sample table as plain values, and one picture: the samples side by side, below them the nearest
        real images if they are to be shown."""
        rows = [{"index": i, "influence": v} for i, v in zip(table.index, table.influence.tolist(), strict=True)]
        pictures = [table.images]
        if table.nearest is not None and table.distance is not None:
            for row, position, distance in zip(rows, table.nearest.tolist(), table.distance.tolist(), strict=True):
                row |= {"nearest": position, "distance": distance}
            asked = self.cfg.sample_table.nearest_image
            if self._embedded if asked is None else asked:
                pictures.append(self._images.images[table.nearest])
        picture = torch.cat([torch.cat(list(part), dim=2) for part in pictures], dim=1)
        return rows, Image.fromarray(picture.permute(1, 2, 0).cpu().numpy())

    def reconstruct(self, denoiser: Denoiser, images: Tensor, noise: Tensor) -> dict[str, float]:
        """The errors of `denoiser` at `eval.recon.t_values` and in bins of t; images and noise (n, 3, H, W)."""
        e = self.evaluator
        with e.timers.measure("recon"):
            x_0, eps = images.to(e.device), noise.to(e.device)
            row = reconstruction(
                denoiser,
                x_0,
                eps,
                e.schedule,
                self.cfg.recon.t_values,
                batch_size=e.batch_size,
                limit=LIMITS[e.x0_limit],
            )
            return row | profile(denoiser, x_0, eps, e.schedule, self.cfg.recon.bins, batch_size=e.batch_size)

    def measure_by_noise(self, denoiser: Denoiser) -> dict[str, float]:
        """The errors of `denoiser` by noise level, on seen and on unseen images."""
        e = self.evaluator
        with e.timers.measure("recon"):
            return self.by_noise.row(denoiser, e.device, e.batch_size) if self.by_noise else {}

    def _make_by_noise(self, d: Data, positions: Tensor, noise: Tensor) -> LossByNoise:
        """The loss by noise level on the images at `positions` and on unseen ones. Says what will be missing."""
        n = len(positions)
        try:
            unseen = load_unseen(n, **d.images)
        except UserError as error:
            unseen = self._images.images[:0]
            print(f"loss by noise level: no unseen images, so no gap to the training images. {error}")
        else:
            if len(unseen) < n:
                print(f"loss by noise level: only {len(unseen)} unseen images, not eval.recon.n_samples = {n}")
        found = LossByNoise(self.evaluator.schedule, self._images, positions, unseen, noise)
        missing = [name for name in NOISE_BINS if name not in found.bins]
        if missing:
            print(f"loss by noise level: the schedule does not cover {', '.join(missing)}: left out")
        return found

    def _make_fixed_batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Real images in [-1, 1] and their noise, which depends only on `eval.sample_seed` and the image's place."""
        images = to_model(self._images.images[positions])
        seed = stream_seed(self.cfg.sample_seed, "reconstruction")
        noise = ImageNoise(seed, range(len(images)), tuple(images.shape[1:]), images.device)
        return images, noise()

    def _scores(self, prefix: str, denoiser: Denoiser, plan: SamplingPlan) -> dict[str, Any]:
        """Each score of `plan` with its protocol, and FID's floor and ceiling at the same n. Only `not_finite` if the
        samples are not finite."""
        try:
            found = self.evaluator.scores(denoiser, plan, self.cfg.sample_seed)
        except NotFinite as error:
            tqdm.write(f"warning: no {prefix}/ scores: {error}")
            return {f"{prefix}/not_finite": 1.0}
        row: dict[str, Any] = {f"{prefix}/{name}": value for name, value in found.items()}
        for name in [name for name in found if name in ("fid", "kid", *NEIGHBOURS)]:
            row[f"{prefix}/{name}_protocol"] = self.evaluator.protocol(plan, name).fingerprint
        floor, ceiling = self.ends(plan.n_samples)
        return row | {f"{prefix}/fid_floor": floor["fid"], f"{prefix}/fid_ceiling": ceiling["fid"]}

    def ends(self, n: int) -> tuple[dict[str, float], dict[str, float]]:
        """The scores of n real images and of n images of uniform noise, the ends of FID's scale. Computed once."""
        if n not in self._ends:
            self._ends[n] = from_main(lambda: ends(self.evaluator, self._images, self.cfg.reference_n, n))
        return self._ends[n]

    def has_grid(self, step: int) -> bool:
        """Whether a sample grid is due after `step`."""
        return self.grid_plan is not None and (_due(self.cfg.grid.every, step) or step == self.total)

    def draw_grid(self, step: int, denoiser: Callable[[], Denoiser]) -> Image.Image | None:
        """The sample grid of a step; None if none is due, or (with a warning) if samples are not finite."""
        plan = self.grid_plan
        if not (plan and self.has_grid(step)):
            return None
        try:
            picture = from_main(lambda: self.evaluator.grid(denoiser(), plan, self.cfg.grid.sample_seed))
        except NotFinite as error:
            tqdm.write(f"warning: no sample grid: {error}")
            return None
        return Image.fromarray(picture.permute(1, 2, 0).numpy())

    def _make_evaluator(self, schedule: Schedule, images: ImageSet, device: torch.device, timers: Timers) -> Evaluator:
        plans = [p for p in (self.fid_plan, self.final_plan) if p]
        features = in_turn(lambda: make_features(self.cfg.features, device)) if plans else None
        _, channels, height, width = images.images.shape
        evaluator = Evaluator(
            schedule=schedule,
            features=features,
            reference=reference_of(self.cfg, features, images) if features else None,
            device=device,
            batch_size=self.cfg.batch_size or default_batch_size(device),
            x0_limit=self.cfg.x0_limit,
            weights=self.cfg.weights,
            shape=(channels, height, width),
            timers=timers,
            wanted=wanted_by(self.cfg),
        )
        for plan in plans:
            evaluator.protocol(plan)  # raises on too few samples now, not at the first milestone
        for said in dict.fromkeys(evaluator.smaller_subsets(plan) for plan in plans):
            if said:
                print(said)
        return evaluator

    def _check_samplers(self, schedule: Schedule) -> dict[str, float]:
        """Each scoring sampler's error on a known distribution, by metric key. Raises UserError beyond tolerance."""
        errors = {}
        for key, plan in (
            ("check/sampler_std_error", self.fid_plan),
            ("check/final_sampler_std_error", self.final_plan),
        ):
            if plan:
                answer = try_sampler(schedule, plan.sampler, plan.nfe, plan.spacing, plan.eta, plan.t_start)
                require(answer, self.cfg.accept_sampler_error)
                if not answer.passes:
                    print(f"warning: {plan.sampler} at nfe {plan.nfe} misses a known answer by {answer.error:+.0%}")
                errors[key] = answer.error
        return errors


def wanted_by(cfg: Eval) -> Wanted:
    """The scores besides FID that a config asks for."""
    settings = Kid(cfg.kid.subsets, cfg.kid.subset_size)
    return Wanted(settings if cfg.kid.enabled else None, cfg.prdc.k if cfg.prdc.enabled else None)


def default_batch_size(device: torch.device) -> int:
    """The default number of images sampled at a time."""
    return 25 if device.type == "cpu" else 250


def reference_of(cfg: Eval, features: Features, images: ImageSet, wanted: Wanted | None = None) -> Reference:
    """The reference of a config. Raises UserError."""
    if cfg.reference_stats:
        return published_reference(cfg.reference_stats, features, (wanted or wanted_by(cfg)).needs_rows)
    return make_reference(features, images, cfg.reference_n)


def ends(
    evaluator: Evaluator, images: ImageSet, reference_n: int | None, n: int
) -> tuple[dict[str, float], dict[str, float]]:
    """The scores of n real images (see `outside_reference`) and of n images of uniform noise."""
    real = images.images[outside_reference(images, reference_n, n)]
    floor = evaluator.scores_of(f"real images {digest(real)[:12]}", real.split(BATCH), n)
    return floor, evaluator.scores_of("uniform noise", uniform_noise(n, evaluator.shape), n)


def _renamed(row: dict[str, Any], before: str, after: str) -> dict[str, Any]:
    return {f"{after}/{key.removeprefix(f'{before}/')}": value for key, value in row.items()}


def _plan(section: Sampling) -> SamplingPlan | None:
    if not section.enabled:
        return None
    keys = ("sampler", "nfe", "n_samples", "spacing", "eta", "t_start")
    return SamplingPlan(**{key: getattr(section, key) for key in keys})


def _due(every: int, step: int) -> bool:
    return step % every == 0
