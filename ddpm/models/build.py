"""Builds the network, schedule and objective of a config."""

import torch
from torch import nn

from ddpm.config.run import Config
from ddpm.diffusion.objective import Objective
from ddpm.diffusion.schedule import Schedule, make_schedule
from ddpm.diffusion.weighting import make_weighting
from ddpm.models.unet import UNetCifar32

MODELS = {"unet_cifar32": UNetCifar32}


def make_model(cfg: Config) -> nn.Module:
    """A new network, with weights from the global random stream."""
    m = cfg.model
    return MODELS[m.name](m.base_channels, m.dropout, m.time_embedding, m.gn_groups, m.time_frequencies)


def schedule_of(cfg: Config) -> Schedule:
    """The full chain that the network is trained on."""
    d = cfg.diffusion
    return make_schedule(d.beta_schedule, d.T, zero_terminal_snr=d.zero_terminal_snr)


def objective_of(cfg: Config, schedule: Schedule, device: torch.device) -> Objective:
    """The loss that the training minimises."""
    weighting = make_weighting(cfg.loss.weighting, cfg.loss.minsnr_gamma, cfg.loss.p2_k, cfg.loss.p2_gamma)
    over_batch = cfg.loss.weighting == "minsnr_norm" and cfg.loss.minsnr_norm_over == "batch"
    return Objective(
        schedule, cfg.diffusion.prediction, weighting, cfg.trained_timesteps, device, norm_over_batch=over_batch
    )
