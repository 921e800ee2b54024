"""The training loss: a weighting over timesteps of the error of a prediction.

A weighting w_x0(t) is defined once, in x_0 space: it weighs |x_0 - x_0_hat|^2, as a function of the schedule's SNR.
The same objective in another space follows from |x_0 - x_0_hat|^2 = |eps - eps_hat|^2 / SNR = |v - v_hat|^2 / (SNR +
1): w_eps = w_x0 / SNR and w_v = w_x0 / (SNR + 1) (Hang et al. 2023, section 3.3; Salimans & Ho 2022, section 4).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm.diffusion.schedule import Schedule

Weighting = Callable[[Tensor], Tensor]
# Stands for SNR = 0 (zero terminal SNR), so that w_eps = w_x0 / SNR is its limit. No other SNR is this small.
TINY = 1e-20


def constant(snr: Tensor) -> Tensor:
    """w_x0 = SNR: the unweighted eps-MSE (Ho et al. 2020, eq. 14). Papers in x_0 space call it SNR."""
    return snr


def minsnr(snr: Tensor, gamma: float) -> Tensor:
    """w_x0 = min(SNR, gamma): Min-SNR-gamma (Hang et al. 2023, eq. 8)."""
    return snr.clamp(max=gamma)


def minsnr_norm(snr: Tensor, gamma: float) -> Tensor:
    """Min-SNR, scaled to a mean w_eps of 1 over the given timesteps."""
    weights = minsnr(snr, gamma)
    return weights / (weights / snr).mean()


def soft_minsnr(snr: Tensor, gamma: float) -> Tensor:
    """w_x0 = 1 / (1 / SNR + 1 / gamma): Min-SNR without its corner (Crowson et al. 2024, section 3.3)."""
    return snr * gamma / (snr + gamma)


def truncated_snr(snr: Tensor) -> Tensor:
    """w_x0 = max(SNR, 1) (Salimans & Ho 2022, section 4)."""
    return snr.clamp(min=1)


def p2(snr: Tensor, k: float, gamma: float) -> Tensor:
    """w_eps = 1 / (k + SNR)^gamma, so w_x0 = SNR / (k + SNR)^gamma (Choi et al. 2022, eq. 8)."""
    return snr / (k + snr) ** gamma


def make_weighting(name: str, minsnr_gamma: float = 5.0, p2_k: float = 1.0, p2_gamma: float = 1.0) -> Weighting:
    """The function (T,) SNR -> (T,) w_x0 of the weighting `name`, one of `WEIGHTINGS`.

    It takes all trained timesteps at once: `minsnr_norm` is scaled over them.
    """
    weightings: dict[str, Weighting] = {
        "constant": constant,
        "snr": constant,
        "minsnr": lambda snr: minsnr(snr, minsnr_gamma),
        "minsnr_norm": lambda snr: minsnr_norm(snr, minsnr_gamma),
        "soft_minsnr": lambda snr: soft_minsnr(snr, minsnr_gamma),
        "truncated_snr": truncated_snr,
        "p2": lambda snr: p2(snr, p2_k, p2_gamma),
    }
    return weightings[name]


def weights(weighting: Weighting, schedule: Schedule, prediction: str = "eps") -> Tensor:
    """(T,) weights of the squared error of a network that predicts `eps`, `x0` or `v`."""
    snr = schedule.snr.clamp(min=TINY)
    return weighting(snr) / {"eps": snr, "x0": torch.ones_like(snr), "v": snr + 1}[prediction]


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """(B,) mean squared error per image over its d = C*H*W values, in the target's precision."""
    return (output.to(target.dtype) - target).square().flatten(1).mean(1)
