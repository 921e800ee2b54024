"""Runs to test the reports with: the original study's logs, and small synthetic run folders and W&B runs."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from PIL import Image

from ddpm.names import NOISE_BINS
from reports import figures, report
from reports.experiments import Study, load
from reports.experiments.selection import Selection, select
from reports.figures.style import Drawn
from reports.sources import open_source
from tests.once import once

LOGS = Path(__file__).parents[2] / "docs/findings/study_logs"
STEPS = range(10, 201, 10)
PROTOCOLS = {
    "aaaa1111": {"sampler": "ddpm", "nfe": 50, "n_samples": 64},
    "bbbb2222": {"sampler": "ddpm", "nfe": 50, "n_samples": 128},
    "cccc3333": {"sampler": "ddim", "nfe": 20, "n_samples": 64},
}


def config_of(experiment: str, seed: int, **extra: Any) -> dict[str, Any]:
    """A small nested config; `extra` takes dotted keys written with `__`."""
    weighting = {"e6": "minsnr"}.get(experiment, "constant")
    config: dict[str, Any] = {
        "experiment": experiment,
        "seed": seed,
        "out_dir": "runs",
        "train": {"total_steps": 200},
        "diffusion": {"beta_schedule": "linear"},
        "loss": {"weighting": weighting, "minsnr_gamma": 5.0},
        "curvature": {"enabled": True, "probes": 4},
        "eval": {"fid_milestone": {"every": 100}},
    }
    for key, value in extra.items():
        *sections, name = key.split("__")
        target = config
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = value
    return config


def rows_of(experiment: str, seed: int, protocol: str = "aaaa1111") -> list[tuple[int, dict[str, Any]]]:
    """Plausible rows: falling loss and traces (e6 below e5), FID at two milestones, a final FID."""
    rng = np.random.default_rng(seed * 1000 + sum(experiment.encode()))
    scale = 0.8 if experiment == "e6" else 1.0
    rows: list[tuple[int, dict[str, Any]]] = []
    for step in STEPS:
        fall = math.exp(-step / 80)
        row = {
            "train/loss": scale * (0.02 + 0.2 * fall) * float(rng.lognormal(0, 0.3)),
            "train/mse": (0.02 + 0.2 * fall) * float(rng.lognormal(0, 0.3)),
            "train/grad_global_L2": 0.1 + 0.3 * fall + 0.02 * float(rng.random()),
            "train/grad_abs_mean": 1e-5 * (1 + 3 * fall + float(rng.random())),
        }
        for kind, factor in (("hutch", scale), ("ref", 0.95 if experiment == "e6" else 1.0)):
            row[f"curvature/{kind}_trace_mean"] = factor * (300 + 500 * fall) + 3 * float(rng.normal())
            row[f"curvature/{kind}_trace_std"] = 20.0
            row[f"curvature/{kind}_trace_sem"] = 20.0 / math.sqrt(3)
        row |= {f"time/{part}_s": share * step for part, share in (("train", 1.0), ("probe", 0.5), ("total", 2.0))}
        row["train/images_seen"] = 4.0 * step
        rows.append((step, row))
        if step % 100 == 0:
            fid = 90 - step / 10 + 5 * scale + float(rng.normal())
            rows.append((step, {"val/fid": fid, "val/fid_protocol": protocol}))
            rows.append((step, {f"mse_per_t/mse_t{t:04d}": 0.3 * math.exp(-t / 200) for t in (10, 100, 500, 900)}))
    rows.append((200, {"final/fid": 70.0 + scale + seed, "final/fid_protocol": "bbbb2222"}))
    weights = [0.5, 1.0] if experiment == "e6" else [1.0, 1.0]
    rows.append((0, {"loss/mean_weight": scale, "mins_snr_curve/t": [0, 999], "mins_snr_curve/weight": weights}))
    return rows


def noise_rows(experiment: str, draws: int = 6) -> list[tuple[int, dict[str, Any]]]:
    """Rows with what a run logs by noise level: neutral trace and bins with the values of their draws at `STEPS`; the
    loss on seen and unseen images and its floor at every 100 steps. A draw adds the same to every experiment."""
    rng = np.random.default_rng(0)
    rows: list[tuple[int, dict[str, Any]]] = []
    for step in STEPS:
        row: dict[str, Any] = {}
        common = 20 * rng.normal(size=(len(NOISE_BINS), draws))
        own = np.random.default_rng(step * 1000 + sum(experiment.encode())).normal(size=common.shape)
        levels = (300 + 500 * math.exp(-step / 80)) * np.geomspace(0.2, 5.0, len(NOISE_BINS))
        tilt = np.geomspace(0.8, 1.25, len(NOISE_BINS)) if experiment == "e6" else np.ones(len(NOISE_BINS))
        each = (levels * tilt)[:, None] * (1 + 0.05 * own) + common
        names = [f"curvature/trace_by_noise/{name}" for name in NOISE_BINS]
        for name, values in (*zip(names, each, strict=True), ("curvature/neutral", each.mean(axis=0))):
            mean = f"{name}_trace" if name == "curvature/neutral" else name
            row |= {f"{mean}_mean": values.mean(), f"{mean}_sem": values.std(ddof=1) / math.sqrt(draws)}
            row[f"{name}_values"] = values.tolist()
        rows.append((step, row))
        if step % 100 == 0:
            scale = 0.9 if experiment == "e6" else 1.0
            for name, seen in zip(NOISE_BINS, scale * np.geomspace(0.004, 0.8, len(NOISE_BINS)), strict=True):
                factors = {"seen": 1.0, "unseen": 1.1, "gap": 0.1, "floor": 0.25, "excess": 0.75}
                more = {f"loss_by_noise/{name}_{what}": factor * seen for what, factor in factors.items()}
                rows.append((step, more | {f"{key}_sem": value / 20 for key, value in more.items()}))
    return rows


def write_run(
    folder: Path,
    experiment: str,
    seed: int = 1,
    started: str = "2026-01-01T00:00:00+00:00",
    protocol: str = "aaaa1111",
    rows: list[tuple[int, dict[str, Any]]] | None = None,
    finished: bool = True,
    **extra: Any,
) -> Path:
    """A run folder as our training writes it, with two sample grids."""
    folder.mkdir(parents=True)
    config = config_of(experiment, seed, **extra)
    rows = rows_of(experiment, seed, protocol) if rows is None else rows
    lines = [json.dumps({"_i": step, "out": row}) for step, row in rows]
    (folder / "loss.jsonl").write_text("\n".join(lines) + "\n")
    card = {
        "run_id": f"{experiment}-s{seed}-{folder.name}",
        "experiment": experiment,
        "seed": seed,
        "started": started,
        "commit": "0123456789abcdef",
        "version": "0.1",
        "config": config,
        "protocols": PROTOCOLS,
    }
    (folder / "run.json").write_text(json.dumps(card))
    if finished:
        (folder / "results.jsonl").write_text(json.dumps({"cfg": config, "out": {"seed": seed}, "_i": 0}) + "\n")
    (folder / "samples").mkdir()
    for step in (100, 200):
        image = np.random.default_rng(step).random((24, 24, 3))
        matplotlib.image.imsave(folder / "samples" / f"step-{step:06d}.png", image)
    return folder


def chosen(root: Path, experiment: str, *where: str) -> Selection:
    """The runs that a report on `experiment` chooses from the source `root`."""
    return select(load(experiment), open_source(str(root)), where)


@pytest.fixture
def originals() -> Path:
    """The logs of the original study's e1, e5 and e6."""
    return LOGS


