"""The training loop: measurements leave the training untouched, and the log says what happened."""

import json
from pathlib import Path
from unittest import mock

import pytest
import torch

from ddpm.config.files import load_config
from ddpm.config.run import Config
from ddpm.diffusion.samplers import model_denoiser
from ddpm.diffusion.schedule import make_schedule
from ddpm.errors import UserError
from ddpm.models.stored import load_checkpoint
from ddpm.runtime.checkpoint import load_state, save_checkpoint
from ddpm.runtime.environment import choose_device, choose_precision
from ddpm.runtime.streams import stream_seed
from ddpm.training.loop import advance, train, train_step
from ddpm.training.setup import Training
from ddpm.training.step import gradient_norm, gradient_stats
from tests.once import once

ROOT = Path(__file__).parents[2]
TINY = [
    "--data.subset=200",
    "--data.batch_size=4",
    "--model.base_channels=8",
    "--model.time_embedding=32",
    "--train.total_steps=4",
    "--logging.log_every_n_steps=2",
    "--curvature.probes=2",
    "--curvature.batch_size=null",
    "--eval.reference_n=100",
    "--eval.grid.every=2",
    "--eval.grid.nfe=2",
    "--eval.grid.n_samples=4",
    "--eval.fid_milestone.every=2",
    "--eval.fid_milestone.nfe=2",
    "--eval.fid_milestone.n_samples=70",
    "--eval.final.nfe=2",
    "--eval.final.n_samples=70",
    "--eval.recon.every=4",
    "--eval.recon.n_samples=2",  # one noise level in each bin
    "--eval.recon.t_values=[10,500]",
    "--eval.recon.bins=2",
    "--eval.accept_sampler_error=[ddpm]",  # two network calls are too few for a sampler; they suffice here
]
# For tests that check what becomes of a run, not what it measures: it ends in a fraction of the time.
PLAIN = [
    f"--{part}.enabled=false"
    for part in ("curvature", *(f"eval.{p}" for p in ("grid", "fid_milestone", "final", "recon")))
]
NO_WANDB = "--logging.wandb.mode=disabled"
MEASURED = (NO_WANDB, "--eval.recon.every=2")  # everything at both milestones


def tiny(tmp_path: Path, *overrides: str, arm: str = "e6") -> Config:
    """A run of a few seconds."""
    return load_config(ROOT / f"configs/smoke/{arm}.yaml", [*TINY, f"--out_dir={tmp_path / 'runs'}", *overrides])


def _rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "loss.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run. Tests only read it."""
    return tiny(once(tmp_path_factory, "trained", lambda root: train(tiny(root, *MEASURED))), *MEASURED).run_dir


def test_probe_and_evaluation_leave_training_bitwise_untouched(tmp_path: Path) -> None:
    """Weights, EMA, Adam state, data order and random streams are equal with probes, evaluations and grids on, off or
    rarer.

    The study's probe cleared the gradients, and its sampling reseeded the global stream. Dropout is on, so its random
    stream is checked too.
    """
    variants = [[], PLAIN, ["--logging.log_every_n_steps=3", "--eval.fid_milestone.n_samples=90"]]
    states = []
    for i, extra in enumerate(variants):
        folder = train(tiny(tmp_path / str(i), "--model.dropout=0.1", NO_WANDB, *extra))
        states.append(load_checkpoint(folder / "checkpoints/step-000004.pt"))
    for other in states[1:]:
        for part in ("model", "ema"):
            assert all(torch.equal(v, other[part][k]) for k, v in states[0][part].items()), part
        assert torch.equal(states[0]["global_rng"], other["global_rng"])
        assert torch.equal(states[0]["noise_rng"], other["noise_rng"])
        assert torch.equal(states[0]["batches"]["rng"], other["batches"]["rng"])
        adam, adam_other = (s["optimizer"]["state"] for s in (states[0], other))
        assert all(torch.equal(adam[k][n], adam_other[k][n]) for k in adam for n in adam[k])


def test_equal_seeds_give_equal_runs_and_other_seeds_others(tmp_path: Path, trained: Path) -> None:
    """Every logged number except the times is equal. Catches an unseeded stream."""
    unscored = [f"--{part}.enabled=false" for part in ("curvature", "eval.fid_milestone", "eval.final", "eval.recon")]
    again = train(tiny(tmp_path / "again", *MEASURED))
    other = train(tiny(tmp_path / "other", NO_WANDB, "--seed=2", *unscored))
    folders = [trained, again, other]
    a, b, c = ([{k: v for k, v in r["out"].items() if not k.startswith("time/")} for r in _rows(f)] for f in folders)
    assert a == b
    assert a[1]["train/loss"] != c[1]["train/loss"]
    grids = [(f / "samples/step-000004.png").read_bytes() for f in folders]
    assert grids[0] == grids[1] != grids[2]


