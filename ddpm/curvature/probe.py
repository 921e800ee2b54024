"""The curvature probe of a run: the Hessian of its loss, on draws that make two measurements comparable.

docs/curvature.md says what is estimated; `ddpm.metrics.table` names the keys.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn
from tqdm import tqdm

from ddpm.config.run import Config
from ddpm.curvature.hessian import (
    Hessian,
    LeastSquares,
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
from ddpm.runtime import distributed
from ddpm.runtime.streams import stream_seed

# Every CHECK_EVERY-th measurement, starting with the first, repeats CHECKS draws with exact Hessian-vector products.
# The mean over several draws averages rounding out; what is left is an error that matters.
CHECK_EVERY, CHECKS = 20, 4

Details = dict[str, list[float]]
Draw = Callable[..., LeastSquares]


@dataclass
class Measurement:
    """row: a number under each key of `ddpm.metrics.table`; details: what the numbers were made of, lists."""

    row: dict[str, float] = field(default_factory=dict)
    details: Details = field(default_factory=dict)


# A measurement, and how many of its values are missing.
Result = tuple[Measurement, int]


class CurvatureProbe:
    """Measures any weights of the network of one run. images: (n, 3, H, W) uint8, where the run trains."""

    def __init__(self, cfg: Config, objective: Objective, images: Tensor):
        self.cfg = cfg.curvature
        self._run = cfg
        self._objective = objective
        self._images = images
        # What each loss's numbers are logged under: the trained one's and the common one's, which may be the same.
        self._prefixes = [("", "ref_")] if objective.is_common else [("",), ("ref_",)]

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
        """What `curvature.method` names, at the weights of `model`, which is left untouched.

        batch: (B,) positions of the images of `step`, for `curvature.draws: batch`. check_stop: called between two
        draws, and may raise. checks: how many draws to take by exact products too; None is `CHECKS`, at one measurement
        in `CHECK_EVERY`. exact: whether the one before fell back to exact products: then all do, up to the next check.
        Of several processes each takes its part of the draws of `hutchinson`; rank 0 does the rest.
        """
        if checks is None:
            cadence = self.cfg.every or self._run.logging.log_every_n_steps
            checks = CHECKS if math.ceil(step / cadence) % CHECK_EVERY == 1 else 0

        def draw(rng: Generator, independent: bool = False) -> LeastSquares:
            check_stop()
            return self._problem(rng, batch, independent)

        with _told(step):
            return self._all(model, draw, step, checks, self.cfg.exact or (exact and not checks))

    def _all(self, model: nn.Module, draw: Draw, step: int, checks: int, exact: bool) -> Measurement:
        found = Measurement()
        for method in self.cfg.method:
            if method == "hutchinson":
                part, missing = self._hutchinson(model, draw, step, checks, exact)
            else:
                measure = _METHODS[method]
                part, missing = distributed.from_main(lambda measure=measure: measure(self, model, draw, step))  # type: ignore[misc]
            # A number that is none is left out: a chart has a gap there, and the count says why.
            found.row |= {key: value for key, value in part.row.items() if math.isfinite(value)}
            found.row[f"curvature/missing_{method}"] = float(missing)
            found.details |= part.details
        return found

    # --- draws ---

    def _rng(self, step: int) -> Generator:
        """Equal at every step and in every run of one `curvature.seed`; for `draws: batch`, of the run's step alone."""
        if self.cfg.draws == "fixed":
            return Generator().manual_seed(stream_seed(self.cfg.seed, "fixed probes"))
        return Generator().manual_seed(stream_seed(self._run.seed, f"probe at {step}"))

    def _problem(self, rng: Generator, batch: Tensor, independent: bool = False) -> LeastSquares:
        """One draw: noised images, what the network is to say of them, and the weights of the losses.

        independent: images and t that have nothing to do with each other, whatever `draws` says.
        """
        low, high = self._objective.t_range
        fixed = self.cfg.draws == "fixed"
        if fixed or independent:
            B = self.cfg.batch_size or self._run.data.batch_size
            batch = torch.randint(len(self._images), (B,), generator=rng)
        if fixed and not independent:
            # One t from each B-th part of the range: the mean over t has less noise, and stays unbiased.
            u = torch.rand(B, generator=rng, dtype=torch.float64)
            t = (low + (torch.arange(B) + u) * (high - low) / B).long().clamp(max=high - 1)
        else:
            t = torch.randint(low, high, (len(batch),), generator=rng)
        x_0 = to_model(self._images[batch.to(self._images.device)])
        eps = torch.randn(x_0.shape, generator=rng).to(x_0.device)
        t = t.to(x_0.device)
        x_t, wanted = self._objective.task(x_0, t, eps)
        weights = torch.stack(self._objective.weights_at(t))
        return LeastSquares((x_t, t), wanted, weights[-len(self._prefixes) :])

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
        for prefix, trace in zip(("hutch", "ref"), (traces[0], traces[-1]), strict=True):
            found.row |= _plain_row(f"curvature/{prefix}_trace", trace.plain)
            found.details[f"curvature/{prefix}_values"] = trace.plain.values.tolist()
            if trace.improved:
                found.row[f"curvature/{prefix}_trace_improved"] = trace.improved.mean
                found.row[f"curvature/{prefix}_trace_improved_sem"] = trace.improved.sem
                found.details[f"curvature/{prefix}_values_improved"] = trace.improved.values.tolist()
        if len(traces) == 2:
            quotient = ratio(*(trace.improved or trace.plain for trace in traces))
            found.row |= {"curvature/trace_ratio": quotient.value, "curvature/trace_ratio_sem": quotient.sem}
        if checks and not exact:
            errors = [trace.error_in_sems for trace in traces]
            found.row["curvature/numerical_error"] = math.nan if any(map(math.isnan, errors)) else max(errors)
        found.row["curvature/exact"] = float(any(trace.exact for trace in traces))
        return found, max(trace.plain.missing for trace in traces)

    def _on_operator(
        self, model: nn.Module, draw: Draw, step: int, measure: Callable[[Hessian, Generator], Measurement]
    ) -> Result:
        """`measure(H, rng)` of the Hessians of both losses on a draw of their own, with equal random vectors."""
        rng = self._rng(step)
        data, state = draw(rng), rng.get_state()
        params = [p for p in model.parameters() if p.requires_grad]
        found, missing = Measurement(), 0
        with untouched(params, model):
            for loss, prefixes in enumerate(self._prefixes):

                def of_loss(loss: int = loss) -> Measurement:
                    H = Hessian(lambda: _loss(model, data, loss), params, self.cfg.chunk)
                    return measure(H, Generator().set_state(state))

                part = _if_possible(of_loss)
                missing += not part.row
                for prefix in prefixes:
                    found.row |= {f"curvature/{prefix}{key}": value for key, value in part.row.items()}
                    found.details |= {f"curvature/{prefix}{key}": value for key, value in part.details.items()}
        return found, missing

    def _hutchpp(self, model: nn.Module, draw: Draw, step: int) -> Result:
        def measure(H: Hessian, rng: Generator) -> Measurement:
            estimate = hutchpp_trace(H, self.cfg.probes, rng)
            return Measurement({"hutchpp_trace": estimate.mean, "hutchpp_trace_sem": estimate.sem})

        return self._on_operator(model, draw, step, measure)

    def _xtrace(self, model: nn.Module, draw: Draw, step: int) -> Result:
        def measure(H: Hessian, rng: Generator) -> Measurement:
            estimate = xtrace(H, self.cfg.probes, rng)
            return Measurement({"xtrace": estimate.mean, "xtrace_sem": estimate.sem})

        return self._on_operator(model, draw, step, measure)

    def _lanczos(self, model: nn.Module, draw: Draw, step: int) -> Result:
        def measure(H: Hessian, rng: Generator) -> Measurement:
            top = top_eigenvalue(H, self.cfg.lanczos_steps, rng)
            return Measurement({"top_eigenvalue": top.value, "top_eigenvalue_residual": top.residual})

        return self._on_operator(model, draw, step, measure)

    def _slq(self, model: nn.Module, draw: Draw, step: int) -> Result:
        def measure(H: Hessian, rng: Generator) -> Measurement:
            density = spectral_density(H, self.cfg.lanczos_steps, self.cfg.slq_starts, rng)
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

        return self._on_operator(model, draw, step, measure)

    def _noise_scale(self, model: nn.Module, draw: Draw, step: int) -> Result:
        """Of the trained loss, from as many batches as there are probes. Their images and t are independent, whatever
        `draws` says: strata, or the same images each time, would take their part out of the noise."""
        rng, probes = self._rng(step), self.cfg.probes
        params = [p for p in model.parameters() if p.requires_grad]
        B = len(draw(self._rng(step), independent=True).target)

        def measure() -> Measurement:
            with untouched(params, model):
                noise = gradient_noise_scale(lambda: _loss(model, draw(rng, independent=True), 0), params, probes, B)
            row = {"scale": noise.scale, "scale_sem": noise.sem, "missing": float(noise.missing)}
            return Measurement({f"curvature/noise_{key}": value for key, value in row.items()})

        found = _if_possible(measure)
        return found, int(found.row.pop("curvature/noise_missing", probes))


