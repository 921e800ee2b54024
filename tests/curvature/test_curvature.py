"""A run's curvature probe: which draws it takes, what it logs, and what it does if a value is missing."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from ddpm.config.files import load_config
from ddpm.config.run import Config
from ddpm.config.stored import differences, upgrade
from ddpm.curvature.hessian import LeastSquares, hutchpp_trace, least_squares_trace, xtrace
from ddpm.curvature.probe import CurvatureProbe, Measurement
from ddpm.errors import UserError
from ddpm.metrics.table import METRICS
from ddpm.names import METHODS
from ddpm.runtime.checkpoint import digest
from ddpm.tracking.tracker import Tracker
from ddpm.training.loop import advance, train
from ddpm.training.setup import Training
from tests.training.test_train import NO_WANDB, PLAIN, ROOT, _rows, tiny

FEW = "--curvature.lanczos_steps=3"
ALL = "[hutchinson,hutchpp,xtrace,lanczos,slq,noise_scale]"


def _tiny(tmp_path: Path, *overrides: str, arm: str = "e6") -> Config:
    """A tiny run that measures only the curvature."""
    return tiny(tmp_path, *PLAIN, NO_WANDB, "--curvature.enabled=true", *overrides, arm=arm)


def _training(tmp_path: Path, *overrides: str, arm: str = "e6") -> Training:
    training = Training(_tiny(tmp_path, *overrides, arm=arm))
    advance(training, mock.Mock())
    return training


def _draws(training: Training, step: int) -> list[tuple[Tensor, Tensor]]:
    """The (x_t, t) that the network sees in a probe at `step`, one per draw."""
    seen: list[tuple[Tensor, Tensor]] = []
    hook = training.state.model.register_forward_pre_hook(
        lambda _, given: seen.append((given[0].clone(), given[1].clone()))
    )
    training.diagnostics.probe(step)
    hook.remove()
    return [seen[i] for i in range(len(seen)) if i == 0 or not torch.equal(seen[i][0], seen[i - 1][0])]


def _equal(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) and torch.equal(t, s) for (x, t), (y, s) in zip(a, b, strict=True)
    )


def _measured(training: Training, **keys: int) -> Measurement:
    return training.diagnostics.curvature.measure(
        training.state.model, 90, training.state.indices, lambda: None, **keys
    )


def test_fixed_draws_are_the_same_at_every_step_and_in_every_run(tmp_path: Path) -> None:
    """Another arm or run seed keeps the draws; another `curvature.seed` changes them. Catches draws that depend on the
    step, the run's seed or the training batch, and two probes on one draw."""
    one = _draws(_training(tmp_path, "--curvature.probes=6"), 180)
    assert len({float(x.sum()) for x, _ in one}) == 6
    assert _equal(one, _draws(_training(tmp_path, "--curvature.probes=6"), 270))
    assert _equal(one, _draws(_training(tmp_path, "--curvature.probes=6", "--seed=3", arm="e5"), 180))
    assert not _equal(one, _draws(_training(tmp_path, "--curvature.probes=6", "--curvature.seed=1"), 180))


def test_draws_without_shared_levels_cover_all_timesteps(tmp_path: Path) -> None:
    """With `curvature.neutral: false`, every draw takes one t from each B-th part of the range, and the draws reach the
    whole range. Catches strata of the wrong width, and one u for all draws."""
    keys = ("--curvature.probes=64", "--curvature.neutral=false")
    found = torch.stack([t for _, t in _draws(_training(tmp_path, *keys), 180)])
    assert found.shape == (64, 4)
    for i, stratum in enumerate(found.T):
        assert 250 * i <= stratum.min() < 250 * i + 25
        assert 250 * i + 225 <= stratum.max() < 250 * (i + 1)


def test_runs_from_before_the_key_keep_their_draws_and_ids(tmp_path: Path) -> None:
    """A stored config without `curvature.neutral` is one without shared levels: it has the run id that it had, and an
    unfinished run cannot go on with other draws. Catches numbers of two designs in one curve."""
    now = _tiny(tmp_path)
    stored = now.nested()
    del stored["curvature"]["neutral"]
    before = Config.model_validate(upgrade(stored))
    assert before.curvature.neutral is False
    assert before.run_id == _tiny(tmp_path, "--curvature.neutral=false").run_id != now.run_id
    assert differences(stored, now.nested()) == ["curvature.neutral was False, is True"]
    off = "--curvature.enabled=false"
    assert tiny(tmp_path, off, "--curvature.neutral=false").run_id == tiny(tmp_path, off).run_id  # nothing is probed


