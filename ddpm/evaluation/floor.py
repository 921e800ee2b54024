"""The floor of the loss: the error of the best denoiser, which is known for a finite training set.

Training draws x_0 from N images, all equally likely. Given x_t, the expected x_0 is then (Karras et al. 2022, appendix
B.3)

    x_0* = sum_j p_j x_j,    p_j ~ exp(-|x_t - sqrt(ab) x_j|^2 / (2 (1 - ab))),    ab = alpha_bar,

and no denoiser has a smaller mean square error on the training images. It has learned them by heart: it bounds the loss
from below, and is no aim.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm.data.images import ImageSet, to_model
from ddpm.runtime.cache import cached
from ddpm.runtime.checkpoint import digest

_FLOOR = 1  # bump when the floor is computed in another way; discards cached ones
_QUERIES, _CHUNK = 64, 2048  # images whose error is measured, and training images, at a time


def cached_floor(training: ImageSet, positions: Tensor, noise: Tensor, snr: Tensor) -> Tensor:
    """`floor` (n, L) of the training images at `positions` (n,), each with its noise (n, 3, H, W) and SNRs (n, L).

    A bar shows the progress, on a terminal.
    """

    def compute() -> dict[str, Tensor]:
        parts = [part.split(_QUERIES) for part in (positions, noise, snr)]
        total = len(parts[0]) * len(training)
        with tqdm(total=total, desc="floor of the loss", unit="img", disable=None, leave=False) as bar:

            def images() -> Iterator[Tensor]:
                for chunk in training.images.split(_CHUNK):
                    yield to_model(chunk)
                    bar.update(len(chunk))

            found = [
                floor(to_model(training.images[own]), eps, levels, own, images())
                for own, eps, levels in zip(*parts, strict=True)
            ]
        return {"floor": torch.cat(found)}

    key = digest([_FLOOR, training.digest, positions, noise, snr, torch.get_num_threads(), torch.__version__])
    return cached("floor", key, compute)["floor"]


def floor(x_0: Tensor, eps: Tensor, snr: Tensor, own: Tensor, images: Iterable[Tensor]) -> Tensor:
    """(n, L) float64: the best denoiser's |eps - eps_hat|^2, mean over pixels, on each of n images at its L levels.

    x_0, eps (n, ...): images and their noise. snr (n, L): alpha_bar / (1 - alpha_bar). own (n,): the position of each
    image in the training set. images: the training set in parts (c, ...), in order.

    With x_t = sqrt(ab) x_i + sqrt(1 - ab) eps, p_j / p_i = exp(-snr |x_j - x_i|^2 / 2 - sqrt(snr) eps (x_i - x_j)), and
    the error is snr |x_0* - x_i|^2. The exponents' two parts are the same at all levels. They and their sums are in
    float64, because they cancel. Means of images are in float32.
    """
    x_0, eps, snr = x_0.flatten(1), eps.flatten(1).double(), snr.double()
    n, levels = snr.shape
    x = x_0.double()
    # All sums are over j != i, in units of e^peak.
    peak, total = torch.zeros(n, levels, dtype=torch.float64), torch.zeros(n, levels, dtype=torch.float64)
    summed = torch.zeros(n, levels, x.shape[1], dtype=torch.float64)
    first = 0
    for part in images:
        part = part.flatten(1)
        wide = part.double()
        squares = (x.square().sum(1)[:, None] + wide.square().sum(1) - 2 * x @ wide.T).clamp(min=0)
        along = (eps * x).sum(1)[:, None] - eps @ wide.T
        squares, along = squares[:, None], along[:, None]
        exponents = -snr[..., None] / 2 * squares - snr.sqrt()[..., None] * along
        at = own - first
        here = ((at >= 0) & (at < len(part))).nonzero().flatten()
        exponents[here, :, at[here]] = -torch.inf
        higher = torch.maximum(peak, exponents.amax(2))
        weights, shrink = (exponents - higher[..., None]).exp(), (peak - higher).exp()
        total = total * shrink + weights.sum(2)
        summed = summed * shrink[..., None] + (weights.flatten(0, 1).float() @ part).reshape(summed.shape)
        peak, first = higher, first + len(part)
    away = (summed - total[..., None] * x[:, None]) / (total + (-peak).exp())[..., None]
    return snr * away.square().mean(2)
