"""A run over two processes equals the run of one: its numbers up to rounding, its folder, and one message for an
error."""

import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from ddpm.commands.cli import main
from ddpm.config.run import Config
from ddpm.data.batches import Batches
from ddpm.diffusion.samplers import draw, make_chain
from ddpm.diffusion.schedule import make_schedule
from ddpm.errors import UserError
from ddpm.evaluation.distances import GaussianSum
from ddpm.models.stored import load_checkpoint
from ddpm.runtime import distributed
from ddpm.runtime.checkpoint import checkpoint_step, digest, list_checkpoints
from ddpm.runtime.environment import choose_device
from ddpm.runtime.streams import stream_seed
from ddpm.training.loop import train
from ddpm.training.setup import Training
from tests import processes
from tests.once import HANGS, once
from tests.training.test_train import ROOT, tiny

# Two processes cannot share these probes and samples equally, and the weights depend on the whole batch. Norm groups
# have more than one channel: otherwise some gradients are pure rounding error, which Adam would turn into steps. Exact
# products are used because finite differences of outputs would amplify the rounding by which the weights of one and of
# two processes differ.
SHORT = [
    "--train.total_steps=6",
    "--logging.log_every_n_steps=3",
    "--eval.recon.every=6",
    "--curvature.probes=3",
    "--curvature.exact=true",
    "--eval.fid_milestone.every=3",
    "--eval.fid_milestone.n_samples=71",
    "--eval.final.enabled=false",
    "--eval.grid.every=6",
    "--loss.weighting=minsnr_norm",
    "--loss.minsnr_norm_over=batch",
    "--model.gn_groups=4",
]


def short(folder: Path, *overrides: str) -> Config:
    return tiny(folder, *SHORT, *overrides)


def pair(cfg: Config, *sabotages: processes.Sabotage | None) -> list[int]:
    """Train `cfg` in two processes with the environment that torchrun sets, each after its own sabotage. Returns the
    exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = sabotages or (None, None)
    started = []
    try:
        for rank in (0, 1):
            started.append(processes.start(cfg, functools.partial(_as_rank, rank, port, both[rank])))
        for process in started:
            process.join(HANGS)
        codes = [process.exitcode for process in started]
    finally:
        for process in started:
            process.kill()
    assert None not in codes, "the training hangs"
    return [code for code in codes if code is not None]


def _as_rank(rank: int, port: int, sabotage: processes.Sabotage | None) -> None:
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in own.items()})
    sys.argv = ["ddpm", "train"]
    mock.patch("tests.processes.main", lambda argv: distributed.run(lambda: main(argv))).start()
    if sabotage:
        sabotage()


def torchrun(cfg: Config, *what: str) -> subprocess.CompletedProcess[str]:
    """Run `torchrun --nproc-per-node=2 WHAT train CONFIG` to its end."""
    cfg.out_dir.mkdir(parents=True, exist_ok=True)
    (cfg.out_dir / "cfg.yaml").write_text(cfg.to_yaml())
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*launcher, *what, "train", str(cfg.out_dir / "cfg.yaml")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HANGS,
    )


def _rows(cfg: Config) -> list[dict[str, Any]]:
    """The logged rows, without the times."""
    rows = [json.loads(line) for line in (cfg.run_dir / "loss.jsonl").read_text().splitlines()]
    return [{"step": r["_i"], **{k: v for k, v in r["out"].items() if not k.startswith("time/")}} for r in rows]


def _end(cfg: Config) -> dict[str, Any]:
    return load_checkpoint(list_checkpoints(cfg.run_dir)[-1])


def _flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([w.flatten() for w in weights.values()])


def _record(cfg: Config) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((cfg.run_dir / "run.json").read_text())
    return record


def _world_sizes(cfg: Config) -> list[int]:
    return [session["environment"]["world_size"] for session in _record(cfg)["sessions"]]


def assert_close(cfg: Config, alone: Config) -> None:
    """Every logged number agrees to a relative 1e-4 (a mean over half a batch is off by far more); a gap, which is the
    difference of two errors, to 1e-4 of the error; a draw's value to 1e-4 of the largest. The final states differ by at
    most 1 % of the way that training went from its start."""
    for row, expected in zip(_rows(cfg), _rows(alone), strict=True):
        of = {k: expected[f"{k.split('_gap')[0]}_seen"] if "_gap" in k else 0.0 for k in expected}
        of |= {k: max(abs(x) for x in v if x == x) for k, v in expected.items() if isinstance(v, list)}
        assert row == {
            k: pytest.approx(v, rel=1e-4, abs=max(1e-4 * of[k], 1e-12), nan_ok=True)
            if isinstance(v, float | list)
            else v
            for k, v in expected.items()
        }
    begun = Training(alone)
    for part, start in (("model", begun.state.model), ("ema", begun.state.ema.model)):  # type: ignore[union-attr]
        end, expected_end = _flat(_end(cfg)[part]), _flat(_end(alone)[part])
        assert (end - expected_end).norm() < 0.01 * (expected_end - _flat(start.state_dict())).norm()
    assert _end(cfg)["step"] == _end(alone)["step"] == 6


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The run as one process trains it."""
    return short(once(tmp_path_factory, "one-process", _train_alone))


