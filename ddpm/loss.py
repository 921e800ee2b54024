"""The training loss: a weighting over timesteps of the eps-prediction error.

A weighting w_x0(t) is defined once, in x_0 space: it weighs |x_0 - x_0_hat|^2. Since eps = (x_t - sqrt(alpha_bar) x_0)
/ sqrt(1 - alpha_bar), the same objective on eps has w_eps(t) = w_x0(t) / SNR(t) (Hang et al. 2023, section 3.3).
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor


def constant_x0(snr: Tensor) -> Tensor:
    """w_x0 = SNR: every timestep's eps-MSE counts once (Ho et al. 2020, eq. 14)."""
    return snr


def minsnr_x0(snr: Tensor, gamma: float) -> Tensor:
    """w_x0 = min(SNR, gamma): Min-SNR-gamma (Hang et al. 2023, eq. 8)."""
    return snr.clamp(max=gamma)


WEIGHTINGS = ("constant", "minsnr")


def make_weighting(name: str, minsnr_gamma: float = 5.0) -> Callable[[Tensor], Tensor]:
    """The function snr -> w_x0 of a weighting by name: one of `WEIGHTINGS`."""
    weightings: dict[str, Callable[[Tensor], Tensor]] = {
        "constant": constant_x0,
        "minsnr": partial(minsnr_x0, gamma=minsnr_gamma),
    }
    return weightings[name]


def eps_weights(weighting: Callable[[Tensor], Tensor], snr: Tensor) -> Tensor:
    """(T,) weights of the eps-MSE: w_eps = w_x0 / SNR."""
    return weighting(snr) / snr


def eps_mse(eps_hat: Tensor, eps: Tensor) -> Tensor:
    """(B,) mean squared error per image, over all of its d = C*H*W values, in float32 or better."""
    return (eps_hat.to(eps.dtype) - eps).square().flatten(1).mean(1)