def test_the_studys_scheme_takes_the_current_batch_and_all_else_anew(tmp_path: Path) -> None:
    """The images are the training batch's (x_t at t = 0 is nearly x_0). t and eps differ between draws and between
    steps, and one step repeats its own. Catches the fixed images under the other name."""
    training = _training(tmp_path, "--curvature.draws=batch", "--loss.t_max=0")
    x_0 = training.state.batches.take(training.state.indices)
    seen = _draws(training, 180)
    assert len(seen) == 2
    assert all((x_t - x_0).abs().mean() < 0.02 for x_t, _ in seen)
    training = _training(tmp_path, "--curvature.draws=batch")
    once = _draws(training, 180)
    assert _equal(once, _draws(training, 180))
    assert not _equal(once, _draws(training, 270))


def test_probe_of_constant_weighting_measures_one_loss(tmp_path: Path) -> None:
    """Under constant weighting both traces measure one function. Under Min-SNR they differ: its weights (<= 1) give the
    smaller trace, by the logged ratio. The common loss's trace is the same in both arms, because weights and draws are
    equal."""
    e5, e6 = Training(_tiny(tmp_path, arm="e5")), Training(_tiny(tmp_path, "--loss.minsnr_gamma=0.01"))
    a, b = e5.diagnostics.probe(90), e6.diagnostics.probe(90)
    assert (
        a["curvature/hutch_trace_mean"] == a["curvature/ref_trace_mean"] == pytest.approx(b["curvature/ref_trace_mean"])
    )
    assert abs(b["curvature/hutch_trace_mean"]) < abs(b["curvature/ref_trace_mean"])
    quotient = b["curvature/hutch_trace_improved"] / b["curvature/ref_trace_improved"]
    assert b["curvature/trace_ratio"] == pytest.approx(quotient)
    assert "curvature/trace_ratio" not in a
    assert e5.state.model.training


def test_differences_are_as_good_as_products(tmp_path: Path) -> None:
    """Products from the same draws (`curvature.exact`), at the study's width, agree within 2 % of the standard error;
    the run's own check says so too. Catches a check of another loss or vector, and draws that depend on the form."""
    options = ("--curvature.probes=8", "--curvature.per_draw=2", "--model.base_channels=32")
    rough = _measured(_training(tmp_path, *options), checks=4).row
    exact = _measured(_training(tmp_path, *options, "--curvature.exact=true")).row
    assert (rough["curvature/exact"], exact["curvature/exact"]) == (0, 1)
    assert 0 < rough["curvature/numerical_error"] < 0.02
    assert "curvature/numerical_error" not in exact
    for loss in ("hutch", "ref"):
        for form in ("mean", "improved"):
            key = f"curvature/{loss}_trace_{form}"
            sem = exact[key.replace("_mean", "") + "_sem"]
            assert abs(rough[key] - exact[key]) < 0.02 * sem
        assert rough[f"curvature/{loss}_trace_std_estimator"] > 0
        assert rough[f"curvature/{loss}_trace_std_data"] >= 0


@pytest.mark.parametrize("arm", ["e5", "e6"])
def test_every_method_logs_documented_finite_numbers(tmp_path: Path, arm: str) -> None:
    """Runs all methods at once for both losses; eigenvalues and traces agree. Catches a key without a row in the table,
    a Hessian of the wrong loss, and a method that measures another batch than the others."""
    weak = ["--loss.minsnr_gamma=0.000001"] if arm == "e6" else []
    training = _training(
        tmp_path, f"--curvature.method={ALL}", "--curvature.probes=8", "--curvature.lanczos_steps=14", *weak, arm=arm
    )
    row = _measured(training).row
    assert set(row) <= set(METRICS)
    assert all(math.isfinite(value) for value in row.values())
    assert [row[f"curvature/missing_{method}"] for method in METHODS] == [0] * 6
    assert row["curvature/slq_highest"] == pytest.approx(row["curvature/top_eigenvalue"], rel=0.01)
    trained, common = (
        {key: row[f"curvature/{prefix}{key}"] for key in ("xtrace", "slq_trace", "top_eigenvalue")}
        for prefix in ("", "ref_")
    )
    spread = row["curvature/xtrace_sem"] + row["curvature/hutchpp_trace_sem"]
    assert abs(row["curvature/xtrace"] - row["curvature/hutchpp_trace"]) < 5 * spread
    if arm == "e5":
        assert trained == common
    else:
        assert all(trained[key] < 0.5 * common[key] for key in trained)


