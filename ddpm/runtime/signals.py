"""Stopping on signals: the first SIGTERM or SIGINT asks the training to stop where it can be resumed. Another signal,
or the same one a second later, ends it at once."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

_ECHO_S = 1.0  # a launcher may pass on a signal that the process already got with its group


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """The training was asked to stop. `exit_code` follows the shell's convention, 128 + signal."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.exit_code = 128 + signum


class StopSignals:
    """While entered, SIGTERM and SIGINT set `signum`, and `check` then raises. Does nothing outside the main thread,
    because Python delivers signals only there.

    quiet: print nothing (another process prints for all). first: what is done before stopping, for the message.
    """

    def __init__(self, *, quiet: bool = False, first: str = "a checkpoint is written first") -> None:
        self.signum: int | None = None
        self._quiet, self._at, self._first = quiet, 0.0, first.encode()
        self._before: dict[int, Any] = {}

    def check(self) -> None:
        """Raises Interrupted after a signal."""
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
            # print is not safe here: the signal may have interrupted a print.
            os.write(2, b"\nstopping: " + self._first + b"; a second signal stops at once\n")

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