def test_each_seed_sets_its_own_part(tmp_path: Path) -> None:
    """`seeds.init` changes the first weights alone, `seeds.data` the order alone, `seeds.noise` t, eps and dropout
    alone. Without them, all come from `seed`. Catches a part that follows another's seed: dropout comes after the
    weights in the same stream."""

    def parts(*flags: str) -> dict[str, bytes]:
        state = Training(tiny(tmp_path, *PLAIN, NO_WANDB, *flags)).state
        dropout, noise = torch.get_rng_state(), state.noise_rng.get_state()
        weights = torch.cat([value.flatten() for value in state.params])
        found = {"weights": weights, "order": state.batches.next_indices(), "noise": noise, "dropout": dropout}
        return {name: value.detach().numpy().tobytes() for name, value in found.items()}

    given = {name: f"--seeds.{name}=5" for name in ("init", "data", "noise")}
    base = parts(*given.values())
    sets = {"init": {"weights"}, "data": {"order"}, "noise": {"noise", "dropout"}}
    for name, changed in sets.items():
        other = parts(*(given | {name: f"--seeds.{name}=6"}).values())
        assert {part for part in base if base[part] != other[part]} == changed, name
        alone = parts("--seed=5", f"--seeds.{name}=6")  # the others come from `seed`
        assert alone == other, name
    plain = parts("--seed=5")
    assert {part for part in base if base[part] != plain[part]} == {"dropout"}  # it has a stream of its own


def test_a_run_shorter_than_the_interval_logs_its_last_step(tmp_path: Path) -> None:
    """Catches a short trial of a new loss that ends without logging a loss."""
    zero, last = _rows(train(tiny(tmp_path, NO_WANDB, *PLAIN, "--logging.log_every_n_steps=90")))
    assert (zero["_i"], last["_i"]) == (0, 4)
    assert {"train/loss", "train/mse", "train/grad_global_L2", "time/total_s"} <= set(last["out"])


def test_the_probes_share_of_the_time_is_that_of_probes(trained: Path) -> None:
    """The share is the seconds in probes divided by the seconds in probes and steps. Catches the share of the steps,
    and a share of all seconds."""
    timed = [row["out"] for row in _rows(trained) if "time/probe_share" in row["out"]]
    assert timed and all(row["time/probe_s"] != row["time/train_s"] > 0 for row in timed)
    for row in timed:
        share = row["time/probe_s"] / (row["time/probe_s"] + row["time/train_s"])
        assert row["time/probe_share"] == pytest.approx(share)


def test_what_a_run_leaves_behind(trained: Path) -> None:
    """The run folder is complete: rows at each logged step, both milestones, final FID, grids, checkpoints, results."""
    folder = trained
    rows = _rows(folder)
    assert [r["_i"] for r in rows] == [0, 2, 4]
    first, *rows = rows
    curve = {"mins_snr_curve/t", "mins_snr_curve/weight"}
    checks = {"check/sampler_std_error", "check/final_sampler_std_error"}
    assert set(first["out"]) == {*checks, "loss/mean_weight", *curve}
    assert first["out"]["loss/mean_weight"] == pytest.approx(0.91307305, rel=1e-6)
    assert {
        "train/loss",
        "train/mse",
        "val/fid",
        "curvature/hutch_trace_mean",
        "curvature/ref_trace_sem",
        "mse_per_t/mse_t0010",
        "val/recon_psnr",
    } <= set(rows[0]["out"])
    assert rows[1]["out"]["train/images_seen"] == 16
    assert rows[1]["out"]["final/fid"] == rows[1]["out"]["val/fid"]  # same protocol, noise and weights
    assert "final/fid" not in rows[0]["out"]
    record = json.loads((folder / "run.json").read_text())
    assert rows[0]["out"]["val/fid_protocol"] in record["protocols"]
    assert record["config"]["loss"]["weighting"] == "minsnr"
    result = json.loads((folder / "results.jsonl").read_text())
    assert result["out"]["val/fid_min"] == min(r["out"]["val/fid"] for r in rows)
    assert result["cfg"] == record["config"]
    assert not curve & set(result["out"])  # a summary is read by people
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-000002.pt", "step-000004.pt"]
    assert len(list((folder / "samples").iterdir())) == 2


