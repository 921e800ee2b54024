"""The loss by noise level, lambda = log SNR: on training images, on unseen images, and what is out of reach.

The bins of lambda are fixed, so they compare between schedules, predictions and weightings.
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from ddpm.data.images import ImageSet, to_model
from ddpm.diffusion.noise_levels import covers, nearest
from ddpm.diffusion.samplers import Denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.evaluation.floor import cached_floor
from ddpm.evaluation.reconstruction import eps_errors
from ddpm.names import NOISE_BINS, NOISE_EDGES

_LEVELS = 4  # noise levels per bin


def timesteps_by_bin(schedule: Schedule, n: int) -> dict[str, Tensor]:
    """For each bin that the full chain `schedule` covers: the timestep (n,) of each of n images.

    They are nearest to the midpoints of up to `_LEVELS` equal parts of the bin, in turn: every image is in every bin
    once. A level has two images or more, for its error.
    """
    parts = max(1, min(_LEVELS, n // 2))
    midpoints = (2 * (torch.arange(n) % parts) + 1) / (2 * parts)
    bins = zip(NOISE_BINS, NOISE_EDGES[:-1], NOISE_EDGES[1:], strict=True)
    return {
        name: nearest(schedule, low + (high - low) * midpoints)
        for name, low, high in bins
        if covers(schedule, low, high)
    }


def mean_and_error(values: Tensor, timesteps: Tensor) -> tuple[float, float | None]:
    """The mean of values (n,) and its standard error, from their spread within each of the timesteps (n,).

    The timesteps are fixed, so the spread between them is no error. None if no timestep has two values.
    """
    groups, group = timesteps.unique(return_inverse=True)
    centres = torch.stack([values[group == i].mean() for i in range(len(groups))])
    free = len(values) - len(groups)
    squares = (values - centres[group]).square().sum().item()
    return values.mean().item(), math.sqrt(squares / free / len(values)) if free else None


class LossByNoise:
    """The errors of denoisers in each bin, always on the same images with the same noise.

    training: the whole set. positions (n,): the `seen` images in it. unseen: m <= n images (m, 3, H, W) uint8.
    noise (n, 3, H, W): image i of either kind has the same noise and noise level, so that they pair.
    """

    def __init__(
        self, schedule: Schedule, training: ImageSet, positions: Tensor, unseen: Tensor, noise: Tensor
    ) -> None:
        self.bins = timesteps_by_bin(schedule, len(positions))
        self._schedule, self._training, self._positions = schedule, training, positions
        self.seen, self.unseen, self.noise = to_model(training.images[positions]), to_model(unseen), noise

    @cached_property
    def floor(self) -> dict[str, Tensor]:
        """The best denoiser's errors (n,) on the seen images in each bin."""
        if not self.bins:
            return {}
        snr = torch.stack([self._schedule.snr[timesteps] for timesteps in self.bins.values()], 1)
        found = cached_floor(self._training, self._positions, self.noise, snr)
        return dict(zip(self.bins, found.T, strict=True))

    def row(self, denoiser: Denoiser, device: torch.device, batch_size: int) -> dict[str, float]:
        """The metrics of a denoiser: in each bin, means over images and their standard errors, as far as known."""
        row = {}
        for name, timesteps in self.bins.items():
            seen, unseen = self._errors(denoiser, timesteps, device, batch_size)
            floor = self.floor[name]
            values = {"seen": seen, "floor": floor, "excess": seen - floor}
            if len(unseen):
                values |= {"unseen": unseen, "gap": unseen - seen[: len(unseen)]}
            for kind, of_images in values.items():
                mean, error = mean_and_error(of_images, timesteps[: len(of_images)])
                row[f"loss_by_noise/{name}_{kind}"] = mean
                if error is not None:
                    row[f"loss_by_noise/{name}_{kind}_sem"] = error
        return row

    def _errors(
        self, denoiser: Denoiser, timesteps: Tensor, device: torch.device, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        """(n,) and (m,) float64: the eps-MSE of the seen and of the unseen images, each at its timestep."""
        n, m = len(self.seen), len(self.unseen)
        images = torch.cat([self.seen, self.unseen])
        noise, timesteps = (torch.cat([each[:n], each[:m]]) for each in (self.noise, timesteps))
        errors = torch.zeros(n + m, dtype=torch.float64)
        for t in timesteps.unique().tolist():
            at = timesteps == t
            x_0, eps = images[at].to(device), noise[at].to(device)
            errors[at] = eps_errors(denoiser, x_0, eps, self._schedule.alpha_bar[t], t, batch_size).cpu()
        return errors[:n], errors[n:]
