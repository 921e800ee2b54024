"""What stays from a stream of features, and the numbers that a run logs from them."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from ddpm.data.images import load_images
from ddpm.errors import UserError
from ddpm.evaluation import scores as module
from ddpm.evaluation.distances import frechet_distance
from ddpm.evaluation.fid_error import frechet_error
from ddpm.evaluation.kid_prdc import Kid, kid, neighbours
from ddpm.evaluation.milestones import ends
from ddpm.evaluation.scores import FeatureSums, Wanted, scores
from ddpm.evenly import evenly_spaced
from ddpm.training.loop import train
from ddpm.training.setup import Training
from tests.training.test_train import NO_WANDB, PLAIN, tiny


def _gathered(features: torch.Tensor, batch: int, **kwargs: object) -> FeatureSums:
    found = FeatureSums(len(features), features.shape[1], **kwargs)  # type: ignore[arg-type]
    for part in features.split(batch):
        found.add(part)
    return found


class _TwoColours(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))[:, :2]


def two_colours(folder: Path) -> Path:
    """A feature net with two dimensions, so that three samples are enough for an FID."""
    torch.jit.script(_TwoColours()).save(str(folder / "two.pt"))
    return folder / "two.pt"


def _features(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_rows_are_spread_over_the_set_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps ten evenly spaced rows of 95 for any batch size, and all rows if there are fewer than ten. Catches memory
    that grows with n, and only the first ten rows of a set sorted by class."""
    monkeypatch.setattr(module, "ROWS", 10)
    features = torch.arange(95.0)[:, None]
    expected = torch.linspace(0, 94, 10).round()
    for batch in (1, 7, 95):
        assert torch.equal(_gathered(features, batch).rows[:, 0], expected)
    assert torch.equal(_gathered(features[:9], 4).rows, features[:9])


def test_two_processes_have_the_rows_and_sums_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process starts at its own part. Catches rows at another part's places."""
    monkeypatch.setattr(module, "ROWS", 10)
    features = _features(31, 3)
    whole = _gathered(features, 4)
    shares = []
    for start, end in ((0, 15), (15, 31)):
        found = FeatureSums(31, 3, torch.zeros(3).double(), start)
        for part in features[start:end].split(4):
            found.add(part)
        shares.append(found)
    said: list[torch.Tensor] = []
    shares[0].add_up(lambda values: said.append(values) or values)  # type: ignore[func-returns-value]
    shares[1].add_up(lambda values: values + said.pop(0))
    assert torch.equal(shares[1].rows, whole.rows)
    torch.testing.assert_close(shares[1].sums.result().covariance, whole.sums.result().covariance)


def test_one_pass_gives_every_score() -> None:
    """Each score equals its own function's result on the same features. Catches swapped samples and reference."""
    samples, real = _gathered(_features(300, 6), 50), _gathered(0.2 + _features(400, 6, 1), 50)
    found = scores(samples, real.sums.result(), real.rows, Wanted(Kid(5, 100), 3, infinite=True))
    assert found["fid"] == frechet_distance(samples.sums.result(), real.sums.result())
    assert found["fid_sem"] == frechet_error(samples.sums.result(), real.sums.result(), samples.rows)
    assert (found["kid"], found["kid_std"]) == kid(samples.rows, real.rows, Kid(5, 100))
    assert neighbours(samples.rows, real.rows, 3).items() <= found.items()
    assert found["fid_infinity"] < found["fid"]
    assert set(scores(samples, real.sums.result(), None, Wanted())) == {"fid", "fid_sem"}


def test_the_rows_file_is_in_the_protocol() -> None:
    """The protocol counts the rows that exist, not the statistics' count. Catches KIDs from two files under one
    fingerprint; an own reference's settings do not change."""
    wanted = Wanted(Kid(), 5)
    assert wanted.settings("kid", 70, 30, "abc") == "100 subsets of 15 among 70 and 30 of abc"
    assert wanted.settings("recall", 70, 30, "abc") == "5 nearest neighbours among 70 and 30 of abc"
    assert wanted.settings("recall", 70, 30) == "5 nearest neighbours among 70 and 30"


def test_too_few_rows_for_a_score_are_refused() -> None:
    """Tests the limit of each score. Catches a traceback from the neighbour search, a KID of nan, and a line fitted to
    nothing."""
    for wanted, least, name in ((Wanted(neighbours=5), 6, "prdc.k = 5"), (Wanted(Kid()), 4, "at least 4")):
        wanted.check(least, least, 2)
        for counts in ((least - 1, 100), (100, least - 1)):
            with pytest.raises(UserError, match=name):
                wanted.check(*counts, 2)
    Wanted(infinite=True).check(257, 0, 64)
    with pytest.raises(UserError, match=r"above 4 \* 64 = 256 samples"):
        Wanted(infinite=True).check(256, 0, 64)
    with pytest.raises(UserError, match="at most 10,000 are kept"):
        Wanted(infinite=True).check(50_000, 0, 2500)


@pytest.mark.parametrize(
    ("flags", "n", "message"),
    [(["--eval.prdc.enabled=true", "--eval.prdc.k=70"], 70, "prdc.k = 70"), (["--eval.kid.enabled=true"], 3, "KID")],
)
def test_a_run_with_too_few_rows_does_not_start(tmp_path: Path, flags: list[str], n: int, message: str) -> None:
    """Too few samples for neighbours or KID stop `ddpm train`. Catches an error that appears only at the first
    milestone."""
    counts = [f"--eval.{name}.n_samples={n}" for name in ("fid_milestone", "final")]
    features = f"--eval.features={two_colours(tmp_path)}" if n < 70 else "--eval.features=embedded"
    with pytest.raises(UserError, match=message):
        Training(tiny(tmp_path, *flags, *counts, features))