def test_logged_gradient_is_the_unclipped_one(tmp_path: Path) -> None:
    """The study logged norms after clipping. With a clip of 1e-6 the logged norm stays the same, and the gradient
    becomes small."""
    training = Training(tiny(tmp_path, "--train.grad_clip=0.000001"))
    row = train_step(training, next(training.state.batches), with_stats=True).row()
    left = torch.stack([p.grad.norm() for p in training.state.params]).norm().item()
    assert row["train/grad_global_L2"] > 1e-3
    assert left == pytest.approx(1e-6, rel=0.01)
    assert row["train/grad_abs_max"] >= row["train/grad_abs_mean"] > 1e-7
    assert row["train/grad_abs_max"] <= row["train/grad_global_L2"]


def test_loss_is_the_weighted_mse_of_the_drawn_timesteps(tmp_path: Path) -> None:
    """The loss is recomputed by hand from the same streams. Catches weights of the wrong t, and noise added at another
    t."""
    training = Training(tiny(tmp_path))
    x_0 = next(training.state.batches)
    rng = torch.Generator().manual_seed(stream_seed(training.cfg.seed, "timesteps and noise"))
    t = torch.randint(1000, (4,), generator=rng)
    eps = torch.randn(x_0.shape, generator=rng)
    ab = training.schedule.alpha_bar[t].float()[:, None, None, None]
    mse = (training.state.model(ab.sqrt() * x_0 + (1 - ab).sqrt() * eps, t) - eps).square().mean((1, 2, 3))
    snr = training.schedule.snr[t]
    expected = (mse * (snr.clamp(max=5) / snr)).mean().item()
    stats = train_step(training, x_0)
    assert stats.loss.item() == pytest.approx(expected, rel=1e-4)
    assert stats.mse.item() == pytest.approx(mse.mean().item(), rel=1e-4)


@pytest.mark.parametrize("prediction", ["x0", "v"])
def test_other_predictions_train_on_the_same_objective(tmp_path: Path, prediction: str) -> None:
    """With constant weighting the loss is the eps-MSE for every prediction type. It is recomputed by hand from the same
    streams.

    Catches weights for another prediction space, and a target that does not match the prediction.
    """
    training = Training(tiny(tmp_path, f"--diffusion.prediction={prediction}", arm="e5"))
    x_0 = next(training.state.batches)
    rng = torch.Generator().manual_seed(stream_seed(training.cfg.seed, "timesteps and noise"))
    t = torch.randint(1000, (4,), generator=rng)
    eps = torch.randn(x_0.shape, generator=rng)
    ab = training.schedule.alpha_bar[t][:, None, None, None]
    x_t = ab.sqrt() * x_0 + (1 - ab).sqrt() * eps
    output = training.state.model(x_t.float(), t).double()
    eps_hat = {
        "x0": (x_t - ab.sqrt() * output) / (1 - ab).sqrt(),
        "v": (1 - ab).sqrt() * x_t + ab.sqrt() * output,
    }[prediction]
    stats = train_step(training, x_0)
    assert stats.loss.item() == pytest.approx((eps_hat - eps).square().mean().item(), rel=1e-3)
    assert stats.mse.item() == stats.loss.item()


def test_per_batch_normalisation_is_the_studys(tmp_path: Path) -> None:
    """minsnr_norm over the batch: the weights of each batch average to 1, so a common factor changes nothing."""
    flags = ["--loss.weighting=minsnr_norm", "--loss.minsnr_norm_over=batch"]
    training = Training(tiny(tmp_path, *flags))
    x_0, t = next(training.state.batches), torch.tensor([0, 10, 100, 900])
    eps = torch.randn(x_0.shape)
    training.state.model.eval()
    before = training.objective.losses(training.state.replica, x_0, t, eps)[0]
    training.objective.weights *= 7
    torch.testing.assert_close(training.objective.losses(training.state.replica, x_0, t, eps)[0], before)


