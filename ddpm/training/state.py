"""The state of a training. `TrainState.state_dict` lists what a checkpoint holds."""

import time
from typing import Any

import torch
from torch import Tensor

from ddpm.config.run import Config
from ddpm.config.sections import Seeds
from ddpm.data.batches import Batches
from ddpm.errors import UserError
from ddpm.evaluation.evaluator import Timers
from ddpm.models.build import make_model
from ddpm.models.ema import Ema
from ddpm.models.stored import FORMAT
from ddpm.runtime import distributed
from ddpm.runtime.streams import stream_seed
from ddpm.training.step import StepStats


class TrainState:
    """Everything that the next step and the next row depend on.

    images: (N, 3, H, W) uint8. precision: the network's. There are three random streams, so that none affects another:
    that of the batches, `noise_rng` for t and eps, and the global stream for weights and dropout.
    """

    def __init__(self, cfg: Config, images: Tensor, device: torch.device, precision: torch.dtype, timers: Timers):
        self.cfg, self.device, self.timers = cfg, device, timers
        torch.manual_seed(stream_seed(cfg.seed_of("init"), "weights and dropout"))
        self.model = make_model(cfg).to(device)
        if cfg.seeds != Seeds():  # dropout must not depend on the seed of the weights
            torch.manual_seed(stream_seed(cfg.seed_of("noise"), "dropout"))
        distributed.begin_stream(cfg.seed_of("noise"), step=0)
        self.replica = self.model  # what a step calls; with several processes it averages gradients
        self.ema = Ema(self.model, cfg.ema.decay) if cfg.ema.enabled else None
        self.params = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self.params, lr=cfg.optim.lr, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
        self.noise_rng = torch.Generator(device).manual_seed(stream_seed(cfg.seed_of("noise"), "timesteps and noise"))
        self.batches = Batches(
            images.to(device), cfg.data.batch_size, stream_seed(cfg.seed_of("data"), "data"), shuffle=cfg.data.shuffle
        )
        # Steps done, the last step's batch and row, and sums since the last row.
        self.step = 0
        self.indices = torch.empty(0, dtype=torch.int64)
        self.row: dict[str, float] = {}
        self.mse_sum, self.mse_count = torch.zeros((), device=device), 0
        self.skipped = 0
        self._elapsed_before, self._started = 0.0, time.perf_counter()

    def count(self, indices: Tensor, stats: StepStats) -> None:
        """Count a step on the images at `indices`, and make its row if one is due."""
        self.step, self.indices, self.row = self.step + 1, indices, {}
        if stats.finite:
            self.mse_sum, self.mse_count = self.mse_sum + stats.mse, self.mse_count + 1
        else:
            self.skipped += 1
            self.scaler.update()
        if not self.cfg.is_logged(self.step):
            return
        self.row = stats.row()
        if self.mse_count:
            self.row["train/mse_mean"] = (self.mse_sum / self.mse_count).item()
        self.row["train/images_seen"] = self.step * self.cfg.data.batch_size
        self.row["train/skipped_steps"] = self.skipped
        self.mse_sum, self.mse_count = torch.zeros_like(self.mse_sum), 0

    @property
    def elapsed_s(self) -> float:
        """Seconds in this run, with those of earlier sessions up to the checkpoint."""
        return self._elapsed_before + time.perf_counter() - self._started

    def streams(self) -> dict[str, Any]:
        """The data order and the random streams.

        A step advances them before it knows whether it diverges, and a CPU generator cannot be rewound. So each step
        copies them first: three generators of 5 KB, about 6 us.
        """
        return {
            "batches": self.batches.state_dict(),
            "noise_rng": self.noise_rng.get_state(),
            **distributed.stream_state(self.device),
        }

    def state_dict(self, streams: dict[str, Any] | None = None) -> dict[str, Any]:
        """What a checkpoint holds, as tensors and plain values. With several processes, all must call it.

        streams: those from before a step that diverged and does not count.
        """
        streams = streams or self.streams()
        others = distributed.gather({key: streams[key] for key in ("global_rng", "cuda_rng")})[1:]
        return {
            "format": FORMAT,
            "config": self.cfg.nested(),
            "device": self.device.type,
            "step": self.step,
            "indices": self.indices,
            "row": self.row,
            "mse_sum": self.mse_sum,
            "mse_count": self.mse_count,
            "skipped": self.skipped,
            "elapsed_s": self.elapsed_s,
            "seconds": dict(self.timers.seconds),
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **streams,
            **({"other_ranks": others} if others else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`. Raises UserError if it has another device or format."""
        if state.get("format") != FORMAT:
            raise UserError(
                "The run's checkpoints come from another version of this package and cannot be resumed. Use that "
                "version, or start over with --clean_run=true."
            )
        if state["device"] != self.device.type:
            raise UserError(
                f"The run was started on {state['device']}, and its random streams cannot move to {self.device.type}. "
                f"Resume with --device={state['device']}, or start over with --clean_run=true."
            )
        self.step, self.indices, self.row = state["step"], state["indices"], state["row"]
        self.mse_sum, self.mse_count = state["mse_sum"].to(self.device), state["mse_count"]
        self.skipped = state["skipped"]
        self._elapsed_before, self._started = state["elapsed_s"], time.perf_counter()
        self.timers.seconds.update(state["seconds"])
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.ema.model.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.batches.load_state_dict(state["batches"])
        self.noise_rng.set_state(state["noise_rng"])
        ranks = [state, *state.get("other_ranks", [])]
        distributed.restore_stream(ranks, self.device, self.cfg.seed_of("noise"), self.step)