def test_features_that_are_not_finite_are_refused() -> None:
    """One value is enough. Catches a score of nan under a protocol."""
    found = FeatureSums(4, 2)
    found.add(torch.zeros(2, 2))
    with pytest.raises(UserError, match=r"features of 1 of the images 2 \.\.\. 3 are not finite"):
        found.add(torch.tensor([[0, 1], [float("nan"), 0]]))


def test_a_run_logs_what_its_config_asks_for(tmp_path: Path) -> None:
    """Milestones and, under keys of their own, the end log KID, precision and the related scores with their protocols.
    They also log FID with its error, its floor and its ceiling. A config that asks for nothing gets FID alone."""
    quiet = [f"--{part}.enabled=false" for part in ("curvature", "eval.grid", "eval.recon")] + [NO_WANDB]
    more = ["--eval.kid.enabled=true", "--eval.kid.subsets=5", "--eval.prdc.enabled=true", "--eval.final.n_samples=75"]
    folder = train(tiny(tmp_path, "--train.total_steps=2", *quiet, *more))
    row = json.loads((folder / "loss.jsonl").read_text().splitlines()[-1])["out"]
    protocols = json.loads((folder / "run.json").read_text())["protocols"]
    names = ("fid", "kid", "precision", "recall", "density", "coverage")
    for prefix in ("val", "final"):
        assert row[f"{prefix}/fid_floor"] < row[f"{prefix}/fid"] and row[f"{prefix}/fid_sem"] > 0
        assert row[f"{prefix}/fid_floor"] < 0.2 * row[f"{prefix}/fid_ceiling"]
        assert row[f"{prefix}/kid_std"] > 0
        described = [protocols[row[f"{prefix}/{name}_protocol"]] for name in names]
        assert [d["n_samples"] for d in described] == [70 if prefix == "val" else 75] * 6
        assert "settings" not in described[0] and "5 subsets of 3" in described[1]["settings"]
    assert row["val/kid_protocol"] != row["final/kid_protocol"] != row["final/fid_protocol"]
    plain = train(tiny(tmp_path, "--train.total_steps=2", *quiet))
    without = json.loads((plain / "loss.jsonl").read_text().splitlines()[-1])["out"]
    assert without["val/fid_protocol"] == row["val/fid_protocol"]  # other scores do not change FID
    assert not [key for key in without if "kid" in key or "recall" in key]


def test_the_floor_is_of_images_that_the_reference_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference takes about every second of 200 images. The floor uses 70 others, each once; the ceiling uses 70
    noise images with values spread over 0 ... 255. Catches a floor from the reference's own images, which is lower than
    any denoiser can reach, and a swapped floor and ceiling."""
    milestones = Training(tiny(tmp_path, *PLAIN, "--eval.final.enabled=true")).milestones
    taken: list[torch.Tensor] = []

    def scores_of(what: str, images: Iterable[torch.Tensor], n: int) -> dict[str, float]:
        taken.append(torch.cat(list(images)))
        return {"fid": float(len(taken))}

    monkeypatch.setattr(milestones.evaluator, "scores_of", scores_of)
    assert milestones.ends(70) == ({"fid": 1.0}, {"fid": 2.0})
    everything = load_images("embedded", subset=200).images
    reference = {image.numpy().tobytes() for image in everything[evenly_spaced(200, 100)]}
    real = [image.numpy().tobytes() for image in taken[0]]
    assert len(set(real)) == 70 and not set(real) & reference
    assert set(real) < {image.numpy().tobytes() for image in everything}
    counts = taken[1].flatten().bincount(minlength=256)
    assert len(taken[1]) == 70 and counts.min() > 0.8 * counts.max()  # 840 of each value, +- 29


def test_the_ends_of_the_scale_are_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any run with the same protocol takes floor and ceiling from the cache, bitwise. Another count computes them
    anew."""
    milestones = Training(tiny(tmp_path)).milestones
    first = milestones.ends(70)
    monkeypatch.setattr(type(milestones.evaluator), "score", lambda *_: pytest.fail("taken again"))
    fresh = Training(tiny(tmp_path, "--seed=3")).milestones
    assert fresh.ends(70) == first
    with pytest.raises(pytest.fail.Exception):
        ends(fresh.evaluator, fresh._images, 100, 71)


def test_the_batchs_weights(tmp_path: Path) -> None:
    """Constant weighting gives 1 for every prediction. Min-SNR gives the eps weights at the batch's t. Normalised over
    the batch, the mean is 1. Catches weights in another space, and weights for other timesteps."""
    t = torch.tensor([10, 400, 999])
    for prediction in ("eps", "v"):
        flag = f"--diffusion.prediction={prediction}"
        constant = Training(tiny(tmp_path, flag, "--loss.weighting=constant")).objective.weight_stats(t)
        assert {key: value.item() for key, value in constant.items()} == pytest.approx(
            {f"loss/batch_weight_{name}": 1 for name in ("mean", "min", "max")}
        )
        training = Training(tiny(tmp_path, flag))
        expected = (5 / training.schedule.snr[t]).clamp(max=1)
        stats = training.objective.weight_stats(t)
        for name, value in (("mean", expected.mean()), ("min", expected.min()), ("max", expected.max())):
            assert stats[f"loss/batch_weight_{name}"].item() == pytest.approx(value.item(), rel=1e-5)
    flags = ["--loss.weighting=minsnr_norm", "--loss.minsnr_norm_over=batch"]
    assert Training(tiny(tmp_path, *flags)).objective.weight_stats(t)["loss/batch_weight_mean"].item() == pytest.approx(
        1
    )
