"""One run over several processes that torchrun started: who this one is among them, and what they tell each other.

Alone, torch.distributed is not even initialised, and everything here gives back what it was given. Rank 0 is the one
that decides, writes and prints. Tensors go by the backend of their device (nccl between GPUs, gloo between CPUs);
decisions go from host to host, by gloo.
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

# What rank 0 does alone (a download, a grid, an upload) keeps the others waiting, and that is no fault. A process that
# died is noticed otherwise: its connections close, and torchrun ends the rest.
TIMEOUT = timedelta(days=1)
P, T = ParamSpec("P"), TypeVar("T")


def rank() -> int:
    """This process's number among all of the run, 0 where it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes the run has, on all machines; 1 where this one is alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """This process's number on its machine, 0 where it is alone."""
    return int(os.environ["LOCAL_RANK"]) if dist.is_initialized() else 0


def part(n: int) -> slice:
    """Which of n things are this process's: as many as the others', or one more; all of them alone."""
    return slice(n * rank() // world_size(), n * (rank() + 1) // world_size())


# --- the life of a process ---


def run(main: Callable[[], int]) -> int:
    """`main()`, the command line, as one of the processes that torchrun started; the exit code.

    What a person is to read is printed once, by rank 0, and no process ends before the others: torchrun would end those
    in the middle of what they still write. An error that is no UserError is not caught: its traceback is shown, the
    process ends, and torchrun ends the others.
    """
    if int(os.environ["WORLD_SIZE"]) == 1:
        return main()
    # Before and after training, SIGINT ends a process at once, as SIGTERM does: raised in the middle of a meeting,
    # KeyboardInterrupt would leave the others with half of it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    said = io.StringIO()
    with ExitStack() as quiet:
        if os.environ["RANK"] != "0":
            quiet.enter_context(redirect_stdout(quiet.enter_context(Path(os.devnull).open("w"))))
            quiet.enter_context(redirect_stderr(said))
        if sys.argv[1:2] != ["train"]:
            print("ddpm: error: torchrun is for `train` alone; start other verbs without it.", file=sys.stderr)
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
    """Raises UserError where the processes cannot share a batch equally, or do not know of each other."""
    if world_size() == 1 and "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            "This is one of several processes, as RANK and WORLD_SIZE say, and it was not started as one. Use "
            "torchrun --nproc-per-node=N -m ddpm train CONFIG, or unset both to train in one process."
        )
    if batch_size % world_size():
        raise UserError(
            f"data.batch_size = {batch_size} is the batch of all processes together, and {world_size()} cannot share "
            f"it equally. Make it a multiple of {world_size()}, or start another number of processes."
        )


def require_same(facts: dict[str, Any]) -> None:
    """Raises UserError where a fact, named for people, is not the same on every process."""
    everywhere = gather(facts)
    for name in facts:
        found = [theirs[name] for theirs in everywhere]
        if any(value != found[0] for value in found):
            shown = ", ".join(f"{value} on process {i}" for i, value in enumerate(found))
            raise UserError(f"The processes of a run need the same {name}, and have {shown}.")


# --- going on, or not, together ---


@dataclass(frozen=True)
class _Word:
    """What each process says where all of them meet. Every meeting is alike, so that no two kinds can be confused."""

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
    """What is done inside, by all or by some, succeeds on every process or on none: the UserError of one, else its
    Interrupted, is raised on all, once all are done. Inside, processes may meet only in `together` again."""
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
    """`make()` by one process of each machine, then by the others: what the first downloads, they find."""
    if world_size() == 1:
        return make()
    made: list[T] = []
    for first in (True, False):
        with together():
            if (local_rank() == 0) == first:
                made.append(make())
    return made[0]


def check_stop(stop: StopSignals) -> None:
    """Raises Interrupted on every process once one was asked to stop. All of them have to call it."""
    if world_size() == 1:
        stop.check()
        return
    signum = torch.tensor(stop.signum or 0)
    dist.all_reduce(signum, dist.ReduceOp.MAX)
    if signum:
        raise Interrupted(int(signum))


# --- numbers ---


def total(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, on each of them."""
    if world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values


def means(*scalars: Tensor) -> tuple[Tensor, ...]:
    """The mean of each scalar over all processes, on each of them: of equal parts' means, that of the whole."""
    return scalars if world_size() == 1 else (total(torch.stack(scalars)) / world_size()).unbind()


def gather(value: T) -> list[T]:
    """What each process gave, by rank, on each of them. For small things: it is pickled."""
    values: list[Any] = [value]
    if world_size() > 1:
        values = [None] * world_size()
        dist.all_gather_object(values, value)
    return values


def replicated(model: nn.Module) -> nn.Module:
    """The same module, whose gradient is the mean over all processes after a backward pass through it."""
    if world_size() == 1:
        return model
    device = next(model.parameters()).device
    replica = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    replica.broadcast_buffers = False  # they are constants; as an argument, torch 2.15 calls it deprecated
    return replica


# --- the global random stream, which dropout draws from: each process has one of its own ---


def begin_stream(seed: int, step: int) -> None:
    """Give this process's global stream a seed of its own; rank 0 keeps the stream of a run in one process."""
    if rank():
        torch.manual_seed(stream_seed(seed, f"dropout on process {rank()} from step {step}"))


def stream_state(device: torch.device) -> dict[str, Any]:
    """Where this process's global stream stands, on the CPU and on `device`."""
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return {"global_rng": torch.get_rng_state(), "cuda_rng": cuda}


def restore_stream(states: list[dict[str, Any]], device: torch.device, seed: int, step: int) -> None:
    """Take up this process's stream from those of all ranks after `step`, or begin one where there was none."""
    if rank() >= len(states):
        begin_stream(seed, step)
        return
    state = states[rank()]
    torch.set_rng_state(state["global_rng"])
    if device.type == "cuda":
        cuda = dict(enumerate(state["cuda_rng"]))  # of one device, or (in older checkpoints) of all of the machine
        torch.cuda.set_rng_state(cuda.get(device.index or 0, cuda[0]), device)
