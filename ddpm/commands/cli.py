"""The `ddpm` command. torch, wandb and the reports are imported by the verb that needs them: `--help` stays quick."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm import __version__
from ddpm.arguments import fraction, names, not_negative, path, positive, positives
from ddpm.errors import UserError, did_you_mean
from ddpm.files.disk import FIGURES, require_file, require_folder
from ddpm.names import LIMITS, METHODS, SAMPLERS, SCORES, SPACINGS, WEIGHTS
from ddpm.runtime.memory import keep_freed_memory
from ddpm.runtime.signals import Interrupted


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Bad input prints one paragraph to stderr and gives 2."""
    try:
        return _main(argv)
    except UserError as error:
        print(f"ddpm: error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0].replace("_", "-")
        if package not in ("wandb", "wandb-workspaces"):
            raise
        print(f"ddpm: error: This needs {package}, which is not installed: pip install {package}", file=sys.stderr)
        return UserError.exit_code
    except Interrupted as stop:
        print(f"ddpm: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("ddpm: interrupted", file=sys.stderr)
        return 130


def _main(argv: Sequence[str] | None) -> int:
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest and args.run not in (_train, _schedule, _sweep, _probe):
        args.verb.error(f"unrecognized arguments: {' '.join(rest)}.{_meant(rest, args.verb)}")
    args.overrides = rest
    if args.run in (_train, _sample, _probe, _evaluate):
        keep_freed_memory()
    return args.run(args) or 0


def _meant(words: Sequence[str], verb: argparse.ArgumentParser) -> str:
    """A hint at the option that the first of `words` to look like one may have been meant for."""
    options = re.findall(r"--[a-z][a-z0-9-]*", verb.format_help())
    wrong = next((word.partition("=")[0] for word in words if word.startswith("--")), "")
    hint = did_you_mean(wrong.removeprefix("--"), [option.removeprefix("--") for option in options])
    return hint.replace("mean ", "mean --")  # compared without the dashes, which all options have in common


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ddpm", description="Controlled DDPM training studies.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    train = verbs.add_parser(
        "train",
        help="train one run from a config file",
        description="Train one run. Any key of the config can be set: --train.total_steps=500 --loss.weighting=minsnr",
        usage="ddpm train [-h] [--dry-run] CONFIG [--key.sub=value ...]",
        allow_abbrev=False,
    )
    train.add_argument("config", type=path, metavar="CONFIG", help="YAML file, such as configs/smoke/e5.yaml")
    train.add_argument("--dry-run", action="store_true", help="print the resolved config and stop")
    train.set_defaults(run=_train)

    sweep = verbs.add_parser(
        "sweep",
        help="run a W&B sweep file on this machine, without a server",
        description="Run every point of a grid or random sweep file, as `wandb agent` would. A second call resumes. "
        "With --requeue, continue the crashed runs of a sweep on W&B's server on this machine.",
        usage="ddpm sweep [-h] [options] (FILE | --requeue ENTITY/PROJECT/ID) [-- --key.sub=value ...]",
        allow_abbrev=False,
    )
    sweep.add_argument("file", type=path, nargs="?", metavar="FILE", help="a sweep file, such as sweeps/smoke.yaml")
    sweep.add_argument("--requeue", metavar="ENTITY/PROJECT/ID", help="a sweep on W&B's server, instead of a file")
    sweep.add_argument("--workers", type=positive, metavar="N", help="run N at a time; default: 1, or one for each GPU")
    sweep.add_argument("--gpus", default="", metavar="0,1,...", help="GPUs to use, one run at a time on each")
    sweep.add_argument("--count", type=positive, metavar="N", help="run at most N points; a random sweep needs it")
    sweep.add_argument("--yes", action="store_true", help="also run more than 10,000 points")
    sweep.set_defaults(run=_sweep)

    report = verbs.add_parser(
        "report",
        help="compare an experiment with its baseline: figures, numbers, page",
        description="Write report.html, report.md, numbers.csv, data.parquet and figures for an experiment in "
        "reports/experiments/. `ddpm report library` plots curvature against FID over all runs.",
        allow_abbrev=False,
    )
    report.add_argument("experiment", metavar="EXP", help="experiment name, such as e6; or `library`")
    report.add_argument(
        "--from",
        dest="source",
        default="wandb",
        metavar="SOURCE",
        help="folder of W&B run files (./wandb) or of run folders with loss.jsonl (./runs), or wandb:ENTITY/PROJECT; "
        "default: %(default)s",
    )
    report.add_argument("--out", type=path, metavar="DIR", help="where to write; default: out/EXP")
    report.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="use only runs with this config value; repeatable",
    )
    report.add_argument(
        "--allow-mixed-protocols",
        action="store_true",
        help="draw FIDs of different protocols on one axis; the figure says so",
    )
    report.add_argument(
        "--offline-cache", action="store_true", help="with wandb:ENTITY/PROJECT: use what was read before, no network"
    )
    report.add_argument(
        "--publish",
        nargs="?",
        const="",
        metavar="ENTITY/PROJECT",
        help="also publish it as a W&B Report in this project; default: the project of --from",
    )
    report.set_defaults(run=_report)

    upload = verbs.add_parser(
        "sync",
        help="upload to W&B what the server lacks of this machine's runs",
        description="Upload offline runs and anything the server missed. Safe to run again.",
        allow_abbrev=False,
    )
    upload.add_argument(
        "root", type=path, nargs="?", default=Path("runs"), metavar="DIR", help="run folder(s); default: %(default)s"
    )
    upload.set_defaults(run=_sync)

    dashboard = verbs.add_parser(
        "dashboard",
        help="browse an experiment's runs; on W&B's server, set up their workspace",
        description="Say how to browse the runs. With --from wandb:ENTITY/PROJECT, create or renew the experiment's "
        "workspace there: loss, gradient, traces, FID with its floor, sample grids, coloured by experiment.",
        allow_abbrev=False,
    )
    dashboard.add_argument("experiment", metavar="EXP", help="experiment name, such as e6")
    dashboard.add_argument(
        "--from",
        dest="source",
        default="wandb",
        metavar="SOURCE",
        help="folder of W&B run files, or wandb:ENTITY/PROJECT; default: %(default)s",
    )
    dashboard.set_defaults(run=_dashboard)

    draw = verbs.add_parser(
        "sample",
        help="draw images from a checkpoint or a run",
        description="Draw images with any sampler from a checkpoint, or from the newest one of a run folder.",
        allow_abbrev=False,
    )
    draw.add_argument("source", type=path, metavar="RUN|CHECKPOINT", help="run folder, or a file of its checkpoints/")
    draw.add_argument("--out", type=path, default=Path("out/samples"), metavar="DIR", help="default: %(default)s")
    draw.add_argument("--n", type=positive, default=36, help="how many images; default: %(default)s")
    draw.add_argument("--sampler", choices=SAMPLERS, default="ddpm", help="default: %(default)s")
    draw.add_argument("--nfe", type=positive, default=50, help="network calls for each image; default: %(default)s")
    draw.add_argument("--spacing", choices=SPACINGS, default="linspace")
    draw.add_argument("--eta", type=fraction, default=0.0, help="fresh noise of ddim, 0 to 1; default: %(default)s")
    draw.add_argument("--x0-limit", choices=LIMITS, default="clip", help="default: %(default)s")
    draw.add_argument("--weights", choices=WEIGHTS, default="ema", help="default: %(default)s")
    draw.add_argument(
        "--seed", type=not_negative, default=0, help="equal seeds give equal images; default: %(default)s"
    )
    draw.add_argument("--batch-size", type=positive, default=25, help="default: %(default)s")
    draw.add_argument("--device", default="auto", help="default: %(default)s")
    draw.add_argument("--each", action="store_true", help="also write every image to DIR/images/")
    draw.set_defaults(run=_sample)

    probe = verbs.add_parser(
        "probe",
        help="measure the curvature at a finished run's checkpoints",
        description="Measure the Hessian at one checkpoint, or at every checkpoint of a run folder. The numbers go "
        "into the run's history (folder and W&B), or into a file with --out. docs/curvature.md explains them.",
        usage="ddpm probe [-h] [options] RUN|CHECKPOINT [--curvature.key=value ...]",
        allow_abbrev=False,
    )
    probe.add_argument("source", type=path, metavar="RUN|CHECKPOINT", help="run folder, or a file of its checkpoints/")
    probe.add_argument("--data", metavar="PATH", help="where the images are, or `embedded`; default: as trained")
    probe.add_argument(
        "--method",
        type=names(METHODS),
        metavar="A,B,...",
        help=f"of {', '.join(METHODS)}; default: as the config says",
    )
    probe.add_argument("--probes", type=positive, metavar="N", help="default: as the config says")
    probe.add_argument("--weights", choices=WEIGHTS, help="default: as the config says")
    probe.add_argument("--device", default="auto", help="default: %(default)s")
    probe.add_argument("--out", type=path, metavar="FILE", help="write JSON lines to FILE instead of the run's history")
    probe.set_defaults(run=_probe)

    _add_evaluate(verbs)

    schedule = verbs.add_parser(
        "schedule",
        help="draw alpha_bar, SNR and the weighting curves of a config",
        usage="ddpm schedule [-h] [--out FILE] CONFIG [--key.sub=value ...]",
        allow_abbrev=False,
    )
    schedule.add_argument("config", type=path, metavar="CONFIG")
    schedule.add_argument("--out", type=path, default=Path("out/schedule.png"), metavar="FILE", help="%(default)s")
    schedule.set_defaults(run=_schedule)

    doctor = verbs.add_parser(
        "doctor",
        help="check this machine: packages, GPU, login, data, weights",
        description="Look at versions, GPU, W&B login, cache folder, feature weights, statistics, data and disk. "
        "Nothing is downloaded or written. Exit code 0 if the demo can run.",
        allow_abbrev=False,
    )
    doctor.set_defaults(run=_doctor)

    metrics = verbs.add_parser("metrics", help="print the table of every logged metric (docs/metrics.md)")
    metrics.set_defaults(run=_metrics)

    for verb in verbs.choices.values():
        verb.set_defaults(verb=verb)  # whose usage an error shows
    return parser


def _add_evaluate(verbs: Any) -> None:
    evaluate = verbs.add_parser(
        "evaluate",
        help="score checkpoints with several samplers and NFE: a table, and FID against NFE",
        description="Score checkpoints. Options override each run's config. An interrupted command resumes. "
        "docs/evaluation.md explains the numbers.",
        allow_abbrev=False,
    )
    evaluate.add_argument(
        "sources", type=path, nargs="+", metavar="RUN|CHECKPOINT", help="run folders, or files of their checkpoints/"
    )
    evaluate.add_argument("--out", type=path, default=Path("out/evaluate"), metavar="DIR", help="default: %(default)s")
    evaluate.add_argument(
        "--sampler", type=names(SAMPLERS), default=("ddim",), metavar="NAME,...", help="of " + ", ".join(SAMPLERS)
    )
    evaluate.add_argument("--nfe", type=positives, default=(50,), metavar="N,...", help="default: 50")
    evaluate.add_argument("--n", type=positive, default=5000, help="images for each score; default: %(default)s")
    evaluate.add_argument(
        "--metrics", type=names(SCORES), default=("fid",), metavar="NAME,...", help="of " + ", ".join(SCORES)
    )
    evaluate.add_argument("--features", metavar="NAME|FILE", help="as eval.features; default: the run's own")
    evaluate.add_argument("--data", type=path, metavar="PATH", help="the real images; default: the run's data.root")
    evaluate.add_argument("--weights", choices=WEIGHTS, default="ema", help="default: %(default)s")
    evaluate.add_argument("--spacing", choices=SPACINGS, default="linspace")
    evaluate.add_argument("--x0-limit", choices=LIMITS, help="default: the run's eval.x0_limit")
    evaluate.add_argument("--seed", type=not_negative, default=0, help="of the noise; default: %(default)s")
    evaluate.add_argument("--batch-size", type=positive, metavar="N", help="default: the run's, or the device's")
    evaluate.add_argument("--device", default="auto", help="default: %(default)s")
    evaluate.add_argument(
        "--influence",
        action="store_true",
        help="record each sample's influence on FID in evaluations.jsonl, for intervals of differences",
    )
    evaluate.set_defaults(run=_evaluate)


def _train(args: argparse.Namespace) -> None:
    from ddpm.config.files import load_config, sweep_point

    cfg = load_config(args.config, args.overrides, sweep_point())
    if args.dry_run:
        print(f"# run {cfg.run_id} in {cfg.run_dir}\n{cfg.to_yaml()}", end="")
        return
    from ddpm.runtime.distributed import from_main
    from ddpm.sweep.fetch import fetch_point
    from ddpm.training.loop import train

    from_main(lambda: fetch_point(cfg))
    print(f"run folder: {train(cfg)}")


def _sweep(args: argparse.Namespace) -> int:
    from ddpm.sweep.start import requeue_sweep, run_sweep

    if (args.file is None) == (args.requeue is None):
        raise UserError("Give either a sweep file, such as sweeps/smoke.yaml, or --requeue ENTITY/PROJECT/ID.")
    overrides = [word for word in args.overrides if word != "--"]
    gpus = [gpu for gpu in args.gpus.split(",") if gpu]
    if args.requeue:
        return requeue_sweep(args.requeue, args.workers, gpus, args.count, overrides)
    return run_sweep(args.file, args.workers, gpus, args.count, overrides, many=args.yes)


def _report(args: argparse.Namespace) -> None:
    out = require_folder(args.out or Path("out") / Path(args.experiment).stem)  # of a YAML file, its name alone
    if args.experiment == "library":
        if args.publish is not None:
            raise UserError(
                "The library is not published: publish the reports of experiments, such as `ddpm report e6`."
            )
        from reports.library import make_library

        print(make_library(args.source, out, args.where, args.offline_cache))
        return
    from reports.report import make_report

    mixed, project = args.allow_mixed_protocols, _project(args)
    print(make_report(args.experiment, args.source, out, args.where, mixed, args.offline_cache, project))


def _project(args: argparse.Namespace) -> str | None:
    """Where a report is published, ENTITY/PROJECT; None where it is not to be."""
    if args.publish is None or args.publish:
        return args.publish
    if not args.source.startswith("wandb:"):
        raise UserError(f"--publish needs a project with --from {args.source}: --publish ENTITY/PROJECT.")
    return str(args.source.removeprefix("wandb:"))


def _sync(args: argparse.Namespace) -> None:
    from ddpm.tracking.sync import sync

    for line in sync(args.root):
        print(line, flush=True)


def _dashboard(args: argparse.Namespace) -> None:
    from reports.dashboard import browse

    print(browse(args.experiment, args.source))


def _sample(args: argparse.Namespace) -> None:
    require_folder(args.out)
    from ddpm.commands.sample import sample
    from ddpm.models.trained import find_checkpoint, load_trained

    checkpoint = find_checkpoint(args.source)
    trained = load_trained(checkpoint, args.weights, args.device)
    grid = sample(
        trained,
        args.out,
        n=args.n,
        sampler=args.sampler,
        nfe=args.nfe,
        spacing=args.spacing,
        x0_limit=args.x0_limit,
        eta=args.eta,
        seed=args.seed,
        each=args.each,
        batch_size=args.batch_size,
    )
    print(f"{args.n} images of {checkpoint} (step {trained.step}) by {args.sampler}, nfe {args.nfe}: {grid}")


def _probe(args: argparse.Namespace) -> None:
    from ddpm.commands.probe import probe

    given = {"probes": args.probes, "weights": args.weights, "method": args.method and f"[{','.join(args.method)}]"}
    overrides = [f"--curvature.{key}={value}" for key, value in given.items() if value is not None]
    print(probe(args.source, [*overrides, *args.overrides], args.data, args.device, args.out))


def _evaluate(args: argparse.Namespace) -> None:
    require_folder(args.out)
    from ddpm.commands.evaluate import Request, evaluate

    other = ("run", "verb", "overrides", "sampler", "nfe")
    asked = {key: value for key, value in vars(args).items() if key not in other}
    print(evaluate(Request(samplers=args.sampler, nfes=args.nfe, **asked)))


def _schedule(args: argparse.Namespace) -> None:
    require_file(args.out, FIGURES)
    from ddpm.config.files import load_config

    cfg = load_config(args.config, args.overrides)
    from ddpm.commands.schedule import draw_schedule

    print(draw_schedule(cfg, args.out))


def _doctor(args: argparse.Namespace) -> int:
    from ddpm.commands.doctor import diagnose

    return diagnose()


def _metrics(args: argparse.Namespace) -> None:
    from ddpm.metrics.table import markdown_page

    print(markdown_page(), end="")


if __name__ == "__main__":
    sys.exit(main())
