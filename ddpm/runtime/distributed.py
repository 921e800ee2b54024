"""One run over several processes, started by torchrun: ranks, shared decisions, errors and sums.

Rank 0 decides, writes and prints. Tensors use the backend of their device (nccl between GPUs, gloo between CPUs);
decisions use gloo. With one process, torch.distributed is not initialised and every function here is a plain call.
"""

import functools
import io
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ddpm.errors import NotFinite, UserError
from ddpm.runtime.signals import Interrupted, StopSignals
from ddpm.runtime.streams import stream_seed

# The others may wait long while rank 0 works alone (a download, a grid, an upload). A process that died is noticed
# without a timeout: its connections close, and torchrun ends the others.
TIMEOUT = timedelta(days=1)
P = ParamSpec("P")
T = TypeVar("T")


def rank() -> int:
    """This process's number in the run; 0 with one process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of the run's processes, on all machines."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """This process's number on its machine; 0 with one process."""
    return int(os.environ["LOCAL_RANK"]) if dist.is_initialized() else 0


def part(n: int) -> slice:
    """This process's share of n things. Shares differ in size by at most one."""
    return slice(n * rank() // world_size(), n * (rank() + 1) // world_size())


# --- the life of a process ---


def run(main: Callable[[], int]) -> int:
    """Run `main()`, the command line, as one of torchrun's processes. Returns the exit code.

    Only rank 0 prints. No process ends before the others, because torchrun would kill those while they still write. An
    exception that is not a UserError ends this process with its traceback, and torchrun ends the others.
    """
    if int(os.environ["WORLD_SIZE"]) == 1:
        return main()
    # Outside training, SIGINT ends a process at once, as SIGTERM does. A KeyboardInterrupt in a collective call would
    # leave the others waiting in it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    said = io.StringIO()
    with ExitStack() as quiet:
        if os.environ["RANK"] != "0":
            quiet.enter_context(redirect_stdout(quiet.enter_context(Path(os.devnull).open("w"))))
            quiet.enter_context(redirect_stderr(said))
        if sys.argv[1:2] != ["train"]:
            print("ddpm: error: torchrun is for `train` only; start other verbs without it.", file=sys.stderr)
            return 2
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
        try:
            code = main()
        except SystemExit as end:  # argparse
            code = end.code if isinstance(end.code, int) else 2
        reason = said.getvalue().strip().removeprefix("ddpm: error: ") or f"exit code {code}"
        leaving = _Word(f"Process {rank()} on {socket.gethostname()} ended before the others: {reason}", leaves=True)
        while not all(word.leaves for word in _meet(leaving)):
            pass
        dist.destroy_process_group()
    return code


def require_possible(batch_size: int) -> None:
    """Raises UserError if the processes cannot share a batch equally, or were started without `run`."""
    if world_size() == 1 and "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            "RANK and WORLD_SIZE describe one of several processes, but this one was not started as such. Use "
            "torchrun --nproc-per-node=N -m ddpm train CONFIG, or unset both to train in one process."
        )
    if batch_size % world_size():
        raise UserError(
            f"data.batch_size = {batch_size} is the batch of all processes together, and {world_size()} cannot share "
            f"it equally. Make it a multiple of {world_size()}, or start another number of processes."
        )


def require_same(facts: dict[str, Any]) -> None:
    """Raises UserError if a fact differs between processes. facts: by their names in the message."""
    everywhere = gather(facts)
    for name in facts:
        found = [theirs[name] for theirs in everywhere]
        if any(value != found[0] for value in found):
            shown = ", ".join(f"{value} on process {i}" for i, value in enumerate(found))
            raise UserError(f"All processes of a run need the same {name}. They have {shown}.")


# --- going on, or not, together ---


@dataclass(frozen=True)
class _Word:
    """What each process says at a meeting. All meetings use this one type, so that none is mistaken for another."""

    error: str = ""
    finite: bool = True
    signum: int = 0
    leaves: bool = False


def _meet(word: _Word) -> list[_Word]:
    words: list[Any] = [None] * world_size()
    dist.all_gather_object(words, word)
    return words


