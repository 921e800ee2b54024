"""The record of a run over several processes, as each of them sees it: rank 0 reads and writes it, all of them learn
what it found, and what it cannot write is an error on all. The others write nothing."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from ddpm.config.run import Config
from ddpm.runtime.checkpoint import checkpoint_path
from ddpm.runtime.distributed import from_main, rank, world_size
from ddpm.tracking.run_folder import RunFolder
from ddpm.tracking.tracker import Tracker


class SharedFolder:
    """What a training needs of its `RunFolder`."""

    def __init__(self, cfg: Config):
        self.held = RunFolder(cfg)
        self.path = self.held.path

    def check(self) -> None:
        """See `RunFolder.check`."""
        from_main(self.held.check)

    def over(self) -> str | None:
        """See `RunFolder.over`."""
        return from_main(self.held.over)

    def newest_checkpoint(self) -> dict[str, Any] | None:
        """The state to continue from, sent to every process: they need no disk in common."""
        return from_main(self.held.newest_checkpoint)

    def __enter__(self) -> "SharedFolder":
        def enter() -> None:
            self.held.__enter__()

        from_main(enter)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if rank() == 0:
            self.held.__exit__(kind, error, at)


class SharedTracker:
    """What a training needs of its `Tracker`."""

    def __init__(self, cfg: Config, folder: SharedFolder, facts: dict[str, Any], step: int = 0):
        self.run_id = cfg.run_id
        self._path = folder.path
        self._tracker: Tracker | None = None

        def begin() -> tuple[set[int], dict[str, Any]]:
            self._tracker = Tracker(cfg, folder.held, facts, step)
            return set(folder.held.rows), folder.held.last_values()

        self._logged, self._last = from_main(begin)

    def has(self, step: int) -> bool:
        """Whether the row of `step` is logged already."""
        return step in self._logged

    def last(self, key: str) -> Any:
        """See `Tracker.last`."""
        return self._last.get(key)

    def log(self, step: int, row: dict[str, Any], grid: Any = None) -> None:
        """See `Tracker.log`."""
        self._logged.add(step)
        self._last |= row
        self._do(lambda tracker: tracker.log(step, row, grid))

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """See `Tracker.save`."""
        self._do(lambda tracker: tracker.save(step, state))
        return checkpoint_path(self._path, step)

    def log_checkpoint(self, step: int) -> None:
        """See `Tracker.log_checkpoint`."""
        self._do(lambda tracker: tracker.log_checkpoint(step))

    def diverged(self, step: int, row: dict[str, float], indices: list[int]) -> None:
        """See `Tracker.diverged`."""
        self._do(lambda tracker: tracker.diverged(step, row, indices))

    def finish(self, run_time_s: float) -> None:
        """See `Tracker.finish`."""
        self._do(lambda tracker: tracker.finish(run_time_s))

    def _do(self, what: Callable[[Tracker], object]) -> None:
        def on_main() -> None:
            assert self._tracker, "rank 0 has the tracker"
            what(self._tracker)

        from_main(on_main)

    def __enter__(self) -> "SharedTracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._tracker:
            self._tracker.__exit__(kind, error, at)


def open_folder(cfg: Config) -> RunFolder | SharedFolder:
    """The folder of the run that `cfg` describes, to be entered."""
    return RunFolder(cfg) if world_size() == 1 else SharedFolder(cfg)


def open_tracker(
    cfg: Config, folder: RunFolder | SharedFolder, facts: dict[str, Any], step: int
) -> Tracker | SharedTracker:
    """The tracker of a run whose folder is entered. facts and step as for `Tracker`."""
    return (
        Tracker(cfg, folder, facts, step) if isinstance(folder, RunFolder) else SharedTracker(cfg, folder, facts, step)
    )
