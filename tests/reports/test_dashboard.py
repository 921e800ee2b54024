"""The workspace that a study gets on W&B's server, tested with the stand-in."""

import json
import re
from importlib.metadata import version

import pytest
import wandb

from ddpm.errors import UserError
from reports import workspaces
from reports.dashboard import save_workspace
from reports.figures.style import colour
from wandb_standin import StandIn


def _runs(project: str, *experiments: str) -> None:
    for name in experiments:
        with wandb.init(project=project, id=f"run-{name}", group=name, config={"experiment": name}) as run:
            run.log({"step": 1, "val/fid": 3.0})


def test_a_workspace_is_made_and_then_renewed(server: StandIn) -> None:
    """Repeated calls keep one saved view, with every chart the study needs and the reports' colours."""
    _runs("p", "e5", "e6", "unrelated")
    first = save_workspace("e6", "study/p")
    again = save_workspace("e6", "study/p")
    assert first == again
    assert "/study/p?nw=" in first
    (view,) = server.views.values()
    spec = json.dumps(view.spec) if not isinstance(view.spec, str) else view.spec
    for key in (
        *("train/loss", "train/mse_mean", "train/grad_global_L2", "val/fid", "val/fid_floor"),
        *("curvature/hutch_trace_mean", "curvature/ref_trace_mean", "samples/grid"),
    ):
        assert json.dumps(key) in spec, key
    assert colour("e5") in spec
    assert colour("e6") in spec
    assert "run-e6" in spec
    assert "run-unrelated" not in spec
    assert view.display_name.startswith("e6: ")
    # If the name had letters beyond f, the client might not make the right address from it.
    assert re.fullmatch(r"nw-[0-9a-f]{11}-v", view.name) and first.endswith(f"?nw={view.name[3:-2]}")


def test_another_experiment_has_a_workspace_of_its_own(server: StandIn) -> None:
    _runs("p", "e5")
    assert save_workspace("e5", "study/p") != save_workspace("e6", "study/p")
    assert len(server.views) == 2


def test_a_project_that_is_not_there(server: StandIn) -> None:
    with pytest.raises(UserError, match=r"workspace of e6 cannot be saved in wandb:study/none.*ENTITY/PROJECT"):
        save_workspace("e6", "study/none")


def test_the_version_whose_private_parts_are_used() -> None:
    """Replacing a workspace uses private parts of the package. With another version, run the tests of this file, then
    change `VERSION`."""
    assert version("wandb-workspaces").startswith(f"{workspaces.VERSION}.")
