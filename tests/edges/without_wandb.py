"""Commands on a machine that seems to have no wandb: `python without_wandb.py FILE`. The file is a JSON list with
entries [environment, words]. Prints a JSON line for each: its exit code, its output, and which parts of wandb it tried
to import."""

import contextlib
import importlib.metadata
import io
import json
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any
from unittest import mock

tried: list[str] = []


class Blocker(MetaPathFinder):
    """Refuses to find wandb, and stops the search."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name.partition(".")[0] in ("wandb", "wandb_workspaces"):
            tried.append(name)
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def block() -> None:
    sys.meta_path.insert(0, Blocker())
    find = importlib.metadata.Distribution.from_name

    def from_name(name: str) -> Any:
        if name.replace("_", "-") in ("wandb", "wandb-workspaces"):
            raise PackageNotFoundError(name)
        return find(name)

    importlib.metadata.Distribution.from_name = from_name  # type: ignore[method-assign, assignment]


def main(file: Path) -> None:
    block()
    from ddpm.commands import cli

    for environment, words in json.loads(file.read_text()):
        said = io.StringIO()
        tried.clear()
        with (
            mock.patch.dict(os.environ, environment),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            code = cli.main(words)
        print(json.dumps({"code": code, "said": said.getvalue(), "tried": tried}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