_METHODS: dict[str, Callable[..., Result]] = {
    "hutchpp": CurvatureProbe._hutchpp,
    "xtrace": CurvatureProbe._xtrace,
    "lanczos": CurvatureProbe._lanczos,
    "slq": CurvatureProbe._slq,
    "noise_scale": CurvatureProbe._noise_scale,
}


@contextmanager
def _told(step: int) -> Iterator[None]:
    """What the library warns of, as lines for the person who watches the run."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MeasurementWarning)
        yield
    for said in dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, MeasurementWarning)):
        tqdm.write(f"warning: curvature at step {step}: {said}")
    for other in caught:
        if not issubclass(other.category, MeasurementWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)


def _loss(model: nn.Module, data: LeastSquares, loss: int) -> Tensor:
    return (data.weights[loss] * squared_error(model(*data.inputs), data.target)).mean()


def _plain_row(key: str, trace: TraceEstimate) -> dict[str, float]:
    row = {f"{key}_mean": trace.mean, f"{key}_std": trace.std, f"{key}_sem": trace.sem}
    draws, per_draw = trace.table.shape
    if per_draw > 1 and draws > 1 and len(trace.complete) > 1:
        row |= dict(zip((f"{key}_std_data", f"{key}_std_estimator"), trace.split(), strict=True))
    return row


def _if_possible(measure: Callable[[], Measurement]) -> Measurement:
    """What `measure` finds; nothing where a product is not finite or memory runs out."""
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
