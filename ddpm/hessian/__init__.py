"""Curvature of a scalar loss of a torch model: traces with error bars, eigenvalues, spectra, gradient noise.

It knows nothing of diffusion, runs or configs. The derivations are in docs/curvature.md.
"""

from ddpm.hessian.estimate import Ratio, TraceEstimate, ratio
from ddpm.hessian.exact import hutchinson_trace
from ddpm.hessian.lanczos import RitzValue, SpectralDensity, spectral_density, top_eigenvalue
from ddpm.hessian.noise import GradientNoise, gradient_noise_scale
from ddpm.hessian.operator import Hessian
from ddpm.hessian.sketch import hutchpp_trace, xtrace
from ddpm.hessian.squares import LeastSquares, LeastSquaresTrace, least_squares_trace
from ddpm.hessian.vectors import gaussian, rademacher, rademacher_each

__all__ = [
    "GradientNoise",
    "Hessian",
    "LeastSquares",
    "LeastSquaresTrace",
    "Ratio",
    "RitzValue",
    "SpectralDensity",
    "TraceEstimate",
    "gaussian",
    "gradient_noise_scale",
    "hutchinson_trace",
    "hutchpp_trace",
    "least_squares_trace",
    "rademacher",
    "rademacher_each",
    "ratio",
    "spectral_density",
    "top_eigenvalue",
    "xtrace",
]