@pytest.fixture(scope="session")
def two_seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders of e5 and e6 with two seeds each. Every metric is logged."""
    root = tmp_path_factory.mktemp("two-seeds")
    for experiment in ("e5", "e6"):
        for seed in (1, 2):
            rows = rows_of(experiment, seed) + noise_rows(experiment)
            write_run(root / experiment / f"seed{seed}", experiment, seed, rows=rows, curvature__draws="fixed")
    return root


@dataclass(frozen=True)
class WandbRuns:
    """A real offline `wandb` folder, and run folders with the same values."""

    wandb: Path
    folders: Path


@pytest.fixture(scope="session")
def wandb_runs(tmp_path_factory: pytest.TempPathFactory) -> WandbRuns:
    """e5 and e6, one seed each, logged by the real client (offline) and written as run folders."""
    root = once(tmp_path_factory, "same-values", _write_and_log)
    return WandbRuns(root / "wandb", root / "folders")


def _write_and_log(root: Path) -> None:
    for experiment in ("e5", "e6"):
        folder = write_run(root / "folders" / experiment, experiment, rows=_awkward_rows(experiment))
        _log_to_wandb(root, folder, experiment)


def _awkward_rows(experiment: str) -> list[tuple[int, dict[str, Any]]]:
    """Rows with NaN and infinities, as a diverging run logs them."""
    rows = rows_of(experiment, 1)
    rows[3][1]["train/loss"] = math.nan
    rows[4][1]["train/loss"] = math.inf
    rows[5][1]["train/grad_global_L2"] = -math.inf
    return rows


def _log_to_wandb(root: Path, folder: Path, experiment: str) -> None:
    import wandb

    card = json.loads((folder / "run.json").read_text())
    run = wandb.init(
        id=card["run_id"],
        project="test",
        dir=root,
        mode="offline",  # set here: wandb reads WANDB_MODE only once per process
        group=experiment,
        config={**card["config"], "commit": card["commit"], "protocols": card["protocols"]},
        settings=wandb.Settings(silent=True, x_disable_stats=True, console="off"),
    )
    run.define_metric("*", step_metric="step")
    for step, row in _awkward_rows(experiment):
        run.log({"step": step, **row})
    for step in (100, 200):
        run.log({"step": step, "samples/grid": wandb.Image(str(folder / "samples" / f"step-{step:06d}.png"))})
    run.log({"no_step_of_its_own": 1.0})
    run.log({"step": 200, "text": "a record longer than two blocks " * 2500})
    run.finish()
    wandb.teardown()  # `finish` may return before the file is written


def wandb_file(folder: Path, experiment: str) -> Path:
    """The transaction log of `experiment` in a W&B folder."""
    return next(path for path in sorted(folder.rglob("run-*.wandb")) if f"run-{experiment}-" in path.name)


def environment() -> dict[str, str]:
    """The environment for a child process that must not reach the network."""
    return {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}


@pytest.fixture
def few_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports with two figures. Drawing all of them takes most of the time, and one test does it."""

    def load_fewer(name: str) -> Study:
        return load(name).model_copy(update={"figures": ("fid_vs_step", "sample_grids")})

    monkeypatch.setattr(report, "load", load_fewer)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports whose figures are made but not rendered, since rendering takes most of the time. Their files hold one
    pixel."""

    def save(drawn: Drawn, stem: Path, **_: object) -> Path:
        for ending in (".png", ".svg"):
            Image.new("RGB", (1, 1)).save(stem.with_name(stem.name + ending), format="png")
        return stem.with_name(stem.name + ".png")

    monkeypatch.setattr(figures, "save", save)
