"""Every config key: a second value, and what must change with it (test_keys says how this is used)."""

from dataclasses import dataclass

from tests.settings import observe as see
from tests.settings.observe import Observe

GRID = ("--eval.grid.enabled=true",)
FID = ("--eval.fid_milestone.enabled=true",)
FINAL = ("--eval.final.enabled=true",)
KID = (*FID, "--eval.kid.enabled=true", "--eval.kid.subsets=2")
RECON = ("--eval.recon.enabled=true",)
PROBE = ("--curvature.enabled=true",)
MINSNR = ("--loss.weighting=minsnr",)
P2 = ("--loss.weighting=p2",)
DDIM = "--eval.{}.sampler=ddim"
OFFLINE = ("--logging.wandb.mode=offline",)
FOLDER = ("--data.dataset=folder", "--data.root={pictures}", "--data.subset=null")
AVERAGED = ("--ema.enabled=true", "--eval.weights=ema")


@dataclass(frozen=True)
class Seen:
    """With `value` on top of the settings `given`, the key changes all of `by`. {pictures} is a folder of images,
    {here} the test's own folder, {net} a feature net."""

    value: str
    by: tuple[Observe, ...]
    given: tuple[str, ...] = ()


@dataclass(frozen=True)
class Elsewhere:
    """The key has its own test: FILE::TEST."""

    test: str


def _seen(value: str, *by: Observe, given: tuple[str, ...] = ()) -> Seen:
    return Seen(value, by, given)


def _sampling(section: str, score: Observe) -> dict[str, Seen]:
    """The keys that FID's samples share, for milestones or for the end."""
    on = (f"--eval.{section}.enabled=true",)
    ddim = (*on, DDIM.format(section))
    key = f"eval.{section}."
    return {
        key + "sampler": _seen("ddpm_large", score, see.protocols, given=on),
        key + "nfe": _seen("3", score, see.protocols, given=on),
        key + "spacing": _seen("trailing", score, see.protocols, given=on),
        key + "eta": _seen("0.7", score, see.protocols, given=ddim),
        key + "t_start": _seen("700", score, see.protocols, given=on),
        key + "n_samples": _seen("81", score, see.protocols, given=on),
    }


