"""Scoring a denoiser: draw samples in batches, take features, compare with the reference set."""

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm.data.images import to_uint8
from ddpm.diffusion.samplers import LIMITS, SAMPLERS, Denoiser, draw, make_chain
from ddpm.diffusion.schedule import Schedule
from ddpm.errors import UserError
from ddpm.evaluation.features import Features
from ddpm.evaluation.protocol import Protocol
from ddpm.evaluation.reference import Reference
from ddpm.evaluation.sample_table import SampleTable, Shown
from ddpm.evaluation.scores import FeatureSums, Wanted, scores
from ddpm.runtime import distributed
from ddpm.runtime.cache import cached
from ddpm.runtime.checkpoint import digest

_SCORES = 1  # bump when scores are computed in another way; discards cached scores of real images


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
    """How images are drawn: sampler, network calls and their spacing, number of images, the chain's first timestep."""

    sampler: str
    nfe: int
    n_samples: int
    spacing: str = "linspace"
    eta: float = 0.0
    t_start: int | None = None  # T - 1


@dataclass
class Evaluator:
    """Scores and sample grids of a denoiser on one schedule, against one reference.

    features and reference are None if only grids are drawn. wanted: the scores besides FID. show: how many
    single samples the next `scores` keeps in `table`.
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
    wanted: Wanted = field(default_factory=Wanted)
    show: int = 0
    table: SampleTable | None = None

    def protocol(self, plan: SamplingPlan, score: str = "fid") -> Protocol:
        """The protocol of a score by `plan`. Raises UserError if n_samples is too small for the features or a score."""
        features, reference = self._scoring
        if score == "fid" and plan.n_samples <= features.dim:
            raise UserError(
                f"n_samples = {plan.n_samples} is too small for {features.name}: an FID needs more samples than the "
                f"{features.dim} dimensions of its features. Raise eval.fid_milestone.n_samples and "
                f"eval.final.n_samples (`ddpm evaluate`: --n) above {features.dim}, use features with fewer, or score "
                "by KID (`ddpm evaluate --metrics kid`), which has no such limit."
            )
        rows = 0 if reference.rows is None else len(reference.rows)
        self.wanted.check(plan.n_samples, rows, features.dim)
        return Protocol(
            features=features.name,
            resize=features.resize,
            reference=reference.name,
            reference_digest=reference.digest,
            reference_n=reference.gaussian.count,
            n_samples=plan.n_samples,
            sampler=plan.sampler,
            nfe=plan.nfe,
            spacing=plan.spacing,
            eta=plan.eta,
            x0_limit=self.x0_limit,
            adjacent_posterior=SAMPLERS[plan.sampler].adjacent,
            weights=self.weights,
            t_start=plan.t_start,
            settings=self.wanted.settings(score, plan.n_samples, rows, reference.rows_digest),
        )

    def smaller_subsets(self, plan: SamplingPlan) -> str | None:
        """A sentence if `plan` has too few samples for KID's subsets as asked for; None if not."""
        rows = self._scoring[1].rows
        return self.wanted.smaller_subsets(plan.n_samples, 0 if rows is None else len(rows))

    @property
    def _scoring(self) -> tuple[Features, Reference]:
        assert self.features and self.reference, "a score needs features and a reference"
        return self.features, self.reference

    def samples(
        self, denoiser: Denoiser, plan: SamplingPlan, seed: int, label: str | None, part: slice = slice(None)
    ) -> Iterator[Tensor]:
        """Yield plan.n_samples images, or a part of them, in batches (B, 3, H, W) uint8. Equal seeds give equal noise.

        label: of a progress bar; None shows no bar.
        """
        chain = make_chain(self.schedule, plan.sampler, plan.nfe, plan.spacing, plan.t_start)
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
        n, hidden = len(range(plan.n_samples)[part]), None if label else True
        with tqdm(total=n, desc=label, unit="img", disable=hidden, leave=False) as bar:
            while True:
                with self.timers.measure("sample"):
                    drawn = next(batches, None)
                    if drawn is None:
                        return
                    batch = to_uint8(drawn).cpu()  # waits for the device, so the time counts as sampling
                bar.update(len(batch))
                yield batch

    def scores(self, denoiser: Denoiser, plan: SamplingPlan, seed: int) -> dict[str, float]:
        """The scores of plan.n_samples samples by name, see `scores`. Each process draws its part."""
        features, reference = self._scoring
        part = distributed.part(plan.n_samples)
        several = distributed.world_size() > 1
        found = FeatureSums(plan.n_samples, features.dim, reference.gaussian.mean if several else None, part.start)
        shown = Shown(plan.n_samples, self.show, part)
        with distributed.together():
            drawn = shown.watch(self.samples(denoiser, plan, seed, "FID samples", part))
            found.add_all(features.of(drawn, self.timing_features))
        if several:
            with self.timers.measure("features"):
                found.add_up(distributed.total)
        row = distributed.from_main(lambda: self.score(found))
        self.table = shown.table(found, reference)
        return row

    def timing_features(self) -> AbstractContextManager[None]:
        return self.timers.measure("features")

    def score(self, found: FeatureSums) -> dict[str, float]:
        """The scores of gathered features, by name."""
        _, reference = self._scoring
        with self.timers.measure("distance"):
            return scores(found, reference.gaussian, reference.rows, self.wanted)

    def scores_of(self, what: str, images: Iterable[Tensor], n: int) -> dict[str, float]:
        """The scores of n given images in batches (B, 3, H, W) uint8, cached.

        what: a description that identifies these images.
        """
        features, reference = self._scoring

        def take() -> dict[str, Tensor]:
            found = FeatureSums(n, features.dim)
            found.add_all(features.of(tqdm(images, desc=what, disable=None, leave=False), self.timing_features))
            return {name: torch.tensor(value, dtype=torch.float64) for name, value in self.score(found).items()}

        where = [str(self.device), torch.get_num_threads(), torch.__version__]
        key = digest([_SCORES, reference.key, features.name, what, n, repr(self.wanted), where])
        return {name: value.item() for name, value in cached("scores", key, take).items()}

    def grid(self, denoiser: Denoiser, plan: SamplingPlan, seed: int) -> Tensor:
        """One (3, H', W') uint8 picture of plan.n_samples samples, nearly square."""
        from torchvision.utils import make_grid  # imports for seconds, and not every command draws a grid

        images = torch.cat(list(self.samples(denoiser, plan, seed, "sample grid")))
        rows = math.isqrt(len(images))
        return make_grid(images, nrow=math.ceil(len(images) / rows), padding=2)
