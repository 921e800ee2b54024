"""Scoring a denoiser: draw samples in batches, take features, compare with the reference set."""

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchvision.utils import make_grid
from tqdm import tqdm

from ddpm import distributed
from ddpm.cache import cached
from ddpm.checkpoint import digest
from ddpm.data import ImageSet, to_uint8
from ddpm.errors import UserError
from ddpm.evaluation.distances import Gaussian, GaussianSum, frechet_distance
from ddpm.evaluation.features import Features
from ddpm.evaluation.protocol import Protocol
from ddpm.samplers import LIMITS, SAMPLERS, Denoiser, draw, make_chain
from ddpm.schedule import Schedule

_STATISTICS = 1  # another number where they are taken in another way: what is cached is then taken anew


class Timers:
    """Cumulative seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time spent inside to `part`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start


@dataclass(frozen=True)
class SamplingPlan:
    """How images are drawn: sampler name, its network calls and their spacing, and how many images."""

    sampler: str
    nfe: int
    n_samples: int
    spacing: str = "linspace"
    eta: float = 0.0


@dataclass(frozen=True)
class Reference:
    """Feature statistics of the real images, and what they were taken from."""

    name: str
    digest: str
    gaussian: Gaussian


def make_reference(features: Features, images: ImageSet, n: int | None) -> Reference:
    """Statistics of n images of the set (all if None), evenly spaced over it, from the cache where an earlier run took
    the same ones. Raises UserError where n is too small."""
    chosen = images.images[_reference_positions(images, n)]
    if len(chosen) <= features.dim:
        raise UserError(
            f"The reference statistics would rest on {len(chosen)} images, no more than the {features.dim} dimensions "
            f"of {features.name}. Raise eval.reference_n or data.subset above {features.dim}, or use "
            "--eval.features=embedded."
        )

    def take() -> dict[str, Tensor]:
        total = GaussianSum()
        for batch in tqdm(chosen.split(250), desc="reference features", disable=None, leave=False):
            total.add(features.extract(batch))
        gaussian = total.result()
        return {"mean": gaussian.mean, "covariance": gaussian.covariance}

    # The bits depend on device, version and threads too: the features of a few images tell the first two.
    few = digest([features.extract(chosen[:8]), torch.get_num_threads(), torch.__version__])
    key = digest([_STATISTICS, features.name, features.resize, images.digest, len(chosen), few])
    found = cached("reference", key, take)
    return Reference(images.name, images.digest, Gaussian(found["mean"], found["covariance"], len(chosen)))


def held_out(images: ImageSet, reference_n: int | None, n: int) -> Tensor:
    """n real images (n, 3, H, W) that the reference does not hold, evenly spaced over the set.

    Where too few are left, over the whole set: what is scored on them is then a little too good.
    """
    left = torch.ones(len(images), dtype=torch.bool)
    left[_reference_positions(images, reference_n)] = False
    positions = left.nonzero().flatten() if left.sum() >= n else torch.arange(len(images))
    return images.images[positions[torch.linspace(0, len(positions) - 1, n).round().long()]]


def _reference_positions(images: ImageSet, n: int | None) -> Tensor:
    return torch.linspace(0, len(images) - 1, min(n or len(images), len(images))).round().long()


@dataclass
class Evaluator:
    """FID and sample grids of a denoiser on one schedule, against one reference.

    features and reference are None where nothing but grids is drawn.
    """

    schedule: Schedule
    features: Features | None
    reference: Reference | None
    device: torch.device
    batch_size: int
    x0_limit: str
    weights: str
    shape: tuple[int, int, int] = (3, 32, 32)
    timers: Timers = field(default_factory=Timers)

    def protocol(self, plan: SamplingPlan) -> Protocol:
        """The protocol of an FID by `plan`. Raises UserError where n_samples is too small for the features."""
        assert self.features and self.reference, "an FID needs features and a reference"
        if plan.n_samples <= self.features.dim:
            raise UserError(
                f"n_samples = {plan.n_samples} is too small for {self.features.name}: an FID needs more samples than "
                f"the {self.features.dim} dimensions of its features. Raise eval.fid_milestone.n_samples and "
                f"eval.final.n_samples above {self.features.dim}, or use features with fewer dimensions."
            )
        return Protocol(
            features=self.features.name,
            resize=self.features.resize,
            reference=self.reference.name,
            reference_digest=self.reference.digest,
            reference_n=self.reference.gaussian.count,
            n_samples=plan.n_samples,
            sampler=plan.sampler,
            nfe=plan.nfe,
            spacing=plan.spacing,
            eta=plan.eta,
            x0_limit=self.x0_limit,
            adjacent_posterior=SAMPLERS[plan.sampler].adjacent,
            weights=self.weights,
        )

    def samples(
        self, denoiser: Denoiser, plan: SamplingPlan, seed: int, label: str, part: slice = slice(None)
    ) -> Iterator[Tensor]:
        """plan.n_samples images, or a part of them, in batches, (B, 3, H, W) uint8; equal seeds give equal noise."""
        chain = make_chain(self.schedule, plan.sampler, plan.nfe, plan.spacing)
        batches = draw(
            plan.sampler,
            denoiser,
            chain,
            plan.n_samples,
            seed=seed,
            shape=self.shape,
            batch_size=self.batch_size,
            device=self.device,
            limit=LIMITS[self.x0_limit],
            eta=plan.eta,
            part=part,
        )
        with tqdm(total=len(range(plan.n_samples)[part]), desc=label, unit="img", disable=None, leave=False) as bar:
            while True:
                with self.timers.measure("sample"):
                    batch = next(batches, None)
                if batch is None:
                    return
                bar.update(len(batch))
                yield to_uint8(batch)

    def fid(self, denoiser: Denoiser, plan: SamplingPlan, seed: int) -> float:
        """Frechet distance of plan.n_samples samples to the reference. Of several processes, each draws its part."""
        assert self.features and self.reference, "an FID needs features and a reference"
        real = self.reference.gaussian
        several = distributed.world_size() > 1
        total = GaussianSum(real.mean if several else None)
        with distributed.together():
            for batch in self.samples(denoiser, plan, seed, "FID samples", distributed.part(plan.n_samples)):
                with self.timers.measure("features"):
                    total.add(self.features.extract(batch))
        with self.timers.measure("features"):
            if several:
                total.add_up(distributed.total)
            return distributed.from_main(lambda: frechet_distance(total.result(), real))

    def fid_of(self, images: Tensor) -> float:
        """Frechet distance of given images, (n, 3, H, W) uint8, to the reference."""
        assert self.features and self.reference, "an FID needs features and a reference"
        with self.timers.measure("features"):
            total = GaussianSum()
            for batch in images.split(250):
                total.add(self.features.extract(batch))
            return frechet_distance(total.result(), self.reference.gaussian)

    def grid(self, denoiser: Denoiser, plan: SamplingPlan, seed: int) -> Tensor:
        """One (3, H', W') uint8 picture of plan.n_samples samples, as near to a square as they fill."""
        images = torch.cat([batch.cpu() for batch in self.samples(denoiser, plan, seed, "sample grid")])
        rows = math.isqrt(len(images))
        return make_grid(images, nrow=math.ceil(len(images) / rows), padding=2)