KEYS: dict[str, Seen | Elsewhere] = {
    "experiment": _seen("e77", see.folder, see.record),
    "study_name": _seen("other", see.record),
    "seed": _seen("3", see.weights, see.first_batch),
    "seeds.init": _seen("3", see.weights),
    "seeds.data": _seen("3", see.first_batch),
    "seeds.noise": _seen("3", see.weights),
    "id": _seen("mine", see.folder),
    "out_dir": _seen("{here}/elsewhere", see.folder),
    "cache_dir": _seen("{here}/cache", see.cache_files, given=FID),
    "device": _seen("cuda:63", see.devices),
    "clean_run": _seen("true", see.starts),
    # data
    "data.dataset": _seen("folder", see.images, given=("--data.root={pictures}", "--data.subset=null")),
    "data.root": _seen("{pictures}/test", see.images, given=FOLDER),
    "data.split": _seen("test", see.images, given=FOLDER),
    "data.subset": _seen("90", see.images),
    "data.batch_size": _seen("3", see.first_batch),
    "data.num_workers": _seen("1", see.threads, given=FOLDER),
    "data.shuffle": _seen("false", see.first_batch),
    "data.skip_bad": _seen("true", see.outcome, given=("--data.dataset=folder", "--data.root={bad}", FOLDER[2])),
    "data.hold_out": _seen("7", see.images, see.unseen, given=(*FOLDER, "--eval.recon.enabled=true")),
    # network and training
    "model.base_channels": _seen("8", see.weights),
    "model.dropout": _seen("0.5", see.weights),
    "model.time_embedding": _seen("16", see.weights),
    "model.time_frequencies": _seen("study", see.weights),
    "model.gn_groups": _seen("2", see.weights),
    "ema.enabled": _seen("false", see.averaged, given=("--eval.weights=live",)),
    "ema.decay": _seen("0.5", see.averaged),
    "diffusion.beta_schedule": _seen("cosine", see.alpha_bar, see.weights, see.loss_curve, given=MINSNR),
    "diffusion.T": _seen("500", see.alpha_bar, see.weights),
    "diffusion.zero_terminal_snr": _seen(
        "true", see.alpha_bar, see.weights, given=("--diffusion.prediction=v", *MINSNR)
    ),
    "diffusion.prediction": _seen("v", see.weights),
    "optim.lr": _seen("0.01", see.weights),
    "train.total_steps": _seen("5", see.rows),
    "train.grad_clip": _seen("1e-9", see.weights),
    "train.amp": _seen("fp16", see.precision_asked),
    "train.skip_nonfinite": _seen("9", see.outcome, given=("--optim.lr=1e30", "--train.grad_clip=null")),
    "checkpoint.every": _seen("1", see.checkpoints),
    "checkpoint.keep": _seen("1", see.checkpoints, given=("--checkpoint.every=1",)),
    "checkpoint.keep_online": Elsewhere(
        "tracking/test_tracking_online.py::test_the_server_keeps_the_newest_checkpoints_and_the_best"
    ),
    "checkpoint.upload": Elsewhere("edges/test_wandb.py::test_checkpoints_can_stay_out_of_it"),
    # loss
    "loss.weighting": _seen("minsnr", see.weights, see.loss_curve),
    "loss.minsnr_gamma": _seen("0.1", see.weights, see.loss_curve, given=MINSNR),
    "loss.minsnr_norm_over": _seen("batch", see.weights, given=("--loss.weighting=minsnr_norm",)),
    "loss.p2_k": _seen("3", see.weights, see.loss_curve, given=P2),
    "loss.p2_gamma": _seen("0.5", see.weights, see.loss_curve, given=P2),
    "loss.t_min": _seen("900", see.weights, see.loss_curve),
    "loss.t_max": _seen("99", see.weights, see.loss_curve),
    # curvature
    "curvature.enabled": _seen("true", see.rows),
    "curvature.every": _seen("3", see.rows, given=PROBE),
    "curvature.method": _seen("xtrace", see.trace, given=(*PROBE, "--curvature.probes=4")),
    "curvature.probes": _seen("4", see.trace, given=PROBE),
    "curvature.per_draw": _seen("2", see.trace, given=PROBE),
    "curvature.draws": _seen("batch", see.trace, given=PROBE),
    "curvature.neutral": _seen("false", see.trace, given=PROBE),
    "curvature.seed": _seen("9", see.trace, given=PROBE),
    "curvature.batch_size": _seen("3", see.trace, given=PROBE),
    "curvature.weights": _seen("ema", see.trace, given=(*PROBE, "--ema.decay=0.5")),
    "curvature.exact": _seen("true", see.trace, given=PROBE),
    "curvature.chunk": _seen("2", see.products, given=PROBE),
    "curvature.lanczos_steps": _seen("3", see.trace, given=(*PROBE, "--curvature.method=lanczos")),
    "curvature.slq_starts": _seen(
        "3", see.trace, given=(*PROBE, "--curvature.method=slq", "--curvature.lanczos_steps=2")
    ),
    # evaluation
    "eval.features": _seen("{net}", see.scores, see.protocols, given=FID),
    "eval.reference_n": _seen("70", see.scores, see.protocols, given=FID),
    "eval.reference_stats": Elsewhere("evaluation/test_features.py::test_published_statistics_by_name"),
    "eval.weights": _seen("live", see.scores, see.protocols, given=FID),
    "eval.sample_seed": _seen("4", see.scores, see.recon, given=(*FID, *RECON)),
    "eval.batch_size": _seen("3", see.batches),
    "eval.x0_limit": _seen("none", see.scores, see.protocols, given=FID),
    "eval.accept_sampler_error": _seen("[]", see.outcome, given=FID),
    "eval.grid.enabled": _seen("true", see.grids),
    "eval.grid.every": _seen("3", see.grids, given=GRID),
    "eval.grid.sampler": _seen("ddpm_large", see.grid, given=GRID),
    "eval.grid.nfe": _seen("3", see.grid, given=GRID),
    "eval.grid.spacing": _seen("trailing", see.grid, given=GRID),
    "eval.grid.eta": _seen("0.7", see.grid, given=(*GRID, DDIM.format("grid"))),
    "eval.grid.t_start": _seen("700", see.grid, given=GRID),
    "eval.grid.n_samples": _seen("5", see.grid, given=GRID),
    "eval.grid.sample_seed": _seen("4", see.grid, given=GRID),
    "eval.fid_milestone.enabled": _seen("true", see.rows, see.protocols),
    "eval.fid_milestone.every": _seen("3", see.rows, see.checkpoints, given=FID),
    **_sampling("fid_milestone", see.scores),
    "eval.final.enabled": _seen("true", see.rows, see.protocols),
    **_sampling("final", see.final_scores),
    "eval.recon.enabled": _seen("true", see.rows),
    "eval.recon.every": _seen("3", see.rows, given=RECON),
    "eval.recon.n_samples": _seen("5", see.recon, given=RECON),
    "eval.recon.t_values": _seen("[20,500]", see.recon, given=RECON),
    "eval.recon.bins": _seen("3", see.recon, given=RECON),
    "eval.kid.enabled": _seen("true", see.scores, see.protocols, given=(*FID, KID[-1])),
    "eval.kid.subsets": _seen("3", see.scores, see.protocols, given=KID),
    "eval.kid.subset_size": _seen("20", see.scores, see.protocols, given=KID),
    "eval.prdc.enabled": _seen("true", see.scores, see.protocols, given=FID),
    "eval.prdc.k": _seen("2", see.floor, see.protocols, given=(*FID, "--eval.prdc.enabled=true")),
    "eval.sample_table.rows": Elsewhere("evaluation/test_sample_table.py::test_a_run_has_a_table_at_each_milestone"),
    "eval.sample_table.nearest_image": Elsewhere(
        "evaluation/test_sample_table.py::test_real_images_are_shown_only_if_asked_for"
    ),
    # records
    "logging.log_every_n_steps": _seen("3", see.rows),
    "logging.wandb.mode": _seen("online", see.wandb_call),
    "logging.wandb.project": _seen("other", see.wandb_call, given=OFFLINE),
    "logging.wandb.entity": _seen("team", see.wandb_call, given=OFFLINE),
    "logging.wandb.run_name": _seen("mine", see.wandb_call, given=OFFLINE),
    "logging.wandb.tags": _seen("[a,b]", see.wandb_call, given=OFFLINE),
    "logging.wandb.notes": _seen("why", see.wandb_call, given=OFFLINE),
    "logging.wandb.init_timeout_s": _seen("7", see.wandb_call, given=("--logging.wandb.mode=online",)),
    "logging.wandb.finish_timeout_s": Elsewhere(
        "tracking/test_tracking_online.py::test_a_server_that_goes_away_in_the_middle"
    ),
    "logging.wandb.alerts": _seen("false", see.alerts, given=("--logging.wandb.mode=online",)),
}