def test_normalised_over_the_schedule_a_weight_is_its_timesteps_own(tmp_path: Path) -> None:
    """minsnr_norm over the schedule: the weight is min(SNR, 5) / SNR, divided by its mean over all trained t, whatever
    else is in the batch. Catches the batch's mean in place of the schedule's."""
    snr = make_schedule("linear").snr
    for flags, drawn in (([], slice(None)), (["--loss.t_max=400"], slice(0, 401))):
        objective = Training(tiny(tmp_path, *PLAIN, "--loss.weighting=minsnr_norm", *flags)).objective
        w_eps = snr.clamp(max=5) / snr
        expected = w_eps / w_eps[drawn].mean()
        for t in ([0, 1, 2, 3], [3, 400]):
            given = torch.tensor(t)
            assert objective.weights_at(given)[0].tolist() == pytest.approx(expected[given].tolist(), rel=1e-5)
        assert objective.weights_at(torch.tensor([3]), torch.tensor([3, 400]))[0].item() == pytest.approx(
            expected[3].item(), rel=1e-5
        )


def test_training_learns(tmp_path: Path) -> None:
    """The error falls well below 1, the error of predicting zero. Catches a wrong sign, a detached graph, a dead
    optimizer."""
    training = Training(tiny(tmp_path, "--data.batch_size=16", "--optim.lr=0.003"))
    mse = [train_step(training, next(training.state.batches)).mse.item() for _ in range(60)]
    assert mse[0] == pytest.approx(1, abs=0.4)
    assert sum(mse[-10:]) / 10 < 0.5


@pytest.mark.parametrize(("amp", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_amp_reaches_the_network_and_fp16_scales(tmp_path: Path, amp: str, dtype: torch.dtype) -> None:
    """The study ignored `amp: true`. The test forces the precision, since a CPU would switch it off."""
    training = Training(tiny(tmp_path))
    training.precision = dtype
    training.state.scaler = torch.amp.GradScaler("cpu", enabled=dtype is torch.float16, init_scale=256.0)
    seen = []
    training.state.model.mid.conv1.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    before = training.state.params[0].detach().clone()
    stats = train_step(training, next(training.state.batches))
    assert seen == [dtype]
    assert stats.loss.dtype == torch.float32
    assert stats.grad_norm.item() < 20  # unscaled before it is clipped and logged
    assert not torch.equal(before, training.state.params[0])


def test_amp_is_off_on_a_cpu_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_precision(True, torch.device("cpu")) is torch.float32
    assert "amp: off on a CPU" in capsys.readouterr().out
    assert choose_precision(False, torch.device("cpu")) is torch.float32
    assert capsys.readouterr().out == ""
    assert choose_precision("fp16", torch.device("cuda")) is torch.float16
    assert choose_precision("bf16", torch.device("cuda")) is torch.bfloat16


@pytest.mark.parametrize(("has", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_amp_takes_bf16_where_a_gpu_has_it_itself(
    monkeypatch: pytest.MonkeyPatch, has: bool, dtype: torch.dtype
) -> None:
    """A T4 reports bf16 support unless it is asked about its own units. Catches emulated bf16."""
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: has or including_emulation)
    assert choose_precision(True, torch.device("cuda")) is dtype


def test_a_device_that_is_not_there() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device = cuda"):
            choose_device("cuda")
    with pytest.raises(UserError, match="device = gpu"):
        choose_device("gpu")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--eval.final.n_samples=64", r"n_samples = 64 is too small.*64 dimensions"),
        ("--eval.reference_n=10", "has 10 images"),
        ("--data.subset=20", "has 20 images"),
        ("--data.dataset=folder", "needs data.root"),
    ],
)
def test_bad_input_leaves_nothing_behind(tmp_path: Path, override: str, message: str) -> None:
    """Bad input is refused before a run folder or a W&B folder is made, not at the first milestone."""
    with pytest.raises(UserError, match=message):
        train(tiny(tmp_path, override))
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "wandb").exists()


