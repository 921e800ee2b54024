"""`ddpm sample` and `ddpm schedule` on a real, tiny checkpoint."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.commands import cli
from ddpm.diffusion.samplers import SAMPLERS
from ddpm.training.loop import train
from tests.once import once
from tests.training.test_train import NO_WANDB, PLAIN, ROOT, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    keys = (*PLAIN, NO_WANDB, "--train.total_steps=2")
    return tiny(once(tmp_path_factory, "two-steps", lambda root: train(tiny(root, *keys))), *keys).run_dir


def _sample(folder: Path, out: Path, *flags: str) -> int:
    return cli.main(["sample", str(folder), "--out", str(out), "--nfe", "3", "--n", "5", *flags])


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_sampler_draws(folder: Path, tmp_path: Path, sampler: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every sampler draws, and the study's own warns."""
    assert _sample(folder, tmp_path, "--sampler", sampler) == 0
    assert ("faulty" in capsys.readouterr().out) == (sampler == "ddpm_adjacent_posterior")
    assert _pixels(tmp_path / "grid.png").std() > 1


def test_equal_seeds_give_equal_images_whatever_the_batch(folder: Path, tmp_path: Path) -> None:
    """The images are equal up to one grey level, since convolutions round differently with other batch sizes."""
    assert _sample(folder, tmp_path / "a", "--each", "--batch-size", "2") == 0
    assert _sample(folder, tmp_path / "b", "--each", "--batch-size", "5") == 0
    assert _sample(folder, tmp_path / "c", "--each", "--seed", "1") == 0
    names = sorted(p.name for p in (tmp_path / "a/images").iterdir())
    assert names == [f"{i:05d}.png" for i in range(5)]
    for name in names:
        a, b, c = (_pixels(tmp_path / run / "images" / name) for run in "abc")
        assert abs(a - b).max() <= 1
        assert abs(a - c).max() > 20


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nfe", "1001"], "1 ... T = 1000 steps"),
        (["--weights", "none"], "invalid choice"),
        (["--sampler", "euler"], "invalid choice"),
        (["--spacing", "odd"], "invalid choice"),
        (["--n", "0"], "at least 1"),
        (["--eta", "2"], "within 0 ... 1"),
    ],
)
def test_bad_input(
    folder: Path, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = _sample(folder, tmp_path / "out", *flags)
    except SystemExit as error:  # argparse
        code = int(error.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sample", str(tmp_path)]) == 2
    assert "neither a checkpoint nor a run folder" in capsys.readouterr().err
    (tmp_path / "x.pt").write_bytes(b"x")
    assert cli.main(["sample", str(tmp_path / "x.pt")]) == 2
    assert "damaged" in capsys.readouterr().err


def test_schedule_is_drawn(tmp_path: Path) -> None:
    """Every schedule is drawn, also at zero terminal SNR, where the logarithm of SNR ends at -inf."""
    e6 = str(ROOT / "configs/smoke/e6.yaml")
    for flags in (
        [],
        ["--diffusion.beta_schedule=cosine", "--diffusion.zero_terminal_snr=true", "--diffusion.prediction=v"],
    ):
        out = tmp_path / "deep" / "schedule.png"
        assert cli.main(["schedule", e6, "--out", str(out), *flags]) == 0
        assert _pixels(out).std() > 10
