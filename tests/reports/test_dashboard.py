"""The workspace that a study gets on W&B's server, tested with the stand-in."""

import json
import re
from importlib.metadata import version
from typing import Any

import pytest
import wandb

from ddpm.errors import UserError
from ddpm.metrics.table import METRICS, TABLE
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


def _panels_of(server: StandIn) -> dict[str, list[dict[str, Any]]]:
    """The configs of the saved workspace's panels, by the panels' type."""
    (view,) = server.views.values()
    found: dict[str, list[dict[str, Any]]] = {}
    for section in view.spec["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            found.setdefault(panel["viewType"], []).append(panel["config"])
    return found


def test_the_studys_central_picture_is_in_the_workspace(server: StandIn) -> None:
    """Common and neutral trace against the lowest FID, coloured by weighting; FID with floor and ceiling; the sample
    table; probes by method. Catches a panel that asks for a key that no run logs."""
    _runs("p", "e5", "e6")
    save_workspace("e6", "study/p")
    panels = _panels_of(server)
    weighting, lowest = "config:loss.value.weighting", "summary:val/fid.min"
    assert [(p["xAxis"], p["yAxis"], p["zAxis"]) for p in panels["Scatter Plot"]] == [
        (f"summary:curvature/{loss}_trace_mean", lowest, weighting) for loss in ("ref", "neutral")
    ]
    (columns,) = [p["columns"] for p in panels["Parallel Coordinates Plot"]]
    assert [c["accessor"] for c in columns][-2:] == ["summary:curvature/ref_trace_mean", lowest]
    lines = [p["metrics"] for p in panels["Run History Line Plot"]]
    assert ["val/fid", "val/fid_floor", "val/fid_ceiling"] in lines
    assert any({"curvature/xtrace", "curvature/slq_trace"} <= set(each) for each in lines)
    assert {key for each in lines for key in each} <= METRICS.keys()
    assert TABLE in json.dumps(panels["Weave"])


def test_a_sweep_has_a_workspace(server: StandIn) -> None:
    """Parallel coordinates over the swept keys, and their importance for the lowest FID, of this sweep's runs. Made
    again, it replaces itself. Catches the key's name in W&B's config, which nests it."""
    parameters = {"loss.minsnr_gamma": {"values": [1, 5]}, "optim.lr": {"value": 0.1}}
    id = wandb.sweep({"method": "grid", "parameters": parameters, "program": "x"}, project="p", entity="study")
    first = save_workspace(f"sweep:{id}", "study/p")
    assert save_workspace(f"sweep:{id}", "study/p") == first
    panels = _panels_of(server)
    (columns,) = [p["columns"] for p in panels["Parallel Coordinates Plot"]]
    assert [c["accessor"] for c in columns][:2] == ["config:loss.value.minsnr_gamma", "config:optim.value.lr"]
    assert [p["targetKey"] for p in panels["Parameter Importance"]] == ["val/fid.min"]
    (view,) = server.views.values()
    assert id in json.dumps(view.spec["section"]["runSets"][0]["filters"])


def test_a_sweep_that_is_not_there(server: StandIn) -> None:
    """Catches a traceback of W&B's client."""
    _runs("p", "e5")
    with pytest.raises(UserError, match="sweep none"):
        save_workspace("sweep:none", "study/p")


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
