"""The gradient noise scale: the batch size at which the gradient's noise equals its norm."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm.curvature.hessian.untouched import untouched


@dataclass(frozen=True)
class GradientNoise:
    """scale: trace / squared_norm, in examples (McCandlish et al. 2018, eq. 2.9: B_simple); sem: its jackknife error.

    trace: of the gradient covariance of one example. squared_norm: an unbiased estimate of |G|^2 of the true gradient.
    If noise makes it negative or 0, scale and sem are NaN. missing: batches left out because they are not finite.
    """

    scale: float
    sem: float
    trace: float
    squared_norm: float
    missing: int


def gradient_noise_scale(
    loss: Callable[[], Tensor], params: Sequence[Tensor], batches: int, batch_size: int
) -> GradientNoise:
    """Noise scale from `batches` independent batches of `batch_size`; each call of `loss` returns one batch's mean.

    With K gradients g_k: trace = b sum |g_k - mean|^2 / (K - 1) and |G|^2 = |mean|^2 - trace / (b K). Keeps K gradients
    in memory and leaves `.grad` untouched. Raises ValueError if batches < 3: the jackknife leaves one out.
    """
    if batches < 3:
        raise ValueError(f"batches must be at least 3 for an error bar, got {batches}")
    with untouched(params), torch.enable_grad():
        gradients = [_flat_gradient(loss(), params) for _ in range(batches)]
    finite = [g for g in gradients if bool(g.isfinite().all())]
    K, missing = len(finite), batches - len(finite)
    if K < 3:
        nan = float("nan")
        return GradientNoise(nan, nan, nan, nan, missing)
    gram = torch.stack([torch.stack([(g * h).sum(dtype=torch.float64) for h in finite]) for g in finite]).cpu()
    trace, squared_norm = _moments(gram, batch_size)
    scale = trace / squared_norm if squared_norm > 0 else float("nan")
    left_out = []
    for k in range(K):
        rest = [i for i in range(K) if i != k]
        t, s = _moments(gram[rest][:, rest], batch_size)
        left_out.append(t / s if s > 0 else float("nan"))
    spread = torch.tensor(left_out, dtype=torch.float64)
    sem = ((K - 1) / K * (spread - spread.mean()).square().sum()).sqrt().item() if scale == scale else float("nan")
    return GradientNoise(scale, sem, trace, squared_norm, missing)


def _flat_gradient(loss: Tensor, params: Sequence[Tensor]) -> Tensor:
    gradient = torch.autograd.grad(loss, params, allow_unused=True)
    return torch.cat(
        [p.new_zeros(p.numel()) if g is None else g.flatten() for g, p in zip(gradient, params, strict=True)]
    )


def _moments(gram: Tensor, batch_size: int) -> tuple[float, float]:
    """(trace, squared_norm) from the gradients' inner products (K, K)."""
    K = len(gram)
    mean_square = gram.mean()
    variance = (gram.diagonal().sum() - K * mean_square) / (K - 1)
    return (batch_size * variance).item(), (mean_square - variance / K).item()
