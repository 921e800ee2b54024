"""docs/colab.ipynb runs from top to bottom, except cells that need a network or an account."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.once import HANGS
from tests.training.test_train import ROOT, TINY

NOTEBOOK = ROOT / "docs/colab.ipynb"
LEFT_OUT = {"get": ["needs-network"], "install": ["needs-network"], "login": ["needs-login"], "sync": ["needs-login"]}
# A study with two steps. It measures only what the report's figures need.
SHORT = [key for key in TINY if not key.startswith(("--eval.final", "--eval.recon", "--eval.grid"))] + [
    *("--train.total_steps=2", "--eval.final.enabled=false", "--eval.recon.enabled=false", "--eval.grid.enabled=false"),
]


def test_the_notebook_is_as_it_is_written() -> None:
    """The notebook has no outputs, which would name a machine and an account. A cell has at most one command, so that
    this test sees its exit code. Catches extra data that an editor saves."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    for cell in cells:
        commands = [line for line in cell["source"] if line.lstrip().startswith("!")]
        assert len(commands) <= 1 or cell["id"] in LEFT_OUT, cell["id"]


def test_every_cell_runs(tmp_path: Path) -> None:
    """The cells run at smoke length on the embedded images, with IPython. Four cells that need a network or a login are
    left out. Catches a command or an option that no longer exists, a path that another cell does not have, and a report
    that is not shown."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    parameters = f"OPTIONS += ' ' + {shlex.join(SHORT)!r}"
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    words = [sys.executable, "-m", "tests.notebook", str(NOTEBOOK), parameters]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    cells = {cell["id"]: cell for cell in map(json.loads, done.stdout.splitlines())}
    assert {id: cell["needs"] for id, cell in cells.items() if cell["needs"]} == LEFT_OUT
    for id, cell in cells.items():
        assert cell["needs"] or cell["ok"], f"{id}: {cell['said']}"

    assert "The demo can run" in cells["doctor"]["said"]
    assert "e6 against e5: " in cells["report"]["said"]
    text, *figures = cells["show"]["shown"]
    assert "*Question: " in text["text/markdown"] and "e6's is" in text["text/markdown"]
    assert "<details>" not in text["text/markdown"]
    drawn = list((tmp_path / "out/colab/figures").glob("*.png"))
    assert len(figures) == len(drawn) > 5 and all("image/png" in figure for figure in figures)
