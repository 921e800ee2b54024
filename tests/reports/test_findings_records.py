"""Records of runs are small, contain no paths of the machine, and can be read like any run folder."""

import json
from pathlib import Path

import pytest

from ddpm.errors import UserError
from reports.sources import open_source
from reports.studies.min_snr.records import keep
from tests.reports.campaign import Campaign


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with two checkpoints, a torn last line, and paths of the machine."""
    Campaign(seeds=(1077,), faithful=False).write(tmp_path / "camp")
    folder = tmp_path / "camp/e5/e5-s1077-0123abcd"
    (folder / "checkpoints").mkdir()
    for step in (2000, 4000):
        (folder / f"checkpoints/step-{step:06d}.pt").write_bytes(b"weights" * step)
    (folder / "samples").mkdir()
    (folder / "samples/step-002000.png").write_bytes(b"picture")
    card = json.loads((folder / "run.json").read_text())
    card["config"]["data"]["root"] = "/machine/data/cifar10.zip"
    (folder / "run.json").write_text(json.dumps(card))
    with (folder / "loss.jsonl").open("a") as file:
        file.write('{"_i": 10100, "out": {"train/lo')
    return folder


def test_a_record_is_the_run_without_weights_pictures_and_paths(run: Path, tmp_path: Path) -> None:
    """A record keeps everything else byte for byte, and checkpoints by size and digest. W&B's address is not a path and
    stays. Catches paths of a machine, and weights, in the repository."""
    (line,) = keep([run], tmp_path / "kept")
    record = tmp_path / "kept/e5" / run.name
    assert "finished" in line and sorted(path.name for path in record.iterdir()) == [
        *("checkpoints.json", "config.yaml", "evaluations.jsonl", "loss.jsonl", "results.jsonl", "run.json"),
    ]
    for name in ("config.yaml", "evaluations.jsonl", "results.jsonl"):
        assert (record / name).read_bytes() == (run / name).read_bytes()
    assert (record / "loss.jsonl").read_bytes() == (run / "loss.jsonl").read_bytes()[
        : -len('{"_i": 10100, "out": {"train/lo')
    ]
    card = json.loads((record / "run.json").read_text())
    assert card["config"]["data"]["root"] == "cifar10.zip"
    assert card["sessions"] == [{"wandb": f"/project/{run.name}"}]
    assert all("/machine" not in path.read_text() and "/somewhere" not in path.read_text() for path in record.iterdir())
    listed = json.loads((record / "checkpoints.json").read_text())
    assert {name: entry["bytes"] for name, entry in listed.items()} == {
        "step-002000.pt": 14_000,
        "step-004000.pt": 28_000,
    }
    assert all(len(entry["sha256"]) == 64 for entry in listed.values())


def test_keeping_again_changes_what_changed(run: Path, tmp_path: Path) -> None:
    """A second call changes nothing. Then it adds the new row, and keeps the checkpoints' list although the weights
    were deleted. Catches records that are rewritten each time, become stale, or lose entries."""
    out = tmp_path / "kept"
    keep([run], out)
    record = out / "e5" / run.name
    times = {path: path.stat().st_mtime_ns for path in record.iterdir()}
    (line,) = keep([run.parents[1] / "e5"], out)
    assert "nothing new" in line and times == {path: path.stat().st_mtime_ns for path in record.iterdir()}
    with (run / "loss.jsonl").open("a") as file:
        file.write('ss": 1.0}}\n')
    before = (record / "checkpoints.json").read_text()
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    (line,) = keep([run], out)
    assert "1 file(s) new or changed" in line and '"_i": 10100' in (record / "loss.jsonl").read_text()
    assert (record / "checkpoints.json").read_text() == before


def test_reports_read_records_as_they_read_runs(tmp_path: Path) -> None:
    """The ordinary source reads the same numbers. Catches a record that needs its own reader."""
    runs = Campaign(seeds=(1077,)).write(tmp_path / "camp")
    keep([runs], tmp_path / "kept")
    for there, kept in zip(open_source(str(runs)), open_source(str(tmp_path / "kept")), strict=True):
        assert (there.id, there.seed, there.state, there.protocols) == (kept.id, kept.seed, kept.state, kept.protocols)
        assert there.history.equals(kept.history)


def test_what_cannot_be_kept_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused are a folder without runs, a record of a record, two runs with one name, and a record that is too large.
    A refused call writes nothing. Catches megabytes in the repository."""
    with pytest.raises(UserError, match="No runs at or below"):
        keep([tmp_path / "nothing"], tmp_path / "kept")
    monkeypatch.setattr("reports.studies.min_snr.records.LARGEST_BYTES", 10_000)
    with pytest.raises(UserError, match=r"loss\.jsonl alone has"):
        keep([run], tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    monkeypatch.setattr("reports.studies.min_snr.records.LARGEST_BYTES", 300_000)
    keep([run], tmp_path / "kept")
    with pytest.raises(UserError, match="is a record already"):
        keep([tmp_path / "kept"], tmp_path / "kept")
    with pytest.raises(UserError, match="two runs with one name"):
        keep([run, tmp_path / "kept"], tmp_path / "other")
