"""FID against NFE, end to end on a tiny checkpoint."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm import frontier
from ddpm.train import train
from tests.ddpm.test_train import tiny


def test_points_lie_between_real_images_and_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sampler at every NFE, both ends of the scale, and a figure. An untrained network scores badly."""
    flags = ["--train.total_steps=2", "--curvature.enabled=false", "--logging.wandb.mode=disabled"]
    folder = train(tiny(tmp_path, *flags, "--eval.fid_milestone.enabled=false", "--eval.final.enabled=false"))
    flags = ["--n", "70", "--nfe", "1", "2", "--samplers", "ddpm", "ddim"]
    monkeypatch.setattr("sys.argv", ["frontier", str(folder), "--out", str(tmp_path / "docs/out"), *flags])
    frontier.main()
    rows = list(csv.DictReader((tmp_path / "docs/out.csv").open()))
    assert [(r["sampler"], r["nfe"]) for r in rows[:4]] == [("ddpm", "1"), ("ddim", "1"), ("ddpm", "2"), ("ddim", "2")]
    fid = {r["sampler"]: float(r["fid"]) for r in rows}
    assert fid["real images"] < 0.2 * fid["pure noise"]
    assert fid["real images"] < fid["ddpm"]
    assert len({r["protocol"] for r in rows[:4]}) == 4
    assert np.asarray(Image.open(tmp_path / "docs/out.png")).std() > 10
