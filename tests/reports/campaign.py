"""Made-up run folders of a rerun of the study: e5, e6 and e5_study, with findings set by hand."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.reports.conftest import config_of

STEPS = range(100, 10_001, 100)
MILESTONES = range(2000, 10_001, 2000)
FLOOR, CEILING = 0.3, 58.0
DRAWS = 16


@dataclass(frozen=True)
class Campaign:
    """What the runs show. `old`, `respaced` and `ddim` are the changes of a sampler's FID from 2k to 10k, in per cent.
    `trained`, `common` and `fid` are those of E6 against E5. `sem`: the standard error of an FID, in per cent.
    `noisiest`: e5's error of an image predicted from t = 990 at the last step; at 2k it is twice as large, and e6's is
    a tenth lower. At t = 100 the error grows from 0.010 to 0.011."""

    seeds: tuple[int, ...] = (1077, 1078)
    old: float = 1.5
    respaced: float = -50.0
    ddim: float = -20.0
    trained: float = -15.0
    common: float = 5.0
    fid: float = 0.0
    sem: float = 1.0
    noisiest: float = 1.2
    evaluations: bool = True
    influence: bool = False
    faithful: bool = True
    steps: int = 10_000

    def write(self, root: Path) -> Path:
        """Write the run folders as ROOT/EXPERIMENT/RUN_ID and return `root`."""
        for experiment in ("e5", "e6"):
            for seed in self.seeds:
                self._run(root, experiment, seed)
        if self.faithful:
            self._run(root, "e5_study", self.seeds[0])
        return root

    def _run(self, root: Path, experiment: str, seed: int) -> None:
        run_id = f"{experiment}-s{seed}-0123abcd"
        folder = root / experiment / run_id
        folder.mkdir(parents=True)
        sampler = "ddpm_adjacent_posterior" if experiment == "e5_study" else "ddpm"
        config = config_of(
            experiment,
            seed,
            train__total_steps=10_000,
            train__grad_clip=1.0,
            curvature__draws="batch" if experiment == "e5_study" else "fixed",
            curvature__probes=DRAWS,
            eval__sample_seed=0,
            data__batch_size=4,
            optim__lr=1e-4,
            ema__decay=0.999,
            device="cpu",
        )
        described = protocol(sampler)
        rng = np.random.default_rng(seed + sum(experiment.encode()))
        lines = [_line(0, {"loss/mean_weight": 1.0 if experiment != "e6" else 0.913})]
        for step in (s for s in STEPS if s <= self.steps):
            row = self._row(experiment, step, rng)
            if step in MILESTONES:
                row |= self._milestone(experiment, seed, step, sampler)
            lines.append(_line(step, row))
        (folder / "loss.jsonl").write_text("".join(lines))
        card = {
            **{"run_id": run_id, "experiment": experiment, "seed": seed, "started": "2026-01-01T00:00:00+00:00"},
            **{"commit": "0123456789abcdef", "version": "0.1", "config": config, "data": {"digest": "abc", "n": 100}},
            "protocols": {described["fingerprint"]: described["described"]},
            "sessions": [{"wandb": f"/project/{run_id}", "wandb_files": "/somewhere/wandb/offline-run"}],
        }
        (folder / "run.json").write_text(json.dumps(card, indent=2) + "\n")
        (folder / "config.yaml").write_text(json.dumps(config) + "\n")
        if self.steps == 10_000:
            (folder / "results.jsonl").write_text(json.dumps({"cfg": config, "out": {"seed": seed}, "_i": 0}) + "\n")
        if self.evaluations and experiment != "e5_study":
            (folder / "evaluations.jsonl").write_text("".join(self._evaluations(experiment, seed)))

    def _row(self, experiment: str, step: int, rng: np.random.Generator) -> dict[str, Any]:
        fall = math.exp(-step / 1500)
        mse = (0.035 + 0.12 * fall) * rng.lognormal(0, 0.4)
        weight = 0.85 if experiment == "e6" else 1.0
        gradient = (0.1 + 0.2 * fall) * weight * rng.lognormal(0, 0.2)
        changes = {"hutch": self.trained, "ref": self.common} if experiment == "e6" else {"hutch": 0.0, "ref": 0.0}
        row = {
            **{
                "train/loss": weight * mse,
                "train/mse": mse,
                "train/mse_mean": (0.04 + 0.1 * fall) * rng.lognormal(0, 0.05),
            },
            **{"train/grad_global_L2": gradient, "train/grad_abs_mean": 1e-4 * gradient, "train/skipped_steps": 0},
            **{"curvature/missing_hutchinson": 0.0, "time/probe_share": 0.14},
        }
        for loss, percent in changes.items():
            trace = (300 + 500 * fall) * (1 + percent / 100) * (1 + 0.005 * rng.normal())
            std = (40 + 60 * fall) * (1 + 0.05 * rng.normal())
            row |= {f"curvature/{loss}_trace_{name}": v for name, v in (("mean", trace), ("std", std))}
            row[f"curvature/{loss}_trace_sem"] = std / math.sqrt(DRAWS - 1)
        return row

    def _fid(self, experiment: str, seed: int, step: int, sampler: str) -> float:
        start, percent = {
            "ddpm_adjacent_posterior": (53.0, self.old),
            "ddpm": (26.0, self.respaced),
            "ddim": (20.0, self.ddim),
        }[sampler]
        value = start * (1 + percent / 100 * (step - 2000) / 8000) * (1 + 0.0005 * (seed % 2))
        return value * (1 + self.fid / 100) if experiment == "e6" else value

    def _milestone(self, experiment: str, seed: int, step: int, sampler: str) -> dict[str, Any]:
        value = self._fid(experiment, seed, step, sampler)
        ends = {"val/fid_floor": FLOOR, "val/fid_ceiling": CEILING, "val/fid_sem": value * self.sem / 100}
        done = (step - 2000) / 8000
        noisiest = self.noisiest * (2 - done) * (0.9 if experiment == "e6" else 1.0)
        ends |= {"val/recon_mse_t0100": 0.010 + 0.001 * done, "val/recon_mse_t0990": noisiest}
        return ends | {"val/fid": value, "val/fid_protocol": protocol(sampler)["fingerprint"]}

    def _evaluations(self, experiment: str, seed: int) -> list[str]:
        lines = []
        samplers = ("ddpm_adjacent_posterior", "ddim", *["ddpm"] * self.influence)
        for sampler in samplers:
            for step in (s for s in (2000, 6000, 10_000) if s <= self.steps):
                value = self._fid(experiment, seed, step, sampler)
                reach = 1.96 * value * self.sem / 100
                row = {
                    **{
                        "step": step,
                        "sampler": sampler,
                        "nfe": 50,
                        "n": 500,
                        "seed": 0,
                        "metric": "fid",
                        "value": value,
                    },
                    **{"low": value - reach, "high": value + reach, "floor": FLOOR, "ceiling": CEILING},
                    **{"checkpoint": f"checkpoints/step-{step:06d}.pt", "protocol": protocol(sampler)["fingerprint"]},
                    "described": protocol(sampler)["described"],
                }
                if self.influence:  # all are scored from the same noise: nearly the same in all arms and seeds
                    shared = np.random.default_rng(sum(sampler.encode()) + step).normal(size=200)
                    own = np.random.default_rng([sum(experiment.encode()), seed]).normal(size=200)
                    each = shared + 0.1 * own
                    row["influence"] = (each / each.std(ddof=1) * value * self.sem / 100 * 200**0.5).tolist()
                lines.append(json.dumps({"_i": step, "point": f"{sampler}-{step}", "out": [row]}) + "\n")
        return lines


def protocol(sampler: str) -> dict[str, Any]:
    """A protocol: its fingerprint and fields."""
    described = {
        **{"features": "embedded64-3194f8", "reference": "cifar10-jpeg.zip-train", "reference_digest": "abc"},
        **{"reference_n": 45_000, "n_samples": 500, "sampler": sampler, "nfe": 50, "weights": "ema"},
        "adjacent_posterior": sampler == "ddpm_adjacent_posterior",
    }
    return {"fingerprint": f"embedded64-{sampler}", "described": described}


def _line(step: int, row: dict[str, Any]) -> str:
    return json.dumps({"_i": step, "out": row}) + "\n"
