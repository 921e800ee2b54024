"""What a setting can change, as comparable values: each function makes a run from a config, or part of a run."""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image

from ddpm.config.run import Config
from ddpm.curvature.hessian.chunks import Chunks
from ddpm.errors import UserError
from ddpm.evaluation.evaluator import SamplingPlan
from ddpm.evaluation.milestones import _plan
from ddpm.runtime.checkpoint import digest
from ddpm.tracking.open_run import open_run
from ddpm.training.loop import train, train_step
from ddpm.training.setup import Training

Observe = Callable[[Config], Any]


def pictures(folder: Path) -> Path:
    """A folder with class folders under train/ and test/, each with 100 images, no two alike."""
    if not folder.exists():
        for seed, split in enumerate(("train", "test")):
            pixels = torch.randint(256, (100, 32, 32, 3), generator=torch.Generator().manual_seed(seed))
            for i, image in enumerate(pixels.to(torch.uint8).numpy()):
                path = folder / split / f"class{i % 2}" / f"{i:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    return folder


def _trained(cfg: Config, steps: int = 2) -> Training:
    training = Training(cfg)
    for _ in range(steps):
        training.state.indices = training.state.batches.next_indices()
        train_step(training, training.state.batches.take(training.state.indices))
    return training


# --- the network and its training ---


def weights(cfg: Config) -> str:
    """The network after two steps."""
    return digest(_trained(cfg).state.model.state_dict())


def averaged(cfg: Config) -> str:
    """The averaged network after two steps."""
    ema = _trained(cfg).state.ema
    return digest(ema.model.state_dict()) if ema else "none"


def images(cfg: Config) -> str:
    """The training images."""
    return Training(cfg).images_digest


def first_batch(cfg: Config) -> str:
    """The first batch."""
    return digest(next(Training(cfg).state.batches))


def loss_curve(cfg: Config) -> str:
    """The logged loss weights."""
    return json.dumps(Training(cfg).objective.row)


def alpha_bar(cfg: Config) -> str:
    """The noise schedule."""
    return digest(Training(cfg).schedule.alpha_bar)


def outcome(cfg: Config) -> str:
    """How the training ends: its steps, or the start of its error."""
    try:
        return "trained: " + ", ".join(map(str, rows(cfg)))
    except UserError as error:
        return str(error)[:40]


def devices(cfg: Config) -> str:
    """The device it trains on, or the error."""
    try:
        return str(Training(cfg).device)
    except (UserError, RuntimeError) as error:
        return str(error)[:40]


def precision_asked(cfg: Config) -> list[Any]:
    """The precision that training asks for; a CPU uses float32 anyway."""
    with mock.patch("ddpm.training.setup.choose_precision", side_effect=lambda amp, device: torch.float32) as asked:
        Training(cfg)
    return [call.args[0] for call in asked.call_args_list]


def threads(cfg: Config) -> list[Any]:
    """How many threads decode images."""
    from ddpm.data.images import ThreadPoolExecutor

    with mock.patch("ddpm.data.images.ThreadPoolExecutor", side_effect=ThreadPoolExecutor) as pools:
        Training(cfg)
    return [call.args for call in pools.call_args_list]


# --- a whole run ---


@functools.cache
def _run(cfg: Config) -> Path:
    """The run's own folder, apart from runs with the same id."""
    cfg.out_dir.mkdir(parents=True, exist_ok=True)
    return train(cfg.model_copy(update={"out_dir": Path(tempfile.mkdtemp(dir=cfg.out_dir))}))


def rows(cfg: Config) -> dict[int, list[str]]:
    """The logged keys, by step."""
    lines = map(json.loads, (_run(cfg) / "loss.jsonl").read_text().splitlines())
    return {line["_i"]: sorted(line["out"]) for line in lines}


def numbers(cfg: Config) -> list[dict[str, Any]]:
    """All logged values except times."""
    lines = map(json.loads, (_run(cfg) / "loss.jsonl").read_text().splitlines())
    return [{key: value for key, value in line["out"].items() if not key.startswith("time/")} for line in lines]


def checkpoints(cfg: Config) -> list[str]:
    """The checkpoints that are kept."""
    return sorted(path.name for path in (_run(cfg) / "checkpoints").iterdir())


def grids(cfg: Config) -> list[str]:
    """The run's sample grids."""
    return sorted(path.name for path in _run(cfg).glob("samples/*"))


