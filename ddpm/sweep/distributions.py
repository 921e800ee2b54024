"""The distributions of W&B's sweeps, as quantile functions: u in (0, 1) to a value.

Source: https://docs.wandb.ai/guides/sweeps/sweep-config-keys. scipy's normal quantiles differ in the last bits: points
already drawn would get other values and names.
"""

import itertools
import math
from statistics import NormalDist
from typing import Any

from ddpm.errors import UserError

Spec = dict[str, Any]
_NUMBER = (int, float)


def _uniform(u: float, s: Spec) -> float:
    return s["min"] + u * (s["max"] - s["min"])


def _normal(u: float, s: Spec) -> float:
    return s["mu"] + s["sigma"] * NormalDist().inv_cdf(u)


def _logs(s: Spec, sign: int = 1) -> Spec:
    ends = sorted(sign * math.log(s[end]) for end in ("min", "max"))
    return {"min": ends[0], "max": ends[1]}


def _weighted(u: float, s: Spec) -> Any:
    below = itertools.accumulate(s["probabilities"])
    return next((value for value, p in zip(s["values"], below, strict=True) if u < p), s["values"][-1])


# Name to quantile function, required keys, and optional keys with their defaults. mu and sigma are those of the normal
# distribution, or of the logarithm for log_normal.
_RANGE, _BELL = ("min", "max"), {"mu": 0.0, "sigma": 1.0}
DISTRIBUTIONS: dict[str, tuple[Any, tuple[str, ...], Spec]] = {
    "constant": (lambda u, s: s["value"], ("value",), {}),
    "categorical": (lambda u, s: s["values"][max(0, math.ceil(u * len(s["values"])) - 1)], ("values",), {}),
    "categorical_w_probabilities": (_weighted, ("values", "probabilities"), {}),
    "int_uniform": (lambda u, s: s["min"] + max(0, math.ceil(u * (s["max"] + 1 - s["min"])) - 1), _RANGE, {}),
    "uniform": (_uniform, _RANGE, {}),
    "log_uniform": (lambda u, s: math.exp(_uniform(u, s)), _RANGE, {}),
    "log_uniform_values": (lambda u, s: math.exp(_uniform(u, _logs(s))), _RANGE, {}),
    "inv_log_uniform": (lambda u, s: math.exp(-_uniform(1 - u, s)), _RANGE, {}),
    "inv_log_uniform_values": (lambda u, s: math.exp(-_uniform(1 - u, _logs(s, -1))), _RANGE, {}),
    "normal": (_normal, (), _BELL),
    "log_normal": (lambda u, s: math.exp(_normal(u, s)), (), _BELL),
}
# q_NAME rounds to multiples of q.
DISTRIBUTIONS |= {
    f"q_{name}": (DISTRIBUTIONS[name][0], DISTRIBUTIONS[name][1], DISTRIBUTIONS[name][2] | {"q": 1.0})
    for name in ("uniform", "log_uniform", "log_uniform_values", "normal", "log_normal")
}


def quantile(spec: Spec, u: float) -> Any:
    """The value of a complete parameter (see `complete`) below which a fraction u of all draws lies."""
    value = DISTRIBUTIONS[spec["distribution"]][0](u, spec)
    return round(value / spec["q"]) * spec["q"] if "q" in spec else value


def complete(name: str, spec: Spec) -> Spec:
    """The parameter with its distribution (if absent, its keys imply one) and its defaults. Raises UserError."""
    kind = spec.get("distribution") or _implied(spec)
    if not isinstance(kind, str) or kind not in DISTRIBUTIONS:
        raise UserError(
            f"The parameter {name} has {f'the distribution {kind!r}' if kind else f'no values: {spec}'}. Give `values` "
            f"or `value`, `min` and `max`, or a `distribution` out of {', '.join(DISTRIBUTIONS)}."
        )
    _, needed, defaults = DISTRIBUTIONS[kind]
    missing = [key for key in needed if key not in spec]
    unknown = sorted(spec.keys() - {"distribution", *needed, *defaults})
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"does not know {', '.join(unknown)}"
        allowed = ", ".join(("distribution", *needed, *defaults))
        raise UserError(f"The parameter {name}, of distribution {kind}, {what}. Its keys are: {allowed}.")
    found = defaults | spec | {"distribution": kind}
    if wrong := _wrong(found):
        raise UserError(f"The parameter {name} {wrong}.")
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


def _wrong(spec: Spec) -> str:
    """What is wrong with a parameter's values, to follow its name; empty if nothing is."""
    kind, values, weights = spec["distribution"], spec.get("values", [0]), spec.get("probabilities")
    if not (isinstance(values, list) and values):
        return "has no values: `values` must be a list of one or more"
    if weights is not None:
        proper = isinstance(weights, list) and all(isinstance(w, _NUMBER) and w >= 0 for w in weights)
        if not proper or len(weights) != len(values) or abs(sum(weights) - 1) > 1e-6:
            return f"needs `probabilities` as many as its values, with the sum 1; they are {weights}"
    numbers = {key: spec[key] for key in ("min", "max", "q", "mu", "sigma") if key in spec}
    bad = {k: v for k, v in numbers.items() if isinstance(v, bool) or not isinstance(v, _NUMBER)}
    if bad:
        return f"needs numbers, and has {bad}"
    if numbers.get("q", 1) <= 0 or numbers.get("sigma", 0) < 0:
        return "needs q > 0 and sigma >= 0"
    if "min" not in numbers:
        return ""
    low, high = numbers["min"], numbers["max"]
    if not low < high:
        return f"needs min < max; it has min {low} and max {high}"
    if kind.endswith("_values") and low <= 0:
        return f"needs min > 0 for the distribution {kind}; it has min {low}"
    if kind == "int_uniform" and not all(isinstance(end, int) for end in (low, high)):
        return f"needs whole numbers; it has min {low} and max {high}"
    if kind.removeprefix("q_") == "log_uniform" and max(abs(low), abs(high)) > 700:
        return "takes e to the power of min and max; give the values themselves with log_uniform_values"
    return ""
