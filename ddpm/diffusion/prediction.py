"""Conversions between eps, x_0, v and x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps.

A network predicts `eps` (Ho et al. 2020), `x0`, or `v` = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans & Ho
2022). `alpha_bar` is a scalar tensor, or (B,) for a batch.

At alpha_bar = 0, x_t holds no x_0, so eps does not determine it (v and x0 do). At alpha_bar = 1, x_t holds no eps. A
conversion that would divide by zero there raises ValueError for a scalar alpha_bar, and gives inf or NaN for a batch.
"""

from torch import Tensor


def _coefficients(x_t: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), shaped to multiply x_t. The roots are taken in alpha_bar's dtype.

    A scalar stays zero-dimensional: on the CPU it can multiply images on any device.
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
    if alpha_bar.ndim == 0 and alpha_bar == 0:
        raise ValueError("alpha_bar = 0: x_t is pure noise and eps does not determine x_0; use a v or x0 prediction")
    signal, noise = _coefficients(x_t, alpha_bar)
    return (x_t - noise * eps) / signal


def eps_from_x0(x_t: Tensor, x_0: Tensor, alpha_bar: Tensor) -> Tensor:
    """eps = (x_t - sqrt(alpha_bar) x_0) / sqrt(1 - alpha_bar). alpha_bar < 1."""
    if alpha_bar.ndim == 0 and alpha_bar == 1:
        raise ValueError("alpha_bar = 1: x_t holds no noise, so it does not determine eps")
    signal, noise = _coefficients(x_t, alpha_bar)
    return (x_t - signal * x_0) / noise


def v_from(x_0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans & Ho 2022, appendix D)."""
    signal, noise = _coefficients(x_0, alpha_bar)
    return signal * eps - noise * x_0


def x0_from_v(x_t: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v, at every alpha_bar."""
    signal, noise = _coefficients(x_t, alpha_bar)
    return signal * x_t - noise * v


def target(kind: str, x_0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Regression target of a network that predicts `kind` (one of `PREDICTIONS`)."""
    if kind == "v":
        return v_from(x_0, eps, alpha_bar)
    return {"eps": eps, "x0": x_0}[kind]


def to_x0(kind: str, output: Tensor, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_0 implied by the output of a network that predicts `kind`."""
    if kind == "x0":
        return output
    return {"eps": x0_from_eps, "v": x0_from_v}[kind](x_t, output, alpha_bar)
