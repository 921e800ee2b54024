"""Curvature at a finished run's checkpoints, measured as in training: the work of `ddpm probe`."""

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ddpm.config.files import resolve
from ddpm.config.run import Config
from ddpm.config.stored import differences, upgrade
from ddpm.curvature.probe import CHECKS, CurvatureProbe, Measurement
from ddpm.data.images import ImageSet, load_images
from ddpm.errors import Held, UserError
from ddpm.files.disk import require_file, sync, write_whole, written
from ddpm.models.build import make_model, objective_of, schedule_of
from ddpm.models.stored import load_checkpoint, weights_of
from ddpm.runtime.checkpoint import digest, list_checkpoints, no_checkpoints
from ddpm.runtime.environment import choose_device
from ddpm.runtime.signals import StopSignals
from ddpm.tracking import derived
from ddpm.tracking.amend import send_amended, send_noted
from ddpm.tracking.run_folder import RunFolder

# The keys of `curvature` that a method's numbers depend on, besides those of the draws.
_DRAWS = ("draws", "neutral", "seed", "batch_size", "weights")
_DESIGN: dict[str, tuple[str, ...]] = {
    "hutchinson": ("probes", "per_draw"),
    "hutchpp": ("probes",),
    "xtrace": ("probes",),
    "lanczos": ("lanczos_steps",),
    "slq": ("lanczos_steps", "slq_starts"),
    "noise_scale": ("probes",),
}


def probe(source: Path, overrides: Sequence[str], data: str | None, device: str, out: Path | None) -> str:
    """Measure the checkpoint `source`, or all checkpoints of the run folder `source`; a table of the numbers.

    overrides: `--curvature.key=value`, which win over the run's config. The numbers go into the run's rows, in its
    folder and on W&B, or into the file `out`. Numbers that are there already are not measured again.

    Raises UserError on bad input, and before one key of a run gets two meanings: if images, weights or draws differ
    from the run's own, or if the run is unfinished. Raises Interrupted after SIGTERM or SIGINT, with the numbers so far
    written.
    """
    foreign = [word for word in overrides if not (word.startswith("--curvature.") and "=" in word)]
    if foreign:
        raise UserError(f"{' '.join(foreign)}: a probe takes its options and --curvature.key=value, no other key.")
    if out is not None:
        require_file(out)
    found, run = _find(source)
    if out is None and run is None:
        raise UserError(f"{source} is not in a run folder that could hold the numbers. Give --out FILE.")
    first = load_checkpoint(found[0])
    stored = first["config"]
    cfg = resolve([(str(found[0]), stored)], ["--curvature.enabled=true", *overrides, *_data_overrides(stored, data)])
    states = itertools.chain([first], map(load_checkpoint, found[1:]))
    checkpoints = [_described(path, state, cfg.curvature.weights) for path, state in zip(found, states, strict=True)]
    if out is not None:
        run_id = resolve([(str(found[0]), stored)], []).run_id  # without the overrides: they do not change the run
        return _into_file(_Measuring(cfg, device), checkpoints, out, run_id, run)
    assert run is not None
    folder = RunFolder.at(run)
    try:
        with folder:
            _require_over(folder, checkpoints, cfg)
            return _into_run(_Measuring(cfg, device), checkpoints, folder)
    except Held:
        raise Held(f"Another process is writing to the run {run}. Wait, or write to a file with --out FILE.") from None


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint without its weights: a run may have many."""

    path: Path
    step: int
    config: dict[str, Any]


class _Measuring:
    """A run's images and network, ready for any of its checkpoints."""

    def __init__(self, cfg: Config, device: str):
        self.cfg = cfg
        self._device = choose_device(device)
        self.images: ImageSet = load_images(**cfg.data.images)
        self._images = self.images.images.to(self._device)
        self._objective = objective_of(cfg, schedule_of(cfg), self._device)
        self._model = make_model(cfg).to(self._device)
        for line in CurvatureProbe(cfg, self._objective, self._images).notes:
            print(line)

    def over(self, work: Sequence[tuple[_Checkpoint, Sequence[str]]]) -> Iterator[tuple[int, Measurement]]:
        """Step and measurement for each (checkpoint, methods). Raises UserError, and Interrupted between two."""
        bar = tqdm(total=len(work), desc="probe", unit="checkpoint", disable=None)
        with bar, StopSignals(first="finished measurements are kept") as stop:
            for checkpoint, methods in work:
                state = load_checkpoint(checkpoint.path)
                self._model.load_state_dict(weights_of(checkpoint.path, state, self.cfg.curvature.weights))
                part = self.cfg.curvature.model_copy(update={"method": tuple(methods)})
                cfg = self.cfg.model_copy(update={"curvature": part})
                measuring = CurvatureProbe(cfg, self._objective, self._images)
                step = checkpoint.step
                yield step, measuring.measure(self._model, step, state["indices"], stop.check, checks=CHECKS)
                bar.update()


