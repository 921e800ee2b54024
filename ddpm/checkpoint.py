"""Checkpoints: one file of tensors and plain values, loadable without running code from it, and known to be whole."""

import copy
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm.config import Config, as_meant
from ddpm.disk import make_folder, write_whole
from ddpm.errors import NotFinite, UserError
from ddpm.unet import make_model

FORMAT = 2  # of what a training can be continued from; raised when Trainer.state_dict changes
_NAMED = 5  # run folders that an error lists


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the run folder `folder` keeps the checkpoint of `step`."""
    return folder / "checkpoints" / f"step-{step:06d}.pt"


def checkpoint_step(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.stem.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of the run folder `folder`, oldest first."""
    found = [path for path in folder.glob("checkpoints/step-*.pt") if re.fullmatch(r"step-\d+", path.stem)]
    return sorted(found, key=checkpoint_step)


def no_checkpoints(path: Path) -> UserError:
    """What to say where `path` is neither a checkpoint nor a run folder: the run folders in it, where it holds some."""
    depths = ("*", "*/*")  # of an experiment's folder, and of the folder of experiments
    runs = sorted({found.parents[1] for depth in depths for found in path.glob(f"{depth}/checkpoints/step-*.pt")})
    if runs:
        more = f", and {len(runs) - _NAMED} more" if len(runs) > _NAMED else ""
        listed = ", ".join(map(str, runs[:_NAMED]))
        return UserError(f"{path} is not a run folder, but holds some. Give one of them: {listed}{more}.")
    return UserError(
        f"{path} is neither a checkpoint nor a run folder with checkpoints. Give a file such as "
        "runs/e5/RUN_ID/checkpoints/step-002000.pt, or the folder runs/e5/RUN_ID."
    )


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` with its digest beside `path` and rename it into place: `path` is always whole or as it was.

    Raises OSError where it cannot be written; nothing is left beside `path` then.
    """
    content = io.BytesIO()  # torch would hide what went wrong with the file
    torch.save({**state, "digest": digest(state)}, content)
    make_folder(path.parent)
    write_whole(path, content.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a training, on the CPU, known to be whole: its config, step, images of the last step, and weights
    that fit the network of its config. Raises UserError if `path` is anything else."""
    return _load(path, _require_ours)


def load_state(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, whatever it is, on the CPU. Raises UserError if there is none or it is damaged."""
    return _load(path, lambda path, state: None)


def weights_of(path: Path, state: dict[str, Any], which: str) -> dict[str, Tensor]:
    """The `ema` or `live` weights of the checkpoint at `path`. Raises UserError, if it has none, and NotFinite."""
    weights: dict[str, Tensor] | None = state["ema" if which == "ema" else "model"]
    if weights is None:
        raise UserError(f"{path} holds no averaged weights (ema.enabled was false). Use --weights live.")
    bad = sum(int((~tensor.isfinite()).sum()) for tensor in weights.values())
    if bad:
        total = sum(tensor.numel() for tensor in weights.values())
        raise NotFinite(
            f"{bad:,} of the {total:,} numbers in the {which} weights of {path} are not finite, so there is nothing to "
            "draw, score or measure. Take an earlier checkpoint, or the other weights (--weights ema or live)."
        )
    return weights


def _load(path: Path, require: Callable[[Path, Any], None]) -> dict[str, Any]:
    """A file's state, in memory, once `require` has let it pass: until then no tensor is read, of a file that may be
    another program's and huge."""
    try:
        if not path.exists():
            raise UserError(f"There is no checkpoint {path}.")
        _require_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        stored = state.pop("digest", None) if isinstance(state, dict) else None
        require(path, state)
        if stored is not None and stored != digest(state):
            raise ValueError("its content does not match its digest")
        return copy.deepcopy(state)
    except UserError:
        raise
    except Exception as error:  # torch raises whatever the damaged bytes lead it to
        raise UserError(f"The checkpoint {path} is damaged or is not one: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """Why torch could not load a file, in a line. Not torch's own advice, which is to run code from the file."""
    if "weights_only" not in str(error):
        return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    objects = sorted({name.rstrip(",.`") for name in re.findall(r"GLOBAL ([\w.]+)", str(error))})
    held = f"objects of Python ({', '.join(objects)})" if objects else "objects of Python, or damaged bytes"
    return f"it holds {held}, and to load those would run code from the file. Tensors and plain values alone are loaded"


