"""Scores of checkpoints by several samplers at several NFE, in one tidy table: the work of `ddpm evaluate`.

The features of each point (checkpoint, sampler, NFE) are saved in chunks until the point has its scores. An interrupted
command resumes when it is run again, with the same bits as an uninterrupted one.

OUT/evaluations.csv     a row for each score of each point
OUT/protocols.json      what each fingerprint in the table stands for
OUT/frontier.png        FID against NFE
OUT/points/KEY.json     a point's rows; KEY is a digest of all that its numbers depend on
OUT/.part/KEY/          the features of an unfinished point
"""

import csv
import io
import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from ddpm.commands.plots import draw_frontier
from ddpm.config.sections import Prdc
from ddpm.data.images import ImageSet, load_images
from ddpm.diffusion.samplers import make_chain
from ddpm.errors import Held, UserError
from ddpm.evaluation.evaluator import Evaluator, SamplingPlan
from ddpm.evaluation.features import file_digest, make_features, require_packages
from ddpm.evaluation.fid_error import fid_interval
from ddpm.evaluation.kid_prdc import Kid
from ddpm.evaluation.milestones import default_batch_size, ends, reference_of
from ddpm.evaluation.sampler_check import try_sampler
from ddpm.evaluation.scores import NEIGHBOURS, ROWS, FeatureSums, Wanted
from ddpm.files.disk import make_folder, write_whole
from ddpm.models.stored import load_checkpoint, weights_of
from ddpm.models.trained import Trained, find_checkpoint, load_trained
from ddpm.runtime.cache import kept, use_folder
from ddpm.runtime.checkpoint import digest
from ddpm.tracking import derived
from ddpm.tracking.amend import send_noted

COLUMNS = (
    *("experiment", "run", "step", "checkpoint", "weights", "sampler", "nfe", "spacing", "t_start", "x0_limit"),
    *("n", "seed"),
    *("features", "reference", "reference_n", "reference_digest"),
    *("metric", "value", "low", "high", "std", "floor", "ceiling", "protocol"),
    *("sample_s", "features_s", "distance_s", "point"),
)
METRICS = {"fid": ("fid",), "fid_infinity": ("fid_infinity",), "kid": ("kid",), "prdc": NEIGHBOURS}
CHUNK = 50  # images, or one batch if that is more: the most that a kill can cost
_FORMAT = 1  # bump when evaluation changes; discards partial results
Row = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What to evaluate, and how. None means: as the checkpoint's config says."""

    sources: Sequence[Path]
    out: Path
    samplers: Sequence[str]
    nfes: Sequence[int]
    n: int
    metrics: Sequence[str] = ("fid",)
    features: str | None = None
    data: Path | None = None
    x0_limit: str | None = None
    batch_size: int | None = None
    spacing: str = "linspace"
    t_start: int | None = None
    weights: str = "ema"
    seed: int = 0
    device: str = "auto"
    influence: bool = False  # record each sample's influence on FID, see `influence_of`

    @property
    def wanted(self) -> Wanted:
        """The scores besides FID."""
        return Wanted(
            Kid() if "kid" in self.metrics else None,
            Prdc().k if "prdc" in self.metrics else None,
            "fid_infinity" in self.metrics,
        )

    @property
    def plans(self) -> list[SamplingPlan]:
        """A plan for each sampler at each NFE."""
        points = itertools.product(self.samplers, sorted(self.nfes))
        return [SamplingPlan(s, k, self.n, self.spacing, t_start=self.t_start) for s, k in points]


def evaluate(request: Request) -> Path:
    """Evaluate every point of the request that is not in `request.out` yet; the table's path.

    Checks all checkpoints before it samples. Raises UserError on bad input, and Held if another process writes to the
    same folder.
    """
    if request.influence and (request.n > ROWS or "fid" not in request.metrics):
        raise UserError(f"--influence needs --metrics fid and --n up to {ROWS:,}.")
    checkpoints = [find_checkpoint(source) for source in request.sources]
    for checkpoint in checkpoints:  # before the folder is made
        state = load_checkpoint(checkpoint)
        weights_of(checkpoint, state, request.weights)
        require_packages(request.features or state["config"]["eval"]["features"])
    try:
        request.out.mkdir(parents=True, exist_ok=True)
        with FileLock(request.out / ".lock", timeout=0):
            for checkpoint in checkpoints[1:]:
                prepare(checkpoint, request, quiet=True)  # raises its errors now; the first checkpoint comes next
            noted: dict[Path, list[str]] = {}
            for checkpoint in checkpoints:
                noted.setdefault(checkpoint.parent.parent, []).extend(evaluate_checkpoint(checkpoint, request))
                rows = write_table(request.out)
            if any(row["metric"] == "fid" for row in rows):
                draw_frontier([row for row in rows if row["metric"] == "fid"], request.out / "frontier.png")
    except Timeout:
        raise Held(f"Another process is evaluating into {request.out}. Wait for it, or give another --out.") from None
    except OSError as error:
        raise UserError(f"{request.out} cannot be written: {error.strerror or error}. Finished points stay.") from error
    for folder, points in noted.items():
        if said := send_noted(folder, points):
            print(said)
    return request.out / "evaluations.csv"


