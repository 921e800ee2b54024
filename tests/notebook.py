"""Runs a notebook's code cells with IPython, without a kernel: `python -m tests.notebook NOTEBOOK PARAMETERS`.

PARAMETERS is Python that runs after the cell tagged `parameters`. A cell with a tag that begins with `needs-` is left
out. Prints a JSON line for each cell: its id, the tags for which it was left out, whether it succeeded, what it printed
and showed.
"""

import json
import sys
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output


def main(path: Path, parameters: str) -> None:
    notebook: Any = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    shell = InteractiveShell.instance()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        tags = cell.metadata.get("tags", [])
        needs = [tag for tag in tags if tag.startswith("needs-")]
        found: dict[str, Any] = {"id": cell.id, "needs": needs}
        if not needs:
            shell.user_ns["_exit_code"] = 0  # from a `!` line, which not every cell has
            with capture_output() as said:
                done = shell.run_cell(cell.source)
                if "parameters" in tags:
                    shell.run_cell(parameters)
            found |= {
                "ok": bool(done.success) and shell.user_ns["_exit_code"] == 0,
                "said": said.stdout + said.stderr,
                "shown": [output.data for output in said.outputs],
            }
        print(json.dumps(found, default=len), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