@contextmanager
def together() -> Iterator[None]:
    """The block succeeds on every process or on none: once all are done, a UserError (otherwise an Interrupted) of one
    is raised on all. Inside, the only collective call allowed is another `together`."""
    if world_size() == 1:
        yield
        return
    word, cause = _Word(), None
    try:
        yield
    except UserError as error:
        word, cause = _Word(str(error), finite=not isinstance(error, NotFinite)), error
    except Interrupted as error:
        word = _Word(signum=error.signum)
    words = _meet(word)
    for theirs in words:
        if theirs.error:
            raise (UserError if theirs.finite else NotFinite)(theirs.error) from cause
    if any(theirs.signum for theirs in words):
        raise Interrupted(max(theirs.signum for theirs in words))


def from_main(ask: Callable[[], T]) -> T:
    """`ask()`, called on rank 0 alone: every process returns its result or raises its UserError."""
    if world_size() == 1:
        return ask()
    answer: list[Any] = [None]
    with together():
        if rank() == 0:
            answer = [ask()]
    dist.broadcast_object_list(answer)
    return answer[0]


def by_main(method: Callable[P, T]) -> Callable[P, T]:
    """Decorator: calls go through `from_main`."""

    @functools.wraps(method)
    def asked(*args: P.args, **kwargs: P.kwargs) -> T:
        return from_main(lambda: method(*args, **kwargs))

    return asked


@contextmanager
def entered_by_main(context: AbstractContextManager[object]) -> Iterator[None]:
    """Rank 0 alone enters and leaves `context`; a UserError on entering is raised on every process."""
    with ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(context)

        from_main(enter)
        yield


def in_turn(make: Callable[[], T]) -> T:
    """`make()`, first by one process of each machine, then by the others, which find what the first downloaded."""
    if world_size() == 1:
        return make()
    made: list[T] = []
    for first in (True, False):
        with together():
            if (local_rank() == 0) == first:
                made.append(make())
    return made[0]


def check_stop(stop: StopSignals) -> None:
    """Raises Interrupted on every process if one was asked to stop. All must call it."""
    if world_size() == 1:
        stop.check()
        return
    signum = torch.tensor(stop.signum or 0)
    dist.all_reduce(signum, dist.ReduceOp.MAX)
    if signum:
        raise Interrupted(int(signum))


# --- numbers ---


def total(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, on each."""
    if world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values


def means(*scalars: Tensor) -> tuple[Tensor, ...]:
    """The mean of each scalar over all processes, on each. For means over equal parts it is that of the whole."""
    return scalars if world_size() == 1 else (total(torch.stack(scalars)) / world_size()).unbind()


def gather(value: T) -> list[T]:
    """Every process's value, by rank, on each. The values are pickled: keep them small."""
    values: list[Any] = [value]
    if world_size() > 1:
        values = [None] * world_size()
        dist.all_gather_object(values, value)
    return values


def replicated(model: nn.Module) -> nn.Module:
    """`model`, wrapped so that a backward pass averages its gradient over all processes."""
    if world_size() == 1:
        return model
    device = next(model.parameters()).device
    replica = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    replica.broadcast_buffers = False  # they are constants; torch 2.15 deprecates the argument
    return replica


# --- the global random stream, for dropout: each process has its own ---


def begin_stream(seed: int, step: int) -> None:
    """Seed this process's global stream. Rank 0 keeps the stream that a run with one process has."""
    if rank():
        torch.manual_seed(stream_seed(seed, f"dropout on process {rank()} from step {step}"))


def stream_state(device: torch.device) -> dict[str, Any]:
    """The state of this process's global stream, on the CPU and on `device`."""
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return {"global_rng": torch.get_rng_state(), "cuda_rng": cuda}


def restore_stream(states: list[dict[str, Any]], device: torch.device, seed: int, step: int) -> None:
    """Restore this process's stream from those of all ranks after `step`. A rank without one begins a new stream."""
    if rank() >= len(states):
        begin_stream(seed, step)
        return
    state = states[rank()]
    torch.set_rng_state(state["global_rng"])
    if device.type == "cuda":
        cuda = dict(enumerate(state["cuda_rng"]))  # one device's, or (older checkpoints) all of the machine's
        torch.cuda.set_rng_state(cuda.get(device.index or 0, cuda[0]), device)
