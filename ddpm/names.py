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
FEATURES = ("embedded", "inception", "inception_legacy_pytorch", "inception_legacy_tensorflow")