def _into_run(measuring: _Measuring, checkpoints: Sequence[_Checkpoint], folder: RunFolder) -> str:
    trained_on = folder.record.get("data", {}).get("digest")
    if trained_on not in (None, measuring.images.digest):
        raise UserError(
            f"The run in {folder.path} was trained on other images (digest {trained_on}, these: "
            f"{measuring.images.digest}). Give its images with --data, or write to a file with --out FILE."
        )
    curvature = measuring.cfg.curvature
    work = []
    for checkpoint in checkpoints:
        row = folder.rows.get(checkpoint.step, {})
        lacking = [m for m in curvature.method if f"curvature/missing_{m}" not in row]
        if lacking:
            work.append((checkpoint, lacking))
    found, said = [], ""
    try:
        for step, measurement in measuring.over(work):
            folder.amend(step, measurement.logged, {"curvature": curvature.model_dump(mode="json")})
            found.append((step, measurement))
    finally:
        said = send_amended(folder, [step for step, _ in found])  # after an interruption too
        if found:
            tqdm.write(_table(found))
        if said:
            tqdm.write(said)
    done = len(checkpoints) - len(work)
    return f"{done} of {len(checkpoints)} checkpoints had these numbers already" if done else f"in {folder.path}"


def _into_file(
    measuring: _Measuring, checkpoints: Sequence[_Checkpoint], out: Path, run_id: str, run: Path | None
) -> str:
    """Write a line for each checkpoint to OUT.part, then rename it to OUT. An interrupted command resumes from it."""
    cfg = measuring.cfg
    about = {
        **{"run_id": run_id, "experiment": cfg.experiment, "seed": cfg.seed},
        "images": measuring.images.digest,
        "curvature": cfg.curvature.model_dump(mode="json"),
    }
    part = out.with_name(f"{out.name}.part")
    with written(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        known = _lines(part, about)
        write_whole(part, "".join(json.dumps(line) + "\n" for line in known))
    steps = {line["_i"] for line in known}
    work = [(checkpoint, cfg.curvature.method) for checkpoint in checkpoints if checkpoint.step not in steps]
    found = [(line["_i"], Measurement(line["out"])) for line in known]
    with written(out), part.open("a") as file:
        for step, measurement in measuring.over(work):
            details = {key: [_plain(v) for v in values] for key, values in measurement.details.items()}
            file.write(json.dumps({"_i": step, **about, "out": measurement.row, "details": details}) + "\n")
            file.flush()
            found.append((step, measurement))
    with written(out):
        sync(part)
        part.replace(out)
    said = f"{_table(sorted(found, key=lambda pair: pair[0]))}\nwritten to {out}"
    return "\n".join(filter(None, (said, _note(run, about, found) if run else "")))


def _note(run: Path, about: dict[str, Any], found: Sequence[tuple[int, Measurement]]) -> str:
    """Note the numbers in the run's folder, and send them to W&B as a run of its own. Returns a message about it."""
    how = {key: about[key] for key in ("images", "curvature")}
    points = []
    for step, measurement in found:
        points.append(digest([how, step])[:12])
        derived.note(run, "probe", step, points[-1], measurement.row, how)
    return send_noted(run, points)


def _lines(part: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The whole lines in `part` whose settings are `about`."""
    found = []
    for text in part.read_text().splitlines() if part.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if {key: line.get(key) for key in about} == about:
            found.append(line)
    return found


def _plain(value: float) -> float | None:
    """`value` to seven digits; None if it is not finite, which JSON cannot hold."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _find(source: Path) -> tuple[list[Path], Path | None]:
    """The checkpoints, by step, and their run folder; None if they are in none."""
    checkpoints = [source] if source.is_file() else list_checkpoints(source)
    if not checkpoints:
        raise no_checkpoints(source)
    run = checkpoints[0].resolve().parent.parent if source.is_file() else source
    return checkpoints, run if (run / "run.json").is_file() else None


def _described(path: Path, state: dict[str, Any], which: str) -> _Checkpoint:
    """The checkpoint at `path`. Raises UserError if the weights to measure are missing or not finite."""
    weights_of(path, state, which)
    return _Checkpoint(path, state["step"], state["config"])


def _data_overrides(stored: dict[str, Any], data: str | None) -> list[str]:
    if data is None:
        return []
    if data == "embedded":
        return ["--data.dataset=embedded", "--data.root=null"]
    was = stored["data"]["dataset"]
    return [f"--data.dataset={'folder' if was == 'embedded' else was}", f"--data.root={data}"]


def _require_over(folder: RunFolder, checkpoints: Sequence[_Checkpoint], cfg: Config) -> None:
    """Raises UserError if new numbers would contradict the run's config, or be lost when it is continued."""
    own = upgrade(folder.record["config"])
    if not folder.finished:
        raise UserError(
            f"The run in {folder.path} is not finished: continuing it would lose the new numbers. Finish it first "
            "with its own command, or write to a file with --out FILE."
        )
    for checkpoint in checkpoints:
        changed = differences(checkpoint.config, own)
        if changed:
            raise UserError(f"{checkpoint.path} belongs to another run than {folder.path}: {'; '.join(changed)}.")
    now = cfg.curvature.model_dump(mode="json")
    there = own["curvature"]
    needed = dict.fromkeys((*_DRAWS, *(key for method in cfg.curvature.method for key in _DESIGN[method])))
    wrong = [f"curvature.{key} is {there[key]} there, {now[key]} here" for key in needed if there[key] != now[key]]
    if wrong:
        raise UserError(
            f"The numbers would contradict the config of the run in {folder.path}: {'; '.join(wrong)}. "
            "Measure by its config, or write to a file with --out FILE."
        )


def _table(found: Sequence[tuple[int, Measurement]]) -> str:
    """The numbers as text: a line for each step, a column for each quantity."""
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
