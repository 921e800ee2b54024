"""Foreign checkpoints, numbers that are not finite, and places that cannot be written to."""

import json
import math
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

from ddpm.commands import cli
from ddpm.diffusion.schedule import make_schedule
from ddpm.evaluation.distances import Gaussian, GaussianSum, frechet_distance
from ddpm.evaluation.fid_error import frechet_error
from ddpm.evaluation.kid_prdc import Kid, kid, neighbours
from ddpm.evaluation.reconstruction import reconstruction
from ddpm.files.disk import FIGURES, replacing
from ddpm.models.stored import _CONTINUED
from ddpm.runtime.checkpoint import checkpoint_path, load_state, save_checkpoint
from ddpm.tracking.run_folder import RunFolder
from ddpm.training.diagnostics import Diagnostics
from ddpm.training.loop import train
from tests.once import once
from tests.training.test_train import NO_WANDB, PLAIN, ROOT, tiny

KEYS = (*PLAIN, NO_WANDB, "--checkpoint.every=1", "--checkpoint.keep=9")
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps. Tests only read it."""
    return tiny(once(tmp_path_factory, "files", lambda root: train(tiny(root, *KEYS))), *KEYS).run_dir


def _verbs(path: Path, out: Path) -> list[list[str]]:
    few = ["--n", "70", "--nfe", "1", "--out", str(out)]
    return [
        ["sample", str(path), "--nfe", "1", "--n", "2", "--out", str(out)],
        ["evaluate", str(path), *few],
        ["probe", str(path), "--probes", "2", "--out", str(out)],
    ]


def _saved(path: Path, change: Change) -> Callable[[Path], None]:
    """A function that writes a changed copy of the checkpoint `path`, with a valid digest."""

    def write(to: Path) -> None:
        state = load_state(path)
        change(state)
        save_checkpoint(to, state)

    return write


def _other_training(to: Path) -> None:
    torch.save({"step": 3, "model": {"w": torch.ones(2)}, "opt": {}, "ema": {}, "scaler": None, "version": "2.1"}, to)


class Unknown:
    """An object that only another program's code can restore."""


