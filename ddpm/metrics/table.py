"""Every metric key the platform logs, in one table: what it is, in which unit, when, at which cost.

`docs/metrics.md` is this table, drawn by `ddpm metrics`; the figures take their axis labels from it. A family of keys,
one for each timestep, has one row, with XXXX for the t.
"""

import re
from dataclasses import replace

from ddpm.metrics.curvature import CURVATURE
from ddpm.metrics.metric import Metric
from ddpm.metrics.scores import score_metrics

STEP = "step"
# Lists, logged once; all other values are numbers or names.
CURVES = ("mins_snr_curve/t", "mins_snr_curve/weight")


_LOG = "every `logging.log_every_n_steps`"
_MILESTONE = "every `eval.fid_milestone.every` steps"
_FINAL = "once, after the last step"
_RECON = "every `eval.recon.every` steps and after the last, when `eval.recon.enabled`"
_FIXED_BATCH = (
    "On `eval.recon.n_samples` training images that the FID reference does not hold (where it leaves enough), each "
    "with one noise, the same at every step and in every run of one `eval.sample_seed` on the same data."
)


_TABLE = [
    Metric(
        "check/sampler_std_error",
        "sampler's std error on a known Gaussian",
        "relative",
        "once, at step 0",
        "milliseconds",
        "std / 0.5 - 1 of what the milestone sampler makes of N(0, 0.5^2) with its perfect denoiser, at the "
        "milestone's NFE and spacing. Beyond -0.5 ... +0.4 the run stops, unless "
        "`eval.accept_sampler_error` names the sampler.",
    ),
    Metric(
        "check/final_sampler_std_error",
        "final sampler's std error on a known Gaussian",
        "relative",
        "once, at step 0",
        "milliseconds",
        "The same of the final evaluation's sampler.",
    ),
    Metric(
        "loss/mean_weight",
        "mean weight of the loss",
        "w_eps",
        "once, at step 0",
        "none",
        "Mean of w_eps over the timesteps that are trained on: 1 for constant weighting, 0.913 for Min-SNR (gamma 5, "
        "linear, all t).",
    ),
    *(
        Metric(
            f"loss/batch_weight_{name}",
            f"{name} weight of the batch",
            "w_eps",
            _LOG,
            "none",
            f"{what} w_eps of the t that the step drew: what its eps-MSEs counted in train/loss.",
        )
        for name, what in (("mean", "Mean"), ("min", "Smallest"), ("max", "Largest"))
    ),
    Metric(
        "mins_snr_curve/t",
        "timestep",
        "t",
        "once, at step 0",
        "none",
        "The timesteps that are trained on, `loss.t_min` ... `loss.t_max`: a list.",
    ),
    Metric(
        "mins_snr_curve/weight",
        "weight of the eps-MSE",
        "w_eps",
        "once, at step 0",
        "none",
        "w_eps at each t of mins_snr_curve/t, what the eps-MSE of that t counts in train/loss, whatever is predicted: "
        "a list. With `loss.minsnr_norm_over: batch`, up to each batch's factor.",
    ),
    Metric(
        "train/loss",
        "training loss",
        "weighted MSE",
        _LOG,
        "none",
        "Mean over the batch of w(t) * |eps - eps_hat|^2 / d: the quantity that is optimised. "
        "Runs with different weightings log different quantities here.",
    ),
    Metric(
        "train/mse",
        "eps-MSE",
        "unweighted",
        _LOG,
        "none",
        "Mean over the batch of |eps - eps_hat|^2 / d on the same draws: comparable between weightings.",
    ),
    Metric(
        "train/mse_mean",
        "eps-MSE, mean since the last row",
        "unweighted",
        _LOG,
        "one add per step",
        "train/mse averaged over all steps since the previous row: the same mean with less batch noise.",
    ),
    Metric(
        "train/grad_global_L2",
        "gradient L2 norm",
        "",
        _LOG,
        "none (clipping computes it)",
        "Euclidean norm of the whole gradient of train/loss, before clipping.",
    ),
    Metric(
        "train/grad_abs_mean",
        "mean |gradient|",
        "",
        _LOG,
        "one pass over the gradient",
        "Mean over all parameters of |dL/dp|, before clipping.",
    ),
    Metric(
        "train/grad_abs_max",
        "max |gradient|",
        "",
        _LOG,
        "one pass over the gradient",
        "Largest |dL/dp| over all parameters, before clipping.",
    ),
    Metric(
        "train/images_seen",
        "images seen",
        "images",
        _LOG,
        "none",
        "step * batch size.",
    ),
    Metric(
        "train/skipped_steps",
        "steps left out",
        "steps",
        _LOG,
        "one synchronisation a step",
        "How many steps so far had a loss or gradient that was not finite and were left out (`train.skip_nonfinite`). "
        "Steps that the loss scale of fp16 leaves out while it comes down are not among them.",
    ),
    *CURVATURE,
    *score_metrics(
        "val", _MILESTONE, "under the protocol named in val/fid_protocol. W&B's summary holds its min and its last"
    ),
    *score_metrics("final", _FINAL, "of the finished run under the `eval.final` protocol", "final "),
    Metric(
        "mse_per_t/mse_tXXXX",
        "eps-MSE at t = XXXX",
        "unweighted",
        _RECON,
        "n_samples forwards for each t of `eval.recon.t_values`",
        "Mean over images and pixels of |eps - eps_hat|^2 at timestep XXXX, by the evaluated weights, whatever they "
        f"predict. {_FIXED_BATCH}",
    ),
    Metric(
        "mse_bins/mse_tXXXX",
        "eps-MSE from t = XXXX",
        "unweighted",
        _RECON,
        "n_samples forwards for each of `eval.recon.bins`",
        "The same, averaged over the bin of timesteps that begins at XXXX and ends before the next one: a profile over "
        "all t. Every image is in every bin once; in a bin, quarters of the images have one t each.",
    ),
    Metric(
        "val/recon_mse_tXXXX",
        "reconstruction MSE at t = XXXX",
        "data in [-1, 1]",
        _RECON,
        "none, beside mse_per_t",
        "Mean over images and pixels of |x_0 - x_0_hat|^2 at timestep XXXX, of the same forwards; x_0_hat limited as "
        "`eval.x0_limit` says and cut to [-1, 1].",
    ),
    Metric(
        "val/recon_psnr_tXXXX",
        "reconstruction PSNR at t = XXXX",
        "dB",
        _RECON,
        "none, beside mse_per_t",
        "10 log10(4 / val/recon_mse_tXXXX): the peak is the range of [-1, 1].",
    ),
    Metric(
        "val/recon_mse",
        "reconstruction MSE",
        "mean over t",
        _RECON,
        "none, beside mse_per_t",
        "Mean of val/recon_mse_tXXXX over `eval.recon.t_values`: comparable between runs with the same ones.",
    ),
    Metric(
        "val/recon_psnr",
        "reconstruction PSNR",
        "dB, mean over t",
        _RECON,
        "none, beside mse_per_t",
        "Mean of val/recon_psnr_tXXXX over `eval.recon.t_values`.",
    ),
    Metric(
        "samples/grid",
        "samples",
        "",
        "every `eval.grid.every` steps and at the end",
        "n_samples * nfe forwards",
        "Grid of samples from fixed noise (the same at every step and in every run of one "
        "`eval.grid.sample_seed`), as an image and as a versioned artifact.",
    ),
    Metric(
        "samples/not_finite",
        "samples not finite",
        "1",
        "where a grid is due and a sample is not finite",
        "none",
        "Then there is no grid: a value that is no number would be drawn as black.",
    ),
    Metric(
        "time/train_s",
        "time in training steps",
        "s",
        _LOG,
        "none",
        "Cumulative wall-clock seconds in training steps.",
    ),
    Metric(
        "time/probe_s",
        "time in probes",
        "s",
        _LOG,
        "none",
        "Cumulative seconds in curvature probes.",
    ),
    Metric(
        "time/sample_s",
        "time in sampling",
        "s",
        _LOG,
        "none",
        "Cumulative seconds in drawing samples for grids and FID.",
    ),
    Metric(
        "time/features_s",
        "time in features",
        "s",
        _LOG,
        "none",
        "Cumulative seconds in feature extraction.",
    ),
    Metric(
        "time/distance_s",
        "time in distances",
        "s",
        _LOG,
        "none",
        "Cumulative seconds between features and scores: Frechet distances, their errors, KID, nearest neighbours.",
    ),
    Metric(
        "time/recon_s",
        "time in reconstruction",
        "s",
        _LOG,
        "none",
        "Cumulative seconds in the errors at single timesteps.",
    ),
    Metric(
        "time/probe_share",
        "time in probes",
        "of that in steps and probes",
        _LOG,
        "none",
        "time/probe_s / (time/train_s + time/probe_s), when `curvature.enabled`.",
    ),
    Metric(
        "time/total_s",
        "time in all",
        "s",
        _LOG,
        "none",
        "Seconds since the run was started, those between an interruption and its continuation left out.",
    ),
]

