"""`ddpm probe`: the curvature at the checkpoints of a run that is over, measured as a training measures it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ddpm.checkpoint import checkpoint_step, list_checkpoints, load_checkpoint
from ddpm.config import Config
from ddpm.config_files import resolve
from ddpm.curvature import CurvatureProbe, Measurement
from ddpm.data import ImageSet, load_images
from ddpm.environment import choose_device
from ddpm.errors import UserError
from ddpm.objective import Objective
from ddpm.tracking.amend import send_amended
from ddpm.tracking.run_folder import RunFolder
from ddpm.train import make_model, schedule_of

# Draws of each checkpoint that are taken by exact products too.
CHECKS = 2
# Keys of `curvature` that do not change what a value means.
_NO_DESIGN = ("enabled", "every", "method", "chunk", "log_prefix")
_MARKS = {
    "hutchinson": "curvature/ref_trace_mean",
    "hutchpp": "curvature/ref_hutchpp_trace",
    "xtrace": "curvature/ref_xtrace",
    "lanczos": "curvature/ref_top_eigenvalue",
    "slq": "curvature/ref_slq_trace",
    "noise_scale": "curvature/noise_scale",
}


def probe(source: Path, overrides: Sequence[str], data: str | None, device: str, out: Path | None) -> str:
    """Measure the checkpoint `source`, or all of the run folder `source`; a table of what was found.

    overrides: `--curvature.key=value`, over what the run's config says. The numbers become a part of the run's record,
    its folder's and W&B's, or lines of the file `out`. A step of the record that has them already is not taken again.
    Raises UserError on anything that would give one key of one run two meanings.
    """
    foreign = [word for word in overrides if not word.startswith("--curvature.")]
    if foreign:
        raise UserError(f"A probe can set keys of --curvature alone, not {', '.join(foreign)}.")
    checkpoints, run = _find(source)
    stored = load_checkpoint(checkpoints[0])["config"]
    cfg = resolve(
        [(str(checkpoints[0]), stored)], ["--curvature.enabled=true", *overrides, *_data_overrides(stored, data)]
    )
    d = cfg.data
    images = load_images(d.dataset, d.root, subset=d.subset, split=d.split, skip_bad=d.skip_bad, workers=d.num_workers)
    if out:
        found = list(_measure(cfg, images, checkpoints, device))
        about = {
            **{key: getattr(cfg, key) for key in ("run_id", "experiment", "seed")},
            "images": images.digest,
            "curvature": cfg.curvature.model_dump(mode="json"),
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w") as file:
            for step, measurement in found:
                details = {key: [float(f"{v:.7g}") for v in values] for key, values in measurement.details.items()}
                file.write(json.dumps({"_i": step, **about, "out": measurement.row, "details": details}) + "\n")
        return f"{_table(found)}\nwritten to {out}"
    if run is None:
        raise UserError(f"{source} is not a part of a run folder, which could take the numbers. Give --out FILE.")
    return _into_run(cfg, images, checkpoints, device, run)


def _into_run(cfg: Config, images: ImageSet, checkpoints: list[Path], device: str, path: Path) -> str:
    with RunFolder.at(path) as folder:
        _require_comparable(folder, cfg, images)
        marks = [_MARKS[method] for method in cfg.curvature.method]
        missing = [c for c in checkpoints if not all(m in folder.rows.get(checkpoint_step(c), {}) for m in marks)]
        found = []
        rows: dict[int, dict[str, float]] = {}
        try:
            for step, measurement in _measure(cfg, images, missing, device):
                folder.append(step, measurement.row)
                rows[step] = measurement.row
                found.append((step, measurement))
        finally:
            # Also of a measurement that was stopped: what is in the folder is to reach W&B.
            said = send_amended(folder, rows, {"curvature": cfg.curvature.model_dump(mode="json")}) if rows else ""
    known = f"{len(checkpoints) - len(missing)} of {len(checkpoints)} checkpoints had these numbers already"
    return "\n".join(line for line in (_table(found), known if len(missing) < len(checkpoints) else "", said) if line)


def _measure(cfg: Config, images: ImageSet, checkpoints: list[Path], device: str) -> Iterator[tuple[int, Measurement]]:
    where = choose_device(device)
    objective = Objective(cfg, schedule_of(cfg), where)
    curvature = CurvatureProbe(cfg, objective, images.images.to(where))
    model = make_model(cfg).to(where)
    draws = cfg.curvature.probes // cfg.curvature.per_draw
    total = len(checkpoints) * draws
    with tqdm(total=total, desc="probe", unit="draw", disable=None) as bar:

        def tick() -> None:
            bar.update(bar.n < total)

        for number, path in enumerate(checkpoints, start=1):
            state = load_checkpoint(path)
            weights = state["ema" if cfg.curvature.weights == "ema" else "model"]
            if weights is None:
                raise UserError(f"{path} holds no averaged weights (ema.enabled was false). Use --weights live.")
            model.load_state_dict(weights)
            bar.set_postfix_str(f"step {state['step']}")
            measurement = curvature.measure(model, state["step"], state["indices"], tick, checks=CHECKS)
            bar.update(number * draws - bar.n)
            yield state["step"], measurement


def _find(source: Path) -> tuple[list[Path], Path | None]:
    """The checkpoints asked for, by step, and the run folder that they are of."""
    checkpoints = [source] if source.is_file() else list_checkpoints(source)
    if not checkpoints:
        raise UserError(
            f"{source} is neither a checkpoint nor a run folder with checkpoints. Give a file such as "
            "runs/e5/RUN_ID/checkpoints/step-002000.pt, or the folder runs/e5/RUN_ID."
        )
    run = checkpoints[0].resolve().parent.parent if source.is_file() else source
    return checkpoints, run if (run / "run.json").is_file() else None


def _data_overrides(stored: dict[str, Any], data: str | None) -> list[str]:
    if data is None:
        return []
    if data == "embedded":
        return ["--data.dataset=embedded", "--data.root=null"]
    was = stored["data"]["dataset"]
    return [f"--data.dataset={'folder' if was == 'embedded' else was}", f"--data.root={data}"]


def _require_comparable(folder: RunFolder, cfg: Config, images: ImageSet) -> None:
    """Raises UserError where the numbers would not mean what the run's others of the same key do."""
    trained_on = folder.record.get("data", {}).get("digest")
    if trained_on not in (None, images.digest):
        raise UserError(
            f"The run in {folder.path} was trained on other images (digest {trained_on}, these: {images.digest}). Give "
            "its own by --data, or write to a file by --out FILE."
        )
    own = folder.record["config"]["curvature"]
    designs = [own] if own["enabled"] else []
    designs += [a["curvature"] for a in folder.record.get("amendments", []) if "curvature" in a]
    now = cfg.curvature.model_dump(mode="json")
    changed = [
        f"curvature.{key} was {design[key]}, is {now[key]}"
        for design in designs[:1]
        for key in now
        if key not in _NO_DESIGN and design.get(key, now[key]) != now[key]
    ]
    if changed:
        raise UserError(
            f"The run in {folder.path} holds curvature that was measured in another way: {'; '.join(changed)}. Measure "
            "in the same way, or write to a file by --out FILE."
        )


def _table(found: Sequence[tuple[int, Measurement]]) -> str:
    """Step by step, what was measured, in columns."""
    if not found:
        return ""
    keys = [key for key in dict.fromkeys(k for _, m in found for k in m.row) if not key.endswith(("_sem", "_std"))]
    rows = [["step", *(key.removeprefix("curvature/") for key in keys)]]
    for step, measurement in found:
        cells = [str(step)]
        for key in keys:
            value, sem = measurement.row.get(key), measurement.row.get(f"{key.removesuffix('_mean')}_sem")
            cells.append("-" if value is None else f"{value:.4g}" + (f" +- {sem:.2g}" if sem is not None else ""))
        rows.append(cells)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
