"""The study's network, to the parameter."""

import pytest
import torch
import torch.nn.functional as F

from ddpm.models.unet import UNetCifar32, Upsample, count_parameters, timestep_embedding, timestep_frequencies


@pytest.mark.parametrize(("base", "params"), [(32, 1_982_115), (64, 5_550_403)])
def test_parameter_count_is_the_studys(base: int, params: int) -> None:
    assert count_parameters(UNetCifar32(base)) == params


def test_shape_and_dependence_on_x_and_t() -> None:
    """Catches a time embedding that never reaches the output."""
    torch.manual_seed(0)
    model = UNetCifar32(16, gn_groups=8).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        out = model(x, torch.tensor([5, 5]))
        assert out.shape == x.shape
        assert not torch.allclose(out, model(x, torch.tensor([900, 900])), atol=1e-3)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_form_for_one_t_is_the_network(layout: torch.memory_format) -> None:
    """Agrees in float64 to rounding, at several t and in both layouts. The batch, the weights and the previous result
    do not change. Catches a time that enters twice, swapped skips, and a value overwritten in place."""
    torch.manual_seed(0)
    model = UNetCifar32(16, gn_groups=8).double().eval().to(memory_format=layout)
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64).to(memory_format=layout)
    before = [x.clone(), *(p.detach().clone() for p in model.parameters())]
    outs = []
    for t in (0, 500, 999):
        outs.append(model.at_one_t(x, t))
        with torch.no_grad():
            torch.testing.assert_close(outs[-1], model(x, torch.full((3,), t)), rtol=1e-9, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(before, [x, *model.parameters()], strict=True))
    assert torch.equal(outs[0], model.at_one_t(x, 0)) and not outs[0].requires_grad


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 8)])
def test_upsampling_is_nearest_neighbour_and_its_convolution(size: tuple[int, int]) -> None:
    """Output, gradients and second derivatives agree to float64's rounding. Catches a kernel spread to the wrong side,
    swapped or unflipped axes, and wrong borders, where fewer copies of a pixel lie under the kernel."""
    torch.manual_seed(0)
    up = Upsample(3, 5, 3, padding=1).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    inputs = [x, *up.parameters()]

    def derivatives(y: torch.Tensor) -> list[torch.Tensor]:
        first = torch.autograd.grad(y.pow(3).sum(), inputs, create_graph=True)
        return [y, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), inputs)]

    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), up.weight, up.bias, padding=1)
    for ours, theirs in zip(derivatives(up(x)), derivatives(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kind", "low", "high"), [("standard", 0.96, 0.98), ("study", -0.1, 0.1)])
def test_neighbouring_timesteps(kind: str, low: float, high: float) -> None:
    """Mean cosine similarity of neighbours: near 1 for the usual embedding, near 0 for the study's hash of t."""
    e = timestep_embedding(torch.arange(1000), timestep_frequencies(512, kind))
    similarity = torch.nn.functional.cosine_similarity(e[1:], e[:-1]).mean().item()
    assert low < similarity < high