def record(cfg: Config) -> str:
    """What the run's record says of its config."""
    return json.dumps(json.loads((_run(cfg) / "run.json").read_text())["config"], sort_keys=True)


def starts(cfg: Config) -> int:
    """How many W&B ids a run gets if its command runs twice."""
    ids = [json.loads((train(cfg) / "run.json").read_text())["wandb_id"] for _ in range(2)]
    return len(set(ids))


def folder(cfg: Config) -> str:
    """Where the run is written."""
    return str(cfg.run_dir)


def cache_files(cfg: Config) -> list[str]:
    """The files that a run caches for reuse."""
    Training(cfg)
    return sorted(str(path) for path in cfg.out_dir.parent.rglob("*.safetensors"))


# --- what is measured ---


def trace(cfg: Config) -> str:
    """The curvature after two steps of training, as text: a list may have NaN, which equals nothing."""
    return repr(_trained(cfg).diagnostics.probe(4))  # not the first probe, which exact products check


def products(cfg: Config) -> list[int]:
    """How many Hessian-vector products the curvature probe allows in one pass."""
    training = _trained(cfg, steps=1)
    with mock.patch("ddpm.curvature.hessian.squares.Chunks", side_effect=Chunks) as chunks:
        training.diagnostics.probe(1)
    return [call.args[0] for call in chunks.call_args_list]


def _scores(cfg: Config, section: str, prefix: str) -> dict[str, Any]:
    training = _trained(cfg)
    plan = _plan(getattr(cfg.eval, section))
    assert isinstance(plan, SamplingPlan)
    found = training.milestones._scores(prefix, training.diagnostics.denoiser(), plan)
    return {key: value for key, value in found.items() if not key.endswith("_protocol")}


def scores(cfg: Config) -> dict[str, Any]:
    """The scores of a milestone's samples, after two steps."""
    return _scores(cfg, "fid_milestone", "val")


def final_scores(cfg: Config) -> dict[str, Any]:
    """The scores of the final samples, after two steps."""
    return _scores(cfg, "final", "final")


def floor(cfg: Config) -> dict[str, float]:
    """The scores of real images."""
    return Training(cfg).milestones.ends(80)[0]


def protocols(cfg: Config) -> list[str]:
    """The fingerprints of the scores."""
    return sorted(Training(cfg).milestones.protocols)


def batches(cfg: Config) -> list[int]:
    """How many samples are drawn at a time."""
    training = Training(cfg)
    plan = SamplingPlan("ddim", 1, 8)
    return [
        len(batch) for batch in training.milestones.evaluator.samples(training.diagnostics.denoiser(), plan, 0, None)
    ]


def grid(cfg: Config) -> bytes:
    """A network's sample grid after two steps."""
    training = _trained(cfg)
    picture = training.milestones.draw_grid(2, training.diagnostics.denoiser)
    return picture.tobytes() if picture else b""


def recon(cfg: Config) -> dict[str, float]:
    """Errors at single timesteps, after two steps."""
    training = _trained(cfg)
    fixed = training.milestones.fixed_batch
    return training.milestones.reconstruct(training.diagnostics.denoiser(), *fixed) if fixed else {}


def unseen(cfg: Config) -> str:
    """The images that the network is measured on but not trained on."""
    by_noise = Training(cfg).milestones.by_noise
    return digest(by_noise.unseen) if by_noise else "none"


# --- W&B ---


def _with_client(cfg: Config) -> tuple[mock.Mock, Any]:
    """A stand-in W&B client, and the config's W&B run."""
    said = {"wandb_id": "id", "run_id": cfg.run_id, "experiment": cfg.experiment, "sessions": []}
    with mock.patch("wandb.init") as init, mock.patch("ddpm.tracking.client.logged_in", return_value=True):
        return init, open_run({**said, "config": cfg.nested()}, cfg.run_dir)


def wandb_call(cfg: Config) -> str:
    """What a run tells W&B's client at its start."""
    init, _ = _with_client(cfg)
    if not init.called:
        return "not called"
    about = {key: value for key, value in init.call_args.kwargs.items() if key not in ("config", "settings")}
    return json.dumps({**about, "wait": init.call_args.kwargs["settings"].init_timeout})


def alerts(cfg: Config) -> int:
    """How many alerts reach W&B."""
    init, run = _with_client(cfg)
    run.alert("title", "text", "INFO")
    return int(init.return_value.alert.call_count)
