"""The Hessian of a loss as an operator: exact products H V by a second backward pass through the gradient's graph."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddpm.curvature.hessian.chunks import Chunks


def gradient_graph(loss: Tensor, params: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradient with its graph; None for parameters without a second derivative of the loss."""
    if not loss.requires_grad:
        return [None] * len(params)
    gradient = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    return [g if g is not None and g.requires_grad else None for g in gradient]


def products(
    gradient: Sequence[Tensor | None], params: Sequence[Tensor], vectors: Sequence[Sequence[Tensor]]
) -> list[Sequence[Tensor | None]]:
    """H v for each vector, as one tensor per parameter; None means zero. Several vectors share one vmapped pass."""
    curved = [i for i, g in enumerate(gradient) if g is not None]
    if not curved:
        return [[None] * len(params) for _ in vectors]
    outputs = [gradient[i] for i in curved]
    if len(vectors) == 1:
        seeds = [vectors[0][i] for i in curved]
        return [torch.autograd.grad(outputs, params, seeds, retain_graph=True, allow_unused=True)]  # type: ignore[arg-type]
    seeds = [torch.stack([v[i] for v in vectors]) for i in curved]
    batched = torch.autograd.grad(
        outputs,  # type: ignore[arg-type]
        params,
        seeds,
        retain_graph=True,
        allow_unused=True,
        is_grads_batched=True,
    )
    return [[None if h is None else h[k] for h in batched] for k in range(len(vectors))]


def quadratic_terms(
    gradient: Sequence[Tensor | None], params: Sequence[Tensor], vectors: Sequence[Sequence[Tensor]], chunks: Chunks
) -> Tensor:
    """(vectors, parameters) float64: v_p . (H v)_p for every parameter p; a row sums to v' H v."""

    def terms(part: slice) -> Tensor:
        found = products(gradient, params, vectors[part])
        return torch.stack([_terms(h, v) for h, v in zip(found, vectors[part], strict=True)])

    return torch.cat(chunks.over(len(vectors), terms))


def _terms(product: Sequence[Tensor | None], v: Sequence[Tensor]) -> Tensor:
    zero = v[0].new_zeros((), dtype=torch.float64)
    pairs = zip(product, v, strict=True)
    return torch.stack([zero if h is None else (h * u).sum(dtype=torch.float64) for h, u in pairs]).cpu()


class Hessian:
    """The (n, n) Hessian of one scalar loss with respect to the entries of `params`, laid end to end.

    `loss()` is called once and its graph is kept: the Hessian of one batch. `hessian @ V` maps (n, k) to (n, k) in the
    parameters' dtype, `chunk` columns at a time, fewer if memory runs out. `.grad` stays untouched.
    """

    def __init__(self, loss: Callable[[], Tensor], params: Sequence[Tensor], chunk: int = 1):
        self.params = list(params)
        self.shape = (sum(p.numel() for p in self.params),) * 2
        self.dtype, self.device = self.params[0].dtype, self.params[0].device
        self._chunks = Chunks(chunk)
        with torch.enable_grad():
            self._gradient = gradient_graph(loss().squeeze(), self.params)

    def __matmul__(self, V: Tensor) -> Tensor:
        def columns(part: slice) -> Tensor:
            vectors = [self._shaped(column) for column in V[:, part].unbind(1)]
            return torch.stack([self._flat(h) for h in products(self._gradient, self.params, vectors)], dim=1)

        return torch.cat(self._chunks.over(V.shape[1], columns), dim=1)

    def _shaped(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([p.numel() for p in self.params])
        return [part.reshape(p.shape) for part, p in zip(parts, self.params, strict=True)]

    def _flat(self, product: Sequence[Tensor | None]) -> Tensor:
        pairs = zip(product, self.params, strict=True)
        return torch.cat([p.new_zeros(p.numel()) if h is None else h.flatten() for h, p in pairs])
