"""The curvature probe of a run: `ddpm.hessian` applied to its loss, on draws that make two measurements comparable.

docs/curvature.md says what is estimated; `ddpm.metrics` names the keys.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn
from tqdm import tqdm

from ddpm import distributed
from ddpm.config import Config
from ddpm.data import to_model
from ddpm.hessian import (
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
from ddpm.hessian.chunks import out_of_memory
from ddpm.hessian.untouched import untouched
from ddpm.loss import squared_error
from ddpm.objective import Objective
from ddpm.streams import stream_seed

# One measurement in so many has one probe taken by exact products too, the first among them.
CHECK_EVERY = 10

Details = dict[str, list[float]]
Draw = Callable[[Generator], LeastSquares]


@dataclass
class Measurement:
    """row: a number under each key of `ddpm.metrics`; details: what the numbers were made of, lists."""

    row: dict[str, float] = field(default_factory=dict)
    details: Details = field(default_factory=dict)


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
        draws, and may raise. checks: how many draws to take by exact products too; None is one, at one measurement in
        ten. exact: whether the one before fell back to exact products: then all do, up to the next check.
        Of several processes each takes its part of the draws of `hutchinson`; rank 0 does the rest.
        """
        if checks is None:
            cadence = self.cfg.every or self._run.logging.log_every_n_steps
            checks = int(math.ceil(step / cadence) % CHECK_EVERY == 1)

        def draw(rng: Generator) -> LeastSquares:
            check_stop()
            return self._problem(rng, batch)

        with _told(step):
            return self._all(model, draw, step, checks, self.cfg.exact or (exact and not checks))

    def _all(self, model: nn.Module, draw: Draw, step: int, checks: int, exact: bool) -> Measurement:
        found = Measurement()
        for method in self.cfg.method:
            if method == "hutchinson":
                part = self._hutchinson(model, draw, step, checks, exact)
            else:
                part = distributed.from_main(lambda method=method: _METHODS[method](self, model, draw, step))  # type: ignore[misc]
            missing = found.row.get("curvature/missing", 0.0) + part.row.get("curvature/missing", 0.0)
            found.row |= part.row | {"curvature/missing": missing}
            found.details |= part.details
        return found

    # --- draws ---

    def _rng(self, step: int) -> Generator:
        """Equal at every step and in every run of one `curvature.seed`; for `draws: batch`, of the run's step alone."""
        if self.cfg.draws == "fixed":
            return Generator().manual_seed(stream_seed(self.cfg.seed, "fixed probes"))
        return Generator().manual_seed(stream_seed(self._run.seed, f"probe at {step}"))

    def _problem(self, rng: Generator, batch: Tensor) -> LeastSquares:
        """One draw: noised images, what the network is to say of them, and the weights of the losses."""
        low, high = self._objective.t_range
        if self.cfg.draws == "fixed":
            B = self.cfg.batch_size or self._run.data.batch_size
            batch = torch.randint(len(self._images), (B,), generator=rng)
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

    def _hutchinson(self, model: nn.Module, draw: Draw, step: int, checks: int, exact: bool) -> Measurement:
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
        found = Measurement({"curvature/missing": float(max(trace.plain.missing for trace in traces))})
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
            found.row["curvature/numerical_error"] = max(trace.error_in_sems(checks) for trace in traces)
        found.row["curvature/exact"] = float(any(trace.exact for trace in traces))
        return _finite(found)

    def _on_operator(
        self,
        model: nn.Module,
        draw: Draw,
        step: int,
        measure: Callable[[Hessian, Generator], Measurement],
    ) -> Measurement:
        """`measure(H, rng)` of the Hessians of both losses on the first draw, with equal random vectors."""
        rng = self._rng(step)
        data, state = draw(rng), rng.get_state()
        params = [p for p in model.parameters() if p.requires_grad]
        found = Measurement({"curvature/missing": 0.0})
        with untouched(params, model):
            for loss, prefixes in enumerate(self._prefixes):
                try:
                    H = Hessian(lambda loss=loss: _loss(model, data, loss), params, self.cfg.chunk)  # type: ignore[misc]
                    part = measure(H, Generator().set_state(state))
                except FloatingPointError:
                    part = Measurement()
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error):
                        raise
                    warnings.warn("out of memory: values are missing", stacklevel=2)
                    part = Measurement()
                found.row["curvature/missing"] += not part.row
                for prefix in prefixes:
                    found.row |= {f"curvature/{prefix}{key}": value for key, value in part.row.items()}
                    found.details |= {f"curvature/{prefix}{key}": value for key, value in part.details.items()}
        return _finite(found)

    def _hutchpp(self, model: nn.Module, draw: Draw, step: int) -> Measurement:
        def measure(H: Hessian, rng: Generator) -> Measurement:
            estimate = hutchpp_trace(H, self.cfg.probes, rng)
            return Measurement({"hutchpp_trace": estimate.mean, "hutchpp_trace_sem": estimate.sem})

        return self._on_operator(model, draw, step, measure)

    def _xtrace(self, model: nn.Module, draw: Draw, step: int) -> Measurement:
        def measure(H: Hessian, rng: Generator) -> Measurement:
            estimate = xtrace(H, self.cfg.probes, rng)
            return Measurement({"xtrace": estimate.mean, "xtrace_sem": estimate.sem})

        return self._on_operator(model, draw, step, measure)

    def _lanczos(self, model: nn.Module, draw: Draw, step: int) -> Measurement:
        def measure(H: Hessian, rng: Generator) -> Measurement:
            top = top_eigenvalue(H, self.cfg.lanczos_steps, rng)
            return Measurement({"top_eigenvalue": top.value, "top_eigenvalue_residual": top.residual})

        return self._on_operator(model, draw, step, measure)

    def _slq(self, model: nn.Module, draw: Draw, step: int) -> Measurement:
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

    def _noise_scale(self, model: nn.Module, draw: Draw, step: int) -> Measurement:
        """Of the trained loss, from as many batches as there are probes."""
        rng = self._rng(step)
        params = [p for p in model.parameters() if p.requires_grad]
        size = len(draw(self._rng(step)).target)
        with untouched(params, model):
            noise = gradient_noise_scale(lambda: _loss(model, draw(rng), 0), params, self.cfg.probes, size)
        row = {"curvature/noise_scale": noise.scale, "curvature/noise_scale_sem": noise.sem}
        return _finite(Measurement(row | {"curvature/missing": float(noise.missing)}))


