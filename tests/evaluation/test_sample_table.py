"""The table of single samples that a run logs at each milestone."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ddpm.evaluation.distances import GaussianSum
from ddpm.evaluation.reference import Reference
from ddpm.evaluation.sample_table import Shown
from ddpm.evaluation.scores import FeatureSums, Wanted, scores
from ddpm.training.loop import train
from tests.training.test_train import NO_WANDB, tiny
from wandb_standin import StandIn

QUICK = ("--curvature.enabled=false", "--eval.recon.enabled=false", "--eval.final.enabled=false")


def test_the_rows_of_an_evaluation() -> None:
    """Samples 0 to 2 of 40, in batches of 7, of which this process draws the first 20. The nearest of the reference's
    images is the one with equal features, at distance 0, by its position in the set; the influences are those that
    FID's error rests on.

    Catches an image beside another one's features, a position among the reference instead of the set, and more rows
    than asked for.
    """
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(40, 4, generator=rng)
    images = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 3, 2, 2)
    sums = GaussianSum()
    sums.add(features)
    rows = features[[5, 0, 2, 9, 1]]
    reference = Reference("r", "d", sums.result(), rows, "k", positions=torch.tensor([50, 10, 20, 90, 30]))
    found = FeatureSums(40, 4)
    shown = Shown(40, 3, slice(0, 20))
    assert torch.equal(torch.cat(list(shown.watch(images[:20].split(7)))), images[:20])
    found.add(features)
    assert shown.table(found, reference) is None  # not scored yet
    row = scores(found, reference.gaussian, None, Wanted())
    table = shown.table(found, reference)
    assert table and table.index == [0, 1, 2] and torch.equal(table.images, images[:3])
    assert table.nearest is not None and table.nearest.tolist() == [10, 30, 20]
    assert table.distance is not None and table.distance.tolist() == [0.0, 0.0, 0.0]
    assert found.influence is not None and torch.equal(table.influence, found.influence[:3])
    assert row["fid_sem"] == (found.influence.std() / 40**0.5).item()


def _tables(folder: Path) -> dict[int, list[dict[str, float]]]:
    return {int(path.stem[5:]): json.loads(path.read_text()) for path in sorted((folder / "tables").glob("*.json"))}


def test_a_run_has_a_table_at_each_milestone(tmp_path: Path, server: StandIn) -> None:
    """Two arms: five rows at steps 2 and 4, with the same indices in both. W&B has the table at each step, with the
    sample and the nearest image as pictures (the data set is embedded). None is made if it is switched off.

    Catches a table of other noise than the other arm's, and one without its pictures.
    """
    folders = [train(tiny(tmp_path, *QUICK, "--eval.sample_table.rows=5", arm=arm)) for arm in ("e5", "e6")]
    for folder in folders:
        tables = _tables(folder)
        assert sorted(tables) == [2, 4]
        assert all([row["index"] for row in rows] == [0, 1, 2, 3, 4] for rows in tables.values())
        assert all(row["distance"] > 0 for rows in tables.values() for row in rows)
        with Image.open(folder / "tables/step-000004.png") as picture:
            assert picture.size == (5 * 32, 2 * 32)
    for run in server.runs.values():
        logged = {row["step"]: row["sample_table"] for row in run.history if "sample_table" in row}
        assert sorted(logged) == [2, 4] and all(each["nrows"] == 5 for each in logged.values())
    found = [artifact for artifact in server.artifacts if artifact.type == "run_table"]
    pictures = [sum(name.endswith(".png") for name in table.files) for table in found]
    distinct = [5 + len({row["nearest"] for row in rows}) for folder in folders for rows in _tables(folder).values()]
    assert sorted(pictures) == sorted(distinct)  # W&B keeps equal images once
    none = train(tiny(tmp_path / "none", *QUICK, NO_WANDB, "--eval.sample_table.rows=0", arm="e5"))
    assert not _tables(none)
    assert none.name == folders[0].name  # the run's id does not depend on it


@pytest.mark.parametrize(("flags", "shown"), [((), False), (("--eval.sample_table.nearest_image=true",), True)])
def test_real_images_are_shown_only_if_asked_for(tmp_path: Path, flags: tuple[str, ...], shown: bool) -> None:
    """A folder's images appear in no picture of the table, unless asked for; position and distance are there anyway.
    Catches images of a private data set that are uploaded unasked."""
    rng = torch.Generator().manual_seed(0)
    for number in range(100):
        path = tmp_path / f"data/train/one/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (32, 32, 3), generator=rng, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(path)
    data = ("--data.dataset=folder", f"--data.root={tmp_path / 'data'}", "--data.subset=100")
    folder = train(tiny(tmp_path, *QUICK, NO_WANDB, *data, *flags, "--train.total_steps=2"))
    with Image.open(folder / "tables/step-000002.png") as picture:
        assert picture.size == (16 * 32, 64 if shown else 32)
    assert all(0 <= row["nearest"] < 100 and row["distance"] > 0 for row in _tables(folder)[2])
