"""Errors of a denoiser at single timesteps, on images with known noise."""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ddpm.diffusion.prediction import add_noise, eps_from_x0
from ddpm.diffusion.samplers import Denoiser, Limit
from ddpm.diffusion.schedule import Schedule

_BIN_T = 4  # timesteps per bin


def reconstruction(
    denoiser: Denoiser,
    images: Tensor,
    noise: Tensor,
    schedule: Schedule,
    t_values: Sequence[int],
    *,
    batch_size: int,
    limit: Limit | None,
) -> dict[str, float]:
    """Errors at each t of `t_values` by metric key, averaged over images and pixels; and means over t.

    images x_0 in [-1, 1] and noise eps: both (n, 3, H, W), on the denoiser's device. schedule: the full chain.
    `mse_per_t/mse_tXXXX`: |eps - eps_hat|^2, from the denoiser's x_0_hat without limit. `val/recon_mse_tXXXX`:
    |x_0 - x_0_hat|^2, with x_0_hat limited and cut to [-1, 1]. `val/recon_psnr_tXXXX`: 10 log10(4 / that), in dB (the
    peak is the range of 2); inf for no error. XXXX is t with four digits.
    """
    row: dict[str, float] = {}
    mses, psnrs = [], []
    for t in t_values:
        eps_mse, mse = _errors(denoiser, images, noise, schedule.alpha_bar[t], t, batch_size, limit)
        psnr = _psnr(mse)
        row |= {f"mse_per_t/mse_t{t:04d}": eps_mse, f"val/recon_mse_t{t:04d}": mse, f"val/recon_psnr_t{t:04d}": psnr}
        mses.append(mse)
        psnrs.append(psnr)
    return row | {"val/recon_mse": sum(mses) / len(mses), "val/recon_psnr": sum(psnrs) / len(psnrs)}


def _psnr(mse: float) -> float:
    """PSNR in dB of values within -1 ... 1; not finite if mse is not."""
    return math.inf if mse == 0 else 10 * math.log10(4 / mse) if math.isfinite(mse) else -mse


def profile(
    denoiser: Denoiser, images: Tensor, noise: Tensor, schedule: Schedule, bins: int, *, batch_size: int
) -> dict[str, float]:
    """`mse_bins/mse_tXXXX`: the mean |eps - eps_hat|^2 in each of `bins` equal ranges of t; XXXX is its first t.

    images x_0 in [-1, 1] and noise eps: both (n, 3, H, W). Each bin uses every image once, spread over up to `_BIN_T`
    evenly spaced timesteps. Unweighted, with the same draws at every step of every run.
    """
    row = {}
    ends = [round(i * len(schedule) / bins) for i in range(bins + 1)]
    for low, high in itertools.pairwise(ends):
        parts = min(_BIN_T, high - low, len(images))
        total = 0.0
        for i in range(parts):
            t = low + (2 * i + 1) * (high - low) // (2 * parts)
            x_0, eps = images[i::parts], noise[i::parts]
            total += _errors(denoiser, x_0, eps, schedule.alpha_bar[t], t, batch_size, None)[0] * len(x_0)
        row[f"mse_bins/mse_t{low:04d}"] = total / len(images)
    return row


def _errors(
    denoiser: Denoiser,
    images: Tensor,
    noise: Tensor,
    alpha_bar: Tensor,
    t: int,
    batch_size: int,
    limit: Limit | None,
) -> tuple[float, float]:
    """(mean |eps - eps_hat|^2, mean |x_0 - limited x_0_hat|^2) at one t; alpha_bar a scalar."""
    totals = torch.zeros(2, dtype=torch.float64, device=images.device)
    with torch.inference_mode():
        for x_0, eps, x_0_hat, eps_hat in _denoised(denoiser, images, noise, alpha_bar, t, batch_size):
            shown = (limit(x_0_hat) if limit else x_0_hat).clamp(-1, 1)
            errors = (eps - eps_hat, x_0 - shown)
            totals += torch.stack([error.double().square().sum() for error in errors])
    eps_mse, mse = (totals / images.numel()).tolist()
    return eps_mse, mse


def eps_errors(denoiser: Denoiser, images: Tensor, noise: Tensor, alpha_bar: Tensor, t: int, batch_size: int) -> Tensor:
    """(n,) float64: each image's |eps - eps_hat|^2 at one t, mean over pixels. images and noise (n, 3, H, W)."""
    with torch.inference_mode():
        batches = _denoised(denoiser, images, noise, alpha_bar, t, batch_size)
        return torch.cat([(eps - eps_hat).double().square().flatten(1).mean(1) for _, eps, _, eps_hat in batches])


def _denoised(
    denoiser: Denoiser, images: Tensor, noise: Tensor, alpha_bar: Tensor, t: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """x_0, eps, x_0_hat and eps_hat, in batches."""
    for x_0, eps in zip(images.split(batch_size), noise.split(batch_size), strict=True):
        x_t = add_noise(x_0, eps, alpha_bar).to(memory_format=torch.channels_last)  # as in sampling
        x_0_hat = denoiser(x_t, t)
        yield x_0, eps, x_0_hat, eps_from_x0(x_t, x_0_hat, alpha_bar)
