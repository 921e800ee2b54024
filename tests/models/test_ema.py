"""Compares EMA with its closed form."""

import torch
from torch import nn

from ddpm.models.ema import Ema


def test_closed_form_and_independence() -> None:
    """w_n = d^n w_0 + (1 - d) sum d^(n-k) w_k. Catches decay and 1 - decay swapped, or a shared tensor."""
    model = nn.Linear(3, 2).double()
    first = model.weight.detach().clone()
    ema = Ema(model, 0.9)
    expected = first.clone()
    for k in range(1, 6):
        with torch.no_grad():
            model.weight.copy_(first * (k + 1))
        ema.update(model)
        expected = 0.9 * expected + 0.1 * first * (k + 1)
    torch.testing.assert_close(ema.model.weight, expected, rtol=1e-12, atol=0)
    assert not torch.equal(ema.model.weight, model.weight)
    assert not ema.model.weight.requires_grad


def test_buffers_are_copied() -> None:
    """Catches running statistics that are averaged or left at their start."""
    model = nn.BatchNorm1d(2)
    ema = Ema(model, 0.9)
    model(torch.randn(8, 2))
    ema.update(model)
    assert torch.equal(ema.model.running_mean, model.running_mean)
    assert ema.model.num_batches_tracked == 1


def test_the_average_draws_no_dropout_and_takes_no_gradient() -> None:
    """This holds for a network in training too. Catches an average whose samples dropout disturbs."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5)).train()
    averaged = Ema(model, 0.5).model
    assert not any(module.training for module in averaged.modules()) and model.training
    assert not any(p.requires_grad for p in averaged.parameters())