_METHODS: dict[str, Callable[..., Measurement]] = {
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
        warnings.simplefilter("always")
        yield
    for said in dict.fromkeys(str(warning.message) for warning in caught):
        tqdm.write(f"warning: curvature at step {step}: {said}")


def _loss(model: nn.Module, data: LeastSquares, loss: int) -> Tensor:
    return (data.weights[loss] * squared_error(model(*data.inputs), data.target)).mean()


def _plain_row(key: str, trace: TraceEstimate) -> dict[str, float]:
    row = {f"{key}_mean": trace.mean, f"{key}_std": trace.std, f"{key}_sem": trace.sem}
    draws, per_draw = trace.table.shape
    if per_draw > 1 and draws > 1 and len(trace.complete) > 1:
        row |= dict(zip((f"{key}_std_data", f"{key}_std_estimator"), trace.split(), strict=True))
    return row


def _finite(found: Measurement) -> Measurement:
    """Without the numbers that are none: a chart has a gap there, and `curvature/missing` says why."""
    found.row = {key: value for key, value in found.row.items() if math.isfinite(value)}
    return found


def _shared(draws: int, measure: Callable[[range], Tensor]) -> Tensor:
    with distributed.together():
        mine = measure(range(draws)[distributed.part(draws)])
    return distributed.total(mine)