def _train_alone(folder: Path) -> None:
    cfg = short(folder)
    with mock.patch.dict(os.environ, {"WANDB_MODE": "disabled"}):
        assert processes.run(cfg) == 0, processes.log(cfg)


@pytest.fixture
def disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B is off: it takes seconds, and these tests do not need it."""
    monkeypatch.setenv("WANDB_MODE", "disabled")


def test_two_processes_train_the_run_of_one(tmp_path: Path, alone: Config) -> None:
    """Under torchrun the loss, gradient, both traces, FID, single-timestep errors and weights equal those of one
    process. There is one folder and one W&B run, and each line is printed once.

    Catches a loss, gradient or batch weight of only a part, draws that depend on the number of processes, a probe or
    sample that is taken twice or not at all, and a second writer.
    """
    cfg = short(tmp_path)
    done = torchrun(cfg, "-m", "ddpm")
    assert done.returncode == 0, done.stdout
    assert_close(cfg, alone)
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1
    assert _world_sizes(cfg) == [2]
    assert _record(cfg)["environment"]["backend"] == "gloo"
    for line in ("W&B: offline", "run folder: ", "step 6: val/fid"):
        assert done.stdout.count(line) == 1, done.stdout
    assert (cfg.run_dir / "samples/step-000006.png").exists()


def test_a_signal_to_torchrun_stops_both_at_one_step(tmp_path: Path, alone: Config, disabled: None) -> None:
    """There is a checkpoint of that step. One process continues from it (2 to 1), the record says so, and the numbers
    are the same.

    Catches a rank that waits for a stopped one, a checkpoint that needs the same number of processes, and a rank that
    leaves while rank 0 still writes.
    """
    cfg = short(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(
        "import os, runpy, signal, time\n"
        "from tests import processes\n"
        "def stop():\n"
        "    os.kill(os.getppid(), signal.SIGTERM)\n"
        "    time.sleep(1)\n"
        "if os.environ['RANK'] == '0':\n"
        "    processes.at_call('ddpm.training.loop.train_step', 2, stop)\n"
        "runpy.run_module('ddpm', run_name='__main__')\n"
    )
    stopped = torchrun(cfg, str(script)).stdout
    assert stopped.count("stopped after step 2; the same command continues") == 1, stopped
    assert stopped.count("ddpm: stopped by SIGTERM") == stopped.count("stopping: a checkpoint") == 1, stopped
    assert [checkpoint_step(path) for path in list_checkpoints(cfg.run_dir)] == [2]
    assert processes.run(cfg) == 0, processes.log(cfg)
    assert "note: continued on 1 processes, 2 before" in processes.log(cfg)
    assert _world_sizes(cfg) == [2, 1]
    assert_close(cfg, alone)


def test_one_process_is_continued_by_two(tmp_path: Path, alone: Config, disabled: None) -> None:
    """Catches random streams that the second process does not find in the checkpoint."""
    cfg = short(tmp_path)
    assert (
        processes.run(cfg, functools.partial(processes.at_call, "ddpm.training.loop.train_step", 5, processes.kill)) < 0
    )
    assert pair(cfg) == [0, 0], processes.log(cfg)
    assert processes.log(cfg).count("note: continued on 2 processes, 1 before") == 1
    assert processes.log(cfg).count(f"continuing {cfg.run_id} after step 3") == 1
    assert _world_sizes(cfg) == [1, 2]
    assert_close(cfg, alone)


def test_a_kill_of_both_costs_no_bit(tmp_path: Path, disabled: None) -> None:
    """Continued by two processes, the run ends as if undisturbed: weights, both dropout streams, every row.

    Catches a rank's stream that is not saved, and one stream that two ranks share.
    """
    undisturbed, killed = (short(tmp_path / name, "--model.dropout=0.1") for name in ("undisturbed", "killed"))
    assert pair(undisturbed) == [0, 0], processes.log(undisturbed)
    kill = functools.partial(processes.at_call, "ddpm.training.loop.train_step", 5, processes.kill)
    assert all(pair(killed, kill, kill))
    assert not (killed.run_dir / "results.jsonl").exists()
    assert pair(killed) == [0, 0], processes.log(killed)
    assert f"continuing {killed.run_id} after step 3" in processes.log(killed)
    assert _rows(killed) == _rows(undisturbed)
    ends = [_end(cfg) for cfg in (killed, undisturbed)]
    for end in ends:
        for key in ("elapsed_s", "seconds", "config"):  # times and place
            end.pop(key)
    assert digest(ends[0]) == digest(ends[1])
    assert not torch.equal(ends[0]["global_rng"], ends[0]["other_ranks"][0]["global_rng"])


def _replace(target: str, with_what: Callable[[], Any]) -> None:
    mock.patch(target, with_what()).start()


def _poisoned(bad: int) -> Any:
    take = Batches.take
    return lambda batches, indices: take(batches, indices) * (float("nan") if bad in indices.tolist() else 1.0)


def test_an_image_that_one_process_holds_stops_both(tmp_path: Path, disabled: None) -> None:
    """One message names the whole batch. Both processes end with 2, and the checkpoint is from before the step.

    Catches a rank that goes on with weights of its own, and one that waits for ever.
    """
    cfg = short(tmp_path)
    order = Batches(torch.empty(200), 4, stream_seed(cfg.seed, "data"))
    batches = [order.next_indices().tolist() for _ in range(3)]
    poison = functools.partial(_replace, "ddpm.data.batches.Batches.take", functools.partial(_poisoned, batches[2][-1]))
    assert pair(cfg, poison, poison) == [2, 2], processes.log(cfg)
    assert processes.log(cfg).count("Step 3 is not finite") == processes.log(cfg).count("ddpm: error") == 1
    assert json.loads((cfg.run_dir / "diverged.json").read_text())["batch"] == batches[2]
    assert _end(cfg)["step"] == 2


def _full_disk() -> Any:
    return mock.Mock(side_effect=OSError(28, "No space left on device"))


def _other_images() -> Any:
    return property(lambda images: "another")


def _no_device() -> Any:
    return mock.Mock(side_effect=UserError("no device for process 1"))


def _no_arguments() -> Any:
    return mock.Mock(side_effect=SystemExit(2))


@pytest.mark.parametrize(
    ("target", "fault", "rank", "message"),
    [
        ("ddpm.tracking.run_folder.save_checkpoint", _full_disk, 0, "No space left on device"),  # in the loop
        ("ddpm.data.images.ImageSet.digest", _other_images, 1, "need the same images"),
        ("ddpm.training.setup.choose_device", _no_device, 1, "no device for process 1"),  # before its images are read
        ("ddpm.commands.cli._parser", _no_arguments, 1, "Process 1 on"),  # before everything else
    ],
)
def test_an_error_of_one_process_is_one_of_both(
    tmp_path: Path, disabled: None, target: str, fault: Callable[[], Any], rank: int, message: str
) -> None:
    """Rank 0 cannot write, or the other rank cannot begin: both end with 2 after one message. Catches a hang."""
    cfg = short(tmp_path)
    sabotages: list[processes.Sabotage | None] = [None, None]
    sabotages[rank] = functools.partial(_replace, target, fault)
    assert pair(cfg, *sabotages) == [2, 2], processes.log(cfg)
    assert processes.log(cfg).count("ddpm: error") == processes.log(cfg).count(message) == 1, processes.log(cfg)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("data.batch_size=5", r"data.batch_size = 5 is the batch of all processes together, and 2 cannot share it"),
        ("device=cuda:3", "device = cuda:3 is one GPU, and each of the 2 processes needs one of its own"),
    ],
)
def test_bad_input_is_said_once_and_leaves_nothing(tmp_path: Path, disabled: None, key: str, message: str) -> None:
    """Catches an error that every process prints, and a folder that is made before the batch is checked."""
    cfg = short(tmp_path, f"--{key}")
    assert pair(cfg) == [2, 2], processes.log(cfg)
    assert processes.log(cfg).count("ddpm: error") == processes.log(cfg).count(message) == 1, processes.log(cfg)
    assert not cfg.run_dir.exists()


def test_without_torchrun_nothing_is_initialised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a single process, values come back as the same objects. A process that torchrun started but that does not know
    it would train the whole run beside the others."""
    assert not torch.distributed.is_initialized()
    model, loss, mse = torch.nn.Linear(1, 1), torch.ones(()), torch.zeros(())
    assert distributed.replicated(model) is model
    assert distributed.means(loss, mse) == (loss, mse)
    assert distributed.means(loss)[0] is distributed.total(loss) is loss
    assert "other_ranks" not in Training(short(tmp_path)).state.state_dict()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="torchrun --nproc-per-node=N -m ddpm train CONFIG"):
        train(short(tmp_path))


