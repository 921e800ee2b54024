"""A polite end: the first SIGTERM or SIGINT asks the training to stop where it can be continued, a second one, a second
later or more, is immediate."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

_ECHO_S = 1.0  # a signal to a whole group comes twice to a process whose launcher passes it on


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """The training was asked to stop. `exit_code` is the shell's convention, 128 + signal."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.exit_code = 128 + signum


class StopSignals:
    """While entered, SIGTERM and SIGINT set a flag, `signum`, that `check` raises on. Outside the main thread it does
    nothing: Python delivers signals there alone. quiet: of several processes, one says for all that they stop. first:
    what is done before that."""

    def __init__(self, *, quiet: bool = False, first: str = "a checkpoint is written first") -> None:
        self.signum: int | None = None
        self._quiet, self._at, self._first = quiet, 0.0, first.encode()
        self._before: dict[int, Any] = {}

    def check(self) -> None:
        """Raises Interrupted once a stop was asked for."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            if signum == self.signum and time.monotonic() - self._at < _ECHO_S:
                return
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self.signum, self._at = signum, time.monotonic()
        if not self._quiet:
            # print is not safe here: the signal may have come in the middle of one.
            os.write(2, b"\nstopping: " + self._first + b"; a second signal stops at once\n")

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
