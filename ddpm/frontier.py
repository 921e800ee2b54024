"""FID against NFE, several samplers, one checkpoint: `python -m ddpm.frontier RUN|CHECKPOINT --out STEM`.

Every point is one `Evaluator.fid` under its own protocol. Drawn with them are the two ends of the scale at the same n:
real images against the reference (the floor), and pure Gaussian noise against it (the ceiling).
"""

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import seaborn as sns
import torch
from matplotlib.ticker import LogLocator, NullFormatter
from tqdm import tqdm

from ddpm.data import ImageSet, load_images, to_uint8
from ddpm.evaluation.evaluate import Evaluator, SamplingPlan
from ddpm.evaluation.features import make_features
from ddpm.evaluation.reference import make_reference
from ddpm.sample import Trained, find_checkpoint, load_trained

COLUMNS = ("sampler", "nfe", "n_samples", "fid", "protocol")


def make_evaluator(trained: Trained) -> tuple[Evaluator, ImageSet]:
    """An evaluator of a checkpoint against the embedded features of its own training images; and fresh real images."""
    data = trained.cfg.data
    sets = [
        load_images(data.dataset, data.root, subset=data.subset or 10_000, split=split, skip_bad=data.skip_bad)
        for split in ("train", "test")
    ]
    features = make_features("embedded", trained.device)
    evaluator = Evaluator(
        schedule=trained.schedule,
        features=features,
        reference=make_reference(features, sets[0], None),
        device=trained.device,
        batch_size=25,
        x0_limit="clip",
        weights="ema",
    )
    return evaluator, sets[1]


def measure(trained: Trained, samplers: list[str], nfes: list[int], n: int, seed: int = 0) -> list[dict[str, object]]:
    """One row per point, with the rows `real images` and `pure noise` last."""
    evaluator, fresh = make_evaluator(trained)
    rows: list[dict[str, object]] = []
    for sampler, nfe in tqdm([(s, k) for k in sorted(nfes) for s in samplers], desc="points", disable=None):
        plan = SamplingPlan(sampler, nfe, n)
        fid = evaluator.scores(trained.denoiser, plan, seed)["fid"]
        fingerprint = evaluator.protocol(plan).fingerprint
        rows.append(dict(zip(COLUMNS, (sampler, nfe, n, fid, fingerprint), strict=True)))
        tqdm.write(f"{sampler} nfe {nfe}: {fid:.2f}")
    noise = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    spread = torch.linspace(0, len(fresh) - 1, n).round().long()  # sets may be sorted by class
    for name, images in (("real images", fresh.images[spread]), ("pure noise", to_uint8(noise))):
        rows.append(
            dict(
                zip(
                    COLUMNS,
                    (name, "", n, evaluator.scores_of(f"{name} {seed}", images.split(250), n)["fid"], ""),
                    strict=True,
                )
            )
        )
    return rows


def draw(rows: list[dict[str, object]], title: str, out: Path) -> None:
    """FID against NFE (both on log scales), a line per sampler between the floor and the ceiling."""
    ends = {str(r["sampler"]): float(str(r["fid"])) for r in rows if r["nfe"] == ""}
    points = [r for r in rows if r["nfe"] != ""]
    samplers = list(dict.fromkeys(str(r["sampler"]) for r in points))
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(figsize=(9, 4.8), layout="constrained")
        for colour, marker, name in zip(sns.color_palette("colorblind"), "osD^vP", samplers, strict=False):
            mine = [(int(str(r["nfe"])), float(str(r["fid"]))) for r in points if r["sampler"] == name]
            axes.plot(*zip(*mine, strict=True), marker=marker, color=colour, label=f"sampler = {name}")
        axes.axhline(ends["pure noise"], color="black", ls="--", label=f"pure noise: {ends['pure noise']:.1f}")
        axes.axhline(ends["real images"], color="grey", ls=":", label=f"real images: {ends['real images']:.1f}")
        axes.set(xscale="log", yscale="log", xlabel="NFE (network calls per image)", ylabel="FID (lower is better)")
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        figure.suptitle(title, fontsize=10)
        figure.legend(fontsize=8, loc="outside right center")
        figure.savefig(out, dpi=150)
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="FID against NFE for several samplers on one checkpoint.")
    parser.add_argument("source", type=Path, help="run folder or checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="STEM", help="writes STEM.png and STEM.csv")
    parser.add_argument("--n", type=int, default=100, help="images a point, above 64; default: %(default)s")
    parser.add_argument("--nfe", type=int, nargs="+", default=[5, 10, 20, 50, 100, 250])
    parser.add_argument("--samplers", nargs="+", default=["ddpm", "ddim", "dpmpp_2m", "ddpm_adjacent_posterior"])
    args = parser.parse_args()
    trained = load_trained(find_checkpoint(args.source))
    rows = measure(trained, args.samplers, args.nfe, args.n)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    cfg = trained.cfg
    title = (
        f"{cfg.experiment}, {cfg.diffusion.prediction}-prediction, on {cfg.data.dataset} images, step {trained.step}: "
        f"n = {args.n}, embedded features, x0 clipped, linspace"
    )
    draw(rows, title, args.out.with_suffix(".png"))
    print(args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
