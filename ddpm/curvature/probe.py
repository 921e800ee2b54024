"""The curvature probe of a run: the Hessian of its loss, on draws that make measurements comparable.

docs/curvature.md describes the estimates, `ddpm.metrics.table` the keys.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn
from tqdm import tqdm

from ddpm.config.run import Config
from ddpm.config.sections import Curvature
from ddpm.curvature.draws import BY_NOISE, COMMON, NEUTRAL, TRAINED, shared_levels
from ddpm.curvature.hessian import (
    Hessian,
    LeastSquares,
    LeastSquaresTrace,
    TraceEstimate,
    gradient_noise_scale,
    hutchpp_trace,
    least_squares_trace,
    ratio,
    spectral_density,
    top_eigenvalue,
    xtrace,
)
from ddpm.curvature.hessian.chunks import MeasurementWarning, out_of_memory
from ddpm.curvature.hessian.untouched import untouched
from ddpm.data.images import to_model
from ddpm.diffusion.objective import Objective
from ddpm.diffusion.weighting import squared_error
from ddpm.metrics.table import DRAWN
from ddpm.runtime import distributed
from ddpm.runtime.streams import stream_seed

# Every CHECK_EVERY-th measurement, starting with the first, repeats CHECKS draws with exact Hessian-vector products.
# The mean over several draws averages rounding out; what is left is an error that matters.
CHECK_EVERY, CHECKS = 20, 4

Draw = Callable[..., LeastSquares]  # (number of the draw, its generator)


@dataclass
class Measurement:
    """row: numbers by the keys of `ddpm.metrics.table`; details: the lists of values that they were computed from."""

    row: dict[str, float] = field(default_factory=dict)
    details: dict[str, list[float]] = field(default_factory=dict)

    @property
    def logged(self) -> dict[str, Any]:
        """What a run logs: the numbers, and of the lists those of the draws, by which reports pair runs."""
        lists = {key: self.details[key] for key in DRAWN if any(map(math.isfinite, self.details.get(key, ())))}
        return self.row | lists


# A measurement, and how many of its values are missing.
Result = tuple[Measurement, int]


class CurvatureProbe:
    """Measures the curvature of one run at any weights. images: (n, 3, H, W) uint8, on the device that trains.

    notes: lines to print once, on how the draws differ from what the config may lead to expect.
    """

    def __init__(self, cfg: Config, objective: Objective, images: Tensor):
        self.cfg = cfg.curvature
        self._run = cfg
        self._objective = objective
        self._images = images
        self._batch_size = asked = cfg.curvature.batch_size or cfg.data.batch_size
        # Key prefixes of the trained and the common loss, which may be the same, for all methods but `hutchinson`.
        self._prefixes = [("", "ref_")] if objective.is_common else [("",), ("ref_",)]
        self._levels = None
        if cfg.curvature.draws == "fixed" and cfg.curvature.neutral:
            self._batch_size = max(self._batch_size, 2)  # one for each half
            rng = Generator().manual_seed(stream_seed(cfg.curvature.seed, "noise levels"))
            self._levels = shared_levels(
                objective, cfg.curvature.probes // cfg.curvature.per_draw, self._batch_size, rng
            )
        self._losses = self._levels.losses if self._levels else (TRAINED, COMMON)
        self.notes = self._notes(asked) if "hutchinson" in cfg.curvature.method else []

    def _notes(self, asked: int) -> list[str]:
        """How the draws differ from what the config may lead to expect. asked: images in a draw."""
        if self.cfg.neutral and not self._levels:
            return ["curvature: draws of the training batch have no neutral trace, and none by noise level"]
        found = []
        if self._batch_size != asked:
            found.append("curvature: a draw has 2 images, not 1: one at the arm's own timesteps, one at a shared level")
        missing = [name for name in (NEUTRAL, *BY_NOISE) if self._levels and name not in self._losses]
        if missing:
            levels = self._objective.trained.log_snr
            bins = sum(name in BY_NOISE for name in missing)
            found.append(
                f"curvature: no neutral trace and no trace in {bins} of {len(BY_NOISE)} bins of noise level, as the "
                f"trained timesteps reach only from log SNR {levels[-1]:.1f} to {levels[0]:.1f}"
            )
        return found

    def measure(
        self,
        model: nn.Module,
        step: int,
        batch: Tensor,
        check_stop: Callable[[], None],
        *,
        checks: int | None = None,
        exact: bool = False,
    ) -> Measurement:
        """The numbers of every `curvature.method` at the weights of `model`, which stays untouched.

        batch: (B,) positions of the images of `step`, used if `curvature.draws` is batch. check_stop: called before
        each draw; may raise. checks: draws that are repeated with exact products; None: `CHECKS`, in one measurement of
        `CHECK_EVERY`. exact: the previous measurement fell back to exact products. This one then starts with them,
        unless it checks. The processes share the draws of `hutchinson`; rank 0 does the rest.
        """
        if checks is None:
            cadence = self.cfg.every or self._run.logging.log_every_n_steps
            checks = CHECKS if math.ceil(step / cadence) % CHECK_EVERY == 1 else 0

        def draw(number: int, rng: Generator, independent: bool = False) -> LeastSquares:
            check_stop()
            return self._problem(number, rng, batch, independent)

        with _warnings_as_lines(step):
            return self._all(model, draw, step, checks, self.cfg.exact or (exact and not checks))

    def _all(self, model: nn.Module, draw: Draw, step: int, checks: int, exact: bool) -> Measurement:
        found = Measurement()
        for method in self.cfg.method:
            if method == "hutchinson":
                part, missing = self._hutchinson(model, draw, step, checks, exact)
            else:
                part, missing = distributed.from_main(lambda method=method: self._on_main(method, model, draw, step))  # type: ignore[misc]
            # Numbers that are not finite are left out: the chart has a gap, and the count explains it.
            found.row |= {key: value for key, value in part.row.items() if math.isfinite(value)}
            found.row[f"curvature/missing_{method}"] = float(missing)
            found.details |= part.details
        return found

    # --- draws ---

    def _rng(self, step: int) -> Generator:
        """`draws: fixed`: one stream for each `curvature.seed`, at all steps and runs. `batch`: one for each step."""
        if self.cfg.draws == "fixed":
            return Generator().manual_seed(stream_seed(self.cfg.seed, "fixed probes"))
        return Generator().manual_seed(stream_seed(self._run.seed, f"probe at {step}"))

    def _problem(self, number: int, rng: Generator, batch: Tensor, independent: bool = False) -> LeastSquares:
        """Draw `number`: noised images, regression targets, and the weights of the losses, a row for each.

        independent: independent images and t, whatever `draws` says.
        """
        low, high = self._objective.t_range
        levels = None if independent else self._levels
        fixed = self.cfg.draws == "fixed" and not independent
        if fixed or independent:
            batch = torch.randint(len(self._images), (self._batch_size,), generator=rng)
        if levels:
            t = low + levels.places[number]
        elif fixed:
            # One t from each of B equal parts of the range: the mean over t has less noise and stays unbiased.
            B = len(batch)
            u = torch.rand(B, generator=rng, dtype=torch.float64)
            t = (low + (torch.arange(B) + u) * (high - low) / B).long().clamp(max=high - 1)
        else:
            t = torch.randint(low, high, (len(batch),), generator=rng)
        x_0 = to_model(self._images[batch.to(self._images.device)])
        eps = torch.randn(x_0.shape, generator=rng).to(x_0.device)
        at = t.to(x_0.device)
        x_t, target = self._objective.task(x_0, at, eps)
        if levels:
            weights = levels.weights[:, number].to(x_0.device, torch.float32)
            return LeastSquares((x_t, at), target, weights, levels.strata[number])
        return LeastSquares((x_t, at), target, torch.stack(self._objective.weights_at(at)))

    # --- methods ---

    def _hutchinson(self, model: nn.Module, draw: Draw, step: int, checks: int, exact: bool) -> Result:
        traces = least_squares_trace(
            model,
            draw,
            self.cfg.probes,
            self._rng(step),
            head=getattr(model, "head", None),
            per_draw=self.cfg.per_draw,
            exact=exact,
            checks=checks,
            chunk=self.cfg.chunk,
            share=_shared,
        )
        found = Measurement()
        for loss, trace in zip(self._losses, traces, strict=True):
            found.row |= _trace_row(loss, trace)
            found.details |= _values(loss, trace)
        if not self._objective.is_common:
            quotient = ratio(*(trace.improved or trace.plain for trace in traces[:2]))
            found.row |= {"curvature/trace_ratio": quotient.value, "curvature/trace_ratio_sem": quotient.sem}
        if checks and not exact:
            errors = [
                trace.error_in_sems for loss, trace in zip(self._losses, traces, strict=True) if loss not in BY_NOISE
            ]
            found.row["curvature/numerical_error"] = math.nan if any(map(math.isnan, errors)) else max(errors)
        found.row["curvature/exact"] = float(any(trace.exact for trace in traces))
        return found, traces[0].plain.missing

    def _on_main(self, method: str, model: nn.Module, draw: Draw, step: int) -> Result:
        params = [p for p in model.parameters() if p.requires_grad]
        with untouched(params, model):
            if method == "noise_scale":
                return self._noise_scale(model, params, draw, step)
            return self._on_operator(_ON_OPERATOR[method], model, params, draw, step)

    def _on_operator(
        self, measure: "OnOperator", model: nn.Module, params: list[nn.Parameter], draw: Draw, step: int
    ) -> Result:
        """`measure` on the Hessians of both losses, on the same draw with equal random vectors."""
        rng = self._rng(step)
        data, state = draw(0, rng), rng.get_state()
        found, missing = Measurement(), 0
        for loss, prefixes in enumerate(self._prefixes):

            def of_loss(loss: int = loss) -> Measurement:
                H = Hessian(lambda: _loss(model, data, loss), params, self.cfg.chunk)
                return measure(H, self.cfg, Generator().set_state(state))

            part = _if_possible(of_loss)
            missing += not part.row
            for prefix in prefixes:
                found.row |= {f"curvature/{prefix}{key}": value for key, value in part.row.items()}
                found.details |= {f"curvature/{prefix}{key}": value for key, value in part.details.items()}
        return found, missing

    def _noise_scale(self, model: nn.Module, params: list[nn.Parameter], draw: Draw, step: int) -> Result:
        """Noise scale of the trained loss, from as many batches as there are probes.

        Images and t are independent, whatever `draws` says: strata or repeated images would lower the noise.
        """
        rng, probes = self._rng(step), self.cfg.probes

        def measure() -> Measurement:
            def loss() -> Tensor:
                return _loss(model, draw(0, rng, independent=True), 0)

            noise = gradient_noise_scale(loss, params, probes, self._batch_size)
            row = {"scale": noise.scale, "scale_sem": noise.sem, "missing": float(noise.missing)}
            return Measurement({f"curvature/noise_{key}": value for key, value in row.items()})

        found = _if_possible(measure)
        return found, int(found.row.pop("curvature/noise_missing", probes))


# --- what is measured on the Hessian of one draw; the keys get "curvature/" or "curvature/ref_" before them ---

OnOperator = Callable[[Hessian, Curvature, Generator], Measurement]


def _trace_of(key: str, estimator: Callable[[Hessian, int, Generator], TraceEstimate]) -> OnOperator:
    def measure(H: Hessian, cfg: Curvature, rng: Generator) -> Measurement:
        estimate = estimator(H, cfg.probes, rng)
        return Measurement({key: estimate.mean, f"{key}_sem": estimate.sem})

    return measure


def _lanczos(H: Hessian, cfg: Curvature, rng: Generator) -> Measurement:
    top = top_eigenvalue(H, cfg.lanczos_steps, rng)
    return Measurement({"top_eigenvalue": top.value, "top_eigenvalue_residual": top.residual})


def _slq(H: Hessian, cfg: Curvature, rng: Generator) -> Measurement:
    density = spectral_density(H, cfg.lanczos_steps, cfg.slq_starts, rng)
    trace, trace_sem = density.moment(1)
    squares, squares_sem = density.moment(2)
    seen = density.nodes[density.weights > 0]
    return Measurement(
        {
            "slq_trace": trace,
            "slq_trace_sem": trace_sem,
            "slq_square_sum": squares,
            "slq_square_sum_sem": squares_sem,
            "slq_lowest": seen.min().item(),
            "slq_highest": seen.max().item(),
        },
        {
            "slq_nodes": density.nodes.flatten().tolist(),
            "slq_weights": (density.weights / len(density.weights)).flatten().tolist(),
        },
    )


_ON_OPERATOR: dict[str, OnOperator] = {
    "hutchpp": _trace_of("hutchpp_trace", hutchpp_trace),
    "xtrace": _trace_of("xtrace", xtrace),
    "lanczos": _lanczos,
    "slq": _slq,
}


@contextmanager
def _warnings_as_lines(step: int) -> Iterator[None]:
    """Print the library's warnings as lines; pass others on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MeasurementWarning)
        yield
    lines: dict[str, None] = {}
    for warning in caught:
        if issubclass(warning.category, MeasurementWarning):
            lines[str(warning.message)] = None
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    for line in lines:
        tqdm.write(f"warning: curvature at step {step}: {line}")


