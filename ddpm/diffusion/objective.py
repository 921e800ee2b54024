"""The training loss at any t, from a schedule, a prediction and a weighting."""

from typing import Any

import torch
from torch import Tensor, nn

from ddpm.diffusion.prediction import add_noise, target
from ddpm.diffusion.schedule import Schedule
from ddpm.diffusion.weighting import Weighting, constant, squared_error, weights


class Objective:
    """The loss that a run minimises, and the loss that all arms have in common, on one device.

    weights: (T_trained,) weights of the squared error of the prediction; common_weights: the weights that make it the
    unweighted eps-MSE. trained: their chain. t_range: timesteps are drawn from t_range[0] ... t_range[1] - 1.
    norm_over_batch: scale the weights of each batch to mean 1, as the original study did. large_batch_weights: the
    weights with the scale that they have in a large batch.
    """

    def __init__(
        self,
        schedule: Schedule,
        prediction: str,
        weighting: Weighting,
        trained: range,
        device: torch.device,
        *,
        norm_over_batch: bool = False,
    ):
        self._prediction, self._over_batch = prediction, norm_over_batch
        self._alpha_bar = schedule.alpha_bar.to(device)
        self.t_range = (trained.start, trained.stop)
        self.trained = part = schedule.respace(torch.tensor(trained))
        self.weights = weights(weighting, part, prediction).float().to(device)
        self.large_batch_weights = self.weights / self.weights.mean() if norm_over_batch else self.weights
        self.common_weights = weights(constant, part, prediction).float().to(device)
        w_eps = weights(weighting, part)
        self.row: dict[str, Any] = {
            "loss/mean_weight": w_eps.mean().item(),
            "mins_snr_curve/t": list(trained),
            "mins_snr_curve/weight": w_eps.tolist(),
        }

    @property
    def is_common(self) -> bool:
        """Whether the trained loss is the common one."""
        return torch.equal(self.weights, self.common_weights)

    def task(self, x_0: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """(x_t, target): the network's input for x_0 (B, 3, H, W) at t (B,), and its regression target."""
        alpha_bar = self._alpha_bar[t]
        return add_noise(x_0, eps, alpha_bar), target(self._prediction, x_0, eps, alpha_bar)

    def weights_at(self, t: Tensor, t_batch: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B,) weights of the trained and of the common loss at t (B,), a whole batch or a part of `t_batch`."""
        at = t - self.t_range[0]
        trained = self.weights[at]
        if self._over_batch:
            trained = trained / (trained if t_batch is None else self.weights[t_batch - self.t_range[0]]).mean()
        return trained, self.common_weights[at]

    def losses(
        self, model: nn.Module, x_0: Tensor, t: Tensor, eps: Tensor, t_batch: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(trained loss, eps-MSE), scalars. t_batch: the t of the whole batch, if this is a part of it."""
        x_t, wanted = self.task(x_0, t, eps)
        error = squared_error(model(x_t, t), wanted)
        trained, common = self.weights_at(t, t_batch)
        return (trained * error).mean(), (common * error).mean()

    def weight_stats(self, t: Tensor) -> dict[str, Tensor]:
        """Mean, smallest and largest w_eps of a batch with timesteps t (B,): the factors on eps-MSE in its loss."""
        trained, common = self.weights_at(t)
        w_eps = trained / common
        found = {"mean": w_eps.mean(), "min": w_eps.min(), "max": w_eps.max()}
        return {f"loss/batch_weight_{name}": value for name, value in found.items()}
