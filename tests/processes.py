"""Commands in separate processes, which can be killed. A server that has imported torch and wandb forks them."""

import multiprocessing
import os
import pkgutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

from ddpm.commands.cli import main
from ddpm.config.run import Config
from tests.once import HANGS

_CONTEXT = multiprocessing.get_context("forkserver")
# Mostly what a training or W&B imports: half of a tiny run's time, if each run imported it anew. W&B comes first: its
# classes look through all loaded modules. A name that does not exist (any more) is passed over.
_CONTEXT.set_forkserver_preload(
    [
        "wandb.sdk.launch.inputs.internal",
        "wandb.sdk.artifacts._models.pagination",
        "wandb.cli.cli",
        "wandb.sdk.artifacts._internal_artifact",
        "opentelemetry.exporter.otlp.proto.http._log_exporter",
        "opentelemetry.exporter.otlp.proto.http.metric_exporter",
        "opentelemetry.sdk._logs.export",
        "requests",
        "pandas",
        "safetensors.torch",
        "scipy.special",
        "torch._dynamo",  # by torch's optimizers
        "torchvision.utils",
        "ddpm.training.loop",
        "ddpm.config.files",
        "ddpm.sweep.fetch",
        "tests.processes",
    ]
)
Sabotage = Callable[[], None]


def ready() -> None:
    """Wait until the server can fork without delay."""
    process = _CONTEXT.Process(target=int)
    process.start()
    process.join()


def start(cfg: Config, sabotage: Sabotage | None = None) -> BaseProcess:
    """Start `ddpm train` for `cfg` in a new process, which first runs `sabotage`. Its output goes to `OUT_DIR/log`."""
    cfg.out_dir.mkdir(parents=True, exist_ok=True)
    (cfg.out_dir / "cfg.yaml").write_text(cfg.to_yaml())
    return start_command(["train", str(cfg.out_dir / "cfg.yaml")], cfg.out_dir, sabotage)


def start_command(argv: list[str], folder: Path, sabotage: Sabotage | None = None) -> BaseProcess:
    """Start `ddpm ARGV` in a new process, which first runs `sabotage`. Its output goes to `folder/log`."""
    return start_call(partial(_command, argv, sabotage), folder)


def start_call(what: Callable[[], int | None], folder: Path) -> BaseProcess:
    """Start `what` in a new process and use its result as the exit code. The output goes to `folder/log`."""
    # Each training has its own W&B service process, which must die with it.
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    process = _CONTEXT.Process(target=_child, args=(what, folder, environment))
    process.start()
    return process


def wandb_cli(folder: Path, *arguments: str) -> str:
    """Run `wandb ARGUMENTS` in `folder`, without a new interpreter. Returns what it printed."""
    log = folder / "log"
    log.unlink(missing_ok=True)
    code = finish(start_call(partial(_wandb_cli, folder, arguments), folder))
    assert code == 0, log.read_text()
    return log.read_text()


def run(cfg: Config, sabotage: Sabotage | None = None) -> int:
    """`start`, then wait for the end. Returns the exit code, negative if a signal ended the process."""
    return finish(start(cfg, sabotage))


def finish(process: BaseProcess) -> int:
    """Wait for a process. Returns its exit code, negative if a signal ended it."""
    process.join(HANGS)
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode


def log(cfg: Config) -> str:
    """The output of all processes that trained `cfg`."""
    return (cfg.out_dir / "log").read_text()


def _command(argv: list[str], sabotage: Sabotage | None) -> int:
    if sabotage:
        sabotage()
    return main(argv)


def _wandb_cli(folder: Path, arguments: Sequence[str]) -> int:
    from wandb.cli.cli import cli

    os.chdir(folder)
    try:
        cli(arguments)
    except SystemExit as over:  # as `python -m wandb` ends
        return int(over.code or 0)
    return 0


def _child(what: Callable[[], int | None], folder: Path, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout.reconfigure(line_buffering=True)  # the same object that W&B watches
    try:
        code = what()
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.exit(code)


def at_call(target: str, number: int, then: Callable[[], object]) -> None:
    """In the child: do `then` when the function `target` is called for the `number`th time."""
    calls = 0
    original = pkgutil.resolve_name(target)

    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            then()
        return original(*args, **kwargs)

    mock.patch(target, watched).start()


def kill() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