def _loss(model: nn.Module, data: LeastSquares, loss: int) -> Tensor:
    return (data.weights[loss] * squared_error(model(*data.inputs), data.target)).mean()


def _trace_row(loss: str, trace: LeastSquaresTrace) -> dict[str, float]:
    """The numbers of one loss by key; of a bin of noise level, mean and standard error only."""
    key, plain = f"curvature/{loss}", trace.plain
    row = {f"{key}_mean": plain.mean, f"{key}_sem": plain.sem}
    if loss in BY_NOISE:
        return row
    row[f"{key}_std"] = plain.std
    draws, per_draw = plain.table.shape
    if per_draw > 1 and draws > 1 and len(plain.complete) > 1:
        row |= dict(zip((f"{key}_std_data", f"{key}_std_estimator"), plain.split(), strict=True))
    if trace.improved:
        row |= {f"{key}_improved": trace.improved.mean, f"{key}_improved_sem": trace.improved.sem}
    return row


def _values(loss: str, trace: LeastSquaresTrace) -> dict[str, list[float]]:
    """A value for each draw (for a single draw, each vector), NaN if missing."""
    key = f"curvature/{loss.removesuffix('_trace')}_values"
    values = {key: trace.plain.independent.mean(1).tolist()}
    if trace.improved:
        values[f"{key}_improved"] = trace.improved.independent.mean(1).tolist()
    return values


def _if_possible(measure: Callable[[], Measurement]) -> Measurement:
    """The result of `measure`; an empty one if a product is not finite or memory runs out."""
    try:
        return measure()
    except FloatingPointError:
        return Measurement()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        warnings.warn("out of memory: values are missing", MeasurementWarning, stacklevel=2)
        return Measurement()


def _shared(draws: int, measure: Callable[[range], Tensor]) -> Tensor:
    with distributed.together():
        mine = measure(range(draws)[distributed.part(draws)])
    return distributed.total(mine)