def test_other_verbs_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes would write the same report. They are refused before they look for each other."""
    monkeypatch.setattr("sys.argv", ["ddpm", "report", "e6"])
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert distributed.run(main) == 2
    assert capsys.readouterr().err.count("torchrun is for `train` only") == 1


@pytest.mark.parametrize("n", [0, 1, 5, 6, 7])
def test_parts_are_the_whole(n: int) -> None:
    """The parts of three processes, in order, contain everything once. Their sizes differ by at most one."""
    parts = []
    for rank in range(3):
        with (
            mock.patch("ddpm.runtime.distributed.rank", return_value=rank),
            mock.patch("ddpm.runtime.distributed.world_size", return_value=3),
        ):
            parts.append(range(n)[distributed.part(n)])
    assert [i for part in parts for i in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_sums_of_features_add_up() -> None:
    """The sums of three processes, one of them over no features, give the statistics of all features by the textbook
    formula, also far from the origin. Sums about different origins are refused."""
    features = 1000 + torch.randn(50, 3).double()
    shares = [GaussianSum(torch.full((3,), 999.0).double()) for _ in range(3)]
    for share, rows in zip(shares, (features[:20], features[20:], features[:0]), strict=True):
        for batch in rows.split(8):
            if len(batch):
                share.add(batch)
    said: list[torch.Tensor] = []
    for share in shares:
        share.add_up(lambda values: said.append(values) or values)  # type: ignore[func-returns-value]
    shares[2].add_up(lambda values: values + said[0] + said[1])
    result = shares[2].result()
    assert result.count == 50
    torch.testing.assert_close(result.mean, features.mean(0))
    torch.testing.assert_close(result.covariance, features.T.cov())
    with pytest.raises(ValueError, match="different origins"):
        GaussianSum().add_up(lambda values: values)


def test_a_part_of_the_samples_is_that_part() -> None:
    """Samples 3 ... 6 of 7, drawn alone, have the same noise as among all. Catches an index that starts at 0."""
    chain = make_chain(make_schedule("linear", 1000), "ddpm", 3)
    drawn = [
        torch.cat(
            list(
                draw(
                    "ddpm",
                    lambda x, t: 0.5 * x,
                    chain,
                    7,
                    seed=1,
                    shape=(1, 2, 2),
                    batch_size=2,
                    device=torch.device("cpu"),
                    part=part,
                )
            )
        )
        for part in (slice(None), slice(3, 7))
    ]
    torch.testing.assert_close(drawn[1], drawn[0][3:])


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPUs are simulated. Catches two processes on one GPU, and a process beyond the last GPU that gets no
    message."""
    monkeypatch.setattr("ddpm.runtime.environment.world_size", lambda: 3)
    monkeypatch.setattr("ddpm.runtime.environment.local_rank", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: None)
    monkeypatch.setattr("ddpm.runtime.environment.try_device", lambda name: None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert {choose_device(name) for name in ("auto", "cuda")} == {torch.device("cuda:1")}
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UserError, match=r"has 1 GPUs, and more processes.*--nproc-per-node=1"):
        choose_device("auto")
