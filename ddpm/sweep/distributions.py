"""What W&B's sweeps draw from: each distribution as its quantile function, u in (0, 1) to a value.

Source: https://docs.wandb.ai/guides/sweeps/sweep-config-keys. `values` and `probabilities` are of the two categorical
ones; `q` rounds to multiples; `mu` and `sigma` are of the normal's, or of the logarithm for the log-normal's.
"""

import itertools
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

from ddpm.errors import UserError

Spec = dict[str, Any]


def _categorical(u: float, s: Spec) -> Any:
    return s["values"][max(0, math.ceil(u * len(s["values"])) - 1)]


def _weighted(u: float, s: Spec) -> Any:
    below = itertools.accumulate(s["probabilities"])
    return next((value for value, p in zip(s["values"], below, strict=True) if u < p), s["values"][-1])


def _int_uniform(u: float, s: Spec) -> int:
    return s["min"] + max(0, math.ceil(u * (s["max"] + 1 - s["min"])) - 1)


def _uniform(u: float, s: Spec) -> float:
    return s["min"] + u * (s["max"] - s["min"])


def _log_uniform(u: float, s: Spec) -> float:
    return math.exp(_uniform(u, s))


def _inv_log_uniform(u: float, s: Spec) -> float:
    return math.exp(-_uniform(1 - u, s))


def _log_uniform_values(u: float, s: Spec) -> float:
    return _log_uniform(u, {"min": math.log(s["min"]), "max": math.log(s["max"])})


def _inv_log_uniform_values(u: float, s: Spec) -> float:
    return _inv_log_uniform(u, {"min": -math.log(s["max"]), "max": -math.log(s["min"])})


def _normal(u: float, s: Spec) -> float:
    return s["mu"] + s["sigma"] * NormalDist().inv_cdf(u)


def _log_normal(u: float, s: Spec) -> float:
    return math.exp(_normal(u, s))


def _rounded(quantile: Callable[[float, Spec], float]) -> Callable[[float, Spec], float]:
    return lambda u, s: round(quantile(u, s) / s["q"]) * s["q"]


_RANGE, _BELL, _Q = ("min", "max"), {"mu": 0.0, "sigma": 1.0}, {"q": 1.0}
# Name to quantile function, keys that must be there, and keys with defaults.
DISTRIBUTIONS: dict[str, tuple[Callable[[float, Spec], Any], tuple[str, ...], Spec]] = {
    "constant": (lambda u, s: s["value"], ("value",), {}),
    "categorical": (_categorical, ("values",), {}),
    "categorical_w_probabilities": (_weighted, ("values", "probabilities"), {}),
    "int_uniform": (_int_uniform, _RANGE, {}),
    "uniform": (_uniform, _RANGE, {}),
    "q_uniform": (_rounded(_uniform), _RANGE, _Q),
    "log_uniform": (_log_uniform, _RANGE, {}),
    "q_log_uniform": (_rounded(_log_uniform), _RANGE, _Q),
    "inv_log_uniform": (_inv_log_uniform, _RANGE, {}),
    "log_uniform_values": (_log_uniform_values, _RANGE, {}),
    "q_log_uniform_values": (_rounded(_log_uniform_values), _RANGE, _Q),
    "inv_log_uniform_values": (_inv_log_uniform_values, _RANGE, {}),
    "normal": (_normal, (), _BELL),
    "q_normal": (_rounded(_normal), (), _BELL | _Q),
    "log_normal": (_log_normal, (), _BELL),
    "q_log_normal": (_rounded(_log_normal), (), _BELL | _Q),
}


def quantile(spec: Spec, u: float) -> Any:
    """The value of a complete parameter (see `complete`) below which the fraction u of all draws lies."""
    return DISTRIBUTIONS[spec["distribution"]][0](u, spec)


def complete(name: str, spec: Spec) -> Spec:
    """The parameter with its distribution, which may be left to its keys, and defaults. Raises UserError."""
    kind = spec.get("distribution") or _implied(spec)
    if not isinstance(kind, str) or kind not in DISTRIBUTIONS:
        raise UserError(
            f"The parameter {name} has {f'the distribution {kind!r}' if kind else f'no values: {spec}'}. Give `values` "
            f"or `value`, `min` and `max`, or a `distribution` that is run here: {', '.join(DISTRIBUTIONS)}."
        )
    _, needed, defaults = DISTRIBUTIONS[kind]
    missing = [key for key in needed if key not in spec]
    unknown = sorted(spec.keys() - {"distribution", *needed, *defaults})
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"does not know {', '.join(unknown)}"
        allowed = ", ".join(("distribution", *needed, *defaults))
        raise UserError(f"The parameter {name}, of distribution {kind}, {what}. Its keys are: {allowed}.")
    found = defaults | spec | {"distribution": kind}
    _check_values(name, found)
    return found


def _implied(spec: Spec) -> str | None:
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if "min" in spec and "max" in spec:
        whole = isinstance(spec["min"], int) and isinstance(spec["max"], int)
        return "int_uniform" if whole else "uniform"
    return None


def _check_values(name: str, spec: Spec) -> None:
    if "values" in spec and not (isinstance(spec["values"], list) and spec["values"]):
        raise UserError(f"The parameter {name} has no values: `values` must be a list of one or more.")
    weights = spec.get("probabilities")
    proper = isinstance(weights, list) and all(isinstance(w, int | float) and w >= 0 for w in weights)
    if weights is not None and (not proper or len(weights) != len(spec["values"]) or abs(sum(weights) - 1) > 1e-6):
        raise UserError(f"The probabilities of {name} must be as many as its values, and sum to 1; they are {weights}.")
    numbers = {key: spec[key] for key in ("min", "max", "q", "mu", "sigma") if key in spec}
    wrong = {k: v for k, v in numbers.items() if isinstance(v, bool) or not isinstance(v, int | float)}
    if wrong:
        raise UserError(f"The parameter {name} needs numbers, and has {wrong}.")
    if "min" in numbers and not numbers["min"] < numbers["max"]:
        raise UserError(f"The parameter {name} needs min < max; it has min {spec['min']} and max {spec['max']}.")
    if spec["distribution"].endswith("_values") and numbers["min"] <= 0:
        raise UserError(f"The parameter {name}, of distribution {spec['distribution']}, needs min > 0: {spec['min']}.")
    if spec["distribution"] == "int_uniform" and not all(isinstance(numbers[end], int) for end in ("min", "max")):
        raise UserError(f"The parameter {name} needs whole numbers: min {spec['min']}, max {spec['max']}.")
    if spec["distribution"].removeprefix("q_") == "log_uniform" and max(abs(numbers[e]) for e in ("min", "max")) > 700:
        raise UserError(
            f"The parameter {name} has e to the power of its min and max; give the values themselves "
            "with the distribution log_uniform_values."
        )
    if numbers.get("q", 1) <= 0 or numbers.get("sigma", 0) < 0:
        raise UserError(f"The parameter {name} needs q > 0 and sigma >= 0.")