def evaluate_checkpoint(checkpoint: Path, request: Request) -> list[str]:
    """Evaluate every point of a checkpoint that is not there yet, record it in the run, and print its scores. Returns
    the points that are recorded in its run."""
    trained, evaluator, images = prepare(checkpoint, request)
    content = file_digest(checkpoint)
    noted = []
    for plan in request.plans:
        samples_key = samples_key_of(content, evaluator, plan, request)
        assert evaluator.reference
        asked = [repr(request.wanted), sorted(request.metrics), *["influence"] * request.influence]
        key = digest([samples_key, evaluator.reference.key, *asked])[:12]
        path = request.out / "points" / f"{key}.json"
        unfinished = request.out / ".part" / samples_key
        rows = read_point(path)
        if rows is None:
            rows = evaluate_point(evaluator, trained, plan, request, unfinished, images)
            cfg = trained.cfg
            run = {"experiment": cfg.experiment, "run": cfg.run_id, "step": trained.step, "checkpoint": str(checkpoint)}
            rows = [run | row | {"point": samples_key} for row in rows]
            _write(path, json.dumps(rows) + "\n")
        if checkpoint.parent.name == "checkpoints":
            inside = {"checkpoint": f"checkpoints/{checkpoint.name}"}  # the folder may be moved
            derived.note(checkpoint.parents[1], "evaluate", trained.step, key, [row | inside for row in rows])
            noted.append(key)
        shutil.rmtree(unfinished, ignore_errors=True)
        scores = ", ".join(f"{row['metric']} {row['value']:.4g}" for row in rows)
        print(f"{rows[0]['run']} step {trained.step}, {plan.sampler}, nfe {plan.nfe}: {scores}", flush=True)
    return noted


def prepare(checkpoint: Path, request: Request, quiet: bool = False) -> tuple[Trained, Evaluator, ImageSet]:
    """A checkpoint, its evaluator, and its real images.

    Raises UserError if the checkpoint cannot be scored. Unless quiet, warns if a sampler misses a known answer.
    """
    trained = load_trained(checkpoint, request.weights, request.device)
    cfg = trained.cfg
    for plan in request.plans:
        try:
            make_chain(trained.schedule, plan.sampler, plan.nfe, plan.spacing, plan.t_start)
            answer = try_sampler(trained.schedule, plan.sampler, plan.nfe, plan.spacing, t_start=plan.t_start)
        except ValueError as error:
            raise UserError(f"--sampler {plan.sampler} --nfe {plan.nfe}: {error}.") from None
        if not (answer.passes or quiet):
            print(f"warning: {plan.sampler} at nfe {plan.nfe} misses a known answer by {answer.error:+.0%}")
    use_folder(cfg.cache_dir)
    d, root = cfg.data, request.data
    dataset = "folder" if root and d.dataset == "embedded" else d.dataset
    images = load_images(**d.images | {"dataset": dataset, "root": root or d.root, "quiet": quiet})
    features = make_features(request.features or cfg.eval.features, trained.device)
    _, channels, height, width = images.images.shape
    evaluator = Evaluator(
        schedule=trained.schedule,
        features=features,
        reference=reference_of(cfg.eval, features, images, request.wanted),
        device=trained.device,
        batch_size=request.batch_size or cfg.eval.batch_size or default_batch_size(trained.device),
        x0_limit=request.x0_limit or cfg.eval.x0_limit,
        weights=request.weights,
        shape=(channels, height, width),
        wanted=request.wanted,
    )
    for metric in request.metrics:
        evaluator.protocol(request.plans[0], metric)  # raises UserError if n is too small; all plans have the same n
    if not quiet and (smaller := evaluator.smaller_subsets(request.plans[0])):
        print(smaller)
    return trained, evaluator, images


def samples_key_of(content: str, evaluator: Evaluator, plan: SamplingPlan, request: Request) -> str:
    """A digest of all that the features of a point's samples depend on, including the machine's rounding."""
    assert evaluator.features
    how = [request.weights, request.seed, evaluator.batch_size, evaluator.x0_limit, evaluator.features.name]
    where = [str(evaluator.device), torch.get_num_threads(), torch.__version__]
    return digest([_FORMAT, CHUNK, content, [v for v in astuple(plan) if v is not None], how, where])[:12]