def test_averaged_weights_are_measured_where_asked(tmp_path: Path) -> None:
    """`curvature.weights: ema` measures the averaged weights and leaves them untrainable. Catches live weights under
    the other name, and averaged weights that become trainable."""
    live, averaged = (_training(tmp_path, f"--curvature.weights={w}", "--optim.lr=0.05") for w in ("live", "ema"))
    a, b = live.diagnostics.probe(90), averaged.diagnostics.probe(90)
    assert a["curvature/ref_trace_mean"] != b["curvature/ref_trace_mean"]
    assert averaged.state.ema is not None
    averaged.state.model.load_state_dict(averaged.state.ema.model.state_dict())
    assert _measured(averaged).row["curvature/ref_trace_mean"] == b["curvature/ref_trace_mean"]
    assert not any(p.requires_grad for p in averaged.state.ema.model.parameters())


def test_a_probe_that_is_not_finite_is_counted_and_training_goes_on(tmp_path: Path) -> None:
    """Every value is missing: the row counts them by method and holds no number for them. Catches a NaN in a chart, a
    run that ends, and a factorisation that fails on values that are not finite."""

    def spoilt(*args: object, **more: object) -> LeastSquares:
        found = problem(*args, **more)  # type: ignore[arg-type]
        return LeastSquares(found.inputs, found.target * math.inf, found.weights)

    problem = CurvatureProbe._problem
    with mock.patch.object(CurvatureProbe, "_problem", spoilt):
        folder = train(_tiny(tmp_path, "--curvature.probes=6", f"--curvature.method={ALL}", FEW))
    last = _rows(folder)[-1]
    assert last["_i"] == 4
    found = {key: value for key, value in last["out"].items() if key.startswith("curvature/")}
    counts = {"hutchinson": 6, "hutchpp": 2, "xtrace": 2, "lanczos": 2, "slq": 2, "noise_scale": 6}
    assert found == {f"curvature/missing_{name}": n for name, n in counts.items()} | {"curvature/exact": 0}


@pytest.mark.parametrize("estimator", [hutchpp_trace, xtrace])
def test_products_too_large_to_factorise_are_not_finite(estimator: Callable[..., object]) -> None:
    """The products are finite, but their norm exceeds float32. Catches an error that no caller expects, and a NaN
    trace."""
    with pytest.raises(FloatingPointError):
        estimator(torch.full((40, 40), 1e37), 12, torch.Generator().manual_seed(0))