def _require_archive(path: Path) -> None:
    """Raises ValueError or OSError if a file cannot be what `torch.save` writes."""
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise ValueError("it is empty")
    if path.suffix == ".safetensors" or start[8:] == b"{":
        raise ValueError("it is a safetensors file, which holds weights alone, without a config")
    if not start.startswith(b"PK"):
        raise ValueError("it is not an archive as torch.save writes it")


# What each reader needs, and what a training is continued from besides.
_NEEDED: dict[str, type] = {"config": dict, "step": int, "indices": Tensor, "model": dict}
_CONTINUED = (
    *("device", "row", "mse_sum", "mse_count", "skipped", "elapsed_s", "seconds", "optimizer", "scaler", "batches"),
    *("noise_rng", "global_rng", "cuda_rng"),
)


def _require_ours(path: Path, state: Any) -> None:
    """Raises UserError if `state` is not that of a training by this package."""
    wrong = _foreign(state)
    if wrong:
        raise UserError(
            f"{path} is no checkpoint of a training by this package: {wrong}. Give a file such as "
            "runs/e5/RUN_ID/checkpoints/step-002000.pt, or the folder runs/e5/RUN_ID."
        )


def _foreign(state: Any) -> str:
    """What `state` is, if it is not that of a training by this package."""
    if not isinstance(state, dict):
        return f"it holds a {type(state).__name__}"
    lacking = [key for key in (*_NEEDED, "ema") if key not in state]
    if lacking:
        held = [repr(key)[:40] for key in list(state)[:_NAMED]] or ["nothing"]
        return f"it holds {', '.join(held)}{', ...' * (len(state) > _NAMED)}, and no {', '.join(lacking)}"
    for key, kind in _NEEDED.items():
        if not isinstance(state[key], kind):
            return f"{key} is a {type(state[key]).__name__}, not a {kind.__name__}"
    try:
        cfg = Config.model_validate(as_meant(state["config"]))
        with torch.random.fork_rng(devices=[]):  # on the meta device torch would import for two seconds first
            wanted = make_model(cfg).state_dict()
    except (ValueError, TypeError, RuntimeError) as error:
        return f"its config is none of this version ({' '.join(str(error).split())[:300]})"
    averaged = {} if state["ema"] is None else {"ema": state["ema"]}
    found = [_misfit(name, weights, wanted) for name, weights in ({"model": state["model"]} | averaged).items()]
    return "; ".join(said for said in found if said)


def _misfit(name: str, weights: Any, wanted: dict[str, Tensor]) -> str:
    """How `weights` differ from those of the network that the config describes."""
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        return f"{name} holds no tensors by name"
    absent, other = wanted.keys() - weights.keys(), weights.keys() - wanted.keys()
    if absent or other:
        example = f"{min(absent)} is not there" if absent else f"{min(map(str, other))} is none of them"
        return f"{name} is of another network than its config ({len(absent) + len(other)} names differ: {example})"
    for key, tensor in weights.items():
        if tensor.shape != wanted[key].shape or tensor.dtype != wanted[key].dtype:
            shapes = [f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in (tensor, wanted[key])]
            return f"{name} is of another network than its config: {key} is {shapes[0]}, not {shapes[1]}"
    return ""


def intact(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The checkpoints of a run folder that load whole, with their states, newest first. Names those that do not."""
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


def digest(state: Any) -> str:
    """SHA-256 over all names, values and tensor contents of a nested state."""
    sha = hashlib.sha256()
    _feed(sha, state)
    return sha.hexdigest()


def _feed(sha: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        sha.update(f"{value.dtype}{tuple(value.shape)}".encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, dict):
        for key, inner in value.items():
            sha.update(repr(key).encode())
            _feed(sha, inner)
    elif isinstance(value, list | tuple):
        sha.update(str(len(value)).encode())
        for inner in value:
            _feed(sha, inner)
    else:
        sha.update(repr(value).encode())
