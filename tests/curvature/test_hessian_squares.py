"""Traces of squared errors from forward passes, with the linear head's part in closed form."""

import itertools
import math
import warnings
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from ddpm.curvature.hessian import (
    LeastSquares,
    LeastSquaresTrace,
    TraceEstimate,
    hutchinson_trace,
    least_squares_trace,
    rademacher,
)
from ddpm.models.unet import UNetCifar32
from tests.curvature.test_hessian_exact import all_signs


def _rng(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def _linear() -> tuple[nn.Module, nn.Module, LeastSquares]:
    """9 parameters, the last 3 in a linear head; two weightings for 5 samples."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    return model, model[2], _data(torch.randn(5, 2), torch.randn(5, 1))


def _convolutional() -> tuple[nn.Module, nn.Module, LeastSquares]:
    """10 parameters: the head is a strided, padded and dilated convolution to two channels without bias."""
    torch.manual_seed(1)
    head = nn.Conv2d(1, 2, (1, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2), bias=False)
    model = nn.Sequential(nn.Conv2d(2, 1, (1, 2)), nn.Tanh(), head).double()
    x = torch.randn(3, 2, 3, 5)
    return model, head, _data(x, torch.randn(model(x.double()).shape))


def _data(x: Tensor, y: Tensor) -> LeastSquares:
    weights = torch.stack([torch.ones(len(x)), torch.rand(len(x))])
    return LeastSquares((x.double(),), y.double(), weights)


def _dense(model: nn.Module, data: LeastSquares, loss: int) -> Tensor:
    """One loss's Hessian from its formula, by autograd's dense Hessian."""
    named = dict(model.named_parameters())

    def of(flat: Tensor) -> Tensor:
        parts = flat.split([p.numel() for p in named.values()])
        values = {name: part.reshape(p.shape) for (name, p), part in zip(named.items(), parts, strict=True)}
        errors = (functional_call(model, values, data.inputs) - data.target).square().flatten(1).mean(1)
        return (data.weights[loss] * errors).mean()

    return torch.autograd.functional.hessian(of, torch.cat([p.detach().flatten() for p in named.values()]))


def _variance(H: Tensor) -> float:
    return 2 * (H.square().sum() - H.diagonal().square().sum()).item()


@pytest.mark.parametrize("exact", [False, True], ids=["differences", "products"])
@pytest.mark.parametrize("make", [_linear, _convolutional])
def test_all_sign_vectors_give_both_estimates_exactly(make: Callable[..., tuple], exact: bool) -> None:
    """Over all 2^n sign vectors both means are tr H, for each weighting. The plain variance comes from H, the improved
    one from H's block without the head. Catches a lost factor, a missing residual part, a closed form that counts
    padding, bias or outputs wrongly, and a cross term that is not subtracted."""
    model, head, data = make()
    count = 2 ** sum(p.numel() for p in model.parameters())
    in_head = sum(p.numel() for p in head.parameters())
    every = all_signs(list(model.parameters()))
    found = least_squares_trace(
        model,
        lambda *_: data,
        count,
        _rng(),
        head=head,
        per_draw=count,
        vectors=lambda *_: next(every),
        exact=exact,
        chunk=count,
    )
    for loss, trace in enumerate(found):
        H = _dense(model, data, loss)
        rel = 1e-10 if exact else 1e-5
        assert trace.plain.mean == pytest.approx(H.trace().item(), rel=rel)
        assert trace.improved.mean == pytest.approx(H.trace().item(), rel=rel)
        assert trace.plain.std**2 == pytest.approx(_variance(H), rel=10 * rel)
        assert trace.improved.std**2 == pytest.approx(_variance(H[:-in_head, :-in_head]), rel=10 * rel)
        assert trace.improved.std < trace.plain.std
        assert trace.exact is exact


@pytest.mark.parametrize("with_head", [True, False])
def test_differences_agree_with_products_vector_by_vector(with_head: bool) -> None:
    """Both forms use the same draws and vectors, with and without a head. Catches errors that average out."""
    model, head, data = _convolutional()
    both = [
        least_squares_trace(
            model, lambda *_: data, 6, _rng(), head=head if with_head else None, per_draw=2, exact=exact
        )
        for exact in (False, True)
    ]
    for differences, products in zip(*both, strict=True):
        torch.testing.assert_close(differences.plain.table, products.plain.table, rtol=1e-4, atol=1e-5)
        if with_head:
            torch.testing.assert_close(differences.improved.table, products.improved.table, rtol=1e-4, atol=1e-5)
        else:
            assert differences.improved is None


def test_a_parameter_at_two_places_is_moved_at_both_and_put_back() -> None:
    """With tied weights, differences agree with products. The model gets its own parameters back, even after a failure.

    Catches a second place that keeps the old weights, and weights that stay displaced.
    """

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.fails = False

        def forward(self, x: Tensor) -> Tensor:
            if self.fails:
                raise KeyError("no")
            out: Tensor = self.b(torch.tanh(self.a(x)))
            return out

    model = Tied().double()
    data = LeastSquares((torch.randn(4, 3).double(),), torch.randn(4, 3).double(), torch.ones(1, 4))
    own = [id(p) for p in model.parameters()]
    rough, exact = (
        least_squares_trace(model, lambda *_: data, 4, _rng(), per_draw=4, exact=e)[0].plain.values
        for e in (False, True)
    )
    torch.testing.assert_close(rough, exact, rtol=1e-5, atol=1e-6)
    model.fails = True
    with pytest.raises(KeyError):
        least_squares_trace(model, lambda *_: data, 4, _rng(), per_draw=4)
    assert [id(p) for p in model.parameters()] == own
    assert model.b.weight is model.a.weight


def test_a_model_that_is_its_head_alone_is_known_exactly() -> None:
    """For linear regression the improved estimate is the exact trace, in float32 too."""
    model = nn.Linear(4, 3)
    x, y = torch.randn(7, 4), torch.randn(7, 3)
    data = LeastSquares((x,), y, torch.ones(1, 7))
    found = least_squares_trace(model, lambda *_: data, 4, _rng(), head=model, per_draw=4, checks=1)[0]
    expected = 2 / 3 * 3 * (x.double().square().sum(1).mean() + 1).item()
    assert found.improved.mean == pytest.approx(expected, rel=1e-6)
    assert found.improved.std == pytest.approx(0, abs=1e-9)
    assert found.plain.std > 0.1
    assert not found.exact


def test_unet_cifar32_in_float32_is_as_good_as_exact() -> None:
    """At initialisation both parts are large and cancel. Differences stay within 2 % of the standard error, as the
    run-time check also says. Catches a step that is too large or too small."""
    torch.manual_seed(0)
    model = UNetCifar32().eval()

    def draw(_: int, rng: Generator) -> LeastSquares:
        x, t = torch.randn(2, 3, 32, 32, generator=rng), torch.randint(0, 1000, (2,), generator=rng)
        return LeastSquares((x, t), torch.randn(x.shape, generator=rng), torch.ones(1, 2))

    found = least_squares_trace(model, draw, 6, _rng(), head=model.conv_out, checks=1)[0]
    products = least_squares_trace(model, draw, 6, _rng(), head=model.conv_out, exact=True)[0]
    assert not found.exact
    assert abs(found.plain.mean - products.plain.mean) < 0.02 * products.plain.sem
    assert abs(found.improved.mean - products.improved.mean) < 0.02 * products.improved.sem
    assert 0 < found.numerical_error[0] < 0.02 * found.plain.sem


def test_training_is_left_untouched() -> None:
    """Both forms leave gradients, buffers, modes, parameters, hooks and the global stream bitwise the same. Catches
    parameters displaced in place, which do not come back bitwise."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    model(x).square().mean().backward()
    data = LeastSquares((x,), y, torch.ones(1, 5))
    kept = [*model.state_dict().values(), *(p.grad for p in model.parameters())]
    before = [t.clone() for t in (*kept, torch.get_rng_state())]
    least_squares_trace(model, lambda *_: data, 4, _rng(), head=model[3], checks=2)
    after = [*model.state_dict().values(), *(p.grad for p in model.parameters()), torch.get_rng_state()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(module.training for module in model.modules())
    assert not model[3]._forward_hooks


def test_differences_that_are_too_coarse_are_replaced_and_that_is_said() -> None:
    """The network oscillates within one difference step: exact products with the same draws replace the differences."""

    class Wild(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.tensor([0.3, -0.7]))

        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(1000 * x @ self.a)[:, None]

    model = Wild()
    x = torch.randn(4, 2, generator=_rng(1))

    def draw(_: int, rng: Generator) -> LeastSquares:
        return LeastSquares((x,), torch.randn(4, 1, generator=rng), torch.ones(1, 4))

    with pytest.warns(UserWarning, match="too coarse"):
        found = least_squares_trace(model, draw, 4, _rng(), checks=1)[0]
    assert found.exact
    assert torch.equal(found.plain.table, least_squares_trace(model, draw, 4, _rng(), exact=True)[0].plain.table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not least_squares_trace(model, draw, 4, _rng())[0].exact  # without a check it cannot know


def test_a_check_is_as_strict_for_many_probes_as_for_few() -> None:
    """The error of four checked draws counts in standard errors of four draws, however many draws there are. Catches a
    fallback to exact products, four times slower, that only more probes bring about."""
    values = torch.randn(64, 1, dtype=torch.float64, generator=_rng())
    for draws in (16, 64):
        plain = TraceEstimate(values[:draws])
        trace = LeastSquaresTrace(plain, None, (0.1, math.nan), exact=False, checked=4)
        of_all = (plain.interval()[1] - plain.mean) / 1.96
        assert trace.error_in_sems == pytest.approx(0.1 / (of_all * (draws / 4) ** 0.5))


def test_missing_values_and_bad_input() -> None:
    """A draw that is not finite is counted. A head that is not the model's last operation is refused. Catches a closed
    form added to the wrong features."""
    model, head, data = _linear()
    bad = LeastSquares(data.inputs, data.target * float("inf"), data.weights)
    turns = itertools.cycle([data, bad])
    found = least_squares_trace(model, lambda *_: next(turns), 6, _rng(), head=head)[0]
    assert (found.plain.missing, found.improved.missing) == (3, 3)
    assert found.plain.mean == found.plain.mean

    def measure(of: nn.Module, head: nn.Module | None, data: LeastSquares = data, probes: int = 2) -> None:
        least_squares_trace(of, lambda *_: data, probes, _rng(), head=head)

    with pytest.raises(ValueError, match="last operation"):
        measure(model, model[0])
    with pytest.raises(ValueError, match="last operation"):
        measure(nn.Sequential(model, nn.Tanh()), head)
    with pytest.raises(ValueError, match=r"nn\.Linear or"):
        measure(model, model[1])
    with pytest.raises(ValueError, match="not all among"):
        measure(model, nn.Linear(2, 1))
    with pytest.raises(ValueError, match="differ in shape"):
        measure(model, head, LeastSquares(data.inputs, data.target[:, 0], data.weights))
    with pytest.raises(ValueError, match="at least 2"):
        measure(model, head, probes=1)


def _small() -> tuple[nn.Module, nn.Module, LeastSquares]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    return model, model[4], _data(torch.randn(8, 6), torch.randn(8, 4))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """For 200 estimates with 16 probes each, the 95 % interval holds the dense trace 90 to 98 % of the time, plain and
    improved. Catches a standard error that is off by sqrt(2), or a normal quantile for few probes."""
    model, head, data = _small()
    truth = _dense(model, data, 0).trace().item()
    rng = _rng(4)

    def covers(found: LeastSquaresTrace) -> tuple[bool, bool]:
        low, high = found.plain.interval()
        low_improved, high_improved = found.improved.interval()
        return low < truth < high, low_improved < truth < high_improved

    held = [covers(least_squares_trace(model, lambda *_: data, 16, rng, head=head, per_draw=16)[0]) for _ in range(200)]
    assert 180 <= sum(plain for plain, _ in held) <= 196
    assert 180 <= sum(improved for _, improved in held) <= 196


def test_common_random_numbers_and_shared_passes() -> None:
    """Weighting 2 = 3 x weighting 1 gives 3 x every value. Catches weights on the wrong samples, and fresh draws."""
    model, head, data = _linear()
    tripled = LeastSquares(data.inputs, data.target, torch.stack([data.weights[1], 3 * data.weights[1]]))
    one, three = least_squares_trace(model, lambda *_: tripled, 4, _rng(), head=head)
    # float32 rounds 3 w to 6e-8.
    torch.testing.assert_close(three.plain.values, 3 * one.plain.values, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(three.improved.values, 3 * one.improved.values, rtol=1e-6, atol=1e-6)


def test_the_general_form_and_this_one_measure_the_same() -> None:
    """`hutchinson_trace` with the loss as a closure gives the same values along the same vectors. Catches a mean for a
    sum."""
    model, _, data = _linear()

    def loss() -> Tensor:
        return (data.weights * (model(*data.inputs) - data.target).square().mean(1)).mean(1)

    params: Sequence[Tensor] = list(model.parameters())
    drawn = [rademacher(params, _rng()) for _ in range(4)]
    first, second = iter(drawn), iter(drawn)
    general = hutchinson_trace(loss, params, 4, _rng(), per_draw=4, vectors=lambda *_: next(first))
    special = least_squares_trace(
        model, lambda *_: data, 4, _rng(), per_draw=4, exact=True, vectors=lambda *_: next(second)
    )
    for a, b in zip(general, special, strict=True):
        torch.testing.assert_close(a.table, b.plain.table)
