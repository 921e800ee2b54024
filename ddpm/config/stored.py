"""Configs that are stored with runs and checkpoints, maybe by an older version of this package.

A stored config holds every key that its version knew, so the keys that it lacks tell its format: there is no number
beside them that could contradict. A changed default needs nothing here. Renaming or removing a key does.
"""

from copy import deepcopy
from functools import cache
from typing import Any

from ddpm.config.run import Config, decisive


def upgrade(config: dict[str, Any]) -> dict[str, Any]:
    """A stored nested config with all of today's keys: one that is missing gets what runs did before it existed.

    That is its default, except that probes took the training batch, and no noise level from the range that schedules
    share. Raises TypeError if a section is none.
    """
    if "curvature" in config:
        config = {**config, "curvature": {"draws": "batch", "neutral": False, **config["curvature"]}}
    return _completed(config, deepcopy(_defaults()))


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two nested configs of one run, in words: `loss.weighting was constant, is minsnr`."""
    old, new = decisive(upgrade(before)), decisive(now)
    return [
        f"{key} was {old.get(key)}, is {new.get(key)}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)
    ]


@cache
def _defaults() -> dict[str, Any]:
    """The default of every key that has one, nested. Not validated: the default data set needs a folder."""
    config = Config.model_construct(experiment="").nested()
    del config["experiment"]
    return config


def _completed(config: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """`config`, and what it lacks of `default`, at any depth."""
    inner = {
        key: _completed(value, default[key])
        for key, value in config.items()
        if isinstance(value, dict) and isinstance(default.get(key), dict)
    }
    return default | config | inner
