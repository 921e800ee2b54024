"""The rows of `ddpm.metrics.table` that the curvature probe logs; docs/curvature.md derives what they are."""

from ddpm.metrics.metric import Metric
from ddpm.names import METHODS

_PROBE = "every `curvature.every` (else `logging.log_every_n_steps`) steps when `curvature.enabled`"


def _by(method: str) -> str:
    return f"{_PROBE}, by `curvature.method: {method}`"


def _of_both(key: str, reference: str, label: str, unit: str, method: str, cost: str, meaning: str) -> list[Metric]:
    """The rows of one quantity of the trained loss's Hessian (`key`) and of the common loss's (`reference`)."""
    same = f"As {key.split('/')[-1]}, of the unweighted eps-MSE on the same draws: comparable between weightings."
    return [
        Metric(key, f"{label}, trained loss", unit, _by(method), cost, meaning),
        Metric(reference, f"{label}, unweighted loss", unit, _by(method), _NO_MORE, same),
    ]


def _traces(name: str, label: str, unit: str, cost: str, meaning: str) -> list[Metric]:
    of_trained, of_common = (f"curvature/{loss}_trace_{name}" for loss in ("hutch", "ref"))
    return _of_both(of_trained, of_common, label, unit, "hutchinson", cost, meaning)


_NO_MORE = "none with constant weighting, and none for the trace; else as the trained loss's"
_SPLIT = "Where `curvature.per_draw` is 2 or more: "
CURVATURE = [
    *_traces(
        "mean",
        "Hessian trace",
        "Hutchinson mean",
        "at most one gradient a probe, for both losses and all that is said of their traces",
        "Mean over probes of v'Hv, v Rademacher, H the Hessian of train/loss (with its weighting) at the live weights "
        "(`curvature.weights`), in eval mode and float32. By default (`curvature.draws: fixed`) the images, t, eps and "
        "v are the same at every step and in every run of one `curvature.seed`.",
    ),
    *_traces(
        "std",
        "std over probes",
        "population std",
        "none",
        "Population standard deviation of v'Hv over the probes. Each has its own images, t, eps and v, so this holds "
        "data noise and estimator noise together.",
    ),
    *_traces(
        "sem",
        "standard error of the trace",
        "",
        "none",
        "Standard error of trace_mean: sample standard deviation of the draws' means / sqrt(draws). With one draw "
        "alone (`curvature.per_draw` = `probes`), of its vectors: the error of that one batch's trace.",
    ),
    *_traces(
        "improved",
        "Hessian trace, improved",
        "head in closed form",
        "none",
        "An estimate of the same trace, from the same probes, that knows the output convolution's part exactly "
        "(docs/curvature.md).",
    ),
    *_traces("improved_sem", "standard error of the improved trace", "", "none", "As trace_sem, of trace_improved."),
    *_traces(
        "std_data",
        "std between draws",
        "of their traces",
        "none",
        f"{_SPLIT}standard deviation between the traces of single draws of data (analysis of variance).",
    ),
    *_traces(
        "std_estimator",
        "std of the estimator",
        "of one v'Hv",
        "none",
        f"{_SPLIT}standard deviation of v'Hv around the trace of its draw.",
    ),
    Metric(
        "curvature/trace_ratio",
        "trace of the trained loss / of the unweighted",
        "ratio",
        _by("hutchinson"),
        "none",
        "The improved traces' quotient (the plain ones' without a linear head): how much the weighting scales the "
        "curvature at these weights. Not logged where the two losses are one.",
    ),
    Metric(
        "curvature/trace_ratio_sem",
        "standard error of the ratio",
        "",
        _by("hutchinson"),
        "none",
        "Of trace_ratio, whose two traces share their draws and vectors (delta method).",
    ),
    *(
        Metric(
            f"curvature/missing_{method}",
            f"values missing, {method}",
            "values",
            _by(method),
            "none",
            "How many values were not finite, or did not fit into memory, and were left out. What rests on none is not "
            "logged.",
        )
        for method in METHODS
    ),
    Metric(
        "curvature/numerical_error",
        "numerical error of the trace",
        "standard errors",
        f"{_by('hutchinson')}, at one measurement in 20",
        "about 14 gradients a loss",
        "|mean difference to exact products| of four probes, the largest over losses and forms. Beyond 0.02 this "
        "measurement and those up to the next check are taken by exact products. The standard error is half the 95 % "
        "interval / 1.96.",
    ),
    Metric(
        "curvature/exact",
        "exact products",
        "0 or 1",
        _by("hutchinson"),
        "none",
        "1 where the probes were taken by exact products: by `curvature.exact`, or as differences were too coarse.",
    ),
    *_of_both(
        "curvature/hutchpp_trace",
        "curvature/ref_hutchpp_trace",
        "Hessian trace",
        "Hutch++",
        "hutchpp",
        "2 to 3 gradients a product",
        "Trace on one draw, from `curvature.probes` products.",
    ),
    *_of_both(
        "curvature/hutchpp_trace_sem",
        "curvature/ref_hutchpp_trace_sem",
        "standard error of the trace",
        "Hutch++",
        "hutchpp",
        "none",
        "The estimator's standard error, of that draw's trace.",
    ),
    *_of_both(
        "curvature/xtrace",
        "curvature/ref_xtrace",
        "Hessian trace",
        "XTrace",
        "xtrace",
        "2 to 3 gradients a product",
        "Trace on one draw, from `curvature.probes` products.",
    ),
    *_of_both(
        "curvature/xtrace_sem",
        "curvature/ref_xtrace_sem",
        "error of the trace",
        "XTrace",
        "xtrace",
        "none",
        "The authors' error estimate, of that draw's trace.",
    ),
    *_of_both(
        "curvature/top_eigenvalue",
        "curvature/ref_top_eigenvalue",
        "largest Hessian eigenvalue",
        "Lanczos",
        "lanczos",
        "2 to 3 gradients for each of `curvature.lanczos_steps`",
        "Largest eigenvalue on one draw, from below.",
    ),
    *_of_both(
        "curvature/top_eigenvalue_residual",
        "curvature/ref_top_eigenvalue_residual",
        "residual of the eigenvalue",
        "",
        "lanczos",
        "none",
        "A true eigenvalue lies within it.",
    ),
    *(
        metric
        for name, label, meaning in (
            ("trace", "Hessian trace", "Sum of the eigenvalues"),
            ("square_sum", "sum of squared eigenvalues", "Squared Frobenius norm of the Hessian"),
        )
        for metric in (
            *_of_both(
                f"curvature/slq_{name}",
                f"curvature/ref_slq_{name}",
                label,
                "SLQ",
                "slq",
                "2 to 3 gradients for each of `curvature.slq_starts` x `curvature.lanczos_steps`",
                f"{meaning} on one draw, by stochastic Lanczos quadrature.",
            ),
            *_of_both(
                f"curvature/slq_{name}_sem",
                f"curvature/ref_slq_{name}_sem",
                f"standard error, {label}",
                "SLQ",
                "slq",
                "none",
                f"Over the start vectors, of slq_{name}.",
            ),
        )
    ),
    *_of_both(
        "curvature/slq_lowest",
        "curvature/ref_slq_lowest",
        "lowest eigenvalue seen",
        "SLQ",
        "slq",
        "none",
        "Lowest node of the quadrature, not below the lowest eigenvalue.",
    ),
    *_of_both(
        "curvature/slq_highest",
        "curvature/ref_slq_highest",
        "highest eigenvalue seen",
        "SLQ",
        "slq",
        "none",
        "Highest node of the quadrature, not above the largest eigenvalue.",
    ),
    Metric(
        "curvature/noise_scale",
        "gradient noise scale",
        "images",
        _by("noise_scale"),
        "one gradient a probe",
        "tr(covariance of one image's gradient) / |gradient|^2 of train/loss: the batch size at which noise equals "
        "signal (McCandlish et al. 2018). Not logged where noise drowns the gradient.",
    ),
    Metric(
        "curvature/noise_scale_sem",
        "standard error of the noise scale",
        "images",
        _by("noise_scale"),
        "none",
        "Jackknife over the batches.",
    ),
]