FOREIGN: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "another training's": (
        lambda own, to: _other_training(to),
        "contains 'step', 'model', .* and no config, indices",
    ),
    "a list": (lambda own, to: torch.save([1, 2], to), "it contains a list"),
    "of another shape": (
        lambda own, to: _saved(own, lambda s: s["model"].update({"stem.weight": torch.ones(1)}))(to),
        r"not fit the config's network: stem\.weight is \(1,\) float32, not \(8, 3, 3, 3\) float32",
    ),
    "of another type": (
        lambda own, to: _saved(own, lambda s: s["ema"].update({"stem.bias": s["ema"]["stem.bias"].long()}))(to),
        r"ema does not fit the config's network: stem\.bias is \(8,\) int64",
    ),
    "of another network": (
        lambda own, to: _saved(own, lambda s: s["model"].update({"attention": s["model"].pop("stem.bias")}))(to),
        r"2 names differ: stem\.bias is missing",
    ),
    "without a key": (lambda own, to: _saved(own, lambda s: s.pop("indices"))(to), "no indices"),
    "with a value of another kind": (lambda own, to: _saved(own, lambda s: s.update(step="3"))(to), "step is a str"),
    "of another config": (
        lambda own, to: _saved(own, lambda s: s["config"].update(later={"key": 1}))(to),
        "its config does not fit this version",
    ),
    "cut short": (lambda own, to: to.write_bytes(own.read_bytes()[:-200]), "is damaged or is not one"),
    "empty": (lambda own, to: to.touch(), "it is empty"),
    "text": (lambda own, to: to.write_text("weights: see the shared disk\n"), "not an archive written by torch.save"),
    "safetensors": (lambda own, to: save_file({"w": torch.ones(2)}, to), "a safetensors file, which holds weights"),
    "objects": (
        lambda own, to: torch.save({"x": Unknown()}, to),
        r"Python objects \([\w.]*Unknown\).*only code from the file could load",
    ),
    "a pickle": (
        lambda own, to: to.write_bytes(pickle.dumps({"config": {}})),
        "not an archive written by torch.save",
    ),
    "a folder": (lambda own, to: to.mkdir(), "neither a checkpoint nor a run folder"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_checkpoint_that_is_not_ours(
    run: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every reader prints one paragraph on what the file is, exits with code 2 and writes nothing. Catches a reader
    with another check or none, and torch's advice to load the file with code in it."""
    make, message = FOREIGN[what]
    path = tmp_path / "model-1.pt"
    make(checkpoint_path(run, 4), path)
    for command in _verbs(path, tmp_path / "out"):
        assert cli.main(command) == 2
        said = capsys.readouterr().err.strip()
        assert "\n" not in said and "weights_only" not in said
        assert re.search(message, said), said
        assert not (tmp_path / "out").exists()


def test_a_file_of_another_program_is_refused_before_its_tensors_are_read(tmp_path: Path) -> None:
    """The file may be larger than the memory. Catches a reader that loads a file before it checks it."""
    path = tmp_path / "model-1.pt"
    _other_training(path)
    read = mock.patch("ddpm.runtime.checkpoint.digest", side_effect=AssertionError)
    with mock.patch("torch.load", wraps=torch.load) as load, read:
        assert cli.main(["sample", str(path), "--out", str(tmp_path / "out")]) == 2
    assert [call.kwargs["mmap"] for call in load.call_args_list] == [True]


def _unfinished(run: Path, to: Path) -> RunFolder:
    """A copy of a run without its results, so that it is not finished."""
    shutil.copytree(run, to)
    (to / "results.jsonl").unlink()
    return RunFolder.at(to)


def test_a_run_is_not_continued_from_what_is_not_its_own(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest names hold a checkpoint of another run, one of another step, and one without a key. Each is named, and
    the one before them is used. Catches a run that goes on with another run's weights."""
    folder = _unfinished(run, tmp_path / "run")
    changes: dict[int, tuple[Change, str]] = {
        4: (lambda state: state["config"]["loss"].update(weighting="p2"), "loss.weighting was p2, is minsnr"),
        3: (lambda state: state.update(step=2), "it belongs to step 2"),
        2: (lambda state: state.pop("optimizer"), "it lacks optimizer"),
    }
    for step, (change, _) in changes.items():
        _saved(checkpoint_path(run, step), change)(checkpoint_path(folder.path, step))
    (folder.path / "checkpoints" / "step-best.pt").touch()  # somebody's own file
    with folder:
        state = folder.newest_checkpoint()
    assert state is not None and state["step"] == 1
    said = capsys.readouterr().out.splitlines()
    for line, (step, (_, message)) in zip(said, changes.items(), strict=True):
        assert f"step-{step:06d}.pt" in line and message in line and "passed over" in line


def test_what_a_training_is_continued_from_is_named_in_one_place(run: Path) -> None:
    """Catches a new key in `TrainState.state_dict` that a damaged checkpoint may lack, which would be a KeyError."""
    state = load_state(checkpoint_path(run, 4))
    assert set(state) == {*_CONTINUED, "format", "config", "step", "indices", "model", "ema"}


# --- not finite ---


@pytest.mark.parametrize("value", [math.nan, 1e30])
def test_weights_that_are_not_finite_make_no_picture_and_no_score(
    run: Path, tmp_path: Path, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights are NaN, or so large that the samples are not finite. The message is "not finite", and nothing is
    written. Catches a black grid, and the finite FID of black images."""
    path = tmp_path / "a.pt"
    _saved(checkpoint_path(run, 4), lambda s: [w.fill_(value) for w in s["ema"].values()])(path)
    draw, score, measure = _verbs(path, tmp_path / "out")
    commands = [[*draw, "--x0-limit", "none"], [*score, "--x0-limit", "none"]]
    # If the weights are finite, a probe counts the missing values.
    commands += [] if math.isfinite(value) else [[*measure, "--weights", "ema"]]
    for command in commands:
        assert cli.main(command) == 2
        assert "not finite" in capsys.readouterr().err
        assert not [path for path in tmp_path.rglob("*") if path.suffix in (".png", ".csv", ".json", ".part")]


def test_a_milestone_of_samples_that_are_not_finite_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row has `not_finite` in place of the scores, and the training goes on. Catches the FID of black images in a
    run's history, a black grid, and an infinite PSNR for an error that is NaN."""
    monkeypatch.setattr(Diagnostics, "denoiser", lambda self: lambda x_t, t: x_t * math.nan)
    folder = train(tiny(tmp_path, NO_WANDB, "--curvature.enabled=false", "--train.total_steps=2"))
    rows = [json.loads(line) for line in (folder / "loss.jsonl").read_text().splitlines()]
    row = next(row["out"] for row in rows if row["_i"] == 2)
    assert {row["val/not_finite"], row["final/not_finite"], row["samples/not_finite"]} == {1.0}
    assert not [key for key in row if key.startswith(("val/fid", "final/fid", "val/kid"))]
    assert math.isnan(row["val/recon_psnr"]) and math.isnan(row["mse_per_t/mse_t0010"])
    assert not list((folder).glob("samples/*"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_distance_of_what_is_not_finite_is_a_number(value: float) -> None:
    """One feature of many is not finite. Catches a root that drops NaN, a random subset that misses it, and a
    comparison with NaN that counts as "not within reach"."""
    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    bad = rows.clone()
    bad[7, 1] = value

    def gaussian(of: torch.Tensor) -> Gaussian:
        sums = GaussianSum()
        sums.add(of)
        return sums.result()

    good = gaussian(rows)
    assert math.isnan(frechet_distance(gaussian(bad), good)) and math.isnan(frechet_distance(good, gaussian(bad)))
    assert math.isnan(frechet_error(good, good, bad))
    for pair in ((bad, rows), (rows, bad)):
        assert all(map(math.isnan, kid(*pair, Kid(2, 5))))
        assert all(map(math.isnan, neighbours(*pair).values()))


def test_an_error_that_is_no_number_has_no_psnr() -> None:
    """Catches an infinite PSNR, which means no error, for an image that is NaN."""
    x = torch.zeros(1, 3, 4, 4)
    schedule = make_schedule("linear", 100)
    for wrong, psnr in ((0.0, math.inf), (math.nan, math.nan)):

        def denoiser(x_t: torch.Tensor, t: int, wrong: float = wrong) -> torch.Tensor:
            return x + wrong

        found = reconstruction(denoiser, x, x, schedule, [3], batch_size=1, limit=None)
        assert str(found["val/recon_psnr"]) == str(psnr)


# --- where results go ---


def test_a_place_that_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every verb that writes is called with sources that do not exist. It checks the output place first. Catches a
    traceback after an hour, and a file ending that matplotlib does not know."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder.png").mkdir()
    Path("nowhere").symlink_to("gone")
    e6 = str(ROOT / "configs/smoke/e6.yaml")
    folders = [["sample", "x"], ["evaluate", "x"], ["report", "e6"], ["report", "library"]]
    files = [["probe", "x"], ["schedule", e6]]
    cases = [
        *((command, place) for command in folders for place in ("file", "file/deep", "nowhere")),
        *((command, place) for command in files for place in ("folder.png", "file/a.png", "nowhere.png/a.png")),
        *((["schedule", e6], place) for place in ("s.txt", "s", "png")),
        (["train", e6, "--out_dir=file"], None),
    ]
    Path("nowhere.png").symlink_to("gone")
    before = sorted(tmp_path.rglob("*"))
    for command, place in cases:
        assert cli.main([*command, *(["--out", place] if place else [])]) == 2, (command, place)
        said = capsys.readouterr().err
        assert "cannot be written" in said and "\n" not in said.strip(), (command, place, said)
    for command in folders:
        with pytest.raises(SystemExit, match="2"):
            cli.main([*command, "--out", "n" * 300])
        assert "255" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setattr("os.access", lambda place, mode: False)  # root can write everywhere
    assert cli.main(["sample", "x", "--out", "deep/out"]) == 2
    assert "read-only" in capsys.readouterr().err


def test_the_endings_of_figures_are_matplotlibs() -> None:
    """Catches an accepted ending that no writer knows."""
    from matplotlib.figure import Figure

    known = Figure().canvas.get_supported_filetypes()
    assert all(ending.removeprefix(".") in known for ending in FIGURES)


@pytest.mark.parametrize("ending", [".png", ".SVG"])
def test_nothing_is_half_written(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the disk fills up while a figure is written, the earlier figure stays and no partial file is left. Then the
    figure is replaced, in the format of its ending. Catches a file that is truncated first."""
    out = tmp_path / f"s{ending}"
    out.write_text("the earlier one")
    link = tmp_path / f"link{ending}"
    link.symlink_to(out)
    command = ["schedule", str(ROOT / "configs/smoke/e6.yaml"), "--out", str(link)]
    with mock.patch("matplotlib.figure.Figure.savefig", side_effect=OSError(28, "No space left on device")):
        assert cli.main(command) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert out.read_text() == "the earlier one" and len(list(tmp_path.iterdir())) == 2
    assert cli.main(command) == 0
    assert link.is_symlink() and out.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


def test_what_stops_a_writer_leaves_nothing_aside(tmp_path: Path) -> None:
    """Ctrl-C is one such case. Catches a `.part` that stays."""
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a") as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_images_of_an_earlier_call_are_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The old images stay, and one line counts them. Catches 70 new images with 30 old ones silently among them."""
    command = ["sample", str(run), "--nfe", "1", "--each", "--out", str(tmp_path), "--n"]
    assert cli.main([*command, "3"]) == 0
    assert "also holds" not in capsys.readouterr().out
    assert cli.main([*command, "2"]) == 0
    assert "also holds 1 file(s) that were there before" in capsys.readouterr().out
    assert len(list((tmp_path / "images").iterdir())) == 3
