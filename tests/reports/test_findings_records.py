"""Records of runs: small, without paths of the machine, and read as any run folder."""

import json
from pathlib import Path

import pytest

from ddpm.errors import UserError
from reports.sources import open_source
from reports.studies.min_snr.records import keep
from tests.reports.campaign import Campaign


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with two checkpoints, half a line at its end, and paths of the machine."""
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
    """All else byte for byte, checkpoints by size and digest; W&B's address is no path. Catches a machine's paths, and
    weights, in the repository."""
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
    """Nothing at first; then the row that came, and not the checkpoints' list when the weights were cleared away.
    Catches records that are new each time, or stale, or forget."""
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
    """By the ordinary source: the same numbers. Catches a record that needs a reader of its own."""
    runs = Campaign(seeds=(1077,)).write(tmp_path / "camp")
    keep([runs], tmp_path / "kept")
    for there, kept in zip(open_source(str(runs)), open_source(str(tmp_path / "kept")), strict=True):
        assert (there.id, there.seed, there.state, there.protocols) == (kept.id, kept.seed, kept.state, kept.protocols)
        assert there.history.equals(kept.history)


def test_what_cannot_be_kept_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run, a record of a record, two runs with one name, and a record too large, with what to do; nothing is
    written then. Catches megabytes in the repository."""
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
