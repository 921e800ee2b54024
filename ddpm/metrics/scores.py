"""The metrics of an evaluation, which milestones and the final one log alike under keys of their own."""

from ddpm.metrics.metric import Metric

_NEIGHBOURS = {
    "precision": "Share of samples within reach of a real image: nearer to it, in the features, than its "
    "`eval.prdc.k`-th real neighbour.",
    "recall": "Share of real images within reach of a sample, likewise.",
    "density": "Real images within whose reach a sample lies, mean over samples, / k: 1 for equal distributions.",
    "coverage": "Share of real images within whose reach a sample lies.",
}


def score_metrics(prefix: str, when: str, how: str, final: str = "") -> list[Metric]:
    """What an evaluation logs under `prefix`: FID with its error, protocol and scale; the scores that `eval` adds."""
    kid, prdc = f"{when}, when `eval.kid.enabled`", f"{when}, when `eval.prdc.enabled`"
    found = [
        Metric(
            f"{prefix}/fid",
            f"{final}FID",
            "lower is better",
            when,
            "n_samples * nfe forwards",
            f"Frechet distance between features of n_samples generated images and of the reference set, {how}.",
        ),
        Metric(
            f"{prefix}/fid_sem",
            f"standard error of the {final}FID",
            "",
            when,
            "one more decomposition",
            f"How far {prefix}/fid would move with other noise at the same n_samples: std of each sample's influence "
            "on it / sqrt(n_samples). FID +- 1.96 of it is a 95 % interval.",
        ),
        Metric(
            f"{prefix}/fid_floor",
            "FID of real images",
            "lower is better",
            when,
            "n_samples images through the features, once",
            "What n_samples real images score by the same protocol: images that the reference does not hold, where it "
            "leaves enough (`eval.reference_n`). Else they are spread over the whole set, some or all of them the "
            "reference's own: no floor of unseen images, but lower, and 0 where they are the reference itself.",
        ),
        Metric(
            f"{prefix}/fid_ceiling",
            "FID of uniform noise",
            "lower is better",
            when,
            "n_samples images through the features, once",
            "What n_samples images of uniform noise score by the same protocol.",
        ),
        Metric(
            f"{prefix}/kid",
            f"{final}KID",
            "lower is better",
            kid,
            "seconds",
            "Unbiased squared MMD of the same features under the kernel (x'y / d + 1)^3, mean over `eval.kid.subsets` "
            "pairs of random subsets; 0 for equal distributions, and below it by chance.",
        ),
        Metric(
            f"{prefix}/kid_std", "spread of KID over subsets", "population std", kid, "none", "Of one subset's value."
        ),
        *(
            Metric(f"{prefix}/{name}", f"{final}{name}", "higher is better", prdc, "seconds", meaning)
            for name, meaning in _NEIGHBOURS.items()
        ),
        Metric(
            f"{prefix}/not_finite",
            f"{final}samples not finite",
            "1",
            f"{when}, if samples or their features are not finite numbers",
            "none",
            "Then there is no score: this stands in the row instead of all others of this table.",
        ),
    ]
    named = [m for m in found if not m.key.endswith(("_sem", "_floor", "_ceiling", "_std", "_finite"))]
    about = "Fingerprint of all that makes {} comparable; spelled out in the run's `protocols`."
    return found + [
        Metric(f"{m.key}_protocol", f"{final}protocol", "fingerprint", m.when, "none", about.format(m.key))
        for m in named
    ]
