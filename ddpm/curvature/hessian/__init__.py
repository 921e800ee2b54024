"""Curvature of a scalar loss of a torch model: traces with error bars, eigenvalues, spectra, gradient noise.

Independent of diffusion, runs and configs. docs/curvature.md has the derivations.
"""

from ddpm.curvature.hessian.estimate import Ratio, TraceEstimate, ratio
from ddpm.curvature.hessian.exact import hutchinson_trace
from ddpm.curvature.hessian.lanczos import RitzValue, SpectralDensity, spectral_density, top_eigenvalue
from ddpm.curvature.hessian.noise import GradientNoise, gradient_noise_scale
from ddpm.curvature.hessian.operator import Hessian
from ddpm.curvature.hessian.sketch import hutchpp_trace, xtrace
from ddpm.curvature.hessian.squares import LeastSquares, LeastSquaresTrace, least_squares_trace
from ddpm.curvature.hessian.vectors import gaussian, rademacher

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
    "ratio",
    "spectral_density",
    "top_eigenvalue",
    "xtrace",
]