def test_a_finished_run_is_left_alone_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that is started over is a new W&B run, because its rows must not mix with the old ones.

    The config that it saves must not start it over again by itself.
    """
    folder = train(tiny(tmp_path, *PLAIN))
    before = (folder / "loss.jsonl").read_bytes()
    assert train(tiny(tmp_path, *PLAIN)) == folder
    assert "finished already. --clean_run=true trains it anew" in capsys.readouterr().out
    assert (folder / "loss.jsonl").read_bytes() == before
    again = train(tiny(tmp_path, *PLAIN, "--clean_run=true"))
    assert again == folder
    assert (folder / "loss.jsonl").read_bytes() != before  # its seconds differ
    ids = {p.name.split("-", 3)[3] for p in (tmp_path / "wandb").glob("offline-run-*")}
    assert len(ids) == 2
    assert json.loads((folder / "run.json").read_text())["wandb_id"] in ids
    assert not load_config(folder / "config.yaml").clean_run


def test_clean_run_never_deletes_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    cfg = tiny(tmp_path, "--clean_run=true")
    cfg.run_dir.mkdir(parents=True)
    (cfg.run_dir / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not a run folder"):
        train(cfg)
    assert (cfg.run_dir / "thesis.txt").exists()


def test_evaluation_uses_the_averaged_weights_unless_told(tmp_path: Path) -> None:
    """ema: the average; live: the last weights. They differ after a few steps, and so do the denoisers' outputs."""
    x, outputs = torch.ones(1, 3, 32, 32), {}
    for weights in ("ema", "live"):
        training = Training(tiny(tmp_path, f"--eval.weights={weights}", "--optim.lr=0.01"))
        for _ in range(4):
            train_step(training, next(training.state.batches))
        source = training.state.ema.model if weights == "ema" else training.state.model.eval()
        with torch.no_grad():
            outputs[weights] = training.diagnostics.denoiser()(x, 500)
            expected = model_denoiser(source, training.schedule)(x, 500)
        torch.testing.assert_close(
            outputs[weights], expected, rtol=0, atol=0.01
        )  # another memory layout rounds differently
    assert (outputs["ema"] - outputs["live"]).abs().max() > 0.1


def test_grids_start_from_the_same_noise_at_every_step(tmp_path: Path) -> None:
    """With unchanged weights, two steps give equal pictures. Another sample_seed gives another picture."""
    training = Training(tiny(tmp_path))
    other = Training(tiny(tmp_path, "--eval.grid.sample_seed=1"))
    drawn = [
        t.milestones.draw_grid(step, t.diagnostics.denoiser) for t, step in ((training, 2), (training, 4), (other, 2))
    ]
    a, b, c = (picture.tobytes() for picture in drawn if picture)
    assert a == b != c


def test_grids_alone_need_no_features(tmp_path: Path) -> None:
    """No scores are computed, so neither Inception weights nor a large reference set is needed."""
    flags = ["--eval.features=inception", "--data.subset=20", "--eval.fid_milestone.enabled=false"]
    folder = train(tiny(tmp_path, *flags, "--eval.final.enabled=false", "--curvature.enabled=false", NO_WANDB))
    assert len(list((folder / "samples").iterdir())) == 2


def test_the_mean_error_of_a_row_is_unweighted_and_of_its_own_steps(tmp_path: Path) -> None:
    """Six steps with a row at every second one: train/mse_mean is the mean of the two steps' train/mse, taken from a
    run that logs each step. Min-SNR weighting makes train/loss another number.

    Catches a mean of the loss, a value from the last step alone, and a mean over all steps so far.
    """
    weighed = [*PLAIN, "--loss.minsnr_gamma=0.01"]
    each, other = (Training(tiny(tmp_path, *weighed, f"--logging.log_every_n_steps={n}")) for n in (1, 2))
    rows, means = [], []
    for step in range(1, 7):
        for training in (each, other):
            advance(training, mock.Mock())
        rows.append(each.state.row)
        assert bool(other.state.row) == (step % 2 == 0)
        if other.state.row:
            means.append(other.state.row["train/mse_mean"])
            assert (other.state.row["train/images_seen"], other.state.row["train/skipped_steps"]) == (4 * step, 0)
    mses, losses = ([row[f"train/{name}"] for row in rows] for name in ("mse", "loss"))
    assert [row["train/mse_mean"] for row in rows] == pytest.approx(mses, rel=1e-6)
    assert means == pytest.approx([(mses[i] + mses[i + 1]) / 2 for i in (0, 2, 4)], rel=1e-6)
    assert all(loss < 0.9 * mse for loss, mse in zip(losses, mses, strict=True))


def _measured(training: Training) -> dict[str, float]:
    """The row of one more step, as the tracker gets it."""
    tracker = mock.Mock(**{"has.return_value": False, "last.return_value": None})
    advance(training, tracker)
    training.diagnostics.measure(tracker)
    _, row, *_ = tracker.log.call_args.args
    return row