_OPENING = """\
# Metrics

Every key that a training logs: in W&B's history, and in a run's `loss.jsonl`
([wandb.md](wandb.md#the-lines-of-lossjsonl) has the form of its lines). *When* says at which steps; the last one has
the training metrics and the curvature whatever the intervals are. `make docs` makes this page of `ddpm/metrics*.py`."""
# Of the page: title, what to know first, and what the keys start with; the longest start decides.
_SECTIONS = (
    (
        "Training",
        "Of the batch of the logged step, but for `train/mse_mean`. Runs with different weightings are compared by "
        "`train/mse`, not by `train/loss`.",
        ("train/", "loss/", "mins_snr_curve/"),
    ),
    (
        "Curvature",
        "`hutch_...` is of the loss that the run trains, `ref_...` of the unweighted one: runs with different "
        "weightings are compared by the latter. [curvature.md](curvature.md) says how far to trust them.",
        ("curvature/",),
    ),
    (
        "Evaluation of samples",
        "`val/...` at the milestones, `final/...` after the last step. Scores of two protocols are not comparable. "
        "[evaluation.md](evaluation.md) says what the numbers are worth.",
        ("val/", "final/", "check/", "samples/"),
    ),
    (
        "Evaluation at single timesteps",
        "Of the network itself, without a sampler. XXXX stands for the timestep.",
        ("mse_per_t/", "mse_bins/", "val/recon_"),
    ),
    ("Time", "Cumulative, of all sessions of the run. [speed.md](speed.md) has what things cost.", ("time/",)),
)

