"""Every name that a config or an option can choose. Each kind has one list, for the schema, the options and the docs.

Imports nothing heavy, so that `--help` stays quick. The function behind each name is in the room of its subject; a test
compares both.
"""

from typing import Literal, get_args

ScheduleName = Literal["linear", "cosine", "cosine_match_linear", "sigmoid", "scaled_linear"]
PredictionName = Literal["eps", "x0", "v"]
WeightingName = Literal["constant", "snr", "minsnr", "minsnr_norm", "soft_minsnr", "truncated_snr", "p2"]
SamplerName = Literal["ddpm", "ddpm_large", "ddim", "dpmpp_2m", "heun", "ddpm_adjacent_posterior"]
SpacingName = Literal["linspace", "leading", "trailing"]
LimitName = Literal["clip", "dynamic", "none"]
MethodName = Literal["hutchinson", "hutchpp", "xtrace", "lanczos", "slq", "noise_scale"]
ScoreName = Literal["fid", "fid_infinity", "kid", "prdc"]
WeightsName = Literal["ema", "live"]

SCHEDULES: tuple[str, ...] = get_args(ScheduleName)
PREDICTIONS: tuple[str, ...] = get_args(PredictionName)
WEIGHTINGS: tuple[str, ...] = get_args(WeightingName)
SAMPLERS: tuple[str, ...] = get_args(SamplerName)
SPACINGS: tuple[str, ...] = get_args(SpacingName)
LIMITS: tuple[str, ...] = get_args(LimitName)
METHODS: tuple[str, ...] = get_args(MethodName)
SCORES: tuple[str, ...] = get_args(ScoreName)
WEIGHTS: tuple[str, ...] = get_args(WeightsName)
FEATURES = (
    *("embedded", "efficientnet_lite0"),
    *("inception", "inception_legacy_pytorch", "inception_legacy_tensorflow"),
)

# Fixed edges of the bins of noise level, lambda = log SNR: a range that the study's schedules share. A bin is named by
# its lower edge: `lambda_-8` is -8 ... -6.
NOISE_EDGES = tuple(range(-8, 9, 2))
NOISE_BINS = tuple(f"lambda_{low}" for low in NOISE_EDGES[:-1])