def evaluate_point(
    evaluator: Evaluator,
    trained: Trained,
    plan: SamplingPlan,
    request: Request,
    unfinished: Path,
    images: ImageSet,
) -> list[Row]:
    """The rows of one point, without the checkpoint's columns. Features come from `unfinished` or are computed."""
    assert evaluator.features and evaluator.reference
    found = FeatureSums(plan.n_samples, evaluator.features.dim)
    seconds = torch.zeros(2, dtype=torch.float64)
    for features, taken in gather(evaluator, trained, plan, request.seed, unfinished):
        for batch in features.split(evaluator.batch_size):  # in the batches of a milestone, for the same bits
            found.add(batch)
        seconds += taken
    before = evaluator.timers.seconds["distance"]
    scores = evaluator.score(found)
    times = [*seconds.tolist(), evaluator.timers.seconds["distance"] - before]
    floor, ceiling = ends(evaluator, images, trained.cfg.eval.reference_n, plan.n_samples)
    about = {
        **{"weights": request.weights, "sampler": plan.sampler, "nfe": plan.nfe, "spacing": plan.spacing},
        **({} if plan.t_start is None else {"t_start": plan.t_start}),
        **{"x0_limit": evaluator.x0_limit, "n": plan.n_samples, "seed": request.seed},
        **{"features": evaluator.features.name, "reference": evaluator.reference.name},
        **{"reference_n": evaluator.reference.gaussian.count, "reference_digest": evaluator.reference.digest},
        **dict(zip(("sample_s", "features_s", "distance_s"), times, strict=True)),
    }
    rows = []
    for metric in [name for asked in request.metrics for name in METRICS[asked]]:
        value = scores[metric]
        protocol = evaluator.protocol(plan, metric)
        low, high = fid_interval(value, scores["fid_sem"]) if metric == "fid" else (None, None)
        rows.append(
            about
            | {"metric": metric, "value": value, "low": low, "high": high, "std": scores.get(f"{metric}_std")}
            | {"floor": floor[metric], "ceiling": ceiling[metric]}
            | {"protocol": protocol.fingerprint, "described": protocol.describe()}
            | ({"influence": influence_of(found)} if request.influence and metric == "fid" else {})
        )
    return rows


def influence_of(found: FeatureSums) -> list[float]:
    """The influence of each sample on FID, in order, to five digits: see `frechet_influence`.

    The samples of two points with the same noise are paired: the difference of their FIDs has the standard error
    std(influence_1 - influence_2) / sqrt(n).
    """
    assert found.influence is not None
    return [float(f"{value:.5g}") for value in found.influence.tolist()]


def gather(
    evaluator: Evaluator, trained: Trained, plan: SamplingPlan, seed: int, folder: Path
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The features (B, dim) of a point's samples, chunk by chunk, and the seconds (2,) for drawing and for features.

    Reads the chunks that are in `folder`, computes and saves the others.
    """
    assert evaluator.features
    features, timers = evaluator.features, evaluator.timers
    size = evaluator.batch_size * -(-CHUNK // evaluator.batch_size)
    with tqdm(
        total=plan.n_samples, desc=f"{plan.sampler}, nfe {plan.nfe}", unit="img", disable=None, leave=False
    ) as bar:
        for start in range(0, plan.n_samples, size):

            def take(part: slice = slice(start, start + size)) -> dict[str, torch.Tensor]:
                before = [timers.seconds[name] for name in ("sample", "features")]
                drawn = evaluator.samples(trained.denoiser, plan, seed, None, part)
                parts = [rows.float().cpu() for rows in features.of(drawn, evaluator.timing_features)]
                spent = [timers.seconds[name] - b for name, b in zip(("sample", "features"), before, strict=True)]
                return {"features": torch.cat(parts), "seconds": torch.tensor(spent, dtype=torch.float64)}

            chunk = kept(folder / f"{start:08d}.safetensors", take)
            bar.update(len(chunk["features"]))
            yield chunk["features"], chunk["seconds"]


# --- the table ---

_NEEDED = {*("run", "step", "weights", "sampler", "nfe", "n", "point"), *("metric", "value", "protocol")}


def read_point(path: Path) -> list[Row] | None:
    """The rows of a point; None if the file is missing, or damaged (a warning says so)."""
    try:
        rows = json.loads(path.read_bytes())
        if rows and all(row.keys() >= _NEEDED for row in rows):
            return list(rows)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError):
        pass
    print(f"warning: {path} is damaged and ignored: the point is evaluated again when it is asked for")
    return None


def write_table(out: Path) -> list[Row]:
    """Write the table of all points in `out`, sorted, and what its fingerprints stand for; its rows.

    A score that several files hold for the same samples has one row.
    """
    found = [row for path in sorted((out / "points").glob("*.json")) for row in read_point(path) or ()]
    rows = list({(row["point"], row["protocol"], row["metric"]): row for row in found}.values())
    rows.sort(key=lambda row: [row[key] for key in ("run", "step", "weights", "sampler", "nfe", "n", "point")])
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write(out / "evaluations.csv", text.getvalue())
    described = {row["protocol"]: row["described"] for row in rows if "described" in row}
    _write(out / "protocols.json", json.dumps(described, indent=2, sort_keys=True) + "\n")
    return rows


def _write(path: Path, text: str) -> None:
    make_folder(path.parent)
    write_whole(path, text)
