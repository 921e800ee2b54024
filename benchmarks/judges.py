"""Two judges on known faults: FID and KID of real images that are disturbed, by the embedded net and by EfficientNet.

`python -m benchmarks.judges --root CIFAR` (a folder or .zip of ten class folders in train/ and test/) scores 1,300 test
images against 2,000 training images: as they are, with each fault of `benchmarks.distortions` in three strengths, with
1 to 8 of the ten classes missing, and uniform noise. It writes judges.csv and judges.png.

A score's share is its place on the judge's own scale: 0 for the undisturbed images, 1 for uniform noise. Features are
kept in the cache folder, 250 images at a time: an interrupted measurement goes on.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.distortions import DISTORTIONS, KEPT_CLASSES, LEVELS
from ddpm.data.images import ImageSet, load_images
from ddpm.evaluation import efficientnet
from ddpm.evaluation.features import Features, make_features
from ddpm.evaluation.kid_prdc import Kid
from ddpm.evaluation.reference import uniform_noise
from ddpm.evaluation.scores import FeatureSums, Wanted, scores
from ddpm.metrics import Z95
from ddpm.runtime.cache import cached
from ddpm.runtime.checkpoint import digest
from reports.figures.style import Drawn, palette, panels, save, theme

JUDGES = ("embedded", "efficientnet_lite0")
N, REFERENCE_N = 1300, 2000
STRENGTHS = (1, 2, 3)
KID = Kid(subsets=25)
BATCH = 250
AXES = {
    "noise": "noise: std in grey levels",
    "blur": "blur: std in pixels",
    "jpeg": "JPEG: quality, falling",
    "missing classes": "classes missing, of ten",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder or .zip of train/ and test/ in ten classes")
    parser.add_argument("--n", type=int, default=N, help="images a set; above 1,280 for FID with EfficientNet")
    parser.add_argument("--reference-n", type=int, default=REFERENCE_N)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder for judges.csv and judges.png")
    args = parser.parse_args()
    if min(args.n, args.reference_n) <= efficientnet.DIM:
        parser.error(f"--n and --reference-n must be above {efficientnet.DIM}, the dimensions of the features")
    train = load_images("folder", args.root, subset=args.reference_n)
    test = load_images("folder", args.root, split="test")
    table = pd.concat([measure(make_features(name, torch.device("cpu")), train, test, args.n) for name in JUDGES])
    table.to_csv(args.out / "judges.csv", index=False, float_format="%.6g", lineterminator="\n")
    save(draw(table), args.out / "judges", svg=False)
    print(as_text(table))
    return 0


def measure(features: Features, train: ImageSet, test: ImageSet, n: int) -> pd.DataFrame:
    """A row for each fault and level, with the scores and their shares of the judge's scale."""
    real = sums_of(features_of(features, train.images))
    gaussian = real.sums.result()
    rows = []
    for fault, level, found in sets(features, test, n):
        scored = scores(sums_of(found), gaussian, real.rows, Wanted(kid=KID))
        rows.append({"judge": features.name, "fault": fault, "level": level, "n": n, **scored})
        print(f"{features.name}, {fault} {level}: FID {scored['fid']:.4g}, KID {scored['kid']:.4g}", flush=True)
    table = pd.DataFrame(rows)
    for score, error in (("fid", "fid_sem"), ("kid", "kid_std")):
        floor, ceiling = (table.loc[table["fault"] == end, score].item() for end in ("none", "uniform noise"))
        table[f"{score}_share"] = (table[score] - floor) / (ceiling - floor)
        table[f"{score}_share_error"] = table[error] / (ceiling - floor)
    return table


def sets(features: Features, test: ImageSet, n: int) -> Iterator[tuple[str, float, Tensor]]:
    """Yield (fault, level, features (n, d)) of every set of images."""
    kept = {10 - classes: balanced(test.labels, classes, n) for classes in KEPT_CLASSES}
    pool = torch.cat(list(kept.values())).unique()
    found = features_of(features, test.images[pool])
    for missing, positions in kept.items():
        rows = found[torch.searchsorted(pool, positions)]
        yield ("missing classes", missing, rows) if missing else ("none", 0, rows)
    plain = test.images[kept[0]]
    yield "uniform noise", 0, features_of(features, torch.cat(list(uniform_noise(n, (3, 32, 32)))))
    for strength in STRENGTHS:
        for fault, distort in DISTORTIONS.items():
            yield fault, LEVELS[fault][strength], features_of(features, distort(plain, strength))


def balanced(labels: Tensor, classes: int, n: int) -> Tensor:
    """(n,) sorted positions of the first images of the first `classes` classes, as many of each as of another or one
    more. Raises ValueError if a class has too few."""
    counts = [n // classes + (i < n % classes) for i in range(classes)]
    found = [(labels == i).nonzero().flatten()[:count] for i, count in enumerate(counts)]
    if [len(part) for part in found] != counts:
        raise ValueError(f"{classes} classes need up to {max(counts)} images each")
    return torch.cat(found).sort().values


def features_of(features: Features, images: Tensor) -> Tensor:
    """(n, d) features of the images (n, 3, H, W), cached part by part."""
    parts = tqdm(images.split(BATCH), desc=features.name, disable=None, leave=False)
    return torch.cat([_cached_features(features, part) for part in parts])


def _cached_features(features: Features, images: Tensor) -> Tensor:
    key = digest([features.name, features.resize, images, torch.get_num_threads(), torch.__version__])
    return cached("judges", key, lambda: {"features": features.extract(images)})["features"]


def sums_of(rows: Tensor) -> FeatureSums:
    found = FeatureSums(len(rows), rows.shape[1])
    found.add(rows)
    return found


# --- the table and the figure ---


def as_text(table: pd.DataFrame) -> str:
    """The shares in %, a row for each fault and level, as a Markdown table: judges and scores side by side."""
    judges = list(table["judge"].unique())
    columns = [(judge, score) for score in ("fid", "kid") for judge in judges]
    lines = [
        "| fault | level | " + " | ".join(f"{score.upper()}, {judge}" for judge, score in columns) + " |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for fault in AXES:
        rows = table[table["fault"] == fault]
        for level in rows["level"].unique():  # by strength
            of = rows[rows["level"] == level].set_index("judge")
            shares = [f"{100 * of.loc[judge, f'{score}_share']:.2g} %" for judge, score in columns]
            lines.append(f"| {fault} | {level:g} | {' | '.join(shares)} |")
    return "\n".join(lines)


def draw(table: pd.DataFrame) -> Drawn:
    """A panel for each fault: shares against its level, FID solid and KID dashed, a colour for each judge. Bars: FID's
    95 % interval, and the deviation of KID over its subsets."""
    with theme():
        figure, all_axes = panels(len(AXES), 2.6, 2.8, sharey=True)
        for axes, (fault, label) in zip(all_axes, AXES.items(), strict=True):
            for place, (judge, rows) in enumerate(table[table["fault"] == fault].groupby("judge", sort=False)):
                for score, line, errors in (("fid", "o-", Z95), ("kid", "s--", 1)):
                    shares, bars = 100 * rows[f"{score}_share"], 100 * errors * rows[f"{score}_share_error"]
                    name = f"{judge}, {score.upper()}"
                    axes.errorbar(rows["level"], shares, bars, fmt=line, color=palette(place), label=name, capsize=2)
            axes.set(yscale="log", xlabel=label)
            if fault == "jpeg":
                axes.invert_xaxis()
        all_axes[0].set_ylabel("share of the scale, %")
        handles, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return Drawn(figure, "Two judges on known faults.")


if __name__ == "__main__":
    sys.exit(main())
