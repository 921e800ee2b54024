"""x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps: mixing the two, and getting either back from a prediction.

The one place where eps, x_0 and x_t become each other. `alpha_bar` is a scalar tensor, or (B,) for a batch.
"""

from torch import Tensor


def _coefficients(x_t: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), shaped to multiply x_t; the roots are taken in alpha_bar's dtype.

    A scalar stays zero-dimensional, so that one on the CPU multiplies images on any device.
    """
    if alpha_bar.ndim > 0:
        alpha_bar = alpha_bar.reshape(-1, *[1] * (x_t.ndim - 1))
    return alpha_bar.sqrt().to(x_t.dtype), (1 - alpha_bar).sqrt().to(x_t.dtype)


def add_noise(x_0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps (Ho et al. 2020, eq. 4)."""
    signal, noise = _coefficients(x_0, alpha_bar)
    return signal * x_0 + noise * eps


def x0_from_eps(x_t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar) (Ho et al. 2020, eq. 15). alpha_bar > 0."""
    signal, noise = _coefficients(x_t, alpha_bar)
    return (x_t - noise * eps) / signal


def eps_from_x0(x_t: Tensor, x_0: Tensor, alpha_bar: Tensor) -> Tensor:
    """eps = (x_t - sqrt(alpha_bar) x_0) / sqrt(1 - alpha_bar). alpha_bar < 1."""
    signal, noise = _coefficients(x_t, alpha_bar)
    return (x_t - signal * x_0) / noise