def test_seconds_go_on_where_they_stood(tmp_path: Path) -> None:
    """The checkpoint says how long each part took. A continued run adds to these seconds, part by part, and its share
    of probes covers all sessions.

    Catches times that restart, seconds added to another part, and a share computed from another ratio.
    """
    cfg = tiny(tmp_path, *PLAIN, "--curvature.enabled=true", "--logging.log_every_n_steps=1")
    parts = {"train": 6e5, "probe": 2e5, "sample": 3e4, "features": 4e3, "distance": 500.0, "recon": 0.0}
    before = Training(cfg).state.state_dict() | {"elapsed_s": 9e5, "seconds": parts}
    continued = Training(cfg)
    continued.state.load_state_dict(before)
    row = _measured(continued)
    took = {part: row[f"time/{part}_s"] - seconds for part, seconds in parts.items()}
    assert {part for part, seconds in took.items() if seconds} == {"train", "probe"}
    assert 0 < took["train"] + took["probe"] <= row["time/total_s"] - 9e5 < 3000
    assert row["time/probe_share"] == pytest.approx(row["time/probe_s"] / (row["time/train_s"] + row["time/probe_s"]))
    assert row["time/probe_share"] == pytest.approx(0.25, abs=0.003)
    assert 9e5 < continued.state.state_dict()["elapsed_s"] < 9.03e5


def test_what_has_gathered_since_the_last_row_is_continued(tmp_path: Path) -> None:
    """Two of three steps, a checkpoint, then the third step. The row equals that of an uninterrupted training, also
    with a step left out before the checkpoint. Catches a mean over only the last session's steps, and a lost count of
    steps left out."""
    flags = [*PLAIN, "--logging.log_every_n_steps=3", "--train.skip_nonfinite=1", "--train.total_steps=6"]
    whole = Training(tiny(tmp_path, *flags))
    whole.state.skipped = 1
    for _ in range(2):
        advance(whole, mock.Mock())
    continued = Training(whole.cfg)
    continued.state.load_state_dict(whole.state.state_dict())
    for training in (whole, continued):
        advance(training, mock.Mock())
    assert continued.state.row == whole.state.row and continued.state.row["train/skipped_steps"] == 1
    assert continued.state.row["train/mse_mean"] != pytest.approx(continued.state.row["train/mse"], rel=1e-3)


def test_divergence_stops_the_run_with_advice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not finite.*another run: lower optim\.lr"):
        train(tiny(tmp_path, "--optim.lr=1e30", "--train.grad_clip=null", NO_WANDB))


def test_checkpoints_are_whole_or_absent_and_run_no_code(tmp_path: Path) -> None:
    path = tmp_path / "a/b.pt"
    save_checkpoint(path, {"x": torch.ones(3), "n": 4})
    assert load_state(path)["n"] == 4
    assert [p.name for p in path.parent.iterdir()] == ["b.pt"]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="damaged"):
        load_state(path)
    with pytest.raises(UserError, match="no checkpoint"):
        load_state(tmp_path / "none.pt")
    torch.save({"x": Path("x")}, path)  # an object that needs pickle
    with pytest.raises(UserError, match="damaged"):
        load_state(path)


@pytest.mark.parametrize(("last", "exact"), [(1.0, True), (0.0, False), (None, False)])
def test_a_probe_that_fell_back_to_exact_products_stays_with_them(
    tmp_path: Path, last: float | None, exact: bool
) -> None:
    """The last logged row, of whichever session, decides whether the probe uses exact products. Catches differences
    that are used again after they were found too coarse."""
    training = Training(tiny(tmp_path, *PLAIN, "--curvature.enabled=true"))
    training.state.step = 2
    with mock.patch.object(training.diagnostics.curvature, "measure") as measure:
        training.diagnostics.measure(mock.Mock(**{"has.return_value": False, "last.return_value": last}))
    assert measure.call_args.kwargs["exact"] is exact


def test_gradient_statistics_by_hand() -> None:
    """The gradient is -4, 1 and 1, in two parameters. Catches a mean in which signs cancel, a median, and another
    norm."""
    params = [torch.nn.Parameter(torch.zeros(n)) for n in (2, 1)]
    params[0].grad, params[1].grad = torch.tensor([-4.0, 1.0]), torch.tensor([1.0])
    found = {key: value.item() for key, value in gradient_stats(params).items()}
    assert found == {"train/grad_abs_mean": 2.0, "train/grad_abs_max": 4.0}
    assert gradient_norm(params).item() == pytest.approx(18**0.5)
