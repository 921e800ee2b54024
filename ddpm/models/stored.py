"""Reading checkpoints, with a check that the weights fit the network of their config."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm.config.run import Config
from ddpm.config.stored import upgrade
from ddpm.errors import NotFinite, UserError
from ddpm.models.build import make_model
from ddpm.runtime.checkpoint import list_checkpoints, load_state

FORMAT = 2  # bump when TrainState.state_dict changes
_SHOWN = 5  # keys that an error lists of a foreign file


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a training, on the CPU, checked: config, step, indices of the last step, and weights that fit the
    config's network. Raises UserError if `path` is anything else."""
    return load_state(path, _require_ours)


def weights_of(path: Path, state: dict[str, Any], which: str) -> dict[str, Tensor]:
    """The `ema` or `live` weights of the checkpoint at `path`. Raises UserError if it has none, and NotFinite."""
    weights: dict[str, Tensor] | None = state["ema" if which == "ema" else "model"]
    if weights is None:
        raise UserError(f"{path} has no averaged weights (ema.enabled was false). Use --weights live.")
    bad = sum(int((~tensor.isfinite()).sum()) for tensor in weights.values())
    if bad:
        total = sum(tensor.numel() for tensor in weights.values())
        raise NotFinite(
            f"{bad:,} of the {total:,} numbers in the {which} weights of {path} are not finite, so they cannot be "
            "sampled, scored or measured. Take an earlier checkpoint, or the other weights (--weights ema or live)."
        )
    return weights


# Keys that every reader needs, and those that only a resumed training needs.
_NEEDED: dict[str, type] = {"config": dict, "step": int, "indices": Tensor, "model": dict}
_CONTINUED = (
    *("device", "row", "mse_sum", "mse_count", "skipped", "elapsed_s", "seconds", "optimizer", "scaler", "batches"),
    *("noise_rng", "global_rng", "cuda_rng"),
)


def _require_ours(path: Path, state: Any) -> None:
    """Raises UserError if `state` is not from a training by this package."""
    wrong = _foreign(state)
    if wrong:
        raise UserError(
            f"{path} is no checkpoint of a training by this package: {wrong}. Give a file such as "
            "runs/e5/RUN_ID/checkpoints/step-002000.pt, or the folder runs/e5/RUN_ID."
        )


def _foreign(state: Any) -> str:
    """Why `state` is not from a training by this package; empty if it is."""
    if not isinstance(state, dict):
        return f"it contains a {type(state).__name__}"
    lacking = [key for key in (*_NEEDED, "ema") if key not in state]
    if lacking:
        held = [repr(key)[:40] for key in list(state)[:_SHOWN]] or ["nothing"]
        return f"it contains {', '.join(held)}{', ...' * (len(state) > _SHOWN)}, and no {', '.join(lacking)}"
    for key, kind in _NEEDED.items():
        if not isinstance(state[key], kind):
            return f"{key} is a {type(state[key]).__name__}, not a {kind.__name__}"
    try:
        cfg = Config.model_validate(upgrade(state["config"]))
        with torch.random.fork_rng(devices=[]):  # the meta device would first import for two seconds
            wanted = make_model(cfg).state_dict()
    except (ValueError, TypeError, RuntimeError) as error:
        return f"its config does not fit this version ({' '.join(str(error).split())[:300]})"
    averaged = {} if state["ema"] is None else {"ema": state["ema"]}
    found = [_misfit(name, weights, wanted) for name, weights in ({"model": state["model"]} | averaged).items()]
    return "; ".join(said for said in found if said)


def _misfit(name: str, weights: Any, wanted: dict[str, Tensor]) -> str:
    """How `weights` differ from those of the config's network; empty if they do not."""
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        return f"{name} is not a dictionary of tensors"
    absent, other = wanted.keys() - weights.keys(), weights.keys() - wanted.keys()
    if absent or other:
        example = f"{min(absent)} is missing" if absent else f"{min(map(str, other))} is unknown"
        return f"{name} does not fit the config's network ({len(absent) + len(other)} names differ: {example})"
    for key, tensor in weights.items():
        if tensor.shape != wanted[key].shape or tensor.dtype != wanted[key].dtype:
            shapes = [f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in (tensor, wanted[key])]
            return f"{name} does not fit the config's network: {key} is {shapes[0]}, not {shapes[1]}"
    return ""


def intact(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the intact checkpoints of a run folder with their states, newest first. Warns of the others."""
    for path in reversed(list_checkpoints(folder)):
        try:
            state = load_checkpoint(path)
            lacking = [key for key in _CONTINUED if key not in state]
            if lacking and state.get("format") == FORMAT:
                raise UserError(f"The checkpoint {path} is damaged: it lacks {', '.join(lacking)}.")
        except UserError as error:
            print(f"warning: {error} It is passed over.")
        else:
            yield path, state