def test_differences_that_alone_are_not_finite_become_products(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check finds differences that are not finite. Catches a comparison that NaN passes."""
    training = _training(tmp_path)
    broken = torch.full((2, 4), math.nan, dtype=torch.float64)
    with mock.patch("ddpm.curvature.hessian.squares._values", return_value=broken):
        row = _measured(training, checks=1).row
    assert (row["curvature/exact"], row["curvature/missing_hutchinson"]) == (1, 0)
    assert "too coarse" in capsys.readouterr().out


def test_a_draw_that_memory_does_not_suffice_for_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One draw in four fails: the other three make the estimate, with a warning. Catches a run that ends for lack of
    memory."""
    calls = iter(range(100))

    def failing(*args: object) -> Tensor:
        if next(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return values(*args)  # type: ignore[arg-type]

    from ddpm.curvature.hessian.squares import _values as values

    training = _training(tmp_path, "--curvature.probes=4", "--curvature.neutral=false")
    whole = _measured(training, checks=0)
    with mock.patch("ddpm.curvature.hessian.squares._values", side_effect=failing):
        part = _measured(training, checks=0)
    assert "warning: curvature at step 90: out of memory: 1 values of one draw" in capsys.readouterr().out
    kept = [v for i, v in enumerate(whole.details["curvature/ref_values"]) if i != 1]
    assert part.row["curvature/missing_hutchinson"] == 1
    assert part.row["curvature/ref_trace_mean"] == pytest.approx(sum(kept) / 3)


def test_a_check_that_memory_does_not_suffice_for_is_no_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The values stand, and the row has no numerical error. Catches an error of 0 that nobody measured."""
    training = _training(tmp_path)
    with mock.patch("ddpm.curvature.hessian.squares._by_products", side_effect=torch.OutOfMemoryError("out of memory")):
        row = _measured(training, checks=1).row
    assert "out of memory: a check could not be made" in capsys.readouterr().out
    assert "curvature/numerical_error" not in row
    assert (row["curvature/exact"], row["curvature/missing_hutchinson"]) == (0, 0)


@pytest.mark.parametrize(
    ("method", "target", "count"),
    [
        ("noise_scale", "ddpm.curvature.hessian.noise._flat_gradient", 6),
        ("lanczos", "ddpm.curvature.hessian.operator.products", 2),
    ],
)
def test_other_methods_out_of_memory_are_missing(tmp_path: Path, method: str, target: str, count: int) -> None:
    """Catches a measurement that ends the run."""
    training = _training(tmp_path, f"--curvature.method={method}", "--curvature.probes=6")
    with mock.patch(target, side_effect=torch.OutOfMemoryError("out of memory")):
        assert _measured(training).row == {f"curvature/missing_{method}": count}


def test_the_noise_scale_is_of_independent_images_and_timesteps(tmp_path: Path) -> None:
    """Both kinds of draws take t from the whole range at every place, on images other than the training batch's.
    Catches strata and repeated images, which would hide part of the noise."""
    for draws in ("fixed", "batch"):
        keys = ("--curvature.method=noise_scale", "--curvature.probes=40", f"--curvature.draws={draws}")
        seen = torch.stack([t for _, t in _draws(_training(tmp_path, *keys), 90)])
        assert all(place.min() < 200 and place.max() > 800 for place in seen.T)


def test_every_method_leaves_training_untouched(tmp_path: Path) -> None:
    """Weights, gradients, averages, optimizer, streams and modes stay bitwise the same, with dropout on. Catches a
    product that accumulates into `.grad`, and a mode or stream that is not restored."""
    training = _training(tmp_path, f"--curvature.method={ALL}", "--curvature.probes=6", "--model.dropout=0.1", FEW)

    def state() -> str:
        modes = [module.training for module in training.state.model.modules()]
        return digest(
            [
                training.state.state_dict()["model"],
                training.state.streams(),
                [p.grad for p in training.state.params],
                modes,
            ]
        )

    before, optimizer = state(), digest(training.state.optimizer.state_dict())
    assert all(p.grad is not None for p in training.state.params)
    training.diagnostics.probe(90)
    assert (state(), digest(training.state.optimizer.state_dict())) == (before, optimizer)


def test_two_that_share_the_draws_measure_what_one_does(tmp_path: Path) -> None:
    """Two parts of the draws together give bitwise the whole, including the check. Catches draws that depend on who
    takes them."""
    training = _training(tmp_path, "--curvature.probes=5")

    def measured(share: object) -> list[Tensor]:
        rng = torch.Generator().manual_seed(5)
        draw = lambda k, rng: training.diagnostics.curvature._problem(k, rng, training.state.indices)  # noqa: E731
        found = least_squares_trace(
            training.state.model,
            draw,
            5,
            rng,
            head=training.state.model.head,
            checks=1,
            **({"share": share} if share else {}),
        )
        return [t for f in found for t in (f.plain.table, f.improved.table, torch.tensor(f.numerical_error))]

    halves = measured(lambda n, measure: measure(range(2)) + measure(range(2, n)))
    torch.testing.assert_close(measured(None), halves, rtol=0, atol=0, equal_nan=True)


def test_one_measurement_in_twenty_is_checked(tmp_path: Path) -> None:
    """Checks the first and the 21st, at any cadence. Catches a check at every probe, which costs twice as much."""
    training = _training(tmp_path, "--curvature.every=50")
    checked = [
        step
        for step in (50, 100, 550, 1000, 1050, 1100, 2050)
        if "curvature/numerical_error" in training.diagnostics.probe(step)
    ]
    assert checked == [50, 1050, 2050]


def test_the_probe_has_a_cadence_of_its_own(tmp_path: Path) -> None:
    """Probes every 3 steps and after the last, while rows come every 2. Catches a probe at logged steps alone."""
    cfg = _tiny(tmp_path, "--curvature.every=3", "--train.total_steps=4")
    probed = [row["_i"] for row in _rows(train(cfg)) if "curvature/ref_trace_mean" in row["out"]]
    assert probed == [3, 4]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--curvature.method=hutch", "hutchinson.*noise_scale"),
        ("--curvature.method=[]", "one or more methods"),
        ("--curvature.method=[slq,slq]", "each once"),
        ("--curvature.method=xtrace --curvature.probes=3", "at least 4"),
        ("--curvature.per_draw=3 --curvature.probes=16", "must divide"),
        ("--curvature.probes=1", "probes = 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(override: str, said: str) -> None:
    """The message says what is allowed."""
    with pytest.raises(UserError, match=said):
        load_config(ROOT / "configs/smoke/e6.yaml", override.split())


def test_a_single_method_keeps_its_plain_name(tmp_path: Path) -> None:
    """A single method is `hutchinson`, not a list: saved configs, sweeps and W&B's filters use that form. Lists stay
    lists."""
    assert tiny(tmp_path).nested()["curvature"]["method"] == "hutchinson"
    several = tiny(tmp_path, "--curvature.method=[slq,hutchinson]")
    assert several.nested()["curvature"]["method"] == ["slq", "hutchinson"]
    assert several.curvature.method == ("slq", "hutchinson")


def test_what_is_too_coarse_stays_exact_up_to_the_next_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed check makes that measurement and the following ones exact, with a warning. Catches nine coarse
    measurements after a failed check."""
    training = _training(tmp_path)  # its first measurement is due at step 2
    with mock.patch("ddpm.curvature.hessian.squares.STEP", 50.0):
        first = training.diagnostics.probe(2)
        assert "warning: curvature at step 2: differences of float32 outputs are too coarse" in capsys.readouterr().out
        assert first["curvature/exact"] == 1
        assert first["curvature/numerical_error"] > 0.02
        coarse = training.diagnostics.probe(4)["curvature/ref_trace_mean"]
        exact = training.diagnostics.probe(4, exact=True)
    assert exact["curvature/exact"] == 1
    assert exact["curvature/ref_trace_mean"] == first["curvature/ref_trace_mean"] != coarse
    rows = [{"train/loss": 1.0}, {"curvature/exact": 1.0}, {"train/loss": 2.0}]
    tracker = mock.Mock(spec=Tracker, folder=mock.Mock(rows=dict(enumerate(rows))))
    assert Tracker.last(tracker, "curvature/exact") == 1
    assert Tracker.last(tracker, "val/fid") is None


def test_no_warning_in_a_healthy_probe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Uses the study's width. Catches a switch to exact products, which cost four times as much, for ordinary
    weights."""
    training = _training(tmp_path, "--model.base_channels=32", "--curvature.probes=8")
    capsys.readouterr()
    assert _measured(training, checks=2).row["curvature/exact"] == 0
    assert capsys.readouterr().out == ""


def test_other_peoples_warnings_pass(tmp_path: Path) -> None:
    """A warning from elsewhere is still a warning. Catches a probe that swallows it."""
    training, problem = _training(tmp_path), CurvatureProbe._problem

    def warning(*args: object, **more: object) -> LeastSquares:
        warnings.warn("deprecated", DeprecationWarning, stacklevel=2)
        return problem(*args, **more)  # type: ignore[arg-type]

    with mock.patch.object(CurvatureProbe, "_problem", warning), pytest.warns(DeprecationWarning, match="deprecated"):
        _measured(training, checks=0)