METRICS: dict[str, Metric] = {metric.key: metric for metric in _TABLE}


def metric_of(key: str) -> Metric | None:
    """What is logged under `key`, one of a family's too, with its own t in key and label; None for an unknown key."""
    t = re.search(r"_t(\d{4,})$", key)
    family = METRICS.get(f"{key[: t.start()]}_tXXXX") if t else None
    if t and family:
        return replace(family, key=key, label=family.label.replace("XXXX", str(int(t[1]))))
    return METRICS.get(key)


def axis_label(key: str) -> str:
    """The axis label of `key`; the key itself where the table does not know it."""
    metric = metric_of(key)
    return metric.axis if metric else key


def markdown_page() -> str:
    """The text of `docs/metrics.md`: a table for each of `_SECTIONS`."""
    parts = [_OPENING]
    for title, about, _ in _SECTIONS:
        rows = [_markdown_row(metric) for metric in _TABLE if _section(metric.key) == title]
        head = ["| key | meaning | unit | when | cost |", "|---|---|---|---|---|"]
        parts += [f"## {title}", about, "\n".join([*head, *rows])]
    return "\n\n".join(parts) + "\n"


def _section(key: str) -> str:
    """The title of the section with the longest start of `key`."""
    return max((len(start), title) for title, _, starts in _SECTIONS for start in starts if key.startswith(start))[1]


def _markdown_row(metric: Metric) -> str:
    meaning = metric.meaning.replace("|", "\\|")
    return f"| `{metric.key}` | {meaning} | {metric.unit} | {metric.when} | {metric.cost} |"
