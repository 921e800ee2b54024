"""What a run's config makes of the maths in `loss` and `prediction`: the loss it minimises, at any t."""

from typing import Any

import torch
from torch import Tensor

from ddpm.config import Config
from ddpm.loss import constant, make_weighting, weights
from ddpm.prediction import add_noise, target
from ddpm.schedule import Schedule


class Objective:
    """What a run minimises, and beside it the loss that all arms have in common, on one device.

    weights: (T_trained,) of the squared error of what the network predicts; common_weights: those that make that error,
    whatever is predicted, the unweighted eps-MSE. t_range: timesteps are drawn from t_range[0] ... t_range[1] - 1.
    """

    def __init__(self, cfg: Config, schedule: Schedule, device: torch.device):
        self._prediction = cfg.diffusion.prediction
        self._over_batch = cfg.loss.weighting == "minsnr_norm" and cfg.loss.minsnr_norm_over == "batch"
        self._device = device
        self._alpha_bar = schedule.alpha_bar.to(device)
        drawn = cfg.trained_timesteps
        self.t_range = (drawn.start, drawn.stop)
        part = schedule.respace(torch.tensor(drawn))
        weighting = make_weighting(cfg.loss.weighting, cfg.loss.minsnr_gamma, cfg.loss.p2_k, cfg.loss.p2_gamma)
        self.weights = weights(weighting, part, self._prediction).float().to(device)
        self.common_weights = weights(constant, part, self._prediction).float().to(device)
        w_eps = weights(weighting, part)
        self.row: dict[str, Any] = {
            "loss/mean_weight": w_eps.mean().item(),
            "mins_snr_curve/t": list(drawn),
            "mins_snr_curve/weight": w_eps.tolist(),
        }

    @property
    def is_common(self) -> bool:
        """Whether the trained loss is the common one."""
        return torch.equal(self.weights, self.common_weights)

    def task(self, x_0: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """(x_t, target): what the network gets of x_0 (B, 3, H, W) beside t (B,), and what it is to say."""
        alpha_bar = self._alpha_bar[t]
        return add_noise(x_0, eps, alpha_bar), target(self._prediction, x_0, eps, alpha_bar)

    def weights_at(self, t: Tensor, t_batch: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B,) weights of the trained and of the common loss at t (B,), a batch or a part of `t_batch`."""
        at = t - self.t_range[0]
        trained = self.weights[at]
        if self._over_batch:
            trained = trained / (trained if t_batch is None else self.weights[t_batch - self.t_range[0]]).mean()
        return trained, self.common_weights[at]
